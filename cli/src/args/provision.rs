//! How is a device to be made?

use std::path::PathBuf;

use clap::{ArgGroup, Args, ValueEnum};
use medbind_core::binding::DeviceClass;

/// Where the serial goes into a certificate.
#[derive(Clone, Debug, Args)]
pub struct Sources {
    /// Where the serial stands in the certificate; may be given several times
    ///
    /// subject.serial_number, subject.common_name, san.hardware_module_name (with --hw-type),
    /// san.permanent_identifier, san.uri=TEMPLATE, san.dns=TEMPLATE; a TEMPLATE holds {serial}
    /// once. [default: subject.serial_number, or what `ca init` was told]
    #[arg(long = "source", value_name = "SOURCE")]
    pub sources: Vec<String>,
    /// The object identifier of hwType in the hardware module name (RFC 4108)
    #[arg(long, value_name = "OID")]
    pub hw_type: Option<String>,
}

/// `medbind provision`.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("which").required(true).args(["serial", "from"]))]
pub struct Provision {
    /// The device CA's directory, from `medbind ca init`
    #[arg(long, value_name = "DIR")]
    pub ca: PathBuf,
    /// The device's serial
    #[arg(long, value_name = "SERIAL")]
    pub serial: Option<String>,
    /// The first serial of a batch; the digits at its end are counted up
    #[arg(long, value_name = "SERIAL", requires = "count")]
    pub from: Option<String>,
    /// How many devices to make
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000), requires = "from")]
    pub count: Option<u32>,
    /// Go on with a batch that was interrupted, with the same options as at its beginning
    ///
    /// Devices that are whole are kept; what was made by half is set aside, said, and made anew.
    #[arg(long = "continue", requires = "from", conflicts_with = "renew")]
    pub go_on: bool,
    /// Where the serial stands in a device's certificate.
    #[command(flatten)]
    pub sources: Sources,
    /// Sign this certificate signing request (PEM) instead of making a key
    #[arg(long, value_name = "FILE", conflicts_with_all = ["from", "key_type"])]
    pub csr: Option<PathBuf>,
    /// Only a new certificate, for a device that is enrolled already
    #[arg(long, conflicts_with_all = ["class", "portal", "secrets"])]
    pub renew: bool,
    /// How long the certificate is valid: 10y, 365d, 12h, or never to end
    #[arg(long, value_name = "SPAN", default_value = "10y")]
    pub validity: String,
    /// The kind of key to make
    #[arg(long, value_name = "TYPE", default_value = "p256")]
    pub key_type: KeyType,
    /// What kind of device it is; chooses rules (`infusion_pump`, `cgm`)
    #[arg(long, value_name = "CLASS", required_unless_present = "renew")]
    pub class: Option<DeviceClass>,
    /// Where people claim: the label's QR code is a link to it [default: --registry]
    ///
    /// Code and secret stand in the link's fragment, which no server sees.
    #[arg(long, value_name = "URL")]
    pub portal: Option<String>,
    /// Whether the claim secret stands on the label and in its QR code
    #[arg(long, value_name = "WHETHER", default_value = "yes")]
    pub secret_on_label: YesNo,
    /// Also append device, code and secret to this CSV file (mode 0600)
    #[arg(long, value_name = "FILE")]
    pub secrets: Option<PathBuf>,
    /// Where the devices' directories are made
    #[arg(long, value_name = "DIR", default_value = "devices")]
    pub out: PathBuf,
    /// Show no QR code in the terminal
    #[arg(long)]
    pub no_qr: bool,
}

/// The kinds of key that `provision` makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum KeyType {
    /// ECDSA on P-256
    P256,
    /// ECDSA on P-384
    P384,
    /// Ed25519 (not every TLS stack takes it)
    Ed25519,
}

/// Yes or no, written out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum YesNo {
    /// It does
    Yes,
    /// It does not
    No,
}
