//! What has changed, for the edges? The change feed, its long poll, and the lookup of one device.

use core::time::Duration;
use std::sync::Arc;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::header;
use medbind_core::feed::{FEED_VERSION, FeedHeader, MAX_RECORDS};
use medbind_core::units::parse_duration;
use serde::Deserialize;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::history::{Head, Place};
use crate::pages::{Page, PageError, heartbeat, read_one};
use crate::problem::Problem;
use crate::routes::{App, Asked, Named};
use crate::store::Store;

/// The records of a page where the client names no `limit`.
const DEFAULT_LIMIT: u32 = 2_000;
/// The longest wait for a change.
const MAX_WAIT: Duration = Duration::from_mins(1);

/// The query of `GET /v1/feed`. What is not known here is passed over, as in the feed's records: an
/// edge may be newer than its registry.
#[derive(Debug, Deserialize)]
pub(crate) struct FeedQuery {
    cursor: Option<String>,
    wait: Option<String>,
    limit: Option<u32>,
}

/// `GET /v1/feed`.
pub(crate) async fn page(
    State(app): State<App>,
    Asked(query): Asked<FeedQuery>,
) -> Result<Response, Problem> {
    let wait = query
        .wait
        .as_deref()
        .map_or(Ok(Duration::ZERO), read_wait)?
        .min(MAX_WAIT);
    let limit = query.limit.unwrap_or(DEFAULT_LIMIT).min(MAX_RECORDS);
    if limit == 0 {
        // The head alone, for an edge that keeps only what it looks up.
        let head = *app.store.watch_head().borrow();
        return answer(&app.store, &heartbeat(head));
    }
    let place = match &query.cursor {
        None => None,
        Some(text) => Some(
            app.store
                .history()
                .read_cursor(text)
                .ok_or(PageError::CursorUnknown)?,
        ),
    };
    let waited = match place {
        Some(place) => wait_for_change(&app, place, wait).await,
        None => Waited::No,
    };
    let page = match waited {
        Waited::InVain(head) => Arc::new(heartbeat(head)),
        Waited::No => app.pages.after(place, limit).await?,
    };
    answer(&app.store, &page)
}

fn read_wait(text: &str) -> Result<Duration, Problem> {
    parse_duration(text).map_err(|error| Problem::invalid(format!("wait: {error}")))
}

enum Waited {
    /// There is something to read, or the cursor has yet to be looked at.
    No,
    /// No change came; this is the head.
    InVain(Head),
}

/// Waits while the cursor is at the head, without asking the database.
async fn wait_for_change(app: &App, place: Place, wait: Duration) -> Waited {
    let deadline = Instant::now() + wait;
    let mut head = app.store.watch_head();
    let mut stopping = app.stopping.clone();
    let _waiting = app.metrics.waiting.enter();
    loop {
        let now = *head.borrow_and_update();
        if !place.is(&now) {
            return Waited::No;
        }
        tokio::select! {
            word = head.changed() => if word.is_err() { return Waited::InVain(now) },
            () = tokio::time::sleep_until(deadline) => return Waited::InVain(now),
            () = stopped(&mut stopping) => return Waited::InVain(now),
        }
    }
}

/// Ends when the registry stops.
pub(crate) async fn stopped(stopping: &mut watch::Receiver<bool>) {
    // An error: whoever could say so is gone, which says it too.
    let _ = stopping.wait_for(|stopping| *stopping).await;
}

fn answer(store: &Store, page: &Page) -> Result<Response, Problem> {
    let history = store.history();
    let header = FeedHeader {
        feed: history
            .feed()
            .ok_or_else(|| Problem::internal("the feed's name"))?,
        version: FEED_VERSION,
        cursor: history
            .cursor(&page.reached)
            .ok_or_else(|| Problem::internal("the cursor"))?,
        more: page.more,
        head: page.head,
        count: page.count,
        time: store.now(),
    };
    let mut body = header.to_line();
    body.extend_from_slice(&page.records);
    Ok(([(header::CONTENT_TYPE, "application/x-ndjson")], body).into_response())
}

/// `GET /v1/feed/devices/{device}`: the header, and the device's record where there is one.
pub(crate) async fn lookup(
    State(app): State<App>,
    Named(device): Named,
) -> Result<Response, Problem> {
    let page = read_one(&app.store, device.as_str()).await?;
    answer(&app.store, &page)
}
