//! The first runner: the filter over a fake host, its cache filled by its own synchroniser.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use medbind_core::time::Timestamp;
use medbind_filter::testing::{FakeEnvoy, FakeRequest, Fate, World as Shared};
use serde_json::{Value, json};

use super::fleet::{fleet, unread};
use super::row::{Expect, Face, Listener, Place, Scenario};
use super::world::{Addresses, World};
use crate::bootstrap::Bootstrap;
use crate::certificate::now_seconds;
use crate::token::ISSUER;

/// One place, with a worker for each listener.
pub struct Stage {
    shared: Shared,
    listeners: BTreeMap<Listener, FakeEnvoy>,
}

/// The workers of each place that was needed so far.
pub struct Runner {
    world: World,
    stages: BTreeMap<Place, Stage>,
}

impl Runner {
    /// Nothing has been asked yet.
    pub fn new() -> Result<Self> {
        Ok(Self {
            world: World::new()?,
            stages: BTreeMap::new(),
        })
    }

    /// Runs one row.
    pub fn run(&mut self, row: &Scenario) -> Result<()> {
        let world = &self.world;
        let stage = match self.stages.entry(row.place) {
            std::collections::btree_map::Entry::Occupied(there) => there.into_mut(),
            std::collections::btree_map::Entry::Vacant(place) => {
                place.insert(Stage::set(world, row.place)?)
            }
        };
        stage.run(world, row)
    }
}

fn configuration(value: &Value) -> String {
    value.to_string()
}

impl Stage {
    /// Sets up a place.
    pub fn set(world: &World, place: Place) -> Result<Self> {
        let nowhere = SocketAddr::from(([127, 0, 0, 1], 9));
        let addresses = Addresses {
            registry: nowhere,
            upstream: nowhere,
        };
        let module = Path::new("medbind.wasm");
        let mut bootstrap = world.bootstrap(place, (1, 40), module, addresses)?;
        let shared = Shared::at(Timestamp::from_unix_seconds(now_seconds()));
        match place {
            Place::Fleet | Place::OnDemand => synchronise(&shared, &mut bootstrap, &[])?,
            Place::Script => synchronise(&shared, &mut bootstrap, &unread())?,
            Place::Stale => {
                synchronise(&shared, &mut bootstrap, &[])?;
                shared.pass(Duration::from_mins(1));
            }
            Place::NoSynchroniser => {}
        }
        let mut listeners = BTreeMap::new();
        for listener in Listener::ALL {
            let text = configuration(bootstrap.guard(listener.name())?);
            let mut envoy = FakeEnvoy::start(&shared, &text).map_err(|said| anyhow!(said))?;
            if place != Place::OnDemand {
                envoy.tick();
            }
            listeners.insert(listener, envoy);
        }
        Ok(Self { shared, listeners })
    }

    /// A worker of it.
    pub fn listener(&mut self, listener: Listener) -> Result<&mut FakeEnvoy> {
        self.listeners
            .get_mut(&listener)
            .context("no such listener")
    }

    /// The world that its workers share.
    pub fn shared(&self) -> &Shared {
        &self.shared
    }

    /// Runs one row.
    pub fn run(&mut self, world: &World, row: &Scenario) -> Result<()> {
        let request = request(world, row)?;
        let before = self.decisions();
        let envoy = self.listener(row.listener)?;
        let stream = envoy.send(&request);
        if envoy.fate(stream) == Fate::Paused {
            let call = envoy
                .call("/v1/feed/devices/")
                .context("it waits, and asks nobody")?;
            envoy.answer(&call, None, b"");
        }
        let mut trailers = Vec::new();
        let fate = envoy.fate(stream);
        if fate.is_forwarded() && !row.trailers.is_empty() {
            trailers = envoy.trailers(stream, &row.trailers);
        }
        envoy.end(stream);
        check(row, &fate, &trailers)?;
        let moved = moved(&before, &self.decisions());
        ensure!(
            moved == expected_counter(row),
            "the counters moved by {moved:?}, not by {:?}",
            expected_counter(row)
        );
        Ok(())
    }

    fn decisions(&self) -> BTreeMap<String, u64> {
        let mut metrics = self.shared.metrics();
        metrics.retain(|name, _| name.starts_with("medbind_decisions"));
        metrics
    }
}

fn moved(before: &BTreeMap<String, u64>, after: &BTreeMap<String, u64>) -> Vec<(String, u64)> {
    let changes = after.iter().map(|(name, value)| {
        let known = before.get(name).copied().unwrap_or(0);
        (name.clone(), value - known)
    });
    changes.filter(|(_, by)| *by != 0).collect()
}

fn expected_counter(row: &Scenario) -> Vec<(String, u64)> {
    let code = match &row.expect {
        Expect::Permit(_) | Expect::Watched(None) => "permit",
        Expect::Deny(code) | Expect::Watched(Some(code)) => code.as_str(),
        // Whatever Envoy leaves of the request, the guard says no.
        Expect::NotServed => "not_permitted",
        Expect::NoHandshake | Expect::NotByEnvoy => return Vec::new(),
    };
    let mode = row.listener.mode();
    vec![(format!("medbind_decisions.mode.{mode}.code.{code}"), 1)]
}

fn request(world: &World, row: &Scenario) -> Result<FakeRequest> {
    let mut request = match row.method {
        "CONNECT" => FakeRequest::connect(&row.path),
        method => FakeRequest::new(method, &row.path),
    };
    if let Some(identity) = world.identity(&row.peer)? {
        request = match row.listener {
            Listener::Misread => request.handshake_of(identity.der()),
            Listener::Edge | Listener::Open | Listener::Shadow | Listener::Picky => {
                request.certificate(identity.der())
            }
        };
    }
    if row.face == Face::Grpc {
        request = request.header("content-type", "application/grpc");
    }
    for (name, value) in world.headers(row)? {
        request = request.header(&name, &value);
    }
    // Of a token that does not hold, Envoy tells nothing.
    if let Some(token) = row.token.filter(|token| token.flaw.is_none()) {
        request = request.token("medbind", ISSUER, token.subject);
    }
    Ok(request)
}

fn check(row: &Scenario, fate: &Fate, trailers: &[String]) -> Result<()> {
    match (&row.expect, fate) {
        (Expect::Permit(fields), Fate::Forwarded(headers)) => {
            let seen = super::real::medbind_fields(headers);
            let mut wanted = fields.clone();
            wanted.sort();
            ensure!(
                seen == wanted,
                "the upstream would see {seen:?}, not {wanted:?}"
            );
            ensure!(trailers.is_empty(), "trailers go on: {trailers:?}");
            hidden(row, headers)
        }
        (Expect::Watched(_), Fate::Forwarded(headers)) => {
            let seen = super::real::medbind_fields(headers);
            ensure!(seen.is_empty(), "the upstream would see {seen:?}");
            hidden(row, headers)
        }
        (Expect::Deny(code), Fate::Answered(reply)) => {
            let said = reply.code();
            ensure!(
                said.as_deref() == Some(code.as_str()),
                "it says {said:?}, not {code}"
            );
            let grpc = (row.face == Face::Grpc).then(|| code.grpc_status());
            ensure!(
                reply.grpc_status == grpc,
                "grpc-status is {:?}",
                reply.grpc_status
            );
            let status = if grpc.is_some() {
                200
            } else {
                code.http_status()
            };
            ensure!(reply.status == status, "the status is {}", reply.status);
            let retry = reply.header("retry-after").is_some();
            ensure!(
                retry == code.is_transient(),
                "Retry-After is there: {retry}"
            );
            Ok(())
        }
        (Expect::NotServed, Fate::Answered(_)) => Ok(()),
        (wanted, fate) => bail!("it was to be {wanted:?}, and is {fate:?}"),
    }
}

fn hidden(row: &Scenario, headers: &[(String, String)]) -> Result<()> {
    for name in &row.hidden {
        ensure!(
            !headers.iter().any(|(known, _)| known == name),
            "{name} goes on"
        );
    }
    Ok(())
}

/// Runs the synchroniser of a bootstrap until it has read the whole fleet, and what else there is.
fn synchronise(shared: &Shared, bootstrap: &mut Bootstrap, besides: &[Value]) -> Result<()> {
    let text = configuration(bootstrap.synchroniser()?);
    let mut envoy = FakeEnvoy::start(shared, &text).map_err(|said| anyhow!(said))?;
    let page = page(shared.now(), besides);
    for _ in 0..200 {
        envoy.tick();
        shared.pass(Duration::from_millis(100));
        if let Some(call) = envoy.call("/v1/feed") {
            if call.path.contains("cursor=") {
                return Ok(());
            }
            envoy.answer(&call, Some(200), page.as_bytes());
        }
    }
    bail!(
        "the synchroniser does not come to its end: {}",
        envoy.host().log_lines().join("\n")
    )
}

/// The whole fleet, and other records, as one answer of the feed.
fn page(now: Timestamp, besides: &[Value]) -> String {
    let devices = fleet();
    let devices = devices.iter().map(|device| device.record(0));
    let mut records = devices.chain(besides.iter().cloned()).collect::<Vec<_>>();
    let head = records.len();
    let header = json!({
        "feed": "history-1", "version": 1, "cursor": format!("c{head}"), "more": false, "head": head,
        "count": head, "time": now.to_string(),
    });
    let mut text = format!("{header}\n");
    for (record, revision) in records.iter_mut().zip(1_u64..) {
        if let Some(fields) = record.as_object_mut() {
            fields.insert("revision".to_owned(), json!(revision));
        }
        let _ = writeln!(text, "{record}");
    }
    text
}
