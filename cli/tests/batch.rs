//! A batch of devices that is interrupted, by a kill, a disk that is full or a power cut, and goes
//! on: no device is made twice, none is there by half, and no secret is lost.

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::process::{Command, Stdio};
use std::time::Duration;

use common::{Desk, Ran, mode, unread};
use medbind_core::certificate::PeerCertificate;
use medbind_core::claim::{ClaimSecret, ClaimSecretHash};
use rcgen::PublicKeyData as _;
use serde_json::Value;

const COUNT: usize = 120;

/// The batch that all of this is about: its secrets stand in a file alone.
fn batch(more: &[&str]) -> Vec<String> {
    let batch = format!(
        "provision --ca ca --class cgm --from SN0001 --count {COUNT} --secret-on-label no \
         --secrets secrets.csv --portal https://portal.example"
    );
    let words = batch.split_whitespace().chain(more.iter().copied());
    words.map(str::to_owned).collect()
}

fn run(desk: &Desk, more: &[&str]) -> Ran {
    let batch = batch(more);
    desk.run(&batch.iter().map(String::as_str).collect::<Vec<_>>())
}

fn serials() -> impl Iterator<Item = String> {
    (1..=COUNT).map(|number| format!("SN{number:04}"))
}

/// How many devices have a directory.
fn made(desk: &Desk) -> usize {
    let made = serials().filter(|serial| desk.path(&format!("devices/{serial}")).exists());
    made.count()
}

/// What identifies a device that was made: its key and its code.
fn identity(desk: &Desk, serial: &str) -> (String, String) {
    let read = |name: &str| desk.read(&format!("devices/{serial}/{name}"));
    (read("key.pem"), read("device.json"))
}

/// Whatever interrupted it: the secret of each device that is there is known.
fn no_secret_is_lost(desk: &Desk) {
    let rows = desk.read("secrets.csv");
    for serial in serials().take(made(desk)) {
        let line: Value = serde_json::from_str(&identity(desk, &serial).1).unwrap();
        let begin = format!("acme:{serial},{},", line["code"].as_str().unwrap());
        let row = rows.lines().find_map(|row| row.strip_prefix(&begin));
        let secret: ClaimSecret = row.expect(&serial).parse().unwrap();
        let hash: ClaimSecretHash = line["secret_hash"].as_str().unwrap().parse().unwrap();
        assert_eq!(secret.hash(), hash, "{serial}");
    }
}

/// Each device is whole, stands once in each list, and its secret is the one that its hash is of.
fn all_is_there(desk: &Desk) {
    let lines = desk.read("devices/enrol.ndjson");
    let mut enrolled = BTreeMap::new();
    for line in lines.lines() {
        let line: Value = serde_json::from_str(line).unwrap_or_else(|e| panic!("{line}: {e}"));
        let device = line["device"].as_str().unwrap().to_owned();
        assert!(enrolled.insert(device, line).is_none(), "twice");
    }
    let rows = desk.read("secrets.csv");
    assert_eq!(mode(&desk.path("secrets.csv")), 0o600);
    let mut secrets = BTreeMap::new();
    assert_eq!(rows.lines().next(), Some("device,code,secret"));
    for row in rows.lines().skip(1) {
        let [device, code, secret] = row.split(',').collect::<Vec<_>>()[..] else {
            panic!("{row}");
        };
        let row = (code.to_owned(), secret.parse::<ClaimSecret>().unwrap());
        assert!(secrets.insert(device.to_owned(), row).is_none(), "twice");
    }
    let devices: BTreeSet<String> = serials().map(|serial| format!("acme:{serial}")).collect();
    assert!(enrolled.keys().eq(&devices), "{:?}", enrolled.keys());
    assert!(secrets.keys().eq(&devices), "{:?}", secrets.keys());
    for serial in serials() {
        let device = format!("acme:{serial}");
        let (key, line) = identity(desk, &serial);
        let (code, secret) = &secrets[&device];
        let enrolled = &enrolled[&device];
        assert_eq!(*enrolled, serde_json::from_str::<Value>(&line).unwrap());
        assert_eq!(enrolled["code"], *code, "{device}");
        let hash: ClaimSecretHash = enrolled["secret_hash"].as_str().unwrap().parse().unwrap();
        assert_eq!(hash, secret.hash(), "{device}");
        let certificate = desk.read(&format!("devices/{serial}/cert.pem"));
        let certificate = PeerCertificate::parse(certificate.as_bytes()).unwrap();
        let key = rcgen::KeyPair::from_pem(&key).unwrap();
        assert_eq!(key.subject_public_key_info(), certificate.spki_der());
        assert_eq!(mode(&desk.path(&format!("devices/{serial}"))), 0o700);
        for name in ["chain.pem", "label.svg", "label.png", "key.pem"] {
            let path = desk.path(&format!("devices/{serial}/{name}"));
            assert!(fs::metadata(&path).unwrap().len() > 0);
            assert_eq!(mode(&path), 0o600);
        }
    }
    let there = fs::read_dir(desk.path("devices")).unwrap();
    let there = there.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let making: Vec<String> = there
        .filter(|name| name.contains("+making") || name.contains("+begun"))
        .collect();
    assert_eq!(making, [""; 0]);
}

#[test]
fn a_batch_that_is_killed_again_and_again_goes_on_where_it_was() {
    let desk = Desk::with_ca(&[]);
    let mut before = BTreeMap::new();
    for (more, how) in [
        (20, &[][..]),
        (21, &["--continue"]),
        (45, &["--continue"]),
        (80, &["--continue"]),
    ] {
        let args = batch(how);
        let mut process = desk
            .command(&args.iter().map(String::as_str).collect::<Vec<_>>())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut looked = 0;
        while made(&desk) < more && process.try_wait().unwrap().is_none() {
            assert!(looked < 100_000, "it makes nothing");
            looked += 1;
            std::thread::sleep(Duration::from_millis(1));
        }
        process.kill().unwrap();
        process.wait().unwrap();
        let stands = made(&desk);
        assert!((more..COUNT).contains(&stands), "{stands} of {COUNT}");
        no_secret_is_lost(&desk);
        for serial in serials().take(stands) {
            let is = identity(&desk, &serial);
            let was = before.entry(serial).or_insert_with(|| is.clone());
            assert_eq!(*was, is, "what was made is kept");
        }
    }
    // Without --continue it says what to do, and touches nothing.
    let refused = run(&desk, &[]).ended_with(1);
    assert!(
        refused.err.contains("devices/SN0001 is there already"),
        "{}",
        refused.err
    );
    assert!(refused.err.contains("--continue"), "{}", refused.err);

    let stands = made(&desk);
    let ran = run(&desk, &["--continue"]).ended_with(0);
    assert!(
        ran.out
            .contains(&format!("{COUNT} devices below devices, {stands} of them")),
        "{}",
        ran.out
    );
    all_is_there(&desk);
    for (serial, was) in &before {
        assert_eq!(*was, identity(&desk, serial));
    }
    // Once more is no harm, and tells each device that is there.
    let again = run(&desk, &["--continue", "--json"]).ended_with(0);
    let told = again.out.lines();
    let told: Vec<Value> = told
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(told.len(), COUNT);
    assert!(
        told.iter()
            .all(|one| one["kept"] == true && one["secret"].is_null())
    );
    all_is_there(&desk);
}

#[test]
fn a_batch_whose_answer_nobody_reads_is_made_to_its_end() {
    let desk = Desk::with_ca(&[]);
    let args = batch(&["--json"]);
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let ended = desk.command(&args).stdout(unread()).output().unwrap();
    assert_eq!(ended.status.code(), Some(0), "{ended:?}");
    assert_eq!(made(&desk), COUNT);
    all_is_there(&desk);
}

/// Writes as it is where a run was interrupted, between each two of its steps and within them.
#[test]
fn each_way_to_stop_is_mended() {
    let desk = Desk::with_ca(&[]);
    run(&desk, &[]).ended_with(0);
    let enrol = desk.read("devices/enrol.ndjson");
    let secrets = desk.read("secrets.csv");
    let remove = |serial: &str| {
        fs::remove_dir_all(desk.path(&format!("devices/{serial}"))).unwrap();
    };
    let without = |text: &str, word: &str| -> String {
        let lines = text.split_inclusive('\n');
        lines.filter(|line| !line.contains(word)).collect()
    };
    let kept = identity(&desk, "SN0001");

    // The secret is written, the device is not; its line of enrol is neither.
    remove("SN0120");
    desk.write("devices/+begun+SN0001+SN0120", "");
    desk.write("devices/enrol.ndjson", without(&enrol, "SN0120"));
    // What it was at stands half.
    desk.write("devices/+making/x/key.pem", "half");
    let left = ".secrets.csv1aB2cD.new";
    desk.write(left, "secrets");
    let left_of_enrol = "devices/.enrol.ndjson1aB2cD.new";
    desk.write(left_of_enrol, "lines");
    let ran = run(&desk, &["--continue"]).ended_with(0);
    assert!(ran.out.contains("119 of them"), "{}", ran.out);
    assert!(ran.err.contains("secrets.csv.taken-out"), "{}", ran.err);
    assert!(!desk.path(left).exists());
    assert!(!desk.path(left_of_enrol).exists());
    all_is_there(&desk);
    let lost = secrets.lines().last().unwrap();
    assert!(lost.starts_with("acme:SN0120,"));
    assert_eq!(
        desk.read("secrets.csv.taken-out"),
        format!("device,code,secret\n{lost}\n")
    );
    assert_eq!(mode(&desk.path("secrets.csv.taken-out")), 0o600);

    // The device is there, and its line of enrol is not, or half of it.
    let enrol = desk.read("devices/enrol.ndjson");
    for half in [
        without(&enrol, "SN0120"),
        enrol[..enrol.len() - 20].to_owned(),
    ] {
        desk.write("devices/enrol.ndjson", &half);
        if !half.ends_with('\n') {
            let other = ["--from", "SN0900", "--count", "2", "--ca", "ca"];
            let other = [&["provision", "--class", "cgm"][..], &other].concat();
            let refused = desk.run(&other).ended_with(1);
            assert!(refused.err.contains("middle of a line"), "{}", refused.err);
        }
        run(&desk, &["--continue"]).ended_with(0);
        all_is_there(&desk);
        assert_eq!(desk.read("devices/enrol.ndjson"), enrol);
    }

    assert!(!desk.path("devices/+begun+SN0001+SN0120").exists());

    // Half of a secret's line, of a device that was not made.
    remove("SN0120");
    desk.write("devices/enrol.ndjson", without(&enrol, "SN0120"));
    let secrets = desk.read("secrets.csv");
    desk.write("secrets.csv", &secrets[..secrets.len() - 8]);
    run(&desk, &["--continue"]).ended_with(0);
    all_is_there(&desk);

    // After a power cut there are files that hold nothing.
    for (serial, name, text) in [
        ("SN0002", "key.pem", ""),
        ("SN0003", "cert.pem", "\0\0\0"),
        ("SN0004", "device.json", ""),
        ("SN0005", "label.svg", ""),
        ("SN0006", "device.json", "{\"device\":"),
    ] {
        let old = identity(&desk, serial);
        desk.write(&format!("devices/{serial}/{name}"), text);
        let ran = run(&desk, &["--continue"]).ended_with(0);
        for words in [
            &format!("acme:{serial} was half made ({name}"),
            "+half-made",
        ] {
            assert!(ran.err.contains(words), "{words} in {}", ran.err);
        }
        assert!(
            desk.path(&format!("devices/{serial}+half-made/{name}"))
                .exists()
        );
        assert_ne!(identity(&desk, serial), old);
        all_is_there(&desk);
    }
    assert_eq!(identity(&desk, "SN0001"), kept, "through all of this");
    // What is of use elsewhere may be taken away.
    fs::remove_file(desk.path("devices/SN0007/key.pem")).unwrap();
    fs::remove_file(desk.path("devices/SN0007/label.png")).unwrap();
    let ran = run(&desk, &["--continue"]).ended_with(0);
    assert!(ran.out.contains("120 of them"), "{}", ran.out);
    assert!(!desk.path("devices/SN0007/key.pem").exists());
}

#[test]
fn what_no_interruption_explains_is_told_and_nothing_is_touched() {
    let desk = Desk::with_ca(&[]);
    run(&desk, &[]).ended_with(0);
    let enrol = desk.read("devices/enrol.ndjson");
    let secrets = desk.read("secrets.csv");
    let init = ["ca", "init", "other", "--namespace", "acme"];
    desk.run(&init).ended_with(0);
    let state = || {
        let all: Vec<_> = serials().map(|serial| identity(&desk, &serial)).collect();
        (
            desk.read("devices/enrol.ndjson"),
            desk.read("secrets.csv"),
            all,
        )
    };
    let was = state();
    for (change, status, what) in [
        (&["--class", "pump"][..], 2, "its class is cgm"),
        (&["--ca", "other"], 2, "would refuse the certificate"),
        (
            &["--secrets", "new.csv"],
            1,
            "its claim secret is not in new.csv",
        ),
        (
            &["--secrets", "ca/cert.pem"],
            1,
            "its claim secret is not in",
        ),
        (&["--secrets", "/dev/null"], 2, "is no file"),
        (&["--renew"], 2, "--renew"),
    ] {
        let mut args = batch(&["--continue"]);
        // The last of an option counts as little as the first: say it once.
        if let Some(at) = args.iter().position(|word| *word == change[0]) {
            args.drain(at..at + 2);
        }
        args.extend(change.iter().map(|&word| word.to_owned()));
        let ran = desk.run(&args.iter().map(String::as_str).collect::<Vec<_>>());
        let ran = ran.ended_with(status);
        assert!(ran.err.contains(what), "{what} in {}", ran.err);
        assert_eq!(state(), was, "{what}");
    }
    // A device that was made and is elsewhere now is not made again.
    fs::rename(desk.path("devices/SN0003"), desk.path("elsewhere")).unwrap();
    let ran = run(&desk, &["--continue"]).ended_with(1);
    assert!(
        ran.err.contains("acme:SN0003 in devices/enrol.ndjson"),
        "{}",
        ran.err
    );
    assert!(ran.err.contains("put the directory back"), "{}", ran.err);
    assert_eq!(desk.read("devices/enrol.ndjson"), enrol);
    assert_eq!(desk.read("secrets.csv"), secrets);
    assert!(!desk.path("devices/SN0003").exists());
    fs::rename(desk.path("elsewhere"), desk.path("devices/SN0003")).unwrap();

    // Nor are many whose secrets are there, and nothing else.
    let gone = (1..=1_001).map(|number| format!("acme:GONE{number:04},0000-0000-0001-1,AAAA\n"));
    let rows = format!("device,code,secret\n{}", gone.collect::<String>());
    desk.write("gone.csv", &rows);
    let gone = "provision --ca ca --class cgm --from GONE0001 --count 1001 --secret-on-label no \
                --secrets gone.csv --out gone --continue";
    let ran = desk
        .run(&gone.split_whitespace().collect::<Vec<_>>())
        .ended_with(1);
    assert!(
        ran.err.contains("no interruption leaves so many"),
        "{}",
        ran.err
    );
    assert_eq!(desk.read("gone.csv"), rows);
    assert!(!desk.path("gone/GONE0001").exists());

    fs::remove_file(desk.path("devices/SN0004/cert.pem")).unwrap();
    let ran = run(&desk, &["--continue"]).ended_with(1);
    assert!(ran.err.contains("holds no cert.pem"), "{}", ran.err);
    let one = ["provision", "--ca", "ca", "--class", "cgm"];
    let one = [&one[..], &["--serial", "SN1", "--continue"]].concat();
    desk.run(&one).ended_with(2);
}

#[test]
fn a_disk_that_is_full_stops_a_batch_that_goes_on_once_there_is_room() {
    let desk = Desk::with_ca(&[]);
    // Files may grow to 12 KiB: the list of devices gets no further, as on a disk that is full.
    let args = batch(&[]);
    let program = desk.command(&args.iter().map(String::as_str).collect::<Vec<_>>());
    let limited = Command::new("bash")
        .args(["-c", "trap '' XFSZ; ulimit -S -f 12; exec \"$0\" \"$@\""])
        .arg(program.get_program())
        .args(program.get_args())
        .current_dir(desk.path(""))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&limited.stderr).into_owned();
    assert_eq!(limited.status.code(), Some(1), "{said}");
    assert!(said.contains("cannot write devices/enrol.ndjson"), "{said}");
    let stands = made(&desk);
    assert!((10..COUNT).contains(&stands), "{stands}");
    no_secret_is_lost(&desk);
    assert!(
        desk.read("devices/enrol.ndjson").ends_with('\n'),
        "no half line"
    );
    run(&desk, &["--continue"]).ended_with(0);
    all_is_there(&desk);
}

#[test]
fn a_batch_that_goes_on_elsewhere_drops_no_secret_and_makes_nothing_twice() {
    let desk = Desk::with_ca(&[]);
    run(&desk, &[]).ended_with(0);
    let secrets = desk.read("secrets.csv");
    // Other devices were made there, and a batch of others was interrupted.
    let other = "provision --ca ca --class cgm --from SN0900 --count 2 --out other";
    desk.run(&words(other)).ended_with(0);
    desk.write("other/+begun+SN0121+SN0130", "");
    for out in ["new", "other"] {
        let ran = run(&desk, &["--continue", "--out", out]).ended_with(1);
        for told in [
            "secrets.csv holds the claim secret of acme:SN0001",
            "next: name the --out",
        ] {
            assert!(ran.err.contains(told), "{told} in {}", ran.err);
        }
        assert_eq!(desk.read("secrets.csv"), secrets);
        assert!(!desk.path("secrets.csv.taken-out").exists());
        assert!(!desk.path(&format!("{out}/SN0001")).exists());
    }
    run(&desk, &["--continue"]).ended_with(0);
    all_is_there(&desk);
}

fn words(line: &str) -> Vec<&str> {
    line.split_whitespace().collect()
}

#[test]
fn no_device_is_made_beside_a_secret_that_an_interruption_left() {
    let desk = Desk::with_ca(&[]);
    let all = "provision --ca ca --class cgm --portal https://portal.example --secrets secrets.csv";
    let batch = format!("{all} --from SN0001 --count 2");
    let one = format!("{all} --serial SN0001");
    // Somebody else's, the one of a device that was not made, and it without its end.
    let other = "device,code,secret\nacme:SN00012,1111-1111-1111-1,AAAA\n";
    let left = "acme:SN0001,0000-0000-0000-1,BBBB\n";
    for left in [left, &left[..20]] {
        let was = format!("{other}{left}");
        desk.write("secrets.csv", &was);
        for (line, next) in [(&batch, "--continue"), (&one, "take the line away")] {
            let refused = desk.run(&words(line)).ended_with(1);
            let told = "secrets.csv has a secret of acme:SN0001 already";
            assert!(refused.err.contains(told), "{}", refused.err);
            assert!(refused.err.contains(next), "{}", refused.err);
        }
        assert_eq!(desk.read("secrets.csv"), was);
        assert!(!desk.path("devices/SN0001").exists());
    }
    desk.run(&words(&format!("{batch} --continue")))
        .ended_with(0);
    let rows = desk.read("secrets.csv");
    assert!(rows.starts_with(other), "{rows}");
    assert_eq!(rows.lines().count(), 4);
    assert_eq!(rows.matches("acme:SN0001,").count(), 1);
}

#[test]
fn who_goes_on_with_a_batch_is_alone() {
    let desk = Desk::with_ca(&[]);
    fs::create_dir(desk.path("devices")).unwrap();
    let directory = fs::File::open(desk.path("devices")).unwrap();
    directory.lock_shared().unwrap();
    desk.provision("SN9", &[]);
    let busy = run(&desk, &["--continue"]).ended_with(1);
    assert!(
        busy.err.contains("another `medbind provision`"),
        "{}",
        busy.err
    );
    directory.lock().unwrap();
    let busy = run(&desk, &[]).ended_with(1);
    assert!(busy.err.contains("wait until it has ended"), "{}", busy.err);
    assert_eq!(made(&desk), 0);
}
