use crate::deny::Unavailable;

/// proxy-wasm shared data, as Envoy's host does it.
///
/// Every write gives the key a new, non-zero `cas`. There is no delete.
pub trait SharedData {
    /// The value of `key` and its `cas`; `None` where nobody has written it.
    fn get(&self, key: &str) -> Result<Option<(Vec<u8>, u32)>, SharedDataError>;

    /// Writes `key`. With `Some(cas)` only where the key still has that `cas`; a key that nobody
    /// has written takes any. With `None` (or 0) whatever stands there is overwritten.
    fn set(&self, key: &str, value: &[u8], cas: Option<u32>) -> Result<(), SharedDataError>;
}

/// How shared data refuses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SharedDataError {
    /// Somebody else wrote the key in between.
    #[error("the key was written in between")]
    CasMismatch,
    /// The host refuses for a reason of its own.
    #[error("the host refuses")]
    Host,
}

/// Why the cache could not be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CacheError {
    /// Another leader, or a newer generation, has taken over: stop.
    #[error("another leader has taken over")]
    Superseded,
    /// Others wrote the same key each time: try again later.
    #[error("others keep writing the same key")]
    Contended,
    /// There is nothing to write to yet, or what stands there is not of this layout.
    #[error("the cache is not there: {0}")]
    Unavailable(Unavailable),
    /// The host refuses.
    #[error("shared data cannot be used")]
    Host,
}

/// How often a write that lost a race is tried again.
pub(super) const ATTEMPTS: u32 = 8;

/// A `cas` that no key has: Envoy's counter begins at 1 and would have to count every write of the
/// process up to here. A key that nobody has written takes it, one that has been written does not:
/// so a key is made by exactly one writer, where a plain seed could overwrite another's.
const NO_SUCH_CAS: u32 = u32::MAX;

/// The `cas` to write with, for what was read.
pub(super) fn cas_of(read: Option<&(Vec<u8>, u32)>) -> u32 {
    match read {
        // A host that answers 0 has no cas to compare: then nothing but a first write succeeds.
        Some((_, 0)) | None => NO_SUCH_CAS,
        Some((_, cas)) => *cas,
    }
}

/// Reads, changes and writes `key` until nobody writes in between. `change` gets the octets that
/// are there and answers the new ones, or `None` to leave them; what it answers besides is handed
/// back.
pub(super) fn update<T>(
    store: &dyn SharedData,
    key: &str,
    mut change: impl FnMut(Option<&[u8]>) -> Result<(Option<Vec<u8>>, T), CacheError>,
) -> Result<T, CacheError> {
    let mut outcome = None;
    swap(store, key, &mut |octets| {
        let (value, told) = change(octets)?;
        outcome = Some(told);
        Ok(value)
    })?;
    outcome.ok_or(CacheError::Contended)
}

/// What a key's new octets are, by those that are there; `None` leaves them.
type Change<'c> = dyn FnMut(Option<&[u8]>) -> Result<Option<Vec<u8>>, CacheError> + 'c;

/// The part of [`update`] that is the same for all, so that the module has it once.
fn swap(store: &dyn SharedData, key: &str, change: &mut Change<'_>) -> Result<(), CacheError> {
    for _ in 0..ATTEMPTS {
        let read = store.get(key).map_err(|_| CacheError::Host)?;
        let Some(value) = change(read.as_ref().map(|(value, _)| value.as_slice()))? else {
            return Ok(());
        };
        match store.set(key, &value, Some(cas_of(read.as_ref()))) {
            Ok(()) => return Ok(()),
            Err(SharedDataError::CasMismatch) => {}
            Err(SharedDataError::Host) => return Err(CacheError::Host),
        }
    }
    Err(CacheError::Contended)
}
