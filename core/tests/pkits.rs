//! The NIST PKITS (Public Key Interoperability Test Suite, 1.0.1) as far as it is about a leaf and
//! its issuer: names, signature, validity, key usage, critical extensions. Chains are Envoy's.
//!
//! `pkits.txt` beside this file says of every end-entity certificate of the suite what has to come
//! out here, and why where that is not what the suite says of the whole path. `cargo xtask test`
//! fetches the certificates and runs this; by hand, once they are there:
//! `MEDBIND_VECTORS=$PWD/target/tools/cryptography-vectors-50.0.2 cargo test -p medbind-core --test pkits`.
#![cfg(all(feature = "verify", not(target_arch = "wasm32")))]

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::path::PathBuf;

use base64ct::{Base64, Encoding};
use medbind_core::certificate::PeerCertificate;
use medbind_core::deny::DenyReason;
use medbind_core::issuer::{Issuer, IssuerError, IssuerSet};
use medbind_core::peer::authenticate;
use medbind_core::signature::{KeyPolicy, RustVerifier};
use medbind_core::source::IdentitySource;
use medbind_core::time::Timestamp;

const TABLE: &str = include_str!("pkits.txt");
/// Within the validity of what is valid in the suite: 2010 to 2030.
const NOW: &str = "2026-11-24T16:20:00Z";

/// Why something that the suite calls invalid may be accepted here.
const LOOSER: [&str; 3] = ["chain", "crl", "policy"];
/// Why something may be refused here, whatever the suite calls it.
const STRICTER: [&str; 6] = ["names", "dsa", "bits", "ca", "critical", "date"];

/// One line of the table.
#[derive(Debug)]
struct Case<'t> {
    certificate: &'t str,
    issuer: &'t str,
    /// By the suite: `valid`, `invalid`, or `policy` where that hangs on the initial policies.
    suite: &'t str,
    /// Here: `accepted`, the deny code, or why the issuer cannot be configured.
    here: &'t str,
    reason: Option<&'t str>,
}

fn table() -> Vec<Case<'static>> {
    let lines = TABLE.lines().map(str::trim);
    let lines = lines.filter(|line| !line.is_empty() && !line.starts_with('#'));
    let case = |line: &'static str| {
        let words: Vec<_> = line.split_whitespace().collect();
        let [_test, certificate, issuer, suite, here, reason @ ..] = words.as_slice() else {
            panic!("{line}");
        };
        Case {
            certificate,
            issuer,
            suite,
            here,
            reason: reason.first().copied(),
        }
    };
    lines.map(case).collect()
}

fn folder() -> PathBuf {
    let Some(path) = std::env::var_os("MEDBIND_VECTORS") else {
        panic!(
            "MEDBIND_VECTORS does not say where the certificates of the NIST PKITS are: run \
             `cargo xtask test --only native`, which fetches them into target/tools"
        );
    };
    path.into()
}

/// The suite's certificates (DER), by their names.
fn certificates() -> BTreeMap<String, Vec<u8>> {
    let folder = folder();
    let entries = fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    let paths = entries.map(|entry| entry.unwrap().path());
    paths
        .filter_map(|path| {
            let name = path.file_name()?.to_str()?;
            let name = name.strip_prefix("PKITS_data-certs-")?;
            let name = name.strip_suffix(".crt")?.to_owned();
            Some((name, fs::read(path).unwrap()))
        })
        .collect()
}

fn pem(der: &[u8]) -> String {
    let text = Base64::encode_string(der);
    let mut pem = String::from("-----BEGIN CERTIFICATE-----\n");
    for line in text.as_bytes().chunks(64) {
        writeln!(pem, "{}", std::str::from_utf8(line).unwrap()).unwrap();
    }
    pem + "-----END CERTIFICATE-----\n"
}

fn issuer(der: &[u8]) -> Result<Issuer, IssuerError> {
    let sources: Vec<IdentitySource> =
        serde_json::from_str(r#"[{"source": "subject.common_name"}]"#).unwrap();
    Issuer::new("pkits", &[pem(der)], sources, false)
}

const fn no_issuer(error: &IssuerError) -> &'static str {
    match error {
        IssuerError::Unreadable { .. } => "issuer_unreadable",
        IssuerError::NotCa { .. } => "issuer_not_ca",
        IssuerError::Key { .. } => "issuer_key",
        IssuerError::CriticalExtension { .. } => "issuer_critical",
        IssuerError::Namespace
        | IssuerError::NoCertificate
        | IssuerError::TooManyCertificates
        | IssuerError::NoSource
        | IssuerError::Twice { .. } => "the configuration",
    }
}

fn outcome(certificate: &[u8], issuer: Issuer) -> Result<(), DenyReason> {
    let issuers = IssuerSet::new(vec![issuer]).unwrap();
    let certificate = PeerCertificate::parse(pem(certificate).as_bytes())?;
    let peer = authenticate(&issuers, &KeyPolicy::default(), &certificate, &RustVerifier)?;
    peer.check_validity(NOW.parse::<Timestamp>().unwrap())
}

#[test]
fn each_leaf_of_the_suite_is_judged_as_the_table_says() {
    let certificates = certificates();
    let mut wrong = String::new();
    for case in table() {
        let der = |name: &str| certificates.get(name).unwrap_or_else(|| panic!("{name}"));
        let (found, why) = match issuer(der(case.issuer)) {
            Ok(issuer) => match outcome(der(case.certificate), issuer) {
                Ok(()) => ("accepted", String::new()),
                Err(reason) => (reason.code().as_str(), reason.to_string()),
            },
            Err(error) => (no_issuer(&error), error.to_string()),
        };
        if found != case.here {
            writeln!(wrong, "{found}: {case:?}: {why}").unwrap();
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

#[test]
fn the_table_holds_every_leaf_of_the_suite_once() {
    let mut in_table: Vec<_> = table().iter().map(|case| case.certificate).collect();
    in_table.sort_unstable();
    let certificates = certificates();
    let names = certificates.keys().map(String::as_str);
    let leaves: Vec<_> = names.filter(|name| name.ends_with("EE")).collect();
    assert_eq!(in_table, leaves);
}

#[test]
fn whoever_is_judged_otherwise_than_by_the_suite_is_so_for_a_reason() {
    for case in table() {
        let is_told = match (case.suite, case.here, case.reason) {
            ("valid", "accepted", reason) => reason.is_none(),
            ("invalid" | "policy", "accepted", Some(reason)) => LOOSER.contains(&reason),
            // What is not read at all is refused for another cause than the suite's.
            (_, "accepted", _)
            | ("invalid", "issuer_unreadable" | "malformed_certificate", None) => false,
            // For the suite's own cause.
            ("invalid", _, None) => true,
            ("valid" | "invalid" | "policy", _, Some(reason)) => STRICTER.contains(&reason),
            (_, _, _) => false,
        };
        assert!(is_told, "{case:?}");
    }
}
