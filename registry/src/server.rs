//! How a registry starts, runs and stops.

use core::net::SocketAddr;
use std::path::PathBuf;

use crate::config::Config;

/// A file or directory that a start made, to be told to whoever started it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Made {
    /// What it is, for a person.
    pub what: &'static str,
    /// Where it is.
    pub path: PathBuf,
}

/// Why a registry did not start: what, where, and what to do next.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Not written yet.
    #[error("not written yet")]
    Unwritten,
}

/// A registry that accepts connections.
#[derive(Debug)]
pub struct Running {
    local_addr: SocketAddr,
    made: Vec<Made>,
    warnings: Vec<String>,
}

impl Running {
    /// The address it listens on.
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// What this start made, in order; empty where everything was there.
    pub fn made(&self) -> &[Made] {
        &self.made
    }

    /// What an operator should see to soon (a certificate near its end).
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Stops: waiting polls are answered, requests that run are finished (at most ten seconds).
    pub async fn shutdown(self) {}
}

/// Starts a registry. It runs in tasks of the current tokio runtime until
/// [`Running::shutdown`].
pub async fn start(_config: Config) -> Result<Running, StartError> {
    Err(StartError::Unwritten)
}
