//! How do private files get to the disk? With private modes, whole, and never over what is there.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File, Permissions};
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::{
    DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, fchown,
};
use std::path::Path;

use tempfile::Builder;

use crate::pki::PkiError;

/// Reads a text file.
pub(crate) fn read(path: &Path) -> Result<String, PkiError> {
    fs::read_to_string(path).map_err(|source| PkiError::File {
        doing: "read",
        path: path.to_owned(),
        source,
    })
}

/// Makes `dir` (mode 0700, and its parents) where it is missing.
pub fn create_private_directory(dir: &Path) -> Result<(), PkiError> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .map_err(|source| PkiError::File {
            doing: "create",
            path: dir.to_owned(),
            source,
        })
}

/// Writes the new file `path` with mode 0600, to the disk. One that is there already is an error.
pub fn write_private_file(path: &Path, octets: &[u8]) -> Result<(), PkiError> {
    let failed = |source| PkiError::File {
        doing: "write",
        path: path.to_owned(),
        source,
    };
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .map_err(failed)?;
    file.write_all(octets).map_err(failed)?;
    file.sync_all().map_err(failed)
}

/// Waits until what was made, renamed or removed in `dir` is on the disk.
pub(crate) fn sync_directory(dir: &Path) -> Result<(), PkiError> {
    let synced = fs::File::open(dir).and_then(|dir| dir.sync_all());
    synced.map_err(|source| PkiError::File {
        doing: "write",
        path: dir.to_owned(),
        source,
    })
}

/// Writes `files` (`name` or `folder/name`, and what they hold) into the new directory `dir`, modes
/// 0700 and 0600. They are written beside it first, and renamed: after a crash all of them are
/// there, or none. A directory that is there already is an error.
pub fn write_new_directory(dir: &Path, files: &[(&str, &[u8])]) -> Result<(), PkiError> {
    if dir.exists() {
        return Err(PkiError::Exists(dir.to_owned()));
    }
    let parent = match dir.parent() {
        Some(parent) if parent != Path::new("") => parent,
        Some(_) | None => Path::new("."),
    };
    create_private_directory(parent)?;
    let failed = |source| PkiError::File {
        doing: "write",
        path: dir.to_owned(),
        source,
    };
    let prefix = with_dot(dir);
    let half_written = beside(&prefix, 0o700).tempdir_in(parent).map_err(failed)?;
    for (name, octets) in files {
        let path = half_written.path().join(name);
        let folder = path.parent().unwrap_or(half_written.path());
        create_private_directory(folder)?;
        write_private_file(&path, octets)?;
        sync_directory(folder)?;
    }
    sync_directory(half_written.path())?;
    fs::rename(half_written.path(), dir).map_err(failed)?;
    // It is not there any more to be tidied up.
    let _ = half_written.keep();
    sync_directory(parent)
}

/// Replaces files of `dir`, with mode 0600, and the owner of the ones that were there. All of them
/// are on the disk beside the old ones first, and then take their places one right after the other:
/// a disk that is full leaves the old ones. Who replaces some meanwhile waits, so that a key and its
/// certificate are those of one renewal. Answers what there is to warn of.
pub fn replace_files(dir: &Path, files: &[(&str, &[u8])]) -> Result<Vec<String>, PkiError> {
    let failed = |path: &Path, source| PkiError::File {
        doing: "write",
        path: path.to_owned(),
        source,
    };
    let directory = File::open(dir).map_err(|source| failed(dir, source))?;
    // Some file systems offer no locks. It ends with the value.
    let _ = directory.lock();
    let mut warnings = Vec::new();
    let mut written = Vec::with_capacity(files.len());
    for (name, octets) in files {
        let path = dir.join(name);
        let failed = |source| failed(&path, source);
        let prefix = with_dot(&path);
        let mut half_written = beside(&prefix, 0o600).tempfile_in(dir).map_err(failed)?;
        half_written.write_all(octets).map_err(failed)?;
        warnings.extend(keep_owner(&path, half_written.as_file()));
        half_written.as_file().sync_all().map_err(failed)?;
        if path.is_dir() {
            return Err(failed(ErrorKind::IsADirectory.into()));
        }
        written.push((path, half_written));
    }
    for (path, half_written) in written {
        half_written
            .persist(&path)
            .map_err(|error| failed(&path, error.error))?;
    }
    sync_directory(dir)?;
    Ok(warnings)
}

/// Gives `new` the owner and the group of the file `path`, whose place it is to take: the user that
/// a registry or an Envoy runs as goes on reading what root renews. Answers what there is to warn of
/// where the system refuses.
pub fn keep_owner(path: &Path, new: &File) -> Option<String> {
    let (was, is) = (fs::metadata(path).ok()?, new.metadata().ok()?);
    if (was.uid(), was.gid()) == (is.uid(), is.gid()) {
        return None;
    }
    let refused = fchown(new, Some(was.uid()), Some(was.gid())).err()?;
    // A group reads nothing there.
    (was.uid() != is.uid()).then(|| {
        format!(
            "{path} was user {was}'s and is user {is}'s now, which could not be helped ({refused}): \
             where the one reads it still, as root: chown {was}:{group} {path}",
            path = path.display(),
            was = was.uid(),
            is = is.uid(),
            group = was.gid()
        )
    })
}

/// The name of a file or directory, as the names of what stands beside it begin.
fn with_dot(path: &Path) -> OsString {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".");
    name
}

/// What stands beside a file or directory until it is whole, by a name that nothing else has, such
/// as `key.pem.x3fQ9k.half-written`.
fn beside(prefix: &OsStr, mode: u32) -> Builder<'_, 'static> {
    let mut builder = Builder::new();
    builder
        .prefix(prefix)
        .suffix(".half-written")
        .permissions(Permissions::from_mode(mode));
    builder
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    /// Everything below a directory.
    fn below(dir: &Path) -> Vec<PathBuf> {
        let entries = fs::read_dir(dir).unwrap();
        let mut below: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
        below.sort();
        below
    }

    #[test]
    fn a_new_directory_is_whole_and_private_and_takes_nothing_of_anybodys() {
        let scratch = tempfile::tempdir().unwrap();
        let dir = scratch.path().join("ca");
        let somebodys = scratch.path().join("ca.half-written");
        fs::create_dir(&somebodys).unwrap();
        fs::write(somebodys.join("thesis"), "text").unwrap();
        let files: [(&str, &[u8]); 2] = [("key.pem", b"key"), ("root/key.pem", b"root")];
        write_new_directory(&dir, &files).unwrap();
        assert_eq!(fs::read(dir.join("root/key.pem")).unwrap(), b"root");
        for (path, is) in [
            ("", 0o700),
            ("key.pem", 0o600),
            ("root", 0o700),
            ("root/key.pem", 0o600),
        ] {
            assert_eq!(mode(&dir.join(path)), is, "{path}");
        }
        assert_eq!(fs::read(somebodys.join("thesis")).unwrap(), b"text");
        assert!(matches!(
            write_new_directory(&dir, &files),
            Err(PkiError::Exists(_))
        ));

        // What fails leaves nothing.
        let twice: [(&str, &[u8]); 2] = [("key.pem", b"key"), ("key.pem", b"again")];
        assert!(write_new_directory(&scratch.path().join("other"), &twice).is_err());
        assert_eq!(below(scratch.path()), [dir, somebodys]);
    }

    #[test]
    fn a_file_that_is_replaced_is_private_and_takes_nothing_of_anybodys() {
        let scratch = tempfile::tempdir().unwrap();
        let (key, new) = (
            scratch.path().join("key.pem"),
            scratch.path().join("key.pem.new"),
        );
        fs::write(&key, "old").unwrap();
        fs::set_permissions(&key, Permissions::from_mode(0o644)).unwrap();
        fs::write(&new, "somebody's").unwrap();
        replace_files(scratch.path(), &[("key.pem", b"key")]).unwrap();
        assert_eq!(fs::read(&key).unwrap(), b"key");
        assert_eq!(mode(&key), 0o600);
        assert_eq!(fs::read(&new).unwrap(), b"somebody's");
        assert_eq!(below(scratch.path()), [key, new]);
    }
    #[test]
    fn files_that_are_replaced_together_stay_together_whoever_else_is_at_it() {
        let scratch = tempfile::tempdir().unwrap();
        let dir = scratch.path();
        std::thread::scope(|scope| {
            for who in 0..4_u8 {
                scope.spawn(move || {
                    for _ in 0..20 {
                        let octets = [who];
                        let pair = [("key.pem", &octets[..]), ("cert.pem", &octets[..])];
                        replace_files(dir, &pair).unwrap();
                        let lock = File::open(dir).unwrap();
                        lock.lock().unwrap();
                        let [key, certificate] =
                            ["key.pem", "cert.pem"].map(|name| fs::read(dir.join(name)).unwrap());
                        assert_eq!(key, certificate);
                    }
                });
            }
        });
    }

    #[test]
    fn where_one_of_several_files_cannot_be_written_none_is_replaced() {
        let scratch = tempfile::tempdir().unwrap();
        let dir = scratch.path();
        fs::write(dir.join("key.pem"), "old").unwrap();
        fs::create_dir(dir.join("cert.pem")).unwrap();
        assert!(replace_files(dir, &[("key.pem", b"new"), ("cert.pem", b"new")]).is_err());
        assert_eq!(fs::read(dir.join("key.pem")).unwrap(), b"old");
        assert_eq!(below(dir), [dir.join("cert.pem"), dir.join("key.pem")]);
    }
}
