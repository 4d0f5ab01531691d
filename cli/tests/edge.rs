//! An edge's directory, and the certificates of the infrastructure.

mod common;

use std::path::Path;

use common::{Desk, mode};
use medbind_registry::pki::{CertificateAuthority, CertificateFacts};
use rcgen::{
    CertificateParams, CertificateRevocationListParams, Issuer, KeyIdMethod, KeyPair, SerialNumber,
};
use serde_json::Value;

/// A sign-in's key (RFC 7515, A.3.1).
const KEY_SET: &str = r#"{"keys":[{"kty":"EC","crv":"P-256",
    "x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU",
    "y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}]}"#;

/// A desk with an infrastructure CA as `medbind serve` makes it, a device CA, and a module.
fn desk() -> Desk {
    let desk = Desk::with_ca(&[]);
    let now = medbind_core::time::Timestamp::from_unix_seconds(jiff::Timestamp::now().as_second());
    let infra = CertificateAuthority::generate("infrastructure", now).unwrap();
    infra.save(&desk.path("infra-ca")).unwrap();
    desk.write("medbind.wasm", b"\0asm\x01\0\0\0");
    desk.write("jwks.json", KEY_SET);
    desk.write("no-keys.json", r#"{"keys":[]}"#);
    desk.write("other-keys.json", KEY_SET.replace("keys", "values"));
    desk.write("half-key.json", KEY_SET.replace(r#""y""#, r#""z""#));
    let key = KeyPair::from_pem(&desk.read("ca/key.pem")).unwrap();
    let issuer = Issuer::from_ca_cert_pem(&desk.read("ca/cert.pem"), key).unwrap();
    let today = time::OffsetDateTime::from_unix_timestamp(now.unix_seconds()).unwrap();
    let list = CertificateRevocationListParams {
        this_update: today,
        next_update: today + time::Duration::days(30),
        crl_number: SerialNumber::from(1_u64),
        issuing_distribution_point: None,
        revoked_certs: Vec::new(),
        key_identifier_method: KeyIdMethod::Sha256,
    };
    desk.write("crl.pem", list.signed_by(&issuer).unwrap().pem().unwrap());
    desk
}

const INIT: [&str; 10] = [
    "edge",
    "init",
    "--infra-ca",
    "infra-ca",
    "--device-ca",
    "ca",
    "--module",
    "medbind.wasm",
    "--registry",
    "https://registry.clinic.example:9443",
];

/// Every file that a configuration names.
fn filenames<'a>(value: &'a Value, found: &mut Vec<&'a str>) {
    match value {
        Value::Object(fields) => {
            for (name, field) in fields {
                match field.as_str() {
                    Some(text) if name == "filename" => found.push(text),
                    Some(_) | None => filenames(field, found),
                }
            }
        }
        Value::Array(items) => items.iter().for_each(|item| filenames(item, found)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

#[test]
fn an_edge_gets_a_configuration_that_is_taken_and_every_file_that_it_names() {
    let desk = desk();
    let with_service = [
        "--name",
        "gate.clinic.example",
        "--service",
        "https://data.clinic.example:7443",
    ];
    let people = [
        "--accounts",
        "https://sso.clinic.example",
        "--jwks",
        "jwks.json",
    ];
    let lists = ["--crl", "crl.pem", "--service-ca", "infra-ca/cert.pem"];
    for (dir, more) in [
        // What YAML reads as signs is nothing but a folder's name.
        ("devices, {1} #2", vec![]),
        ("people", [&people[..], &lists].concat()),
    ] {
        let ran = desk.run(&[&INIT[..], &with_service, &[dir], &more].concat());
        ran.ended_with(0);
        let file = format!("{dir}/http.yaml");
        desk.run(&["check", "--strict", &file]).ended_with(0);
        let text = desk.read(&file);
        for left in ["/etc/medbind", "edge.example", "(the PEM", ": begin"] {
            assert!(!text.contains(left), "{dir}: {left}");
        }
        for filled in [
            "gate.clinic.example:*",
            "registry.clinic.example:9443",
            "7443",
        ] {
            assert!(text.contains(filled), "{dir}: {filled}");
        }
        let people = !more.is_empty();
        assert_eq!(text.contains("https://sso.clinic.example"), people);
        assert_eq!(text.contains("principals: [device, account]"), people);
        assert_eq!(text.contains("jwt_authn"), people);
        let trust = desk.read(&format!("{dir}/device-ca.yaml"));
        assert!(!trust.contains("/etc/medbind") && !trust.contains(": begin"));
        let value: Value = serde_saphyr::from_str(&text).unwrap();
        // A list that comes later is two comments away.
        let later = trust
            .replace("# crl: {", "crl: {")
            .replace("# only_verify", "only_verify");
        let trust: Value = serde_saphyr::from_str(&trust).unwrap();
        let later: Value = serde_saphyr::from_str(&later).unwrap();
        let context = |trust: &Value| trust["resources"][0]["validation_context"].clone();
        assert_eq!(context(&trust).get("crl").is_some(), people);
        let leaf_alone = context(&trust).get("only_verify_leaf_cert_crl").is_some();
        assert_eq!(leaf_alone, people);
        let list = desk.path(dir).join("device-ca.crl.pem");
        assert_eq!(context(&later)["crl"]["filename"], list.to_str().unwrap());
        assert_eq!(context(&later)["only_verify_leaf_cert_crl"], true);
        let folder = desk.path(dir);
        assert_eq!(
            trust["resources"][0]["validation_context"]["watched_directory"]["path"],
            folder.to_str().unwrap()
        );
        let mut names = Vec::new();
        filenames(&value, &mut names);
        filenames(&trust, &mut names);
        let trust_file = folder.join("device-ca.yaml");
        assert!(text.contains(trust_file.to_str().unwrap()), "{dir}");
        assert!(names.len() >= 8, "{names:?}");
        for name in names {
            let path = Path::new(name);
            assert!(path.is_absolute(), "{name}");
            assert_eq!(mode(path), 0o600, "{name}");
        }
        let shown = CertificateFacts::from_pem(&desk.read(&format!("{dir}/server/cert.pem")));
        assert_eq!(shown.unwrap().server_names, ["gate.clinic.example"]);
        desk.run(&[&INIT[..], &with_service, &[dir]].concat())
            .ended_with(1);
    }
}

#[test]
fn a_ca_of_ones_own_is_named_by_its_certificate() {
    let desk = desk();
    let init = [
        &INIT[..4],
        &INIT[6..],
        &[
            "edge",
            "--name",
            "e.example",
            "--service",
            "https://10.0.0.7:7443",
        ],
        &["--device-ca", "ca/cert.pem"],
    ]
    .concat();
    let ran = desk.run(&init).ended_with(2);
    assert!(ran.err.contains("--namespace"), "{}", ran.err);
    let uri = "san.uri=urn:dev:ops:32473-{serial}";
    desk.run(&[&init[..], &["--namespace", "beta", "--source", uri]].concat())
        .ended_with(0);
    let text = desk.read("edge/http.yaml");
    assert!(text.contains("namespace: beta") && text.contains("urn:dev:ops:32473-{serial}"));
    // A certificate of an address has no name to be asked for by.
    assert!(text.contains(r#"{san_type: IP_ADDRESS, matcher: {exact: "10.0.0.7"}}"#));
    assert_eq!(text.matches("sni: ").count(), 1, "the registry's alone");
}

#[test]
fn what_an_edge_cannot_be_made_of_is_named_and_nothing_is_made() {
    let desk = desk();
    for (args, what) in [
        ("--name https://e --service https://s", "without scheme"),
        ("--name 10.0.0.1 --service https://s", "no DNS name"),
        (
            "--name e.example --service http://s",
            "--service http://s: it must begin with https://",
        ),
        (
            "--name e.example --service http://s",
            "the service must speak TLS",
        ),
        ("--name e.example --service https://s/path", "no path"),
        (
            "--name e.example --service https://s --infra-ca ca-of-none",
            "medbind serve",
        ),
        (
            "--name e.example --service https://s --device-ca none",
            "medbind ca init",
        ),
        (
            "--name e.example --service https://s --device-ca ca/key.pem --namespace acme",
            "would not be taken",
        ),
        (
            "--name e.example --service https://s --module none",
            "cargo xtask module",
        ),
        (
            "--name e.example --service https://s --module jwks.json",
            "no WebAssembly",
        ),
        (
            "--name e.example --service https://s --jwks jwks.json",
            "--accounts",
        ),
        (
            "--name e.example --service https://s --accounts https://a.example --jwks no-keys.json",
            "fetch the sign-in's key set",
        ),
        (
            "--name e.example --service https://s --accounts https://a.example --jwks half-key.json",
            "half-key.json: no key in it can verify a token (1 in `keys`)",
        ),
        (
            "--name e.example --service https://s --accounts https://a.example --jwks other-keys.json",
            "other-keys.json: this is no key set",
        ),
        (
            "--name e.example --service https://s --accounts https://a.example --jwks crl.pem",
            "crl.pem: this is no JSON",
        ),
        (
            "--name e.example --service https://s --crl jwks.json",
            "no revocation list in it",
        ),
        (
            "--name e.example --service https://localhost:8443",
            "choose another port with --listen",
        ),
        (
            "--name e.example --service https://s --admin 127.0.0.1:8080",
            "the port is that of --probes",
        ),
    ] {
        let mut words: Vec<&str> = args.split(' ').collect();
        for pair in INIT[2..].chunks(2) {
            if !words.contains(&pair[0]) {
                words.extend(pair);
            }
        }
        let ran = desk
            .run(&[&["edge", "init", "edge"], &words[..]].concat())
            .ended_with(2);
        assert!(ran.err.contains(what), "{args}: {}", ran.err);
        assert!(!desk.path("edge").exists(), "{args}");
    }
}

#[test]
fn certificates_of_the_infrastructure_are_made_and_renewed_for_whom_they_were_made() {
    let desk = desk();
    let issue = |dir: &str, more: &[&str]| {
        let args = [&["ca", "issue", dir, "--ca", "infra-ca", "--json"], more].concat();
        desk.run(&args).ended_with(0).json()
    };
    for (dir, more, whom) in [
        (
            "s",
            &["--server", "a.example", "--server", "127.0.0.1"][..],
            "server a.example, 127.0.0.1",
        ),
        ("e", &["--edge", "edge-2"], "edge:edge-2"),
        ("o", &["--operator", "ann@clinic"], "operator:ann@clinic"),
    ] {
        assert_eq!(issue(dir, more)["for"], whom);
        let file = |name: &str| desk.read(&format!("{dir}/{name}"));
        let before = ["cert.pem", "key.pem", "ca.pem"].map(file);
        assert_eq!(before[2], desk.read("infra-ca/cert.pem"));
        assert_eq!(issue(dir, &["--renew", "--validity", "90d"])["for"], whom);
        let after = ["cert.pem", "key.pem", "ca.pem"].map(file);
        assert!(before[0] != after[0] && before[1] != after[1] && before[2] == after[2]);
        assert_eq!(mode(&desk.path(dir).join("key.pem")), 0o600);
        let again = desk.run(&[&["ca", "issue", dir, "--ca", "infra-ca"], more].concat());
        assert!(again.ended_with(1).err.contains("never overwritten"));
    }
    for (args, what) in [
        ("x --ca infra-ca", "--server"),
        ("x --ca ca-of-none --edge e", "medbind serve"),
        ("x --ca infra-ca --edge a:b", "letters, digits"),
        ("x --ca infra-ca --server a:b", "neither a DNS name"),
        ("x --ca infra-ca --renew", "leave it out"),
    ] {
        let args = format!("ca issue {args}");
        let ran = desk.run(&args.split(' ').collect::<Vec<_>>()).ended_with(2);
        assert!(ran.err.contains(what), "{args}: {}", ran.err);
        assert!(!desk.path("x").exists());
    }
}

#[test]
fn nothing_outlives_its_ca_and_a_ca_is_renewed() {
    let desk = desk();
    let ca_end = || {
        desk.run(&["ca", "show", "infra-ca", "--json"])
            .ended_with(0)
            .json()["not_after"]
            .clone()
    };
    let end = ca_end();
    let issue = [
        "ca",
        "issue",
        "e",
        "--ca",
        "infra-ca",
        "--edge",
        "e",
        "--validity",
        "20y",
    ];
    let ran = desk.run(&[&issue[..], &["--json"]].concat()).ended_with(0);
    assert_eq!(
        (&ran.json()["not_after"], &ran.json()["shortened"]),
        (&end, &true.into())
    );
    assert!(
        ran.err.contains("when its CA ends") && ran.err.contains("medbind ca renew infra-ca"),
        "{}",
        ran.err
    );
    let (certificate, key) = (
        desk.read("infra-ca/cert.pem"),
        desk.read("infra-ca/key.pem"),
    );
    std::thread::sleep(std::time::Duration::from_millis(1_100));
    let renewed = desk
        .run(&["ca", "renew", "infra-ca", "--json"])
        .ended_with(0)
        .json();
    assert_ne!(renewed["not_after"], end);
    assert_eq!(renewed["not_after"], ca_end());
    assert_ne!(desk.read("infra-ca/cert.pem"), certificate);
    assert_eq!(desk.read("infra-ca/key.pem"), key);
    // What is renewed now brings the CA's new certificate along.
    assert_eq!(desk.read("e/ca.pem"), certificate);
    desk.run(&["ca", "issue", "e", "--ca", "infra-ca", "--renew"])
        .ended_with(0);
    assert_eq!(desk.read("e/ca.pem"), desk.read("infra-ca/cert.pem"));

    // A device CA has its own way, and so has one that another CA signed.
    desk.run(&["ca", "init", "devices", "--namespace", "acme"])
        .ended_with(0);
    let of_devices = ["cert.pem", "key.pem"].map(|name| desk.read(&format!("devices/{name}")));
    desk.run(&[
        "ca",
        "init",
        "chain",
        "--namespace",
        "acme",
        "--intermediate",
    ])
    .ended_with(0);
    std::fs::remove_file(desk.path("chain/ca.json")).unwrap();
    // And one that lives for longer is not cut short.
    let ahead = jiff::Timestamp::now().as_second() + 1800;
    let ahead = medbind_core::time::Timestamp::from_unix_seconds(ahead);
    let infrastructure = CertificateAuthority::load(&desk.path("infra-ca")).unwrap();
    let long = infrastructure.renewed(ahead).unwrap();
    std::fs::create_dir(desk.path("long")).unwrap();
    desk.write("long/cert.pem", long.certificate_pem());
    desk.write("long/key.pem", &key);
    let of_long = desk.read("long/cert.pem");

    for (dir, what) in [
        ("devices", "rolled over"),
        ("chain", "whoever made it"),
        ("none", "medbind serve"),
        ("long", "it is kept"),
    ] {
        let ran = desk.run(&["ca", "renew", dir]).ended_with(2);
        assert!(ran.err.contains(what), "{}", ran.err);
    }
    assert_eq!(desk.read("long/cert.pem"), of_long);
    assert_eq!(
        ["cert.pem", "key.pem"].map(|name| desk.read(&format!("devices/{name}"))),
        of_devices
    );
}

#[test]
fn for_whom_certificates_are_and_when_they_end_is_shown() {
    let desk = desk();
    for (dir, more) in [
        ("s", ["--server", "a.example"]),
        ("o", ["--operator", "ann"]),
    ] {
        let args = ["ca", "issue", dir, "--ca", "infra-ca", "--validity", "241h"];
        desk.run(&[&args[..], &more].concat()).ended_with(0);
    }
    let show = ["ca", "show", "infra-ca", "s/cert.pem", "o"];
    let ran = desk.run(&show).ended_with(0);
    for word in [
        "CN=infrastructure",
        "server a.example",
        "operator:ann",
        "in 10 days",
    ] {
        assert!(ran.out.contains(word), "{word}: {}", ran.out);
    }
    let within = |span| [&show[..], &["--json", "--ends-within", span]].concat();
    assert_eq!(desk.run(&within("9d")).ended_with(0).out.lines().count(), 3);
    desk.run(&within("11d")).ended_with(1);
    desk.run(&within("soon")).ended_with(2);
    desk.write("empty/cert.pem", "nothing");
    for path in ["empty", "nowhere"] {
        assert!(
            desk.run(&["ca", "show", path])
                .ended_with(2)
                .err
                .contains(path)
        );
    }
}

/// An infrastructure CA that ends in so many hours; none yet to come: it has ended.
fn ending_ca(desk: &Desk, name: &str, hours: i64) {
    let begun = jiff::Timestamp::now().as_second() + (hours - 3650 * 24) * 3600;
    let begun = medbind_core::time::Timestamp::from_unix_seconds(begun);
    let ca = CertificateAuthority::generate("infrastructure", begun).unwrap();
    ca.save(&desk.path(name)).unwrap();
}

#[test]
fn an_edge_gets_nothing_that_outlives_the_ca_and_nothing_of_one_that_has_ended() {
    let desk = desk();
    ending_ca(&desk, "ending", 100);
    ending_ca(&desk, "ended", -1);
    let more = ["--name", "e.example", "--service", "https://s.example"];
    let of = |ca, dir| [&INIT[..2], &["--infra-ca", ca], &INIT[4..], &more, &[dir]].concat();
    let ran = desk.run(&of("ending", "edge")).ended_with(0);
    assert!(ran.err.contains("medbind ca renew ending"), "{}", ran.err);
    let ends = |file: &str| {
        CertificateFacts::from_pem(&desk.read(file))
            .unwrap()
            .not_after
    };
    for name in ["server", "edge"] {
        assert_eq!(
            ends(&format!("edge/{name}/cert.pem")),
            ends("ending/cert.pem")
        );
    }
    let ran = desk.run(&of("ended", "other")).ended_with(2);
    assert!(ran.err.contains("medbind ca renew"), "{}", ran.err);
    assert!(!desk.path("other").exists());
    desk.run(&["ca", "renew", "ended"]).ended_with(0);
    desk.run(&of("ended", "other")).ended_with(0);
}

#[test]
fn a_ca_that_is_not_valid_yet_is_shown_and_said_until_it_is_renewed() {
    let desk = desk();
    ending_ca(&desk, "ahead", 3650 * 24 + 48);
    let show = ["ca", "show", "ahead"];
    let within = [&show[..], &["--ends-within", "1h"]].concat();
    let ran = desk.run(&show).ended_with(0);
    assert!(ran.out.contains("not valid before"), "{}", ran.out);
    desk.run(&within).ended_with(1);
    let issue = |dir| ["ca", "issue", dir, "--ca", "ahead", "--operator", "ann"];
    let ran = desk.run(&issue("ann")).ended_with(0);
    assert!(ran.err.contains("medbind ca renew ahead"), "{}", ran.err);
    let more = ["--name", "e.example", "--service", "https://s.example"];
    let init = [
        &INIT[..2],
        &["--infra-ca", "ahead"],
        &INIT[4..],
        &more,
        &["e"],
    ]
    .concat();
    let ran = desk.run(&init).ended_with(0);
    assert!(ran.err.contains("medbind ca renew ahead"), "{}", ran.err);
    desk.run(&["ca", "renew", "ahead"]).ended_with(0);
    desk.run(&within).ended_with(0);
    let ran = desk.run(&issue("bob")).ended_with(0);
    assert!(!ran.err.contains("not valid before"), "{}", ran.err);
}

#[test]
fn neither_ca_is_taken_for_the_other() {
    let desk = desk();
    let root = [
        "ca",
        "init",
        "chained",
        "--namespace",
        "acme",
        "--intermediate",
    ];
    desk.run(&root).ended_with(0);
    let issue = ["ca", "issue", "ann", "--ca"];
    desk.run(&[&issue[..], &["infra-ca", "--operator", "ann"]].concat())
        .ended_with(0);
    let files = ["ann/key.pem", "ann/cert.pem", "ann/ca.pem"];
    let before = files.map(|file| desk.read(file));
    let more = ["--name", "e.example", "--service", "https://s.example"];
    for ca in ["ca", "chained", "chained/root"] {
        let renewing = [&issue[..], &[ca, "--renew"]].concat();
        let init = [&INIT[..2], &["--infra-ca", ca], &INIT[4..], &more, &["e"]].concat();
        for args in [renewing, init, vec!["ca", "renew", ca]] {
            let ran = desk.run(&args).ended_with(2);
            let told = format!("{ca} is a device CA");
            assert!(ran.err.contains(&told), "{args:?}: {}", ran.err);
        }
    }
    assert_eq!(files.map(|file| desk.read(file)), before);

    let swapped = |ca, own: &[&str]| {
        let both = ["--infra-ca", "infra-ca", "--device-ca", ca];
        desk.run(&[&INIT[..2], &both, &INIT[6..], &more, own, &["e"]].concat())
    };
    let as_file = swapped("infra-ca/cert.pem", &["--namespace", "acme"]).ended_with(2);
    assert!(as_file.err.contains("are one CA"), "{}", as_file.err);
    let as_directory = swapped("infra-ca", &[]).ended_with(2);
    assert!(
        as_directory.err.contains("medbind ca init"),
        "{}",
        as_directory.err
    );
    assert!(!desk.path("e").exists());
    swapped("chained", &[]).ended_with(0);
}

#[test]
fn a_ca_of_two_certificates_is_refused_and_says_so() {
    let desk = desk();
    ending_ca(&desk, "other", 100);
    let both = desk.read("infra-ca/cert.pem") + &desk.read("other/cert.pem");
    desk.write("infra-ca/cert.pem", both);
    let issue = ["ca", "issue", "ann", "--ca", "infra-ca", "--operator", "a"];
    for args in [&issue[..], &["ca", "renew", "infra-ca"]] {
        let ran = desk.run(args).ended_with(2);
        let told = "infra-ca: the certificate does not parse: the file holds 2 of them";
        assert!(ran.err.contains(told), "{}", ran.err);
    }
}

/// A certificate of this key, for this name, for these days.
fn certificate(key_pem: &str, name: &str, from: i64, until: i64) -> String {
    let day = |days| time::OffsetDateTime::now_utc() + time::Duration::days(days);
    let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
    (params.not_before, params.not_after) = (day(from), day(until));
    let key = KeyPair::from_pem(key_pem).unwrap();
    params.self_signed(&key).unwrap().pem()
}

#[test]
#[expect(clippy::too_many_lines, reason = "one table")]
fn what_an_edge_shows_is_looked_at_before_it_is_started() {
    let desk = desk();
    let name = "gate.clinic.example";
    let with_service = ["--name", name, "--service", "https://s.example", "e"];
    let people = ["--accounts", "https://a.example", "--jwks", "jwks.json"];
    desk.run(&[&INIT[..], &with_service, &people].concat())
        .ended_with(0);
    let foreign = KeyPair::generate().unwrap().serialize_pem();
    let garbage = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    let no_key = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n";
    let edge_key = desk.read("e/edge/key.pem");
    let server_key = desk.read("e/server/key.pem");
    let server = |name, from, until| certificate(&server_key, name, from, until);
    let edge = |from, until| certificate(&edge_key, "edge", from, until);
    let (refused, soon) = ("refuses this Envoy", "from then on");
    for (file, instead, severity, told) in [
        ("server/key.pem", None, "error", "cannot read"),
        (
            "server/key.pem",
            Some(no_key.to_owned()),
            "error",
            "no private key in it",
        ),
        (
            "server/key.pem",
            Some("nothing".to_owned()),
            "error",
            "no private key in it",
        ),
        ("server/cert.pem", None, "error", "cannot read"),
        (
            "server/cert.pem",
            Some(garbage.to_owned()),
            "error",
            "cannot be read",
        ),
        (
            "server/cert.pem",
            Some(server(name, -90, -1)),
            "error",
            "has ended",
        ),
        (
            "server/cert.pem",
            Some(server(name, 1, 90)),
            "error",
            "is not valid before",
        ),
        (
            "server/cert.pem",
            Some(server(name, -800, 29)),
            "warning",
            soon,
        ),
        (
            "server/cert.pem",
            Some(server("other.example", -1, 90)),
            "warning",
            name,
        ),
        ("edge/key.pem", None, "error", "cannot read"),
        ("edge/key.pem", Some(foreign), "error", "not the key of"),
        ("edge/cert.pem", Some(edge(-90, -1)), "error", refused),
        ("edge/cert.pem", Some(edge(-800, 29)), "warning", refused),
        ("jwks.json", None, "error", "cannot read"),
        (
            "jwks.json",
            Some(r#"{"keys":[]}"#.to_owned()),
            "error",
            "no key in it can verify a token",
        ),
        ("edge/ca.pem", None, "error", "cannot read"),
        (
            "edge/ca.pem",
            Some("nothing".to_owned()),
            "error",
            "no certificate",
        ),
        (
            "edge/ca.pem",
            Some(edge(-90, -1)),
            "error",
            "whom it has signed",
        ),
    ] {
        let file = format!("e/{file}");
        let before = desk.read(&file);
        match &instead {
            Some(text) => desk.write(&file, text),
            None => std::fs::remove_file(desk.path(&file)).unwrap(),
        }
        let ran = desk.run(&["check", "e/http.yaml", "--json"]);
        let ran = ran.ended_with(if severity == "error" { 2 } else { 0 });
        let found = ran.json()["findings"].clone();
        let found = found.as_array().unwrap();
        // The edge's are named by three clusters.
        assert_eq!(found.len(), 1, "{file}, {told}: {found:?}");
        let what = found[0]["what"].as_str().unwrap();
        assert_eq!(found[0]["severity"], severity, "{file}: {what}");
        assert!(what.contains(told), "{file}, {told}: {what}");
        assert!(found[0]["line"].as_u64().unwrap() > 0);
        desk.write(&file, before);
    }
    let wildcard = [server("*.clinic.example", -1, 90), server(name, -1, 90)];
    for good in wildcard {
        desk.write("e/server/cert.pem", good);
        desk.run(&["check", "e/http.yaml", "--strict"])
            .ended_with(0);
    }
    desk.write("e/server/cert.pem", server("*.gate.clinic.example", -1, 90));
    desk.run(&["check", "e/http.yaml", "--strict"])
        .ended_with(2);
}
