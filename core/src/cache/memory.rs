use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use super::shared_data::{SharedData, SharedDataError};

/// Shared data in ordinary memory, with the `cas` of Envoy's host: for tests, examples and the
/// command line.
#[derive(Debug, Default)]
pub struct MemorySharedData {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    values: HashMap<String, (Vec<u8>, u32)>,
    last_cas: u32,
    writes: u64,
}

impl MemorySharedData {
    /// Nothing written yet.
    pub fn new() -> Self {
        Self::default()
    }

    fn with<T>(&self, work: impl FnOnce(&mut Inner) -> T) -> T {
        work(&mut self.inner.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// How many keys were ever written.
    pub fn keys(&self) -> usize {
        self.with(|inner| inner.values.len())
    }

    /// The octets of all values together.
    pub fn octets(&self) -> usize {
        self.with(|inner| {
            inner
                .values
                .values()
                .fold(0, |sum, (value, _)| value.len().saturating_add(sum))
        })
    }

    /// The largest value, in octets.
    pub fn largest(&self) -> usize {
        self.with(|inner| {
            inner
                .values
                .values()
                .map(|(value, _)| value.len())
                .max()
                .unwrap_or_default()
        })
    }

    /// How many writes have succeeded.
    pub fn writes(&self) -> u64 {
        self.with(|inner| inner.writes)
    }
}

impl SharedData for MemorySharedData {
    fn get(&self, key: &str) -> Result<Option<(Vec<u8>, u32)>, SharedDataError> {
        Ok(self.with(|inner| inner.values.get(key).cloned()))
    }

    fn set(&self, key: &str, value: &[u8], cas: Option<u32>) -> Result<(), SharedDataError> {
        self.with(|inner| {
            let present = inner.values.get(key).map(|(_, cas)| *cas);
            let expected = cas.filter(|cas| *cas != 0);
            if let (Some(expected), Some(present)) = (expected, present)
                && expected != present
            {
                return Err(SharedDataError::CasMismatch);
            }
            inner.last_cas = inner.last_cas.checked_add(1).unwrap_or(1);
            inner.writes = inner.writes.saturating_add(1);
            let cas = inner.last_cas;
            inner.values.insert(key.to_owned(), (value.to_vec(), cas));
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[test]
    fn a_cas_of_zero_overwrites_and_an_absent_key_takes_any() {
        let store = MemorySharedData::new();
        assert_eq!(store.get("k"), Ok(None));
        assert_eq!(store.set("k", b"a", Some(77)), Ok(()));
        assert_eq!(
            store.set("k", b"b", Some(77)),
            Err(SharedDataError::CasMismatch)
        );
        let (_, cas) = store.get("k").unwrap().unwrap();
        assert_eq!(store.set("k", b"b", Some(cas)), Ok(()));
        assert_eq!(
            store.set("k", b"c", Some(cas)),
            Err(SharedDataError::CasMismatch)
        );
        assert_eq!(store.set("k", b"c", Some(0)), Ok(()));
        assert_eq!(store.set("k", b"d", None), Ok(()));
        assert_eq!(store.get("k").unwrap().unwrap().0, b"d");
    }

    #[test]
    fn keys_octets_and_writes_are_counted() {
        let store = MemorySharedData::new();
        for (key, value) in [("a", &b"12"[..]), ("b", b"345"), ("c", b""), ("a", b"1234")] {
            store.set(key, value, None).unwrap();
        }
        assert_eq!(
            store.set("a", b"x", Some(1)),
            Err(SharedDataError::CasMismatch)
        );
        assert_eq!((store.keys(), store.octets()), (3, 7));
        assert_eq!((store.largest(), store.writes()), (4, 4));
    }
}
