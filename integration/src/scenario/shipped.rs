//! Do the configurations of `envoy/` work as they are shipped, and with the changes that they
//! themselves propose? Every file there is loaded by a real Envoy; the addresses, the folder of the
//! files and the issuer's PEM are put in, as its head says, and nothing else.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use medbind_core::deny::DenyCode;
use serde_json::Value;

use super::fleet::{ACCOUNT, CLASS, fleet};
use super::real::READY_LIMIT;
use super::registry::Registry;
use super::report::Report;
use super::story::{LIMIT, case, is_code, is_served, reading};
use super::{shipped_links, shipped_live, shipped_names, shipped_strangers, shipped_trust};
use crate::bootstrap::{Bootstrap, DEVICE_CA, SHIPPED_FOLDER, keep, remove, set, without};
use crate::certificate::{Identity, KeyKind, Spec};
use crate::client::{Ask, Protocol};
use crate::envoy::{Envoy, Options, get, validate};
use crate::site::Site;
use crate::token::{Algorithm, Token};
use crate::tools::{Tools, present, root};
use crate::upstream::Upstream;
use crate::wait::until;

/// The files that a scenario here loads.
const FILES: [&str; 2] = ["http.yaml", DEVICE_CA];

/// What a client writes as it likes, and some upstreams go by: `http.yaml` takes it away.
const HINTS: [&str; 40] = [
    "cf-connecting-ip",
    "fastly-client-ip",
    "forwarded",
    "remote-user",
    "true-client-ip",
    "x-amzn-oidc-data",
    "x-amzn-oidc-identity",
    "x-auth-request-email",
    "x-auth-request-user",
    "x-auth-user",
    "x-authenticated-user",
    "x-authenticated-userid",
    "x-client-ip",
    "x-client-trace-id",
    "x-cluster-client-ip",
    "x-envoy-original-dst-host",
    "x-envoy-peer-metadata",
    "x-envoy-peer-metadata-id",
    "x-forwarded-access-token",
    "x-forwarded-email",
    "x-forwarded-groups",
    "x-forwarded-host",
    "x-forwarded-port",
    "x-forwarded-preferred-username",
    "x-forwarded-prefix",
    "x-forwarded-scheme",
    "x-forwarded-server",
    "x-forwarded-ssl",
    "x-forwarded-user",
    "x-goog-authenticated-user-email",
    "x-host",
    "x-ms-client-principal",
    "x-ms-client-principal-id",
    "x-ms-client-principal-name",
    "x-original-forwarded-for",
    "x-original-host",
    "x-real-ip",
    "x-remote-groups",
    "x-remote-user",
    "x-webauth-user",
];

/// What the guard takes away by itself: it names path, method or certificate, or is medbind's own.
const RESERVED: [&str; 34] = [
    "client-cert",
    "client-cert-chain",
    "ssl-client-cert",
    "ssl-client-verify",
    "x-amzn-mtls-clientcert",
    "x-amzn-mtls-clientcert-serial-number",
    "x-arr-clientcert",
    "x-client-cert",
    "x-client-cert-dn",
    "x-client-certificate",
    "x-envoy-original-path",
    "x-forwarded-client-cert",
    "x-forwarded-method",
    "x-forwarded-path",
    "x-forwarded-ssl-client-cert",
    "x-forwarded-tls-client-cert",
    "x-forwarded-tls-client-cert-info",
    "x-forwarded-uri",
    "x-http-method",
    "x-http-method-override",
    "x-medbind",
    "x-medbind-account",
    "x-medbind-admin",
    "x-method-override",
    "x-original-method",
    "x-original-path",
    "x-original-uri",
    "x-original-url",
    "x-rewrite-url",
    "x-ssl-cert",
    "x-ssl-client-cert",
    "x-ssl-client-s-dn",
    "x-ssl-client-verify",
    "x-tls-client-cert",
];

/// What stands around an Envoy that loads a shipped file.
pub(super) struct Around {
    pub(super) site: Site,
    pub(super) registry: Registry,
    pub(super) upstream: Upstream,
    tools: Tools,
    pub(super) line: (u32, u32),
}

/// Runs them all.
pub async fn files(tools: &Tools, report: &mut Report, short: bool) {
    case!(
        report,
        "no file of envoy/ is left out",
        std::future::ready(none_is_left_out())
    );
    case!(
        report,
        "http.yaml is reached from other machines at its edge alone",
        std::future::ready(others_reach_the_edge_alone())
    );
    case!(
        report,
        "http.yaml takes no more connections than there are descriptors as operating.md reckons them",
        std::future::ready(descriptors_are_enough())
    );
    let names = VARIANTS.map(|variant| variant.name);
    let variants = names.iter().any(|name| report.wants(name));
    let mut stories = shipped_live::NAMES
        .iter()
        .chain(&shipped_links::NAMES)
        .chain(&shipped_names::NAMES)
        .chain(&shipped_strangers::NAMES)
        .chain(&shipped_trust::NAMES);
    let live = !short && stories.any(|name| report.wants(name));
    if !variants && !live {
        return;
    }
    report.begin();
    let mut around = match Around::set(tools).await {
        Ok(around) => around,
        Err(error) => return report.end("what a shipped file needs is set up", Err(error)),
    };
    for variant in VARIANTS {
        if around.line < variant.since {
            report.skip(variant.name, "this line of Envoy does not know it");
        } else if !short || variant.short {
            case!(report, variant.name, around.run(&variant));
        }
    }
    if live {
        shipped_live::cases(&mut around, report).await;
        Box::pin(shipped_links::cases(&mut around, report)).await;
        Box::pin(shipped_strangers::cases(&around, report)).await;
        Box::pin(shipped_names::cases(&around, report)).await;
        Box::pin(shipped_trust::cases(&around, report)).await;
    }
}

fn others_reach_the_edge_alone() -> Result<()> {
    let mut bootstrap = Bootstrap::shipped("http.yaml")?;
    let loopback = Some("127.0.0.1");
    let admin = bootstrap.value()["admin"]["address"]["socket_address"]["address"].as_str();
    ensure!(admin == loopback, "the admin page listens at {admin:?}");
    for (name, wanted) in [("probes", loopback), ("edge", Some("0.0.0.0"))] {
        let listener = bootstrap.listener(name)?;
        let address = listener["address"]["socket_address"]["address"].as_str();
        ensure!(address == wanted, "{name} listens at {address:?}");
    }
    Ok(())
}

/// What its own bounds let it open at once, besides some ten for each worker.
fn descriptors_are_enough() -> Result<()> {
    const TOLD: u64 = 65_536;
    let mut bootstrap = Bootstrap::shipped("http.yaml")?;
    let number = |value: &Value, pointer: &str| {
        let number = value.pointer(pointer).and_then(Value::as_u64);
        number.with_context(|| format!("no number at {pointer}"))
    };
    let mut most = number(
        bootstrap.value(),
        "/overload_manager/resource_monitors/0/typed_config/max_active_downstream_connections",
    )?;
    most += number(
        bootstrap.listener("probes")?,
        "/filter_chains/0/filters/0/typed_config/max_connections",
    )?;
    let clusters = bootstrap.value()["static_resources"]["clusters"].as_array();
    for cluster in clusters.context("no clusters")? {
        most += number(cluster, "/circuit_breakers/thresholds/0/max_connections")?;
    }
    ensure!(
        most + 1000 < TOLD,
        "{most} connections, of {TOLD} descriptors"
    );
    let told = std::fs::read_to_string(root().join("docs/operating.md"))?;
    let sum = format!("{},{:03}", most / 1000, most % 1000);
    for words in [&*sum, &format!("LimitNOFILE={TOLD}")] {
        ensure!(told.contains(words), "operating.md does not say {words}");
    }
    Ok(())
}

fn none_is_left_out() -> Result<()> {
    let there = std::fs::read_dir(root().join("envoy"))?
        .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
        .collect::<Result<BTreeSet<_>>>()?;
    let loaded = FILES.map(str::to_owned).into();
    ensure!(
        there == loaded,
        "envoy/ holds {there:?}, and {loaded:?} are loaded: integration/src/scenario/shipped.rs \
         has to load each"
    );
    Ok(())
}

/// A shipped file, perhaps with a change that it proposes itself.
struct Variant {
    name: &'static str,
    file: &'static str,
    /// Changes its text.
    change: fn(&str) -> Result<String>,
    /// Changes the text of `device-ca.yaml` beside it.
    trust: fn(&str) -> Result<String>,
    /// The certificate comes in `x-forwarded-client-cert`, whatever the line of Envoy.
    by_header: bool,
    then: Then,
    /// The first line of Envoy that takes it.
    since: (u32, u32),
    /// On every line of Envoy.
    short: bool,
}

/// What an Envoy with it does.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Then {
    /// All that the file as it is shipped does.
    Serves,
    /// It refuses whoever has no certificate in the handshake.
    RefusesInTheHandshake,
    /// The guard refuses strangers.
    RefusesStrangers,
    /// It serves devices with Ed25519 keys too.
    ServesEd25519,
    /// All that the file as it is shipped does, and Envoy warns of nothing that is to go away.
    ServesUnwarned,
    /// It serves devices, and knows no accounts.
    ServesNoAccounts,
    /// It synchronises, and listens to nobody.
    Synchronises,
}

const VARIANTS: [Variant; 9] = [
    Variant {
        name: "http.yaml as it is shipped is taken, and serves",
        file: "http.yaml",
        change: as_it_is,
        trust: as_it_is,
        by_header: false,
        then: Then::Serves,
        since: (1, 36),
        short: true,
    },
    Variant {
        name: "http.yaml with the certificate in x-forwarded-client-cert serves",
        file: "http.yaml",
        change: as_it_is,
        trust: as_it_is,
        by_header: true,
        then: Then::Serves,
        since: (1, 36),
        short: true,
    },
    Variant {
        name: "http.yaml with require_client_certificate refuses in the handshake",
        file: "http.yaml",
        change: |text| {
            replace(
                text,
                "require_client_certificate: false",
                "require_client_certificate: true",
            )
        },
        trust: as_it_is,
        by_header: false,
        then: Then::RefusesInTheHandshake,
        since: (1, 36),
        short: false,
    },
    Variant {
        name: "http.yaml with ACCEPT_UNTRUSTED leaves strangers to the guard",
        file: "http.yaml",
        change: |text| {
            replace(
                text,
                "trust_chain_verification: VERIFY_TRUST_CHAIN",
                "trust_chain_verification: ACCEPT_UNTRUSTED",
            )
        },
        trust: as_it_is,
        by_header: false,
        then: Then::RefusesStrangers,
        since: (1, 36),
        short: false,
    },
    Variant {
        name: "http.yaml with signature_algorithms serves devices with Ed25519 keys",
        file: "http.yaml",
        change: |text| uncommented(text, "signature_algorithms"),
        trust: as_it_is,
        by_header: false,
        then: Then::ServesEd25519,
        since: (1, 36),
        short: false,
    },
    Variant {
        name: "http.yaml with the capabilities in vm_config is taken without a warning",
        file: "http.yaml",
        change: capabilities_of_the_vm,
        trust: as_it_is,
        by_header: false,
        then: Then::ServesUnwarned,
        since: (1, 40),
        short: false,
    },
    Variant {
        name: "http.yaml without accounts serves devices",
        file: "http.yaml",
        change: |text| {
            let text = without(text, "accounts")?;
            replace(
                &text,
                "principals: [device, account]",
                "principals: [device]",
            )
        },
        trust: as_it_is,
        by_header: false,
        then: Then::ServesNoAccounts,
        since: (1, 36),
        short: false,
    },
    Variant {
        name: "http.yaml without revocation lists serves",
        file: "http.yaml",
        change: as_it_is,
        trust: |text| without(text, "crl"),
        by_header: false,
        then: Then::Serves,
        since: (1, 36),
        short: false,
    },
    Variant {
        name: "the part of http.yaml for the synchroniser synchronises alone",
        file: "http.yaml",
        change: as_it_is,
        trust: as_it_is,
        by_header: false,
        then: Then::Synchronises,
        since: (1, 36),
        short: false,
    },
];

#[expect(clippy::unnecessary_wraps, reason = "one of several changes")]
pub(super) fn as_it_is(text: &str) -> Result<String> {
    Ok(text.to_owned())
}

pub(super) fn replace(text: &str, from: &str, to: &str) -> Result<String> {
    ensure!(
        text.matches(from).count() == 1,
        "{from:?} is not there once"
    );
    Ok(text.replace(from, to))
}

/// As the comment beside it says for lines that hand the certificate over in no other way.
fn hand_over_in_the_header(text: &str) -> Result<String> {
    replace(
        text,
        "forward_client_cert_details: SANITIZE\n",
        "forward_client_cert_details: SANITIZE_SET\n                \
         set_current_client_cert_details: {cert: true}\n",
    )
}

/// The capabilities where Envoy 1.40 wants them.
fn capabilities_of_the_vm(text: &str) -> Result<String> {
    let mut bootstrap = Bootstrap::from_yaml(text)?;
    for plugin in bootstrap.plugins() {
        let list = plugin.get("capability_restriction_config").cloned();
        remove(plugin, "capability_restriction_config");
        let vm = plugin.get_mut("vm_config").context("no vm_config")?;
        let list = list.context("a plug-in that may do everything")?;
        set(vm, "capability_restriction_config", list)?;
    }
    bootstrap.to_json()
}

/// With the list of this name, which is commented out, brought in.
fn uncommented(text: &str, list: &str) -> Result<String> {
    let head = format!("# {list}:");
    let mut inside = false;
    let mut items = 0;
    let mut rest = String::new();
    for line in text.lines() {
        let comment = line.trim();
        inside = comment == head || inside && comment.starts_with("#   - ");
        if inside {
            items += 1;
            rest += &line.replacen("# ", "", 1);
        } else {
            rest += line;
        }
        rest.push('\n');
    }
    ensure!(items > 1, "no list {head:?}");
    Ok(rest)
}

/// The issuer's PEM in the place of the text that stands for it, indented as that is.
fn with_issuer(text: &str, pem: &str) -> Result<String> {
    const PLACE: &str = "-----BEGIN CERTIFICATE-----";
    let mut lines = text.lines();
    let mut filled = String::new();
    let mut places = 0;
    while let Some(line) = lines.next() {
        let indent = line.len() - line.trim_start().len();
        if line.trim() != PLACE {
            filled += line;
            filled.push('\n');
            continue;
        }
        places += 1;
        for line in pem.lines() {
            let _ = writeln!(filled, "{:indent$}{line}", "");
        }
        let end = lines.find(|line| line.trim() == "-----END CERTIFICATE-----");
        end.context("a certificate without end")?;
    }
    ensure!(places == 1, "{places} places for an issuer's certificate");
    Ok(filled)
}

impl Around {
    pub(super) async fn set(tools: &Tools) -> Result<Self> {
        let site = Site::new()?;
        let upstream = Upstream::start(&site.upstream_identity()?, &site.infra_ca).await?;
        let mut registry = Registry::start(tools).await?;
        registry.hold(&fleet()).await?;
        Ok(Self {
            line: tools.envoy_line()?,
            site,
            registry,
            upstream,
            tools: tools.clone(),
        })
    }

    /// The file as its head says to deploy it.
    fn deploy(&self, variant: &Variant) -> Result<Bootstrap> {
        let mut text = Bootstrap::shipped_text(variant.file)?;
        if variant.by_header || self.line < (1, 38) {
            text = hand_over_in_the_header(&text)?;
        }
        if variant.by_header {
            text = replace(
                &text,
                "mode: enforce\n",
                "mode: enforce\n                            \
                 certificate_source: forwarded_header\n",
            )?;
        }
        text = with_issuer(&text, &self.site.device_ca.pem())?;
        text = (variant.change)(&text)?;
        let trust = Bootstrap::shipped_for(DEVICE_CA, self.site.folder())?;
        self.site.write(DEVICE_CA, &(variant.trust)(&trust)?)?;
        ensure!(
            text.contains(SHIPPED_FOLDER),
            "no files in {SHIPPED_FOLDER}"
        );
        let mut bootstrap = Bootstrap::from_yaml(&text)?;
        let module = present(&self.tools.module, "cargo xtask module")?;
        bootstrap.put_to(self.site.folder(), module)?;
        bootstrap.send_to("registry", self.registry.address())?;
        bootstrap.send_service_to(self.upstream.address())?;
        self.registry.trust(&mut bootstrap)?;
        if variant.then == Then::Synchronises {
            keep(
                bootstrap.value_mut(),
                &[
                    "node",
                    "admin",
                    "stats_config",
                    "bootstrap_extensions",
                    "static_resources",
                ],
            );
            let resources = bootstrap.value_mut().get_mut("static_resources");
            let resources = resources.context("no static_resources")?;
            keep(resources, &["clusters"]);
            let clusters = resources
                .get_mut("clusters")
                .and_then(|list| list.as_array_mut());
            clusters
                .context("no clusters")?
                .retain(|cluster| cluster["name"] == "registry");
        }
        Ok(bootstrap)
    }

    fn binary(&self) -> Result<&Path> {
        present(&self.tools.envoy, "cargo xtask envoy")
    }

    /// An Envoy with `http.yaml` in which this is changed, ready; then its bootstrap is changed by
    /// `equip`.
    pub(super) async fn start(
        &self,
        change: fn(&str) -> Result<String>,
        equip: impl FnOnce(&mut Bootstrap) -> Result<()>,
    ) -> Result<Envoy> {
        self.start_with(&Options::default(), change, equip).await
    }

    /// The same, run in this way.
    pub(super) async fn start_with(
        &self,
        options: &Options,
        change: fn(&str) -> Result<String>,
        equip: impl FnOnce(&mut Bootstrap) -> Result<()>,
    ) -> Result<Envoy> {
        let mut envoy = self.begin(options, change, equip).await?;
        ready(&mut envoy).await?;
        Ok(envoy)
    }

    /// The same, live, and perhaps not ready.
    pub(super) async fn begin(
        &self,
        options: &Options,
        change: fn(&str) -> Result<String>,
        equip: impl FnOnce(&mut Bootstrap) -> Result<()>,
    ) -> Result<Envoy> {
        let mut bootstrap = self.deploy(&Variant {
            name: "",
            file: "http.yaml",
            change,
            trust: as_it_is,
            by_header: false,
            then: Then::Serves,
            since: (1, 36),
            short: false,
        })?;
        equip(&mut bootstrap)?;
        let folder = self.site.folder();
        Envoy::start(self.binary()?, &bootstrap, folder, options).await
    }

    async fn run(&self, variant: &Variant) -> Result<()> {
        let bootstrap = self.deploy(variant)?;
        let binary = self.binary()?;
        let folder = self.site.folder();
        let said = validate(binary, &bootstrap, folder)?;
        let warned = said.contains("Deprecated field");
        ensure!(
            variant.then != Then::ServesUnwarned || !warned,
            "Envoy warns:\n{said}"
        );
        let mut envoy = Envoy::start(binary, &bootstrap, folder, &Options::default()).await?;
        if variant.then == Then::Synchronises {
            return synchronises(&mut envoy).await;
        }
        ready(&mut envoy).await?;
        let (alive, _) = get(envoy.listener("probes")?, "/live").await?;
        ensure!(alive == 200, "/live answers {alive}");
        self.serves(envoy.listener("edge")?, variant.then).await?;
        if variant.then == Then::RefusesInTheHandshake {
            let counter = "envoy_listener_ssl_fail_verify_no_cert";
            let count = envoy.metric(counter, &[]).await?;
            ensure!(count > 0.5, "{counter} is {count}");
        }
        Ok(())
    }

    /// What the device service behind it sees, and what it does not.
    async fn serves(&self, edge: SocketAddr, then: Then) -> Result<()> {
        let client = |identity: Option<&Identity>| self.site.client(edge, identity);
        let device = |serial: &str| {
            let identity = self.site.device_ca.issue(&Spec::device(serial))?;
            client(Some(&identity))
        };
        let hints = HINTS.iter().chain(&RESERVED);
        let ask = hints.clone().fold(reading("SN-A"), |ask, name| {
            ask.header(name, "victim.example")
        });
        let answer = device("SN-A")?.send(&ask).await?;
        is_served(&answer)?;
        let saw = answer.saw().context("the upstream did not see it")?;
        let tags = ["device", "account", "class", "epoch", "traffic"]
            .map(|tag| saw.one(&format!("x-medbind-{tag}")));
        let wanted = ["acme:SN-A", ACCOUNT, CLASS, "1", "phi"].map(Some);
        ensure!(tags == wanted, "the upstream saw {tags:?}");
        let believed = |fields: &[(String, String)]| {
            let forged = fields.iter().filter(|(_, value)| value == "victim.example");
            forged.map(|(name, _)| name.clone()).collect::<Vec<_>>()
        };
        let seen = believed(&saw.headers);
        ensure!(seen.is_empty(), "the upstream saw {seen:?}");
        let forwarded = saw.all("x-forwarded-client-cert");
        ensure!(forwarded.is_empty(), "the upstream saw {forwarded:?}");
        let ask = hints.fold(reading("SN-A"), |ask, name| {
            ask.trailer(name, "victim.example")
        });
        let ask = ask.trailer("x-checksum", "1");
        let second = device("SN-A")?.with_protocol(Protocol::Http2);
        let answer = second.send(&ask).await?;
        is_served(&answer)?;
        let saw = answer.saw().context("the upstream did not see it")?;
        let trailers = [("x-checksum".to_owned(), "1".to_owned())];
        ensure!(
            saw.trailers == trailers,
            "the upstream saw the trailers {:?}",
            saw.trailers
        );
        let revoked = device("SN-REVOKED")?.send(&reading("SN-REVOKED")).await?;
        is_code(&revoked, DenyCode::BindingRevoked)?;

        let modern = Spec {
            key: KeyKind::Ed25519,
            ..Spec::device("SN-A")
        };
        let modern = self.site.device_ca.issue(&modern)?;
        let modern = client(Some(&modern))?.send(&reading("SN-A")).await;
        match then {
            Then::ServesEd25519 => is_served(&modern?)?,
            Then::RefusesInTheHandshake => {
                ensure!(modern.is_err(), "an Ed25519 key was taken");
            }
            Then::Serves
            | Then::ServesUnwarned
            | Then::RefusesStrangers
            | Then::ServesNoAccounts
            | Then::Synchronises => {
                is_code(&modern?, DenyCode::NoPeerCertificate)?;
            }
        }

        let stranger = self.site.stranger_ca.issue(&Spec::device("SN-A"))?;
        let stranger = client(Some(&stranger))?.send(&reading("SN-A")).await;
        if then == Then::RefusesStrangers {
            is_code(&stranger?, DenyCode::UnknownIssuer)?;
        } else {
            ensure!(stranger.is_err(), "a stranger's handshake came about");
        }

        let nobody = client(None)?;
        let anonymous = nobody.send(&reading("SN-A")).await;
        if then == Then::RefusesInTheHandshake {
            ensure!(
                anonymous.is_err(),
                "a handshake without certificate came about"
            );
            return Ok(());
        }
        is_code(&anonymous?, DenyCode::NoPeerCertificate)?;
        is_served(&nobody.send(&Ask::get("/healthz")).await?)?;

        let token = self.site.tokens.token(Token {
            subject: ACCOUNT,
            algorithm: Algorithm::EdDsa,
            flaw: None,
        })?;
        let history = Ask::get("/v1/devices/acme:SN-A/history");
        let history = history.header("authorization", &format!("Bearer {token}"));
        let person = nobody.send(&history).await?;
        if then == Then::ServesNoAccounts {
            return is_code(&person, DenyCode::NoPeerCertificate);
        }
        is_served(&person)
    }
}

async fn ready(envoy: &mut Envoy) -> Result<()> {
    let probes = envoy.listener("probes")?;
    let ready = until("it is ready", READY_LIMIT, || async {
        let (status, _) = get(probes, "/ready").await.ok()?;
        (status == 200).then_some(())
    });
    envoy.process.meanwhile(ready).await?;
    Ok(())
}

async fn synchronises(envoy: &mut Envoy) -> Result<()> {
    let devices = fleet().len();
    let said = envoy.process.stderr.clone();
    let line = format!("the registry has been read: {devices} devices");
    let read = until(&line, LIMIT, || async { said.find(&line) });
    envoy.process.meanwhile(read).await?;
    Ok(())
}
