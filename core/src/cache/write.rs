use super::bucket::{self, Inserted, Merged, Take, Target};
use super::control::{Control, create_control, update_control};
use super::record::NewRecord;
use super::shared_data::{CacheError, SharedData, update};
use crate::binding::{Binding, BindingState};
use crate::deny::Unavailable;
use crate::feed::LookupAnswer;
use crate::time::Timestamp;

use core::time::Duration;
use std::collections::BinaryHeap;

/// Writes as the leader of one term.
pub struct Writer<'s> {
    store: &'s dyn SharedData,
    term: u32,
}

/// What applying records did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// Whether any bucket was written.
    pub changed: bool,
    /// Devices that the generation did not have before.
    pub added: u32,
    /// Devices that found no room.
    pub left_out: u32,
    /// Buckets whose octets were not of this layout, and are lost.
    pub corrupt: u32,
}

/// What sweeping some buckets did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Swept {
    /// Where to go on; `None`: all buckets have been swept.
    pub next: Option<u32>,
    /// Buckets whose octets were not of this layout, and are lost.
    pub corrupt: u32,
}

impl<'s> Writer<'s> {
    /// Writes to `store` as the leader of `term`.
    pub const fn new(store: &'s dyn SharedData, term: u32) -> Self {
        Self { store, term }
    }

    /// The control record as it is now.
    pub fn control(&self) -> Result<Control, CacheError> {
        let control = Control::read(self.store).map_err(CacheError::Unavailable)?;
        if control.term > self.term {
            return Err(CacheError::Superseded);
        }
        Ok(control)
    }

    /// Makes the control record where there is none, or none that can be read.
    pub(crate) fn create(
        &self,
        capacity: u32,
        hash_key: u64,
        now: Timestamp,
    ) -> Result<(), CacheError> {
        create_control(
            self.store,
            &Control::new(self.term, capacity, hash_key, now),
        )
    }

    /// Changes the control record.
    pub fn update<T>(
        &self,
        change: impl FnMut(&mut Control) -> Result<T, CacheError>,
    ) -> Result<T, CacheError> {
        update_control(self.store, self.term, change)
    }

    /// Writes bindings into one of `control`'s histories, each bucket once. The control record is
    /// not written: what was done is handed back.
    ///
    /// Where the history is complete, devices that are new are added up to the capacity; where
    /// only what was looked up is kept, bindings of other devices are passed over.
    pub fn apply(
        &self,
        control: &Control,
        generation: u32,
        bindings: &[Binding],
        now: Timestamp,
    ) -> Result<Applied, CacheError> {
        let histories = [&control.active, &control.loading];
        let history = histories
            .into_iter()
            .flatten()
            .find(|history| history.generation == generation)
            .ok_or(CacheError::Superseded)?;
        let target = Target {
            generation,
            live: control.live(),
            term: Some(self.term),
            is_confirmed: false,
            now,
        };
        let mut room = control.capacity.saturating_sub(history.records);
        let mut applied = Applied::default();
        let mut sorted = sort(control, bindings);
        let mut rest = sorted.as_mut_slice();
        while let Some((first, _)) = rest.first() {
            let bucket = *first;
            let same = rest.partition_point(|(other, _)| *other == bucket);
            let Some((group, after)) = rest.split_at_mut_checked(same) else {
                break;
            };
            rest = after;
            let records = pack(group);
            let take = if history.complete {
                Take::All { room }
            } else {
                Take::Present
            };
            let (written, merged) = self.rewrite(bucket, target, take, &records)?;
            room = room.saturating_sub(merged.added);
            applied.changed |= written;
            applied.added = applied.added.saturating_add(merged.added);
            applied.left_out = applied.left_out.saturating_add(merged.left_out);
            applied.corrupt = applied.corrupt.saturating_add(u32::from(merged.corrupt));
        }
        Ok(applied)
    }

    /// Sweeps at most `buckets` buckets of records that no history in use holds, from bucket
    /// `from` on.
    pub fn sweep(
        &self,
        control: &Control,
        from: u32,
        buckets: u32,
        now: Timestamp,
    ) -> Result<Swept, CacheError> {
        let Some(active) = &control.active else {
            return Ok(Swept {
                next: None,
                corrupt: 0,
            });
        };
        let target = Target {
            generation: active.generation,
            live: control.live(),
            term: Some(self.term),
            is_confirmed: false,
            now,
        };
        let end = from.saturating_add(buckets).min(control.buckets());
        let mut corrupt = 0_u32;
        for bucket in from..end {
            let (_, merged) = self.rewrite(bucket, target, Take::All { room: 0 }, &[])?;
            corrupt = corrupt.saturating_add(u32::from(merged.corrupt));
        }
        Ok(Swept {
            next: (end < control.buckets()).then_some(end),
            corrupt,
        })
    }

    /// Rewrites a bucket; also tells whether it was written. A bucket that claims to be ahead of
    /// this leader is believed only if the control record is ahead too, which is always written
    /// first: otherwise its octets are somebody else's.
    fn rewrite(
        &self,
        bucket: u32,
        target: Target,
        take: Take,
        records: &[NewRecord],
    ) -> Result<(bool, Merged), CacheError> {
        let key = bucket::key(bucket);
        let run = |target: Target| {
            update(self.store, &key, |octets| {
                let mut merged = bucket::merge(octets, &target, take, records)?;
                let value = merged.value.take();
                let written = value.is_some();
                Ok((value, (written, merged)))
            })
        };
        match run(target) {
            Err(CacheError::Superseded) if self.control()?.live() == target.live => run(Target {
                is_confirmed: true,
                ..target
            }),
            outcome => outcome,
        }
    }
}

/// The bindings by bucket, then device, then revision, then as they came.
fn sort<'b>(control: &Control, bindings: &'b [Binding]) -> Vec<(u32, &'b Binding)> {
    // By a heap: a fraction of what writing the buckets takes, and the library's sort is 8 KiB.
    let heap: BinaryHeap<_> = bindings
        .iter()
        .enumerate()
        .map(|(place, binding)| {
            let device = binding.device.as_str();
            let bucket = control.bucket_of(device.as_bytes());
            (bucket, device, binding.revision, place)
        })
        .collect();
    heap.into_sorted_vec()
        .into_iter()
        .filter_map(|(bucket, .., place)| Some((bucket, bindings.get(place)?)))
        .collect()
}

/// One packed record for each device of a sorted group: the last, or the last that is revoked.
fn pack(group: &[(u32, &Binding)]) -> Vec<NewRecord> {
    let mut chosen: Vec<&Binding> = Vec::with_capacity(group.len());
    for (_, binding) in group {
        match chosen.last_mut() {
            Some(last) if last.device == binding.device => {
                let stays =
                    last.state == BindingState::Revoked && binding.state != BindingState::Revoked;
                if !stays {
                    *last = binding;
                }
            }
            Some(_) | None => chosen.push(binding),
        }
    }
    chosen.into_iter().map(NewRecord::binding).collect()
}

/// Keeps a lookup's answer; for the rules see [`super::Cache::insert_lookup`].
pub(super) fn insert_lookup(
    store: &dyn SharedData,
    now: Timestamp,
    answer: &LookupAnswer,
    negative_ttl: Duration,
) -> Result<Inserted, CacheError> {
    // Not a view from a tick ago: the history may have changed since.
    let control = Control::read(store).map_err(CacheError::Unavailable)?;
    let active = control
        .active
        .as_ref()
        .ok_or(CacheError::Unavailable(Unavailable::Loading))?;
    let head = answer.header.head;
    // Where every device is read, what is read is the newer: the answer was asked for before.
    if active.complete || active.feed.as_ref() != Some(&answer.header.feed) || head < active.floor {
        return Ok(Inserted::Overtaken);
    }
    let record = match &answer.binding {
        Some(binding) => NewRecord::binding(binding),
        None => NewRecord::no_device(&answer.device, head, now.after(negative_ttl)),
    };
    let target = Target {
        generation: active.generation,
        live: control.live(),
        term: None,
        is_confirmed: false,
        now,
    };
    let limit = usize::try_from(control.records_a_bucket()).unwrap_or(usize::MAX);
    let key = bucket::key(control.bucket_of(answer.device.as_str().as_bytes()));
    update(store, &key, |octets| {
        Ok(
            match bucket::insert(octets, &target, limit, head, &record)? {
                Inserted::Value(value) => (value, Inserted::Value(None)),
                Inserted::NoRoom => (None, Inserted::NoRoom),
                Inserted::Overtaken => (None, Inserted::Overtaken),
            },
        )
    })
}
