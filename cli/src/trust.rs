//! Can Envoy read who signs the devices' certificates? An Envoy that cannot, as it starts, says that
//! it is live and ready, and ends every device's handshake: so the file that a bootstrap names is
//! read here, and the files that this one names, as far as they are on this machine.

use std::path::Path;

use der::asn1::AnyRef;
use der::{Decode as _, Encode as _, Reader as _, SliceReader};
use jiff::Timestamp;
use rustls::pki_types::CertificateRevocationListDer;
use rustls::pki_types::pem::PemObject as _;
use x509_cert::name::Name;
use x509_cert::time::Time;

use crate::check::Finding;
use crate::held::{self, Held, Problem, Signed};
use crate::locate::Node;
use crate::output::put;

const SECRET: &str = "validation_context_sds_secret_config";
const PUT_IT_THERE: &str = "put it in place, by `mv`, before Envoy is started";
const REPLACE: &str = "put a file in its place that can be read, by `mv`";
const NOBODY: &str = "an Envoy that starts lets no device in";

/// Looks at the file that this map, a TLS context of Envoy's, names for those whom it trusts, beside
/// the CAs that the guards take.
pub fn examine(context: &Node, field: &str, issuers: &[Held]) -> Vec<Finding> {
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
    field.push_str(".path");
    let (file, about) = held::file(path, &field);
    findings.extend(about);
    if let Some(file) = file {
        let name = context.at(&[SECRET, "name"]).and_then(Node::text);
        let problems = read_secret(&file, name.unwrap_or_default(), issuers);
        let problems = problems.into_iter();
        findings.extend(problems.map(|problem| problem.found(path, &field)));
    }
    findings
}

fn read_secret(file: &Path, name: &str, issuers: &[Held]) -> Vec<Problem> {
    let looked = || {
        let text = held::read(file, NOBODY, PUT_IT_THERE)?;
        let part = |source| held::content(source, NOBODY, PUT_IT_THERE);
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
        let Some((cas, cas_from)) = part(context.get("trusted_ca"))? else {
            return Err(wrong("no `trusted_ca`: nobody is trusted"));
        };
        let lists = part(context.get("crl"))?;
        let leaf_alone = context
            .get("only_verify_leaf_cert_crl")
            .is_some_and(Node::is_true);
        let lists = lists
            .as_ref()
            .map(|(text, from)| (text.as_str(), from.as_str()));
        Ok(judge((&cas, &cas_from), lists, leaf_alone, issuers))
    };
    looked().unwrap_or_else(|problem| vec![problem])
}

/// A revocation list (RFC 5280, 5.1).
struct List {
    signed: Signed,
    name: String,
    from: i64,
    until: Option<i64>,
}

fn list(octets: &[u8]) -> der::Result<List> {
    let mut found = None;
    let signed = Signed::read(octets, |content| {
        let mut inner = SliceReader::new(content.value())?;
        // Lists without extensions have no version.
        Option::<u8>::decode(&mut inner)?;
        AnyRef::decode(&mut inner)?;
        let issuer = Name::decode(&mut inner)?;
        let from = held::seconds(&Time::decode(&mut inner)?);
        let until = Option::<Time>::decode(&mut inner)?;
        while !inner.is_finished() {
            AnyRef::decode(&mut inner)?;
        }
        found = Some((issuer.to_string(), from, until));
        issuer.to_der()
    })?;
    let (name, from, until) = found.ok_or(der::ErrorKind::Failed)?;
    Ok(List {
        signed,
        name,
        from,
        until: until.as_ref().map(held::seconds),
    })
}

/// What is wrong with these CAs and their lists, each a PEM and where it is from, and with the CAs
/// beside those that the guards take.
pub fn judge(
    (pem, from): (&str, &str),
    lists: Option<(&str, &str)>,
    leaf_alone: bool,
    issuers: &[Held],
) -> Vec<Problem> {
    let mut problems = Vec::new();
    if pem.contains("PRIVATE KEY-----") {
        problems.push(Problem::warning(
            format!("{from}: there is a private key in it, which Envoy needs not"),
            "leave the certificates there alone; whoever has read a CA's key can make any device",
        ));
    }
    let looked = || {
        let cas = Held::all((pem, from), NOBODY, REPLACE)?;
        let mut problems: Vec<Problem> = cas.iter().filter_map(|ca| judge_ca(ca, from)).collect();
        problems.extend(strange(&cas, issuers, from));
        let Some((text, from)) = lists else {
            return Ok(problems);
        };
        let octets = CertificateRevocationListDer::pem_slice_iter(text.as_bytes());
        let octets = octets.map(|one| one.map(|one| one.to_vec()));
        let kind = "revocation list";
        let lists = held::every((text, from), kind, octets, list, NOBODY, REPLACE)?;
        let now = Timestamp::now().as_second();
        let judged = lists.iter();
        problems.extend(judged.filter_map(|list| judge_list(list, &cas, from, now)));
        problems.extend(without_list(&cas, &lists, from, leaf_alone));
        Ok(problems)
    };
    match looked() {
        Ok(found) => problems.extend(found),
        Err(problem) => problems.push(problem),
    }
    problems
}

fn judge_ca(ca: &Held, from: &str) -> Option<Problem> {
    const NEXT: &str = "put the CA's next certificate in its place, by `mv`";
    if !ca.is_ca {
        return Some(Problem::error(
            format!(
                "{from}: the certificate of {} is no CA's; devices that it has signed are refused",
                ca.name
            ),
            "put the certificate there that has signed your devices'",
        ));
    }
    ca.judge_life(from, "all of its devices are refused", NEXT)
}

/// Where nobody passes both Envoy, which trusts these CAs, and the guards, which take those.
fn strange(cas: &[Held], issuers: &[Held], from: &str) -> Option<Problem> {
    const MEND: &str = "put the CA that signs your devices into the guard's `issuers`, and it, or \
                        the one above it, into this file";
    let above = |one: &Held, other: &Held| {
        other.signed.issuer == one.subject && other.signed.is_by(one) != Some(false)
    };
    let is_one_chain = |ca: &Held, issuer: &Held| {
        ca.subject == issuer.subject && ca.key == issuer.key
            || above(ca, issuer)
            || above(issuer, ca)
    };
    let met = cas
        .iter()
        .any(|ca| issuers.iter().any(|issuer| is_one_chain(ca, issuer)));
    if issuers.is_empty() || met {
        return None;
    }
    let all = || cas.iter().chain(issuers);
    // A device may send certificates between the two that nobody here has seen.
    let is_open = |one: &Held| !all().any(|other| other.subject == one.signed.issuer);
    let (cas, issuers) = (names(cas), names(issuers));
    Some(if all().any(is_open) {
        Problem::warning(
            format!(
                "{from}: that a CA of it ({cas}) has signed one of the guard's issuers ({issuers}) \
                 cannot be seen here; if none has, no device gets in"
            ),
            MEND,
        )
    } else {
        Problem::error(
            format!(
                "{from}: no CA of it ({cas}) is one of the guard's issuers ({issuers}) or has signed \
                 one; no device gets in"
            ),
            MEND,
        )
    })
}

fn names(all: &[Held]) -> String {
    let names: Vec<&str> = all.iter().map(|one| one.name.as_str()).collect();
    names.join("; ")
}

fn judge_list(list: &List, cas: &[Held], from: &str, now: i64) -> Option<Problem> {
    const NEW: &str = "have the CA make a new one, and put it in place by `mv`";
    let name = &list.name;
    let of = || cas.iter().filter(|ca| ca.subject == list.signed.issuer);
    if of().next().is_none() {
        return Some(Problem::warning(
            format!(
                "{from}: no CA that is trusted has made the list of {name}; it counts only where \
                 devices send that CA's certificate"
            ),
            "put the list of a CA there that signs your devices",
        ));
    }
    if of().all(|ca| list.signed.is_by(ca) == Some(false)) {
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
    let end = held::moment(until);
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
fn without_list(cas: &[Held], lists: &[List], from: &str, leaf_alone: bool) -> Vec<Problem> {
    let foreign = |list: &List| !cas.iter().any(|ca| ca.subject == list.signed.issuer);
    let signs_cas = |one: &Held| {
        cas.iter()
            .any(|other| other.signed.issuer == one.subject && other.subject != one.subject)
    };
    cas.iter()
        .filter(|ca| !lists.iter().any(|list| list.signed.issuer == ca.subject))
        // A CA above the one that signs devices needs none, where only theirs are looked at.
        .filter(|ca| !(leaf_alone && (signs_cas(ca) || lists.iter().any(foreign))))
        .map(|ca| {
            Problem::error(
                format!(
                    "{from}: no list of {}; all devices that it has signed are refused",
                    ca.name
                ),
                "put a list of each CA into the file, also one that names nobody; take a CA out that signs no \
                 device any more",
            )
        })
        .collect()
}
