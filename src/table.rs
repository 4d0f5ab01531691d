//! What does this worker remember? A bounded table that evicts what was not asked for lately.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::hash::Hash;

/// A map of at most so many entries. Where it is full, a new entry takes the place of one that has
/// not been asked for since the hand last passed it (the CLOCK algorithm: a read costs one store).
#[derive(Debug)]
pub struct Table<K, V> {
    places: HashMap<K, usize>,
    entries: Vec<Entry<K, V>>,
    capacity: usize,
    hand: usize,
}

#[derive(Debug)]
struct Entry<K, V> {
    key: K,
    value: V,
    asked: bool,
}

impl<K: Clone + Eq + Hash, V> Table<K, V> {
    /// An empty table for at most `capacity` entries; memory is taken as it fills.
    pub fn new(capacity: usize) -> Self {
        Self {
            places: HashMap::new(),
            entries: Vec::new(),
            capacity,
            hand: 0,
        }
    }

    /// The value under `key`, where the table has it.
    pub fn get<Q>(&mut self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
        Q: Eq + Hash + ?Sized,
    {
        let place = *self.places.get(key)?;
        let entry = self.entries.get_mut(place)?;
        entry.asked = true;
        Some(&entry.value)
    }

    /// Puts `value` under `key`.
    pub fn insert(&mut self, key: K, value: V) {
        let known = self.places.get(&key).copied();
        if let Some(entry) = known.and_then(|place| self.entries.get_mut(place)) {
            entry.value = value;
            return;
        }
        let entry = Entry {
            key: key.clone(),
            value,
            asked: false,
        };
        if self.entries.len() < self.capacity {
            self.places.insert(key, self.entries.len());
            self.entries.push(entry);
            return;
        }
        let Some(place) = self.least_asked() else {
            return;
        };
        if let Some(old) = self.entries.get_mut(place) {
            self.places.remove(&old.key);
            *old = entry;
            self.places.insert(key, place);
        }
    }

    /// Moves the hand to the first entry that was not asked for since it last passed, and past it.
    fn least_asked(&mut self) -> Option<usize> {
        // Twice round: the first may do no more than clear the marks.
        for _ in 0..self.entries.len().saturating_mul(2) {
            let place = self.hand;
            let next = self.hand.saturating_add(1);
            self.hand = if next < self.entries.len() { next } else { 0 };
            let entry = self.entries.get_mut(place)?;
            if !entry.asked {
                return Some(place);
            }
            entry.asked = false;
        }
        None
    }

    /// Forgets what `keep` does not want.
    pub fn retain(&mut self, keep: impl Fn(&V) -> bool) {
        let mut place = 0_usize;
        while let Some(entry) = self.entries.get(place) {
            if keep(&entry.value) {
                place = place.saturating_add(1);
                continue;
            }
            self.places.remove(&entry.key);
            self.entries.swap_remove(place);
            // The last one stands there now.
            if let Some(moved) = self.entries.get(place)
                && let Some(known) = self.places.get_mut(&moved.key)
            {
                *known = place;
            }
        }
        if self.hand >= self.entries.len() {
            self.hand = 0;
        }
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.places.clear();
        self.entries.clear();
        self.hand = 0;
    }

    /// How many entries there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is no entry.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_for_stays_and_the_rest_makes_room() {
        let mut table = Table::new(4);
        for key in 0..4 {
            table.insert(key, key);
        }
        for stranger in 100..1_000 {
            assert_eq!(table.get(&2), Some(&2));
            table.insert(stranger, stranger);
            assert_eq!(table.len(), 4);
            assert_eq!(table.get(&stranger), Some(&stranger));
        }
        assert_eq!(table.get(&2), Some(&2));
        assert_eq!(table.get(&0), None);
    }

    #[test]
    fn where_everything_was_asked_for_one_still_makes_room() {
        let mut table = Table::new(2);
        table.insert("a", 1);
        table.insert("b", 2);
        assert!(table.get("a").is_some() && table.get("b").is_some());
        table.insert("c", 3);
        assert_eq!((table.len(), table.get("c")), (2, Some(&3)));
    }

    #[test]
    fn a_known_key_gets_the_new_value_and_no_second_place() {
        let mut table = Table::new(2);
        table.insert("a", 1);
        table.insert("a", 2);
        assert_eq!((table.len(), table.get("a")), (1, Some(&2)));
        table.clear();
        assert!(table.is_empty());
        assert_eq!(table.get("a"), None);
    }

    #[test]
    fn what_is_not_wanted_is_forgotten_and_nothing_else() {
        let mut table = Table::new(8);
        for key in 0..8 {
            table.insert(key, key);
        }
        table.hand = 7;
        table.retain(|value| value % 3 == 1);
        assert_eq!((table.len(), table.hand), (3, 0));
        for key in 0..8 {
            assert_eq!(table.get(&key).copied(), (key % 3 == 1).then_some(key));
        }
        for key in 10..18 {
            table.insert(key, key);
            assert_eq!(table.get(&key), Some(&key));
        }
        assert_eq!((table.len(), table.places.len()), (8, 8));
        table.retain(|_| false);
        assert!(table.is_empty() && table.places.is_empty());
    }

    #[test]
    fn a_table_for_nothing_holds_nothing() {
        let mut table = Table::new(0);
        table.insert("a", 1);
        assert_eq!(table.get("a"), None);
    }
}
