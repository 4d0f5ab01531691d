//! Which requests are under way on a permit that may end, and which of them are to be decided again?

use std::collections::{HashMap, VecDeque};

use medbind_core::decision::{Peer, Permit};
use medbind_core::identity::DeviceId;
use medbind_core::time::Timestamp;

use crate::asked::Asked;

/// A permitted request.
#[derive(Debug)]
pub struct UnderWay {
    /// What it asks.
    pub asked: Asked,
    /// What it was let in on, and tagged with.
    pub permit: Permit,
    /// Since when the registry has to be asked whether the permit still holds.
    pub unsure_since: Option<Timestamp>,
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
pub enum Turn {
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
/// Those that are to be decided again stand in two queues, at most once in each, so that a tick can
/// take as many as it has time for: what is known to have changed goes first.
#[derive(Debug)]
pub struct Live {
    streams: HashMap<u32, Stream>,
    first: VecDeque<u32>,
    later: VecDeque<u32>,
    /// No permit ends by itself before this.
    due: Timestamp,
}

impl Default for Live {
    fn default() -> Self {
        Self {
            streams: HashMap::new(),
            first: VecDeque::new(),
            later: VecDeque::new(),
            due: Timestamp::MAX,
        }
    }
}

impl Live {
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
            if one.turn != Turn::First && changed(&one.under_way) {
                one.turn = Turn::First;
                self.first.push_back(*context);
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

    /// The next that is to be decided again, and what turn it had; it is its turn no more.
    pub fn take_next(&mut self) -> Option<(u32, Turn)> {
        while let Some(context) = self.first.pop_front().or_else(|| self.later.pop_front()) {
            if let Some(one) = self.streams.get_mut(&context)
                && one.turn != Turn::No
            {
                let turn = std::mem::replace(&mut one.turn, Turn::No);
                return Some((context, turn));
            }
        }
        None
    }

    /// It could not be decided: it is to be again, after those that wait for the same turn.
    pub fn queue_again(&mut self, context: u32, turn: Turn) {
        let queue = match turn {
            Turn::No => return,
            Turn::Later => &mut self.later,
            Turn::First => &mut self.first,
        };
        if let Some(one) = self.streams.get_mut(&context) {
            one.turn = turn;
            queue.push_back(context);
        }
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
