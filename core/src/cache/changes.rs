//! What has changed since a worker last looked? The latest changes, each by the buckets it is in.

use super::codec::{Corrupt, Reader, put_varint};

/// A change that is in more buckets than this is taken to be in all.
const MOST_BUCKETS_A_CHANGE: usize = 512;
/// The most buckets that are kept, of the latest changes.
const MOST_BUCKETS: usize = 1_024;

/// How many changes there were, and where the latest were.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    count: u64,
    /// The last one of which it is not known where it was.
    floor: u64,
    /// The number of a later one, and a bucket that it is in.
    recent: Vec<(u64, u32)>,
}

/// Some buckets, in their order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Buckets(Vec<u32>);

impl Buckets {
    /// Whether this one is among them.
    pub fn contains(&self, bucket: u32) -> bool {
        self.0.binary_search(&bucket).is_ok()
    }

    /// Whether there are so many that a change in them is taken to be in all.
    pub(crate) const fn is_full(&self) -> bool {
        self.0.len() > MOST_BUCKETS_A_CHANGE
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// One more.
    pub(crate) fn insert(&mut self, bucket: u32) {
        if let Err(place) = self.0.binary_search(&bucket) {
            self.0.insert(place, bucket);
        }
    }
}

impl FromIterator<u32> for Buckets {
    fn from_iter<I: IntoIterator<Item = u32>>(numbers: I) -> Self {
        let mut buckets = Self::default();
        for number in numbers {
            buckets.insert(number);
        }
        buckets
    }
}

/// Where something may have changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Changed {
    /// Nowhere.
    Nothing,
    /// In these buckets.
    Buckets(Buckets),
    /// Anywhere.
    Everything,
}

impl Changes {
    /// How many there were.
    pub const fn count(&self) -> u64 {
        self.count
    }

    /// One more, which may be anywhere.
    pub(crate) fn tell_everything(&mut self) {
        self.count = self.count.saturating_add(1);
        self.floor = self.count;
        self.recent.clear();
    }

    /// One more, in these buckets.
    pub(crate) fn tell(&mut self, told: &Buckets) {
        if told.is_full() {
            return self.tell_everything();
        }
        self.count = self.count.saturating_add(1);
        for bucket in &told.0 {
            self.recent.push((self.count, *bucket));
        }
        // The oldest make room, each as a whole.
        let over = self
            .recent
            .len()
            .checked_sub(MOST_BUCKETS.saturating_add(1));
        if let Some((oldest, _)) = over.and_then(|over| self.recent.get(over)) {
            self.floor = *oldest;
            self.recent.retain(|(number, _)| *number > self.floor);
        }
    }

    /// What has changed since there were `count`.
    pub(super) fn since(&self, count: u64) -> Changed {
        if count == self.count {
            return Changed::Nothing;
        }
        // Fail closed: it goes further back than what is kept, or counts something else.
        if !(self.floor..self.count).contains(&count) {
            return Changed::Everything;
        }
        let mut buckets = Buckets::default();
        for (number, bucket) in &self.recent {
            if *number > count {
                buckets.insert(*bucket);
            }
        }
        Changed::Buckets(buckets)
    }

    pub(super) fn encode(&self, to: &mut Vec<u8>) {
        put_varint(to, self.count);
        put_varint(to, self.count.saturating_sub(self.floor));
        put_varint(to, u64::try_from(self.recent.len()).unwrap_or(u64::MAX));
        for (number, bucket) in &self.recent {
            put_varint(to, self.count.saturating_sub(*number));
            put_varint(to, u64::from(*bucket));
        }
    }

    pub(super) fn decode(from: &mut Reader<'_>) -> Result<Self, Corrupt> {
        let count = from.varint()?;
        let floor = count.checked_sub(from.varint()?).ok_or(Corrupt)?;
        let length = usize::try_from(from.varint()?).map_err(|_| Corrupt)?;
        if length > MOST_BUCKETS {
            return Err(Corrupt);
        }
        let mut recent = Vec::with_capacity(length);
        for _ in 0..length {
            let number = count.checked_sub(from.varint()?).ok_or(Corrupt)?;
            let bucket = u32::try_from(from.varint()?).map_err(|_| Corrupt)?;
            if number <= floor {
                return Err(Corrupt);
            }
            recent.push((number, bucket));
        }
        Ok(Self {
            count,
            floor,
            recent,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    fn buckets(numbers: &[u32]) -> Changed {
        Changed::Buckets(numbers.iter().copied().collect())
    }

    fn some(numbers: impl IntoIterator<Item = u32>) -> Buckets {
        numbers.into_iter().collect()
    }

    fn told(each: &[&[u32]]) -> Changes {
        let mut changes = Changes::default();
        for numbers in each {
            changes.tell(&some(numbers.iter().copied()));
        }
        changes
    }

    #[test]
    fn a_bucket_is_among_some_or_it_is_not() {
        let some_buckets = some([9, 3, 3]);
        assert_eq!(
            [2, 3, 9].map(|n| some_buckets.contains(n)),
            [false, true, true]
        );
        assert!(!some_buckets.is_empty() && some([]).is_empty());
    }

    #[test]
    fn who_missed_some_changes_learns_their_buckets_and_no_other() {
        let changes = told(&[&[1], &[2, 3, 2], &[], &[9]]);
        assert_eq!(changes.count(), 4);
        assert_eq!(changes.since(4), Changed::Nothing);
        assert_eq!(changes.since(3), buckets(&[9]));
        assert_eq!(changes.since(2), buckets(&[9]));
        assert_eq!(changes.since(1), buckets(&[2, 3, 9]));
        assert_eq!(changes.since(0), buckets(&[1, 2, 3, 9]));
        assert_eq!(changes.since(5), Changed::Everything, "of another count");
    }

    #[test]
    fn a_change_that_is_anywhere_is_in_all_that_came_before_it_too() {
        let mut changes = told(&[&[1]]);
        changes.tell_everything();
        assert_eq!(changes.since(1), Changed::Everything);
        changes.tell(&some([5]));
        assert_eq!(changes.since(2), buckets(&[5]));
        assert_eq!(changes.since(1), Changed::Everything);
    }

    #[test]
    fn a_change_in_too_many_buckets_is_anywhere() {
        let mut changes = Changes::default();
        changes.tell(&some((0..512).chain(0..512)));
        assert_eq!(changes.since(0), Changed::Buckets((0..512).collect()));
        changes.tell(&some(0..513));
        assert_eq!(
            (changes.count(), changes.since(1)),
            (2, Changed::Everything)
        );
    }

    #[test]
    fn what_is_kept_is_bounded_and_who_missed_more_looks_everything_up() {
        let mut changes = told(&[&[1], &[2, 3]]);
        changes.tell(&some(0..510));
        changes.tell(&some(0..511));
        assert_eq!(changes.recent.len(), 1_024);
        assert_eq!(changes.since(0), Changed::Buckets(some(0..511)));
        // One more, and the first makes room; two more, and the second goes as a whole.
        changes.tell(&some([7]));
        assert_eq!(changes.since(0), Changed::Everything);
        assert_eq!(changes.since(1), Changed::Buckets(some(0..511)));
        changes.tell(&some([8]));
        assert_eq!((changes.recent.len(), changes.floor), (1_023, 2));
        assert_eq!(changes.since(1), Changed::Everything);
        assert_eq!(changes.since(2), Changed::Buckets(some(0..511)));
        assert_eq!(changes.since(4), buckets(&[7, 8]));
    }

    #[test]
    fn it_is_read_as_it_is_written_and_within_its_bounds() {
        let octets = |changes: &Changes| {
            let mut octets = Vec::new();
            changes.encode(&mut octets);
            octets
        };
        let read = |octets: &[u8]| Changes::decode(&mut Reader::new(octets));
        let mut changes = told(&[&[5], &[1, 4_000_000], &[]]);
        assert_eq!(read(&octets(&changes)), Ok(changes.clone()));
        changes.tell_everything();
        changes.tell(&some(0..512));
        changes.tell(&some(0..512));
        assert_eq!(read(&octets(&changes)), Ok(changes.clone()));
        changes.recent.push((6, 512));
        assert_eq!(read(&octets(&changes)), Err(Corrupt), "too many");
        let varints = |numbers: &[u64]| {
            let mut octets = Vec::new();
            for number in numbers {
                put_varint(&mut octets, *number);
            }
            octets
        };
        // The count, how far back it goes, how many, and each: how long ago, and where.
        let one = Changes {
            count: 9,
            floor: 7,
            recent: vec![(8, 3)],
        };
        assert_eq!(read(&varints(&[9, 2, 1, 1, 3])), Ok(one));
        for wrong in [
            [9, 10, 0, 0, 0],
            [9, 2, 1, 2, 3],
            [9, 2, 1, 10, 3],
            [9, 2, 1, 1, u64::from(u32::MAX) + 1],
        ] {
            assert_eq!(read(&varints(&wrong)), Err(Corrupt), "{wrong:?}");
        }
    }
}
