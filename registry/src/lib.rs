//! The registry: devices, accounts, claims, and the change feed to the edge.
//!
//! [`start`] runs it on TLS with `SQLite` in a directory; `medbind serve` is a thin face of it.
#![deny(
    clippy::print_stderr,
    clippy::print_stdout,
    reason = "they panic where nothing can be written"
)]

mod audit;
mod backup;
mod certificates;
mod change;
mod claim;
mod clients;
mod clock;
mod config;
mod data_dir;
mod device;
mod enrol;
mod facts;
mod feed;
mod files;
mod handshakes;
mod history;
mod import;
mod lines;
mod metrics;
mod operator;
mod ownership;
mod pages;
pub mod pki;
mod problem;
pub mod role;
mod routes;
mod seen;
mod server;
mod service;
mod stop;
mod store;
mod tls;

pub use audit::{AuditEntry, AuditPage, Setting};
pub use backup::{Backup, BackupError, backup};
pub use config::Config;
pub use data_dir::{DATABASE_FILE, DataDirError, Made};
pub use device::{DeviceList, DeviceRecord, DeviceShown, NewSecret};
pub use import::ImportLine;
pub use routes::{Access, table};
pub use server::{Running, StartError, start};
pub use stop::{StopError, stop};
pub use store::OpenError;
