//! What a person is told where the registry does not do what it was asked: where, what, and what to
//! do next. Over real TLS, from a registry, and from one that answers as a sick one does.

mod common;

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use common::Desk;
use medbind_core::time::Timestamp;
use medbind_registry::Config;
use medbind_registry::pki::{CertificateAuthority, LEAF_VALIDITY, Purpose};
use medbind_registry::role::Role;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use serde_json::Value;

type Tls = StreamOwned<ServerConnection, TcpStream>;

fn now() -> Timestamp {
    Timestamp::from_unix_millis(jiff::Timestamp::now().as_millisecond())
}

fn operator() -> Purpose {
    Purpose::Client(Role::Operator("ann".parse().unwrap()))
}

/// A server that answers each request with `answer`, and an operator's desk before it.
fn desk_before(answer: impl Fn(Tls) + Send + 'static) -> Desk {
    desk_before_one_since(now(), answer)
}

/// The same; the server's certificate begins then.
fn desk_before_one_since(begin: Timestamp, answer: impl Fn(Tls) + Send + 'static) -> Desk {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let ca = CertificateAuthority::generate("test CA", now()).unwrap();
    let server = Purpose::Server(vec!["localhost".to_owned()]);
    let server = ca.issue(&server, begin, LEAF_VALIDITY).unwrap();
    let chain = CertificateDer::from_pem_slice(server.certificate_pem.as_bytes()).unwrap();
    let key = PrivateKeyDer::from_pem_slice(server.key_pem.expose().as_bytes()).unwrap();
    let tls = ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![chain], key)
        .unwrap();
    let tls = Arc::new(tls);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for socket in listener.incoming() {
            let socket = socket.unwrap();
            let limit = Some(Duration::from_secs(10));
            socket.set_read_timeout(limit).unwrap();
            let connection = ServerConnection::new(Arc::clone(&tls)).unwrap();
            let mut stream = StreamOwned::new(connection, socket);
            read_to(&mut stream, b"\r\n\r\n");
            answer(stream);
        }
    });
    let mut desk = Desk::new();
    let operator = ca.issue(&operator(), now(), LEAF_VALIDITY).unwrap();
    operator.save(&desk.path("operator")).unwrap();
    desk.set("MEDBIND_REGISTRY", &format!("https://localhost:{port}"));
    desk.set("MEDBIND_CREDENTIALS", "operator");
    desk
}

/// Reads until it ends so.
fn read_to(stream: &mut Tls, end: &[u8]) {
    let mut read = Vec::new();
    let mut octet = [0];
    while !read.ends_with(end) && stream.read_exact(&mut octet).is_ok() {
        read.extend(octet);
    }
}

/// Sends a whole answer, and lets the client read it.
fn send(mut stream: Tls, head: &str, body: &str) {
    let length = body.len();
    let answer = format!("HTTP/1.1 {head}\r\ncontent-length: {length}\r\n\r\n{body}");
    stream.write_all(answer.as_bytes()).unwrap();
    stream.flush().unwrap();
    stream.conn.send_close_notify();
    let _ = stream.conn.complete_io(&mut stream.sock);
    let _ = stream.sock.shutdown(Shutdown::Write);
    let _ = std::io::copy(&mut stream.sock, &mut std::io::sink());
}

fn problem(code: &str) -> String {
    format!(r#"{{"type":"urn:medbind:problem:{code}","title":"Words","status":0,"code":"{code}"}}"#)
}

#[test]
fn each_refusal_says_where_what_and_what_to_do_next() {
    for (head, body, expected) in [
        (
            "429 Too Many Requests\r\nretry-after: 300",
            problem("too_many_attempts"),
            ["too_many_attempts, status 429", "wait 5m (Retry-After)"],
        ),
        (
            "500 Internal Server Error",
            problem("internal"),
            [
                "something failed in it (internal, status 500",
                "its own log, of `medbind serve`",
            ],
        ),
        (
            "503 Service Unavailable\r\nretry-after: 7",
            problem("stopping"),
            [
                "it is being stopped (stopping, status 503",
                "wait 7s (Retry-After)",
            ],
        ),
        (
            "503 Service Unavailable\r\nretry-after: 5",
            problem("busy"),
            [
                "Words (busy, status 503",
                "wait 5s (Retry-After); nothing was changed: try again",
            ],
        ),
        (
            "507 Insufficient Storage",
            problem("storage_full"),
            [
                "storage_full, status 507",
                "free some space on the registry's disk",
            ],
        ),
        (
            "408 Request Timeout",
            problem("timed_out"),
            ["timed_out, status 408", "whether it was done"],
        ),
        (
            "401 Unauthorized",
            problem("certificate_expired"),
            [
                "does not take the certificate in operator",
                "medbind ca issue operator",
            ],
        ),
        // What is no registry, or stands before one.
        (
            "502 Bad Gateway",
            "<html>".to_owned(),
            [
                "an error that is not the registry's (status 502",
                "is --registry the address",
            ],
        ),
        (
            "404 Not Found",
            "{}".to_owned(),
            ["status 404", "is --registry the address"],
        ),
    ] {
        let answer = body.clone();
        let desk = desk_before(move |stream| send(stream, head, &answer));
        let suspend = ["suspend", "acme:SN1"];
        let told = desk.run(&suspend).ended_with(1).err;
        for words in expected.into_iter().chain(["https://localhost:", "next: "]) {
            assert!(told.contains(words), "{head}: {words:?} in {told}");
        }
        let told = desk
            .run(&[&suspend[..], &["--json"]].concat())
            .ended_with(1);
        let told: Value = serde_json::from_str(&told.err).unwrap();
        let code = serde_json::from_str::<Value>(&body).unwrap_or_default()["code"].clone();
        assert_eq!(told["code"], code, "{told}");
        let seconds = head.split_once("retry-after: ");
        let seconds = seconds.map(|(_, seconds)| seconds.parse::<u64>().unwrap());
        assert_eq!(told["retry_after"].as_u64(), seconds, "{told}");
        assert!(told["next"].is_string(), "{told}");
    }
}

#[test]
fn an_enrolment_that_is_cut_off_says_how_far_it_got_and_that_sending_again_is_safe() {
    let begin = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
    let full = r#"{"imported":5000,"rejected":1,"done":false,"error":"the disk is full"}"#;
    for (rest, expected) in [
        ("", "was lost"),
        ("0\r\n\r\n", "ends before its last line"),
        (
            &*format!("{:x}\r\n{full}\n\r\n0\r\n\r\n", full.len() + 1),
            "stopped in the middle of the enrolment: the disk is full",
        ),
    ] {
        let line = "{\"imported\":5000}\n";
        let bad = "{\"line\":7,\"error\":\"no class\"}\n";
        let chunk = format!("{:x}\r\n{line}{bad}\r\n", line.len() + bad.len());
        let answer = format!("{begin}{chunk}{rest}");
        let desk = desk_before(move |mut stream| {
            // What is left unread at the end would take the answer with it.
            read_to(&mut stream, b"\r\n0\r\n\r\n");
            stream.write_all(answer.as_bytes()).unwrap();
            stream.flush().unwrap();
            // Gone without a word, as one that is killed.
            drop(stream);
        });
        let ran = desk.run_with(&["enrol", "-"], "{}\n").ended_with(1);
        assert!(ran.out.starts_with("5000 enrolled"), "{}", ran.out);
        assert!(ran.out.ends_with(", as far as it got\n"), "{}", ran.out);
        for words in [
            "line 7: no class",
            "https://localhost:",
            expected,
            "send the same again, whole",
        ] {
            assert!(ran.err.contains(words), "{words:?} in {}", ran.err);
        }
        let ran = desk
            .run_with(&["enrol", "-", "--json"], "{}\n")
            .ended_with(1);
        assert_eq!(ran.json()["imported"], 5000);
        let told: Value = serde_json::from_str(&ran.err).unwrap();
        assert!(
            told["next"]
                .as_str()
                .unwrap()
                .contains("send the same again")
        );
    }
}

#[test]
fn an_export_that_is_cut_off_leaves_the_old_file_whole() {
    let desk = desk_before(|mut stream| {
        let answer = "HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n{\"kind\":\"binding\"}\n";
        stream.write_all(answer.as_bytes()).unwrap();
        stream.flush().unwrap();
    });
    desk.write("records/old.ndjson", "the last good one\n");
    let ran = desk
        .run(&["export", "-o", "records/old.ndjson"])
        .ended_with(1);
    for words in [
        "https://localhost:",
        "was lost",
        "records/old.ndjson is as it was",
    ] {
        assert!(ran.err.contains(words), "{words:?} in {}", ran.err);
    }
    assert_eq!(desk.read("records/old.ndjson"), "the last good one\n");
    let there = std::fs::read_dir(desk.path("records")).unwrap().count();
    assert_eq!(there, 1, "nothing is left beside it");
}

#[test]
fn an_export_that_is_interrupted_leaves_the_old_file_whole() {
    for (signal, status, left) in [("-INT", Some(1), 1), ("-KILL", None, 2)] {
        let desk = desk_before(|mut stream| {
            let answer = "HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n{\"kind\":\"binding\"}\n";
            stream.write_all(answer.as_bytes()).unwrap();
            stream.flush().unwrap();
            // The rest never comes.
            let _ = stream.read(&mut [0]);
        });
        desk.write("records/old.ndjson", "the last good one\n");
        let mut export = desk
            .command(&["export", "-o", "records/old.ndjson"])
            .stderr(std::process::Stdio::null())
            .spawn()
            .unwrap();
        let there = || std::fs::read_dir(desk.path("records")).unwrap();
        let has_begun = || there().any(|one| one.unwrap().metadata().unwrap().len() == 19);
        let mut looked = 0;
        while !has_begun() {
            assert!(looked < 10_000, "it writes nothing");
            looked += 1;
            std::thread::sleep(Duration::from_millis(1));
        }
        let id = export.id().to_string();
        let sent = std::process::Command::new("kill")
            .args([signal, &id])
            .status();
        assert!(sent.unwrap().success());
        assert_eq!(export.wait().unwrap().code(), status, "{signal}");
        assert_eq!(desk.read("records/old.ndjson"), "the last good one\n");
        assert_eq!(there().count(), left, "{signal}");
    }
}

#[test]
fn who_meets_a_registry_whose_certificate_is_not_valid_learns_what_makes_another() {
    let years = |count: u64| Duration::from_hours(count * 365 * 24);
    for (begin, words, not_said) in [
        (
            Timestamp::from_unix_seconds(1_600_000_000),
            &[
                "certificate has ended",
                "medbind ca show DATA_DIR/infra-ca DATA_DIR/server",
                "medbind ca renew DATA_DIR/infra-ca",
                "medbind ca issue DATA_DIR/server --ca DATA_DIR/infra-ca --renew",
            ][..],
            "ran ahead",
        ),
        (
            now().after(years(1)),
            &[
                "made by a clock that ran ahead",
                "medbind ca show DATA_DIR/infra-ca DATA_DIR/server",
                "medbind ca renew DATA_DIR/infra-ca",
                "medbind ca issue DATA_DIR/server --ca DATA_DIR/infra-ca --renew",
            ],
            "has ended",
        ),
    ] {
        let desk = desk_before_one_since(begin, |_| ());
        let ran = desk.run(&["list", "--json"]).ended_with(1);
        let why: Value = serde_json::from_str(&ran.err).unwrap();
        let next = why["next"].as_str().unwrap();
        for words in words.iter().chain(&["is this machine's clock right?"]) {
            assert!(next.contains(words), "{words:?} in {why}");
        }
        assert!(!next.contains(not_said), "{why}");
        assert!(!next.contains("started again"), "{why}");
    }
}

#[test]
fn an_operator_whose_certificate_has_ended_learns_which_and_since_when() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut desk = Desk::new();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let mut config = Config::new(desk.path("data"));
    config.listen = "127.0.0.1:0".parse().unwrap();
    let registry = runtime.block_on(medbind_registry::start(config)).unwrap();
    let port = registry.local_addr().port();
    desk.set("MEDBIND_REGISTRY", &format!("https://localhost:{port}"));
    let ca = CertificateAuthority::load(&desk.path("data/infra-ca")).unwrap();
    let begun = Timestamp::from_unix_seconds(1_600_000_000);
    let ended = ca
        .issue(&operator(), begun, Duration::from_hours(1))
        .unwrap();
    ended.save(&desk.path("ann")).unwrap();
    let list = ["list", "--credentials", "ann"];
    let ran = desk.run(&list).ended_with(1);
    for words in [
        &*format!("the registry at https://localhost:{port} does not take the certificate in ann"),
        "it ended at 2020-09-13T13:26:40Z",
        "medbind ca issue ann --ca DATA_DIR/infra-ca --renew",
    ] {
        assert!(ran.err.contains(words), "{words:?} in {}", ran.err);
    }
    let early = now().after(Duration::from_hours(48));
    let early = ca.issue(&operator(), early, LEAF_VALIDITY).unwrap();
    early.save(&desk.path("eve")).unwrap();
    let ran = desk.run(&["list", "--credentials", "eve"]).ended_with(1);
    for words in [
        "does not take the certificate in eve: it is not valid before",
        "made by a clock that ran ahead",
        "medbind ca issue eve --ca DATA_DIR/infra-ca --renew",
    ] {
        assert!(ran.err.contains(words), "{words:?} in {}", ran.err);
    }
    assert!(!ran.err.contains(" end"), "{}", ran.err);
    // One of another CA: neither side says more than that the connection is over.
    let stranger = CertificateAuthority::generate("stranger", now()).unwrap();
    let mut credentials = stranger.issue(&operator(), now(), LEAF_VALIDITY).unwrap();
    ca.certificate_pem().clone_into(&mut credentials.ca_pem);
    credentials.save(&desk.path("bob")).unwrap();
    let ran = desk.run(&["list", "--credentials", "bob"]).ended_with(1);
    assert!(
        ran.err
            .contains("is the certificate in bob of its infrastructure CA?")
            || ran.err.contains("does the registry know the certificate"),
        "{}",
        ran.err
    );
    // What it says to do helps.
    let renew = ["ca", "issue", "ann", "--ca", "data/infra-ca", "--renew"];
    desk.run(&renew).ended_with(0);
    desk.run(&list).ended_with(0);
    runtime.block_on(registry.shutdown());
}
