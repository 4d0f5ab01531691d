//! The explanation is the decision: every code that `explain` can reach, by its JSON form.

mod common;

use common::{Desk, guard_yaml, indented, unread};
use medbind_core::deny::DenyCode;
use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DistinguishedName, DnType, DnValue,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, date_time_ymd,
};
use serde_json::{Value, json};

const AT: &str = "2026-11-24T16:20:00Z";
const READINGS: &str = "/v1/devices/acme:SN1/readings";

struct Ca {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

fn ca(name: &str) -> Ca {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let key = KeyPair::generate().unwrap();
    let pem = params.self_signed(&key).unwrap().pem();
    Ca {
        pem,
        issuer: Issuer::new(params, key),
    }
}

/// A leaf for `acme:SN1`, changed by `change`.
fn leaf(ca: &Ca, change: impl FnOnce(&mut CertificateParams)) -> String {
    let mut params = CertificateParams::default();
    params.not_before = date_time_ymd(2026, 1, 1);
    params.not_after = date_time_ymd(2027, 1, 1);
    params.distinguished_name = DistinguishedName::new();
    serial_number(&mut params, "SN1");
    params.is_ca = IsCa::ExplicitNoCa;
    params.use_authority_key_identifier_extension = true;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    change(&mut params);
    let key = KeyPair::generate().unwrap();
    params.signed_by(&key, &ca.issuer).unwrap().pem()
}

fn serial_number(params: &mut CertificateParams, serial: &str) {
    let kind = DnType::CustomDnType(vec![2, 5, 4, 5]);
    let text = DnValue::PrintableString(serial.try_into().unwrap());
    params.distinguished_name.push(kind, text);
}

fn desk() -> Desk {
    let desk = Desk::new();
    let ours = ca("acme device CA");
    let stranger = ca("acme device CA");
    let pem = indented(&ours.pem, 4);
    let issuers = format!(
        "- namespace: acme\n  certificates:\n  - |\n{pem}  identity:\n  - source: subject.serial_number\n  - source: san.uri\n    template: urn:x:{{serial}}\n"
    );
    desk.write("guard.yaml", guard_yaml(&issuers));
    desk.write("good.pem", leaf(&ours, |_| {}));
    desk.write("stranger.pem", leaf(&stranger, |_| {}));
    desk.write(
        "server.pem",
        leaf(&ours, |params| {
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        }),
    );
    desk.write(
        "critical.pem",
        leaf(&ours, |params| {
            let mut extension =
                CustomExtension::from_oid_content(&[1, 3, 6, 1, 4, 1, 32473, 9], vec![5, 0]);
            extension.set_criticality(true);
            params.custom_extensions.push(extension);
        }),
    );
    desk.write(
        "nobody.pem",
        leaf(&ours, |params| {
            params.distinguished_name = DistinguishedName::new();
            params
                .distinguished_name
                .push(DnType::OrganizationName, "acme");
        }),
    );
    desk.write(
        "two.pem",
        leaf(&ours, |params| {
            params
                .subject_alt_names
                .push(rcgen::SanType::URI("urn:x:SN2".try_into().unwrap()));
        }),
    );
    desk.write(
        "broken.pem",
        "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n",
    );
    desk.write("active.ndjson", record(&json!({})));
    desk
}

/// A record of an active binding of `acme:SN1`, with these fields changed.
fn record(change: &Value) -> String {
    let mut record = json!({
        "device": "acme:SN1", "account": "acc-1", "state": "active", "class": "cgm",
        "expires_at": null, "pins": [], "revision": 1,
    });
    for (name, value) in change.as_object().unwrap() {
        record[name] = value.clone();
    }
    format!("{record}\n")
}

/// Explains with `--json`; the exit status must fit the decision.
fn explain(desk: &Desk, args: &[&str]) -> Value {
    let base = ["explain", "--guard", "guard.yaml", "--at", AT, "--json"];
    let base: Vec<&str> = base
        .into_iter()
        .filter(|arg| !(args.contains(&"--at") && [AT, "--at"].contains(arg)))
        .collect();
    let ran = desk.run(&[&base[..], args].concat());
    let told = ran.json();
    let status = match told["decision"].as_str() {
        Some("permit") => 0,
        Some("deny") => 1,
        other => panic!("{other:?}"),
    };
    assert_eq!(ran.status, status);
    for name in [
        "principal",
        "device",
        "account",
        "class",
        "rule",
        "headers",
        "steps",
        "code",
        "status",
    ] {
        assert!(told.get(name).is_some(), "{name} is missing: {told}");
    }
    assert!(!told["steps"].as_array().unwrap().is_empty());
    told
}

#[test]
fn a_permit_tells_who_by_which_rule_and_what_the_upstream_sees() {
    let desk = desk();
    let told = explain(
        &desk,
        &[
            "--certificate",
            "good.pem",
            "--bindings",
            "active.ndjson",
            "--method",
            "POST",
            "--path",
            READINGS,
        ],
    );
    assert_eq!(told["decision"], "permit");
    assert_eq!(told["code"], Value::Null);
    assert_eq!(told["status"], 200);
    assert_eq!(told["principal"], "device");
    assert_eq!(told["device"], "acme:SN1");
    assert_eq!(told["account"], "acc-1");
    assert_eq!(told["class"], "cgm");
    assert_eq!(
        told["rule"],
        json!({"index": 0, "path": "/v1/devices/{device}/readings"})
    );
    assert_eq!(
        told["headers"],
        json!({
            "x-medbind-principal": "device", "x-medbind-device": "acme:SN1",
            "x-medbind-account": "acc-1", "x-medbind-class": "cgm", "x-medbind-epoch": "1",
            "x-medbind-traffic": "phi",
        })
    );
}

#[test]
fn the_status_is_the_decisions_whoever_reads_the_answer() {
    let desk = desk();
    for (certificate, status) in [("stranger.pem", 1), ("good.pem", 0)] {
        let args = ["explain", "--guard", "guard.yaml", "--at", AT];
        let case = ["--certificate", certificate, "--bindings", "active.ndjson"];
        let args = [&args[..], &case].concat();
        for more in [&[][..], &["--json"]] {
            let mut command = desk.command(&[&args[..], more].concat());
            let ended = command.stdout(unread()).output().unwrap();
            assert_eq!(ended.status.code(), Some(status), "{certificate}");
            assert_eq!(String::from_utf8(ended.stderr).unwrap(), "");
        }
        // An answer that could not be written is none.
        let full = std::fs::File::create("/dev/full").unwrap();
        let mut command = desk.command(&[&args[..], &["--json"]].concat());
        let ended = command.stdout(full).output().unwrap();
        assert_eq!(ended.status.code(), Some(1), "{certificate}");
        let error: Value = serde_json::from_slice(&ended.stderr).unwrap();
        let what = error["error"].as_str().unwrap();
        assert!(what.contains("cannot write the answer"), "{what}");
    }
}

#[test]
fn without_a_path_the_device_alone_is_looked_at() {
    let desk = desk();
    let told = explain(
        &desk,
        &["--certificate", "good.pem", "--bindings", "active.ndjson"],
    );
    assert_eq!(told["decision"], "permit");
    assert_eq!(told["rule"], Value::Null);
    assert_eq!(told["principal"], "device");
}

#[test]
fn an_account_is_explained_by_its_token() {
    let desk = desk();
    let request = [
        "--no-certificate",
        "--bindings",
        "active.ndjson",
        "--path",
        "/v1/devices/acme:SN1/history",
    ];
    let token = |subject| {
        [
            "--account-issuer",
            "https://sign-in.example",
            "--account-subject",
            subject,
        ]
    };
    let told = explain(&desk, &[&request[..], &token("acc-1")].concat());
    assert_eq!(told["decision"], "permit");
    assert_eq!(told["principal"], "account");
    let told = explain(&desk, &[&request[..], &token("acc-2")].concat());
    assert_eq!(told["code"], "not_permitted");
    let told = explain(&desk, &request);
    assert_eq!(
        (&told["code"], &told["status"]),
        (&json!("no_account"), &json!(401))
    );
}

/// Arguments, the code, its HTTP status.
const DENIES: &[(&str, &str, u64)] = &[
    (
        "--no-certificate --bindings active",
        "no_peer_certificate",
        401,
    ),
    (
        "--certificate broken.pem --bindings active",
        "malformed_certificate",
        401,
    ),
    (
        "--certificate active --bindings active",
        "malformed_certificate",
        401,
    ),
    (
        "--certificate stranger.pem --bindings active",
        "unknown_issuer",
        401,
    ),
    (
        "--certificate good.pem --bindings active --at 2027-01-01T00:00:01Z",
        "certificate_expired",
        401,
    ),
    (
        "--certificate good.pem --bindings active --at 2025-12-31T23:59:59Z",
        "certificate_not_yet_valid",
        401,
    ),
    (
        "--certificate server.pem --bindings active",
        "certificate_not_allowed",
        403,
    ),
    (
        "--certificate critical.pem --bindings active",
        "certificate_not_allowed",
        403,
    ),
    (
        "--certificate good.pem --bindings pinned",
        "certificate_not_allowed",
        403,
    ),
    (
        "--certificate nobody.pem --bindings active",
        "no_device_identity",
        403,
    ),
    (
        "--certificate two.pem --bindings active",
        "ambiguous_device_identity",
        403,
    ),
    (
        "--certificate good.pem --bindings empty",
        "unknown_device",
        403,
    ),
    (
        "--certificate good.pem --bindings unclaimed",
        "device_unclaimed",
        403,
    ),
    (
        "--certificate good.pem --bindings suspended",
        "binding_suspended",
        403,
    ),
    (
        "--certificate good.pem --bindings revoked",
        "binding_revoked",
        403,
    ),
    (
        "--certificate good.pem --bindings ended",
        "binding_expired",
        403,
    ),
    (
        "--certificate good.pem --bindings active --path /v1/devices/acme:SN1/history",
        "no_account",
        401,
    ),
    (
        "--certificate good.pem --bindings active --path /v1/devices/acme:SN2/readings --method POST",
        "not_permitted",
        403,
    ),
    (
        "--certificate good.pem --bindings active --path /elsewhere",
        "not_permitted",
        403,
    ),
    (
        "--certificate good.pem --bindings active --path /v1//x",
        "not_permitted",
        403,
    ),
    (
        "--certificate good.pem --bindings active --silent-for 20m",
        "bindings_stale",
        503,
    ),
    (
        "--certificate good.pem --bindings paused",
        "bindings_unavailable",
        503,
    ),
];
/// What explain cannot reach: its registry either answers or there is no explanation, and a bug is
/// no case.
const OUT_OF_REACH: [DenyCode; 2] = [DenyCode::LookupFailed, DenyCode::Internal];

#[test]
fn every_code_that_can_be_reached_is_reached_with_its_status() {
    let desk = desk();
    for (name, change) in [
        ("active", json!({})),
        ("unclaimed", json!({"state": "unclaimed", "account": null})),
        ("suspended", json!({"state": "suspended"})),
        ("revoked", json!({"state": "revoked"})),
        ("ended", json!({"expires_at": "2026-11-24T16:19:59Z"})),
        ("pinned", json!({"pins": ["ab".repeat(32)]})),
        ("paused", json!({"state": "paused"})),
    ] {
        desk.write(name, record(&change));
    }
    desk.write("empty", "");
    for (args, code, status) in DENIES {
        let told = explain(&desk, &args.split(' ').collect::<Vec<_>>());
        assert_eq!(told["decision"], "deny", "{args}");
        assert_eq!(told["code"], *code, "{args}");
        assert_eq!(told["status"], *status, "{args}");
        assert_eq!(told["headers"], json!({}), "{args}");
        let last = told["steps"].as_array().unwrap().last().unwrap();
        assert_eq!(last["outcome"], "refused", "{args}");
    }
    for code in DenyCode::ALL {
        let reached = DENIES.iter().any(|(_, word, _)| *word == code.as_str());
        assert_ne!(reached, OUT_OF_REACH.contains(&code), "{code}");
    }
}

#[test]
fn of_two_records_of_a_device_the_higher_revision_counts_wherever_it_stands() {
    let desk = desk();
    let old = record(&json!({"revision": 4}));
    let new = record(&json!({"revision": 9, "state": "revoked"}));
    let other = record(&json!({"revision": 12, "device": "acme:SN2"}));
    for lines in [format!("{old}{new}{other}"), format!("{new}{other}\n{old}")] {
        desk.write("records.ndjson", lines);
        let told = explain(
            &desk,
            &["--certificate", "good.pem", "--bindings", "records.ndjson"],
        );
        assert_eq!(told["code"], "binding_revoked");
    }
    desk.write(
        "records.ndjson",
        "{\"kind\":\"weather\"}\n".to_owned() + &old,
    );
    let told = explain(
        &desk,
        &["--certificate", "good.pem", "--bindings", "records.ndjson"],
    );
    assert_eq!(told["decision"], "permit");
}

#[test]
fn wrong_usage_and_configuration_are_no_decision() {
    let desk = desk();
    desk.write(
        "wrong.yaml",
        desk.read("guard.yaml")
            .replace("principals: [anyone]", "principals: [anybody]"),
    );
    desk.write("no.ndjson", "no record\n");
    desk.write(
        "sync.yaml",
        "role: sync\nregistry: {cluster: registry, authority: registry}\n",
    );
    let certificate = ["--certificate", "good.pem"];
    let bindings = ["--bindings", "active.ndjson"];
    for (args, what) in [
        (
            [
                &["--guard", "guard.yaml"][..],
                &["--certificate", "none.pem"],
                &bindings,
            ]
            .concat(),
            "none.pem",
        ),
        (
            [
                &["--guard", "guard.yaml"][..],
                &certificate,
                &["--bindings", "none.ndjson"],
            ]
            .concat(),
            "none.ndjson",
        ),
        (
            [
                &["--guard", "guard.yaml"][..],
                &certificate,
                &["--bindings", "no.ndjson"],
            ]
            .concat(),
            "line 1",
        ),
        (
            [&["--guard", "none.yaml"][..], &certificate, &bindings].concat(),
            "none.yaml",
        ),
        (
            [&["--guard", "wrong.yaml"][..], &certificate, &bindings].concat(),
            "rules[2].principals",
        ),
        (
            [&["--guard", "sync.yaml"][..], &certificate, &bindings].concat(),
            "no guard",
        ),
        (
            [&["--guard", "good.pem"][..], &certificate, &bindings].concat(),
            "good.pem",
        ),
        (
            [&["--guard", "guard.yaml"][..], &bindings].concat(),
            "--certificate",
        ),
        (
            [&["--guard", "guard.yaml"][..], &certificate].concat(),
            "--bindings",
        ),
        (
            [
                &["--guard", "guard.yaml"][..],
                &certificate,
                &bindings,
                &["--at", "soon"],
            ]
            .concat(),
            "--at",
        ),
    ] {
        let ran = desk
            .run(&[&["explain", "--json"][..], &args].concat())
            .ended_with(2);
        assert!(ran.out.is_empty(), "{}", ran.out);
        assert!(ran.err.contains(what), "{args:?}: {}", ran.err);
    }
}

#[test]
fn the_guard_is_found_inside_a_bootstrap_and_its_own_readiness_guard_is_passed_over() {
    let desk = desk();
    let guard = desk.read("guard.yaml");
    let guard = indented(&guard, 8);
    let probes = "role: http, ready_path: /ready, issuers: [], rules: []";
    desk.write(
        "envoy.yaml",
        format!(
            "static_resources:\n  listeners:\n  - vm_config: {{vm_id: medbind}}\n    configuration:\n      \"@type\": type.googleapis.com/google.protobuf.Struct\n      value:\n{guard}  - vm_config: {{vm_id: medbind}}\n    configuration: {{{probes}}}\n",
        ),
    );
    let case = ["--certificate", "good.pem", "--bindings", "active.ndjson"];
    let args = [
        &["explain", "--guard", "envoy.yaml", "--at", AT, "--json"][..],
        &case,
    ]
    .concat();
    assert_eq!(desk.run(&args).ended_with(0).json()["decision"], "permit");
}

#[test]
fn a_person_reads_the_steps_and_what_to_do_next() {
    let desk = desk();
    desk.write("suspended.ndjson", record(&json!({"state": "suspended"})));
    let args = [
        "explain",
        "--guard",
        "guard.yaml",
        "--at",
        AT,
        "--certificate",
        "good.pem",
        "--bindings",
        "suspended.ndjson",
    ];
    let ran = desk.run(&args).ended_with(1);
    // What differs from run to run: digests, and nothing else.
    let words = ran.out.split_inclusive([' ', '\n']).map(|word| {
        let digest = word.trim_end();
        let is_digest = digest.len() == 64 && digest.bytes().all(|b| b.is_ascii_hexdigit());
        if is_digest {
            word.replace(digest, "<sha256>")
        } else {
            word.to_owned()
        }
    });
    insta::assert_snapshot!(words.collect::<String>());
}
