//! What the registry is told at start.

use core::net::SocketAddr;
use core::time::Duration;
use std::path::PathBuf;

use jiff::SignedDuration;

/// The options of a registry.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where database, certificates and keys live; made at the first start (mode 0700).
    pub data_dir: PathBuf,
    /// The address to listen on; port 0 takes a free one.
    pub listen: SocketAddr,
    /// The DNS names and IP addresses of the server's certificate. Where a later start names one
    /// that the certificate does not have, the certificate is made again.
    pub server_names: Vec<String>,
    /// The most connections at a time. One more takes the place of the oldest handshake, and waits
    /// where there is none. Peers without a certificate get a quarter of them.
    pub max_connections: usize,
    /// A peer without a certificate is let go of after so long without a request. For tests.
    #[doc(hidden)]
    pub anonymous_idle: Duration,
    /// How often it is looked whether the certificates have changed, or end soon. For tests.
    #[doc(hidden)]
    pub look_every: Duration,
    /// The most pages that the database may have, to see what a full disk does. For tests.
    #[doc(hidden)]
    pub max_database_pages: Option<u32>,
    /// Added to the clock, to see what a wrong one does. For tests.
    #[doc(hidden)]
    pub clock_offset: SignedDuration,
}

impl Config {
    /// Listens on `127.0.0.1:8443` as `localhost`, `127.0.0.1` and `registry`.
    pub fn new(data_dir: impl Into<PathBuf>) -> Self {
        Self {
            data_dir: data_dir.into(),
            listen: SocketAddr::from(([127, 0, 0, 1], 8443)),
            server_names: ["localhost", "127.0.0.1", "registry"]
                .map(str::to_owned)
                .into(),
            max_connections: 10_000,
            anonymous_idle: Duration::from_secs(10),
            look_every: Duration::from_mins(1),
            max_database_pages: None,
            clock_offset: SignedDuration::ZERO,
        }
    }
}
