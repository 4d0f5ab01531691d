//! How is an Envoy set up? `envoy/http.yaml` as it is shipped, filled in, and the files that it
//! names.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use medbind_core::identity::check_namespace;
use medbind_registry::pki::{CertificateAuthority, Purpose, write_new_directory};
use medbind_registry::role::Role;
use rcgen::PublicKeyData as _;
use reqwest::Url;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use serde_json::json;
use x509_cert::Certificate;
use x509_cert::der::{Decode as _, Encode as _};

use crate::args::{EdgeInit, Global};
use crate::ca::{DeviceCa, Settings, issuer_yaml};
use crate::check::{self, Severity};
use crate::client;
use crate::credentials;
use crate::failure::{Failure, Outcome};
use crate::files;
use crate::output::{self, put};
use crate::sign_in;
use crate::source::{self, Source};
use crate::trust;

/// What is filled in.
const SHIPPED: &str = include_str!("../../envoy/http.yaml");
/// Who signs devices, for Envoy: named by it.
const SHIPPED_TRUST: &str = include_str!("../../envoy/device-ca.yaml");
/// Where the shipped file looks for its files.
const SHIPPED_FOLDER: &str = "/etc/medbind";
const BOOTSTRAP: &str = "http.yaml";
const MODULE: &str = "medbind.wasm";
const TRUST: &str = "device-ca.yaml";
const DEVICE_CA: &str = "device-ca.pem";
const CRL: &str = "device-ca.crl.pem";
const JWKS: &str = "jwks.json";
const SERVICE_CA: &str = "service-ca.pem";
/// How a module begins (WebAssembly Core, 5.5.16).
const MODULE_MAGIC: &[u8] = b"\0asm";

/// A party that Envoy calls over TLS.
struct Party {
    host: String,
    port: u16,
}

impl Party {
    fn parse(option: &str, text: &str) -> Result<Self, Failure> {
        let url = client::address(option, text)?;
        Ok(Self::of(&url))
    }

    fn of(url: &Url) -> Self {
        let host = url.host_str().unwrap_or_default();
        Self {
            host: host.trim_matches(['[', ']']).to_owned(),
            port: url.port_or_known_default().unwrap_or(443),
        }
    }

    fn ip(&self) -> Option<IpAddr> {
        self.host.parse().ok()
    }

    fn is_this_machine(&self) -> bool {
        self.host == "localhost" || self.ip().is_some_and(|ip| ip.is_loopback())
    }
}

/// The shipped file, on its way to being this edge's.
struct Template(String);

impl Template {
    /// Every `from` becomes `to`.
    fn fill(&mut self, from: &str, to: &str) -> Result<(), Failure> {
        if !self.0.contains(from) {
            return Err(Failure::refused(format_args!(
                "the shipped http.yaml does not hold {from:?}: this is a mistake in medbind"
            )));
        }
        self.0 = self.0.replace(from, to);
        Ok(())
    }

    /// What stands between the lines `begin` and `end` becomes `to`.
    fn between(&mut self, begin: &str, end: &str, to: &str) -> Result<(), Failure> {
        let start = self.0.find(begin).map(|at| at.saturating_add(begin.len()));
        let range = start.and_then(|start| {
            let rest = self.0.get(start..)?;
            Some(start..start.saturating_add(rest.find(end)?))
        });
        let Some(range) = range else {
            return Err(Failure::refused(format_args!(
                "the shipped http.yaml does not hold {begin:?} and {end:?}: this is a mistake in \
                 medbind"
            )));
        };
        self.0.replace_range(range, to);
        Ok(())
    }

    /// Takes out the parts that are marked with `# name: begin` and `# name: end`, or the marks
    /// alone.
    fn part(&mut self, name: &str, kept: bool) {
        let (begin, end) = (format!("# {name}: begin"), format!("# {name}: end"));
        let mut inside = false;
        let mut text = String::with_capacity(self.0.len());
        for line in self.0.lines() {
            let mark = line.trim();
            if mark == begin {
                inside = true;
            } else if mark == end {
                inside = false;
            } else if kept || !inside {
                text.push_str(line);
                text.push('\n');
            }
        }
        self.0 = text;
    }

    /// Makes comments of the keys in the part that is marked with `# name: begin` and `# name: end`.
    fn aside(&mut self, name: &str) {
        let (begin, end) = (format!("# {name}: begin"), format!("# {name}: end"));
        let mut inside = false;
        let mut text = String::with_capacity(self.0.len());
        for line in self.0.lines() {
            let words = line.trim_start();
            let mark = words.trim_end();
            inside = mark == begin || inside && mark != end;
            if mark == begin || mark == end {
                continue;
            }
            if inside && !words.starts_with('#') {
                let indent = line.len().saturating_sub(words.len());
                put!(text, "{:indent$}# {words}\n", "");
            } else {
                put!(text, "{line}\n");
            }
        }
        self.0 = text;
    }

    /// Sends a cluster to a party, which shows a certificate for its own name.
    fn cluster(&mut self, shipped: (&str, u16), to: &Party) -> Result<(), Failure> {
        let (host, _) = shipped;
        let here = quoted(&to.host);
        self.address(shipped, &to.host, to.port)?;
        let (kind, sni) = match to.ip() {
            Some(_) => ("IP_ADDRESS", String::new()),
            None => ("DNS", format!("          sni: {here}\n")),
        };
        self.fill(
            &format!("{{san_type: DNS, matcher: {{exact: {host}}}}}"),
            &format!("{{san_type: {kind}, matcher: {{exact: {here}}}}}"),
        )?;
        self.fill(&format!("          sni: {host}\n"), &sni)
    }

    /// What is at an address of the shipped file goes to another.
    fn address(&mut self, shipped: (&str, u16), host: &str, port: u16) -> Result<(), Failure> {
        let (shipped_host, shipped_port) = shipped;
        self.fill(
            &format!("{{address: {shipped_host}, port_value: {shipped_port}}}"),
            &format!("{{address: {}, port_value: {port}}}", quoted(host)),
        )
    }
}

/// Text as YAML and JSON write it, whatever is in it.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// `medbind edge init`.
pub fn init(args: &EdgeInit, global: &Global) -> Outcome {
    let registry_url = global
        .registry
        .as_deref()
        .unwrap_or(client::DEFAULT_REGISTRY);
    let registry = Party::parse("--registry", registry_url)?;
    let service = Party::parse("--service", &args.service).map_err(|error| {
        if args.service.starts_with("http://") {
            // Health data is encrypted on every hop.
            error.next(
                "the service must speak TLS: `medbind ca issue DIR --ca DATA_DIR/infra-ca --server \
                 NAME` makes a certificate for it",
            )
        } else {
            error
        }
    })?;
    check_name(&args.name)?;
    check_ports(args, &registry, &service)?;
    if args.dir.exists() {
        return Err(Failure::refused(format_args!(
            "{} is there already, and keys are never overwritten",
            args.dir.display()
        ))
        .next("choose another directory, or move it away"));
    }

    let authority = credentials::infrastructure(&args.infra_ca)?;
    let (settings, issuing_pem, trusted_pem) = device_ca(args)?;
    two_cas(args, &authority, &[&issuing_pem, &trusted_pem])?;
    let module = read_module(&args.module)?;
    let issue = |purpose| credentials::issue(&authority, &purpose, credentials::VALIDITY);
    let server = issue(Purpose::Server(vec![args.name.clone()]))?;
    let role = args.name.parse().map_err(Failure::usage)?;
    let edge = issue(Purpose::Client(Role::Edge(role)))?;
    let shortened = credentials::shortened(&edge, &args.infra_ca);
    let not_begun = credentials::not_begun(&authority, &args.infra_ca);
    for note in shortened.iter().chain(&not_begun) {
        output::warning(note);
    }
    let service_ca = optional(args.service_ca.as_deref())?;
    let crl = optional(args.crl.as_deref())?;
    let jwks = optional(args.jwks.as_deref())?;

    let folder = absolute(&args.dir)?;
    let issuer = issuer_yaml(&settings, &issuing_pem);
    let bootstrap = fill(args, &folder, &registry, &service, &issuer)?;
    let mut trust = Template(SHIPPED_TRUST.to_owned());
    if args.crl.is_some() {
        trust.part("crl", true);
    } else {
        trust.aside("crl");
    }
    let trust = in_folder(&trust.0, &folder);
    let mut files: Vec<(&str, &[u8])> = vec![
        (BOOTSTRAP, bootstrap.as_bytes()),
        (TRUST, trust.as_bytes()),
        (MODULE, &module),
        (DEVICE_CA, trusted_pem.as_bytes()),
        ("server/cert.pem", server.certificate_pem.as_bytes()),
        ("server/key.pem", server.key_pem.expose().as_bytes()),
        ("edge/cert.pem", edge.certificate_pem.as_bytes()),
        ("edge/key.pem", edge.key_pem.expose().as_bytes()),
        ("edge/ca.pem", edge.ca_pem.as_bytes()),
    ];
    for (name, octets) in [(SERVICE_CA, &service_ca), (CRL, &crl), (JWKS, &jwks)] {
        if let Some(octets) = octets {
            files.push((name, octets));
        }
    }
    check::must_be_taken(&folder.join(BOOTSTRAP), &bootstrap)?;
    readable(args, &trusted_pem, crl.as_deref())?;
    verifiable(args, jwks.as_deref())?;
    write_new_directory(&args.dir, &files).map_err(Failure::refused)?;
    if let Some(warning) = files::made_by_root(&args.dir) {
        output::warning(warning);
    }
    report(args, global, &settings);
    Ok(ExitCode::SUCCESS)
}

fn report(args: &EdgeInit, global: &Global, settings: &Settings) {
    let at = |name: &str| args.dir.join(name).display().to_string();
    if global.json {
        output::json(&json!({
            "directory": args.dir.display().to_string(),
            "bootstrap": at(BOOTSTRAP),
            "name": args.name,
            "namespace": settings.namespace,
            "listen": args.listen.to_string(),
            "ready": format!("http://{}/ready", from_here(args.probes)),
            "server_ca": at("edge/ca.pem"),
        }));
        return;
    }
    let (bold, dim) = (output::BOLD, output::DIM);
    let mut text = format!(
        "{bold}{}{bold:#} for devices {}:..., at {}\n",
        args.name, settings.namespace, args.listen
    );
    for (name, what) in [
        (
            BOOTSTRAP,
            "Envoy's configuration; the rules in it are examples: make them yours",
        ),
        (MODULE, "the module"),
        (
            TRUST,
            "who signs devices: it names device-ca.pem and its revocation list",
        ),
        (
            "server/",
            "what it shows to devices, which trust edge/ca.pem",
        ),
        ("edge/", "what it shows to the registry and the service"),
    ] {
        put!(text, "  {:<28} {what}\n", at(name));
    }
    put!(
        text,
        "{dim}next: medbind check {bootstrap}; envoy -c {bootstrap}; \
         then curl http://{probes}/ready{dim:#}\n",
        bootstrap = at(BOOTSTRAP),
        probes = from_here(args.probes),
    );
    output::text(&text);
}

/// Where a program on this machine reaches what listens there.
fn from_here(mut address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() {
        address.set_ip(match address.ip() {
            IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        });
    }
    address
}

/// The shipped file for this edge.
fn fill(
    args: &EdgeInit,
    folder: &Path,
    registry: &Party,
    service: &Party,
    issuer: &str,
) -> Result<String, Failure> {
    let mut template = Template(SHIPPED.to_owned());
    head(&mut template, args)?;
    let mut indented = String::new();
    for line in issuer.lines() {
        put!(indented, "{:30}{line}\n", "");
    }
    template.between(
        "                            issuers:\n",
        "                            # accounts: begin\n",
        &indented,
    )?;
    let principals = "principals: [device, account]  # only devices: [device]";
    match &args.accounts {
        Some(accounts) => {
            template.fill(principals, "principals: [device, account]")?;
            template.fill(
                "issuer: https://login.example",
                &format!("issuer: {}", quoted(accounts)),
            )?;
        }
        None => template.fill(principals, "principals: [device]")?,
    }
    template.part("accounts", args.accounts.is_some());
    template.fill(
        r#"domains: ["edge.example", "edge.example:*"]"#,
        &format!(
            "domains: [{}, {}]",
            quoted(&args.name),
            quoted(&format!("{}:*", args.name))
        ),
    )?;
    template.cluster(("registry", 8443), registry)?;
    template.fill(
        "registry: &registry {cluster: registry, authority: registry}",
        &format!(
            "registry: &registry {{cluster: registry, authority: {}}}",
            quoted(&authority_of(registry))
        ),
    )?;
    template.cluster(("device-service", 9443), service)?;
    if args.service_ca.is_some() {
        // The second of the two: the first is the registry's.
        let mark = "    - name: device_service\n";
        let at = template.0.find(mark).unwrap_or(0);
        let (before, after) = template.0.split_at(at);
        let after = after.replace("/etc/medbind/edge/ca.pem", "/etc/medbind/service-ca.pem");
        template.0 = format!("{before}{after}");
    }
    for (shipped, here) in [
        (("0.0.0.0", 8443), args.listen),
        (("127.0.0.1", 8080), args.probes),
        (("127.0.0.1", 9901), args.admin),
    ] {
        template.address(shipped, &here.ip().to_string(), here.port())?;
    }
    template.0 = in_folder(&template.0, folder);
    Ok(template.0)
}

/// What the shipped file says of itself is said of this one.
fn head(template: &mut Template, args: &EdgeInit) -> Result<(), Failure> {
    template.between(
        "",
        "node: {",
        &format!(
            "# medbind in front of {service}: one Envoy with guard and synchroniser.\n\
             #\n\
             # Made by `medbind edge init` of medbind {version}, from envoy/http.yaml. Yours to change: the\n\
             # rules below are examples. `medbind check` says what it thinks of the result.\n\n",
            service = args.service,
            version = env!("CARGO_PKG_VERSION"),
        ),
    )?;
    template.fill(
        "node: {id: medbind-edge,",
        &format!("node: {{id: {},", quoted(&args.name)),
    )
}

/// Every file is looked for in `folder`. The paths stand in braces or at a line's end, and are
/// quoted, since a folder may hold what YAML reads as a sign.
fn in_folder(text: &str, folder: &Path) -> String {
    let mut filled = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once(SHIPPED_FOLDER) {
        let end = after.find(['}', ',', ' ', '\n']).unwrap_or(after.len());
        let (name, after) = after.split_at(end);
        let path = format!("{}{name}", folder.display());
        filled.push_str(before);
        filled.push_str(&quoted(&path));
        rest = after;
    }
    filled.push_str(rest);
    filled
}

fn authority_of(party: &Party) -> String {
    match party.ip() {
        Some(IpAddr::V6(ip)) => format!("[{ip}]:{}", party.port),
        Some(IpAddr::V4(_)) | None => format!("{}:{}", party.host, party.port),
    }
}

fn check_name(name: &str) -> Result<(), Failure> {
    let is_name = medbind_registry::pki::check_server_name(name).is_ok();
    if is_name && name.parse::<IpAddr>().is_err() {
        return Ok(());
    }
    Err(
        Failure::usage(format_args!("--name {name:?} is no DNS name"))
            .next("write it without scheme and port: edge.example"),
    )
}

/// Two parties on one machine cannot have one port.
fn check_ports(args: &EdgeInit, registry: &Party, service: &Party) -> Result<(), Failure> {
    let mut taken: Vec<(&str, u16)> = Vec::new();
    for (what, party) in [("--registry", registry), ("--service", service)] {
        if party.is_this_machine() {
            taken.push((what, party.port));
        }
    }
    for (what, address) in [
        ("--listen", args.listen),
        ("--probes", args.probes),
        ("--admin", args.admin),
    ] {
        if let Some((other, _)) = taken.iter().find(|(_, port)| *port == address.port()) {
            return Err(Failure::usage(format_args!(
                "{what} {address}: the port is that of {other}, on this machine"
            ))
            .next(format_args!("choose another port with {what}")));
        }
        taken.push((what, address.port()));
    }
    Ok(())
}

/// What the guard must know of the device CA; the certificate that signs devices; and the one
/// that Envoy trusts.
fn device_ca(args: &EdgeInit) -> Result<(Settings, String, String), Failure> {
    let given = source::parse(&args.sources)?;
    if args.device_ca.is_dir() {
        if args.namespace.is_some() || !given.is_empty() {
            return Err(Failure::usage(
                "--namespace and --source are for a certificate as --device-ca: the directory has \
                 its own",
            )
            .next("leave them out"));
        }
        let ca = DeviceCa::load(&args.device_ca)?;
        let issuing = ca.authority.certificate_pem().to_owned();
        let trusted = ca.root_pem.unwrap_or_else(|| issuing.clone());
        return Ok((ca.settings, issuing, trusted));
    }
    let pem = fs::read_to_string(&args.device_ca).map_err(|error| {
        Failure::unreadable(&args.device_ca, &error).next(
            "--device-ca is the directory of `medbind ca init`, or the certificate (PEM) of the CA \
             that signs your devices",
        )
    })?;
    let namespace = args.namespace.clone().ok_or_else(|| {
        Failure::usage("a certificate as --device-ca needs --namespace")
            .next("choose your name for its devices, as the acme of acme:SN1")
    })?;
    check_namespace(&namespace)
        .map_err(|error| Failure::usage(format_args!("--namespace {namespace:?}: {error}")))?;
    let identity = if given.is_empty() {
        vec![Source::SerialNumber]
    } else {
        given
    };
    let settings = Settings {
        namespace,
        identity,
    };
    Ok((settings, pem.clone(), pem))
}

/// One CA for both would let in every edge, operator and server of the infrastructure as a device.
fn two_cas(
    args: &EdgeInit,
    infrastructure: &CertificateAuthority,
    of_devices: &[&str],
) -> Result<(), Failure> {
    let key = infrastructure.issuer().key().subject_public_key_info();
    // What cannot be read is told of where it is needed.
    let one = of_devices
        .iter()
        .flat_map(|pem| CertificateDer::pem_slice_iter(pem.as_bytes()).flatten())
        .filter_map(|der| Certificate::from_der(&der).ok())
        .map(|certificate| {
            certificate
                .tbs_certificate()
                .subject_public_key_info()
                .to_der()
        })
        .any(|spki| spki.is_ok_and(|spki| spki == key));
    if one {
        return Err(Failure::usage(format_args!(
            "--infra-ca {} and --device-ca {} are one CA: what it signs for edges, operators and \
             servers would be let in as devices",
            args.infra_ca.display(),
            args.device_ca.display()
        ))
        .next("name the CA that signs your devices, and nothing else, with --device-ca"));
    }
    Ok(())
}

/// What Envoy cannot read as it starts would leave every device outside.
fn readable(args: &EdgeInit, trusted_pem: &str, crl: Option<&[u8]>) -> Result<(), Failure> {
    let cas = args.device_ca.display().to_string();
    let crl = crl.map(String::from_utf8_lossy);
    let from = args.crl.as_deref().unwrap_or(Path::new("")).display();
    let from = from.to_string();
    let lists = crl.as_deref().map(|text| (text, from.as_str()));
    for problem in trust::judge((trusted_pem, &cas), lists, true, &[]) {
        match problem.severity {
            Severity::Error => return Err(Failure::usage(problem.what).next(problem.mend)),
            Severity::Warning => output::warning(&problem.what),
        }
    }
    Ok(())
}

/// What no token can be verified with would keep Envoy from starting.
fn verifiable(args: &EdgeInit, jwks: Option<&[u8]>) -> Result<(), Failure> {
    let (Some(path), Some(jwks)) = (&args.jwks, jwks) else {
        return Ok(());
    };
    sign_in::judge(&String::from_utf8_lossy(jwks), &path.display().to_string())
        .map_err(|problem| Failure::usage(problem.what).next(problem.mend))
}

fn read_module(path: &Path) -> Result<Vec<u8>, Failure> {
    let build = "build it with `cargo xtask module`, and name it with --module";
    let octets = fs::read(path).map_err(|error| Failure::unreadable(path, &error).next(build))?;
    if octets.starts_with(MODULE_MAGIC) {
        Ok(octets)
    } else {
        Err(Failure::usage(format_args!("{} is no WebAssembly module", path.display())).next(build))
    }
}

fn optional(path: Option<&Path>) -> Result<Option<Vec<u8>>, Failure> {
    path.map(|path| fs::read(path).map_err(|error| Failure::unreadable(path, &error)))
        .transpose()
}

/// Envoy may be started anywhere: its files are named from the root.
fn absolute(dir: &Path) -> Result<PathBuf, Failure> {
    std::path::absolute(dir).map_err(|error| Failure::unwritable(dir, &error))
}
