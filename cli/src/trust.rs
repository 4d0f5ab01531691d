//! Can Envoy read who signs the devices' certificates? An Envoy that cannot, as it starts, says that
//! it is live and ready, and ends every device's handshake: so the file that a bootstrap names is
//! read here, and the files that this one names, as far as they are on this machine.

use std::fs;
use std::path::Path;

use der::asn1::{AnyRef, BitStringRef};
use der::{Decode as _, Encode as _, Reader as _, Sequence, SliceReader};
use jiff::Timestamp;
use rustls::pki_types::pem::{self, PemObject as _};
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer};
use x509_cert::Certificate;
use x509_cert::ext::pkix::KeyUsage;
use x509_cert::name::Name;
use x509_cert::time::Time;

use crate::check::{Finding, Severity};
use crate::locate::Node;
use crate::output::put;

const SECRET: &str = "validation_context_sds_secret_config";
const PUT_IT_THERE: &str = "put it in place, by `mv`, before Envoy is started";

/// What is wrong with a file, and what to do about it.
#[derive(Debug)]
pub struct Problem {
    pub severity: Severity,
    pub what: String,
    pub mend: &'static str,
}

impl Problem {
    fn error(what: String, mend: &'static str) -> Self {
        Self {
            severity: Severity::Error,
            what,
            mend,
        }
    }

    fn warning(what: String, mend: &'static str) -> Self {
        Self {
            severity: Severity::Warning,
            what,
            mend,
        }
    }
}

/// Looks at the file that this map, a TLS context of Envoy's, names for those whom it trusts.
pub fn examine(context: &Node, field: &str) -> Vec<Finding> {
    let source = context.at(&[SECRET, "sds_config", "path_config_source"]);
    let Some((source, path)) = source.and_then(|source| Some((source, source.get("path")?))) else {
        return Vec::new();
    };
    let mut field = field.to_owned();
    put!(field, ".{SECRET}.sds_config.path_config_source");
    let mut findings = Vec::new();
    if source.get("watched_directory").is_none() {
        findings.push(Finding::warning(
            source,
            &field,
            "what cannot be read as Envoy starts is not read again once it is mended, and a symbolic \
             link that is turned is not seen",
            "add `watched_directory` with the folder of this file",
        ));
    }
    let file = Path::new(path.text().unwrap_or_default());
    // Where there is no such folder, the configuration is for another machine.
    if file.parent().is_some_and(Path::is_dir) {
        let name = context.at(&[SECRET, "name"]).and_then(Node::text);
        let problems = read_secret(file, name.unwrap_or_default());
        field.push_str(".path");
        findings.extend(problems.into_iter().map(|problem| {
            let finding = Finding::error(path, &field, &problem.what, problem.mend);
            Finding {
                severity: problem.severity,
                ..finding
            }
        }));
    }
    findings
}

fn read(path: &Path) -> Result<String, Problem> {
    fs::read_to_string(path).map_err(|error| {
        Problem::error(
            format!(
                "cannot read {}: {error}; an Envoy that starts lets no device in",
                path.display()
            ),
            PUT_IT_THERE,
        )
    })
}

fn read_secret(file: &Path, name: &str) -> Vec<Problem> {
    let looked = || {
        let text = read(file)?;
        let wrong = |what: &str| Problem::error(format!("{}: {what}", file.display()), "mend it");
        let documents = Node::parse(&text)
            .map_err(|error| wrong(&format!("neither YAML nor JSON: {}", error.what)))?;
        let mut resources = documents
            .iter()
            .filter_map(|document| document.get("resources"))
            .flat_map(Node::items);
        let context = resources
            .find(|resource| resource.text_of("name") == Some(name))
            .and_then(|resource| resource.get("validation_context"))
            .ok_or_else(|| wrong(&format!("no `validation_context` with the name {name:?}")))?;
        let Some((cas, cas_from)) = content(context.get("trusted_ca"))? else {
            return Err(wrong("no `trusted_ca`: nobody is trusted"));
        };
        let lists = content(context.get("crl"))?;
        let leaf_alone = context
            .get("only_verify_leaf_cert_crl")
            .is_some_and(Node::is_true);
        let lists = lists
            .as_ref()
            .map(|(text, from)| (text.as_str(), from.as_str()));
        Ok(judge((&cas, &cas_from), lists, leaf_alone))
    };
    looked().unwrap_or_else(|problem| vec![problem])
}

/// What a data source of Envoy's holds, and where that is from.
fn content(source: Option<&Node>) -> Result<Option<(String, String)>, Problem> {
    let Some(source) = source else {
        return Ok(None);
    };
    if let Some(text) = source.text_of("inline_string") {
        return Ok(Some((text.to_owned(), "inline_string".to_owned())));
    }
    let Some(path) = source.text_of("filename") else {
        return Ok(None);
    };
    Ok(Some((read(Path::new(path))?, path.to_owned())))
}

/// A CA as far as lists are concerned.
struct Ca {
    subject: Vec<u8>,
    issuer: Vec<u8>,
    name: String,
    algorithm: Vec<u8>,
    key: Vec<u8>,
    signs_lists: bool,
}

/// A revocation list (RFC 5280, 5.1).
struct List {
    issuer: Vec<u8>,
    name: String,
    from: i64,
    until: Option<i64>,
    signed: Vec<u8>,
    algorithm: Vec<u8>,
    signature: Vec<u8>,
}

/// Its outermost fields, as they were signed.
#[derive(Sequence)]
struct Signed<'a> {
    what: AnyRef<'a>,
    algorithm: AnyRef<'a>,
    signature: BitStringRef<'a>,
}

fn ca(octets: &[u8]) -> der::Result<Ca> {
    let certificate = Certificate::from_der(octets)?;
    let inner = certificate.tbs_certificate();
    let key = inner.subject_public_key_info();
    let usage = inner.get_extension::<KeyUsage>().ok().flatten();
    Ok(Ca {
        subject: inner.subject().to_der()?,
        issuer: inner.issuer().to_der()?,
        name: inner.subject().to_string(),
        algorithm: AnyRef::from_der(&key.algorithm.to_der()?)?.value().to_vec(),
        key: key.subject_public_key.raw_bytes().to_vec(),
        signs_lists: usage.is_none_or(|(_, usage)| usage.crl_sign()),
    })
}

fn list(octets: &[u8]) -> der::Result<List> {
    let outer = Signed::from_der(octets)?;
    let mut inner = SliceReader::new(outer.what.value())?;
    // Lists without extensions have no version.
    Option::<u8>::decode(&mut inner)?;
    AnyRef::decode(&mut inner)?;
    let issuer = Name::decode(&mut inner)?;
    let seconds = |time: Time| i64::try_from(time.to_unix_duration().as_secs()).unwrap_or(i64::MAX);
    let from = seconds(Time::decode(&mut inner)?);
    let until = Option::<Time>::decode(&mut inner)?.map(seconds);
    while !inner.is_finished() {
        AnyRef::decode(&mut inner)?;
    }
    Ok(List {
        issuer: issuer.to_der()?,
        name: issuer.to_string(),
        from,
        until,
        signed: outer.what.to_der()?,
        algorithm: outer.algorithm.value().to_vec(),
        signature: outer.signature.raw_bytes().to_vec(),
    })
}

/// Whether this CA has signed it; `None` where that cannot be told here.
fn signed(list: &List, ca: &Ca) -> Option<bool> {
    let provider = rustls::crypto::ring::default_provider();
    let mut fitting = provider
        .signature_verification_algorithms
        .all
        .iter()
        .filter(|one| one.signature_alg_id().as_ref() == list.algorithm)
        .filter(|one| one.public_key_alg_id().as_ref() == ca.algorithm)
        .peekable();
    fitting.peek()?;
    Some(fitting.any(|one| {
        one.verify_signature(&ca.key, &list.signed, &list.signature)
            .is_ok()
    }))
}

/// Every one of what a PEM file holds of a kind; at least one.
fn every<T>(
    (text, from): (&str, &str),
    kind: &str,
    octets: impl Iterator<Item = Result<Vec<u8>, pem::Error>>,
    parse: fn(&[u8]) -> der::Result<T>,
) -> Result<Vec<T>, Problem> {
    const MEND: &str = "put a file in its place that can be read, by `mv`";
    let broken = |why: &dyn std::fmt::Display| {
        Problem::error(
            format!(
                "{from}: a {kind} in it cannot be read ({why}); an Envoy that starts lets no device \
                 in"
            ),
            MEND,
        )
    };
    let mut all = Vec::new();
    for one in octets {
        let one = one.map_err(|error| broken(&error))?;
        all.push(parse(&one).map_err(|error| broken(&error))?);
    }
    if all.is_empty() {
        let size = text.len();
        return Err(Problem::error(
            format!("{from}: no {kind} in it ({size} octets); no device is let in"),
            MEND,
        ));
    }
    Ok(all)
}

/// What is wrong with these CAs and their lists, each a PEM and where it is from.
pub fn judge(cas: (&str, &str), lists: Option<(&str, &str)>, leaf_alone: bool) -> Vec<Problem> {
    let looked = || {
        let octets = CertificateDer::pem_slice_iter(cas.0.as_bytes());
        let octets = octets.map(|one| one.map(|one| one.to_vec()));
        let cas = every(cas, "certificate", octets, ca)?;
        let Some((text, from)) = lists else {
            return Ok(Vec::new());
        };
        let octets = CertificateRevocationListDer::pem_slice_iter(text.as_bytes());
        let octets = octets.map(|one| one.map(|one| one.to_vec()));
        let lists = every((text, from), "revocation list", octets, list)?;
        let now = Timestamp::now().as_second();
        let mut problems: Vec<Problem> = lists
            .iter()
            .filter_map(|list| judge_list(list, &cas, from, now))
            .collect();
        problems.extend(without_list(&cas, &lists, from, leaf_alone));
        Ok(problems)
    };
    looked().unwrap_or_else(|problem| vec![problem])
}

fn judge_list(list: &List, cas: &[Ca], from: &str, now: i64) -> Option<Problem> {
    const NEW: &str = "have the CA make a new one, and put it in place by `mv`";
    let name = &list.name;
    let of = || cas.iter().filter(|ca| ca.subject == list.issuer);
    if of().next().is_none() {
        return Some(Problem::warning(
            format!(
                "{from}: no CA that is trusted has made the list of {name}; it counts only where \
                 devices send that CA's certificate"
            ),
            "put the list of a CA there that signs your devices",
        ));
    }
    if of().all(|ca| signed(list, ca) == Some(false)) {
        return Some(Problem::error(
            format!(
                "{from}: the list of {name} was not signed by its key; all of its devices are \
                 refused"
            ),
            NEW,
        ));
    }
    if of().all(|ca| !ca.signs_lists) {
        return Some(Problem::error(
            format!(
                "{from}: the certificate of {name} does not let it sign lists (key usage cRLSign); \
                 all of its devices are refused"
            ),
            "have the CA's certificate made anew, or take the list out of device-ca.yaml",
        ));
    }
    if list.from > now {
        return Some(Problem::error(
            format!("{from}: the list of {name} is not valid yet; all of its devices are refused"),
            "look at this machine's clock and the CA's",
        ));
    }
    let until = list.until?;
    let end = Timestamp::from_second(until).map_or_else(|_| until.to_string(), |at| at.to_string());
    if until <= now {
        return Some(Problem::error(
            format!("{from}: the list of {name} has ended, {end}; all of its devices are refused"),
            NEW,
        ));
    }
    let life = until.saturating_sub(list.from);
    let left = until.saturating_sub(now);
    (left < life / 3).then(|| {
        Problem::warning(
            format!(
                "{from}: the list of {name} ends {end}; from then on all of its devices are refused"
            ),
            NEW,
        )
    })
}

/// CAs that need a list and have none.
fn without_list(cas: &[Ca], lists: &[List], from: &str, leaf_alone: bool) -> Vec<Problem> {
    let foreign = |list: &List| !cas.iter().any(|ca| ca.subject == list.issuer);
    let signs_cas = |one: &Ca| {
        cas.iter()
            .any(|other| other.issuer == one.subject && other.subject != one.subject)
    };
    cas.iter()
        .filter(|ca| !lists.iter().any(|list| list.issuer == ca.subject))
        // A CA above the one that signs devices needs none, where only theirs are looked at.
        .filter(|ca| !(leaf_alone && (signs_cas(ca) || lists.iter().any(foreign))))
        .map(|ca| {
            Problem::warning(
                format!(
                    "{from}: no list of {}; devices that it has signed are refused",
                    ca.name
                ),
                "put a list of each CA into the file, also one that names nobody",
            )
        })
        .collect()
}
