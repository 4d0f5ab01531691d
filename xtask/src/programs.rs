//! What is built and run for the subcommands that are programs of their own.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use anyhow::Result;
use medbind_workshop::workspace;
use medbind_workshop::{progress, shell};

use crate::EnvoyArgs;
use crate::module::{self, Module};

/// A cargo command for the native build.
pub fn cargo(subcommand: &str) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.arg(subcommand).current_dir(workspace::root());
    forget_own_package(&mut command);
    command
}

/// Takes away what cargo says of this package. Build scripts that watch it (ring's) would run
/// again, and half of the dependencies with them, each time after a build without `cargo xtask`.
pub fn forget_own_package(command: &mut Command) {
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("CARGO_PKG_") || text.starts_with("CARGO_MANIFEST_") {
            command.env_remove(&name);
        }
    }
}

/// Builds programs of the workspace: named by their binaries.
pub fn build(programs: &[&str]) -> Result<()> {
    let mut command = cargo("build");
    // The whole workspace, so that dependencies have the same features whichever program is built.
    command.arg("--workspace");
    for program in programs {
        command.args(["--bin", program]);
    }
    shell::run(&mut command)
}

/// Builds all programs of the workspace, beside its tests: what the tests depend on has other
/// features than what the programs do, and would be built twice where they are tested.
pub fn build_with_tests() -> Result<()> {
    shell::run(cargo("build").args(["--workspace", "--all-targets"]))
}

/// Where cargo puts a program of the workspace.
pub fn path(program: &str) -> PathBuf {
    workspace::target().join("debug").join(program)
}

/// A program of the harness, told where all that it needs is.
pub fn harness(program: &str, envoy: &EnvoyArgs) -> Result<Command> {
    harness_with(&path(program), &path("medbind"), envoy)
}

/// The same, where this and the `medbind` command were built in another way.
pub fn harness_with(program: &Path, medbind: &Path, envoy: &EnvoyArgs) -> Result<Command> {
    let mut command = Command::new(program);
    command
        .current_dir(workspace::root())
        .env("MEDBIND_ENVOY", envoy.binary()?)
        .env("MEDBIND_COMMAND", medbind)
        .env("MEDBIND_MODULE", Module::Deployed.path())
        .env("MEDBIND_TRAP_MODULE", Module::Trap.path())
        .stdin(Stdio::null());
    Ok(command)
}

/// `cargo xtask demo`.
pub fn demo(envoy: &EnvoyArgs, keep: bool) -> Result<ExitCode> {
    progress::say("Getting ready: Envoy, the module, the medbind command");
    envoy.binary()?;
    module::build(&[Module::Deployed])?;
    build(&["medbind", "demo"])?;
    let mut demo = harness("demo", envoy)?;
    if keep {
        demo.arg("--keep");
    }
    shell::become_program(&mut demo)
}
