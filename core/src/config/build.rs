//! From values to settings.

mod accounts;
mod bindings;
mod issuers;
mod rules;

use core::time::Duration;

use serde_json::Value;

use self::accounts::{account_metadata, accounts};
use self::bindings::{bindings, registry_config};
use self::issuers::{check_issuers_needed, issuer_set, issuers, key_policy};
use self::rules::{RuleContext, rules};
use super::error::{ConfigError, FieldPath};
use super::reader::{Field, Object, Problems, StrictValue};
use super::schema::{GUARD, LOCAL_TABLE, SYNC};
use super::settings::{
    CertificateSource, GuardConfig, LocalTable, LogIdentifiers, MAX_CONFIG_OCTETS, Mode,
    PluginConfig, SyncConfig,
};
use crate::decision::{Accounts, Policy};
use crate::path::RequestPath;

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
