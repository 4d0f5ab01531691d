//! How is the module built?

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Args;
use medbind_workshop::shell;
use medbind_workshop::workspace;
use sha2::{Digest, Sha256};

use crate::postlink::{self, Shape};
use crate::toolchain::{TARGET, Toolchain};

/// The options of `cargo xtask module`.
#[derive(Args)]
pub struct ModuleArgs {
    /// Build the module of the tests too, which can be told to trap
    #[arg(long)]
    trap: bool,
    /// Print what Envoy has to allow the module, as `allowed_capabilities` of its configuration
    #[arg(long)]
    print: bool,
}

/// Which module?
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Module {
    /// The one that is deployed: `dist/medbind.wasm`.
    Deployed,
    /// The one of the tests, which can be told to trap: `dist/medbind-trap.wasm`.
    Trap,
    /// The one that the benchmark compares with, which does nothing: `dist/bench-empty.wasm`.
    Empty,
}

impl Module {
    fn file(self) -> &'static str {
        match self {
            Self::Deployed => "medbind.wasm",
            Self::Trap => "medbind-trap.wasm",
            Self::Empty => "bench-empty.wasm",
        }
    }

    fn package(self) -> &'static str {
        match self {
            Self::Deployed | Self::Trap => "medbind-filter",
            Self::Empty => "medbind-bench-empty",
        }
    }

    fn features(self) -> &'static [&'static str] {
        match self {
            Self::Deployed | Self::Empty => &[],
            Self::Trap => &["--features", "trap"],
        }
    }

    /// Where the finished module is put.
    pub fn path(self) -> PathBuf {
        workspace::dist().join(self.file())
    }
}

/// `cargo xtask module`.
pub fn run(args: &ModuleArgs) -> Result<ExitCode> {
    let modules: &[Module] = if args.trap {
        &[Module::Deployed, Module::Trap]
    } else {
        &[Module::Deployed]
    };
    build(modules)?;
    for module in modules {
        let path = module.path();
        let bytes = fs::read(&path)?;
        println!(
            "{}  {}  {} octets",
            digest(&bytes),
            path.strip_prefix(workspace::root())
                .unwrap_or(&path)
                .display(),
            bytes.len()
        );
        println!("made by {}", Toolchain::find()?.compiler()?);
        if args.print {
            let shape = Shape::read(&bytes)?;
            let (callbacks, functions) = shape.capabilities();
            println!("allowed_capabilities:\n  # Callbacks.");
            for name in callbacks {
                println!("  {name}: {{}}");
            }
            println!("  # Host functions.");
            for name in functions {
                println!("  {name}: {{}}");
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Builds modules into `dist/`. Does little where nothing changed.
pub fn build(modules: &[Module]) -> Result<()> {
    let toolchain = Toolchain::find()?;
    let compiler = toolchain.compiler()?;
    for module in modules {
        let mut cargo = toolchain.cargo("build")?;
        cargo
            .args(["--package", module.package()])
            .args(["--lib", "--profile", "module"])
            .args(module.features())
            .env("CARGO_ENCODED_RUSTFLAGS", toolchain.module_flags()?);
        let title = format!("building {} for {TARGET}", module.file());
        shell::run_quietly(&title, &mut cargo, Duration::from_mins(30))?;
        let linked = Toolchain::target_dir()
            .join(TARGET)
            .join("module")
            .join(format!("{}.wasm", module.package().replace('-', "_")));
        finish(&linked, *module, &compiler)
            .with_context(|| format!("finishing {}", module.file()))?;
    }
    Ok(())
}

fn finish(linked: &Path, module: Module, compiler: &str) -> Result<()> {
    let bytes = fs::read(linked).with_context(|| format!("{} was not built", linked.display()))?;
    let trimmed = postlink::trim(&bytes)?;
    match module {
        Module::Deployed | Module::Trap => Shape::read(&trimmed)?.is_all_that_is_allowed()?,
        // It uses less than it may.
        Module::Empty => {}
    }
    fs::create_dir_all(workspace::dist())?;
    write_if_changed(&module.path(), &trimmed)?;
    // As `sha256sum --check` reads it, which passes the second line over.
    let line = format!(
        "{}  {}\n# made by {compiler}\n",
        digest(&trimmed),
        module.file()
    );
    write_if_changed(
        &workspace::dist().join(format!("{}.sha256", module.file())),
        line.as_bytes(),
    )
}

/// Files that did not change keep their time, so that what depends on them is not done again.
fn write_if_changed(path: &Path, bytes: &[u8]) -> Result<()> {
    if fs::read(path).is_ok_and(|there| there == bytes) {
        return Ok(());
    }
    let beside = path.with_extension("new");
    fs::write(&beside, bytes)?;
    fs::rename(&beside, path).with_context(|| format!("cannot write {}", path.display()))
}

/// The SHA-256 in lower-case hex digits.
pub fn digest(bytes: &[u8]) -> String {
    const DIGITS: [char; 16] = [
        '0', '1', '2', '3', '4', '5', '6', '7', '8', '9', 'a', 'b', 'c', 'd', 'e', 'f',
    ];
    Sha256::digest(bytes)
        .iter()
        .flat_map(|octet| [octet >> 4, octet & 15])
        .filter_map(|digit| DIGITS.get(usize::from(digit)))
        .collect()
}
