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

/// Refuses a database of somebody else's, of a newer version of ours, what is no database, and one
/// in which what a start reads is damaged. File
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
    let unknown = found
        .migrations
        .iter()
        .find(|(version, _)| !ours.contains(version));
    if let Some((unknown, _)) = unknown {
        return Err(OpenError::Newer {
            path: path.to_owned(),
            migration: *unknown,
            newest: ours.into_iter().max().unwrap_or(0),
        });
    }
    match found.trouble() {
        None => Ok(()),
        Some(why) => Err(OpenError::Damaged {
            path: path.to_owned(),
            why,
        }),
    }
}

struct Seen {
    application: i64,
    /// Besides the one of migrations, which `sqlx` makes first.
    tables: i64,
    /// Which were done, and what they held.
    migrations: Vec<(i64, Vec<u8>)>,
    /// The lengths of what a start reads, and how long each must be.
    lengths: Vec<(&'static str, usize, usize)>,
}

impl Seen {
    /// Why it cannot be ours, undamaged.
    fn trouble(&self) -> Option<String> {
        let changed = MIGRATIONS.iter().find(|ours| {
            let mut done = self.migrations.iter();
            done.any(|(version, sum)| *version == ours.version && **sum != *ours.checksum)
        });
        if let Some(changed) = changed {
            return Some(format!("its migration {} is another one", changed.version));
        }
        let mut lengths = self.lengths.iter();
        let wrong = lengths.find(|(_, is, must)| is != must)?;
        Some(wrong.0.to_owned())
    }
}

/// What a start reads once all migrations are done: where that cannot be read, nothing is touched.
async fn read_what_a_start_does(
    connection: &mut SqliteConnection,
) -> sqlx::Result<Vec<(&'static str, usize, usize)>> {
    let mut lengths = Vec::new();
    for (what, must, sql) in [
        (
            "the history's name",
            16,
            "SELECT feed FROM history WHERE id = 1",
        ),
        (
            "the key for pseudonyms",
            32,
            "SELECT key FROM keys WHERE purpose = 'pseudonym' ORDER BY created_at DESC, id DESC",
        ),
        (
            "a chained hash",
            32,
            "SELECT hash FROM changes ORDER BY revision DESC LIMIT 1",
        ),
    ] {
        let read: Option<Vec<u8>> = sqlx::query_scalar(sql)
            .fetch_optional(&mut *connection)
            .await?;
        lengths.extend(read.map(|octets| (what, octets.len(), must)));
    }
    Ok(lengths)
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
    let migrations: Vec<(i64, Vec<u8>)> = if migrated {
        sqlx::query_as("SELECT version, checksum FROM _sqlx_migrations ORDER BY version")
            .fetch_all(&mut *connection)
            .await?
    } else {
        Vec::new()
    };
    // Before the last migration a start makes what is missing here.
    let is_complete = MIGRATIONS
        .iter()
        .all(|ours| migrations.iter().any(|(done, _)| *done == ours.version));
    let lengths = if is_complete && application == i64::from(APPLICATION_ID) {
        read_what_a_start_does(connection).await?
    } else {
        Vec::new()
    };
    Ok(Seen {
        application,
        tables,
        migrations,
        lengths,
    })
}
