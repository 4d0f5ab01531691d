//! A registry made of a script: it says of devices whatever a scenario wants, good or bad, over
//! the same wire as the real one.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use base64ct::{Base64UrlUnpadded, Encoding};
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use medbind_core::identity::DeviceId;
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::certificate::{Authority, Identity, now_seconds};
use crate::server::{self, Body, Server, Service};

/// How a scripted registry misbehaves.
#[derive(Clone, Debug, Default)]
pub struct Behaviour {
    /// Added to the clock that it tells, in seconds.
    pub clock_offset: i64,
    /// Answers every request of the feed with this status.
    pub status: Option<u16>,
    /// Answers lookups of one device only after this.
    pub lookup_delay: Option<Duration>,
    /// Answers lookups of one device with this status.
    pub lookup_status: Option<u16>,
    /// Cuts this many octets off the end of each answer.
    pub cut: usize,
    /// The most records in one answer, whatever was asked for.
    pub page: Option<usize>,
    /// Puts so many blanks behind each answer.
    pub padding: usize,
    /// Tells the newest record first.
    pub reversed: bool,
}

struct State {
    history: String,
    revision: u64,
    /// Device, revision, the rest of the record.
    records: Vec<(String, u64, Value)>,
    behaviour: Behaviour,
    asked: u64,
    lookups: Vec<String>,
}

struct Script {
    state: Mutex<State>,
    changed: watch::Sender<u64>,
}

/// A scripted registry.
pub struct FeedServer {
    address: SocketAddr,
    tls: rustls::ServerConfig,
    server: Option<Server>,
    script: Arc<Script>,
}

impl FeedServer {
    /// Starts one, for edges with a certificate of `clients`.
    pub async fn start(identity: &Identity, clients: &Authority) -> Result<Self> {
        let state = State {
            history: "history-1".to_owned(),
            revision: 0,
            records: Vec::new(),
            behaviour: Behaviour::default(),
            asked: 0,
            lookups: Vec::new(),
        };
        let script = Arc::new(Script {
            state: Mutex::new(state),
            changed: watch::Sender::new(0),
        });
        let tls = server::tls(identity, clients.der())?;
        let server = Server::start(
            SocketAddr::from(([127, 0, 0, 1], 0)),
            tls.clone(),
            script.clone(),
        )
        .await?;
        Ok(Self {
            address: server.address(),
            tls,
            server: Some(server),
            script,
        })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Stops it as a power cut would.
    pub async fn stop(&mut self) {
        if let Some(server) = self.server.take() {
            server.stop().await;
        }
    }

    /// Starts it again at the same address.
    pub async fn resume(&mut self) -> Result<()> {
        if self.server.is_none() {
            let server = Server::start(self.address, self.tls.clone(), self.script.clone()).await;
            self.server = Some(server.context("the registry cannot come back")?);
        }
        Ok(())
    }

    /// Says something new about a device: a record without its revision. Returns that.
    pub fn say(&self, record: Value) -> u64 {
        self.say_all(vec![record])
    }

    /// Says several things at once. Returns the revision of the last.
    pub fn say_all(&self, records: Vec<Value>) -> u64 {
        let revision = self.script.with(|state| {
            state.add(records);
            state.revision
        });
        self.script.changed.send_modify(|number| *number += 1);
        revision
    }

    /// Forgets all, and begins a history of this name with these records. Under the name that it
    /// has, it forked: as after a backup was brought back.
    pub fn begin_history(&self, name: &str, records: Vec<Value>) {
        self.script.with(|state| {
            name.clone_into(&mut state.history);
            state.records.clear();
            state.revision = 0;
            state.add(records);
        });
        self.script.changed.send_modify(|number| *number += 1);
    }

    /// Misbehaves from now on.
    pub fn behave(&self, behaviour: Behaviour) {
        self.script.with(|state| state.behaviour = behaviour);
        self.script.changed.send_modify(|number| *number += 1);
    }

    /// The revision of the newest change.
    pub fn head(&self) -> u64 {
        self.script.with(|state| state.revision)
    }

    /// How many requests of the feed it has had.
    pub fn asked(&self) -> u64 {
        self.script.with(|state| state.asked)
    }

    /// The devices that were asked for one by one.
    pub fn lookups(&self) -> Vec<String> {
        self.script.with(|state| state.lookups.clone())
    }
}

/// The record of a binding in a state; other fields can be added to it.
pub fn binding(device: &DeviceId, state: &str, account: Option<&str>, class: &str) -> Value {
    json!({
        "kind": "binding", "device": device.to_string(), "account": account, "state": state, "class": class,
        "epoch": 1, "expires_at": null, "pins": [],
    })
}

impl Script {
    fn with<T>(&self, act: impl FnOnce(&mut State) -> T) -> T {
        act(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    async fn feed(&self, query: &str) -> Response<Body> {
        let value = |name: &str| {
            let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
            pairs
                .find(|(key, _)| *key == name)
                .map(|(_, value)| value.to_owned())
        };
        let limit = value("limit")
            .and_then(|limit| limit.parse().ok())
            .unwrap_or(2000);
        let wait = value("wait")
            .and_then(|wait| wait.trim_end_matches('s').parse().ok())
            .unwrap_or(25);
        let mut changes = self.changed.subscribe();
        let deadline = tokio::time::Instant::now() + Duration::from_secs(wait);
        self.with(|state| state.asked += 1);
        loop {
            changes.mark_unchanged();
            let (body, empty) = match self.page(value("cursor").as_deref(), limit) {
                Ok(page) => page,
                Err(response) => return response,
            };
            if !empty || value("cursor").is_none() {
                return body;
            }
            if tokio::time::timeout_at(deadline, changes.changed())
                .await
                .is_err()
            {
                return body;
            }
        }
    }

    /// An answer, and whether it holds no record.
    #[expect(
        clippy::result_large_err,
        reason = "the error is the answer that is sent"
    )]
    fn page(
        &self,
        cursor: Option<&str>,
        limit: usize,
    ) -> Result<(Response<Body>, bool), Response<Body>> {
        self.with(|state| {
            if let Some(status) = state.behaviour.status {
                return Err(problem(status, "scripted"));
            }
            let after = match cursor {
                None => 0,
                Some(cursor) => match cursor.rsplit_once('.') {
                    Some((history, after)) if history == state.history => {
                        after.parse().unwrap_or(u64::MAX)
                    }
                    _ => u64::MAX,
                },
            };
            if after > state.revision {
                return Err(problem(410, "cursor_unknown"));
            }
            let newer = state
                .records
                .iter()
                .filter(|(_, revision, _)| *revision > after);
            let limit = state.behaviour.page.unwrap_or(limit);
            let page = newer.clone().take(limit).collect::<Vec<_>>();
            // Nothing asked for: the head alone.
            let more = limit > 0 && newer.count() > page.len();
            let reached = if more {
                page.last().map_or(after, |(_, revision, _)| *revision)
            } else {
                state.revision
            };
            let answer = state.answer(&page, reached, more);
            Ok((answer, page.is_empty()))
        })
    }

    async fn lookup(&self, device: &str) -> Response<Body> {
        let behaviour = self.with(|state| {
            state.lookups.push(device.to_owned());
            state.behaviour.clone()
        });
        if let Some(delay) = behaviour.lookup_delay {
            tokio::time::sleep(delay).await;
        }
        if let Some(status) = behaviour.lookup_status {
            return problem(status, "scripted");
        }
        self.with(|state| {
            let records = state
                .records
                .iter()
                .filter(|(there, ..)| there == device)
                .collect::<Vec<_>>();
            state.answer(&records, state.revision, false)
        })
    }
}

impl State {
    fn add(&mut self, records: Vec<Value>) {
        for record in records {
            self.revision += 1;
            let device = record.get("device").and_then(Value::as_str);
            let device = device.unwrap_or_default().to_owned();
            self.records
                .retain(|(there, ..)| *there != device || device.is_empty());
            self.records.push((device, self.revision, record));
        }
    }

    fn answer(
        &self,
        records: &[&(String, u64, Value)],
        reached: u64,
        more: bool,
    ) -> Response<Body> {
        let time = jiff::Timestamp::from_second(now_seconds() + self.behaviour.clock_offset)
            .unwrap_or_default();
        let header = json!({
            "feed": self.history, "version": 1, "cursor": format!("{}.{reached}", self.history), "more": more,
            "head": self.revision, "count": records.len(), "time": time.to_string(),
        });
        let mut body = format!("{header}\n");
        let mut records = records.to_vec();
        if self.behaviour.reversed {
            records.reverse();
        }
        for (_, revision, record) in records {
            let mut record = record.clone();
            if let Some(fields) = record.as_object_mut() {
                fields.insert("revision".to_owned(), json!(revision));
            }
            body += &record.to_string();
            body.push('\n');
        }
        body.truncate(body.len().saturating_sub(self.behaviour.cut));
        body.extend(std::iter::repeat_n(' ', self.behaviour.padding));
        answer(StatusCode::OK, "application/x-ndjson", body)
    }
}

fn answer(status: StatusCode, kind: &'static str, body: String) -> Response<Body> {
    let mut response = Response::new(
        Full::new(Bytes::from(body))
            .map_err(|never| match never {})
            .boxed_unsync(),
    );
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert("content-type", http::HeaderValue::from_static(kind));
    response
}

fn problem(status: u16, code: &str) -> Response<Body> {
    let body =
        json!({"type": "about:blank", "title": code, "status": status, "code": code}).to_string();
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    answer(status, "application/problem+json", body)
}

impl Service for Script {
    async fn answer(self: Arc<Self>, request: Request<Incoming>) -> Response<Body> {
        let query = request.uri().query().unwrap_or_default().to_owned();
        match request.uri().path() {
            "/v1/feed" => self.feed(&query).await,
            "/v1/edge/pseudonym-key" => {
                let key = Base64UrlUnpadded::encode_string(&[7; 32]);
                answer(
                    StatusCode::OK,
                    "application/json",
                    json!({"id": "k1", "key": key}).to_string(),
                )
            }
            path => match path.strip_prefix("/v1/feed/devices/") {
                Some(device) => self.lookup(device).await,
                None => problem(404, "not_found"),
            },
        }
    }
}
