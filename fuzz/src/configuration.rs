//! The plug-in's configuration, as Envoy hands it over: JSON, or a `google.protobuf.Struct`.
//!
//! - Nothing panics, and what is refused says what is wrong and how to mend it.
//! - What is taken reads the same in each form: as it came, as the values it holds, written anew
//!   as JSON, and as a `Struct`.
//! - **What is taken is refused with a key more**, in any of its objects, and with any of its keys
//!   twice: so nothing is read over, and no spelling mistake loses a setting.
//! - A guard that is taken decides on any path without a panic, and permits nothing to nobody
//!   unless a rule says `anyone`.

use medbind_core::config::{GuardConfig, PluginConfig};
use medbind_core::decision::{Decision, Facts, Peer, decide};
use medbind_core::rule::{Pattern, Principal};
use serde_json::{Map, Value, json};

use crate::certificate::Everybody;
use crate::site::{NOW, SITE};
use crate::{Reached, Seed, Target};

pub(crate) const TARGET: Target = Target {
    name: "configuration",
    run,
    seeds,
    words: &[
        "\"role\"",
        "\"http\"",
        "\"sync\"",
        "\"mode\"",
        "\"shadow\"",
        "\"issuers\"",
        "\"namespace\"",
        "\"certificates\"",
        "\"identity\"",
        "\"source\"",
        "\"san.uri\"",
        "\"template\"",
        "\"hw_type\"",
        "\"require_client_auth\"",
        "\"key_policy\"",
        "\"types\"",
        "\"min_rsa_bits\"",
        "\"rules\"",
        "\"path\"",
        "\"methods\"",
        "\"principals\"",
        "\"device\"",
        "\"account\"",
        "\"anyone\"",
        "\"tags\"",
        "\"max_stale\"",
        "\"accounts\"",
        "\"issuer\"",
        "\"prefix\"",
        "\"bindings\"",
        "\"preload\"",
        "\"capacity\"",
        "\"negative_ttl\"",
        "\"lookup_timeout\"",
        "\"registry\"",
        "\"cluster\"",
        "\"authority\"",
        "\"ready_path\"",
        "\"certificate_source\"",
        "\"local_table\"",
        "\"log_identifiers\"",
        "\"retry_after\"",
        "\"15m\"",
        "\"50ms\"",
        "{serial}",
        "{device}",
        "true",
        "false",
        "null",
        "1e9",
    ],
};

/// The largest that is looked at in every form: each form is read once for each of its keys.
const LARGEST_IN_EVERY_FORM: usize = 8 * 1024;

/// Holds the promises against one input.
///
/// # Panics
///
/// Where a promise is broken.
pub fn run(input: &[u8]) -> Reached {
    let config = match PluginConfig::from_plugin(input) {
        Ok(config) => config,
        Err(error) => {
            assert!(!error.problems().is_empty(), "a refusal has a reason");
            for problem in error.problems() {
                assert!(!problem.what.is_empty() && !problem.mend.is_empty());
                assert!(!problem.to_string().is_empty());
            }
            return Reached::Refused;
        }
    };
    if let Ok(value) = serde_json::from_slice::<Value>(input)
        && input.len() <= LARGEST_IN_EVERY_FORM
    {
        every_form(&config, input, &value);
        with_a_key_more(&value);
        with_a_key_twice(&value);
    }
    if let PluginConfig::Guard(guard) = &config {
        decides(guard);
    }
    Reached::Taken
}

fn same(config: &PluginConfig, octets: &[u8], form: &str) {
    let other = PluginConfig::from_plugin(octets)
        .unwrap_or_else(|error| panic!("it is refused {form}: {error}"));
    assert_eq!(format!("{config:?}"), format!("{other:?}"), "{form}");
}

fn every_form(config: &PluginConfig, input: &[u8], value: &Value) {
    let text = PluginConfig::from_json(input).expect("it is JSON");
    assert_eq!(format!("{config:?}"), format!("{text:?}"), "as JSON text");
    let read = PluginConfig::from_value(value).expect("its values are taken");
    assert_eq!(format!("{config:?}"), format!("{read:?}"), "as values");
    same(config, &write_json(value, None), "written anew as JSON");
    if let Some(octets) = write_struct(value) {
        same(config, &octets, "as a Struct");
    }
}

/// Every object in it that the schema has: a rule's `tags` are named by whoever writes them.
fn objects(value: &Value, pointer: &str, found: &mut Vec<String>) {
    match value {
        Value::Object(map) => {
            found.push(pointer.to_owned());
            for (key, value) in map.iter().filter(|(key, _)| *key != "tags") {
                let key = key.replace('~', "~0").replace('/', "~1");
                objects(value, &format!("{pointer}/{key}"), found);
            }
        }
        Value::Array(list) => {
            for (index, value) in list.iter().enumerate() {
                objects(value, &format!("{pointer}/{index}"), found);
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

fn with_a_key_more(value: &Value) {
    let mut found = Vec::new();
    objects(value, "", &mut found);
    for pointer in found {
        let mut more = value.clone();
        let object = more.pointer_mut(&pointer).and_then(Value::as_object_mut);
        let object = object.expect("an object that was found");
        object.insert("no_such_key".into(), json!(true));
        assert!(
            PluginConfig::from_value(&more).is_err(),
            "a key that is not known, in {pointer:?}"
        );
    }
}

fn with_a_key_twice(value: &Value) {
    let mut found = Vec::new();
    objects(value, "", &mut found);
    for pointer in found {
        let object = value.pointer(&pointer).and_then(Value::as_object);
        if object.is_some_and(Map::is_empty) {
            continue;
        }
        let twice = write_json(value, Some(&pointer));
        assert!(
            PluginConfig::from_plugin(&twice).is_err(),
            "a key twice, in {pointer:?}"
        );
    }
}

/// JSON, in which the object at `twice` has its first key two times.
fn write_json(value: &Value, twice: Option<&str>) -> Vec<u8> {
    let mut octets = Vec::new();
    write_value(value, "", twice, &mut octets);
    octets
}

fn write_value(value: &Value, pointer: &str, twice: Option<&str>, to: &mut Vec<u8>) {
    match value {
        Value::Object(map) => {
            let again = map.iter().take(usize::from(twice == Some(pointer)));
            to.push(b'{');
            for (position, (key, value)) in map.iter().chain(again).enumerate() {
                if position > 0 {
                    to.push(b',');
                }
                to.extend(json!(key).to_string().bytes());
                to.push(b':');
                let key = key.replace('~', "~0").replace('/', "~1");
                write_value(value, &format!("{pointer}/{key}"), twice, to);
            }
            to.push(b'}');
        }
        Value::Array(list) => {
            to.push(b'[');
            for (index, value) in list.iter().enumerate() {
                if index > 0 {
                    to.push(b',');
                }
                write_value(value, &format!("{pointer}/{index}"), twice, to);
            }
            to.push(b']');
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {
            to.extend(value.to_string().bytes());
        }
    }
}

/// `google.protobuf.Struct` in its binary form; `None` where a number is not one of a `double`.
fn write_struct(value: &Value) -> Option<Vec<u8>> {
    let mut octets = Vec::new();
    for (key, value) in value.as_object()? {
        let entry = [
            delimited(1, key.as_bytes()),
            delimited(2, &write_struct_value(value)?),
        ];
        octets.extend(delimited(1, &entry.concat()));
    }
    Some(octets)
}

fn write_struct_value(value: &Value) -> Option<Vec<u8>> {
    Some(match value {
        Value::Null => vec![0x08, 0],
        Value::Number(number) => {
            let double = number.as_f64()?;
            if number.as_i64().is_none_or(|whole| whole.abs() > 1 << 53) && !number.is_f64() {
                return None;
            }
            [&[0x11][..], &double.to_le_bytes()].concat()
        }
        Value::String(text) => delimited(3, text.as_bytes()),
        Value::Bool(is_so) => vec![0x20, u8::from(*is_so)],
        Value::Object(_) => delimited(5, &write_struct(value)?),
        Value::Array(list) => {
            let mut items = Vec::new();
            for item in list {
                items.extend(delimited(1, &write_struct_value(item)?));
            }
            delimited(6, &items)
        }
    })
}

fn delimited(field: u8, octets: &[u8]) -> Vec<u8> {
    let mut written = vec![field << 3 | 2];
    let mut length = octets.len();
    loop {
        let low = u8::try_from(length & 0x7F).unwrap_or_default();
        length >>= 7;
        if length == 0 {
            written.push(low);
            break;
        }
        written.push(low | 0x80);
    }
    written.extend(octets);
    written
}

/// No peer and no token: what is permitted then is permitted to anyone.
fn decides(guard: &GuardConfig) {
    let rules = guard.policy.rules().as_slice();
    assert!(!rules.is_empty(), "a guard has rules");
    for rule in rules {
        let text = rule.pattern().as_str();
        assert_eq!(Pattern::parse(text).as_ref(), Ok(rule.pattern()));
        assert!(!rule.principals().is_empty(), "a rule takes somebody");
    }
    let patterns = rules.iter().map(|rule| rule.pattern().as_str());
    for path in patterns.chain(["/", "/healthz", ""]) {
        let facts = Facts {
            peer: &Peer::None,
            tokens: &None,
            method: "GET",
            path,
        };
        match decide(&guard.policy, &facts, &mut Everybody, NOW) {
            Decision::Permit(permit) => {
                let rule = permit.rule_index().and_then(|index| rules.get(index));
                let rule = rule.expect("a permit is by a rule");
                assert!(rule.principals().contains(&Principal::Anyone));
            }
            Decision::Deny(_) => {}
            Decision::AskRegistry(_) => panic!("nobody asks"),
        }
    }
}

fn seeds() -> Vec<Seed> {
    let small = json!({
        "role": "http",
        "rules": [{"path": "/healthz", "principals": ["anyone"]}],
    });
    let guard = json!({
        "role": "http",
        "issuers": SITE.json,
        "rules": [
            {"path": "/v1/devices/{device}/readings", "methods": ["POST"], "principals": ["device"], "tags": {"traffic": "phi"}},
            {"path": "/v1/devices/{device}/**", "principals": ["account"], "max_stale": "12h"},
            {"path": "/healthz", "principals": ["anyone"]},
        ],
        "accounts": [{"issuer": "https://login.example", "prefix": "a-"}],
    });
    let mut full = guard.clone();
    let more = json!({
        "mode": "shadow",
        "key_policy": {"types": ["p256", "rsa"], "min_rsa_bits": 3072},
        "account_metadata": "medbind",
        "bindings": {
            "preload": false, "capacity": 1000, "max_stale": "15m", "negative_ttl": "10s",
            "lookup_timeout": "50ms", "max_clock_skew": "5m", "max_waiting": 100,
            "max_waiting_per_device": 5,
        },
        "registry": {"cluster": "registry", "authority": "registry.example"},
        "ready_path": "/ready",
        "certificate_source": "forwarded_header",
        "forward_client_cert": true,
        "forward_authorization": true,
        "local_table": {"known_devices": 100, "refused": 20},
        "log_identifiers": "plain",
        "retry_after": "7s",
    });
    if let (Value::Object(full), Value::Object(more)) = (&mut full, more) {
        full.extend(more);
    }
    let sync = json!({
        "role": "sync",
        "registry": {"cluster": "registry", "authority": "registry.example"},
        "bindings": {"preload": true, "capacity": 1_000_000},
    });
    let mut seeds = Vec::new();
    for (name, value) in [
        ("small", small),
        ("guard", guard),
        ("full", full),
        ("sync", sync),
    ] {
        let binary = write_struct(&value).expect("numbers of a double");
        seeds.push(Seed::new(
            format!("{name}.json"),
            value.to_string(),
            Reached::Taken,
        ));
        seeds.push(Seed::new(format!("{name}.struct"), binary, Reached::Taken));
    }
    for (name, text) in [
        ("empty", ""),
        ("list", "[]"),
        ("no-role", "{}"),
        ("mqtt", r#"{"role": "mqtt"}"#),
        ("unknown", r#"{"role": "http", "rule": []}"#),
        ("twice", r#"{"role": "sync", "role": "sync"}"#),
        (
            "no-unit",
            r#"{"role": "sync", "registry": {"cluster": "r", "authority": "r"}, "bindings": {"max_stale": 900}}"#,
        ),
    ] {
        seeds.push(Seed::new(format!("{name}.json"), text, Reached::Refused));
    }
    seeds
}
