//! What is to be asked of a guard's configuration?

use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgGroup, Args};
use medbind_core::time::Timestamp;

use super::value::span;

/// `medbind check`.
#[derive(Debug, Args)]
pub struct Check {
    /// YAML or JSON; - reads standard input
    #[arg(value_name = "FILE", required = true)]
    pub files: Vec<PathBuf>,
    /// Take each warning for an error
    #[arg(long)]
    pub strict: bool,
}

/// `medbind explain`.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("peer").required(true).args(["certificate", "no_certificate"]))]
pub struct Explain {
    /// The guard's configuration, alone or inside an Envoy bootstrap
    #[arg(long, value_name = "FILE")]
    pub guard: PathBuf,
    /// The device's certificate (PEM)
    #[arg(long, value_name = "FILE")]
    pub certificate: Option<PathBuf>,
    /// The caller has no certificate
    #[arg(long)]
    pub no_certificate: bool,
    /// Feed records, one a line: the whole registry; - reads standard input
    #[arg(long, value_name = "FILE")]
    pub bindings: Option<PathBuf>,
    /// The request's method
    #[arg(long, value_name = "METHOD", default_value = "GET")]
    pub method: String,
    /// The request's path; without it no rule is looked at
    #[arg(long, value_name = "PATH")]
    pub path: Option<String>,
    /// Decide as of this moment (RFC 3339) [default: now]
    #[arg(long, value_name = "TIME")]
    pub at: Option<Timestamp>,
    /// As if the registry had been silent for this long (`20m`)
    #[arg(long, value_name = "SPAN", value_parser = span)]
    pub silent_for: Option<Duration>,
    /// The issuer of a verified account token
    #[arg(long, value_name = "ISSUER", requires = "account_subject")]
    pub account_issuer: Option<String>,
    /// The subject of a verified account token
    #[arg(long, value_name = "SUBJECT", requires = "account_issuer")]
    pub account_subject: Option<String>,
}
