//! The registry as a process: how it starts, how it is stopped, how it is backed up.

mod common;

use std::io::BufRead as _;
use std::process::{Command, Stdio};

use common::{Desk, SERVE, Served, mode, unread};
use serde_json::json;

fn list(desk: &Desk, registry: &Served) -> common::Ran {
    desk.run(&[
        "list",
        "--registry",
        &registry.base(),
        "--credentials",
        "data/operator",
    ])
}

#[test]
fn serve_tells_where_it_listens_and_what_it_made_and_ends_on_a_signal() {
    let desk = Desk::new();
    let registry = Served::start(&desk);
    let made = registry.told["made"].as_array().unwrap();
    assert!(made.len() >= 4, "{made:?}");
    list(&desk, &registry).ended_with(0);
    let killed = Command::new("kill")
        .args(["-TERM", &registry.id().to_string()])
        .status();
    assert!(killed.unwrap().success());
    assert_eq!(registry.ended(), Some(0));
}

#[test]
fn a_registry_whose_log_cannot_be_written_goes_on() {
    let mut desk = Desk::with_ca(&[]);
    desk.set("MEDBIND_LOG", "trace");
    let made = desk.provision("SN1", &[]);
    let full = std::fs::File::create("/dev/full").unwrap();
    for stderr in [unread(), full.into()] {
        let registry = Served::logging_to(desk.command(&SERVE), stderr);
        let base = registry.base();
        let enrol = [
            "enrol",
            made["enrol"].as_str().unwrap(),
            "--registry",
            base.as_str(),
            "--credentials",
            "data/operator",
        ];
        desk.run(&enrol).ended_with(0);
        list(&desk, &registry).ended_with(0);
        let stop = ["stop", "--data-dir", "data"];
        desk.run(&stop).ended_with(0);
        assert_eq!(registry.ended(), Some(0));
    }
}

#[test]
fn a_registry_whose_first_words_cannot_be_written_ends_as_it_was_told() {
    for json in [&[][..], &["--json"]] {
        let desk = Desk::new();
        let serve = ["serve", "--data-dir", "data", "--listen", "127.0.0.1:0"];
        let full = std::fs::File::create("/dev/full").unwrap();
        let mut registry = desk
            .command(&[&serve[..], json].concat())
            .stdout(full)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut log = std::io::BufReader::new(registry.stderr.take().unwrap());
        let mut said = String::new();
        while !said.contains("cannot write to standard output") {
            assert!(log.read_line(&mut said).unwrap() > 0, "{said}");
        }
        desk.run(&["stop", "--data-dir", "data"]).ended_with(0);
        let status = registry.wait().unwrap();
        assert_eq!(status.code(), Some(0), "{said}");
    }
}

#[test]
fn a_registry_is_stopped_by_its_directory() {
    let desk = Desk::new();
    let stop = ["stop", "--data-dir", "data", "--json"];
    desk.run(&stop).ended_with(2);
    let registry = Served::start(&desk);
    let stopped = desk.run(&stop).ended_with(0).json();
    assert_eq!(stopped, json!({"stopped": true, "process": registry.id()}));
    assert_eq!(registry.ended(), Some(0));
    let none = desk.run(&stop).ended_with(0).json();
    assert_eq!(none, json!({"stopped": false, "process": null}));
}

#[test]
fn the_number_that_a_crash_left_stops_no_stranger() {
    let desk = Desk::new();
    Served::start(&desk).kill();
    let left = desk.read("data/registry.lock");
    assert!(left.trim().parse::<u32>().is_ok(), "{left:?}");
    // The number has been given to another process since.
    let mut stranger = Command::new("sleep").arg("60").spawn().unwrap();
    desk.write("data/registry.lock", format!("{}\n", stranger.id()));
    let ran = desk.run(&["stop", "--data-dir", "data"]).ended_with(0);
    assert_eq!(ran.out, "no registry runs on data\n");
    // Nor where another holds the lock, whom the number does not name.
    let held = std::fs::File::open(desk.path("data/registry.lock")).unwrap();
    held.lock().unwrap();
    let ran = desk.run(&["stop", "--data-dir", "data"]).ended_with(1);
    assert!(ran.err.contains("cannot be seen from here"), "{}", ran.err);
    let ran = desk.run(&SERVE).ended_with(1);
    assert!(!ran.err.contains("process"), "{}", ran.err);
    drop(held);
    assert!(stranger.try_wait().unwrap().is_none(), "it still runs");
    stranger.kill().unwrap();
    stranger.wait().unwrap();
    Served::start(&desk).kill();
}

/// What a start that is not one ends with, and says.
#[test]
fn a_start_that_cannot_be_ends_with_1_where_the_next_may_and_with_2_where_it_will_not() {
    let desk = Desk::new();
    let registry = Served::start(&desk);
    let taken = registry.address().to_owned();
    desk.write("file", "no directory");
    desk.write("text/registry.sqlite", "no database");
    desk.run(&["backup", "--data-dir", "data", "copy"])
        .ended_with(0);
    let copy = std::fs::read(desk.path("copy")).unwrap();
    let with_number = |number: u32| {
        let mut octets = copy.clone();
        octets[68..72].copy_from_slice(&number.to_be_bytes());
        octets
    };
    desk.write("theirs/registry.sqlite", with_number(7));
    desk.write("torn/registry.sqlite", &copy[..copy.len() / 2]);
    desk.write("half/server/cert.pem", "");
    let free = "127.0.0.1:0";
    for (dir, listen, more, status, said) in [
        ("other", taken.as_str(), "", 1, "choose another port"),
        ("data", free, "", 1, "medbind stop --data-dir data"),
        ("torn", free, "", 1, "damaged"),
        ("other", "192.0.2.1:9", "", 2, "an address of this machine"),
        ("other", "nowhere", "", 2, "--listen"),
        ("other", free, "--max-connections 0", 2, "--max-connections"),
        ("other", free, "--server-name a:b", 2, "--server-name"),
        ("file/data", free, "", 2, "choose another"),
        ("file", free, "", 2, "choose another"),
        ("text", free, "", 1, "damaged"),
        ("theirs", free, "", 2, "no database of medbind's registry"),
        ("half", free, "", 2, "infra-ca/cert.pem is missing"),
    ] {
        let args = ["serve", "--data-dir", dir, "--listen", listen];
        let more = more.split_whitespace().collect::<Vec<_>>();
        let ran = desk.run(&[&args[..], &more].concat()).ended_with(status);
        assert!(ran.err.contains(said), "{dir} {listen}: {}", ran.err);
    }
}

#[test]
fn a_backup_is_made_while_it_runs_and_is_gone_back_to() {
    let desk = Desk::with_ca(&[]);
    let registry = Served::start(&desk);
    let base = registry.base();
    let as_operator = [
        "--registry",
        base.as_str(),
        "--credentials",
        "data/operator",
    ];
    let made = desk.provision("SN1", &[]);
    let enrol = ["enrol", made["enrol"].as_str().unwrap()];
    desk.run(&[&enrol[..], &as_operator].concat()).ended_with(0);
    let backup = ["backup", "--data-dir", "data", "backup.sqlite"];
    let told = desk.run(&[&backup[..], &["--json"]].concat());
    let told = told.ended_with(0).json();
    assert_eq!(
        (&told["file"], &told["head"]),
        (&json!("backup.sqlite"), &json!(1))
    );
    let beside = ["infra-ca", "server", "edge", "operator"].map(|name| format!("data/{name}"));
    assert_eq!(told["beside"], json!(beside));
    assert_eq!(mode(&desk.path("backup.sqlite")), 0o600);
    assert!(
        desk.run(&backup)
            .ended_with(1)
            .err
            .contains("never overwritten")
    );
    for dir in ["nowhere", "data/edge"] {
        let ran = desk.run(&["backup", "--data-dir", dir, "b"]).ended_with(2);
        assert!(ran.err.contains("no database of a registry"), "{}", ran.err);
    }

    let suspend = ["suspend", "acme:SN1"];
    desk.run(&[&suspend[..], &as_operator].concat())
        .ended_with(0);
    desk.run(&["stop", "--data-dir", "data"]).ended_with(0);
    drop(registry);
    let restored = Command::new("sh")
        .args(["-c", "mkdir before && mv data/registry.sqlite* before/ && cp -p backup.sqlite data/registry.sqlite"])
        .current_dir(desk.path(""))
        .stdin(Stdio::null())
        .status();
    assert!(restored.unwrap().success());
    let registry = Served::start(&desk);
    let show = ["show", "acme:SN1", "--json", "--registry", &registry.base()];
    let shown = desk.run(&[&show[..], &as_operator[2..]].concat());
    assert_eq!(shown.ended_with(0).json()["state"], "unclaimed");
}
