//! One worker of an Envoy that is none: contexts are opened and closed, answers delivered, as the
//! proxy does it.

use std::collections::BTreeMap;
use std::time::Duration;

use medbind_core::time::Timestamp;

use super::host::{FakeCall, FakeHost, StreamState, World};
use crate::guard::Flow;
use crate::host::{Host, LocalReply};
use crate::root::{Root, Stream};

const ROOT: u32 = 1;

/// Names a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamId(u32);

/// A request, and the session on which it comes.
#[derive(Clone, Debug, Default)]
pub struct FakeRequest {
    headers: Vec<(String, Vec<u8>)>,
    properties: BTreeMap<String, Vec<u8>>,
}

impl FakeRequest {
    /// A request in a session without a certificate.
    pub fn new(method: &str, path: &str) -> Self {
        Self::default()
            .header(":method", method)
            .header(":path", path)
            .header(":authority", "device.example")
            .header(":scheme", "https")
    }

    /// A CONNECT, which has no path.
    pub fn connect(authority: &str) -> Self {
        Self::default()
            .header(":method", "CONNECT")
            .header(":authority", authority)
    }

    /// One more header; its name is put in lower case, as the proxy does.
    #[must_use]
    pub fn header(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        self.headers
            .push((name.to_ascii_lowercase(), value.as_ref().to_vec()));
        self
    }

    /// A property of its stream, its path joined by dots.
    #[must_use]
    pub fn property(mut self, path: &str, value: impl AsRef<[u8]>) -> Self {
        self.properties
            .insert(path.to_owned(), value.as_ref().to_vec());
        self
    }

    /// In a session whose certificate is this one (DER), on a proxy that gives it.
    #[must_use]
    pub fn certificate(self, der: &[u8]) -> Self {
        self.handshake_of(der)
            .property("connection.peer_certificate", pem(der))
    }

    /// In a session whose certificate is this one (DER), on a proxy that gives no more than its
    /// digest.
    #[must_use]
    pub fn handshake_of(self, der: &[u8]) -> Self {
        let digest = medbind_core::certificate::CertificateDigest::of(der);
        self.property(
            "connection.sha256_peer_certificate_digest",
            digest.to_string(),
        )
    }

    /// With a token that `jwt_authn` has verified, its payload kept under `key`.
    #[must_use]
    pub fn token(self, key: &str, issuer: &str, subject: &str) -> Self {
        let path =
            |claim| format!("metadata.filter_metadata.envoy.filters.http.jwt_authn.{key}.{claim}");
        self.property(&path("iss"), issuer)
            .property(&path("sub"), subject)
    }

    /// With the end of that token, as Envoy hands a number over.
    #[must_use]
    pub fn token_ends(self, key: &str, at: Timestamp) -> Self {
        let seconds = Duration::from_millis(u64::try_from(at.unix_millis()).unwrap_or(0));
        let path = format!("metadata.filter_metadata.envoy.filters.http.jwt_authn.{key}.exp");
        self.property(&path, seconds.as_secs_f64().to_le_bytes())
    }
}

/// DER as PEM (RFC 7468), as the proxy hands it over.
pub fn pem(der: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for group in der.chunks(3) {
        let octets = [
            group[0],
            group.get(1).copied().unwrap_or(0),
            group.get(2).copied().unwrap_or(0),
        ];
        let bits = u32::from(octets[0]) << 16 | u32::from(octets[1]) << 8 | u32::from(octets[2]);
        for place in 0..4 {
            let digit = (bits >> (18 - 6 * place)) & 0x3F;
            text.push(if place <= group.len() {
                char::from(ALPHABET[usize::try_from(digit).unwrap_or(0)])
            } else {
                '='
            });
        }
    }
    let mut lines = String::from("-----BEGIN CERTIFICATE-----\n");
    let mut rest = text.as_str();
    while !rest.is_empty() {
        let (line, more) = rest.split_at(rest.len().min(64));
        lines.push_str(line);
        lines.push('\n');
        rest = more;
    }
    lines.push_str("-----END CERTIFICATE-----\n");
    lines
}

/// A local reply as the client reads it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeenReply {
    /// The HTTP status.
    pub status: u16,
    /// `grpc-status`, where it is a gRPC answer.
    pub grpc_status: Option<u8>,
    /// Headers beside the status.
    pub headers: Vec<(String, String)>,
    /// The content; for gRPC `grpc-message`.
    pub body: String,
}

impl From<&LocalReply<'_>> for SeenReply {
    fn from(reply: &LocalReply<'_>) -> Self {
        let owned = |headers: &[(&str, &str)]| {
            let pairs = headers.iter();
            pairs
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect()
        };
        match *reply {
            LocalReply::Http {
                status,
                headers,
                body,
            } => Self {
                status,
                grpc_status: None,
                headers: owned(headers),
                body: String::from_utf8_lossy(body).into_owned(),
            },
            LocalReply::Grpc {
                status,
                message,
                headers,
            } => Self {
                status: 200,
                grpc_status: Some(status),
                headers: owned(headers),
                body: message.to_owned(),
            },
        }
    }
}

impl SeenReply {
    /// A header's value.
    pub fn header(&self, name: &str) -> Option<&str> {
        let known = self.headers.iter().find(|(known, _)| known == name);
        known.map(|(_, value)| value.as_str())
    }

    /// The deny code: of the problem document, or the gRPC message.
    pub fn code(&self) -> Option<String> {
        if self.grpc_status.is_some() {
            return Some(self.body.clone());
        }
        let document: serde_json::Value = serde_json::from_str(&self.body).ok()?;
        Some(document.get("code")?.as_str()?.to_owned())
    }
}

/// Where a request stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It went on to the upstream, with these headers.
    Forwarded(Vec<(String, String)>),
    /// It was answered here.
    Answered(SeenReply),
    /// It waits.
    Paused,
    /// Its stream was reset.
    Reset,
}

impl Fate {
    /// The deny code of its answer.
    pub fn code(&self) -> Option<String> {
        match self {
            Self::Answered(reply) => reply.code(),
            Self::Forwarded(_) | Self::Paused | Self::Reset => None,
        }
    }

    /// The values that the upstream sees under a name; `None` where the request did not get there.
    pub fn upstream_saw(&self, name: &str) -> Option<Vec<String>> {
        let Self::Forwarded(headers) = self else {
            return None;
        };
        let values = headers.iter().filter(|(known, _)| known == name);
        Some(values.map(|(_, value)| value.clone()).collect())
    }

    /// Whether it went on to the upstream.
    pub const fn is_forwarded(&self) -> bool {
        matches!(self, Self::Forwarded(_))
    }
}

/// One worker with one plug-in. Where it is dropped, the host has let its root context go.
pub struct FakeEnvoy {
    host: FakeHost,
    root: Root<FakeHost>,
    streams: BTreeMap<u32, (Stream<FakeHost>, bool)>,
    next_context: u32,
}

impl FakeEnvoy {
    /// Starts a worker with this configuration; the log where it refuses.
    pub fn start(world: &World, configuration: &str) -> Result<Self, String> {
        Self::start_with(FakeHost::new(world), configuration)
    }

    /// Starts on a host that was prepared.
    pub fn start_with(host: FakeHost, configuration: &str) -> Result<Self, String> {
        host.configure(configuration.as_bytes());
        host.enter(ROOT);
        let mut root = Root::new(host.clone(), ROOT);
        if !root.on_configure() {
            return Err(host.log_lines().join("\n"));
        }
        Ok(Self {
            host,
            root,
            streams: BTreeMap::new(),
            next_context: ROOT + 1,
        })
    }

    /// Its VM traps, and takes with it what it holds: nothing of it ends in order.
    pub fn trap(self) {
        std::mem::forget(self);
    }

    /// Gives the same root context another configuration; whether it takes it.
    pub fn configure_again(&mut self, configuration: &str) -> bool {
        self.host.configure(configuration.as_bytes());
        self.host.enter(ROOT);
        self.root.on_configure()
    }

    /// Whether its configuration has these octets: then a host that is given them once more goes on
    /// with it as it is, and configures nothing.
    pub fn is_configured_by(&self, configuration: &str) -> bool {
        self.host.plugin_configuration() == Ok(Some(configuration.into()))
    }

    /// The host.
    pub const fn host(&self) -> &FakeHost {
        &self.host
    }

    /// The role.
    pub const fn root(&self) -> &Root<FakeHost> {
        &self.root
    }

    /// A request arrives.
    pub fn send(&mut self, request: &FakeRequest) -> StreamId {
        let context = self.next_context;
        self.next_context += 1;
        self.host.open(
            context,
            StreamState {
                headers: request.headers.clone(),
                properties: request.properties.clone(),
                ..StreamState::default()
            },
        );
        self.host.enter(context);
        let stream = self.root.open_stream(context);
        let flow = stream.on_request_headers();
        self.streams
            .insert(context, (stream, flow == Flow::Continue));
        StreamId(context)
    }

    /// A request arrives, and is over as soon as it went on or was answered.
    pub fn request(&mut self, request: &FakeRequest) -> Fate {
        let stream = self.send(request);
        let fate = self.fate(stream);
        if fate != Fate::Paused {
            self.end(stream);
        }
        fate
    }

    /// Where a request stands.
    pub fn fate(&self, stream: StreamId) -> Fate {
        let continued = self
            .streams
            .get(&stream.0)
            .is_some_and(|(_, continued)| *continued);
        let fate = self.host.stream(stream.0, |state| {
            if state.reset {
                Fate::Reset
            } else if let Some(reply) = &state.reply {
                Fate::Answered(reply.clone())
            } else if continued || state.resumed {
                let text = |value: &[u8]| String::from_utf8_lossy(value).into_owned();
                let headers = state.headers.iter();
                Fate::Forwarded(headers.map(|(name, v)| (name.clone(), text(v))).collect())
            } else {
                Fate::Paused
            }
        });
        fate.unwrap_or(Fate::Reset)
    }

    /// Trailers arrive; gives those that go on.
    pub fn trailers(&mut self, stream: StreamId, trailers: &[(&str, &str)]) -> Vec<String> {
        self.host.stream(stream.0, |state| {
            let pairs = trailers.iter();
            state.trailers = pairs
                .map(|(name, value)| (name.to_ascii_lowercase(), value.as_bytes().to_vec()))
                .collect();
        });
        self.host.enter(stream.0);
        if let Some((stream, _)) = self.streams.get(&stream.0) {
            stream.on_request_trailers();
        }
        let names = self.host.stream(stream.0, |state| {
            state
                .trailers
                .iter()
                .map(|(name, _)| name.clone())
                .collect()
        });
        names.unwrap_or_default()
    }

    /// The filter state that a request has now.
    pub fn filter_state(&self, stream: StreamId) -> BTreeMap<String, String> {
        let state = self
            .host
            .stream(stream.0, |state| state.filter_state.clone());
        state.unwrap_or_default()
    }

    /// A request is over.
    pub fn end(&mut self, stream: StreamId) {
        self.host.close(stream.0);
        self.streams.remove(&stream.0);
    }

    /// A tick of the root context; streams that it resets are gone.
    pub fn tick(&mut self) {
        self.host.enter(ROOT);
        self.root.on_tick();
    }

    /// Answers a call; `status` `None` for one that was cut short.
    pub fn answer(&mut self, call: &FakeCall, status: Option<u16>, body: &[u8]) {
        let Some(call) = self.host.take_call(call.token) else {
            return;
        };
        self.host.enter(call.context);
        let headers = usize::from(status.is_some());
        self.host
            .set_answer(status.map(|status| (status, body.to_vec())));
        if call.context == ROOT {
            self.root.on_call_answer(call.token, headers, body.len());
        } else if let Some((stream, _)) = self.streams.get(&call.context) {
            stream.on_call_answer(call.token, headers, body.len());
        }
        self.host.set_answer(None);
    }

    /// The only call under way whose path begins like this.
    pub fn call(&self, path: &str) -> Option<FakeCall> {
        let mut calls = self.host.calls();
        calls.retain(|call| call.path.starts_with(path));
        match calls.len() {
            1 => calls.pop(),
            _ => None,
        }
    }

    /// Whatever the time is.
    pub fn now(&self) -> Timestamp {
        self.host.now()
    }
}
