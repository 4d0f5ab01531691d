//! Whose is the data directory? One registry's at a time, by a lock that the system keeps.

use std::fs::{self, File, TryLockError};
use std::io::{ErrorKind, Read as _, Seek as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use crate::files::create_private_directory;
use crate::pki::PkiError;

/// The database's file name.
pub const DATABASE_FILE: &str = "registry.sqlite";
const LOCK_FILE: &str = "registry.lock";

/// A file or directory that a start made, to be told to whoever started it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Made {
    /// What it is, for a person.
    pub what: &'static str,
    /// Where it is.
    pub path: PathBuf,
}

/// Why the data directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DataDirError {
    /// It cannot be made, or written to.
    #[error(
        "cannot write to the data directory {}: {source}; {}",
        path.display(),
        write_advice(source)
    )]
    NotWritable {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Another registry runs on it.
    #[error(
        "another registry{} uses the data directory {}: stop it first (medbind stop --data-dir \
         {1}), or choose another directory",
        process.as_ref().map(|process| format!(" (process {process})")).unwrap_or_default(),
        path.display()
    )]
    InUse {
        /// The directory.
        path: PathBuf,
        /// The other's process number, where the system lets it be seen.
        process: Option<u32>,
    },
    /// The infrastructure CA is gone, and what it signed is there.
    #[error(
        "{} is missing, but what it signed is there: put it back from a backup, or move server, \
         edge and operator away too to begin anew",
        .0.display()
    )]
    CaMissing(PathBuf),
    /// A certificate is missing, and the CA's key that could make it is not there.
    #[error("{} is missing, and without {} it cannot be made", missing.display(), key.display())]
    NoCaKey {
        /// What is missing.
        missing: PathBuf,
        /// The CA's key.
        key: PathBuf,
    },
    /// A certificate or a key that does not parse, or is not the other's.
    #[error("{}: {source}; put it back from a backup", path.display())]
    Certificate {
        /// The file, or the directory of both.
        path: PathBuf,
        /// What is wrong with it.
        source: PkiError,
    },
    /// Certificates and keys.
    #[error(transparent)]
    Pki(#[from] PkiError),
}

/// A data directory that was looked at, and in which nothing was made yet.
#[derive(Debug)]
pub(crate) struct Found {
    path: PathBuf,
    /// The lock, where a registry has been here before: nobody else has it.
    lock: Option<File>,
}

/// A data directory that is ours alone for as long as this value lives.
#[derive(Debug)]
pub(crate) struct DataDir {
    path: PathBuf,
    lock: File,
}

/// What is no error where there is nothing yet.
fn is_nothing(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory)
}

/// The lock's file, where it is there.
pub(crate) fn open_lock(data_dir: &Path) -> std::io::Result<Option<File>> {
    let opened = File::options()
        .read(true)
        .write(true)
        .open(data_dir.join(LOCK_FILE));
    match opened {
        Ok(lock) => Ok(Some(lock)),
        Err(error) if is_nothing(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

/// The process that holds the lock. The system says whether it does: the number in the file is what
/// a registry wrote once, and after a crash may be anybody's. One that began on a full disk could
/// not write it: it is looked for among all.
pub(crate) fn holder(lock: &File) -> Option<u32> {
    match number(lock) {
        Some(process) => holds(process, lock).then_some(process),
        // Nobody else's program that may hold the file for a reason of its own.
        None => processes().find(|process| is_like_us(*process) && holds(*process, lock)),
    }
}

fn number(mut lock: &File) -> Option<u32> {
    let mut text = String::new();
    lock.rewind().ok()?;
    lock.read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

/// Whether a process runs a program of our name.
fn is_like_us(process: u32) -> bool {
    let name = |link: String| {
        let program = fs::read_link(link).ok()?;
        let name = program.file_name()?.to_str()?;
        // One that was replaced since it was started (proc(5)).
        Some(name.trim_end_matches(" (deleted)").to_owned())
    };
    let ours = name("/proc/self/exe".to_owned());
    ours.is_some() && name(format!("/proc/{process}/exe")) == ours
}

fn processes() -> impl Iterator<Item = u32> {
    let all = fs::read_dir("/proc").into_iter().flatten().flatten();
    all.filter_map(|process| process.file_name().to_str()?.parse().ok())
}

/// Whether a process has this file open, and a lock on it (proc(5), `/proc/pid/fdinfo`).
pub(crate) fn holds(process: u32, lock: &File) -> bool {
    let Ok(ours) = lock.metadata() else {
        return false;
    };
    let folder = PathBuf::from(format!("/proc/{process}"));
    let Ok(open) = fs::read_dir(folder.join("fd")) else {
        return false;
    };
    open.flatten().any(|file| {
        let same = fs::metadata(file.path())
            .is_ok_and(|theirs| (theirs.dev(), theirs.ino()) == (ours.dev(), ours.ino()));
        let told = folder.join("fdinfo").join(file.file_name());
        same && fs::read_to_string(told).is_ok_and(|told| told.contains("FLOCK"))
    })
}

impl DataDir {
    /// Looks at a directory, which need not be there. Where a registry has been, its lock is taken;
    /// nothing is made, and nothing is written.
    pub fn find(path: &Path) -> Result<Found, DataDirError> {
        let lock = open_lock(path).map_err(|source| not_writable(path, source))?;
        if let Some(lock) = &lock {
            try_lock(path, lock)?;
        }
        Ok(Found {
            path: path.to_owned(),
            lock,
        })
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The database's file; made empty, with mode 0600, where it is missing.
    pub fn database(&self) -> Result<(PathBuf, Option<Made>), DataDirError> {
        let path = self.path.join(DATABASE_FILE);
        let made = File::options()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path);
        match made {
            Ok(_) => {
                let made = Made {
                    what: "database",
                    path: path.clone(),
                };
                Ok((path, Some(made)))
            }
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok((path, None)),
            Err(source) => Err(DataDirError::NotWritable {
                path: self.path.clone(),
                source,
            }),
        }
    }
}

impl Found {
    /// Where the database is, or will be.
    pub fn database(&self) -> PathBuf {
        self.path.join(DATABASE_FILE)
    }

    /// Makes the directory where it is missing, and takes it.
    pub fn take(self) -> Result<DataDir, DataDirError> {
        let Self { path, lock } = self;
        let failed = |source| not_writable(&path, source);
        let mut lock = if let Some(lock) = lock {
            lock
        } else {
            create_private_directory(&path).map_err(|error| match error {
                PkiError::File { source, .. } => failed(source),
                other => other.into(),
            })?;
            let lock = File::options()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .mode(0o600)
                .open(path.join(LOCK_FILE))
                .map_err(failed)?;
            try_lock(&path, &lock)?;
            lock
        };
        match write_number(&mut lock) {
            // The lock is what counts, and needs no room: who holds it the system says, too.
            Err(error) if is_full(&error) => {
                let _ = lock.set_len(0);
            }
            written => written.map_err(failed)?,
        }
        Ok(DataDir { path, lock })
    }
}

impl Drop for DataDir {
    /// The number is nobody's from now on.
    fn drop(&mut self) {
        // Whoever reads it asks the system whether it holds.
        let _ = self.lock.set_len(0);
    }
}

fn write_number(lock: &mut File) -> std::io::Result<()> {
    let line = format!("{}\n", std::process::id());
    lock.rewind()?;
    lock.write_all(line.as_bytes())?;
    lock.set_len(line.len() as u64)
}

fn is_full(error: &std::io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded
    )
}

fn write_advice(source: &std::io::Error) -> &'static str {
    if is_full(source) {
        "free some space and start again"
    } else {
        "choose another, or make it writable for this user"
    }
}

fn not_writable(path: &Path, source: std::io::Error) -> DataDirError {
    DataDirError::NotWritable {
        path: path.to_owned(),
        source,
    }
}

fn try_lock(path: &Path, lock: &File) -> Result<(), DataDirError> {
    match lock.try_lock() {
        Ok(()) => Ok(()),
        Err(TryLockError::WouldBlock) => Err(DataDirError::InUse {
            path: path.to_owned(),
            process: holder(lock),
        }),
        Err(TryLockError::Error(source)) => Err(not_writable(path, source)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    fn take(path: &Path) -> Result<DataDir, DataDirError> {
        DataDir::find(path)?.take()
    }

    #[test]
    fn a_directory_is_taken_once_and_is_private() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("data");
        let first = take(&path).unwrap();
        let mode = fs::metadata(&path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o700);
        let error = take(&path).unwrap_err().to_string();
        let process = format!("(process {})", std::process::id());
        assert!(error.contains(&process), "{error}");
        drop(first);
        assert_eq!(fs::read_to_string(path.join(LOCK_FILE)).unwrap(), "");
        take(&path).unwrap();
    }

    #[test]
    fn a_number_that_a_crash_left_is_nobodys() {
        let scratch = tempfile::tempdir().unwrap();
        // A process that is there, and has nothing to do with it.
        let mut stranger = std::process::Command::new("sleep")
            .arg("60")
            .spawn()
            .unwrap();
        let path = scratch.path().join(LOCK_FILE);
        fs::write(&path, format!("{}\n", stranger.id())).unwrap();
        let found = DataDir::find(scratch.path()).unwrap();
        let error = DataDir::find(scratch.path()).unwrap_err();
        assert!(
            matches!(error, DataDirError::InUse { process: None, .. }),
            "{error}"
        );
        let ours = found.take().unwrap();
        let other = open_lock(scratch.path()).unwrap().unwrap();
        assert_eq!(holder(&other), Some(std::process::id()));
        drop(ours);
        stranger.kill().unwrap();
        stranger.wait().unwrap();
    }

    #[test]
    fn who_could_not_write_its_number_is_found() {
        let scratch = tempfile::tempdir().unwrap();
        let ours = take(scratch.path()).unwrap();
        ours.lock.set_len(0).unwrap();
        let other = open_lock(scratch.path()).unwrap().unwrap();
        assert_eq!(holder(&other), Some(std::process::id()));
    }

    #[test]
    fn a_full_disk_keeps_nobody_from_the_lock() {
        let scratch = tempfile::tempdir().unwrap();
        let found = Found {
            path: scratch.path().to_owned(),
            // Takes a lock, and no octet.
            lock: Some(File::options().write(true).open("/dev/full").unwrap()),
        };
        found.take().unwrap();
    }

    #[test]
    fn looking_makes_nothing() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("data");
        DataDir::find(&path).unwrap();
        assert!(!path.exists());
        DataDir::find(scratch.path()).unwrap();
        assert_eq!(fs::read_dir(scratch.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_full_disk_is_no_question_of_who_may_write() {
        for (kind, told) in [
            (ErrorKind::StorageFull, "free some space"),
            (ErrorKind::QuotaExceeded, "free some space"),
            (ErrorKind::PermissionDenied, "make it writable"),
        ] {
            let error = not_writable(Path::new("data"), kind.into()).to_string();
            assert!(error.contains(told), "{error}");
        }
    }

    #[test]
    fn a_file_is_no_data_directory() {
        let scratch = tempfile::NamedTempFile::new().unwrap();
        let error = take(&scratch.path().join("data")).unwrap_err();
        assert!(matches!(error, DataDirError::NotWritable { .. }), "{error}");
    }
}
