//! What is the story told with? All that runs, and how a request and a command are shown.

use std::cell::Cell;
use std::fs::{self, File, TryLockError};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use medbind_integration::certificate::{Authority, Identity};
use medbind_integration::client::{Answer, Ask, Client};
use medbind_integration::envoy::{self, Envoy, Options};
use medbind_integration::process::Process;
use medbind_integration::scenario::registry::serve;
use medbind_integration::site::EDGE;
use medbind_integration::tools::{Tools, present, root};
use medbind_integration::upstream::Upstream;
use medbind_integration::wait::until;
use medbind_workshop::progress::{Progress, human};
use medbind_workshop::workspace;

use crate::edge::Edge;

/// When the story gives up on something that takes a second at most.
pub const LIMIT: Duration = Duration::from_secs(15);

/// A device as it was provisioned.
pub struct Device {
    pub name: &'static str,
    pub identity: Identity,
    pub code: String,
    pub secret: String,
}

impl Device {
    pub fn readings(&self) -> String {
        format!("/v1/devices/acme:{}/readings", self.name)
    }
}

/// Everything that runs, and where the story stands.
pub struct Story {
    pub tools: Tools,
    pub folder: PathBuf,
    pub registry: Option<Process>,
    pub address: SocketAddr,
    pub infra: Authority,
    pub upstream: Upstream,
    pub envoy: Envoy,
    pub devices: Vec<Device>,
    /// Ours for as long as the story lives.
    _taken: File,
    part: Cell<u32>,
    requests: Cell<u32>,
}

/// A path as it is typed in the root of the checkout.
pub fn short(path: &Path) -> String {
    path.strip_prefix(root())
        .unwrap_or(path)
        .display()
        .to_string()
}

/// The operator's command.
pub fn medbind(tools: &Tools, arguments: &[&str]) -> Command {
    let mut command = Command::new(&tools.command);
    command
        .args(arguments)
        .current_dir(root())
        .stdin(Stdio::null());
    command
}

/// Runs the operator's command, and returns what it printed.
pub fn output(command: &mut Command) -> Result<String> {
    let output = command.output().context("cannot run medbind")?;
    ensure!(
        output.status.success(),
        "medbind failed: {}",
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Takes a folder that the story empties; it is given back once the file is closed.
fn take(folder: &Path) -> Result<File> {
    let path = folder.with_extension("lock");
    let opened = File::options()
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path);
    let lock = opened.with_context(|| format!("cannot open {}", path.display()))?;
    match lock.try_lock() {
        Err(TryLockError::WouldBlock) => bail!(
            "another demo runs in {}: end it first, with Ctrl-C where it is",
            short(folder)
        ),
        // Some file systems offer no locks.
        Ok(()) | Err(TryLockError::Error(_)) => Ok(lock),
    }
}

impl Story {
    pub async fn set_up() -> Result<Self> {
        let tools = Tools::find()?;
        present(&tools.envoy, "cargo xtask envoy")?;
        present(&tools.module, "cargo xtask module")?;
        present(&tools.command, "cargo build --package medbind-cli")?;
        let folder = workspace::target().join("demo");
        let taken = take(&folder)?;
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
        let anywhere = SocketAddr::from(([127, 0, 0, 1], 0));
        let (registry, address) = serve(&tools.command, &data, anywhere).await?;
        told(
            &format!("the registry, SQLite in a file: https://{address}"),
            "medbind serve",
        );
        let infra = authority(&data.join("infra-ca"))?;
        let upstream = Upstream::start(&infra.issue_server(&["device-service"])?, &infra).await?;
        told(
            &format!("a device service behind it: https://{}", upstream.address()),
            "the upstream",
        );
        let site = Edge {
            folder: &folder,
            device_ca: &authority(&device_ca)?,
            infra: &infra,
        };
        site.write_files(&data)?;
        let bootstrap = site.bootstrap(&tools, address, upstream.address())?;
        let waiting = Progress::start("Envoy starts and compiles the module");
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
            registry: Some(registry),
            address,
            infra,
            upstream,
            envoy,
            folder,
            devices: Vec::new(),
            _taken: taken,
            part: Cell::new(0),
            requests: Cell::new(0),
        })
    }

    pub fn begin(&self, title: &str) {
        self.part.set(self.part.get() + 1);
        anstream::println!(
            "\n\x1b[1;36m{}.\x1b[0m \x1b[1m{title}\x1b[0m",
            self.part.get()
        );
    }

    pub fn path(&self, name: &str) -> String {
        short(&self.folder.join(name))
    }

    pub fn device(&self, number: usize) -> Result<&Device> {
        self.devices.get(number).context("no such device")
    }

    /// Runs the operator's command against the registry, and shows it.
    pub fn operate(&self, shown: &str, arguments: &[&str]) -> Result<String> {
        command_line(shown);
        output(&mut self.operator(arguments))
    }

    pub fn operator(&self, arguments: &[&str]) -> Command {
        let mut command = medbind(&self.tools, arguments);
        command
            .env("MEDBIND_REGISTRY", self.registry_url())
            .env("MEDBIND_CREDENTIALS", self.path("registry/operator"));
        command
    }

    fn registry_url(&self) -> String {
        format!("https://localhost:{}", self.address.port())
    }

    pub fn client(&self, listener: &str, identity: Option<&Identity>) -> Result<Client> {
        Client::new(self.envoy.listener(listener)?, EDGE, &self.infra, identity)
    }

    /// Sends a request, and shows it with its answer and what the upstream saw of it.
    pub async fn show(&self, who: &str, client: &Client, ask: &Ask) -> Result<Answer> {
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

    pub fn close(&self, keep: bool, time: Duration) {
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

pub fn identity(folder: &Path) -> Result<Identity> {
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

pub fn command_line(shown: &str) {
    anstream::println!("  \x1b[33m$ medbind {shown}\x1b[0m");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_two_in_one_folder_the_second_is_told_of_the_first() {
        let scratch = tempfile::tempdir().unwrap();
        let folder = scratch.path().join("demo");
        let first = take(&folder).unwrap();
        let second = take(&folder).unwrap_err().to_string();
        assert!(second.contains("another demo runs in"), "{second}");
        drop(first);
        take(&folder).unwrap();
    }
}
