//! What does Envoy show, and whom does it ask for? Its certificates and keys, and the CAs that it
//! verifies its upstreams with, as far as they are on this machine.

use std::collections::BTreeSet;
use std::fs;
use std::io::ErrorKind;

use medbind_core::certificate::PeerCertificate;
use rustls::crypto::ring::sign::any_supported_type;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject as _;
use x509_cert::der::Decode as _;
use x509_cert::spki::SubjectPublicKeyInfoRef;

use crate::check::Finding;
use crate::held::{self, Held, Problem};
use crate::locate::Node;
use crate::output::put;

const NO_START: &str = "Envoy does not start";
const IN_PLACE: &str = "put it in place before Envoy is started";
const PAIR: &str =
    "put a certificate and its key in place: `medbind ca issue --renew` makes both anew";
const ANEW: &str = "have it made anew (`medbind ca issue --renew`), and restart Envoy hot";

/// What has been looked at: files that are named at several places are told of once.
#[derive(Debug, Default)]
pub struct Shown(BTreeSet<String>);

impl Shown {
    /// Looks at the files that this map names.
    pub fn examine(&mut self, node: &Node, field: &str) -> Vec<Finding> {
        let mut findings = Vec::new();
        if self.is_new(node, &["certificate_chain", "private_key"]) {
            pair(node, field, &mut findings);
        }
        if self.is_new(node, &["trusted_ca"]) {
            trusted(node, field, &mut findings);
        }
        findings.extend(names(node, field));
        findings
    }

    fn is_new(&mut self, node: &Node, sources: &[&str]) -> bool {
        let mut named = String::new();
        for name in sources {
            let Some(source) = node.get(name) else {
                return false;
            };
            let from = source
                .text_of("filename")
                .or(source.text_of("inline_string"));
            put!(named, "{}\n", from.unwrap_or_default());
        }
        self.0.insert(named)
    }
}

/// The text of a data source, as far as it is on this machine, and where it is from.
fn source(
    node: &Node,
    field: &str,
    name: &str,
    findings: &mut Vec<Finding>,
) -> Option<(String, String)> {
    let source = node.get(name)?;
    let mut field = field.to_owned();
    put!(field, ".{name}");
    if let Some(path) = source.get("filename") {
        field.push_str(".filename");
        let (file, about) = held::file(path, &field);
        findings.extend(about);
        let file = file?;
        let opened = fs::File::open(&file);
        if opened.is_err_and(|error| error.kind() == ErrorKind::PermissionDenied) {
            findings.push(Finding::warning(
                path,
                &field,
                &format!(
                    "{} may not be read here, and was not looked at",
                    file.display()
                ),
                "run this as the user that Envoy runs as",
            ));
            return None;
        }
    }
    match held::content(Some(source), NO_START, IN_PLACE) {
        Ok(content) => content,
        Err(problem) => {
            findings.push(problem.found(source, &field));
            None
        }
    }
}

/// A certificate that is shown, and its key.
fn pair(node: &Node, field: &str, findings: &mut Vec<Finding>) {
    let chain = source(node, field, "certificate_chain", findings);
    let key = source(node, field, "private_key", findings);
    let mut tell = |name, problem: Problem| {
        let mut field = field.to_owned();
        put!(field, ".{name}");
        findings.push(problem.found(node.get(name).unwrap_or(node), &field));
    };
    let mut first = None;
    if let Some((pem, from)) = &chain {
        match Held::all((pem, from), NO_START, PAIR) {
            Ok(held) => {
                let outcome = "whoever it is shown to refuses this Envoy";
                for one in &held {
                    if let Some(problem) = one.judge_life(from, outcome, ANEW) {
                        tell("certificate_chain", problem);
                    }
                }
                first = held.into_iter().next();
            }
            Err(problem) => tell("certificate_chain", problem),
        }
    }
    // A key under a password is not looked into.
    if let Some((pem, from)) = key.filter(|_| node.get("password").is_none())
        && let Err(problem) = judge_key((&pem, &from), first.as_ref())
    {
        tell("private_key", problem);
    }
}

/// Whether it can be read, and is this certificate's.
fn judge_key((pem, from): (&str, &str), certificate: Option<&Held>) -> Result<(), Problem> {
    let broken = |why: &dyn std::fmt::Display| {
        let what = format!("{from}: no private key in it can be read ({why}); {NO_START}");
        Problem::error(what, PAIR)
    };
    let key = PrivateKeyDer::from_pem_slice(pem.as_bytes()).map_err(|error| broken(&error))?;
    let Some(certificate) = certificate else {
        return Ok(());
    };
    let key = match any_supported_type(&key) {
        Ok(key) => key,
        Err(error) => {
            // Envoy takes kinds of keys that cannot be read here.
            let peer = PeerCertificate::parse_der(&certificate.der);
            let is_known = peer.is_ok_and(|peer| peer.key_type().is_strong());
            return if is_known {
                Err(broken(&error))
            } else {
                Ok(())
            };
        }
    };
    let Some(public) = key.public_key() else {
        return Ok(());
    };
    let is_its = SubjectPublicKeyInfoRef::from_der(&public)
        .is_ok_and(|public| public.subject_public_key.raw_bytes() == certificate.key);
    if is_its {
        return Ok(());
    }
    Err(Problem::error(
        format!(
            "{from}: this is not the key of {}; {NO_START}",
            certificate.name
        ),
        PAIR,
    ))
}

/// The CAs that others are verified with.
fn trusted(node: &Node, field: &str, findings: &mut Vec<Finding>) {
    const NEXT: &str = "put the CA's next certificate in its place (`medbind ca issue --renew` brings \
                        the infrastructure's along), and restart Envoy hot";
    let Some((pem, from)) = source(node, field, "trusted_ca", findings) else {
        return;
    };
    let outcome = "whom it has signed is refused";
    let problems = match Held::all((&pem, &from), NO_START, IN_PLACE) {
        Ok(held) => held
            .iter()
            .filter_map(|one| one.judge_life(&from, outcome, NEXT))
            .collect(),
        Err(problem) => vec![problem],
    };
    let mut field = field.to_owned();
    field.push_str(".trusted_ca");
    let at = node.get("trusted_ca").unwrap_or(node);
    findings.extend(
        problems
            .into_iter()
            .map(|problem| problem.found(at, &field)),
    );
}

/// Names that a listener answers to, and has no certificate for.
fn names(chain: &Node, field: &str) -> Vec<Finding> {
    const CERTIFICATES: [&str; 4] = [
        "transport_socket",
        "typed_config",
        "common_tls_context",
        "tls_certificates",
    ];
    let mut own = Vec::new();
    for pair in chain.at(&CERTIFICATES).map(Node::items).unwrap_or_default() {
        let source = pair.get("certificate_chain");
        let Ok(Some((pem, _))) = held::content(source, NO_START, IN_PLACE) else {
            return Vec::new();
        };
        own.extend(Held::readable(&pem).into_iter().next());
    }
    let hosts = chain.get("filters").map(Node::items).unwrap_or_default();
    let hosts = hosts
        .iter()
        .filter_map(|filter| filter.at(&["typed_config", "route_config", "virtual_hosts"]))
        .flat_map(Node::items);
    let domains = hosts
        .filter_map(|host| host.get("domains"))
        .flat_map(Node::items);
    let mut told = BTreeSet::new();
    let mut findings = Vec::new();
    for domain in domains {
        let text = domain.text().unwrap_or_default();
        let name = text.split(':').next().unwrap_or_default();
        let known = own
            .iter()
            .flat_map(|one| &one.dns_names)
            .any(|known| is_for(known, name));
        if own.is_empty() || name.contains('*') || known || !told.insert(name) {
            continue;
        }
        findings.push(Finding::warning(
            domain,
            field,
            &format!("none of this listener's certificates is for {name}: who asks for it refuses this Envoy"),
            "have a certificate made for this name, or take the name out of `domains`",
        ));
    }
    findings
}

/// Whether a name of a certificate is for this one (RFC 9525, 6.3).
fn is_for(known: &str, name: &str) -> bool {
    let rest = |name: &str| {
        name.split_once('.')
            .map(|(_, rest)| rest.to_ascii_lowercase())
    };
    known.eq_ignore_ascii_case(name) || known.starts_with("*.") && rest(known) == rest(name)
}
