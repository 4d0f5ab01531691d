//! What is written down of each device that is made? A line in a private file, whole or not at all.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, ErrorKind, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use crate::failure::Failure;

/// How often a file may be replaced while its lock is waited for.
const MAX_REPLACED: usize = 1_000;

/// A file that gets a line for each device, mode 0600.
///
/// Whoever goes on with a batch puts a new file in its place: each line goes, under the lock, into
/// the file that stands there then.
#[derive(Debug)]
pub struct Ledger {
    path: PathBuf,
    header: &'static str,
    file: File,
    /// Whether it is a file at all, and no pipe.
    is_file: bool,
    /// Whether the file has been looked at.
    begun: bool,
    /// How far it has been read, and the devices whose lines stand there.
    read_to: u64,
    there: HashSet<Vec<u8>>,
    /// Whether a line was added.
    has_added: bool,
}

impl Ledger {
    /// Opens the file, or makes it with `header` as its first line.
    pub fn open(path: &Path, header: &'static str) -> Result<Self, Failure> {
        let (file, is_file) = open(path)?;
        let mut ledger = Self {
            path: path.to_owned(),
            header,
            file,
            is_file,
            begun: false,
            read_to: 0,
            there: HashSet::new(),
            has_added: false,
        };
        ledger.alone(|_| Ok(()))?;
        Ok(ledger)
    }

    /// Makes it private, and goes on only behind a whole line of its kind.
    fn begin(&self) -> Result<(), Failure> {
        let failed = |error| Failure::unwritable(&self.path, &error);
        let path = self.path.display();
        if self.is_file {
            let private = fs::Permissions::from_mode(0o600);
            self.file.set_permissions(private).map_err(failed)?;
        }
        let length = self.file.metadata().map_err(failed)?.len();
        let Some(last) = length.checked_sub(1).filter(|_| self.is_file) else {
            return self.write(self.header);
        };
        let mut octet = [0];
        self.file.read_exact_at(&mut octet, last).map_err(failed)?;
        if octet != *b"\n" {
            return Err(Failure::refused(format_args!(
                "{path} ends in the middle of a line: what wrote it was interrupted"
            ))
            .next("go on with that batch: --continue mends it; or take the line away"));
        }
        let mut first = vec![0; self.header.len()];
        let read = self.file.read_exact_at(&mut first, 0);
        if read.is_err() || first != self.header.as_bytes() {
            return Err(Failure::usage(format_args!(
                "{path} does not begin with the line {}",
                self.header.trim_end()
            ))
            .next("name a new file, or one that this command made"));
        }
        Ok(())
    }

    /// Adds a line. Where that fails the file is as it was.
    pub fn append(&mut self, line: &str) -> Result<(), Failure> {
        self.alone(|ledger| ledger.write(line))
    }

    /// Adds the line of a device, which must not be lost: it is on the disk before this ends. Where
    /// somebody else has written one of the same device meanwhile, nothing is added.
    pub fn append_once(&mut self, device: &str, line: &str) -> Result<(), Failure> {
        self.alone(|ledger| {
            ledger.refuse_another_of(device)?;
            ledger.has_added = true;
            ledger.write(line)
        })?;
        // Whoever has replaced the file since has taken the line over, and forced it to the disk.
        match self.file.sync_data() {
            Err(error) if self.is_file => Err(Failure::unwritable(&self.path, &error)),
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// Whether it may hold a line that was added here.
    pub fn has_added(&self) -> bool {
        self.has_added
    }

    /// Looks through what was written since this was looked at last.
    fn refuse_another_of(&mut self, device: &str) -> Result<(), Failure> {
        if !self.is_file {
            // A pipe is read by somebody else.
            return Ok(());
        }
        let failed = |error| Failure::unreadable(&self.path, &error);
        let mut since = Vec::new();
        (&self.file)
            .seek(SeekFrom::Start(self.read_to))
            .and_then(|_| (&self.file).read_to_end(&mut since))
            .map_err(failed)?;
        for line in since.split_inclusive(|octet| *octet == b'\n') {
            let device = line.split(|octet| *octet == b',').next();
            self.there.insert(device.unwrap_or_default().to_vec());
        }
        let read = u64::try_from(since.len()).unwrap_or(u64::MAX);
        self.read_to = self.read_to.saturating_add(read);
        if !self.there.contains(device.as_bytes()) {
            return Ok(());
        }
        Err(Failure::refused(format_args!(
            "{} has a secret of {device} already: another `medbind provision` made it meanwhile",
            self.path.display()
        ))
        .next("use what the other has made; for further devices choose other serials"))
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
    fn alone(&mut self, work: impl Fn(&mut Self) -> Result<(), Failure>) -> Result<(), Failure> {
        for _ in 0..MAX_REPLACED {
            let locked = self.file.lock().is_ok();
            let stands = !self.is_file || stands_at(&self.file, &self.path);
            let done = stands.then(|| {
                if !self.begun {
                    self.begin()?;
                }
                work(self)
            });
            if locked {
                let _ = self.file.unlock();
            }
            if let Some(done) = done {
                self.begun |= done.is_ok();
                return done;
            }
            (self.file, self.is_file) = open(&self.path)?;
            self.begun = false;
            self.read_to = 0;
        }
        Err(replaced_too_often(&self.path))
    }
}

/// The file, made where it is missing, and whether it is one at all.
fn open(path: &Path) -> Result<(File, bool), Failure> {
    let failed = |error| Failure::unwritable(path, &error);
    let file = fs::OpenOptions::new()
        .read(true)
        .append(true)
        .create(true)
        .mode(0o600)
        .open(path)
        .map_err(failed)?;
    let is_file = file.metadata().map_err(failed)?.is_file();
    Ok((file, is_file))
}

/// Whether this file is the one at `path`, and no other has taken its place.
fn stands_at(file: &File, path: &Path) -> bool {
    match (file.metadata(), fs::metadata(path)) {
        (Ok(ours), Ok(there)) => (ours.dev(), ours.ino()) == (there.dev(), there.ino()),
        (Ok(_) | Err(_), Ok(_) | Err(_)) => false,
    }
}

fn replaced_too_often(path: &Path) -> Failure {
    Failure::refused(format_args!(
        "{} is replaced again and again while it is written to",
        path.display()
    ))
    .next("see what else is at work on it")
}

/// A file that is to be replaced: nobody else writes into it, from before it is read until a new
/// one has its place.
#[derive(Debug)]
pub struct Held(File);

impl Held {
    /// Waits until nobody else is at work on it. There is nothing to hold where there is no file.
    pub fn wait(path: &Path) -> Result<Option<Self>, Failure> {
        for _ in 0..MAX_REPLACED {
            let file = match fs::OpenOptions::new().read(true).append(true).open(path) {
                Ok(file) => file,
                Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
                Err(error) => return Err(Failure::unwritable(path, &error)),
            };
            // Some file systems offer no locks.
            let _ = file.lock();
            if stands_at(&file, path) {
                return Ok(Some(Self(file)));
            }
        }
        Err(replaced_too_often(path))
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let _ = self.0.unlock();
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
    use crate::files::Replacement;
    use std::fs::TryLockError;

    #[test]
    fn a_ledger_is_private_and_goes_on_only_behind_a_whole_line_of_its_kind() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("secrets.csv");
        fs::write(&path, "").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        let mut ledger = Ledger::open(&path, "a,b\n").unwrap();
        ledger.append("1,2\n").unwrap();
        Ledger::open(&path, "a,b\n")
            .unwrap()
            .append_once("3", "3,4\n")
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
    fn a_line_goes_into_the_file_that_stands_there() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("secrets.csv");
        let mut ledger = Ledger::open(&path, "a,b\n").unwrap();
        ledger.append("1,2\n").unwrap();

        let mut anew = Replacement::of(&path).unwrap();
        anew.write(b"a,b\n1,2\n").unwrap();
        anew.take_place().unwrap();
        ledger.append_once("3", "3,4\n").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "a,b\n1,2\n3,4\n");

        // Was it moved away, there is a new one, whole and private.
        fs::rename(&path, scratch.path().join("elsewhere")).unwrap();
        ledger.append("5,6\n").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "a,b\n5,6\n");
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);

        // What is no ledger is not written into, whoever put it there.
        let mut other = Replacement::of(&path).unwrap();
        other.write(b"x,y\n").unwrap();
        other.take_place().unwrap();
        for _ in 0..2 {
            let refused = ledger.append("7,8\n").unwrap_err().to_string();
            assert!(refused.contains("does not begin with the line a,b"));
            assert_eq!(fs::read_to_string(&path).unwrap(), "x,y\n");
        }
    }

    #[test]
    fn a_file_is_held_from_before_it_is_read_until_another_has_its_place() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("secrets.csv");
        assert!(Held::wait(&path).unwrap().is_none());
        assert!(!path.exists());
        let mut ledger = Ledger::open(&path, "a,b\n").unwrap();
        let held = Held::wait(&path).unwrap().unwrap();
        let other = File::open(&path).unwrap();
        assert!(matches!(other.try_lock(), Err(TryLockError::WouldBlock)));

        // Who waits for the lock meanwhile finds the new one.
        let (began, begins) = std::sync::mpsc::channel();
        let waiting = std::thread::spawn(move || {
            began.send(()).unwrap();
            ledger.append("3,4\n").unwrap();
        });
        begins.recv().unwrap();
        let mut anew = Replacement::of(&path).unwrap();
        for line in lines(&path).unwrap() {
            let line = line.unwrap();
            anew.write(&line.text).unwrap();
            anew.write(b"\n").unwrap();
        }
        anew.write(b"1,2\n").unwrap();
        anew.take_place().unwrap();
        drop(held);
        waiting.join().unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "a,b\n1,2\n3,4\n");
        assert!(other.try_lock().is_ok());
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
