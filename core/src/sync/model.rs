//! Any order of changes, faults, restarts and clocks, with two synchronisers that both believe
//! in themselves: what a reader sees was true, nothing is un-revoked, and once the network is up
//! the cache is like the registry again.

use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::Synchroniser;
use super::simulation::{Network, Registry, World, settings};
use crate::binding::{Binding, BindingState};
use crate::cache::{CacheAnswer, Candidate, Changed, View};

const DEVICES: u64 = 30;

#[derive(Clone, Debug)]
enum Event {
    Change(u64, BindingState),
    Network(Network),
    /// A registry restored from what it was then; it goes on under the same name or another.
    Restore {
        renamed: bool,
    },
    Backup,
    Hang(usize),
    Wake,
    /// A worker or the singleton starts anew.
    Restart(usize),
    Step(i64),
    Ticks(u64),
    Odd(u64),
}

fn event() -> impl Strategy<Value = Event> {
    let state = prop_oneof![
        4 => Just(BindingState::Active),
        2 => Just(BindingState::Suspended),
        1 => Just(BindingState::Unclaimed),
        1 => Just(BindingState::Revoked),
    ];
    let network = prop_oneof![
        3 => Just(Network::Up),
        1 => Just(Network::Down),
        1 => Just(Network::Silent),
        1 => Just(Network::Status(503, None)),
        1 => Just(Network::Status(410, None)),
        1 => (0..3_000_usize).prop_map(Network::Cut),
        1 => Just(Network::Padded(7)),
        1 => Just(Network::Replaced(vec![("f1".into(), "f7".into())])),
        1 => Just(Network::Replaced(vec![("\"revision\"".into(), "\"r\"".into())])),
    ];
    prop_oneof![
        8 => (0..DEVICES, state).prop_map(|(n, state)| Event::Change(n, state)),
        4 => network.prop_map(Event::Network),
        1 => any::<bool>().prop_map(|renamed| Event::Restore { renamed }),
        1 => Just(Event::Backup),
        1 => (0..2_usize).prop_map(Event::Hang),
        1 => Just(Event::Wake),
        1 => (0..2_usize).prop_map(Event::Restart),
        1 => (-20_000..20_000_i64).prop_map(Event::Step),
        8 => (1..40_u64).prop_map(Event::Ticks),
        1 => (0..DEVICES).prop_map(Event::Odd),
    ]
}

/// What the registry has ever said of each device.
type Said = BTreeMap<u64, BTreeSet<(u64, &'static str)>>;

fn note(said: &mut Said, registry: &Registry) {
    for (n, binding) in &registry.devices {
        said.entry(*n)
            .or_default()
            .insert((binding.revision, binding.state.as_str()));
    }
}

/// A worker that keeps what it has found for as long as its bucket is not said to have changed.
#[derive(Default)]
struct Keeper {
    seen: Option<View>,
    found: BTreeMap<u64, Binding>,
}

impl Keeper {
    fn check(&mut self, world: &World) -> Result<(), TestCaseError> {
        let view = world.view();
        let changed = match &self.seen {
            Some(seen) => view.changed_since(seen),
            None => Changed::Everything,
        };
        match changed {
            Changed::Nothing => {}
            Changed::Buckets(buckets) => self
                .found
                .retain(|_, kept| !buckets.contains(view.bucket_of(&kept.device))),
            Changed::Everything => self.found.clear(),
        }
        self.seen = Some(view);
        for n in 0..DEVICES {
            let CacheAnswer::Found(found) = world.look(n) else {
                prop_assert!(!self.found.contains_key(&n), "{n} is gone, unannounced");
                continue;
            };
            let kept = self.found.entry(n).or_insert_with(|| found.clone());
            prop_assert!(*kept == found, "{n} has changed, unannounced");
        }
        Ok(())
    }
}

fn check(
    world: &World,
    said: &Said,
    revoked: &mut BTreeSet<u64>,
    keeper: &mut Keeper,
) -> Result<(), TestCaseError> {
    let cache = crate::cache::Cache::new(&world.store);
    let Ok(view) = cache.view() else {
        return Ok(());
    };
    if view.availability().is_err() {
        return Ok(());
    }
    keeper.check(world)?;
    for n in 0..DEVICES {
        match world.look(n) {
            CacheAnswer::Found(found) if found.state == BindingState::Revoked => {
                revoked.insert(n);
            }
            CacheAnswer::Found(found) => {
                prop_assert!(!revoked.contains(&n), "{n} was revoked");
                let is_true = found.state == BindingState::Unrecognised
                    || said
                        .get(&n)
                        .is_some_and(|said| said.contains(&(found.revision, found.state.as_str())));
                prop_assert!(is_true, "{n}: {found:?}");
            }
            CacheAnswer::Absent => prop_assert!(!revoked.contains(&n), "{n} was revoked"),
            other => prop_assert!(false, "{n}: {other:?}"),
        }
    }
    Ok(())
}

fn run(events: Vec<Event>) -> Result<(), TestCaseError> {
    let candidates = [settings(Candidate::Singleton), settings(Candidate::Worker)];
    let mut world = World::new(candidates.to_vec());
    world.registry.forced_limit = Some(7);
    let mut backup = world.registry.clone();
    let mut seed = 100;
    let mut said = Said::new();
    let mut revoked = BTreeSet::new();
    let mut keeper = Keeper::default();
    for event in events {
        match event {
            Event::Change(n, state) => world.registry.set(n, state),
            Event::Network(network) => world.network = network,
            Event::Restore { renamed } => {
                world.registry = backup.clone();
                if renamed {
                    seed += 1;
                    world.registry.feed = format!("g{seed}");
                }
            }
            Event::Backup => backup = world.registry.clone(),
            Event::Hang(who) => world.hung.push(who),
            Event::Wake => world.hung.clear(),
            Event::Restart(who) => {
                seed += 1;
                world.synchronisers[who] = Synchroniser::new(candidates[who].clone(), seed, seed);
            }
            Event::Step(millis) => {
                let now = world.now.unix_millis() + millis;
                world.now = crate::time::Timestamp::from_unix_millis(now);
            }
            Event::Ticks(ticks) => {
                for _ in 0..ticks {
                    world.step();
                    check(&world, &said, &mut revoked, &mut keeper)?;
                }
            }
            Event::Odd(n) => {
                world.registry.odd.insert(n, "{}".into());
            }
        }
        note(&mut said, &world.registry);
    }
    world.hung.clear();
    world.network = Network::Up;
    world.registry.odd.clear();
    // Twice: after a restore the first time can be word for word what the network has spoiled once,
    // and that is not sent again.
    for n in (0..DEVICES).chain(0..DEVICES) {
        world.registry.set(n, BindingState::Active);
    }
    note(&mut said, &world.registry);
    for _ in 0..900 {
        world.step();
        check(&world, &said, &mut revoked, &mut keeper)?;
    }
    for (n, wanted) in &world.registry.devices {
        let CacheAnswer::Found(found) = world.look(*n) else {
            return Err(TestCaseError::fail(format!("{n} is missing")));
        };
        prop_assert!(
            found == *wanted || (found.state == BindingState::Revoked && revoked.contains(n))
        );
    }
    prop_assert!(world.age() < Duration::from_secs(27));
    prop_assert!(!world.view().control().sweeping);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_the_cache_tells_the_truth_and_finds_back(
        events in prop::collection::vec(event(), 1..60),
    ) {
        run(events)?;
    }
}
