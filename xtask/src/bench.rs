//! What does medbind cost? Builds the programs that measure it as they are deployed, and runs them.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use medbind_workshop::workspace;
use medbind_workshop::{progress, shell};

use crate::EnvoyArgs;
use crate::module::{self, Module};
use crate::programs;

/// What can be measured by itself, as the program that does it names it: a name that is none is
/// noticed here, before anything is built.
const PARTS: [&str; 5] = ["cpu", "first-sight", "memory", "revocation", "module"];

/// The options of `cargo xtask bench`.
#[derive(Args)]
pub struct BenchArgs {
    /// Fewer rounds: in under five minutes, once everything is built
    #[arg(long)]
    quick: bool,
    /// Measure these parts alone
    #[arg(long, value_name = "PART", value_delimiter = ',', value_parser = PARTS)]
    only: Vec<String>,
    /// Write machine, versions, figures and rounds to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    #[command(flatten)]
    envoy: EnvoyArgs,
}

/// `cargo xtask bench`.
pub fn run(args: &BenchArgs) -> Result<ExitCode> {
    progress::say("Getting ready: Envoy, the modules, and in release the medbind command");
    args.envoy.binary()?;
    module::build(&[Module::Deployed, Module::Empty])?;
    let mut cargo = programs::cargo("build");
    cargo.args([
        "--release",
        "--workspace",
        "--bin",
        "medbind",
        "--bin",
        "bench",
    ]);
    shell::run(&mut cargo)?;
    let release = workspace::target().join("release");
    let mut bench = programs::harness_with(
        &release.join("bench"),
        &release.join("medbind"),
        &args.envoy,
    )?;
    bench.env("MEDBIND_EMPTY_MODULE", Module::Empty.path());
    if args.quick {
        bench.arg("--quick");
    }
    for part in &args.only {
        bench.args(["--only", part]);
    }
    if let Some(file) = &args.json {
        bench.arg("--json").arg(std::path::absolute(file)?);
    }
    shell::become_program(&mut bench)
}
