//! How is the database copied while the registry runs?

use core::time::Duration;
use std::fs::{self, Permissions};
use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use sqlx::Connection as _;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};

use crate::certificates::DIRECTORIES;
use crate::data_dir::DATABASE_FILE;
use crate::files::sync_directory;
use crate::ownership;
use crate::pki::PkiError;
use crate::store::OpenError;

/// A copy that was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backup {
    /// The revision of the newest change in it; 0 where there is none.
    pub head: u64,
    /// Its size.
    pub octets: u64,
    /// What is not in it and belongs with it: certificates and keys.
    pub beside: Vec<PathBuf>,
}

/// Why no copy was made. Nothing of it is left behind.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// There is no database.
    #[error("{} holds no database of a registry", .0.display())]
    Nothing(PathBuf),
    /// It is not one to be copied.
    #[error(transparent)]
    Database(#[from] OpenError),
    /// A file that is there already.
    #[error("{} is there already, and backups are never overwritten", .0.display())]
    Exists(PathBuf),
    /// The copy cannot be written.
    #[error("cannot write {}: {source}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The copy cannot be put into its place without replacing what may stand there.
    #[error(
        "cannot write {}: its file system neither renames without replacing nor makes hard links \
         ({source})",
        path.display()
    )]
    NoPlace {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// What `SQLite` says.
    #[error("cannot copy the database to {}: {source}", path.display())]
    Copy {
        /// The file.
        path: PathBuf,
        /// What `SQLite` said.
        source: sqlx::Error,
    },
    /// The copy does not hold together, and so the database does not.
    #[error("the database is damaged: {0}")]
    Damaged(String),
    /// It cannot be put on the disk.
    #[error(transparent)]
    Disk(#[from] PkiError),
}

/// Copies the database of `data_dir` into the new file `to` (mode 0600): one moment of it, whole, on
/// the disk, and looked through. A registry that runs goes on meanwhile.
pub async fn backup(data_dir: &Path, to: &Path) -> Result<Backup, BackupError> {
    let database = data_dir.join(DATABASE_FILE);
    if fs::metadata(&database).map_or(true, |file| file.len() == 0) {
        return Err(BackupError::Nothing(data_dir.to_owned()));
    }
    ownership::check(&database).await?;
    if to.exists() {
        return Err(BackupError::Exists(to.to_owned()));
    }
    let (head, octets) = copy(&database, to).await?;
    let beside = DIRECTORIES.iter().map(|name| data_dir.join(name));
    Ok(Backup {
        head,
        octets,
        beside: beside.filter(|dir| dir.exists()).collect(),
    })
}

async fn copy(database: &Path, to: &Path) -> Result<(u64, u64), BackupError> {
    let folder = match to.parent() {
        Some(parent) if parent != Path::new("") => parent,
        Some(_) | None => Path::new("."),
    };
    let failed = |source| BackupError::Write {
        path: to.to_owned(),
        source,
    };
    let of_sqlite = |source| BackupError::Copy {
        path: to.to_owned(),
        source,
    };
    // A name of its own: another backup may be on its way to the same file. It goes with the value.
    let mut prefix = to.file_name().unwrap_or_default().to_owned();
    prefix.push(".");
    let half_written = tempfile::Builder::new()
        .prefix(&prefix)
        .suffix(".half-written")
        .permissions(Permissions::from_mode(0o600))
        .tempfile_in(folder)
        // Without the name of what is beside it, which nobody has asked for.
        .map_err(|error| failed(error.kind().into()))?;
    let name = half_written.path().to_str().ok_or_else(|| {
        failed(std::io::Error::other(
            "SQLite takes no path that is not UTF-8",
        ))
    })?;
    let reading = SqliteConnectOptions::new()
        .create_if_missing(false)
        .read_only(true)
        .busy_timeout(Duration::from_secs(10));
    let from = reading.clone().filename(database);
    let mut from = SqliteConnection::connect_with(&from)
        .await
        .map_err(of_sqlite)?;
    sqlx::query("VACUUM INTO ?1")
        .bind(name)
        .execute(&mut from)
        .await
        .map_err(of_sqlite)?;
    from.close().await.map_err(of_sqlite)?;

    let looking = reading.filename(half_written.path()).immutable(true);
    let mut copied = SqliteConnection::connect_with(&looking)
        .await
        .map_err(of_sqlite)?;
    let verdict: String = sqlx::query_scalar("PRAGMA quick_check(1)")
        .fetch_one(&mut copied)
        .await
        .map_err(of_sqlite)?;
    if verdict != "ok" {
        return Err(BackupError::Damaged(verdict));
    }
    let head: i64 = sqlx::query_scalar("SELECT coalesce(max(revision), 0) FROM changes")
        .fetch_one(&mut copied)
        .await
        .map_err(of_sqlite)?;
    copied.close().await.map_err(of_sqlite)?;

    // `SQLite` leaves this to us.
    half_written.as_file().sync_all().map_err(failed)?;
    let octets = half_written.as_file().metadata().map_err(failed)?.len();
    // Not over one that has come meanwhile: by a rename, or else by a hard link.
    half_written
        .persist_noclobber(to)
        .map_err(|error| not_placed(to, error.error))?;
    sync_directory(folder)?;
    Ok((u64::try_from(head).unwrap_or(0), octets))
}

/// Why a copy that is whole did not come into its place.
fn not_placed(to: &Path, source: std::io::Error) -> BackupError {
    let path = to.to_owned();
    match source.kind() {
        ErrorKind::AlreadyExists => BackupError::Exists(path),
        // What Linux says of file systems that offer neither: EPERM, EOPNOTSUPP, ENOSYS, EINVAL.
        ErrorKind::PermissionDenied | ErrorKind::Unsupported | ErrorKind::InvalidInput => {
            BackupError::NoPlace { path, source }
        }
        _ => BackupError::Write { path, source },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Error;

    #[test]
    fn a_file_system_that_takes_no_copy_is_named_as_the_cause() {
        let to = Path::new("copy");
        for os in [
            rustix::io::Errno::PERM,
            rustix::io::Errno::OPNOTSUPP,
            rustix::io::Errno::INVAL,
        ] {
            let error = not_placed(to, Error::from_raw_os_error(os.raw_os_error()));
            assert!(
                error.to_string().contains("its file system neither"),
                "{error}"
            );
        }
        let there = not_placed(to, ErrorKind::AlreadyExists.into());
        assert!(matches!(there, BackupError::Exists(_)), "{there}");
        let full = not_placed(to, ErrorKind::StorageFull.into());
        assert!(matches!(full, BackupError::Write { .. }), "{full}");
    }
}
