//! May this request pass? The guard: it reads facts from the host, has `core` decide, and carries
//! out what comes back.

mod again;
mod ask;
mod settle;

use std::cell::{Cell, RefCell};
use std::time::Duration;

use medbind_core::config::{GuardConfig, LogIdentifiers, Mode};
use medbind_core::decision::Lookup;
use medbind_core::deny::{DenyReason, LookupFailure};
use medbind_core::time::Timestamp;

use self::again::{MOST_CALLS_UNDER_WAY, Round};
use self::settle::Stage;
use crate::asked::{Asked, ReadToken};
use crate::bindings::LocalBindings;
use crate::host::{Host, LogLevel};
use crate::live::Live;
use crate::lookup::{Limits, Lookups};
use crate::peers::{Judge, Peers};
use crate::pseudonyms::Pseudonyms;
use crate::reply::{self, Readiness};
use crate::request::{Arrived, Request, Untouched, read_and_strip, strip_trailers};
use crate::telemetry::{GuardMetrics, LookupEnd};
use crate::verifier::HostAlgorithms;

/// How often a guard looks whether something has changed. A change is in force one tick after the
/// synchroniser has written it, and a request under way is cut in the tick that sees it: of the
/// second that a change may take, the feed's long poll needs next to nothing and this at most a
/// tenth. A tick that finds nothing new costs one read of shared data.
pub const TICK: Duration = Duration::from_millis(100);
/// Filter state that access logs and rate limits read: the deny code. A permit writes none, since
/// each property of filter state costs every request.
pub const STATE_DECISION: &str = "medbind_decision";
/// Filter state: the device's pseudonym; absent where no device is named or the key is not here.
pub const STATE_DEVICE: &str = "medbind_device";
/// Filter state: the device's class, on a permit. Not read from the tag's header: where the guard was
/// never reached, that is still the client's own.
pub const STATE_CLASS: &str = "medbind_class";

/// Whether the host goes on with the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    /// To the next filter.
    Continue,
    /// It waits, or was answered here.
    Pause,
}

#[derive(Debug)]
struct Memory {
    peers: Peers,
    bindings: LocalBindings,
    lookups: Lookups,
    live: Live,
    pseudonyms: Pseudonyms,
}

/// A guard's configuration and everything that one worker remembers for it.
#[derive(Debug)]
pub struct Guard<H> {
    host: H,
    root: u32,
    config: GuardConfig,
    metrics: GuardMetrics,
    algorithms: HostAlgorithms,
    /// The context whose callback runs: calls that are made now are answered there.
    active: Cell<u32>,
    jitter: Cell<u32>,
    memory: RefCell<Memory>,
}

impl<H: Host> Guard<H> {
    /// A guard for the root context `root`.
    pub fn new(host: H, root: u32, config: GuardConfig) -> Self {
        let algorithms = HostAlgorithms::probe(&host);
        let mode = config.mode.as_str();
        let metrics = GuardMetrics::define(&host, mode);
        if config.mode == Mode::Shadow {
            host.log(
                LogLevel::Warn,
                "medbind: this guard runs in shadow mode: it decides, counts and logs, and lets \
                 every request pass untagged",
            );
        }
        let size = |count: u32| usize::try_from(count).unwrap_or(usize::MAX);
        let most_known = size(config.local_table.known_devices);
        let mut bindings = LocalBindings::new(most_known, config.bindings.max_clock_skew, TICK);
        bindings.refresh(&host);
        let seed = u32::try_from(host.now().unix_millis() & 0x7FFF_FFFF).unwrap_or(1);
        Self {
            root,
            metrics,
            algorithms,
            active: Cell::new(root),
            jitter: Cell::new(seed.wrapping_add(root) | 1),
            memory: RefCell::new(Memory {
                peers: Peers::new(most_known, size(config.local_table.refused)),
                bindings,
                lookups: Lookups::new(Limits {
                    in_all: size(config.bindings.max_waiting),
                    a_device: size(config.bindings.max_waiting_per_device),
                }),
                live: Live::default(),
                pseudonyms: Pseudonyms::new(most_known),
            }),
            config,
            host,
        }
    }

    /// The configuration.
    pub const fn config(&self) -> &GuardConfig {
        &self.config
    }

    /// The algorithms that the host verifies.
    pub const fn algorithms(&self) -> &HostAlgorithms {
        &self.algorithms
    }

    /// How many authenticated and how many refused peers are remembered.
    pub fn remembered_peers(&self) -> (usize, usize) {
        let memory = self.memory.try_borrow();
        memory.map_or((0, 0), |memory| memory.peers.len())
    }

    /// How many permitted requests are under way.
    pub fn under_way(&self) -> usize {
        self.memory
            .try_borrow()
            .map_or(0, |memory| memory.live.len())
    }

    /// The headers of a request.
    pub fn on_request_headers(&self, context: u32) -> Flow {
        self.active.set(context);
        let arrived = match read_and_strip(&self.host, self.untouched()) {
            Ok(arrived) => arrived,
            // Fail closed, in shadow mode too: what was not stripped would be believed.
            Err(reason) => return self.refuse_unread(&Request::default(), reason),
        };
        if arrived.stripped {
            self.metrics.stripped(&self.host);
        }
        let now = self.host.now();
        let Ok(mut memory) = self.memory.try_borrow_mut() else {
            return self.refuse_unread(&arrived.request, DenyReason::Internal("re-entered"));
        };
        if self.asks_readiness(&arrived.request) {
            if reply::readiness(&self.host, self.readiness(&memory, now)).is_err() {
                // It is paused, and would hang until the probe gives up.
                let _ = self.host.reset_stream();
            }
            return Flow::Pause;
        }
        let asked = self.who_asks(&mut memory, arrived);
        self.settle(&mut memory, context, asked, Stage::Arrived, None, now)
    }

    /// The trailers of a request.
    pub fn on_request_trailers(&self, context: u32) -> Flow {
        self.active.set(context);
        let Ok(stripped) = strip_trailers(&self.host, self.untouched()) else {
            // Fail closed: the headers are gone already, so the request ends here.
            let _ = self.host.reset_stream();
            return Flow::Pause;
        };
        if stripped {
            self.metrics.stripped(&self.host);
        }
        Flow::Continue
    }

    /// The context of a request is gone.
    pub fn ended(&self, context: u32) {
        if let Ok(mut memory) = self.memory.try_borrow_mut() {
            memory.live.remove(context);
            memory.lookups.leave(context);
        }
    }

    /// The answer to a call that was made in `context`.
    pub fn on_call_answer(&self, context: u32, token: u32, headers: usize, body: usize) {
        self.active.set(context);
        let now = self.host.now();
        let Ok(mut memory) = self.memory.try_borrow_mut() else {
            return;
        };
        if memory.pseudonyms.is_waiting_for(token) {
            let answer = self.host.call_answer(headers, body);
            memory.pseudonyms.answered(&self.host, &answer);
            return;
        }
        let Some(device) = memory.lookups.device_of(token).cloned() else {
            return;
        };
        let answer = self.host.call_answer(headers, body);
        let (said, end) = self.read_answer(&device, &answer, now);
        self.metrics.lookup(&self.host, end);
        let mut round = Round::default();
        self.answered(&mut memory, &device, said.as_ref(), now, &mut round);
        if context == self.root && end != LookupEnd::Failed {
            // Where a call has ended, the next can be made. One that failed leaves it to the ticks:
            // a registry that is down is not asked as fast as it is refused.
            self.take_turns(&mut memory, MOST_CALLS_UNDER_WAY, true, now, &mut round);
        }
        self.finish(memory, &round);
    }

    /// A tick of the root context.
    pub fn on_tick(&self) {
        self.active.set(self.root);
        let now = self.host.now();
        let Ok(mut memory) = self.memory.try_borrow_mut() else {
            return;
        };
        memory.live.tick();
        let changed = memory.bindings.refresh(&self.host);
        let ready = self.readiness(&memory, now) == Readiness::Ready;
        self.metrics.ready(&self.host, ready);
        let registry = self.registry(&memory.bindings);
        if self.config.log_identifiers == LogIdentifiers::Pseudonym
            && let Some((cluster, authority)) = registry
        {
            memory
                .pseudonyms
                .tick(&self.host, &cluster, &authority, TICK);
        }
        let mut round = Round::default();
        for device in memory.lookups.orphans() {
            // What became of another may have made this call. Where one is refused, the next tick
            // tries again, for as long as those who wait would have waited for the first.
            if !memory.lookups.is_open(&device) && self.call(&mut memory, &device).is_err() {
                round.refused = true;
                break;
            }
        }
        for device in memory.lookups.overdue(TICK) {
            let failed = Lookup::Failed(LookupFailure::Timeout);
            self.answered(&mut memory, &device, Some(&failed), now, &mut round);
        }
        self.recheck(&mut memory, &changed, now, &mut round);
        self.finish(memory, &round);
    }

    /// What goes on as it came. In shadow mode an upstream has nothing else to go by yet. Where no
    /// token is ever verified, what `authorization` holds is the upstream's own matter.
    fn untouched(&self) -> Untouched {
        let shadow = self.config.mode == Mode::Shadow;
        let verifies = !self.config.policy.accounts().as_slice().is_empty();
        Untouched {
            forwarded_certificate: self.config.forward_client_cert || shadow,
            authorization: self.config.forward_authorization || shadow || !verifies,
        }
    }

    fn asks_readiness(&self, request: &Request) -> bool {
        let path = request.path.split('?').next();
        let asked = self.config.ready_path.as_deref();
        asked.is_some() && path == asked && matches!(&*request.method, "GET" | "HEAD")
    }

    fn readiness(&self, memory: &Memory, now: Timestamp) -> Readiness {
        match memory.bindings.freshness(now) {
            Err(reason) => Readiness::Unavailable(reason),
            Ok(age) if age > self.config.policy.max_stale() => Readiness::Stale {
                age_seconds: age.as_secs(),
            },
            Ok(_) => Readiness::Ready,
        }
    }

    fn who_asks(&self, memory: &mut Memory, arrived: Arrived) -> Asked {
        let judge = Judge {
            host: &self.host,
            issuers: &self.config.issuers,
            key_policy: &self.config.key_policy,
            algorithms: &self.algorithms,
            source: self.config.certificate_source,
            metrics: &self.metrics,
        };
        let peer = memory
            .peers
            .recognise(&judge, &arrived.forwarded_certificates);
        Asked {
            request: arrived.request,
            peer,
            token: ReadToken::default(),
            lookups: 0,
        }
    }
}
