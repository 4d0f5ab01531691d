//! The whole story, told with real requests: devices, an Envoy with the module, a registry, a
//! device service, all over TLS.

use std::cell::Cell;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use clap::Parser;
use indicatif::{ProgressBar, ProgressStyle};
use medbind_integration::bootstrap::{Bootstrap, set};
use medbind_integration::certificate::{Authority, Identity, Spec};
use medbind_integration::client::{Answer, Ask, Client};
use medbind_integration::envoy::{self, Envoy, Options};
use medbind_integration::process::Process;
use medbind_integration::scenario::world::{add_listener, open};
use medbind_integration::site::EDGE;
use medbind_integration::token::TokenIssuer;
use medbind_integration::tools::{Tools, present, root};
use medbind_integration::upstream::Upstream;
use medbind_integration::wait::until;
use serde_json::{Value, json};
use tokio::time::Instant;

/// How long known devices are served without a registry, here: short, so that the story is.
const MAX_STALE: Duration = Duration::from_secs(5);
/// The device's pause between two requests, while a change is measured.
const BETWEEN: Duration = Duration::from_millis(10);
/// How long the device waits for an answer before it takes a new connection.
const PATIENCE: Duration = Duration::from_millis(250);
/// When the story gives up on something that takes a second at most.
const LIMIT: Duration = Duration::from_secs(15);

/// Tells the whole story with real requests.
#[derive(Parser)]
struct Arguments {
    /// Leave everything running at the end, until Ctrl-C
    #[arg(long)]
    keep: bool,
}

/// The exit status after Ctrl-C in the middle of the story, as shells have it: 128 and the signal.
const INTERRUPTED: u8 = 130;

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let told = tokio::select! {
        told = tell(&arguments) => told,
        // What runs beside us ends with the story, which is dropped here.
        () = told_to_end() => return ExitCode::from(INTERRUPTED),
    };
    match told {
        Ok(story) => {
            if arguments.keep {
                told_to_end().await;
            }
            drop(story);
            if arguments.keep {
                anstream::println!("\nEverything is ended.");
            }
            ExitCode::SUCCESS
        }
        Err(error) => {
            anstream::eprintln!("\n\x1b[1;31merror:\x1b[0m {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Ctrl-C or SIGTERM. From the first call on neither ends this program by itself.
async fn told_to_end() {
    use tokio::signal::unix::{SignalKind, signal};
    let wait = |kind| async move {
        match signal(kind) {
            Ok(mut signal) => drop(signal.recv().await),
            Err(_) => std::future::pending().await,
        }
    };
    tokio::select! {
        () = wait(SignalKind::interrupt()) => {}
        () = wait(SignalKind::terminate()) => {}
    }
}

async fn tell(arguments: &Arguments) -> Result<Story> {
    let start = Instant::now();
    let mut story = Story::set_up().await?;
    story.provisioned()?;
    story.without_a_certificate().await?;
    story.before_the_claim().await?;
    story.claimed().await?;
    story.forged().await?;
    story.renewed().await?;
    story.suspended_and_revoked().await?;
    story.registry_killed().await?;
    story.explained()?;
    story.close(arguments.keep, start.elapsed());
    Ok(story)
}

/// A length of time as a person reads it.
fn human(time: Duration) -> String {
    if time < Duration::from_secs(1) {
        format!("{} ms", time.as_millis())
    } else {
        format!("{:.1} s", time.as_secs_f64())
    }
}

/// Runs while something takes long: a spinner on a terminal, one line elsewhere.
struct Wait(ProgressBar);

impl Wait {
    fn new(text: &str) -> Self {
        use std::io::IsTerminal as _;
        if !std::io::stderr().is_terminal() {
            anstream::println!("  \x1b[2m{text} ...\x1b[0m");
            return Self(ProgressBar::hidden());
        }
        let bar = ProgressBar::new_spinner();
        if let Ok(style) = ProgressStyle::with_template("  {spinner} {msg} {elapsed}") {
            bar.set_style(style);
        }
        bar.set_message(text.to_owned());
        bar.enable_steady_tick(Duration::from_millis(100));
        Self(bar)
    }
}

impl Drop for Wait {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

/// The registry as an operator runs it.
struct Registry {
    process: Option<Process>,
    address: SocketAddr,
}

/// A device as it was provisioned.
struct Device {
    name: &'static str,
    identity: Identity,
    code: String,
    secret: String,
}

impl Device {
    fn readings(&self) -> String {
        format!("/v1/devices/acme:{}/readings", self.name)
    }
}

/// Everything that runs, and where the story stands.
struct Story {
    tools: Tools,
    folder: PathBuf,
    registry: Registry,
    infra: Authority,
    upstream: Upstream,
    envoy: Envoy,
    devices: Vec<Device>,
    part: Cell<u32>,
    requests: Cell<u32>,
}

/// A path as it is typed in the root of the checkout.
fn short(path: &Path) -> String {
    path.strip_prefix(root())
        .unwrap_or(path)
        .display()
        .to_string()
}

/// The operator's command.
fn medbind(tools: &Tools, arguments: &[&str]) -> Command {
    let mut command = Command::new(&tools.command);
    command
        .args(arguments)
        .current_dir(root())
        .stdin(Stdio::null());
    command
}

/// Runs the operator's command, and returns what it printed.
fn output(command: &mut Command) -> Result<String> {
    let output = command.output().context("cannot run medbind")?;
    ensure!(
        output.status.success(),
        "medbind failed: {}",
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

impl Registry {
    /// Starts one; port 0 takes a free one.
    async fn start(tools: &Tools, data: &Path, address: SocketAddr) -> Result<Self> {
        let (data, listen) = (short(data), address.to_string());
        let mut command = medbind(
            tools,
            &["serve", "--json", "--data-dir", &data, "--listen", &listen],
        );
        let process = Process::start(&mut command)?;
        let looked = until("the registry listens", Duration::from_mins(1), || async {
            let line = process.stdout.find("\"address\"")?;
            let line: Value = serde_json::from_str(&line).ok()?;
            line.get("address")?.as_str()?.parse().ok()
        });
        let (address, _) = looked.await.with_context(|| process.stderr.tail(10))?;
        Ok(Self {
            process: Some(process),
            address,
        })
    }
}

impl Story {
    async fn set_up() -> Result<Self> {
        let tools = Tools::find()?;
        present(&tools.envoy, "cargo xtask envoy")?;
        present(&tools.module, "cargo xtask module")?;
        present(&tools.command, "cargo build --package medbind-cli")?;
        let target = std::env::var_os("CARGO_TARGET_DIR")
            .map_or_else(|| root().join("target"), |dir| root().join(dir));
        let folder = target.join("demo");
        if folder.exists() {
            fs::remove_dir_all(&folder)
                .with_context(|| format!("cannot empty {}", folder.display()))?;
        }
        fs::create_dir_all(&folder)?;
        anstream::println!("\n\x1b[1mSetting up\x1b[0m, in {}", short(&folder));

        let device_ca = folder.join("device-ca");
        output(&mut medbind(
            &tools,
            &["ca", "init", &short(&device_ca), "--namespace", "acme"],
        ))?;
        told(
            "a private CA for devices",
            "medbind ca init --namespace acme",
        );
        let data = folder.join("registry");
        let registry =
            Registry::start(&tools, &data, SocketAddr::from(([127, 0, 0, 1], 0))).await?;
        told(
            &format!(
                "the registry, SQLite in a file: https://{}",
                registry.address
            ),
            "medbind serve",
        );
        let infra = authority(&data.join("infra-ca"))?;
        let upstream = Upstream::start(&infra.issue_server(&["device-service"])?, &infra).await?;
        told(
            &format!("a device service behind it: https://{}", upstream.address()),
            "the upstream",
        );
        let site = Site {
            folder: &folder,
            device_ca: &authority(&device_ca)?,
            infra: &infra,
        };
        site.write_files(&data)?;
        let bootstrap = site.bootstrap(&tools, registry.address, upstream.address())?;
        let waiting = Wait::new("Envoy starts and compiles the module");
        let envoy = Envoy::start(&tools.envoy, &bootstrap, &folder, &Options::default()).await?;
        let probes = envoy.listener("probes")?;
        until("Envoy is ready", LIMIT, || async {
            envoy::get(probes, "/ready")
                .await
                .ok()
                .filter(|(status, _)| *status == 200)
        })
        .await?;
        drop(waiting);
        let (major, minor) = tools.envoy_line()?;
        told(
            &format!(
                "Envoy {major}.{minor} with medbind.wasm: https://{EDGE}, at {}",
                envoy.listener("edge")?
            ),
            "envoy/http.yaml",
        );
        Ok(Self {
            tools,
            registry,
            infra,
            upstream,
            envoy,
            folder,
            devices: Vec::new(),
            part: Cell::new(0),
            requests: Cell::new(0),
        })
    }

    fn begin(&self, title: &str) {
        self.part.set(self.part.get() + 1);
        anstream::println!(
            "\n\x1b[1;36m{}.\x1b[0m \x1b[1m{title}\x1b[0m",
            self.part.get()
        );
    }

    fn path(&self, name: &str) -> String {
        short(&self.folder.join(name))
    }

    fn device(&self, number: usize) -> Result<&Device> {
        self.devices.get(number).context("no such device")
    }

    /// Runs the operator's command against the registry, and shows it.
    fn operate(&self, shown: &str, arguments: &[&str]) -> Result<String> {
        command_line(shown);
        output(&mut self.operator(arguments))
    }

    fn operator(&self, arguments: &[&str]) -> Command {
        let mut command = medbind(&self.tools, arguments);
        command
            .env("MEDBIND_REGISTRY", self.registry_url())
            .env("MEDBIND_CREDENTIALS", self.path("registry/operator"));
        command
    }

    fn registry_url(&self) -> String {
        format!("https://localhost:{}", self.registry.address.port())
    }

    fn client(&self, listener: &str, identity: Option<&Identity>) -> Result<Client> {
        Client::new(self.envoy.listener(listener)?, EDGE, &self.infra, identity)
    }

    /// Sends a request, and shows it with its answer and what the upstream saw of it.
    async fn show(&self, who: &str, client: &Client, ask: &Ask) -> Result<Answer> {
        self.requests.set(self.requests.get() + 1);
        let before = self.upstream.count();
        anstream::println!(
            "  \x1b[34m→\x1b[0m {} {}   \x1b[2m{who}\x1b[0m",
            ask.method,
            ask.path
        );
        for (name, value) in &ask.headers {
            anstream::println!("      {name}: {value}");
        }
        let answer = client.send(ask).await?;
        let code = answer.code().unwrap_or_default();
        let colour = if answer.is_success() { 32 } else { 31 };
        anstream::println!(
            "  \x1b[{colour}m←\x1b[0m {} \x1b[1m{code}\x1b[0m",
            answer.status
        );
        match answer.saw() {
            Some(saw) => {
                let body = String::from_utf8_lossy(&ask.body).into_owned();
                anstream::println!("    the upstream saw: {} {} {body}", saw.method, saw.path);
                for (name, value) in saw.medbind_fields() {
                    anstream::println!("      {name}: \x1b[32m{value}\x1b[0m");
                }
            }
            None => anstream::println!("    the upstream saw nothing"),
        }
        let seen = self.upstream.count() - before;
        ensure!(
            seen == usize::from(answer.is_success()),
            "the upstream saw {seen} requests of this one"
        );
        Ok(answer)
    }

    /// 1: two devices are provisioned.
    fn provisioned(&mut self) -> Result<()> {
        self.begin("Two devices are provisioned: key, certificate, label, claim secret");
        let (ca, out, secrets) = (
            self.path("device-ca"),
            self.path("devices"),
            self.path("secrets.csv"),
        );
        for name in ["SN-1", "SN-2"] {
            let provision = [
                "provision",
                "--ca",
                &ca,
                "--serial",
                name,
                "--class",
                "cgm",
                "--portal",
                "https://portal.example",
                "--out",
                &out,
                "--secrets",
                &secrets,
            ];
            command_line(&provision.join(" "));
            print_indented(&output(&mut medbind(&self.tools, &provision))?);
            let identity = identity(&self.folder.join("devices").join(name))?;
            let kept = fs::read_to_string(root().join(&secrets))?;
            let mut lines = kept.lines();
            let line = lines.find(|line| line.starts_with(&format!("acme:{name},")));
            let mut fields = line.context("no secret")?.split(',').skip(1);
            let code = fields.next().context("no code")?.to_owned();
            let secret = fields.next().context("no secret")?.to_owned();
            self.devices.push(Device {
                name,
                identity,
                code,
                secret,
            });
        }
        let enrol = self.path("devices/enrol.ndjson");
        let said = self.operate(&format!("enrol {enrol}"), &["enrol", &enrol])?;
        print_indented(&said);
        Ok(())
    }

    /// 2: no certificate, and a stranger's.
    async fn without_a_certificate(&self) -> Result<()> {
        self.begin("Who has no certificate, or a stranger's, is refused");
        let ask = Ask::post(self.device(0)?.readings(), r#"{"glucose": 98}"#);
        let nobody = self.client("edge", None)?;
        is_code(
            &self.show("without a certificate", &nobody, &ask).await?,
            401,
            "no_peer_certificate",
        )?;
        let stranger = Authority::new("acme device CA")?.issue(&Spec::device("SN-1"))?;
        anstream::println!(
            "  \x1b[34m→\x1b[0m {} {}   \x1b[2mwith a certificate for SN-1 of a CA that only has the same name\x1b[0m",
            ask.method,
            ask.path
        );
        match self.client("edge", Some(&stranger))?.send(&ask).await {
            Ok(answer) => bail!(
                "a stranger got {} instead of a failed handshake",
                answer.status
            ),
            Err(_) => {
                anstream::println!("  \x1b[31m←\x1b[0m \x1b[1mthe TLS handshake fails\x1b[0m");
            }
        }
        let accepting = self.client("open", Some(&stranger))?;
        let who = "the same, at a listener that leaves it to the guard (ACCEPT_UNTRUSTED)";
        is_code(
            &self.show(who, &accepting, &ask).await?,
            401,
            "unknown_issuer",
        )
    }

    /// 3: nobody has claimed it.
    async fn before_the_claim(&self) -> Result<()> {
        self.begin("The device sends a reading before anyone claimed it");
        let device = self.device(0)?;
        let client = self.client("edge", Some(&device.identity))?;
        let unclaimed = |answer: &Answer| answer.code().as_deref() == Some("device_unclaimed");
        everywhere(&client, &Ask::post(device.readings(), "{}"), unclaimed).await?;
        let ask = Ask::post(device.readings(), r#"{"glucose": 98}"#);
        is_code(
            &self.show("SN-1's certificate", &client, &ask).await?,
            403,
            "device_unclaimed",
        )
    }

    /// Claims a device, and measures until it is served.
    async fn claim(&self, device: &Device, account: &str) -> Result<Duration> {
        let shown = format!(
            "claim --account {account} --code {} --secret {}",
            device.code, device.secret
        );
        command_line(&shown);
        let mut command = self.operator(&["claim", "--account", account, "--code", &device.code]);
        command.env("MEDBIND_CLAIM_SECRET", &device.secret);
        let client = self.client("edge", Some(&device.identity))?;
        self.first(
            &client,
            &Ask::post(device.readings(), "{}"),
            command,
            Answer::is_success,
        )
        .await
    }

    /// Runs the operator's command while the device goes on asking, and measures from the command's
    /// start to the first answer that fits.
    async fn first(
        &self,
        client: &Client,
        ask: &Ask,
        mut command: Command,
        fits: impl Fn(&Answer) -> bool + Copy,
    ) -> Result<Duration> {
        let start = Instant::now();
        let operating = tokio::task::spawn_blocking(move || output(&mut command));
        let mut connection = client.connect().await?;
        let looking = async {
            loop {
                match tokio::time::timeout(PATIENCE, connection.send(ask)).await {
                    Ok(Ok(answer)) if fits(&answer) => return anyhow::Ok(start.elapsed()),
                    Ok(Ok(_)) => {}
                    // Envoy ends a connection of HTTP/1.1 where it refuses a request with a body, and
                    // the guard cuts what is under way.
                    Ok(Err(_)) | Err(_) => connection = client.connect().await?,
                }
                tokio::time::sleep(BETWEEN).await;
            }
        };
        let time = tokio::time::timeout(LIMIT, looking)
            .await
            .context("the change is not in force")??;
        everywhere(client, ask, fits).await?;
        operating.await??;
        Ok(time)
    }

    /// 4: claimed, and served.
    async fn claimed(&self) -> Result<()> {
        self.begin("It is claimed for an account, with the code and the secret of its label");
        let device = self.device(0)?;
        let time = self.claim(device, "acc-1").await?;
        anstream::println!("    in force after \x1b[1m{}\x1b[0m", human(time));
        let client = self.client("edge", Some(&device.identity))?;
        let ask = Ask::post(device.readings(), r#"{"glucose": 98}"#);
        let answer = self.show("SN-1's certificate", &client, &ask).await?;
        has_tags(&answer, "acme:SN-1", "acc-1")
    }

    /// 5: what a device cannot say.
    async fn forged(&self) -> Result<()> {
        self.begin("What a device says of itself counts for nothing");
        let device = self.device(0)?;
        let client = self.client("edge", Some(&device.identity))?;
        let ask =
            Ask::post(device.readings(), "{}").header("x-medbind-account", "acc-of-someone-else");
        let answer = self
            .show("SN-1's certificate, and a forged tag", &client, &ask)
            .await?;
        has_tags(&answer, "acme:SN-1", "acc-1")?;
        let ask = Ask::post(self.device(1)?.readings(), "{}");
        let answer = self
            .show(
                "SN-1's certificate, and a path that names SN-2",
                &client,
                &ask,
            )
            .await?;
        is_code(&answer, 403, "not_permitted")
    }

    /// 6: renewed.
    async fn renewed(&mut self) -> Result<()> {
        self.begin("Its certificate is renewed: new key, new serial number, the same device");
        let before = self.device(0)?.identity.digest();
        let (ca, out) = (self.path("device-ca"), self.path("renewed"));
        let renew = [
            "provision",
            "--renew",
            "--ca",
            &ca,
            "--serial",
            "SN-1",
            "--out",
            &out,
            "--no-qr",
        ];
        command_line(&renew.join(" "));
        output(&mut medbind(&self.tools, &renew))?;
        let folder = self.folder.join("renewed/SN-1");
        let identity = identity(&folder)?;
        let after = identity.digest();
        ensure!(before != after, "the certificate is the old one");
        let first = |digest: &str| digest.chars().take(16).collect::<String>();
        anstream::println!(
            "    certificate {}... instead of {}...",
            first(&after),
            first(&before)
        );
        if let Some(device) = self.devices.first_mut() {
            device.identity = identity;
        }
        let device = self.device(0)?;
        let client = self.client("edge", Some(&device.identity))?;
        let ask = Ask::post(device.readings(), r#"{"glucose": 101}"#);
        let answer = self.show("SN-1's new certificate", &client, &ask).await?;
        has_tags(&answer, "acme:SN-1", "acc-1")
    }

    /// 7: suspended, resumed, revoked.
    async fn suspended_and_revoked(&self) -> Result<()> {
        self.begin("It is suspended, resumed and revoked, while it goes on sending");
        let device = self.device(0)?;
        let client = self.client("edge", Some(&device.identity))?;
        let ask = Ask::post(device.readings(), r#"{"glucose": 99}"#);
        let steps = [
            ("suspend", Some("binding_suspended")),
            ("resume", None),
            ("revoke", Some("binding_revoked")),
        ];
        for (verb, code) in steps {
            command_line(&format!("{verb} acme:SN-1"));
            let command = self.operator(&[verb, "acme:SN-1"]);
            let fits = |answer: &Answer| match code {
                Some(_) => answer.code().as_deref() == code,
                None => answer.is_success(),
            };
            let time = self.first(&client, &ask, command, fits).await?;
            let what = if code.is_some() {
                "the first refusal"
            } else {
                "the first answer"
            };
            anstream::println!(
                "    from the command to {what}: \x1b[1m{}\x1b[0m",
                human(time)
            );
            let answer = self.show("SN-1's certificate", &client, &ask).await?;
            match code {
                Some(code) => is_code(&answer, 403, code)?,
                None => has_tags(&answer, "acme:SN-1", "acc-1")?,
            }
        }
        Ok(())
    }

    /// 8: the registry is killed.
    async fn registry_killed(&mut self) -> Result<()> {
        self.begin("The registry is killed");
        let device = self.device(1)?;
        self.claim(device, "acc-2").await?;
        let client = self.client("edge", Some(&device.identity))?;
        let ask = Ask::post(device.readings(), r#"{"glucose": 107}"#);
        let killed = Instant::now();
        if let Some(process) = self.registry.process.take() {
            anstream::println!(
                "  \x1b[33m$ kill -9 {}\x1b[0m   \x1b[2mthe registry\x1b[0m",
                process.id()
            );
            drop(process);
        }
        let device = self.device(1)?;
        let answer = self
            .show(
                "SN-2's certificate: a known device goes on being served",
                &client,
                &ask,
            )
            .await?;
        has_tags(&answer, "acme:SN-2", "acc-2")?;
        let waiting = Wait::new(&format!(
            "max_stale is {} here, 15 minutes as it is shipped",
            human(MAX_STALE)
        ));
        let stale = |answer: &Answer| answer.code().as_deref() == Some("bindings_stale");
        until("the bindings are stale", LIMIT + MAX_STALE, || async {
            client
                .send(&Ask::post(device.readings(), "{}"))
                .await
                .ok()
                .filter(stale)
        })
        .await?;
        drop(waiting);
        anstream::println!("    {} after the kill:", human(killed.elapsed()));
        let answer = self.show("SN-2's certificate", &client, &ask).await?;
        is_code(&answer, 503, "bindings_stale")?;
        if let Some(seconds) = answer.header("retry-after") {
            anstream::println!("      retry-after: {seconds}");
        }
        command_line("serve");
        let start = Instant::now();
        self.registry = Registry::start(
            &self.tools,
            &self.folder.join("registry"),
            self.registry.address,
        )
        .await?;
        let served = until("the device is served again", LIMIT * 2, || async {
            client.send(&ask).await.ok().filter(Answer::is_success)
        });
        served.await?;
        let time = start.elapsed();
        everywhere(&client, &ask, Answer::is_success).await?;
        anstream::println!("    served again after \x1b[1m{}\x1b[0m", human(time));
        let answer = self.show("SN-2's certificate", &client, &ask).await?;
        has_tags(&answer, "acme:SN-2", "acc-2")
    }

    /// 9: why?
    fn explained(&self) -> Result<()> {
        self.begin("Why was that refused?");
        let (guard, certificate) = (self.path("guard.json"), self.path("renewed/SN-1/cert.pem"));
        let path = self.device(0)?.readings();
        let explain = [
            "explain",
            "--guard",
            &guard,
            "--certificate",
            &certificate,
            "--method",
            "POST",
            "--path",
            &path,
        ];
        command_line(&explain.join(" "));
        let output = self.operator(&explain).output()?;
        print_indented(&String::from_utf8_lossy(&output.stdout));
        ensure!(
            output.status.code() == Some(1),
            "explain ended with {}: {}",
            output.status,
            String::from_utf8_lossy(&output.stderr).trim()
        );
        Ok(())
    }

    fn close(&self, keep: bool, time: Duration) {
        let edge = self
            .envoy
            .listener("edge")
            .map(|address| address.port())
            .unwrap_or_default();
        let probes = self
            .envoy
            .listener("probes")
            .map(|address| address.to_string())
            .unwrap_or_default();
        anstream::println!(
            "\n\x1b[1;32mThat is the story\x1b[0m: {} requests shown, {}.",
            self.requests.get(),
            human(time)
        );
        let state = if keep {
            "running until Ctrl-C"
        } else {
            "with --keep all of it is left running"
        };
        anstream::println!("\nTo go on playing ({state}), in {}:\n", root().display());
        anstream::println!("  edge      https://{EDGE}:{edge} on 127.0.0.1");
        anstream::println!("  ready     http://{probes}/ready");
        anstream::println!(
            "  admin     http://{}/stats/prometheus?filter=medbind",
            self.envoy.admin
        );
        anstream::println!("  registry  {}\n", self.registry_url());
        anstream::println!(
            "  export MEDBIND_REGISTRY={} MEDBIND_CREDENTIALS={}",
            self.registry_url(),
            self.path("registry/operator")
        );
        anstream::println!("  {} list", short(&self.tools.command));
        anstream::println!("  {} suspend acme:SN-2", short(&self.tools.command));
        anstream::println!(
            "  curl --http1.1 --resolve {EDGE}:{edge}:127.0.0.1 --cacert {} --cert {} --key {} -d '{{}}' https://{EDGE}:{edge}{}",
            self.path("edge/ca.pem"),
            self.path("devices/SN-2/cert.pem"),
            self.path("devices/SN-2/key.pem"),
            "/v1/devices/acme:SN-2/readings"
        );
    }
}

/// What the edge needs of the site's certificates.
struct Site<'a> {
    folder: &'a Path,
    device_ca: &'a Authority,
    infra: &'a Authority,
}

impl Site<'_> {
    fn write(&self, name: &str, text: &str) -> Result<()> {
        let path = self.folder.join(name);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
    }

    /// The files that `envoy/http.yaml` names.
    fn write_files(&self, registry: &Path) -> Result<()> {
        let server = self.infra.issue_server(&[EDGE])?;
        self.write("server/cert.pem", &server.pem())?;
        self.write("server/key.pem", &server.key_pem())?;
        for file in ["cert.pem", "key.pem", "ca.pem"] {
            let text = fs::read_to_string(registry.join("edge").join(file))?;
            self.write(&format!("edge/{file}"), &text)?;
        }
        self.write("device-ca.pem", &self.device_ca.pem())?;
        self.write("device-ca.crl.pem", &self.device_ca.revocation_list(&[])?)?;
        self.write("jwks.json", &TokenIssuer::new()?.key_set())
    }

    /// `envoy/http.yaml` as it is shipped, with these files and addresses, a short `max_stale`, and
    /// a second listener that takes every certificate.
    fn bootstrap(
        &self,
        tools: &Tools,
        registry: SocketAddr,
        upstream: SocketAddr,
    ) -> Result<Bootstrap> {
        let mut bootstrap = Bootstrap::shipped("http.yaml")?;
        bootstrap.put_to(self.folder, &tools.module)?;
        bootstrap.send_to("registry", registry)?;
        bootstrap.send_to("device_service", upstream)?;
        let issuer = bootstrap
            .guard("edge")?
            .pointer_mut("/issuers/0")
            .context("no issuer")?;
        set(issuer, "certificates", json!([self.device_ca.pem()]))?;
        if tools.envoy_line()? < (1, 38) {
            // As the comment in http.yaml says.
            let http = bootstrap.http("edge")?;
            set(http, "forward_client_cert_details", json!("SANITIZE_SET"))?;
            set(
                http,
                "set_current_client_cert_details",
                json!({"cert": true}),
            )?;
        }
        let edge = bootstrap.listener("edge")?.clone();
        add_listener(&mut bootstrap, &edge, "open")?;
        open(&mut bootstrap, "open")?;
        let max_stale = json!({"max_stale": format!("{}s", MAX_STALE.as_secs())});
        for listener in ["edge", "open", "probes"] {
            set(bootstrap.guard(listener)?, "bindings", max_stale.clone())?;
        }
        set(bootstrap.synchroniser()?, "bindings", max_stale)?;
        let guard = serde_json::to_string_pretty(bootstrap.guard("edge")?)?;
        self.write("guard.json", &guard)?;
        Ok(bootstrap)
    }
}

/// Waits until every worker of Envoy answers like this: Envoy gives each connection to one of them.
async fn everywhere(client: &Client, ask: &Ask, fits: impl Fn(&Answer) -> bool) -> Result<()> {
    const IN_A_ROW: usize = 12;
    until("every worker knows", LIMIT, || async {
        for _ in 0..IN_A_ROW {
            client.send(ask).await.ok().filter(&fits)?;
        }
        Some(())
    })
    .await?;
    Ok(())
}

fn identity(folder: &Path) -> Result<Identity> {
    let certificate = fs::read_to_string(folder.join("cert.pem"))?;
    Identity::from_pem(&certificate, &fs::read_to_string(folder.join("key.pem"))?)
}

fn authority(folder: &Path) -> Result<Authority> {
    let certificate = fs::read_to_string(folder.join("cert.pem"))?;
    Authority::from_pem(&certificate, &fs::read_to_string(folder.join("key.pem"))?)
}

fn told(what: &str, how: &str) {
    anstream::println!("  \x1b[32m✓\x1b[0m {what}   \x1b[2m{how}\x1b[0m");
}

fn command_line(shown: &str) {
    anstream::println!("  \x1b[33m$ medbind {shown}\x1b[0m");
}

fn print_indented(text: &str) {
    for line in text.trim_end().lines() {
        anstream::println!("    {line}");
    }
}

fn is_code(answer: &Answer, status: u16, code: &str) -> Result<()> {
    ensure!(
        answer.status == status && answer.code().as_deref() == Some(code),
        "this was to be {status} {code}, and is {} {}",
        answer.status,
        answer.text()
    );
    Ok(())
}

fn has_tags(answer: &Answer, device: &str, account: &str) -> Result<()> {
    let saw = answer
        .saw()
        .with_context(|| format!("not served: {} {}", answer.status, answer.text()))?;
    let tags = [
        ("x-medbind-principal", "device"),
        ("x-medbind-device", device),
        ("x-medbind-account", account),
        ("x-medbind-class", "cgm"),
        ("x-medbind-epoch", "1"),
        ("x-medbind-traffic", "phi"),
    ];
    for (name, value) in tags {
        ensure!(
            saw.one(name) == Some(value),
            "the upstream saw {:?} as {name}",
            saw.all(name)
        );
    }
    Ok(())
}
