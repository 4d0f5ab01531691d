//! What is written down of each device that is made? A line in a private file, whole or not at all.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, ErrorKind, Write as _};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use crate::failure::Failure;

/// A file that gets a line for each device, mode 0600.
#[derive(Debug)]
pub struct Ledger {
    path: PathBuf,
    file: File,
    /// Whether it is a file at all, and no pipe.
    is_file: bool,
}

impl Ledger {
    /// Opens the file, or makes it with `header` as its first line.
    pub fn open(path: &Path, header: &str) -> Result<Self, Failure> {
        let failed = |error| Failure::unwritable(path, &error);
        let file = fs::OpenOptions::new()
            .read(true)
            .append(true)
            .create(true)
            .mode(0o600)
            .open(path)
            .map_err(failed)?;
        let is_file = file.metadata().map_err(failed)?.is_file();
        let ledger = Self {
            path: path.to_owned(),
            file,
            is_file,
        };
        if is_file {
            let private = fs::Permissions::from_mode(0o600);
            ledger.file.set_permissions(private).map_err(failed)?;
        }
        ledger.alone(|| ledger.begin(header))?;
        Ok(ledger)
    }

    fn begin(&self, header: &str) -> Result<(), Failure> {
        let failed = |error| Failure::unwritable(&self.path, &error);
        let path = self.path.display();
        let length = self.file.metadata().map_err(failed)?.len();
        let Some(last) = length.checked_sub(1).filter(|_| self.is_file) else {
            return self.write(header);
        };
        let mut octet = [0];
        self.file.read_exact_at(&mut octet, last).map_err(failed)?;
        if octet != *b"\n" {
            return Err(Failure::refused(format_args!(
                "{path} ends in the middle of a line: what wrote it was interrupted"
            ))
            .next("go on with that batch: --continue mends it; or take the line away"));
        }
        let mut first = vec![0; header.len()];
        let read = self.file.read_exact_at(&mut first, 0);
        if read.is_err() || first != header.as_bytes() {
            return Err(Failure::usage(format_args!(
                "{path} does not begin with the line {}",
                header.trim_end()
            ))
            .next("name a new file, or one that this command made"));
        }
        Ok(())
    }

    /// Adds a line. Where that fails the file is as it was.
    pub fn append(&self, line: &str) -> Result<(), Failure> {
        self.alone(|| self.write(line))
    }

    /// Adds a line that must not be lost: it is on the disk before this ends.
    pub fn append_for_good(&self, line: &str) -> Result<(), Failure> {
        self.append(line)?;
        match self.file.sync_data() {
            Err(error) if self.is_file => Err(Failure::unwritable(&self.path, &error)),
            Ok(()) | Err(_) => Ok(()),
        }
    }

    fn write(&self, line: &str) -> Result<(), Failure> {
        let failed = |error| Failure::unwritable(&self.path, &error);
        let end = self.file.metadata().map_err(failed)?.len();
        (&self.file).write_all(line.as_bytes()).map_err(|error| {
            if self.is_file {
                // On a disk that is full a part of the line may have found room.
                let _ = self.file.set_len(end);
            }
            failed(error)
        })
    }

    /// Several may write into one file: one at a time. Some file systems offer no locks.
    fn alone<T>(&self, work: impl FnOnce() -> Result<T, Failure>) -> Result<T, Failure> {
        let locked = self.file.lock().is_ok();
        let done = work();
        if locked {
            let _ = self.file.unlock();
        }
        done
    }
}

/// A line of a file, and whether it ends like one.
pub struct Line {
    /// Without its end.
    pub text: Vec<u8>,
    /// Not so for the last line of a file that was cut off.
    pub ended: bool,
}

/// The lines of a file; none where there is no such file.
pub fn lines(path: &Path) -> Result<impl Iterator<Item = Result<Line, Failure>>, Failure> {
    let unreadable = |error| Failure::unreadable(path, &error);
    let file = match File::open(path) {
        Ok(file) => Some(file),
        Err(error) if error.kind() == ErrorKind::NotFound => None,
        Err(error) => return Err(unreadable(error)),
    };
    let mut file = file.map(BufReader::new);
    Ok(std::iter::from_fn(move || {
        let mut text = Vec::new();
        match file.as_mut()?.read_until(b'\n', &mut text) {
            Ok(0) => None,
            Ok(_) => {
                let ended = text.ends_with(b"\n");
                text.truncate(text.len() - usize::from(ended));
                Some(Ok(Line { text, ended }))
            }
            Err(error) => Some(Err(unreadable(error))),
        }
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ledger_is_private_and_goes_on_only_behind_a_whole_line_of_its_kind() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("secrets.csv");
        fs::write(&path, "").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        let ledger = Ledger::open(&path, "a,b\n").unwrap();
        ledger.append("1,2\n").unwrap();
        Ledger::open(&path, "a,b\n")
            .unwrap()
            .append_for_good("3,4\n")
            .unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "a,b\n1,2\n3,4\n");
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        for (text, why) in [
            ("a,b\n1,", "in the middle of a line"),
            ("a", "in the middle of a line"),
            ("x,y\n", "does not begin with the line a,b"),
            ("\n", "does not begin with the line a,b"),
        ] {
            fs::write(&path, text).unwrap();
            let refused = Ledger::open(&path, "a,b\n").unwrap_err().to_string();
            assert!(refused.contains(why), "{refused}");
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
        }
    }

    #[test]
    fn lines_are_read_with_the_one_that_was_cut_off() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("lines");
        assert_eq!(lines(&path).unwrap().count(), 0);
        fs::write(&path, "one\n\ntw").unwrap();
        let read = lines(&path).unwrap().map(|line| {
            let Line { text, ended } = line.unwrap();
            (String::from_utf8(text).unwrap(), ended)
        });
        let expected = [("one", true), ("", true), ("tw", false)];
        let expected = expected.map(|(text, ended)| (text.to_owned(), ended));
        assert_eq!(read.collect::<Vec<_>>(), expected);
    }
}
