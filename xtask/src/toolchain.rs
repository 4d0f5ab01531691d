//! Which compiler builds for `wasm32-unknown-unknown`?

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use medbind_workshop::workspace;
use medbind_workshop::{progress, shell};

use crate::programs;

/// The target of the module.
pub const TARGET: &str = "wasm32-unknown-unknown";

/// The Debian packages that hold a matched set of compiler, standard library and linker.
const PACKAGES: [&str; 4] = ["rustc-web", "cargo-web", "rust-web-src", "lld-19"];

/// The oldest compiler that builds this workspace.
const OLDEST: (u32, u32) = (1, 95);

/// A way to build for [`TARGET`].
pub enum Toolchain {
    /// The compiler in use has the target's standard library.
    Rustup,
    /// Debian's compiler, which builds the standard library along.
    Debian,
}

impl Toolchain {
    /// Finds a toolchain, and gets one where there is none: first by rustup, then from Debian.
    pub fn find() -> Result<Self> {
        if has_target() {
            return Ok(Self::Rustup);
        }
        if debian_is_there() {
            return Ok(Self::Debian);
        }
        if shell::exists("rustup") {
            let mut add = Command::new("rustup");
            add.args(["target", "add", TARGET])
                .current_dir(workspace::root());
            let limit = Duration::from_mins(2);
            match shell::run_quietly(&format!("rustup target add {TARGET}"), &mut add, limit) {
                Ok(()) if has_target() => return Ok(Self::Rustup),
                Ok(()) => {}
                Err(_) => {
                    progress::say("    rustup has no server to ask: trying Debian's packages");
                }
            }
        }
        shell::install(&PACKAGES, &format!("a compiler for {TARGET}"))?;
        if !debian_is_there() {
            bail!(
                "the Debian packages {} are too old here (1.{} or later is needed); run: rustup target add {TARGET}",
                PACKAGES.join(" "),
                OLDEST.1
            );
        }
        Ok(Self::Debian)
    }

    /// A cargo command that builds for [`TARGET`] into a folder of its own, so that its builds
    /// and the native ones do not push each other out.
    pub fn cargo(&self, subcommand: &str) -> Result<Command> {
        let mut command = match self {
            Self::Rustup => {
                Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
            }
            Self::Debian => {
                let mut command = Command::new("/usr/bin/cargo");
                // Without RUSTDOC the step of the doc-tests would mix two compilers.
                command
                    .env("RUSTC", "/usr/bin/rustc")
                    .env("RUSTDOC", "/usr/bin/rustdoc")
                    .env("RUSTC_BOOTSTRAP", "1")
                    .env("CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_LINKER", linker()?);
                command
            }
        };
        command
            .arg(subcommand)
            .args(["--target", TARGET])
            .arg("--target-dir")
            .arg(Self::target_dir())
            .current_dir(workspace::root())
            // What a developer or a coverage tool sets for native code has no place here.
            .env_remove("RUSTFLAGS")
            .env_remove("CARGO_ENCODED_RUSTFLAGS")
            .env_remove("RUSTC_WRAPPER");
        programs::forget_own_package(&mut command);
        if matches!(self, Self::Debian) {
            command.arg("-Zbuild-std=std,panic_abort");
        }
        Ok(command)
    }

    /// Where the builds of this toolchain go.
    pub fn target_dir() -> PathBuf {
        workspace::target().join("wasm")
    }

    fn rustc(&self) -> Command {
        let mut rustc = Command::new(match self {
            Self::Rustup => "rustc",
            Self::Debian => "/usr/bin/rustc",
        });
        rustc.current_dir(workspace::root());
        rustc
    }

    /// What the compiler says of itself. Another one makes another module, with another hash.
    pub fn compiler(&self) -> Result<String> {
        let version = shell::output(self.rustc().arg("--version"))?;
        Ok(version.trim().to_owned())
    }

    /// The compiler's flags that make the module the same wherever this compiler builds it: no path
    /// of the machine stands in it, and small. The words are separated as `CARGO_ENCODED_RUSTFLAGS` wants
    /// them.
    pub fn module_flags(&self) -> Result<String> {
        let sysroot = shell::output(self.rustc().args(["--print", "sysroot"]))?;
        let source = Path::new(sysroot.trim()).join("lib/rustlib/src/rust");
        let mut remaps = vec![
            (workspace::root().to_owned(), "/medbind"),
            (cargo_home()?, "/cargo"),
            (source.clone(), "/rust"),
        ];
        if let Ok(real) = source.canonicalize() {
            remaps.push((real, "/rust"));
        }
        let remaps = remaps
            .iter()
            .map(|(from, to)| format!("--remap-path-prefix={}={to}", from.display()));
        // SHA-2 in loops: 17 KiB less, and a certificate is hashed once.
        let small = ["--cfg", r#"sha2_backend_soft="compact""#].map(str::to_owned);
        let flags: Vec<String> = remaps.chain(small).collect();
        Ok(flags.join("\x1f"))
    }
}

fn has_target() -> bool {
    let mut rustc = Command::new("rustc");
    rustc
        .args(["--print", "target-libdir", "--target", TARGET])
        .current_dir(workspace::root());
    shell::output(&mut rustc).is_ok_and(|folder| {
        std::fs::read_dir(folder.trim()).is_ok_and(|mut entries| {
            entries.any(|entry| {
                entry.is_ok_and(|entry| entry.file_name().to_string_lossy().starts_with("libstd-"))
            })
        })
    })
}

fn debian_is_there() -> bool {
    let version = shell::output(Command::new("/usr/bin/rustc").arg("-V")).unwrap_or_default();
    version_of(&version).is_some_and(|version| version >= OLDEST)
        && Path::new("/usr/bin/cargo").is_file()
        && Path::new("/usr/lib/rustlib/src/rust/library/std").is_dir()
        && linker().is_ok()
}

/// Reads `rustc 1.96.0 (...)`.
fn version_of(text: &str) -> Option<(u32, u32)> {
    let mut numbers = text.split_whitespace().nth(1)?.split('.');
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

fn linker() -> Result<&'static str> {
    ["wasm-ld-19", "wasm-ld", "rust-lld"]
        .into_iter()
        .find(|name| shell::exists(name))
        .context("no linker for wasm: the Debian package lld-19 has one")
}

fn cargo_home() -> Result<PathBuf> {
    if let Some(home) = std::env::var_os("CARGO_HOME") {
        return Ok(home.into());
    }
    let home = std::env::var_os("HOME").context("neither CARGO_HOME nor HOME is set")?;
    Ok(Path::new(&home).join(".cargo"))
}

#[cfg(test)]
mod tests {
    use super::version_of;

    #[test]
    fn a_compiler_says_its_version_in_the_second_word() {
        assert_eq!(
            version_of("rustc 1.96.0 (ac68faa20 2026-05-25)"),
            Some((1, 96))
        );
        assert_eq!(version_of(""), None);
        assert_eq!(version_of("rustc new"), None);
    }
}
