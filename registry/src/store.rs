//! Where it is written down: the database, one writer at a time, many readers.

use core::time::Duration;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures_util::future::BoxFuture;
use medbind_core::pseudonym::PseudonymKey;
use medbind_core::time::Timestamp;
use rustix::fs::{Access, AtFlags};
use rustix::io::Errno;
use sqlx::error::DatabaseError;
use sqlx::migrate::{MigrateError, Migrator};
use sqlx::pool::PoolConnection;
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqlitePool, SqlitePoolOptions,
    SqliteSynchronous,
};
use sqlx::{AssertSqlSafe, Connection as _, Row as _, Sqlite, Transaction};
use tokio::sync::{Mutex, watch};

use crate::clock::Clock;
use crate::history::{Head, History, Place};

/// What brings a database up to date, in order.
pub(crate) static MIGRATIONS: Migrator = sqlx::migrate!("./migrations");
/// Who waits for feed and lookup is waited for by devices: these connections read what an index
/// leads to, a page at most.
pub(crate) const EDGE_READERS: u32 = 4;
/// Operators look through everything, which may take its time.
pub(crate) const OPERATOR_READERS: u32 = 4;
/// A reader is waited for so long.
const READER_TIMEOUT: Duration = Duration::from_secs(10);
// <https://www.sqlite.org/rescode.html>.
const SQLITE_PERM: u32 = 3;
const SQLITE_READONLY: u32 = 8;
const SQLITE_CORRUPT: u32 = 11;
const SQLITE_FULL: u32 = 13;
const SQLITE_CANTOPEN: u32 = 14;
const SQLITE_NOTADB: u32 = 26;
/// The log's index cannot grow: `SQLite` tells a full disk by it there, and by nothing else.
const SQLITE_IOERR_SHMSIZE: u32 = 4874;

/// Why the database cannot be used at start.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// It was written by a newer version.
    #[error(
        "the database {} was written by a newer version of medbind (it has migration {migration}, \
         and this version ends at {newest}): start that version, or restore a backup",
        path.display()
    )]
    Newer {
        /// The database.
        path: PathBuf,
        /// The migration that is not known here.
        migration: i64,
        /// The last one that is.
        newest: i64,
    },
    /// It is a database, and none of ours.
    #[error(
        "{} is no database of medbind's registry: choose another data directory",
        .0.display()
    )]
    NotOurs(PathBuf),
    /// It is damaged, or was changed by hand.
    #[error(
        "the database {0} is damaged: {why}; restore a backup: move {0} and what begins with its \
         name away, keep them, and put a file of `medbind backup` in its place",
        path.display()
    )]
    Damaged {
        /// The database.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// The disk is full.
    #[error("no space is left for the database {}: free some and start again", .0.display())]
    Full(PathBuf),
    /// This user may not write it.
    #[error(
        "this user may not write the database {}: {source}; give it, what begins with its name, and \
         the data directory to the user that the registry runs as (chown)",
        path.display()
    )]
    Denied {
        /// The database.
        path: PathBuf,
        /// What `SQLite`, or the system, said.
        source: sqlx::Error,
    },
    /// Anything else that `SQLite` says.
    #[error("cannot open the database {}: {source}", path.display())]
    Open {
        /// The database.
        path: PathBuf,
        /// What `SQLite` said.
        source: sqlx::Error,
    },
}

/// Why reading or writing failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StoreError {
    /// The disk is full: nothing of the change is written.
    #[error("no space is left on the disk of the database")]
    Full,
    /// A row does not hold what it must. Fail closed: nothing is answered from it.
    #[error("the database holds what it must not: {0}")]
    Corrupt(&'static str),
    /// The registry stops.
    #[error("the database is closed")]
    Closed,
    /// All connections that read are taken.
    #[error("no reader of the database has become free")]
    Busy,
    /// A task of the writer ended before its time.
    #[error("the writer ended: {0}")]
    Ended(#[from] tokio::task::JoinError),
    /// Anything else that `SQLite` says.
    #[error("database: {0}")]
    Database(sqlx::Error),
}

/// What is wrong, as far as it makes a difference here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trouble {
    Full,
    Damaged,
    Denied,
    /// It may not be written, or cannot: a full disk keeps its log from being made, too.
    Unwritable,
    Other,
}

impl Trouble {
    fn of(error: &sqlx::Error) -> Self {
        if let sqlx::Error::Io(error) = error
            && error.kind() == ErrorKind::PermissionDenied
        {
            return Self::Denied;
        }
        let code = error.as_database_error().and_then(DatabaseError::code);
        code.and_then(|code| code.parse().ok())
            .map_or(Self::Other, Self::of_code)
    }

    /// By `SQLite`'s extended code, whose low octet is the plain one.
    fn of_code(code: u32) -> Self {
        match (code, code & 0xff) {
            (SQLITE_IOERR_SHMSIZE, _) | (_, SQLITE_FULL) => Self::Full,
            (_, SQLITE_CORRUPT | SQLITE_NOTADB) => Self::Damaged,
            (_, SQLITE_PERM | SQLITE_READONLY | SQLITE_CANTOPEN) => Self::Unwritable,
            _ => Self::Other,
        }
    }
}

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        match (Trouble::of(&error), error) {
            (Trouble::Full, _) => Self::Full,
            (_, sqlx::Error::PoolTimedOut) => Self::Busy,
            (_, error) => Self::Database(error),
        }
    }
}

/// The database of one registry.
#[derive(Clone, Debug)]
pub(crate) struct Store {
    history: History,
    pseudonym_key: Arc<PseudonymKey>,
    clock: Clock,
    edge_readers: SqlitePool,
    operator_readers: SqlitePool,
    /// How the writer is opened, also again.
    opening: Arc<Opening>,
    /// `None` once it is closed.
    writer: Arc<Mutex<Option<SqliteConnection>>>,
    head: watch::Sender<Head>,
}

/// How the connection that writes is opened.
#[derive(Debug)]
struct Opening {
    options: SqliteConnectOptions,
    max_pages: Option<u32>,
}

impl Opening {
    async fn connect(&self) -> sqlx::Result<SqliteConnection> {
        let mut writer = SqliteConnection::connect_with(&self.options).await?;
        if let Some(pages) = self.max_pages {
            let limit = format!("PRAGMA max_page_count = {pages}");
            sqlx::query(AssertSqlSafe(limit))
                .execute(&mut writer)
                .await?;
        }
        Ok(writer)
    }
}

/// A transaction that changes things. What it does is on disk, whole, before anybody hears of it.
pub(crate) struct Writing<'c> {
    /// The transaction.
    pub tx: Transaction<'c, Sqlite>,
    /// The newest change, those of this transaction included.
    pub head: Head,
    /// When this transaction happens.
    pub now: Timestamp,
    /// The key for pseudonyms.
    pub pseudonym_key: Arc<PseudonymKey>,
}

impl Store {
    /// Opens the database file `path`, makes it where it is missing, and brings it up to date. That
    /// it is ours was checked before ([`crate::ownership`]).
    pub async fn open(
        path: &Path,
        clock: Clock,
        max_pages: Option<u32>,
    ) -> Result<Self, OpenError> {
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .foreign_keys(true)
            .busy_timeout(Duration::from_secs(10))
            .pragma("cache_size", "-65536");
        let explain = |source: sqlx::Error| explain(path, source);
        let opening = Opening { options, max_pages };
        let mut writer = opening.connect().await.map_err(explain)?;
        migrate(&mut writer, path).await?;
        let (history, pseudonym_key) = identity(&mut writer, path, clock.now()).await?;
        let head = read_head(&mut writer, &history)
            .await
            .map_err(|error| match error {
                StoreError::Database(source) => explain(source),
                other => OpenError::Damaged {
                    path: path.to_owned(),
                    why: other.to_string(),
                },
            })?;
        let reading = opening
            .options
            .clone()
            .create_if_missing(false)
            .read_only(true);
        let readers = |most| {
            SqlitePoolOptions::new()
                .max_connections(most)
                .acquire_timeout(READER_TIMEOUT)
                .connect_with(reading.clone())
        };
        let edge_readers = readers(EDGE_READERS).await.map_err(explain)?;
        let operator_readers = readers(OPERATOR_READERS).await.map_err(explain)?;
        Ok(Self {
            history,
            pseudonym_key: Arc::new(pseudonym_key),
            clock,
            edge_readers,
            operator_readers,
            opening: Arc::new(opening),
            writer: Arc::new(Mutex::new(Some(writer))),
            head: watch::Sender::new(head),
        })
    }

    /// The history that this database tells.
    pub fn history(&self) -> &History {
        &self.history
    }

    /// The key for pseudonyms that is in use.
    pub fn pseudonym_key(&self) -> &PseudonymKey {
        &self.pseudonym_key
    }

    /// The registry's clock.
    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// The newest change, and word of the next.
    pub fn watch_head(&self) -> watch::Receiver<Head> {
        self.head.subscribe()
    }

    /// A connection that only reads, for operators.
    pub async fn read(&self) -> Result<PoolConnection<Sqlite>, StoreError> {
        Ok(self.operator_readers.acquire().await?)
    }

    /// A view that does not change while it is read, for operators.
    pub async fn read_consistently(&self) -> Result<Transaction<'static, Sqlite>, StoreError> {
        Ok(self.operator_readers.begin().await?)
    }

    /// The same for edges, whom no operator keeps waiting.
    pub async fn read_for_edges(&self) -> Result<Transaction<'static, Sqlite>, StoreError> {
        Ok(self.edge_readers.begin().await?)
    }

    /// Runs `work` in a transaction of its own, after those before it. Where `work` gives an
    /// error, nothing of it is kept. It runs to its end even where the caller goes away: otherwise
    /// a change could be committed, and nobody be told.
    pub async fn write<T, E, F>(&self, work: F) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<StoreError> + Send + 'static,
        F: for<'w> FnOnce(&'w mut Writing<'_>) -> BoxFuture<'w, Result<T, E>> + Send + 'static,
    {
        let store = self.clone();
        let task = tokio::spawn(async move {
            let mut writer = store.writer.lock().await;
            let connection = writer.as_mut().ok_or(StoreError::Closed)?;
            let result = store.transact(connection, work).await;
            if result.is_err() {
                store.make_usable(connection).await;
                store.look_again(connection).await;
            }
            result
        });
        task.await.map_err(StoreError::from)?
    }

    async fn transact<T, E, F>(&self, connection: &mut SqliteConnection, work: F) -> Result<T, E>
    where
        E: From<StoreError>,
        F: for<'w> FnOnce(&'w mut Writing<'_>) -> BoxFuture<'w, Result<T, E>>,
    {
        let tx = connection
            .begin_with("BEGIN IMMEDIATE")
            .await
            .map_err(StoreError::from)?;
        let mut writing = Writing {
            tx,
            head: *self.head.borrow(),
            now: self.clock.now(),
            pseudonym_key: Arc::clone(&self.pseudonym_key),
        };
        let result = work(&mut writing).await?;
        let Writing { tx, head, .. } = writing;
        tx.commit().await.map_err(StoreError::from)?;
        self.publish(head);
        Ok(result)
    }

    /// A disk that is full ends `SQLite`'s transaction behind our back, and the connection takes
    /// no other one: then it is replaced, so that changes are made again once there is room.
    async fn make_usable(&self, connection: &mut SqliteConnection) {
        let usable = match connection.begin_with("BEGIN").await {
            Ok(tx) => tx.rollback().await.is_ok(),
            Err(_) => false,
        };
        if usable {
            return;
        }
        match self.opening.connect().await {
            // What was not committed is rolled back with the old one.
            Ok(new) => drop(core::mem::replace(connection, new)),
            // The next failure tries again.
            Err(error) => tracing::error!("opening the database again: {error}"),
        }
    }

    /// After a failure it is for the database to say what was committed.
    async fn look_again(&self, connection: &mut SqliteConnection) {
        match read_head(connection, &self.history).await {
            Ok(head) => self.publish(head),
            Err(error) => tracing::error!("after a failed change: {error}"),
        }
    }

    fn publish(&self, head: Head) {
        self.head.send_if_modified(|known| {
            let newer = *known != head;
            *known = head;
            newer
        });
    }

    /// Waits for the last writer, then closes: the log is folded into the database, and nothing
    /// touches the files any more.
    pub async fn close(&self) {
        let writer = self.writer.lock().await.take();
        self.edge_readers.close().await;
        self.operator_readers.close().await;
        let Some(writer) = writer else { return };
        if let Err(error) = writer.close().await {
            tracing::error!("closing the database: {error}");
        }
    }
}

/// Whether a cursor's place lies in the past of this database.
pub(crate) async fn is_past(
    connection: &mut SqliteConnection,
    history: &History,
    place: &Place,
) -> Result<bool, StoreError> {
    if place.revision == 0 {
        return Ok(place.is(&history.beginning()));
    }
    let Ok(revision) = i64::try_from(place.revision) else {
        return Ok(false);
    };
    let hash: Option<Vec<u8>> = sqlx::query_scalar("SELECT hash FROM changes WHERE revision = ?1")
        .bind(revision)
        .fetch_optional(connection)
        .await?;
    let Some(hash) = hash else { return Ok(false) };
    let hash = hash
        .try_into()
        .map_err(|_| StoreError::Corrupt("a chained hash"))?;
    Ok(place.is(&Head {
        revision: place.revision,
        hash,
    }))
}

/// The place right after the change of `revision`.
pub(crate) async fn place_at(
    connection: &mut SqliteConnection,
    revision: u64,
) -> Result<Head, StoreError> {
    let number = i64::try_from(revision).map_err(|_| StoreError::Corrupt("a revision"))?;
    let hash: Vec<u8> = sqlx::query_scalar("SELECT hash FROM changes WHERE revision = ?1")
        .bind(number)
        .fetch_one(connection)
        .await?;
    let hash = hash
        .try_into()
        .map_err(|_| StoreError::Corrupt("a chained hash"))?;
    Ok(Head { revision, hash })
}

/// The newest change.
pub(crate) async fn read_head(
    connection: &mut SqliteConnection,
    history: &History,
) -> Result<Head, StoreError> {
    let row = sqlx::query("SELECT revision, hash FROM changes ORDER BY revision DESC LIMIT 1")
        .fetch_optional(connection)
        .await?;
    let Some(row) = row else {
        return Ok(history.beginning());
    };
    let revision: i64 = row.try_get(0)?;
    let hash: Vec<u8> = row.try_get(1)?;
    Ok(Head {
        revision: u64::try_from(revision).map_err(|_| StoreError::Corrupt("a revision"))?,
        hash: hash
            .try_into()
            .map_err(|_| StoreError::Corrupt("a chained hash"))?,
    })
}

/// What went wrong with the database at start, for whoever started it.
pub(crate) fn explain(path: &Path, source: sqlx::Error) -> OpenError {
    let path = path.to_owned();
    match Trouble::of(&source) {
        Trouble::Full => OpenError::Full(path),
        Trouble::Damaged => OpenError::Damaged {
            path,
            why: source.to_string(),
        },
        Trouble::Denied => OpenError::Denied { path, source },
        Trouble::Unwritable if may_not_write(&path) => OpenError::Denied { path, source },
        Trouble::Unwritable | Trouble::Other => OpenError::Open { path, source },
    }
}

/// Whether this user may not write the database, what is beside it, or the directory.
fn may_not_write(database: &Path) -> bool {
    let directory = database.parent().unwrap_or(Path::new("."));
    let denied = |path: &Path, access| {
        let allowed = rustix::fs::accessat(rustix::fs::CWD, path, access, AtFlags::EACCESS);
        matches!(allowed, Err(Errno::ACCESS | Errno::PERM | Errno::ROFS))
    };
    let files = ["", "-wal", "-shm"].map(|end| {
        let mut path = database.as_os_str().to_owned();
        path.push(end);
        PathBuf::from(path)
    });
    files
        .iter()
        .any(|file| denied(file, Access::READ_OK | Access::WRITE_OK))
        || denied(directory, Access::WRITE_OK | Access::EXEC_OK)
}

async fn migrate(connection: &mut SqliteConnection, path: &Path) -> Result<(), OpenError> {
    let newest = MIGRATIONS
        .iter()
        .map(|migration| migration.version)
        .max()
        .unwrap_or(0);
    MIGRATIONS.run(&mut *connection).await.map_err(|error| {
        let path = path.to_owned();
        match error {
            MigrateError::VersionMissing(migration) => OpenError::Newer {
                path,
                migration,
                newest,
            },
            MigrateError::Execute(source) | MigrateError::ExecuteMigration(source, _) => {
                explain(&path, source)
            }
            other => OpenError::Damaged {
                path,
                why: other.to_string(),
            },
        }
    })
}

/// Reads the history and its key; a new database gets both.
async fn identity(
    connection: &mut SqliteConnection,
    path: &Path,
    now: Timestamp,
) -> Result<(History, PseudonymKey), OpenError> {
    let explain = |source: sqlx::Error| explain(path, source);
    let mut tx = connection
        .begin_with("BEGIN IMMEDIATE")
        .await
        .map_err(explain)?;
    let feed: [u8; 16] = History::generate().octets().to_owned();
    sqlx::query(
        "INSERT INTO history (id, feed, created_at) VALUES (1, ?1, ?2) ON CONFLICT DO NOTHING",
    )
    .bind(feed.as_slice())
    .bind(now.unix_millis())
    .execute(&mut *tx)
    .await
    .map_err(explain)?;
    let key: [u8; 32] = rand::random();
    sqlx::query(
        "INSERT INTO keys (id, purpose, key, created_at) SELECT 'k1', 'pseudonym', ?1, ?2 \
         WHERE NOT EXISTS (SELECT 1 FROM keys WHERE purpose = 'pseudonym')",
    )
    .bind(key.as_slice())
    .bind(now.unix_millis())
    .execute(&mut *tx)
    .await
    .map_err(explain)?;
    let feed: Vec<u8> = sqlx::query_scalar("SELECT feed FROM history WHERE id = 1")
        .fetch_one(&mut *tx)
        .await
        .map_err(explain)?;
    let (id, key): (String, Vec<u8>) = sqlx::query_as(
        "SELECT id, key FROM keys WHERE purpose = 'pseudonym' ORDER BY created_at DESC, id DESC",
    )
    .fetch_one(&mut *tx)
    .await
    .map_err(explain)?;
    tx.commit().await.map_err(explain)?;
    let damaged = |why: &str| OpenError::Damaged {
        path: path.to_owned(),
        why: why.to_owned(),
    };
    let feed = feed.try_into().map_err(|_| damaged("the history's name"))?;
    let key = key
        .try_into()
        .ok()
        .and_then(|key| PseudonymKey::new(&id, key).ok())
        .ok_or_else(|| damaged("the key for pseudonyms"))?;
    Ok((History::from_octets(feed), key))
}

#[cfg(test)]
pub(crate) mod plans {
    //! How would the database read? For tests of queries.

    use super::*;
    use sqlx::QueryBuilder;

    /// An empty database of ours.
    pub struct Plans {
        _scratch: tempfile::TempDir,
        connection: PoolConnection<Sqlite>,
    }

    impl Plans {
        pub async fn new() -> Self {
            let scratch = tempfile::tempdir().unwrap();
            let path = scratch.path().join("registry.sqlite");
            let clock = Clock::new(jiff::SignedDuration::ZERO);
            let store = Store::open(&path, clock, None).await.unwrap();
            Self {
                _scratch: scratch,
                connection: store.read().await.unwrap(),
            }
        }

        /// The steps of a query.
        pub async fn of(&mut self, query: QueryBuilder<Sqlite>) -> Vec<String> {
            let explain = format!("EXPLAIN QUERY PLAN {}", query.sql().as_str());
            let rows = sqlx::query(AssertSqlSafe(explain))
                .fetch_all(&mut *self.connection)
                .await
                .unwrap();
            rows.iter().map(|row| row.get("detail")).collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn a_full_disk_and_a_damaged_file_are_known_by_each_of_their_codes() {
        for (code, trouble) in [
            (13, Trouble::Full),
            (4874, Trouble::Full),
            (11, Trouble::Damaged),
            (779, Trouble::Damaged),
            (26, Trouble::Damaged),
            (3, Trouble::Unwritable),
            (8, Trouble::Unwritable),
            (1544, Trouble::Unwritable),
            (10, Trouble::Other),
            (778, Trouble::Other),
            (14, Trouble::Unwritable),
        ] {
            assert_eq!(Trouble::of_code(code), trouble, "{code}");
        }
    }

    #[test]
    fn every_migration_has_a_number_of_its_own() {
        let numbers: Vec<i64> = MIGRATIONS.iter().map(|one| one.version).collect();
        let different: BTreeSet<i64> = numbers.iter().copied().collect();
        assert_eq!(numbers.len(), different.len(), "{numbers:?}");
    }

    #[tokio::test]
    async fn a_database_that_lacks_a_migration_gets_it_whatever_came_after() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("registry.sqlite");
        let options = SqliteConnectOptions::new()
            .filename(&path)
            .create_if_missing(true);
        let mut connection = SqliteConnection::connect_with(&options).await.unwrap();
        let all: Vec<_> = MIGRATIONS.iter().cloned().collect();
        let without: Vec<_> = all.iter().filter(|one| one.version != 5).cloned().collect();
        assert!(without.len() < all.len());
        let without = Migrator::with_migrations(without);
        without.run(&mut connection).await.unwrap();
        migrate(&mut connection, &path).await.unwrap();
        let count: i64 = sqlx::query_scalar("SELECT count(*) FROM _sqlx_migrations")
            .fetch_one(&mut connection)
            .await
            .unwrap();
        assert_eq!(usize::try_from(count).unwrap(), all.len());
    }
}
