//! What has changed, for the edges: pages of the change feed, the long poll, the lookup of one
//! device.

use core::time::Duration;
use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::{StatusCode, header};
use medbind_core::feed::{
    FEED_VERSION, FeedHeader, MAX_BODY_OCTETS, MAX_LINE_OCTETS, MAX_RECORDS, binding_line,
};
use medbind_core::units::parse_duration;
use serde::Deserialize;
use sqlx::sqlite::SqliteConnection;
use tokio::sync::{Mutex, watch};
use tokio::time::Instant;

use crate::device::{binding_columns, read_binding};
use crate::history::{Head, Place};
use crate::problem::Problem;
use crate::routes::{App, Asked, Named};
use crate::store::{Store, StoreError, is_past, place_at, read_head};

/// The records of a page where the client names no `limit`.
const DEFAULT_LIMIT: u32 = 2_000;
/// The longest wait for a change.
const MAX_WAIT: Duration = Duration::from_mins(1);
/// What of a body the records may fill: the header's line stands before them.
const RECORDS_OCTETS: usize = MAX_BODY_OCTETS - MAX_LINE_OCTETS;

/// The query of `GET /v1/feed`. What is not known here is passed over, as in the feed's records: an
/// edge may be newer than its registry.
#[derive(Debug, Deserialize)]
pub(crate) struct FeedQuery {
    cursor: Option<String>,
    wait: Option<String>,
    limit: Option<u32>,
}

/// Records, and where they lie.
#[derive(Debug)]
struct Page {
    records: Bytes,
    count: u32,
    /// The place that the records reach.
    reached: Head,
    more: bool,
    head: u64,
}

/// Why a page is not given.
enum PageError {
    /// The cursor is not of this history.
    CursorUnknown,
    Store(StoreError),
}

impl From<StoreError> for PageError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl From<sqlx::Error> for PageError {
    fn from(error: sqlx::Error) -> Self {
        Self::Store(error.into())
    }
}

impl From<PageError> for Problem {
    fn from(error: PageError) -> Self {
        match error {
            PageError::CursorUnknown => Self::new(StatusCode::GONE, "cursor_unknown")
                .because("this history does not know the cursor: begin again without one"),
            PageError::Store(error) => error.into(),
        }
    }
}

/// The page that everybody who waited asks for at once: read once, given to all.
#[derive(Debug, Default)]
pub(crate) struct Tail(Mutex<Option<(Place, u32, Arc<Page>)>>);

impl Tail {
    async fn page(&self, store: &Store, place: Place, limit: u32) -> Result<Arc<Page>, PageError> {
        let mut kept = self.0.lock().await;
        let head = store.watch_head().borrow().revision;
        if let Some((of, up_to, page)) = kept.as_ref()
            && (*of, *up_to) == (place, limit)
            && page.head >= head
        {
            return Ok(Arc::clone(page));
        }
        let page = Arc::new(read_page(store, Some(place), limit).await?);
        *kept = Some((place, limit, Arc::clone(&page)));
        Ok(page)
    }
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
    let page = match (waited, place) {
        (Waited::InVain(head), _) => Arc::new(heartbeat(head)),
        (Waited::Changed, Some(place)) => app.tail.page(&app.store, place, limit).await?,
        (Waited::Changed | Waited::No, place) => {
            Arc::new(read_page(&app.store, place, limit).await?)
        }
    };
    answer(&app.store, &page)
}

fn read_wait(text: &str) -> Result<Duration, Problem> {
    parse_duration(text).map_err(|error| Problem::invalid(format!("wait: {error}")))
}

enum Waited {
    /// There was something to read already, or the cursor has yet to be looked at.
    No,
    /// A change came.
    Changed,
    /// None came; this is the head.
    InVain(Head),
}

/// Waits while the cursor is at the head, without asking the database.
async fn wait_for_change(app: &App, place: Place, wait: Duration) -> Waited {
    let deadline = Instant::now() + wait;
    let mut head = app.store.watch_head();
    let mut stopping = app.stopping.clone();
    let _waiting = app.metrics.waiting.enter();
    let mut changed = false;
    loop {
        let now = *head.borrow_and_update();
        if !place.is(&now) {
            return if changed { Waited::Changed } else { Waited::No };
        }
        changed = true;
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

fn heartbeat(head: Head) -> Page {
    Page {
        records: Bytes::new(),
        count: 0,
        reached: head,
        more: false,
        head: head.revision,
    }
}

async fn read_page(store: &Store, place: Option<Place>, limit: u32) -> Result<Page, PageError> {
    let mut tx = store.read_for_edges().await?;
    let head = read_head(&mut tx, store.history()).await?;
    if let Some(place) = place
        && !is_past(&mut tx, store.history(), &place).await?
    {
        return Err(PageError::CursorUnknown);
    }
    let after = place.map_or(0, |place| place.revision);
    let (records, count, last, more) = read_records(&mut tx, after, limit).await?;
    let reached = if more {
        place_at(&mut tx, last).await?
    } else {
        head
    };
    Ok(Page {
        records: records.into(),
        count,
        reached,
        more,
        head: head.revision,
    })
}

/// Up to `limit` records above the revision `after` and no more than fit an answer: the octets,
/// their number, the last one's revision, and whether there are more.
async fn read_records(
    connection: &mut SqliteConnection,
    after: u64,
    limit: u32,
) -> Result<(Vec<u8>, u32, u64, bool), PageError> {
    let after_column = i64::try_from(after).map_err(|_| PageError::CursorUnknown)?;
    let rows = sqlx::query(concat!(
        "SELECT ",
        binding_columns!(),
        " FROM devices WHERE revision > ?1 ORDER BY revision LIMIT ?2"
    ))
    .bind(after_column)
    .bind(i64::from(limit) + 1)
    .fetch_all(connection)
    .await?;
    let mut records = Vec::new();
    let (mut count, mut last) = (0, after);
    for row in &rows {
        let binding = read_binding(row)?;
        let line = binding_line(&binding);
        if count == limit || records.len() + line.len() > RECORDS_OCTETS {
            return Ok((records, count, last, true));
        }
        records.extend_from_slice(&line);
        count += 1;
        last = binding.revision;
    }
    Ok((records, count, last, false))
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

async fn read_one(store: &Store, device: &str) -> Result<Page, StoreError> {
    let mut tx = store.read_for_edges().await?;
    let head = read_head(&mut tx, store.history()).await?;
    let row = sqlx::query(concat!(
        "SELECT ",
        binding_columns!(),
        " FROM devices WHERE device = ?1"
    ))
    .bind(device)
    .fetch_optional(&mut *tx)
    .await?;
    let record = row.as_ref().map(read_binding).transpose()?;
    let count = u32::from(record.is_some());
    let records = record
        .map(|record| binding_line(&record))
        .unwrap_or_default()
        .into();
    Ok(Page {
        records,
        count,
        reached: head,
        more: false,
        head: head.revision,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;
    use crate::store::OPERATOR_READERS;

    #[tokio::test]
    async fn operators_who_read_for_long_keep_no_feed_and_no_lookup_waiting() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("registry.sqlite");
        let clock = Clock::new(jiff::SignedDuration::ZERO);
        let store = Store::open(&path, clock, None).await.unwrap();
        let mut taken = Vec::new();
        for _ in 0..OPERATOR_READERS {
            taken.push(store.read_consistently().await.unwrap());
        }
        // Where they waited, this would be an error.
        let page = read_page(&store, None, 10).await;
        assert!(page.is_ok_and(|page| page.head == 0));
        let one = read_one(&store, "acme:SN1").await;
        assert_eq!(one.unwrap().count, 0);
        drop(taken);
        store.close().await;
    }
}
