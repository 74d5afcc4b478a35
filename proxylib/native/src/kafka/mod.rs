//! Kafka: topic policy for the protocol of today.
//!
//! Bytes in, bytes out; nothing here knows Envoy. `walk` reads messages by the tables of `schema`, `request` says what they
//! name, `policy` and `judge` judge it, `reply` answers and edits, `connection` keeps the requests and responses of one client
//! in order.

pub mod connection;
mod decide;
pub mod description;
pub mod json;
pub mod judge;
pub mod memory;
pub mod output;
pub mod pattern;
pub mod policy;
mod produce;
pub mod reply;
pub mod report;
pub mod request;
mod requests;
mod responses;
pub mod schema;
mod session;
pub mod shell;
pub mod slots;
pub mod teller;
pub mod topics;
pub mod walk;

#[cfg(test)]
mod tests;
