//! A device, or who takes itself for one: TLS with a certificate of its own, HTTP/1.1 or HTTP/2,
//! and raw octets where no library would send them.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use futures_util::StreamExt;
use http::{HeaderMap, Request, StatusCode, Version};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::client::{ResolvesClientCert, Resumption};
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::sign::CertifiedKey;
use rustls::{
    ClientConfig, HandshakeKind, RootCertStore, SignatureScheme, SupportedProtocolVersion,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::certificate::{Authority, Identity};
use crate::upstream::Saw;

/// How long any one step may take before it counts as failed.
pub const LIMIT: Duration = Duration::from_secs(20);

/// The body of a request.
pub type Body = UnsyncBoxBody<Bytes, std::io::Error>;

/// Which HTTP?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1.1 (RFC 9112).
    Http1,
    /// HTTP/2 (RFC 9113).
    Http2,
}

/// Shows a certificate whatever the server asks for, and whether or not rustls likes it.
#[derive(Debug)]
struct Show(Option<Arc<CertifiedKey>>);

impl ResolvesClientCert for Show {
    fn resolve(
        &self,
        _issuers: &[&[u8]],
        _schemes: &[SignatureScheme],
    ) -> Option<Arc<CertifiedKey>> {
        self.0.clone()
    }

    fn has_certs(&self) -> bool {
        self.0.is_some()
    }
}

/// Who calls, and how.
#[derive(Clone)]
pub struct Client {
    address: SocketAddr,
    server_name: String,
    protocol: Protocol,
    tls: ClientConfig,
}

impl Client {
    /// A caller of the server at `address`, whose certificate is of `authority` and for
    /// `server_name`. It shows `identity`, takes HTTP/1.1, and resumes TLS sessions.
    pub fn new(
        address: SocketAddr,
        server_name: &str,
        authority: &Authority,
        identity: Option<&Identity>,
    ) -> Result<Self> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from(authority.der().to_vec()))?;
        Ok(Self {
            address,
            server_name: server_name.to_owned(),
            protocol: Protocol::Http1,
            tls: Self::config(roots, rustls::DEFAULT_VERSIONS, identity)?,
        })
    }

    fn config(
        roots: RootCertStore,
        versions: &[&'static SupportedProtocolVersion],
        identity: Option<&Identity>,
    ) -> Result<ClientConfig> {
        let key = identity.map(Identity::certified_key).transpose()?;
        let mut config =
            ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
                .with_protocol_versions(versions)?
                .with_root_certificates(roots)
                .with_client_cert_resolver(Arc::new(Show(key)));
        config.resumption = Resumption::in_memory_sessions(64);
        config.enable_early_data = true;
        Ok(config)
    }

    /// The same caller with TLS of one version alone.
    pub fn with_tls(
        mut self,
        version: &'static SupportedProtocolVersion,
        authority: &Authority,
        identity: Option<&Identity>,
    ) -> Result<Self> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from(authority.der().to_vec()))?;
        self.tls = Self::config(roots, &[version], identity)?;
        Ok(self)
    }

    /// The same caller with this HTTP.
    #[must_use]
    pub fn with_protocol(mut self, protocol: Protocol) -> Self {
        self.protocol = protocol;
        self
    }

    /// Makes a TLS connection.
    pub async fn connect_tls(&self, protocol: &[u8]) -> Result<TlsStream<TcpStream>> {
        let mut tls = self.tls.clone();
        tls.alpn_protocols = vec![protocol.to_vec()];
        let stream = timeout(LIMIT, TcpStream::connect(self.address)).await??;
        stream.set_nodelay(true)?;
        let name = ServerName::try_from(self.server_name.clone())?;
        Ok(timeout(
            LIMIT,
            TlsConnector::from(Arc::new(tls)).connect(name, stream),
        )
        .await??)
    }

    /// Makes a connection for requests.
    pub async fn connect(&self) -> Result<Connection> {
        let alpn: &[u8] = match self.protocol {
            Protocol::Http1 => b"http/1.1",
            Protocol::Http2 => b"h2",
        };
        let stream = self.connect_tls(alpn).await?;
        let (_, session) = stream.get_ref();
        let resumed = session.handshake_kind() == Some(HandshakeKind::Resumed);
        let early_data = session.is_early_data_accepted();
        let stream = TokioIo::new(stream);
        let (sender, driver) = match self.protocol {
            Protocol::Http1 => {
                let (sender, connection) = http1::handshake(stream).await?;
                let driver = tokio::spawn(async move {
                    let _ = connection.with_upgrades().await;
                });
                (Sender::Http1(sender), driver)
            }
            Protocol::Http2 => {
                let (sender, connection) = http2::handshake(TokioExecutor::new(), stream).await?;
                let driver = tokio::spawn(async move {
                    let _ = connection.await;
                });
                (Sender::Http2(sender), driver)
            }
        };
        Ok(Connection {
            sender,
            driver,
            authority: self.server_name.clone(),
            resumed,
            early_data,
        })
    }

    /// Sends one request on a connection of its own.
    pub async fn send(&self, request: &Ask) -> Result<Answer> {
        self.connect().await?.send(request).await
    }

    /// Writes octets as they are on a new HTTP/1.1 connection, and reads one answer.
    pub async fn raw(&self, octets: &[u8]) -> Result<Answer> {
        let mut stream = self.connect_tls(b"http/1.1").await?;
        stream.write_all(octets).await?;
        stream.flush().await?;
        let mut received = Vec::new();
        let mut buffer = vec![0; 16 * 1024];
        timeout(LIMIT, async {
            loop {
                if let Some(answer) = Answer::read(&received) {
                    return Ok(answer);
                }
                match stream.read(&mut buffer).await {
                    Ok(0) => bail!(
                        "the connection ended: {:?}",
                        String::from_utf8_lossy(&received)
                    ),
                    Ok(read) => received.extend_from_slice(buffer.get(..read).unwrap_or_default()),
                    Err(error) => return Err(error).context("the connection broke"),
                }
            }
        })
        .await?
    }
}

enum Sender {
    Http1(http1::SendRequest<Body>),
    Http2(http2::SendRequest<Body>),
}

/// A connection with a TLS session.
pub struct Connection {
    sender: Sender,
    driver: tokio::task::JoinHandle<()>,
    authority: String,
    /// Was the TLS session a resumed one?
    pub resumed: bool,
    /// Did the server take early data?
    pub early_data: bool,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl Connection {
    /// Sends one request and reads the whole answer.
    pub async fn send(&mut self, ask: &Ask) -> Result<Answer> {
        let response = self.start(ask, ask.whole_body()).await?;
        timeout(LIMIT, Answer::collect(response)).await?
    }

    /// Sends one request and returns as soon as the head of the answer is there.
    pub async fn start(&mut self, ask: &Ask, body: Body) -> Result<http::Response<Incoming>> {
        let mut request = Request::builder().method(ask.method.as_str());
        let authority = ask.authority.as_deref().unwrap_or(&self.authority);
        request = match self.sender {
            Sender::Http1(_) => request.uri(ask.path.as_str()).header("host", authority),
            Sender::Http2(_) => request
                .uri(format!("https://{authority}{}", ask.path))
                .version(Version::HTTP_2),
        };
        for (name, value) in &ask.headers {
            request = request.header(name.as_str(), value.as_str());
        }
        if !ask.trailers.is_empty() && matches!(self.sender, Sender::Http1(_)) {
            let names = ask
                .trailers
                .iter()
                .map(|(name, _)| name.as_str())
                .collect::<Vec<_>>();
            request = request.header("trailer", names.join(", "));
        }
        let request = request.body(body)?;
        let sending = async {
            match &mut self.sender {
                Sender::Http1(sender) => {
                    sender.ready().await?;
                    sender.send_request(request).await
                }
                Sender::Http2(sender) => {
                    sender.ready().await?;
                    sender.send_request(request).await
                }
            }
        };
        Ok(timeout(LIMIT, sending).await??)
    }
}

/// A request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ask {
    /// The method.
    pub method: String,
    /// The path with its query.
    pub path: String,
    /// The server name that is asked for, where it is another one than the connection's.
    pub authority: Option<String>,
    /// Header fields, in order, besides the host.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
    /// Trailer fields.
    pub trailers: Vec<(String, String)>,
}

impl Ask {
    /// A GET.
    pub fn get(path: impl Into<String>) -> Self {
        Self {
            method: "GET".to_owned(),
            path: path.into(),
            ..Self::default()
        }
    }

    /// A POST with a body.
    pub fn post(path: impl Into<String>, body: impl Into<Vec<u8>>) -> Self {
        Self {
            method: "POST".to_owned(),
            path: path.into(),
            body: body.into(),
            ..Self::default()
        }
    }

    /// The same with one header field more.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// The same with one trailer field more.
    #[must_use]
    pub fn trailer(mut self, name: &str, value: &str) -> Self {
        self.trailers.push((name.to_owned(), value.to_owned()));
        self
    }

    fn whole_body(&self) -> Body {
        if self.trailers.is_empty() {
            return Full::new(Bytes::from(self.body.clone()))
                .map_err(|never| match never {})
                .boxed_unsync();
        }
        let mut trailers = HeaderMap::new();
        for (name, value) in &self.trailers {
            if let (Ok(name), Ok(value)) = (
                http::HeaderName::try_from(name),
                http::HeaderValue::try_from(value),
            ) {
                trailers.append(name, value);
            }
        }
        let frames = [
            Ok(Frame::data(Bytes::from(self.body.clone()))),
            Ok(Frame::trailers(trailers)),
        ];
        StreamBody::new(futures_util::stream::iter(frames)).boxed_unsync()
    }
}

/// An answer.
#[derive(Clone, Debug, Default)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// Header fields.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
    /// Trailer fields.
    pub trailers: Vec<(String, String)>,
}

fn fields(headers: &HeaderMap) -> Vec<(String, String)> {
    let text = |value: &http::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    headers
        .iter()
        .map(|(name, value)| (name.as_str().to_owned(), text(value)))
        .collect()
}

impl Answer {
    /// Reads the rest of an answer.
    pub async fn collect(response: http::Response<Incoming>) -> Result<Self> {
        let (head, body) = response.into_parts();
        let body = body.collect().await?;
        let trailers = body.trailers().map(fields).unwrap_or_default();
        Ok(Self {
            status: head.status.as_u16(),
            headers: fields(&head.headers),
            body: body.to_bytes().to_vec(),
            trailers,
        })
    }

    /// Reads an HTTP/1.1 answer from octets, where it is complete.
    fn read(octets: &[u8]) -> Option<Self> {
        let end = octets.windows(4).position(|window| window == b"\r\n\r\n")?;
        let head = String::from_utf8_lossy(octets.get(..end)?).into_owned();
        let mut lines = head.split("\r\n");
        let status = lines.next()?.split(' ').nth(1)?.parse().ok()?;
        let headers = lines
            .filter_map(|line| line.split_once(':'))
            .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
            .collect();
        let mut answer = Self {
            status,
            headers,
            ..Self::default()
        };
        let rest = octets.get(end + 4..)?;
        if answer.header("transfer-encoding").is_some() {
            answer.body = unchunk(rest)?;
        } else {
            let length = answer
                .header("content-length")
                .and_then(|length| length.parse().ok())
                .unwrap_or(0);
            answer.body = rest.get(..length)?.to_vec();
        }
        Some(answer)
    }

    /// Reads an HTTP/1.1 answer whose body ends with the connection, or before.
    pub fn read_to_end(octets: &[u8]) -> Option<Self> {
        let mut answer = Self::read(octets)?;
        if answer.body.is_empty() && answer.header("transfer-encoding").is_none() {
            let end = octets.windows(4).position(|window| window == b"\r\n\r\n")?;
            answer.body = octets.get(end + 4..)?.to_vec();
        }
        Some(answer)
    }

    /// The first value of a header field.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(field, _)| field == name)
            .map(|(_, value)| value.as_str())
    }

    /// The deny code: of a problem document, or of a gRPC answer's message.
    pub fn code(&self) -> Option<String> {
        let problem = serde_json::from_slice::<serde_json::Value>(&self.body).ok();
        let code = problem
            .as_ref()
            .and_then(|problem| problem.get("code"))
            .and_then(|code| code.as_str());
        code.or_else(|| self.header("grpc-message"))
            .map(str::to_owned)
    }

    /// What the upstream saw, where it was the upstream that answered.
    pub fn saw(&self) -> Option<Saw> {
        serde_json::from_slice(&self.body).ok()
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// Was it a success?
    pub fn is_success(&self) -> bool {
        StatusCode::from_u16(self.status).is_ok_and(|status| status.is_success())
    }
}

fn unchunk(mut rest: &[u8]) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let end = rest.windows(2).position(|window| window == b"\r\n")?;
        let length =
            usize::from_str_radix(std::str::from_utf8(rest.get(..end)?).ok()?.trim(), 16).ok()?;
        rest = rest.get(end + 2..)?;
        if length == 0 {
            return Some(body);
        }
        body.extend_from_slice(rest.get(..length)?);
        rest = rest.get(length + 2..)?;
    }
}

/// How a stream of frames ended.
#[derive(Clone, Copy, Debug)]
pub struct Drained {
    /// The peer ended it, and did not break it off.
    pub clean: bool,
    /// When the last frame came.
    pub last: jiff::Timestamp,
}

/// Reads a stream of frames until the peer ends it or breaks it off.
pub async fn drain(body: Incoming) -> Drained {
    let mut frames = http_body_util::BodyStream::new(body);
    let mut last = jiff::Timestamp::now();
    while let Some(frame) = frames.next().await {
        if frame.is_err() {
            return Drained { clean: false, last };
        }
        last = jiff::Timestamp::now();
    }
    Drained { clean: true, last }
}
