//! A small device service behind Envoy, which says and remembers what it saw.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Result;
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use http::header::{CONNECTION, CONTENT_TYPE, UPGRADE};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use http_body_util::{BodyExt, BodyStream, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper_util::rt::TokioIo;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::certificate::{Authority, Identity};
use crate::server::{self, Body, Server, Service};

/// The header by which a request is found again.
pub const REQUEST_HEADER: &str = "x-harness-request";

/// What the upstream saw of a request.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Saw {
    /// The method.
    pub method: String,
    /// The path with its query.
    pub path: String,
    /// `HTTP/1.1` or `HTTP/2.0`.
    pub version: String,
    /// All header fields, in order; octets that are no text are replaced.
    pub headers: Vec<(String, String)>,
    /// All trailer fields.
    pub trailers: Vec<(String, String)>,
    /// The length of the body in octets.
    pub octets: usize,
}

impl Saw {
    /// All values of a header field.
    pub fn all(&self, name: &str) -> Vec<&str> {
        let fields = self.headers.iter().filter(|(field, _)| field == name);
        fields.map(|(_, value)| value.as_str()).collect()
    }

    /// The value of a header field that is there once.
    pub fn one(&self, name: &str) -> Option<&str> {
        match self.all(name).as_slice() {
            [value] => Some(*value),
            _ => None,
        }
    }

    /// Every field, header or trailer, that belongs to medbind, or that an upstream would take
    /// for one of those.
    pub fn medbind_fields(&self) -> Vec<(&str, &str)> {
        let fields = self.headers.iter().chain(&self.trailers);
        fields
            .filter(|(name, _)| {
                name.to_ascii_lowercase()
                    .replace('_', "-")
                    .starts_with("x-medbind")
            })
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .collect()
    }
}

#[derive(Default)]
struct Memory {
    requests: Vec<Saw>,
    named: BTreeMap<String, usize>,
}

struct DeviceService {
    memory: Mutex<Memory>,
}

/// The running device service.
pub struct Upstream {
    server: Server,
    service: Arc<DeviceService>,
}

impl Upstream {
    /// Starts it, for edges with a certificate of `clients` alone.
    pub async fn start(identity: &Identity, clients: &Authority) -> Result<Self> {
        let tls = server::tls(identity, clients.der())?;
        Self::serve(SocketAddr::from(([127, 0, 0, 1], 0)), tls).await
    }

    /// Starts it at an address, with this TLS.
    pub async fn serve(address: SocketAddr, tls: rustls::ServerConfig) -> Result<Self> {
        let service = Arc::new(DeviceService {
            memory: Mutex::default(),
        });
        let server = Server::start(address, tls, service.clone()).await?;
        Ok(Self { server, service })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.server.address()
    }

    /// How many requests it saw.
    pub fn count(&self) -> usize {
        self.service
            .memory
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .requests
            .len()
    }

    /// What it saw of the request with this [`REQUEST_HEADER`].
    pub fn saw(&self, name: &str) -> Option<Saw> {
        let memory = self
            .service
            .memory
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        memory
            .named
            .get(name)
            .and_then(|position| memory.requests.get(*position))
            .cloned()
    }

    /// Forgets all requests.
    pub fn forget(&self) {
        *self
            .service
            .memory
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = Memory::default();
    }
}

fn fields(headers: &HeaderMap) -> Vec<(String, String)> {
    let text = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    headers
        .iter()
        .map(|(name, value)| (name.as_str().to_owned(), text(value)))
        .collect()
}

fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into())
        .map_err(|never| match never {})
        .boxed_unsync()
}

impl DeviceService {
    fn remember(&self, saw: &Saw) -> usize {
        let mut memory = self.memory.lock().unwrap_or_else(PoisonError::into_inner);
        memory.requests.push(saw.clone());
        let position = memory.requests.len() - 1;
        if let Some(name) = saw.one(REQUEST_HEADER) {
            memory.named.insert(name.to_owned(), position);
        }
        position
    }

    fn remember_body(&self, position: usize, saw: &Saw) {
        let mut memory = self.memory.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(there) = memory.requests.get_mut(position) {
            *there = saw.clone();
        }
    }
}

impl Service for DeviceService {
    /// Paths that end in `/silence`, and whatever has the query `silence`, are never answered, paths
    /// that end in `/events` are event streams, those that end in `/socket` are taken for
    /// `WebSocket`s and echo octets, gRPC requests get gRPC answers; everything else gets what was
    /// seen of it as JSON.
    async fn answer(self: Arc<Self>, mut request: Request<Incoming>) -> Response<Body> {
        let mut saw = Saw {
            method: request.method().to_string(),
            path: request
                .uri()
                .path_and_query()
                .map(ToString::to_string)
                .unwrap_or_default(),
            version: format!("{:?}", request.version()),
            headers: fields(request.headers()),
            ..Saw::default()
        };
        // Remembered before the body is there: a request whose body never ends was seen too.
        let position = self.remember(&saw);
        if request.uri().path().ends_with("/socket") && request.headers().contains_key(UPGRADE) {
            return socket(&mut request);
        }
        if request.uri().path().ends_with("/events") {
            return events();
        }
        if request.uri().path().ends_with("/silence") || request.uri().query() == Some("silence") {
            return std::future::pending().await;
        }
        let grpc = request
            .headers()
            .get(CONTENT_TYPE)
            .is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"));
        let mut received = BytesMut::new();
        let mut body = BodyStream::new(request.into_body());
        while let Some(Ok(frame)) = body.next().await {
            match frame.into_data() {
                Ok(data) => {
                    saw.octets += data.len();
                    if grpc {
                        received.extend_from_slice(&data);
                    }
                }
                Err(frame) => {
                    if let Ok(trailers) = frame.into_trailers() {
                        saw.trailers = fields(&trailers);
                    }
                }
            }
        }
        self.remember_body(position, &saw);
        if grpc {
            grpc_answer(received.freeze())
        } else {
            json_answer(&saw)
        }
    }
}

fn json_answer(saw: &Saw) -> Response<Body> {
    let mut response = Response::new(full(serde_json::to_vec(saw).unwrap_or_default()));
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// The message comes back as it is, and `grpc-status: 0` in the trailers.
fn grpc_answer(message: Bytes) -> Response<Body> {
    let trailers = HeaderMap::from_iter([(
        http::HeaderName::from_static("grpc-status"),
        HeaderValue::from_static("0"),
    )]);
    let frames = [Ok(Frame::data(message)), Ok(Frame::trailers(trailers))];
    let mut response =
        Response::new(StreamBody::new(futures_util::stream::iter(frames)).boxed_unsync());
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    response
}

/// An event every 20 ms, for ever.
fn events() -> Response<Body> {
    let events = futures_util::stream::unfold(0_u64, |number| async move {
        if number > 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Some((
            Ok(Frame::data(Bytes::from(format!("data: {number}\n\n")))),
            number + 1,
        ))
    });
    let mut response = Response::new(StreamBody::new(events).boxed_unsync());
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    response
}

fn socket(request: &mut Request<Incoming>) -> Response<Body> {
    let upgrade = hyper::upgrade::on(request);
    tokio::spawn(async move {
        let Ok(stream) = upgrade.await else { return };
        let mut stream = TokioIo::new(stream);
        let mut buffer = [0; 1024];
        while let Ok(read @ 1..) = stream.read(&mut buffer).await {
            let echo = buffer.get(..read).unwrap_or_default();
            if stream.write_all(echo).await.is_err() || stream.flush().await.is_err() {
                break;
            }
        }
    });
    let mut response = Response::new(full(Bytes::new()));
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    response
        .headers_mut()
        .insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    response
        .headers_mut()
        .insert(UPGRADE, HeaderValue::from_static("websocket"));
    response
}
