//! May this request pass? The guard: it reads facts from the host, has `core` decide, and carries
//! out what comes back.

use std::cell::{Cell, RefCell, RefMut};
use std::sync::Arc;
use std::time::Duration;

use medbind_core::cache::{Cache, CacheError, Changed, Kept, View};
use medbind_core::config::{GuardConfig, LogIdentifiers, Mode};
use medbind_core::decision::{Decision, Denial, Lookup, Permit, decide, decide_again};
use medbind_core::deny::{DenyReason, LookupFailure, Unavailable};
use medbind_core::feed::{LookupAnswer, lookup_path};
use medbind_core::identity::DeviceId;
use medbind_core::tag::tag_headers;
use medbind_core::time::Timestamp;

use crate::asked::{ArrivingToken, Asked, ReadToken};
use crate::bindings::{LocalBindings, Shared};
use crate::host::{CallAnswer, Host, LogLevel, RequestMap};
use crate::live::{Doubt, Live, UnderWay};
use crate::lookup::{Behalf, Joined, Limits, Lookups, Wait, Waiter};
use crate::peers::{Judge, Peers};
use crate::pseudonyms::Pseudonyms;
use crate::reply::{self, Readiness, RetryAfter};
use crate::request::{Arrived, Request, Untouched, read_and_strip, strip_trailers};
use crate::telemetry::{DenyEvent, DenyLine, GuardMetrics, LookupEnd, log_deny};
use crate::verifier::HostAlgorithms;

/// How often a guard looks whether something has changed. A change is in force one tick after the
/// synchroniser has written it, and a request under way is cut in the tick that sees it: of the
/// second that a change may take, the feed's long poll needs next to nothing and this at most a
/// tenth. A tick that finds nothing new costs one read of shared data.
pub const TICK: Duration = Duration::from_millis(100);
/// How many requests under way are decided again in one tick: some 10 ms of it. A change names the
/// devices that it is about, so that this is enough for as many requests as there may be; where all
/// have to be, those are the ones that wait their turn.
const MOST_RECHECKS: usize = 1_024;
/// How many calls a worker has open for requests under way alone; the others keep their turn. All
/// workers share the connections that `envoy/http.yaml` lets the cluster of the registry have, and the
/// calls of requests that arrive go by them too: what waits there beyond its deadline has failed, and
/// is asked again.
const MOST_CALLS_UNDER_WAY: usize = 4;
/// The same where something is known against the request that is asked about.
const MOST_URGENT_CALLS: usize = 16;
/// How often the registry is asked on behalf of one request.
const MOST_LOOKUPS: u8 = 3;

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

/// Where a decision is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// In the callback of the request's headers.
    Arrived,
    /// After the registry's answer, for a request that may be paused.
    Answered,
}

const fn most_calls(urgent: bool) -> usize {
    if urgent {
        MOST_URGENT_CALLS
    } else {
        MOST_CALLS_UNDER_WAY
    }
}

#[derive(Debug)]
struct Memory {
    peers: Peers,
    bindings: LocalBindings,
    lookups: Lookups,
    live: Live,
    pseudonyms: Pseudonyms,
}

/// What one callback does for requests under way, and leaves to be done.
#[derive(Debug, Default)]
struct Round {
    /// Whether the host takes no call now.
    refused: bool,
    /// To be reset: once nothing is borrowed, since a reset may call back in at once.
    cut: Vec<u32>,
    /// To be decided again by the next tick, and not before.
    waits: Vec<u32>,
}

/// A request that cannot wait for the registry's word, with what is to be taken for that word.
#[derive(Debug)]
struct Unasked {
    asked: Option<Asked>,
    instead: Lookup,
}

impl Unasked {
    fn new(asked: Option<Asked>, instead: Lookup) -> Box<Self> {
        Box::new(Self { asked, instead })
    }
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
            memory.pseudonyms.answered(&self.host, &answer, now);
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
                .tick(&self.host, &cluster, &authority, now);
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

    /// Who has to wait has a turn again, and who has ended is reset.
    fn finish(&self, mut memory: RefMut<'_, Memory>, round: &Round) {
        for context in &round.waits {
            memory.live.queue_again(*context);
        }
        drop(memory);
        for context in &round.cut {
            if self.host.set_effective_context(*context).is_ok() {
                let _ = self.host.reset_stream();
            }
        }
        if !round.cut.is_empty() {
            let _ = self.host.set_effective_context(self.active.get());
        }
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

    /// Decides, and carries it out on the effective context.
    fn settle(
        &self,
        memory: &mut Memory,
        context: u32,
        mut asked: Asked,
        stage: Stage,
        said: Option<(&DeviceId, &Lookup)>,
        now: Timestamp,
    ) -> Flow {
        let policy = &self.config.policy;
        let mut bindings = memory.bindings.with(&self.host, said);
        let arriving = ArrivingToken::new(&self.host, &self.config.account_metadata, &asked.token);
        let facts = match stage {
            Stage::Arrived => asked.facts_with(&arriving),
            Stage::Answered => asked.facts(),
        };
        let decision = decide(policy, &facts, &mut bindings, now);
        if stage == Stage::Arrived && matches!(decision, Decision::AskRegistry(_)) {
            // The answer may come in another context, or after the request has gone on.
            arriving.read();
        }
        let device = match decision {
            Decision::Permit(permit) => {
                return self.permitted(memory, context, asked, permit, stage);
            }
            Decision::Deny(denial) => return self.denied(memory, &asked.request, &denial, stage),
            Decision::AskRegistry(device) => device,
        };
        asked.lookups = asked.lookups.saturating_add(1);
        let wait = match self.config.mode {
            Mode::Enforce => Wait::Paused,
            Mode::Shadow => Wait::Watched,
        };
        let unasked = match self.ask(memory, context, Some(asked), wait, &device) {
            Ok(()) if wait == Wait::Paused => return Flow::Pause,
            Ok(()) => return Flow::Continue,
            Err(unasked) => *unasked,
        };
        let Some(asked) = unasked.asked else {
            let reason = DenyReason::Internal("a request that waited was lost");
            return self.refuse_unread(&Request::default(), reason);
        };
        let said = Some((&device, &unasked.instead));
        let mut bindings = memory.bindings.with(&self.host, said);
        match decide(policy, &asked.facts(), &mut bindings, now) {
            Decision::Permit(permit) => self.permitted(memory, context, asked, permit, stage),
            Decision::Deny(denial) => self.denied(memory, &asked.request, &denial, stage),
            Decision::AskRegistry(device) => {
                // Fail closed: a request that needs yet another device while the registry cannot
                // be asked.
                let denial = Denial {
                    reason: DenyReason::LookupFailed(LookupFailure::Connection),
                    rule: None,
                    device: Some(device),
                };
                self.denied(memory, &asked.request, &denial, stage)
            }
        }
    }

    fn permitted(
        &self,
        memory: &mut Memory,
        context: u32,
        asked: Asked,
        permit: Permit,
        stage: Stage,
    ) -> Flow {
        let shadow = self.config.mode == Mode::Shadow;
        if !shadow {
            for (name, value) in tag_headers(&permit) {
                let set = self
                    .host
                    .set_header(RequestMap::Headers, name, value.as_bytes());
                if set.is_err() {
                    // Fail closed: an upstream must not see half a tag.
                    let denial = Denial {
                        reason: DenyReason::Internal("a tag cannot be written"),
                        rule: permit.rule_index(),
                        device: permit.device().cloned(),
                    };
                    return self.denied(memory, &asked.request, &denial, stage);
                }
            }
        }
        self.metrics.permit(&self.host);
        if !shadow || stage == Stage::Arrived {
            let device = self.name(memory, permit.device());
            self.write_device(device.as_deref());
            if let Some(class) = permit.class() {
                let _ = self.host.set_filter_state(STATE_CLASS, class.as_str());
            }
        }
        let may_end = permit.binding().is_some() || permit.valid_until() < Timestamp::MAX;
        if !shadow && may_end {
            let asked = Asked {
                lookups: 0,
                ..asked
            };
            let one = UnderWay {
                asked,
                permit,
                doubt: Doubt::default(),
            };
            memory.live.insert(context, one);
        }
        Flow::Continue
    }

    fn denied(
        &self,
        memory: &mut Memory,
        request: &Request,
        denial: &Denial,
        stage: Stage,
    ) -> Flow {
        let code = denial.reason.code();
        let shadow = self.config.mode == Mode::Shadow;
        let device = self.name(memory, denial.device.as_ref());
        self.metrics.deny(&self.host, code);
        let event = if shadow {
            DenyEvent::Passed
        } else {
            DenyEvent::Refused
        };
        self.log(event, request, denial, device.as_deref());
        if !shadow || stage == Stage::Arrived {
            let _ = self.host.set_filter_state(STATE_DECISION, code.as_str());
            self.write_device(device.as_deref());
        }
        if shadow {
            return Flow::Continue;
        }
        self.answer(request, &denial.reason);
        Flow::Pause
    }

    /// Refuses what could not be read, in either mode.
    fn refuse_unread(&self, request: &Request, reason: DenyReason) -> Flow {
        let denial = Denial {
            reason,
            rule: None,
            device: None,
        };
        self.metrics.deny(&self.host, denial.reason.code());
        self.log(DenyEvent::Refused, request, &denial, None);
        self.answer(request, &denial.reason);
        Flow::Pause
    }

    fn answer(&self, request: &Request, reason: &DenyReason) {
        let id = request.request_id.as_deref();
        let retry_after = RetryAfter {
            least: self.config.retry_after,
            jitter: self.next_jitter(),
        };
        let sent = reply::refuse(&self.host, reason.code(), id, request.grpc, retry_after);
        if sent.is_err() {
            // Fail closed: it is paused, and ends here without an answer.
            let _ = self.host.reset_stream();
        }
    }

    /// What a device is called in logs and filter state; `None` until the key is here.
    fn name(&self, memory: &mut Memory, device: Option<&DeviceId>) -> Option<String> {
        let device = device?;
        match self.config.log_identifiers {
            LogIdentifiers::Plain => Some(device.to_string()),
            LogIdentifiers::Pseudonym => Some(memory.pseudonyms.of(device)?.to_string()),
        }
    }

    fn log(&self, event: DenyEvent, request: &Request, denial: &Denial, device: Option<&str>) {
        log_deny(
            &self.host,
            &DenyLine {
                mode: self.config.mode.as_str(),
                event,
                reason: &denial.reason,
                device,
                rule: denial.rule,
                request_id: request.request_id.as_deref(),
            },
        );
    }

    fn write_device(&self, device: Option<&str>) {
        if let Some(device) = device {
            let _ = self.host.set_filter_state(STATE_DEVICE, device);
        }
    }

    fn next_jitter(&self) -> u32 {
        // xorshift32 (Marsaglia): spreads, and keeps no secret.
        let mut x = self.jitter.get();
        x ^= x << 13;
        x ^= x >> 17;
        x ^= x << 5;
        self.jitter.set(x);
        x
    }

    /// Where the registry is: the one that the synchroniser follows, since what another says of a
    /// device cannot be kept beside it; before there is one, that of this guard's own configuration.
    fn registry(&self, bindings: &LocalBindings) -> Option<(String, String)> {
        if let Some(registry) = bindings.view().ok().and_then(View::registry) {
            return Some((registry.cluster.clone(), registry.authority.clone()));
        }
        let registry = self.config.registry.as_ref()?;
        Some((registry.cluster.to_string(), registry.authority.to_string()))
    }

    /// Lets a request wait for the registry's word on `device`; hands it back with what is to be
    /// taken for that word where it cannot.
    fn ask(
        &self,
        memory: &mut Memory,
        context: u32,
        asked: Option<Asked>,
        wait: Wait,
        device: &DeviceId,
    ) -> Result<(), Box<Unasked>> {
        if asked
            .as_ref()
            .is_some_and(|asked| asked.lookups > MOST_LOOKUPS)
        {
            return Err(Unasked::new(asked, Lookup::Failed(LookupFailure::Answer)));
        }
        let waiter = Waiter {
            context,
            wait,
            behalf: asked
                .as_ref()
                .map_or(Behalf::Device, |asked| asked.behalf(device)),
            asked,
        };
        match memory.lookups.join(device, waiter) {
            Joined::Waits => Ok(()),
            Joined::Full(waiter) => Err(Unasked::new(
                waiter.asked,
                Lookup::Unavailable(Unavailable::Busy),
            )),
            Joined::Calls => {
                let called = self.call(memory, device);
                // The calls that follow act on the request again.
                let _ = self.host.set_effective_context(context);
                let Err(failure) = called else {
                    return Ok(());
                };
                let own = memory.lookups.withdraw(device);
                let asked = own.and_then(|waiter| waiter.asked);
                Err(Unasked::new(asked, Lookup::Failed(failure)))
            }
        }
    }

    /// Makes the call for `device`, to be answered in the context whose callback runs.
    fn call(&self, memory: &mut Memory, device: &DeviceId) -> Result<(), LookupFailure> {
        let caller = self.active.get();
        let timeout = self.config.bindings.lookup_timeout;
        let (cluster, authority) = self
            .registry(&memory.bindings)
            .ok_or(LookupFailure::Connection)?;
        self.host
            .set_effective_context(caller)
            .map_err(|_| LookupFailure::Connection)?;
        let token = self
            .host
            .get(&cluster, &authority, &lookup_path(device), timeout)
            .map_err(|_| LookupFailure::Connection)?;
        memory.lookups.called(device, token, caller, timeout);
        Ok(())
    }

    /// What the registry's answer says of `device`; `None` where the cache has it now, or the
    /// registry has to be asked again.
    fn read_answer(
        &self,
        device: &DeviceId,
        answer: &CallAnswer,
        now: Timestamp,
    ) -> (Option<Lookup>, LookupEnd) {
        let failed = |failure| (Some(Lookup::Failed(failure)), LookupEnd::Failed);
        match answer.status {
            Some(200) => {}
            // What the host answers itself where nobody did in time, or nobody is there.
            Some(504) => return failed(LookupFailure::Timeout),
            Some(503) => return failed(LookupFailure::Connection),
            Some(_) | None => return failed(LookupFailure::Answer),
        }
        let Ok(answer) = LookupAnswer::parse(&answer.body, device) else {
            return failed(LookupFailure::Answer);
        };
        let end = match answer.binding {
            Some(_) => LookupEnd::Found,
            None => LookupEnd::Absent,
        };
        let ttl = self.config.bindings.negative_ttl;
        match Cache::new(&Shared(&self.host)).insert_lookup(now, &answer, ttl) {
            Ok(Kept::Stored | Kept::Overtaken) => (None, end),
            Ok(Kept::NoRoom) => {
                let said = answer
                    .binding
                    .map_or(Lookup::Absent, |binding| Lookup::Found(Arc::new(binding)));
                (Some(said), end)
            }
            Err(CacheError::Unavailable(reason)) => {
                (Some(Lookup::Unavailable(reason)), LookupEnd::Failed)
            }
            // Fail closed: whether the feed has gone past the answer cannot be said.
            Err(CacheError::Superseded | CacheError::Contended | CacheError::Host) => {
                failed(LookupFailure::Answer)
            }
        }
    }

    /// Decides for everyone who waited for `device`.
    fn answered(
        &self,
        memory: &mut Memory,
        device: &DeviceId,
        said: Option<&Lookup>,
        now: Timestamp,
        round: &mut Round,
    ) {
        let failed = matches!(said, Some(Lookup::Failed(_)));
        let said = said.map(|said| (device, said));
        for waiter in memory.lookups.finish(device) {
            let context = waiter.context;
            match (waiter.wait, waiter.asked) {
                (Wait::Paused, Some(asked)) => {
                    if self.host.set_effective_context(context).is_err() {
                        continue;
                    }
                    let flow = self.settle(memory, context, asked, Stage::Answered, said, now);
                    if flow == Flow::Continue {
                        let _ = self.host.resume_request();
                    }
                }
                (Wait::Watched, Some(asked)) => {
                    self.settle(memory, context, asked, Stage::Answered, said, now);
                }
                (Wait::UnderWay, _) if failed && memory.live.may_wait(context) => {
                    round.waits.push(context);
                }
                (Wait::UnderWay, _) => {
                    self.recheck_one(memory, context, said, now, round);
                }
                (Wait::Paused | Wait::Watched, None) | (Wait::Gone, _) => {}
            }
        }
    }

    /// Decides again for the requests under way, where something may have changed: as many as a
    /// tick has time for, what is known to have changed first.
    fn recheck(&self, memory: &mut Memory, changed: &Changed, now: Timestamp, round: &mut Round) {
        let Memory { bindings, live, .. } = memory;
        if live.is_empty() {
            return;
        }
        let max_stale = self.config.policy.max_stale();
        let fresh = matches!(bindings.freshness(now), Ok(age) if age <= max_stale);
        if let (Changed::Buckets(buckets), Ok(view)) = (changed, bindings.view()) {
            live.queue_first(&|one| {
                one.devices()
                    .any(|device| buckets.contains(view.bucket_of(device)))
            });
        }
        live.queue_ended(now);
        if *changed == Changed::Everything || !fresh {
            live.queue_all();
        }
        self.take_turns(memory, MOST_RECHECKS, false, now, round);
    }

    /// Decides again for those whose turn it is, at most so many, and only for as long as calls can
    /// be made where `while_calls` says so.
    fn take_turns(
        &self,
        memory: &mut Memory,
        most: usize,
        while_calls: bool,
        now: Timestamp,
        round: &mut Round,
    ) {
        for _ in 0..most {
            let calls = most_calls(memory.live.next_is_urgent());
            if while_calls && (round.refused || memory.lookups.under_way() >= calls) {
                break;
            }
            let Some(context) = memory.live.take_next() else {
                break;
            };
            self.recheck_one(memory, context, None, now, round);
        }
    }

    /// Decides again for one request under way. What only the registry can say is asked, as soon as
    /// a call can be made. It is cut by what the registry says, and where that cannot be had for too
    /// long.
    fn recheck_one(
        &self,
        memory: &mut Memory,
        context: u32,
        said: Option<(&DeviceId, &Lookup)>,
        now: Timestamp,
        round: &mut Round,
    ) {
        let policy = &self.config.policy;
        let Some(one) = memory.live.get_mut(context) else {
            return;
        };
        let mut bindings = memory.bindings.with(&self.host, said);
        let facts = one.asked.facts();
        let denial = match decide_again(&one.permit, policy, &facts, &mut bindings, now) {
            Decision::Permit(permit) => {
                let end = permit.valid_until();
                one.permit = permit;
                one.asked.lookups = 0;
                one.doubt = Doubt::default();
                memory.live.ends(end);
                return;
            }
            Decision::Deny(denial) => denial,
            Decision::AskRegistry(device) if memory.lookups.has_under_way(&device, context) => {
                return;
            }
            Decision::AskRegistry(device) => {
                let lookups = one.asked.lookups.saturating_add(1);
                let most = most_calls(one.doubt.is_urgent());
                let free = !round.refused && memory.lookups.under_way() < most;
                if lookups <= MOST_LOOKUPS && (free || memory.lookups.is_open(&device)) {
                    let asked = self.ask(memory, context, None, Wait::UnderWay, &device);
                    if asked.is_ok() {
                        if let Some(one) = memory.live.get_mut(context) {
                            one.asked.lookups = lookups;
                        }
                        return;
                    }
                    round.refused = true;
                }
                if memory.live.may_wait(context) {
                    return round.waits.push(context);
                }
                // Fail closed: whether the permit still holds cannot be found out.
                let failure = if lookups > MOST_LOOKUPS {
                    LookupFailure::Answer
                } else {
                    LookupFailure::Connection
                };
                Denial {
                    reason: DenyReason::LookupFailed(failure),
                    rule: None,
                    device: Some(device),
                }
            }
        };
        let Some(one) = memory.live.remove(context) else {
            return;
        };
        let device = self.name(memory, denial.device.as_ref());
        self.metrics.cut(&self.host, denial.reason.code());
        self.log(
            DenyEvent::Cut,
            &one.asked.request,
            &denial,
            device.as_deref(),
        );
        round.cut.push(context);
    }
}
