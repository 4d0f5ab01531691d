//! The registry: devices, accounts, claims, and the change feed to the edge.
//!
//! [`start`] runs it on TLS with SQLite in a directory; `medbind serve` is a thin face of it.

pub mod config;
pub mod pki;
pub mod role;
pub mod secret;
pub mod server;

pub use config::Config;
pub use server::{Made, Running, StartError, start};
