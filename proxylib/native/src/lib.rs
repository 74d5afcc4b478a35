//! What Tidegate runs inside Envoy's workers: an Envoy dynamic module, without dependencies.
//!
//! A crash here is the whole node's L7, so: `unsafe` lives in `abi` alone, every hook catches
//! panics, nothing allocates in proportion to what a peer claims. Envoy's ABI (v0.2.0 of Envoy
//! 1.40) is declared by hand in `abi`; Debian 12's own rustc (1.63) builds it.

#![deny(unsafe_op_in_unsafe_fn)]

pub mod abi;
pub mod counters;
pub mod kafka;
pub mod node;
pub mod offload;
pub mod report;
pub mod verdict;
