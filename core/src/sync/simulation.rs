//! A registry, a network that misbehaves, and any number of synchronisers, in simulated time.

use core::time::Duration;
use std::collections::BTreeMap;

use super::{FetchId, SyncAction, SyncLogLevel, SyncResponse, SyncSettings, Synchroniser};
use crate::binding::{Binding, BindingState, Epoch, Pins};
use crate::cache::{Cache, CacheAnswer, Candidate, MemorySharedData, RegistryAddress, View};
use crate::feed::{FeedHeader, binding_line};
use crate::identity::DeviceId;
use crate::time::Timestamp;

pub(super) const TICK: Duration = Duration::from_millis(100);
pub(super) const LATENCY: Duration = Duration::from_millis(20);

pub(super) fn device(n: u64) -> DeviceId {
    format!("acme:SN{n}").parse().unwrap()
}

/// A registry with one history.
#[derive(Clone, Debug)]
pub(super) struct Registry {
    pub(super) feed: String,
    /// Newest state of each device.
    pub(super) devices: BTreeMap<u64, Binding>,
    /// Lines sent instead of a device's record.
    pub(super) odd: BTreeMap<u64, String>,
    /// The chained hash after each revision; revision 0 first.
    chain: Vec<u64>,
    pub(super) clock_offset: i64,
    /// Sends this many records whatever is asked for.
    pub(super) forced_limit: Option<usize>,
    /// Does not know that a limit of 0 asks for the head.
    pub(super) is_old: bool,
}

impl Registry {
    pub(super) fn new(feed: &str) -> Self {
        Self {
            feed: feed.to_owned(),
            devices: BTreeMap::new(),
            odd: BTreeMap::new(),
            chain: vec![0],
            clock_offset: 0,
            forced_limit: None,
            is_old: false,
        }
    }

    pub(super) fn head(&self) -> u64 {
        self.chain.len() as u64 - 1
    }

    pub(super) fn set(&mut self, n: u64, state: BindingState) {
        let last = *self.chain.last().unwrap();
        let hash = (last ^ n).wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ state as u64;
        self.chain.push(hash);
        let binding = Binding {
            device: device(n),
            state,
            account: Some("acc-1".parse().unwrap()),
            class: None,
            epoch: Epoch::FIRST,
            expires_at: None,
            pins: Pins::default(),
            revision: self.head(),
        };
        self.devices.insert(n, binding);
    }

    pub(super) fn cursor(&self, revision: u64) -> String {
        let hash = self.chain[usize::try_from(revision).unwrap()];
        format!("{}.{revision}.{hash:x}", self.feed)
    }

    fn position(&self, cursor: &str) -> Option<u64> {
        let revision = cursor.split('.').nth(1)?.parse::<u64>().ok()?;
        let known = revision <= self.head() && self.cursor(revision) == cursor;
        known.then_some(revision)
    }

    /// Status and body; `None`: nothing to say yet.
    pub(super) fn answer(
        &self,
        path: &str,
        waited: Duration,
        now: Timestamp,
    ) -> Option<(u16, Vec<u8>)> {
        let query: BTreeMap<&str, &str> = path
            .split_once('?')
            .unwrap()
            .1
            .split('&')
            .map(|pair| pair.split_once('=').unwrap())
            .collect();
        let limit: usize = query["limit"].parse().unwrap();
        let limit = if self.is_old { limit.max(1) } else { limit };
        let after = match query.get("cursor") {
            None => 0,
            Some(cursor) => match self.position(cursor) {
                Some(revision) => revision,
                None => return Some((410, b"{}".to_vec())),
            },
        };
        let wait = query
            .get("wait")
            .map_or(0, |w| w.trim_end_matches('s').parse().unwrap());
        if after == self.head() && waited < Duration::from_secs(wait) {
            return None;
        }
        let mut records: Vec<_> = self
            .devices
            .iter()
            .filter(|(_, b)| b.revision > after)
            .collect();
        records.sort_by_key(|(_, b)| b.revision);
        let all = records.len();
        records.truncate(if limit == 0 {
            0
        } else {
            self.forced_limit.unwrap_or(limit)
        });
        let more = limit > 0 && records.len() < all;
        let reached = match records.last() {
            Some((_, last)) if more => last.revision,
            _ => self.head(),
        };
        let header = FeedHeader {
            feed: self.feed.parse().unwrap(),
            version: 1,
            cursor: self.cursor(reached).parse().unwrap(),
            more,
            head: self.head(),
            count: u32::try_from(records.len()).unwrap(),
            time: Timestamp::from_unix_millis(now.unix_millis() + self.clock_offset),
        };
        let mut body = header.to_line();
        for (n, binding) in records {
            match self.odd.get(n) {
                Some(line) => body.extend(format!("{line}\n").bytes()),
                None => body.extend(binding_line(binding)),
            }
        }
        Some((200, body))
    }
}

/// What happens to an answer on its way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Network {
    Up,
    /// Refuses at once.
    Down,
    /// Nothing ever comes back.
    Silent,
    Status(u16, Option<Duration>),
    /// The body ends early, by this many octets.
    Cut(usize),
    Padded(usize),
    /// Octets in the body are replaced by others.
    Replaced(Vec<(String, String)>),
}

struct Call {
    who: usize,
    id: FetchId,
    path: String,
    sent: Timestamp,
    timeout: Duration,
}

/// Everything together.
pub(super) struct World {
    pub(super) now: Timestamp,
    pub(super) store: MemorySharedData,
    pub(super) registry: Registry,
    pub(super) network: Network,
    pub(super) synchronisers: Vec<Synchroniser>,
    /// Those that get no tick and no answer.
    pub(super) hung: Vec<usize>,
    calls: Vec<Call>,
    pub(super) paths: Vec<(Timestamp, String)>,
    pub(super) log: Vec<(SyncLogLevel, String)>,
}

pub(super) fn settings(candidate: Candidate) -> SyncSettings {
    let registry = RegistryAddress {
        cluster: "registry".into(),
        authority: "registry.example".into(),
    };
    SyncSettings::new(registry, candidate, true, 10_000, Duration::from_mins(15))
}

impl World {
    pub(super) fn new(settings: Vec<SyncSettings>) -> Self {
        Self {
            now: Timestamp::from_unix_seconds(1_795_537_200),
            store: MemorySharedData::new(),
            registry: Registry::new("f1"),
            network: Network::Up,
            synchronisers: (1..)
                .zip(settings)
                .map(|(seed, settings)| Synchroniser::new(settings, seed, seed))
                .collect(),
            hung: Vec::new(),
            calls: Vec::new(),
            paths: Vec::new(),
            log: Vec::new(),
        }
    }

    pub(super) fn one() -> Self {
        Self::new(vec![settings(Candidate::Singleton)])
    }

    pub(super) fn with_devices(mut self, devices: u64) -> Self {
        for n in 0..devices {
            self.registry.set(n, BindingState::Active);
        }
        self
    }

    pub(super) fn run(&mut self, span: Duration) {
        let end = self.now.after(span);
        while self.now < end {
            self.step();
        }
    }

    /// One tick for each, then what came back.
    pub(super) fn step(&mut self) {
        self.now = self.now.after(TICK);
        for who in 0..self.synchronisers.len() {
            if !self.hung.contains(&who) {
                let actions = self.synchronisers[who].on_tick(self.now, &self.store);
                self.take(who, actions);
            }
        }
        // Answers that lead to further calls are delivered in the same tick: the network is fast.
        for _ in 0..50 {
            if !self.deliver() {
                break;
            }
        }
    }

    fn take(&mut self, who: usize, actions: Vec<SyncAction>) {
        for action in actions {
            match action {
                SyncAction::Fetch { id, path, timeout } => {
                    self.paths.push((self.now, path.clone()));
                    self.calls.push(Call {
                        who,
                        id,
                        path,
                        sent: self.now,
                        timeout,
                    });
                }
                SyncAction::Log { level, message } => self.log.push((level, message)),
            }
        }
    }

    fn deliver(&mut self) -> bool {
        let Some(place) = (0..self.calls.len()).find(|place| self.is_due(*place)) else {
            return false;
        };
        let call = self.calls.remove(place);
        let (status, retry_after, body) = match &self.network {
            Network::Down => {
                self.hand(&call, SyncResponse::Failed);
                return true;
            }
            Network::Status(status, retry_after) => (*status, *retry_after, Vec::new()),
            network => {
                let waited = self.now.since(call.sent);
                let Some((status, mut body)) = self.registry.answer(&call.path, waited, self.now)
                else {
                    return false;
                };
                match network {
                    Network::Cut(octets) => body.truncate(body.len().saturating_sub(*octets)),
                    Network::Padded(octets) => body.extend(vec![b'\n'; *octets]),
                    Network::Replaced(pairs) => {
                        let mut text = String::from_utf8(body).unwrap();
                        for (from, to) in pairs {
                            text = text.replace(from, to);
                        }
                        body = text.into_bytes();
                    }
                    _ => {}
                }
                (status, None, body)
            }
        };
        let response = SyncResponse::Answer {
            status,
            retry_after,
            body: &body,
        };
        self.hand(&call, response);
        true
    }

    fn is_due(&self, place: usize) -> bool {
        let call = &self.calls[place];
        let waited = self.now.since(call.sent);
        match self.network {
            Network::Silent => false,
            _ if self.hung.contains(&call.who) => false,
            Network::Down | Network::Status(..) => true,
            _ => {
                waited < call.timeout
                    && self
                        .registry
                        .answer(&call.path, waited + LATENCY, self.now)
                        .is_some()
            }
        }
    }

    fn hand(&mut self, call: &Call, response: SyncResponse<'_>) {
        let actions =
            self.synchronisers[call.who].on_response(self.now, &self.store, call.id, response);
        self.take(call.who, actions);
    }

    pub(super) fn view(&self) -> View {
        Cache::new(&self.store).view().unwrap()
    }

    pub(super) fn look(&self, n: u64) -> CacheAnswer {
        Cache::new(&self.store).lookup(&self.view(), &device(n), self.now)
    }

    pub(super) fn state(&self, n: u64) -> Option<BindingState> {
        match self.look(n) {
            CacheAnswer::Found(binding) => Some(binding.state),
            CacheAnswer::Absent => None,
            other => panic!("{n}: {other:?}"),
        }
    }

    pub(super) fn age(&self) -> Duration {
        self.view()
            .freshness(self.now, Duration::from_mins(5))
            .unwrap()
    }

    /// Every device reads as the registry has it, and nothing else is there.
    pub(super) fn agrees(&self) -> bool {
        self.registry
            .devices
            .iter()
            .all(|(n, wanted)| self.look(*n) == CacheAnswer::Found(wanted.clone()))
            && self.look(u64::MAX) == CacheAnswer::Absent
    }

    pub(super) fn logged(&self, text: &str) -> usize {
        self.log
            .iter()
            .filter(|(_, line)| line.contains(text))
            .count()
    }
}
