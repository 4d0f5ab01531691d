//! Which batches were begun in a directory of devices, and have not ended?
//!
//! A secret without its device is what an interruption leaves, or the secret of a device that was
//! made in another directory. A note says which: an empty file for each batch that is at work, or
//! was interrupted.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use crate::failure::Failure;

/// How the name of a note begins; the serials of the first and the last device follow, and what
/// makes it one run's own. No device's serial holds a `+`.
const BEGUN: &str = "+begun";

/// The note of one batch.
#[derive(Debug)]
pub struct Begun {
    path: PathBuf,
    first: String,
    last: String,
}

impl Begun {
    /// Notes it down: it is on the disk before the first secret is.
    pub fn note(out: &Path, first: &str, last: &str) -> Result<Self, Failure> {
        let failed = |error| Failure::unwritable(out, &error);
        let (_, path) = tempfile::Builder::new()
            .prefix(&format!("{BEGUN}+{first}+{last}+"))
            .tempfile_in(out)
            .and_then(|note| Ok(note.keep()?))
            .map_err(failed)?;
        File::open(out)
            .and_then(|out| out.sync_all())
            .map_err(failed)?;
        Ok(Self {
            path,
            first: first.to_owned(),
            last: last.to_owned(),
        })
    }

    /// What was noted down in a directory.
    pub fn all(out: &Path) -> Result<Vec<Self>, Failure> {
        let failed = |error| Failure::unreadable(out, &error);
        let mut all = Vec::new();
        for entry in fs::read_dir(out).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            let name = path.file_name().and_then(OsStr::to_str);
            let mut parts = name.unwrap_or_default().split('+').skip(1);
            if let (Some("begun"), Some(first), Some(last)) =
                (parts.next(), parts.next(), parts.next())
            {
                all.push(Self {
                    first: first.to_owned(),
                    last: last.to_owned(),
                    path,
                });
            }
        }
        Ok(all)
    }

    /// Whether a device is one of the batch: serials of a batch differ in the number at their end.
    pub fn holds(&self, serial: &str) -> bool {
        let (first, last) = (self.first.as_bytes(), self.last.as_bytes());
        let serial = serial.as_bytes();
        if serial == first || serial == last {
            return true;
        }
        let alike = first.iter().zip(last).take_while(|(a, b)| a == b).count();
        let number = serial.iter().skip(alike);
        serial.len() == first.len()
            && serial.len() == last.len()
            && number.clone().all(u8::is_ascii_digit)
            && (first..=last).contains(&serial)
    }

    /// Whether all of another batch is a part of this one.
    pub fn holds_all_of(&self, other: &Self) -> bool {
        self.holds(&other.first) && self.holds(&other.last)
    }

    /// Takes the note away: the batch has ended and is on the disk, or no secret of it was written.
    pub fn end(self) -> Result<(), Failure> {
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Err(Failure::unwritable(&self.path, &error))
            }
            Ok(()) | Err(_) => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_tells_the_devices_of_its_batch_until_it_has_ended() {
        let scratch = tempfile::tempdir().unwrap();
        fs::write(scratch.path().join("+making"), "").unwrap();
        let short = Begun::note(scratch.path(), "SN0098", "SN0102").unwrap();
        let all = Begun::all(scratch.path()).unwrap();
        let [noted] = &all[..] else { panic!("{all:?}") };
        for (serial, is) in [
            ("SN0098", true),
            ("SN0100", true),
            ("SN0102", true),
            ("SN0097", false),
            ("SN0103", false),
            ("SN00990", false),
            ("SN009A", false),
            ("SM0100", false),
        ] {
            assert_eq!(noted.holds(serial), is, "{serial}");
        }
        let long = Begun::note(scratch.path(), "SN0001", "SN0200").unwrap();
        assert!(long.holds_all_of(&short) && !short.holds_all_of(&long));
        short.end().unwrap();
        long.end().unwrap();
        assert_eq!(Begun::all(scratch.path()).unwrap().len(), 0);
        let one = Begun::note(scratch.path(), "pump", "pump").unwrap();
        assert!(one.holds("pump") && !one.holds("pumps"));
    }
}
