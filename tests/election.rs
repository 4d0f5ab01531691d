//! Who synchronises where there is no singleton, and who takes over.

mod common;

use std::time::Duration;

use common::{Maker, Registry, binding, guard_settings, reading, start, sync_settings};
use medbind_filter::testing::{FakeEnvoy, World};
use serde_json::json;

struct Fleet {
    world: World,
    registry: Registry,
    workers: Vec<FakeEnvoy>,
    certificate: Vec<u8>,
}

impl Fleet {
    fn new(count: usize) -> Self {
        let world = World::at(start());
        let maker = Maker::new("Acme Device CA");
        let mut settings = guard_settings();
        settings["issuers"] = json!([{
            "namespace": "acme",
            "certificates": [maker.pem()],
            "identity": [{"source": "subject.serial_number"}],
        }]);
        settings["registry"] = json!({"cluster": "registry", "authority": "registry.example"});
        let worker = |_| FakeEnvoy::start(&world, &settings.to_string()).unwrap();
        let mut registry = Registry::default();
        registry.put(&binding("acme:SN1", "active"));
        Self {
            workers: (0..count).map(worker).collect(),
            certificate: maker.device("SN1"),
            world,
            registry,
        }
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
    // It traps, and does not come back.
    edge.workers.remove(leaders[0]);
    edge.registry.put(&binding("acme:SN1", "suspended"));
    edge.run(Duration::from_secs(12));
    assert_eq!(edge.leaders().len(), 1);
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
