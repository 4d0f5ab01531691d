//! What stands on a page of the change feed? Read from the database, and kept for others who ask for
//! the same page.

use core::time::Duration;
use std::collections::VecDeque;
use std::sync::{Arc, PoisonError};

use axum::body::Bytes;
use http::StatusCode;
use medbind_core::feed::{MAX_BODY_OCTETS, MAX_LINE_OCTETS, binding_line};
use sqlx::sqlite::SqliteConnection;
use tokio::sync::{Mutex, Semaphore};
use tokio::time::Instant;

use crate::device::{binding_columns, read_binding};
use crate::history::{Head, Place};
use crate::problem::Problem;
use crate::store::{Store, StoreError, is_past, place_at, read_head};

/// What of a body the records may fill: the header's line stands before them.
const RECORDS_OCTETS: usize = MAX_BODY_OCTETS - MAX_LINE_OCTETS;
/// How many pages are kept: up to 1 MiB each.
const MOST_KEPT: usize = 8;
/// How long a page that others follow is good for after a change: as if it had been asked for then.
const STILL_GOOD: Duration = Duration::from_secs(1);

/// Records, and where they lie.
#[derive(Debug)]
pub(crate) struct Page {
    /// The records' lines.
    pub records: Bytes,
    /// How many.
    pub count: u32,
    /// The place that the records reach.
    pub reached: Head,
    /// Whether records follow.
    pub more: bool,
    /// The newest revision when it was read.
    pub head: u64,
}

/// Why a page is not given.
#[derive(Debug)]
pub(crate) enum PageError {
    /// The cursor is not of this history.
    CursorUnknown,
    /// The database says no.
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

/// Which page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Wanted {
    /// `None`: from the beginning.
    place: Option<Place>,
    limit: u32,
}

/// A page, once it has been read. Who asks for it meanwhile waits.
type Slot = Arc<Mutex<Option<Read>>>;

#[derive(Debug)]
struct Read {
    page: Arc<Page>,
    at: Instant,
}

impl Read {
    fn is_good_at(&self, head: u64) -> bool {
        self.page.head >= head || self.page.more && self.at.elapsed() < STILL_GOOD
    }
}

/// The pages that were asked for last: each is read once, however many edges ask for it, as all do
/// that waited for the same change, or begin at the same time. The page after the one that was asked
/// for is read ahead, while the edge takes up the one before.
#[derive(Clone, Debug)]
pub(crate) struct Pages {
    store: Store,
    kept: Arc<std::sync::Mutex<VecDeque<(Wanted, Slot)>>>,
    /// One page is read ahead at a time: those that are asked for go first.
    ahead: Arc<Semaphore>,
}

impl Pages {
    /// None is read yet.
    pub fn new(store: Store) -> Self {
        Self {
            store,
            kept: Arc::default(),
            ahead: Arc::new(Semaphore::new(1)),
        }
    }

    /// The records after `place`, or all from the beginning: at most `limit`, and no more than fit an
    /// answer.
    pub async fn after(&self, place: Option<Place>, limit: u32) -> Result<Arc<Page>, PageError> {
        let wanted = Wanted { place, limit };
        let page = self.read(wanted).await?;
        if page.more
            && let Ok(permit) = Arc::clone(&self.ahead).try_acquire_owned()
        {
            let pages = self.clone();
            let next = Wanted {
                place: Some(page.reached.place()),
                limit,
            };
            tokio::spawn(async move {
                // Whoever asks for it hears of an error.
                let _ = pages.read(next).await;
                drop(permit);
            });
        }
        Ok(page)
    }

    async fn read(&self, wanted: Wanted) -> Result<Arc<Page>, PageError> {
        let slot = self.slot(wanted);
        let mut kept = slot.lock().await;
        let head = self.store.watch_head().borrow().revision;
        if let Some(read) = kept.as_ref().filter(|read| read.is_good_at(head)) {
            return Ok(Arc::clone(&read.page));
        }
        *kept = None;
        let at = Instant::now();
        let page = Arc::new(read_page(&self.store, wanted.place, wanted.limit).await?);
        let read = kept.insert(Read { page, at });
        Ok(Arc::clone(&read.page))
    }

    /// Where the page is, or will be: the newest of those that are kept.
    fn slot(&self, wanted: Wanted) -> Slot {
        // Nothing panics while it is locked.
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let at = kept.iter().position(|(of, _)| *of == wanted);
        let slot = at.and_then(|at| kept.remove(at));
        let slot = slot.map_or_else(Slot::default, |(_, slot)| slot);
        kept.truncate(MOST_KEPT - 1);
        kept.push_front((wanted, Arc::clone(&slot)));
        slot
    }
}

/// No records: the head alone.
pub(crate) fn heartbeat(head: Head) -> Page {
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

/// The record of one device, where there is one.
pub(crate) async fn read_one(store: &Store, device: &str) -> Result<Page, StoreError> {
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
    use medbind_core::claim::{CODE_SYMBOLS, ClaimCode};

    use crate::clock::Clock;
    use crate::store::OPERATOR_READERS;

    async fn store(scratch: &tempfile::TempDir) -> Store {
        let path = scratch.path().join("registry.sqlite");
        let clock = Clock::new(jiff::SignedDuration::ZERO);
        Store::open(&path, clock, None).await.unwrap()
    }

    async fn enrol(store: &Store, numbers: core::ops::Range<u8>) {
        let line = |number: u8| {
            let mut code = [0; CODE_SYMBOLS];
            (code[0], code[1]) = (number >> 4, number & 0xF);
            let line = serde_json::json!({
                "device": format!("acme:SN{number}"),
                "code": ClaimCode::from_entropy(code).to_string(),
                "secret_hash": "9e81e602b6127cd328ecc60a9472e4591044b3b9fd19a35fb276e2714f7e48b5",
                "class": "cgm",
            });
            (u64::from(number), serde_json::from_value(line).unwrap())
        };
        let batch = numbers.map(line).collect();
        let cause = crate::change::Cause {
            actor: "operator:test".to_owned(),
            reason: None,
        };
        let done = store.enrol(batch, crate::seen::Seen::default(), cause);
        assert!(done.await.unwrap().rejected.is_empty());
    }

    async fn read_ahead(pages: &Pages) {
        drop(pages.ahead.acquire().await.unwrap());
    }

    #[tokio::test]
    async fn who_asks_for_the_same_page_gets_the_same_reading_until_something_changes() {
        let scratch = tempfile::tempdir().unwrap();
        let store = store(&scratch).await;
        enrol(&store, 0..3).await;
        let pages = Pages::new(store.clone());
        let (one, other) = tokio::join!(pages.after(None, 9), pages.after(None, 9));
        let (one, other) = (one.unwrap(), other.unwrap());
        assert!(Arc::ptr_eq(&one, &other) && one.count == 3);
        assert_eq!(pages.after(None, 2).await.unwrap().count, 2);
        enrol(&store, 3..4).await;
        assert_eq!(pages.after(None, 9).await.unwrap().count, 4);
        let place = Some(one.reached.place());
        assert_eq!(pages.after(place, 9).await.unwrap().count, 1);
        store.close().await;
    }

    #[tokio::test]
    async fn the_next_page_is_read_ahead_and_no_other() {
        let scratch = tempfile::tempdir().unwrap();
        let store = store(&scratch).await;
        enrol(&store, 0..9).await;
        let pages = Pages::new(store.clone());
        let first = pages.after(None, 2).await.unwrap();
        read_ahead(&pages).await;
        let kept = pages.kept.lock().unwrap().len();
        assert_eq!(kept, 2);
        let next = Wanted {
            place: Some(first.reached.place()),
            limit: 2,
        };
        let ahead = Arc::clone(&pages.slot(next).lock().await.as_ref().unwrap().page);
        let given = pages.after(next.place, next.limit).await.unwrap();
        assert!(Arc::ptr_eq(&ahead, &given) && given.more);
        read_ahead(&pages).await;
        // The last has none after it, and no more are kept than may be.
        let mut place = None;
        while let Some(page) = Some(pages.after(place, 1).await.unwrap()).filter(|page| page.more) {
            place = Some(page.reached.place());
            read_ahead(&pages).await;
        }
        let kept = pages.kept.lock().unwrap().len();
        assert_eq!(kept, MOST_KEPT);
        store.close().await;
    }

    #[test]
    fn a_page_that_others_follow_is_good_for_a_second_after_a_change_and_the_last_for_none() {
        let read = |more, age| Read {
            page: Arc::new(Page {
                more,
                ..heartbeat(Head {
                    revision: 7,
                    hash: [0; 32],
                })
            }),
            at: Instant::now().checked_sub(age).unwrap(),
        };
        let (young, old) = (Duration::ZERO, Duration::from_millis(1_001));
        for (more, age, head, good) in [
            (false, old, 7, true),
            (true, old, 7, true),
            (false, young, 8, false),
            (true, young, 8, true),
            (true, old, 8, false),
        ] {
            assert_eq!(read(more, age).is_good_at(head), good, "{more} {age:?}");
        }
    }

    #[tokio::test]
    async fn operators_who_read_for_long_keep_no_feed_and_no_lookup_waiting() {
        let scratch = tempfile::tempdir().unwrap();
        let store = store(&scratch).await;
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
