//! The one tool a newcomer needs. `cargo xtask demo` tells the story, `cargo xtask test` tests
//! it, `cargo xtask module` builds what Envoy loads.

mod bench;
mod compose;
mod envoy;
mod fuzz;
mod host;
mod module;
mod mutants;
mod postlink;
mod programs;
mod tally;
mod test;
mod tool;
mod toolchain;
mod vectors;
mod wheel;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, Parser, Subcommand};
use medbind_workshop::progress;
use medbind_workshop::workspace::NEWEST_ENVOY;

#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", about, version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Tell the whole story with real devices, a real Envoy and a real registry
    Demo(DemoArgs),
    /// Run the tests: format, lints, native, wasm32, the module's shape, a real Envoy
    Test(test::TestArgs),
    /// Build the module into dist/medbind.wasm, with its SHA-256 beside it
    Module(module::ModuleArgs),
    /// Look for inputs that break a promise: certificate, configuration, feed, path
    Fuzz(fuzz::FuzzArgs),
    /// Change what decides in one place after the other, and see whether a test fails each time
    Mutants(mutants::MutantsArgs),
    /// Measure what medbind costs, against the alternatives and against its goals
    ///
    /// Prints a table of figures and goals. A goal that is missed is a figure like any other: the
    /// exit status is 0 wherever everything could be measured.
    Bench(bench::BenchArgs),
    /// The story's parts as containers: start them, or tell the story across them
    Compose(compose::ComposeArgs),
    /// Get an Envoy, checked against its pinned SHA-256, and print where it is
    Envoy {
        /// Which release, of those that are pinned
        #[arg(default_value = NEWEST_ENVOY)]
        version: String,
    },
}

#[derive(Args)]
struct DemoArgs {
    /// Leave everything running at the end, until Ctrl-C
    #[arg(long)]
    keep: bool,
    #[command(flatten)]
    envoy: EnvoyArgs,
}

/// Which Envoy to use.
#[derive(Args, Clone, Default)]
struct EnvoyArgs {
    /// A pinned release (1.40.0), or the path of an Envoy binary of your own
    #[arg(long, value_name = "VERSION|PATH")]
    envoy: Option<String>,
}

impl EnvoyArgs {
    /// Fails where what was asked for is no Envoy; fetches nothing.
    fn check(&self) -> Result<()> {
        self.envoy.as_deref().map_or(Ok(()), envoy::check)
    }

    /// The binary to run, fetched where it has to be.
    fn binary(&self) -> Result<PathBuf> {
        envoy::find(self.envoy.as_deref().unwrap_or(NEWEST_ENVOY))
    }
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Demo(args) => programs::demo(&args.envoy, args.keep),
        Command::Test(args) => Ok(test::run(&args)),
        Command::Module(args) => module::run(&args),
        Command::Mutants(args) => mutants::run(&args),
        Command::Fuzz(args) => fuzz::run(&args),
        Command::Bench(args) => bench::run(&args),
        Command::Compose(args) => compose::run(&args),
        Command::Envoy { version } => envoy::run(&version),
    };
    match result {
        Ok(code) => code,
        Err(error) => {
            progress::report(&error);
            ExitCode::FAILURE
        }
    }
}
