//! From values to settings.

use core::time::Duration;
use std::sync::Arc;

use const_oid::ObjectIdentifier;
use serde_json::Value;

use super::error::{ConfigError, FieldPath};
use super::reader::{Field, Object, Problems, StrictValue, list_words};
use super::schema::{
    ACCOUNT, BINDINGS, GUARD, IDENTITY, ISSUER, KEY_POLICY, LOCAL_TABLE, REGISTRY, RULE, SOURCES,
    SYNC,
};
use super::settings::{
    BindingsConfig, CertificateSource, GuardConfig, LocalTable, LogIdentifiers, MAX_CONFIG_OCTETS,
    Mode, PluginConfig, RegistryConfig, SyncConfig,
};
use crate::binding::MAX_NAME_OCTETS;
use crate::cache::MAX_REGISTRY_NAME_OCTETS;
use crate::decision::{AccountIssuer, Accounts, Policy};
use crate::identity::check_namespace;
use crate::issuer::{Issuer, IssuerSet, MAX_ISSUER_CERTIFICATES};
use crate::path::RequestPath;
use crate::rule::{MAX_RULES, Pattern, Placeholder, Principal, Rule, RuleSet};
use crate::signature::{KeyPolicy, KeyTypeName, MAX_RSA_BITS, MIN_RSA_BITS};
use crate::source::{IdentitySource, SourceFields};
use crate::tag::{MAX_TAGS, RESERVED_TAGS, TagError, Tags, check_tag_name, check_tag_value};

const MAX_ISSUERS: usize = 64;
const MAX_ACCOUNT_ISSUERS: usize = 64;
const MAX_METHODS: usize = 32;
const DAY: Duration = Duration::from_hours(24);

#[derive(Clone, Copy)]
enum Role {
    Http,
    Mqtt,
    Sync,
}

pub(super) fn from_json(json: &[u8]) -> Result<PluginConfig, ConfigError> {
    let mut problems = Problems::default();
    if json.len() > MAX_CONFIG_OCTETS {
        problems.add(
            &FieldPath::default(),
            "the configuration is larger than 1 MiB",
            "cover more with fewer rules, and leave out issuers that have ended",
        );
    } else if json.iter().all(u8::is_ascii_whitespace) {
        problems.add(
            &FieldPath::default(),
            "the configuration is empty",
            "give the plugin a configuration with `role`, `issuers` and `rules`",
        );
    } else {
        match serde_json::from_slice::<StrictValue>(json) {
            Ok(StrictValue(value)) => return from_value(&value),
            Err(error) => problems.add(
                &FieldPath::default(),
                format!("it cannot be read as JSON: {error}"),
                "mend it at the line and column named",
            ),
        }
    }
    Err(ConfigError {
        problems: problems.0,
    })
}

pub(super) fn from_value(value: &Value) -> Result<PluginConfig, ConfigError> {
    let mut problems = Problems::default();
    let config = plugin(value, &mut problems);
    match config {
        Some(config) if problems.0.is_empty() => Ok(config),
        Some(_) | None => {
            if problems.0.is_empty() {
                // Fail closed: nothing was read and nothing was said.
                problems.add(
                    &FieldPath::default(),
                    "the configuration could not be read",
                    "report this as a bug",
                );
            }
            Err(ConfigError {
                problems: problems.0,
            })
        }
    }
}

fn plugin(value: &Value, problems: &mut Problems) -> Option<PluginConfig> {
    let top = Field {
        value,
        path: FieldPath::default(),
    };
    let role = match value.as_object().map(|map| map.get("role")) {
        Some(Some(role)) => Field {
            value: role,
            path: top.path.key("role"),
        }
        .choice(
            &[
                ("http", Role::Http),
                ("sync", Role::Sync),
                ("mqtt", Role::Mqtt),
            ],
            problems,
        )?,
        Some(None) => {
            problems.add(
                &top.path.key("role"),
                "missing",
                "write `role: http` for a guard, `role: sync` for the synchroniser",
            );
            return None;
        }
        None => {
            top.object(&GUARD, problems)?;
            return None;
        }
    };
    match role {
        Role::Http => {
            let top = top.object(&GUARD, problems)?;
            let guard = guard(&top, problems);
            Some(PluginConfig::Guard(Box::new(guard)))
        }
        Role::Sync => {
            let top = top.object(&SYNC, problems)?;
            let bindings = bindings(&top, problems);
            let registry = top.need(
                "registry",
                "the synchroniser reads the registry: give its `cluster` and `authority`",
                problems,
            );
            let registry = registry.and_then(|field| registry_config(&field, problems));
            Some(PluginConfig::Sync(Box::new(SyncConfig {
                registry: registry?,
                bindings,
            })))
        }
        Role::Mqtt => {
            problems.add(
                &top.path.key("role"),
                "the role `mqtt` is not available yet",
                "use `http` for a guard before an HTTP listener, or `sync`",
            );
            None
        }
    }
}

fn guard(top: &Object<'_>, problems: &mut Problems) -> GuardConfig {
    let mode = top.choice(
        "mode",
        &[
            (Mode::Enforce.as_str(), Mode::Enforce),
            (Mode::Shadow.as_str(), Mode::Shadow),
        ],
        problems,
    );
    let issuers = issuers(top, problems);
    let key_policy = key_policy(top, problems);
    let bindings = bindings(top, problems);
    let accounts = accounts(top, problems);
    let namespaces: Vec<&str> = issuers.iter().map(|one| one.namespace).collect();
    let mut warnings = Problems::default();
    let context = RuleContext {
        namespaces: &namespaces,
        // Where `accounts` is wrong itself, that has been told.
        any_accounts: !accounts.is_empty() || problems.tells_of(&top.path.key("accounts")),
        max_stale: bindings.max_stale,
    };
    let rules = rules(top, &context, &mut warnings, problems);
    check_issuers_needed(top, &rules, problems);
    let namespaces = namespaces.iter().map(|one| Box::from(*one)).collect();
    let registry = top
        .get("registry")
        .map(|field| registry_config(&field, problems));
    if registry.is_none() && !bindings.preload {
        problems.add(
            &top.path.key("registry"),
            "missing, though `bindings.preload` is false: the guard asks the registry itself",
            "give its `cluster` and `authority`, or set `bindings.preload: true`",
        );
    }
    if mode == Mode::Shadow {
        warnings.add(
            &top.path.key("mode"),
            "in shadow mode nothing is refused and nothing is tagged",
            "set `mode: enforce` once the decisions are as wanted",
        );
    }
    let retry_after = top.duration(
        "retry_after",
        Duration::from_secs(5),
        &(Duration::from_secs(1)..=Duration::from_hours(1)),
        problems,
    );
    if retry_after.subsec_nanos() != 0 {
        problems.add(
            &top.path.key("retry_after"),
            "Retry-After is in whole seconds",
            "write it in seconds, such as \"5s\"",
        );
    }
    GuardConfig {
        mode,
        issuers: issuer_set(issuers, problems),
        key_policy,
        policy: Policy {
            rules,
            accounts: Accounts(accounts.into_boxed_slice()),
            max_stale: bindings.max_stale,
            namespaces,
        },
        account_metadata: account_metadata(top, problems),
        bindings,
        registry: registry.flatten(),
        ready_path: ready_path(top, problems),
        certificate_source: top.choice(
            "certificate_source",
            &[
                CertificateSource::Auto,
                CertificateSource::Connection,
                CertificateSource::ForwardedHeader,
            ]
            .map(|source| (source.as_str(), source)),
            problems,
        ),
        forward_client_cert: top.boolean("forward_client_cert", false, problems),
        forward_authorization: top.boolean("forward_authorization", false, problems),
        local_table: local_table(top, problems),
        log_identifiers: top.choice(
            "log_identifiers",
            &[LogIdentifiers::Pseudonym, LogIdentifiers::Plain].map(|one| (one.as_str(), one)),
            problems,
        ),
        retry_after,
        warnings: warnings.0,
    }
}

/// The items of a list that must be there and hold 1 to `most`.
fn needed_list<'v>(
    object: &Object<'v>,
    key: &str,
    most: usize,
    mend: &str,
    problems: &mut Problems,
) -> Vec<Field<'v>> {
    let Some(field) = object.need(key, mend, problems) else {
        return Vec::new();
    };
    let Some(items) = field.list(problems) else {
        return Vec::new();
    };
    if items.is_empty() {
        problems.add(&field.path, "the list is empty", mend);
    }
    if items.len() > most {
        problems.add(
            &field.path,
            format!("the list has {} items", items.len()),
            format!("at most {most} are allowed"),
        );
        return Vec::new();
    }
    items
}

/// An issuer as it is written down.
struct IssuerText<'v> {
    path: FieldPath,
    namespace: &'v str,
    certificates: Vec<&'v str>,
    sources: Vec<IdentitySource>,
    require_client_auth: bool,
}

const MEND_ISSUERS: &str =
    "name at least one issuer: its `namespace`, `certificates` and `identity`";

/// A guard whose rules name no device (before probes alone, say) needs no issuer.
fn check_issuers_needed(top: &Object<'_>, rules: &RuleSet, problems: &mut Problems) {
    let needed = rules.as_slice().is_empty() || rules.as_slice().iter().any(Rule::concerns_devices);
    if needed {
        top.need("issuers", MEND_ISSUERS, problems);
    }
}

fn issuers<'v>(top: &Object<'v>, problems: &mut Problems) -> Vec<IssuerText<'v>> {
    if top.get("issuers").is_none() {
        return Vec::new();
    }
    let mut issuers: Vec<IssuerText<'v>> = Vec::new();
    for item in needed_list(top, "issuers", MAX_ISSUERS, MEND_ISSUERS, problems) {
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
fn issuer_set(issuers: Vec<IssuerText<'_>>, problems: &mut Problems) -> IssuerSet {
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
    let items = needed_list(
        object,
        "certificates",
        MAX_ISSUER_CERTIFICATES,
        mend,
        problems,
    );
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
    let items = needed_list(
        object,
        "identity",
        SOURCES.len().saturating_mul(4),
        mend,
        problems,
    );
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

fn key_policy(top: &Object<'_>, problems: &mut Problems) -> KeyPolicy {
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
        for item in needed_list(&object, "types", words.len(), mend, problems) {
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

fn bindings(top: &Object<'_>, problems: &mut Problems) -> BindingsConfig {
    let default = BindingsConfig::default();
    let Some(object) = top
        .get("bindings")
        .and_then(|field| field.object(&BINDINGS, problems))
    else {
        return default;
    };
    let second = Duration::from_secs(1);
    let milli = Duration::from_millis(1);
    let bindings = BindingsConfig {
        preload: object.boolean("preload", default.preload, problems),
        capacity: object.integer("capacity", default.capacity, &(1..=20_000_000), problems),
        max_stale: object.duration(
            "max_stale",
            default.max_stale,
            &(Duration::from_secs(3)..=Duration::from_hours(7 * 24)),
            problems,
        ),
        negative_ttl: object.duration(
            "negative_ttl",
            default.negative_ttl,
            &(second..=Duration::from_hours(1)),
            problems,
        ),
        lookup_timeout: object.duration(
            "lookup_timeout",
            default.lookup_timeout,
            &(milli..=Duration::from_secs(10)),
            problems,
        ),
        max_clock_skew: object.duration(
            "max_clock_skew",
            default.max_clock_skew,
            &(second..=DAY),
            problems,
        ),
        max_waiting: object.integer("max_waiting", default.max_waiting, &(1..=100_000), problems),
        max_waiting_per_device: object.integer(
            "max_waiting_per_device",
            default.max_waiting_per_device,
            &(1..=100_000),
            problems,
        ),
    };
    if object.get("max_waiting_per_device").is_some()
        && bindings.max_waiting_per_device > bindings.max_waiting
    {
        problems.add(
            &object.path.key("max_waiting_per_device"),
            "one device may hold more than all together",
            "make it at most `max_waiting`",
        );
    }
    bindings
}

fn registry_config(field: &Field<'_>, problems: &mut Problems) -> Option<RegistryConfig> {
    let object = field.object(&REGISTRY, problems)?;
    let cluster = object
        .need(
            "cluster",
            "name the Envoy cluster that leads to the registry",
            problems,
        )
        .and_then(|field| {
            let text = field.text(problems)?;
            visible(
                &field,
                text,
                MAX_REGISTRY_NAME_OCTETS,
                "a cluster's name as in Envoy",
                problems,
            )
        });
    let authority = object
        .need(
            "authority",
            "give the registry's host name, such as registry.example",
            problems,
        )
        .and_then(|field| {
            let text = field.text(problems)?;
            if text.contains(['/', '@', '?', '#']) {
                problems.add(
                    &field.path,
                    format!("{text:?} is more than a host and a port"),
                    "write host or host:port, without scheme and path",
                );
                return None;
            }
            visible(
                &field,
                text,
                256,
                "a host, with :port where needed",
                problems,
            )
        });
    Some(RegistryConfig {
        cluster: cluster?,
        authority: authority?,
    })
}

/// Text of 1 to `most` visible ASCII characters.
fn visible(
    field: &Field<'_>,
    text: &str,
    most: usize,
    expected: &str,
    problems: &mut Problems,
) -> Option<Box<str>> {
    let fits =
        (1..=most).contains(&text.len()) && text.bytes().all(|octet| octet.is_ascii_graphic());
    if fits {
        return Some(text.into());
    }
    problems.add(
        &field.path,
        format!("expected {expected}: 1 to {most} visible ASCII characters"),
        "write it without blanks and other characters",
    );
    None
}

fn accounts(top: &Object<'_>, problems: &mut Problems) -> Vec<AccountIssuer> {
    let Some(field) = top.get("accounts") else {
        return Vec::new();
    };
    let items = field.list(problems).unwrap_or_default();
    if items.len() > MAX_ACCOUNT_ISSUERS {
        problems.add(
            &field.path,
            format!("the list has {} items", items.len()),
            format!("at most {MAX_ACCOUNT_ISSUERS} are allowed"),
        );
        return Vec::new();
    }
    let mut accounts: Vec<AccountIssuer> = Vec::new();
    for item in items {
        let Some(object) = item.object(&ACCOUNT, problems) else {
            continue;
        };
        let mend = "give the token's `iss`, as Envoy's jwt_authn verifies it";
        let Some(issuer_field) = object.need("issuer", mend, problems) else {
            continue;
        };
        let Some(issuer) = issuer_field.text(problems) else {
            continue;
        };
        if issuer.is_empty() {
            problems.add(&issuer_field.path, "it is empty", mend);
        }
        if accounts.iter().any(|one| &*one.issuer == issuer) {
            problems.add(
                &issuer_field.path,
                "the issuer stands there twice",
                "keep it once",
            );
            continue;
        }
        let prefix = object
            .get("prefix")
            .and_then(|field| {
                let text = field.text(problems)?;
                if text.is_empty() {
                    return None;
                }
                visible(&field, text, MAX_NAME_OCTETS / 2, "a prefix", problems)
            })
            .unwrap_or_default();
        let clash = accounts
            .iter()
            .find(|one| one.prefix.starts_with(&*prefix) || prefix.starts_with(&*one.prefix));
        if let Some(other) = clash {
            problems.add(
                &object.path.key("prefix"),
                format!(
                    "accounts of this issuer and of {:?} could have the same name",
                    other.issuer
                ),
                "give each issuer a prefix of its own that is not the beginning of another's, such as `clinic:`",
            );
        }
        accounts.push(AccountIssuer {
            issuer: issuer.into(),
            prefix,
        });
    }
    accounts
}

fn account_metadata(top: &Object<'_>, problems: &mut Problems) -> Box<str> {
    top.get("account_metadata")
        .and_then(|field| {
            let text = field.text(problems)?;
            visible(
                &field,
                text,
                64,
                "the `payload_in_metadata` of Envoy's jwt_authn",
                problems,
            )
        })
        .unwrap_or_else(|| "medbind".into())
}

fn ready_path(top: &Object<'_>, problems: &mut Problems) -> Option<Box<str>> {
    let field = top.get("ready_path")?;
    let text = field.text(problems)?;
    if !text.starts_with('/') {
        problems.add(
            &field.path,
            format!("{text:?} does not begin with '/'"),
            "write a path, such as /ready",
        );
        return None;
    }
    let plain = !text.contains(['?', '%', '*']);
    match RequestPath::parse(text) {
        Ok(_) if plain => Some(text.into()),
        Ok(_) => {
            problems.add(
                &field.path,
                format!("{text:?} is not one path"),
                "write it without query, wildcard and percent-encoding",
            );
            None
        }
        Err(error) => {
            problems.add(
                &field.path,
                format!("no request may ask for {text:?}: {error}"),
                "write a plain path, such as /ready",
            );
            None
        }
    }
}

fn local_table(top: &Object<'_>, problems: &mut Problems) -> LocalTable {
    let default = LocalTable::default();
    let Some(object) = top
        .get("local_table")
        .and_then(|field| field.object(&LOCAL_TABLE, problems))
    else {
        return default;
    };
    LocalTable {
        known_devices: object.integer(
            "known_devices",
            default.known_devices,
            &(16..=1_000_000),
            problems,
        ),
        refused: object.integer("refused", default.refused, &(16..=100_000), problems),
    }
}

/// What rules are checked against.
struct RuleContext<'a> {
    namespaces: &'a [&'a str],
    any_accounts: bool,
    max_stale: Duration,
}

fn rules(
    top: &Object<'_>,
    context: &RuleContext<'_>,
    warnings: &mut Problems,
    problems: &mut Problems,
) -> RuleSet {
    let mend =
        "without a rule everything is refused: give at least one with `path` and `principals`";
    let items = needed_list(top, "rules", MAX_RULES, mend, problems);
    let mut rules: Vec<Rule> = Vec::new();
    for item in items {
        let rule = rule(&item, context, problems);
        if let Some(rule) = rule {
            let by = rules.iter().position(|earlier| earlier.covers(&rule));
            if let Some(by) = by {
                warnings.add(
                    &item.path,
                    format!("no request ever comes to this rule: rules[{by}] covers all of it"),
                    "put the narrower rule first, or leave it out",
                );
            }
            rules.push(rule);
        }
    }
    RuleSet::new(rules)
}

fn rule(item: &Field<'_>, context: &RuleContext<'_>, problems: &mut Problems) -> Option<Rule> {
    let object = item.object(&RULE, problems)?;
    let path = object.need(
        "path",
        "say what the rule covers, such as /v1/devices/{device}/**",
        problems,
    );
    let pattern = path.as_ref().and_then(|field| {
        let text = field.text(problems)?;
        Pattern::parse(text)
            .map_err(|error| problems.add(&field.path, error.to_string(), error.mend()))
            .ok()
    });
    let methods = methods(&object, problems);
    let principals = principals(&object, context, problems);
    if let (Some(field), Some(pattern)) = (&path, &pattern) {
        check_placeholders(field, pattern, &principals, context, problems);
    }
    let tags = tags(&object, problems);
    let max_stale = object.get("max_stale").and_then(|field| {
        let range = Duration::from_secs(3)..=Duration::from_hours(30 * 24);
        let span = field.duration(&range, problems)?;
        if span < context.max_stale {
            problems.add(
                &field.path,
                "it is shorter than `bindings.max_stale`",
                "a rule may only set a longer one: leave it out, or shorten `bindings.max_stale`",
            );
        }
        Some(span)
    });
    Some(Rule {
        pattern: pattern?,
        methods,
        principals: principals.into_boxed_slice(),
        tags: Arc::new(tags),
        max_stale,
    })
}

fn methods(object: &Object<'_>, problems: &mut Problems) -> Option<Box<[Box<str>]>> {
    object.get("methods")?;
    let mend = "name methods such as `GET`, or leave the key out to cover all";
    let mut methods: Vec<Box<str>> = Vec::new();
    for item in needed_list(object, "methods", MAX_METHODS, mend, problems) {
        let Some(text) = item.text(problems) else {
            continue;
        };
        let upper = (1..=32).contains(&text.len())
            && text
                .bytes()
                .all(|b| b.is_ascii_uppercase() || matches!(b, b'-' | b'_'));
        if !upper {
            problems.add(
                &item.path,
                format!("{text:?} is no method"),
                format!(
                    "methods are written in upper case, such as {:?}",
                    if text.bytes().all(|b| b.is_ascii_alphabetic()) && !text.is_empty() {
                        text.to_ascii_uppercase()
                    } else {
                        "GET".into()
                    }
                ),
            );
        } else if text == "CONNECT" {
            problems.add(
                &item.path,
                "a CONNECT has no path that a rule could cover",
                "leave it out: Envoy shows an extended CONNECT (WebSocket over HTTP/2) as a GET",
            );
        } else if methods.iter().any(|one| &**one == text) {
            problems.add(&item.path, "the method stands there twice", "keep it once");
        }
        methods.push(text.into());
    }
    Some(methods.into_boxed_slice())
}

fn principals(
    object: &Object<'_>,
    context: &RuleContext<'_>,
    problems: &mut Problems,
) -> Vec<Principal> {
    let mend = "say who may: `[device]`, `[account]`, both, or `[anyone]`";
    let words = Principal::ALL.map(|principal| (principal.as_str(), principal));
    let items = needed_list(object, "principals", words.len(), mend, problems);
    let mut principals: Vec<Principal> = Vec::new();
    for item in items {
        let Some(principal) = item.choice(&words, problems) else {
            continue;
        };
        if principals.contains(&principal) {
            problems.add(&item.path, "it stands there twice", "keep it once");
            continue;
        }
        if principal == Principal::Account && !context.any_accounts {
            problems.add(
                &item.path,
                "no token issuer is configured, so no account could ever pass",
                "add `accounts` with the `issuer` of the tokens that Envoy's jwt_authn verifies",
            );
        }
        principals.push(principal);
    }
    if principals.contains(&Principal::Anyone) && principals.len() > 1 {
        problems.add(
            &object.path.key("principals"),
            "`anyone` beside others would let in whom they refuse",
            "let `anyone` stand alone, or leave it out",
        );
    }
    principals
}

fn check_placeholders(
    field: &Field<'_>,
    pattern: &Pattern,
    principals: &[Principal],
    context: &RuleContext<'_>,
    problems: &mut Problems,
) {
    let names_device = pattern.has(Placeholder::Device) || pattern.has(Placeholder::Serial);
    if principals.contains(&Principal::Anyone) {
        for placeholder in Placeholder::ALL {
            if pattern.has(placeholder) {
                problems.add(
                    &field.path,
                    format!(
                        "{} ties the path to a principal, and `anyone` is none",
                        placeholder.as_str()
                    ),
                    "use * for that segment, or name other principals",
                );
            }
        }
    }
    if principals.contains(&Principal::Account) {
        if pattern.has(Placeholder::Serial) && context.namespaces.len() > 1 {
            problems.add(
                &field.path,
                "{serial} does not say which issuer's device an account means, and there is more than one issuer",
                "use {device}, which holds the namespace too, or take `account` out of this rule's principals",
            );
        }
        if pattern.has(Placeholder::Class) && !names_device {
            problems.add(
                &field.path,
                "an account has no class, and the path names no device that has one",
                "add {device} to the path, or use * for {class}",
            );
        }
    }
}

fn tags(object: &Object<'_>, problems: &mut Problems) -> Tags {
    let Some(field) = object.get("tags") else {
        return Tags::default();
    };
    let entries = field.entries(problems);
    if entries.len() > MAX_TAGS {
        problems.add(
            &field.path,
            format!("{} tags", entries.len()),
            format!("at most {MAX_TAGS} are allowed"),
        );
        return Tags::default();
    }
    let mut tags: Vec<(&str, &str)> = Vec::new();
    for (name, field) in entries {
        match check_tag_name(name) {
            Ok(()) => {}
            Err(error @ TagError::Reserved) => problems.add(
                &field.path,
                error.to_string(),
                format!("choose a name other than {}", list_words(RESERVED_TAGS)),
            ),
            Err(error @ (TagError::Name | TagError::Value)) => problems.add(
                &field.path,
                format!("{name:?} is no name of a tag"),
                error.to_string(),
            ),
        }
        let Some(value) = field.text(problems) else {
            continue;
        };
        if let Err(error) = check_tag_value(value) {
            problems.add(
                &field.path,
                format!("{value:?} cannot be sent as a header value"),
                error.to_string(),
            );
        }
        tags.push((name, value));
    }
    Tags::new(tags)
}
