//! The story across containers: every part in its own, on networks that are cut so that the
//! device service is reached through the guard alone.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::process::{Command, ExitCode, Output, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use clap::{Parser, Subcommand};
use medbind_integration::bootstrap::{Bootstrap, DEVICE_CA, set, without};
use medbind_integration::certificate::{Authority, Spec};
use medbind_integration::ending;
use medbind_integration::site::EDGE;
use medbind_integration::token::TokenIssuer;
use medbind_integration::tools::{Tools, present, root};
use medbind_integration::wait;
use medbind_registry::pki::{CertificateAuthority, LEAF_VALIDITY, Purpose};
use medbind_workshop::progress;
use serde_json::{Value, json};
use tokio::runtime::Runtime;
use tokio::sync::watch;

/// How long known devices are served without a registry, here: short, so that the story is, and long
/// enough for a machine that is busy to ask in the meantime.
const MAX_STALE: Duration = Duration::from_secs(15);
/// When the story gives up on something.
const LIMIT: Duration = Duration::from_mins(1);
/// The services of `docker-compose.yml`.
const SERVICES: [&str; 4] = ["registry", "device-service", "edge", "device"];
/// How many of a container's last lines are shown where it is not well.
const LAST_LINES: &str = "20";
/// The network of the edge and the device service.
const SERVICES_NETWORK: &str = "services";

#[derive(Parser)]
#[command(about)]
struct Cli {
    /// Where the images' programs and this run's certificates go
    #[arg(long)]
    folder: PathBuf,
    /// The base image
    #[arg(long)]
    base: String,
    /// Compose is a plug-in of docker, not a program of its own
    #[arg(long)]
    plugin: bool,
    #[command(subcommand)]
    action: Action,
}

#[derive(Clone, Copy, PartialEq, Eq, Subcommand)]
enum Action {
    /// Start it, and leave it running
    Up,
    /// Tell the story across it, and take it down
    Test,
    /// Take it down
    Down,
}

impl Action {
    /// The project: a test takes down what belongs to it, and not what somebody has running.
    const fn project(self) -> &'static str {
        match self {
            Self::Up | Self::Down => "medbind",
            Self::Test => "medbind-test",
        }
    }

    /// The ports of this machine at which registry and edge are published.
    fn ports(self) -> Result<[u16; 2]> {
        match self {
            Self::Up | Self::Down => Ok([18443, 18444]),
            Self::Test => {
                // Held both, so that they differ.
                let free = [
                    TcpListener::bind("127.0.0.1:0")?,
                    TcpListener::bind("127.0.0.1:0")?,
                ];
                let [registry, edge] = free.each_ref().map(TcpListener::local_addr);
                Ok([registry?.port(), edge?.port()])
            }
        }
    }
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(&cli) {
        Ok(None) => ExitCode::SUCCESS,
        Ok(Some(told)) => ExitCode::from(told),
        Err(error) => {
            progress::report(&error);
            ExitCode::FAILURE
        }
    }
}

/// Gives the exit status of who was told to end in the middle, where that is so: then nothing is
/// left running.
fn run(cli: &Cli) -> Result<Option<u8>> {
    let stack = Stack::new(cli)?;
    stack.down()?;
    let done = match cli.action {
        Action::Down => return Ok(None),
        Action::Up => stack.start(),
        Action::Test => stack.start().and_then(|()| tell(&stack)),
    };
    let told = stack.told();
    if told.is_some() {
        progress::say("taking it down");
    } else if done.is_err() {
        stack.report();
    }
    let [_, edge] = stack.ports;
    if cli.action == Action::Test || told.is_some() {
        stack.down()?;
    } else if done.is_ok() {
        println!(
            "the edge listens on https://127.0.0.1:{edge}, the registry on {}",
            stack.registry()
        );
        println!(
            "operator's credentials: {}",
            stack.site("registry/operator").display()
        );
        println!("take it down with: cargo xtask compose down");
    }
    if told.is_none() {
        done?;
    }
    Ok(told)
}

struct Stack {
    folder: PathBuf,
    project: &'static str,
    ports: [u16; 2],
    base: String,
    plugin: bool,
    tools: Tools,
    user: String,
    runtime: Runtime,
    /// The exit status of who was told to end.
    told: watch::Receiver<Option<u8>>,
}

impl Stack {
    fn new(cli: &Cli) -> Result<Self> {
        let project = cli.action.project();
        let folder = cli.folder.join(project);
        // Compose wants its build context to be there whatever it is asked to do.
        fs::create_dir_all(folder.join("context"))?;
        let folder = folder.canonicalize()?;
        let owner = fs::metadata(&folder)?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()?;
        let (tell, told) = watch::channel(None);
        runtime.spawn(async move { tell.send(Some(ending::told().await)) });
        Ok(Self {
            user: format!("{}:{}", owner.uid(), owner.gid()),
            folder,
            project,
            ports: cli.action.ports()?,
            base: cli.base.clone(),
            plugin: cli.plugin,
            tools: Tools::find()?,
            runtime,
            told,
        })
    }

    /// The exit status of who was told to end.
    fn told(&self) -> Option<u8> {
        *self.told.borrow()
    }

    /// What a program says. It is ended where we are told to end, and none is started after that.
    fn output(&self, command: Command) -> Result<Output> {
        let name = format!("{command:?}");
        let mut command = tokio::process::Command::from(command);
        command.stdin(Stdio::null()).kill_on_drop(true);
        let mut told = self.told.clone();
        self.runtime.block_on(async {
            tokio::select! {
                biased;
                _ = told.wait_for(Option::is_some) => bail!("told to end"),
                output = command.output() => output.with_context(|| format!("cannot run {name}")),
            }
        })
    }

    /// What a program says that is to end well.
    fn said(&self, command: Command) -> Result<String> {
        let name = format!("{command:?}");
        well(&name, &self.output(command)?)
    }

    /// Where the registry is published.
    fn registry(&self) -> String {
        let [registry, _] = self.ports;
        format!("https://localhost:{registry}")
    }

    fn site(&self, name: &str) -> PathBuf {
        self.folder.join("site").join(name)
    }

    fn compose(&self, arguments: &[&str]) -> Command {
        let [registry, edge] = self.ports;
        let mut command = if self.plugin {
            let mut command = Command::new("docker");
            command.arg("compose");
            command
        } else {
            let mut command = Command::new("docker-compose");
            // The classic builder: the old Compose needs it where BuildKit is absent.
            command
                .env("DOCKER_BUILDKIT", "0")
                .env("COMPOSE_DOCKER_CLI_BUILD", "0");
            command
        };
        command
            .args(["--project-name", self.project, "--file"])
            .arg(root().join("integration/docker-compose.yml"))
            .args(arguments)
            .env("MEDBIND_CONTEXT", self.folder.join("context"))
            .env("MEDBIND_SITE", self.folder.join("site"))
            .env("MEDBIND_BASE", &self.base)
            .env("MEDBIND_USER", &self.user)
            .env("MEDBIND_REGISTRY_PORT", registry.to_string())
            .env("MEDBIND_EDGE_PORT", edge.to_string());
        command
    }

    /// Takes it down, also where we are told to end.
    fn down(&self) -> Result<()> {
        let mut down = self.compose(&["down", "--volumes", "--remove-orphans", "--timeout", "2"]);
        let output = down.stdin(Stdio::null()).output();
        well(&format!("{down:?}"), &output.context("cannot run Compose")?).map(drop)
    }

    /// Puts the programs where the images are built from.
    fn stage(&self) -> Result<()> {
        let context = self.folder.join("context");
        fs::create_dir_all(&context)?;
        let party = std::env::current_exe()?.with_file_name("medbind-party");
        for (from, name) in [
            (
                present(&self.tools.command, "cargo xtask compose")?,
                "medbind",
            ),
            (present(&party, "cargo xtask compose")?, "medbind-party"),
            (present(&self.tools.envoy, "cargo xtask envoy")?, "envoy"),
            (
                present(&self.tools.module, "cargo xtask module")?,
                "medbind.wasm",
            ),
            (&root().join("integration/compose/Dockerfile"), "Dockerfile"),
        ] {
            fs::copy(from, context.join(name))
                .with_context(|| format!("cannot copy {}", from.display()))?;
        }
        Ok(())
    }

    fn write(&self, name: &str, text: &str) -> Result<()> {
        let path = self.site(name);
        fs::create_dir_all(path.parent().context("no parent")?)?;
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
    }

    fn start(&self) -> Result<()> {
        progress::say("building the images");
        self.stage()?;
        let site = self.folder.join("site");
        if site.exists() {
            fs::remove_dir_all(&site)?;
        }
        for name in ["registry", "edge", "device-service", "devices"] {
            fs::create_dir_all(self.site(name))?;
        }
        self.said(self.compose(&["build"]))?;
        progress::say("starting the registry, which makes the infrastructure's certificates");
        self.said(self.compose(&["up", "--detach", "registry"]))?;
        self.until_healthy("registry")?;
        self.prepare()?;
        progress::say("starting the edge, the device service and a device");
        self.said(self.compose(&["up", "--detach"]))?;
        self.until_healthy("edge")
    }

    /// Device CA, devices, and what edge and device service need.
    fn prepare(&self) -> Result<()> {
        let ca = self.folder.join("site/device-ca");
        self.medbind(&["ca", "init", &ca.to_string_lossy(), "--namespace", "acme"])?;
        let device_ca = fs::read_to_string(ca.join("cert.pem"))?;
        let infra = CertificateAuthority::load(&self.site("registry/infra-ca"))?;
        let now = medbind_core::time::Timestamp::from_unix_seconds(
            medbind_integration::certificate::now_seconds(),
        );
        for (folder, name) in [("edge/server", EDGE), ("device-service", "device-service")] {
            let credentials =
                infra.issue(&Purpose::Server(vec![name.to_owned()]), now, LEAF_VALIDITY)?;
            self.write(&format!("{folder}/cert.pem"), &credentials.certificate_pem)?;
            self.write(&format!("{folder}/key.pem"), credentials.key_pem.expose())?;
            self.write(&format!("{folder}/ca.pem"), &credentials.ca_pem)?;
        }
        // The last three for what must not help: a device that has got hold of the edge's, and
        // others of the infrastructure's CA.
        for (from, to) in [
            ("registry/edge", "edge/edge"),
            ("registry/edge", "devices/edge"),
            ("registry/operator", "edge/operator"),
            ("device-service", "edge/service"),
        ] {
            for file in ["cert.pem", "key.pem", "ca.pem"] {
                let text = fs::read_to_string(self.site(from).join(file))?;
                self.write(&format!("{to}/{file}"), &text)?;
            }
        }
        self.write("edge/device-ca.pem", &device_ca)?;
        // No list of revoked certificates in this story.
        let trust = without(&Bootstrap::shipped_text(DEVICE_CA)?, "crl")?;
        self.write(&format!("edge/{DEVICE_CA}"), &trust)?;
        self.write("edge/jwks.json", &TokenIssuer::new()?.key_set())?;
        self.write("devices/server-ca.pem", infra.certificate_pem())?;
        self.write("edge/envoy.json", &bootstrap(&device_ca)?.to_json()?)?;
        let stranger = Authority::new("Stranger")?.issue(&Spec::device("SN-A"))?;
        self.write("devices/stranger/cert.pem", &stranger.pem())?;
        self.write("devices/stranger/key.pem", &stranger.key_pem())
    }

    fn until_healthy(&self, service: &str) -> Result<()> {
        wait::blocking(
            &format!("{service} is healthy"),
            Duration::from_mins(1),
            || {
                let state = self.inspect(service)?["State"].take();
                ensure!(
                    matches!(state["Status"].as_str(), Some("created" | "running")),
                    "the container is {}, with exit status {}",
                    state["Status"],
                    state["ExitCode"]
                );
                Ok(state["Health"]["Status"] == "healthy")
            },
        )
    }

    /// What docker knows of a service's container.
    fn inspect(&self, service: &str) -> Result<Value> {
        let id = self.container(service)?;
        let inspected = self.docker(&["inspect", &id])?;
        let mut inspected: Value = serde_json::from_str(&inspected)?;
        Ok(inspected[0].take())
    }

    fn docker(&self, arguments: &[&str]) -> Result<String> {
        let mut docker = Command::new("docker");
        docker.args(arguments);
        self.said(docker)
    }

    fn container(&self, service: &str) -> Result<String> {
        let ids = self.said(self.compose(&["ps", "--all", "--quiet", service]))?;
        let id = ids.lines().next();
        Ok(id
            .with_context(|| format!("{service} has no container"))?
            .to_owned())
    }

    /// Shows how each service is.
    fn report(&self) {
        for service in SERVICES {
            self.report_one(service);
        }
    }

    /// Shows how a service is: its state, what its last health check said, its last lines.
    fn report_one(&self, service: &str) {
        let Ok(inspected) = self.inspect(service) else {
            anstream::eprintln!("\x1b[1m{service}\x1b[0m has no container");
            return;
        };
        let state = &inspected["State"];
        anstream::eprintln!(
            "\x1b[1m{service}\x1b[0m is {}, exit status {}",
            state["Status"].as_str().unwrap_or("?"),
            state["ExitCode"]
        );
        let checks = state["Health"]["Log"].as_array();
        if let Some(last) = checks.and_then(|checks| checks.last()) {
            let words = inspected["Config"]["Healthcheck"]["Test"].as_array();
            let words = words.into_iter().flatten().filter_map(Value::as_str);
            anstream::eprintln!(
                "  health check: {}\n    exit status {}: {}",
                words.skip(1).collect::<Vec<_>>().join(" "),
                last["ExitCode"],
                last["Output"].as_str().unwrap_or_default().trim()
            );
        }
        let logs = self.container(service).and_then(|id| {
            let mut logs = Command::new("docker");
            Ok(logs.args(["logs", "--tail", LAST_LINES, &id]).output()?)
        });
        if let Ok(logs) = logs {
            let said = [logs.stdout, logs.stderr].concat();
            anstream::eprintln!("  its last lines:");
            for line in String::from_utf8_lossy(&said).lines() {
                anstream::eprintln!("    {line}");
            }
        }
    }

    /// The operator's command, from this machine.
    fn medbind(&self, arguments: &[&str]) -> Result<Value> {
        let mut command = Command::new(&self.tools.command);
        command
            .arg("--json")
            .args(arguments)
            .env("MEDBIND_REGISTRY", self.registry())
            .env("MEDBIND_CREDENTIALS", self.site("registry/operator"));
        let said = self.said(command)?;
        Ok(serde_json::from_str(said.lines().last().unwrap_or("null")).unwrap_or(Value::Null))
    }

    /// What a device gets for an answer: status and body; status 0 where the handshake failed.
    fn ask(&self, who: Option<&str>, path: &str, more: &[&str]) -> Result<(u64, Value)> {
        let mut arguments = vec!["exec", "-T", "device", "medbind-party", "ask"];
        let url = format!("https://{EDGE}:8443{path}");
        arguments.extend([url.as_str(), "--method", "POST", "--to", "edge:8443"]);
        arguments.extend(["--ca", "/devices/server-ca.pem"]);
        let certificate = who
            .map(|who| format!("/devices/{who}/cert.pem"))
            .unwrap_or_default();
        let key = who
            .map(|who| format!("/devices/{who}/key.pem"))
            .unwrap_or_default();
        if who.is_some() {
            arguments.extend(["--certificate", &certificate, "--key", &key]);
        }
        arguments.extend(more);
        let output = self.output(self.compose(&arguments))?;
        if output.status.code() == Some(2) {
            return Ok((0, Value::Null));
        }
        let answer: Value = serde_json::from_slice(&output.stdout).with_context(|| {
            format!(
                "no answer: {}",
                String::from_utf8_lossy(&output.stderr).trim()
            )
        })?;
        Ok((
            answer["status"].as_u64().unwrap_or(0),
            answer["body"].clone(),
        ))
    }
}

/// `envoy/http.yaml` as it is shipped, with this run's issuer, and a short `max_stale`.
fn bootstrap(device_ca: &str) -> Result<Bootstrap> {
    let mut bootstrap = Bootstrap::shipped("http.yaml")?;
    let guard = bootstrap.guard("edge")?;
    let issuer = guard.pointer_mut("/issuers/0").context("no issuer")?;
    set(issuer, "certificates", json!([device_ca]))?;
    let max_stale = json!(format!("{}s", MAX_STALE.as_secs()));
    set(guard, "bindings", json!({"max_stale": max_stale}))?;
    set(
        bootstrap
            .synchroniser()?
            .get_mut("bindings")
            .context("no bindings")?,
        "max_stale",
        max_stale,
    )?;
    for plugin in bootstrap.plugins() {
        if let Some(file) = plugin.pointer_mut("/vm_config/code/local/filename") {
            *file = json!("/usr/local/share/medbind/medbind.wasm");
        }
    }
    Ok(bootstrap)
}

/// Counts what held and what did not.
#[derive(Default)]
struct Told {
    passed: u32,
    failed: u32,
}

impl Told {
    fn check(&mut self, what: &str, holds: Result<()>) {
        match holds {
            Ok(()) => {
                self.passed += 1;
                anstream::println!("  \x1b[32mok\x1b[0m    {what}");
            }
            Err(error) => {
                self.failed += 1;
                anstream::println!("  \x1b[31mFAILED\x1b[0m {what}: {error:#}");
            }
        }
    }
}

struct Device {
    name: String,
    code: String,
    secret: String,
}

impl Device {
    fn path(&self) -> String {
        format!("/v1/devices/{}/readings", self.name)
    }
}

fn provision(stack: &Stack, serial: &str) -> Result<Device> {
    let (ca, out) = (
        stack.folder.join("site/device-ca"),
        stack.folder.join("site/made"),
    );
    let made = stack.medbind(&[
        "provision",
        "--ca",
        &ca.to_string_lossy(),
        "--serial",
        serial,
        "--class",
        "cgm",
        "--portal",
        "https://portal.example",
        "--out",
        &out.to_string_lossy(),
    ])?;
    let field = |name: &str| -> Result<String> {
        Ok(made[name]
            .as_str()
            .with_context(|| format!("provision said no {name}"))?
            .to_owned())
    };
    stack.medbind(&["enrol", &field("enrol")?])?;
    hand_over(stack, serial, &made)?;
    Ok(Device {
        name: field("device")?,
        code: field("code")?,
        secret: field("secret")?,
    })
}

/// Gives the device what it was provisioned with.
fn hand_over(stack: &Stack, serial: &str, made: &Value) -> Result<()> {
    for (field, file) in [("certificate", "cert.pem"), ("key", "key.pem")] {
        let from = made[field].as_str().context("provision made no file")?;
        stack.write(
            &format!("devices/{serial}/{file}"),
            &fs::read_to_string(from)?,
        )?;
    }
    Ok(())
}

#[expect(clippy::too_many_lines, reason = "one story, told from top to bottom")]
fn tell(stack: &Stack) -> Result<()> {
    let mut told = Told::default();
    let (a, b) = (provision(stack, "SN-A")?, provision(stack, "SN-B")?);
    let refused = |who: Option<&str>, path: &str, status: u64, code: &str| {
        until(&format!("{status} {code}"), || {
            let (got, body) = stack.ask(who, path, &[])?;
            Ok(got == status && body["code"] == code)
        })
    };
    let served = |who: &str, device: &Device| {
        until("200", || {
            Ok(stack.ask(Some(who), &device.path(), &[])?.0 == 200)
        })
    };

    told.check(
        "no certificate: no_peer_certificate",
        refused(None, &a.path(), 401, "no_peer_certificate"),
    );
    told.check("a stranger's certificate: refused in the handshake", {
        let answer = stack.ask(Some("stranger"), &a.path(), &[])?;
        expect(answer.0 == 0, || format!("{answer:?}"))
    });
    told.check(
        "not claimed: device_unclaimed",
        refused(Some("SN-A"), &a.path(), 403, "device_unclaimed"),
    );
    for (device, account) in [(&a, "acc-1"), (&b, "acc-2")] {
        stack.medbind(&[
            "claim",
            "--code",
            &device.code,
            "--secret",
            &device.secret,
            "--account",
            account,
        ])?;
    }
    told.check("claimed: served", served("SN-A", &a));
    told.check("tagged, and a forged tag does not arrive", {
        let (status, saw) =
            stack.ask(Some("SN-A"), &a.path(), &["--header", "x-medbind-account: victim"])?;
        let tags = tags(&saw);
        let expected = json!({
            "x-medbind-principal": ["device"], "x-medbind-device": [a.name], "x-medbind-account": ["acc-1"],
            "x-medbind-class": ["cgm"], "x-medbind-epoch": ["1"], "x-medbind-traffic": ["phi"],
        });
        expect(status == 200 && tags == expected, || format!("{status} {tags}"))
    });
    told.check(
        "another device's path: not_permitted",
        refused(Some("SN-A"), &b.path(), 403, "not_permitted"),
    );
    let (ca, out) = (
        stack.folder.join("site/device-ca"),
        stack.folder.join("site/renewed"),
    );
    let renewed = stack.medbind(&[
        "provision",
        "--renew",
        "--ca",
        &ca.to_string_lossy(),
        "--serial",
        "SN-A",
        "--out",
        &out.to_string_lossy(),
    ])?;
    hand_over(stack, "SN-A", &renewed)?;
    told.check("renewed, with a new key: served", served("SN-A", &a));
    stack.medbind(&["suspend", &a.name])?;
    told.check(
        "suspended: binding_suspended",
        refused(Some("SN-A"), &a.path(), 403, "binding_suspended"),
    );
    stack.medbind(&["resume", &a.name])?;
    told.check("resumed: served", served("SN-A", &a));
    stack.medbind(&["revoke", &a.name, "--yes"])?;
    told.check(
        "revoked: binding_revoked",
        refused(Some("SN-A"), &a.path(), 403, "binding_revoked"),
    );
    told.check(
        "the device service lets edges in, and nobody else of its CA",
        edges_alone(stack),
    );
    told.check(
        "the device cannot reach the device service past the guard, whatever it shows",
        no_way_past(stack),
    );
    for (what, port) in [("probes", 8080), ("admin page", 9901)] {
        told.check(
            &format!("the device cannot reach the edge's {what}"),
            keeps_to_itself(stack, port),
        );
    }
    stack.said(stack.compose(&["kill", "registry"]))?;
    told.check(
        "the registry is dead: a known device is served",
        served("SN-B", &b),
    );
    told.check(
        "longer than max_stale: bindings_stale",
        refused(Some("SN-B"), &b.path(), 503, "bindings_stale"),
    );
    stack.said(stack.compose(&["start", "registry"]))?;
    told.check("the registry is back: served", served("SN-B", &b));
    told.check(
        "revoked stays revoked",
        refused(Some("SN-A"), &a.path(), 403, "binding_revoked"),
    );

    println!("{} passed, {} failed", told.passed, told.failed);
    ensure!(
        told.failed == 0,
        "{} of the story did not hold",
        told.failed
    );
    Ok(())
}

/// Asks the device service itself, from a service's container, with these credentials.
fn ask_past(stack: &Stack, from: &str, to: &str, credentials: &str) -> Result<Output> {
    let (certificate, key) = (
        format!("{credentials}/cert.pem"),
        format!("{credentials}/key.pem"),
    );
    stack.output(stack.compose(&[
        "exec",
        "-T",
        from,
        "medbind-party",
        "ask",
        "https://device-service:9443/",
        "--to",
        to,
        "--ca",
        &format!("{credentials}/ca.pem"),
        "--certificate",
        &certificate,
        "--key",
        &key,
    ]))
}

fn edges_alone(stack: &Stack) -> Result<()> {
    let to = "device-service:9443";
    let edge = ask_past(stack, "edge", to, "/etc/medbind/edge")?;
    expect(edge.status.success(), || format!("the edge: {edge:?}"))?;
    for other in ["service", "operator"] {
        let refused = ask_past(stack, "edge", to, &format!("/etc/medbind/{other}"))?;
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        // Refused by who was reached.
        expect(
            refused.status.code() == Some(2) && !said.contains("(Connect)"),
            || format!("the {other}: {refused:?}"),
        )?;
    }
    Ok(())
}

/// With the edge's own credentials in hand and the service's address: so it is the network that
/// keeps it away. That the same call is served once the device is on the other network shows that.
fn no_way_past(stack: &Stack) -> Result<()> {
    let network = format!("{}_{SERVICES_NETWORK}", stack.project);
    let service = stack.inspect("device-service")?;
    let address = service["NetworkSettings"]["Networks"][&network]["IPAddress"].as_str();
    let address = format!("{}:9443", address.context("the service has no address")?);
    let device = stack.container("device")?;
    let ask = || ask_past(stack, "device", &address, "/devices/edge");
    let away = ask()?;
    expect(away.status.code() == Some(2), || {
        format!("it is answered: {away:?}")
    })?;
    stack.docker(&["network", "connect", &network, &device])?;
    let there = ask();
    stack.docker(&["network", "disconnect", &network, &device])?;
    let there = there?;
    expect(there.status.success(), || {
        format!("not answered on the service's own network either: {there:?}")
    })?;
    let away = ask()?;
    expect(away.status.code() == Some(2), || {
        format!("it is answered: {away:?}")
    })
}

/// What listens on this port of the edge answers inside its container alone.
fn keeps_to_itself(stack: &Stack, port: u16) -> Result<()> {
    let ask = |from: &str, host: &str| {
        let url = format!("http://{host}:{port}/ready");
        stack.output(stack.compose(&["exec", "-T", from, "medbind-party", "healthy", &url]))
    };
    let own = ask("edge", "127.0.0.1")?;
    expect(own.status.success(), || format!("the edge: {own:?}"))?;
    let away = ask("device", "edge")?;
    let said = String::from_utf8_lossy(&away.stderr).into_owned();
    // Refused by the edge's machine: it was found.
    expect(
        away.status.code() == Some(2) && said.contains("Connection refused"),
        || format!("the device: {away:?}"),
    )
}

/// The medbind fields that the upstream saw, each with all its values.
fn tags(saw: &Value) -> Value {
    let mut tags = serde_json::Map::new();
    for field in saw["headers"].as_array().into_iter().flatten() {
        let (Some(name), Some(value)) = (field[0].as_str(), field[1].as_str()) else {
            continue;
        };
        if name.replace('_', "-").starts_with("x-medbind-") {
            let values = tags.entry(name.to_owned()).or_insert_with(|| json!([]));
            if let Some(values) = values.as_array_mut() {
                values.push(json!(value));
            }
        }
    }
    Value::Object(tags)
}

fn until(what: &str, holds: impl FnMut() -> Result<bool>) -> Result<()> {
    wait::blocking(what, LIMIT, holds)
}

fn expect(holds: bool, otherwise: impl FnOnce() -> String) -> Result<()> {
    if holds {
        Ok(())
    } else {
        bail!("{}", otherwise())
    }
}

/// What a program said, where it ended well.
fn well(name: &str, output: &Output) -> Result<String> {
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        let errors = String::from_utf8_lossy(&output.stderr);
        bail!("{name} ended with {}\n{said}{errors}", output.status);
    }
    Ok(said)
}
