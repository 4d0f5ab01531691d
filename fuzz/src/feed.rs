//! What the registry answers, and what becomes of it in the cache.
//!
//! An input is a script: what happens to one synchroniser, one event a line that begins with `@`;
//! the lines after it are a body.
//!
//! | event | what happens |
//! | --- | --- |
//! | `@demand` | first line alone: only what is looked up is kept |
//! | `@a` | the feed's request is answered with 200 and this body |
//! | `@s 410` | it is answered with this status |
//! | `@f` | the registry cannot be reached |
//! | `@t 250` | so many milliseconds pass |
//! | `@r` | the synchroniser starts anew |
//! | `@l acme:SN1` | a lookup of this device is answered with this body |
//! | `@w mb1/c` | somebody else writes this body into shared data |
//!
//! - Nothing panics, whatever stands in the answers or in shared data.
//! - **Within one history no position, head or cursor goes back, no device's revision goes down,
//!   no device that was there goes away, and no revoked device comes back.**
//! - What a reader finds was said by the registry: this device, this revision, this state.
//! - A request goes on from a cursor that an answer held, or from the beginning.
//! - A record that is written as it was read is the same record.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use medbind_core::binding::BindingState;
use medbind_core::cache::{
    Cache, CacheAnswer, Candidate, Control, History, MemorySharedData, RegistryAddress, SharedData,
};
use medbind_core::feed::{FeedHeader, FeedPage, FeedRecord, LookupAnswer, binding_line};
use medbind_core::identity::DeviceId;
use medbind_core::sync::{FetchId, SyncAction, SyncResponse, SyncSettings, Synchroniser};
use medbind_core::time::Timestamp;

use crate::site::NOW;
use crate::{Reached, Seed, Target};

pub(crate) const TARGET: Target = Target {
    name: "feed",
    run,
    seeds,
    words: &[
        "@demand\n",
        "\n@a\n",
        "\n@s 410",
        "\n@s 503",
        "\n@f",
        "\n@t 100",
        "\n@t 6000",
        "\n@r",
        "\n@l acme:SN1\n",
        "\n@w mb1/c\n",
        "\n@w mb1/b0\n",
        "\n@w mb1/l\n",
        "{\"feed\":\"f1\",\"version\":1,\"cursor\":\"c1\",\"more\":false,\"head\":1,\"count\":1,\"time\":\"2027-01-15T08:00:00Z\"}\n",
        "{\"kind\":\"binding\",\"device\":\"acme:SN1\",\"account\":\"acc-1\",\"state\":\"active\",\"epoch\":1,\"revision\":1}\n",
        "\"kind\":",
        "\"binding\"",
        "\"device\":",
        "\"state\":",
        "\"active\"",
        "\"unclaimed\"",
        "\"suspended\"",
        "\"revoked\"",
        "\"account\":",
        "\"class\":",
        "\"epoch\":",
        "\"expires_at\":",
        "\"pins\":[",
        "\"revision\":",
        "\"feed\":",
        "\"version\":1",
        "\"cursor\":",
        "\"more\":true",
        "\"more\":false",
        "\"head\":",
        "\"count\":",
        "\"time\":",
        "acme:SN1",
        "acme:SN2",
        "18446744073709551615",
    ],
};

/// A longer script is slower, not better.
const MOST_EVENTS: usize = 48;
const MOST_DEVICES: usize = 16;
const TICK: Duration = Duration::from_millis(100);

/// What the registry has said of a device.
type Said = BTreeSet<(u64, &'static str)>;

/// What a reader saw of a device: in which generation, and what.
#[derive(Clone, Copy)]
struct Seen {
    generation: u32,
    revision: u64,
    state: BindingState,
}

struct World {
    store: MemorySharedData,
    settings: SyncSettings,
    synchroniser: Synchroniser,
    seeds: u64,
    now: Timestamp,
    fetch: Option<FetchId>,
    cursors: BTreeSet<String>,
    said: BTreeMap<DeviceId, Said>,
    seen: BTreeMap<DeviceId, Seen>,
    revoked: BTreeSet<DeviceId>,
    control: Option<Control>,
    /// Somebody else has written into shared data: it is no longer known what is true.
    is_spoilt: bool,
}

/// Holds the promises against one input.
///
/// # Panics
///
/// Where a promise is broken.
pub fn run(input: &[u8]) -> Reached {
    let (preload, script) = match input.strip_prefix(b"@demand\n") {
        Some(rest) => (false, rest),
        None => (true, input),
    };
    let mut world = World::new(preload);
    for event in events(script) {
        world.take(&event);
        world.check();
    }
    world.tick();
    world.check();
    let view = Cache::new(&world.store).view();
    if view.is_ok_and(|view| view.availability().is_ok()) {
        Reached::Taken
    } else {
        Reached::Refused
    }
}

/// One event: its line, and the lines after it.
struct Event<'a> {
    line: &'a [u8],
    body: &'a [u8],
}

impl<'a> Event<'a> {
    /// The rest of its line, as text.
    fn argument(&self) -> Option<&'a str> {
        std::str::from_utf8(self.line.get(2..)?).ok()
    }
}

/// The script's events; what stands before the first one is none.
fn events(script: &[u8]) -> Vec<Event<'_>> {
    let mut starts: Vec<usize> = script
        .windows(2)
        .enumerate()
        .filter(|(_, two)| two == b"\n@")
        .map(|(at, _)| at + 1)
        .collect();
    if script.starts_with(b"@") {
        starts.insert(0, 0);
    }
    let ends = starts.iter().skip(1).copied().chain([script.len()]);
    let all = starts.iter().zip(ends);
    all.take(MOST_EVENTS)
        .map(|(start, end)| {
            let text = script.get(start + 1..end).unwrap_or_default();
            let at = text.iter().position(|octet| *octet == b'\n');
            let (line, body) = text.split_at(at.unwrap_or(text.len()));
            Event {
                line,
                body: body.strip_prefix(b"\n").unwrap_or_default(),
            }
        })
        .collect()
}

impl World {
    fn new(preload: bool) -> Self {
        let registry = RegistryAddress {
            cluster: "registry".into(),
            authority: "registry.example".into(),
        };
        let max_stale = Duration::from_mins(15);
        let settings = SyncSettings::new(registry, Candidate::Singleton, preload, 8, max_stale);
        Self {
            store: MemorySharedData::new(),
            synchroniser: Synchroniser::new(settings.clone(), 1, 1),
            settings,
            seeds: 1,
            now: NOW,
            fetch: None,
            cursors: BTreeSet::new(),
            said: BTreeMap::new(),
            seen: BTreeMap::new(),
            revoked: BTreeSet::new(),
            control: None,
            is_spoilt: false,
        }
    }

    fn take(&mut self, event: &Event<'_>) {
        let argument = event.argument();
        match event.line.first() {
            Some(b'a') => {
                self.listen(event.body);
                self.answer(&SyncResponse::Answer {
                    status: 200,
                    retry_after: None,
                    body: event.body,
                });
            }
            Some(b's') => {
                let status = argument.and_then(|text| text.trim().parse().ok());
                self.answer(&SyncResponse::Answer {
                    status: status.unwrap_or(503),
                    retry_after: None,
                    body: event.body,
                });
            }
            Some(b'f') => self.answer(&SyncResponse::Failed),
            Some(b't') => {
                let millis: Option<u16> = argument.and_then(|text| text.trim().parse().ok());
                self.now = self
                    .now
                    .after(Duration::from_millis(millis.unwrap_or(100).into()));
                self.tick();
            }
            Some(b'r') => {
                self.seeds += 1;
                self.synchroniser =
                    Synchroniser::new(self.settings.clone(), self.seeds, self.seeds);
                self.fetch = None;
                // Until the lease of the one before is over.
                self.now = self.now.after(self.settings.lease_timeout + TICK);
            }
            Some(b'l') => {
                if let Some(device) = argument.and_then(|text| text.trim().parse().ok()) {
                    self.look_up(&device, event.body);
                }
            }
            Some(b'w') => {
                if let Some(key) = argument {
                    self.is_spoilt = true;
                    let _ = self.store.set(key.trim(), event.body, None);
                }
            }
            Some(_) | None => {}
        }
    }

    /// Remembers what an answer says, and holds what is promised of the answer alone.
    fn listen(&mut self, body: &[u8]) {
        for line in body.split(|octet| *octet == b'\n') {
            let header: Result<FeedHeader, _> = serde_json::from_slice(line);
            if let Ok(header) = header {
                self.cursors.insert(header.cursor.to_string());
            }
            if let FeedRecord::Binding(binding) = FeedRecord::parse_line(line) {
                if binding.state != BindingState::Unrecognised {
                    let again = FeedRecord::parse_line(&binding_line(&binding));
                    assert_eq!(again, FeedRecord::Binding(binding.clone()));
                }
                if self.said.len() < MOST_DEVICES || self.said.contains_key(&binding.device) {
                    self.said
                        .entry(binding.device)
                        .or_default()
                        .insert((binding.revision, binding.state.as_str()));
                }
            }
        }
        for after in [0, 1, 7] {
            let Ok(page) = FeedPage::parse(body, after) else {
                continue;
            };
            assert!(page.position >= after, "the position goes on");
            assert!(page.position <= page.header.head);
            let mut last = after;
            for binding in &page.bindings {
                assert!(binding.revision >= last, "revisions ascend");
                last = binding.revision;
            }
            assert!(last <= page.position);
            let lines = u32::try_from(page.bindings.len()).expect("few lines");
            assert!(lines <= page.header.count);
            assert!(page.unknown <= page.unrecognised);
        }
    }

    fn answer(&mut self, response: &SyncResponse<'_>) {
        // The network takes a moment, and what nobody asked for does not come.
        self.now = self.now.after(TICK);
        self.tick();
        if let Some(id) = self.fetch.take() {
            let actions = self
                .synchroniser
                .on_response(self.now, &self.store, id, *response);
            self.carry_out(actions);
        }
    }

    fn tick(&mut self) {
        let actions = self.synchroniser.on_tick(self.now, &self.store);
        self.carry_out(actions);
    }

    fn carry_out(&mut self, actions: Vec<SyncAction>) {
        for action in actions {
            match action {
                SyncAction::Fetch { id, path, .. } => {
                    let cursor = path
                        .split(['?', '&'])
                        .find_map(|pair| pair.strip_prefix("cursor="));
                    if let Some(cursor) = cursor
                        && !self.is_spoilt
                    {
                        assert!(self.cursors.contains(cursor), "nobody gave {cursor}");
                    }
                    self.fetch = Some(id);
                }
                SyncAction::Log { message, .. } => {
                    assert!(!message.contains("acme:"), "no line names a device");
                }
            }
        }
    }

    fn look_up(&mut self, device: &DeviceId, body: &[u8]) {
        self.listen(body);
        let Ok(answer) = LookupAnswer::parse(body, device) else {
            return;
        };
        assert_eq!(answer.device, *device);
        if let Some(binding) = &answer.binding {
            assert_eq!(binding.device, *device, "an answer about another device");
            assert!(binding.revision <= answer.header.head);
        }
        let cache = Cache::new(&self.store);
        let _ = cache.insert_lookup(self.now, &answer, Duration::from_secs(10));
    }

    fn check(&mut self) {
        let cache = Cache::new(&self.store);
        let Ok(view) = cache.view() else {
            return;
        };
        let _ = view.freshness(self.now, Duration::from_mins(5));
        let control = view.control().clone();
        let generation = control.active.as_ref().map(|history| history.generation);
        let complete = control.active.as_ref().is_some_and(|h| h.complete);
        let devices: Vec<DeviceId> = self.said.keys().cloned().collect();
        for device in devices {
            let answer = cache.lookup(&view, &device, self.now);
            if self.is_spoilt {
                continue;
            }
            let Some(generation) = generation else {
                continue;
            };
            let before = self
                .seen
                .get(&device)
                .copied()
                .filter(|seen| seen.generation == generation);
            match answer {
                CacheAnswer::Found(found) => {
                    assert_eq!(found.device, device);
                    let said = self
                        .said
                        .get(&device)
                        .is_some_and(|said| said.contains(&(found.revision, found.state.as_str())));
                    assert!(
                        said || found.state == BindingState::Unrecognised,
                        "nobody said {found:?}"
                    );
                    let is_revoked = found.state == BindingState::Revoked;
                    if is_revoked {
                        self.revoked.insert(device.clone());
                    }
                    assert!(
                        is_revoked || !self.revoked.contains(&device),
                        "revoked, and back"
                    );
                    if let Some(before) = before {
                        assert!(
                            found.revision >= before.revision
                                || before.state == BindingState::Revoked,
                            "a revision went down"
                        );
                    }
                    let seen = Seen {
                        generation,
                        revision: found.revision,
                        state: found.state,
                    };
                    self.seen.insert(device, seen);
                }
                CacheAnswer::Absent => {
                    assert!(!self.revoked.contains(&device), "revoked, and unknown");
                    assert!(!(complete && before.is_some()), "it was there");
                }
                CacheAnswer::Pending => {
                    assert!(!complete, "a complete history knows");
                    assert!(!self.revoked.contains(&device), "revoked, and forgotten");
                }
                CacheAnswer::Unavailable(_) => {}
            }
        }
        if let Some(before) = self.control.take()
            && !self.is_spoilt
        {
            goes_on(&before, &control);
        }
        self.control = Some(control);
    }
}

/// Nothing goes back from one control record to the next.
fn goes_on(before: &Control, after: &Control) {
    assert!(after.term >= before.term, "the term");
    assert!(after.last_generation >= before.last_generation);
    assert!(
        after.changes.count() >= before.changes.count(),
        "the change counter"
    );
    assert!(after.unrecognised >= before.unrecognised);
    let histories = |control: &Control| -> Vec<History> {
        let both = [&control.active, &control.loading];
        both.into_iter().flatten().cloned().collect()
    };
    for old in histories(before) {
        for new in histories(after) {
            if old.generation != new.generation {
                continue;
            }
            assert!(new.position >= old.position, "a position went back");
            assert!(new.head >= old.head, "a head went back");
            assert!(new.floor >= old.floor, "a floor went down");
            assert!(
                old.feed.is_none() || new.feed == old.feed,
                "another history"
            );
            assert!(old.cursor.is_none() || new.cursor.is_some());
            assert!(
                new.cursor == old.cursor || new.position >= old.position,
                "a cursor went back"
            );
        }
    }
    let active = |control: &Control| control.active.as_ref().map(|history| history.generation);
    assert!(active(after) >= active(before), "an older history answers");
}

fn header(feed: &str, cursor: &str, more: bool, head: u64, count: u32) -> String {
    format!(
        "{{\"feed\":\"{feed}\",\"version\":1,\"cursor\":\"{cursor}\",\"more\":{more},\"head\":{head},\"count\":{count},\"time\":\"2027-01-15T08:00:00Z\"}}\n"
    )
}

fn record(device: &str, state: &str, revision: u64) -> String {
    format!(
        "{{\"kind\":\"binding\",\"device\":\"{device}\",\"account\":\"acc-1\",\"state\":\"{state}\",\"class\":\"cgm\",\"epoch\":1,\"expires_at\":null,\"pins\":[],\"revision\":{revision}}}\n"
    )
}

fn seeds() -> Vec<Seed> {
    use Reached::{Refused, Taken};
    let h = header;
    let active = |device: &str, revision| record(device, "active", revision);
    let load = format!(
        "@a\n{}{}{}@a\n{}{}",
        h("f1", "c2", true, 3, 2),
        active("acme:SN1", 1),
        active("acme:SN2", 2),
        h("f1", "c3", false, 3, 1),
        record("acme:SN3", "unclaimed", 3),
    );
    let revoke = format!(
        "@a\n{}{}",
        h("f1", "c4", false, 4, 1),
        record("acme:SN1", "revoked", 4)
    );
    let history = format!(
        "{load}{revoke}@s 410\n@t 300\n@a\n{}{}",
        h("f2", "d1", false, 9, 1),
        active("acme:SN1", 9)
    );
    let demand = format!(
        "@demand\n@a\n{}@l acme:SN1\n{}{}@l acme:SN2\n{}",
        h("f1", "c5", false, 5, 0),
        h("f1", "c5", false, 5, 1),
        active("acme:SN1", 5),
        h("f1", "c5", false, 5, 0),
    );
    let odd = format!(
        "{load}@a\n{}{}{}{}",
        h("f1", "c9", false, 9, 3),
        "{\"kind\":\"grant\",\"device\":\"acme:SN2\",\"revision\":5}\n",
        record("acme:SN3", "lent", 6),
        "what\n"
    );
    let nine: String = (1..=9).map(|n| active(&format!("acme:SN{n}"), n)).collect();
    let full = format!("@a\n{}{nine}", h("f1", "c9", false, 9, 9));
    let back = format!(
        "{load}@a\n{}{}",
        h("f1", "c1", false, 2, 1),
        active("acme:SN1", 2)
    );
    [
        ("empty", String::new(), Refused),
        ("load", load.clone(), Taken),
        ("revoke", format!("{load}{revoke}"), Taken),
        ("new-history", history, Taken),
        ("on-demand", demand, Taken),
        ("odd-records", odd, Taken),
        ("over-capacity", full, Taken),
        ("head-went-back", back, Taken),
        (
            "trouble",
            "@f\n@t 500\n@s 503\n@t 900\n@s 403\n@t 6000\n".into(),
            Refused,
        ),
        (
            "cut-short",
            format!("@a\n{}", h("f1", "c1", false, 1, 1)),
            Refused,
        ),
        ("restarted", format!("{load}@r\n@t 100\n{revoke}"), Taken),
        (
            "spoilt-bucket",
            format!("{load}@w mb1/b0\nxyz\n@t 100\n"),
            Taken,
        ),
        (
            "spoilt-control",
            format!("{load}@w mb1/c\n\x01\n@t 100\n"),
            Refused,
        ),
        (
            "spoilt-lease",
            format!("{load}@w mb1/l\n\x01\n@t 100\n"),
            Taken,
        ),
    ]
    .into_iter()
    .map(|(name, script, reaches)| Seed::new(name, script, reaches))
    .collect()
}
