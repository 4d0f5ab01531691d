//! A device CA and its devices, read again as the guard reads them.

mod common;

use common::{Desk, Ran, guard_yaml, mode};
use medbind_core::certificate::PeerCertificate;
use medbind_core::claim::{ClaimCode, ClaimSecret, ClaimSecretHash};

fn explained(desk: &Desk, certificate: &str) -> Ran {
    desk.write("guard.yaml", guard_yaml(&desk.read("ca/issuer.yaml")));
    desk.write("bindings.ndjson", "");
    let args = [
        "explain",
        "--guard",
        "guard.yaml",
        "--bindings",
        "bindings.ndjson",
        "--json",
    ];
    desk.run(&[&args[..], &["--certificate", certificate]].concat())
}

#[test]
fn every_source_makes_a_certificate_that_the_guard_reads_as_the_same_device() {
    for source in [
        &["subject.serial_number"][..],
        &["subject.common_name"],
        &["san.permanent_identifier"],
        &["san.uri=urn:dev:ops:32473-{serial}"],
        &["san.dns={serial}.devices.example"],
        &["san.hardware_module_name"],
        &[
            "subject.serial_number",
            "san.hardware_module_name",
            "san.uri=spiffe://acme/device/{serial}",
        ],
    ] {
        let mut args = Vec::new();
        for one in source {
            args.extend(["--source", one]);
            if *one == "san.hardware_module_name" {
                args.extend(["--hw-type", "1.3.6.1.4.1.32473.1"]);
            }
        }
        let desk = Desk::with_ca(&args);
        desk.provision("SN1", &[]);
        let told = explained(&desk, "devices/SN1/cert.pem")
            .ended_with(1)
            .json();
        assert_eq!(told["code"], "unknown_device", "{source:?}");
        assert_eq!(told["device"], "acme:SN1", "{source:?}");
    }
}

#[test]
fn a_device_gets_its_files_and_the_registry_only_the_hash_of_its_secret() {
    let desk = Desk::with_ca(&[]);
    assert_eq!(
        (mode(&desk.path("ca")), mode(&desk.path("ca/key.pem"))),
        (0o700, 0o600)
    );
    let args = [
        "provision",
        "--ca",
        "ca",
        "--serial",
        "A-1",
        "--class",
        "cgm",
        "--json",
    ];
    let args = [&args[..], &["--portal", "https://portal.example"]].concat();
    let made = desk.run(&args).ended_with(0).json();
    assert_eq!(made["device"], "acme:A-1");
    let code: ClaimCode = made["code"].as_str().unwrap().parse().unwrap();
    let secret: ClaimSecret = made["secret"].as_str().unwrap().parse().unwrap();
    assert!(code.is_plain());
    assert_eq!(
        made["link"],
        format!(
            "https://portal.example/claim#code={code}&secret={}",
            secret.reveal()
        )
    );

    let line: serde_json::Value =
        serde_json::from_str(&desk.read("devices/A-1/device.json")).unwrap();
    let hash: ClaimSecretHash = line["secret_hash"].as_str().unwrap().parse().unwrap();
    assert_eq!(hash, secret.hash());
    assert_eq!(line["class"], "cgm");
    assert_eq!(line["code"], code.to_string());
    assert!(!line.to_string().contains(&secret.reveal().to_string()));
    assert_eq!(
        desk.read("devices/enrol.ndjson"),
        desk.read("devices/A-1/device.json")
    );
    for name in [
        "key.pem",
        "cert.pem",
        "chain.pem",
        "label.svg",
        "label.png",
        "device.json",
    ] {
        assert_eq!(mode(&desk.path("devices/A-1").join(name)), 0o600, "{name}");
    }
    let svg = desk.read("devices/A-1/label.svg");
    assert!(
        svg.contains(&code.to_string()) && svg.contains("SN A-1"),
        "{svg}"
    );

    // A serial is no path.
    desk.provision("../b", &[]);
    assert!(desk.path("devices/..=2Fb/key.pem").exists());

    let again = desk.run(&args).ended_with(1);
    assert!(again.err.contains("never overwritten"), "{}", again.err);
}

#[test]
fn a_batch_counts_the_serials_up_and_can_keep_the_secrets_off_the_labels() {
    let desk = Desk::with_ca(&[]);
    let batch = [
        "provision",
        "--class",
        "cgm",
        "--ca",
        "ca",
        "--from",
        "SN0098",
        "--count",
        "4",
    ];
    let hidden = [&batch[..], &["--secret-on-label", "no"]].concat();
    let refused = desk.run(&hidden).ended_with(2);
    assert!(refused.err.contains("--secrets"), "{}", refused.err);
    assert!(!desk.path("devices").exists());

    desk.run(&[&hidden[..], &["--secrets", "secrets.csv"]].concat())
        .ended_with(0);
    let lines = desk.read("devices/enrol.ndjson");
    let serials: Vec<String> = lines
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["device"].to_string())
        .collect();
    assert_eq!(
        serials.join(" "),
        r#""acme:SN0098" "acme:SN0099" "acme:SN0100" "acme:SN0101""#
    );
    let secrets = desk.read("secrets.csv");
    assert_eq!(mode(&desk.path("secrets.csv")), 0o600);
    assert_eq!(secrets.lines().next(), Some("device,code,secret"));
    for row in secrets.lines().skip(1) {
        let [device, code, secret] = row.split(',').collect::<Vec<_>>()[..] else {
            panic!("{row}");
        };
        let serial = device.strip_prefix("acme:").unwrap();
        let label = desk.read(&format!("devices/{serial}/label.svg"));
        assert!(label.contains(code));
        assert!(
            !secret.split('-').any(|group| label.contains(group)),
            "{row}"
        );
    }
    for (from, count, what) in [
        ("SN98", "3", "more digits"),
        ("SN", "1", "does not end in a number"),
    ] {
        let args = [
            "provision",
            "--class",
            "cgm",
            "--ca",
            "ca",
            "--from",
            from,
            "--count",
            count,
        ];
        assert!(desk.run(&args).ended_with(2).err.contains(what), "{from}");
    }
}

#[test]
fn a_renewed_certificate_has_another_key_and_stands_for_the_same_device() {
    let desk = Desk::with_ca(&["--intermediate"]);
    desk.provision("SN1", &[]);
    let read = || PeerCertificate::parse(desk.read("devices/SN1/cert.pem").as_bytes()).unwrap();
    let first = read();
    let renew = ["provision", "--ca", "ca", "--serial", "SN1", "--renew"];
    desk.run(&renew).ended_with(0);
    let second = read();
    assert_ne!(first.pin(), second.pin());
    assert_ne!(first.serial_number(), second.serial_number());
    assert_eq!(first.subject_der(), second.subject_der());
    assert_eq!(
        desk.read("devices/SN1/chain.pem").matches("BEGIN").count(),
        2
    );
    assert_eq!(desk.read("devices/enrol.ndjson").lines().count(), 1);
    let told = explained(&desk, "devices/SN1/cert.pem")
        .ended_with(1)
        .json();
    assert_eq!(told["device"], "acme:SN1");
}

#[test]
fn a_request_is_signed_for_its_key_alone() {
    let desk = Desk::with_ca(&[]);
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::new(["somebody.else".to_owned()]).unwrap();
    params
        .distinguished_name
        .push(rcgen::DnType::CommonName, "somebody else");
    let request = params.serialize_request(&key).unwrap().pem().unwrap();
    desk.write("csr.pem", &request);
    let made = desk.provision("SN1", &["--csr", "csr.pem"]);
    assert!(made["key"].is_null() && !desk.path("devices/SN1/key.pem").exists());
    let certificate = PeerCertificate::parse(desk.read("devices/SN1/cert.pem").as_bytes()).unwrap();
    assert!(!certificate.subject_text().contains("somebody"));
    assert!(certificate.dns_names().is_empty());
    let told = explained(&desk, "devices/SN1/cert.pem")
        .ended_with(1)
        .json();
    assert_eq!(told["device"], "acme:SN1");

    // One bit of the signature turned: the device has not proven that it has the key.
    let lines: Vec<&str> = request.lines().collect();
    let body = lines[lines.len() - 2];
    let turned = body.replace(
        &body[..4],
        if &body[..4] == "AAAA" { "BBBB" } else { "AAAA" },
    );
    desk.write("forged.pem", request.replace(body, &turned));
    let forged = [
        "provision",
        "--class",
        "cgm",
        "--ca",
        "ca",
        "--serial",
        "SN2",
        "--csr",
        "forged.pem",
    ];
    desk.run(&forged).ended_with(2);
    assert!(!desk.path("devices/SN2").exists());
}

#[test]
fn wrong_calls_are_refused_and_make_nothing() {
    let desk = Desk::with_ca(&[]);
    for (args, what) in [
        ("provision --class cgm --ca nothing --serial SN1", "ca init"),
        ("provision --class cgm --ca ca", "--serial"),
        ("provision --ca ca --serial SN1", "--class"),
        ("provision --class cgm --ca ca --serial ", "empty"),
        (
            "provision --class cgm --ca ca --serial SN1 --validity soon",
            "10y",
        ),
        (
            "provision --class cgm --ca ca --serial SN1 --validity never",
            "outlive",
        ),
        (
            "provision --class cgm --ca ca --serial SN1 --portal portal",
            "https://",
        ),
        (
            "provision --class cgm --ca ca --serial SN_1",
            "subject.serial_number",
        ),
        (
            "provision --class cgm --ca ca --serial a.b --source san.dns={serial}.x",
            "refuse",
        ),
        (
            "provision --class cgm --ca ca --serial SN1 --csr ca/cert.pem",
            "no request",
        ),
        ("ca init other --namespace Acme", "namespace"),
    ] {
        let ran = desk.run(&args.split(' ').collect::<Vec<_>>()).ended_with(2);
        assert!(ran.err.contains(what), "{args}: {}", ran.err);
    }
    let ran = desk
        .run(&["ca", "init", "ca", "--namespace", "acme"])
        .ended_with(1);
    assert!(ran.err.contains("never overwritten"));
    assert!(!desk.path("devices/SN1").exists());
}

#[test]
fn what_has_no_well_defined_end_says_so() {
    let desk = Desk::with_ca(&["--validity", "never"]);
    let args = [
        "provision",
        "--class",
        "cgm",
        "--ca",
        "ca",
        "--serial",
        "SN1",
        "--validity",
        "never",
        "--json",
    ];
    let made = desk.run(&args).ended_with(0).json();
    assert!(made["not_after"].is_null());
    let told = explained(&desk, "devices/SN1/cert.pem")
        .ended_with(1)
        .json();
    assert_eq!(told["code"], "unknown_device");
}
