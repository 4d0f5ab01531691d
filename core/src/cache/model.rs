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
