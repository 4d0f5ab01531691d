//! Which requests are under way on a permit that may end?

use std::collections::HashMap;

use medbind_core::decision::Permit;
use medbind_core::time::Timestamp;

use crate::asked::Asked;

/// A permitted request.
#[derive(Debug)]
pub struct UnderWay {
    /// What it asks.
    pub asked: Asked,
    /// What it was let in on, and tagged with.
    pub permit: Permit,
}

/// The permitted requests of one worker whose permit stands on a binding or ends by itself.
#[derive(Debug)]
pub struct Live {
    streams: HashMap<u32, UnderWay>,
    /// No permit ends by itself before this.
    due: Timestamp,
}

impl Default for Live {
    fn default() -> Self {
        Self {
            streams: HashMap::new(),
            due: Timestamp::MAX,
        }
    }
}

impl Live {
    /// A request was permitted.
    pub fn insert(&mut self, context: u32, under_way: UnderWay) {
        self.due = self.due.min(under_way.permit.valid_until());
        self.streams.insert(context, under_way);
    }

    /// It ended.
    pub fn remove(&mut self, context: u32) -> Option<UnderWay> {
        self.streams.remove(&context)
    }

    /// One of them.
    pub fn get(&self, context: u32) -> Option<&UnderWay> {
        self.streams.get(&context)
    }

    /// One of them, to be changed.
    pub fn get_mut(&mut self, context: u32) -> Option<&mut UnderWay> {
        self.streams.get_mut(&context)
    }

    /// Whether a permit may have ended by itself.
    pub fn is_due(&self, now: Timestamp) -> bool {
        now >= self.due
    }

    /// Sets anew when the next permit ends by itself, after those that have are gone.
    pub fn count_down(&mut self) {
        let ends = self.streams.values().map(|one| one.permit.valid_until());
        self.due = ends.min().unwrap_or(Timestamp::MAX);
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = (u32, &UnderWay)> {
        self.streams.iter().map(|(context, one)| (*context, one))
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
