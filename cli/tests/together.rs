//! Several that make devices at a time, in one directory or with one file of secrets.

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::process::{Child, Stdio};

use common::{Desk, mode};
use medbind_core::claim::{ClaimSecret, ClaimSecretHash};
use serde_json::Value;

/// The devices of the batch that others meet.
const COUNT: usize = 200;

fn words(line: &str) -> Vec<&str> {
    line.split_whitespace().collect()
}

/// Begins a batch of [`COUNT`] devices, and waits until it has made some.
fn begin(desk: &Desk, line: &str, out: &str) -> Child {
    let mut batch = desk
        .command(&words(line))
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let first = desk.path(&format!("{out}/A0001"));
    while !first.exists() {
        assert!(batch.try_wait().unwrap().is_none(), "it makes nothing");
        std::thread::yield_now();
    }
    batch
}

/// Does `step` until the batch has ended, which it must have done well; answers how often.
fn until_it_ends(mut batch: Child, mut step: impl FnMut(usize)) -> usize {
    let mut met = 0;
    let status = loop {
        if let Some(status) = batch.try_wait().unwrap() {
            break status;
        }
        step(met);
        met += 1;
    };
    let said = std::io::read_to_string(batch.stderr.take().unwrap()).unwrap();
    assert!(status.success(), "{said}");
    // The first step began while the batch had most of its devices to make.
    assert!(met > 1, "nobody met it");
    met
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

    let line = format!("{all} --from A0001 --count {COUNT} --out oa");
    let batch = begin(&desk, &line, "oa");
    let met = until_it_ends(batch, |met| {
        desk.run(&words(&more(3 + met))).ended_with(0);
    });

    let mut made = devices(&desk, "oa");
    assert_eq!(made.len(), COUNT);
    made.extend(devices(&desk, "ob"));
    assert_eq!(made.len(), COUNT + 2 + met);
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
    let line = format!("{all} --from A0001 --count {COUNT}");
    let batch = begin(&desk, &line, "devices");
    let met = until_it_ends(batch, |met| {
        let one = format!("{all} --serial X{met} --no-qr");
        desk.run(&words(&one)).ended_with(0);
    });
    let made = devices(&desk, "devices");
    assert_eq!(made.len(), COUNT + met, "and nothing else is there");
    let lines = desk.read("devices/enrol.ndjson");
    assert_eq!(lines.lines().count(), made.len());
}
