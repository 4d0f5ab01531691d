//! A real Envoy: started, watched by its admin page, and ended.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::bootstrap::Bootstrap;
use crate::process::Process;
use crate::wait::until;

/// How long Envoy may take to start. Compiling the module is most of it.
const START_LIMIT: Duration = Duration::from_mins(1);

/// How an Envoy is run, besides its configuration.
#[derive(Clone, Debug)]
pub struct Options {
    /// The number of workers.
    pub workers: u32,
    /// What to log: `info`, or `debug` for a look inside.
    pub log_level: String,
    /// Take part in hot restart, under this base identifier ([`HotRestart`]) and as this epoch.
    pub hot_restart: Option<(u32, u32)>,
    /// For how many seconds what a former configuration has let in goes on.
    pub drain: u32,
}

/// What Envoys that take over from each other share. Dropping it takes away what they have left: one
/// that is killed leaves its shared memory.
#[derive(Debug)]
pub struct HotRestart {
    base: u32,
}

impl HotRestart {
    /// One that no other Envoy of this machine has.
    pub fn new() -> Self {
        let mut base = std::process::id() % 30_000 + 1;
        while shared_memory(base).exists() {
            base += 1;
        }
        Self { base }
    }

    /// The base identifier.
    pub const fn base(&self) -> u32 {
        self.base
    }
}

/// The shared memory of the Envoys with this base identifier.
pub fn shared_memory(base: u32) -> PathBuf {
    Path::new("/dev/shm").join(format!("envoy_shared_memory_{}", base * 10))
}

impl Default for HotRestart {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for HotRestart {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(shared_memory(self.base));
    }
}

impl Default for Options {
    fn default() -> Self {
        Self {
            workers: 2,
            log_level: "info".to_owned(),
            hot_restart: None,
            drain: 1,
        }
    }
}

/// A running Envoy. Dropping it ends it.
pub struct Envoy {
    /// The process, with what it says.
    pub process: Process,
    /// The address of its admin page.
    pub admin: SocketAddr,
    listeners: BTreeMap<String, SocketAddr>,
}

/// Asks Envoy whether it takes a configuration. Returns what it said.
///
/// # Errors
/// Envoy refuses it; the error holds why.
pub fn validate(binary: &Path, bootstrap: &Bootstrap, folder: &Path) -> Result<String> {
    let file = write(bootstrap, folder, "validated")?;
    let output = Command::new(binary)
        .args(["--mode", "validate", "--log-level", "warning", "-c"])
        .arg(&file)
        .output()
        .context("cannot run Envoy")?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned()
        + &String::from_utf8_lossy(&output.stdout);
    if !output.status.success() {
        bail!("Envoy refuses the configuration:\n{said}");
    }
    Ok(said)
}

fn write(bootstrap: &Bootstrap, folder: &Path, name: &str) -> Result<PathBuf> {
    let file = folder.join(format!("{name}.json"));
    std::fs::write(&file, bootstrap.to_json()?)
        .with_context(|| format!("cannot write {}", file.display()))?;
    Ok(file)
}

impl Envoy {
    /// Starts Envoy and waits until its listeners are there. Its files go to `folder`.
    pub async fn start(
        binary: &Path,
        bootstrap: &Bootstrap,
        folder: &Path,
        options: &Options,
    ) -> Result<Self> {
        let epoch = options.hot_restart.map_or(0, |(_, epoch)| epoch);
        let file = write(bootstrap, folder, &format!("envoy-{epoch}"))?;
        let admin_file = folder.join(format!("admin-{epoch}.txt"));
        let _ = std::fs::remove_file(&admin_file);
        let mut command = Command::new(binary);
        command
            .arg("-c")
            .arg(&file)
            .arg("--admin-address-path")
            .arg(&admin_file)
            .args(["--concurrency", &options.workers.to_string()])
            .args(["--log-level", &options.log_level])
            .args(["--file-flush-interval-msec", "50"])
            .args(["--drain-time-s", &options.drain.to_string()])
            .args([
                "--parent-shutdown-time-s",
                &options.drain.saturating_add(1).to_string(),
            ]);
        match options.hot_restart {
            None => command.arg("--disable-hot-restart"),
            Some((base, epoch)) => command
                .args(["--base-id", &base.to_string()])
                .args(["--restart-epoch", &epoch.to_string()]),
        };
        let mut process = Process::start(&command)?;
        let looking = until("Envoy's admin page is there", START_LIMIT, || async {
            std::fs::read_to_string(&admin_file)
                .ok()
                .and_then(|text| text.trim().parse().ok())
        });
        let (admin, _) = process.meanwhile(looking).await?;
        let mut envoy = Self {
            process,
            admin,
            listeners: BTreeMap::new(),
        };
        envoy.wait_until_live().await?;
        Ok(envoy)
    }

    async fn wait_until_live(&mut self) -> Result<()> {
        let admin = self.admin;
        let looking = until("Envoy is live", START_LIMIT, || async {
            get(admin, "/ready")
                .await
                .ok()
                .filter(|(status, _)| *status == 200)
        });
        self.process.meanwhile(looking).await?;
        let (_, listeners) = get(admin, "/listeners?format=json").await?;
        let listeners: Value = serde_json::from_str(&listeners)?;
        let statuses = listeners.get("listener_statuses").and_then(Value::as_array);
        for status in statuses.into_iter().flatten() {
            let address = status.pointer("/local_address/socket_address");
            let ip = address
                .and_then(|address| address.get("address"))
                .and_then(Value::as_str);
            let port = address
                .and_then(|address| address.get("port_value"))
                .and_then(Value::as_u64);
            if let (Some(name), Some(ip), Some(port)) =
                (status.get("name").and_then(Value::as_str), ip, port)
            {
                self.listeners
                    .insert(name.to_owned(), format!("{ip}:{port}").parse()?);
            }
        }
        Ok(())
    }

    /// Where a listener listens.
    pub fn listener(&self, name: &str) -> Result<SocketAddr> {
        self.listeners
            .get(name)
            .copied()
            .with_context(|| format!("Envoy has no listener {name}"))
    }

    /// The body of a GET at the admin page.
    pub async fn admin_get(&self, path: &str) -> Result<String> {
        Ok(get(self.admin, path).await?.1)
    }

    /// The counters and gauges as Prometheus reads them: name with labels, and value.
    pub async fn metrics(&self) -> Result<BTreeMap<String, f64>> {
        let text = self.admin_get("/stats/prometheus").await?;
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        Ok(lines
            .filter_map(|line| line.rsplit_once(' '))
            .filter_map(|(name, value)| Some((name.to_owned(), value.parse().ok()?)))
            .collect())
    }

    /// The sum of all counters of one name whose labels hold all of these: `code="permit"`.
    pub async fn metric(&self, name: &str, labels: &[&str]) -> Result<f64> {
        let metrics = self.metrics().await?;
        let fitting = metrics.iter().filter(|(line, _)| {
            line.split(['{', ' ']).next() == Some(name)
                && labels.iter().all(|label| line.contains(label))
        });
        Ok(fitting.map(|(_, value)| value).sum())
    }

    /// Memory that Envoy has in use, in octets: resident set size.
    pub fn resident_octets(&self) -> Result<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kibibytes: u64 = line
            .and_then(|line| line.split_whitespace().next())
            .context("no VmRSS")?
            .parse()?;
        Ok(kibibytes * 1024)
    }

    /// The lines of the access log so far, as JSON.
    pub fn access_log(&self) -> Vec<Value> {
        let lines = self.process.stdout.lines();
        lines
            .iter()
            .filter_map(|line| serde_json::from_str(line).ok())
            .collect()
    }
}

/// A GET over plain HTTP: status and body.
pub async fn get(address: SocketAddr, path: &str) -> Result<(u16, String)> {
    probe(address, "GET", path).await
}

/// A request without a body over plain HTTP: status and body.
pub async fn probe(address: SocketAddr, method: &str, path: &str) -> Result<(u16, String)> {
    let asking = async {
        let mut stream = TcpStream::connect(address).await?;
        let request =
            format!("{method} {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut octets = Vec::new();
        stream.read_to_end(&mut octets).await?;
        anyhow::Ok(octets)
    };
    let octets = timeout(Duration::from_secs(20), asking).await??;
    if method == "HEAD" {
        // Its head says how long a body is that does not come.
        let line = String::from_utf8_lossy(&octets);
        let status = line.split(' ').nth(1).and_then(|word| word.parse().ok());
        return Ok((status.context("no status")?, String::new()));
    }
    crate::client::Answer::read_to_end(&octets)
        .map(|answer| (answer.status, answer.text()))
        .with_context(|| format!("{address} answered something that is no HTTP"))
}
