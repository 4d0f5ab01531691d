//! Which requests are under way on a permit that may end, and which of them are to be decided again?

use std::collections::{HashMap, VecDeque};

use medbind_core::decision::{Peer, Permit};
use medbind_core::identity::DeviceId;
use medbind_core::time::Timestamp;

use crate::asked::Asked;

/// How many ticks a request under way goes on while the registry's word on its device cannot be had:
/// Envoy refuses the call, none is answered, or what they say is overtaken.
const MOST_UNSURE: u32 = 300;
/// The same, and while enough calls are open for others, where something is known against it: its
/// device, its permit's time, or the clock.
const MOST_URGENT: u32 = 10;

/// A permitted request.
#[derive(Debug)]
pub struct UnderWay {
    /// What it asks.
    pub asked: Asked,
    /// What it was let in on, and tagged with.
    pub permit: Permit,
    /// Whether the registry has to be asked about it.
    pub doubt: Doubt,
}

/// Is it known whether a permit still holds? Only a new one settles that.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Doubt {
    /// Whether something is known against it: its device has changed, or the permit has ended.
    urgent: bool,
    /// The tick since which the registry's word is missing, or since which it is urgent.
    since: Option<u32>,
    /// The tick since which it waits for its turn to be asked about.
    turn: Option<u32>,
}

impl Doubt {
    /// Whether something is known against it.
    pub const fn is_urgent(self) -> bool {
        self.urgent
    }

    fn becomes_urgent(&mut self, tick: u32) {
        if !self.urgent {
            *self = Self {
                urgent: true,
                since: Some(tick),
                turn: None,
            };
        }
    }

    /// Whether it may be waited for the registry's word at `tick`.
    fn may_wait(&mut self, tick: u32) -> bool {
        let since = *self.since.get_or_insert(tick);
        let most = if self.urgent {
            MOST_URGENT
        } else {
            MOST_UNSURE
        };
        tick.saturating_sub(since) < most
    }

    /// Whether it may wait at `tick` for others to have been asked about: where nothing is known
    /// against it for `most` ticks. Once it is its turn, the registry's word is missed anew.
    fn may_wait_for_its_turn(&mut self, tick: u32, most: u32) -> bool {
        if self.urgent {
            return self.may_wait(tick);
        }
        self.since = None;
        let turn = *self.turn.get_or_insert(tick);
        tick.saturating_sub(turn) < most
    }
}

impl UnderWay {
    /// The devices whose bindings were looked up for it: the permit's, and the peer's.
    pub fn devices(&self) -> impl Iterator<Item = &DeviceId> {
        let of_permit = self.permit.device();
        let of_peer = match &*self.asked.peer {
            Peer::Verified(peer) => Some(peer.device()).filter(|own| Some(*own) != of_permit),
            Peer::Refused(_) | Peer::None => None,
        };
        of_permit.into_iter().chain(of_peer)
    }
}

/// Whether a request is to be decided again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Turn {
    /// It stands as it was decided.
    No,
    /// After those that go first.
    Later,
    /// Before the others.
    First,
}

#[derive(Debug)]
struct Stream {
    under_way: UnderWay,
    turn: Turn,
}

/// The permitted requests of one worker whose permit stands on a binding or ends by itself.
///
/// Those that are to be decided again stand in two queues, and have one turn, so that a tick can take
/// as many as it has time for: what is known to have changed goes first.
#[derive(Debug)]
pub struct Live {
    streams: HashMap<u32, Stream>,
    first: VecDeque<u32>,
    later: VecDeque<u32>,
    /// No permit ends by itself before this.
    due: Timestamp,
    /// Time is counted by ticks: no step of the clock ends a request, or keeps one.
    ticks: u32,
}

impl Default for Live {
    fn default() -> Self {
        Self {
            streams: HashMap::new(),
            first: VecDeque::new(),
            later: VecDeque::new(),
            due: Timestamp::MAX,
            ticks: 0,
        }
    }
}

impl Live {
    /// A tick.
    pub fn tick(&mut self) {
        self.ticks = self.ticks.saturating_add(1);
    }

    /// A request was permitted.
    pub fn insert(&mut self, context: u32, under_way: UnderWay) {
        self.ends(under_way.permit.valid_until());
        let stream = Stream {
            under_way,
            turn: Turn::No,
        };
        self.streams.insert(context, stream);
    }

    /// A permit ends by itself at `end`: to be told where one is replaced.
    pub fn ends(&mut self, end: Timestamp) {
        self.due = self.due.min(end);
    }

    /// It ended.
    pub fn remove(&mut self, context: u32) -> Option<UnderWay> {
        let ended = self.streams.remove(&context);
        if self.streams.is_empty() {
            self.first.clear();
            self.later.clear();
        }
        ended.map(|one| one.under_way)
    }

    /// One of them.
    pub fn get(&self, context: u32) -> Option<&UnderWay> {
        self.streams.get(&context).map(|one| &one.under_way)
    }

    /// One of them, to be changed.
    pub fn get_mut(&mut self, context: u32) -> Option<&mut UnderWay> {
        self.streams.get_mut(&context).map(|one| &mut one.under_way)
    }

    /// Those that `changed` names are to be decided again, before others.
    pub fn queue_first(&mut self, changed: &dyn Fn(&UnderWay) -> bool) {
        for (context, one) in &mut self.streams {
            if changed(&one.under_way) {
                one.under_way.doubt.becomes_urgent(self.ticks);
                if one.turn != Turn::First {
                    one.turn = Turn::First;
                    self.first.push_back(*context);
                }
            }
        }
    }

    /// Those whose permit has ended by itself are to be decided again, before others.
    pub fn queue_ended(&mut self, now: Timestamp) {
        if now < self.due {
            return;
        }
        self.queue_first(&|one| now >= one.permit.valid_until());
        let ends = self.streams.values();
        let ends = ends.map(|one| one.under_way.permit.valid_until());
        self.due = ends
            .filter(|end| now < *end)
            .min()
            .unwrap_or(Timestamp::MAX);
    }

    /// All are to be decided again: each once, those that wait for it already in their place.
    pub fn queue_all(&mut self) {
        for (context, one) in &mut self.streams {
            if one.turn == Turn::No {
                one.turn = Turn::Later;
                self.later.push_back(*context);
            }
        }
    }

    /// The next that is to be decided again; it is its turn no more.
    pub fn take_next(&mut self) -> Option<u32> {
        while let Some(context) = self.first.pop_front().or_else(|| self.later.pop_front()) {
            if let Some(one) = self.streams.get_mut(&context)
                && one.turn != Turn::No
            {
                one.turn = Turn::No;
                return Some(context);
            }
        }
        None
    }

    /// Whether the next that is to be decided again is one of those that go first.
    pub fn next_is_urgent(&self) -> bool {
        let mut first = self.first.iter();
        first.any(|context| self.streams.contains_key(context))
    }

    /// It could not be decided: it is to be again, after those that wait for the same turn, unless it
    /// is already.
    pub fn queue_again(&mut self, context: u32) {
        let Some(one) = self.streams.get_mut(&context) else {
            return;
        };
        if one.turn != Turn::No {
            return;
        }
        let (turn, queue) = if one.under_way.doubt.urgent {
            (Turn::First, &mut self.first)
        } else {
            (Turn::Later, &mut self.later)
        };
        one.turn = turn;
        queue.push_back(context);
    }

    /// The registry's word on it is missing. Gives whether it may go on for now, to be asked about
    /// anew.
    pub fn may_wait(&mut self, context: u32) -> bool {
        let tick = self.ticks;
        self.may(context, |doubt| doubt.may_wait(tick))
    }

    /// The same while enough calls are open for others: where nothing is known against it for `most`
    /// ticks.
    pub fn may_wait_for_its_turn(&mut self, context: u32, most: u32) -> bool {
        let tick = self.ticks;
        self.may(context, |doubt| doubt.may_wait_for_its_turn(tick, most))
    }

    /// The same where its bindings cannot be trusted for the moment.
    pub fn may_wait_urgently(&mut self, context: u32) -> bool {
        let tick = self.ticks;
        self.may(context, |doubt| {
            doubt.becomes_urgent(tick);
            doubt.may_wait(tick)
        })
    }

    fn may(&mut self, context: u32, wait: impl FnOnce(&mut Doubt) -> bool) -> bool {
        let Some(one) = self.streams.get_mut(&context) else {
            return false;
        };
        let one = &mut one.under_way;
        one.asked.lookups = 0;
        wait(&mut one.doubt)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.streams.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.streams.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_waits_for_its_turn_waits_longer_than_who_is_not_answered_and_not_for_ever() {
        let mut doubt = Doubt::default();
        assert!(doubt.may_wait_for_its_turn(100, 9_000));
        assert!(doubt.may_wait_for_its_turn(9_099, 9_000));
        // Not answered once it is its turn: its time begins then.
        assert!(doubt.may_wait(9_099));
        assert!(doubt.may_wait(9_398));
        assert!(!doubt.may_wait(9_399));
        assert!(!doubt.may_wait_for_its_turn(9_100, 9_000));
    }

    #[test]
    fn what_is_known_against_it_leaves_it_a_second_whatever_it_waits_for() {
        let mut doubt = Doubt::default();
        assert!(doubt.may_wait_for_its_turn(0, 9_000) && doubt.may_wait(0));
        doubt.becomes_urgent(50);
        doubt.becomes_urgent(55);
        assert!(doubt.may_wait_for_its_turn(59, 9_000) && doubt.may_wait(59));
        assert!(!doubt.may_wait_for_its_turn(60, 9_000));
        assert!(!doubt.may_wait(60));
    }
}
