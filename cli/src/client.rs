//! How is the registry spoken to? HTTPS with a client certificate, and only one CA that is
//! trusted.

use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{fmt, fs};

use jiff::SignedDuration;
use medbind_core::certificate::PeerCertificate;
use medbind_core::identity::DeviceId;
use medbind_core::time::Timestamp;
use reqwest::header::{CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use reqwest::{
    Certificate, Client, Identity, Method, RequestBuilder, Response, StatusCode, Url, tls,
};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use serde_json::Value;

use crate::args::Global;
use crate::failure::Failure;
use crate::output::put;

/// Where `medbind serve` listens unless it is told otherwise.
pub const DEFAULT_REGISTRY: &str = "https://localhost:8443";
/// The media type of one JSON value a line.
pub const NDJSON: &str = "application/x-ndjson";

/// A registry, and the credentials to speak to it.
#[derive(Clone, Debug)]
pub struct Registry {
    client: Client,
    base: Base,
    /// Where the credentials are, and from when to when their certificate is valid.
    dir: PathBuf,
    validity: Option<(Timestamp, Timestamp)>,
}

/// The address of a registry, shown as it is typed.
#[derive(Clone, Debug)]
struct Base(Url);

impl fmt::Display for Base {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.as_str().trim_end_matches('/'))
    }
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
        let own = CertificateDer::from_pem_slice(&pair).ok();
        let own = own.and_then(|own| PeerCertificate::parse_der(&own).ok());
        Ok(Self {
            client,
            base: Base(base),
            dir: dir.to_owned(),
            validity: own.map(|own| (own.not_before(), own.not_after())),
        })
    }

    /// A request to `path` (escaped, from the root).
    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let mut url = self.base.0.clone();
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
        let wait = response.headers().get(RETRY_AFTER);
        let wait: Option<u64> = wait.and_then(|seconds| seconds.to_str().ok()?.parse().ok());
        let body = response.bytes().await.unwrap_or_default();
        let problem: Value = serde_json::from_slice(&body).unwrap_or_default();
        Err(self.refused(status, wait, &problem))
    }

    /// The registry answered that it does not do it.
    fn refused(&self, status: StatusCode, wait: Option<u64>, problem: &Value) -> Failure {
        let code = problem["code"].as_str();
        if code == Some("certificate_expired") {
            return self.certificate_not_valid().code(code);
        }
        let detail = problem["detail"].as_str();
        let said = match code {
            Some("unknown_device") => Some("it has no such device"),
            Some("internal") => Some("something failed in it"),
            Some("stopping") => Some("it is being stopped"),
            Some("unhealthy") => Some("its database does not answer"),
            Some(_) => detail.or(problem["title"].as_str()),
            None => detail,
        };
        let (base, number) = (&self.base, status.as_u16());
        let mut what = match said {
            Some(said) => format!("the registry at {base} refuses: {said}"),
            None => format!("{base} answers with an error that is not the registry's"),
        };
        let code_said = code.map_or_else(String::new, |code| format!("{code}, "));
        put!(what, " ({code_said}status {status})");
        let next = match (code, number) {
            (Some("claim_refused"), _) => {
                "compare code and secret with the label; a device that is claimed already must be \
                 released first"
            }
            (None, _) => {
                "is --registry the address of `medbind serve` itself? Something else answers there, \
                 or in between"
            }
            (Some("unknown_device"), _) => "see `medbind list` for the devices that are enrolled",
            (_, 400 | 413 | 415) => "mend what it names, and send it again",
            (_, 401 | 403) => {
                "are these an operator's credentials? DATA_DIR/operator of the registry holds some, \
                 `medbind ca issue --operator` makes others"
            }
            (_, 404 | 405) => "are registry and command of the same version?",
            (_, 408) => {
                "see with `medbind show DEVICE` whether it was done, and else send it again"
            }
            (_, 409) => "see `medbind show DEVICE` for where it stands",
            (_, 429) => "try again, with code and secret as they stand on the label",
            (Some("busy"), _) => "nothing was changed: try again",
            (_, 503) => {
                "nothing was changed: try again once it is up; its own log, of `medbind serve`, says \
                 why it is not"
            }
            (_, 507) => "free some space on the registry's disk, then send it again",
            (_, 500..) => {
                "its own log, of `medbind serve`, says what; `medbind show DEVICE` says whether the \
                 change was made"
            }
            _ => "see the log of `medbind serve`",
        };
        // Busy, stopping and full are answered before anything is done.
        let in_doubt = match number {
            503 | 507 => code.is_none(),
            408 | 500.. => true,
            _ => false,
        };
        let failure = Failure::refused(what)
            .code(code)
            .retry_after(wait)
            .perhaps_done(in_doubt);
        match wait {
            Some(seconds) => {
                let wait = SignedDuration::from_secs(i64::try_from(seconds).unwrap_or(i64::MAX));
                failure.next(format_args!("wait {wait:#} (Retry-After); {next}"))
            }
            None => failure.next(next),
        }
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
        .perhaps_done(true)
    }

    /// The registry says itself why it stopped in the middle of an import.
    pub fn stopped_reading(&self, why: &str) -> Failure {
        Failure::refused(format_args!(
            "the registry at {} stopped in the middle of the enrolment: {why}",
            self.base
        ))
        .next("mend that (its own log, of `medbind serve`, may say more)")
    }

    /// The registry did not answer, or not to the end.
    pub fn failed(&self, error: &reqwest::Error) -> Failure {
        let why = innermost(error);
        // With TLS 1.3 the connection stands before the registry has looked at our certificate.
        let connected = !error.is_connect();
        let its_certificate = why.contains("invalid peer certificate");
        let alert = why.contains("alert");
        if why.contains("alert: CertificateExpired")
            || ((connected || alert) && !its_certificate && !self.is_valid())
        {
            return self.certificate_not_valid();
        }
        let what = if connected {
            format!("the connection to {} was lost: {why}", self.base)
        } else {
            format!("cannot connect to {}: {why}", self.base)
        };
        let failure = Failure::refused(what).perhaps_done(connected && !its_certificate && !alert);
        if why.contains("certificate expired") {
            failure.next(
                "is this machine's clock right? If it is, the registry's certificate has ended, and \
                 `medbind ca show DATA_DIR/infra-ca DATA_DIR/server` says whether its CA has, too. \
                 If so: medbind ca renew DATA_DIR/infra-ca. If not, where the CA's key is: medbind \
                 ca issue DATA_DIR/server --ca DATA_DIR/infra-ca --renew",
            )
        } else if why.contains("not valid yet") {
            failure.next(
                "is this machine's clock right? If it is, the registry's certificate was made by a \
                 clock that ran ahead, and `medbind ca show DATA_DIR/infra-ca DATA_DIR/server` says \
                 whether its CA was, too. If so, first: medbind ca renew DATA_DIR/infra-ca. Then, \
                 where the CA's key is: medbind ca issue DATA_DIR/server --ca DATA_DIR/infra-ca \
                 --renew",
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
        } else if alert {
            failure.next("does the registry know the certificate in --credentials?")
        } else if connected {
            failure.next(format_args!(
                "is `medbind serve` still running, and is the certificate in {} of its \
                 infrastructure CA? A change may have been made all the same: `medbind show` says",
                self.dir.display()
            ))
        } else {
            failure.next("is `medbind serve` running? set --registry")
        }
    }

    /// Whether our own certificate is valid, by this machine's clock.
    fn is_valid(&self) -> bool {
        let now = now();
        self.validity
            .is_none_or(|(begin, end)| begin <= now && now <= end)
    }

    /// The registry lets nobody in with a certificate that has ended, or has not begun: TLS has one
    /// word for both.
    fn certificate_not_valid(&self) -> Failure {
        let (dir, base) = (self.dir.display(), &self.base);
        let (why, next) = not_valid(self.validity, now());
        Failure::refused(format_args!(
            "the registry at {base} does not take the certificate in {dir}: {why}"
        ))
        .next(format_args!(
            "{next}, where the infrastructure CA is: medbind ca issue {dir} --ca \
             DATA_DIR/infra-ca --renew"
        ))
    }
}

fn now() -> Timestamp {
    Timestamp::from_unix_seconds(jiff::Timestamp::now().as_second())
}

/// Why a certificate that is valid from and to these times is not taken, and when it is to be made
/// again.
fn not_valid(validity: Option<(Timestamp, Timestamp)>, now: Timestamp) -> (String, &'static str) {
    match validity {
        Some((begin, _)) if now < begin => (
            format!("it is not valid before {begin}"),
            "is this machine's clock right? If it is, the certificate was made by a clock that ran \
             ahead, and `medbind ca show DATA_DIR/infra-ca` says whether its CA was, too. If so, \
             first: medbind ca renew DATA_DIR/infra-ca. Then renew the certificate",
        ),
        Some((_, end)) if end < now => (format!("it ended at {end}"), "renew it"),
        Some((begin, end)) => (
            format!("by the registry's clock it is not valid, which it is from {begin} to {end}"),
            "are the clocks of the registry and of this machine right? If they are, renew it",
        ),
        None => (
            "by the registry's clock it is not valid".to_owned(),
            "renew it",
        ),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_that_is_not_taken_is_said_to_have_ended_only_where_it_has() {
        let [begin, end] = [1_000, 2_000].map(Timestamp::from_unix_seconds);
        for (now, words, next) in [
            (
                999,
                "it is not valid before 1970-01-01T00:16:40Z",
                "ran ahead",
            ),
            (1_500, "by the registry's clock it is not valid", "clocks"),
            (2_001, "it ended at 1970-01-01T00:33:20Z", "renew it"),
        ] {
            let now = Timestamp::from_unix_seconds(now);
            let (why, mend) = not_valid(Some((begin, end)), now);
            assert!(why.contains(words) && mend.contains(next), "{why}; {mend}");
        }
    }
}
