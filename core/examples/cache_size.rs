//! How large is the cache? Fills it with made-up bindings and prints octets for each, the largest
//! bucket, and what a change of history costs.
//!
//! `cargo run --release -p medbind-core --example cache_size [DEVICES]`, 1,000,000 by default.

use core::time::Duration;

use medbind_core::binding::{Binding, BindingState, Epoch, Pins};
use medbind_core::cache::{Cache, Candidate, MemorySharedData, RegistryAddress};
use medbind_core::feed::{FeedHeader, binding_line};
use medbind_core::sync::{SyncAction, SyncResponse, SyncSettings, Synchroniser};
use medbind_core::time::Timestamp;

/// Envoy's host keeps a value in a node of a hash map: two strings of 32 octets, the cas, the hash
/// and a link, and the allocator's rounding.
const OCTETS_A_KEY: usize = 128;
const PAGE: u64 = 2_000;

fn main() {
    let devices = std::env::args()
        .nth(1)
        .map_or(1_000_000, |text| text.parse().expect("a number of devices"));
    let store = MemorySharedData::new();
    let settings = SyncSettings::new(
        RegistryAddress {
            cluster: "registry".into(),
            authority: "registry.example".into(),
        },
        Candidate::Singleton,
        true,
        u32::try_from(devices).expect("at most 4,294,967,295 devices"),
        Duration::from_mins(15),
    );
    let mut synchroniser = Synchroniser::new(settings, 1, 1);
    let now = Timestamp::from_unix_seconds(1_795_537_200);
    #[expect(clippy::cast_precision_loss, reason = "figures for people")]
    let report = |what: &str| {
        let octets = store.octets();
        let host = octets + store.keys() * OCTETS_A_KEY;
        println!(
            "{what:28} {:6.1} octets a device, {:7.1} MiB with the host's own, largest bucket {} octets",
            octets as f64 / devices as f64,
            host as f64 / f64::from(1 << 20),
            store.largest()
        );
    };
    let actions = synchroniser.on_tick(now, &store);
    let actions = load(&mut synchroniser, &store, now, "f1", devices, actions);
    report("one history");
    println!(
        "{:28} {}",
        "",
        Cache::new(&store)
            .view()
            .expect("a view")
            .active()
            .expect("a history")
    );

    // The same devices with other revisions: the worst a change of history can be.
    let SyncAction::Fetch { id, .. } = fetch(actions) else {
        return;
    };
    let gone = SyncResponse::Answer {
        status: 410,
        retry_after: None,
        body: b"",
    };
    let actions = synchroniser.on_response(now, &store, id, gone);
    load(&mut synchroniser, &store, now, "f2", devices, actions);
    report("two histories, all different");
    for tick in 1..200 {
        synchroniser.on_tick(now.after(Duration::from_millis(tick * 100)), &store);
    }
    report("after the sweep");
}

fn fetch(actions: Vec<SyncAction>) -> SyncAction {
    actions
        .into_iter()
        .find(|action| matches!(action, SyncAction::Fetch { .. }))
        .expect("a call")
}

/// Plays the registry until the whole history has been read; what is asked next is handed back.
fn load(
    synchroniser: &mut Synchroniser,
    store: &MemorySharedData,
    now: Timestamp,
    feed: &str,
    devices: u64,
    mut actions: Vec<SyncAction>,
) -> Vec<SyncAction> {
    let mut done = 0;
    while done < devices {
        let SyncAction::Fetch { id, .. } = fetch(actions) else {
            return Vec::new();
        };
        let upto = (done + PAGE).min(devices);
        let header = FeedHeader {
            feed: feed.parse().expect("a name"),
            version: 1,
            cursor: format!("c{upto}").parse().expect("a cursor"),
            more: upto < devices,
            head: devices * 2,
            count: u32::try_from(upto - done).expect("a page"),
            time: now,
        };
        let mut body = header.to_line();
        for n in done..upto {
            body.extend(binding_line(&binding(
                n,
                if feed == "f1" { 1 } else { devices },
            )));
        }
        let response = SyncResponse::Answer {
            status: 200,
            retry_after: None,
            body: &body,
        };
        actions = synchroniser.on_response(now, store, id, response);
        done = upto;
    }
    actions
}

fn binding(n: u64, first: u64) -> Binding {
    Binding {
        device: format!("acme:SN{n:07}").parse().expect("a device"),
        state: BindingState::Active,
        account: Some(format!("acc-{n:07}").parse().expect("an account")),
        class: Some("infusion_pump".parse().expect("a class")),
        epoch: Epoch::FIRST,
        expires_at: None,
        pins: Pins::default(),
        revision: first + n,
    }
}
