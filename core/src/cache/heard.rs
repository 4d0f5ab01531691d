//! How old is what a worker reads? By the clock, and by the worker's own ticks where the clock
//! cannot be believed.

use core::time::Duration;

use super::read::View;
use crate::deny::Unavailable;
use crate::latest::Latest;
use crate::time::Timestamp;

/// What one worker has seen of the time since the registry was last heard.
///
/// While an edge is cut off, a clock that is set back would make its bindings young again. So the
/// worker remembers the latest time that it has seen, and counts its ticks: bindings are never
/// younger than so many periods.
#[derive(Clone, Debug)]
pub struct Heard {
    period: Duration,
    last_ok: Option<Timestamp>,
    latest: Latest,
    waited: Duration,
}

impl Heard {
    /// Nothing seen yet; ticks come no sooner than every `period`.
    pub const fn new(period: Duration) -> Self {
        Self {
            period,
            last_ok: None,
            latest: Latest::NONE,
            waited: Duration::ZERO,
        }
    }

    /// A tick, and what is read at it.
    pub fn tick(&mut self, view: &View, now: Timestamp) {
        if view.last_ok() == self.last_ok {
            self.latest.see(now);
            self.waited = self.waited.saturating_add(self.period);
        } else {
            self.last_ok = view.last_ok();
            self.latest = Latest::at(now);
            self.waited = Duration::ZERO;
        }
    }

    /// As [`View::freshness`], but also [`Unavailable::Clock`] while the clock is behind a time that
    /// was seen since the registry was heard, and never less than the ticks since then.
    pub fn freshness(
        &self,
        view: &View,
        now: Timestamp,
        max_clock_skew: Duration,
    ) -> Result<Duration, Unavailable> {
        let age = view.freshness(now, max_clock_skew)?;
        if view.last_ok() != self.last_ok {
            return Ok(age);
        }
        // Fail closed: no age can be told by a clock that was set back.
        if self.latest.is_ahead_of(now) {
            return Err(Unavailable::Clock);
        }
        Ok(age.max(self.waited))
    }
}
