//! What can be asked? The command line, and its help.
#![expect(
    clippy::doc_markdown,
    reason = "clap prints these comments as they are, on a terminal"
)]

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgGroup, Args, Parser, Subcommand, ValueEnum};
use medbind_core::binding::{AccountId, DeviceClass, Pin};
use medbind_core::claim::{ClaimCode, ClaimSecretHash};
use medbind_core::identity::DeviceId;
use medbind_core::time::Timestamp;

const AFTER_HELP: &str = "\
Exit status:
  0  done (explain: permit)
  1  refused, or failed (explain: deny)
  2  wrong usage or configuration

An error, with --json, is one object on standard error:
  error        where, and what
  code         the registry's, such as unknown_device, or null
  retry_after  the seconds to wait before the next try, or null
  next         what to do next, or null

Environment:
  MEDBIND_REGISTRY     the registry's address, as --registry
  MEDBIND_CREDENTIALS  the directory with cert.pem, key.pem and ca.pem, as --credentials
  MEDBIND_LOG          what `serve` logs: error, warn, info (default), debug, trace
  NO_COLOR             no colours";

/// Edge authentication for medical devices: a device's certificate leads to its account.
///
/// `serve` runs the registry, which knows the devices, their accounts and their claims; `stop` and
/// `backup` go with it. `edge init` sets an Envoy up. `ca init` and `provision` make devices;
/// `enrol`, `claim`, `suspend`, `resume`, `revoke`, `release`, `new-secret`, `expire` and `pin`
/// change what the registry holds, `show`, `list`, `audit` and `export` read it. `check` reads
/// configurations of the guard as the guard does, and `explain` tells why it decides as it does.
#[derive(Debug, Parser)]
#[command(name = "medbind", version, after_long_help = AFTER_HELP, max_term_width = 100)]
pub struct Cli {
    /// Everything that every command takes.
    #[command(flatten)]
    pub global: Global,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Options of every command.
#[derive(Clone, Debug, Args)]
pub struct Global {
    /// The registry's address [default: https://localhost:8443]
    #[arg(
        long,
        global = true,
        env = "MEDBIND_REGISTRY",
        hide_env_values = true,
        value_name = "URL",
        help_heading = "Global options"
    )]
    pub registry: Option<String>,
    /// Directory with cert.pem, key.pem and ca.pem to speak to the registry with
    ///
    /// `medbind serve` makes one for an operator on its first start: DATA_DIR/operator.
    #[arg(
        long,
        global = true,
        env = "MEDBIND_CREDENTIALS",
        hide_env_values = true,
        value_name = "DIR",
        help_heading = "Global options"
    )]
    pub credentials: Option<PathBuf>,
    /// Answer in JSON, for scripts: one object, or one a line where there can be many
    #[arg(long, global = true, help_heading = "Global options")]
    pub json: bool,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the registry
    #[command(
        long_about = "Run the registry.\n\nThe first start with an empty data directory makes everything: the database, the infrastructure CA, the server's certificate, one for an edge (DATA_DIR/edge) and one for an operator (DATA_DIR/operator), all with private file modes. It runs until Ctrl-C, SIGTERM or `medbind stop`.\n\nExit status: 0 it was stopped. 1 it could not start now, and may the next time: the port or the data directory is in use, the disk is full, the database is damaged. 2 it cannot start like this: an option is wrong, the address is not of this machine, the data directory cannot be written, or holds a database of a newer version or of somebody else."
    )]
    #[command(
        after_long_help = "Examples:\n  medbind serve --data-dir /var/lib/medbind\n  medbind serve --data-dir data --listen 0.0.0.0:8443 --server-name registry.example\n  medbind serve --data-dir data --listen 127.0.0.1:0 --json   # the port stands in the answer"
    )]
    Serve(Serve),
    /// Stop the registry that runs on a data directory, and wait until it has
    #[command(
        long_about = "Stop the registry that runs on a data directory, and wait until it has.\n\nThe system says which process holds the directory's lock, and that process alone is told: the number in DATA_DIR/registry.lock may be another's after a crash. Where none runs, that is said, and the exit status is 0."
    )]
    #[command(after_long_help = "Examples:\n  medbind stop --data-dir /var/lib/medbind")]
    Stop(Stop),
    /// Copy the registry's database to a file, while it runs
    #[command(
        long_about = "Copy the registry's database to a file, while it runs: one moment of it, whole, on the disk and looked through, in a new file with mode 0600.\n\nIt holds the devices, the audit, and the key for pseudonyms. Certificates and keys are files of their own in the data directory; the answer names them, and they belong with it. docs/operating.md tells how to go back to it."
    )]
    #[command(
        after_long_help = "Examples:\n  medbind backup --data-dir /var/lib/medbind backup.sqlite\n  medbind backup --data-dir registry \"backup-$(date +%F).sqlite\" --json"
    )]
    Backup(Backup),
    /// Keep a private device CA, and the infrastructure's certificates
    #[command(subcommand)]
    Ca(Ca),
    /// Set an Envoy up
    #[command(subcommand)]
    Edge(Edge),
    /// Make a device: key, certificate, claim code and secret, label
    #[command(
        long_about = "Make a device: key pair, certificate, claim code and claim secret, and a label with a QR code.\n\nEach device gets a directory of its own below --out with key.pem, cert.pem, chain.pem, label.svg, label.png and device.json. device.json is the line for `medbind enrol`: it holds the hash of the claim secret, never the secret. The secret is shown once, here and on the label.\n\nA batch (--from, --count) that was interrupted, by whatever, is gone on with by the same command with --continue: no device is made twice, and no secret is lost. With --json the devices that were there already are told with \"kept\": true, and without their secrets.\n\nWith --csr the device keeps its key to itself: its request is signed. With --renew only a new certificate is made, for a device that is enrolled already: its binding hangs on its identity and stays."
    )]
    #[command(
        after_long_help = "Examples:\n  medbind provision --ca device-ca --serial SN0001 --class cgm --portal https://portal.example\n  medbind provision --ca device-ca --from SN0001 --count 500 --class cgm --portal https://portal.example\n  medbind provision --ca device-ca --from SN0001 --count 500 --class cgm --portal https://portal.example --continue\n  medbind provision --ca device-ca --serial SN0001 --class cgm --csr sn0001.csr.pem\n  medbind provision --ca device-ca --serial SN0001 --renew\n  medbind provision --ca device-ca --serial SN0001 --class cgm \\\n      --source san.hardware_module_name --hw-type 1.3.6.1.4.1.32473.1 \\\n      --source 'san.uri=urn:dev:ops:32473-{serial}'"
    )]
    Provision(Provision),
    /// Enrol devices with the registry: one, or a stream of a million lines
    #[command(
        long_about = "Enrol devices with the registry: one, or a stream of a million lines.\n\nA line of NDJSON holds `device`, `code`, `secret_hash`, `class` and, where there are any, `pins` and `expires_at`; CSV has the same names in its first line. Each bad line is reported by its number, and the others are enrolled: exit status 1 says that there were bad ones."
    )]
    #[command(
        after_long_help = "Examples:\n  medbind enrol devices/SN0001/device.json\n  medbind enrol devices/enrol.ndjson\n  zcat fleet.csv.gz | medbind enrol --format csv -\n  medbind enrol --device acme:SN1 --code K7Q2-9F3M-X4TB-Z --secret-hash 9f86d0... --class cgm"
    )]
    Enrol(Enrol),
    /// Claim a device for an account
    #[command(
        long_about = "Claim a device for an account, with the code and the secret of its label.\n\nThe secret is read from MEDBIND_CLAIM_SECRET or, without --secret, asked for on the terminal or read as one line from standard input, so that it need not stand on the command line. A wrong code, a wrong secret and a device that is claimed already get one and the same answer."
    )]
    #[command(
        after_long_help = "Examples:\n  medbind claim --account acc-1 --code K7Q2-9F3M-X4TB-Z\n  medbind claim --account acc-1 --code K7Q2-9F3M-X4TB-Z < secret.txt"
    )]
    Claim(Claim),
    /// Hold a device: it is refused until it is resumed
    #[command(after_long_help = "Examples:\n  medbind suspend acme:SN1 --reason 'reported lost'")]
    Suspend(Change),
    /// Let a suspended device in again
    #[command(after_long_help = "Examples:\n  medbind resume acme:SN1")]
    Resume(Change),
    /// Refuse a device for good
    #[command(
        long_about = "Refuse a device for good: this identity never comes back. To hold it for a while, `suspend` it; to give it to a new owner, `release` it."
    )]
    #[command(after_long_help = "Examples:\n  medbind revoke acme:SN1 --reason 'key stolen'")]
    Revoke(Revoke),
    /// Take a device from its account, for the next owner
    #[command(
        long_about = "Take a device from its account, for the next owner.\n\nThe device is unclaimed again, with a new claim secret that is shown once, here. The next claim counts its epoch up, so that the next owner never reads the last one's data."
    )]
    #[command(after_long_help = "Examples:\n  medbind release acme:SN1 --reason 'returned'")]
    Release(Change),
    /// Make a new claim secret for a device that no account has
    #[command(
        long_about = "Make a new claim secret for a device that no account has; it is shown once, here, and the old one is worth nothing.\n\nFor a label that is lost or was read by somebody else, and for a `release` whose answer never came: the device is released then, and nobody has its secret. An account's device is released first."
    )]
    #[command(
        after_long_help = "Examples:\n  medbind new-secret acme:SN1 --reason 'the label was lost'"
    )]
    NewSecret(Change),
    /// Say when a device's binding ends by itself
    #[command(
        long_about = "Say when a device's binding ends by itself: a loan, a trial. From then on the device is refused (binding_expired), until the end is moved again.\n\nThe end is the device's: it stays through a release and the next claim."
    )]
    #[command(
        after_long_help = "Examples:\n  medbind expire acme:SN1 --at 2027-06-30T22:00:00Z --reason 'the loan goes on'\n  medbind expire acme:SN1 --never"
    )]
    Expire(Expire),
    /// Tie a device to its public keys
    #[command(
        long_about = "Tie a device to its public keys: with pins, no other key is let in, whoever signed it.\n\nA pin is the SHA-256 of the subject public key info, 64 lower-case hex digits; --certificate works it out. The pins given replace those that were there; --none removes them all."
    )]
    #[command(
        after_long_help = "Examples:\n  medbind pin acme:SN1 --certificate devices/SN1/cert.pem\n  medbind pin acme:SN1 --pin 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08\n  medbind pin acme:SN1 --none"
    )]
    Pin(PinArgs),
    /// Show one device
    #[command(
        long_about = "Show one device: whose it is, where its binding stands, and who changed it last, when and why.\n\nIt is named by its identity, by its pseudonym as it stands in a guard's log line, or by the claim code on its label."
    )]
    #[command(
        after_long_help = "Examples:\n  medbind show acme:SN1\n  medbind show acme:SN1 --json\n  medbind show --pseudonym 3f1c09ab52d7e604   # which device does this log line speak of, and why?\n  medbind show --code K7Q2-9F3M-X4TB-Z"
    )]
    Show(Show),
    /// List devices
    #[command(
        after_long_help = "Examples:\n  medbind list --state suspended\n  medbind list --class cgm --limit 0\n  medbind list --account acc-1 --json\n  medbind list --pseudonym 3f1c09ab52d7e604"
    )]
    List(List),
    /// Read who did what, when and why
    #[command(
        long_about = "Read who did what, when and why: the registry's audit, newest first.\n\nEach change has an entry, and so has each refused claim. A part of an import is one entry; it is shown with each device that came in with it. With --json one entry a line: id, at, actor, action, device, account, set, reason, first_revision, last_revision; set is what `pin` and `expire` have set, with all digits of each pin."
    )]
    #[command(
        after_long_help = "Examples:\n  medbind audit acme:SN1\n  medbind audit --account acc-1 --limit 10\n  medbind audit --limit 0 --json > audit.ndjson"
    )]
    Audit(Audit),
    /// Write the whole registry as feed records, one a line
    #[command(
        after_long_help = "Examples:\n  medbind export --output records.ndjson\n  medbind export | medbind explain --guard guard.yaml --certificate leaf.pem --bindings -"
    )]
    Export(Export),
    /// Check configurations of guard and synchroniser
    #[command(
        long_about = "Check configurations of guard and synchroniser: the same code as the module's.\n\nA file is YAML or JSON, of one document or several: a configuration alone, a whole Envoy bootstrap, a ConfigMap, an Istio WasmPlugin or TrafficExtension, an Envoy Gateway EnvoyExtensionPolicy. What stands around the configuration is looked at too, and warned of where it weakens the guard: a vm_id shared with other plug-ins, a failure policy that is not FAIL_RELOAD, filters in an order that lets a path or a token change after the decision, early data."
    )]
    #[command(
        after_long_help = "Examples:\n  medbind check guard.yaml\n  medbind check --strict envoy/*.yaml\n  medbind check --json envoy.yaml | jq .findings"
    )]
    Check(Check),
    /// Tell why the guard decides as it does
    #[command(
        long_about = "Tell why the guard decides as it does: the module's own code, run on one case, with each step and what it read.\n\nThe guard's configuration is found inside a whole Envoy bootstrap too. --bindings is taken as the whole registry: feed records, one a line, as `medbind export` writes them; a device that is not in it is unknown, an empty file is an empty registry. Without --bindings the registry is asked about the device.\n\nWithout --path it is decided whether the device may anything at all: its certificate and its binding, no rule.\n\nWith --json one object: decision (permit or deny), code (null on a permit), status (the HTTP status; 200 on a permit, where the upstream answers), principal, device, account, class, rule ({index, path} or null), headers (those that the upstream sees), steps ({step, outcome, read}).\n\nExit status: 0 permit, 1 deny, 2 wrong usage or configuration. A certificate file that does not parse is a deny: malformed_certificate."
    )]
    #[command(
        after_long_help = "Examples:\n  medbind explain --guard guard.yaml --certificate leaf.pem --bindings records.ndjson \\\n      --method POST --path /v1/devices/acme:SN1/readings\n  medbind explain --guard envoy.yaml --certificate leaf.pem --registry https://registry:8443\n  medbind explain --guard guard.yaml --no-certificate --path /v1/status --json"
    )]
    Explain(Explain),
    /// Print the completions of a shell
    #[command(
        after_long_help = "Examples:\n  medbind completions bash > /etc/bash_completion.d/medbind\n  medbind completions zsh > ~/.zfunc/_medbind\n  medbind completions fish > ~/.config/fish/completions/medbind.fish"
    )]
    Completions(Completions),
    /// Print docs/commands.md
    #[command(hide = true)]
    HelpMarkdown,
}

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
    /// Exit status 1 where one ends within this time: 30d, 12h
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
    /// Where load balancers and Kubernetes ask whether it is ready; publish it to them alone
    #[arg(long, value_name = "ADDRESS", value_parser = socket, default_value = "0.0.0.0:8080")]
    pub probes: SocketAddr,
    /// Envoy's admin page; keep it on loopback
    #[arg(long, value_name = "ADDRESS", value_parser = socket, default_value = "127.0.0.1:9901")]
    pub admin: SocketAddr,
    /// The module, from `cargo xtask module`
    #[arg(long, value_name = "FILE", default_value = "dist/medbind.wasm")]
    pub module: PathBuf,
    /// The device CA's revocation list (PEM)
    #[arg(long, value_name = "FILE")]
    pub crl: Option<PathBuf>,
    /// Take people's tokens of this issuer
    #[arg(long, value_name = "ISSUER", requires = "jwks")]
    pub accounts: Option<String>,
    /// The keys of that issuer: a JSON Web Key Set
    #[arg(long, value_name = "FILE", requires = "accounts")]
    pub jwks: Option<PathBuf>,
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
}

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

/// `medbind completions`.
#[derive(Debug, Args)]
pub struct Completions {
    /// Which shell
    #[arg(value_name = "SHELL")]
    pub shell: Shell,
}

/// The shells that completions are printed for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Shell {
    /// GNU Bash
    Bash,
    /// Z shell
    Zsh,
    /// fish
    Fish,
}

fn socket(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| {
        "expected the IP address of this machine and a port, such as 127.0.0.1:8443 or 0.0.0.0:8443"
            .to_owned()
    })
}

fn pseudonym(text: &str) -> Result<String, String> {
    let digits = text.to_ascii_lowercase();
    if digits.len() == 16 && digits.bytes().all(|octet| octet.is_ascii_hexdigit()) {
        Ok(digits)
    } else {
        Err("expected the 16 hex digits behind device= in a guard's log line".to_owned())
    }
}

fn span(text: &str) -> Result<Duration, String> {
    medbind_core::units::parse_duration(text).map_err(|error| error.to_string())
}
