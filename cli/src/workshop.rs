//! Where are devices made, so that none is there by half?

use std::fs::{self, File, TryLockError};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use medbind_registry::pki::create_private_directory;

use crate::failure::Failure;

/// Below the directory of devices; no device's serial holds a `+`.
const MAKING: &str = "+making";

/// How often one device may be set aside.
const MAX_ASIDE: usize = 100;

/// The directory that devices are made in.
#[derive(Debug)]
pub struct Workshop {
    out: PathBuf,
    making: PathBuf,
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
        let making = out.join(MAKING);
        let is_alone = match directory.try_lock() {
            Ok(()) => true,
            Err(TryLockError::WouldBlock) if !alone => match directory.try_lock_shared() {
                Ok(()) => false,
                Err(TryLockError::WouldBlock) => return Err(busy(out)),
                Err(TryLockError::Error(error)) => return Err(failed(error)),
            },
            Err(TryLockError::WouldBlock) => return Err(busy(out)),
            // Some file systems offer no locks.
            Err(TryLockError::Error(_)) => alone,
        };
        if is_alone && making.exists() {
            fs::remove_dir_all(&making).map_err(failed)?;
        }
        if is_alone && !alone {
            // Others may come in now; where one was faster, there are locks to wait for.
            let _ = directory.lock_shared();
        }
        create_private_directory(&making).map_err(Failure::refused)?;
        Ok(Self {
            out: out.to_owned(),
            making,
            directory,
        })
    }

    /// Puts a directory of files into its place, modes 0700 and 0600: all of them, or none. They
    /// are not forced to the disk one by one: a batch may hold a million devices.
    pub fn place(&self, dir: &Path, files: &[(&str, Vec<u8>)]) -> Result<(), Failure> {
        let failed = |error| Failure::unwritable(dir, &error);
        let made = tempfile::tempdir_in(&self.making).map_err(failed)?;
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

impl Drop for Workshop {
    /// It stays where others are at work in it.
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.making);
    }
}

fn busy(out: &Path) -> Failure {
    Failure::refused(format_args!(
        "devices are being made in {} by another `medbind provision`",
        out.display()
    ))
    .next("wait until it has ended")
}
