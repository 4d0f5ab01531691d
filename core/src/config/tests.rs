use core::time::Duration;

use serde_json::{Value, json};
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

use super::*;
use crate::rule::Principal;
use crate::units::format_duration;

const ACME_CA: &str = include_str!("testdata/acme-ca.pem");
const BETA_CA: &str = include_str!("testdata/beta-ca.pem");
const REFERENCE: &str = include_str!("../../../docs/configuration.md");

/// The smallest guard that takes devices and accounts.
pub(crate) fn guard_json() -> Value {
    json!({
        "role": "http",
        "issuers": [{
            "namespace": "acme",
            "certificates": [ACME_CA],
            "identity": [{"source": "subject.serial_number"}],
        }],
        "accounts": [{"issuer": "https://login.example"}],
        "rules": [
            {"path": "/v1/devices/{device}/readings", "methods": ["POST"], "principals": ["device"]},
            {"path": "/v1/devices/{device}/**", "principals": ["device", "account"]},
            {"path": "/healthz", "principals": ["anyone"]},
        ],
    })
}

pub(crate) fn beta_issuer() -> Value {
    json!({
        "namespace": "beta",
        "certificates": [BETA_CA],
        "identity": [{"source": "subject.common_name"}],
    })
}

pub(crate) fn guard(value: &Value) -> GuardConfig {
    match PluginConfig::from_value(value) {
        Ok(PluginConfig::Guard(guard)) => *guard,
        Ok(PluginConfig::Sync(_)) => panic!("a synchroniser"),
        Err(error) => panic!("{error}"),
    }
}

/// Sets what stands at a JSON pointer; `-` at the end adds to a list.
pub(crate) fn with(mut value: Value, pointer: &str, new: Value) -> Value {
    let (parent, key) = pointer.rsplit_once('/').unwrap();
    let parent = value.pointer_mut(parent).unwrap();
    match parent {
        Value::Object(map) => {
            map.insert(key.into(), new);
        }
        Value::Array(list) if key == "-" => list.push(new),
        Value::Array(list) => list[key.parse::<usize>().unwrap()] = new,
        other => panic!("{other} holds nothing"),
    }
    value
}

fn without(mut value: Value, pointer: &str) -> Value {
    let (parent, key) = pointer.rsplit_once('/').unwrap();
    let parent = value.pointer_mut(parent).unwrap();
    parent.as_object_mut().unwrap().remove(key).unwrap();
    value
}

fn problems(value: &Value) -> Vec<String> {
    match PluginConfig::from_value(value) {
        Ok(_) => Vec::new(),
        Err(error) => error.problems().iter().map(ToString::to_string).collect(),
    }
}

#[test]
fn what_is_left_out_has_its_default() {
    let guard = guard(&guard_json());
    assert_eq!(guard.mode, Mode::Enforce);
    assert_eq!(guard.bindings, BindingsConfig::default());
    assert_eq!(guard.local_table, LocalTable::default());
    assert_eq!(guard.certificate_source, CertificateSource::Auto);
    assert_eq!(guard.log_identifiers, LogIdentifiers::Pseudonym);
    assert_eq!(guard.key_policy, crate::signature::KeyPolicy::default());
    assert_eq!(guard.retry_after, Duration::from_secs(5));
    assert_eq!(&*guard.account_metadata, "medbind");
    assert!(!guard.forward_client_cert);
    assert!(!guard.forward_authorization);
    assert!(guard.registry.is_none() && guard.ready_path.is_none());
    assert!(guard.warnings.is_empty());
    assert_eq!(guard.policy.max_stale(), Duration::from_mins(15));
    let rules = guard.policy.rules().as_slice();
    assert_eq!(rules.len(), 3);
    assert_eq!(rules[0].methods(), Some(["POST".into()].as_slice()));
    assert_eq!(rules[1].methods(), None);
    assert_eq!(
        rules[1].principals(),
        [Principal::Device, Principal::Account]
    );
}

#[test]
fn a_rule_is_set_to_what_is_written_there() {
    let value = with(
        guard_json(),
        "/rules/0/tags",
        json!({"traffic": "phi", "site": "a"}),
    );
    let value = with(value, "/rules/0/max_stale", json!("12h"));
    let guard = guard(&value);
    let rule = &guard.policy.rules().as_slice()[0];
    assert_eq!(
        rule.tags().iter().collect::<Vec<_>>(),
        [("x-medbind-site", "a"), ("x-medbind-traffic", "phi")]
    );
    assert_eq!(rule.max_stale(), Some(Duration::from_hours(12)));
}

#[test]
fn a_synchroniser_needs_its_registry_alone() {
    let config = PluginConfig::from_json(
        br#"{"role":"sync","registry":{"cluster":"registry","authority":"registry.example"},
             "bindings":{"capacity":1000.0,"max_stale":"5s","preload":false}}"#,
    );
    let Ok(PluginConfig::Sync(sync)) = config else {
        panic!("{config:?}");
    };
    assert_eq!(&*sync.registry.cluster, "registry");
    assert_eq!(&*sync.registry.authority, "registry.example");
    assert_eq!(sync.bindings.capacity, 1000);
    assert_eq!(sync.bindings.max_stale, Duration::from_secs(5));
    assert!(!sync.bindings.preload);
}

#[test]
fn a_guard_before_probes_alone_needs_no_issuer() {
    let value = json!({
        "role": "http",
        "ready_path": "/ready",
        "rules": [{"path": "/live", "principals": ["anyone"]}],
    });
    assert!(guard(&value).issuers.is_empty());
}

/// Where, what, and how to mend it, for each thing that can be wrong.
#[test]
#[expect(clippy::too_many_lines, reason = "one table")]
fn an_error_names_the_field_and_the_mend() {
    let base = guard_json;
    let table: Vec<(Value, &str, &str)> = vec![
        // The whole.
        (
            json!([]),
            "configuration: expected an object, found a list",
            "",
        ),
        (json!(null), "configuration: expected an object", "leave"),
        (json!({}), "role: missing", "role: http"),
        (json!({"role": "sync"}), "registry: missing", "`cluster`"),
        (
            json!({"role": "mqtt"}),
            "role: the role `mqtt` is not available yet",
            "use `http`",
        ),
        (
            json!({"role": "htpp"}),
            "role: \"htpp\" is not known here",
            "did you mean `http`?",
        ),
        (
            json!({"role": "xyz"}),
            "role: \"xyz\" is not known here",
            "use one of `http`",
        ),
        (
            json!({"role": 1}),
            "role: expected text, found a number",
            "write text",
        ),
        (
            with(base(), "/mode", json!("audit")),
            "mode: \"audit\"",
            "use one of `enforce`, `shadow`",
        ),
        (
            with(base(), "/mode", json!(null)),
            "mode: expected text, found nothing",
            "leave the key out",
        ),
        (
            with(base(), "/moed", json!("x")),
            "moed: unknown key",
            "did you mean `mode`?",
        ),
        (
            with(base(), "/max_stale", json!("1m")),
            "max_stale: unknown key",
            "belongs to `rules[]`",
        ),
        (
            with(base(), "/capacity", json!(1)),
            "capacity: unknown key",
            "belongs to `bindings`",
        ),
        (
            with(base(), "/colour", json!(1)),
            "colour: unknown key",
            "known here are `role`",
        ),
        (
            with(base(), "/a b", json!(1)),
            "\"a b\": unknown key",
            "known here",
        ),
        // Issuers.
        (
            without(base(), "/issuers"),
            "issuers: missing",
            "name at least one issuer",
        ),
        (
            with(base(), "/issuers", json!([])),
            "issuers: the list is empty",
            "name at least one",
        ),
        (
            with(base(), "/issuers", json!({})),
            "issuers: expected a list",
            "write a list",
        ),
        (
            with(base(), "/issuers/0", json!("acme")),
            "issuers[0]: expected an object",
            "",
        ),
        (
            without(base(), "/issuers/0/namespace"),
            "issuers[0].namespace: missing",
            "name of yours",
        ),
        (
            with(base(), "/issuers/0/namespace", json!("Acme")),
            "issuers[0].namespace: \"Acme\" is no namespace",
            "a-z",
        ),
        (
            without(base(), "/issuers/0/certificates"),
            "issuers[0].certificates: missing",
            "PEM",
        ),
        (
            with(base(), "/issuers/0/certificates", json!([])),
            "issuers[0].certificates: the list is empty",
            "PEM",
        ),
        (
            with(base(), "/issuers/0/certificates/0", json!(7)),
            "issuers[0].certificates[0]: expected text",
            "",
        ),
        (
            with(base(), "/issuers/0/certificates/0", json!("MIIB")),
            "issuers[0].certificates[0]: it is no PEM",
            "BEGIN CERTIFICATE",
        ),
        (
            with(
                base(),
                "/issuers/0/certificates/0",
                json!("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----"),
            ),
            "issuers[0].certificates[0]: ",
            "PEM",
        ),
        (
            with(base(), "/issuers/0/certificates/-", json!(ACME_CA)),
            "issuers[0].certificates[1]: the certificate stands there twice",
            "once",
        ),
        (
            with(
                base(),
                "/issuers/-",
                with(beta_issuer(), "/namespace", json!("acme")),
            ),
            "issuers[1].namespace: the namespace `acme` stands there twice",
            "one issuer",
        ),
        (
            with(
                base(),
                "/issuers/-",
                with(beta_issuer(), "/certificates/0", json!(ACME_CA)),
            ),
            "issuers[1].certificates[0]: the certificate stands there twice",
            "one issuer",
        ),
        (
            without(base(), "/issuers/0/identity"),
            "issuers[0].identity: missing",
            "subject.serial_number",
        ),
        (
            with(base(), "/issuers/0/identity/0", json!({})),
            "issuers[0].identity[0].source: missing",
            "`san.uri`",
        ),
        (
            with(
                base(),
                "/issuers/0/identity/0/source",
                json!("subject.serialnumber"),
            ),
            "issuers[0].identity[0].source: ",
            "did you mean `subject.serial_number`?",
        ),
        (
            with(base(), "/issuers/0/identity/0/template", json!("{serial}")),
            "issuers[0].identity[0].template: the source `subject.serial_number` has no `template`",
            "leave",
        ),
        (
            with(
                base(),
                "/issuers/0/identity/-",
                json!({"source": "subject.serial_number"}),
            ),
            "issuers[0].identity[1]: the source stands there twice",
            "once",
        ),
        (
            with(
                base(),
                "/issuers/0/identity/0",
                json!({"source": "san.uri"}),
            ),
            "issuers[0].identity[0].template: missing",
            "{serial}",
        ),
        (
            with(
                base(),
                "/issuers/0/identity/0",
                json!({"source": "san.uri", "template": "urn:x:{serial}:{serial}"}),
            ),
            "issuers[0].identity[0].template: the template holds {serial} 2 times",
            "exactly once",
        ),
        (
            with(
                base(),
                "/issuers/0/identity/0",
                json!({"source": "san.uri", "template": "urn:x"}),
            ),
            "issuers[0].identity[0].template: the template holds {serial} 0 times",
            "exactly once",
        ),
        (
            with(
                base(),
                "/issuers/0/identity/0",
                json!({"source": "san.uri", "template": "urn:{x}:{serial}"}),
            ),
            "issuers[0].identity[0].template: the template holds a placeholder",
            "only one",
        ),
        (
            with(
                base(),
                "/issuers/0/identity/0",
                json!({"source": "san.dns", "template": "a-{serial}.example"}),
            ),
            "issuers[0].identity[0]: ",
            "docs/configuration.md",
        ),
        (
            with(
                base(),
                "/issuers/0/identity/0",
                json!({"source": "san.hardware_module_name"}),
            ),
            "issuers[0].identity[0].hw_type: missing",
            "object identifier",
        ),
        (
            with(
                base(),
                "/issuers/0/identity/0",
                json!({"source": "san.hardware_module_name", "hw_type": "x"}),
            ),
            "issuers[0].identity[0].hw_type: \"x\" is no object identifier",
            "write it in dots",
        ),
        (
            with(
                base(),
                "/issuers/0/identity/0",
                json!({"source": "san.permanent_identifier", "assigner": null}),
            ),
            "issuers[0].identity[0].assigner: expected text, found nothing",
            "leave the key out",
        ),
        (
            with(base(), "/issuers/0/require_client_auth", json!("yes")),
            "issuers[0].require_client_auth: expected true or false, found text",
            "",
        ),
        (
            with(base(), "/key_policy", json!({"types": []})),
            "key_policy.types: the list is empty",
            "at least one",
        ),
        (
            with(base(), "/key_policy", json!({"types": ["dsa"]})),
            "key_policy.types[0]: \"dsa\" is not known",
            "`p256`",
        ),
        (
            with(base(), "/key_policy", json!({"min_rsa_bits": 1024})),
            "key_policy.min_rsa_bits: 1024 is out of range",
            "2048 to 8192",
        ),
        // Rules.
        (
            without(base(), "/rules"),
            "rules: missing",
            "`path` and `principals`",
        ),
        (
            with(base(), "/rules", json!([])),
            "rules: the list is empty",
            "everything is refused",
        ),
        (
            without(base(), "/rules/0/path"),
            "rules[0].path: missing",
            "/v1/devices",
        ),
        (
            with(base(), "/rules/0/path", json!("v1")),
            "rules[0].path: a path begins with '/'",
            "/v1/devices",
        ),
        (
            with(base(), "/rules/0/path", json!("/{serial}/{serial}")),
            "rules[0].path: '{serial}' stands there twice",
            "use *",
        ),
        (
            with(base(), "/rules/0/path", json!("/{devise}")),
            "rules[0].path: '{devise}' is no placeholder",
            "{device}",
        ),
        (
            without(base(), "/rules/2/principals"),
            "rules[2].principals: missing",
            "`[anyone]`",
        ),
        (
            with(base(), "/rules/2/principals", json!([])),
            "rules[2].principals: the list is empty",
            "`[anyone]`",
        ),
        (
            with(base(), "/rules/2/principals", json!("anyone")),
            "rules[2].principals: expected a list, found text",
            "",
        ),
        (
            with(base(), "/rules/2/principals", json!(["devise"])),
            "rules[2].principals[0]: \"devise\"",
            "did you mean `device`?",
        ),
        (
            with(base(), "/rules/2/principals", json!(["device", "device"])),
            "rules[2].principals[1]: it stands there twice",
            "once",
        ),
        (
            with(base(), "/rules/2/principals", json!(["device", "anyone"])),
            "rules[2].principals: `anyone` beside others",
            "alone",
        ),
        (
            with(base(), "/rules/2/principal", json!(["anyone"])),
            "rules[2].principal: unknown key",
            "did you mean `principals`?",
        ),
        (
            with(base(), "/rules/0/principals", json!(["anyone"])),
            "rules[0].path: {device} ties the path",
            "use *",
        ),
        (
            without(base(), "/accounts"),
            "rules[1].principals[1]: no token issuer",
            "`accounts`",
        ),
        (
            with(
                with(base(), "/issuers/-", beta_issuer()),
                "/rules/1/path",
                json!("/v1/{serial}"),
            ),
            "rules[1].path: {serial} does not say which issuer's",
            "use {device}",
        ),
        (
            with(base(), "/rules/1/path", json!("/v1/{class}")),
            "rules[1].path: an account has no class",
            "add {device}",
        ),
        (
            with(base(), "/rules/0/methods", json!([])),
            "rules[0].methods: the list is empty",
            "leave the key out",
        ),
        (
            with(base(), "/rules/0/methods", json!(["post"])),
            "rules[0].methods[0]: \"post\" is no method",
            "\"POST\"",
        ),
        (
            with(base(), "/rules/0/methods", json!(["CONNECT"])),
            "rules[0].methods[0]: a CONNECT has no path",
            "GET",
        ),
        (
            with(base(), "/rules/0/methods", json!(["GET", "GET"])),
            "rules[0].methods[1]: the method stands there twice",
            "once",
        ),
        (
            with(base(), "/rules/0/tags", json!({"device": "x"})),
            "rules[0].tags.device: medbind sets this tag itself",
            "other than",
        ),
        (
            with(base(), "/rules/0/tags", json!({"Traffic": "x"})),
            "rules[0].tags.Traffic: \"Traffic\" is no name",
            "a-z",
        ),
        (
            with(base(), "/rules/0/tags", json!({"traffic": "a\nb"})),
            "rules[0].tags.traffic: \"a\\nb\" cannot be sent",
            "printable",
        ),
        (
            with(base(), "/rules/0/tags", json!({"traffic": 1})),
            "rules[0].tags.traffic: expected text",
            "",
        ),
        (
            with(base(), "/rules/0/max_stale", json!("1m")),
            "rules[0].max_stale: it is shorter",
            "longer",
        ),
        (
            with(base(), "/rules/0/max_stale", json!(3600)),
            "rules[0].max_stale: a duration without unit",
            "\"3600s\"",
        ),
        // Accounts.
        (
            with(base(), "/accounts/0", json!({})),
            "accounts[0].issuer: missing",
            "`iss`",
        ),
        (
            with(base(), "/accounts/0/issuer", json!("")),
            "accounts[0].issuer: it is empty",
            "`iss`",
        ),
        (
            with(
                base(),
                "/accounts/-",
                json!({"issuer": "https://login.example", "prefix": "a:"}),
            ),
            "accounts[1].issuer: the issuer stands there twice",
            "once",
        ),
        (
            with(
                base(),
                "/accounts/-",
                json!({"issuer": "https://other.example"}),
            ),
            "accounts[1].prefix: accounts of this issuer and of \"https://login.example\"",
            "prefix of its own",
        ),
        (
            with(
                base(),
                "/accounts",
                json!([{"issuer": "a", "prefix": "x:"}, {"issuer": "b", "prefix": "x:y"}]),
            ),
            "accounts[1].prefix: ",
            "not the beginning",
        ),
        (
            with(base(), "/accounts/0/prefix", json!("a b")),
            "accounts[0].prefix: expected a prefix",
            "",
        ),
        (
            with(base(), "/account_metadata", json!("")),
            "account_metadata: expected the `payload_in_metadata`",
            "",
        ),
        // Bindings and registry.
        (
            with(base(), "/bindings", json!({"max_stale": "900"})),
            "bindings.max_stale: a duration without unit",
            "\"900s\"",
        ),
        (
            with(base(), "/bindings", json!({"max_stale": 900})),
            "bindings.max_stale: a duration without unit",
            "\"900s\"",
        ),
        (
            with(base(), "/bindings", json!({"max_stale": 900.0})),
            "bindings.max_stale: a duration without unit",
            "\"900s\"",
        ),
        (
            with(base(), "/bindings", json!({"max_stale": "15min"})),
            "bindings.max_stale: \"15min\" is no duration",
            "ms, s, m, h, d",
        ),
        (
            with(base(), "/bindings", json!({"max_stale": "1s"})),
            "bindings.max_stale: 1s is out of range",
            "3s to 7d",
        ),
        (
            with(base(), "/bindings", json!({"capacity": 0})),
            "bindings.capacity: 0 is out of range",
            "1 to 20000000",
        ),
        (
            with(base(), "/bindings", json!({"capacity": 1.5})),
            "bindings.capacity: 1.5 is out of range",
            "whole number",
        ),
        (
            with(base(), "/bindings", json!({"capacity": -1})),
            "bindings.capacity: -1 is out of range",
            "whole number",
        ),
        (
            with(base(), "/bindings", json!({"capacity": "1M"})),
            "bindings.capacity: expected a whole number",
            "",
        ),
        (
            with(
                base(),
                "/bindings",
                json!({"max_waiting": 5, "max_waiting_per_device": 6}),
            ),
            "bindings.max_waiting_per_device: ",
            "`max_waiting`",
        ),
        (
            with(base(), "/bindings", json!({"preload": false})),
            "registry: missing, though `bindings.preload` is false",
            "`authority`",
        ),
        (
            with(base(), "/registry", json!({"authority": "r"})),
            "registry.cluster: missing",
            "Envoy cluster",
        ),
        (
            with(base(), "/registry", json!({"cluster": "r"})),
            "registry.authority: missing",
            "registry.example",
        ),
        (
            with(
                base(),
                "/registry",
                json!({"cluster": "r", "authority": "https://r"}),
            ),
            "registry.authority: \"https://r\" is more than a host",
            "without scheme",
        ),
        (
            with(
                base(),
                "/registry",
                json!({"cluster": "a b", "authority": "r"}),
            ),
            "registry.cluster: expected a cluster's name",
            "",
        ),
        (
            json!({"role": "sync", "registry": {"cluster": "r", "authority": "r"}, "rules": []}),
            "rules: unknown key",
            "belongs to `guard`",
        ),
        // The rest.
        (
            with(base(), "/ready_path", json!("ready")),
            "ready_path: \"ready\" does not begin with '/'",
            "/ready",
        ),
        (
            with(base(), "/ready_path", json!("/a/../b")),
            "ready_path: no request may ask for",
            "plain path",
        ),
        (
            with(base(), "/ready_path", json!("/a?b")),
            "ready_path: \"/a?b\" is not one path",
            "without query",
        ),
        (
            with(base(), "/certificate_source", json!("header")),
            "certificate_source: \"header\"",
            "`forwarded_header`",
        ),
        (
            with(base(), "/log_identifiers", json!("clear")),
            "log_identifiers: \"clear\"",
            "`pseudonym`",
        ),
        (
            with(base(), "/local_table", json!({"refused": 1})),
            "local_table.refused: 1 is out of range",
            "16 to 100000",
        ),
        (
            with(base(), "/retry_after", json!("1500ms")),
            "retry_after: Retry-After is in whole seconds",
            "\"5s\"",
        ),
    ];
    let mut missed = Vec::new();
    for (value, begins, holds) in table {
        let told = problems(&value);
        // One mistake, one problem.
        let hit =
            matches!(told.as_slice(), [one] if one.starts_with(begins) && one.contains(holds));
        if !hit {
            missed.push(format!("expected {begins:?} with {holds:?}: {told:#?}"));
        }
    }
    assert!(missed.is_empty(), "{}", missed.join("\n"));
}

#[test]
fn every_problem_is_told() {
    let value = json!({
        "role": "http",
        "moed": "enforce",
        "rules": [{"path": "x"}, {"path": "/a", "principals": ["me"]}],
        "bindings": {"max_stale": 1, "capacity": "x"},
        "ready_path": "",
    });
    let told = problems(&value);
    for field in [
        "moed:",
        "bindings.capacity:",
        "bindings.max_stale:",
        "rules[0].path:",
        "rules[0].principals:",
        "rules[1].principals[0]:",
        "ready_path:",
    ] {
        assert!(
            told.iter().any(|problem| problem.starts_with(field)),
            "{field} is not in {told:#?}"
        );
    }
}

#[test]
fn a_field_is_found_by_its_steps() {
    let error = PluginConfig::from_value(&with(
        guard_json(),
        "/rules/2/principals",
        json!(["devise"]),
    ))
    .unwrap_err();
    assert_eq!(
        error.problems()[0].path.segments(),
        [
            FieldSegment::Key("rules".into()),
            FieldSegment::Index(2),
            FieldSegment::Key("principals".into()),
            FieldSegment::Index(0),
        ]
    );
}

#[test]
fn json_is_read_strictly() {
    let large = vec![b' '; MAX_CONFIG_OCTETS + 1];
    for (json, holds) in [
        (b"".as_slice(), "is empty"),
        (b" \n", "is empty"),
        (b"{", "cannot be read as JSON"),
        (b"{} x", "cannot be read as JSON"),
        (b"\xff", "cannot be read as JSON"),
        (
            br#"{"role":"http","role":"sync"}"#,
            "\"role\" stands there twice",
        ),
        (
            br#"{"role":"http","bindings":{"preload":true,"preload":false}}"#,
            "\"preload\" stands there twice",
        ),
        (large.as_slice(), "larger than 1 MiB"),
    ] {
        let error = PluginConfig::from_json(json).unwrap_err();
        assert!(error.to_string().contains(holds), "{error}");
    }
    let deep = "[".repeat(10_000);
    assert!(PluginConfig::from_json(deep.as_bytes()).is_err());
    let many = format!(
        r#"{{"role":"http","rules":[{}]}}"#,
        vec!["1"; 900].join(",")
    );
    let error = PluginConfig::from_json(many.as_bytes()).unwrap_err();
    assert!(error.problems().len() <= 100);
}

#[test]
fn what_is_worth_a_second_look_is_a_warning() {
    let value = with(
        with(guard_json(), "/mode", json!("shadow")),
        "/rules/-",
        json!({"path": "/v1/devices/*/alarms", "methods": ["POST"], "principals": ["device"]}),
    );
    let warnings: Vec<String> = guard(&value)
        .warnings
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(warnings.len(), 2, "{warnings:#?}");
    assert!(warnings[0].starts_with("rules[3]: no request ever comes to this rule: rules[1]"));
    assert!(warnings[1].starts_with("mode: in shadow mode"));
}

#[test]
fn every_key_stands_in_the_reference() {
    for section in SECTIONS {
        let heading = format!("\n## {}\n", section.name);
        let start = REFERENCE.find(&heading).expect(section.name) + heading.len();
        let text = &REFERENCE[start..];
        let text = &text[..text.find("\n## ").unwrap_or(text.len())];
        let mut documented: Vec<&str> = text
            .split("| key |")
            .nth(1)
            .expect(section.name)
            .lines()
            .skip(2)
            .take_while(|line| line.starts_with('|'))
            .map(|line| line.split('`').nth(1).unwrap())
            .collect();
        assert_eq!(documented, section.keys, "{}", section.name);
        documented.dedup();
        assert_eq!(documented.len(), section.keys.len());
    }
}

#[test]
fn the_reference_tells_the_true_defaults() {
    let bindings = BindingsConfig::default();
    let table = LocalTable::default();
    for (key, default) in [
        ("capacity", bindings.capacity.to_string()),
        ("preload", bindings.preload.to_string()),
        ("negative_ttl", format_duration(bindings.negative_ttl)),
        ("lookup_timeout", format_duration(bindings.lookup_timeout)),
        ("max_clock_skew", format_duration(bindings.max_clock_skew)),
        ("max_waiting", bindings.max_waiting.to_string()),
        (
            "max_waiting_per_device",
            bindings.max_waiting_per_device.to_string(),
        ),
        ("known_devices", table.known_devices.to_string()),
        ("refused", table.refused.to_string()),
        (
            "retry_after",
            format_duration(guard(&guard_json()).retry_after),
        ),
        ("mode", Mode::default().as_str().into()),
        (
            "certificate_source",
            CertificateSource::default().as_str().into(),
        ),
        ("log_identifiers", LogIdentifiers::default().as_str().into()),
    ] {
        let row = format!("| `{key}` |");
        let line = REFERENCE.lines().find(|line| line.starts_with(&row));
        let cell = line.unwrap().split('|').nth(3).unwrap().trim();
        assert_eq!(cell, format!("`{default}`"), "{key}");
    }
    let max_stale = format!(
        "| `max_stale` | duration, `3s` to `7d` | `{}` |",
        format_duration(bindings.max_stale)
    );
    assert!(REFERENCE.contains(&max_stale), "{max_stale}");
}

#[test]
fn the_errors_that_the_reference_shows_are_real() {
    let shown = REFERENCE.split("```text\n").nth(1).unwrap();
    let shown: Vec<&str> = shown.split("```").next().unwrap().lines().collect();
    let value = with(
        with(guard_json(), "/rules/2/principals", json!(["devise"])),
        "/bindings",
        json!({"max_stale": 900}),
    );
    let told = problems(&value);
    assert_eq!(shown.len(), 2);
    for line in shown {
        assert!(told.iter().any(|one| one == line), "{line}: {told:#?}");
    }
}

#[cfg(not(target_arch = "wasm32"))]
mod native {
    use proptest::prelude::*;

    use super::*;

    /// The examples, with real certificates in the places of those that are shown shortened.
    #[test]
    fn every_example_of_the_reference_is_a_configuration() {
        let examples: Vec<&str> = REFERENCE
            .split("```yaml\n")
            .skip(1)
            .map(|rest| rest.split("```").next().unwrap())
            .collect();
        assert!(examples.len() >= 5);
        let mut mentioned: Vec<String> = Vec::new();
        for example in examples {
            let mut value: Value = serde_saphyr::from_str(example).unwrap();
            for (pem, issuer) in [ACME_CA, BETA_CA].into_iter().zip(
                value
                    .get_mut("issuers")
                    .and_then(Value::as_array_mut)
                    .into_iter()
                    .flatten(),
            ) {
                issuer["certificates"] = json!([pem]);
            }
            let config = PluginConfig::from_value(&value);
            let json = serde_json::to_vec(&value).unwrap();
            assert_eq!(config.is_ok(), PluginConfig::from_json(&json).is_ok());
            match config {
                Ok(PluginConfig::Guard(guard)) => assert_eq!(guard.warnings, [], "{example}"),
                Ok(PluginConfig::Sync(_)) => {}
                Err(error) => panic!("{error}\n{example}"),
            }
            collect_keys(&value, &mut mentioned);
        }
        for key in SECTIONS.iter().flat_map(|section| section.keys) {
            assert!(
                mentioned.iter().any(|seen| seen == key),
                "no example shows `{key}`"
            );
        }
    }

    fn collect_keys(value: &Value, keys: &mut Vec<String>) {
        match value {
            Value::Object(map) => {
                for (key, value) in map {
                    keys.push(key.clone());
                    collect_keys(value, keys);
                }
            }
            Value::Array(list) => list.iter().for_each(|value| collect_keys(value, keys)),
            _ => {}
        }
    }

    fn any_value() -> impl Strategy<Value = Value> {
        let words: Vec<&str> = SECTIONS
            .iter()
            .flat_map(|section| section.keys.iter().copied())
            .chain([
                "http", "sync", "device", "account", "anyone", "san.uri", "{serial}", "/", "15m",
                "x",
            ])
            .collect();
        let word = proptest::sample::select(words);
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::Bool),
            any::<i64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            any::<String>().prop_map(Value::String),
            word.clone().prop_map(Value::from),
        ];
        leaf.prop_recursive(5, 64, 6, move |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..6).prop_map(Value::Array),
                proptest::collection::vec((word.clone(), inner), 0..6).prop_map(|entries| {
                    Value::Object(
                        entries
                            .into_iter()
                            .map(|(key, value)| (key.to_owned(), value))
                            .collect(),
                    )
                }),
            ]
        })
    }

    /// Every place in a value, as a JSON pointer.
    fn pointers(value: &Value, at: &str, found: &mut Vec<String>) {
        match value {
            Value::Object(map) => {
                for (key, value) in map {
                    let at = format!("{at}/{key}");
                    pointers(value, &at, found);
                    found.push(at);
                }
            }
            Value::Array(list) => {
                for (index, value) in list.iter().enumerate() {
                    let at = format!("{at}/{index}");
                    pointers(value, &at, found);
                    found.push(at);
                }
            }
            _ => {}
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_reading_panic(json in any::<Vec<u8>>(), text in ".{0,200}") {
            let _ = PluginConfig::from_json(&json);
            let _ = PluginConfig::from_json(text.as_bytes());
        }

        #[test]
        fn no_value_makes_reading_panic(value in any_value()) {
            let by_value = PluginConfig::from_value(&value).is_ok();
            let json = serde_json::to_vec(&value).unwrap();
            prop_assert_eq!(by_value, PluginConfig::from_json(&json).is_ok());
        }

        #[test]
        fn no_value_in_any_place_makes_reading_panic(
            place in any::<proptest::sample::Index>(),
            new in any_value(),
        ) {
            let base = guard_json();
            let mut places = Vec::new();
            pointers(&base, "", &mut places);
            let value = with(base, place.get::<String>(&places), new);
            if let Err(error) = PluginConfig::from_value(&value) {
                prop_assert!(!error.problems().is_empty());
                for problem in error.problems() {
                    prop_assert!(!problem.what.is_empty() && !problem.mend.is_empty());
                }
            }
        }
    }
}
