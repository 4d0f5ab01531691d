use core::time::Duration;

use super::bucket::{self, Found, Inserted};
use super::changes::Changed;
use super::control::{Control, History, RegistryAddress};
use super::record::Content;
use super::shared_data::{CacheError, SharedData};
use super::write;
use crate::binding::Binding;
use crate::deny::Unavailable;
use crate::feed::{FeedId, LookupAnswer};
use crate::identity::DeviceId;
use crate::latest::STEP_BACK_TOLERANCE;
use crate::time::Timestamp;

/// The cache, as a worker reads it.
pub struct Cache<'s> {
    store: &'s dyn SharedData,
}

/// The control record as it was read: good for a tick.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct View {
    control: Control,
}

/// What the cache says of one device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CacheAnswer {
    /// Its binding; the state may be one that permits nothing.
    Found(Binding),
    /// The registry has no such device.
    Absent,
    /// The cache cannot say.
    Unavailable(Unavailable),
    /// The registry has to be asked.
    Pending,
}

/// What became of a lookup's answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kept {
    /// It is in the cache, or something newer is: look the device up again.
    Stored,
    /// There is no room for it. The answer holds, for now.
    NoRoom,
    /// The feed has gone past it, or the history is another one: ask again. It must not be used.
    Overtaken,
}

impl View {
    /// Whether devices can be looked up: a history has been read.
    pub const fn availability(&self) -> Result<(), Unavailable> {
        match self.control.active {
            Some(_) => Ok(()),
            None => Err(Unavailable::Loading),
        }
    }

    /// How long ago the history that answers was last heard to be up to date, by this clock and by
    /// how far the leader has seen it being set back since then.
    ///
    /// [`Unavailable::Loading`] where none has been read; [`Unavailable::Clock`] where this clock
    /// has stepped back behind that moment, or was further than `max_clock_skew` from the
    /// registry's when it last answered.
    pub fn freshness(
        &self,
        now: Timestamp,
        max_clock_skew: Duration,
    ) -> Result<Duration, Unavailable> {
        self.availability()?;
        let last_ok = self.control.last_ok.ok_or(Unavailable::Loading)?;
        let skew = Duration::from_millis(self.control.clock_offset_millis.unsigned_abs());
        // Fail closed: no age can be told by a clock that is wrong.
        if last_ok.since(now) > STEP_BACK_TOLERANCE || skew > max_clock_skew {
            return Err(Unavailable::Clock);
        }
        let set_back = Duration::from_millis(self.control.set_back_millis);
        Ok(now.after(set_back).since(last_ok))
    }

    /// Goes up whenever something that readers may have kept has changed: what was looked up under
    /// another number is to be looked up again.
    pub const fn change_counter(&self) -> u64 {
        self.control.changes.count()
    }

    /// What may have changed since `earlier` was read: what was kept of it is to be looked up again.
    pub fn changed_since(&self, earlier: &Self) -> Changed {
        let (now, then) = (&self.control, &earlier.control);
        let generation = |view: &Self| view.active().map(|history| history.generation);
        // The number of changes begins anew where the cache was made anew.
        let is_same = now.hash_key == then.hash_key
            && now.bucket_bits == then.bucket_bits
            && generation(self) == generation(earlier);
        if is_same {
            now.changes.since(then.changes.count())
        } else {
            Changed::Everything
        }
    }

    /// The bucket of a device, as [`Changed`] names it.
    pub fn bucket_of(&self, device: &DeviceId) -> u32 {
        self.control.bucket_of(device.as_str().as_bytes())
    }

    /// The history that answers.
    pub const fn active(&self) -> Option<&History> {
        self.control.active.as_ref()
    }

    /// The history that is being read.
    pub const fn loading(&self) -> Option<&History> {
        self.control.loading.as_ref()
    }

    /// Whether a history answers, and absence in it means that there is no such device.
    pub fn is_complete(&self) -> bool {
        self.active()
            .is_some_and(|h| h.complete && !h.over_capacity)
    }

    /// The name of the history that answers.
    pub fn feed(&self) -> Option<&FeedId> {
        self.active().and_then(|history| history.feed.as_ref())
    }

    /// When the history that answers was last heard to be up to date, on this clock.
    pub const fn last_ok(&self) -> Option<Timestamp> {
        self.control.last_ok
    }

    /// Where the synchroniser finds the registry.
    pub const fn registry(&self) -> Option<&RegistryAddress> {
        self.control.registry.as_ref()
    }

    /// Records of unknown kind, state or form that were met, in all.
    pub const fn unrecognised(&self) -> u64 {
        self.control.unrecognised
    }

    /// The control record.
    pub const fn control(&self) -> &Control {
        &self.control
    }
}

impl<'s> Cache<'s> {
    /// The cache in `store`.
    pub const fn new(store: &'s dyn SharedData) -> Self {
        Self { store }
    }

    /// Reads the control record: [`Unavailable::NoSynchroniser`] where nobody has written one,
    /// [`Unavailable::Corrupt`] where it cannot be read.
    pub fn view(&self) -> Result<View, Unavailable> {
        let control = Control::read(self.store)?;
        Ok(View { control })
    }

    /// Looks a device up: one read, and no record but the device's own is decoded.
    ///
    /// How old the answer may be is not looked at here: see [`View::freshness`].
    pub fn lookup(&self, view: &View, device: &DeviceId, now: Timestamp) -> CacheAnswer {
        match self.look(&view.control, device, now) {
            Looked::Answer(answer) => answer,
            // The history may have changed since the view was read, and the old one been swept.
            Looked::Behind(answer) => match Control::read(self.store) {
                Ok(control) if control.live() != view.control.live() => {
                    match self.look(&control, device, now) {
                        Looked::Answer(answer) | Looked::Behind(answer) => answer,
                    }
                }
                Ok(_) => answer,
                Err(unavailable) => CacheAnswer::Unavailable(unavailable),
            },
        }
    }

    fn look(&self, control: &Control, device: &DeviceId, now: Timestamp) -> Looked {
        let Some(active) = &control.active else {
            return Looked::Answer(CacheAnswer::Unavailable(Unavailable::Loading));
        };
        let bucket = control.bucket_of(device.as_str().as_bytes());
        let found = match self.store.get(&bucket::key(bucket)) {
            Ok(Some((octets, _))) => bucket::find(&octets, active.generation, device),
            Ok(None) => Ok(Found::Nothing),
            Err(_) => return Looked::Answer(CacheAnswer::Unavailable(Unavailable::Corrupt)),
        };
        Looked::Answer(match found {
            Ok(Found::Content(Content::Binding(binding))) => CacheAnswer::Found(binding),
            Ok(Found::Content(Content::NoDevice { until })) if now < until => CacheAnswer::Absent,
            Ok(Found::Content(Content::NoDevice { .. }) | Found::Nothing) => absent(active),
            Ok(Found::NothingButYounger) => return Looked::Behind(absent(active)),
            // Fail closed: the device may be one that found no room.
            Ok(Found::Full) => CacheAnswer::Unavailable(Unavailable::OverCapacity),
            // Fail closed; but where the registry can be asked it is, and its answer mends this.
            Ok(Found::Lost) | Err(_) if active.complete => {
                CacheAnswer::Unavailable(Unavailable::Corrupt)
            }
            Ok(Found::Lost) | Err(_) => CacheAnswer::Pending,
        })
    }

    /// Keeps the registry's answer about one device, where only what was looked up is kept.
    ///
    /// It is kept only if the feed has not gone past it: not where it is of another history, nor
    /// where the feed has told of a later change in the device's bucket. "No such device" is
    /// remembered for `negative_ttl`. A full bucket makes room: the oldest "no such device" first,
    /// then the oldest binding, which a "no such device" never pushes out; revoked ones stay.
    pub fn insert_lookup(
        &self,
        now: Timestamp,
        answer: &LookupAnswer,
        negative_ttl: Duration,
    ) -> Result<Kept, CacheError> {
        match write::insert_lookup(self.store, now, answer, negative_ttl) {
            Ok(Inserted::Value(_)) => Ok(Kept::Stored),
            Ok(Inserted::NoRoom) => Ok(Kept::NoRoom),
            Ok(Inserted::Overtaken) | Err(CacheError::Superseded) => Ok(Kept::Overtaken),
            Err(error) => Err(error),
        }
    }
}

enum Looked {
    Answer(CacheAnswer),
    Behind(CacheAnswer),
}

/// What a device without a record is.
fn absent(active: &History) -> CacheAnswer {
    if !active.complete {
        CacheAnswer::Pending
    } else if active.over_capacity {
        // Fail closed: the device may be one that found no room.
        CacheAnswer::Unavailable(Unavailable::OverCapacity)
    } else {
        CacheAnswer::Absent
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    fn view(change: fn(&mut Control)) -> View {
        let mut control = Control::new(1, 100, 7, Timestamp::default());
        control.active = Some(History::new(1, true));
        control.changes.tell(&[3].into_iter().collect());
        change(&mut control);
        View { control }
    }

    #[test]
    fn a_worker_reads_what_the_synchroniser_wrote() {
        let nothing = View {
            control: Control::new(1, 100, 7, Timestamp::default()),
        };
        assert_eq!((nothing.active(), nothing.loading()), (None, None));
        assert_eq!((nothing.feed(), nothing.registry()), (None, None));
        assert_eq!((nothing.last_ok(), nothing.unrecognised()), (None, 0));
        assert_eq!(nothing.change_counter(), 0);
        assert!(!nothing.is_complete());
        let written = view(|control| {
            control.active.as_mut().unwrap().feed = Some("f1".parse().unwrap());
            control.loading = Some(History::new(2, true));
            control.last_ok = Some(Timestamp::from_unix_millis(9));
            control.unrecognised = 5;
            control.registry = Some(RegistryAddress {
                cluster: "registry".into(),
                authority: "registry.example".into(),
            });
        });
        assert_eq!(written.active().map(|h| h.generation), Some(1));
        assert_eq!(written.loading().map(|h| h.generation), Some(2));
        assert_eq!(written.feed().map(FeedId::as_str), Some("f1"));
        assert_eq!(
            written.registry().map(|r| r.authority.as_str()),
            Some("registry.example")
        );
        assert_eq!(written.last_ok(), Some(Timestamp::from_unix_millis(9)));
        assert_eq!((written.unrecognised(), written.change_counter()), (5, 1));
        assert!(written.is_complete());
        for incomplete in [
            |control: &mut Control| control.active.as_mut().unwrap().complete = false,
            |control: &mut Control| control.active.as_mut().unwrap().over_capacity = true,
        ] {
            assert!(!view(incomplete).is_complete());
        }
        let buckets: std::collections::BTreeSet<_> = (0..1_000)
            .map(|n| written.bucket_of(&format!("acme:SN{n}").parse().unwrap()))
            .collect();
        assert_eq!(buckets, (0..written.control().buckets()).collect());
    }

    #[test]
    fn what_has_changed_is_told_within_one_cache_and_one_history() {
        let before = view(|_| ());
        let since = |change| view(change).changed_since(&before);
        assert_eq!(since(|_| ()), Changed::Nothing);
        let in_five = |control: &mut Control| control.changes.tell(&[5].into_iter().collect());
        assert_eq!(
            since(in_five),
            Changed::Buckets([5].into_iter().collect()),
            "and not what was told before"
        );
        for another in [
            |control: &mut Control| control.hash_key = 8,
            |control: &mut Control| control.bucket_bits = 5,
            |control: &mut Control| control.active = Some(History::new(2, true)),
            |control: &mut Control| control.active = None,
        ] {
            assert_eq!(since(another), Changed::Everything);
        }
    }
}
