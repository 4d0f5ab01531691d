//! How does the cache stay like the registry? `core`'s state machine, with the host's calls.

use std::collections::HashMap;

use medbind_core::cache::{Cache, Candidate, RegistryAddress};
use medbind_core::config::{BindingsConfig, RegistryConfig};
use medbind_core::sync::{
    FetchId, SyncAction, SyncLogLevel, SyncResponse, SyncSettings, Synchroniser,
};

use crate::bindings::Shared;
use crate::host::{CallAnswer, Host, HostError, LogLevel};
use crate::telemetry::SyncMetrics;

/// Counts the synchronisers of this Envoy: no two take each other for themselves, and the newer of
/// two configurations is known.
const COUNTER: &str = "mb1/n";
/// More calls than this are never under way: older ones were lost.
const MOST_CALLS: usize = 8;

/// A synchroniser in a root context.
#[derive(Debug)]
pub struct Runner<H> {
    host: H,
    registry: RegistryConfig,
    synchroniser: Synchroniser,
    calls: HashMap<u32, FetchId>,
    metrics: SyncMetrics,
}

impl<H: Host> Runner<H> {
    /// One that runs where `candidate` says.
    pub fn new(
        host: H,
        registry: &RegistryConfig,
        bindings: &BindingsConfig,
        candidate: Candidate,
    ) -> Self {
        let settings = SyncSettings::new(
            RegistryAddress {
                cluster: registry.cluster.to_string(),
                authority: registry.authority.to_string(),
            },
            candidate,
            bindings.preload,
            bindings.capacity,
            bindings.max_stale,
        );
        let number = number(&host);
        // No other has the same, also where two begin in the same nanosecond.
        let seed = host.nanoseconds() ^ number.wrapping_mul(0x9E37_79B9_7F4A_7C15);
        Self {
            registry: registry.clone(),
            synchroniser: Synchroniser::new(settings, seed, number),
            calls: HashMap::new(),
            metrics: SyncMetrics::define(&host),
            host,
        }
    }

    /// Whether it leads.
    pub const fn is_leader(&self) -> bool {
        self.synchroniser.is_leader()
    }

    /// A tick of its root context, which is the effective one.
    pub fn on_tick(&mut self) {
        let now = self.host.now();
        let actions = self.synchroniser.on_tick(now, &Shared(&self.host));
        self.carry_out(actions);
        if self.is_leader() {
            self.tell();
        }
    }

    /// Whether the call with this token is its own.
    pub fn is_waiting_for(&self, token: u32) -> bool {
        self.calls.contains_key(&token)
    }

    /// The answer to a call of its own.
    pub fn on_call_answer(&mut self, token: u32, headers: usize, body: usize) {
        let Some(id) = self.calls.remove(&token) else {
            return;
        };
        let answer = self.host.call_answer(headers, body);
        let actions = self.respond(id, &answer);
        self.carry_out(actions);
    }

    fn respond(&mut self, id: FetchId, answer: &CallAnswer) -> Vec<SyncAction> {
        let response = match answer.status {
            Some(status) => SyncResponse::Answer {
                status,
                retry_after: answer.retry_after,
                body: &answer.body,
            },
            None => SyncResponse::Failed,
        };
        let now = self.host.now();
        self.synchroniser
            .on_response(now, &Shared(&self.host), id, response)
    }

    fn carry_out(&mut self, actions: Vec<SyncAction>) {
        for action in actions {
            match action {
                SyncAction::Log { level, message } => self.log(level, &message),
                SyncAction::Fetch { id, path, timeout } => {
                    let RegistryConfig { cluster, authority } = &self.registry;
                    match self.host.get(cluster, authority, &path, timeout) {
                        Ok(token) => {
                            if self.calls.len() >= MOST_CALLS {
                                self.calls.clear();
                            }
                            self.calls.insert(token, id);
                        }
                        Err(error) => self.refused(id, error),
                    }
                }
            }
        }
    }

    /// The host does not even make the call. The state machine pauses before the next one.
    fn refused(&mut self, id: FetchId, error: HostError) {
        self.log(
            SyncLogLevel::Error,
            &format!(
                "the cluster {:?} cannot be called ({error}); name it under `registry` as it is \
                 named in the Envoy configuration",
                self.registry.cluster
            ),
        );
        let now = self.host.now();
        let response = SyncResponse::Failed;
        let after = self
            .synchroniser
            .on_response(now, &Shared(&self.host), id, response);
        for action in after {
            match action {
                SyncAction::Log { level, message } => self.log(level, &message),
                // Not from here: the next tick asks again.
                SyncAction::Fetch { .. } => {}
            }
        }
    }

    fn log(&self, level: SyncLogLevel, message: &str) {
        let level = match level {
            SyncLogLevel::Info => LogLevel::Info,
            SyncLogLevel::Warn => LogLevel::Warn,
            SyncLogLevel::Error => LogLevel::Error,
        };
        self.host.log(level, &format!("medbind sync: {message}"));
    }

    fn tell(&self) {
        if let Ok(view) = Cache::new(&Shared(&self.host)).view() {
            let records = view.active().map_or(0, |history| history.records);
            self.metrics.tell(
                &self.host,
                u64::from(records),
                view.unrecognised(),
                view.last_ok(),
            );
        }
    }
}

/// The number of this synchroniser among those of this Envoy, in the order in which they begin.
fn number(host: &impl Host) -> u64 {
    let mut count = 0;
    for _ in 0..64 {
        let read = host.shared_data(COUNTER).ok().flatten();
        let before = read.as_ref().and_then(|(octets, _)| {
            let octets: [u8; 8] = octets.as_slice().try_into().ok()?;
            Some(u64::from_le_bytes(octets))
        });
        count = before.unwrap_or(0).wrapping_add(1);
        // An absent key takes any number; one that somebody else has just made does not take this.
        let cas = read.map_or(u32::MAX, |(_, cas)| cas);
        if host
            .set_shared_data(COUNTER, &count.to_le_bytes(), Some(cas))
            .is_ok()
        {
            break;
        }
    }
    count
}
