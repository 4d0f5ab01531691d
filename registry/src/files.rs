//! How do private files get to the disk? With private modes, whole, and never over what is there.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::Path;

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
    let mut half_written = dir.file_name().unwrap_or_default().to_owned();
    half_written.push(".half-written");
    let half_written = parent.join(half_written);
    let failed = |doing, path: &Path| {
        let path = path.to_owned();
        move |source| PkiError::File {
            doing,
            path,
            source,
        }
    };
    if half_written.exists() {
        fs::remove_dir_all(&half_written).map_err(failed("remove", &half_written))?;
    }
    create_private_directory(&half_written)?;
    for (name, octets) in files {
        let path = half_written.join(name);
        let folder = path.parent().unwrap_or(&half_written);
        create_private_directory(folder)?;
        write_private_file(&path, octets)?;
        sync_directory(folder)?;
    }
    sync_directory(&half_written)?;
    fs::rename(&half_written, dir).map_err(failed("write", dir))?;
    sync_directory(parent)
}

/// Replaces files of `dir` one after the other, each as a whole, with mode 0600.
pub fn replace_files(dir: &Path, files: &[(&str, &[u8])]) -> Result<(), PkiError> {
    for (name, octets) in files {
        let path = dir.join(name);
        let new = dir.join(format!("{name}.new"));
        let failed = |source| PkiError::File {
            doing: "write",
            path: path.clone(),
            source,
        };
        if new.exists() {
            fs::remove_file(&new).map_err(failed)?;
        }
        write_private_file(&new, octets)?;
        fs::rename(&new, &path).map_err(failed)?;
    }
    sync_directory(dir)
}
