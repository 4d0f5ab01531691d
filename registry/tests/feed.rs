//! What edges learn: pages, the long poll, heartbeats, forks, the lookup.
mod common;

use std::time::Duration;

use common::{Registry, device, devices};
use medbind_core::binding::BindingState;
use medbind_core::feed::FeedPage;
use reqwest::{Method, StatusCode};
use serde_json::Value;
use tokio::time::Instant;

async fn all_pages(caller: &common::Caller, limit: u32) -> Vec<FeedPage> {
    let mut pages: Vec<FeedPage> = vec![caller.feed(&format!("?limit={limit}")).await];
    while pages.last().unwrap().header.more {
        let cursor = pages.last().unwrap().header.cursor.clone();
        pages.push(
            caller
                .feed(&format!("?limit={limit}&cursor={cursor}"))
                .await,
        );
    }
    pages
}

#[tokio::test]
async fn a_snapshot_is_the_newest_state_of_each_device_in_pages() {
    let registry = Registry::new().await;
    let (operator, edge) = (registry.operator(), registry.edge());
    let empty = edge.feed("").await;
    assert_eq!(
        (empty.header.count, empty.header.head, empty.header.more),
        (0, 0, false)
    );
    operator.enrol(&devices(0..10)).await;
    operator.act("acme:SN3", "suspend").await;
    let pages = all_pages(&edge, 4).await;
    let counts: Vec<u32> = pages.iter().map(|page| page.header.count).collect();
    assert_eq!(counts, [4, 4, 2]);
    let found: Vec<(String, u64)> = pages
        .iter()
        .flat_map(|page| &page.bindings)
        .map(|binding| (binding.device.serial().to_owned(), binding.revision))
        .collect();
    let expected: Vec<(String, u64)> = [0, 1, 2, 4, 5, 6, 7, 8, 9]
        .iter()
        .map(|n| (format!("SN{n}"), n + 1))
        .chain([("SN3".to_owned(), 11)])
        .collect();
    assert_eq!(found, expected);
    assert!(pages.iter().all(|page| page.header.head == 11));
    // A cursor of the empty history leads to everything, too.
    let cursor = empty.header.cursor;
    assert_eq!(
        edge.feed(&format!("?cursor={cursor}")).await.header.count,
        10
    );
    // A change in the middle of a snapshot comes at its end.
    let first = edge.feed("?limit=5").await;
    operator.act("acme:SN0", "suspend").await;
    let rest = edge
        .feed(&format!("?limit=5000&cursor={}", first.header.cursor))
        .await;
    let last = rest.bindings.last().unwrap();
    assert_eq!(
        (last.device.serial(), last.state),
        ("SN0", BindingState::Suspended)
    );
}

#[tokio::test]
async fn without_records_the_head_is_answered() {
    let registry = Registry::new().await;
    let (operator, edge) = (registry.operator(), registry.edge());
    operator.enrol(&[device(1), device(2)]).await;
    let page = edge.feed("?limit=0").await;
    assert_eq!((page.header.count, page.header.more), (0, false));
    assert_eq!(page.position, 2);
    operator.act("acme:SN1", "suspend").await;
    let cursor = page.header.cursor;
    let after = edge.feed(&format!("?cursor={cursor}")).await;
    assert_eq!(after.bindings.len(), 1, "what came before is passed over");
}

#[tokio::test]
async fn a_change_wakes_everybody_who_waits_and_silence_is_a_heartbeat() {
    let registry = Registry::new().await;
    let (operator, edge) = (registry.operator(), registry.edge());
    operator.enrol(&[device(1)]).await;
    let head = edge.feed("").await.header;
    let begun = Instant::now();
    let beat = edge
        .feed(&format!("?cursor={}&wait=300ms", head.cursor))
        .await
        .header;
    assert!(begun.elapsed() >= Duration::from_millis(300));
    assert_eq!(
        (beat.count, beat.more, &beat.cursor),
        (0, false, &head.cursor)
    );
    assert!(beat.time >= head.time);
    let polls: Vec<_> = (0..50)
        .map(|_| {
            let (edge, cursor) = (edge.clone(), head.cursor.clone());
            tokio::spawn(async move { edge.feed(&format!("?cursor={cursor}&wait=30s")).await })
        })
        .collect();
    tokio::time::sleep(Duration::from_millis(300)).await;
    let begun = Instant::now();
    assert_eq!(operator.act("acme:SN1", "revoke").await.0, StatusCode::OK);
    for poll in polls {
        let page = poll.await.unwrap();
        assert_eq!(page.bindings.len(), 1);
        assert_eq!(page.bindings[0].state, BindingState::Revoked);
    }
    assert!(
        begun.elapsed() < Duration::from_secs(5),
        "{:?}",
        begun.elapsed()
    );
}

#[tokio::test]
async fn a_stop_answers_those_who_wait() {
    let registry = Registry::new().await;
    let edge = registry.edge();
    let cursor = edge.feed("").await.header.cursor;
    let poll = tokio::spawn(async move { edge.feed(&format!("?cursor={cursor}&wait=30s")).await });
    tokio::time::sleep(Duration::from_millis(200)).await;
    let begun = Instant::now();
    let registry = registry.restart().await;
    assert!(
        begun.elapsed() < Duration::from_secs(5),
        "{:?}",
        begun.elapsed()
    );
    assert_eq!(poll.await.unwrap().header.count, 0);
    drop(registry);
}

#[tokio::test]
async fn an_answer_never_outgrows_its_bound() {
    let registry = Registry::new().await;
    let (operator, edge) = (registry.operator(), registry.edge());
    let pins: Vec<String> = (0..8).map(|n| format!("{n:02x}").repeat(32)).collect();
    let body: String = devices(0..2000)
        .iter()
        .map(|device| {
            let mut line: Value = serde_json::from_str(&device.line()).unwrap();
            line["pins"] = pins.clone().into();
            line.to_string() + "\n"
        })
        .collect();
    let answer = operator.import("application/x-ndjson", body).await;
    assert_eq!(answer.last().unwrap()["imported"], 2000);
    let pages = all_pages(&edge, 5000).await;
    assert!(pages.len() >= 2, "{}", pages.len());
    assert_eq!(
        pages.iter().map(|page| page.bindings.len()).sum::<usize>(),
        2000
    );
}

/// What a registry is after its database was put back from a copy.
async fn restore(registry: Registry, copy: &[u8]) -> Registry {
    let registry = registry.stop().await;
    let database = registry.dir.join("registry.sqlite");
    for left in ["sqlite-wal", "sqlite-shm"] {
        let _ = std::fs::remove_file(database.with_extension(left));
    }
    std::fs::write(&database, copy).unwrap();
    registry.start().await
}

#[tokio::test]
async fn a_restored_copy_does_not_know_the_cursors_of_the_history_that_went_on() {
    let registry = Registry::new().await;
    registry.operator().enrol(&devices(0..3)).await;
    let old = registry.edge().feed("").await.header.cursor;
    let registry = registry.restart().await;
    let copy = std::fs::read(registry.dir.join("registry.sqlite")).unwrap();
    registry.operator().act("acme:SN1", "revoke").await;
    let newer = registry.edge().feed("").await.header.cursor;

    let registry = restore(registry, &copy).await;
    let (operator, edge) = (registry.operator(), registry.edge());
    let gone = |cursor: String| {
        let edge = edge.clone();
        async move {
            let (status, body) = edge.get(&format!("/v1/feed?cursor={cursor}&wait=5s")).await;
            (status, body["code"].as_str().unwrap_or_default().to_owned())
        }
    };
    let unknown = (StatusCode::GONE, "cursor_unknown".to_owned());
    // Newer than the copy; then of the same revision, and of another past.
    assert_eq!(gone(newer.to_string()).await, unknown);
    operator.act("acme:SN1", "suspend").await;
    assert_eq!(gone(newer.to_string()).await, unknown);
    operator.act("acme:SN2", "suspend").await;
    assert_eq!(gone(newer.to_string()).await, unknown);
    // What both share is known.
    let page = edge.feed(&format!("?cursor={old}")).await;
    assert_eq!(page.bindings.len(), 2);
    // Another registry's, and what is none.
    let other = Registry::new().await;
    let theirs = other.edge().feed("").await.header.cursor;
    assert_eq!(gone(theirs.to_string()).await, unknown);
    assert_eq!(gone("nonsense".to_owned()).await, unknown);
}

#[tokio::test]
async fn one_device_is_looked_up_with_the_head() {
    let registry = Registry::new().await;
    let (operator, edge) = (registry.operator(), registry.edge());
    operator.enrol(&devices(0..3)).await;
    let found = edge.lookup("acme:SN1").await;
    assert_eq!(found.binding.unwrap().revision, 2);
    assert_eq!(found.header.head, 3);
    assert_eq!(found.header.cursor, edge.feed("").await.header.cursor);
    let absent = edge.lookup("acme:SN9").await;
    assert_eq!((absent.binding, absent.header.count), (None, 0));
    let (status, key) = edge.get("/v1/edge/pseudonym-key").await;
    assert_eq!((status, &key["id"]), (StatusCode::OK, &"k1".into()));
    assert_eq!(key["key"].as_str().unwrap().len(), 43);
}

#[tokio::test]
async fn the_feed_tells_the_registrys_time() {
    let scratch = tempfile::tempdir().unwrap();
    let mut config = common::config(scratch.path());
    config.clock_offset = jiff::SignedDuration::from_hours(-2);
    // The certificates begin an hour before they are made.
    let running = medbind_registry::start(config).await.unwrap();
    let registry = Registry::of(running, scratch.path());
    let told = registry.edge().feed("").await.header.time;
    let behind = common::now().since(told);
    assert!(
        behind > Duration::from_secs(7190) && behind < Duration::from_mins(121),
        "{behind:?}"
    );
}

#[tokio::test]
async fn an_export_is_every_record_once() {
    let registry = Registry::new().await;
    let operator = registry.operator();
    operator.enrol(&devices(0..4500)).await;
    let text = operator
        .request(Method::GET, "/v1/export")
        .send()
        .await
        .unwrap()
        .text()
        .await
        .unwrap();
    let lines = common::lines(&text);
    assert_eq!(lines.len(), 4500);
    let mut serials: Vec<&str> = lines
        .iter()
        .map(|line| line["device"].as_str().unwrap())
        .collect();
    serials.dedup();
    assert_eq!(serials.len(), 4500);
    assert!(
        lines
            .iter()
            .all(|line| line["kind"] == "binding" && line["state"] == "unclaimed")
    );
}
