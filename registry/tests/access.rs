//! Who may do what: every endpoint of the table, as everybody.
mod common;

use std::time::Duration;

use common::{Caller, Registry, config, identity, now};
use medbind_registry::pki::{
    CertificateAuthority, Credentials, LEAF_VALIDITY, PrivateKeyPem, Purpose,
};
use medbind_registry::role::Role;
use medbind_registry::{Access, start, table};
use reqwest::{Method, StatusCode, Version};
use serde_json::Value;

async fn code_of(caller: &Caller, method: &Method, path: &str) -> (StatusCode, String) {
    let path = path.replace("{device}", "acme:SN1");
    let mut request = caller.request(method.clone(), &path);
    if path == "/v1/devices" && *method == Method::POST {
        request = request.header("content-type", "application/x-ndjson");
    }
    let response = request.send().await.unwrap();
    let status = response.status();
    let body: Value =
        serde_json::from_slice(&response.bytes().await.unwrap()).unwrap_or(Value::Null);
    (status, body["code"].as_str().unwrap_or_default().to_owned())
}

#[tokio::test]
async fn every_endpoint_serves_whom_the_table_names_and_nobody_else() {
    let registry = Registry::new().await;
    let roleless = registry.issued(&Purpose::Client(Role::None));
    let callers = [
        ("none", registry.anonymous()),
        ("roleless", registry.with(&roleless)),
        ("edge", registry.edge()),
        ("operator", registry.operator()),
    ];
    let mut walked = 0;
    for (method, path, access) in table() {
        for (name, caller) in &callers {
            let (status, code) = code_of(caller, &method, path).await;
            let refused = match (access, *name) {
                (Access::Anyone, _)
                | (Access::Edge, "edge" | "operator")
                | (Access::Operator, "operator") => None,
                (_, "none") => Some((StatusCode::UNAUTHORIZED, "no_peer_certificate")),
                _ => Some((StatusCode::FORBIDDEN, "not_permitted")),
            };
            if let Some(refused) = refused {
                assert_eq!(
                    (status, code.as_str()),
                    refused,
                    "{method} {path} as {name}"
                );
            } else {
                let let_in = !matches!(status, StatusCode::UNAUTHORIZED)
                    && !matches!(code.as_str(), "not_permitted" | "not_found" | "internal");
                assert!(let_in, "{method} {path} as {name}: {status} {code}");
            }
            walked += 1;
        }
    }
    assert_eq!(walked, 18 * 4);
    for (name, caller) in &callers {
        let other = code_of(caller, &Method::DELETE, "/v1/devices/{device}").await;
        assert_eq!(
            other,
            (StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed".into()),
            "{name}"
        );
        let other = code_of(caller, &Method::GET, "/v1/nothing").await;
        assert_eq!(other, (StatusCode::NOT_FOUND, "not_found".into()), "{name}");
    }
}

#[tokio::test]
async fn a_strangers_certificate_gets_no_handshake() {
    let registry = Registry::new().await;
    let stranger = CertificateAuthority::generate("stranger", now()).unwrap();
    let role = Role::Operator("operator".parse().unwrap());
    let credentials = stranger
        .issue(&Purpose::Client(role), now(), LEAF_VALIDITY)
        .unwrap();
    let error = registry
        .with(&credentials)
        .request(Method::GET, "/healthz")
        .send()
        .await;
    assert!(error.is_err());
    // A server's certificate is no client's, and one that has ended is none at all.
    let server = registry.issued(&Purpose::Server(vec!["localhost".into()]));
    assert!(
        registry
            .with(&server)
            .request(Method::GET, "/healthz")
            .send()
            .await
            .is_err()
    );
    let past = medbind_core::time::Timestamp::from_unix_seconds(1_600_000_000);
    let role = Role::Edge("edge".parse().unwrap());
    let ended = registry
        .ca()
        .issue(&Purpose::Client(role), past, Duration::from_hours(1))
        .unwrap();
    assert!(
        registry
            .with(&ended)
            .request(Method::GET, "/healthz")
            .send()
            .await
            .is_err()
    );
    // A certificate of ours whose role cannot be read is let in to nothing.
    let two_roles = two_roles(&registry.ca());
    let (status, body) = registry.with(&two_roles).get("/v1/feed").await;
    let refused = (StatusCode::FORBIDDEN, &"not_permitted".into());
    assert_eq!((status, &body["code"]), refused);
    // Without any certificate there is an answer.
    let (status, _) = registry.anonymous().get("/healthz").await;
    assert_eq!(status, StatusCode::OK);
}

fn two_roles(ca: &CertificateAuthority) -> Credentials {
    let mut params = rcgen::CertificateParams::default();
    params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
    params.subject_alt_names = ["urn:medbind:edge:a", "urn:medbind:operator:a"]
        .map(|uri| rcgen::SanType::URI(uri.try_into().unwrap()))
        .into();
    let key = rcgen::KeyPair::generate().unwrap();
    Credentials {
        certificate_pem: params.signed_by(&key, ca.issuer()).unwrap().pem(),
        key_pem: PrivateKeyPem::new(key.serialize_pem()),
        ca_pem: ca.certificate_pem().to_owned(),
        not_after: ca.not_after(),
        shortened: false,
    }
}

#[tokio::test]
async fn both_versions_of_http_are_spoken_and_old_tls_is_not() {
    let registry = Registry::new().await;
    let url = format!("https://{}/healthz", registry.running.local_addr());
    let http2 = registry.builder().build().unwrap();
    assert_eq!(
        http2.get(&url).send().await.unwrap().version(),
        Version::HTTP_2
    );
    let http1 = registry.builder().http1_only().build().unwrap();
    assert_eq!(
        http1.get(&url).send().await.unwrap().version(),
        Version::HTTP_11
    );
    let role = Role::Edge("edge-2".parse().unwrap());
    let edge = registry.issued(&Purpose::Client(role));
    let tls12 = registry
        .builder()
        .identity(identity(&edge))
        .tls_version_max(reqwest::tls::Version::TLS_1_2)
        .build()
        .unwrap();
    let feed = format!("https://{}/v1/feed", registry.running.local_addr());
    assert_eq!(
        tls12.get(&feed).send().await.unwrap().status(),
        StatusCode::OK
    );
}

#[tokio::test]
async fn a_certificate_that_ends_during_a_connection_is_refused() {
    let registry = Registry::new().await;
    let role = Role::Edge("edge-3".parse().unwrap());
    let short = registry
        .ca()
        .issue(&Purpose::Client(role), now(), Duration::from_secs(2))
        .unwrap();
    let edge = registry.with(&short);
    assert_eq!(edge.get("/v1/edge/pseudonym-key").await.0, StatusCode::OK);
    tokio::time::sleep(Duration::from_secs(3)).await;
    let (status, body) = edge.get("/v1/edge/pseudonym-key").await;
    assert_eq!(
        (status, &body["code"]),
        (StatusCode::UNAUTHORIZED, &"certificate_expired".into())
    );
}

#[tokio::test]
async fn a_start_that_cannot_be_says_what_where_and_what_next() {
    let registry = Registry::new().await;
    let same_dir = start(config(&registry.dir)).await.unwrap_err().to_string();
    assert!(
        same_dir.contains("another registry") && same_dir.contains("stop it"),
        "{same_dir}"
    );
    let scratch = tempfile::tempdir().unwrap();
    let mut same_port = config(scratch.path());
    same_port.listen = registry.running.local_addr();
    let same_port = start(same_port).await.unwrap_err().to_string();
    assert!(same_port.contains("choose another port"), "{same_port}");
    let made: Vec<_> = std::fs::read_dir(scratch.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(
        made,
        ["registry.lock"],
        "nothing is made by a start that does not come far"
    );
    let mut named = config(scratch.path());
    named.server_names = vec!["no name".into()];
    let named = start(named).await.unwrap_err().to_string();
    assert!(named.contains("no name"), "{named}");
}

#[tokio::test]
async fn metrics_count_and_name_no_device() {
    let registry = Registry::new().await;
    let operator = registry.operator();
    operator.enrol(&common::devices(0..3)).await;
    operator.get("/v1/devices/acme:SN1").await;
    let text = operator
        .request(Method::GET, "/metrics")
        .send()
        .await
        .unwrap()
        .text()
        .await
        .unwrap();
    for line in [
        "medbind_registry_devices{state=\"unclaimed\"} 3",
        "medbind_registry_head_revision 3",
        "medbind_registry_requests_total{method=\"GET\",route=\"/v1/devices/{device}\",status=\"200\"} 1",
    ] {
        assert!(text.lines().any(|found| found == line), "{line} in\n{text}");
    }
    assert!(!text.contains("SN1"));
}

#[tokio::test]
async fn a_body_that_is_too_large_or_no_json_is_refused() {
    let registry = Registry::new().await;
    let operator = registry.operator();
    let huge = "x".repeat(100 << 10);
    let (status, body) = operator.claim(&huge, "x", "acc-1").await;
    assert_eq!(
        (status, &body["code"]),
        (StatusCode::PAYLOAD_TOO_LARGE, &"too_large".into())
    );
    let more =
        serde_json::json!({"code": "x", "secret": "HUSH", "account": "acc-1", "admin": true});
    let (status, body) = operator.post("/v1/claims", &more).await;
    assert_eq!(
        (status, &body["code"]),
        (StatusCode::BAD_REQUEST, &"invalid_request".into())
    );
    assert!(!body["detail"].as_str().unwrap().contains("HUSH"), "{body}");
    for (path, code) in [
        ("/v1/devices/acme:a%2Fb", "invalid_device"),
        ("/v1/devices/acme", "invalid_device"),
        ("/v1/devices?state=paused", "invalid_request"),
        ("/v1/devices?colour=red", "invalid_request"),
        ("/v1/feed?wait=25", "invalid_request"),
        ("/v1/feed?limit=-1", "invalid_request"),
    ] {
        let (status, body) = operator.get(path).await;
        assert_eq!(
            (status, &body["code"]),
            (StatusCode::BAD_REQUEST, &code.into()),
            "{path}"
        );
    }
}

#[test]
fn the_document_names_every_endpoint_and_whom_it_serves() {
    let document = include_str!("../../docs/api.md");
    for (method, path, access) in table() {
        let edge = if access == Access::Operator {
            "|"
        } else {
            "| yes |"
        };
        let row = format!("| `{method} {path}` {edge}");
        assert!(document.contains(&row), "{row}");
    }
    let rows = document
        .lines()
        .filter(|line| line.starts_with("| `") && line.contains(" /"));
    assert_eq!(rows.count(), table().count());
}

mod raw {
    //! Clients that stop in the middle.
    use std::sync::Arc;
    use std::time::Duration;

    use rustls_pki_types::pem::PemObject as _;
    use rustls_pki_types::{CertificateDer, ServerName};
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpStream;
    use tokio_rustls::TlsConnector;
    use tokio_rustls::client::TlsStream;

    use super::Registry;

    /// Connects without a certificate.
    pub async fn connect(registry: &Registry, protocol: Option<&[u8]>) -> TlsStream<TcpStream> {
        let ca = CertificateDer::from_pem_file(registry.dir.join("infra-ca/cert.pem")).unwrap();
        let mut roots = rustls::RootCertStore::empty();
        roots.add(ca).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = protocol.map(<[u8]>::to_vec).into_iter().collect();
        let stream = TcpStream::connect(registry.running.local_addr())
            .await
            .unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        let connector = TlsConnector::from(Arc::new(config));
        connector.connect(name, stream).await.unwrap()
    }

    /// Sends these octets, then nothing, and reads until the registry ends the connection.
    pub async fn wait_for_end(mut stream: TlsStream<TcpStream>, octets: &[u8]) -> Vec<u8> {
        stream.write_all(octets).await.unwrap();
        let mut answer = Vec::new();
        let read = stream.read_to_end(&mut answer);
        // An end without a goodbye is an end.
        let _ = tokio::time::timeout(Duration::from_mins(1), read)
            .await
            .expect("the connection is still open");
        answer
    }
}

#[tokio::test]
async fn who_shows_no_certificate_and_asks_nothing_is_let_go_of() {
    let registry = Registry::new().await.stop().await;
    let mut config = config(&registry.dir);
    config.anonymous_idle = Duration::from_millis(500);
    let registry = registry.start_with(config).await;
    let edge = registry.edge();
    assert_eq!(edge.get("/v1/feed").await.0, StatusCode::OK);
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    let settings = b"\x00\x00\x00\x04\x00\x00\x00\x00\x00";
    let (h2, h1) = (Some(b"h2".as_slice()), Some(b"http/1.1".as_slice()));
    for (what, protocol, octets) in [
        ("silence", None, Vec::new()),
        ("silence over HTTP/1", h1, Vec::new()),
        ("silence over HTTP/2", h2, Vec::new()),
        ("half a head", h1, b"GET /healthz HTTP/1.1\r\n".to_vec()),
        ("half a preface", h2, preface[..12].to_vec()),
        ("half a preface, unannounced", None, preface[..12].to_vec()),
        ("no request", h2, [&preface[..], settings].concat()),
    ] {
        let stream = raw::connect(&registry, protocol).await;
        let answer = raw::wait_for_end(stream, &octets).await;
        let answered = answer.windows(8).any(|part| part == b"HTTP/1.1");
        assert!(!answered || what.starts_with("half"), "{what}: {answer:?}");
    }
    // A request is answered, and the silence behind it has the same bound.
    let stream = raw::connect(&registry, h1).await;
    let asked = b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n";
    let answer = raw::wait_for_end(stream, asked).await;
    assert!(answer.starts_with(b"HTTP/1.1 200 OK\r\n"), "{answer:?}");
    // Whoever shows a certificate is not meant.
    assert_eq!(edge.get("/v1/feed").await.0, StatusCode::OK);
    let text = registry.operator().request(Method::GET, "/metrics");
    let text = text.send().await.unwrap().text().await.unwrap();
    let open = "medbind_registry_connections 2";
    assert!(text.lines().any(|line| line == open), "{text}");
}

#[tokio::test]
async fn who_connects_and_says_nothing_keeps_nobody_out() {
    let registry = Registry::new().await.stop().await;
    let mut config = config(&registry.dir);
    config.max_connections = 8;
    let registry = registry.start_with(config).await;
    let edge = registry.edge();
    assert_eq!(edge.get("/v1/feed").await.0, StatusCode::OK);
    let address = registry.running.local_addr();
    let mut silent = Vec::new();
    for _ in 0..40 {
        silent.push(tokio::net::TcpStream::connect(address).await.unwrap());
    }
    // A handshake is given up after ten seconds.
    let asked = registry.operator().request(Method::GET, "/metrics").send();
    let answered = tokio::time::timeout(Duration::from_secs(5), asked).await;
    let answered = answered.expect("it waits for the silent").unwrap();
    assert_eq!(edge.get("/v1/feed").await.0, StatusCode::OK);

    // No more of them were let go of than was needed, and nobody else.
    let text = answered.text().await.unwrap();
    for line in [
        "medbind_registry_connections 2",
        "medbind_registry_handshake_failures_total 34",
    ] {
        assert!(text.lines().any(|found| found == line), "{line} in\n{text}");
    }
    // Nor do they keep the registry from stopping.
    drop(edge);
    let stopped = tokio::time::timeout(Duration::from_secs(5), registry.stop()).await;
    assert!(stopped.is_ok(), "it waits for the silent");
}

#[tokio::test]
async fn most_connections_are_kept_for_those_who_show_a_certificate() {
    let registry = Registry::new().await.stop().await;
    let mut config = config(&registry.dir);
    config.max_connections = 8;
    config.anonymous_idle = Duration::from_mins(10);
    let registry = registry.start_with(config).await;
    let refused = |count: u32| format!("medbind_registry_connections_refused_total {count}");
    let operator = registry.operator();
    let metrics = async || {
        let request = operator.request(Method::GET, "/metrics");
        request.send().await.unwrap().text().await.unwrap()
    };
    let first = raw::connect(&registry, None).await;
    let second = raw::connect(&registry, None).await;
    for _ in 0..500 {
        if metrics().await.contains("medbind_registry_connections 3\n") {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(metrics().await.contains(&refused(0)));
    for _ in 0..3 {
        raw::wait_for_end(raw::connect(&registry, None).await, b"").await;
    }
    assert!(metrics().await.contains(&refused(3)));
    assert_eq!(registry.edge().get("/v1/feed").await.0, StatusCode::OK);
    drop((first, second));
}
