//! What a history, a sweep, a full or a destroyed bucket looks like to a reader.

use core::time::Duration;

#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

use super::bucket;
use super::*;
use crate::binding::{Binding, BindingState, Epoch, Pins};
use crate::deny::Unavailable;
use crate::feed::{FeedHeader, LookupAnswer};
use crate::identity::DeviceId;
use crate::time::Timestamp;

pub(super) const NOW: Timestamp = Timestamp::from_unix_millis(1_795_537_200_000);
const TTL: Duration = Duration::from_secs(10);

pub(super) fn device(n: usize) -> DeviceId {
    format!("acme:SN{n}").parse().unwrap()
}

pub(super) fn binding(n: usize, state: BindingState, revision: u64) -> Binding {
    Binding {
        device: device(n),
        state,
        account: Some("acc-1".parse().unwrap()),
        class: None,
        epoch: Epoch::FIRST,
        expires_at: None,
        pins: Pins::default(),
        revision,
    }
}

fn active(n: usize, revision: u64) -> Binding {
    binding(n, BindingState::Active, revision)
}

/// A cache with one leader, driven by hand.
pub(super) struct Edge<'s> {
    pub(super) writer: Writer<'s>,
    store: &'s dyn SharedData,
}

impl<'s> Edge<'s> {
    pub(super) fn new(store: &'s dyn SharedData, term: u32, capacity: u32) -> Self {
        let writer = Writer::new(store, term);
        writer.create(capacity, 7, NOW).unwrap();
        writer.update(|_| Ok(())).unwrap();
        Self { writer, store }
    }

    pub(super) fn begin_load(&self, complete: bool) -> Result<u32, CacheError> {
        self.writer.update(|control| {
            let generation = control.next_generation()?;
            let mut history = History::new(generation, complete);
            history.feed = Some("f1".parse().unwrap());
            control.loading = Some(history);
            Ok(generation)
        })
    }

    pub(super) fn switch(&self) -> Result<(), CacheError> {
        self.writer.update(|control| {
            if let Some(history) = control.loading.take() {
                control.active = Some(history);
                control.last_ok = Some(NOW);
            }
            Ok(())
        })
    }

    pub(super) fn apply(
        &self,
        generation: u32,
        bindings: &[Binding],
    ) -> Result<Applied, CacheError> {
        let control = self.writer.control()?;
        let applied = self.writer.apply(&control, generation, bindings, NOW)?;
        self.writer.update(|control| {
            for history in [&mut control.active, &mut control.loading] {
                if let Some(history) = history.as_mut().filter(|h| h.generation == generation) {
                    history.records += applied.added;
                    history.over_capacity |= applied.left_out > 0;
                }
            }
            control.changes.tell_everything();
            Ok(())
        })?;
        Ok(applied)
    }

    fn sweep(&self) -> Swept {
        let control = self.writer.control().unwrap();
        self.writer.sweep(&control, 0, u32::MAX, NOW).unwrap()
    }

    fn look(&self, n: usize) -> CacheAnswer {
        let cache = Cache::new(self.store);
        cache.lookup(&cache.view().unwrap(), &device(n), NOW)
    }
}

fn loaded(store: &MemorySharedData, capacity: u32, bindings: &[Binding]) -> u32 {
    let edge = Edge::new(store, 1, capacity);
    let generation = edge.begin_load(true).unwrap();
    edge.apply(generation, bindings).unwrap();
    edge.switch().unwrap();
    generation
}

fn bucket_key(store: &MemorySharedData, n: usize) -> String {
    let control = Cache::new(store).view().unwrap().control().clone();
    bucket::key(control.bucket_of(device(n).as_str().as_bytes()))
}

#[test]
fn nothing_is_there_before_somebody_writes() {
    let store = MemorySharedData::new();
    assert_eq!(Cache::new(&store).view(), Err(Unavailable::NoSynchroniser));
    let edge = Edge::new(&store, 1, 100);
    let generation = edge.begin_load(true).unwrap();
    edge.apply(generation, &[active(1, 1)]).unwrap();
    let view = Cache::new(&store).view().unwrap();
    assert_eq!(view.availability(), Err(Unavailable::Loading));
    assert_eq!(view.freshness(NOW, TTL), Err(Unavailable::Loading));
    let loading = CacheAnswer::Unavailable(Unavailable::Loading);
    assert_eq!(edge.look(1), loading, "a half-read history answers nothing");
    edge.switch().unwrap();
    assert_eq!(edge.look(1), CacheAnswer::Found(active(1, 1)));
    assert_eq!(edge.look(2), CacheAnswer::Absent);
}

#[test]
fn freshness_is_an_age_by_a_clock_that_can_be_trusted() {
    let store = MemorySharedData::new();
    loaded(&store, 100, &[]);
    let skew = Duration::from_mins(5);
    let fresh = |offset: i64, now: i64| {
        let writer = Writer::new(&store, 1);
        writer
            .update(|c| {
                c.clock_offset_millis = offset;
                Ok(())
            })
            .unwrap();
        let now = Timestamp::from_unix_millis(NOW.unix_millis() + now);
        Cache::new(&store).view().unwrap().freshness(now, skew)
    };
    assert_eq!(fresh(0, 0), Ok(Duration::ZERO));
    assert_eq!(fresh(-300_000, 90_000), Ok(Duration::from_secs(90)));
    assert_eq!(fresh(0, -2_000), Ok(Duration::ZERO), "a small step back");
    assert_eq!(fresh(0, -2_001), Err(Unavailable::Clock));
    assert_eq!(fresh(300_001, 0), Err(Unavailable::Clock));
    assert_eq!(fresh(-300_001, 0), Err(Unavailable::Clock));
}

#[test]
fn a_new_history_answers_from_the_switch_on_and_not_before() {
    let store = MemorySharedData::new();
    loaded(&store, 100, &[active(1, 7), active(2, 8), active(3, 9)]);
    let edge = Edge::new(&store, 1, 100);
    let next = edge.begin_load(true).unwrap();
    let suspended = binding(2, BindingState::Suspended, 2);
    edge.apply(next, &[active(1, 7), suspended.clone(), active(4, 3)])
        .unwrap();
    assert_eq!(edge.look(1), CacheAnswer::Found(active(1, 7)));
    assert_eq!(edge.look(2), CacheAnswer::Found(active(2, 8)));
    assert_eq!(edge.look(3), CacheAnswer::Found(active(3, 9)));
    assert_eq!(edge.look(4), CacheAnswer::Absent);
    edge.switch().unwrap();
    for swept in [false, true] {
        assert_eq!(edge.look(1), CacheAnswer::Found(active(1, 7)), "{swept}");
        assert_eq!(
            edge.look(2),
            CacheAnswer::Found(suspended.clone()),
            "{swept}"
        );
        assert_eq!(edge.look(3), CacheAnswer::Absent, "{swept}");
        assert_eq!(edge.look(4), CacheAnswer::Found(active(4, 3)), "{swept}");
        assert_eq!(
            edge.sweep(),
            Swept {
                next: None,
                corrupt: 0
            }
        );
    }
}

#[test]
fn a_record_that_is_the_same_in_both_histories_is_held_once() {
    let store = MemorySharedData::new();
    let all: Vec<_> = (0..500).map(|n| active(n, 1 + n as u64)).collect();
    loaded(&store, 1_000, &all);
    let before = store.octets();
    let edge = Edge::new(&store, 1, 1_000);
    let next = edge.begin_load(true).unwrap();
    let applied = edge.apply(next, &all).unwrap();
    assert_eq!((applied.added, applied.left_out), (500, 0));
    assert!(store.octets() < before + 100, "{before} {}", store.octets());
    edge.switch().unwrap();
    edge.sweep();
    assert!(store.octets() < before + 100);
}

#[test]
fn a_sweep_frees_what_only_the_old_history_held() {
    let store = MemorySharedData::new();
    let all: Vec<_> = (0..500).map(|n| active(n, 1 + n as u64)).collect();
    loaded(&store, 1_000, &all);
    let full = store.octets();
    let edge = Edge::new(&store, 1, 1_000);
    edge.begin_load(true).unwrap();
    edge.switch().unwrap();
    assert_eq!(store.octets() / 100, full / 100);
    edge.sweep();
    assert!(store.octets() < full / 4, "{full} {}", store.octets());
    let writes = store.writes();
    edge.sweep();
    assert_eq!(store.writes(), writes, "what is clean is not written");
}

#[test]
fn a_reader_that_is_a_tick_behind_a_switch_and_a_sweep_does_not_see_absence() {
    let store = MemorySharedData::new();
    let all: Vec<_> = (0..50).map(|n| active(n, 1 + n as u64)).collect();
    loaded(&store, 100, &all);
    let old_view = Cache::new(&store).view().unwrap();
    let edge = Edge::new(&store, 1, 100);
    let next = edge.begin_load(true).unwrap();
    let changed: Vec<_> = (0..50).map(|n| active(n, 100 + n as u64)).collect();
    edge.apply(next, &changed).unwrap();
    edge.switch().unwrap();
    edge.sweep();
    for (n, wanted) in changed.into_iter().enumerate() {
        let answer = Cache::new(&store).lookup(&old_view, &device(n), NOW);
        assert_eq!(answer, CacheAnswer::Found(wanted));
    }
    assert_eq!(
        Cache::new(&store).lookup(&old_view, &device(99), NOW),
        CacheAnswer::Absent
    );
}

#[test]
fn what_was_revoked_stays_revoked_in_every_history() {
    let store = MemorySharedData::new();
    let revoked = binding(1, BindingState::Revoked, 9);
    let generation = loaded(&store, 100, &[active(1, 3), active(2, 4)]);
    let edge = Edge::new(&store, 1, 100);
    edge.apply(generation, std::slice::from_ref(&revoked))
        .unwrap();
    let sees = |why: &str| {
        assert_eq!(edge.look(1), CacheAnswer::Found(revoked.clone()), "{why}");
    };
    sees("at once");
    edge.apply(generation, &[active(1, 10)]).unwrap();
    sees("after a later word of the same history");
    let next = edge.begin_load(true).unwrap();
    edge.apply(next, &[active(1, 3)]).unwrap();
    edge.switch().unwrap();
    sees("after a history that has it active");
    edge.sweep();
    sees("after the sweep");
    edge.begin_load(true).unwrap();
    edge.switch().unwrap();
    edge.sweep();
    sees("after a history that does not have it");
    let next = edge.begin_load(true).unwrap();
    edge.apply(next, &[binding(2, BindingState::Revoked, 1)])
        .unwrap();
    let CacheAnswer::Found(early) = edge.look(2) else {
        panic!("absent")
    };
    assert_eq!(early.state, BindingState::Revoked, "before the switch");
}

#[test]
fn a_revision_never_goes_down_in_a_history() {
    let store = MemorySharedData::new();
    let generation = loaded(&store, 100, &[active(1, 5)]);
    let edge = Edge::new(&store, 1, 100);
    let applied = edge
        .apply(generation, &[binding(1, BindingState::Suspended, 4)])
        .unwrap();
    assert!(!applied.changed);
    assert_eq!(edge.look(1), CacheAnswer::Found(active(1, 5)));
    edge.apply(generation, &[binding(1, BindingState::Revoked, 4)])
        .unwrap();
    assert_eq!(
        edge.look(1),
        CacheAnswer::Found(binding(1, BindingState::Revoked, 5))
    );
}

#[test]
fn a_record_that_cannot_be_read_denies_at_the_revision_of_what_it_replaces() {
    let store = MemorySharedData::new();
    let generation = loaded(&store, 100, &[active(1, 5)]);
    let edge = Edge::new(&store, 1, 100);
    let unread = binding(1, BindingState::Unrecognised, 5);
    edge.apply(generation, std::slice::from_ref(&unread))
        .unwrap();
    assert_eq!(edge.look(1), CacheAnswer::Found(unread));
}

#[test]
fn a_device_that_a_page_names_twice_is_as_it_is_named_last_unless_it_was_revoked() {
    let store = MemorySharedData::new();
    let generation = loaded(&store, 100, &[]);
    let edge = Edge::new(&store, 1, 100);
    let revoked = binding(2, BindingState::Revoked, 3);
    let page = [
        active(1, 1),
        active(1, 2),
        revoked.clone(),
        active(2, 4),
        binding(3, BindingState::Suspended, 5),
        active(3, 5),
        active(4, 6),
        binding(4, BindingState::Suspended, 6),
    ];
    edge.apply(generation, &page).unwrap();
    assert_eq!(edge.look(1), CacheAnswer::Found(active(1, 2)));
    assert_eq!(edge.look(2), CacheAnswer::Found(revoked));
    assert_eq!(edge.look(3), CacheAnswer::Found(active(3, 5)));
    let suspended = binding(4, BindingState::Suspended, 6);
    assert_eq!(edge.look(4), CacheAnswer::Found(suspended));
}

#[test]
fn a_full_cache_does_not_say_that_a_device_is_unknown() {
    let store = MemorySharedData::new();
    let all: Vec<_> = (0..40).map(|n| active(n, 1 + n as u64)).collect();
    let generation = loaded(&store, 30, &all);
    let edge = Edge::new(&store, 1, 30);
    let view = Cache::new(&store).view().unwrap();
    assert!(!view.is_complete());
    assert_eq!(view.active().unwrap().records, 30);
    let full = CacheAnswer::Unavailable(Unavailable::OverCapacity);
    let absent = (0..40).filter(|n| edge.look(*n) == full).count();
    assert_eq!(absent, 10);
    assert_eq!(edge.look(1_000), full);
    let suspended: Vec<_> = (0..40)
        .map(|n| binding(n, BindingState::Suspended, 100 + n as u64))
        .collect();
    edge.apply(generation, &suspended).unwrap();
    for (n, wanted) in suspended.into_iter().enumerate() {
        let answer = edge.look(n);
        assert!(
            answer == full || answer == CacheAnswer::Found(wanted),
            "{n}"
        );
    }
}

#[test]
fn octets_of_another_layout_are_unavailable_until_the_history_is_read_again() {
    for garbage in [
        &b""[..],
        b"garbage",
        &[1; 22],
        &[1, 0, 0, 0, 0, 0, 9, 9, 9, 9],
    ] {
        let store = MemorySharedData::new();
        let all: Vec<_> = (0..64).map(|n| active(n, 1 + n as u64)).collect();
        let generation = loaded(&store, 100, &all);
        let edge = Edge::new(&store, 1, 100);
        store.set(&bucket_key(&store, 1), garbage, None).unwrap();
        let corrupt = CacheAnswer::Unavailable(Unavailable::Corrupt);
        assert_eq!(edge.look(1), corrupt, "{garbage:?}");
        let elsewhere = (2..64).find(|n| !same_bucket(&store, *n)).unwrap();
        assert_ne!(edge.look(elsewhere), corrupt, "the others go on");
        let applied = edge.apply(generation, &[active(1, 500)]).unwrap();
        assert_eq!(applied.corrupt, 1);
        assert_eq!(edge.look(1), CacheAnswer::Found(active(1, 500)));
        let neighbour = (2..64).find(|n| same_bucket(&store, *n)).unwrap();
        assert_eq!(edge.look(neighbour), corrupt, "a neighbour was lost");
        let next = edge.begin_load(true).unwrap();
        edge.apply(next, &all).unwrap();
        edge.switch().unwrap();
        assert_eq!(
            edge.look(neighbour),
            CacheAnswer::Found(all[neighbour].clone())
        );
    }
}

fn same_bucket(store: &MemorySharedData, n: usize) -> bool {
    bucket_key(store, n) == bucket_key(store, 1)
}

#[test]
fn a_sweep_finds_what_was_destroyed_and_mends_it_once() {
    let store = MemorySharedData::new();
    loaded(&store, 100, &[active(1, 1)]);
    let edge = Edge::new(&store, 1, 100);
    store.set(&bucket_key(&store, 1), b"garbage", None).unwrap();
    assert_eq!(edge.sweep().corrupt, 1);
    assert_eq!(edge.sweep().corrupt, 0);
    assert_eq!(edge.look(1), CacheAnswer::Unavailable(Unavailable::Corrupt));
    edge.begin_load(true).unwrap();
    edge.switch().unwrap();
    edge.sweep();
    assert_eq!(edge.look(1), CacheAnswer::Absent);
}

#[test]
fn a_bucket_that_claims_to_be_ahead_of_the_control_record_is_no_leader() {
    let store = MemorySharedData::new();
    let generation = loaded(&store, 100, &[active(1, 1)]);
    let edge = Edge::new(&store, 1, 100);
    let key = bucket_key(&store, 1);
    let sound = store.get(&key).unwrap().unwrap().0;
    for place in [2, 6] {
        let mut octets = sound.clone();
        octets[place..place + 4].fill(0xFF);
        store.set(&key, &octets, None).unwrap();
        assert_eq!(
            edge.apply(generation, &[active(1, 2)]).unwrap().corrupt,
            1,
            "{place}"
        );
        assert_eq!(edge.look(1), CacheAnswer::Found(active(1, 2)));
    }
}

#[test]
fn an_old_leader_stops_at_what_a_new_one_has_written() {
    let store = MemorySharedData::new();
    let generation = loaded(&store, 100, &[active(1, 1)]);
    let old = Edge::new(&store, 1, 100);
    let control = old.writer.control().unwrap();
    let new = Edge::new(&store, 2, 100);
    new.apply(generation, &[active(1, 2)]).unwrap();
    assert_eq!(old.writer.control(), Err(CacheError::Superseded));
    let late = old.writer.apply(&control, generation, &[active(1, 3)], NOW);
    assert_eq!(late, Err(CacheError::Superseded));
    assert_eq!(old.writer.update(|_| Ok(())), Err(CacheError::Superseded));
    assert_eq!(new.look(1), CacheAnswer::Found(active(1, 2)));
}

pub(super) fn answer(n: usize, head: u64, binding: Option<Binding>) -> LookupAnswer {
    LookupAnswer {
        header: FeedHeader {
            feed: "f1".parse().unwrap(),
            version: 1,
            cursor: "c".parse().unwrap(),
            more: false,
            head,
            count: u32::from(binding.is_some()),
            time: NOW,
        },
        device: device(n),
        binding,
    }
}

/// A cache that keeps only what was looked up; its feed begins at revision 10.
fn on_demand(store: &MemorySharedData, capacity: u32) -> (Edge<'_>, u32) {
    let edge = Edge::new(store, 1, capacity);
    let generation = edge.begin_load(false).unwrap();
    edge.writer
        .update(|control| {
            control.loading.as_mut().unwrap().floor = 10;
            Ok(())
        })
        .unwrap();
    edge.switch().unwrap();
    (edge, generation)
}

#[test]
fn an_answer_is_kept_unless_the_feed_has_gone_past_it() {
    let store = MemorySharedData::new();
    let (edge, generation) = on_demand(&store, 100);
    let cache = Cache::new(&store);
    let keep = |answer: &LookupAnswer| cache.insert_lookup(NOW, answer, TTL).unwrap();
    assert_eq!(edge.look(1), CacheAnswer::Pending);
    assert_eq!(
        keep(&answer(1, 9, Some(active(1, 3)))),
        Kept::Overtaken,
        "before the feed"
    );
    let mut other = answer(1, 20, Some(active(1, 3)));
    other.header.feed = "f2".parse().unwrap();
    assert_eq!(keep(&other), Kept::Overtaken, "of another history");
    assert_eq!(keep(&answer(1, 10, Some(active(1, 3)))), Kept::Stored);
    assert_eq!(edge.look(1), CacheAnswer::Found(active(1, 3)));

    // The feed tells of a device that is not here: nothing is added, but answers from before it
    // are overtaken, in its bucket.
    edge.apply(generation, &[binding(2, BindingState::Suspended, 12)])
        .unwrap();
    assert_eq!(edge.look(2), CacheAnswer::Pending);
    assert_eq!(keep(&answer(2, 11, Some(active(2, 4)))), Kept::Overtaken);
    assert_eq!(keep(&answer(2, 12, Some(active(2, 12)))), Kept::Stored);

    // And of one that is here.
    edge.apply(generation, &[binding(1, BindingState::Suspended, 13)])
        .unwrap();
    let suspended = CacheAnswer::Found(binding(1, BindingState::Suspended, 13));
    assert_eq!(edge.look(1), suspended);
    assert_eq!(keep(&answer(1, 12, Some(active(1, 3)))), Kept::Overtaken);
    assert_eq!(edge.look(1), suspended);
}

#[test]
fn a_new_history_counts_its_own_revisions() {
    let store = MemorySharedData::new();
    let (edge, generation) = on_demand(&store, 100);
    edge.apply(generation, &[active(1, 50)]).unwrap();
    let early = answer(1, 10, Some(active(1, 3)));
    let cache = Cache::new(&store);
    assert_eq!(cache.insert_lookup(NOW, &early, TTL), Ok(Kept::Overtaken));
    edge.begin_load(false).unwrap();
    edge.switch().unwrap();
    assert_eq!(cache.insert_lookup(NOW, &early, TTL), Ok(Kept::Stored));
}

#[test]
fn a_no_is_remembered_for_a_while_and_cleared_by_the_feed() {
    let store = MemorySharedData::new();
    let (edge, generation) = on_demand(&store, 100);
    let cache = Cache::new(&store);
    cache.insert_lookup(NOW, &answer(1, 10, None), TTL).unwrap();
    assert_eq!(edge.look(1), CacheAnswer::Absent);
    let later = NOW.after(TTL);
    let view = cache.view().unwrap();
    assert_eq!(cache.lookup(&view, &device(1), later), CacheAnswer::Pending);
    edge.apply(generation, &[active(1, 11)]).unwrap();
    assert_eq!(edge.look(1), CacheAnswer::Found(active(1, 11)));
}

#[test]
fn a_full_bucket_makes_room_but_not_for_strangers_and_not_of_the_revoked() {
    let store = MemorySharedData::new();
    // 16 buckets of 2.
    let (edge, generation) = on_demand(&store, 32);
    let cache = Cache::new(&store);
    let mates: Vec<usize> = (0..500)
        .filter(|n| same_bucket(&store, *n))
        .take(5)
        .collect();
    let [first, second, third, fourth, fifth] = mates[..] else {
        panic!("too few")
    };
    let keep = |n, found: bool| {
        let answer = answer(n, 10, found.then(|| active(n, 3)));
        cache.insert_lookup(NOW, &answer, TTL).unwrap()
    };
    assert_eq!(keep(first, true), Kept::Stored);
    assert_eq!(keep(second, false), Kept::Stored);
    assert_eq!(
        keep(third, false),
        Kept::Stored,
        "a stranger pushes a stranger out"
    );
    assert_eq!(
        (edge.look(second), edge.look(third)),
        (CacheAnswer::Pending, CacheAnswer::Absent)
    );
    assert_eq!(
        keep(fourth, true),
        Kept::Stored,
        "a known device pushes a stranger out"
    );
    assert_eq!(
        keep(second, false),
        Kept::NoRoom,
        "a stranger pushes no known device out"
    );
    assert_eq!(
        keep(first, true),
        Kept::Stored,
        "what is there needs no room"
    );
    edge.apply(generation, &[binding(fourth, BindingState::Revoked, 11)])
        .unwrap();
    let later = answer(fifth, 11, Some(active(fifth, 4)));
    assert_eq!(cache.insert_lookup(NOW, &later, TTL), Ok(Kept::Stored));
    assert!(
        matches!(edge.look(first), CacheAnswer::Found(_)),
        "who is revoked takes no other's place"
    );
    assert!(matches!(edge.look(fourth), CacheAnswer::Found(b) if b.state == BindingState::Revoked));
    edge.apply(generation, &[binding(fifth, BindingState::Revoked, 12)])
        .unwrap();
    let later = answer(first, 12, Some(active(first, 4)));
    assert_eq!(cache.insert_lookup(NOW, &later, TTL), Ok(Kept::Stored));
}

#[test]
fn an_answer_does_not_lift_a_revocation() {
    let store = MemorySharedData::new();
    let (edge, generation) = on_demand(&store, 100);
    let cache = Cache::new(&store);
    cache
        .insert_lookup(NOW, &answer(1, 10, Some(active(1, 3))), TTL)
        .unwrap();
    edge.apply(generation, &[binding(1, BindingState::Revoked, 11)])
        .unwrap();
    for later in [Some(active(1, 12)), None] {
        let later = answer(1, 12, later);
        assert_eq!(cache.insert_lookup(NOW, &later, TTL), Ok(Kept::Stored));
        assert!(matches!(edge.look(1), CacheAnswer::Found(b) if b.state == BindingState::Revoked));
    }
}

#[test]
fn an_answer_mends_a_bucket_that_was_destroyed() {
    let store = MemorySharedData::new();
    let (edge, _) = on_demand(&store, 100);
    store.set(&bucket_key(&store, 1), b"garbage", None).unwrap();
    assert_eq!(edge.look(1), CacheAnswer::Pending);
    let cache = Cache::new(&store);
    cache
        .insert_lookup(NOW, &answer(1, 10, Some(active(1, 3))), TTL)
        .unwrap();
    assert_eq!(edge.look(1), CacheAnswer::Found(active(1, 3)));
}

#[test]
fn a_bucket_that_all_serials_lead_to_is_bounded() {
    let store = MemorySharedData::new();
    let edge = Edge::new(&store, 1, 1_000_000);
    let generation = edge.begin_load(true).unwrap();
    let control = edge.writer.control().unwrap();
    let mut wide = control.clone();
    wide.bucket_bits = 0;
    let many: Vec<_> = (0..12_500).map(|n| active(n, 1 + n as u64)).collect();
    let applied = edge.writer.apply(&wide, generation, &many, NOW).unwrap();
    assert!(applied.left_out > 500, "{applied:?}");
    assert!(store.largest() < 300 << 10);
}
