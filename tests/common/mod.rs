//! An edge of the tests: a guard and a synchroniser in one fake Envoy, a registry in memory, and the
//! certificates of two makers.
#![allow(
    dead_code,
    reason = "each test binary takes what it needs of this module"
)]

use std::collections::BTreeMap;
use std::time::Duration;

use medbind_core::binding::Binding;
use medbind_core::feed::{FEED_VERSION, FeedHeader, binding_line};
use medbind_core::time::Timestamp;
use medbind_filter::testing::{FakeCall, FakeEnvoy, FakeHost, FakeRequest, World};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, KeyUsagePurpose,
    SerialNumber,
};

/// A maker's CA.
pub struct Maker(CertifiedIssuer<'static, KeyPair>);

/// The time at which the tests begin.
pub fn start() -> Timestamp {
    "2026-11-24T16:20:00Z".parse().unwrap()
}

pub fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

impl Maker {
    pub fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let key = KeyPair::generate().unwrap();
        Self(CertifiedIssuer::self_signed(params, key).unwrap())
    }

    pub fn pem(&self) -> String {
        self.0.pem()
    }

    /// A device's certificate (DER): serial number in the subject, valid from 2026 to 2028.
    pub fn device(&self, serial: &str) -> Vec<u8> {
        self.device_until(serial, 2028)
    }

    /// One that ends with the year before `year`.
    pub fn device_until(&self, serial: &str, year: i32) -> Vec<u8> {
        let mut params = CertificateParams::default();
        let name = DnType::CustomDnType(vec![2, 5, 4, 5]);
        params.distinguished_name.push(name, serial);
        params.not_before = rcgen::date_time_ymd(2026, 1, 1);
        params.not_after = rcgen::date_time_ymd(year, 1, 1);
        let key = KeyPair::generate().unwrap();
        params.signed_by(&key, &self.0).unwrap().der().to_vec()
    }

    /// As many different certificates as wanted, all under one key: cheap to make.
    pub fn many(&self, serial: &str, count: u32) -> impl Iterator<Item = Vec<u8>> {
        let key = KeyPair::generate().unwrap();
        (0..count).map(move |number| {
            let mut params = CertificateParams::default();
            let name = DnType::CustomDnType(vec![2, 5, 4, 5]);
            params.distinguished_name.push(name, serial);
            params.serial_number = Some(SerialNumber::from(u64::from(number) + 1));
            params.signed_by(&key, &self.0).unwrap().der().to_vec()
        })
    }
}

/// What the registry would answer.
#[derive(Default)]
pub struct Registry {
    records: BTreeMap<String, Binding>,
    revision: u64,
    restored: u32,
}

impl Registry {
    pub fn put(&mut self, json: &serde_json::Value) {
        self.revision += 1;
        let mut json = json.clone();
        json["revision"] = self.revision.into();
        let binding: Binding =
            match medbind_core::feed::FeedRecord::parse_line(&serde_json::to_vec(&json).unwrap()) {
                medbind_core::feed::FeedRecord::Binding(binding) => binding,
                other @ medbind_core::feed::FeedRecord::Unrecognised { .. } => panic!("{other:?}"),
            };
        self.records.insert(binding.device.to_string(), binding);
    }

    /// As if it had never known it.
    pub fn forget(&mut self, device: &str) {
        self.records.remove(device);
    }

    /// From now on it is one of another history, with the same records.
    pub fn restore(&mut self) {
        self.restored += 1;
    }

    fn answer(&self, records: &[&Binding], now: Timestamp) -> Vec<u8> {
        let header = FeedHeader {
            feed: format!("history-{}", 1 + self.restored).parse().unwrap(),
            version: FEED_VERSION,
            cursor: format!("c{}", self.revision).parse().unwrap(),
            more: false,
            head: self.revision,
            count: u32::try_from(records.len()).unwrap(),
            time: now,
        };
        let mut body = header.to_line();
        for record in records {
            body.extend(binding_line(record));
        }
        body
    }

    /// The feed's answer to this path.
    pub fn feed(&self, path: &str, now: Timestamp) -> Vec<u8> {
        let cursor = path
            .split(['?', '&'])
            .find_map(|p| p.strip_prefix("cursor=c"));
        let after: u64 = cursor.map_or(0, |revision| revision.parse().unwrap());
        let mut records: Vec<_> = self
            .records
            .values()
            .filter(|r| r.revision > after)
            .collect();
        if path.contains("limit=0") {
            records.clear();
        }
        records.sort_by_key(|record| record.revision);
        self.answer(&records, now)
    }

    /// The lookup's answer.
    pub fn lookup(&self, device: &str, now: Timestamp) -> Vec<u8> {
        let record: Vec<_> = self.records.get(device).into_iter().collect();
        self.answer(&record, now)
    }
}

/// A binding as the feed has it.
pub fn binding(device: &str, state: &str) -> serde_json::Value {
    let account = (state != "unclaimed").then_some("acc-1");
    serde_json::json!({
        "device": device, "account": account, "state": state, "class": "cgm", "epoch": 3,
    })
}

/// The key under which the pseudonyms of the tests are made.
pub fn pseudonym_key() -> medbind_core::pseudonym::PseudonymKey {
    medbind_core::pseudonym::PseudonymKey::new("k1", [7; 32]).unwrap()
}

/// One Envoy, its registry, and the makers of its devices.
pub struct Edge {
    pub world: World,
    pub maker: Maker,
    pub stranger: Maker,
    pub registry: Registry,
    pub sync: FakeEnvoy,
    pub guard: FakeEnvoy,
}

/// What is done to a host before the guard starts on it.
pub type Prepare = Box<dyn FnOnce(&FakeHost)>;

/// How an edge is set up.
pub struct Setup {
    pub preload: bool,
    /// Of the cache, by the synchroniser's configuration.
    pub capacity: u32,
    pub guard: serde_json::Value,
    pub host: Option<Prepare>,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            preload: true,
            capacity: 10_000,
            guard: serde_json::json!({}),
            host: None,
        }
    }
}

/// The rules of the tests, without certificates.
pub fn guard_settings() -> serde_json::Value {
    serde_json::json!({
        "role": "http",
        "accounts": [{"issuer": "https://login.example"}],
        "rules": [
            {"path": "/v1/devices/{device}/readings", "methods": ["POST", "GET"],
             "principals": ["device"], "tags": {"traffic": "phi"}},
            {"path": "/v1/devices/{device}/**", "principals": ["device", "account"]},
            {"path": "/v1/accounts/{account}", "principals": ["account"]},
            {"path": "/healthz", "principals": ["anyone"]},
        ],
        "ready_path": "/ready",
        "bindings": {"max_stale": "15m"},
    })
}

pub fn sync_settings(preload: bool) -> serde_json::Value {
    serde_json::json!({
        "role": "sync",
        "registry": {"cluster": "registry", "authority": "registry.example"},
        "bindings": {"preload": preload, "capacity": 10_000},
    })
}

impl Edge {
    /// With the first snapshot loaded: `acme:SN1` is active, and its account is `acc-1`.
    pub fn new() -> Self {
        let mut edge = Self::set_up(Setup::default());
        edge.registry.put(&binding("acme:SN1", "active"));
        edge.settle();
        edge
    }

    /// Nothing loaded yet.
    pub fn set_up(setup: Setup) -> Self {
        let world = World::at(start());
        let maker = Maker::new("Acme Device CA");
        let mut settings = sync_settings(setup.preload);
        settings["bindings"]["capacity"] = setup.capacity.into();
        let sync = FakeEnvoy::start(&world, &settings.to_string()).unwrap();
        let host = FakeHost::new(&world);
        if let Some(prepare) = setup.host {
            prepare(&host);
        }
        let mut settings = guard_settings();
        settings["issuers"] = serde_json::json!([{
            "namespace": "acme",
            "certificates": [maker.pem()],
            "identity": [{"source": "subject.serial_number"}],
        }]);
        if let Some(more) = setup.guard.as_object() {
            for (key, value) in more {
                settings[key] = value.clone();
            }
        }
        let guard = FakeEnvoy::start_with(host, &settings.to_string()).unwrap();
        Self {
            stranger: Maker::new("Acme Device CA"),
            world,
            maker,
            registry: Registry::default(),
            sync,
            guard,
        }
    }

    /// The synchroniser and the guard do what there is to do: a change is in force afterwards.
    pub fn settle(&mut self) {
        self.settle_without_key();
        self.answer_key();
    }

    /// The same, but the call for the pseudonyms' key waits.
    pub fn settle_without_key(&mut self) {
        for _ in 0..4 {
            self.world.pass(Duration::from_millis(100));
            self.sync.tick();
            for call in self.sync.host().calls() {
                let body = self.registry.feed(&call.path, self.world.now());
                self.sync.answer(&call, Some(200), &body);
            }
            self.guard.tick();
        }
    }

    /// Answers the guard's call for the pseudonyms' key, where there is one.
    pub fn answer_key(&mut self) {
        if let Some(call) = self.guard.call("/v1/edge/pseudonym-key") {
            let body = pseudonym_key().to_json();
            self.guard.answer(&call, Some(200), body.as_bytes());
        }
    }

    /// Changes a device's record, and lets it come into force.
    pub fn change(&mut self, device: &str, state: &str) {
        self.registry.put(&binding(device, state));
        self.settle();
    }

    /// The guard's lookups that wait for an answer.
    pub fn lookups(&self) -> Vec<FakeCall> {
        let mut calls = self.guard.host().calls();
        calls.retain(|call| call.path.starts_with("/v1/feed/devices/"));
        calls
    }

    /// Answers a lookup as the registry does.
    pub fn answer_lookup(&mut self, call: &FakeCall) {
        let device = call.path.strip_prefix("/v1/feed/devices/").unwrap();
        let body = self.registry.lookup(device, self.world.now());
        self.guard.answer(call, Some(200), &body);
    }

    pub fn decisions(&self, code: &str) -> u64 {
        let name = format!("medbind_decisions.mode.enforce.code.{code}");
        self.world.metric(&name)
    }
}

/// A reading of `acme:SN1`.
pub fn reading() -> FakeRequest {
    FakeRequest::new("POST", "/v1/devices/acme:SN1/readings").header("x-request-id", "r-1")
}
