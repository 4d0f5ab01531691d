//! How much does one tick do, and how soon is a request cut, where thousands are under way?

mod common;

use std::collections::BTreeSet;

use common::{Edge, Setup, binding, seconds};
use medbind_core::time::Timestamp;
use medbind_filter::testing::{FakeCall, FakeRequest, Fate, StreamId};
use serde_json::json;

/// As many as one tick decides again.
const A_TICK: usize = 1_024;

struct Crowd {
    edge: Edge,
    streams: Vec<StreamId>,
}

impl Crowd {
    /// So many devices of one account, each with an event stream that the account has open.
    fn new(count: usize) -> Self {
        let mut edge = Edge::set_up(Setup {
            capacity: 20_000,
            ..Setup::default()
        });
        for number in 0..count {
            edge.registry.put(&binding(&device(number), "active"));
            // As many as one page of the feed holds.
            if number % 1_000 == 999 {
                edge.settle();
            }
        }
        edge.settle();
        let streams = (0..count)
            .map(|number| {
                let path = format!("/v1/devices/{}/events", device(number));
                let request = FakeRequest::new("GET", &path);
                let request = request.token("medbind", "https://login.example", "acc-1");
                edge.guard.send(&request)
            })
            .collect();
        let crowd = Self { edge, streams };
        assert_eq!(crowd.under_way(), count);
        crowd
    }

    fn under_way(&self) -> usize {
        self.edge.guard.root().guard().unwrap().under_way()
    }

    /// The synchroniser writes what the registry has to tell; the guard has not seen it yet.
    fn synchronise(&mut self) {
        let edge = &mut self.edge;
        edge.sync.tick();
        for call in edge.sync.host().calls() {
            let body = edge.registry.feed(&call.path, edge.world.now());
            edge.sync.answer(&call, Some(200), &body);
        }
    }

    /// A tick of the guard; gives how often shared data was read in it.
    fn tick(&mut self) -> usize {
        let before = self.edge.world.shared_reads();
        self.edge.guard.tick();
        usize::try_from(self.edge.world.shared_reads() - before).unwrap()
    }

    fn cut(&self) -> BTreeSet<usize> {
        let streams = self.streams.iter().enumerate();
        streams
            .filter(|(_, stream)| self.edge.guard.fate(**stream) == Fate::Reset)
            .map(|(number, _)| number)
            .collect()
    }
}

fn device(number: usize) -> String {
    format!("acme:SN{number}")
}

#[test]
fn of_ten_thousand_those_that_changed_are_cut_at_once_and_the_others_are_not_looked_at() {
    let mut crowd = Crowd::new(10_000);
    let before = crowd.tick();
    for number in [3, 5_000, 9_999] {
        let record = binding(&device(number), "suspended");
        crowd.edge.registry.put(&record);
    }
    crowd.synchronise();
    let reads = crowd.tick();
    assert_eq!(crowd.cut(), BTreeSet::from([3, 5_000, 9_999]));
    // The buckets of three devices, each with about 16.
    assert!(reads < before + 150, "{reads}");
}

#[test]
fn where_all_have_to_be_decided_again_a_tick_takes_some_and_every_one_has_its_turn() {
    let mut crowd = Crowd::new(10_000);
    let idle = crowd.tick();
    // Another synchroniser cannot say what the last one had written: every device may have changed.
    crowd.edge.world.pass(seconds(10));
    let sync = common::sync_settings(true).to_string();
    crowd.edge.sync = medbind_filter::testing::FakeEnvoy::start(&crowd.edge.world, &sync).unwrap();
    crowd.synchronise();
    let mut decided = 0;
    let mut ticks = 0;
    loop {
        let reads = crowd.tick() - idle;
        assert!(reads <= A_TICK, "{reads}");
        decided += reads;
        ticks += 1;
        if reads == 0 {
            break;
        }
        // Who changes in the meantime does not wait for its turn, and keeps nobody from it.
        let number = 9_999 - ticks;
        crowd
            .edge
            .registry
            .put(&binding(&device(number), "revoked"));
        crowd.synchronise();
        crowd.tick();
        assert!(crowd.cut().contains(&number), "{number}");
        assert!(ticks < 10, "{ticks}");
    }
    assert!(decided >= 4_000, "{decided}");
    assert_eq!(crowd.cut().len(), ticks - 1);
    assert_eq!(crowd.under_way(), 10_000 - (ticks - 1));
}

#[test]
fn where_all_have_ended_every_one_has_its_turn() {
    let mut crowd = Crowd::new(10_000);
    crowd.tick();
    // More than can be named to a guard that sees it all at once.
    for number in 0..10_000 {
        let record = binding(&device(number), "suspended");
        crowd.edge.registry.put(&record);
        if number % 1_000 == 999 {
            crowd.synchronise();
            crowd.synchronise();
        }
    }
    for tick in 1..=9 {
        crowd.tick();
        assert_eq!(crowd.cut().len(), tick * A_TICK);
    }
    crowd.tick();
    assert_eq!(crowd.cut().len(), 10_000);
    assert_eq!(crowd.under_way(), 0);
}

#[test]
fn where_the_registry_is_silent_for_too_long_all_are_cut_some_in_each_tick() {
    let mut crowd = Crowd::new(3_000);
    crowd.edge.world.pass(seconds(16 * 60));
    for left in [3_000 - A_TICK, 3_000 - 2 * A_TICK, 0] {
        crowd.tick();
        assert_eq!(crowd.under_way(), left);
    }
    assert_eq!(crowd.cut().len(), 3_000);
}

#[test]
fn a_token_that_ends_ends_its_requests_and_no_other_is_looked_at() {
    let mut crowd = Crowd::new(100);
    let end = crowd.edge.world.now().after(seconds(60));
    let path = format!("/v1/devices/{}/events", device(7));
    let request = FakeRequest::new("GET", &path)
        .token("medbind", "https://login.example", "acc-1")
        .token_ends("medbind", end);
    let short = crowd.edge.guard.send(&request);
    crowd.edge.world.pass(seconds(59));
    let idle = crowd.tick();
    assert!(crowd.edge.guard.fate(short).is_forwarded());
    crowd.edge.world.pass(seconds(1));
    assert_eq!(crowd.tick(), idle, "and its device is known");
    assert_eq!(crowd.edge.guard.fate(short), Fate::Reset);
    assert_eq!(crowd.under_way(), 100);
}

#[test]
fn who_comes_and_goes_leaves_no_more_calls_behind_than_who_waits() {
    let mut edge = Edge::set_up(Setup {
        preload: false,
        capacity: 1_000,
        guard: json!({"bindings": {"max_waiting": 100, "max_waiting_per_device": 8}}),
        ..Setup::default()
    });
    edge.settle();
    edge.registry.put(&binding("acme:SN1", "active"));
    let request = common::reading().certificate(&edge.maker.device("SN1"));
    for _ in 0..1_000 {
        let stream = edge.guard.send(&request);
        edge.guard.end(stream);
    }
    let abandoned = edge.lookups();
    assert_eq!(abandoned.len(), 8);
    // The root context asks once for all of them; the answers to the others are nobody's.
    edge.guard.tick();
    let calls = edge.lookups();
    assert_eq!(calls.len(), 9);
    for call in &calls {
        edge.answer_lookup(call);
    }
    assert!(edge.lookups().is_empty());
    assert!(edge.guard.request(&request).is_forwarded());
    assert!(edge.lookups().is_empty());
}

/// Event streams of so many devices, let in by lookups on demand. The registry's cluster takes 32 calls
/// at once.
fn let_in_on_demand(count: usize) -> (Edge, Vec<StreamId>) {
    let_in_on_demand_until(count, &|_| None)
}

/// The same, with bindings that end.
fn let_in_on_demand_until(
    count: usize,
    end: &dyn Fn(&Edge) -> Option<Timestamp>,
) -> (Edge, Vec<StreamId>) {
    let mut edge = Edge::set_up(Setup {
        preload: false,
        capacity: 20_000,
        guard: json!({
            "bindings": {"preload": false},
            "registry": {"cluster": "registry", "authority": "registry.example"},
        }),
        ..Setup::default()
    });
    edge.settle();
    edge.guard.host().most_calls(32);
    let mut streams = Vec::new();
    let end = end(&edge);
    for number in 0..count {
        let mut active = binding(&device(number), "active");
        active["expires_at"] = json!(end);
        edge.registry.put(&active);
        let path = format!("/v1/devices/{}/events", device(number));
        let request = FakeRequest::new("GET", &path);
        let request = request.token("medbind", "https://login.example", "acc-1");
        streams.push(edge.guard.send(&request));
        let call = edge.lookups().pop().unwrap();
        edge.answer_lookup(&call);
    }
    assert_eq!(edge.guard.root().guard().unwrap().under_way(), count);
    (edge, streams)
}

/// The synchroniser follows another history from now on, of which the cache holds nothing yet.
fn change_history(edge: &mut Edge) {
    edge.registry.restore();
    edge.world.pass(seconds(1));
    edge.sync.tick();
    for call in edge.sync.host().calls() {
        edge.sync.answer(&call, Some(410), b"{}");
    }
    for _ in 0..20 {
        edge.world.pass(seconds(1));
        edge.sync.tick();
        for call in edge.sync.host().calls() {
            let body = edge.registry.feed(&call.path, edge.world.now());
            edge.sync.answer(&call, Some(200), &body);
        }
    }
}

#[test]
fn where_the_registry_is_another_each_is_asked_about_in_its_turn_and_none_is_cut_for_waiting() {
    let (mut edge, streams) = let_in_on_demand(2_000);
    let suspended = device(1_999);
    edge.registry.put(&binding(&suspended, "suspended"));
    change_history(&mut edge);
    let mut asked = BTreeSet::new();
    let mut ticks = 0;
    loop {
        edge.guard.tick();
        ticks += 1;
        let open = edge.lookups();
        if open.is_empty() {
            break;
        }
        // As many as a registry answers within a tick.
        for _ in 0..100 {
            let open = edge.lookups();
            assert!(open.len() <= 4, "{}", open.len());
            for call in open {
                assert!(asked.insert(call.path.clone()), "{} again", call.path);
                edge.answer_lookup(&call);
            }
        }
    }
    assert_eq!(asked.len(), 2_000);
    assert!(ticks <= 10, "an answer makes room at once: {ticks}");
    for (number, stream) in streams.iter().enumerate() {
        let fate = edge.guard.fate(*stream);
        assert_eq!(fate == Fate::Reset, device(number) == suspended, "{number}");
    }
}

#[test]
fn who_waits_for_its_turn_longer_than_for_a_call_that_fails_is_not_cut() {
    let (mut edge, streams) = let_in_on_demand(300);
    edge.registry.put(&binding(&device(0), "suspended"));
    change_history(&mut edge);
    let mut asked = 0;
    for _ in 0..75 {
        // The registry takes half a second.
        for _ in 0..5 {
            edge.guard.tick();
        }
        let open = edge.lookups();
        assert_eq!(open.len(), 4);
        asked += open.len();
        for call in open {
            edge.answer_lookup(&call);
        }
    }
    assert_eq!((asked, edge.lookups().len()), (300, 0));
    for (number, stream) in streams.iter().enumerate() {
        assert_eq!(edge.guard.fate(*stream) == Fate::Reset, number == 0);
    }
}

#[test]
fn of_one_device_s_requests_an_answer_decides_no_more_than_a_tick_does() {
    let (mut edge, mut streams) = let_in_on_demand(1);
    let path = format!("/v1/devices/{}/events", device(0));
    let request = FakeRequest::new("GET", &path);
    let request = request.token("medbind", "https://login.example", "acc-1");
    for _ in 1..1_500 {
        streams.push(edge.guard.send(&request));
    }
    edge.registry.put(&binding(&device(0), "suspended"));
    change_history(&mut edge);
    edge.guard.tick();
    edge.guard.tick();
    let cut = |edge: &Edge| {
        let fates = streams.iter().map(|stream| edge.guard.fate(*stream));
        fates.filter(|fate| *fate == Fate::Reset).count()
    };
    let call = edge.lookups().pop().unwrap();
    edge.answer_lookup(&call);
    assert_eq!(cut(&edge), A_TICK);
    edge.guard.tick();
    assert_eq!(cut(&edge), 1_500);
}

#[test]
fn a_clock_that_was_set_back_is_given_a_second_to_be_put_right() {
    for heard in [true, false] {
        let mut crowd = Crowd::new(10);
        crowd.edge.world.pass(seconds(20));
        crowd.synchronise();
        crowd.tick();
        let now = crowd.edge.world.now().unix_millis();
        let back = Timestamp::from_unix_millis(now - 5_000);
        crowd.edge.world.set_now(back);
        crowd.tick();
        assert!(crowd.cut().is_empty());
        if heard {
            crowd.synchronise();
        }
        for _ in 0..9 {
            crowd.tick();
            assert!(crowd.cut().is_empty());
        }
        for _ in 0..10 {
            crowd.tick();
        }
        assert_eq!(crowd.cut().len(), if heard { 0 } else { 10 });
    }
}

/// Requests of new devices take all calls that the cluster takes; they are answered by nobody yet.
fn take_all_calls(edge: &mut Edge) -> Vec<FakeCall> {
    for number in 0..32 {
        let path = format!("/v1/devices/acme:NEW{number}/events");
        let certificate = edge.maker.device(&format!("NEW{number}"));
        let request = FakeRequest::new("GET", &path).certificate(&certificate);
        let new = edge.guard.send(&request);
        assert_eq!(edge.guard.fate(new), Fate::Paused);
    }
    let open = edge.lookups();
    assert_eq!(open.len(), 32);
    open
}

#[test]
fn a_request_under_way_is_not_cut_where_others_have_taken_all_calls_for_a_while() {
    for count in [1, 100] {
        let (mut edge, streams) = let_in_on_demand(count);
        edge.registry.put(&binding(&device(0), "suspended"));
        change_history(&mut edge);
        // They come before the guard's next tick.
        let open = take_all_calls(&mut edge);
        for _ in 0..5 {
            edge.guard.tick();
        }
        for stream in &streams {
            assert!(edge.guard.fate(*stream).is_forwarded());
        }
        for call in open {
            edge.answer_lookup(&call);
        }
        edge.guard.tick();
        let mut asked = BTreeSet::new();
        while let Some(call) = edge.lookups().pop() {
            asked.insert(call.path.clone());
            edge.answer_lookup(&call);
        }
        assert_eq!(asked.len(), count);
        for (number, stream) in streams.iter().enumerate() {
            assert_eq!(edge.guard.fate(*stream) == Fate::Reset, number == 0);
        }
    }
}

#[test]
fn a_request_under_way_is_cut_where_the_registry_cannot_be_asked_for_too_long() {
    let (mut edge, streams) = let_in_on_demand(1);
    change_history(&mut edge);
    take_all_calls(&mut edge);
    // A step of the clock is no time.
    edge.guard.tick();
    edge.world.pass(seconds(60));
    for _ in 1..300 {
        edge.guard.tick();
    }
    assert!(edge.guard.fate(streams[0]).is_forwarded());
    edge.guard.tick();
    assert_eq!(edge.guard.fate(streams[0]), Fate::Reset);
}

#[test]
fn a_request_whose_binding_has_ended_waits_a_second_for_a_call() {
    let ends = |edge: &Edge| Some(edge.world.now().after(seconds(40)));
    let (mut edge, streams) = let_in_on_demand_until(10, &ends);
    change_history(&mut edge);
    take_all_calls(&mut edge);
    for _ in 0..200 {
        edge.guard.tick();
    }
    let cut = |edge: &Edge| {
        let fates = streams.iter().map(|stream| edge.guard.fate(*stream));
        fates.filter(|fate| *fate == Fate::Reset).count()
    };
    edge.world.pass(seconds(20));
    for _ in 0..10 {
        edge.guard.tick();
    }
    assert_eq!(cut(&edge), 0);
    edge.guard.tick();
    assert_eq!(cut(&edge), 10);
}

/// Answers every open lookup so, and gives how many there were.
fn answer_all(edge: &mut Edge, status: u16) -> usize {
    let open = edge.lookups();
    for call in &open {
        edge.guard.answer(call, Some(status), b"");
    }
    open.len()
}

#[test]
fn a_request_under_way_outlives_a_lookup_that_fails() {
    for status in [503, 504, 500] {
        let (mut edge, streams) = let_in_on_demand(10);
        edge.registry.put(&binding(&device(0), "suspended"));
        change_history(&mut edge);
        for _ in 0..5 {
            edge.guard.tick();
            assert_eq!(answer_all(&mut edge, status), 4);
            assert!(edge.lookups().is_empty(), "not before the next tick");
        }
        for stream in &streams {
            assert!(edge.guard.fate(*stream).is_forwarded());
        }
        edge.guard.tick();
        while let Some(call) = edge.lookups().pop() {
            edge.answer_lookup(&call);
        }
        for (number, stream) in streams.iter().enumerate() {
            assert_eq!(edge.guard.fate(*stream) == Fate::Reset, number == 0);
        }
    }
}

#[test]
fn a_request_under_way_is_cut_where_lookups_fail_for_too_long() {
    let (mut edge, streams) = let_in_on_demand(1);
    change_history(&mut edge);
    for _ in 0..=300 {
        assert!(edge.guard.fate(streams[0]).is_forwarded());
        edge.guard.tick();
        assert_eq!(answer_all(&mut edge, 504), 1);
    }
    assert_eq!(edge.guard.fate(streams[0]), Fate::Reset);
}

#[test]
fn what_is_known_against_a_request_is_not_forgotten_by_a_call() {
    let ends = |edge: &Edge| Some(edge.world.now().after(seconds(90)));
    // It ends, or its device changes, while it is asked about.
    for (passes, changes) in [(0, false), (75, false), (0, true)] {
        let (mut edge, streams) = let_in_on_demand_until(1, &ends);
        change_history(&mut edge);
        edge.guard.tick();
        let call = edge.lookups().pop().unwrap();
        let answer = edge.registry.lookup(&device(0), edge.world.now());
        edge.world.pass(seconds(passes));
        if changes {
            edge.registry.put(&binding(&device(0), "suspended"));
            edge.sync.tick();
            for call in edge.sync.host().calls() {
                let body = edge.registry.feed(&call.path, edge.world.now());
                edge.sync.answer(&call, Some(200), &body);
            }
        }
        edge.guard.tick();
        // What it says is of a history that is gone by then, and the next call is refused.
        change_history(&mut edge);
        edge.guard.host().most_calls(0);
        edge.guard.answer(&call, Some(200), &answer);
        for _ in 0..10 {
            assert!(edge.guard.fate(streams[0]).is_forwarded());
            edge.guard.tick();
        }
        let known = passes > 0 || changes;
        assert_eq!(edge.guard.fate(streams[0]) == Fate::Reset, known);
    }
}

#[test]
fn who_changes_while_it_is_asked_about_goes_on_for_a_second_or_until_that_call_ends() {
    for ends_after in [3, 9, 10] {
        let (mut edge, streams) = let_in_on_demand(1);
        change_history(&mut edge);
        edge.guard.tick();
        let call = edge.lookups().pop().unwrap();
        edge.registry.put(&binding(&device(0), "suspended"));
        edge.sync.tick();
        for call in edge.sync.host().calls() {
            let body = edge.registry.feed(&call.path, edge.world.now());
            edge.sync.answer(&call, Some(200), &body);
        }
        edge.guard.tick();
        // It was known in that tick that something is against it.
        for _ in 0..ends_after {
            edge.guard.tick();
            assert!(edge.guard.fate(streams[0]).is_forwarded());
        }
        if ends_after < 10 {
            edge.guard.host().most_calls(0);
        }
        // Once the second is over, no other call is made.
        edge.guard.answer(&call, Some(504), b"");
        assert!(edge.lookups().is_empty());
        for _ in ends_after..10 {
            assert!(edge.guard.fate(streams[0]).is_forwarded());
            edge.guard.tick();
        }
        assert_eq!(edge.guard.fate(streams[0]), Fate::Reset);
    }
}

#[test]
fn a_call_that_is_refused_is_tried_again_by_the_next_tick_and_once() {
    let (mut edge, streams) = let_in_on_demand(10);
    change_history(&mut edge);
    edge.guard.tick();
    let call = edge.lookups().pop().unwrap();
    let asked = call.path.rsplit('/').next().unwrap();
    let answer = edge.registry.lookup(asked, edge.world.now());
    edge.guard.host().most_calls(0);
    // What it says is of a history that is gone by then.
    change_history(&mut edge);
    edge.guard.answer(&call, Some(200), &answer);
    assert_eq!(edge.guard.host().refused_calls(), 1);
    for tick in 1..=5 {
        edge.guard.tick();
        assert_eq!(edge.guard.host().refused_calls(), 1 + tick);
    }
    assert!(
        streams
            .iter()
            .all(|one| edge.guard.fate(*one).is_forwarded())
    );
}

#[test]
fn of_calls_whose_callers_left_one_that_is_refused_is_enough_for_a_tick() {
    let mut edge = Edge::set_up(Setup {
        preload: false,
        capacity: 1_000,
        ..Setup::default()
    });
    edge.settle();
    let mut waiting = Vec::new();
    for serial in ["SN1", "SN2", "SN3"] {
        let request = common::reading().certificate(&edge.maker.device(serial));
        let caller = edge.guard.send(&request);
        waiting.push(edge.guard.send(&request));
        edge.guard.end(caller);
    }
    for call in edge.lookups() {
        edge.answer_lookup(&call);
    }
    edge.guard.host().most_calls(0);
    for tick in 1..=5 {
        edge.guard.tick();
        assert_eq!(edge.guard.host().refused_calls(), tick);
    }
    assert!(
        waiting
            .iter()
            .all(|one| edge.guard.fate(*one) == Fate::Paused)
    );
}

#[test]
fn who_changes_is_asked_about_with_others_and_none_is_cut_for_waiting() {
    let (mut edge, streams) = let_in_on_demand(100);
    change_history(&mut edge);
    edge.guard.tick();
    for number in 0..100 {
        edge.registry.put(&binding(&device(number), "active"));
    }
    edge.registry.put(&binding(&device(99), "suspended"));
    edge.sync.tick();
    for call in edge.sync.host().calls() {
        let body = edge.registry.feed(&call.path, edge.world.now());
        edge.sync.answer(&call, Some(200), &body);
    }
    edge.guard.tick();
    assert_eq!(edge.lookups().len(), 16);
    let mut asked = 0;
    while asked < 100 {
        let open = edge.lookups();
        assert!(open.len() <= 16, "{}", open.len());
        let mut answered = open.len();
        for call in open {
            edge.answer_lookup(&call);
            asked += 1;
            // An answer makes room at once.
            answered -= 1;
            assert_eq!(edge.lookups().len(), (100 - asked).min(16).max(answered));
        }
    }
    for (number, stream) in streams.iter().enumerate() {
        assert_eq!(edge.guard.fate(*stream) == Fate::Reset, number == 99);
    }
}

#[test]
fn who_waits_for_the_call_of_one_that_left_outlives_a_call_that_is_refused() {
    for comes_back in [true, false] {
        let mut edge = Edge::set_up(Setup {
            preload: false,
            capacity: 1_000,
            ..Setup::default()
        });
        edge.settle();
        edge.registry.put(&binding("acme:SN1", "active"));
        let request = common::reading().certificate(&edge.maker.device("SN1"));
        let caller = edge.guard.send(&request);
        let waits = edge.guard.send(&request);
        let abandoned = edge.lookups();
        assert_eq!(abandoned.len(), 1);
        edge.guard.end(caller);
        edge.answer_lookup(&abandoned[0]);
        edge.guard.host().most_calls(0);
        edge.guard.tick();
        assert_eq!(edge.guard.fate(waits), Fate::Paused);
        if comes_back {
            edge.guard.host().most_calls(32);
            edge.guard.tick();
            let call = edge.lookups().pop().unwrap();
            edge.answer_lookup(&call);
            assert!(edge.guard.fate(waits).is_forwarded());
            continue;
        }
        for _ in 0..30 {
            edge.guard.tick();
        }
        let refused = edge.guard.fate(waits);
        assert!(
            format!("{refused:?}").contains("lookup_failed"),
            "{refused:?}"
        );
    }
}

#[test]
fn two_refused_calls_half_a_minute_apart_cut_nobody_who_was_not_asked_about() {
    let (mut edge, streams) = let_in_on_demand(200);
    change_history(&mut edge);
    // Envoy refuses one call.
    edge.guard.host().most_calls(0);
    edge.guard.tick();
    edge.guard.host().most_calls(32);
    for _ in 0..31 {
        // The registry takes a second.
        for _ in 0..10 {
            edge.guard.tick();
        }
        let open = edge.lookups();
        assert_eq!(open.len(), 4);
        for call in open {
            edge.answer_lookup(&call);
        }
    }
    // It refuses another.
    let open = edge.lookups();
    edge.guard.host().most_calls(0);
    edge.answer_lookup(&open[0]);
    edge.guard.tick();
    for stream in &streams {
        assert!(edge.guard.fate(*stream).is_forwarded());
    }
}
