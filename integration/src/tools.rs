//! Where is what the harness runs? `cargo xtask` says so in the environment.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
pub use medbind_workshop::workspace::root;
use medbind_workshop::workspace::{self, NEWEST_ENVOY};

/// The programs and modules that the harness runs.
#[derive(Clone, Debug)]
pub struct Tools {
    /// The Envoy binary.
    pub envoy: PathBuf,
    /// The module that is deployed.
    pub module: PathBuf,
    /// The module that can be told to trap.
    pub trap_module: PathBuf,
    /// The `medbind` command.
    pub command: PathBuf,
}

impl Tools {
    /// Reads `MEDBIND_ENVOY`, `MEDBIND_MODULE`, `MEDBIND_TRAP_MODULE` and `MEDBIND_COMMAND`;
    /// where one is not set, what `cargo xtask` builds by default.
    pub fn find() -> Result<Self> {
        let pick = |name: &str, otherwise: PathBuf| {
            std::env::var_os(name).map_or(otherwise, PathBuf::from)
        };
        Ok(Self {
            envoy: pick("MEDBIND_ENVOY", workspace::envoy(NEWEST_ENVOY)),
            module: pick("MEDBIND_MODULE", workspace::dist().join("medbind.wasm")),
            trap_module: pick(
                "MEDBIND_TRAP_MODULE",
                workspace::dist().join("medbind-trap.wasm"),
            ),
            command: pick("MEDBIND_COMMAND", workspace::target().join("debug/medbind")),
        })
    }

    /// Which line of Envoy this is: `(1, 40)`.
    pub fn envoy_line(&self) -> Result<(u32, u32)> {
        let output = std::process::Command::new(present(&self.envoy, "cargo xtask envoy")?)
            .arg("--version")
            .output()
            .context("cannot run Envoy")?;
        let text = String::from_utf8_lossy(&output.stdout);
        // .../envoy  version: <hash>/1.40.0/Clean/RELEASE/BoringSSL
        let version = text
            .split('/')
            .find(|part| part.starts_with("1."))
            .unwrap_or_default();
        let mut numbers = version.split('.').map_while(|number| number.parse().ok());
        match (numbers.next(), numbers.next()) {
            (Some(major), Some(minor)) => Ok((major, minor)),
            _ => bail!("cannot tell the version of Envoy from {:?}", text.trim()),
        }
    }
}

/// The path, where there is a file; otherwise an error with the command that makes it.
pub fn present<'a>(path: &'a Path, command: &str) -> Result<&'a Path> {
    if path.is_file() {
        return Ok(path);
    }
    bail!("{} is not there; run: {command}", path.display())
}
