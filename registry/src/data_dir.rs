//! What lives in the data directory, and how the first start makes it.

use std::fs::{self, File, TryLockError};
use std::io::{Read as _, Seek as _, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use medbind_core::time::Timestamp;

use crate::pki::{
    self, CERTIFICATE_FILE, CertificateAuthority, CertificateFacts, KEY_FILE, LEAF_VALIDITY,
    NEAR_EXPIRY, PkiError, PrivateKeyPem, Purpose,
};
use crate::role::{Name, NameError, Role};

/// The database's file name.
pub const DATABASE_FILE: &str = "registry.sqlite";
const LOCK_FILE: &str = "registry.lock";
const CA_DIR: &str = "infra-ca";
const SERVER_DIR: &str = "server";

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
        "cannot write to the data directory {}: {source}; choose another, or make it writable for \
         this user",
        path.display()
    )]
    NotWritable {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Another registry runs on it.
    #[error(
        "another registry{} uses the data directory {}: stop it first, or choose another directory",
        process.as_ref().map(|process| format!(" (process {process})")).unwrap_or_default(),
        path.display()
    )]
    InUse {
        /// The directory.
        path: PathBuf,
        /// The other's process number, where it wrote it down.
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
    /// Certificates and keys.
    #[error(transparent)]
    Pki(#[from] PkiError),
}

/// A data directory that is ours alone for as long as this value lives.
#[derive(Debug)]
pub(crate) struct DataDir {
    path: PathBuf,
    _lock: File,
}

/// The certificates that a server needs.
#[derive(Debug)]
pub(crate) struct Identity {
    /// The server's certificate, PEM.
    pub certificate_pem: String,
    /// Its key.
    pub key_pem: PrivateKeyPem,
    /// The CA that clients are verified against, PEM.
    pub ca_pem: String,
    /// What was made.
    pub made: Vec<Made>,
    /// What an operator should see to.
    pub warnings: Vec<String>,
}

impl DataDir {
    /// Makes the directory where it is missing, and takes it.
    pub fn take(path: &Path) -> Result<Self, DataDirError> {
        let failed = |source| DataDirError::NotWritable {
            path: path.to_owned(),
            source,
        };
        pki::create_private_directory(path).map_err(|error| match error {
            PkiError::File { source, .. } => failed(source),
            other => other.into(),
        })?;
        let mut lock = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path.join(LOCK_FILE))
            .map_err(failed)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut text = String::new();
                let process = lock
                    .read_to_string(&mut text)
                    .ok()
                    .and_then(|_| text.trim().parse().ok());
                return Err(DataDirError::InUse {
                    path: path.to_owned(),
                    process,
                });
            }
            Err(TryLockError::Error(source)) => return Err(failed(source)),
        }
        lock.set_len(0).map_err(failed)?;
        lock.rewind().map_err(failed)?;
        writeln!(lock, "{}", std::process::id()).map_err(failed)?;
        Ok(Self {
            path: path.to_owned(),
            _lock: lock,
        })
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

    /// Reads the certificates, and makes what is missing.
    pub fn identity(&self, names: &[String], now: Timestamp) -> Result<Identity, DataDirError> {
        for name in names {
            pki::check_server_name(name)?;
        }
        let mut made = Vec::new();
        let mut warnings = Vec::new();
        let ca_dir = self.path.join(CA_DIR);
        let clients = [
            (
                "certificate and key of an edge",
                "edge",
                Role::Edge as fn(Name) -> Role,
            ),
            (
                "certificate and key of an operator",
                "operator",
                Role::Operator as fn(Name) -> Role,
            ),
        ];
        if !ca_dir.exists() {
            let dirs = [SERVER_DIR]
                .into_iter()
                .chain(clients.iter().map(|(_, dir, _)| *dir));
            if dirs.into_iter().any(|dir| self.path.join(dir).exists()) {
                return Err(DataDirError::CaMissing(ca_dir.join(CERTIFICATE_FILE)));
            }
            CertificateAuthority::generate("medbind infrastructure CA", now)?.save(&ca_dir)?;
            made.push(Made {
                what: "infrastructure CA",
                path: ca_dir.clone(),
            });
        }
        let ca_pem = pki::read(&ca_dir.join(CERTIFICATE_FILE))?;
        // The CA's key may be kept elsewhere once everything is made.
        let ca = if ca_dir.join(KEY_FILE).exists() {
            Some(CertificateAuthority::load(&ca_dir)?)
        } else {
            None
        };
        let needed = |missing: &Path| {
            ca.as_ref().ok_or_else(|| DataDirError::NoCaKey {
                missing: missing.to_owned(),
                key: ca_dir.join(KEY_FILE),
            })
        };
        let server_dir = self.path.join(SERVER_DIR);
        let purpose = Purpose::Server(names.to_vec());
        if !server_dir.exists() {
            needed(&server_dir)?
                .issue(&purpose, now, LEAF_VALIDITY)?
                .save(&server_dir)?;
            made.push(Made {
                what: "server certificate and key",
                path: server_dir.clone(),
            });
        }
        for (what, name, role) in clients {
            let dir = self.path.join(name);
            if !dir.exists() {
                let role = role(name.parse().map_err(|error: NameError| PkiError::Parse {
                    what: "a role's name",
                    why: error.to_string(),
                })?);
                needed(&dir)?
                    .issue(&Purpose::Client(role), now, LEAF_VALIDITY)?
                    .save(&dir)?;
                made.push(Made {
                    what,
                    path: dir.clone(),
                });
            }
            warnings.extend(near_expiry(&dir.join(CERTIFICATE_FILE), now, RENEW));
        }
        if let Some(why) = renewal(&server_dir, names, now)? {
            if let Some(ca) = &ca {
                ca.issue(&purpose, now, LEAF_VALIDITY)?
                    .replace(&server_dir)?;
                made.push(Made {
                    what: "server certificate and key, again",
                    path: server_dir.clone(),
                });
            } else {
                let path = server_dir.display();
                warnings.push(format!(
                    "{path}: {why}, and without the CA's key it is kept"
                ));
            }
        }
        warnings.extend(near_expiry(&ca_dir.join(CERTIFICATE_FILE), now, BEGIN_ANEW));
        warnings.extend(readable_by_others(&ca_dir.join(KEY_FILE)));
        warnings.extend(readable_by_others(&server_dir.join(KEY_FILE)));
        warnings.extend(readable_by_others(
            &self.path.join("operator").join(KEY_FILE),
        ));
        Ok(Identity {
            certificate_pem: pki::read(&server_dir.join(CERTIFICATE_FILE))?,
            key_pem: PrivateKeyPem::new(pki::read(&server_dir.join(KEY_FILE))?),
            ca_pem,
            made,
            warnings,
        })
    }
}

/// Why the server's certificate should be made again, where it should.
fn renewal(dir: &Path, names: &[String], now: Timestamp) -> Result<Option<String>, DataDirError> {
    let certificate = pki::read(&dir.join(CERTIFICATE_FILE))?;
    let facts = CertificateFacts::from_pem(&certificate)?;
    match pki::check_pair(&certificate, &pki::read(&dir.join(KEY_FILE))?) {
        Ok(()) => {}
        Err(PkiError::KeyMismatch) => {
            return Ok(Some(
                "certificate and key do not belong together".to_owned(),
            ));
        }
        Err(other) => return Err(other.into()),
    }
    if now.after(NEAR_EXPIRY) > facts.not_after {
        return Ok(Some(format!("the certificate ends at {}", facts.not_after)));
    }
    let missing = names.iter().find(|name| !facts.server_names.contains(name));
    Ok(missing.map(|name| format!("the certificate does not name {name}")))
}

/// What an operator does about a certificate that ends.
const RENEW: &str = "renew it: medbind ca issue DIR --ca DATA_DIR/infra-ca --renew";
/// The same for the CA, which nobody signs.
const BEGIN_ANEW: &str = "every certificate of the infrastructure ends with it: move infra-ca, \
    server, edge and operator away, and start again";

fn near_expiry(path: &Path, now: Timestamp, mend: &str) -> Option<String> {
    let shown = path.display();
    match pki::read(path).and_then(|pem| CertificateFacts::from_pem(&pem)) {
        Ok(facts) if now < facts.not_before => Some(format!(
            "{shown} begins at {}, and this machine's clock says {now}: set the clock",
            facts.not_before
        )),
        Ok(facts) if now > facts.not_after => {
            Some(format!("{shown} has ended at {}; {mend}", facts.not_after))
        }
        Ok(facts) if now.after(NEAR_EXPIRY) > facts.not_after => {
            Some(format!("{shown} ends at {}; {mend}", facts.not_after))
        }
        Ok(_) => None,
        Err(error) => Some(error.to_string()),
    }
}

fn readable_by_others(path: &Path) -> Option<String> {
    let mode = fs::metadata(path).ok()?.permissions().mode();
    (mode & 0o077 != 0).then(|| format!("{} can be read by others: chmod 600 it", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::time::Duration;

    const NAMES: [&str; 2] = ["localhost", "127.0.0.1"];

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    fn now() -> Timestamp {
        "2026-11-24T16:20:00Z".parse().unwrap()
    }

    #[test]
    fn the_first_start_makes_everything_and_later_ones_keep_it() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("data");
        let dir = DataDir::take(&path).unwrap();
        let first = dir.identity(&names(&NAMES), now()).unwrap();
        let made: Vec<_> = first.made.iter().map(|made| made.path.clone()).collect();
        assert_eq!(
            made,
            ["infra-ca", "server", "edge", "operator"].map(|name| path.join(name))
        );
        assert_eq!(first.warnings, Vec::<String>::new());
        let again = dir.identity(&names(&NAMES), now()).unwrap();
        assert_eq!(again.made, []);
        assert_eq!(again.certificate_pem, first.certificate_pem);
        for (path, mode) in [
            (path.clone(), 0o700),
            (path.join("infra-ca"), 0o700),
            (path.join("infra-ca/key.pem"), 0o600),
            (path.join("operator/key.pem"), 0o600),
            (path.join("edge/ca.pem"), 0o600),
        ] {
            let found = fs::metadata(&path).unwrap().permissions().mode() & 0o777;
            assert_eq!(found, mode, "{}", path.display());
        }
    }

    #[test]
    fn the_servers_certificate_is_made_again_for_a_new_name_and_near_its_end() {
        let scratch = tempfile::tempdir().unwrap();
        let dir = DataDir::take(scratch.path()).unwrap();
        let first = dir.identity(&names(&NAMES), now()).unwrap();
        let more = names(&["localhost", "registry.example"]);
        let renamed = dir.identity(&more, now()).unwrap();
        assert_ne!(renamed.certificate_pem, first.certificate_pem);
        assert_eq!(dir.identity(&more, now()).unwrap().made, []);
        let late = now().after(LEAF_VALIDITY.saturating_sub(Duration::from_hours(24)));
        let renewed = dir.identity(&more, late).unwrap();
        assert_ne!(renewed.certificate_pem, renamed.certificate_pem);
        assert_eq!(
            renewed.warnings.len(),
            2,
            "edge and operator: {:?}",
            renewed.warnings
        );
        // A clock that was set back is seen by what was made before.
        let early = dir.identity(&more, "2026-11-23T12:00:00Z".parse().unwrap());
        let clock = |warning: &String| warning.contains("set the clock");
        assert_eq!(
            early
                .unwrap()
                .warnings
                .iter()
                .filter(|one| clock(one))
                .count(),
            3
        );
        // Without the CA's key the old one is kept, and said.
        fs::remove_file(scratch.path().join("infra-ca/key.pem")).unwrap();
        let kept = dir.identity(&names(&["other.example"]), now()).unwrap();
        assert_eq!(kept.certificate_pem, renewed.certificate_pem);
        assert!(
            kept.warnings
                .iter()
                .any(|warning| warning.contains("other.example"))
        );
    }

    #[test]
    fn a_missing_ca_is_not_replaced_behind_what_it_signed() {
        let scratch = tempfile::tempdir().unwrap();
        let dir = DataDir::take(scratch.path()).unwrap();
        dir.identity(&names(&NAMES), now()).unwrap();
        fs::remove_dir_all(scratch.path().join("infra-ca")).unwrap();
        let error = dir.identity(&names(&NAMES), now()).unwrap_err();
        assert!(matches!(error, DataDirError::CaMissing(_)), "{error}");
    }

    #[test]
    fn a_directory_is_taken_once() {
        let scratch = tempfile::tempdir().unwrap();
        let first = DataDir::take(scratch.path()).unwrap();
        let error = DataDir::take(scratch.path()).unwrap_err().to_string();
        let process = format!("(process {})", std::process::id());
        assert!(error.contains(&process), "{error}");
        drop(first);
        DataDir::take(scratch.path()).unwrap();
    }

    #[test]
    fn a_file_is_no_data_directory() {
        let scratch = tempfile::NamedTempFile::new().unwrap();
        let error = DataDir::take(&scratch.path().join("data")).unwrap_err();
        assert!(matches!(error, DataDirError::NotWritable { .. }), "{error}");
    }
}
