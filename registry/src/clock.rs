//! What time is it? The registry's one clock.

use jiff::SignedDuration;
use medbind_core::time::Timestamp;

/// The system's clock, and what a test adds to it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    offset_millis: i64,
}

impl Clock {
    /// A clock that is `offset` off the system's.
    pub fn new(offset: SignedDuration) -> Self {
        let offset_millis = i64::try_from(offset.as_millis()).unwrap_or(0);
        Self { offset_millis }
    }

    /// Now.
    pub fn now(self) -> Timestamp {
        let now = jiff::Timestamp::now().as_millisecond();
        Timestamp::from_unix_millis(now.saturating_add(self.offset_millis))
    }
}
