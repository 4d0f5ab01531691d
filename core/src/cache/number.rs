//! Which of two synchronisers is the newer? A number for each, in the order in which they begin.

use super::shared_data::{SharedData, update};

pub(super) const KEY: &str = "mb1/n";

/// A number that is higher than that of each synchroniser of this Envoy that began before. `clock` is
/// the wall clock's nanoseconds: what was drawn last only matters where the clock was set back, and
/// where it cannot be read or kept, the clock alone says who is newer.
pub fn draw_number(store: &dyn SharedData, clock: u64) -> u64 {
    let drawn = update(store, KEY, |last| {
        let last = last.and_then(|octets| octets.try_into().ok());
        let after = last.and_then(|octets| u64::from_le_bytes(octets).checked_add(1));
        let number = after.map_or(clock, |after| after.max(clock));
        Ok((Some(number.to_le_bytes().to_vec()), number))
    });
    drawn.unwrap_or(clock)
}

#[cfg(test)]
mod tests {
    use super::super::memory::MemorySharedData;
    use super::super::shared_data::SharedDataError;
    use super::*;

    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[test]
    fn who_begins_later_has_the_higher_number_whatever_the_clock_says() {
        let store = MemorySharedData::new();
        let mut last = 0;
        for clock in [1_000, 2_000, 2_000, 500, 0, 2_001, 3_000] {
            let number = draw_number(&store, clock);
            assert!(number > last, "{clock}: {number} after {last}");
            last = number;
        }
    }

    #[test]
    fn what_was_destroyed_gives_nobody_a_lower_number() {
        for octets in [&b""[..], b"seven..", b"nine.....", &[0xFF; 8], &[0; 8]] {
            let store = MemorySharedData::new();
            let first = draw_number(&store, 1_000);
            store.set(KEY, octets, None).unwrap();
            let second = draw_number(&store, 1_001);
            let third = draw_number(&store, 1_002);
            assert!(first < second && second < third, "{octets:?}");
        }
    }

    /// Where somebody else always writes first.
    struct Contended;

    impl SharedData for Contended {
        fn get(&self, _key: &str) -> Result<Option<(Vec<u8>, u32)>, SharedDataError> {
            Ok(Some((7_u64.to_le_bytes().to_vec(), 1)))
        }

        fn set(&self, _: &str, _: &[u8], _: Option<u32>) -> Result<(), SharedDataError> {
            Err(SharedDataError::CasMismatch)
        }
    }

    #[test]
    fn where_none_can_be_kept_the_clock_numbers() {
        assert_eq!(draw_number(&Contended, 1_000), 1_000);
    }
}
