//! The command `medbind`: run a registry, make devices, claim and revoke them, check what guards
//! them, and explain what it decides.
#![deny(
    clippy::disallowed_macros,
    clippy::print_stderr,
    clippy::print_stdout,
    reason = "they panic where nothing can be written"
)]

mod args;
mod backup;
mod batch;
mod begun;
mod ca;
mod check;
mod client;
mod credentials;
mod devices;
mod edge;
mod enrol;
mod explain;
mod failure;
mod files;
mod held;
mod label;
mod ledger;
mod locate;
mod look;
mod markdown;
mod output;
mod provision;
mod serve;
mod shown;
mod sign_in;
mod source;
mod surroundings;
mod trust;
mod workshop;

use std::process::ExitCode;

use clap::{CommandFactory as _, Parser as _};

use crate::args::{Ca, Cli, Command, Edge, Shell};
use crate::failure::{Failure, Kind, Outcome};

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return not_parsed(&error),
    };
    // Fails only where one is installed already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let json = cli.global.json;
    let status = match run(&cli) {
        Ok(status) => status,
        Err(failure) => {
            failure.print(json);
            failure.status()
        }
    };
    match output::unwritten() {
        None => status,
        Some(failure) => {
            failure.print(json);
            if status == ExitCode::SUCCESS {
                failure.status()
            } else {
                status
            }
        }
    }
}

/// What the command line is not, or the help that it asks for.
fn not_parsed(error: &clap::Error) -> ExitCode {
    let mut words = std::env::args_os().take_while(|word| word != "--");
    if error.use_stderr() && words.any(|word| word == "--json") {
        let failure = Failure::of_command_line(error);
        failure.print(true);
        return failure.status();
    }
    // Help that nobody reads is no failure.
    let _ = error.print();
    if error.use_stderr() {
        Kind::Usage.into()
    } else {
        ExitCode::SUCCESS
    }
}

fn run(cli: &Cli) -> Outcome {
    let global = &cli.global;
    match &cli.command {
        Command::Ca(Ca::Init(args)) => ca::init(args, global),
        Command::Ca(Ca::Issue(args)) => credentials::ca_issue(args, global),
        Command::Ca(Ca::Renew(args)) => credentials::ca_renew(args, global),
        Command::Ca(Ca::Show(args)) => credentials::ca_show(args, global),
        Command::Edge(Edge::Init(args)) => edge::init(args, global),
        Command::Provision(args) => provision::provision(args, global),
        Command::Check(args) => check::check(args, global),
        Command::Completions(args) => {
            let shell = match args.shell {
                Shell::Bash => clap_complete::Shell::Bash,
                Shell::Zsh => clap_complete::Shell::Zsh,
                Shell::Fish => clap_complete::Shell::Fish,
            };
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "medbind", &mut script);
            output::octets(&script);
            Ok(ExitCode::SUCCESS)
        }
        Command::HelpMarkdown => {
            output::text(&markdown::commands());
            Ok(ExitCode::SUCCESS)
        }
        Command::Serve(args) => wait(serve::serve(args, global)),
        Command::Stop(args) => wait(serve::stop(args, global)),
        Command::Backup(args) => wait(backup::backup(args, global)),
        Command::Enrol(args) => wait(enrol::enrol(args, global)),
        Command::Claim(args) => wait(devices::claim(args, global)),
        Command::Suspend(args) => wait(devices::suspend(args, global)),
        Command::Resume(args) => wait(devices::resume(args, global)),
        Command::Revoke(args) => wait(devices::revoke(args, global)),
        Command::Release(args) => wait(devices::release(args, global)),
        Command::NewSecret(args) => wait(devices::new_secret(args, global)),
        Command::Expire(args) => wait(devices::expire(args, global)),
        Command::Pin(args) => wait(devices::pin(args, global)),
        Command::Show(args) => wait(look::show(args, global)),
        Command::List(args) => wait(look::list(args, global)),
        Command::Audit(args) => wait(look::audit(args, global)),
        Command::Export(args) => wait(look::export(args, global)),
        Command::Explain(args) => wait(explain::explain(args, global)),
    }
}

/// Runs a command that speaks to the network.
fn wait(command: impl Future<Output = Outcome>) -> Outcome {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build();
    let runtime =
        runtime.map_err(|error| Failure::refused(format_args!("cannot start: {error}")))?;
    let outcome = runtime.block_on(command);
    // Standard input may still be waited for in a thread of its own.
    runtime.shutdown_background();
    outcome
}
