//! A registry over real TLS on loopback, and clients of each role.
#![allow(dead_code, reason = "not every test file uses everything")]

use std::path::{Path, PathBuf};
use std::time::Duration;

use medbind_core::claim::{CODE_SYMBOLS, ClaimCode, ClaimSecret, SECRET_SYMBOLS};
use medbind_core::feed::{FeedPage, LookupAnswer};
use medbind_core::time::Timestamp;
use medbind_registry::pki::{CertificateAuthority, Credentials, LEAF_VALIDITY, Purpose};
use medbind_registry::{Config, Running, start};
use reqwest::{Certificate, Client, ClientBuilder, Identity, Method, RequestBuilder, StatusCode};
use serde_json::{Value, json};

/// A registry and where its data is.
pub struct Registry {
    pub running: Running,
    pub dir: PathBuf,
    scratch: Option<tempfile::TempDir>,
}

pub fn config(dir: &Path) -> Config {
    let mut config = Config::new(dir);
    config.listen = ([127, 0, 0, 1], 0).into();
    config
}

pub fn now() -> Timestamp {
    Timestamp::from_unix_millis(jiff::Timestamp::now().as_millisecond())
}

impl Registry {
    pub async fn new() -> Self {
        let scratch = tempfile::tempdir().unwrap();
        let mut registry = Self::open(&scratch.path().join("data")).await;
        registry.scratch = Some(scratch);
        registry
    }

    pub async fn open(dir: &Path) -> Self {
        let running = start(config(dir)).await.unwrap();
        Self {
            running,
            dir: dir.to_owned(),
            scratch: None,
        }
    }

    pub fn ca(&self) -> CertificateAuthority {
        CertificateAuthority::load(&self.dir.join("infra-ca")).unwrap()
    }

    pub fn builder(&self) -> ClientBuilder {
        // Fails where another test did it first.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let ca = std::fs::read(self.dir.join("infra-ca/cert.pem")).unwrap();
        Client::builder()
            .tls_certs_only([Certificate::from_pem(&ca).unwrap()])
            .https_only(true)
            .no_proxy()
            .timeout(Duration::from_mins(1))
    }

    fn caller(&self, builder: ClientBuilder) -> Caller {
        let client = builder.build().unwrap();
        Caller {
            client,
            base: format!("https://{}", self.running.local_addr()),
        }
    }

    pub fn anonymous(&self) -> Caller {
        self.caller(self.builder())
    }

    pub fn with(&self, credentials: &Credentials) -> Caller {
        self.caller(self.builder().identity(identity(credentials)))
    }

    pub fn with_files_of(&self, name: &str) -> Caller {
        let dir = self.dir.join(name);
        let mut pem = std::fs::read(dir.join("cert.pem")).unwrap();
        pem.extend(std::fs::read(dir.join("key.pem")).unwrap());
        self.caller(self.builder().identity(Identity::from_pem(&pem).unwrap()))
    }

    pub fn operator(&self) -> Caller {
        self.with_files_of("operator")
    }

    pub fn edge(&self) -> Caller {
        self.with_files_of("edge")
    }

    pub fn issued(&self, purpose: &Purpose) -> Credentials {
        self.ca().issue(purpose, now(), LEAF_VALIDITY).unwrap()
    }

    pub fn of(running: Running, dir: &Path) -> Self {
        Self {
            running,
            dir: dir.to_owned(),
            scratch: None,
        }
    }

    pub async fn stop(self) -> Stopped {
        let Self {
            running,
            dir,
            scratch,
        } = self;
        running.shutdown().await;
        Stopped { dir, scratch }
    }

    /// A stop and a start on the same data.
    pub async fn restart(self) -> Self {
        self.stop().await.start().await
    }
}

/// A registry's data, while none runs on it.
pub struct Stopped {
    pub dir: PathBuf,
    scratch: Option<tempfile::TempDir>,
}

impl Stopped {
    pub async fn start(self) -> Registry {
        let config = config(&self.dir);
        self.start_with(config).await
    }

    pub async fn start_with(self, config: Config) -> Registry {
        let running = start(config).await.unwrap();
        Registry {
            running,
            dir: self.dir,
            scratch: self.scratch,
        }
    }
}

pub fn identity(credentials: &Credentials) -> Identity {
    let pem = format!(
        "{}{}",
        credentials.certificate_pem,
        credentials.key_pem.expose()
    );
    Identity::from_pem(pem.as_bytes()).unwrap()
}

/// A client of one role.
#[derive(Clone)]
pub struct Caller {
    pub client: Client,
    pub base: String,
}

impl Caller {
    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.client.request(method, format!("{}{path}", self.base))
    }

    pub async fn get(&self, path: &str) -> (StatusCode, Value) {
        answer(self.request(Method::GET, path)).await
    }

    pub async fn post(&self, path: &str, body: &Value) -> (StatusCode, Value) {
        answer(self.request(Method::POST, path).json(body)).await
    }

    /// Acts on a device, without a body.
    pub async fn act(&self, device: &str, action: &str) -> (StatusCode, Value) {
        answer(self.request(Method::POST, &format!("/v1/devices/{device}/{action}"))).await
    }

    pub async fn claim(&self, code: &str, secret: &str, account: &str) -> (StatusCode, Value) {
        self.post(
            "/v1/claims",
            &json!({"code": code, "secret": secret, "account": account}),
        )
        .await
    }

    /// Imports a body, and gives the lines of the answer.
    pub async fn import(&self, content_type: &str, body: impl Into<reqwest::Body>) -> Vec<Value> {
        let request = self
            .request(Method::POST, "/v1/devices")
            .header("content-type", content_type);
        let response = request.body(body).send().await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        lines(&response.text().await.unwrap())
    }

    pub async fn enrol(&self, devices: &[Provisioned]) {
        let body = body_of(devices);
        let answer = self.import("application/x-ndjson", body).await;
        let last = answer.last().unwrap();
        assert_eq!(
            *last,
            json!({"imported": devices.len(), "rejected": 0, "done": true})
        );
    }

    pub async fn feed(&self, query: &str) -> FeedPage {
        let response = self
            .request(Method::GET, &format!("/v1/feed{query}"))
            .send()
            .await
            .unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(response.headers()["content-type"], "application/x-ndjson");
        FeedPage::parse(&response.bytes().await.unwrap(), 0).unwrap()
    }

    pub async fn lookup(&self, device: &str) -> LookupAnswer {
        let path = format!("/v1/feed/devices/{device}");
        let response = self.request(Method::GET, &path).send().await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        let device = device.parse().unwrap();
        LookupAnswer::parse(&response.bytes().await.unwrap(), &device).unwrap()
    }
}

pub fn lines(text: &str) -> Vec<Value> {
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

async fn answer(request: RequestBuilder) -> (StatusCode, Value) {
    let response = request.send().await.unwrap();
    let status = response.status();
    if !status.is_success() {
        assert_eq!(
            response.headers()["content-type"],
            "application/problem+json"
        );
    }
    let body = response.bytes().await.unwrap();
    (status, serde_json::from_slice(&body).unwrap_or(Value::Null))
}

/// A device before it is enrolled.
#[derive(Clone)]
pub struct Provisioned {
    pub device: String,
    pub code: ClaimCode,
    pub secret: ClaimSecret,
}

impl Provisioned {
    pub fn line(&self) -> String {
        json!({
            "device": self.device,
            "code": self.code,
            "secret_hash": self.secret.hash(),
            "class": "cgm",
        })
        .to_string()
    }

    pub fn code(&self) -> String {
        self.code.to_string()
    }

    pub fn secret(&self) -> String {
        self.secret.reveal().to_string()
    }
}

/// An import's body.
pub fn body_of(devices: &[Provisioned]) -> String {
    devices.iter().map(|device| device.line() + "\n").collect()
}

/// The `n`th device, always the same.
pub fn device(n: u32) -> Provisioned {
    let mut code = [0; CODE_SYMBOLS];
    let mut secret = [7; SECRET_SYMBOLS];
    for (place, octets) in n.to_be_bytes().into_iter().enumerate() {
        // Five bits of each octet are used.
        (code[2 * place], code[2 * place + 1]) = (octets >> 4, octets & 0xF);
        (secret[2 * place], secret[2 * place + 1]) = (octets >> 4, octets & 0xF);
    }
    Provisioned {
        device: format!("acme:SN{n}"),
        code: ClaimCode::from_entropy(code),
        secret: ClaimSecret::from_entropy(secret),
    }
}

pub fn devices(range: std::ops::Range<u32>) -> Vec<Provisioned> {
    range.map(device).collect()
}
