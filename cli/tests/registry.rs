//! The operator's day: a registry over TLS, and every command that speaks to it.

mod common;

use common::{Desk, guard_yaml, unread};
use medbind_registry::{Config, Running};
use serde_json::{Value, json};
use tokio::runtime::Runtime;

struct Day {
    desk: Desk,
    runtime: Runtime,
    registry: Option<Running>,
}

impl Day {
    fn new() -> Self {
        let mut desk = Desk::new();
        // As the command does, for the registry in this process.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let runtime = Runtime::new().unwrap();
        let mut config = Config::new(desk.path("data"));
        config.listen = "127.0.0.1:0".parse().unwrap();
        let registry = runtime.block_on(medbind_registry::start(config)).unwrap();
        let port = registry.local_addr().port();
        desk.set("MEDBIND_REGISTRY", &format!("https://localhost:{port}"));
        desk.set("MEDBIND_CREDENTIALS", "data/operator");
        desk.make_ca(&[]);
        Self {
            desk,
            runtime,
            registry: Some(registry),
        }
    }

    /// Provisions and enrols a device; answers code and secret.
    fn device(&self, serial: &str) -> (String, String) {
        let made = self.desk.provision(serial, &[]);
        let text = |name: &str| made[name].as_str().unwrap().to_owned();
        let ran = self.desk.run(&["enrol", &text("enrol")]).ended_with(0);
        assert_eq!(ran.out, "1 enrolled, 0 rejected\n");
        (text("code"), text("secret"))
    }

    fn claim(&self, code: &str, secret: &str) -> Value {
        let args = ["claim", "--account", "acc-1", "--code", code, "--json"];
        self.desk
            .run_with(&args, &format!("{secret}\n"))
            .ended_with(0)
            .json()
    }

    fn stop(&mut self) {
        if let Some(registry) = self.registry.take() {
            self.runtime.block_on(registry.shutdown());
        }
    }
}

impl Drop for Day {
    fn drop(&mut self) {
        self.stop();
    }
}

#[test]
fn a_device_from_its_making_to_its_end() {
    let day = Day::new();
    let desk = &day.desk;
    let (code, secret) = day.device("SN1");
    let show = || {
        desk.run(&["show", "acme:SN1", "--json"])
            .ended_with(0)
            .json()
    };
    assert_eq!(show()["state"], "unclaimed");

    desk.write("guard.yaml", guard_yaml(&desk.read("ca/issuer.yaml")));
    let explain = [
        "explain",
        "--guard",
        "guard.yaml",
        "--certificate",
        "devices/SN1/cert.pem",
        "--json",
    ];
    let explained = |status: i32| {
        let told = desk.run(&explain).ended_with(status).json();
        // An edge's credentials do as well.
        let edge = [&explain[..], &["--credentials", "data/edge"]].concat();
        assert_eq!(
            desk.run(&edge).ended_with(status).json()["code"],
            told["code"]
        );
        told["code"].clone()
    };
    assert_eq!(explained(1), "device_unclaimed");

    let typed = format!(" {} ", secret.to_lowercase().replace('-', " "));
    assert_eq!(day.claim(&code.to_lowercase(), &typed)["state"], "active");
    assert_eq!(explained(0), Value::Null);

    let suspended = desk
        .run(&["suspend", "acme:SN1", "--reason", "lost", "--json"])
        .ended_with(0);
    assert_eq!(suspended.json()["state"], "suspended");
    assert_eq!(explained(1), "binding_suspended");
    desk.run(&["resume", "acme:SN1"]).ended_with(0);
    assert_eq!(explained(0), Value::Null);

    let pinned = [
        "pin",
        "acme:SN1",
        "--certificate",
        "devices/SN1/cert.pem",
        "--json",
    ];
    assert_eq!(
        desk.run(&pinned).ended_with(0).json()["pins"]
            .as_array()
            .unwrap()
            .len(),
        1
    );
    assert_eq!(explained(0), Value::Null);
    let other = ["pin", "acme:SN1", "--pin", &"ab".repeat(32)];
    desk.run(&other).ended_with(0);
    assert_eq!(explained(1), "certificate_not_allowed");
    let none = ["pin", "acme:SN1", "--none", "--reason", "new key", "--json"];
    assert_eq!(desk.run(&none).ended_with(0).json()["pins"], json!([]));
    let audit = ["audit", "--limit", "1", "--json"];
    let last = desk.run(&audit).ended_with(0).json();
    assert_eq!(
        (&last["action"], &last["reason"]),
        (&json!("pin"), &json!("new key"))
    );

    let released = desk
        .run(&["release", "acme:SN1", "--json"])
        .ended_with(0)
        .json();
    assert_eq!(
        (&released["state"], &released["account"]),
        (&json!("unclaimed"), &Value::Null)
    );
    let next = released["claim_secret"].as_str().unwrap();
    assert_ne!(next, secret);
    let args = ["claim", "--account", "acc-2", "--code", &code];
    assert!(
        desk.run_with(&args, &secret)
            .ended_with(1)
            .err
            .contains("claim_refused")
    );
    assert_eq!(day.claim(&code, next)["epoch"], 2);

    desk.run(&["revoke", "acme:SN1", "--reason", "key stolen"])
        .ended_with(0);
    assert_eq!(explained(1), "binding_revoked");
    let refused = desk.run(&["resume", "acme:SN1"]).ended_with(1);
    assert!(refused.err.contains("409"), "{}", refused.err);

    let shown = desk.run(&["show", "acme:SN1"]).ended_with(0).out;
    assert!(
        shown.starts_with("device ") && shown.contains("revoked"),
        "{shown}"
    );
    for (action, device) in [("show", "acme:SN2"), ("suspend", "acme:SN2")] {
        let ran = desk.run(&[action, device]).ended_with(1);
        assert!(ran.err.contains("unknown_device"), "{}", ran.err);
    }
    drop(day);
}

#[test]
fn the_end_of_a_binding_is_moved_as_explain_says() {
    let day = Day::new();
    let desk = &day.desk;
    let (code, secret) = day.device("SN1");
    day.claim(&code, &secret);
    desk.write("guard.yaml", guard_yaml(&desk.read("ca/issuer.yaml")));
    let explain = ["explain", "--guard", "guard.yaml", "--certificate"];
    let explain = [&explain[..], &["devices/SN1/cert.pem"]].concat();
    desk.run(&explain).ended_with(0);

    let ended = desk
        .run(&["expire", "acme:SN1", "--at", "2020-01-01T00:00:00Z"])
        .ended_with(0);
    assert_eq!(
        ended.out,
        "set the end of acme:SN1 for account acc-1, now active (epoch 1, revision 3, \
         ends 2020-01-01T00:00:00Z)\n"
    );
    assert!(ended.err.contains("that is past"), "{}", ended.err);
    let told = desk.run(&explain).ended_with(1).out;
    assert!(
        told.contains("binding_expired")
            && told.contains("next: if it goes on: medbind expire acme:SN1 --at TIME"),
        "{told}"
    );

    let later = ["expire", "acme:SN1", "--at", "2099-01-01T00:00:00Z"];
    assert_eq!(desk.run(&later).ended_with(0).err, "");
    desk.run(&explain).ended_with(0);
    let never = ["expire", "acme:SN1", "--never", "--reason", "bought"];
    desk.run(&never).ended_with(0);
    let shown = desk.run(&["show", "acme:SN1", "--json"]).ended_with(0);
    let shown = shown.json();
    assert_eq!(
        (&shown["expires_at"], &shown["change"], &shown["reason"]),
        (&Value::Null, &json!("expire"), &json!("bought"))
    );
    let audit = desk.run(&["audit", "acme:SN1"]).ended_with(0).out;
    for set in [
        "expire 2020-01-01T00:00:00Z",
        "expire 2099-01-01T00:00:00Z",
        "expire never",
    ] {
        assert!(audit.contains(set), "{set}: {audit}");
    }
    for wrong in [
        &[][..],
        &["--at", "tomorrow"],
        &["--never", "--at", "2099-01-01T00:00:00Z"],
    ] {
        desk.run(&[&["expire", "acme:SN1"], wrong].concat())
            .ended_with(2);
    }
}

#[test]
fn a_secret_that_nobody_could_read_is_told_to_be_lost() {
    let day = Day::new();
    let desk = &day.desk;
    let (code, secret) = day.device("SN1");
    day.claim(&code, &secret);
    let unheard = [
        &["release", "acme:SN1"][..],
        &["new-secret", "acme:SN1"],
        &["new-secret", "acme:SN1", "--json"],
        &[
            "provision",
            "--ca",
            "ca",
            "--class",
            "cgm",
            "--serial",
            "SN2",
        ],
        &[
            "provision",
            "--ca",
            "ca",
            "--class",
            "cgm",
            "--serial",
            "SN3",
            "--json",
        ],
    ];
    for args in unheard {
        let nowhere = ["--secret-on-label", "no"];
        let more = &nowhere[..if args[0] == "provision" { 2 } else { 0 }];
        let full = std::fs::File::create("/dev/full").unwrap();
        let ended = desk
            .command(&[args, more].concat())
            .stdout(if args.contains(&"SN3") {
                full.into()
            } else {
                unread()
            })
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&ended.stderr);
        assert_eq!(ended.status.code(), Some(1), "{args:?}: {said}");
        for told in ["shown once, and is lost", "medbind new-secret acme:SN"] {
            assert!(said.contains(told), "{told} in {said}");
        }
    }
    // What is on the label, or was answered without a secret, is not lost.
    for args in [
        &[
            "provision",
            "--ca",
            "ca",
            "--class",
            "cgm",
            "--serial",
            "SN4",
        ][..],
        &["suspend", "acme:SN1"],
    ] {
        let ended = desk.command(args).stdout(unread()).output().unwrap();
        assert_eq!(ended.status.code(), Some(0), "{ended:?}");
    }
}

#[test]
fn the_secret_of_a_release_that_was_lost_is_made_anew() {
    let day = Day::new();
    let desk = &day.desk;
    let (code, secret) = day.device("SN1");
    day.claim(&code, &secret);
    let kept = desk.run(&["new-secret", "acme:SN1"]).ended_with(1);
    assert!(kept.err.contains("a release takes it away"), "{}", kept.err);
    let secret_of = |args: &[&str]| {
        let ran = desk.run(&[args, &["--json"]].concat()).ended_with(0);
        ran.json()["claim_secret"].as_str().unwrap().to_owned()
    };
    let lost = secret_of(&["release", "acme:SN1"]);
    let refused = desk.run(&["release", "acme:SN1"]).ended_with(1);
    assert!(
        refused.err.contains("`medbind new-secret` makes another"),
        "{}",
        refused.err
    );
    let made = secret_of(&["new-secret", "acme:SN1", "--reason", "never arrived"]);
    let args = ["claim", "--account", "acc-2", "--code", &code];
    let refused = desk.run_with(&args, &lost).ended_with(1);
    assert!(refused.err.contains("claim_refused"), "{}", refused.err);
    assert_eq!(day.claim(&code, &made)["epoch"], 2);
}

#[test]
fn a_wrong_secret_and_a_used_one_get_the_same_answer_and_a_mistyped_code_is_not_sent() {
    let day = Day::new();
    let (code, secret) = day.device("SN1");
    let args = ["claim", "--account", "acc-1", "--code", &code];
    let wrong = day
        .desk
        .run_with(&args, "0000-0000-0000-0000-0000")
        .ended_with(1);
    day.claim(&code, &secret);
    let used = day.desk.run_with(&args, &secret).ended_with(1);
    assert_eq!(wrong.err, used.err);
    assert!(!used.err.contains(&secret));

    let mut symbols: Vec<char> = code.chars().collect();
    symbols[0] = if symbols[0] == '7' { '8' } else { '7' };
    let mistyped: String = symbols.iter().collect();
    let ran = day
        .desk
        .run(&["claim", "--account", "a", "--code", &mistyped])
        .ended_with(2);
    assert!(ran.err.contains("mistyped"), "{}", ran.err);
    for (input, what) in [("", "no claim secret"), ("ABCD", "20 characters")] {
        assert!(
            day.desk
                .run_with(&args, input)
                .ended_with(2)
                .err
                .contains(what)
        );
    }
}

#[test]
fn a_stream_is_enrolled_and_its_bad_lines_are_named() {
    let day = Day::new();
    let desk = &day.desk;
    desk.run(&[
        "provision",
        "--class",
        "cgm",
        "--ca",
        "ca",
        "--from",
        "SN001",
        "--count",
        "30",
    ])
    .ended_with(0);
    let lines = desk.read("devices/enrol.ndjson");
    let mut rows: Vec<String> = lines.lines().map(str::to_owned).collect();
    rows.insert(2, "not json".to_owned());
    rows.insert(5, r#"{"device":"SN1"}"#.to_owned());
    desk.write("fleet", rows.join("\n"));
    let ran = desk.run(&["enrol", "fleet"]).ended_with(1);
    assert_eq!(ran.out, "30 enrolled, 2 rejected\n", "{}", ran.err);
    assert!(
        ran.err.contains("line 3: ") && ran.err.contains("line 6: "),
        "{}",
        ran.err
    );

    let again = desk.run(&["enrol", "devices/enrol.ndjson"]).ended_with(0);
    assert_eq!(again.out, "0 enrolled, 0 rejected, 30 were there already\n");

    let mut csv = "device,code,secret_hash,class\n".to_owned();
    for line in lines.lines().take(3) {
        let row: Value = serde_json::from_str(line).unwrap();
        let device = row["device"].as_str().unwrap().replace("SN", "CS");
        let code = medbind_core::claim::ClaimCode::from_entropy(
            [u8::try_from(csv.len() % 32).unwrap(); 12],
        );
        let hash = row["secret_hash"].as_str().unwrap();
        let code = code.to_string();
        csv.extend([&device, ",", &code, ",", hash, ",cgm\n"]);
    }
    let ran = desk
        .run_with(&["enrol", "-", "--json"], &csv)
        .ended_with(0)
        .json();
    assert_eq!(
        ran,
        json!({"imported": 3, "rejected": 0, "unchanged": 0, "errors": []})
    );

    let one = [
        "enrol",
        "--device",
        "acme:ONE",
        "--code",
        "0000-0000-0001-1",
        "--class",
        "pump",
    ];
    let hash = "ab".repeat(32);
    desk.run(&[&one[..], &["--secret-hash", &hash]].concat())
        .ended_with(0);
    desk.run(&[&one[..], &["--secret-hash", "short"]].concat())
        .ended_with(2);
    assert!(
        desk.run(&["enrol", "nothing.ndjson"])
            .ended_with(2)
            .err
            .contains("nothing.ndjson")
    );

    let listed = |args: &[&str]| {
        let ran = desk
            .run(&[&["list", "--json"][..], args].concat())
            .ended_with(0);
        (ran.out.lines().count(), ran.err)
    };
    assert_eq!(listed(&[]).0, 34);
    let (count, note) = listed(&["--limit", "5"]);
    assert_eq!(count, 5);
    assert!(note.contains("--after acme:"), "{note}");
    assert_eq!(listed(&["--limit", "0"]).0, 34);
    assert_eq!(listed(&["--state", "revoked"]).0, 0);
    assert_eq!(listed(&["--after", "acme:SN028"]).0, 2);
    let pseudonym = desk.run(&["show", "acme:ONE", "--json"]).json()["pseudonym"].clone();
    let found = desk
        .run(&["list", "--pseudonym", pseudonym.as_str().unwrap()])
        .ended_with(0);
    assert!(
        found.out.starts_with("DEVICE") && found.out.contains("acme:ONE"),
        "{}",
        found.out
    );

    desk.write("records.ndjson", "an older one, which anybody may read");
    desk.run(&["export", "--output", "records.ndjson"])
        .ended_with(0);
    assert_eq!(common::mode(&desk.path("records.ndjson")), 0o600);
    assert_eq!(
        desk.read("records.ndjson"),
        desk.run(&["export"]).ended_with(0).out
    );
    assert_eq!(desk.read("records.ndjson").lines().count(), 34);
}

#[test]
fn one_command_leads_from_a_line_of_the_log_to_the_cause_and_one_to_all_that_was_done() {
    let day = Day::new();
    let desk = &day.desk;
    let (code, secret) = day.device("SN1");
    day.device("SN2");
    day.claim(&code, &secret);
    let why = ["suspend", "acme:SN1", "--reason", "reported lost", "--json"];
    let suspended = desk.run(&why).ended_with(0).json();
    let pseudonym = suspended["pseudonym"].as_str().unwrap();
    for named in [
        ["--pseudonym", pseudonym],
        ["--pseudonym", &pseudonym.to_uppercase()],
        ["--code", &code],
    ] {
        let shown = desk.run(&[&["show"][..], &named].concat()).ended_with(0);
        for what in [
            "acme:SN1",
            "suspended",
            "operator:operator",
            "reported lost",
        ] {
            assert!(shown.out.contains(what), "{what} in {}", shown.out);
        }
    }
    let unknown = desk
        .run(&["show", "--pseudonym", &"0".repeat(16)])
        .ended_with(1);
    assert!(
        unknown
            .err
            .contains("no device of this registry has this pseudonym")
            && unknown.err.contains("next: "),
        "{}",
        unknown.err
    );
    for wrong in [
        &["show", "--pseudonym", "acme:SN1"][..],
        &["show", "--pseudonym", "0aa038df969e27c"],
        &["list", "--pseudonym", "xyz"],
        &["show", "acme:SN1", "--code", &code],
    ] {
        desk.run(wrong).ended_with(2);
    }

    for (filter, found) in [
        (["--class", "cgm"], 2),
        (["--class", "pump"], 0),
        (["--code", &code], 1),
    ] {
        let ran = desk.run(&[&["list", "--json"][..], &filter].concat());
        assert_eq!(ran.ended_with(0).out.lines().count(), found, "{filter:?}");
    }

    let audit = desk.run(&["audit", "acme:SN1"]).ended_with(0).out;
    let words = |line: &str| {
        let words = line.split_whitespace().skip(1).map(str::to_owned);
        words.collect::<Vec<_>>().join(" ")
    };
    let told: Vec<String> = audit.lines().map(words).collect();
    assert_eq!(
        told,
        [
            "BY WHAT DEVICE ACCOUNT REASON",
            "operator:operator suspend acme:SN1 acc-1 reported lost",
            "operator:operator claim acme:SN1 acc-1 -",
            "operator:operator enrol acme:SN1 - -",
        ],
        "{audit}"
    );
    let ids = |args: &[&str]| -> Vec<u64> {
        let ran = desk
            .run(&[&["audit", "--json"][..], args].concat())
            .ended_with(0);
        let lines = ran.out.lines();
        let entries = lines.map(|line| serde_json::from_str::<Value>(line).unwrap());
        entries.map(|entry| entry["id"].as_u64().unwrap()).collect()
    };
    assert_eq!(ids(&[]), [4, 3, 2, 1]);
    assert_eq!(ids(&["--limit", "0"]), [4, 3, 2, 1]);
    assert_eq!(ids(&["--account", "acc-1"]), [4, 3]);
    assert_eq!(ids(&["acme:SN2"]), [2]);
    assert_eq!(ids(&["--limit", "1", "--before", "4"]), [3]);
    let some = desk.run(&["audit", "--limit", "2"]).ended_with(0);
    assert!(some.err.contains("--before 3"), "{}", some.err);
    let none = desk.run(&["audit", "acme:SN9"]).ended_with(0);
    assert!(none.err.contains("nothing was done"), "{}", none.err);
    let edge = desk
        .run(&["audit", "--credentials", "data/edge"])
        .ended_with(1);
    assert!(edge.err.contains("operator's credentials"), "{}", edge.err);
}

#[test]
fn a_level_of_the_log_that_is_none_is_refused() {
    let desk = Desk::new();
    for word in ["warning", "loud,,", "INFO=1"] {
        let ran = desk
            .command(&["serve", "--data-dir", "r", "--listen", "127.0.0.1:0"])
            .env("MEDBIND_LOG", word)
            .output()
            .unwrap();
        assert_eq!(ran.status.code(), Some(2), "{word}");
        let said = String::from_utf8_lossy(&ran.stderr).into_owned();
        assert!(
            said.contains("MEDBIND_LOG") && said.contains("warn"),
            "{said}"
        );
    }
}

#[test]
fn a_file_that_holds_no_device_is_no_success() {
    let day = Day::new();
    let desk = &day.desk;
    let header = "device,code,secret_hash,class\n";
    for nothing in ["", "\n\n", header] {
        let ran = desk.run_with(&["enrol", "-"], nothing).ended_with(2);
        assert_eq!(ran.out, "0 enrolled, 0 rejected\n");
        assert!(
            ran.err.contains("no device in what was read"),
            "{}",
            ran.err
        );
    }
    let code = medbind_core::claim::ClaimCode::from_entropy([7; 12]);
    let hash = "ab".repeat(32);
    let old_lines = format!("{header}acme:OLD,{code},{hash},cgm\n").replace('\n', "\r");
    let ran = desk.run_with(&["enrol", "-"], &old_lines).ended_with(1);
    assert_eq!(ran.out, "0 enrolled, 1 rejected\n");
    assert!(
        ran.err.contains("end lines with LF or CR LF"),
        "{}",
        ran.err
    );
}

#[test]
fn who_may_not_is_told_so_and_a_registry_that_is_not_there_is_no_answer() {
    let mut day = Day::new();
    let ran = day
        .desk
        .run(&["list", "--credentials", "data/edge"])
        .ended_with(1);
    assert!(ran.err.contains("operator's credentials"), "{}", ran.err);

    // Signed by another CA: neither side takes the other.
    day.desk
        .run(&["ca", "init", "other", "--namespace", "other"])
        .ended_with(0);
    for name in ["cert.pem", "key.pem", "ca.pem"] {
        day.desk.write(
            &format!("mixed/{name}"),
            day.desk.read(&format!("data/operator/{name}")),
        );
    }
    day.desk
        .write("mixed/ca.pem", day.desk.read("other/cert.pem"));
    let ran = day
        .desk
        .run(&["list", "--credentials", "mixed"])
        .ended_with(1);
    assert!(ran.err.contains("ca.pem"), "{}", ran.err);
    day.desk.write("mixed/key.pem", "no key");
    day.desk
        .run(&["list", "--credentials", "mixed"])
        .ended_with(2);

    day.stop();
    let ran = day.desk.run(&["list"]).ended_with(1);
    assert!(
        ran.err.contains("cannot connect to https://localhost:"),
        "{}",
        ran.err
    );
    assert!(
        ran.err.contains("is `medbind serve` running?"),
        "{}",
        ran.err
    );
    day.desk.provision("SN1", &[]);
    day.desk
        .write("guard.yaml", guard_yaml(&day.desk.read("ca/issuer.yaml")));
    let explain = [
        "explain",
        "--guard",
        "guard.yaml",
        "--certificate",
        "devices/SN1/cert.pem",
    ];
    day.desk.run(&explain).ended_with(2);
}
