//! Kafka: topic policy for the protocol of today.

pub mod description;
pub mod schema;
