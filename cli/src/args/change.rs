//! What is to change in the registry?

use std::path::PathBuf;

use clap::{ArgGroup, Args, ValueEnum};
use medbind_core::binding::{AccountId, DeviceClass, Pin};
use medbind_core::claim::{ClaimCode, ClaimSecretHash};
use medbind_core::identity::DeviceId;
use medbind_core::time::Timestamp;

/// `medbind enrol`.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("what").required(true).args(["file", "device"]))]
pub struct Enrol {
    /// NDJSON or CSV with one device a line; - reads standard input
    #[arg(value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// What the file holds [default: by its name, else by its first character]
    #[arg(long, value_name = "FORMAT", requires = "file")]
    pub format: Option<EnrolFormat>,
    /// Enrol this one device
    #[arg(long, value_name = "DEVICE", requires_all = ["code", "secret_hash", "class"])]
    pub device: Option<DeviceId>,
    /// Its claim code
    #[arg(long, value_name = "CODE", requires = "device")]
    pub code: Option<ClaimCode>,
    /// The hash of its claim secret: 64 lower-case hex digits
    #[arg(long, value_name = "HASH", requires = "device")]
    pub secret_hash: Option<ClaimSecretHash>,
    /// What kind of device it is
    #[arg(long, value_name = "CLASS", requires = "device")]
    pub class: Option<DeviceClass>,
    /// The public keys that it may use; may be given several times
    #[arg(long = "pin", value_name = "PIN", requires = "device")]
    pub pins: Vec<Pin>,
    /// When its binding ends by itself (RFC 3339)
    #[arg(long, value_name = "TIME", requires = "device")]
    pub expires_at: Option<Timestamp>,
}

/// What `enrol` reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum EnrolFormat {
    /// One JSON object a line
    Ndjson,
    /// Comma-separated values with a first line of names
    Csv,
}

/// `medbind claim`.
#[derive(Debug, Args)]
pub struct Claim {
    /// The claim code on the label
    #[arg(long, value_name = "CODE")]
    pub code: ClaimCode,
    /// The account that claims
    #[arg(long, value_name = "ACCOUNT")]
    pub account: AccountId,
    /// The claim secret on the label; others on this machine may see it here
    #[arg(
        long,
        value_name = "SECRET",
        env = "MEDBIND_CLAIM_SECRET",
        hide_env_values = true
    )]
    pub secret: Option<String>,
}

/// `medbind suspend`, `resume`, `release`, `new-secret`.
#[derive(Debug, Args)]
pub struct Change {
    /// The device, as in acme:SN1
    #[arg(value_name = "DEVICE")]
    pub device: DeviceId,
    /// Why, for the record
    #[arg(long, value_name = "TEXT")]
    pub reason: Option<String>,
}

/// `medbind revoke`.
#[derive(Debug, Args)]
pub struct Revoke {
    /// Which device, and why.
    #[command(flatten)]
    pub change: Change,
    /// Do not ask on the terminal
    #[arg(long)]
    pub yes: bool,
}

/// `medbind expire`.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("when").required(true).args(["at", "never"]))]
pub struct Expire {
    /// Which device, and why.
    #[command(flatten)]
    pub change: Change,
    /// When it ends (RFC 3339)
    #[arg(long, value_name = "TIME")]
    pub at: Option<Timestamp>,
    /// It does not end by itself
    #[arg(long)]
    pub never: bool,
}

/// `medbind pin`.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("which").required(true).multiple(true).args(["pins", "certificates", "none"]))]
pub struct PinArgs {
    /// The device, as in acme:SN1
    #[arg(value_name = "DEVICE")]
    pub device: DeviceId,
    /// A pin: 64 lower-case hex digits; may be given several times
    #[arg(long = "pin", value_name = "PIN")]
    pub pins: Vec<Pin>,
    /// A certificate (PEM) whose key is let in; may be given several times
    #[arg(long = "certificate", value_name = "FILE")]
    pub certificates: Vec<PathBuf>,
    /// Remove all pins
    #[arg(long, conflicts_with_all = ["pins", "certificates"])]
    pub none: bool,
    /// Why, for the record
    #[arg(long, value_name = "TEXT")]
    pub reason: Option<String>,
}
