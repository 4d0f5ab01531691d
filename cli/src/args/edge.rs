//! How is an Envoy set up?

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::provision::Sources;
use super::value::socket;

/// `medbind edge`.
#[derive(Debug, Subcommand)]
pub enum Edge {
    /// Make an edge's directory: http.yaml for Envoy, and every file that it names
    #[command(
        long_about = "Make an edge's directory: http.yaml for Envoy, and every file that it names.\n\nhttp.yaml is the shipped envoy/http.yaml, with its comments, this edge's name, your device CA and the addresses of registry and service filled in. Beside it stand the module, the device CA's certificate with its revocation list (device-ca.yaml names both; Envoy takes up what is moved into their place), a server certificate for --name (put your own in its place if devices trust another CA), and this edge's certificate for the registry and the service. What is left to you is the list of rules. Without --accounts it is for devices alone; without --crl no revocation list is read.\n\nThe registry is the one of --registry. The service must speak TLS, for the name in --service, with a certificate of the infrastructure CA (`medbind ca issue --server`) or of --service-ca; it does well to let nobody in but the infrastructure CA's clients."
    )]
    #[command(
        after_long_help = "Examples:\n  medbind edge init edge --name edge.example --infra-ca registry/infra-ca \\\n      --device-ca device-ca --service https://device-service.example:9443\n  medbind edge init edge --name edge.example --infra-ca registry/infra-ca \\\n      --device-ca factory-ca.pem --namespace acme --source san.uri=urn:dev:ops:32473-{serial} \\\n      --service https://10.0.0.7:9443 --service-ca service-ca.pem --crl factory.crl.pem\n  medbind edge init edge --name edge.example --infra-ca registry/infra-ca \\\n      --device-ca device-ca --service https://device-service.example:9443 \\\n      --accounts https://login.example --jwks jwks.json"
    )]
    Init(EdgeInit),
}

/// `medbind edge init`.
#[derive(Debug, Args)]
pub struct EdgeInit {
    /// The new directory
    #[arg(value_name = "DIR")]
    pub dir: PathBuf,
    /// The DNS name that devices call
    #[arg(long, value_name = "NAME")]
    pub name: String,
    /// The infrastructure CA's directory: DATA_DIR/infra-ca
    #[arg(long, value_name = "DIR")]
    pub infra_ca: PathBuf,
    /// Who signs devices: a directory of `medbind ca init`, or a CA's certificate (PEM)
    #[arg(long, value_name = "PATH")]
    pub device_ca: PathBuf,
    /// With a certificate as --device-ca: the first part of each device's identity
    #[arg(long, value_name = "NAME")]
    pub namespace: Option<String>,
    /// With a certificate as --device-ca: where the serial stands.
    #[command(flatten)]
    pub sources: Sources,
    /// The service that is guarded: https://name:port
    #[arg(long, value_name = "URL")]
    pub service: String,
    /// The CA of the service's certificate (PEM) [default: the infrastructure CA]
    #[arg(long, value_name = "FILE")]
    pub service_ca: Option<PathBuf>,
    /// Where devices connect
    #[arg(long, value_name = "ADDRESS", value_parser = socket, default_value = "0.0.0.0:8443")]
    pub listen: SocketAddr,
    /// Where load balancers and Kubernetes ask whether it is ready; name an address that they
    /// alone reach
    #[arg(long, value_name = "ADDRESS", value_parser = socket, default_value = "127.0.0.1:8080")]
    pub probes: SocketAddr,
    /// Envoy's admin page; keep it on loopback
    #[arg(long, value_name = "ADDRESS", value_parser = socket, default_value = "127.0.0.1:9901")]
    pub admin: SocketAddr,
    /// The module, from `cargo xtask module`
    #[arg(long, value_name = "FILE", default_value = "dist/medbind.wasm")]
    pub module: PathBuf,
    /// The device CA's revocation list (PEM); can be put in place later, too
    #[arg(long, value_name = "FILE")]
    pub crl: Option<PathBuf>,
    /// Take people's tokens of this issuer
    #[arg(long, value_name = "ISSUER", requires = "jwks")]
    pub accounts: Option<String>,
    /// The keys of that issuer: a JSON Web Key Set
    #[arg(long, value_name = "FILE", requires = "accounts")]
    pub jwks: Option<PathBuf>,
}
