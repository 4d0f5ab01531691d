//! Several that make devices at a time, in one directory or with one file of secrets.

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead as _, BufReader, Read as _};
use std::process::Stdio;

use common::{Desk, mode};
use medbind_core::claim::{ClaimSecret, ClaimSecretHash};
use serde_json::Value;

/// The devices of the batch that others meet.
const COUNT: usize = 200;
/// How many meet it, and how many more devices it has made each time.
const MET: usize = 5;
const BETWEEN: usize = 10;
/// What a pipe takes that nobody reads (pipe(7)).
const PIPE_OCTETS: usize = 64 << 10;

fn words(line: &str) -> Vec<&str> {
    line.split_whitespace().collect()
}

/// Runs a batch of [`COUNT`] devices, and each `step` while it is at work: what it says of its
/// devices is read as it is to go on, and it waits where too much is unread.
fn meet(desk: &Desk, line: &str, mut step: impl FnMut(usize)) {
    let mut batch = desk
        .command(&words(&format!("{line} --count {COUNT} --json")))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut told = BufReader::new(batch.stdout.take().unwrap());
    for met in 0..MET {
        for _ in 0..BETWEEN {
            let mut device = String::new();
            assert!(told.read_line(&mut device).unwrap() > 0, "it has ended");
        }
        step(met);
    }
    let mut rest = Vec::new();
    told.read_to_end(&mut rest).unwrap();
    let said = std::io::read_to_string(batch.stderr.take().unwrap()).unwrap();
    assert!(batch.wait().unwrap().success(), "{said}");
    let ahead = told.capacity() + PIPE_OCTETS;
    assert!(rest.len() > ahead, "it may have ended before the last step");
}

/// What `device.json` says of each device below a directory, by its name.
fn devices(desk: &Desk, out: &str) -> BTreeMap<String, Value> {
    let there = fs::read_dir(desk.path(out)).unwrap();
    let mut devices = BTreeMap::new();
    for entry in there {
        let name = entry.unwrap().file_name().into_string().unwrap();
        if name == "enrol.ndjson" {
            continue;
        }
        assert_eq!(mode(&desk.path(&format!("{out}/{name}"))), 0o700, "{name}");
        let line = desk.read(&format!("{out}/{name}/device.json"));
        devices.insert(format!("acme:{name}"), serde_json::from_str(&line).unwrap());
    }
    devices
}

#[test]
fn a_batch_that_goes_on_loses_no_secret_of_another_with_the_same_file() {
    let desk = Desk::with_ca(&[]);
    let all = "provision --ca ca --class cgm --portal https://portal.example \
               --secret-on-label no --secrets shared.csv";
    let more = |count: usize| format!("{all} --from B0001 --count {count} --out ob --continue");
    desk.run(&words(&more(2))).ended_with(0);

    meet(&desk, &format!("{all} --from A0001 --out oa"), |met| {
        desk.run(&words(&more(3 + met))).ended_with(0);
    });

    let mut made = devices(&desk, "oa");
    assert_eq!(made.len(), COUNT);
    made.extend(devices(&desk, "ob"));
    assert_eq!(made.len(), COUNT + 2 + MET);
    let rows = desk.read("shared.csv");
    assert_eq!(mode(&desk.path("shared.csv")), 0o600);
    let (header, rows) = rows.split_once('\n').unwrap();
    assert_eq!(header, "device,code,secret");
    for row in rows.lines() {
        let [device, code, secret] = row.split(',').collect::<Vec<_>>()[..] else {
            panic!("{row}");
        };
        let line = made.remove(device).unwrap_or_else(|| panic!("{row}"));
        assert_eq!(line["code"], code);
        let hash: ClaimSecretHash = line["secret_hash"].as_str().unwrap().parse().unwrap();
        assert_eq!(secret.parse::<ClaimSecret>().unwrap().hash(), hash);
    }
    assert!(made.is_empty(), "without their secrets: {:?}", made.keys());
    assert!(!desk.path("shared.csv.taken-out").exists());
}

#[test]
fn who_ends_in_a_directory_leaves_others_at_work_there() {
    let desk = Desk::with_ca(&[]);
    let all = "provision --ca ca --class cgm --portal https://portal.example";
    meet(&desk, &format!("{all} --from A0001"), |met| {
        let one = format!("{all} --serial X{met} --no-qr");
        desk.run(&words(&one)).ended_with(0);
    });
    let made = devices(&desk, "devices");
    assert_eq!(made.len(), COUNT + MET, "and nothing else is there");
    let lines = desk.read("devices/enrol.ndjson");
    assert_eq!(lines.lines().count(), made.len());
}

#[test]
fn of_two_that_make_the_same_devices_one_fails_and_every_secret_is_of_a_device() {
    for (which, outs) in [["one", "one"], ["one", "other"]].iter().enumerate() {
        let desk = Desk::with_ca(&[]);
        let all = "provision --ca ca --class cgm --portal https://portal.example --json \
                   --secret-on-label no --secrets secrets.csv --from SN0001 --count 60";
        let begun: Vec<_> = outs
            .iter()
            .map(|out| {
                let line = format!("{all} --out {out}");
                let mut run = desk.command(&words(&line));
                run.stdout(Stdio::null()).stderr(Stdio::piped());
                run.spawn().unwrap()
            })
            .collect();
        let ended: Vec<_> = begun
            .into_iter()
            .map(|run| run.wait_with_output().unwrap())
            .collect();
        assert!(
            ended.iter().any(|run| !run.status.success()),
            "{which}: both made them"
        );
        for run in ended.iter().filter(|run| !run.status.success()) {
            let said = String::from_utf8_lossy(&run.stderr);
            assert!(
                said.contains("already") || said.contains("meanwhile"),
                "{said}"
            );
            assert_eq!(run.status.code(), Some(1), "{said}");
        }
        let mut made = devices(&desk, "one");
        if outs[1] != "one" {
            for (device, line) in devices(&desk, "other") {
                assert!(made.insert(device, line).is_none(), "made twice");
            }
        }
        let rows = desk.read("secrets.csv");
        for row in rows.lines().skip(1) {
            let [device, code, secret] = row.split(',').collect::<Vec<_>>()[..] else {
                panic!("{row}");
            };
            let line = made.remove(device).unwrap_or_else(|| panic!("{row}"));
            assert_eq!(line["code"], code);
            let hash: ClaimSecretHash = line["secret_hash"].as_str().unwrap().parse().unwrap();
            assert_eq!(secret.parse::<ClaimSecret>().unwrap().hash(), hash);
        }
        assert!(made.is_empty(), "without their secrets: {:?}", made.keys());
    }
}
