//! Which certificates does a registry have, and when do they end?

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use medbind_core::time::Timestamp;

use crate::data_dir::{DATABASE_FILE, DataDirError, Made};
use crate::files::{read, sync_directory, write_private_file};
use crate::ownership::log_of;
use crate::pki::{
    self, CA_NEAR_EXPIRY, CERTIFICATE_FILE, CertificateAuthority, CertificateFacts, Credentials,
    KEY_FILE, LEAF_VALIDITY, NEAR_EXPIRY, PkiError, PrivateKeyPem, Purpose,
};
use crate::role::{Name, NameError, Role};

const CA_DIR: &str = "infra-ca";
const SERVER_DIR: &str = "server";
/// All directories of certificates and keys.
pub(crate) const DIRECTORIES: [&str; 4] = [CA_DIR, SERVER_DIR, "edge", "operator"];
/// This file is there from before the CA is made until everything is: a first start that was cut
/// off is ended by the next. Once it is gone, a client that is not here was moved to where it is
/// used.
const FIRST_START: &str = "first-start";

/// A client that a first start makes.
struct Client {
    what: &'static str,
    dir: &'static str,
    role: fn(Name) -> Role,
}

const CLIENTS: [Client; 2] = [
    Client {
        what: "certificate and key of an edge",
        dir: "edge",
        role: Role::Edge,
    },
    Client {
        what: "certificate and key of an operator",
        dir: "operator",
        role: Role::Operator,
    },
];

/// The certificates of a data directory.
#[derive(Clone, Debug)]
pub(crate) struct Certificates {
    dir: PathBuf,
    /// The names that the server's must have.
    names: Vec<String>,
}

/// What a server needs, as it stands in the files.
#[derive(Debug)]
pub(crate) struct Identity {
    /// The server's certificate, PEM.
    pub certificate_pem: String,
    /// Its key.
    pub key_pem: PrivateKeyPem,
    /// The CA that clients are verified against, PEM.
    pub ca_pem: String,
    /// When each certificate ends, by the name of its directory.
    pub ends: Vec<(&'static str, Timestamp)>,
    /// What was made.
    pub made: Vec<Made>,
    /// What an operator should see to.
    pub warnings: Vec<String>,
}

impl Certificates {
    /// Those of `dir`, with a server of these names.
    pub fn new(dir: &Path, names: &[String]) -> Self {
        Self {
            dir: dir.to_owned(),
            names: names.to_owned(),
        }
    }

    /// At a start: makes what is missing, and a server's certificate that does not fit again.
    pub fn start(&self, now: Timestamp) -> Result<Identity, DataDirError> {
        for name in &self.names {
            pki::check_server_name(name)?;
        }
        let mut warnings = Vec::new();
        let mut made = self.make_missing(now, &mut warnings)?;
        if let Some(why) = self.misfit()? {
            if let Some(ca) = self.authority()? {
                made.push(self.make_server_again(&ca, now, &mut warnings)?);
            } else {
                let path = self.dir.join(SERVER_DIR);
                warnings.push(format!(
                    "{}: {why}, and without the CA's key it is kept",
                    path.display()
                ));
            }
        }
        let mut identity = self.look(now)?;
        made.append(&mut identity.made);
        warnings.append(&mut identity.warnings);
        Ok(Identity {
            made,
            warnings,
            ..identity
        })
    }

    /// Reads the files, and makes the server's certificate again where it is near its end, or was
    /// made by a clock that ran ahead. Other certificates are in the hands of those who use them.
    pub fn look(&self, now: Timestamp) -> Result<Identity, DataDirError> {
        let (mut made, mut warnings) = (Vec::new(), Vec::new());
        let ca = self.authority()?;
        let server = facts(&self.dir.join(SERVER_DIR))?;
        if let Some(ca) = &ca
            // A CA that ends itself has no longer life to give.
            && (server.is_near_end(now, NEAR_EXPIRY) && ca.not_after() > server.not_after
                // Where the CA is not valid yet either, it is today's clock that is wrong.
                || now < server.not_before && now >= ca.not_before())
        {
            made.push(self.make_server_again(ca, now, &mut warnings)?);
        }
        let mut ends = Vec::new();
        for name in DIRECTORIES {
            let dir = self.dir.join(name);
            let within = if name == CA_DIR {
                CA_NEAR_EXPIRY
            } else {
                NEAR_EXPIRY
            };
            match facts(&dir) {
                Ok(facts) => {
                    ends.push((name, facts.not_after));
                    warnings.extend(if now < facts.not_before {
                        Some(self.not_yet(name, &facts))
                    } else {
                        ending(&dir, &facts, now, within, &self.mend(name))
                    });
                }
                // Without it there is nothing to answer with.
                Err(error) if name == SERVER_DIR || name == CA_DIR => return Err(error),
                // An edge or an operator whose certificate was moved elsewhere takes care of it.
                Err(_) if !dir.exists() => {}
                Err(error) => warnings.push(error.to_string()),
            }
            warnings.extend(readable_by_others(&dir.join(KEY_FILE)));
        }
        // The hashes of claim secrets are in there, and the key for pseudonyms.
        let database = self.dir.join(DATABASE_FILE);
        warnings.extend(readable_by_others(&log_of(&database)));
        warnings.extend(readable_by_others(&database));
        let server = self.dir.join(SERVER_DIR);
        Ok(Identity {
            certificate_pem: read(&server.join(CERTIFICATE_FILE))?,
            key_pem: PrivateKeyPem::new(read(&server.join(KEY_FILE))?),
            ca_pem: read(&self.dir.join(CA_DIR).join(CERTIFICATE_FILE))?,
            ends,
            made,
            warnings,
        })
    }

    /// Where an operator finds the CA, for the commands that warnings name.
    pub fn ca_dir(&self) -> PathBuf {
        self.dir.join(CA_DIR)
    }

    /// What an operator does about a certificate that ends.
    fn mend(&self, name: &str) -> String {
        let (dir, ca) = (self.dir.join(name), self.ca_dir());
        let (dir, ca) = (dir.display(), ca.display());
        match name {
            CA_DIR => {
                format!("everything of the infrastructure ends with it: medbind ca renew {dir}")
            }
            SERVER_DIR if self.ca_dir().join(KEY_FILE).exists() => {
                format!("it ends with its CA: medbind ca renew {ca}")
            }
            SERVER_DIR => format!(
                "without the CA's key it cannot be renewed here: medbind ca issue {dir} --ca {ca} \
                 --renew, with the CA's directory where its key is; it is taken up within a minute"
            ),
            _ => format!("renew it: medbind ca issue {dir} --ca {ca} --renew"),
        }
    }

    /// What there is to say of a certificate that is not valid yet. The time of day is not in it:
    /// it would be another warning each minute.
    fn not_yet(&self, name: &str, facts: &CertificateFacts) -> String {
        let (dir, ca) = (self.dir.join(name), self.ca_dir());
        let (shown, ca) = (dir.join(CERTIFICATE_FILE), ca.display());
        let renew = if name == CA_DIR {
            format!("medbind ca renew {ca}")
        } else {
            let dir = dir.display();
            format!("medbind ca issue {dir} --ca {ca} --renew")
        };
        format!(
            "{} is not valid before {}, by this machine's clock: set the clock, or, where it is \
             right, make the certificate again: {renew}",
            shown.display(),
            facts.not_before
        )
    }

    /// The CA, where its key is here: it may be kept elsewhere once everything is made.
    fn authority(&self) -> Result<Option<CertificateAuthority>, DataDirError> {
        let dir = self.ca_dir();
        if dir.join(KEY_FILE).exists() {
            match CertificateAuthority::load(&dir) {
                Ok(ca) => Ok(Some(ca)),
                Err(error @ PkiError::File { .. }) => Err(error.into()),
                Err(source) => Err(DataDirError::Certificate { path: dir, source }),
            }
        } else {
            Ok(None)
        }
    }

    fn make_missing(
        &self,
        now: Timestamp,
        warnings: &mut Vec<String>,
    ) -> Result<Vec<Made>, DataDirError> {
        let mut made = Vec::new();
        let (ca_dir, server) = (self.ca_dir(), self.dir.join(SERVER_DIR));
        let marker = self.dir.join(FIRST_START);
        if !ca_dir.exists() {
            let dirs = [SERVER_DIR]
                .into_iter()
                .chain(CLIENTS.iter().map(|client| client.dir));
            if dirs.into_iter().any(|dir| self.dir.join(dir).exists()) {
                return Err(DataDirError::CaMissing(ca_dir.join(CERTIFICATE_FILE)));
            }
            if !marker.exists() {
                write_private_file(&marker, b"")?;
                sync_directory(&self.dir)?;
            }
            CertificateAuthority::generate("medbind infrastructure CA", now)?.save(&ca_dir)?;
            made.push(Made {
                what: "infrastructure CA",
                path: ca_dir.clone(),
            });
        }
        let first = marker.exists();
        if server.exists() && !first {
            return Ok(made);
        }
        let mut wanted = Vec::new();
        for Client { what, dir, role } in CLIENTS {
            let path = self.dir.join(dir);
            if path.exists() {
                continue;
            }
            if first {
                let name = dir.parse().map_err(|error: NameError| PkiError::Parse {
                    what: "a role's name",
                    why: error.to_string(),
                })?;
                wanted.push((what, path, Purpose::Client(role(name))));
            } else {
                warnings.push(format!(
                    "{path} is not here, and the first start alone makes it: where it was not moved \
                     to where it is used, medbind ca issue {path} --{dir} {dir} --ca {ca}",
                    path = path.display(),
                    ca = ca_dir.display()
                ));
            }
        }
        if !server.exists() {
            let purpose = Purpose::Server(self.names.clone());
            wanted.push(("server certificate and key", server, purpose));
        }
        if let Some((_, missing, _)) = wanted.first() {
            let Some(ca) = self.authority()? else {
                return Err(DataDirError::NoCaKey {
                    missing: missing.clone(),
                    key: ca_dir.join(KEY_FILE),
                });
            };
            for (what, path, purpose) in wanted {
                let new = ca.issue(&purpose, now, LEAF_VALIDITY)?;
                new.save(&path)?;
                warnings.extend(self.shortened(&new, &path));
                made.push(Made { what, path });
            }
        }
        if first {
            fs::remove_file(&marker).map_err(|source| PkiError::File {
                doing: "remove",
                path: marker,
                source,
            })?;
            sync_directory(&self.dir)?;
        }
        Ok(made)
    }

    fn make_server_again(
        &self,
        ca: &CertificateAuthority,
        now: Timestamp,
        warnings: &mut Vec<String>,
    ) -> Result<Made, DataDirError> {
        let path = self.dir.join(SERVER_DIR);
        let new = ca.issue(&Purpose::Server(self.names.clone()), now, LEAF_VALIDITY)?;
        warnings.extend(new.replace(&path)?);
        warnings.extend(self.shortened(&new, &path));
        Ok(Made {
            what: "server certificate and key, again",
            path,
        })
    }

    /// What there is to say of a new certificate that ends with its CA.
    fn shortened(&self, new: &Credentials, dir: &Path) -> Option<String> {
        new.shortened.then(|| {
            format!(
                "{} ends at {}, when its CA ends, and not later as is usual: medbind ca renew {}",
                dir.join(CERTIFICATE_FILE).display(),
                new.not_after,
                self.ca_dir().display()
            )
        })
    }

    /// Why the server's certificate cannot be used as it is, where it cannot.
    fn misfit(&self) -> Result<Option<String>, DataDirError> {
        let dir = self.dir.join(SERVER_DIR);
        let named = facts(&dir)?.server_names;
        let (certificate, key) = (dir.join(CERTIFICATE_FILE), dir.join(KEY_FILE));
        match pki::check_pair(&read(&certificate)?, &read(&key)?) {
            Ok(()) => {}
            Err(PkiError::KeyMismatch) => {
                return Ok(Some(
                    "certificate and key do not belong together".to_owned(),
                ));
            }
            Err(source) => return Err(DataDirError::Certificate { path: key, source }),
        }
        let missing = self.names.iter().find(|name| !named.contains(name));
        Ok(missing.map(|name| format!("the certificate does not name {name}")))
    }
}

fn facts(dir: &Path) -> Result<CertificateFacts, DataDirError> {
    let path = dir.join(CERTIFICATE_FILE);
    CertificateFacts::from_pem(&read(&path)?).map_err(|error| DataDirError::Certificate {
        path,
        source: error,
    })
}

/// What there is to say of a certificate that is not valid for long, and what mends it.
fn ending(
    dir: &Path,
    facts: &CertificateFacts,
    now: Timestamp,
    within: core::time::Duration,
    mend: &str,
) -> Option<String> {
    let shown = dir.join(CERTIFICATE_FILE);
    let shown = shown.display();
    if now > facts.not_after {
        Some(format!("{shown} has ended at {}; {mend}", facts.not_after))
    } else if facts.is_near_end(now, within) {
        Some(format!("{shown} ends at {}; {mend}", facts.not_after))
    } else {
        None
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
        fs::create_dir(&path).unwrap();
        let dir = Certificates::new(&path, &names(&NAMES));
        let first = dir.start(now()).unwrap();
        let made: Vec<_> = first.made.iter().map(|made| made.path.clone()).collect();
        assert_eq!(
            made,
            ["infra-ca", "edge", "operator", "server"].map(|name| path.join(name))
        );
        assert_eq!(first.warnings, Vec::<String>::new());
        let again = dir.start(now()).unwrap();
        assert_eq!(again.made, []);
        assert_eq!(again.certificate_pem, first.certificate_pem);
        for (path, mode) in [
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
        let first = Certificates::new(scratch.path(), &names(&NAMES));
        let first = first.start(now()).unwrap();
        let more = names(&["localhost", "registry.example"]);
        let dir = Certificates::new(scratch.path(), &more);
        let renamed = dir.start(now()).unwrap();
        assert_ne!(renamed.certificate_pem, first.certificate_pem);
        assert_eq!(dir.start(now()).unwrap().made, []);
        let late = now().after(LEAF_VALIDITY.saturating_sub(Duration::from_hours(24)));
        let renewed = dir.start(late).unwrap();
        assert_ne!(renewed.certificate_pem, renamed.certificate_pem);
        assert_eq!(
            renewed.warnings.len(),
            2,
            "edge and operator: {:?}",
            renewed.warnings
        );
        // A clock that was set back is seen by what was made before.
        let early = dir.start("2026-11-23T12:00:00Z".parse().unwrap());
        let clock = |warning: &String| warning.contains("set the clock");
        assert_eq!(
            early
                .unwrap()
                .warnings
                .iter()
                .filter(|one| clock(one))
                .count(),
            4
        );
        // Without the CA's key the old one is kept, and said.
        fs::remove_file(scratch.path().join("infra-ca/key.pem")).unwrap();
        let other = Certificates::new(scratch.path(), &names(&["other.example"]));
        let kept = other.start(now()).unwrap();
        assert_eq!(kept.certificate_pem, renewed.certificate_pem);
        assert!(
            kept.warnings
                .iter()
                .any(|warning| warning.contains("other.example"))
        );
    }

    #[test]
    fn what_was_moved_away_is_not_made_again_with_the_cas_key_or_without_it() {
        let scratch = tempfile::tempdir().unwrap();
        let dir = Certificates::new(scratch.path(), &names(&NAMES));
        dir.start(now()).unwrap();
        let (operator, key) = (
            scratch.path().join("operator"),
            scratch.path().join("infra-ca/key.pem"),
        );
        fs::rename(&operator, scratch.path().join("elsewhere")).unwrap();
        let started = dir.start(now()).unwrap();
        assert_eq!((started.made, started.warnings), (vec![], vec![]));
        fs::remove_file(key).unwrap();
        let started = dir.start(now()).unwrap();
        assert_eq!((started.made, started.warnings), (vec![], vec![]));
        assert!(!operator.exists());
        fs::remove_dir_all(scratch.path().join("server")).unwrap();
        let error = dir.start(now()).unwrap_err();
        assert!(matches!(error, DataDirError::NoCaKey { .. }), "{error}");
    }

    #[test]
    fn a_first_start_that_was_cut_off_is_ended_by_the_next() {
        let scratch = tempfile::tempdir().unwrap();
        let dir = Certificates::new(scratch.path(), &names(&NAMES));
        let marker = scratch.path().join(FIRST_START);
        dir.start(now()).unwrap();
        assert!(!marker.exists());
        for lost in [
            &["infra-ca", "edge", "operator", "server"][..],
            &["edge", "operator", "server"],
            &["operator", "server"],
            &["server"],
            &["edge", "operator"],
            &[],
        ] {
            for name in lost {
                fs::remove_dir_all(scratch.path().join(name)).unwrap();
            }
            fs::write(&marker, "").unwrap();
            let started = dir.start(now()).unwrap();
            let found: Vec<_> = started.made.into_iter().map(|made| made.path).collect();
            let made: Vec<_> = lost.iter().map(|name| scratch.path().join(name)).collect();
            assert_eq!((found, started.warnings), (made, vec![]));
            assert!(!marker.exists());
        }
        // Without the CA's key it cannot be ended, and is not taken for ended.
        fs::remove_file(scratch.path().join("infra-ca/key.pem")).unwrap();
        fs::remove_dir_all(scratch.path().join("operator")).unwrap();
        fs::write(&marker, "").unwrap();
        let error = dir.start(now()).unwrap_err();
        let operator = scratch.path().join("operator");
        assert!(
            matches!(&error, DataDirError::NoCaKey { missing, .. } if *missing == operator),
            "{error}"
        );
        assert!(marker.exists());
    }

    #[test]
    fn a_first_start_that_fails_is_ended_by_the_next_wherever_it_failed() {
        for failing in ["infra-ca", "edge", "operator", "server"] {
            let scratch = tempfile::tempdir().unwrap();
            let dir = Certificates::new(scratch.path(), &names(&NAMES));
            // A link to where nothing is: no directory can be put in its place.
            let path = scratch.path().join(failing);
            std::os::unix::fs::symlink("nowhere", &path).unwrap();
            let error = dir.start(now()).unwrap_err();
            assert!(error.to_string().contains(failing), "{error}");
            assert!(scratch.path().join(FIRST_START).exists(), "{failing}");
            fs::remove_file(&path).unwrap();
            let started = dir.start(now()).unwrap();
            assert_eq!(started.warnings, Vec::<String>::new());
            for name in DIRECTORIES {
                assert!(scratch.path().join(name).is_dir(), "{failing}: {name}");
            }
            assert!(!scratch.path().join(FIRST_START).exists());
        }
    }

    #[test]
    fn a_server_that_was_moved_away_is_made_again_alone_and_the_others_are_named() {
        let scratch = tempfile::tempdir().unwrap();
        let dir = Certificates::new(scratch.path(), &names(&NAMES));
        dir.start(now()).unwrap();
        for name in ["edge", "operator", "server"] {
            fs::remove_dir_all(scratch.path().join(name)).unwrap();
        }
        let started = dir.start(now()).unwrap();
        let found: Vec<_> = started.made.into_iter().map(|made| made.path).collect();
        assert_eq!(found, [scratch.path().join("server")]);
        for (warning, role) in started.warnings.iter().zip(["edge", "operator"]) {
            let path = scratch.path().join(role);
            let command = format!("medbind ca issue {} --{role} {role} --ca ", path.display());
            assert!(warning.contains(&command), "{warning}");
        }
        assert_eq!(started.warnings.len(), 2);
        assert_eq!(dir.start(now()).unwrap().warnings, Vec::<String>::new());
    }

    #[test]
    fn a_certificate_of_a_clock_that_ran_ahead_is_made_again_once_it_is_right() {
        let scratch = tempfile::tempdir().unwrap();
        let dir = Certificates::new(scratch.path(), &names(&NAMES));
        dir.start(now()).unwrap();
        let ahead = now().after(LEAF_VALIDITY);
        for mend in [Certificates::start, Certificates::look] {
            let from_ahead = dir.look(ahead).unwrap();
            let mended = mend(&dir, now()).unwrap();
            assert_ne!(mended.certificate_pem, from_ahead.certificate_pem);
            let facts = CertificateFacts::from_pem(&mended.certificate_pem).unwrap();
            assert!(facts.not_before <= now());
            assert_eq!((mended.made.len(), mended.warnings), (1, vec![]));
        }

        // Without the CA's key it is said, and is the same warning a minute later.
        dir.look(ahead).unwrap();
        fs::remove_file(scratch.path().join("infra-ca/key.pem")).unwrap();
        let soon = now().after(Duration::from_mins(1));
        let [first, second] = [now(), soon].map(|now| dir.look(now).unwrap().warnings);
        assert_eq!(first, second);
        let [warning] = first.as_slice() else {
            panic!("{first:?}")
        };
        let server = scratch.path().join("server");
        let command = format!("medbind ca issue {} --ca ", server.display());
        assert!(warning.contains("set the clock") && warning.contains(&command));
    }

    #[test]
    fn a_missing_ca_is_not_replaced_behind_what_it_signed() {
        let scratch = tempfile::tempdir().unwrap();
        let dir = Certificates::new(scratch.path(), &names(&NAMES));
        dir.start(now()).unwrap();
        fs::remove_dir_all(scratch.path().join("infra-ca")).unwrap();
        let error = dir.start(now()).unwrap_err();
        assert!(matches!(error, DataDirError::CaMissing(_)), "{error}");
    }

    #[test]
    fn the_servers_certificate_is_renewed_while_it_runs_and_others_are_warned_of() {
        let scratch = tempfile::tempdir().unwrap();
        let dir = Certificates::new(scratch.path(), &names(&NAMES));
        let first = dir.start(now()).unwrap();
        let calm = dir.look(now()).unwrap();
        assert_eq!((calm.made, calm.warnings), (vec![], vec![]));
        let ends: Vec<_> = calm.ends.iter().map(|(name, _)| *name).collect();
        assert_eq!(ends, ["infra-ca", "server", "edge", "operator"]);

        let late = now().after(LEAF_VALIDITY.saturating_sub(Duration::from_hours(24)));
        let looked = dir.look(late).unwrap();
        assert_ne!(looked.certificate_pem, first.certificate_pem);
        assert_eq!(looked.ends[1].1, late.after(LEAF_VALIDITY));
        let [edge, operator] = looked.warnings.as_slice() else {
            panic!("{:?}", looked.warnings)
        };
        for (warning, name) in [(edge, "edge"), (operator, "operator")] {
            let shown = scratch.path().join(name);
            let command = format!("medbind ca issue {} --ca ", shown.display());
            assert!(warning.contains(&command), "{warning}");
        }
        assert_eq!(
            dir.look(late).unwrap().certificate_pem,
            looked.certificate_pem
        );

        // What was moved away is nobody's but whose it is now.
        fs::remove_dir_all(scratch.path().join("operator")).unwrap();
        assert_eq!(dir.look(late).unwrap().warnings, [edge.as_str()]);
    }

    #[test]
    fn what_ends_with_its_ca_is_renewed_once_the_ca_is() {
        let scratch = tempfile::tempdir().unwrap();
        let dir = Certificates::new(scratch.path(), &names(&NAMES));
        dir.start(now()).unwrap();
        let late = now().after(pki::CA_VALIDITY.saturating_sub(Duration::from_hours(24)));
        let looked = dir.look(late).unwrap();
        let ca_end = looked.ends[0].1;
        assert_eq!(looked.ends[1].1, ca_end, "no longer than its CA");
        let said = |warning: &String| warning.contains("server/cert.pem ends at");
        assert!(looked.warnings.iter().any(said), "{:?}", looked.warnings);
        let late = late.after(Duration::from_hours(23));
        let looked = dir.look(late).unwrap();
        assert_eq!(looked.made, [], "nothing is to be won");
        let renew = format!("medbind ca renew {}", dir.ca_dir().display());
        let about_it = |warnings: &[String]| {
            let about = warnings.iter().filter(|warning| warning.contains(&renew));
            about.count()
        };
        assert_eq!(about_it(&looked.warnings), 2, "{:?}", looked.warnings);

        let ca = CertificateAuthority::load(&dir.ca_dir()).unwrap();
        ca.renewed(late).unwrap().replace(&dir.ca_dir()).unwrap();
        let renewed = dir.look(late).unwrap();
        assert_eq!(renewed.ends[1].1, late.after(LEAF_VALIDITY));
        assert_eq!(about_it(&renewed.warnings), 0, "{:?}", renewed.warnings);
    }
}
