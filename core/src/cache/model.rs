//! The cache against a plain map: any order of pages, histories, switches, sweeps and leaders, two
//! writers at once, and a reader between any two writes.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::bucket::{self, Take, Target};
use super::control::Control;
use super::record::NewRecord;
use super::tests::{Edge, NOW, binding, device};
use super::*;
use crate::binding::{Binding, BindingState};
use crate::deny::Unavailable;

const DEVICES: usize = 40;
const MOST_ADDED_BY_A_RACE: u32 = 40;

/// What a history says of a device at a revision: made up, but always the same.
fn word(generation: u32, n: usize, revision: u64) -> Binding {
    // Few generations differ, so that records that are the same in two of them are met often.
    let salt = u64::from(generation % 2) * (n as u64 % 3);
    let state = match (revision + salt + n as u64) % 11 {
        0 => BindingState::Revoked,
        1 | 2 => BindingState::Suspended,
        3 => BindingState::Unclaimed,
        4 => BindingState::Unrecognised,
        _ => BindingState::Active,
    };
    binding(n, state, revision)
}

/// A device in one history: what it must say at least, and what it may say already.
#[derive(Clone, Debug, Default)]
struct Known {
    must: Option<u64>,
    may: BTreeSet<u64>,
}

#[derive(Debug, Default)]
struct Model {
    histories: BTreeMap<u32, BTreeMap<usize, Known>>,
    /// Devices that must read as revoked, whatever history answers.
    revoked: BTreeSet<usize>,
    /// Those that may.
    perhaps_revoked: BTreeSet<usize>,
    over: BTreeSet<u32>,
    /// Histories into which a leader wrote that was stopped: it may have left devices out.
    perhaps_over: BTreeSet<u32>,
}

impl Model {
    fn attempt(&mut self, generation: u32, page: &[Binding], devices: &[usize], done: bool) {
        let history = self.histories.entry(generation).or_default();
        if !done {
            self.perhaps_over.insert(generation);
        }
        for (binding, n) in page.iter().zip(devices) {
            let known = history.entry(*n).or_default();
            known.may.insert(binding.revision);
            if done {
                known.must = known.must.max(Some(binding.revision));
            }
            if binding.state == BindingState::Revoked {
                self.perhaps_revoked.insert(*n);
                if done && !self.over.contains(&generation) {
                    self.revoked.insert(*n);
                }
            }
        }
    }

    fn check(&self, generation: u32, n: usize, answer: &CacheAnswer) -> Result<(), String> {
        let known = self.histories.get(&generation).and_then(|h| h.get(&n));
        let is_over = self.over.contains(&generation);
        match answer {
            CacheAnswer::Found(found) => {
                assert_eq!(found.device, device(n));
                if found.state == BindingState::Revoked && self.perhaps_revoked.contains(&n) {
                    return Ok(());
                }
                if self.revoked.contains(&n) {
                    return Err(format!("{n} was revoked, and is {:?}", found.state));
                }
                let Some(known) = known else {
                    return Err(format!("{n} is not in {generation}"));
                };
                if Some(found.revision) < known.must || !known.may.contains(&found.revision) {
                    return Err(format!("{n}: {} of {known:?}", found.revision));
                }
                if *found == word(generation, n, found.revision) {
                    Ok(())
                } else {
                    Err(format!("{n}: another content"))
                }
            }
            CacheAnswer::Absent if is_over => Err(format!("{n}: absence means nothing")),
            CacheAnswer::Absent => {
                let is_here = known.is_some_and(|known| known.must.is_some());
                if is_here || self.revoked.contains(&n) {
                    Err(format!("{n} is missing"))
                } else {
                    Ok(())
                }
            }
            CacheAnswer::Unavailable(Unavailable::OverCapacity)
                if is_over || self.perhaps_over.contains(&generation) =>
            {
                Ok(())
            }
            CacheAnswer::Unavailable(_) | CacheAnswer::Pending => Err(format!("{n}: {answer:?}")),
        }
    }
}

#[derive(Clone, Debug)]
enum Step {
    /// A page for the history that answers, or the one that loads.
    Page {
        loading: bool,
        items: Vec<(usize, u64)>,
    },
    /// Two leaders at once: the second page comes between two writes of the first.
    Race {
        loading: bool,
        items: Vec<(usize, u64)>,
        at: usize,
        other: Vec<(usize, u64)>,
    },
    BeginLoad,
    Switch,
    Sweep {
        from: u32,
        buckets: u32,
    },
    /// Another leads; the one before goes on with what it knew.
    Takeover {
        late: Vec<(usize, u64)>,
    },
}

fn items() -> impl Strategy<Value = Vec<(usize, u64)>> {
    prop::collection::vec((0..DEVICES, 1..30_u64), 0..25)
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (any::<bool>(), items()).prop_map(|(loading, items)| Step::Page { loading, items }),
        2 => (any::<bool>(), items(), 0..20_usize, items())
            .prop_map(|(loading, items, at, other)| Step::Race { loading, items, at, other }),
        1 => Just(Step::BeginLoad),
        1 => Just(Step::Switch),
        1 => (0..16_u32, 1..17_u32).prop_map(|(from, buckets)| Step::Sweep { from, buckets }),
        1 => items().prop_map(|late| Step::Takeover { late }),
    ]
}

/// Shared data where something happens before the n-th write, and somebody looks after each.
struct Racing<'s> {
    inner: &'s MemorySharedData,
    left: Cell<usize>,
    between: RefCell<Option<Box<dyn FnOnce() + 's>>>,
    look: Box<dyn Fn() + 's>,
}

impl SharedData for Racing<'_> {
    fn get(&self, key: &str) -> Result<Option<(Vec<u8>, u32)>, SharedDataError> {
        self.inner.get(key)
    }

    fn set(&self, key: &str, value: &[u8], cas: Option<u32>) -> Result<(), SharedDataError> {
        match self.left.get().checked_sub(1) {
            Some(left) => self.left.set(left),
            None => {
                if let Some(between) = self.between.take() {
                    between();
                }
            }
        }
        let outcome = self.inner.set(key, value, cas);
        (self.look)();
        outcome
    }
}

fn page(generation: u32, items: &[(usize, u64)]) -> (Vec<Binding>, Vec<usize>) {
    items
        .iter()
        .map(|(n, revision)| (word(generation, *n, *revision), *n))
        .unzip()
}

#[expect(clippy::too_many_lines, reason = "one arm for each kind of step")]
fn run(capacity: u32, steps: Vec<Step>) -> Result<(), TestCaseError> {
    let store = MemorySharedData::new();
    let mut term = 1;
    let mut model = Model::default();
    let first = Edge::new(&store, term, capacity);
    first.begin_load(true).unwrap();
    first.switch().unwrap();
    // What a reader has seen of each device of each history: it never goes back.
    let seen = RefCell::new(BTreeMap::<(u32, usize), u64>::new());
    let is_revoked = RefCell::new(BTreeSet::new());
    let look = || {
        let cache = Cache::new(&store);
        let view = cache.view().unwrap();
        let generation = view.active().unwrap().generation;
        for n in 0..DEVICES {
            let CacheAnswer::Found(found) = cache.lookup(&view, &device(n), NOW) else {
                assert!(
                    !is_revoked.borrow().contains(&n),
                    "{n} was revoked and is gone"
                );
                continue;
            };
            if found.state == BindingState::Revoked {
                is_revoked.borrow_mut().insert(n);
                continue;
            }
            assert!(!is_revoked.borrow().contains(&n), "{n} was revoked");
            let before = seen.borrow_mut().insert((generation, n), found.revision);
            assert!(before <= Some(found.revision), "{n} went back");
        }
    };
    for step in steps {
        let edge = Edge::new(&store, term, capacity);
        let control = edge.writer.control().unwrap();
        let of = |control: &Control, loading: bool| {
            let history = if loading {
                &control.loading
            } else {
                &control.active
            };
            history.as_ref().map(|history| history.generation)
        };
        match step {
            Step::Page { loading, items } => {
                let Some(generation) = of(&control, loading) else {
                    continue;
                };
                let (bindings, devices) = page(generation, &items);
                let applied = edge.apply(generation, &bindings).unwrap();
                if applied.left_out > 0 {
                    model.over.insert(generation);
                }
                model.attempt(generation, &bindings, &devices, true);
            }
            Step::Race {
                loading,
                items,
                at,
                other,
            } => {
                let Some(generation) = of(&control, loading) else {
                    continue;
                };
                let (a, a_devices) = page(generation, &items);
                let (b, b_devices) = page(generation, &other);
                term += 1;
                let second = Edge::new(&store, term, capacity);
                let applied_b = RefCell::new(None);
                let between: Box<dyn FnOnce() + '_> = Box::new(|| {
                    *applied_b.borrow_mut() = Some(second.apply(generation, &b).unwrap());
                });
                let racing = Racing {
                    inner: &store,
                    left: Cell::new(at),
                    between: RefCell::new(Some(between)),
                    look: Box::new(&look),
                };
                // The first still believes in its own term.
                let outcome = Writer::new(&racing, term - 1).apply(&control, generation, &a, NOW);
                drop(racing);
                prop_assert!(matches!(outcome, Ok(_) | Err(CacheError::Superseded)));
                let applied_b = applied_b.into_inner();
                let left_out = |applied: Option<Applied>| applied.is_some_and(|a| a.left_out > 0);
                if left_out(outcome.ok()) || left_out(applied_b) {
                    // What the first left out it could not record: the second does.
                    model.over.insert(generation);
                    second
                        .writer
                        .update(|control| {
                            for history in [&mut control.active, &mut control.loading] {
                                if let Some(history) =
                                    history.as_mut().filter(|h| h.generation == generation)
                                {
                                    history.over_capacity = true;
                                }
                            }
                            Ok(())
                        })
                        .unwrap();
                }
                model.attempt(generation, &a, &a_devices, outcome.is_ok());
                model.attempt(generation, &b, &b_devices, applied_b.is_some());
            }
            Step::BeginLoad => {
                edge.begin_load(true).unwrap();
            }
            Step::Switch => edge.switch().unwrap(),
            Step::Sweep { from, buckets } => {
                let swept = edge.writer.sweep(&control, from, buckets, NOW).unwrap();
                prop_assert_eq!(swept.corrupt, 0);
            }
            Step::Takeover { late } => {
                term += 1;
                let new = Edge::new(&store, term, capacity);
                let Some(generation) = of(&control, true).or(of(&control, false)) else {
                    continue;
                };
                new.begin_load(true).unwrap();
                let (bindings, devices) = page(generation, &late);
                let outcome = edge.writer.apply(&control, generation, &bindings, NOW);
                prop_assert!(matches!(outcome, Ok(_) | Err(CacheError::Superseded)));
                if outcome.is_ok_and(|applied| applied.left_out > 0) {
                    new.writer
                        .update(|control| {
                            if let Some(active) = control
                                .active
                                .as_mut()
                                .filter(|h| h.generation == generation)
                            {
                                active.over_capacity = true;
                            }
                            Ok(())
                        })
                        .unwrap();
                    model.over.insert(generation);
                }
                model.attempt(generation, &bindings, &devices, outcome.is_ok());
            }
        }
        look();
        let cache = Cache::new(&store);
        let view = cache.view().unwrap();
        let active = view.active().unwrap();
        prop_assert!(active.records <= capacity + MOST_ADDED_BY_A_RACE);
        for n in 0..DEVICES {
            let answer = cache.lookup(&view, &device(n), NOW);
            if let Err(why) = model.check(active.generation, n, &answer) {
                return Err(TestCaseError::fail(why));
            }
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, ..ProptestConfig::default() })]

    #[test]
    fn the_cache_says_what_a_plain_map_says(steps in prop::collection::vec(step(), 1..40)) {
        run(1_000, steps)?;
    }

    #[test]
    fn a_cache_that_is_too_small_says_so(
        capacity in 1..30_u32,
        steps in prop::collection::vec(step(), 1..30),
    ) {
        run(capacity, steps)?;
    }

    #[test]
    fn no_octets_make_a_reader_or_a_writer_panic(
        octets in prop::collection::vec(any::<u8>(), 0..120),
        version in any::<bool>(),
    ) {
        let mut octets = octets;
        if let (true, Some(first)) = (version, octets.first_mut()) {
            *first = 1;
        }
        let _ = Control::decode(&octets);
        let _ = bucket::find(&octets, 1, &device(1));
        let target = Target { generation: 1, live: [1, 0], term: Some(1), is_confirmed: true, now: NOW };
        let new = [NewRecord::binding(&word(1, 1, 9))];
        let merged = bucket::merge(Some(&octets), &target, Take::All { room: 9 }, &new).unwrap();
        let value = merged.value.unwrap_or(octets);
        prop_assert!(bucket::find(&value, 1, &device(1)).is_ok());
    }

    #[test]
    fn a_flipped_bit_in_a_bucket_is_read_as_corrupt_or_as_something(
        bit in any::<prop::sample::Index>(),
        steps in items(),
    ) {
        let store = MemorySharedData::new();
        let edge = Edge::new(&store, 1, 100);
        let generation = edge.begin_load(true).unwrap();
        let (mut bindings, _) = page(generation, &steps);
        bindings.push(word(generation, 1, 99));
        edge.apply(generation, &bindings).unwrap();
        edge.switch().unwrap();
        let control = edge.writer.control().unwrap();
        let key = bucket::key(control.bucket_of(device(1).as_str().as_bytes()));
        let (mut octets, _) = store.get(&key).unwrap().unwrap();
        let bit = bit.index(octets.len() * 8);
        octets[bit / 8] ^= 1 << (bit % 8);
        store.set(&key, &octets, None).unwrap();
        let cache = Cache::new(&store);
        let view = cache.view().unwrap();
        for n in 0..DEVICES {
            cache.lookup(&view, &device(n), NOW);
        }
        edge.apply(generation, &bindings).unwrap();
        edge.writer.sweep(&control, 0, 16, NOW).unwrap();
    }
}

/// Where only looked-up devices are kept: a registry, its feed, and answers that come late.
#[derive(Clone, Debug)]
enum Demand {
    Change(usize, BindingState),
    /// The leader applies a page of at most this many records.
    Page(usize),
    /// A worker asks; the answer is what holds now, and is under way.
    Ask(usize),
    /// An answer arrives.
    Arrive(prop::sample::Index),
    /// An answer arrives between two writes of the leader.
    ArriveAmidPage(prop::sample::Index, usize, usize),
    /// A page is applied between a worker's read and its write.
    PageAmidArrival(prop::sample::Index, usize),
}

fn demand() -> impl Strategy<Value = Demand> {
    let state = prop_oneof![
        3 => Just(BindingState::Active),
        2 => Just(BindingState::Suspended),
    ];
    prop_oneof![
        4 => (0..DEVICES, state).prop_map(|(n, state)| Demand::Change(n, state)),
        3 => (1..9_usize).prop_map(Demand::Page),
        4 => (0..DEVICES).prop_map(Demand::Ask),
        3 => any::<prop::sample::Index>().prop_map(Demand::Arrive),
        2 => (any::<prop::sample::Index>(), 0..6_usize, 1..9_usize)
            .prop_map(|(which, at, limit)| Demand::ArriveAmidPage(which, at, limit)),
        2 => (any::<prop::sample::Index>(), 1..9_usize)
            .prop_map(|(which, limit)| Demand::PageAmidArrival(which, limit)),
    ]
}

/// The registry's log: the device and state of each revision, from 1.
#[derive(Default)]
struct Log(Vec<(usize, BindingState)>);

impl Log {
    fn head(&self) -> u64 {
        self.0.len() as u64
    }

    /// The newest record of a device up to a revision.
    fn newest(&self, n: usize, upto: u64) -> Option<Binding> {
        let first = usize::try_from(upto).unwrap();
        (1..=upto)
            .rev()
            .zip(self.0.iter().take(first).rev())
            .find_map(|(revision, (device, state))| {
                (*device == n).then(|| binding(n, *state, revision))
            })
    }

    fn page(&self, after: u64, limit: usize) -> (Vec<Binding>, u64) {
        let newest = (0..DEVICES).filter_map(|n| self.newest(n, self.head()));
        let mut records: Vec<_> = newest.filter(|b| b.revision > after).collect();
        records.sort_by_key(|b| b.revision);
        let more = records.len() > limit;
        records.truncate(limit);
        let reached = if more {
            records.last().map_or(after, |b| b.revision)
        } else {
            self.head()
        };
        (records, reached)
    }
}

fn run_on_demand(capacity: u32, events: Vec<Demand>) -> Result<(), TestCaseError> {
    let store = MemorySharedData::new();
    let edge = Edge::new(&store, 1, capacity);
    let generation = edge.begin_load(false).unwrap();
    edge.switch().unwrap();
    let ttl = core::time::Duration::from_secs(10);
    let mut log = Log::default();
    let mut position = 0;
    let mut answers: Vec<crate::feed::LookupAnswer> = Vec::new();
    // The revision up to which the feed has been followed to its end.
    let mut followed = 0;
    for event in events {
        let pick = |which: &prop::sample::Index| {
            (!answers.is_empty()).then(|| answers[which.index(answers.len())].clone())
        };
        let mut applied = None;
        match event {
            Demand::Change(n, state) => log.0.push((n, state)),
            Demand::Page(limit) => {
                let (page, reached) = log.page(position, limit);
                edge.apply(generation, &page).unwrap();
                applied = Some(reached);
            }
            Demand::Ask(n) => {
                let found = log.newest(n, log.head());
                answers.push(super::tests::answer(n, log.head(), found));
            }
            Demand::Arrive(which) => {
                let Some(answer) = pick(&which) else { continue };
                Cache::new(&store).insert_lookup(NOW, &answer, ttl).unwrap();
            }
            Demand::ArriveAmidPage(which, at, limit) => {
                let Some(answer) = pick(&which) else { continue };
                let (page, reached) = log.page(position, limit);
                let control = edge.writer.control().unwrap();
                let racing = Racing {
                    inner: &store,
                    left: Cell::new(at),
                    between: RefCell::new(Some(Box::new(|| {
                        Cache::new(&store).insert_lookup(NOW, &answer, ttl).unwrap();
                    }))),
                    look: Box::new(|| {}),
                };
                Writer::new(&racing, 1)
                    .apply(&control, generation, &page, NOW)
                    .unwrap();
                applied = Some(reached);
            }
            Demand::PageAmidArrival(which, limit) => {
                let Some(answer) = pick(&which) else { continue };
                let (page, reached) = log.page(position, limit);
                let done = Cell::new(false);
                let racing = Racing {
                    inner: &store,
                    left: Cell::new(0),
                    between: RefCell::new(Some(Box::new(|| {
                        edge.apply(generation, &page).unwrap();
                        done.set(true);
                    }))),
                    look: Box::new(|| {}),
                };
                Cache::new(&racing)
                    .insert_lookup(NOW, &answer, ttl)
                    .unwrap();
                drop(racing);
                applied = done.get().then_some(reached);
            }
        }
        if let Some(reached) = applied {
            position = reached;
            if reached == log.head() {
                followed = reached;
            }
        }
        let cache = Cache::new(&store);
        let view = cache.view().unwrap();
        for n in 0..DEVICES {
            let known = log.newest(n, followed);
            match cache.lookup(&view, &device(n), NOW) {
                CacheAnswer::Found(found) => {
                    prop_assert!(
                        Some(found.revision) >= known.map(|b| b.revision),
                        "{n} is stale"
                    );
                    prop_assert_eq!(Some(found.clone()), log.newest(n, found.revision));
                }
                CacheAnswer::Absent => {
                    prop_assert!(known.is_none(), "{n} is remembered as unknown");
                }
                CacheAnswer::Pending => {}
                other @ CacheAnswer::Unavailable(_) => prop_assert!(false, "{other:?}"),
            }
        }
        prop_assert!(store.octets() < 200 + 16 * 22 + 64 * DEVICES);
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, ..ProptestConfig::default() })]

    #[test]
    fn an_answer_that_the_feed_has_overtaken_is_never_kept(
        capacity in 1..100_u32,
        events in prop::collection::vec(demand(), 1..80),
    ) {
        run_on_demand(capacity, events)?;
    }
}
