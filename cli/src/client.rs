//! How is the registry spoken to? HTTPS with a client certificate, and only one CA that is
//! trusted.

use std::fs;
use std::path::Path;
use std::time::Duration;

use medbind_core::identity::DeviceId;
use reqwest::header::{CONTENT_TYPE, HeaderValue};
use reqwest::{Certificate, Client, Identity, Method, RequestBuilder, Response, Url, tls};
use serde_json::Value;

use crate::args::Global;
use crate::failure::Failure;

/// Where `medbind serve` listens unless it is told otherwise.
pub const DEFAULT_REGISTRY: &str = "https://localhost:8443";
/// The media type of one JSON value a line.
pub const NDJSON: &str = "application/x-ndjson";

/// A registry, and the credentials to speak to it.
#[derive(Clone, Debug)]
pub struct Registry {
    client: Client,
    base: Url,
}

impl Registry {
    /// Reads the credentials; does not connect yet.
    pub fn new(global: &Global) -> Result<Self, Failure> {
        let base = address(
            "--registry",
            global.registry.as_deref().unwrap_or(DEFAULT_REGISTRY),
        )?;
        let dir = global.credentials.as_deref().ok_or_else(|| {
            Failure::usage("no credentials for the registry").next(
                "set --credentials or MEDBIND_CREDENTIALS to a directory with cert.pem, key.pem \
                 and ca.pem; `medbind serve` made one: DATA_DIR/operator",
            )
        })?;
        let mut pair = read(dir, "cert.pem")?;
        pair.push(b'\n');
        pair.extend(read(dir, "key.pem")?);
        let wrong = |file: &str, error: reqwest::Error| {
            let path = dir.join(file);
            Failure::usage(format_args!(
                "{} does not parse: {}",
                path.display(),
                innermost(&error)
            ))
        };
        let identity = Identity::from_pem(&pair).map_err(|error| wrong("cert.pem", error))?;
        let ca = Certificate::from_pem_bundle(&read(dir, "ca.pem")?)
            .map_err(|error| wrong("ca.pem", error))?;
        let client = Client::builder()
            .tls_certs_only(ca)
            .identity(identity)
            .tls_version_min(tls::Version::TLS_1_2)
            .https_only(true)
            .no_proxy()
            .connect_timeout(Duration::from_secs(10))
            .user_agent(concat!("medbind/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|error| {
                Failure::usage(format_args!(
                    "the credentials in {} cannot be used: {}",
                    dir.display(),
                    innermost(&error)
                ))
            })?;
        Ok(Self { client, base })
    }

    /// A request to `path` (escaped, from the root).
    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let mut url = self.base.clone();
        let (path, query) = match path.split_once('?') {
            Some((path, query)) => (path, Some(query)),
            None => (path, None),
        };
        url.set_path(path);
        url.set_query(query);
        self.client.request(method, url)
    }

    /// Sends; an answer that is no success is a failure, with what the registry said.
    pub async fn send(&self, request: RequestBuilder) -> Result<Response, Failure> {
        let response = request.send().await.map_err(|error| self.failed(&error))?;
        if response.status().is_success() {
            return Ok(response);
        }
        let status = response.status();
        let body = response.bytes().await.unwrap_or_default();
        let problem: Value = serde_json::from_slice(&body).unwrap_or_default();
        let code = problem["code"].as_str().unwrap_or_default();
        let said = match code {
            "unknown_device" => Some("it has no such device"),
            _ => problem["detail"].as_str().or(problem["title"].as_str()),
        };
        let what = match said {
            Some(said) => format!("the registry refuses: {said} ({code}, status {status})"),
            None => format!("the registry at {} answers {status}", self.base),
        };
        let failure = Failure::refused(what).code(code);
        Err(match (code, status.as_u16()) {
            ("claim_refused", _) => failure.next(
                "compare code and secret with the label; a device that is claimed already must be \
                 released first",
            ),
            (_, 404) if !code.is_empty() => {
                failure.next("see `medbind list` for the devices that are enrolled")
            }
            (_, 401 | 403) => failure.next("are these an operator's credentials?"),
            (_, 409) => failure.next("see `medbind show DEVICE` for where it stands"),
            _ => failure,
        })
    }

    /// Sends and reads one JSON value.
    pub async fn json(&self, request: RequestBuilder) -> Result<Value, Failure> {
        let response = self.send(request).await?;
        let body = response
            .bytes()
            .await
            .map_err(|error| self.failed(&error))?;
        serde_json::from_slice(&body).map_err(|error| self.unexpected(&error))
    }

    /// `POST` of a JSON object.
    pub async fn post(&self, path: &str, body: &Value) -> Result<Value, Failure> {
        self.json(self.with_json(Method::POST, path, body)).await
    }

    /// A request with a JSON body.
    pub fn with_json(&self, method: Method, path: &str, body: &Value) -> RequestBuilder {
        self.request(method, path)
            .header(CONTENT_TYPE, HeaderValue::from_static("application/json"))
            .body(body.to_string())
    }

    /// The registry did answer, but not in a way that this version understands.
    pub fn unexpected(&self, error: &dyn std::fmt::Display) -> Failure {
        Failure::refused(format_args!(
            "the answer of {} is not understood: {error}",
            self.base
        ))
        .next("are registry and command of the same version?")
    }

    /// The registry did not answer.
    pub fn failed(&self, error: &reqwest::Error) -> Failure {
        let why = innermost(error);
        let failure = Failure::refused(format_args!("cannot connect to {}: {why}", self.base));
        if why.contains("certificate expired") || why.contains("not valid yet") {
            failure.next(
                "is this machine's clock right? If it is, the registry's certificate has ended: \
                 `medbind serve` makes a new one when it is started again",
            )
        } else if why.contains("alert: CertificateExpired") {
            failure.next(
                "the certificate in --credentials has ended, or the registry's clock is wrong; \
                 renew it: medbind ca issue DIR --ca DATA_DIR/infra-ca --renew",
            )
        } else if why.contains("alert: UnsupportedCertificate") {
            failure.next(
                "the certificate in --credentials is no client's: use an operator's, such as \
                 DATA_DIR/operator",
            )
        } else if why.contains("UnknownIssuer") || why.contains("BadSignature") {
            failure.next("ca.pem of --credentials is not the CA of this registry")
        } else if why.contains("NotValidForName") {
            failure.next("start `medbind serve` with --server-name for the name in --registry")
        } else if why.contains("received fatal alert") || why.contains("peer closed") {
            failure.next("does the registry know the certificate in --credentials?")
        } else if error.is_connect() {
            failure.next("is `medbind serve` running? set --registry")
        } else {
            failure.next("see the log of `medbind serve`")
        }
    }
}

/// The path of a device in the operator API. A device's text is safe as a segment.
pub fn device_path(device: &DeviceId, action: &str) -> String {
    if action.is_empty() {
        format!("/v1/devices/{device}")
    } else {
        format!("/v1/devices/{device}/{action}")
    }
}

/// The last error of a chain: the one that says what happened.
fn innermost(error: &reqwest::Error) -> String {
    let mut last: &dyn std::error::Error = error;
    while let Some(source) = last.source() {
        last = source;
    }
    last.to_string()
}

/// The address of a TLS server, as an option names it: `https://` and nothing behind the port.
pub fn address(option: &str, text: &str) -> Result<Url, Failure> {
    let wrong = |why: &str| {
        Failure::usage(format_args!("{option} {text}: {why}"))
            .next("write it as https://name.example:8443")
    };
    let url = Url::parse(text).map_err(|error| wrong(&error.to_string()))?;
    if url.scheme() != "https" {
        return Err(wrong("it must begin with https://"));
    }
    if url.path() != "/" || url.query().is_some() || url.fragment().is_some() {
        return Err(wrong("no path, query or fragment may follow"));
    }
    Ok(url)
}

fn read(dir: &Path, name: &str) -> Result<Vec<u8>, Failure> {
    let path = dir.join(name);
    fs::read(&path).map_err(|error| {
        Failure::unreadable(&path, &error)
            .next("--credentials is a directory with cert.pem, key.pem and ca.pem")
    })
}
