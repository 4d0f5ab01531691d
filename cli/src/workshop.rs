//! Where are devices made, so that none is there by half?

use std::fs::{self, File, TryLockError};
use std::io::{self, ErrorKind, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use medbind_registry::pki::create_private_directory;
use tempfile::TempDir;

use crate::failure::Failure;

/// Below the directory of devices, with a directory for each that makes some; no device's serial
/// holds a `+`.
const MAKING: &str = "+making";

/// How often one device may be set aside.
const MAX_ASIDE: usize = 100;

/// How often a place of one's own may be taken away by others who tidy up.
const MAX_TRIES: usize = 1_000;

/// The directory that devices are made in.
#[derive(Debug)]
pub struct Workshop {
    out: PathBuf,
    place: Place,
    /// Holds the lock.
    directory: File,
}

impl Workshop {
    /// Several may make devices in one directory. Who goes on with a batch must be `alone` there:
    /// what others are at looks like what was left by half.
    pub fn enter(out: &Path, alone: bool) -> Result<Self, Failure> {
        create_private_directory(out).map_err(Failure::refused)?;
        let failed = |error| Failure::unwritable(out, &error);
        let directory = File::open(out).map_err(failed)?;
        let locked = if alone {
            directory.try_lock()
        } else {
            directory.try_lock_shared()
        };
        match locked {
            // Some file systems offer no locks.
            Ok(()) | Err(TryLockError::Error(_)) => {}
            Err(TryLockError::WouldBlock) => return Err(busy(out)),
        }
        let place = Place::take(&out.join(MAKING)).map_err(failed)?;
        place.tidy_up(alone)?;
        Ok(Self {
            out: out.to_owned(),
            place,
            directory,
        })
    }

    /// Puts a directory of files into its place, modes 0700 and 0600: all of them, or none. They
    /// are not forced to the disk one by one: a batch may hold a million devices.
    pub fn place(&self, dir: &Path, files: &[(&str, Vec<u8>)]) -> Result<(), Failure> {
        let failed = |error| Failure::unwritable(dir, &error);
        let made = private_directory_in(&self.place.path).map_err(failed)?;
        for (name, octets) in files {
            // Private: the key is in there, and the label shows the claim secret.
            let mut file = fs::OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(made.path().join(name))
                .map_err(failed)?;
            file.write_all(octets).map_err(failed)?;
        }
        fs::rename(made.path(), dir).map_err(failed)?;
        // It is not there any more to be tidied up.
        let _ = made.keep();
        Ok(())
    }

    /// Waits for one's turn among those who make devices here: between a look at what is there and
    /// the device in its place nobody else makes it. It ends with the value.
    pub fn turn(&self) -> Result<Turn, Failure> {
        let failed = |error| Failure::unwritable(&self.place.making, &error);
        let making = File::open(&self.place.making).map_err(failed)?;
        // Some file systems offer no locks.
        let _ = making.lock();
        Ok(Turn(making))
    }

    /// Forces all that was made to the disk.
    pub fn sync(&self) -> Result<(), Failure> {
        rustix::fs::syncfs(&self.directory)
            .map_err(|error| Failure::unwritable(&self.out, &error.into()))
    }

    /// Takes what cannot be used out of the way; answers where it is now.
    pub fn set_aside(&self, dir: &Path) -> Result<PathBuf, Failure> {
        let aside = |number: usize| {
            let mut name = dir.file_name().unwrap_or_default().to_owned();
            name.push("+half-made");
            if number > 1 {
                name.push(format!("-{number}"));
            }
            self.out.join(name)
        };
        let free = (1..=MAX_ASIDE).map(aside).find(|path| !path.exists());
        let free = free.ok_or_else(|| {
            Failure::refused(format_args!("{} was half made too often", dir.display()))
                .next("take what was set aside of it away")
        })?;
        fs::rename(dir, &free).map_err(|error| Failure::unwritable(dir, &error))?;
        Ok(free)
    }
}

/// The turn to make a device, for as long as this value lives.
#[derive(Debug)]
pub struct Turn(#[expect(dead_code, reason = "it holds the lock")] File);

/// Where one process makes devices. Its lock says that somebody is at work there.
#[derive(Debug)]
struct Place {
    making: PathBuf,
    path: PathBuf,
    /// Holds the lock.
    _directory: File,
}

impl Place {
    fn take(making: &Path) -> io::Result<Self> {
        for _ in 0..MAX_TRIES {
            match fs::DirBuilder::new().mode(0o700).create(making) {
                Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(error),
                Ok(()) | Err(_) => {}
            }
            // Until it is locked others may take it for left; and who was the last takes `making`
            // itself away.
            let taken = private_directory_in(making).and_then(|made| {
                let directory = File::open(made.path())?;
                let _ = directory.lock();
                fs::metadata(made.path())?;
                Ok(Self {
                    making: making.to_owned(),
                    path: made.keep(),
                    _directory: directory,
                })
            });
            match taken {
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Ok(_) | Err(_) => return taken,
            }
        }
        Err(ErrorKind::ResourceBusy.into())
    }

    /// Removes what was left by those who were interrupted. What is no directory is not ours, such
    /// as a file manager's notes.
    fn tidy_up(&self, alone: bool) -> Result<(), Failure> {
        let failed = |error| Failure::unwritable(&self.making, &error);
        for entry in fs::read_dir(&self.making).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let path = entry.path();
            if path == self.path {
                continue;
            }
            let gone = entry.file_type().and_then(|kind| {
                if !kind.is_dir() {
                    return Ok(());
                }
                match File::open(&path)?.try_lock() {
                    Ok(()) => fs::remove_dir_all(&path),
                    Err(TryLockError::Error(_)) if alone => fs::remove_dir_all(&path),
                    Err(TryLockError::WouldBlock | TryLockError::Error(_)) => Ok(()),
                }
            });
            match gone {
                Err(error) if error.kind() != ErrorKind::NotFound => {
                    return Err(Failure::unwritable(&path, &error));
                }
                Ok(()) | Err(_) => {}
            }
        }
        Ok(())
    }
}

impl Drop for Place {
    /// The last one takes all of it away.
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.path);
        let _ = fs::remove_dir(&self.making);
    }
}

/// A new one, mode 0700, of a name that nothing else has.
fn private_directory_in(dir: &Path) -> io::Result<TempDir> {
    tempfile::Builder::new()
        .permissions(fs::Permissions::from_mode(0o700))
        .tempdir_in(dir)
}

fn busy(out: &Path) -> Failure {
    Failure::refused(format_args!(
        "devices are being made in {} by another `medbind provision`",
        out.display()
    ))
    .next("wait until it has ended")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn a_device_is_private_while_it_is_made_and_in_its_place() {
        let scratch = tempfile::tempdir().unwrap();
        let out = scratch.path().join("devices");
        let workshop = Workshop::enter(&out, false).unwrap();
        for dir in [&out, &workshop.place.making, &workshop.place.path] {
            assert_eq!(mode(dir), 0o700, "{}", dir.display());
        }
        let device = out.join("SN1");
        workshop
            .place(&device, &[("key.pem", b"key".to_vec())])
            .unwrap();
        assert_eq!(mode(&device), 0o700);
        assert_eq!(mode(&device.join("key.pem")), 0o600);
    }

    #[test]
    fn who_ends_takes_nothing_from_others_and_what_was_left_is_removed() {
        let scratch = tempfile::tempdir().unwrap();
        let out = scratch.path();
        let making = out.join(MAKING);
        let place = |workshop: &Workshop, serial: &str| {
            workshop
                .place(&out.join(serial), &[("key.pem", b"key".to_vec())])
                .unwrap();
        };
        let left = making.join("left/half");
        fs::create_dir_all(&left).unwrap();
        let somebodys = making.join(".DS_Store");
        fs::write(&somebodys, "a file manager's").unwrap();
        let long = Workshop::enter(out, false).unwrap();
        assert!(!left.exists());
        fs::remove_file(&somebodys).unwrap();
        for serial in ["SN1", "SN2"] {
            let short = Workshop::enter(out, false).unwrap();
            place(&short, serial);
            drop(short);
            place(&long, &format!("{serial}-of-the-other"));
        }
        assert!(Workshop::enter(out, true).is_err());
        assert!(long.place.path.exists());
        drop(long);
        assert!(!making.exists());
        let alone = Workshop::enter(out, true).unwrap();
        assert!(Workshop::enter(out, false).is_err());
        place(&alone, "SN3");
    }
}
