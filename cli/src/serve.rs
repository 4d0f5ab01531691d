//! How does the registry run, and stop?

use std::io::ErrorKind;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use medbind_registry::{Config, StartError, StopError};
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};
use tracing::Level;

use crate::args::{Global, Serve, Stop};
use crate::failure::{Failure, Outcome};
use crate::output::{self, put};

/// What `MEDBIND_LOG` may say.
const LEVELS: [(&str, Level); 5] = [
    ("error", Level::ERROR),
    ("warn", Level::WARN),
    ("info", Level::INFO),
    ("debug", Level::DEBUG),
    ("trace", Level::TRACE),
];

/// A registry that stops lets requests end that run, at most 10 s; then the database is closed.
const STOP_PATIENCE: Duration = Duration::from_mins(1);

/// `medbind serve`: until Ctrl-C or SIGTERM.
pub async fn serve(args: &Serve, global: &Global) -> Outcome {
    let filter = std::env::var("MEDBIND_LOG").unwrap_or_default();
    let filter = if filter.is_empty() { "info" } else { &*filter };
    // The five words alone: a filter of the crate's own language takes a typing error for the name of
    // a target, and logs nothing.
    let level = LEVELS.iter().find(|(word, _)| *word == filter);
    let (_, level) = level.ok_or_else(|| {
        Failure::usage(format_args!("MEDBIND_LOG={filter}: no level of the log"))
            .next("set it to error, warn, info, debug or trace")
    })?;
    let log = tracing_subscriber::fmt()
        .with_max_level(*level)
        .with_writer(std::io::stderr)
        // It would write of a line that cannot be written to standard error, which panics where
        // that takes nothing.
        .log_internal_errors(false)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()));
    // A second subscriber is no error: the first goes on.
    let _ = if global.json {
        log.json().try_init()
    } else {
        log.try_init()
    };

    for name in &args.server_names {
        medbind_registry::pki::check_server_name(name).map_err(|error| {
            Failure::usage(format_args!("--server-name: {error}"))
                .next("write the name or address alone: registry.example, 10.0.0.7")
        })?;
    }
    let mut config = Config::new(&args.data_dir);
    config.listen = args.listen;
    config.server_names.clone_from(&args.server_names);
    config.max_connections = usize::try_from(args.max_connections).unwrap_or(usize::MAX);

    // Before the start, so that no signal is lost once the address is told.
    let failed = |error: std::io::Error| Failure::refused(format_args!("no signals: {error}"));
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;

    let mut running = medbind_registry::start(config)
        .await
        .map_err(|error| not_started(&error))?;
    let address = running.local_addr();
    if global.json {
        let made: Vec<_> = running
            .made()
            .iter()
            .map(|made| json!({"what": made.what, "path": made.path.display().to_string()}))
            .collect();
        let told = json!({
            "address": address.to_string(),
            "made": made,
            "warnings": running.warnings(),
        });
        output::announce(&format!("{told}\n"));
    } else {
        let (bold, yellow, dim) = (output::BOLD, output::YELLOW, output::DIM);
        let mut text = String::new();
        for made in running.made() {
            put!(text, "made {}: {}\n", made.what, made.path.display());
        }
        for warning in running.warnings() {
            put!(text, "{yellow}warning:{yellow:#} {warning}\n");
        }
        put!(text, "{bold}listening on https://{address}{bold:#}\n");
        put!(
            text,
            "{dim}next: medbind list --registry https://localhost:{} --credentials {}{dim:#}\n",
            address.port(),
            an_operator(&args.data_dir)
        );
        output::announce(&text);
    }
    let broken = tokio::select! {
        _ = interrupt.recv() => None,
        _ = terminate.recv() => None,
        broken = running.broken() => Some(broken),
    };
    running.shutdown().await;
    match broken {
        None => Ok(ExitCode::SUCCESS),
        Some(what) => Err(Failure::refused(what).next("start it again")),
    }
}

/// Which credentials the next step may name: the operator's may have been moved away.
fn an_operator(data_dir: &Path) -> String {
    let operator = data_dir.join("operator");
    if operator.exists() {
        operator.display().to_string()
    } else {
        "DIR (an operator's)".to_owned()
    }
}

/// Whether it may go well the next time says the exit status: 1 where it may, 2 where the command
/// line or the data directory has to be changed first.
fn not_started(error: &StartError) -> Failure {
    if error.is_configuration() {
        Failure::usage(error)
    } else {
        Failure::refused(error)
    }
}

/// Who may stop it, where this user may not.
fn not_stopped(error: &StopError) -> Failure {
    let failure = Failure::refused(error);
    match error {
        StopError::Lock { source, .. } | StopError::Refused { source, .. }
            if source.kind() == ErrorKind::PermissionDenied =>
        {
            failure.next("run it as the user that the registry runs as, or as root")
        }
        StopError::StillRunning { .. } => failure.next("see its own log, of `medbind serve`"),
        StopError::Lock { .. } | StopError::Refused { .. } | StopError::Unseen(_) => failure,
    }
}

/// `medbind stop`.
pub async fn stop(args: &Stop, global: &Global) -> Outcome {
    if !args.data_dir.is_dir() {
        return Err(
            Failure::usage(format_args!("{} is no directory", args.data_dir.display()))
                .next("name the directory that `medbind serve` was given with --data-dir"),
        );
    }
    let stopped = medbind_registry::stop(&args.data_dir, STOP_PATIENCE)
        .await
        .map_err(|error| not_stopped(&error))?;
    if global.json {
        output::json(&json!({"stopped": stopped.is_some(), "process": stopped}));
    } else {
        output::line(&match stopped {
            Some(process) => format!("stopped (process {process})"),
            None => format!("no registry runs on {}", args.data_dir.display()),
        });
    }
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_step_names_an_operators_directory_that_is_there() {
        let scratch = tempfile::tempdir().unwrap();
        assert_eq!(an_operator(scratch.path()), "DIR (an operator's)");
        let operator = scratch.path().join("operator");
        std::fs::create_dir(&operator).unwrap();
        assert_eq!(an_operator(scratch.path()), operator.display().to_string());
    }
}
