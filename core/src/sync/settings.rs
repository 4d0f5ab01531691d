use core::time::Duration;

use sha2::{Digest, Sha256};

use crate::cache::{Candidate, RegistryAddress};

/// How a synchroniser works.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SyncSettings {
    /// Where the registry is; handed on to guards by the cache.
    pub registry: RegistryAddress,
    /// Whether the whole registry is read, or only looked-up devices are kept.
    pub preload: bool,
    /// The most devices that one history may hold.
    pub capacity: u32,
    /// Where this synchroniser runs.
    pub candidate: Candidate,
    /// How long the registry is asked to hold a long poll, in whole seconds.
    pub wait: Duration,
    /// Records asked for in one page.
    pub page_limit: u32,
    /// How long one answer may take, beyond `wait`.
    pub fetch_timeout: Duration,
    /// A leader whose heartbeat is older has stopped.
    pub lease_timeout: Duration,
    /// The first pause after a failure; each further one is twice as long.
    pub backoff_base: Duration,
    /// The longest pause.
    pub backoff_max: Duration,
    /// Between two readings of the same history because of what could not be followed.
    pub reload_interval: Duration,
}

impl SyncSettings {
    /// The usual times. The long poll is a third of `max_stale` at most, and 25 s at most, so that
    /// a quiet registry does not make the cache stale.
    pub fn new(
        registry: RegistryAddress,
        candidate: Candidate,
        preload: bool,
        capacity: u32,
        max_stale: Duration,
    ) -> Self {
        let third = max_stale.as_secs().checked_div(3).unwrap_or_default();
        Self {
            registry,
            preload,
            capacity,
            candidate,
            wait: Duration::from_secs(third.clamp(1, 25)),
            page_limit: 2_000,
            fetch_timeout: Duration::from_secs(10),
            lease_timeout: Duration::from_secs(5),
            backoff_base: Duration::from_millis(200),
            backoff_max: Duration::from_secs(10),
            reload_interval: Duration::from_secs(30),
        }
    }
}

impl SyncSettings {
    /// The same for all synchronisers that the same configuration has made.
    pub(super) fn fingerprint(&self) -> u64 {
        let Self {
            registry,
            preload,
            capacity,
            wait,
            ..
        } = self;
        let RegistryAddress { cluster, authority } = registry;
        let octets = [
            cluster.as_bytes(),
            b"\0",
            authority.as_bytes(),
            &[u8::from(*preload)],
            &capacity.to_le_bytes(),
            &wait.as_secs().to_le_bytes(),
        ]
        .concat();
        let digest = <[u8; 32]>::from(Sha256::digest(octets));
        digest
            .first_chunk()
            .map_or(0, |first| u64::from_le_bytes(*first))
    }
}

/// Names one request, so that its answer is not taken for another's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FetchId(pub(super) u64);

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SyncAction {
    /// Call the registry: `GET path`.
    Fetch {
        /// To be handed back with the answer.
        id: FetchId,
        /// Path and query.
        path: String,
        /// The call is to be given up after this long.
        timeout: Duration,
    },
    /// Tell the operator. No text holds a device identity.
    Log {
        /// How much it matters.
        level: SyncLogLevel,
        /// One line.
        message: String,
    },
}

/// How much a line of the log matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum SyncLogLevel {
    /// As it should be.
    Info,
    /// It goes on, but somebody may want to know.
    Warn,
    /// It does not go on before somebody does something.
    Error,
}

/// What came back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SyncResponse<'a> {
    /// An answer.
    Answer {
        /// The HTTP status; 503 and 504 are also what Envoy makes where nothing answered.
        status: u16,
        /// `Retry-After` in seconds, where the answer has one (RFC 9110, 10.2.3).
        retry_after: Option<Duration>,
        /// The whole body.
        body: &'a [u8],
    },
    /// The call could not be made, or ended without an answer.
    Failed,
}
