//! How is a registry run?

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Args;

use super::value::socket;

/// `medbind serve`.
#[derive(Debug, Args)]
pub struct Serve {
    /// Where database, certificates and keys live; made at the first start
    #[arg(long, value_name = "DIR")]
    pub data_dir: PathBuf,
    /// The address to listen on; port 0 takes a free one
    #[arg(long, value_name = "ADDRESS", value_parser = socket, default_value = "127.0.0.1:8443")]
    pub listen: SocketAddr,
    /// A DNS name or IP address of the server's certificate; may be given several times
    ///
    /// A name that the certificate does not have makes a new one.
    #[arg(long = "server-name", value_name = "NAME", default_values = ["localhost", "127.0.0.1", "registry"])]
    pub server_names: Vec<String>,
    /// The most connections at a time
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub max_connections: u32,
}

/// `medbind stop`.
#[derive(Debug, Args)]
pub struct Stop {
    /// The registry's data directory
    #[arg(long, value_name = "DIR")]
    pub data_dir: PathBuf,
}

/// `medbind backup`.
#[derive(Debug, Args)]
pub struct Backup {
    /// The new file
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// The registry's data directory
    #[arg(long, value_name = "DIR")]
    pub data_dir: PathBuf,
}
