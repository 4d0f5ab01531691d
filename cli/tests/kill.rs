//! A registry that is killed in the middle of its work, or whose disk is full: what it acknowledged
//! is on disk. A command that is killed as it makes keys: what it leaves says of what it is.
//!
//! Of the kills: two rounds, and twenty where `MEDBIND_FULL` is set, as `cargo xtask test --full` does.

mod common;

use std::collections::BTreeSet;
use std::io::Write as _;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use common::{Desk, SERVE, Served};
use futures_util::StreamExt as _;
use medbind_core::claim::{CODE_SYMBOLS, ClaimCode, ClaimSecret, SECRET_SYMBOLS};
use medbind_registry::pki::CertificateAuthority;
use reqwest::{Body, Certificate, Client, Identity};
use serde_json::{Value, json};
use tokio::runtime::Runtime;

/// The devices that a round claims.
const CLAIMED: u32 = 60;
/// The devices that a round imports meanwhile: several transactions.
const IMPORTED: u32 = 20_000;
/// The devices that an import writes in one transaction.
const TRANSACTION: u32 = 5_000;

/// How long a round may bring nothing new: far longer than it takes anywhere.
const PATIENCE: Duration = Duration::from_mins(2);

/// A device before it is enrolled, the same for the same number.
struct Device {
    name: String,
    code: ClaimCode,
    secret: ClaimSecret,
}

impl Device {
    fn new(number: u32) -> Self {
        let mut code = [0; CODE_SYMBOLS];
        let mut secret = [7; SECRET_SYMBOLS];
        for (place, octet) in number.to_be_bytes().into_iter().enumerate() {
            (code[2 * place], code[2 * place + 1]) = (octet >> 4, octet & 0xF);
            (secret[2 * place], secret[2 * place + 1]) = (octet >> 4, octet & 0xF);
        }
        Self {
            name: format!("acme:SN{number}"),
            code: ClaimCode::from_entropy(code),
            secret: ClaimSecret::from_entropy(secret),
        }
    }

    fn line(&self) -> String {
        let (code, hash) = (&self.code, self.secret.hash());
        format!(
            "{}\n",
            json!({"device": self.name, "code": code, "secret_hash": hash, "class": "cgm"})
        )
    }
}

fn lines(numbers: std::ops::Range<u32>) -> String {
    numbers.map(|number| Device::new(number).line()).collect()
}

/// Its files may grow to a mebibyte and no further: writing fails, as on a disk that is full.
fn start_without_room(desk: &Desk) -> Served {
    let serve = desk.command(&SERVE);
    let mut limited = Command::new("bash");
    limited
        .args(["-c", "trap '' XFSZ; ulimit -S -f 1024; exec \"$0\" \"$@\""])
        .arg(serve.get_program())
        .args(serve.get_args())
        .current_dir(desk.path(""));
    Served::of(limited)
}

/// Ends a command by a signal where it first writes into a file; answers what it has left in the
/// directory.
fn killed_as_it_writes(desk: &Desk, line: &str, directory: &str) -> Vec<String> {
    let names = || {
        let there = std::fs::read_dir(desk.path(directory)).unwrap();
        let names = there.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.collect::<BTreeSet<_>>()
    };
    let before = names();
    let program = desk.command(&line.split_whitespace().collect::<Vec<_>>());
    let killed = Command::new("bash")
        .args(["-c", "ulimit -c 0 -f 0; exec \"$0\" \"$@\""])
        .arg(program.get_program())
        .args(program.get_args())
        .current_dir(desk.path(""))
        .output()
        .unwrap();
    assert_eq!(killed.status.code(), None, "{killed:?}");
    assert!(before.is_subset(&names()));
    names().difference(&before).cloned().collect()
}

/// Takes that limit away.
fn give_room(registry: &Served) {
    let given = Command::new("prlimit")
        .args(["--fsize=unlimited:unlimited", "--pid"])
        .arg(registry.id().to_string())
        .status();
    assert!(given.unwrap().success());
}

fn client(desk: &Desk) -> Client {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let file = |name: &str| desk.read(&format!("data/operator/{name}"));
    Client::builder()
        .tls_certs_only([Certificate::from_pem(file("ca.pem").as_bytes()).unwrap()])
        .identity(Identity::from_pem((file("cert.pem") + &file("key.pem")).as_bytes()).unwrap())
        .no_proxy()
        .build()
        .unwrap()
}

/// Sends an import; calls `acknowledged` with each count that the registry says is on disk.
/// Answers the last line, where it came.
async fn import(
    client: &Client,
    base: &str,
    body: impl Into<Body>,
    acknowledged: impl Fn(u64),
) -> Option<Value> {
    let request = client
        .post(format!("{base}/v1/devices"))
        .header("content-type", "application/x-ndjson")
        .body(body);
    let mut answer = request.send().await.ok()?.bytes_stream();
    let mut octets = Vec::new();
    while let Some(Ok(chunk)) = answer.next().await {
        octets.extend_from_slice(&chunk);
        while let Some(end) = octets.iter().position(|octet| *octet == b'\n') {
            let line: Vec<u8> = octets.drain(..=end).collect();
            let line: Value = serde_json::from_slice(&line).unwrap();
            if let Some(imported) = line["imported"].as_u64() {
                acknowledged(imported);
            }
            if line["done"].is_boolean() {
                return Some(line);
            }
        }
    }
    None
}

async fn claim(client: &Client, base: &str, device: &Device, account: &str) -> bool {
    let body = json!({"code": device.code, "secret": device.secret.reveal().to_string(), "account": account});
    let request = client.post(format!("{base}/v1/claims")).json(&body);
    request
        .send()
        .await
        .is_ok_and(|answer| answer.status().is_success())
}

/// What was acknowledged before the registry was killed.
#[derive(Default)]
struct Acknowledged {
    imported: u64,
    claims: BTreeSet<u32>,
}

/// When a round is interrupted: once both are acknowledged.
#[derive(Clone, Copy)]
struct Enough {
    claims: usize,
    imported: u32,
}

/// One round: claims one after the other while an import runs, and the registry is killed once
/// `enough` is acknowledged. The import's last line is held back until then: it is not at its end.
fn interrupted(
    runtime: &Runtime,
    registry: Served,
    client: &Client,
    first: u32,
    enough: Enough,
) -> Acknowledged {
    let seen = Arc::new(Mutex::new(Acknowledged::default()));
    let dead = Arc::new(AtomicBool::new(false));
    let base = registry.base();
    let (one_more, more) = mpsc::channel();
    let (killed, held_back) = tokio::sync::oneshot::channel::<()>();
    let importing = {
        let (client, base, seen) = (client.clone(), base.clone(), seen.clone());
        let one_more = one_more.clone();
        let last = first + CLAIMED + IMPORTED - 1;
        let begin = futures_util::stream::once(async move { lines(first + CLAIMED..last) });
        let end = futures_util::stream::once(async move {
            let _ = held_back.await;
            lines(last..last + 1)
        });
        let body = Body::wrap_stream(begin.chain(end).map(Ok::<_, std::convert::Infallible>));
        runtime.spawn(async move {
            import(&client, &base, body, |count| {
                seen.lock().unwrap().imported = count;
                let _ = one_more.send(());
            })
            .await
        })
    };
    let claiming = {
        let (client, seen, dead) = (client.clone(), seen.clone(), dead.clone());
        runtime.spawn(async move {
            for number in first..first + CLAIMED {
                if claim(
                    &client,
                    &base,
                    &Device::new(number),
                    &format!("acc-{number}"),
                )
                .await
                {
                    seen.lock().unwrap().claims.insert(number);
                    let _ = one_more.send(());
                }
                if dead.load(Ordering::SeqCst) {
                    break;
                }
            }
        })
    };
    loop {
        {
            let seen = seen.lock().unwrap();
            if seen.claims.len() >= enough.claims && seen.imported >= u64::from(enough.imported) {
                break;
            }
        }
        more.recv_timeout(PATIENCE)
            .expect("the registry does nothing more");
    }
    registry.kill();
    dead.store(true, Ordering::SeqCst);
    drop(killed);
    runtime.block_on(async {
        claiming.await.unwrap();
        importing.await.unwrap();
    });
    std::mem::take(&mut seen.lock().unwrap())
}

#[test]
fn what_was_acknowledged_is_there_after_a_kill_and_an_import_can_be_sent_again() {
    let rounds = if std::env::var_os("MEDBIND_FULL").is_some() {
        20
    } else {
        2
    };
    let runtime = Runtime::new().unwrap();
    let desk = Desk::new();
    let mut registry = Served::start(&desk);
    let client = client(&desk);
    let mut all_claims = BTreeSet::new();
    let mut within_an_import = 0;
    for round in 0..rounds {
        let first = round * (CLAIMED + IMPORTED) + 1;
        let claimed = lines(first..first + CLAIMED);
        let done = runtime
            .block_on(import(&client, &registry.base(), claimed, |_| ()))
            .unwrap();
        assert_eq!(
            (&done["imported"], &done["done"]),
            (&json!(CLAIMED), &json!(true))
        );

        // Sooner and later, so that it is killed in all parts of the import.
        let enough = Enough {
            claims: usize::try_from(1 + round * 7 % (CLAIMED - 1)).unwrap(),
            imported: round % (IMPORTED / TRANSACTION) * TRANSACTION,
        };
        let acknowledged = interrupted(&runtime, registry, &client, first, enough);
        assert!(acknowledged.claims.len() >= enough.claims);
        let parts = u64::from(enough.imported)..u64::from(IMPORTED);
        assert!(parts.contains(&acknowledged.imported));
        within_an_import += u32::from(acknowledged.imported > 0);
        println!(
            "round {round}: killed after {} claims and {} of {IMPORTED} lines",
            acknowledged.claims.len(),
            acknowledged.imported
        );
        all_claims.extend(acknowledged.claims.iter().copied());

        registry = Served::start(&desk);
        runtime.block_on(async {
            for number in &all_claims {
                let name = Device::new(*number).name;
                let shown = client
                    .get(format!("{}/v1/devices/{name}", registry.base()))
                    .send()
                    .await;
                let shown: Value = shown.unwrap().json().await.unwrap();
                assert_eq!(
                    shown["account"],
                    format!("acc-{number}"),
                    "round {round}: {shown}"
                );
            }
            let again = lines(first + CLAIMED..first + CLAIMED + IMPORTED);
            let done = import(&client, &registry.base(), again, |_| ())
                .await
                .unwrap();
            let count = |name: &str| done[name].as_u64().unwrap_or(0);
            assert_eq!(
                (count("rejected"), &done["done"]),
                (0, &json!(true)),
                "{done}"
            );
            assert_eq!(
                count("imported") + count("unchanged"),
                u64::from(IMPORTED),
                "{done}"
            );
            assert!(
                count("unchanged") >= acknowledged.imported,
                "round {round}: {done}"
            );
        });
    }
    assert!(within_an_import > 0, "no kill fell into an import");
    registry.kill();
}

#[test]
fn an_import_whose_registry_is_killed_says_how_far_it_got_and_goes_on_when_it_is_sent_again() {
    let runtime = Runtime::new().unwrap();
    let mut desk = Desk::new();
    let registry = Served::start(&desk);
    let client = client(&desk);
    desk.set("MEDBIND_CREDENTIALS", "data/operator");
    let enrol = ["enrol", "-", "--format", "ndjson", "--json", "--registry"];
    let base = registry.base();
    let mut importing = desk
        .command(&[&enrol[..], &[&base]].concat())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // More than one transaction, and the stream is not at its end.
    let devices = lines(1..7_001);
    let mut input = importing.stdin.take().unwrap();
    input.write_all(devices.as_bytes()).unwrap();
    input.flush().unwrap();
    let one = format!("{base}/v1/devices?limit=1");
    runtime.block_on(async {
        loop {
            let listed = client.get(&one).send().await.unwrap();
            let listed: Value = listed.json().await.unwrap();
            if listed["devices"][0].is_object() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    registry.kill();
    drop(input);
    let ended = importing.wait_with_output().unwrap();
    assert_eq!(ended.status.code(), Some(1), "{ended:?}");
    let told: Value = serde_json::from_slice(&ended.stdout).unwrap();
    // Its last word may have been lost with it.
    assert!(
        [0, 5_000].contains(&told["imported"].as_u64().unwrap()),
        "{told}"
    );
    let why: Value = serde_json::from_slice(&ended.stderr).unwrap();
    let error = why["error"].as_str().unwrap();
    assert!(
        error.contains("https://127.0.0.1:") && error.contains("was lost"),
        "{why}"
    );
    let next = why["next"].as_str().unwrap();
    assert!(next.contains("send the same again, whole"), "{why}");

    let registry = Served::start(&desk);
    let base = registry.base();
    let again = [&enrol[..], &[&base]].concat();
    let told = desk.run_with(&again, &devices).ended_with(0).json();
    let count = |name: &str| told[name].as_u64().unwrap();
    assert_eq!(count("imported") + count("unchanged"), 7_000, "{told}");
    assert!(count("unchanged") >= 5_000, "{told}");
    registry.kill();
}

#[test]
fn a_disk_that_was_full_takes_changes_again_once_there_is_room() {
    let runtime = Runtime::new().unwrap();
    let desk = Desk::new();
    let registry = start_without_room(&desk);
    let client = client(&desk);
    runtime.block_on(async {
        let few = import(&client, &registry.base(), lines(1..11), |_| ())
            .await
            .unwrap();
        assert_eq!(few["imported"], 10, "{few}");
        let many = import(&client, &registry.base(), lines(11..IMPORTED), |_| ())
            .await
            .unwrap();
        assert_eq!(many["done"], false, "{many}");
        let acknowledged = many["imported"].as_u64().unwrap();
        // What is there is shown, and fed.
        let shown = client
            .get(format!("{}/v1/devices/acme:SN1", registry.base()))
            .send()
            .await;
        assert_eq!(shown.unwrap().status(), 200);

        give_room(&registry);
        assert!(claim(&client, &registry.base(), &Device::new(1), "acc-1").await);
        let again = import(&client, &registry.base(), lines(11..IMPORTED), |_| ())
            .await
            .unwrap();
        assert_eq!(again["done"], true, "{again}");
        assert_eq!(
            again["unchanged"].as_u64().unwrap_or(0),
            acknowledged,
            "{again}"
        );
    });
    registry.kill();
}

#[test]
fn what_is_left_of_keys_is_named_after_what_was_made() {
    let desk = Desk::new();
    let now = medbind_core::time::Timestamp::from_unix_seconds(jiff::Timestamp::now().as_second());
    let infra = CertificateAuthority::generate("infrastructure", now).unwrap();
    infra.save(&desk.path("infra-ca")).unwrap();
    let issue = "ca issue ann --ca infra-ca --operator ann";
    for (line, directory, made) in [
        ("ca init device-ca --namespace acme", "", "device-ca"),
        (issue, "", "ann"),
        ("ca issue ann --ca infra-ca --renew", "ann", "key.pem"),
    ] {
        if line.ends_with("--renew") {
            desk.run(&issue.split(' ').collect::<Vec<_>>())
                .ended_with(0);
        }
        let left = killed_as_it_writes(&desk, line, directory);
        let [left] = &left[..] else {
            panic!("{line}: {left:?}");
        };
        let chance = left
            .strip_prefix(&format!("{made}."))
            .and_then(|rest| rest.strip_suffix(".half-written"));
        assert!(chance.is_some_and(|chance| chance.len() == 6), "{left}");
    }
}
