//! How does an operator keep a copy of what the registry knows?

use std::io::ErrorKind;
use std::process::ExitCode;

use medbind_registry::{BackupError, OpenError};
use serde_json::json;

use crate::args::{Backup, Global};
use crate::failure::{Failure, Outcome};
use crate::output::{self, put};

/// `medbind backup`.
pub async fn backup(args: &Backup, global: &Global) -> Outcome {
    let made = medbind_registry::backup(&args.data_dir, &args.file).await;
    let made = made.map_err(|error| match error {
        BackupError::Nothing(_) => Failure::usage(&error)
            .next("name the directory that `medbind serve` was given with --data-dir"),
        BackupError::Database(OpenError::NotOurs(_) | OpenError::Newer { .. }) => {
            Failure::usage(&error)
        }
        BackupError::Exists(_) => Failure::refused(&error).next("choose another file"),
        BackupError::NoPlace { .. } => Failure::refused(&error)
            .next("name a file on another file system, and copy it from there"),
        BackupError::Damaged(_) => {
            Failure::refused(&error).next("keep the backups that you have, and restore one")
        }
        BackupError::Write { ref source, .. } => {
            let failure = Failure::refused(&error);
            match source.kind() {
                ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => failure.next(
                    "name a file in a directory that this user may write to, or run it as a user who \
                     may",
                ),
                ErrorKind::NotFound | ErrorKind::NotADirectory => {
                    failure.next("make the directory first, or name a file in one that is there")
                }
                ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
                    failure.next("free some space there, or name a file on another disk")
                }
                _ => failure,
            }
        }
        BackupError::Database(_)
        | BackupError::Copy { .. }
        | BackupError::Disk(_) => Failure::refused(&error),
    })?;
    let beside: Vec<String> = made
        .beside
        .iter()
        .map(|path| path.display().to_string())
        .collect();
    if global.json {
        output::json(&json!({
            "file": args.file.display().to_string(),
            "octets": made.octets,
            "head": made.head,
            "beside": beside,
        }));
    } else {
        let (bold, dim) = (output::BOLD, output::DIM);
        let mut text = format!(
            "{bold}{}{bold:#}: {} octets, up to revision {}\n",
            args.file.display(),
            made.octets,
            made.head
        );
        if !beside.is_empty() {
            put!(
                text,
                "{dim}not in it, keep them too: {}{dim:#}\n",
                beside.join(", ")
            );
        }
        output::text(&text);
    }
    Ok(ExitCode::SUCCESS)
}
