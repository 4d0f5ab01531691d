//! How does an operator keep a copy of what the registry knows?

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
        BackupError::Database(_)
        | BackupError::Write { .. }
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
