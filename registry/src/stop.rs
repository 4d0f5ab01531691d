//! How is a registry stopped that runs in another process?

use core::time::Duration;
use std::fs::TryLockError;
use std::path::{Path, PathBuf};

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tokio::time::{Instant, sleep};

use crate::data_dir::{holder, holds, open_lock};

/// How often it is looked whether it has stopped.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// A registry writes its number down right after it has taken its directory.
const NUMBER_TIMEOUT: Duration = Duration::from_secs(2);

/// Why a registry could not be stopped.
#[derive(Debug, thiserror::Error)]
pub enum StopError {
    /// The lock cannot be looked at.
    #[error("cannot look at the lock of the data directory {}: {source}", path.display())]
    Lock {
        /// The data directory.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The process that holds the lock is not seen from here.
    #[error(
        "a registry runs on {}, and its process cannot be seen from here: stop it where it was \
         started, as the same user",
        .0.display()
    )]
    Unseen(PathBuf),
    /// It may not be told.
    #[error("cannot stop the registry (process {process}): {source}")]
    Refused {
        /// Its process.
        process: u32,
        /// What the system said.
        source: std::io::Error,
    },
    /// It was told, and goes on.
    #[error("the registry (process {process}) was told to stop, and still runs")]
    StillRunning {
        /// Its process.
        process: u32,
    },
}

/// Tells the registry that runs on `data_dir` to stop, and waits until it has, at most `patience`.
/// Answers its process number; `None` where none runs. Whoever else has the number that stands in
/// the directory is not touched: the system says who holds the lock.
pub async fn stop(data_dir: &Path, patience: Duration) -> Result<Option<u32>, StopError> {
    let failed = |source| StopError::Lock {
        path: data_dir.to_owned(),
        source,
    };
    let Some(lock) = open_lock(data_dir).map_err(failed)? else {
        return Ok(None);
    };
    let is_free = || match lock.try_lock() {
        Ok(()) => Ok(true),
        Err(TryLockError::WouldBlock) => Ok(false),
        Err(TryLockError::Error(source)) => Err(failed(source)),
    };
    let begun = Instant::now();
    let process = loop {
        if is_free()? {
            return Ok(None);
        }
        match holder(&lock) {
            Some(process) => break process,
            None if begun.elapsed() > NUMBER_TIMEOUT => {
                return Err(StopError::Unseen(data_dir.to_owned()));
            }
            None => sleep(LOOK_EVERY).await,
        }
    };
    let refused = |source: rustix::io::Errno| StopError::Refused {
        process,
        source: source.into(),
    };
    let pid = i32::try_from(process).ok().and_then(Pid::from_raw);
    let pid = pid.ok_or_else(|| StopError::Unseen(data_dir.to_owned()))?;
    match pidfd_open(pid, PidfdFlags::empty()) {
        // From here on it is this process and no later one of the same number.
        Ok(handle) if holds(process, &lock) => {
            pidfd_send_signal(&handle, Signal::TERM).map_err(refused)?;
        }
        // It has ended by itself just now.
        Ok(_) | Err(rustix::io::Errno::SRCH) => {}
        Err(error) => return Err(refused(error)),
    }
    while !is_free()? {
        if begun.elapsed() > patience {
            return Err(StopError::StillRunning { process });
        }
        sleep(LOOK_EVERY).await;
    }
    Ok(Some(process))
}
