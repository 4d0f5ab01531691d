//! What do the files that a configuration names hold? Certificates, as far as Envoy goes by them.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use der::asn1::{AnyRef, BitStringRef};
use der::{Decode as _, Encode as _, Sequence};
use jiff::Timestamp;
use medbind_registry::pki::{CA_NEAR_EXPIRY, NEAR_EXPIRY};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::{self, PemObject as _};
use x509_cert::Certificate;
use x509_cert::certificate::Version;
use x509_cert::ext::pkix::name::GeneralName;
use x509_cert::ext::pkix::{BasicConstraints, KeyUsage, SubjectAltName};
use x509_cert::time::Time;

use crate::check::{Finding, Severity};
use crate::locate::Node;

/// What is wrong with a file, and what to do about it.
#[derive(Debug)]
pub struct Problem {
    pub severity: Severity,
    pub what: String,
    pub mend: &'static str,
}

impl Problem {
    pub fn error(what: String, mend: &'static str) -> Self {
        Self {
            severity: Severity::Error,
            what,
            mend,
        }
    }

    pub fn warning(what: String, mend: &'static str) -> Self {
        Self {
            severity: Severity::Warning,
            ..Self::error(what, mend)
        }
    }

    /// As it is told of a place in the configuration.
    pub fn found(self, node: &Node, field: &str) -> Finding {
        Finding {
            severity: self.severity,
            ..Finding::error(node, field, &self.what, self.mend)
        }
    }
}

/// The file that a configuration names here, as far as it is meant for this machine, and what there
/// is to say of its name.
pub fn file(node: &Node, field: &str) -> (Option<PathBuf>, Option<Finding>) {
    let path = Path::new(node.text().unwrap_or_default());
    if path.is_absolute() {
        // Where there is no such folder, the configuration is for another machine.
        let here = path.parent().is_some_and(Path::is_dir);
        return (here.then(|| path.to_owned()), None);
    }
    let there = path.exists();
    let seen = if there { "" } else { ", and it is not in this" };
    let finding = Finding::warning(
        node,
        field,
        &format!(
            "{} is looked for in the folder that Envoy is started in{seen}",
            path.display()
        ),
        "name it from the root",
    );
    (there.then(|| path.to_owned()), Some(finding))
}

/// Reads a file without which `outcome`.
pub fn read(path: &Path, outcome: &str, mend: &'static str) -> Result<String, Problem> {
    fs::read_to_string(path).map_err(|error| {
        Problem::error(
            format!("cannot read {}: {error}; {outcome}", path.display()),
            mend,
        )
    })
}

/// Something that a CA has signed, as it was signed.
#[derive(Clone, Debug)]
pub struct Signed {
    pub issuer: Vec<u8>,
    content: Vec<u8>,
    algorithm: Vec<u8>,
    signature: Vec<u8>,
}

/// The outermost fields of certificates and lists alike (RFC 5280, 4.1 and 5.1).
#[derive(Sequence)]
struct Outer<'a> {
    content: AnyRef<'a>,
    algorithm: AnyRef<'a>,
    signature: BitStringRef<'a>,
}

impl Signed {
    /// Reads its outermost fields; `issuer` says who has signed it by what stands in them.
    pub fn read(
        octets: &[u8],
        issuer: impl FnOnce(AnyRef<'_>) -> der::Result<Vec<u8>>,
    ) -> der::Result<Self> {
        let outer = Outer::from_der(octets)?;
        Ok(Self {
            issuer: issuer(outer.content)?,
            content: outer.content.to_der()?,
            algorithm: outer.algorithm.value().to_vec(),
            signature: outer.signature.raw_bytes().to_vec(),
        })
    }

    /// Whether this certificate's key has signed it; `None` where that cannot be told here.
    pub fn is_by(&self, ca: &Held) -> Option<bool> {
        let provider = rustls::crypto::ring::default_provider();
        let mut fitting = provider
            .signature_verification_algorithms
            .all
            .iter()
            .filter(|one| one.signature_alg_id().as_ref() == self.algorithm)
            .filter(|one| one.public_key_alg_id().as_ref() == ca.algorithm)
            .peekable();
        fitting.peek()?;
        Some(fitting.any(|one| {
            one.verify_signature(&ca.key, &self.content, &self.signature)
                .is_ok()
        }))
    }
}

/// A certificate.
#[derive(Clone, Debug)]
pub struct Held {
    pub der: Vec<u8>,
    pub subject: Vec<u8>,
    pub signed: Signed,
    /// Its subject, for people.
    pub name: String,
    algorithm: Vec<u8>,
    pub key: Vec<u8>,
    from: i64,
    until: i64,
    /// Whether Envoy takes it for a CA.
    pub is_ca: bool,
    pub signs_lists: bool,
    /// The DNS names that it is for.
    pub dns_names: Vec<String>,
}

/// Seconds since the Unix epoch.
pub fn seconds(time: &Time) -> i64 {
    i64::try_from(time.to_unix_duration().as_secs()).unwrap_or(i64::MAX)
}

/// For people.
pub fn moment(seconds: i64) -> String {
    Timestamp::from_second(seconds).map_or_else(|_| seconds.to_string(), |at| at.to_string())
}

impl Held {
    fn read(octets: &[u8]) -> der::Result<Self> {
        let certificate = Certificate::from_der(octets)?;
        let inner = certificate.tbs_certificate();
        let key = inner.subject_public_key_info();
        let usage = inner.get_extension::<KeyUsage>().ok().flatten();
        let basic = inner.get_extension::<BasicConstraints>().ok().flatten();
        let names = inner.get_extension::<SubjectAltName>().ok().flatten();
        let names = names.map(|(_, names)| names.0).unwrap_or_default();
        let issuer = inner.issuer().to_der()?;
        // BoringSSL takes a root of the first version for a CA, which cannot say that it is one.
        let is_old_root = inner.version() == Version::V1 && inner.issuer() == inner.subject();
        let may_sign = usage
            .as_ref()
            .is_none_or(|(_, usage)| usage.key_cert_sign());
        Ok(Self {
            der: octets.to_vec(),
            subject: inner.subject().to_der()?,
            signed: Signed::read(octets, |_| Ok(issuer))?,
            name: inner.subject().to_string(),
            algorithm: AnyRef::from_der(&key.algorithm.to_der()?)?.value().to_vec(),
            key: key.subject_public_key.raw_bytes().to_vec(),
            from: seconds(&inner.validity().not_before),
            until: seconds(&inner.validity().not_after),
            is_ca: may_sign && (is_old_root || basic.is_some_and(|(_, basic)| basic.ca)),
            signs_lists: usage.is_none_or(|(_, usage)| usage.crl_sign()),
            dns_names: names
                .iter()
                .filter_map(|name| match name {
                    GeneralName::DnsName(name) => Some(name.as_str().to_owned()),
                    _ => None,
                })
                .collect(),
        })
    }

    /// Every certificate of a PEM text, and where that is from; at least one.
    pub fn all(
        (text, from): (&str, &str),
        outcome: &str,
        mend: &'static str,
    ) -> Result<Vec<Self>, Problem> {
        let octets = CertificateDer::pem_slice_iter(text.as_bytes());
        let octets = octets.map(|one| one.map(|one| one.to_vec()));
        every(
            (text, from),
            "certificate",
            octets,
            Self::read,
            outcome,
            mend,
        )
    }

    /// Those of a PEM text that can be read.
    pub fn readable(text: &str) -> Vec<Self> {
        CertificateDer::pem_slice_iter(text.as_bytes())
            .flatten()
            .filter_map(|one| Self::read(&one).ok())
            .collect()
    }

    /// What there is to say of when it is valid. Where it is not, `outcome`.
    pub fn judge_life(&self, from: &str, outcome: &str, mend: &'static str) -> Option<Problem> {
        let now = Timestamp::now().as_second();
        let (name, end) = (&self.name, moment(self.until));
        if self.from > now {
            let begin = moment(self.from);
            return Some(Problem::error(
                format!("{from}: the certificate of {name} is not valid before {begin}; {outcome}"),
                "look at this machine's clock and that of who has made it",
            ));
        }
        if self.until <= now {
            return Some(Problem::error(
                format!("{from}: the certificate of {name} has ended, {end}; {outcome}"),
                mend,
            ));
        }
        let near = if self.is_ca {
            CA_NEAR_EXPIRY
        } else {
            NEAR_EXPIRY
        };
        let third = self.until.saturating_sub(self.from) / 3;
        let left = Duration::from_secs(self.until.abs_diff(now));
        let is_near = left < near.min(Duration::from_secs(third.unsigned_abs()));
        is_near.then(|| {
            Problem::warning(
                format!("{from}: the certificate of {name} ends {end}; from then on {outcome}"),
                mend,
            )
        })
    }
}

/// Every one of what a PEM text holds of a kind; at least one.
pub fn every<T>(
    (text, from): (&str, &str),
    kind: &str,
    octets: impl Iterator<Item = Result<Vec<u8>, pem::Error>>,
    parse: fn(&[u8]) -> der::Result<T>,
    outcome: &str,
    mend: &'static str,
) -> Result<Vec<T>, Problem> {
    let broken = |why: &dyn std::fmt::Display| {
        let what = format!("{from}: a {kind} in it cannot be read ({why}); {outcome}");
        Problem::error(what, mend)
    };
    let mut all = Vec::new();
    for one in octets {
        let one = one.map_err(|error| broken(&error))?;
        all.push(parse(&one).map_err(|error| broken(&error))?);
    }
    if all.is_empty() {
        let size = text.len();
        let what = format!("{from}: no {kind} in it ({size} octets); {outcome}");
        return Err(Problem::error(what, mend));
    }
    Ok(all)
}

/// What a data source of Envoy's holds, and where that is from.
pub fn content(
    source: Option<&Node>,
    outcome: &str,
    mend: &'static str,
) -> Result<Option<(String, String)>, Problem> {
    let Some(source) = source else {
        return Ok(None);
    };
    if let Some(text) = source.text_of("inline_string") {
        return Ok(Some((text.to_owned(), "inline_string".to_owned())));
    }
    let Some(path) = source.text_of("filename") else {
        return Ok(None);
    };
    let text = read(Path::new(path), outcome, mend)?;
    Ok(Some((text, path.to_owned())))
}
