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

#[cfg(test)]
mod tests {
    use super::super::control::{Control, History, create_control};
    use super::super::memory::MemorySharedData;
    use super::super::read::Cache;
    use super::*;

    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    const SKEW: Duration = Duration::from_mins(1);
    const PERIOD: Duration = Duration::from_millis(100);

    const fn at(millis: i64) -> Timestamp {
        Timestamp::from_unix_millis(millis)
    }

    const fn millis(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    /// What a worker reads where the registry was last heard then.
    fn heard_at(millis: i64) -> View {
        let store = MemorySharedData::new();
        let mut control = Control::new(1, 100, 7, at(0));
        control.active = Some(History::new(1, true));
        control.last_ok = Some(at(millis));
        create_control(&store, &control).unwrap();
        Cache::new(&store).view().unwrap()
    }

    #[test]
    fn it_is_as_old_as_the_clock_and_the_ticks_say_whichever_is_more() {
        let view = heard_at(1_000);
        let mut heard = Heard::new(PERIOD);
        heard.tick(&view, at(1_000));
        assert_eq!(heard.freshness(&view, at(1_000), SKEW), Ok(millis(0)));
        assert_eq!(heard.freshness(&view, at(6_000), SKEW), Ok(millis(5_000)));
        for _ in 0..30 {
            heard.tick(&view, at(1_500));
        }
        assert_eq!(heard.freshness(&view, at(1_500), SKEW), Ok(millis(3_000)));
        assert_eq!(heard.freshness(&view, at(9_000), SKEW), Ok(millis(8_000)));
    }

    #[test]
    fn a_clock_behind_a_time_that_was_seen_tells_no_age_until_the_registry_is_heard() {
        let view = heard_at(1_000);
        let mut heard = Heard::new(PERIOD);
        heard.tick(&view, at(1_000));
        heard.tick(&view, at(9_000));
        heard.tick(&view, at(8_000));
        assert_eq!(heard.freshness(&view, at(7_000), SKEW), Ok(millis(6_000)));
        let behind = heard.freshness(&view, at(6_999), SKEW);
        assert_eq!(behind, Err(Unavailable::Clock));
        // What was heard since then is told by the clock as it is now, before the next tick too.
        let newer = heard_at(5_000);
        assert_eq!(heard.freshness(&newer, at(5_000), SKEW), Ok(millis(0)));
        heard.tick(&newer, at(5_000));
        assert_eq!(heard.freshness(&newer, at(5_000), SKEW), Ok(millis(0)));
        heard.tick(&newer, at(5_000));
        assert_eq!(heard.freshness(&newer, at(5_000), SKEW), Ok(millis(100)));
    }

    #[test]
    fn what_cannot_be_told_for_another_reason_is_not_told() {
        let mut heard = Heard::new(PERIOD);
        let view = heard_at(9_000);
        heard.tick(&view, at(1_000));
        let clock = Err(Unavailable::Clock);
        assert_eq!(heard.freshness(&view, at(1_000), SKEW), clock);
    }
}
