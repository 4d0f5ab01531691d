//! What can be asked? The command line, and its help.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use super::ca::Ca;
use super::change::{Change, Claim, Enrol, Expire, PinArgs, Revoke};
use super::edge::Edge;
use super::guard::{Check, Explain};
use super::look::{Audit, Export, List, Show};
use super::provision::Provision;
use super::registry::{Backup, Serve, Stop};

const AFTER_HELP: &str = "\
Exit status:
  0  done (explain: permit)
  1  refused, or failed (explain: deny), or the answer cannot be written
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
        long_about = "Run the registry.\n\nThe first start with an empty data directory makes everything: the database, the infrastructure CA, the server's certificate, one for an edge (DATA_DIR/edge) and one for an operator (DATA_DIR/operator), all with private file modes. It runs until Ctrl-C, SIGTERM or `medbind stop`.\n\nExit status: 0 it was stopped. 1 it could not start now, and may the next time: the port or the data directory is in use, the disk is full, the database is damaged; or a part of it has failed while it ran. 2 it cannot start like this: an option is wrong, the address is not of this machine, the data directory or its database cannot be written, or the database is of a newer version or somebody else's."
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
        after_long_help = "Examples:\n  medbind pin acme:SN1 --certificate devices/SN1/cert.pem\n  medbind pin acme:SN1 --pin 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08\n  medbind pin acme:SN1 --none --reason \"new key\""
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
        long_about = "Check configurations of guard and synchroniser: the same code as the module's.\n\nA file is YAML or JSON, of one document or several: a configuration alone, a whole Envoy bootstrap, a ConfigMap, an Istio WasmPlugin or TrafficExtension, an Envoy Gateway EnvoyExtensionPolicy. What stands around the configuration is looked at too, and warned of where it weakens the guard: a vm_id shared with other plug-ins, a failure policy that is not FAIL_RELOAD, filters in an order that lets a path or a token change after the decision, early data. Where a bootstrap names a file that says who signs devices, and its folder is on this machine, that file is read, and the CAs and revocation lists that it names: an Envoy that starts and cannot read one of them says that it is ready, and lets no device in. So does one whose CAs have ended, or are none that the guard takes. What Envoy shows is read too, as far as it is on this machine: its certificates and keys, the CAs that it verifies registry and service with, and the sign-in's key set. What has ended is an error; what ends within 30 days (a CA 180; where it lives for less, the last third) is warned of."
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
