//! Whose is the device? The cache in shared data, and the worker's own table in front of it.

use std::sync::Arc;
use std::time::Duration;

use medbind_core::binding::Binding;
use medbind_core::cache::{Cache, CacheAnswer, Changed, Heard, SharedData, SharedDataError, View};
use medbind_core::decision::{Bindings, Lookup};
use medbind_core::deny::Unavailable;
use medbind_core::identity::DeviceId;
use medbind_core::time::Timestamp;

use crate::host::{Host, HostError};
use crate::table::Table;

/// Shared data of a host, as the cache takes it.
#[derive(Clone, Copy, Debug)]
pub struct Shared<'a, H>(pub &'a H);

impl<H: Host> SharedData for Shared<'_, H> {
    fn get(&self, key: &str) -> Result<Option<(Vec<u8>, u32)>, SharedDataError> {
        self.0.shared_data(key).map_err(shared_data_error)
    }

    fn set(&self, key: &str, value: &[u8], cas: Option<u32>) -> Result<(), SharedDataError> {
        self.0
            .set_shared_data(key, value, cas)
            .map_err(shared_data_error)
    }
}

const fn shared_data_error(error: HostError) -> SharedDataError {
    match error {
        HostError::CasMismatch => SharedDataError::CasMismatch,
        HostError::Status(_) => SharedDataError::Host,
    }
}

/// A binding that was looked up.
#[derive(Debug)]
struct Known {
    bucket: u32,
    binding: Arc<Binding>,
}

/// What one worker knows of the cache: the control record as of the last tick, and the bindings
/// that were looked up under it.
#[derive(Debug)]
pub struct LocalBindings {
    view: Result<View, Unavailable>,
    heard: Heard,
    table: Table<DeviceId, Known>,
    max_clock_skew: Duration,
}

impl LocalBindings {
    /// Nothing known yet; keeps at most so many bindings in front of the cache, and is refreshed
    /// no sooner than every `period`.
    pub fn new(most: usize, max_clock_skew: Duration, period: Duration) -> Self {
        Self {
            view: Err(Unavailable::NoSynchroniser),
            heard: Heard::new(period),
            table: Table::new(most),
            max_clock_skew,
        }
    }

    /// Reads the control record. Gives where what was looked up before may hold no more; it is
    /// forgotten.
    pub fn refresh(&mut self, host: &impl Host) -> Changed {
        let view = Cache::new(&Shared(host)).view();
        let changed = match (&view, &self.view) {
            (Ok(view), Ok(before)) => view.changed_since(before),
            (Err(reason), Err(before)) if reason == before => Changed::Nothing,
            (Ok(_) | Err(_), _) => Changed::Everything,
        };
        if let Ok(view) = &view {
            self.heard.tick(view, host.now());
        }
        self.view = view;
        match &changed {
            Changed::Nothing => {}
            Changed::Buckets(buckets) => {
                self.table.retain(|known| !buckets.contains(known.bucket));
            }
            Changed::Everything => self.table.clear(),
        }
        changed
    }

    /// The control record, or why there is none.
    pub const fn view(&self) -> Result<&View, Unavailable> {
        match &self.view {
            Ok(view) => Ok(view),
            Err(reason) => Err(*reason),
        }
    }

    /// How long ago the registry was heard.
    pub fn freshness(&self, now: Timestamp) -> Result<Duration, Unavailable> {
        self.heard.freshness(self.view()?, now, self.max_clock_skew)
    }

    /// As `core` takes it; `answer` is what the registry has just said of one device.
    pub fn with<'a, H>(
        &'a mut self,
        host: &'a H,
        answer: Option<(&'a DeviceId, &'a Lookup)>,
    ) -> LookIn<'a, H> {
        LookIn {
            local: self,
            host,
            answer,
        }
    }
}

/// The bindings, for one decision.
#[derive(Debug)]
pub struct LookIn<'a, H> {
    local: &'a mut LocalBindings,
    host: &'a H,
    answer: Option<(&'a DeviceId, &'a Lookup)>,
}

impl<H: Host> Bindings for LookIn<'_, H> {
    fn lookup(&mut self, device: &DeviceId, now: Timestamp) -> Lookup {
        if let Some((about, answer)) = self.answer
            && about == device
        {
            return answer.clone();
        }
        if let Some(known) = self.local.table.get(device) {
            return Lookup::Found(Arc::clone(&known.binding));
        }
        let view = match &self.local.view {
            Ok(view) => view,
            Err(reason) => return Lookup::Unavailable(*reason),
        };
        match Cache::new(&Shared(self.host)).lookup(view, device, now) {
            CacheAnswer::Found(binding) => {
                let known = Known {
                    bucket: view.bucket_of(device),
                    binding: Arc::new(binding),
                };
                let found = Lookup::Found(Arc::clone(&known.binding));
                self.local.table.insert(device.clone(), known);
                found
            }
            CacheAnswer::Absent => Lookup::Absent,
            CacheAnswer::Unavailable(reason) => Lookup::Unavailable(reason),
            CacheAnswer::Pending => Lookup::Pending,
        }
    }

    fn freshness(&mut self, now: Timestamp) -> Result<Duration, Unavailable> {
        self.local.freshness(now)
    }
}
