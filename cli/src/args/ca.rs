//! Which certificates are made, renewed and shown?

use std::path::PathBuf;

use clap::{ArgGroup, Args, Subcommand};

use super::provision::Sources;

/// `medbind ca`.
#[derive(Debug, Subcommand)]
pub enum Ca {
    /// Make a private device CA
    #[command(
        long_about = "Make a private device CA: a P-256 key and a certificate, in a new directory with private file modes.\n\nBeside them stand ca.json, which tells `medbind provision` the namespace and where in a certificate the serial stands, and issuer.yaml: the part of a guard's configuration that names this CA. With --intermediate a root signs the CA that signs devices; the root's key, in root/, is then best kept offline."
    )]
    #[command(
        after_long_help = "Examples:\n  medbind ca init device-ca --namespace acme\n  medbind ca init device-ca --namespace acme --intermediate --validity 30y\n  medbind ca init device-ca --namespace acme \\\n      --source san.hardware_module_name --hw-type 1.3.6.1.4.1.32473.1"
    )]
    Init(CaInit),
    /// Make a certificate of the infrastructure: for a server, an edge or an operator
    #[command(
        long_about = "Make a certificate of the infrastructure: for a server, an edge or an operator.\n\nThe infrastructure CA is the one that `medbind serve` made at its first start. What it signs for an edge can read the registry's feed and nothing else; what it signs for an operator can do everything; what it signs for a server answers for names. Nothing is valid for longer than the CA itself: what would be ends with it, and that is said. With --renew certificate and key in DIR are replaced by new ones for the same names or the same role, and ca.pem by the CA's newest."
    )]
    #[command(
        after_long_help = "Examples:\n  medbind ca issue device-service --ca registry/infra-ca --server device-service.example\n  medbind ca issue edge-2 --ca registry/infra-ca --edge edge-2\n  medbind ca issue ann --ca registry/infra-ca --operator ann --validity 90d\n  medbind ca issue ann --ca registry/infra-ca --renew"
    )]
    Issue(CaIssue),
    /// Renew the infrastructure CA's certificate
    #[command(
        long_about = "Renew the infrastructure CA's certificate: ten more years for the same name and the same key.\n\nNothing that it has signed ends by this, and a registry that runs takes it up within a minute. Whoever has a copy of the old certificate (ca.pem) needs the new one before the old one ends; `medbind ca issue --renew` brings it along. Where the CA's key is kept elsewhere, run it there and copy cert.pem.\n\nA CA that is valid for longer than the renewed one would be is kept as it is, and a device CA is refused: it is rolled over, docs/operating.md."
    )]
    #[command(after_long_help = "Examples:\n  medbind ca renew registry/infra-ca")]
    Renew(CaRenew),
    /// Show for whom certificates are, and when they end
    #[command(
        long_about = "Show for whom certificates are, and when they end.\n\nWith --ends-within the exit status is 1 where one has ended or ends within that time, for cron and monitoring."
    )]
    #[command(
        after_long_help = "Examples:\n  medbind ca show registry/infra-ca registry/server edge/edge edge/server\n  medbind ca show edge/edge --ends-within 30d --json"
    )]
    Show(CaShow),
}

/// `medbind ca renew`.
#[derive(Debug, Args)]
pub struct CaRenew {
    /// The infrastructure CA's directory: DATA_DIR/infra-ca
    #[arg(value_name = "DIR")]
    pub dir: PathBuf,
}

/// `medbind ca show`.
#[derive(Debug, Args)]
pub struct CaShow {
    /// Directories with a cert.pem, or certificates (PEM)
    #[arg(value_name = "PATH", required = true)]
    pub paths: Vec<PathBuf>,
    /// Exit status 1 where one ends within this time, or has not begun: 30d, 12h
    #[arg(long, value_name = "SPAN")]
    pub ends_within: Option<String>,
}

/// `medbind ca issue`.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("whom").required(true).args(["servers", "edge", "operator", "renew"]))]
pub struct CaIssue {
    /// The new directory for cert.pem, key.pem and ca.pem
    #[arg(value_name = "DIR")]
    pub dir: PathBuf,
    /// The infrastructure CA's directory: DATA_DIR/infra-ca
    #[arg(long, value_name = "DIR")]
    pub ca: PathBuf,
    /// For a server of this DNS name or IP address; may be given several times
    #[arg(long = "server", value_name = "NAME")]
    pub servers: Vec<String>,
    /// For an edge of this name
    #[arg(long, value_name = "NAME")]
    pub edge: Option<String>,
    /// For an operator of this name, which stands in the audit
    #[arg(long, value_name = "NAME")]
    pub operator: Option<String>,
    /// Replace certificate and key in DIR, for whom they were made
    #[arg(long)]
    pub renew: bool,
    /// How long it is valid: 825d, 12h
    #[arg(long, value_name = "SPAN", default_value = crate::credentials::VALIDITY)]
    pub validity: String,
}

/// `medbind ca init`.
#[derive(Debug, Args)]
pub struct CaInit {
    /// The new directory
    #[arg(value_name = "DIR")]
    pub dir: PathBuf,
    /// The first part of each device's identity, as in acme:SN1
    #[arg(long, value_name = "NAME")]
    pub namespace: String,
    /// The common name of the CA's certificate [default: "<namespace> device CA"]
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    /// How long the CA is valid: 30y, 3650d, or never to end
    #[arg(long, value_name = "SPAN", default_value = "20y")]
    pub validity: String,
    /// A root that signs an intermediate, which signs the devices
    #[arg(long)]
    pub intermediate: bool,
    /// Where the serial stands in a device's certificate.
    #[command(flatten)]
    pub sources: Sources,
}
