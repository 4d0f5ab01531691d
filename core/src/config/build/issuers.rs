//! Who signs devices' certificates, where those hold the serial, and which keys are good enough?

use const_oid::ObjectIdentifier;

use crate::config::error::FieldPath;
use crate::config::reader::{Field, Object, Problems, list_words};
use crate::config::schema::{IDENTITY, ISSUER, KEY_POLICY, SOURCES};
use crate::identity::check_namespace;
use crate::issuer::{Issuer, IssuerSet, MAX_ISSUER_CERTIFICATES};
use crate::rule::{Rule, RuleSet};
use crate::signature::{KeyPolicy, KeyTypeName, MAX_RSA_BITS, MIN_RSA_BITS};
use crate::source::{IdentitySource, SourceFields};

const MAX_ISSUERS: usize = 64;

/// An issuer as it is written down.
pub(super) struct IssuerText<'v> {
    path: FieldPath,
    pub namespace: &'v str,
    certificates: Vec<&'v str>,
    sources: Vec<IdentitySource>,
    require_client_auth: bool,
}

const MEND_ISSUERS: &str =
    "name at least one issuer: its `namespace`, `certificates` and `identity`";

/// A guard whose rules name no device (before probes alone, say) needs no issuer.
pub(super) fn check_issuers_needed(top: &Object<'_>, rules: &RuleSet, problems: &mut Problems) {
    let needed = rules.as_slice().is_empty() || rules.as_slice().iter().any(Rule::concerns_devices);
    if needed {
        top.need("issuers", MEND_ISSUERS, problems);
    }
}

pub(super) fn issuers<'v>(top: &Object<'v>, problems: &mut Problems) -> Vec<IssuerText<'v>> {
    if top.get("issuers").is_none() {
        return Vec::new();
    }
    let mut issuers: Vec<IssuerText<'v>> = Vec::new();
    for item in top.needed_list("issuers", MAX_ISSUERS, MEND_ISSUERS, problems) {
        let Some(object) = item.object(&ISSUER, problems) else {
            continue;
        };
        let namespace = namespace(&object, &issuers, problems);
        let certificates = certificates(&object, &issuers, problems);
        let sources = identity(&object, problems);
        let require_client_auth = object.boolean("require_client_auth", false, problems);
        issuers.push(IssuerText {
            path: item.path,
            namespace,
            certificates,
            sources,
            require_client_auth,
        });
    }
    issuers
}

/// The issuers with their certificates read, where nothing is wrong with them so far.
pub(super) fn issuer_set(issuers: Vec<IssuerText<'_>>, problems: &mut Problems) -> IssuerSet {
    let mut read: Vec<Issuer> = Vec::new();
    let mut paths: Vec<FieldPath> = Vec::new();
    for text in issuers {
        // What is missing has been told already.
        if text.namespace.is_empty() || text.certificates.is_empty() || text.sources.is_empty() {
            continue;
        }
        let issuer = Issuer::new(
            text.namespace,
            &text.certificates,
            text.sources,
            text.require_client_auth,
        );
        match issuer {
            Ok(issuer) => {
                read.push(issuer);
                paths.push(text.path);
            }
            Err(error) => {
                let path = match error.certificate() {
                    Some(index) => text.path.key("certificates").index(index),
                    None => text.path,
                };
                if !problems.tells_of(&path) {
                    problems.add(
                        &path,
                        error.to_string(),
                        "give the certificate of the CA that signs the devices' certificates, alone, as PEM",
                    );
                }
            }
        }
    }
    match IssuerSet::new(read) {
        Ok(set) => set,
        Err(error) => {
            let path = paths.get(error.issuer()).cloned().unwrap_or_default();
            if !problems.tells_of(&path) {
                problems.add(&path, error.to_string(), "keep it under one issuer");
            }
            IssuerSet::default()
        }
    }
}

fn namespace<'v>(
    object: &Object<'v>,
    before: &[IssuerText<'_>],
    problems: &mut Problems,
) -> &'v str {
    let mend = "give the issuer a name of yours, such as `acme`: it stands before every serial";
    let Some(field) = object.need("namespace", mend, problems) else {
        return "";
    };
    let Some(text) = field.text(problems) else {
        return "";
    };
    if let Err(error) = check_namespace(text) {
        problems.add(
            &field.path,
            format!("{text:?} is no namespace"),
            error.to_string(),
        );
        return "";
    }
    if before.iter().any(|one| one.namespace == text) {
        problems.add(
            &field.path,
            format!("the namespace `{text}` stands there twice"),
            "put all certificates of one namespace under one issuer, or choose another name",
        );
    }
    text
}

fn certificates<'v>(
    object: &Object<'v>,
    before: &[IssuerText<'_>],
    problems: &mut Problems,
) -> Vec<&'v str> {
    let mend =
        "give the PEM text of the CA's certificate, beginning with -----BEGIN CERTIFICATE-----";
    let mut certificates: Vec<&str> = Vec::new();
    let items = object.needed_list("certificates", MAX_ISSUER_CERTIFICATES, mend, problems);
    for item in items {
        // Nothing for what is no text, so that indices stay true.
        let pem = item.text(problems).unwrap_or_default();
        if !pem.is_empty() && !pem.contains("-----BEGIN CERTIFICATE-----") {
            problems.add(&item.path, "it is no PEM certificate", mend);
        }
        let twice = certificates
            .iter()
            .chain(before.iter().flat_map(|one| &one.certificates))
            .any(|one| !pem.is_empty() && one.trim() == pem.trim());
        if twice {
            problems.add(
                &item.path,
                "the certificate stands there twice",
                "keep it under one issuer, once",
            );
        }
        certificates.push(pem);
    }
    certificates
}

fn identity(object: &Object<'_>, problems: &mut Problems) -> Vec<IdentitySource> {
    let mend =
        "say where the certificate holds the serial, such as `- source: subject.serial_number`";
    let items = object.needed_list("identity", SOURCES.len().saturating_mul(4), mend, problems);
    let mut sources: Vec<IdentitySource> = Vec::new();
    for item in items {
        let Some(source) = identity_source(&item, problems) else {
            continue;
        };
        if sources.contains(&source) {
            problems.add(&item.path, "the source stands there twice", "keep it once");
        }
        sources.push(source);
    }
    sources
}

fn identity_source(item: &Field<'_>, problems: &mut Problems) -> Option<IdentitySource> {
    let told = problems.0.len();
    let object = item.object(&IDENTITY, problems)?;
    let words: Vec<(&str, usize)> = SOURCES
        .iter()
        .enumerate()
        .map(|(index, keys)| (keys.source, index))
        .collect();
    let field = object.need(
        "source",
        &format!(
            "use one of {}",
            list_words(SOURCES.iter().map(|keys| keys.source))
        ),
        problems,
    )?;
    let keys = SOURCES.get(field.choice(&words, problems)?)?;
    for key in keys.required {
        let mend = match *key {
            "template" => "write the whole name with {serial} in the serial's place",
            _ => "write the object identifier of the hardware's type, such as 1.3.6.1.4.1.32473.1",
        };
        object.need(key, mend, problems);
    }
    for (key, field) in item.entries(problems) {
        let known = IDENTITY.keys.contains(&key);
        if known
            && key != "source"
            && !keys.required.contains(&key)
            && !keys.optional.contains(&key)
        {
            problems.add(
                &field.path,
                format!("the source `{}` has no `{key}`", keys.source),
                "leave the key out, or use another source",
            );
        }
    }
    let hw_type = object_identifier(&object, "hw_type", problems);
    let assigner = object_identifier(&object, "assigner", problems);
    let template = object.get("template").and_then(|field| {
        let template = field.text(problems)?;
        check_template(&field, template, problems);
        Some(template.to_owned())
    });
    if problems.0.len() > told {
        return None;
    }
    let fields = SourceFields {
        source: keys.name,
        hw_type,
        assigner,
        template,
    };
    match IdentitySource::try_from(fields) {
        Ok(source) => Some(source),
        Err(error) => {
            problems.add(
                &item.path,
                error.to_string(),
                "see the sources in docs/configuration.md",
            );
            None
        }
    }
}

fn object_identifier(
    object: &Object<'_>,
    key: &str,
    problems: &mut Problems,
) -> Option<ObjectIdentifier> {
    let field = object.get(key)?;
    let text = field.text(problems)?;
    let read = ObjectIdentifier::new(text).ok();
    if read.is_none() {
        problems.add(
            &field.path,
            format!("{text:?} is no object identifier"),
            "write it in dots, such as 1.3.6.1.4.1.32473.1",
        );
    }
    read
}

fn check_template(field: &Field<'_>, template: &str, problems: &mut Problems) {
    let count = template.matches("{serial}").count();
    let braces = template.matches(['{', '}']).count();
    if count != 1 {
        problems.add(
            &field.path,
            format!("the template holds {{serial}} {count} times"),
            "write {serial} exactly once, where the serial stands",
        );
    } else if braces != 2 {
        problems.add(
            &field.path,
            "the template holds a placeholder that is not known",
            "{serial} is the only one",
        );
    }
}

pub(super) fn key_policy(top: &Object<'_>, problems: &mut Problems) -> KeyPolicy {
    let Some(object) = top
        .get("key_policy")
        .and_then(|field| field.object(&KEY_POLICY, problems))
    else {
        return KeyPolicy::default();
    };
    let words = [
        ("p256", KeyTypeName::P256),
        ("p384", KeyTypeName::P384),
        ("rsa", KeyTypeName::Rsa),
        ("ed25519", KeyTypeName::Ed25519),
    ];
    let range = u32::from(MIN_RSA_BITS)..=u32::from(MAX_RSA_BITS);
    let bits = object.integer("min_rsa_bits", u32::from(MIN_RSA_BITS), &range, problems);
    let bits = u16::try_from(bits).unwrap_or(MAX_RSA_BITS);
    let mut types: Vec<KeyTypeName> = words.iter().map(|(_, name)| *name).collect();
    if object.get("types").is_some() {
        types.clear();
        let mend = "name at least one of `p256`, `p384`, `rsa`, `ed25519`, or leave the key out";
        for item in object.needed_list("types", words.len(), mend, problems) {
            if let Some(name) = item.choice(&words, problems) {
                if types.contains(&name) {
                    problems.add(&item.path, "it stands there twice", "keep it once");
                }
                types.push(name);
            }
        }
    }
    // What is wrong here has been told already.
    KeyPolicy::new(&types, bits).unwrap_or_default()
}
