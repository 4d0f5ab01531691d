//! What if a run is told to end? What it has started ends with it, and its files go.

use std::process::ExitCode;

use tokio::signal::unix::{SignalKind, signal};

/// Does something, until it is told to end: then that is dropped in the middle, and with it
/// everything that it has started. The exit status is its own, or as shells have it: 128 and the
/// signal.
pub async fn unless_told(work: impl Future<Output = ExitCode>) -> ExitCode {
    tokio::select! {
        code = work => code,
        status = told() => ExitCode::from(status),
    }
}

/// Waits for Ctrl-C, SIGTERM, or the end of the terminal. From the first call on none of them ends
/// this program by itself.
pub async fn told() -> u8 {
    let wait = |kind: SignalKind| async move {
        match signal(kind) {
            Ok(mut signal) => drop(signal.recv().await),
            // It ends the program by itself.
            Err(_) => std::future::pending().await,
        }
        128 + u8::try_from(kind.as_raw_value()).unwrap_or(0)
    };
    tokio::select! {
        status = wait(SignalKind::interrupt()) => status,
        status = wait(SignalKind::terminate()) => status,
        status = wait(SignalKind::hangup()) => status,
    }
}
