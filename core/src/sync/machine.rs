use core::time::Duration;

use super::progress::{Outcome, Page, Step, record_step};
use super::random::Random;
use super::settings::{FetchId, SyncAction, SyncLogLevel, SyncResponse, SyncSettings};
use crate::cache::{
    CacheError, Candidacy, Candidate, Control, History, Leadership, Patience, Place, SharedData,
    Writer, give_back, lead,
};
use crate::feed::{Cursor, FeedError, FeedPage, history_of};
use crate::latest::{Latest, STEP_BACK_TOLERANCE};
use crate::time::Timestamp;

/// The most records that are applied in one call.
const RECORDS_A_STEP: usize = 2_500;
/// The most buckets that are swept in one call while a history that is gone is swept.
const BUCKETS_A_SWEEP: u32 = 1_024;
/// The buckets that are looked through in one call at other times, so that octets which somebody
/// else has destroyed are noticed without a reader.
const BUCKETS_A_SCRUB: u32 = 16;
/// The smallest page that is asked for, after answers that were too large.
const SMALLEST_PAGE: u32 = 16;
/// A host's own time-out is given this much more before the call counts as lost.
const GRACE: Duration = Duration::from_secs(1);
/// A heartbeat that is older is asked for at once, not by long poll.
const HEARTBEAT_AT_ONCE: Duration = Duration::from_secs(3);
/// The longest wait that the registry's `Retry-After` may ask for.
const LONGEST_RETRY_AFTER: Duration = Duration::from_mins(1);

/// The state machine. One lives in each singleton or worker that may synchronise.
#[derive(Debug)]
pub struct Synchroniser {
    settings: SyncSettings,
    candidacy: Candidacy,
    random: Random,
    started: Option<Timestamp>,
    /// The leader's place at the last tick, where it was another's or nobody's.
    seen: Option<Place>,
    leading: Option<Leading>,
    last_fetch: u64,
    failures: u32,
    retry: Option<Retry>,
    /// Records asked for in the next page; less than the settings say after too large an answer.
    page_limit: u32,
    last_load: Option<Timestamp>,
    /// Since the clock last stepped back.
    latest: Latest,
    /// Whether the next request is to be answered at once, whatever was heard before.
    at_once: bool,
}

#[derive(Clone, Copy, Debug)]
struct Retry {
    since: Timestamp,
    pause: Duration,
}

impl Retry {
    /// Whether the pause is over; a clock that stepped back ends it too.
    fn is_over(self, now: Timestamp) -> bool {
        now < self.since || now.since(self.since) >= self.pause
    }
}

/// What only a leader has.
#[derive(Debug)]
struct Leading {
    term: u32,
    adopted: bool,
    flight: Option<Flight>,
    page: Option<Page>,
    /// Whether what is read from the beginning is, as far as can be known, the history that answers.
    reads_again: bool,
    /// Whether the last request was for the history that is being read.
    asked_load: bool,
    /// The next bucket to sweep or scrub.
    bucket: u32,
    /// How far the clock has been set back, which has still to be recorded.
    set_back: Duration,
}

/// A request that is under way.
#[derive(Clone, Debug)]
struct Flight {
    id: FetchId,
    generation: u32,
    cursor: Option<Cursor>,
    asked: Timestamp,
    timeout: Duration,
}

/// Why an answer, or the lack of one, is no step forward.
enum Trouble {
    Cache(CacheError),
    /// To be asked for again, after a pause.
    Refused {
        level: SyncLogLevel,
        message: String,
        retry_after: Option<Duration>,
    },
}

impl From<CacheError> for Trouble {
    fn from(error: CacheError) -> Self {
        Self::Cache(error)
    }
}

impl Trouble {
    fn refused(message: impl Into<String>) -> Self {
        Self::Refused {
            level: SyncLogLevel::Warn,
            message: message.into(),
            retry_after: None,
        }
    }
}

impl Synchroniser {
    /// A synchroniser that has not begun. `seed` is different for each one in an Envoy, and not to
    /// be guessed by devices: it names the leader, spreads the pauses and keys the cache's hash.
    /// `number` is higher than that of each one that began before: a new configuration goes before
    /// an older one.
    pub fn new(settings: SyncSettings, seed: u64, number: u64) -> Self {
        let mut random = Random(seed);
        Self {
            candidacy: Candidacy {
                owner: random.next(),
                candidate: settings.candidate,
                configuration: settings.fingerprint(),
                number,
            },
            random,
            started: None,
            seen: None,
            leading: None,
            last_fetch: 0,
            failures: 0,
            retry: None,
            page_limit: settings.page_limit,
            last_load: None,
            latest: Latest::NONE,
            at_once: false,
            settings,
        }
    }

    /// Whether it leads.
    pub const fn is_leader(&self) -> bool {
        self.leading.is_some()
    }

    /// Which of all that have led it is, while it leads.
    pub fn term(&self) -> Option<u32> {
        self.leading.as_ref().map(|leading| leading.term)
    }

    /// The request that is under way.
    #[cfg(test)]
    pub(super) fn flight(&self) -> Option<FetchId> {
        let leading = self.leading.as_ref()?;
        leading.flight.as_ref().map(|flight| flight.id)
    }

    /// It ends: where it leads, another may at once.
    pub fn end(&mut self, store: &dyn SharedData) {
        if self.leading.take().is_some() {
            give_back(store, self.candidacy);
        }
    }

    /// Time has passed: keeps or takes the lease, goes on with what is under way, asks for more.
    pub fn on_tick(&mut self, now: Timestamp, store: &dyn SharedData) -> Vec<SyncAction> {
        let mut actions = Vec::new();
        if let Err(trouble) = self.tick(now, store, &mut actions) {
            self.handle(trouble, now, &mut actions);
        }
        actions
    }

    /// A fetch has ended. What does not answer the newest request is ignored.
    pub fn on_response(
        &mut self,
        now: Timestamp,
        store: &dyn SharedData,
        id: FetchId,
        response: SyncResponse<'_>,
    ) -> Vec<SyncAction> {
        let mut actions = Vec::new();
        if self.leading.is_none() {
            return actions;
        }
        if let Some(step) = self.see(now) {
            // What was asked before the step is asked anew by the next tick.
            self.clock_was_set_back(step);
        }
        let Some(leading) = &mut self.leading else {
            return actions;
        };
        let Some(flight) = leading.flight.take_if(|flight| flight.id == id) else {
            return actions;
        };
        let step = self
            .receive(now, store, &flight, response, &mut actions)
            .and_then(|()| self.apply_step(now, store, &mut actions))
            .and_then(|()| self.ask(now, store, &mut actions));
        if let Err(trouble) = step {
            self.handle(trouble, now, &mut actions);
        }
        actions
    }

    fn tick(
        &mut self,
        now: Timestamp,
        store: &dyn SharedData,
        actions: &mut Vec<SyncAction>,
    ) -> Result<(), Trouble> {
        let step_back = self.see(now);
        let started = *self.started.get_or_insert(now);
        let patience = match self.settings.candidate {
            Candidate::Singleton => Duration::ZERO,
            Candidate::Worker => self.settings.lease_timeout,
        };
        let patience = Patience {
            vacant: now.since(started) >= patience,
            left: self.seen == Some(Place::Left),
        };
        let leadership = lead(
            store,
            self.candidacy,
            now,
            self.settings.lease_timeout,
            patience,
        )?;
        match leadership {
            Leadership::Follower { place } => {
                self.seen = Some(place);
                self.step_down(actions);
                return Ok(());
            }
            Leadership::Leader { term } => {
                self.seen = None;
                self.lead_in(term, actions);
            }
        }
        if let Some(step) = step_back {
            self.clock_was_set_back(step);
        }
        self.adopt(now, store, actions)?;
        self.record_steps_back(store)?;
        self.give_up_late_flight(now)?;
        self.apply_step(now, store, actions)?;
        self.ask(now, store, actions)?;
        self.sweep_step(now, store)
    }

    fn step_down(&mut self, actions: &mut Vec<SyncAction>) {
        if self.leading.take().is_some() {
            self.retry = None;
            self.failures = 0;
            info(actions, "another synchroniser has taken over".into());
        }
    }

    fn lead_in(&mut self, term: u32, actions: &mut Vec<SyncAction>) {
        if self.leading.as_ref().is_some_and(|l| l.term == term) {
            return;
        }
        self.leading = Some(Leading {
            term,
            adopted: false,
            flight: None,
            page: None,
            reads_again: false,
            asked_load: false,
            bucket: 0,
            set_back: Duration::ZERO,
        });
        // Whatever the last leader had asked for is lost, and it may have been asked after a step of
        // the clock that this one has not seen.
        self.at_once = true;
        info(actions, format!("synchronising, as leader of term {term}"));
    }

    /// Takes over what the last leader left, or makes the cache.
    fn adopt(
        &mut self,
        now: Timestamp,
        store: &dyn SharedData,
        actions: &mut Vec<SyncAction>,
    ) -> Result<(), Trouble> {
        let hash_key = self.random.next();
        let settings = &self.settings;
        let Some(leading) = self.leading.as_mut().filter(|l| !l.adopted) else {
            return Ok(());
        };
        let writer = Writer::new(store, leading.term);
        match writer.control() {
            Err(CacheError::Unavailable(_)) => writer.create(settings.capacity, hash_key, now)?,
            other => drop(other?),
        }
        let outgrown = writer.update(|control| {
            // What the last leader wrote in the middle of a page was not announced.
            control.changes.tell_everything();
            control.registry = Some(settings.registry.clone());
            let is_other = |h: &History| h.complete != settings.preload;
            if control.loading.as_ref().is_some_and(is_other) {
                control.loading = None;
                control.sweeping = true;
            }
            if let Some(active) = &control.active {
                let more_room = active.over_capacity && settings.capacity > control.capacity;
                control.reload |= is_other(active) || more_room;
            }
            control.capacity = settings.capacity;
            let fits = control.has_buckets_for(settings.capacity);
            Ok((!fits).then(|| control.buckets()))
        })?;
        leading.adopted = true;
        if let Some(buckets) = outgrown {
            let capacity = settings.capacity;
            warn(
                actions,
                format!(
                    "bindings.capacity is {capacity}, but the cache was made for fewer and keeps \
                     its {buckets} buckets: every lookup reads a longer one; start Envoy anew, or \
                     give the plug-ins another vm_id, to have it made for {capacity}"
                ),
            );
        }
        Ok(())
    }

    /// It is `now`; gives how far the clock has been set back, where it has.
    fn see(&mut self, now: Timestamp) -> Option<Duration> {
        let step = self.latest.step_back(now);
        if step.is_some() {
            self.latest = Latest::at(now);
            // By the new clock nobody has been heard yet: who lives has its time to be.
            self.started = Some(now);
        } else {
            self.latest.see(now);
        }
        step
    }

    /// Readers believe no age by a clock that has stepped back, until the registry is heard again:
    /// so it is asked at once.
    fn clock_was_set_back(&mut self, step: Duration) {
        if let Some(leading) = &mut self.leading {
            leading.flight = None;
            leading.set_back = leading.set_back.saturating_add(step);
            self.retry = None;
            self.at_once = true;
        }
    }

    /// Tells those that read the cache only later, and have not seen it themselves.
    fn record_steps_back(&mut self, store: &dyn SharedData) -> Result<(), Trouble> {
        let Some(leading) = self.leading.as_mut().filter(|l| !l.set_back.is_zero()) else {
            return Ok(());
        };
        let step = leading.set_back;
        Writer::new(store, leading.term).update(|control| {
            control.step_back(step);
            Ok(())
        })?;
        leading.set_back = Duration::ZERO;
        Ok(())
    }

    fn give_up_late_flight(&mut self, now: Timestamp) -> Result<(), Trouble> {
        let Some(leading) = &mut self.leading else {
            return Ok(());
        };
        let late = leading
            .flight
            .take_if(|flight| now.since(flight.asked) > flight.timeout.saturating_add(GRACE));
        match late {
            Some(_) => Err(Trouble::refused("the registry did not answer in time")),
            None => Ok(()),
        }
    }

    /// Asks for what is needed next, if nothing is under way.
    fn ask(
        &mut self,
        now: Timestamp,
        store: &dyn SharedData,
        actions: &mut Vec<SyncAction>,
    ) -> Result<(), Trouble> {
        let Some(leading) = &self.leading else {
            return Ok(());
        };
        if leading.flight.is_some() || leading.page.is_some() {
            return Ok(());
        }
        if self.retry.is_some_and(|retry| !retry.is_over(now)) {
            return Ok(());
        }
        self.retry = None;
        let writer = Writer::new(store, leading.term);
        let control = writer.control()?;
        // How long until the registry may be read from the beginning again.
        let rest = self
            .last_load
            .filter(|at| *at <= now)
            .map_or(Duration::ZERO, |at| {
                self.settings.reload_interval.saturating_sub(now.since(at))
            });
        let is_due = control.active.is_none() || (control.reload && rest.is_zero());
        let control = if control.loading.is_none() && is_due {
            let reads_again = control.active.is_some();
            self.begin_load(now, store, reads_again, actions)?
        } else {
            control
        };
        let (history, is_load) = match (&control.loading, &control.active) {
            (Some(_), Some(active)) if self.follows_beside(&control) => (active, false),
            (Some(history), _) => (history, true),
            (None, Some(active)) => (active, false),
            (None, None) => return Ok(()),
        };
        let heard = control.last_ok.filter(|at| {
            now.since(*at) <= HEARTBEAT_AT_ONCE && at.since(now) <= STEP_BACK_TOLERANCE
        });
        let wait = if control.loading.is_some() || heard.is_none() || self.at_once {
            Duration::ZERO
        } else if control.reload {
            self.settings.wait.min(rest)
        } else {
            self.settings.wait
        };
        let limit = if history.complete || !is_load {
            self.page_limit
        } else {
            0
        };
        let timeout = wait.saturating_add(self.settings.fetch_timeout);
        self.last_fetch = self.last_fetch.wrapping_add(1);
        let id = FetchId(self.last_fetch);
        let flight = Flight {
            id,
            generation: history.generation,
            cursor: history.cursor.clone(),
            asked: now,
            timeout,
        };
        let path = feed_path(flight.cursor.as_ref(), wait, limit);
        if let Some(leading) = &mut self.leading {
            leading.asked_load = is_load;
            leading.flight = Some(flight);
        }
        actions.push(SyncAction::Fetch { id, path, timeout });
        Ok(())
    }

    /// Whether it is the turn of the history that answers, while it is read again from its
    /// beginning: changes go on arriving, page by page in turn, and it does not get stale.
    fn follows_beside(&self, control: &Control) -> bool {
        let (Some(leader), Some(loading), Some(active)) =
            (&self.leading, &control.loading, &control.active)
        else {
            return false;
        };
        // A history that forked keeps its name: only why it is read tells.
        let is_another = loading.feed.is_some() && loading.feed != active.feed;
        leader.reads_again && !is_another && leader.asked_load
    }

    /// Begins to read a history from its beginning, beside the one that answers; `reads_again`
    /// where nothing says that it is another one.
    fn begin_load(
        &mut self,
        now: Timestamp,
        store: &dyn SharedData,
        reads_again: bool,
        actions: &mut Vec<SyncAction>,
    ) -> Result<Control, Trouble> {
        let Some(leading) = &mut self.leading else {
            return Err(CacheError::Superseded.into());
        };
        let preload = self.settings.preload;
        let control = Writer::new(store, leading.term).update(|control| {
            let generation = control.next_generation()?;
            control.sweeping |= control.loading.is_some();
            control.loading = Some(History::new(generation, preload));
            control.reload = false;
            Ok(control.clone())
        })?;
        leading.bucket = 0;
        leading.reads_again = reads_again;
        leading.asked_load = false;
        self.last_load = Some(now);
        info(actions, "reading the registry from the beginning".into());
        Ok(control)
    }

    /// Reads an answer; what it holds is left in `page`.
    fn receive(
        &mut self,
        now: Timestamp,
        store: &dyn SharedData,
        flight: &Flight,
        response: SyncResponse<'_>,
        actions: &mut Vec<SyncAction>,
    ) -> Result<(), Trouble> {
        let Some(leading) = &self.leading else {
            return Ok(());
        };
        let control = Writer::new(store, leading.term).control()?;
        let histories = [&control.loading, &control.active];
        let Some(history) = histories
            .into_iter()
            .flatten()
            .find(|history| history.generation == flight.generation)
        else {
            return Ok(());
        };
        let body = match response {
            SyncResponse::Answer {
                status: 200, body, ..
            } => body,
            SyncResponse::Answer { status: 410, .. } if flight.cursor.is_some() => {
                let again = control.loading.is_some();
                self.begin_load(now, store, false, actions)?;
                let message = "the registry does not know this history any more";
                // A registry that forgets a history while it is being read gets a pause.
                return if again {
                    Err(Trouble::refused(message))
                } else {
                    warn(actions, message.into());
                    Ok(())
                };
            }
            SyncResponse::Answer {
                status,
                retry_after,
                ..
            } => {
                return Err(Trouble::Refused {
                    level: match status {
                        // The edge's own certificate or token: no pause mends that.
                        401 | 403 => SyncLogLevel::Error,
                        _ => SyncLogLevel::Warn,
                    },
                    message: format!("the registry answered with status {status}"),
                    retry_after,
                });
            }
            SyncResponse::Failed => {
                return Err(Trouble::refused("the registry could not be reached"));
            }
        };
        // Before all else: what is right in an answer hangs on its history.
        let of = history_of(body);
        if of.is_some() && history.feed.is_some() && of != history.feed {
            self.begin_load(now, store, false, actions)?;
            return Err(Trouble::refused("the answer is of another history"));
        }
        let page = match FeedPage::parse(body, history.position) {
            Ok(page) => page,
            Err(error) => {
                if error == FeedError::TooLarge {
                    self.page_limit = self.page_limit.wrapping_shr(1).max(SMALLEST_PAGE);
                }
                return Err(Trouble::Refused {
                    level: if matches!(error, FeedError::Version(_)) {
                        SyncLogLevel::Error
                    } else {
                        SyncLogLevel::Warn
                    },
                    message: error.to_string(),
                    retry_after: None,
                });
            }
        };
        // It never does within one history: what was read of this one may be gone.
        if page.header.head < history.head {
            self.begin_load(now, store, false, actions)?;
            return Err(Trouble::refused("the history's newest revision went back"));
        }
        if page.header.more && flight.cursor.as_ref() == Some(&page.header.cursor) {
            return Err(Trouble::refused(
                "the answer promises more and does not go on",
            ));
        }
        self.failures = 0;
        self.at_once = false;
        self.page_limit = self
            .page_limit
            .saturating_mul(2)
            .min(self.settings.page_limit);
        if let Some(leading) = &mut self.leading {
            leading.page = Some(Page {
                generation: flight.generation,
                header: page.header,
                bindings: page.bindings,
                applied: 0,
                position: page.position,
                unrecognised: page.unrecognised,
                unknown: page.unknown,
                received: now,
            });
        }
        Ok(())
    }

    /// Applies the next part of the page that is there, if one is.
    fn apply_step(
        &mut self,
        now: Timestamp,
        store: &dyn SharedData,
        actions: &mut Vec<SyncAction>,
    ) -> Result<(), Trouble> {
        let Some(leading) = &mut self.leading else {
            return Ok(());
        };
        let Some(page) = &mut leading.page else {
            return Ok(());
        };
        let writer = Writer::new(store, leading.term);
        let control = writer.control()?;
        let rest = page.bindings.get(page.applied..).unwrap_or_default();
        let part = rest.get(..RECORDS_A_STEP).unwrap_or(rest);
        let step = Step {
            part,
            applied: writer.apply(&control, page.generation, part, now)?,
            done: part.len() == rest.len(),
        };
        let (outcome, is_full) = writer.update(|control| record_step(control, page, step))?;
        let (length, done) = (part.len(), step.done);
        page.applied = page.applied.saturating_add(length);
        if done {
            leading.page = None;
        }
        match outcome {
            Outcome::GoOn => {}
            Outcome::Switched { devices } => {
                leading.bucket = 0;
                info(
                    actions,
                    format!("the registry has been read: {devices} devices"),
                );
            }
            Outcome::LoadBroken => {
                leading.page = None;
                warn(
                    actions,
                    "a part of the cache was destroyed by somebody else".into(),
                );
                self.begin_load(now, store, true, actions)?;
            }
        }
        if is_full {
            warn(
                actions,
                "the registry has more devices than bindings.capacity; those left out are refused as unavailable".into(),
            );
        }
        Ok(())
    }

    /// Sweeps what no history in use holds, or looks a few buckets through.
    fn sweep_step(&mut self, now: Timestamp, store: &dyn SharedData) -> Result<(), Trouble> {
        let Some(leading) = self.leading.as_mut().filter(|l| l.page.is_none()) else {
            return Ok(());
        };
        let writer = Writer::new(store, leading.term);
        let control = writer.control()?;
        if control.active.is_none() {
            return Ok(());
        }
        let buckets = if control.sweeping {
            BUCKETS_A_SWEEP
        } else {
            BUCKETS_A_SCRUB
        };
        let swept = writer.sweep(&control, leading.bucket, buckets, now)?;
        leading.bucket = swept.next.unwrap_or_default();
        let swept_all = swept.next.is_none() && control.sweeping;
        if swept.corrupt > 0 || swept_all {
            writer.update(|control| {
                control.reload |= swept.corrupt > 0;
                control.sweeping &= !swept_all;
                Ok(())
            })?;
        }
        Ok(())
    }

    fn handle(&mut self, trouble: Trouble, now: Timestamp, actions: &mut Vec<SyncAction>) {
        match trouble {
            Trouble::Cache(CacheError::Superseded) => self.step_down(actions),
            // The record was destroyed: it is made again on the next tick.
            Trouble::Cache(CacheError::Unavailable(_)) => {
                if let Some(leading) = &mut self.leading {
                    leading.adopted = false;
                    leading.flight = None;
                    leading.page = None;
                }
            }
            Trouble::Cache(CacheError::Contended) => {}
            Trouble::Cache(error @ CacheError::Host) => {
                self.pause(now, SyncLogLevel::Error, &error.to_string(), None, actions);
            }
            Trouble::Refused {
                level,
                message,
                retry_after,
            } => self.pause(now, level, &message, retry_after, actions),
        }
    }

    fn pause(
        &mut self,
        now: Timestamp,
        level: SyncLogLevel,
        message: &str,
        retry_after: Option<Duration>,
        actions: &mut Vec<SyncAction>,
    ) {
        let doubled = 1_u32.checked_shl(self.failures).unwrap_or(u32::MAX);
        let pause = self
            .settings
            .backoff_base
            .saturating_mul(doubled)
            .min(self.settings.backoff_max);
        self.failures = self.failures.saturating_add(1);
        let pause = self
            .random
            .jitter(pause)
            .max(retry_after.unwrap_or_default().min(LONGEST_RETRY_AFTER));
        self.retry = Some(Retry { since: now, pause });
        let millis = pause.as_millis();
        log(
            actions,
            level,
            format!("{message}; asking again in {millis} ms"),
        );
    }
}

/// The path of a request for a page of the feed. `limit` 0 asks for the head alone.
fn feed_path(cursor: Option<&Cursor>, wait: Duration, limit: u32) -> String {
    let cursor = cursor.map_or_else(String::new, |cursor| format!("cursor={cursor}&"));
    let wait = match wait.as_secs() {
        0 => String::new(),
        seconds => format!("wait={seconds}s&"),
    };
    format!("/v1/feed?{cursor}{wait}limit={limit}")
}

fn info(actions: &mut Vec<SyncAction>, message: String) {
    log(actions, SyncLogLevel::Info, message);
}

fn warn(actions: &mut Vec<SyncAction>, message: String) {
    log(actions, SyncLogLevel::Warn, message);
}

fn log(actions: &mut Vec<SyncAction>, level: SyncLogLevel, message: String) {
    actions.push(SyncAction::Log { level, message });
}
