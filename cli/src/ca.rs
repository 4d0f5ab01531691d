//! Who signs devices? A private device CA in a directory.

use std::fs;
use std::path::Path;
use std::process::ExitCode;

use jiff::tz::Offset;
use jiff::{Span, Timestamp};
use medbind_core::identity::check_namespace;
use medbind_core::issuer::IssuerSet;
use medbind_core::source::IdentitySource;
use medbind_registry::pki::{
    CERTIFICATE_FILE, CertificateAuthority, KEY_FILE, write_new_directory,
};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256,
};
use serde::{Deserialize, Serialize};
use serde_json::json;
use time::OffsetDateTime;

use crate::args::{CaInit, Global};
use crate::failure::{Failure, Outcome};
use crate::files;
use crate::output::{self, put};
use crate::source::{self, Source};

/// What `provision` must know about a CA.
const SETTINGS_FILE: &str = "ca.json";
/// The part of a guard's configuration that names the CA.
const ISSUER_FILE: &str = "issuer.yaml";
/// Where the root of an intermediate lives.
const ROOT: &str = "root";
const ROOT_CERTIFICATE: &str = "root/cert.pem";
const ROOT_KEY: &str = "root/key.pem";
/// Certificates begin this much before they are made, for clocks that lag: one hour.
const BACKDATE_SECONDS: i64 = 3600;
/// 9999-12-31T23:59:59Z: no well-defined end (IEEE 802.1AR, 8.7; RFC 5280, 4.1.2.5).
const NO_END: i64 = 253_402_300_799;

/// What stands in `ca.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// The first part of each device's identity.
    pub namespace: String,
    /// Where the serial stands in a device's certificate.
    pub identity: Vec<Source>,
}

/// A device CA that was read from its directory.
#[derive(Debug)]
pub struct DeviceCa {
    /// Certificate and key.
    pub authority: CertificateAuthority,
    /// Namespace and sources.
    pub settings: Settings,
    /// The certificate of the root, where the CA is an intermediate.
    pub root_pem: Option<String>,
    /// When the CA's certificate ends, in seconds since the Unix epoch.
    pub not_after: i64,
}

/// Whether a directory is a device CA's, or that of its root.
pub fn is_device_ca(dir: &Path) -> bool {
    let of_root = || {
        let dir = fs::canonicalize(dir).ok()?;
        let of = dir.parent().filter(|_| dir.ends_with(ROOT))?;
        Some(of.join(SETTINGS_FILE).exists())
    };
    dir.join(SETTINGS_FILE).exists() || of_root().unwrap_or(false)
}

impl DeviceCa {
    /// Reads what `ca init` made.
    pub fn load(dir: &Path) -> Result<Self, Failure> {
        let again = "name the directory that `medbind ca init` made";
        let path = dir.join(SETTINGS_FILE);
        let settings =
            fs::read(&path).map_err(|error| Failure::unreadable(&path, &error).next(again))?;
        let settings = serde_json::from_slice(&settings).map_err(|error| {
            Failure::usage(format_args!("{} does not parse: {error}", path.display())).next(again)
        })?;
        let authority =
            CertificateAuthority::load(dir).map_err(|error| Failure::usage(error).next(again))?;
        let root = dir.join(ROOT).join(CERTIFICATE_FILE);
        let root_pem = match fs::read_to_string(&root) {
            Ok(pem) => Some(pem),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
            Err(error) => return Err(Failure::unreadable(&root, &error)),
        };
        let facts = medbind_registry::pki::CertificateFacts::from_pem(authority.certificate_pem())
            .map_err(Failure::usage)?;
        Ok(Self {
            authority,
            settings,
            root_pem,
            not_after: facts.not_after.unix_seconds(),
        })
    }
}

impl DeviceCa {
    /// This CA as a guard knows it.
    pub fn as_issuer(&self, sources: &[Source]) -> Result<IssuerSet, Failure> {
        let sources = serde_json::to_value(sources).map_err(Failure::refused)?;
        let sources: Vec<IdentitySource> =
            serde_json::from_value(sources).map_err(Failure::usage)?;
        let namespace = &self.settings.namespace;
        let certificates = [self.authority.certificate_pem()];
        let issuer = medbind_core::issuer::Issuer::new(namespace, &certificates, sources, true);
        let issuer = issuer.map_err(|error| {
            Failure::usage(format_args!("a guard would not take this CA: {error}"))
        })?;
        IssuerSet::new(vec![issuer]).map_err(Failure::usage)
    }
}

/// From now for `span` (`30y`, `3650d`, `12h`, `never`): when a certificate begins and ends, in
/// seconds since the Unix epoch.
pub fn validity(span: &str, now: Timestamp) -> Result<(i64, i64), Failure> {
    let begin = now.as_second().saturating_sub(BACKDATE_SECONDS);
    if span == "never" {
        return Ok((begin, NO_END));
    }
    let end = span_from("--validity", span, now).map_err(|failure| {
        failure.next("write a number and a unit, such as 10y, 365d or 12h, or `never` to end")
    })?;
    Ok((begin, end.min(NO_END)))
}

/// The end of `span` (`30d`, `12h`) from now, which is not at once, in seconds since the Unix epoch.
pub fn span_from(option: &str, span: &str, now: Timestamp) -> Result<i64, Failure> {
    let wrong = || {
        Failure::usage(format_args!("{option} {span} is no span of time"))
            .next("write a number and a unit, such as 30d or 12h")
    };
    let parsed: Span = span.parse().map_err(|_| wrong())?;
    let end = Offset::UTC.to_datetime(now).checked_add(parsed);
    let end = end.and_then(|end| Offset::UTC.to_timestamp(end));
    let end = end.map_err(|_| wrong())?.as_second();
    if end <= now.as_second() {
        return Err(wrong());
    }
    Ok(end)
}

/// The moment as certificates write it.
pub fn date(seconds: i64) -> Result<OffsetDateTime, Failure> {
    OffsetDateTime::from_unix_timestamp(seconds).map_err(|error| {
        Failure::usage(format_args!("a certificate cannot hold that time: {error}"))
    })
}

/// When a certificate ends, as RFC 3339; `None` where it has no well-defined end.
pub fn end_of(not_after: i64) -> Option<medbind_core::time::Timestamp> {
    (not_after < NO_END).then(|| medbind_core::time::Timestamp::from_unix_seconds(not_after))
}

/// The same for a person.
pub fn end_in_words(not_after: i64) -> String {
    match end_of(not_after) {
        Some(end) => format!("valid until {end}"),
        None => "without an end".to_owned(),
    }
}

/// `medbind ca init`.
pub fn init(args: &CaInit, global: &Global) -> Outcome {
    check_namespace(&args.namespace).map_err(|error| {
        Failure::usage(format_args!("--namespace {:?}: {error}", args.namespace))
    })?;
    let mut identity = source::parse(&args.sources)?;
    if identity.is_empty() {
        identity.push(Source::SerialNumber);
    }
    if args.dir.exists() {
        return Err(Failure::refused(format_args!(
            "{} is there already, and keys are never overwritten",
            args.dir.display()
        ))
        .next("choose another directory, or move it away"));
    }
    let (begin, end) = validity(&args.validity, Timestamp::now())?;
    let default_name = || format!("{} device CA", args.namespace);
    let name = args.name.clone().unwrap_or_else(default_name);
    let settings = Settings {
        namespace: args.namespace.clone(),
        identity,
    };

    let depth = u8::from(args.intermediate);
    let mut root_params = ca_params(&name, depth, begin, end)?;
    if args.intermediate {
        root_params.distinguished_name = common_name(&format!("{name} root"));
    }
    let root_key = new_key()?;
    let root_pem = root_params
        .self_signed(&root_key)
        .map_err(|error| failed(&error))?
        .pem();
    let mut files = vec![
        (CERTIFICATE_FILE, root_pem.clone()),
        (KEY_FILE, root_key.serialize_pem()),
    ];
    let mut issuing_pem = root_pem.clone();
    if args.intermediate {
        for (name, in_root) in files.iter_mut().zip([ROOT_CERTIFICATE, ROOT_KEY]) {
            name.0 = in_root;
        }
        let key = new_key()?;
        let mut params = ca_params(&name, 0, begin, end)?;
        params.use_authority_key_identifier_extension = true;
        let root = Issuer::new(root_params, root_key);
        issuing_pem = params
            .signed_by(&key, &root)
            .map_err(|error| failed(&error))?
            .pem();
        files.push((CERTIFICATE_FILE, issuing_pem.clone()));
        files.push((KEY_FILE, key.serialize_pem()));
        files.push(("chain.pem", format!("{issuing_pem}{root_pem}")));
    }
    let settings_json = serde_json::to_string(&settings).map_err(Failure::refused)?;
    files.push((SETTINGS_FILE, format!("{settings_json}\n")));
    files.push((ISSUER_FILE, issuer_yaml(&settings, &issuing_pem)));
    let files: Vec<_> = files
        .iter()
        .map(|(name, text)| (*name, text.as_bytes()))
        .collect();
    write_new_directory(&args.dir, &files).map_err(Failure::refused)?;
    if let Some(warning) = files::made_by_root(&args.dir) {
        output::warning(warning);
    }
    report(args, global, &name, end);
    Ok(ExitCode::SUCCESS)
}

fn report(args: &CaInit, global: &Global, name: &str, end: i64) {
    let at = |file: &str| args.dir.join(file).display().to_string();
    if global.json {
        let root = args.intermediate.then(|| at(ROOT));
        output::json(&json!({
            "directory": args.dir.display().to_string(),
            "namespace": args.namespace,
            "name": name,
            "certificate": at(CERTIFICATE_FILE),
            "key": at(KEY_FILE),
            "issuer": at(ISSUER_FILE),
            "root": root,
            "not_after": end_of(end),
        }));
        return;
    }
    let (bold, dim) = (output::BOLD, output::DIM);
    let mut lines = format!(
        "{bold}{name}{bold:#} for devices {}:..., {}\n  \
         {}  the certificate, for Envoy's trusted_ca\n  \
         {}   its key: keep it secret, and backed up\n  \
         {}  the guard's part: goes under `issuers:`\n",
        args.namespace,
        end_in_words(end),
        at(CERTIFICATE_FILE),
        at(KEY_FILE),
        at(ISSUER_FILE),
    );
    if args.intermediate {
        put!(
            lines,
            "  {}  the root: move its key offline; Envoy trusts root/cert.pem\n",
            at(ROOT)
        );
    }
    put!(
        lines,
        "{dim}next: medbind provision --ca {} --serial SN0001 --class cgm{dim:#}\n",
        args.dir.display()
    );
    output::text(&lines);
}

fn failed(error: &rcgen::Error) -> Failure {
    Failure::refused(format_args!("cannot make the certificate: {error}"))
}

fn new_key() -> Result<KeyPair, Failure> {
    KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(|error| failed(&error))
}

fn common_name(name: &str) -> DistinguishedName {
    let mut subject = DistinguishedName::new();
    subject.push(DnType::CommonName, name);
    subject
}

fn ca_params(name: &str, depth: u8, begin: i64, end: i64) -> Result<CertificateParams, Failure> {
    let mut params = CertificateParams::default();
    params.distinguished_name = common_name(name);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(depth));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.not_before = date(begin)?;
    params.not_after = date(end)?;
    Ok(params)
}

/// One entry of `issuers:` in a guard's configuration.
pub fn issuer_yaml(settings: &Settings, certificate_pem: &str) -> String {
    let mut yaml = format!(
        "- namespace: {}\n  certificates:\n    - |\n",
        settings.namespace
    );
    for line in certificate_pem.lines() {
        put!(yaml, "      {line}\n");
    }
    yaml.push_str("  identity:\n");
    for source in &settings.identity {
        let fields = serde_json::to_value(source).unwrap_or_default();
        let fields = fields.as_object().into_iter().flatten();
        // JSON strings are YAML strings.
        let mut fields: Vec<String> = fields
            .map(|(name, value)| match value.as_str() {
                Some(text) if name == "source" => format!("{name}: {text}"),
                Some(_) | None => format!("{name}: {value}"),
            })
            .collect();
        fields.sort_by_key(|field| !field.starts_with("source"));
        put!(yaml, "    - {}\n", fields.join("\n      "));
    }
    yaml
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_validity_is_a_span_from_now_or_never_ends() {
        let now: Timestamp = "2026-02-28T12:00:00Z".parse().unwrap();
        let end = |span| validity(span, now).map(|(_, end)| end).ok();
        let at = |text: &str| text.parse::<Timestamp>().unwrap().as_second();
        assert_eq!(end("1y"), Some(at("2027-02-28T12:00:00Z")));
        assert_eq!(end("10d"), Some(at("2026-03-10T12:00:00Z")));
        assert_eq!(end("12h"), Some(at("2026-03-01T00:00:00Z")));
        // date -u -d 9999-12-31T23:59:59Z +%s
        assert_eq!(end("never"), Some(253_402_300_799));
        for wrong in ["", "10", "0d", "-1y", "soon", "9999999y"] {
            assert_eq!(end(wrong), None, "{wrong}");
        }
    }
}
