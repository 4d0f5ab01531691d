//! Which role does this plug-in play? One root context, by its configuration.

use std::rc::Rc;

use medbind_core::cache::Candidate;
use medbind_core::config::{GuardConfig, PluginConfig};

use crate::guard::{Flow, Guard, TICK};
use crate::host::{Host, LogLevel};
use crate::reply::{self, RetryAfter};
use crate::synchronise::Runner;

/// A root context.
#[derive(Debug)]
pub struct Root<H: Host> {
    host: H,
    id: u32,
    guard: Option<Rc<Guard<H>>>,
    /// Guards of earlier configurations, each as long as requests are under way that it let in.
    former: Vec<Rc<Guard<H>>>,
    synchroniser: Option<Runner<H>>,
}

impl<H: Host + Clone> Root<H> {
    /// One that has not been configured: it refuses everything.
    pub const fn new(host: H, id: u32) -> Self {
        Self {
            host,
            id,
            guard: None,
            former: Vec::new(),
            synchroniser: None,
        }
    }

    /// The guard, where that is its role.
    pub const fn guard(&self) -> Option<&Rc<Guard<H>>> {
        self.guard.as_ref()
    }

    /// The synchroniser: the role of its own, or a guard's that may be elected.
    pub const fn synchroniser(&self) -> Option<&Runner<H>> {
        self.synchroniser.as_ref()
    }

    /// Reads the configuration. `false`: it is none, and the log says why and how to mend it; the
    /// host then does not start, or keeps the configuration that it has.
    pub fn on_configure(&mut self) -> bool {
        let octets = match self.host.plugin_configuration() {
            Ok(octets) => octets.unwrap_or_default(),
            Err(error) => {
                let line = format!("medbind: the configuration cannot be read: {error}");
                self.host.log(LogLevel::Error, &line);
                return false;
            }
        };
        match PluginConfig::from_plugin(&octets) {
            Ok(PluginConfig::Guard(config)) => {
                self.former.extend(self.guard.take());
                self.guard_by(*config);
            }
            Ok(PluginConfig::Sync(config)) => {
                self.former.extend(self.guard.take());
                self.synchroniser = Some(Runner::new(
                    self.host.clone(),
                    &config.registry,
                    &config.bindings,
                    Candidate::Singleton,
                ));
            }
            Err(error) => {
                for problem in error.problems() {
                    let line = format!("medbind: configuration: {problem}");
                    self.host.log(LogLevel::Error, &line);
                }
                return false;
            }
        }
        if let Err(error) = self.host.set_tick_period(TICK) {
            // Fail closed: without ticks a change would never be seen.
            let line = format!("medbind: no ticks: {error}");
            self.host.log(LogLevel::Error, &line);
            return false;
        }
        true
    }

    fn guard_by(&mut self, config: GuardConfig) {
        for warning in &config.warnings {
            let line = format!("medbind: configuration: {warning}");
            self.host.log(LogLevel::Warn, &line);
        }
        self.synchroniser = config.registry.as_ref().map(|registry| {
            Runner::new(
                self.host.clone(),
                registry,
                &config.bindings,
                Candidate::Worker,
            )
        });
        self.guard = Some(Rc::new(Guard::new(self.host.clone(), self.id, config)));
    }

    /// A tick.
    pub fn on_tick(&mut self) {
        if let Some(synchroniser) = &mut self.synchroniser {
            synchroniser.on_tick();
            #[cfg(feature = "trap")]
            if synchroniser.is_leader() {
                crate::trap::leading(&self.host);
            }
        }
        // Envoy gives each configuration a root context of its own, but does not promise to: what an
        // earlier one let in is watched until it ends. Each request holds its guard.
        self.former.retain(|guard| Rc::strong_count(guard) > 1);
        for guard in &self.former {
            guard.on_tick();
        }
        if let Some(guard) = &self.guard {
            guard.on_tick();
        }
    }

    /// The answer to a call that was made in this context.
    pub fn on_call_answer(&mut self, token: u32, headers: usize, body: usize) {
        if let Some(synchroniser) = &mut self.synchroniser
            && synchroniser.is_waiting_for(token)
        {
            return synchroniser.on_call_answer(token, headers, body);
        }
        // Each knows the calls that it has made.
        for guard in self.former.iter().chain(&self.guard) {
            guard.on_call_answer(self.id, token, headers, body);
        }
    }

    /// A request begins.
    pub fn open_stream(&self, context: u32) -> Stream<H> {
        Stream {
            host: self.host.clone(),
            context,
            guard: self.guard.clone(),
        }
    }
}

/// For a code that is not transient.
const NEVER: RetryAfter = RetryAfter {
    least: core::time::Duration::ZERO,
    jitter: 0,
};

/// One request. Dropped when its context ends.
#[derive(Debug)]
pub struct Stream<H: Host> {
    host: H,
    context: u32,
    guard: Option<Rc<Guard<H>>>,
}

impl<H: Host> Stream<H> {
    /// Its headers are here.
    pub fn on_request_headers(&self) -> Flow {
        match &self.guard {
            Some(guard) => guard.on_request_headers(self.context),
            None => self.refuse(),
        }
    }

    /// Its trailers are here.
    pub fn on_request_trailers(&self) -> Flow {
        match &self.guard {
            Some(guard) => guard.on_request_trailers(self.context),
            None => self.refuse(),
        }
    }

    /// The answer to a call that was made in this context.
    pub fn on_call_answer(&self, token: u32, headers: usize, body: usize) {
        if let Some(guard) = &self.guard {
            guard.on_call_answer(self.context, token, headers, body);
        }
    }

    /// Fail closed: a filter whose plug-in plays no guard lets nothing pass.
    fn refuse(&self) -> Flow {
        let line = "medbind: this plug-in is no guard (its role is sync), but stands in a filter \
                    chain; it refuses every request";
        self.host.log(LogLevel::Error, line);
        let code = medbind_core::deny::DenyCode::Internal;
        if reply::refuse(&self.host, code, None, false, NEVER).is_err() {
            let _ = self.host.reset_stream();
        }
        Flow::Pause
    }
}

impl<H: Host> Drop for Stream<H> {
    fn drop(&mut self) {
        if let Some(guard) = &self.guard {
            guard.ended(self.context);
        }
    }
}
