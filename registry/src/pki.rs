//! The infrastructure's certificates: a private CA, and what it signs for server, edges and
//! operators. P-256 throughout; keys are PKCS #8 PEM.

use core::fmt;
use core::time::Duration;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use der::{Decode as _, DecodePem as _};
use medbind_core::time::Timestamp;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PublicKeyData as _, SanType,
};
use time::OffsetDateTime;
use x509_cert::Certificate;

pub use crate::facts::CertificateFacts;
use crate::files::read;
pub use crate::files::{
    create_private_directory, keep_owner, replace_files, write_new_directory, write_private_file,
};
use crate::role::Role;

/// How long a new CA certificate is valid: ten years.
pub const CA_VALIDITY: Duration = Duration::from_hours(3650 * 24);
/// How long a new server, edge or operator certificate is valid: 825 days.
pub const LEAF_VALIDITY: Duration = Duration::from_hours(825 * 24);
/// A certificate that ends sooner than this is worth a warning: 30 days. One that lives for less
/// than 90 is, in the last third of its life.
pub const NEAR_EXPIRY: Duration = Duration::from_hours(30 * 24);
/// The same for a CA, whose certificate others have to get too: 180 days.
pub const CA_NEAR_EXPIRY: Duration = Duration::from_hours(180 * 24);
/// Certificates begin this much before they are made, for clocks that lag: one hour.
const BACKDATE_SECONDS: i64 = 3600;

/// The certificate's file name in a credentials directory.
pub const CERTIFICATE_FILE: &str = "cert.pem";
/// The private key's file name in a credentials directory.
pub const KEY_FILE: &str = "key.pem";
/// The name of the file with the CA certificate that the other side is verified against.
pub const CA_FILE: &str = "ca.pem";

/// What goes wrong with certificates, keys and their files.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    /// A file or directory could not be read or written.
    #[error("cannot {doing} {}: {source}", path.display())]
    File {
        /// `read`, `write`, `create`.
        doing: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A directory for credentials that is there already: nothing is overwritten.
    #[error("{} is there already, and keys are never overwritten: move it away first", .0.display())]
    Exists(PathBuf),
    /// A certificate could not be made.
    #[error("cannot make the certificate: {0}")]
    Make(#[from] rcgen::Error),
    /// A certificate or key does not parse.
    #[error("{what} does not parse: {why}")]
    Parse {
        /// The certificate, key or name.
        what: &'static str,
        /// What is wrong with it.
        why: String,
    },
    /// The private key is not the one of the certificate.
    #[error("the private key does not belong to the certificate")]
    KeyMismatch,
    /// A certificate that is to sign others is no CA certificate.
    #[error("the certificate is no CA certificate (basic constraints, RFC 5280 4.2.1.9)")]
    NoCa,
    /// A CA that has ended signs nothing that anybody would take.
    #[error("the CA has ended at {0}: `medbind ca renew` renews it")]
    CaEnded(Timestamp),
    /// A CA that somebody else made, or signed.
    #[error(
        "the CA's certificate is not one that `medbind serve` made: whoever made it renews it, with \
         the same name and key"
    )]
    NotOurs,
    /// A CA whose certificate is valid for longer than a renewed one would be.
    #[error(
        "the CA is valid until {0} already, which is not sooner than a renewed certificate would \
         end: it is kept"
    )]
    NotLater(Timestamp),
}

/// A private key as PKCS #8 PEM. `Debug` does not show it.
#[derive(Clone)]
pub struct PrivateKeyPem(String);

impl PrivateKeyPem {
    /// From PEM text that was made elsewhere.
    pub const fn new(pem: String) -> Self {
        Self(pem)
    }

    /// The PEM text, to be written to a file with mode 0600.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for PrivateKeyPem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PrivateKeyPem(..)")
    }
}

/// A certificate with its private key and the certificate of the CA that signed it.
#[derive(Clone, Debug)]
pub struct Credentials {
    /// The certificate, PEM.
    pub certificate_pem: String,
    /// Its private key.
    pub key_pem: PrivateKeyPem,
    /// The CA's certificate, PEM.
    pub ca_pem: String,
    /// When the certificate ends.
    pub not_after: Timestamp,
    /// Whether it ends sooner than was asked for, since its CA ends then.
    pub shortened: bool,
}

impl Credentials {
    /// Writes `cert.pem`, `key.pem` and `ca.pem` into the new directory `dir` (mode 0700, files
    /// 0600), all or nothing. A directory that is there already is an error.
    pub fn save(&self, dir: &Path) -> Result<(), PkiError> {
        write_new_directory(
            dir,
            &[
                (CERTIFICATE_FILE, self.certificate_pem.as_bytes()),
                (KEY_FILE, self.key_pem.expose().as_bytes()),
                (CA_FILE, self.ca_pem.as_bytes()),
            ],
        )
    }

    /// Replaces certificate and key of the credentials directory `dir`, the key first, so that a
    /// crash between the two leaves a pair that is seen not to belong together. `ca.pem` is
    /// replaced where it holds an earlier certificate of the same CA, and kept where it is another's.
    /// Answers what there is to warn of.
    pub fn replace(&self, dir: &Path) -> Result<Vec<String>, PkiError> {
        let mut files = vec![
            (KEY_FILE, self.key_pem.expose().as_bytes()),
            (CERTIFICATE_FILE, self.certificate_pem.as_bytes()),
        ];
        let known = read(&dir.join(CA_FILE)).ok();
        if known.is_some_and(|known| is_same_authority(&known, &self.ca_pem)) {
            files.push((CA_FILE, self.ca_pem.as_bytes()));
        }
        replace_files(dir, &files)
    }
}

/// For whom a certificate is made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// A TLS server with these DNS names and IP addresses (at least one).
    Server(Vec<String>),
    /// A client of the registry with this role.
    Client(Role),
}

/// A certificate authority with its private key.
pub struct CertificateAuthority {
    certificate_pem: String,
    key_pem: PrivateKeyPem,
    not_before: Timestamp,
    not_after: Timestamp,
    issuer: Issuer<'static, KeyPair>,
}

impl fmt::Debug for CertificateAuthority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CertificateAuthority")
            .finish_non_exhaustive()
    }
}

impl CertificateAuthority {
    /// Makes a new self-signed CA (P-256, path length 0, keyCertSign and cRLSign) that is valid
    /// for [`CA_VALIDITY`] from `now`.
    pub fn generate(common_name: &str, now: Timestamp) -> Result<Self, PkiError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        Self::self_signed(common_name, key, now)
    }

    fn self_signed(common_name: &str, key: KeyPair, now: Timestamp) -> Result<Self, PkiError> {
        let mut params = CertificateParams::default();
        params.distinguished_name = common_name_only(common_name);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let not_after = whole_second(now.after(CA_VALIDITY));
        set_validity(&mut params, now, not_after)?;
        let not_before = Timestamp::from_unix_seconds(params.not_before.unix_timestamp());
        let certificate_pem = params.self_signed(&key)?.pem();
        let key_pem = PrivateKeyPem(key.serialize_pem());
        Ok(Self {
            certificate_pem,
            key_pem,
            not_before,
            not_after,
            issuer: Issuer::new(params, key),
        })
    }

    /// The same CA with a new certificate, valid for [`CA_VALIDITY`] from `now`. Name and key are
    /// the old ones: what was signed before verifies with the new certificate, and what is signed
    /// from now on with the old one, until that ends. A certificate that is valid is not replaced
    /// by one that ends no later.
    pub fn renewed(&self, now: Timestamp) -> Result<Self, PkiError> {
        let old = parse_certificate(&self.certificate_pem)?;
        let name = own_name(&old).ok_or(PkiError::NotOurs)?;
        let new = Self::self_signed(&name, parse_key(self.key_pem.expose())?, now)?;
        if !is_same_authority(&self.certificate_pem, &new.certificate_pem) {
            Err(PkiError::NotOurs)
        } else if now >= self.not_before && new.not_after <= self.not_after {
            Err(PkiError::NotLater(self.not_after))
        } else {
            Ok(new)
        }
    }

    /// From a CA certificate and its key, both PEM. The key must be the certificate's.
    pub fn from_pem(certificate_pem: &str, key_pem: &str) -> Result<Self, PkiError> {
        let certificate = parse_certificate(certificate_pem)?;
        let is_ca = certificate
            .tbs_certificate()
            .get_extension::<x509_cert::ext::pkix::BasicConstraints>()
            .is_ok_and(|found| found.is_some_and(|(_, constraints)| constraints.ca));
        if !is_ca {
            return Err(PkiError::NoCa);
        }
        let key = parse_key(key_pem)?;
        check_key(&certificate, &key)?;
        Ok(Self {
            certificate_pem: certificate_pem.to_owned(),
            key_pem: PrivateKeyPem(key_pem.to_owned()),
            not_before: moment(&certificate.tbs_certificate().validity().not_before),
            not_after: moment(&certificate.tbs_certificate().validity().not_after),
            issuer: Issuer::from_ca_cert_pem(certificate_pem, key)?,
        })
    }

    /// Reads `cert.pem` and `key.pem` of `dir`.
    pub fn load(dir: &Path) -> Result<Self, PkiError> {
        Self::from_pem(
            &read(&dir.join(CERTIFICATE_FILE))?,
            &read(&dir.join(KEY_FILE))?,
        )
    }

    /// Writes `cert.pem` and `key.pem` into the new directory `dir` (mode 0700, files 0600), all
    /// or nothing. A directory that is there already is an error.
    pub fn save(&self, dir: &Path) -> Result<(), PkiError> {
        write_new_directory(
            dir,
            &[
                (CERTIFICATE_FILE, self.certificate_pem.as_bytes()),
                (KEY_FILE, self.key_pem.expose().as_bytes()),
            ],
        )
    }

    /// Replaces the certificate of `dir`; the key there stays as it is. Answers what there is to
    /// warn of.
    pub fn replace(&self, dir: &Path) -> Result<Vec<String>, PkiError> {
        replace_files(dir, &[(CERTIFICATE_FILE, self.certificate_pem.as_bytes())])
    }

    /// The CA's certificate, PEM.
    pub fn certificate_pem(&self) -> &str {
        &self.certificate_pem
    }

    /// When the CA's certificate begins.
    pub const fn not_before(&self) -> Timestamp {
        self.not_before
    }

    /// When the CA's certificate ends.
    pub const fn not_after(&self) -> Timestamp {
        self.not_after
    }

    /// The issuer to sign other certificates with (rcgen), for those who make their own kinds.
    pub fn issuer(&self) -> &Issuer<'static, KeyPair> {
        &self.issuer
    }

    /// Makes a key and a certificate (P-256, digitalSignature; serverAuth or clientAuth) that is
    /// valid for `validity` from `now`, but no longer than the CA itself: nobody takes what has
    /// outlived its CA.
    pub fn issue(
        &self,
        purpose: &Purpose,
        now: Timestamp,
        validity: Duration,
    ) -> Result<Credentials, PkiError> {
        if now > self.not_after {
            return Err(PkiError::CaEnded(self.not_after));
        }
        let asked = whole_second(now.after(validity));
        let not_after = asked.min(self.not_after);
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::ExplicitNoCa;
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        set_validity(&mut params, now, not_after)?;
        match purpose {
            Purpose::Server(names) => {
                let first = names.first().ok_or_else(|| PkiError::Parse {
                    what: "the list of server names",
                    why: "it is empty".to_owned(),
                })?;
                params.distinguished_name = common_name_only(first);
                params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
                params.subject_alt_names = names
                    .iter()
                    .map(|name| server_name(name))
                    .collect::<Result<_, _>>()?;
            }
            Purpose::Client(role) => {
                params.distinguished_name = common_name_only(&role.to_string());
                params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
                if let Some(uri) = role.uri() {
                    params.subject_alt_names = vec![SanType::URI(uri.try_into()?)];
                }
            }
        }
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let certificate_pem = params.signed_by(&key, &self.issuer)?.pem();
        Ok(Credentials {
            certificate_pem,
            key_pem: PrivateKeyPem(key.serialize_pem()),
            ca_pem: self.certificate_pem.clone(),
            not_after,
            shortened: not_after < asked,
        })
    }
}

/// Checks that `name` may stand in a server certificate: an IP address or a DNS name.
pub fn check_server_name(name: &str) -> Result<(), PkiError> {
    server_name(name).map(drop)
}

fn server_name(name: &str) -> Result<SanType, PkiError> {
    if let Ok(address) = name.parse::<IpAddr>() {
        return Ok(SanType::IpAddress(address));
    }
    rustls_pki_types::DnsName::try_from(name).map_err(|_| PkiError::Parse {
        what: "a server name",
        why: format!("{name:?} is neither a DNS name nor an IP address"),
    })?;
    Ok(SanType::DnsName(name.try_into()?))
}

fn common_name_only(name: &str) -> DistinguishedName {
    let mut subject = DistinguishedName::new();
    subject.push(DnType::CommonName, name);
    subject
}

/// As certificates write it.
fn whole_second(time: Timestamp) -> Timestamp {
    Timestamp::from_unix_seconds(time.unix_seconds())
}

fn set_validity(
    params: &mut CertificateParams,
    now: Timestamp,
    not_after: Timestamp,
) -> Result<(), PkiError> {
    let date = |seconds: i64| {
        OffsetDateTime::from_unix_timestamp(seconds).map_err(|error| PkiError::Parse {
            what: "the time of validity",
            why: error.to_string(),
        })
    };
    params.not_before = date(now.unix_seconds().saturating_sub(BACKDATE_SECONDS))?;
    params.not_after = date(not_after.unix_seconds())?;
    Ok(())
}

pub(crate) fn parse_certificate(pem: &str) -> Result<Certificate, PkiError> {
    let failed = |why| PkiError::Parse {
        what: "the certificate",
        why,
    };
    let count = pem.matches("BEGIN CERTIFICATE").count();
    if count > 1 {
        return Err(failed(format!(
            "the file holds {count} of them, and one is expected"
        )));
    }
    Certificate::from_pem(pem.as_bytes()).map_err(|error| failed(error.to_string()))
}

/// A time of a certificate.
pub(crate) fn moment(time: &x509_cert::time::Time) -> Timestamp {
    let seconds = time.to_unix_duration().as_secs();
    Timestamp::from_unix_seconds(i64::try_from(seconds).unwrap_or(i64::MAX))
}

/// Whether two texts hold one CA certificate each, both of one CA: all but serial and validity is
/// the same.
fn is_same_authority(one: &str, other: &str) -> bool {
    let (Ok(one), Ok(other)) = (parse_certificate(one), parse_certificate(other)) else {
        return false;
    };
    let (one, other) = (one.tbs_certificate(), other.tbs_certificate());
    one.subject() == other.subject()
        && one.subject_public_key_info() == other.subject_public_key_info()
        && one.extensions() == other.extensions()
}

/// The common name of a self-signed CA.
fn own_name(certificate: &Certificate) -> Option<String> {
    let body = certificate.tbs_certificate();
    let name = body.subject().common_name().ok()??;
    (body.issuer() == body.subject()).then(|| name.value().into_owned())
}

fn parse_key(pem: &str) -> Result<KeyPair, PkiError> {
    // The library's own message may quote the input, which is a secret.
    KeyPair::from_pem(pem).map_err(|_| PkiError::Parse {
        what: "the private key",
        why: "expected PKCS #8 PEM".to_owned(),
    })
}

fn check_key(certificate: &Certificate, key: &KeyPair) -> Result<(), PkiError> {
    let public = certificate.tbs_certificate().subject_public_key_info();
    let spki = x509_cert::spki::SubjectPublicKeyInfoOwned::from_der(&key.subject_public_key_info())
        .map_err(|error| PkiError::Parse {
            what: "the public key",
            why: error.to_string(),
        })?;
    if spki == *public {
        Ok(())
    } else {
        Err(PkiError::KeyMismatch)
    }
}

/// Checks that a private key belongs to a certificate, both PEM.
pub(crate) fn check_pair(certificate_pem: &str, key_pem: &str) -> Result<(), PkiError> {
    check_key(&parse_certificate(certificate_pem)?, &parse_key(key_pem)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    fn now() -> Timestamp {
        "2026-11-24T16:20:00Z".parse().unwrap()
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn a_ca_survives_being_saved_and_loaded_and_its_files_are_private() {
        let scratch = tempfile::tempdir().unwrap();
        let dir = scratch.path().join("infra-ca");
        let ca = CertificateAuthority::generate("test CA", now()).unwrap();
        ca.save(&dir).unwrap();
        assert_eq!((mode(&dir), mode(&dir.join(KEY_FILE))), (0o700, 0o600));
        assert!(matches!(ca.save(&dir), Err(PkiError::Exists(_))));
        let loaded = CertificateAuthority::load(&dir).unwrap();
        assert_eq!(loaded.certificate_pem(), ca.certificate_pem());
        let names = vec![
            "registry.example".to_owned(),
            "127.0.0.1".to_owned(),
            "::1".to_owned(),
        ];
        let leaf = loaded
            .issue(&Purpose::Server(names.clone()), now(), LEAF_VALIDITY)
            .unwrap();
        let facts = CertificateFacts::from_pem(&leaf.certificate_pem).unwrap();
        assert_eq!(facts.server_names, names);
        assert_eq!(facts.not_after, now().after(LEAF_VALIDITY));
        check_pair(&leaf.certificate_pem, leaf.key_pem.expose()).unwrap();
    }

    #[test]
    fn a_strangers_key_and_a_leaf_make_no_ca() {
        let ca = CertificateAuthority::generate("one", now()).unwrap();
        let other = CertificateAuthority::generate("two", now()).unwrap();
        assert!(matches!(
            CertificateAuthority::from_pem(ca.certificate_pem(), other.key_pem.expose()),
            Err(PkiError::KeyMismatch)
        ));
        let purpose = Purpose::Client(Role::Edge("e".parse().unwrap()));
        let leaf = ca.issue(&purpose, now(), LEAF_VALIDITY).unwrap();
        assert!(matches!(
            CertificateAuthority::from_pem(&leaf.certificate_pem, leaf.key_pem.expose()),
            Err(PkiError::NoCa)
        ));
    }

    #[test]
    fn what_is_no_name_gets_no_server_certificate() {
        for name in ["", "a b", "https://registry", "registry:8443", "ä"] {
            assert!(check_server_name(name).is_err(), "{name:?}");
        }
    }

    #[test]
    fn a_private_key_is_not_shown() {
        let ca = CertificateAuthority::generate("one", now()).unwrap();
        let purpose = Purpose::Server(vec!["localhost".to_owned()]);
        let shown = format!(
            "{ca:?} {:?}",
            ca.issue(&purpose, now(), LEAF_VALIDITY).unwrap()
        );
        assert!(!shown.contains("PRIVATE KEY"), "{shown}");
    }

    #[test]
    fn nothing_outlives_its_ca_and_an_ended_one_signs_nothing() {
        let ca = CertificateAuthority::generate("one", now()).unwrap();
        let purpose = Purpose::Server(vec!["localhost".to_owned()]);
        let early = ca.issue(&purpose, now(), LEAF_VALIDITY).unwrap();
        assert!(!early.shortened && early.not_after == now().after(LEAF_VALIDITY));
        let late = now().after(CA_VALIDITY.saturating_sub(Duration::from_hours(1)));
        let leaf = ca.issue(&purpose, late, LEAF_VALIDITY).unwrap();
        assert!(leaf.shortened && leaf.not_after == ca.not_after());
        let facts = CertificateFacts::from_pem(&leaf.certificate_pem).unwrap();
        assert_eq!(facts.not_after, ca.not_after());
        let ended = late.after(Duration::from_hours(2));
        let refused = ca.issue(&purpose, ended, LEAF_VALIDITY);
        assert!(matches!(refused, Err(PkiError::CaEnded(_))));
        // What would end no later is no renewal, unless what is there is not valid yet.
        assert!(matches!(ca.renewed(now()), Err(PkiError::NotLater(end)) if end == ca.not_after()));
        let before = Timestamp::from_unix_seconds(ca.not_before().unix_seconds() - 1);
        assert!(ca.renewed(before).is_ok());
        let renewed = ca.renewed(ended).unwrap();
        assert!(
            !renewed
                .issue(&purpose, ended, LEAF_VALIDITY)
                .unwrap()
                .shortened
        );
    }
}
