use core::time::Duration;

/// splitmix64: enough for jitter, and for a hash key that outsiders cannot know.
#[derive(Debug)]
pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// Between a half and the whole of `span`.
    pub(super) fn jitter(&mut self, span: Duration) -> Duration {
        let millis = u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
        let half = millis.wrapping_shr(1);
        let more = self
            .next()
            .checked_rem(half.saturating_add(1))
            .unwrap_or_default();
        Duration::from_millis(half.saturating_add(more))
    }
}
