//! What becomes of the infrastructure's certificates while the registry runs.
mod common;

use std::io::Write;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::{Caller, Registry, config, identity, now};
use medbind_core::time::Timestamp;
use medbind_registry::pki::{
    CertificateAuthority, CertificateFacts, Credentials, LEAF_VALIDITY, Purpose,
};
use medbind_registry::role::Role;
use medbind_registry::start;
use reqwest::{Certificate, Method, StatusCode};

const DAY: Duration = Duration::from_hours(24);
/// Far longer than anything here takes.
const LIMIT: Duration = Duration::from_secs(30);

/// A registry that looks after its certificates all the time.
async fn registry(scratch: &Path) -> Registry {
    let dir = scratch.join("data");
    let mut config = config(&dir);
    config.look_every = Duration::from_millis(20);
    Registry::of(start(config).await.unwrap(), &dir)
}

async fn until<F: Future<Output = bool>>(what: &str, mut is_so: impl FnMut() -> F) {
    let looking = async {
        while !is_so().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let looked = tokio::time::timeout(LIMIT, looking).await;
    looked.unwrap_or_else(|_| panic!("not within {LIMIT:?}: {what}"));
}

fn operator() -> Purpose {
    Purpose::Client(Role::Operator("operator".parse().unwrap()))
}

fn server() -> Purpose {
    Purpose::Server(vec!["localhost".to_owned(), "127.0.0.1".to_owned()])
}

/// A certificate that has `left` of the usual time, and has lived the rest.
fn old(ca: &CertificateAuthority, purpose: &Purpose, left: Duration) -> Credentials {
    let lived = LEAF_VALIDITY.saturating_sub(left);
    let begun = now().unix_seconds() - i64::try_from(lived.as_secs()).unwrap();
    let begun = Timestamp::from_unix_seconds(begun);
    ca.issue(purpose, begun, LEAF_VALIDITY).unwrap()
}

/// The octets of the certificate that a new connection is answered with.
async fn shown(registry: &Registry) -> Vec<u8> {
    let client = registry.builder().tls_info(true).build().unwrap();
    let caller = Caller {
        client,
        base: format!("https://{}", registry.running.local_addr()),
    };
    let answer = caller.request(Method::GET, "/healthz").send().await;
    let answer = answer.unwrap();
    let info = answer.extensions().get::<reqwest::tls::TlsInfo>().unwrap();
    info.peer_certificate().unwrap().to_vec()
}

fn der(credentials: &Credentials) -> Vec<u8> {
    use rustls::pki_types::pem::PemObject as _;
    let pem = credentials.certificate_pem.as_bytes();
    rustls::pki_types::CertificateDer::from_pem_slice(pem)
        .unwrap()
        .to_vec()
}

async fn metric(caller: &Caller, name: &str) -> Option<i64> {
    let answer = caller.request(Method::GET, "/metrics").send().await;
    let text = answer.unwrap().text().await.unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    line.map(|value| value.trim().parse().unwrap())
}

#[tokio::test]
async fn a_servers_certificate_that_was_renewed_is_taken_up_while_connections_go_on() {
    let scratch = tempfile::tempdir().unwrap();
    let registry = registry(scratch.path()).await;
    let before = shown(&registry).await;
    let connected = registry.operator();
    assert_eq!(connected.get("/v1/devices").await.0, StatusCode::OK);

    // One that is half written is not taken up: certificate and key do not belong together.
    let new = registry
        .ca()
        .issue(&server(), now(), LEAF_VALIDITY)
        .unwrap();
    let dir = registry.dir.join("server");
    let key = std::fs::read(dir.join("key.pem")).unwrap();
    std::fs::write(dir.join("cert.pem"), &new.certificate_pem).unwrap();
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(shown(&registry).await, before);
    assert_ne!(key, new.key_pem.expose().as_bytes());

    new.replace(&dir).unwrap();
    let expected = der(&new);
    until("the new certificate is shown", async || {
        shown(&registry).await == expected
    })
    .await;
    assert_eq!(connected.get("/v1/devices").await.0, StatusCode::OK);
    let name = "medbind_registry_certificate_not_after_seconds{certificate=\"server\"}";
    let end = Some(new.not_after.unix_seconds());
    assert_eq!(metric(&connected, name).await, end);
}

#[tokio::test]
async fn the_registry_renews_its_own_certificate_in_its_last_month() {
    let scratch = tempfile::tempdir().unwrap();
    let registry = registry(scratch.path()).await;
    let ending = old(&registry.ca(), &server(), DAY * 20);
    ending.replace(&registry.dir.join("server")).unwrap();
    let path = registry.dir.join("server/cert.pem");
    let far = now().after(LEAF_VALIDITY.saturating_sub(DAY));
    until("the file holds a certificate for long", async || {
        let pem = std::fs::read_to_string(&path).unwrap();
        CertificateFacts::from_pem(&pem).is_ok_and(|facts| facts.not_after > far)
    })
    .await;
    let name = "medbind_registry_certificate_not_after_seconds{certificate=\"server\"}";
    until("it is answered with", async || {
        let end = metric(&registry.operator(), name).await;
        end.is_some_and(|end| end > far.unix_seconds())
    })
    .await;
    assert_ne!(shown(&registry).await, der(&ending));
}

/// What the log says.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    fn says(&self, what: &str) -> usize {
        String::from_utf8_lossy(&self.0.lock().unwrap())
            .matches(what)
            .count()
    }
}

impl Write for Log {
    fn write(&mut self, octets: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(octets)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn what_ends_is_said_once_with_what_to_do_and_is_a_metric() {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_ansi(false)
        .with_writer(move || writer.clone())
        .finish();
    let _here = tracing::subscriber::set_default(subscriber);
    let scratch = tempfile::tempdir().unwrap();
    let registry = registry(scratch.path()).await;
    assert_eq!(log.says("WARN"), 0);

    // An edge elsewhere, and the operator here, whose certificates end in three weeks.
    let (ca, dir) = (registry.ca(), &registry.dir);
    let left = DAY * 21;
    let edge = old(
        &ca,
        &Purpose::Client(Role::Edge("edge.example".parse().unwrap())),
        left,
    );
    let operator = old(&ca, &operator(), left);
    operator.replace(&dir.join("operator")).unwrap();
    registry.with(&edge).feed("").await;
    let here = format!(
        "operator/cert.pem ends at {}; renew it: medbind ca issue {} --ca {} --renew",
        operator.not_after,
        dir.join("operator").display(),
        dir.join("infra-ca").display()
    );
    let there = format!(
        "a certificate of edge:edge.example ends at {}; renew it where it is",
        edge.not_after
    );
    until("both are said", async || {
        log.says(&here) > 0 && log.says(&there) > 0
    })
    .await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!((log.says(&here), log.says(&there)), (1, 1));

    let caller = registry.operator();
    for (name, end) in [
        (
            "certificate_not_after_seconds{certificate=\"operator\"}",
            operator.not_after,
        ),
        (
            "client_certificate_not_after_seconds{client=\"edge:edge.example\"}",
            edge.not_after,
        ),
    ] {
        let name = format!("medbind_registry_{name}");
        assert_eq!(metric(&caller, &name).await, Some(end.unix_seconds()));
    }
    for name in ["infra-ca", "server", "edge"] {
        let name =
            format!("medbind_registry_certificate_not_after_seconds{{certificate=\"{name}\"}}");
        let end = metric(&caller, &name).await.unwrap();
        assert!(end > now().after(DAY * 800).unix_seconds(), "{name} {end}");
    }
    // A later start says it too.
    let registry = registry.restart().await;
    let warnings = registry.running.warnings();
    assert!(
        warnings.iter().any(|one| one.contains(&here)),
        "{warnings:?}"
    );
}

#[tokio::test]
async fn a_renewed_ca_cuts_nobody_off() {
    // Fails where another test did it first.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let scratch = tempfile::tempdir().unwrap();
    let registry = registry(scratch.path()).await;
    let (dir, ca) = (registry.dir.clone(), registry.ca());
    let old_ca = ca.certificate_pem().to_owned();
    let before = ca.issue(&operator(), now(), LEAF_VALIDITY).unwrap();
    let renewed = ca.renewed(now().after(DAY)).unwrap();
    assert!(renewed.not_after() > ca.not_after());
    renewed.replace(&dir.join("infra-ca")).unwrap();
    let registry = registry.restart().await;
    assert_ne!(registry.ca().certificate_pem(), old_ca);
    let after = registry.issued(&operator());
    assert_ne!(after.ca_pem, old_ca);
    for credentials in [&before, &after] {
        for ca in [&old_ca, &after.ca_pem] {
            let client = reqwest::Client::builder()
                .tls_certs_only([Certificate::from_pem(ca.as_bytes()).unwrap()])
                .identity(identity(credentials))
                .no_proxy()
                .build()
                .unwrap();
            let caller = Caller {
                client,
                base: format!("https://{}", registry.running.local_addr()),
            };
            assert_eq!(caller.get("/v1/devices").await.0, StatusCode::OK);
        }
    }
    // What is renewed from now on brings the new certificate along.
    let folder = dir.join("operator");
    assert_eq!(
        std::fs::read_to_string(folder.join("ca.pem")).unwrap(),
        old_ca
    );
    after.replace(&folder).unwrap();
    assert_eq!(
        std::fs::read_to_string(folder.join("ca.pem")).unwrap(),
        after.ca_pem
    );
    // But puts it over no other CA's.
    let other = CertificateAuthority::generate("another", now()).unwrap();
    std::fs::write(folder.join("ca.pem"), other.certificate_pem()).unwrap();
    after.replace(&folder).unwrap();
    assert_eq!(
        std::fs::read_to_string(folder.join("ca.pem")).unwrap(),
        other.certificate_pem()
    );
}

#[tokio::test]
async fn a_ca_that_takes_the_firsts_place_lets_its_own_in_while_the_registry_runs() {
    let scratch = tempfile::tempdir().unwrap();
    let registry = registry(scratch.path()).await;
    // They trust the server's certificate, which the first has signed.
    let ours = registry.operator();
    assert_eq!(ours.get("/v1/devices").await.0, StatusCode::OK);
    let other = CertificateAuthority::generate("another", now()).unwrap();
    let theirs = other.issue(&operator(), now(), LEAF_VALIDITY).unwrap();
    let first = registry.ca();
    let is_let_in = async || {
        let client = reqwest::Client::builder()
            .tls_certs_only([Certificate::from_pem(first.certificate_pem().as_bytes()).unwrap()])
            .identity(identity(&theirs))
            .no_proxy()
            .build();
        let base = format!("https://{}", registry.running.local_addr());
        let request = client.unwrap().get(format!("{base}/v1/devices"));
        let answer = request.send().await;
        answer.is_ok_and(|answer| answer.status() == StatusCode::OK)
    };
    assert!(!is_let_in().await);
    let dir = registry.dir.join("infra-ca");
    std::fs::remove_file(dir.join("key.pem")).unwrap();
    other.replace(&dir).unwrap();
    until("the other's operator is let in", is_let_in).await;
    // Who was let in before still is, on its connection.
    assert_eq!(ours.get("/v1/devices").await.0, StatusCode::OK);
}

#[tokio::test]
async fn a_certificate_that_does_not_parse_is_named() {
    let scratch = tempfile::tempdir().unwrap();
    let stopped = registry(scratch.path()).await.stop().await;
    let path = stopped.dir.join("server/cert.pem");
    std::fs::write(&path, "no certificate").unwrap();
    let error = start(config(&stopped.dir)).await.unwrap_err();
    assert!(error.is_configuration());
    assert!(error.to_string().contains("server/cert.pem"), "{error}");
}
