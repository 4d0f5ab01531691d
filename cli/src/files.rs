//! How is a file replaced so that whoever is interrupted leaves the old one or the new one, whole?

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use medbind_registry::pki::keep_owner;
use tempfile::NamedTempFile;

use crate::failure::Failure;
use crate::output;

/// The name of what is written beside a file: a dot, the file's, so many letters and digits by
/// chance, and this.
const NEW: &str = ".new";
const RANDOM: usize = 6;

/// A file that is being written anew.
#[derive(Debug)]
pub struct Replacement {
    path: PathBuf,
    to: To,
}

#[derive(Debug)]
enum To {
    /// A file beside it, mode 0600, that takes its place at the end, with the owner of the one that
    /// was there. It is gone where the end is never reached.
    Beside(NamedTempFile),
    /// A pipe or a device: it is written to as it is.
    Itself(File),
}

impl Replacement {
    /// Begins; nothing of the old file is touched yet.
    pub fn of(path: &Path) -> Result<Self, Failure> {
        let failed = |error| Failure::unwritable(path, &error);
        // Where a link leads, so that it stays a link.
        let path_there = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        let to = match fs::metadata(&path_there) {
            Ok(there) if there.is_dir() => {
                return Err(failed(std::io::ErrorKind::IsADirectory.into()));
            }
            Ok(there) if !there.is_file() => {
                let file = fs::OpenOptions::new().write(true).open(&path_there);
                To::Itself(file.map_err(failed)?)
            }
            Ok(_) | Err(_) => {
                let beside = tempfile::Builder::new()
                    .prefix(&hidden(&path_there))
                    .rand_bytes(RANDOM)
                    .suffix(NEW)
                    .tempfile_in(directory_of(&path_there));
                To::Beside(beside.map_err(failed)?)
            }
        };
        Ok(Self {
            path: path_there,
            to,
        })
    }

    /// Writes on.
    pub fn write(&mut self, octets: &[u8]) -> Result<(), Failure> {
        let written = match &mut self.to {
            To::Beside(file) => file.write_all(octets),
            To::Itself(file) => file.write_all(octets),
        };
        written.map_err(|error| Failure::unwritable(&self.path, &error))
    }

    /// Ends: it is on the disk, and then in the old one's place.
    pub fn take_place(self) -> Result<(), Failure> {
        let Self { path, to } = self;
        let placed = match to {
            To::Itself(_) => Ok(()),
            To::Beside(file) => {
                if let Some(warning) = keep_owner(&path, file.as_file()) {
                    output::warning(warning);
                }
                file.as_file()
                    .sync_all()
                    .and_then(|()| file.persist(&path).map_err(|error| error.error))
                    .and_then(|_| File::open(directory_of(&path))?.sync_all())
            }
        };
        placed.map_err(|error| Failure::unwritable(&path, &error))
    }
}

/// Removes what replacements of `path` that were killed have left beside it. Only for who keeps all
/// others from replacing it meanwhile.
pub fn remove_left(path: &Path) -> Result<(), Failure> {
    let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let begin = hidden(&path);
    let folder = directory_of(&path);
    let entries = fs::read_dir(folder).map_err(|error| Failure::unreadable(folder, &error))?;
    for entry in entries {
        let entry = entry.map_err(|error| Failure::unreadable(folder, &error))?;
        let name = entry.file_name();
        let chance = name
            .as_bytes()
            .strip_prefix(begin.as_bytes())
            .and_then(|rest| rest.strip_suffix(NEW.as_bytes()));
        let is_left = chance.is_some_and(|chance| {
            chance.len() == RANDOM && chance.iter().all(u8::is_ascii_alphanumeric)
        });
        if is_left && entry.file_type().is_ok_and(|kind| kind.is_file()) {
            let left = entry.path();
            fs::remove_file(&left).map_err(|error| Failure::unwritable(&left, &error))?;
        }
    }
    Ok(())
}

/// What there is to warn of where root has made a directory of keys in another user's: that user,
/// whom a registry or an Envoy may run as, cannot read it.
pub fn made_by_root(dir: &Path) -> Option<String> {
    let made = fs::metadata(dir).ok()?;
    let around = fs::metadata(directory_of(dir)).ok()?;
    (made.uid() == 0 && around.uid() != 0).then(|| {
        format!(
            "{dir} is root's, and what it stands in is user {user}'s, who cannot read it: where that \
             user is to, as root: chown -R {user}:{group} {dir}",
            dir = dir.display(),
            user = around.uid(),
            group = around.gid()
        )
    })
}

/// How the name of what is written beside a file begins.
fn hidden(path: &Path) -> OsString {
    let mut begin = OsString::from(".");
    begin.push(path.file_name().unwrap_or_default());
    begin
}

/// The directory that a file stands in.
fn directory_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        Some(_) | None => Path::new("."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn what_is_not_ended_leaves_the_old_file_and_nothing_beside_it() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("records");
        fs::write(&path, "old").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        let mut file = Replacement::of(&path).unwrap();
        file.write(b"new").unwrap();
        drop(file);
        assert_eq!(fs::read_to_string(&path).unwrap(), "old");
        assert_eq!(fs::read_dir(scratch.path()).unwrap().count(), 1);
    }

    #[test]
    fn what_a_killed_replacement_left_is_removed_and_nothing_of_anybodys() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("secrets.csv");
        let mut killed = Replacement::of(&path).unwrap();
        killed.write(b"a secret").unwrap();
        std::mem::forget(killed);
        fs::write(&path, "old").unwrap();
        let kept = [
            ".secrets.csv.new",
            ".secrets.csv-mine.new",
            ".secrets.csv123456.old",
            ".other.csv123456.new",
            "secrets.csv123456.new",
        ];
        for name in kept {
            fs::write(scratch.path().join(name), "somebody's").unwrap();
        }
        let count = || fs::read_dir(scratch.path()).unwrap().count();
        assert_eq!(count(), kept.len() + 2);
        remove_left(&path).unwrap();
        assert_eq!(count(), kept.len() + 1);
        for name in kept.iter().chain(&["secrets.csv"]) {
            assert!(scratch.path().join(name).exists(), "{name}");
        }
    }

    #[test]
    fn a_replacement_is_private_whatever_the_old_one_was_and_a_link_stays_one() {
        let scratch = tempfile::tempdir().unwrap();
        let (path, link) = (scratch.path().join("records"), scratch.path().join("link"));
        fs::write(&path, "old").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        std::os::unix::fs::symlink(&path, &link).unwrap();
        let mut file = Replacement::of(&link).unwrap();
        file.write(b"new").unwrap();
        file.take_place().unwrap();
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(fs::read_to_string(&path).unwrap(), "new");
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert!(Replacement::of(scratch.path()).is_err());
        let mut nowhere = Replacement::of(Path::new("/dev/null")).unwrap();
        nowhere.write(b"new").unwrap();
        nowhere.take_place().unwrap();
    }
}
