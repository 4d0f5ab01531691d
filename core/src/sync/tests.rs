use core::cell::{Cell, RefCell};
use core::time::Duration;

#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

use super::simulation::{Network, Registry, TICK, World, device, settings};
use super::{FetchId, SyncAction, SyncLogLevel, SyncResponse, Synchroniser};
use crate::binding::BindingState::{self, Active, Revoked, Suspended, Unrecognised};
use crate::cache::{
    Cache, CacheAnswer, Candidate, Changed, Heard, Kept, MemorySharedData, SharedData,
    SharedDataError,
};
use crate::deny::Unavailable;
use crate::feed::{FEED_VERSION, FeedHeader, LookupAnswer};
use crate::time::Timestamp;

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn the_registry_is_read_in_pages_and_then_followed() {
    let mut world = World::one().with_devices(5_000);
    world.step();
    assert!(world.agrees());
    assert!(world.view().is_complete());
    assert_eq!(world.view().active().unwrap().records, 5_000);
    let pages: Vec<_> = world.paths.iter().map(|(_, path)| path.as_str()).collect();
    assert_eq!(pages[0], "/v1/feed?limit=2000");
    assert!(
        pages[2].starts_with("/v1/feed?cursor=f1.4000."),
        "{pages:?}"
    );
    assert!(pages[3].contains("&wait=25s&limit=2000"), "{pages:?}");
    assert_eq!(pages.len(), 4);

    world.registry.set(7, Suspended);
    world.registry.set(9_999, Active);
    let changes = world.view().change_counter();
    world.step();
    assert!(world.agrees());
    assert!(world.view().change_counter() > changes);
    assert_eq!(world.view().active().unwrap().records, 5_001);
}

#[test]
fn a_quiet_registry_keeps_the_cache_fresh_and_unchanged() {
    let mut world = World::one().with_devices(10);
    world.run(SECOND);
    let changes = world.view().change_counter();
    for _ in 0..1_200 {
        world.step();
        assert!(world.age() <= Duration::from_secs(26), "{:?}", world.age());
    }
    assert_eq!(world.view().change_counter(), changes);
    assert_eq!(world.paths.len(), 2 + 4, "one call for each 25 s");
}

#[test]
fn a_short_bound_gets_a_short_poll() {
    let mut short = settings(Candidate::Singleton);
    short = super::SyncSettings::new(short.registry, short.candidate, true, 10, 6 * SECOND);
    assert_eq!(short.wait, 2 * SECOND);
    let mut world = World::new(vec![short]);
    world.run(SECOND);
    for _ in 0..200 {
        world.step();
        assert!(world.age() < 3 * SECOND);
    }
}

#[test]
fn a_page_that_is_larger_than_was_asked_for_is_applied_in_parts() {
    let mut world = World::one().with_devices(4_000);
    world.registry.forced_limit = Some(4_000);
    world.step();
    assert_eq!(world.view().availability(), Err(Unavailable::Loading));
    assert_eq!(world.view().loading().unwrap().records, 2_500);
    world.step();
    assert!(world.agrees());
}

#[test]
fn a_new_history_is_read_beside_the_old_one_which_answers_meanwhile() {
    let mut world = World::one().with_devices(3_000);
    world.run(SECOND);
    world.registry.set(5, Revoked);
    world.registry.set(6, Suspended);
    world.run(SECOND);
    let mut restored = Registry::new("f2");
    for n in 1..2_500 {
        restored.set(n, Active);
    }
    restored.forced_limit = Some(10);
    world.registry = restored;
    let mut served_old = false;
    for _ in 0..300 {
        world.step();
        assert_eq!(world.state(5), Some(Revoked));
        let is_new = world.view().feed().unwrap().as_str() == "f2";
        served_old |= world.view().loading().is_some() && !is_new;
        assert_eq!(
            world.state(6),
            Some(if is_new { Active } else { Suspended })
        );
        assert_eq!(world.state(2_999).is_some(), !is_new);
        assert_eq!(world.state(0).is_some(), !is_new);
    }
    assert!(served_old);
    assert_eq!(world.view().feed().unwrap().as_str(), "f2");
    assert!(!world.view().control().sweeping);
    assert_eq!(
        world.state(5),
        Some(Revoked),
        "whatever the older history says"
    );
}

#[test]
fn a_history_that_forked_under_the_same_name_is_noticed() {
    let mut world = World::one().with_devices(10);
    let backup = world.registry.clone();
    world.registry.set(1, Suspended);
    world.registry.set(2, Suspended);
    world.run(SECOND);
    world.registry = backup;
    world.registry.set(3, Suspended);
    world.registry.set(4, Suspended);
    world.registry.set(5, Suspended);
    world.run(30 * SECOND);
    assert!(world.agrees());
    assert_eq!(world.logged("does not know this history"), 1);
}

#[test]
fn an_answer_that_is_out_of_order_changes_nothing_and_is_asked_for_again() {
    let replaced = |from: &str, to: &str| Network::Replaced(vec![(from.into(), to.into())]);
    for (network, reason) in [
        (Network::Cut(1), "cut short"),
        (Network::Cut(60), "cut short"),
        (Network::Cut(10_000), "feed header"),
        (Network::Padded(1), "goes on after"),
        (replaced("\"version\":1", "\"version\":2"), "version 2"),
        (replaced("\"head\":11", "\"head\":9"), "out of order"),
        (
            replaced("\"revision\":11", "\"revision\":5"),
            "out of order",
        ),
        (Network::Status(500, None), "status 500"),
        (Network::Status(404, None), "status 404"),
        (Network::Down, "could not be reached"),
    ] {
        let mut world = World::one().with_devices(10);
        world.run(SECOND);
        world.network = network;
        world.registry.set(3, Suspended);
        world.run(3 * SECOND);
        assert_eq!(world.state(3), Some(Active), "{reason}");
        assert!(world.logged(reason) > 2, "{reason}: {:?}", world.log);
        assert!(world.age() > 2 * SECOND, "{reason}");
        assert_eq!(world.view().feed().unwrap().as_str(), "f1");
        world.network = Network::Up;
        world.run(5 * SECOND);
        assert!(world.agrees(), "{reason}");
        assert!(world.age() < 5 * SECOND);
    }
}

#[test]
fn an_answer_of_another_history_is_refused_and_the_history_read_anew() {
    let mut world = World::one().with_devices(10);
    world.run(SECOND);
    world.network = Network::Replaced(vec![("\"feed\":\"f1\"".into(), "\"feed\":\"f9\"".into())]);
    world.registry.set(3, Suspended);
    world.step();
    assert_eq!(world.state(3), Some(Active));
    assert_eq!(world.logged("another history"), 1);
    world.network = Network::Up;
    world.run(2 * SECOND);
    assert!(world.agrees());
    assert_eq!(world.logged("from the beginning"), 2);
}

#[test]
fn another_history_in_which_less_has_happened_is_not_taken_for_disorder() {
    let mut world = World::one().with_devices(10);
    world.run(SECOND);
    let replaced = [
        ("\"feed\":\"f1\"", "\"feed\":\"f9\""),
        ("\"head\":11", "\"head\":2"),
    ];
    let replaced = replaced.map(|(from, to)| (from.into(), to.into()));
    world.network = Network::Replaced(replaced.to_vec());
    world.registry.set(3, Suspended);
    world.step();
    assert_eq!(world.state(3), Some(Active));
    assert_eq!(world.logged("another history"), 1);
    assert_eq!(world.logged("from the beginning"), 2);
}

#[test]
fn pauses_grow_are_jittered_and_bounded_and_retry_after_is_honoured() {
    let mut world = World::one();
    world.network = Network::Status(503, None);
    world.run(Duration::from_mins(2));
    let calls: Vec<_> = world.paths.iter().map(|(at, _)| *at).collect();
    let pauses: Vec<_> = calls.windows(2).map(|two| two[1].since(two[0])).collect();
    assert!(pauses[0] <= 3 * TICK, "{pauses:?}");
    assert!(
        pauses.iter().all(|pause| *pause <= 10 * SECOND + TICK),
        "{pauses:?}"
    );
    assert!(*pauses.last().unwrap() >= 5 * SECOND, "{pauses:?}");
    assert!((12..40).contains(&calls.len()), "{pauses:?}");

    for status in [429, 503] {
        let mut world = World::one();
        world.network = Network::Status(status, Some(30 * SECOND));
        world.run(Duration::from_secs(29));
        assert_eq!(world.paths.len(), 1);
        world.run(Duration::from_secs(2));
        assert_eq!(world.paths.len(), 2);
        world.network = Network::Status(status, Some(Duration::from_hours(10)));
        world.run(Duration::from_secs(35));
        assert_eq!(world.paths.len(), 3);
        world.run(Duration::from_secs(61));
        assert_eq!(
            world.paths.len(),
            4,
            "no registry may ask for longer than a minute"
        );
    }
    let mut world = World::one();
    world.network = Network::Status(403, None);
    world.run(SECOND);
    assert_eq!(
        world
            .log
            .iter()
            .filter(|(level, _)| *level == SyncLogLevel::Error)
            .count(),
        world.paths.len()
    );
}

#[test]
fn a_call_that_never_answers_is_given_up_and_its_late_answer_ignored() {
    let mut world = World::one().with_devices(10);
    world.run(SECOND);
    world.network = Network::Silent;
    world.run(36 * SECOND + TICK);
    assert_eq!(world.logged("in time"), 1);
    world.run(SECOND);
    let calls = world.paths.len();
    assert_eq!(calls, 3);
    world.registry.set(3, Suspended);
    world.network = Network::Up;
    // The call that was given up is past its time; the newer one answers.
    world.run(SECOND);
    assert!(world.agrees());
    assert!(world.paths.len() <= calls + 2, "{:?}", world.paths);
}

#[test]
fn too_large_an_answer_is_asked_for_in_smaller_pages() {
    let mut world = World::one().with_devices(2_000);
    // Pads every answer of more than a few records beyond 1 MiB.
    world.network = Network::Replaced(vec![(
        "\"account\":\"acc-1\"".into(),
        format!("\"x\":\"{}\"", "x".repeat(600)),
    )]);
    world.run(30 * SECOND);
    assert!(world.logged("larger than 1 MiB") >= 1);
    assert_eq!(world.view().active().unwrap().records, 2_000);
}

#[test]
fn a_record_of_unknown_state_or_kind_denies_its_device_and_the_feed_goes_on() {
    let mut world = World::one().with_devices(10);
    world.run(SECOND);
    for (n, line) in [
        (1, r#"{"device":"acme:SN1","state":"paused","revision":11}"#),
        (2, r#"{"kind":"grant","device":"acme:SN2","revision":12}"#),
        (3, r#"{"device":"acme:SN3","state":"active","epoch":"x"}"#),
    ] {
        world.registry.set(n, Active);
        world.registry.odd.insert(n, line.into());
    }
    world.registry.set(4, Suspended);
    world.run(SECOND);
    for n in 1..=3 {
        assert_eq!(world.state(n), Some(Unrecognised), "{n}");
    }
    assert_eq!(world.state(4), Some(Suspended));
    assert_eq!(world.view().unrecognised(), 3);
    assert!(!world.view().control().reload);
    world.registry.odd.clear();
    world.registry.set(1, Active);
    world.run(SECOND);
    assert_eq!(world.state(1), Some(Active), "a newer record can be read");
}

#[test]
fn a_record_that_names_nothing_makes_the_history_be_read_again_without_it() {
    let mut world = World::one().with_devices(10);
    world.run(Duration::from_mins(1));
    for line in ["{", r#"{"device":"acme:SN?","state":"revoked"}"#] {
        world.registry.set(1, Revoked);
        world.registry.odd.insert(1, line.into());
        world.registry.set(2, Suspended);
        world.run(SECOND);
        assert_eq!(world.state(2), Some(Suspended), "the feed goes on");
        assert_eq!(world.state(1), None, "what it hides is refused");
        world.registry.odd.clear();
        world.registry.set(1, Active);
        world.registry.set(2, Active);
        world.run(Duration::from_mins(1));
        assert!(world.agrees());
    }
    assert_eq!(world.logged("from the beginning"), 3);
    // A registry that sends nothing else does not make the edge read all day.
    for _ in 0..100 {
        world.registry.set(1, Active);
        world.registry.odd.insert(1, "{".into());
        world.run(SECOND);
    }
    assert!(world.logged("from the beginning") <= 3 + 4);
    world
        .registry
        .odd
        .insert(3, r#"{"kind":"key","id":"k2","revision":1}"#.into());
}

#[test]
fn a_record_of_another_kind_that_names_no_device_is_counted_and_passed_over() {
    let mut world = World::one().with_devices(10);
    world.run(SECOND);
    world.registry.set(99, Active);
    world
        .registry
        .odd
        .insert(99, r#"{"kind":"key","id":"k2","revision":11}"#.into());
    world.run(SECOND);
    assert_eq!(world.view().unrecognised(), 1);
    assert!(!world.view().control().reload);
    assert_eq!(world.state(1), Some(Active));
}

#[test]
fn a_registry_whose_clock_is_far_off_makes_the_cache_unusable() {
    let mut world = World::one().with_devices(10);
    world.registry.clock_offset = 3_600_000;
    world.run(SECOND);
    let skew = Duration::from_mins(5);
    assert_eq!(
        world.view().freshness(world.now, skew),
        Err(Unavailable::Clock)
    );
    world.registry.clock_offset = -250_000;
    world.run(26 * SECOND);
    assert!(world.view().freshness(world.now, skew).is_ok());
}

#[test]
fn a_clock_that_steps_is_noticed_and_measured_again() {
    let mut world = World::one().with_devices(10);
    world.run(SECOND);
    let skew = Duration::from_mins(5);
    let back = world.now.unix_millis() - 3_600_000;
    world.now = Timestamp::from_unix_millis(back);
    assert_eq!(
        world.view().freshness(world.now, skew),
        Err(Unavailable::Clock)
    );
    world.registry.set(3, Suspended);
    world.run(15 * SECOND);
    assert!(world.view().freshness(world.now, skew).unwrap() < 15 * SECOND);
    assert!(world.agrees());
    world.now = world.now.after(Duration::from_hours(5));
    assert!(world.age() > Duration::from_hours(4));
    world.registry.set(4, Suspended);
    world.run(15 * SECOND);
    assert!(world.age() < 15 * SECOND);
    assert!(world.agrees());
}

#[test]
fn only_one_worker_leads_and_another_takes_over_where_it_stops() {
    let mut world = World::new(vec![settings(Candidate::Worker); 3]).with_devices(100);
    world.run(4 * SECOND);
    assert!(world.paths.is_empty(), "workers wait for a singleton first");
    world.run(3 * SECOND);
    let leaders = |world: &World| -> Vec<usize> {
        (0..3)
            .filter(|n| world.synchronisers[*n].is_leader())
            .collect()
    };
    let first = leaders(&world);
    assert_eq!(first.len(), 1);
    assert!(world.agrees());
    world.hung = first.clone();
    world.registry.set(3, Suspended);
    world.run(8 * SECOND);
    assert!(world.agrees());
    let second: Vec<_> = leaders(&world)
        .into_iter()
        .filter(|n| !first.contains(n))
        .collect();
    assert_eq!(second.len(), 1);
    // The first wakes up, with the answer to its old call.
    world.hung.clear();
    world.registry.set(4, Suspended);
    world.run(SECOND);
    assert_eq!(leaders(&world), second);
    assert!(world.agrees());
    let counter = world.view().change_counter();
    world.hung = second;
    world.run(8 * SECOND);
    assert!(
        world.view().change_counter() > counter,
        "what a leader left undone is announced"
    );
}

#[test]
fn a_worker_gives_way_to_a_singleton() {
    let mut world = World::new(vec![
        settings(Candidate::Worker),
        settings(Candidate::Singleton),
    ]);
    world.hung = vec![1];
    world.run(7 * SECOND);
    assert!(world.synchronisers[0].is_leader());
    world.hung.clear();
    world.run(SECOND);
    assert!(!world.synchronisers[0].is_leader() && world.synchronisers[1].is_leader());
    // A singleton that trapped does not come back.
    world.hung = vec![1];
    world.registry.set(1, Active);
    world.run(8 * SECOND);
    assert!(world.synchronisers[0].is_leader());
    assert!(world.agrees());
}

#[test]
fn a_leader_that_takes_over_in_the_middle_of_a_history_goes_on_with_it() {
    let mut world = World::new(vec![settings(Candidate::Worker); 2]).with_devices(20_000);
    world.synchronisers[0] = super::Synchroniser::new(settings(Candidate::Singleton), 9, 9);
    world.registry.forced_limit = Some(30);
    world.step();
    let half = world.view().loading().unwrap().records;
    assert!(half > 0);
    world.hung = vec![0];
    world.run(7 * SECOND);
    world.registry.forced_limit = None;
    world.run(5 * SECOND);
    assert_eq!(world.logged("from the beginning"), 1);
    assert!(world.view().active().unwrap().records <= 10_000);
    assert!(world.view().active().unwrap().over_capacity);
}

#[test]
fn more_devices_than_fit_are_said_once_and_never_taken_for_unknown() {
    let mut small = settings(Candidate::Singleton);
    small.capacity = 100;
    let mut world = World::new(vec![small.clone()]).with_devices(300);
    world.run(SECOND);
    assert_eq!(world.logged("more devices than"), 1);
    let full = CacheAnswer::Unavailable(Unavailable::OverCapacity);
    assert_eq!((0..300).filter(|n| world.look(*n) == full).count(), 200);
    assert_eq!(world.look(5_000), full);
    // A larger configuration reads the history again.
    small.capacity = 1_000;
    world.synchronisers = vec![super::Synchroniser::new(small, 77, 77)];
    world.run(Duration::from_mins(1));
    assert!(world.agrees());
}

#[test]
fn a_larger_capacity_that_makes_no_more_buckets_is_said() {
    let mut larger = settings(Candidate::Singleton);
    let mut world = World::one().with_devices(10);
    world.run(SECOND);
    let buckets = world.view().control().buckets();
    // 10,000 devices have 1,024 buckets, and 16,384 would have no more.
    for (number, capacity, said) in [
        (10, 5_000, 0),
        (11, 16_384, 0),
        (12, 16_385, 1),
        (13, 16_385, 2),
    ] {
        larger.capacity = capacity;
        world.synchronisers = vec![super::Synchroniser::new(larger.clone(), number, number)];
        world.run(10 * SECOND);
        assert!(world.synchronisers[0].is_leader());
        assert_eq!(
            world.logged("the cache was made for fewer"),
            said,
            "{capacity}"
        );
        assert_eq!(world.view().control().buckets(), buckets);
        assert_eq!(world.view().control().capacity, capacity);
    }
    let warned = |(level, line): &(SyncLogLevel, String)| {
        *level == SyncLogLevel::Warn && line.contains("keeps its 1024 buckets")
    };
    assert_eq!(world.log.iter().filter(|line| warned(line)).count(), 2);
    assert!(world.agrees());
}

#[test]
fn a_synchroniser_of_a_newer_configuration_takes_over_at_once() {
    let old = settings(Candidate::Worker);
    let mut new = old.clone();
    new.registry.authority = "registry-2.example".into();
    let mut world = World::new(vec![old; 2]).with_devices(10);
    world.run(8 * SECOND);
    assert!(world.agrees());
    world.synchronisers.push(Synchroniser::new(new, 3, 3));
    world.registry.set(3, Suspended);
    world.step();
    world.step();
    let leaders: Vec<_> = world
        .synchronisers
        .iter()
        .map(Synchroniser::is_leader)
        .collect();
    assert_eq!(leaders, [false, false, true]);
    assert_eq!(
        world.view().registry().unwrap().authority,
        "registry-2.example"
    );
    assert!(world.agrees());
    assert_eq!(world.logged("another synchroniser has taken over"), 1);
}

#[test]
fn what_the_feed_tells_of_is_named_by_its_buckets() {
    let mut world = World::one().with_devices(5_000);
    world.run(SECOND);
    let before = world.view();
    world.registry.set(7, Suspended);
    world.registry.set(9_999, Active);
    world.step();
    let view = world.view();
    let told = [7, 9_999].map(|n| view.bucket_of(&device(n)));
    assert_eq!(
        view.changed_since(&before),
        Changed::Buckets(told.into_iter().collect())
    );
    assert_eq!(view.changed_since(&view), Changed::Nothing);
    // A cache that was made anew has nothing to do with the old one.
    world.store.set("mb1/c", b"garbage", None).unwrap();
    world.run(SECOND);
    assert_eq!(world.view().changed_since(&view), Changed::Everything);
}

#[test]
fn what_somebody_else_destroys_is_made_again() {
    let mut world = World::one().with_devices(200);
    world.run(SECOND);
    for key in ["mb1/c", "mb1/l", "mb1/b0", "mb1/b7"] {
        world.store.set(key, b"garbage", None).unwrap();
        world.run(Duration::from_mins(2));
        assert!(world.agrees(), "{key}");
        assert!(world.age() < 30 * SECOND, "{key}");
    }
}

#[test]
fn without_preload_only_the_head_is_asked_for() {
    let mut demand = settings(Candidate::Singleton);
    demand.preload = false;
    let mut world = World::new(vec![demand]).with_devices(100);
    world.run(SECOND);
    assert_eq!(world.paths[0].1, "/v1/feed?limit=0");
    assert!(world.paths[1].1.contains("cursor=f1.100."));
    assert_eq!(world.look(5), CacheAnswer::Pending);
    assert!(world.age() < SECOND);
    assert_eq!(world.view().active().unwrap().floor, 100);
    assert!(!world.view().is_complete());
    world.registry.set(5, Suspended);
    world.run(SECOND);
    assert_eq!(world.look(5), CacheAnswer::Pending);
    assert_eq!(world.view().active().unwrap().position, 101);
}

#[test]
fn another_way_of_keeping_bindings_begins_anew_with_the_cache_that_is_there() {
    let mut world = World::one().with_devices(100);
    world.run(SECOND);
    let mut demand = settings(Candidate::Singleton);
    demand.preload = false;
    world.synchronisers = vec![super::Synchroniser::new(demand, 5, 5)];
    world.run(7 * SECOND);
    assert_eq!(world.look(5), CacheAnswer::Pending);
    world.synchronisers = vec![super::Synchroniser::new(
        settings(Candidate::Singleton),
        6,
        6,
    )];
    world.run(Duration::from_mins(1));
    assert!(world.agrees());
}

#[test]
fn a_registry_that_cannot_answer_the_head_alone_is_followed_from_its_beginning() {
    let mut demand = settings(Candidate::Singleton);
    demand.preload = false;
    demand.page_limit = 1;
    let mut world = World::new(vec![demand]).with_devices(200);
    world.registry.is_old = true;
    world.step();
    let skew = Duration::from_mins(5);
    let view = world.view();
    assert_eq!(view.availability(), Ok(()));
    assert_eq!(
        view.freshness(world.now, skew),
        Err(Unavailable::Loading),
        "not at the head yet"
    );
    world.run(5 * SECOND);
    assert!(world.age() < 5 * SECOND);
    assert_eq!(world.view().active().unwrap().position, 200);
}

#[test]
fn an_answer_that_promises_more_and_does_not_go_on_is_refused() {
    let mut world = World::one().with_devices(10);
    world.run(SECOND);
    let before = world.registry.cursor(10);
    world.registry.set(3, Suspended);
    let after = world.registry.cursor(11);
    let more = ("\"more\":false".into(), "\"more\":true".into());
    world.network = Network::Replaced(vec![(after, before), more]);
    world.run(SECOND);
    assert!(world.logged("does not go on") > 0);
    assert_eq!(world.state(3), Some(Active));
}

#[test]
fn a_head_that_goes_back_while_a_history_is_read_has_it_read_anew() {
    let mut world = World::one().with_devices(30);
    world.registry.forced_limit = Some(10);
    let second = format!("{}\",\"more\":true,\"head\":", world.registry.cursor(20));
    world.network = Network::Replaced(vec![(format!("{second}30"), format!("{second}25"))]);
    world.run(SECOND);
    let times = world.logged("went back");
    assert!(times > 0, "{:?}", world.log);
    assert_eq!(world.logged("from the beginning"), times + 1);
    assert_eq!(world.view().availability(), Err(Unavailable::Loading));
    world.network = Network::Up;
    world.run(2 * SECOND);
    assert!(world.agrees());
}

#[test]
fn a_revocation_in_a_history_that_is_still_being_read_is_announced() {
    let mut world = World::one().with_devices(3_000);
    world.run(SECOND);
    let mut restored = Registry::new("f2");
    restored.set(0, Active);
    restored.set(1, Revoked);
    for n in 2..2_500 {
        restored.set(n, Active);
    }
    restored.forced_limit = Some(2);
    let counter = world.view().change_counter();
    world.registry = restored;
    while world
        .view()
        .loading()
        .is_none_or(|loading| loading.position < 2)
    {
        world.step();
    }
    assert_eq!(
        world.view().change_counter(),
        counter + 1,
        "once, and not for each page"
    );
    assert_eq!(world.state(1), Some(Revoked));
}

/// A store in which another synchroniser has its tick just before a bucket is written.
struct Interrupted<'a> {
    inner: &'a MemorySharedData,
    other: RefCell<Option<&'a mut Synchroniser>>,
    now: Timestamp,
    /// What the other did, and what a worker saw of device 3 then: number of changes, and state.
    actions: RefCell<Vec<SyncAction>>,
    seen: Cell<(u64, Option<BindingState>)>,
}

impl SharedData for Interrupted<'_> {
    fn get(&self, key: &str) -> Result<Option<(Vec<u8>, u32)>, SharedDataError> {
        self.inner.get(key)
    }

    fn set(&self, key: &str, value: &[u8], cas: Option<u32>) -> Result<(), SharedDataError> {
        if key.starts_with("mb1/b")
            && let Some(other) = self.other.borrow_mut().take()
        {
            *self.actions.borrow_mut() = other.on_tick(self.now, self.inner);
            let view = Cache::new(self.inner).view().unwrap();
            let state = match Cache::new(self.inner).lookup(&view, &device(3), self.now) {
                CacheAnswer::Found(binding) => Some(binding.state),
                _ => None,
            };
            self.seen.set((view.change_counter(), state));
        }
        self.inner.set(key, value, cas)
    }
}

fn fetch(actions: &[SyncAction]) -> Option<(FetchId, String)> {
    actions.iter().find_map(|action| match action {
        SyncAction::Fetch { id, path, .. } => Some((*id, path.clone())),
        SyncAction::Log { .. } => None,
    })
}

fn answer(status: u16, body: &[u8]) -> SyncResponse<'_> {
    SyncResponse::Answer {
        status,
        retry_after: None,
        body,
    }
}

#[test]
fn what_a_leader_wrote_and_could_not_tell_of_is_told_of_by_the_next() {
    let mut world = World::new(vec![settings(Candidate::Worker)]).with_devices(10);
    world.run(8 * SECOND);
    assert!(world.synchronisers[0].is_leader() && world.agrees());
    // The poll that is under way ends, and another begins.
    world.network = Network::Down;
    world.step();
    world.network = Network::Silent;
    let (id, path) = (0..200)
        .find_map(|_| {
            world.now = world.now.after(TICK);
            fetch(&world.synchronisers[0].on_tick(world.now, &world.store))
        })
        .unwrap();
    world.registry.set(3, Suspended);
    let now = world.now;
    let (status, body) = world.registry.answer(&path, 30 * SECOND, now).unwrap();
    let mut singleton = Synchroniser::new(settings(Candidate::Singleton), 77, 77);
    let store = Interrupted {
        inner: &world.store,
        other: RefCell::new(Some(&mut singleton)),
        now,
        actions: RefCell::default(),
        seen: Cell::default(),
    };
    world.synchronisers[0].on_response(now, &store, id, answer(status, &body));
    let (seen, state) = store.seen.get();
    assert_eq!(state, Some(Active), "a worker may have kept this");
    let (id, path) = fetch(&store.actions.take()).unwrap();
    let (status, body) = world.registry.answer(&path, 30 * SECOND, now).unwrap();
    world.now = now.after(TICK);
    singleton.on_response(world.now, &world.store, id, answer(status, &body));
    assert_eq!(world.state(3), Some(Suspended));
    assert_eq!(world.view().last_ok(), Some(world.now));
    assert!(world.view().change_counter() > seen);
}

fn lookup_answer(world: &World, n: u64, head: u64) -> LookupAnswer {
    LookupAnswer {
        header: FeedHeader {
            feed: "f1".parse().unwrap(),
            version: FEED_VERSION,
            cursor: "x".parse().unwrap(),
            more: false,
            head,
            count: 1,
            time: world.now,
        },
        device: device(n),
        binding: world.registry.devices.get(&n).cloned(),
    }
}

#[test]
fn where_every_device_is_read_the_answer_to_a_lookup_counts_for_nothing() {
    let mut world = World::one().with_devices(10);
    world.run(SECOND);
    let old = lookup_answer(&world, 3, world.registry.head());
    world.registry.set(3, Suspended);
    world.run(SECOND);
    let kept = Cache::new(&world.store).insert_lookup(world.now, &old, SECOND);
    assert_eq!(kept, Ok(Kept::Overtaken));
    assert_eq!(world.state(3), Some(Suspended));
}

#[test]
fn devices_that_were_revoked_leave_room_for_the_living() {
    let mut on_demand = settings(Candidate::Singleton);
    on_demand.preload = false;
    on_demand.capacity = 64;
    let mut world = World::new(vec![on_demand]).with_devices(2_000);
    for n in 0..1_000 {
        world.registry.set(n, Revoked);
    }
    world.run(SECOND);
    let head = world.registry.head();
    for n in 0..2_000 {
        let answer = lookup_answer(&world, n, head);
        let kept = Cache::new(&world.store).insert_lookup(world.now, &answer, SECOND);
        assert_eq!(kept, Ok(Kept::Stored), "{n}");
    }
    assert!((0..1_000).all(|n| world.state(n) == Some(Revoked)));
}

const SKEW: Duration = Duration::from_mins(5);

/// A worker that looks at every tick.
struct Worker(Heard);

impl Worker {
    fn new() -> Self {
        Self(Heard::new(TICK))
    }

    fn run(&mut self, world: &mut World, span: Duration) {
        let end = world.now.after(span);
        while world.now < end {
            world.step();
            self.0.tick(&world.view(), world.now);
        }
    }

    fn freshness(&self, world: &World) -> Result<Duration, Unavailable> {
        self.0.freshness(&world.view(), world.now, SKEW)
    }
}

#[test]
fn a_clock_that_is_set_back_makes_no_binding_younger() {
    let mut world = World::one().with_devices(10);
    let mut worker = Worker::new();
    worker.run(&mut world, SECOND);
    assert!(worker.freshness(&world).is_ok());
    world.network = Network::Down;
    let begin = Duration::from_secs(800);
    worker.run(&mut world, begin);
    let mut silent = begin;
    for _ in 0..4 {
        // By less than the age, so that the moment of the last answer alone would not tell.
        world.now = Timestamp::from_unix_millis(world.now.unix_millis() - 790_000);
        assert_eq!(worker.freshness(&world), Err(Unavailable::Clock));
        // Nor does what the synchroniser makes of it.
        let short = Duration::from_secs(10);
        worker.run(&mut world, short);
        assert_eq!(worker.freshness(&world), Err(Unavailable::Clock));
        let span = Duration::from_secs(800);
        worker.run(&mut world, span);
        silent += short + span;
        let age = worker.freshness(&world).unwrap();
        assert!(
            age + 40 * SECOND >= silent,
            "{silent:?} of silence, {age:?} old"
        );
    }
}

#[test]
fn a_clock_that_was_set_back_makes_no_binding_younger_for_a_worker_that_begins_then() {
    let mut world = World::one().with_devices(10);
    let mut first = Worker::new();
    first.run(&mut world, SECOND);
    world.network = Network::Down;
    let mut silent = Duration::ZERO;
    for (span, back) in [(400, 390_000), (300, 500_000), (10, 3_000)] {
        let span = Duration::from_secs(span);
        first.run(&mut world, span);
        silent += span;
        world.now = Timestamp::from_unix_millis(world.now.unix_millis() - back);
        world.step();
        // One that was there before believes no such clock.
        first.run(&mut world, TICK);
        assert_eq!(first.freshness(&world), Err(Unavailable::Clock));
        let mut worker = Worker::new();
        worker.run(&mut world, TICK);
        // By a clock that is behind the moment of the last answer nobody can tell.
        let age = worker.freshness(&world).unwrap_or(silent);
        assert!(age >= silent, "{silent:?} of silence, {age:?} old");
        assert!(
            age <= silent + 40 * SECOND,
            "{silent:?} of silence, {age:?} old"
        );
    }
    // Heard again, it is as young as it is.
    world.network = Network::Up;
    world.run(Duration::from_mins(3));
    let mut worker = Worker::new();
    worker.run(&mut world, TICK);
    assert!(worker.freshness(&world).unwrap() < 40 * SECOND);
}

fn elected() -> World {
    World::new((0..3).map(|_| settings(Candidate::Worker)).collect()).with_devices(10)
}

#[test]
fn of_elected_workers_too_the_registry_is_asked_at_once_where_the_clock_is_set_back() {
    for before in [12_000, 15_000, 18_000] {
        for after in [-1_037, 37, 1_037, 2_537, 4_037] {
            // Who leads ticks first, in the middle, or last.
            for hung in [vec![], vec![0], vec![0, 1]] {
                let mut world = elected();
                world.hung = hung;
                world.run(Duration::from_secs(6));
                world.hung.clear();
                let mut worker = Worker::new();
                world.run(Duration::from_mins(5));
                while world.age() > SECOND {
                    world.step();
                }
                worker.run(&mut world, Duration::from_millis(before));
                let age = i64::try_from(world.age().as_millis()).unwrap();
                let back = age - after;
                world.now = Timestamp::from_unix_millis(world.now.unix_millis() - back);
                let mut refusing = 0;
                for _ in 0..100 {
                    worker.run(&mut world, TICK);
                    refusing += u32::from(worker.freshness(&world).is_err());
                }
                assert!(
                    refusing <= 2,
                    "{before} ms, {back} ms back: {refusing} ticks"
                );
            }
        }
    }
}

#[test]
fn a_clock_that_is_set_back_to_before_the_beginning_leaves_the_leader_its_place() {
    for mut world in [World::one().with_devices(10), elected()] {
        world.run(Duration::from_secs(10));
        let leads = |world: &World| {
            let mut all = world.synchronisers.iter();
            all.position(Synchroniser::is_leader)
        };
        let leader = leads(&world);
        assert!(leader.is_some());
        world.now = Timestamp::from_unix_millis(world.now.unix_millis() - 60_000);
        let mut worker = Worker::new();
        let mut refusing = 0;
        for _ in 0..100 {
            worker.run(&mut world, TICK);
            refusing += u32::from(worker.freshness(&world).is_err());
        }
        assert!(refusing <= 2, "{refusing} ticks");
        assert!(leads(&world).is_some());
    }
}

#[test]
fn a_clock_that_is_set_back_is_believed_again_as_soon_as_the_registry_is_heard() {
    let mut world = World::one().with_devices(10);
    let mut worker = Worker::new();
    // In the middle of a long poll.
    worker.run(&mut world, 14 * SECOND);
    world.now = Timestamp::from_unix_millis(world.now.unix_millis() - 6_000);
    assert_eq!(worker.freshness(&world), Err(Unavailable::Clock));
    worker.run(&mut world, SECOND);
    assert!(worker.freshness(&world).unwrap() <= SECOND);
}

#[test]
fn changes_arrive_while_the_same_history_is_read_again() {
    let mut world = World::one().with_devices(3_000);
    world.run(SECOND);
    world.registry.odd.insert(9, "{}".into());
    world.registry.set(9, Active);
    world.registry.forced_limit = Some(2);
    let begun = (0..700).any(|_| {
        world.step();
        world.view().loading().is_some()
    });
    assert!(begun);
    world.registry.set(6, Suspended);
    let in_force = (1..=5).find(|_| {
        world.step();
        world.state(6) == Some(Suspended)
    });
    assert!(in_force.is_some() && world.view().loading().is_some());
    world.run(Duration::from_mins(2));
    assert!(world.view().loading().is_none());
    assert_eq!(world.state(6), Some(Suspended));
}

#[test]
fn where_reading_again_fails_the_history_that_answers_is_followed_and_does_not_get_old() {
    let mut world = World::one().with_devices(30);
    world.run(SECOND);
    world.registry.odd.insert(9, "{}".into());
    world.registry.set(9, Active);
    world.step();
    let mut asked_for_all = 0;
    let mut actions = Vec::new();
    for _ in 0..3_000 {
        world.now = world.now.after(TICK);
        actions.extend(world.synchronisers[0].on_tick(world.now, &world.store));
        let Some((id, path)) = fetch(&std::mem::take(&mut actions)) else {
            continue;
        };
        let (status, body) = if path.contains("cursor=") {
            let answer = world.registry.answer(&path, 30 * SECOND, world.now);
            answer.unwrap()
        } else {
            asked_for_all += 1;
            (503, Vec::new())
        };
        let synchroniser = &mut world.synchronisers[0];
        actions = synchroniser.on_response(world.now, &world.store, id, answer(status, &body));
    }
    assert!(asked_for_all > 2);
    assert!(world.age() < Duration::from_mins(1), "{:?}", world.age());
}

/// The age that a worker reads soon after, with the leader's own tick between.
fn age_soon_after(world: &mut World, worker: &mut Worker) -> Duration {
    worker.0.tick(&world.view(), world.now);
    for _ in 0..3 {
        worker.run(world, TICK);
    }
    worker.freshness(world).unwrap()
}

/// The clock is set back by an hour, and before its next tick the leader has an answer.
fn set_back_before_an_answer(world: &mut World, leader: usize) {
    let id = world.synchronisers[leader].flight().unwrap();
    world.now = Timestamp::from_unix_millis(world.now.unix_millis() - 3_600_000);
    world.registry.set(3, Suspended);
    let (path, now) = (world.paths.last().unwrap().1.clone(), world.now);
    let (status, body) = world.registry.answer(&path, Duration::ZERO, now).unwrap();
    world.synchronisers[leader].on_response(now, &world.store, id, answer(status, &body));
}

#[test]
fn an_answer_between_a_step_of_the_clock_and_the_leaders_tick_makes_nothing_older() {
    let mut world = World::one().with_devices(10);
    let mut worker = Worker::new();
    worker.run(&mut world, Duration::from_secs(30));
    set_back_before_an_answer(&mut world, 0);
    assert!(age_soon_after(&mut world, &mut worker) < SECOND);
}

#[test]
fn who_led_when_the_clock_was_set_back_leads_again_where_its_follower_ends() {
    let mut world = World::new(vec![settings(Candidate::Worker); 2]).with_devices(10);
    world.run(Duration::from_mins(1));
    let first = world.synchronisers.iter().position(Synchroniser::is_leader);
    let first = first.unwrap();
    set_back_before_an_answer(&mut world, first);
    for (hung, leader) in [(first, 1 - first), (1 - first, first)] {
        world.hung = vec![hung];
        world.run(Duration::from_secs(20));
        assert!(world.synchronisers[leader].is_leader());
    }
}

#[test]
fn a_step_of_the_clock_lets_no_worker_take_the_place_of_a_leader_that_lives() {
    let settings = vec![settings(Candidate::Worker), settings(Candidate::Singleton)];
    let mut world = World::new(settings).with_devices(10);
    let mut worker = Worker::new();
    worker.run(&mut world, Duration::from_secs(4_000));
    // The worker ticks first.
    world.now = Timestamp::from_unix_millis(world.now.unix_millis() - 3_600_060);
    world.hung = vec![1];
    world.step();
    world.hung = vec![];
    let leads = world.synchronisers.iter().map(Synchroniser::is_leader);
    assert_eq!(leads.collect::<Vec<_>>(), [false, true]);
    assert!(age_soon_after(&mut world, &mut worker) < SECOND);
}

#[test]
fn where_the_first_call_after_a_step_fails_the_next_is_to_be_answered_at_once() {
    for back in [2_500, 5_000, 10_000, 15_000, 20_000, 22_000, 60_000] {
        let mut world = World::one().with_devices(10);
        let mut worker = Worker::new();
        world.run(Duration::from_mins(5));
        while world.age() > SECOND {
            world.step();
        }
        worker.run(&mut world, Duration::from_secs(20));
        world.now = Timestamp::from_unix_millis(world.now.unix_millis() - back);
        world.network = Network::Status(503, None);
        worker.run(&mut world, TICK);
        world.network = Network::Up;
        worker.run(&mut world, SECOND);
        assert!(worker.freshness(&world).is_ok(), "{back}");
    }
}
