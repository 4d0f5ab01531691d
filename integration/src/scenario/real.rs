//! The second runner: the compiled module in a real Envoy, real mutual TLS, the real registry.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use super::fleet::{fleet, unread};
use super::registry::Registry;
use super::row::{Expect, Face, Place, Scenario};
use super::world::{Addresses, World};
use crate::bootstrap::Bootstrap;
use crate::certificate::Identity;
use crate::client::{Answer, Ask, Client, Protocol};
use crate::envoy::{Envoy, Options, get};
use crate::feed::{Behaviour, FeedServer};
use crate::frames;
use crate::site::EDGE;
use crate::tools::{Tools, present};
use crate::upstream::{REQUEST_HEADER, Upstream};
use crate::wait::until;

/// How long an Envoy may take until it can decide.
pub const READY_LIMIT: Duration = Duration::from_secs(30);

/// What stands behind the cluster `registry`.
pub enum Behind {
    /// The real registry.
    Registry(Registry),
    /// A scripted one.
    Script(FeedServer),
}

/// One Envoy with all that it needs.
pub struct Stage {
    /// Envoy.
    pub envoy: Envoy,
    /// The registry.
    pub behind: Behind,
    /// The device service.
    pub upstream: Upstream,
    /// The certificates, and the folder of all of them: there for as long as they run.
    pub world: World,
    /// A certificate that the revocation list names.
    pub on_the_list: Identity,
    /// The line of Envoy.
    pub line: (u32, u32),
    bootstrap: Bootstrap,
    number: u32,
}

impl Stage {
    /// Sets up a place.
    pub async fn set(tools: &Tools, place: Place) -> Result<Self> {
        Self::set_with(tools, place, &Options::default(), |_| Ok(())).await
    }

    /// Sets up a place whose bootstrap is changed by `change`.
    pub async fn set_with(
        tools: &Tools,
        place: Place,
        options: &Options,
        change: impl FnOnce(&mut Bootstrap) -> Result<()>,
    ) -> Result<Self> {
        let binary = present(&tools.envoy, "cargo xtask envoy")?;
        let module = present(&tools.module, "cargo xtask module")?;
        let line = tools.envoy_line()?;
        let world = World::new()?;
        let site = &world.site;
        let on_the_list = site
            .device_ca
            .issue(&crate::certificate::Spec::device("SN-A"))?;
        world.revoke(&[&on_the_list])?;
        let upstream = Upstream::start(&site.upstream_identity()?, &site.infra_ca).await?;
        let mut behind = match place {
            Place::OnDemand | Place::Script => {
                Behind::Script(FeedServer::start(&site.registry_identity()?, &site.infra_ca).await?)
            }
            Place::Fleet | Place::NoSynchroniser | Place::Stale => {
                Behind::Registry(Registry::start(tools).await?)
            }
        };
        let registry = match &mut behind {
            Behind::Registry(registry) => {
                registry.hold(&fleet()).await?;
                registry.address()
            }
            Behind::Script(script) => {
                for device in fleet() {
                    script.say(device.record(0));
                }
                if place == Place::Script {
                    for record in unread() {
                        script.say(record);
                    }
                }
                script.address()
            }
        };
        let addresses = Addresses {
            registry,
            upstream: upstream.address(),
        };
        let mut bootstrap = world.bootstrap(place, line, module, addresses)?;
        if let Behind::Registry(registry) = &behind {
            registry.trust(&mut bootstrap)?;
        }
        change(&mut bootstrap)?;
        let envoy = Envoy::start(binary, &bootstrap, site.folder(), options).await?;
        let mut stage = Self {
            world,
            behind,
            upstream,
            envoy,
            on_the_list,
            line,
            bootstrap,
            number: 0,
        };
        match place {
            Place::Fleet | Place::Script => stage.wait_until(200, "\"ready\":true").await?,
            Place::NoSynchroniser => stage.wait_until(503, "bindings_unavailable").await?,
            Place::Stale => {
                stage.wait_until(200, "\"ready\":true").await?;
                stage.registry()?.kill();
                stage.wait_until(503, "bindings_stale").await?;
            }
            Place::OnDemand => {
                stage.wait_until(200, "\"ready\":true").await?;
                stage.script()?.behave(Behaviour {
                    lookup_status: Some(500),
                    ..Behaviour::default()
                });
            }
        }
        Ok(stage)
    }

    /// Another Envoy with the same configuration.
    pub async fn start_again(&self, tools: &Tools, options: &Options) -> Result<Envoy> {
        Envoy::start(
            &tools.envoy,
            &self.bootstrap,
            self.world.site.folder(),
            options,
        )
        .await
    }

    /// The real registry.
    pub fn registry(&mut self) -> Result<&mut Registry> {
        match &mut self.behind {
            Behind::Registry(registry) => Ok(registry),
            Behind::Script(_) => bail!("the registry of this place is a scripted one"),
        }
    }

    /// The scripted registry.
    pub fn script(&mut self) -> Result<&mut FeedServer> {
        match &mut self.behind {
            Behind::Script(script) => Ok(script),
            Behind::Registry(_) => bail!("the registry of this place is a real one"),
        }
    }

    /// Waits until the readiness path answers this.
    pub async fn wait_until(&mut self, status: u16, text: &str) -> Result<()> {
        let probes = self.envoy.listener("probes")?;
        let what = format!("the readiness path answers {status} {text}");
        let looking = until(&what, READY_LIMIT, || async {
            let (said, body) = get(probes, "/ready").await.ok()?;
            (said == status && body.contains(text)).then_some(())
        });
        let waited = self.envoy.process.meanwhile(looking).await;
        waited.with_context(|| self.envoy.process.stderr.tail(15))?;
        Ok(())
    }

    /// A caller of a listener.
    pub fn client(&self, listener: &str, identity: Option<&Identity>) -> Result<Client> {
        let address = self.envoy.listener(listener)?;
        self.world.site.client(address, identity)
    }

    /// A good device of the first CA at a listener.
    pub fn device(&self, listener: &str, serial: &str) -> Result<Client> {
        let spec = crate::certificate::Spec::device(serial);
        let identity = self.world.site.device_ca.issue(&spec)?;
        self.client(listener, Some(&identity))
    }

    /// Runs one row.
    pub async fn run(&mut self, row: &Scenario) -> Result<()> {
        self.number += 1;
        let mark = format!("row-{}", self.number);
        let identity = self.world.identity(&row.peer)?;
        let client = self.client(row.listener.name(), identity.as_ref())?;
        let before = self.decisions().await?;
        let answer = Box::pin(self.ask(&client, row, &mark)).await;
        self.check(row, answer, &mark)?;
        let moved = moved(&before, &self.decisions().await?);
        match &row.expect {
            Expect::NotServed => ensure!(
                moved
                    .iter()
                    .all(|(name, _)| !name.contains("code=\"permit\"")),
                "the counters moved by {moved:?}"
            ),
            Expect::Permit(_)
            | Expect::Deny(_)
            | Expect::NoHandshake
            | Expect::NotByEnvoy
            | Expect::Watched(_) => {
                let wanted = expected_counter(row);
                let fits = match &wanted {
                    None => moved.is_empty(),
                    Some((mode, code)) => matches!(moved.as_slice(), [(name, by)]
                        if (by - 1.0).abs() < 0.1 && name.contains(mode) && name.contains(code)),
                };
                ensure!(fits, "the counters moved by {moved:?}, not {wanted:?}");
            }
        }
        Ok(())
    }

    async fn ask(&self, client: &Client, row: &Scenario, mark: &str) -> Result<Answer> {
        let mut headers = self.world.headers(row)?;
        headers.push((REQUEST_HEADER.to_owned(), mark.to_owned()));
        if let Some(token) = row.token {
            let token = self.world.site.tokens.token(token)?;
            headers.push(("authorization".to_owned(), format!("Bearer {token}")));
        }
        let trailers = row
            .trailers
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect::<Vec<_>>();
        match row.face {
            Face::Http1 => {
                return Box::pin(client.raw(&octets(row, &headers, &trailers))).await;
            }
            Face::Frames => {
                let pseudo = [
                    (":method", row.method),
                    (":scheme", "https"),
                    (":authority", EDGE),
                    (":path", &row.path),
                ];
                let own = headers.iter().map(|(name, value)| (&**name, &**value));
                // A pseudo-header stands before all others (RFC 9113, 8.3).
                let (more, own): (Vec<_>, Vec<_>) =
                    own.partition(|(name, _)| name.starts_with(':'));
                let fields = pseudo.into_iter().chain(more).chain(own);
                return frames::ask(client, fields, b"ok").await;
            }
            Face::Http2 | Face::Grpc => {}
        }
        let mut ask = Ask {
            method: row.method.to_owned(),
            path: row.path.clone(),
            headers,
            trailers,
            ..Ask::default()
        };
        if row.face == Face::Grpc {
            ask = ask
                .header("content-type", "application/grpc")
                .header("te", "trailers");
            ask.body = vec![0; 5];
        }
        client
            .clone()
            .with_protocol(Protocol::Http2)
            .send(&ask)
            .await
    }

    fn check(&self, row: &Scenario, answer: Result<Answer>, mark: &str) -> Result<()> {
        let saw = self.upstream.saw(mark);
        if row.expect == Expect::NoHandshake {
            ensure!(answer.is_err(), "it was answered");
            ensure!(saw.is_none(), "the upstream saw it");
            return Ok(());
        }
        let answer = match answer {
            // Where the frames make no request, Envoy ends the stream or the connection.
            Err(_)
                if row.face == Face::Frames
                    && matches!(row.expect, Expect::NotByEnvoy | Expect::NotServed) =>
            {
                ensure!(saw.is_none(), "the upstream saw it");
                return Ok(());
            }
            answer => answer?,
        };
        match &row.expect {
            Expect::Permit(fields) => {
                let saw = saw.with_context(|| said(&answer, "the upstream did not see it"))?;
                ensure!(answer.is_success(), said(&answer, "it was no success"));
                let all = [saw.headers.clone(), saw.trailers.clone()].concat();
                let seen = medbind_fields(&all);
                let mut wanted = fields.clone();
                wanted.sort();
                ensure!(seen == wanted, "the upstream saw {seen:?}, not {wanted:?}");
                for name in &row.hidden {
                    let there = all.iter().any(|(field, _)| field == name);
                    ensure!(!there, "the upstream saw {name}");
                }
            }
            Expect::Watched(_) => {
                let saw = saw.with_context(|| said(&answer, "the upstream did not see it"))?;
                ensure!(saw.medbind_fields().is_empty(), "it was tagged");
            }
            Expect::Deny(code) => {
                ensure!(saw.is_none(), "the upstream saw it");
                let code_said = answer.code();
                ensure!(
                    code_said.as_deref() == Some(code.as_str()),
                    said(&answer, &format!("it was to be {code}"))
                );
                let retry = answer.header("retry-after").is_some();
                ensure!(
                    retry == code.is_transient(),
                    "Retry-After is there: {retry}"
                );
                if row.face == Face::Grpc {
                    let status = answer.header("grpc-status");
                    let wanted = code.grpc_status().to_string();
                    ensure!(status == Some(&wanted), "grpc-status is {status:?}");
                    ensure!(answer.status == 200, "the status is {}", answer.status);
                } else {
                    ensure!(
                        answer.status == code.http_status(),
                        "the status is {}",
                        answer.status
                    );
                    let kind = answer.header("content-type");
                    ensure!(kind == Some("application/problem+json"), "it is {kind:?}");
                }
            }
            Expect::NotServed | Expect::NotByEnvoy => {
                ensure!(saw.is_none(), "the upstream saw it");
                ensure!(!answer.is_success(), said(&answer, "it was a success"));
            }
            Expect::NoHandshake => {}
        }
        Ok(())
    }

    /// The counters of decisions.
    pub async fn decisions(&self) -> Result<BTreeMap<String, f64>> {
        let mut metrics = self.envoy.metrics().await?;
        metrics.retain(|name, _| name.contains("medbind_decisions"));
        Ok(metrics)
    }

    /// How many decisions of a listener with this mode had this code so far.
    pub async fn counted(&self, mode: &str, code: &str) -> Result<f64> {
        let labels = [format!("mode=\"{mode}\""), format!("code=\"{code}\"")];
        let labels = labels.each_ref().map(String::as_str);
        self.envoy.metric("medbind_decisions", &labels).await
    }
}

/// An answer as an error shows it.
pub fn said(answer: &Answer, what: &str) -> String {
    let text = answer.text().chars().take(300).collect::<String>();
    format!(
        "{what}: {} {:?} {text}",
        answer.status,
        answer.header("grpc-message")
    )
}

/// The fields that an upstream would take for medbind's, sorted.
pub fn medbind_fields(fields: &[(String, String)]) -> Vec<(String, String)> {
    let mut found = fields.to_vec();
    found.retain(|(name, _)| {
        name.to_ascii_lowercase()
            .replace('_', "-")
            .starts_with("x-medbind")
    });
    found.sort();
    found
}

fn octets(row: &Scenario, headers: &[(String, String)], trailers: &[(String, String)]) -> Vec<u8> {
    let mut text = format!("{} {} HTTP/1.1\r\nhost: {EDGE}\r\n", row.method, row.path);
    for (name, value) in headers {
        let _ = write!(text, "{name}: {value}\r\n");
    }
    if row.method == "CONNECT" {
        // What would follow is no content (RFC 9110, 9.3.6).
        text.push_str("\r\n");
    } else if trailers.is_empty() {
        text.push_str("content-length: 2\r\n\r\nok");
    } else {
        text.push_str("transfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n");
        for (name, value) in trailers {
            let _ = write!(text, "{name}: {value}\r\n");
        }
        text.push_str("\r\n");
    }
    text.into_bytes()
}

fn moved(before: &BTreeMap<String, f64>, after: &BTreeMap<String, f64>) -> Vec<(String, f64)> {
    let changes = after.iter().map(|(name, value)| {
        let known = before.get(name).copied().unwrap_or(0.0);
        (name.clone(), value - known)
    });
    changes.filter(|(_, by)| by.abs() > 0.1).collect()
}

fn expected_counter(row: &Scenario) -> Option<(String, String)> {
    let code = match &row.expect {
        Expect::Permit(_) | Expect::Watched(None) => "permit",
        Expect::Deny(code) | Expect::Watched(Some(code)) => code.as_str(),
        Expect::NotServed | Expect::NoHandshake | Expect::NotByEnvoy => return None,
    };
    let mode = row.listener.mode();
    Some((format!("mode=\"{mode}\""), format!("code=\"{code}\"")))
}
