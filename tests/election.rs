//! Who synchronises where there is no singleton, and who takes over.

mod common;

use std::time::Duration;

use common::{Maker, Registry, binding, guard_settings, reading, start, sync_settings};
use medbind_filter::testing::{FakeEnvoy, World};
use serde_json::json;

struct Fleet {
    world: World,
    maker: Maker,
    registry: Registry,
    threads: usize,
    workers: Vec<FakeEnvoy>,
    certificate: Vec<u8>,
}

impl Fleet {
    fn new(threads: usize) -> Self {
        let maker = Maker::new("Acme Device CA");
        let mut registry = Registry::default();
        registry.put(&binding("acme:SN1", "active"));
        let mut fleet = Self {
            threads,
            workers: Vec::new(),
            certificate: maker.device("SN1"),
            world: World::at(start()),
            maker,
            registry,
        };
        fleet.deploy(&fleet.at("registry", 1));
        fleet
    }

    /// A configuration with its registry at this cluster, and something else that is no matter of the
    /// synchroniser's.
    fn at(&self, cluster: &str, other: u32) -> String {
        let mut settings = guard_settings();
        settings["registry"] = json!({"cluster": cluster, "authority": "registry.example"});
        settings["issuers"] = json!([{
            "namespace": "acme",
            "certificates": [self.maker.pem()],
            "identity": [{"source": "subject.serial_number"}],
        }]);
        settings["bindings"]["max_waiting"] = json!(1_000 + other);
        settings.to_string()
    }

    /// The host gets this configuration, and keeps those before, their ticks too, for as long as
    /// requests are under way that they let in. Where one with the same octets is still there, it
    /// goes on with that one and tells it nothing.
    fn deploy(&mut self, configuration: &str) {
        let workers = self.workers.iter();
        let there = workers.filter(|worker| worker.is_configured_by(configuration));
        for _ in there.count()..self.threads {
            let worker = FakeEnvoy::start(&self.world, configuration).unwrap();
            self.workers.push(worker);
        }
    }

    /// What all other configurations have let in is over.
    fn drain_all_but(&mut self, configuration: &str) {
        self.workers
            .retain(|worker| worker.is_configured_by(configuration));
    }

    /// Every worker ticks for so long; the registry answers whoever asks.
    fn run(&mut self, span: Duration) {
        let end = self.world.now().after(span);
        while self.world.now() < end {
            self.world.pass(Duration::from_millis(100));
            for worker in &mut self.workers {
                worker.tick();
                for call in worker.host().calls() {
                    if call.path.starts_with("/v1/feed?") {
                        let body = self.registry.feed(&call.path, self.world.now());
                        worker.answer(&call, Some(200), &body);
                    }
                }
            }
        }
    }

    fn leaders(&self) -> Vec<usize> {
        let leads = |worker: &FakeEnvoy| worker.root().synchroniser().unwrap().is_leader();
        let workers = self.workers.iter().enumerate();
        workers
            .filter(|(_, w)| leads(w))
            .map(|(place, _)| place)
            .collect()
    }

    fn code(&mut self, worker: usize) -> Option<String> {
        let request = reading().certificate(&self.certificate);
        let fate = self.workers[worker].request(&request);
        if fate.is_forwarded() {
            None
        } else {
            fate.code()
        }
    }
}

#[test]
fn one_worker_synchronises_for_all_and_another_takes_over() {
    let mut edge = Fleet::new(3);
    edge.run(Duration::from_secs(2));
    // A singleton may still come.
    assert_eq!(edge.leaders().len(), 0);
    assert_eq!(edge.code(0).as_deref(), Some("bindings_unavailable"));
    edge.run(Duration::from_secs(10));
    let leaders = edge.leaders();
    assert_eq!(leaders.len(), 1);
    for worker in 0..3 {
        assert_eq!(edge.code(worker), None);
    }
    assert_eq!(edge.world.metric("medbind_bindings"), 1);
    assert_eq!(edge.world.metric("medbind_leader_term"), 1);
    // It traps, and does not come back.
    edge.workers.remove(leaders[0]).trap();
    edge.registry.put(&binding("acme:SN1", "suspended"));
    edge.run(Duration::from_secs(12));
    assert_eq!(edge.leaders().len(), 1);
    assert_eq!(edge.world.metric("medbind_leader_term"), 2);
    for worker in 0..2 {
        assert_eq!(edge.code(worker).as_deref(), Some("binding_suspended"));
    }
}

#[test]
fn a_worker_gives_way_to_a_singleton() {
    let mut edge = Fleet::new(2);
    edge.run(Duration::from_secs(10));
    assert_eq!(edge.leaders().len(), 1);
    let singleton = FakeEnvoy::start(&edge.world, &sync_settings(true).to_string()).unwrap();
    edge.workers.push(singleton);
    edge.run(Duration::from_secs(10));
    assert_eq!(edge.leaders(), [2]);
    assert_eq!(edge.code(0), None);
}

#[test]
fn while_a_singleton_beats_no_worker_asks_the_registry_for_the_feed() {
    let mut edge = Fleet::new(2);
    let singleton = FakeEnvoy::start(&edge.world, &sync_settings(true).to_string()).unwrap();
    edge.workers.insert(0, singleton);
    edge.run(Duration::from_secs(20));
    assert_eq!(edge.leaders(), [0]);
    for worker in &edge.workers[1..] {
        let calls = worker.host().calls();
        assert!(calls.iter().all(|call| !call.path.starts_with("/v1/feed?")));
    }
}

/// The clusters that the feed was asked of since it was last looked.
fn asked(edge: &Fleet) -> Vec<String> {
    let calls = edge.workers.iter().flat_map(|worker| worker.host().calls());
    calls
        .filter(|call| call.path.starts_with("/v1/feed?"))
        .map(|call| call.cluster)
        .collect()
}

#[test]
fn workers_of_a_new_configuration_take_over_from_those_that_drain() {
    let mut edge = Fleet::new(2);
    edge.run(Duration::from_secs(10));
    assert_eq!(edge.leaders().len(), 1);
    assert_eq!(edge.world.metric("medbind_bindings"), 1);
    // The registry has moved.
    edge.deploy(&edge.at("registry-2", 1));
    edge.run(Duration::from_millis(200));
    let leaders = edge.leaders();
    assert_eq!(leaders.len(), 1);
    assert!(leaders[0] >= 2, "{leaders:?}");
    // The old one's long poll is under way; it is answered, to no avail, and not made again.
    let before = asked(&edge);
    assert!(before.contains(&"registry-2".to_owned()), "{before:?}");
    edge.run(Duration::from_mins(1));
    assert_eq!(edge.leaders(), leaders);
    assert_eq!(asked(&edge), ["registry-2"]);
    // Where the new ones trap, what is left goes on.
    for worker in edge.workers.drain(2..) {
        worker.trap();
    }
    edge.run(Duration::from_secs(12));
    assert_eq!(edge.leaders().len(), 1);
    assert_eq!(edge.code(0), None);
}

#[test]
fn who_goes_back_to_a_configuration_that_still_drains_changes_an_octet_of_it() {
    let mut edge = Fleet::new(2);
    edge.run(Duration::from_secs(10));
    edge.deploy(&edge.at("registry-2", 1));
    edge.run(Duration::from_millis(200));
    let withdrawn = edge.leaders();
    assert!(withdrawn[0] >= 2, "{withdrawn:?}");
    // The same octets: nothing tells the first ones that they are the newest again.
    edge.deploy(&edge.at("registry", 1));
    assert_eq!(edge.workers.len(), 4);
    edge.run(Duration::from_secs(10));
    assert_eq!(edge.leaders(), withdrawn);
    // The way out.
    edge.deploy(&edge.at("registry", 2));
    edge.run(Duration::from_millis(200));
    let leaders = edge.leaders();
    assert!(leaders[0] >= 4, "{leaders:?}");
    assert!(asked(&edge).contains(&"registry".to_owned()));
}

#[test]
fn where_a_withdrawn_configuration_has_drained_the_one_before_leads_at_once() {
    let mut edge = Fleet::new(2);
    edge.run(Duration::from_secs(10));
    edge.deploy(&edge.at("registry-2", 1));
    edge.run(Duration::from_millis(200));
    let first = edge.at("registry", 1);
    edge.deploy(&first);
    edge.drain_all_but(&first);
    edge.run(Duration::from_millis(200));
    assert_eq!(edge.leaders().len(), 1);
    assert!(asked(&edge).contains(&"registry".to_owned()));
}

#[test]
fn the_place_of_a_worker_that_ends_goes_to_its_like_and_to_no_older_one() {
    let mut edge = Fleet::new(3);
    edge.run(Duration::from_secs(10));
    edge.deploy(&edge.at("registry-2", 1));
    edge.run(Duration::from_millis(200));
    for left in [2, 1] {
        let leaders = edge.leaders();
        assert!(leaders[0] >= 3, "{leaders:?}");
        drop(edge.workers.remove(leaders[0]));
        // The older ones have their tick first.
        edge.run(Duration::from_millis(100));
        let leaders = edge.leaders();
        assert!(leaders.len() == 1 && leaders[0] >= 3, "{left}: {leaders:?}");
        edge.run(Duration::from_millis(100));
    }
    drop(edge.workers.remove(3));
    edge.run(Duration::from_millis(200));
    assert_eq!(edge.leaders().len(), 1);
}

#[test]
fn the_same_configuration_once_more_takes_nothing_over() {
    let mut edge = Fleet::new(2);
    edge.run(Duration::from_secs(10));
    let leaders = edge.leaders();
    edge.deploy(&edge.at("registry", 2));
    assert_eq!(edge.workers.len(), 4);
    edge.run(Duration::from_secs(10));
    assert_eq!(edge.leaders(), leaders);
}

#[test]
fn where_the_leader_has_drained_another_leads_at_once() {
    let mut edge = Fleet::new(2);
    edge.run(Duration::from_secs(10));
    let next = edge.at("registry", 2);
    edge.deploy(&next);
    edge.run(Duration::from_millis(200));
    assert!(edge.leaders()[0] < 2);
    edge.drain_all_but(&next);
    edge.registry.put(&binding("acme:SN1", "suspended"));
    edge.run(Duration::from_millis(300));
    assert_eq!(edge.leaders().len(), 1);
    for worker in 0..2 {
        assert_eq!(edge.code(worker).as_deref(), Some("binding_suspended"));
    }
}

#[test]
fn a_root_context_that_is_configured_again_goes_by_the_new_registry() {
    let mut edge = Fleet::new(1);
    edge.run(Duration::from_secs(10));
    let moved = edge.at("registry-2", 1);
    assert!(edge.workers[0].configure_again(&moved));
    edge.run(Duration::from_millis(200));
    assert_eq!(edge.leaders(), [0]);
    assert!(asked(&edge).contains(&"registry-2".to_owned()));
}
