//! Walks the documents as a new user does: every command of the README's "Put it before your own
//! service" and of the other documents that go on from there, in order, against a real Envoy and a
//! real registry.
//!
//! A block of code that is marked `sh` is run line by line. A comment `# -> text` below a command
//! says what its output holds; `# -> exit status 1` says how it ends. What the walk changes is said
//! in [`Walk::adapted`]: ports that are free here, the folder of the checkout, and what a person
//! copies from one answer into the next command.

use std::cell::RefCell;
use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::symlink;
use std::process::{Command, ExitCode, Output, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use medbind_integration::certificate::Identity;
use medbind_integration::ending::unless_told;
use medbind_integration::envoy::{self, HotRestart};
use medbind_integration::process::Process;
use medbind_integration::server;
use medbind_integration::tools::{Tools, present, root};
use medbind_integration::upstream::Upstream;
use medbind_integration::wait::until;
use medbind_workshop::progress;
use medbind_workshop::shell::{self, Orphaned};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use serde_json::Value;
use tempfile::TempDir;

/// The documents, in the order in which they are walked, and the heading of the part that is, where
/// it is not the whole.
const DOCUMENTS: [(&str, Option<&str>); 3] = [
    ("README.md", Some("## Put it before your own service")),
    ("docs/operating.md", None),
    ("docs/devices.md", None),
];
/// How long a program that stays may take until it answers.
const LIMIT: Duration = Duration::from_mins(1);
/// A change is in force within a second; a person looks a moment later.
const A_MOMENT: Duration = Duration::from_secs(10);

#[tokio::main]
async fn main() -> ExitCode {
    let walked = async {
        match run().await {
            Ok(code) => code,
            Err(error) => {
                progress::report(&error);
                ExitCode::FAILURE
            }
        }
    };
    unless_told(Box::pin(walked)).await
}

async fn run() -> Result<ExitCode> {
    let tools = Tools::find()?;
    let mut passed = 1;
    if let Err(error) = demo(&tools).await {
        anstream::println!("  \x1b[31mFAILED\x1b[0m the demo: {error:#}");
        println!("0 passed, 1 failed");
        return Ok(ExitCode::FAILURE);
    }
    anstream::println!(
        "  \x1b[32mok\x1b[0m    the demo ends with 0, and says what README.md shows of it"
    );
    if tools.envoy_line()? < (1, 38) {
        println!("skip  the documents: http.yaml as it is shipped is for Envoy 1.38 and later");
        println!("1 passed, 0 failed, 1 skipped");
        return Ok(ExitCode::SUCCESS);
    }
    let mut walk = Walk::new(&tools)?;
    for (file, heading) in DOCUMENTS {
        let text = fs::read_to_string(root().join(file)).with_context(|| format!("no {file}"))?;
        let steps = steps(&text, heading)?;
        ensure!(!steps.is_empty(), "{file} shows no commands to walk");
        for step in &steps {
            if let Err(error) = walk.take(step).await {
                anstream::println!(
                    "  \x1b[31mFAILED\x1b[0m {file}:{} {}",
                    step.line,
                    step.command
                );
                anstream::println!("    {error:#}");
                println!("{passed} passed, 1 failed");
                return Ok(ExitCode::FAILURE);
            }
            passed += 1;
            anstream::println!(
                "  \x1b[32mok\x1b[0m    {file}:{} {}",
                step.line,
                step.command
            );
        }
    }
    println!("{passed} passed, 0 failed");
    Ok(ExitCode::SUCCESS)
}

/// Runs the demo, and looks in what it says for the lines that the README shows, in their order.
async fn demo(tools: &Tools) -> Result<()> {
    let readme = fs::read_to_string(root().join("README.md"))?;
    let shown = readme
        .split_once("\n## Try it\n")
        .and_then(|(_, rest)| rest.split_once("```text\n"))
        .and_then(|(_, rest)| rest.split_once("```"))
        .context("README.md shows nothing of the demo")?
        .0;
    let mut command = Command::new(std::env::current_exe()?.with_file_name("demo"));
    command
        .env("MEDBIND_COMMAND", &tools.command)
        .env("MEDBIND_ENVOY", &tools.envoy)
        .env("MEDBIND_MODULE", &tools.module)
        .env("NO_COLOR", "1");
    let output = output(command).await.context("cannot run the demo")?;
    ensure!(
        output.status.success(),
        "{}\n{}",
        output.status,
        said(&output)
    );
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(!told.contains('\x1b'), "colours, in spite of NO_COLOR");
    let mut told = told.lines().map(alike);
    for line in shown.lines().filter(|line| !line.is_empty()) {
        ensure!(
            told.any(|told| told == alike(line)),
            "it does not say, or not in this place: {line}"
        );
    }
    Ok(())
}

/// A line of the demo without what differs from run to run: numbers, codes and secrets.
fn alike(line: &str) -> String {
    let alike = line.split_whitespace().map(|word| {
        let is_code = word.len() > 6
            && word.contains('-')
            && word
                .bytes()
                .all(|octet| octet.is_ascii_uppercase() || octet.is_ascii_digit() || octet == b'-');
        if is_code {
            "CODE"
        } else if word.bytes().all(|octet| octet.is_ascii_digit()) {
            "NUMBER"
        } else {
            word
        }
    });
    alike.collect::<Vec<_>>().join(" ")
}

/// A command of a document.
#[derive(Debug, PartialEq, Eq)]
struct Step {
    /// Its line, from 1.
    line: usize,
    /// The command; lines that end in a backslash are one.
    command: String,
    /// What its output holds.
    holds: Vec<String>,
    /// How it ends.
    status: i32,
}

/// Reads the commands of a document.
fn steps(text: &str, heading: Option<&str>) -> Result<Vec<Step>> {
    let mut steps: Vec<Step> = Vec::new();
    let mut here = heading.is_none();
    let mut inside = false;
    let mut goes_on = false;
    for (number, line) in text.lines().enumerate() {
        if let Some(heading) = heading
            && line.starts_with("## ")
        {
            here = line == heading;
        }
        if !here {
            continue;
        }
        if line.starts_with("```") {
            inside = line == "```sh";
            continue;
        }
        if !inside || line.trim().is_empty() {
            continue;
        }
        if goes_on {
            let last = steps.last_mut().context("nothing goes on")?;
            goes_on = line.ends_with('\\');
            last.command.push(' ');
            last.command.push_str(without_remark(line));
        } else if let Some(expected) = line.strip_prefix("# -> ") {
            let last = steps.last_mut().context("an answer without a command")?;
            match expected.strip_prefix("exit status ") {
                Some(status) => last.status = status.parse()?,
                None => last.holds.push(expected.to_owned()),
            }
        } else if !line.starts_with('#') {
            goes_on = line.ends_with('\\');
            steps.push(Step {
                line: number + 1,
                command: without_remark(line).to_owned(),
                holds: Vec::new(),
                status: 0,
            });
        }
    }
    Ok(steps)
}

/// What a person reads behind a command is no part of it.
fn without_remark(line: &str) -> &str {
    let command = line.split("  # ").next().unwrap_or(line);
    command.trim_end_matches('\\').trim()
}

/// Where the walk stands.
struct Walk {
    ports: Vec<(u16, u16)>,
    /// What is set by `export`.
    environment: Vec<(String, String)>,
    /// What a person copies: the word in the document, and what stands for it here.
    copied: Vec<(&'static str, String)>,
    running: Vec<Process>,
    envoy: Option<Process>,
    service: Option<Upstream>,
    path: String,
    // Once nobody uses them any more.
    shared: HotRestart,
    folder: TempDir,
}

impl Walk {
    fn new(tools: &Tools) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("medbind-walk-").tempdir()?;
        // The programs, as they are once they are installed.
        let bin = folder.path().join("bin");
        fs::create_dir(&bin)?;
        symlink(present(&tools.command, "cargo build")?, bin.join("medbind"))?;
        symlink(
            present(&tools.envoy, "cargo xtask envoy")?,
            bin.join("envoy"),
        )?;
        present(&tools.module, "cargo xtask module")?;
        let path = std::env::var("PATH").unwrap_or_default();
        // Held all at once, so that they differ.
        let free: Vec<TcpListener> = (0..5)
            .map(|_| TcpListener::bind("127.0.0.1:0"))
            .collect::<std::io::Result<_>>()?;
        let ports = [EDGE, REGISTRY, SERVICE, PROBES, ADMIN]
            .into_iter()
            .zip(&free)
            .map(|(shown, free)| Ok((shown, free.local_addr()?.port())))
            .collect::<Result<_>>()?;
        Ok(Self {
            ports,
            environment: Vec::new(),
            copied: Vec::new(),
            running: Vec::new(),
            envoy: None,
            service: None,
            path: format!("{}:{path}", bin.display()),
            shared: HotRestart::new(),
            folder,
        })
    }

    fn port(&self, shown: u16) -> u16 {
        let port = self.ports.iter().find(|(there, _)| *there == shown);
        port.map_or(shown, |(_, here)| *here)
    }

    fn address(&self, shown: u16) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.port(shown)))
    }

    /// A command of a document as it is run here.
    fn adapted(&self, command: &str) -> String {
        let mut here = command.replace("~/medbind", &root().to_string_lossy());
        for (shown, port) in &self.ports {
            here = here.replace(&format!(":{shown}"), &format!(":{port}"));
        }
        for (word, value) in &self.copied {
            here = here.replace(word, value);
        }
        if here.starts_with("medbind edge init ") {
            for (option, shown) in [("listen", EDGE), ("probes", PROBES), ("admin", ADMIN)] {
                here = format!("{here} --{option} {}", self.address(shown));
            }
        }
        if here.starts_with("envoy ") {
            here = here.replacen(
                "envoy ",
                &format!("envoy --base-id {} ", self.shared.base()),
                1,
            );
        }
        here
    }

    fn shell(&self, command: &str) -> Command {
        let mut shell = Command::new("bash");
        shell
            .args(["-c", &format!("set -o pipefail; {command}")])
            .current_dir(self.folder.path())
            .env("PATH", &self.path)
            .env("NO_COLOR", "1")
            .stdin(Stdio::null());
        for (name, _) in std::env::vars() {
            if name.starts_with("MEDBIND_") {
                shell.env_remove(name);
            }
        }
        shell.envs(self.environment.iter().map(|(name, value)| (name, value)));
        shell
    }

    async fn take(&mut self, step: &Step) -> Result<()> {
        let command = self.adapted(&step.command);
        if let Some(variables) = command.strip_prefix("export ") {
            for variable in variables.split_whitespace() {
                let (name, value) = variable.split_once('=').context("no value")?;
                self.environment.push((name.to_owned(), value.to_owned()));
            }
            return Ok(());
        }
        if let Some(command) = command.strip_suffix('&') {
            return self.leave_running(command.trim()).await;
        }
        let look = || output(self.shell(&command));
        // A change takes its moment until every worker of Envoy has it.
        let fits = |output: &Output| {
            let said = said(output);
            output.status.code() == Some(step.status)
                && step.holds.iter().all(|text| said.contains(text))
        };
        let last = RefCell::new(look().await?);
        if command.starts_with("curl ") {
            let _ = until("it is answered like this", A_MOMENT, || async {
                let next = look().await.ok()?;
                let fits = fits(&next).then_some(());
                last.replace(next);
                fits
            })
            .await;
        }
        let last = last.into_inner();
        if !fits(&last) {
            bail!(
                "expected exit status {} and {:?}, and it is {}\n{}",
                step.status,
                step.holds,
                last.status,
                said(&last)
            );
        }
        self.copy(&command, &said(&last)).await?;
        self.serve().await.context("the service that is guarded")
    }

    /// What a person copies from an answer.
    async fn copy(&mut self, command: &str, said: &str) -> Result<()> {
        let word_after = |label: &str| {
            let line = said
                .lines()
                .find_map(|line| line.trim().strip_prefix(label));
            line.and_then(|rest| rest.split_whitespace().next())
                .map(str::to_owned)
        };
        let shows_secret = !["--renew", "--from"]
            .iter()
            .any(|option| command.contains(option));
        if command.starts_with("medbind provision ") && shows_secret {
            let code = word_after("claim code").context("no code")?;
            let secret = word_after("claim secret").context("no secret")?;
            self.copied.push(("CODE", code));
            // `claim` asks for it where it is not there.
            self.environment
                .push(("MEDBIND_CLAIM_SECRET".to_owned(), secret));
        }
        if command.starts_with("medbind enrol ") {
            let shown = output(self.shell("medbind show acme:SN-1")).await?;
            let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
            let pseudonym = shown
                .lines()
                .find_map(|line| line.strip_prefix("pseudonym"));
            let pseudonym = pseudonym.context("no pseudonym")?.trim().to_owned();
            self.copied.push(("0aa038df969e27c3", pseudonym));
        }
        Ok(())
    }

    /// A program that stays, until it is ready.
    async fn leave_running(&mut self, command: &str) -> Result<()> {
        let mut process = Process::start(&self.shell(&format!("exec {command}")))?;
        let said = process.stdout.clone();
        let ready = async {
            if command.starts_with("envoy ") {
                self.serves(epoch(command)).await
            } else {
                until("it listens", LIMIT, || async {
                    said.find("listening on").map(drop)
                })
                .await
                .map(drop)
            }
        };
        process
            .meanwhile(ready)
            .await
            .with_context(|| process.stderr.tail(20))?;
        if !command.starts_with("envoy ") {
            self.running.push(process);
            return Ok(());
        }
        if let Some(mut before) = self.envoy.replace(process) {
            until("the Envoy before it ends", LIMIT, || {
                let ended = before.ended();
                async move { ended }
            })
            .await?;
        }
        Ok(())
    }

    /// Waits until the Envoy of this epoch has taken over, and is ready: the one before it would
    /// answer as well.
    async fn serves(&self, epoch: u32) -> Result<()> {
        let (admin, probes) = (self.address(ADMIN), self.address(PROBES));
        until("Envoy answers for its epoch", LIMIT, || async {
            let (_, said) = envoy::get(admin, "/server_info").await.ok()?;
            let said: Value = serde_json::from_str(&said).ok()?;
            let options = &said["command_line_options"];
            let here = options["restart_epoch"].as_u64() == Some(epoch.into());
            (here && said["state"] == "LIVE").then_some(())
        })
        .await?;
        until("Envoy is ready", LIMIT, || async {
            let answer = envoy::get(probes, "/ready").await.ok();
            answer.filter(|(status, _)| *status == 200).map(drop)
        })
        .await?;
        Ok(())
    }

    /// The service that is guarded starts once it has a certificate.
    async fn serve(&mut self) -> Result<()> {
        let folder = self.folder.path().join("service");
        if self.service.is_some() || !folder.exists() {
            return Ok(());
        }
        let read = |name: &str| -> Result<String> { Ok(fs::read_to_string(folder.join(name))?) };
        let identity = Identity::from_pem(&read("cert.pem")?, &read("key.pem")?)?;
        let clients = CertificateDer::from_pem_slice(read("ca.pem")?.as_bytes())?;
        let tls = server::tls(&identity, &clients)?;
        self.service = Some(Upstream::serve(self.address(SERVICE), tls).await?);
        Ok(())
    }
}

/// The epoch that an Envoy is started with.
fn epoch(command: &str) -> u32 {
    let mut words = command.split_whitespace();
    let word = words
        .find(|word| *word == "--restart-epoch")
        .and_then(|_| words.next());
    word.and_then(|word| word.parse().ok()).unwrap_or(0)
}

/// The ports as the documents show them.
const EDGE: u16 = 8443;
const REGISTRY: u16 = 9443;
const SERVICE: u16 = 7443;
const PROBES: u16 = 8080;
const ADMIN: u16 = 9901;

/// Runs a program to its end, which it also comes to with us.
async fn output(command: Command) -> Result<Output> {
    let bound = shell::bound(&command, Orphaned::Kill);
    let mut command = tokio::process::Command::from(bound);
    let output = command.stdin(Stdio::null()).kill_on_drop(true).output();
    Ok(output.await?)
}

fn said(output: &Output) -> String {
    let said = [output.stdout.as_slice(), &output.stderr].concat();
    String::from_utf8_lossy(&said).into_owned()
}

#[cfg(test)]
mod tests {
    use super::{Step, epoch, steps};

    #[test]
    fn an_envoy_is_waited_for_by_its_epoch() {
        let command = "envoy --base-id 7 -c edge/http.yaml --restart-epoch 2 --drain-time-s 5";
        assert_eq!(epoch(command), 2);
        assert_eq!(epoch("envoy -c edge/http.yaml"), 0);
    }

    #[test]
    fn commands_are_read_with_what_they_answer() {
        let text = "## A\n```sh\nnot this\n```\n## B\ntext\n```text\nnor this\n```\n```sh\none \\\n    --two  # a remark\n# a remark\n# -> three\n# -> exit status 1\nfour &\n```\n## C\n```sh\nnor that\n```\n";
        let step = |line, command: &str, holds: &[&str], status| Step {
            line,
            command: command.to_owned(),
            holds: holds.iter().map(|&text| text.to_owned()).collect(),
            status,
        };
        assert_eq!(
            steps(text, Some("## B")).unwrap(),
            [
                step(11, "one --two", &["three"], 1),
                step(16, "four &", &[], 0)
            ]
        );
        assert_eq!(steps(text, None).unwrap().len(), 4);
    }
}
