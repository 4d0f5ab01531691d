//! Is who signs devices there, and can it be read, before an Envoy starts with it?

mod common;

use std::path::Path;

use common::Desk;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DistinguishedName,
    DnType, IsCa, Issuer, KeyIdMethod, KeyPair, SerialNumber,
};
use serde_json::Value;
use time::{Duration, OffsetDateTime};

const DAY: Duration = Duration::days(1);

fn now() -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp(jiff::Timestamp::now().as_second()).unwrap()
}

/// A list of the CA in `ca` that names nobody.
fn list(desk: &Desk, ca: &str, from: OffsetDateTime, until: OffsetDateTime) -> String {
    let key = KeyPair::from_pem(&desk.read(&format!("{ca}/key.pem"))).unwrap();
    let issuer = Issuer::from_ca_cert_pem(&desk.read(&format!("{ca}/cert.pem")), key).unwrap();
    let list = CertificateRevocationListParams {
        this_update: from,
        next_update: until,
        crl_number: SerialNumber::from(1_u64),
        issuing_distribution_point: None,
        revoked_certs: Vec::new(),
        key_identifier_method: KeyIdMethod::Sha256,
    };
    list.signed_by(&issuer).unwrap().pem().unwrap()
}

/// `http.yaml`, as far as this is about it, and the files that it leads to.
fn desk() -> Desk {
    let desk = Desk::with_ca(&[]);
    let namesake = Desk::with_ca(&[]);
    std::fs::create_dir(desk.path("edge")).unwrap();
    std::fs::create_dir(desk.path("namesake")).unwrap();
    for file in ["cert.pem", "key.pem"] {
        desk.write(
            &format!("namesake/{file}"),
            namesake.read(&format!("ca/{file}")),
        );
    }
    let edge = desk.path("edge");
    let edge = edge.display();
    let tls = format!(
        "combined_validation_context:
              validation_context_sds_secret_config:
                name: device-ca
                sds_config:
                  path_config_source:
                    path: {edge}/device-ca.yaml
                    watched_directory: {{path: {edge}}}
"
    );
    let guard = common::guard_yaml(&desk.read("ca/issuer.yaml"));
    desk.write(
        "http.yaml",
        format!(
            "listeners:
  - vm_config: {{vm_id: medbind}}
    failure_policy: FAIL_RELOAD
    configuration:
{guard}    transport_socket:
      typed_config:
          common_tls_context:
            {tls}",
            guard = common::indented(&guard, 6)
        ),
    );
    desk.write(
        "edge/device-ca.yaml",
        format!(
            "resources:
  - name: device-ca
    validation_context:
      trusted_ca: {{filename: {edge}/device-ca.pem}}
      crl: {{filename: {edge}/device-ca.crl.pem}}
      only_verify_leaf_cert_crl: true
"
        ),
    );
    desk.write("edge/device-ca.pem", desk.read("ca/cert.pem"));
    let good = list(&desk, "ca", now() - DAY, now() + DAY * 30);
    desk.write("edge/device-ca.crl.pem", good);
    desk
}

fn findings(desk: &Desk) -> Vec<(String, String)> {
    let told = desk.run(&["check", "http.yaml", "--json"]).json();
    let text = |finding: &Value, name: &str| finding[name].as_str().unwrap().to_owned();
    told["findings"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| {
            assert!(text(one, "field").contains("path_config_source"), "{one}");
            assert!(!text(one, "mend").is_empty());
            (text(one, "severity"), text(one, "what"))
        })
        .collect()
}

#[test]
fn what_envoy_could_not_read_as_it_starts_is_an_error() {
    let desk = desk();
    assert_eq!(findings(&desk), []);
    desk.run(&["check", "http.yaml", "--strict"]).ended_with(0);
    let trust = desk.read("edge/device-ca.yaml");
    let garbage = "-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n";
    let half = "-----BEGIN CERTIFICATE-----\nAAAA\n";
    let ended = list(&desk, "ca", now() - DAY * 3, now() - DAY);
    let early = list(&desk, "ca", now() + DAY, now() + DAY * 3);
    let forged = list(&desk, "namesake", now() - DAY, now() + DAY);
    let unnamed = trust.replace("name: device-ca", "name: other");
    let nobody = trust.replace("trusted_ca", "trusted");
    for (file, instead, told) in [
        ("device-ca.yaml", None, "cannot read"),
        ("device-ca.yaml", Some("a: [\n"), "neither YAML nor JSON"),
        ("device-ca.yaml", Some(unnamed.as_str()), "\"device-ca\""),
        ("device-ca.yaml", Some(&nobody), "nobody is trusted"),
        ("device-ca.pem", None, "cannot read"),
        ("device-ca.pem", Some("nothing\n"), "no certificate in it"),
        ("device-ca.pem", Some(half), "cannot be read"),
        ("device-ca.crl.pem", None, "cannot read"),
        ("device-ca.crl.pem", Some("nothing\n"), "no revocation list"),
        ("device-ca.crl.pem", Some(garbage), "cannot be read"),
        ("device-ca.crl.pem", Some(&ended), "has ended"),
        ("device-ca.crl.pem", Some(&early), "not valid yet"),
        ("device-ca.crl.pem", Some(&forged), "not signed by its key"),
    ] {
        let file = format!("edge/{file}");
        let before = desk.read(&file);
        match instead {
            Some(text) => desk.write(&file, text),
            None => std::fs::remove_file(desk.path(&file)).unwrap(),
        }
        let found = findings(&desk);
        assert_eq!(found.len(), 1, "{file}, {told}: {found:?}");
        let (severity, what) = &found[0];
        assert_eq!(severity, "error", "{file}: {what}");
        assert!(what.contains(told) && what.contains(&file), "{what}");
        desk.run(&["check", "http.yaml"]).ended_with(2);
        desk.write(&file, before);
    }
    assert_eq!(findings(&desk), []);
}

#[test]
fn what_will_be_an_outage_is_warned_of() {
    let desk = desk();
    let good = desk.read("edge/device-ca.crl.pem");
    let soon = list(&desk, "ca", now() - DAY * 20, now() + DAY);
    desk.write("edge/device-ca.crl.pem", soon);
    let check = |expected: &[&str]| {
        let found = findings(&desk);
        assert_eq!(found.len(), expected.len(), "{found:?}");
        for ((severity, what), told) in found.iter().zip(expected) {
            assert_eq!(severity, "warning", "{what}");
            assert!(what.contains(told), "{what}");
        }
    };
    check(&["ends 2"]);

    // Another CA and its list; then its list alone.
    let other = Desk::new();
    other
        .run(&["ca", "init", "ca", "--namespace", "other"])
        .ended_with(0);
    let both = desk.read("ca/cert.pem") + &other.read("ca/cert.pem");
    desk.write("edge/device-ca.pem", both);
    let others = list(&other, "ca", now() - DAY, now() + DAY * 30);
    desk.write("edge/device-ca.crl.pem", good.clone() + &others);
    check(&[]);
    desk.write("edge/device-ca.pem", desk.read("ca/cert.pem"));
    check(&["no CA that is trusted"]);

    let yaml = desk.read("http.yaml");
    let unwatched: Vec<&str> = yaml
        .lines()
        .filter(|line| !line.contains("watched_directory"))
        .collect();
    desk.write("edge/device-ca.crl.pem", good);
    desk.write("http.yaml", unwatched.join("\n"));
    check(&["not read again"]);
}

/// The CA in `ca` with the same name and key, valid for other days.
fn anew(desk: &Desk, from: OffsetDateTime, until: OffsetDateTime) -> String {
    let key = KeyPair::from_pem(&desk.read("ca/key.pem")).unwrap();
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    let name = "acme device CA";
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    (params.not_before, params.not_after) = (from, until);
    params.self_signed(&key).unwrap().pem()
}

#[test]
fn a_ca_that_lets_no_device_in_is_an_error_and_one_that_soon_will_not_is_warned_of() {
    let desk = desk();
    let other = Desk::new();
    other
        .run(&["ca", "init", "ca", "--namespace", "other"])
        .ended_with(0);
    let own = desk.read("ca/cert.pem");
    let key = desk.read("ca/key.pem");
    let device = desk.provision("SN-1", &[])["certificate"].clone();
    let device = desk.read(device.as_str().unwrap());
    let strange = other.read("ca/cert.pem");
    let renewed = |from, until| anew(&desk, now() + DAY * from, now() + DAY * until);
    let trust = desk.read("edge/device-ca.yaml");
    let unlisted: Vec<&str> = trust.lines().filter(|line| !line.contains("crl")).collect();
    desk.write("edge/device-ca.yaml", unlisted.join("\n"));
    for (pem, expected) in [
        (own.clone(), &[][..]),
        (renewed(-3650, -300), &[("error", "has ended")]),
        (renewed(1, 300), &[("error", "is not valid before")]),
        (renewed(-60, 31), &[]),
        (
            renewed(-60, 29),
            &[("warning", "from then on all of its devices are refused")],
        ),
        (renewed(-3650, 181), &[]),
        (renewed(-3650, 179), &[("warning", "ends 2")]),
        (own.clone() + &device, &[("error", "is no CA's")]),
        (device, &[("error", "is no CA's")]),
        (
            strange.clone(),
            &[("error", "is one of the guard's issuers")],
        ),
        (strange + &own, &[]),
        (own + &key, &[("warning", "private key")]),
    ] {
        desk.write("edge/device-ca.pem", &pem);
        let found = findings(&desk);
        assert_eq!(found.len(), expected.len(), "{found:?}");
        for ((severity, what), (wanted, told)) in found.iter().zip(expected) {
            assert_eq!(severity, wanted, "{what}");
            assert!(what.contains(told), "{what}");
            assert!(what.contains("edge/device-ca.pem"), "{what}");
        }
    }
}

#[test]
fn a_ca_above_or_below_the_guards_issuer_is_as_good_and_one_that_is_out_of_sight_is_warned_of() {
    let desk = desk();
    let chained = Desk::with_ca(&["--intermediate"]);
    let (low, high) = (
        chained.read("ca/cert.pem"),
        chained.read("ca/root/cert.pem"),
    );
    let own = desk.read("ca/cert.pem");
    let yaml = desk.read("http.yaml");
    let trust = desk.read("edge/device-ca.yaml");
    let unlisted: Vec<&str> = trust.lines().filter(|line| !line.contains("crl")).collect();
    desk.write("edge/device-ca.yaml", unlisted.join("\n"));
    for (issuer, ca, expected) in [
        (&low, &high, None),
        (&high, &low, None),
        (&low, &own, Some("cannot be seen here")),
        (&own, &low, Some("cannot be seen here")),
        (&high, &own, Some("no device gets in")),
    ] {
        // The issuer's PEM stands in the guard's configuration, indented.
        let pem = |pem: &str| pem.lines().map(str::to_owned).collect::<Vec<_>>();
        let (from, to) = (pem(&own), pem(issuer));
        let at = yaml.find(&from[1]).unwrap();
        let start = yaml[..at].rfind("-----BEGIN").unwrap();
        let end = at + yaml[at..].find("-----END CERTIFICATE-----").unwrap();
        let line = yaml[..start].rfind('\n').unwrap() + 1;
        let between = format!("\n{}", " ".repeat(start - line));
        let text = to[..to.len() - 1].join(&between) + &between;
        desk.write(
            "http.yaml",
            format!("{}{text}{}", &yaml[..start], &yaml[end..]),
        );
        desk.write("edge/device-ca.pem", ca);
        let found = findings(&desk);
        let told: Vec<&str> = found.iter().map(|(_, what)| what.as_str()).collect();
        assert_eq!(found.len(), usize::from(expected.is_some()), "{told:?}");
        assert!(
            expected.is_none_or(|wanted| told[0].contains(wanted)),
            "{told:?}"
        );
    }
}

#[test]
fn a_ca_without_a_list_where_lists_are_read_is_an_error() {
    let desk = desk();
    let other = Desk::new();
    other
        .run(&["ca", "init", "ca", "--namespace", "other"])
        .ended_with(0);
    let both = desk.read("ca/cert.pem") + &other.read("ca/cert.pem");
    desk.write("edge/device-ca.pem", both);
    let found = findings(&desk);
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(found[0].0, "error");
    assert!(found[0].1.contains("no list of CN=other"), "{found:?}");
}

#[test]
fn a_path_that_does_not_begin_at_the_root_is_followed_from_here_and_pointed_out() {
    let desk = desk();
    let yaml = desk.read("http.yaml");
    let edge = desk.path("edge");
    for folder in ["edge", "elsewhere"] {
        let path = format!("path: {}/device-ca.yaml", edge.display());
        assert!(yaml.contains(&path));
        desk.write(
            "http.yaml",
            yaml.replace(&path, &format!("path: {folder}/device-ca.yaml")),
        );
        let found = findings(&desk);
        assert_eq!(found.len(), 1, "{folder}: {found:?}");
        assert_eq!(found[0].0, "warning");
        assert!(found[0].1.contains("Envoy is started in"), "{found:?}");
        let missed = found[0].1.contains("it is not in this");
        assert_eq!(missed, folder == "elsewhere", "{found:?}");
    }
    desk.write("device-ca.yaml", "a: [\n");
    let path = format!("path: {}/device-ca.yaml", edge.display());
    desk.write("http.yaml", yaml.replace(&path, "path: device-ca.yaml"));
    let found = findings(&desk);
    assert!(
        found.iter().any(|(severity, what)| {
            severity == "error" && what.contains("neither YAML nor JSON")
        }),
        "{found:?}"
    );
}

#[test]
fn a_configuration_for_another_machine_is_no_mistake() {
    let desk = desk();
    let here = desk.path("edge");
    let yaml = desk.read("http.yaml");
    let there = yaml.replace(here.to_str().unwrap(), "/etc/there-is-no-such-folder");
    assert!(!Path::new("/etc/there-is-no-such-folder").exists());
    desk.write("http.yaml", there);
    assert_eq!(findings(&desk), []);
}
