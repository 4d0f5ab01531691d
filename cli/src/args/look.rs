//! What is to be read from the registry?

use std::path::PathBuf;

use clap::{ArgGroup, Args, ValueEnum};
use medbind_core::binding::{AccountId, DeviceClass};
use medbind_core::claim::ClaimCode;
use medbind_core::identity::DeviceId;

use super::value::pseudonym;

/// `medbind show`.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("which").required(true).args(["device", "pseudonym", "code"]))]
pub struct Show {
    /// The device, as in acme:SN1
    #[arg(value_name = "DEVICE")]
    pub device: Option<DeviceId>,
    /// Its pseudonym, as it stands in a guard's log
    #[arg(long, value_name = "PSEUDONYM", value_parser = pseudonym)]
    pub pseudonym: Option<String>,
    /// The claim code on its label
    #[arg(long, value_name = "CODE")]
    pub code: Option<ClaimCode>,
}

/// `medbind list`.
#[derive(Debug, Args)]
pub struct List {
    /// Only devices in this state
    #[arg(long, value_name = "STATE")]
    pub state: Option<State>,
    /// Only devices of this account
    #[arg(long, value_name = "ACCOUNT")]
    pub account: Option<AccountId>,
    /// Only devices of this class
    #[arg(long, value_name = "CLASS")]
    pub class: Option<DeviceClass>,
    /// Only the device with this claim code
    #[arg(long, value_name = "CODE")]
    pub code: Option<ClaimCode>,
    /// Only the device with this pseudonym, as it stands in a guard's log
    #[arg(long, value_name = "PSEUDONYM", value_parser = pseudonym)]
    pub pseudonym: Option<String>,
    /// Only devices after this one, in order of their names
    #[arg(long, value_name = "DEVICE")]
    pub after: Option<DeviceId>,
    /// The most devices to list; 0 for all
    #[arg(long, value_name = "N", default_value_t = 100)]
    pub limit: u64,
}

/// The states of a binding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum State {
    /// Known, but no account has claimed it
    Unclaimed,
    /// Claimed and in use
    Active,
    /// Held by an operator
    Suspended,
    /// Ended for good
    Revoked,
}

/// `medbind audit`.
#[derive(Debug, Args)]
pub struct Audit {
    /// Only what concerns this device
    #[arg(value_name = "DEVICE")]
    pub device: Option<DeviceId>,
    /// Only what concerns this account
    #[arg(long, value_name = "ACCOUNT")]
    pub account: Option<AccountId>,
    /// Only entries before this one, by its id
    #[arg(long, value_name = "ID")]
    pub before: Option<u64>,
    /// The most entries to read; 0 for all
    #[arg(long, value_name = "N", default_value_t = 100)]
    pub limit: u64,
}

/// `medbind export`.
#[derive(Debug, Args)]
pub struct Export {
    /// Write here (mode 0600), not to standard output
    ///
    /// A file that is there is replaced once the export is whole.
    #[arg(long, short, value_name = "FILE")]
    pub output: Option<PathBuf>,
}
