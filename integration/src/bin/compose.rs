//! The story across containers: every part in its own, on networks that are cut so that the
//! device service is reached through the guard alone.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use clap::{Parser, Subcommand};
use medbind_integration::bootstrap::{Bootstrap, set};
use medbind_integration::certificate::{Authority, Spec};
use medbind_integration::site::EDGE;
use medbind_integration::token::TokenIssuer;
use medbind_integration::tools::{Tools, present, root};
use medbind_integration::wait;
use medbind_registry::pki::{CertificateAuthority, LEAF_VALIDITY, Purpose};
use serde_json::{Value, json};

/// How long known devices are served without a registry, here: short, so that the story is.
const MAX_STALE: Duration = Duration::from_secs(5);
/// The services of `docker-compose.yml`.
const SERVICES: [&str; 4] = ["registry", "device-service", "edge", "device"];
/// How many of a container's last lines are shown where it is not well.
const LAST_LINES: &str = "20";
/// Where the registry's port is published.
const REGISTRY: &str = "https://localhost:18443";

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

fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(&cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            anstream::eprintln!("\x1b[1;31merror:\x1b[0m {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: &Cli) -> Result<()> {
    let stack = Stack::new(cli)?;
    match cli.action {
        Action::Down => stack.down(),
        Action::Up => {
            stack.down()?;
            stack.start().inspect_err(|_| stack.report())?;
            println!("the edge listens on https://127.0.0.1:18444, the registry on {REGISTRY}");
            println!(
                "operator's credentials: {}",
                stack.site("registry/operator").display()
            );
            println!("take it down with: cargo xtask compose down");
            Ok(())
        }
        Action::Test => {
            stack.down()?;
            take_down_when_told(cli)?;
            let told = stack.start().and_then(|()| tell(&stack));
            if told.is_err() {
                stack.report();
            }
            stack.down()?;
            told
        }
    }
}

/// Ctrl-C and SIGTERM leave nothing behind either.
fn take_down_when_told(cli: &Cli) -> Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let stack = Stack::new(cli)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    std::thread::spawn(move || {
        let told = runtime.block_on(async {
            let mut interrupt = signal(SignalKind::interrupt())?;
            let mut terminate = signal(SignalKind::terminate())?;
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            std::io::Result::Ok(())
        });
        if told.is_ok() {
            say("taking it down");
            let _ = stack.down();
            std::process::exit(130);
        }
    });
    Ok(())
}

struct Stack {
    folder: PathBuf,
    base: String,
    plugin: bool,
    tools: Tools,
    user: String,
}

impl Stack {
    fn new(cli: &Cli) -> Result<Self> {
        // Compose wants its build context to be there whatever it is asked to do.
        fs::create_dir_all(cli.folder.join("context"))?;
        let folder = cli.folder.canonicalize()?;
        let owner = fs::metadata(&folder)?;
        Ok(Self {
            user: format!("{}:{}", owner.uid(), owner.gid()),
            folder,
            base: cli.base.clone(),
            plugin: cli.plugin,
            tools: Tools::find()?,
        })
    }

    fn site(&self, name: &str) -> PathBuf {
        self.folder.join("site").join(name)
    }

    fn compose(&self, arguments: &[&str]) -> Command {
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
            .args(["--project-name", "medbind", "--file"])
            .arg(root().join("integration/docker-compose.yml"))
            .args(arguments)
            .env("MEDBIND_CONTEXT", self.folder.join("context"))
            .env("MEDBIND_SITE", self.folder.join("site"))
            .env("MEDBIND_BASE", &self.base)
            .env("MEDBIND_USER", &self.user)
            .stdin(Stdio::null());
        command
    }

    fn down(&self) -> Result<()> {
        quietly(&mut self.compose(&["down", "--volumes", "--remove-orphans", "--timeout", "2"]))
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
        say("building the images");
        self.stage()?;
        let site = self.folder.join("site");
        if site.exists() {
            fs::remove_dir_all(&site)?;
        }
        for name in ["registry", "edge", "device-service", "devices"] {
            fs::create_dir_all(self.site(name))?;
        }
        quietly(&mut self.compose(&["build"]))?;
        say("starting the registry, which makes the infrastructure's certificates");
        quietly(&mut self.compose(&["up", "--detach", "registry"]))?;
        self.until_healthy("registry")?;
        self.prepare()?;
        say("starting the edge, the device service and a device");
        quietly(&mut self.compose(&["up", "--detach"]))?;
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
        for file in ["cert.pem", "key.pem", "ca.pem"] {
            let text = fs::read_to_string(self.site("registry/edge").join(file))?;
            self.write(&format!("edge/edge/{file}"), &text)?;
        }
        self.write("edge/device-ca.pem", &device_ca)?;
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
        let inspected = output(Command::new("docker").args(["inspect", &id]))?;
        let mut inspected: Value = serde_json::from_str(&inspected)?;
        Ok(inspected[0].take())
    }

    fn container(&self, service: &str) -> Result<String> {
        let ids = output(&mut self.compose(&["ps", "--all", "--quiet", service]))?;
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
            .env("MEDBIND_REGISTRY", REGISTRY)
            .env("MEDBIND_CREDENTIALS", self.site("registry/operator"))
            .stdin(Stdio::null());
        let said = output(&mut command)?;
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
        let output = self.compose(&arguments).output()?;
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
    // No list of revoked certificates in this story.
    let context = bootstrap
        .tls("edge")?
        .pointer_mut("/common_tls_context/validation_context")
        .context("no validation context")?;
    for field in ["crl", "only_verify_leaf_cert_crl"] {
        medbind_integration::bootstrap::remove(context, field);
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
        "the device cannot reach the device service past the guard",
        {
            let mut bypass = stack.compose(&[
                "exec",
                "-T",
                "device",
                "medbind-party",
                "ask",
                "https://device-service:9443/",
                "--to",
                "device-service:9443",
                "--ca",
                "/devices/server-ca.pem",
            ]);
            let output = bypass.output()?;
            expect(output.status.code() == Some(2), || {
                String::from_utf8_lossy(&output.stdout).into_owned()
            })
        },
    );
    quietly(&mut stack.compose(&["kill", "registry"]))?;
    told.check(
        "the registry is dead: a known device is served",
        served("SN-B", &b),
    );
    told.check(
        "longer than max_stale: bindings_stale",
        refused(Some("SN-B"), &b.path(), 503, "bindings_stale"),
    );
    quietly(&mut stack.compose(&["start", "registry"]))?;
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
    wait::blocking(what, Duration::from_secs(20), holds)
}

fn expect(holds: bool, otherwise: impl FnOnce() -> String) -> Result<()> {
    if holds {
        Ok(())
    } else {
        bail!("{}", otherwise())
    }
}

fn say(text: &str) {
    anstream::eprintln!("\x1b[1m{text}\x1b[0m");
}

fn quietly(command: &mut Command) -> Result<()> {
    output(command).map(drop)
}

fn output(command: &mut Command) -> Result<String> {
    let output = command
        .output()
        .with_context(|| format!("cannot run {}", Path::new(command.get_program()).display()))?;
    if !output.status.success() {
        bail!(
            "{command:?} ended with {}\n{}{}",
            output.status,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
