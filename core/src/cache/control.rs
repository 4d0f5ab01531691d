//! Which history answers, how far is it read, how fresh is it? The control record.

use core::fmt;
use core::str::FromStr;
use core::time::Duration;

use super::changes::Changes;
use super::codec::{Corrupt, Reader, put_text, put_varint};
use super::shared_data::{CacheError, SharedData, update};
use crate::deny::Unavailable;
use crate::feed::{Cursor, FeedId};
use crate::time::Timestamp;

pub(super) const KEY: &str = "mb1/c";
const VERSION: u8 = 2;

/// The longest cluster name or authority, in octets.
pub const MAX_REGISTRY_NAME_OCTETS: usize = 255;
/// A bucket holds about this many records where the cache is full.
const RECORDS_A_BUCKET: u32 = 16;
const FEWEST_BUCKET_BITS: u8 = 4;
const MOST_BUCKET_BITS: u8 = 22;

/// How the synchroniser reaches the registry, for guards whose configuration does not say it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegistryAddress {
    /// The name of the Envoy cluster.
    pub cluster: String,
    /// The `:authority` of the calls.
    pub authority: String,
}

/// One history of the registry, as far as it has been read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct History {
    /// Its number here: younger is higher.
    pub generation: u32,
    /// Its name; `None` until its first answer.
    pub feed: Option<FeedId>,
    /// Where to read on; `None`: from the beginning.
    pub cursor: Option<Cursor>,
    /// The revision up to which it has been applied.
    pub position: u64,
    /// The revision from which on changes are seen here: a lookup's answer from before it may
    /// have been overtaken unseen. 0 where the history was read from its beginning.
    pub floor: u64,
    /// The newest revision that the registry has told of.
    pub head: u64,
    /// How many devices are held. A count that a crash in the middle of a page may leave too low
    /// by that page.
    pub records: u32,
    /// Whether every device of the registry was read: then absence means that there is none.
    pub complete: bool,
    /// Whether devices were left out for want of room: then absence means nothing.
    pub over_capacity: bool,
}

impl History {
    /// Nothing read yet.
    pub(crate) const fn new(generation: u32, complete: bool) -> Self {
        Self {
            generation,
            feed: None,
            cursor: None,
            position: 0,
            floor: 0,
            head: 0,
            records: 0,
            complete,
            over_capacity: false,
        }
    }
}

/// The control record: one value that readers look at once a tick.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Control {
    /// The term of the leader that wrote it.
    pub term: u32,
    /// The number of buckets is 2 to this power; fixed when the cache is made.
    pub bucket_bits: u8,
    /// Keys the hash that leads a device to its bucket; fixed when the cache is made.
    pub hash_key: u64,
    /// The most devices that one history may hold.
    pub capacity: u32,
    /// The number of the youngest generation.
    pub last_generation: u32,
    /// The history that answers.
    pub active: Option<History>,
    /// The history that is being read beside it.
    pub loading: Option<History>,
    /// When the history that answers was last heard to be up to date, on this clock.
    pub last_ok: Option<Timestamp>,
    /// How far this clock has been set back since then, in all, in milliseconds.
    pub set_back_millis: u64,
    /// The registry's clock less this one, in milliseconds, at the last answer.
    pub clock_offset_millis: i64,
    /// The writes that changed what readers may see.
    pub changes: Changes,
    /// Records of unknown kind, state or form that were met, in all.
    pub unrecognised: u64,
    /// Whether the history is to be read again, because something in it could not be followed.
    pub reload: bool,
    /// Whether buckets may still hold records of a history that is gone.
    pub sweeping: bool,
    /// Where the registry is.
    pub registry: Option<RegistryAddress>,
}

impl Control {
    /// A cache that holds nothing, for this many devices.
    ///
    /// Its generations begin at the second of its making, so that a cache that is made again,
    /// because its control record was destroyed, does not take up the old one's records.
    pub(crate) fn new(term: u32, capacity: u32, hash_key: u64, now: Timestamp) -> Self {
        Self {
            term,
            bucket_bits: bucket_bits(capacity),
            hash_key,
            capacity,
            last_generation: u32::try_from(now.unix_seconds()).unwrap_or(1).max(1),
            active: None,
            loading: None,
            last_ok: None,
            set_back_millis: 0,
            clock_offset_millis: 0,
            changes: Changes::default(),
            unrecognised: 0,
            reload: false,
            sweeping: false,
            registry: None,
        }
    }

    /// The history that answers was heard to be up to date at this moment; `None`: is not.
    pub(crate) fn hear(&mut self, at: Option<Timestamp>) {
        self.last_ok = at;
        self.set_back_millis = 0;
    }

    /// This clock was set back: what was heard does not become younger by it.
    pub(crate) fn step_back(&mut self, step: Duration) {
        let millis = u64::try_from(step.as_millis()).unwrap_or(u64::MAX);
        self.set_back_millis = self.set_back_millis.saturating_add(millis);
    }

    /// How many buckets there are.
    pub fn buckets(&self) -> u32 {
        1_u32.wrapping_shl(u32::from(self.bucket_bits))
    }

    /// The most records that a bucket may hold where only what was looked up is kept.
    pub(super) fn records_a_bucket(&self) -> u32 {
        self.capacity.div_ceil(self.buckets().max(1)).max(1)
    }

    /// The bucket of a device's canonical text: SipHash-1-3 with a key of this cache's own, so
    /// that who can choose serials cannot choose buckets.
    pub(crate) fn bucket_of(&self, device: &[u8]) -> u32 {
        let hash = siphasher::sip::SipHasher13::new_with_keys(self.hash_key, 0).hash(device);
        let mask = u64::from(self.buckets().wrapping_sub(1));
        u32::try_from(hash & mask).unwrap_or_default()
    }

    /// Whether the buckets there are are as many as a cache for so many devices would have.
    pub(crate) fn has_buckets_for(&self, capacity: u32) -> bool {
        bucket_bits(capacity) <= self.bucket_bits
    }

    /// The generations that are in use; 0 for none.
    pub(super) fn live(&self) -> [u32; 2] {
        let number = |history: &Option<History>| history.as_ref().map_or(0, |h| h.generation);
        [number(&self.active), number(&self.loading)]
    }

    /// The number for the next generation.
    pub(crate) fn next_generation(&mut self) -> Result<u32, CacheError> {
        let next = self.last_generation.checked_add(1);
        self.last_generation = next.ok_or(CacheError::Superseded)?;
        Ok(self.last_generation)
    }

    /// The compact form.
    // Once in the module, not once for each kind of change.
    #[inline(never)]
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut to = Vec::with_capacity(256);
        to.push(VERSION);
        to.extend_from_slice(&self.term.to_le_bytes());
        to.push(self.bucket_bits);
        to.extend_from_slice(&self.hash_key.to_le_bytes());
        to.extend_from_slice(&self.capacity.to_le_bytes());
        to.extend_from_slice(&self.last_generation.to_le_bytes());
        put_history(&mut to, self.active.as_ref());
        put_history(&mut to, self.loading.as_ref());
        put_option(&mut to, self.last_ok.as_ref(), |to, at| {
            to.extend_from_slice(&at.unix_millis().to_le_bytes());
        });
        put_varint(&mut to, self.set_back_millis);
        to.extend_from_slice(&self.clock_offset_millis.to_le_bytes());
        self.changes.encode(&mut to);
        put_varint(&mut to, self.unrecognised);
        to.push(u8::from(self.reload));
        to.push(u8::from(self.sweeping));
        put_option(&mut to, self.registry.as_ref(), |to, registry| {
            put_text(to, &registry.cluster);
            put_text(to, &registry.authority);
        });
        to
    }

    /// Reads the compact form: what is missing, too much or out of bounds is an error.
    #[inline(never)]
    pub(super) fn decode(octets: &[u8]) -> Result<Self, Corrupt> {
        let mut from = Reader::new(octets);
        if from.u8()? != VERSION {
            return Err(Corrupt);
        }
        let control = Self {
            term: from.u32()?,
            bucket_bits: from.u8()?,
            hash_key: from.u64()?,
            capacity: from.u32()?,
            last_generation: from.u32()?,
            active: read_history(&mut from)?,
            loading: read_history(&mut from)?,
            last_ok: read_option(&mut from, |from| {
                from.i64().map(Timestamp::from_unix_millis)
            })?,
            set_back_millis: from.varint()?,
            clock_offset_millis: from.i64()?,
            changes: Changes::decode(&mut from)?,
            unrecognised: from.varint()?,
            reload: from.flag()?,
            sweeping: from.flag()?,
            registry: read_option(&mut from, |from| {
                Ok(RegistryAddress {
                    cluster: read_registry_name(from)?,
                    authority: read_registry_name(from)?,
                })
            })?,
        };
        let [active, loading] = control.live();
        let sound = from.is_empty()
            && control.term < u32::MAX
            && control.last_generation < u32::MAX
            && (FEWEST_BUCKET_BITS..=MOST_BUCKET_BITS).contains(&control.bucket_bits)
            && active <= control.last_generation
            && loading <= control.last_generation
            && (loading == 0 || active < loading);
        if sound { Ok(control) } else { Err(Corrupt) }
    }

    /// The control record, if somebody has written one.
    pub(super) fn read(store: &dyn SharedData) -> Result<Self, Unavailable> {
        match store.get(KEY) {
            Ok(Some((octets, _))) => Self::decode(&octets).map_err(|Corrupt| Unavailable::Corrupt),
            Ok(None) => Err(Unavailable::NoSynchroniser),
            Err(_) => Err(Unavailable::Corrupt),
        }
    }
}

/// About one bucket for 16 devices, as a power of two.
fn bucket_bits(capacity: u32) -> u8 {
    let buckets = capacity
        .div_ceil(RECORDS_A_BUCKET)
        .checked_next_power_of_two()
        .unwrap_or(u32::MAX);
    u8::try_from(buckets.trailing_zeros())
        .unwrap_or(MOST_BUCKET_BITS)
        .clamp(FEWEST_BUCKET_BITS, MOST_BUCKET_BITS)
}

/// The highest term that the control record has seen; 0 where there is none that can be read.
pub(super) fn term_of_control(store: &dyn SharedData) -> u32 {
    Control::read(store).map_or(0, |control| control.term)
}

/// Changes the control record as the leader of this term; the outcome of `change` is handed back
/// once it is written. Who meets a higher term is [`CacheError::Superseded`].
pub(super) fn update_control<T>(
    store: &dyn SharedData,
    term: u32,
    mut change: impl FnMut(&mut Control) -> Result<T, CacheError>,
) -> Result<T, CacheError> {
    let mut outcome = None;
    change_control(store, term, &mut |control| {
        outcome = Some(change(control)?);
        Ok(())
    })?;
    outcome.ok_or(CacheError::Contended)
}

/// The part of [`update_control`] that is the same for all, so that the module has it once.
fn change_control(
    store: &dyn SharedData,
    term: u32,
    change: &mut dyn FnMut(&mut Control) -> Result<(), CacheError>,
) -> Result<(), CacheError> {
    update(store, KEY, |octets| {
        let octets = octets.ok_or(CacheError::Unavailable(Unavailable::NoSynchroniser))?;
        let mut control = Control::decode(octets)
            .map_err(|Corrupt| CacheError::Unavailable(Unavailable::Corrupt))?;
        if control.term > term {
            return Err(CacheError::Superseded);
        }
        change(&mut control)?;
        control.term = term;
        let value = control.encode();
        let value = (value != octets).then_some(value);
        Ok((value, ()))
    })
}

/// Writes a whole control record, for a cache that is new or whose record cannot be read.
pub(super) fn create_control(store: &dyn SharedData, new: &Control) -> Result<(), CacheError> {
    update(store, KEY, |octets| match octets.map(Control::decode) {
        // Somebody made it in between.
        Some(Ok(_)) => Ok((None, ())),
        Some(Err(Corrupt)) | None => Ok((Some(new.encode()), ())),
    })
}

fn put_option<T>(to: &mut Vec<u8>, value: Option<&T>, put: impl FnOnce(&mut Vec<u8>, &T)) {
    to.push(u8::from(value.is_some()));
    if let Some(value) = value {
        put(to, value);
    }
}

fn read_option<'a, T>(
    from: &mut Reader<'a>,
    read: impl FnOnce(&mut Reader<'a>) -> Result<T, Corrupt>,
) -> Result<Option<T>, Corrupt> {
    if from.flag()? {
        read(from).map(Some)
    } else {
        Ok(None)
    }
}

fn put_history(to: &mut Vec<u8>, history: Option<&History>) {
    put_option(to, history, |to, history| {
        to.extend_from_slice(&history.generation.to_le_bytes());
        put_option(to, history.feed.as_ref(), |to, feed| {
            put_text(to, feed.as_str());
        });
        put_option(to, history.cursor.as_ref(), |to, cursor| {
            put_text(to, cursor.as_str());
        });
        put_varint(to, history.position);
        put_varint(to, history.floor);
        put_varint(to, history.head);
        to.extend_from_slice(&history.records.to_le_bytes());
        to.push(u8::from(history.complete));
        to.push(u8::from(history.over_capacity));
    });
}

fn read_history(from: &mut Reader<'_>) -> Result<Option<History>, Corrupt> {
    let history = read_option(from, |from| {
        Ok(History {
            generation: from.u32()?,
            feed: read_option(from, read_token)?,
            cursor: read_option(from, read_token)?,
            position: from.varint()?,
            floor: from.varint()?,
            head: from.varint()?,
            records: from.u32()?,
            complete: from.flag()?,
            over_capacity: from.flag()?,
        })
    })?;
    match history {
        Some(history) if history.generation == 0 => Err(Corrupt),
        history => Ok(history),
    }
}

fn read_token<T: FromStr>(from: &mut Reader<'_>) -> Result<T, Corrupt> {
    from.text()?.parse().map_err(|_| Corrupt)
}

fn read_registry_name(from: &mut Reader<'_>) -> Result<String, Corrupt> {
    let text = from.text()?;
    if text.len() > MAX_REGISTRY_NAME_OCTETS {
        return Err(Corrupt);
    }
    Ok(text.to_owned())
}

impl fmt::Display for History {
    /// For people: how far it is read, without naming a device.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} devices, revision {} of {}",
            self.records, self.position, self.head
        )
    }
}

#[cfg(test)]
mod tests {
    use super::super::memory::MemorySharedData;
    use super::*;

    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    fn control() -> Control {
        let now = Timestamp::from_unix_seconds(1_795_537_200);
        let mut control = Control::new(3, 1_000_000, 0xFEED, now);
        let mut active = History::new(control.next_generation().unwrap(), true);
        active.feed = Some("f1".parse().unwrap());
        active.cursor = Some("c-9".parse().unwrap());
        active.position = 9;
        active.head = 300;
        active.records = 8;
        control.active = Some(active);
        control.loading = Some(History::new(control.next_generation().unwrap(), false));
        control.last_ok = Some(now);
        control.set_back_millis = 70_000;
        control.clock_offset_millis = -20;
        control.changes.tell_everything();
        control.changes.tell(&[3, 70_000].into_iter().collect());
        control.registry = Some(RegistryAddress {
            cluster: "registry".into(),
            authority: "registry.example".into(),
        });
        control
    }

    #[test]
    fn it_is_read_as_it_is_written() {
        let control = control();
        assert_eq!(Control::decode(&control.encode()), Ok(control.clone()));
        assert!(control.encode().len() < 200);
        assert_eq!(
            control.active.unwrap().to_string(),
            "8 devices, revision 9 of 300"
        );
    }

    #[test]
    fn cut_or_longer_octets_are_corrupt() {
        let mut octets = control().encode();
        for length in 0..octets.len() {
            assert_eq!(Control::decode(&octets[..length]), Err(Corrupt), "{length}");
        }
        octets.push(0);
        assert_eq!(Control::decode(&octets), Err(Corrupt));
        octets.pop();
        octets[0] = VERSION + 1;
        assert_eq!(Control::decode(&octets), Err(Corrupt), "another layout");
    }

    type Change<'c> = &'c dyn Fn(&mut Control);

    #[test]
    fn what_is_within_its_bounds_is_read_and_what_is_beyond_is_corrupt() {
        let named = |length: usize| "r".repeat(length);
        let active = |c: &mut Control, generation| {
            c.active.as_mut().unwrap().generation = generation;
        };
        let loading = |c: &mut Control, generation| {
            c.loading.as_mut().unwrap().generation = generation;
        };
        let cases: &[(&str, Change<'_>, bool)] = &[
            ("the last term", &|c| c.term = u32::MAX - 1, true),
            ("no term", &|c| c.term = u32::MAX, false),
            (
                "the last generation",
                &|c| c.last_generation = u32::MAX - 1,
                true,
            ),
            ("no generation", &|c| c.last_generation = u32::MAX, false),
            ("few buckets", &|c| c.bucket_bits = 4, true),
            ("too few buckets", &|c| c.bucket_bits = 3, false),
            ("many buckets", &|c| c.bucket_bits = 22, true),
            ("too many buckets", &|c| c.bucket_bits = 23, false),
            ("none is loading", &|c| c.loading = None, true),
            ("none answers", &|c| c.active = None, true),
            ("neither", &|c| (c.active, c.loading) = (None, None), true),
            ("twice the same", &|c| c.active = c.loading.clone(), false),
            ("generation 0 answers", &|c| active(c, 0), false),
            ("generation 0 is loading", &|c| loading(c, 0), false),
            (
                "the youngest answers",
                &|c| {
                    c.loading = None;
                    active(c, c.last_generation);
                },
                true,
            ),
            (
                "a younger one answers",
                &|c| {
                    c.loading = None;
                    active(c, c.last_generation + 1);
                },
                false,
            ),
            (
                "an older one is loading",
                &|c| active(c, c.last_generation),
                false,
            ),
            (
                "a younger one is loading",
                &|c| loading(c, c.last_generation + 1),
                false,
            ),
            (
                "a long cluster",
                &|c| c.registry.as_mut().unwrap().cluster = named(255),
                true,
            ),
            (
                "too long a cluster",
                &|c| c.registry.as_mut().unwrap().cluster = named(256),
                false,
            ),
            (
                "a long authority",
                &|c| c.registry.as_mut().unwrap().authority = named(255),
                true,
            ),
            (
                "too long an authority",
                &|c| c.registry.as_mut().unwrap().authority = named(256),
                false,
            ),
        ];
        for (what, change, sound) in cases {
            let mut control = control();
            change(&mut control);
            let read = Control::decode(&control.encode());
            assert_eq!(read, sound.then_some(control).ok_or(Corrupt), "{what}");
        }
    }

    #[test]
    fn buckets_follow_the_capacity() {
        for (capacity, bits, records) in [
            (0, 4, 1),
            (1, 4, 1),
            (256, 4, 16),
            (257, 5, 9),
            (10_000, 10, 10),
            (1_000_000, 16, 16),
            (u32::MAX, 22, 1024),
        ] {
            let control = Control::new(1, capacity, 0, Timestamp::default());
            assert_eq!(control.bucket_bits, bits, "{capacity}");
            assert_eq!(control.records_a_bucket(), records, "{capacity}");
        }
    }

    #[test]
    fn there_are_buckets_enough_for_as_many_as_fit_and_for_fewer() {
        let control = Control::new(1, 10_000, 0, Timestamp::default());
        for (capacity, enough) in [
            (1, true),
            (16_384, true),
            (16_385, false),
            (u32::MAX, false),
        ] {
            assert_eq!(control.has_buckets_for(capacity), enough, "{capacity}");
        }
    }

    #[test]
    fn devices_are_spread_over_the_buckets_and_stay_where_they_are() {
        let mut control = Control::new(1, 256, 0x0123_4567_89AB_CDEF, Timestamp::default());
        let mut counts = [0; 16];
        for n in 0..16_000 {
            let bucket = control.bucket_of(format!("acme:SN{n}").as_bytes());
            counts[usize::try_from(bucket).unwrap()] += 1;
        }
        assert!(
            counts.iter().all(|count| (800..1_200).contains(count)),
            "{counts:?}"
        );
        // The hash is part of the layout: another one would look into the wrong bucket.
        control.bucket_bits = 16;
        assert_eq!(control.bucket_of(b"acme:SN1"), BUCKET_OF_SN1);
    }

    const BUCKET_OF_SN1: u32 = 32_879;

    #[test]
    fn a_higher_term_supersedes() {
        let store = MemorySharedData::new();
        assert_eq!(
            update_control(&store, 3, |_| Ok(())),
            Err(CacheError::Unavailable(Unavailable::NoSynchroniser))
        );
        create_control(&store, &control()).unwrap();
        assert_eq!(
            update_control(&store, 2, |_| Ok(())),
            Err(CacheError::Superseded)
        );
        assert_eq!(update_control(&store, 4, |c| Ok(c.term)), Ok(3));
        assert_eq!(
            update_control(&store, 3, |_| Ok(())),
            Err(CacheError::Superseded)
        );
        assert_eq!(term_of_control(&store), 4);
        store.set(KEY, b"garbage", None).unwrap();
        assert_eq!(Control::read(&store), Err(Unavailable::Corrupt));
        assert_eq!(
            update_control(&store, 5, |_| Ok(())),
            Err(CacheError::Unavailable(Unavailable::Corrupt))
        );
        create_control(&store, &control()).unwrap();
        assert_eq!(Control::read(&store), Ok(control()));
    }
}
