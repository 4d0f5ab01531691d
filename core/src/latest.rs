//! Has this clock been set back?

use core::time::Duration;

use crate::time::Timestamp;

/// How far this clock may step back without anybody taking notice.
pub(crate) const STEP_BACK_TOLERANCE: Duration = Duration::from_secs(2);

/// The latest time that was seen.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Latest(Timestamp);

impl Latest {
    /// Nothing seen yet.
    pub(crate) const NONE: Self = Self(Timestamp::from_unix_millis(i64::MIN));

    /// Nothing but this seen yet.
    pub(crate) const fn at(now: Timestamp) -> Self {
        Self(now)
    }

    /// It is `now`.
    pub(crate) fn see(&mut self, now: Timestamp) {
        self.0 = self.0.max(now);
    }

    /// How far `now` is behind it, where that is so far that the clock must have been set back.
    pub(crate) fn step_back(self, now: Timestamp) -> Option<Duration> {
        Some(self.0.since(now)).filter(|step| *step > STEP_BACK_TOLERANCE)
    }

    /// Whether `now` is so far behind it that the clock must have been set back.
    pub(crate) fn is_ahead_of(self, now: Timestamp) -> bool {
        self.step_back(now).is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[test]
    fn a_clock_that_was_set_back_is_behind_until_it_has_caught_up() {
        let at = Timestamp::from_unix_millis;
        let mut latest = Latest::NONE;
        assert!(!latest.is_ahead_of(at(i64::MIN)));
        latest.see(at(10_000));
        latest.see(at(9_000));
        assert!(latest.is_ahead_of(at(7_999)), "2,001 ms");
        assert!(!latest.is_ahead_of(at(8_000)));
        assert_eq!(latest.step_back(at(4_000)), Some(Duration::from_secs(6)));
        latest = Latest::at(at(5_000));
        assert!(!latest.is_ahead_of(at(3_000)));
    }
}
