//! How does the cache stay like the registry? `core`'s state machine, with the host's calls.

use std::collections::HashMap;

use medbind_core::cache::{Cache, Candidate, RegistryAddress, draw_number};
use medbind_core::config::{BindingsConfig, RegistryConfig};
use medbind_core::sync::{
    FetchId, SyncAction, SyncLogLevel, SyncResponse, SyncSettings, Synchroniser,
};

use crate::bindings::Shared;
use crate::host::{CallAnswer, Host, HostError, LogLevel};
use crate::telemetry::SyncMetrics;

/// More calls than this are never under way: older ones were lost.
const MOST_CALLS: usize = 8;

/// A synchroniser in a root context.
#[derive(Debug)]
pub struct Runner<H: Host> {
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
        let clock = host.nanoseconds();
        let number = draw_number(&Shared(&host), clock);
        // No other has the same, also where two begin in the same nanosecond.
        let seed = clock ^ number.wrapping_mul(0x9E37_79B9_7F4A_7C15);
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
        if let Some(term) = self.synchroniser.term() {
            self.tell(term);
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
                "the cluster {:?} cannot be called ({error}): it has no address, as long as its \
                 name does not resolve, or `registry` names it otherwise than the Envoy \
                 configuration",
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

    fn tell(&self, term: u32) {
        if let Ok(view) = Cache::new(&Shared(&self.host)).view() {
            let records = view.active().map_or(0, |history| history.records);
            self.metrics.tell(
                &self.host,
                term,
                u64::from(records),
                view.unrecognised(),
                view.last_ok(),
            );
        }
    }
}

impl<H: Host> Drop for Runner<H> {
    /// Its root context is gone, or has another configuration: in order, since nothing of a VM that
    /// has trapped is dropped.
    fn drop(&mut self) {
        self.synchroniser.end(&Shared(&self.host));
    }
}
