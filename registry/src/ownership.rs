//! Whose database is this, and of which version? Looked at before anything is touched.

use std::fs::{self, File};
use std::io::{ErrorKind, Read as _};
use std::path::{Path, PathBuf};

use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{Connection as _, Row as _};

use crate::store::{MIGRATIONS, OpenError, explain};

/// `PRAGMA application_id` of our databases, as the first migration sets it.
const APPLICATION_ID: u32 = 1_835_168_359;
/// How a database file begins (<https://www.sqlite.org/fileformat.html>, 1.3).
const MAGIC: &[u8] = b"SQLite format 3\0";
/// The octets of the head up to and with the application's number, which is its end.
const HEAD_OCTETS: usize = 72;

/// Refuses a database of somebody else's, of a newer version of ours, and what is no database. File
/// and folder are left as they were. (Where changes stand in the log beside the file, `SQLite` makes
/// an index of it.) A file that is not there is fine, and so is one that holds nothing.
pub(crate) async fn check(path: &Path) -> Result<(), OpenError> {
    let Some(id) = application(path)? else {
        return Ok(());
    };
    if id != 0 && id != APPLICATION_ID {
        return Err(OpenError::NotOurs(path.to_owned()));
    }
    let has_log = fs::metadata(log_of(path)).is_ok_and(|log| log.len() > 0);
    // Without the log first, where that can tell already that it is not ours.
    if id == 0 || !has_log {
        match look(path, true).await {
            // A disk that fills up while the log is folded in leaves a part of it in the file.
            Err(OpenError::Damaged { .. }) if has_log => {}
            looked => looked?,
        }
    }
    if has_log {
        look(path, false).await?;
    }
    Ok(())
}

/// The log of changes that are not in the file yet.
pub(crate) fn log_of(database: &Path) -> PathBuf {
    let mut log = database.as_os_str().to_owned();
    log.push("-wal");
    log.into()
}

/// The application's number in the file's head; `None` where there is nothing.
fn application(path: &Path) -> Result<Option<u32>, OpenError> {
    let failed = |error: std::io::Error| explain(path, error.into());
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            return Ok(None);
        }
        Err(error) => return Err(failed(error)),
    };
    let mut head = Vec::with_capacity(HEAD_OCTETS);
    file.take(HEAD_OCTETS as u64)
        .read_to_end(&mut head)
        .map_err(failed)?;
    if head.is_empty() {
        return Ok(None);
    }
    match head.last_chunk::<4>() {
        Some(id) if head.len() == HEAD_OCTETS && head.starts_with(MAGIC) => {
            Ok(Some(u32::from_be_bytes(*id)))
        }
        Some(_) | None => Err(OpenError::Damaged {
            path: path.to_owned(),
            why: "it is no SQLite database".to_owned(),
        }),
    }
}

/// `alone`: the file without its log, of which `SQLite` is told that nobody changes it: then it makes
/// nothing beside it.
async fn look(path: &Path, alone: bool) -> Result<(), OpenError> {
    let options = SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(false)
        .read_only(true)
        .immutable(alone);
    let explain = |source: sqlx::Error| explain(path, source);
    let mut connection = SqliteConnection::connect_with(&options)
        .await
        .map_err(explain)?;
    let found = read(&mut connection).await.map_err(explain);
    let closed = connection.close().await.map_err(explain);
    let found = found?;
    closed?;
    if found.application != i64::from(APPLICATION_ID) && found.tables > 0 {
        return Err(OpenError::NotOurs(path.to_owned()));
    }
    let ours: Vec<i64> = MIGRATIONS.iter().map(|one| one.version).collect();
    match found
        .versions
        .iter()
        .find(|version| !ours.contains(version))
    {
        None => Ok(()),
        Some(unknown) => Err(OpenError::Newer {
            path: path.to_owned(),
            migration: *unknown,
            newest: ours.into_iter().max().unwrap_or(0),
        }),
    }
}

struct Seen {
    application: i64,
    /// Besides the one of migrations, which `sqlx` makes first.
    tables: i64,
    versions: Vec<i64>,
}

async fn read(connection: &mut SqliteConnection) -> sqlx::Result<Seen> {
    let application = sqlx::query_scalar("PRAGMA application_id")
        .fetch_one(&mut *connection)
        .await?;
    let names = sqlx::query("SELECT name FROM sqlite_schema WHERE name NOT LIKE 'sqlite_%'")
        .fetch_all(&mut *connection)
        .await?;
    let (mut tables, mut migrated) = (0, false);
    for row in names {
        if row.try_get::<&str, _>(0)? == "_sqlx_migrations" {
            migrated = true;
        } else {
            tables += 1;
        }
    }
    let versions = if migrated {
        sqlx::query_scalar("SELECT version FROM _sqlx_migrations ORDER BY version")
            .fetch_all(connection)
            .await?
    } else {
        Vec::new()
    };
    Ok(Seen {
        application,
        tables,
        versions,
    })
}
