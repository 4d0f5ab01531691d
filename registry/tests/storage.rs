//! What is on disk: acknowledged changes, refused databases, modes.
mod common;

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use common::{Registry, config, device};
use medbind_registry::{BackupError, DATABASE_FILE, backup, start};
use sqlx::{Connection as _, SqliteConnection, sqlite::SqliteConnectOptions};

async fn open(path: &std::path::Path) -> SqliteConnection {
    let options = SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(true);
    SqliteConnection::connect_with(&options).await.unwrap()
}

#[tokio::test]
async fn what_was_acknowledged_is_there_after_a_stop_without_goodbye() {
    let registry = Registry::new().await;
    registry.operator().enrol(&[device(1)]).await;
    let (status, _) = registry
        .operator()
        .claim(&device(1).code(), &device(1).secret(), "acc-1")
        .await;
    assert_eq!(status, 200);
    // What a crash would leave: the files as they are now, the log not folded in.
    let copy = tempfile::tempdir().unwrap();
    let dir = copy.path().join("data");
    let copied = std::process::Command::new("cp")
        .arg("-r")
        .args([&registry.dir, &dir])
        .status();
    assert!(copied.unwrap().success());
    let again = Registry::open(&dir).await;
    let (_, shown) = again.operator().get("/v1/devices/acme:SN1").await;
    assert_eq!(
        (&shown["state"], &shown["account"]),
        (&"active".into(), &"acc-1".into())
    );
    let cursor = registry.edge().feed("").await.header.cursor;
    assert_eq!(
        again
            .edge()
            .feed(&format!("?cursor={cursor}"))
            .await
            .header
            .count,
        0
    );
}

/// Everything in a folder, and what each file holds.
fn contents(dir: &Path) -> BTreeMap<PathBuf, Option<Vec<u8>>> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(contents(&path));
            found.insert(path, None);
        } else {
            let octets = std::fs::read(&path).unwrap();
            found.insert(path, Some(octets));
        }
    }
    found
}

/// Fails unless a start is refused, saying `what`, and the folder is as it was.
async fn is_left_alone(dir: &Path, what: &str) {
    let before = contents(dir);
    let error = start(config(dir)).await.unwrap_err();
    assert!(error.to_string().contains(what), "{error}");
    let mut after = contents(dir);
    // Where there is a log, `SQLite` makes an index of it, which it throws away with the next.
    after.retain(|path, _| before.contains_key(path) || !path.ends_with(INDEX));
    assert!(after == before, "{what}: {:?}", after.keys());
}

const INDEX: &str = "registry.sqlite-shm";

#[tokio::test]
async fn a_database_of_a_newer_version_is_left_alone() {
    let registry = Registry::new().await;
    let database = registry.dir.join(DATABASE_FILE);
    let mode = std::fs::metadata(&database).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode, 0o600);
    let registry = registry.stop().await;
    // As if this start had certificates to make.
    std::fs::remove_dir_all(registry.dir.join("server")).unwrap();
    let mut connection = open(&database).await;
    sqlx::query(
        "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) \
         VALUES (9999, 'of the future', 1, x'00', 0)",
    )
    .execute(&mut connection)
    .await
    .unwrap();
    // As a crash leaves it: the newest changes stand in the log.
    let crashed = tempfile::tempdir().unwrap();
    for name in [DATABASE_FILE, "registry.sqlite-wal"] {
        std::fs::copy(registry.dir.join(name), crashed.path().join(name)).unwrap();
    }
    connection.close().await.unwrap();
    for dir in [&*registry.dir, crashed.path()] {
        is_left_alone(dir, "newer version").await;
        is_left_alone(dir, "migration 9999").await;
    }
    assert!(
        start(config(&registry.dir))
            .await
            .unwrap_err()
            .is_configuration()
    );
}

#[tokio::test]
async fn a_first_start_that_a_full_disk_ended_goes_on_once_there_is_room() {
    let made = tempfile::tempdir().unwrap();
    let database = made.path().join(DATABASE_FILE);
    let mut connection = open(&database).await;
    sqlx::query("PRAGMA journal_mode = WAL")
        .execute(&mut connection)
        .await
        .unwrap();
    // What comes before the first migration.
    let none = sqlx::migrate::Migrator::with_migrations(Vec::new());
    none.run(&mut connection).await.unwrap();
    let left = tempfile::tempdir().unwrap();
    for name in [DATABASE_FILE, "registry.sqlite-wal"] {
        std::fs::copy(made.path().join(name), left.path().join(name)).unwrap();
    }
    connection.close().await.unwrap();

    // Of the pages in the log, the first found room in the file.
    let log = std::fs::read(left.path().join("registry.sqlite-wal")).unwrap();
    let page = first_page(&log);
    assert!(u32::from_be_bytes(page[28..32].try_into().unwrap()) > 1);
    std::fs::write(left.path().join(DATABASE_FILE), page).unwrap();
    let alone = tempfile::tempdir().unwrap();
    std::fs::write(alone.path().join(DATABASE_FILE), page).unwrap();
    is_left_alone(alone.path(), "damaged").await;
    Registry::open(left.path()).await;
}

#[tokio::test]
async fn a_database_whose_pages_are_damaged_is_left_alone() {
    let registry = Registry::new().await;
    registry.operator().enrol(&[device(1)]).await;
    let registry = registry.stop().await;
    // As if this start had certificates to make.
    std::fs::remove_dir_all(registry.dir.join("server")).unwrap();
    let database = registry.dir.join(DATABASE_FILE);
    let whole = std::fs::read(&database).unwrap();
    for table in ["history", "keys", "changes", "_sqlx_migrations"] {
        let mut connection = open(&database).await;
        let page: i64 = sqlx::query_scalar("SELECT rootpage FROM sqlite_schema WHERE name = ?1")
            .bind(table)
            .fetch_one(&mut connection)
            .await
            .unwrap();
        let size: i64 = sqlx::query_scalar("PRAGMA page_size")
            .fetch_one(&mut connection)
            .await
            .unwrap();
        connection.close().await.unwrap();
        let [page, size] = [page, size].map(|number| usize::try_from(number).unwrap());
        let mut torn = whole.clone();
        torn[(page - 1) * size..page * size].fill(0xa5);
        std::fs::write(&database, &torn).unwrap();
        is_left_alone(&registry.dir, "is damaged").await;
        is_left_alone(&registry.dir, "put a file of `medbind backup` in its place").await;
        std::fs::write(&database, &whole).unwrap();
    }
    for sql in [
        "UPDATE history SET feed = x'00'",
        "UPDATE keys SET key = x'00'",
        "UPDATE _sqlx_migrations SET checksum = x'00' WHERE version = 1",
    ] {
        let mut connection = open(&database).await;
        let changed = sqlx::query(sql).execute(&mut connection).await;
        connection.close().await.unwrap();
        // The database itself may forbid it.
        if changed.is_ok() {
            is_left_alone(&registry.dir, "is damaged").await;
        }
        std::fs::write(&database, &whole).unwrap();
    }
    Registry::open(&registry.dir).await;
}

/// The newest first page of a log (<https://www.sqlite.org/fileformat.html>, 4.1).
fn first_page(log: &[u8]) -> &[u8] {
    let size = u32::from_be_bytes(log[8..12].try_into().unwrap()) as usize;
    let mut frames = log[32..].chunks_exact(24 + size);
    let newest = frames.rfind(|frame| frame[..4] == [0, 0, 0, 1]);
    &newest.unwrap()[24..]
}

#[tokio::test]
async fn a_database_of_somebody_else_is_left_alone() {
    for (number, setting) in [
        "PRAGMA journal_mode = DELETE",
        "PRAGMA journal_mode = WAL",
        "PRAGMA application_id = 7",
    ]
    .into_iter()
    .enumerate()
    {
        let scratch = tempfile::tempdir().unwrap();
        let database = scratch.path().join(DATABASE_FILE);
        let mut connection = open(&database).await;
        for sql in [
            setting,
            "CREATE TABLE somebody (x)",
            "INSERT INTO somebody VALUES ('precious')",
        ] {
            sqlx::query(sql).execute(&mut connection).await.unwrap();
        }
        let crashed = tempfile::tempdir().unwrap();
        if number == 1 {
            // Nothing of it stands in the file itself yet.
            for name in [DATABASE_FILE, "registry.sqlite-wal"] {
                std::fs::copy(scratch.path().join(name), crashed.path().join(name)).unwrap();
            }
            is_left_alone(crashed.path(), "no database of medbind's registry").await;
        }
        connection.close().await.unwrap();
        std::fs::write(scratch.path().join("notes.txt"), "theirs").unwrap();
        is_left_alone(scratch.path(), "no database of medbind's registry").await;
    }
    let scratch = tempfile::tempdir().unwrap();
    let text = "no database at all, but long enough to look at, and longer than its head is";
    for text in [text, "short"] {
        std::fs::write(scratch.path().join(DATABASE_FILE), text).unwrap();
        is_left_alone(scratch.path(), "damaged").await;
    }
}

#[tokio::test]
async fn a_backup_is_one_moment_of_a_registry_that_runs() {
    let registry = Registry::new().await;
    let operator = registry.operator();
    operator.enrol(&common::devices(1..3000)).await;
    let to = registry.dir.join("backup.sqlite");
    let importing = operator.import("application/x-ndjson", {
        common::body_of(&common::devices(3000..20_000))
    });
    let (copied, _) = tokio::join!(backup(&registry.dir, &to), importing);
    let copied = copied.unwrap();
    assert!(copied.head >= 2999 && copied.octets > 100_000, "{copied:?}");
    assert_eq!(copied.beside.len(), 4, "{copied:?}");
    let mode = std::fs::metadata(&to).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode, 0o600);
    let again = backup(&registry.dir, &to).await;
    assert!(matches!(again, Err(BackupError::Exists(_))), "{again:?}");
    let nothing = backup(&registry.dir.join("edge"), &registry.dir.join("b")).await;
    assert!(matches!(nothing, Err(BackupError::Nothing(_))));

    // It is a registry's database, with the same history up to then.
    let cursor = registry.edge().feed("?limit=1").await.header.cursor;
    let other = tempfile::tempdir().unwrap();
    std::fs::copy(&to, other.path().join(DATABASE_FILE)).unwrap();
    let restored = Registry::open(other.path()).await;
    let page = restored
        .edge()
        .feed(&format!("?cursor={cursor}&limit=5"))
        .await;
    assert_eq!(page.header.head, copied.head);
    assert_eq!(page.bindings.len(), 5);
    assert_eq!(
        restored.operator().get("/v1/devices/acme:SN1").await.1["pseudonym"],
        operator.get("/v1/devices/acme:SN1").await.1["pseudonym"]
    );
    let left: Vec<_> = contents(&registry.dir).into_keys().collect();
    assert!(
        !left
            .iter()
            .any(|path| path.to_string_lossy().contains("half-written"))
    );
}

#[tokio::test]
async fn of_two_backups_to_one_file_one_is_made_and_none_spoils_the_other() {
    let registry = Registry::new().await;
    registry.operator().enrol(&common::devices(1..3000)).await;
    let folder = tempfile::tempdir().unwrap();
    let to = folder.path().join("backup.sqlite");
    // What another one has begun.
    let begun = folder.path().join("backup.sqlite.half-written");
    std::fs::write(&begun, "another's").unwrap();
    let (one, other) = tokio::join!(backup(&registry.dir, &to), backup(&registry.dir, &to));
    let (made, late) = match (one, other) {
        (Ok(made), Err(late)) | (Err(late), Ok(made)) => (made, late),
        both => panic!("{both:?}"),
    };
    assert!(matches!(late, BackupError::Exists(_)), "{late}");
    assert_eq!(made.octets, std::fs::metadata(&to).unwrap().len());
    let mut connection = open(&to).await;
    let count: i64 = sqlx::query_scalar("SELECT count(*) FROM devices")
        .fetch_one(&mut connection)
        .await
        .unwrap();
    assert_eq!(count, 2999);
    connection.close().await.unwrap();
    assert_eq!(std::fs::read(&begun).unwrap(), b"another's");
    assert_eq!(contents(folder.path()).len(), 2, "nothing is left behind");
}

/// A row of the audit.
type Row = (
    String,
    String,
    Option<String>,
    Option<String>,
    Option<String>,
    Option<i64>,
);

#[tokio::test]
async fn every_change_is_audited_with_who_and_why() {
    let registry = Registry::new().await;
    let operator = registry.operator();
    operator.enrol(&common::devices(1..3)).await;
    operator
        .claim(&device(1).code(), &device(2).secret(), "acc-1")
        .await;
    operator
        .claim(&device(1).code(), &device(1).secret(), "acc-1")
        .await;
    let why = serde_json::json!({"reason": "reported stolen"});
    operator.post("/v1/devices/acme:SN1/revoke", &why).await;
    operator.post("/v1/devices/acme:SN1/revoke", &why).await;
    let database = registry.dir.join(DATABASE_FILE);
    let registry = registry.stop().await;
    let mut connection = open(&database).await;
    let rows: Vec<Row> = sqlx::query_as(
        "SELECT actor, action, device, account, reason, last_revision FROM audit ORDER BY id",
    )
    .fetch_all(&mut connection)
    .await
    .unwrap();
    let text = |text: &str| Some(text.to_owned());
    let row = |action: &str, device, account, reason, revision| {
        (
            "operator:operator".to_owned(),
            action.to_owned(),
            device,
            account,
            reason,
            revision,
        )
    };
    let (sn1, acc) = (|| text("acme:SN1"), || text("acc-1"));
    assert_eq!(
        rows,
        [
            row("enrol", None, None, None, Some(2)),
            row("claim_refused", sn1(), acc(), None, None),
            row("claim", sn1(), acc(), None, Some(3)),
            row("revoke", sn1(), acc(), text("reported stolen"), Some(4)),
        ]
    );
    drop(registry);
}

async fn pages(database: &Path) -> u32 {
    let mut connection = open(database).await;
    let pages: i64 = sqlx::query_scalar("PRAGMA page_count")
        .fetch_one(&mut connection)
        .await
        .unwrap();
    connection.close().await.unwrap();
    u32::try_from(pages).unwrap()
}

#[tokio::test]
async fn an_import_that_fills_the_disk_says_that_its_first_parts_are_there() {
    let registry = Registry::new().await.stop().await;
    let database = registry.dir.join(DATABASE_FILE);
    let empty = pages(&database).await;
    let registry = registry.start().await;
    registry.operator().enrol(&common::devices(0..5000)).await;
    let registry = registry.stop().await;
    let part = pages(&database).await - empty;
    let mut limited = config(&registry.dir);
    // Room for one part more, and not for two.
    limited.max_database_pages = Some(empty + part * 5 / 2);
    let registry = registry.start_with(limited).await;
    let body = common::body_of(&common::devices(5000..20_000));
    let operator = registry.operator();
    let answer = operator.import("application/x-ndjson", body).await;
    let last = answer.last().unwrap();
    assert_eq!(
        (&last["done"], &last["imported"]),
        (&false.into(), &5000.into())
    );
    let error = last["error"].as_str().unwrap();
    assert!(
        error.contains("disk is full; what came before is imported"),
        "{error}"
    );
    assert_eq!(operator.get("/v1/devices/acme:SN9999").await.0, 200);
    assert_eq!(operator.get("/v1/devices/acme:SN10000").await.0, 404);
}

#[tokio::test]
async fn a_full_disk_refuses_changes_and_goes_on_answering() {
    let registry = Registry::new().await;
    registry.operator().enrol(&[device(1)]).await;
    let registry = registry.stop().await;
    // A database that may not grow is as good as a full disk, and as bad.
    let database = registry.dir.join(DATABASE_FILE);
    let pages = pages(&database).await;
    assert!(pages > 0);
    let mut limited = config(&registry.dir);
    limited.max_database_pages = Some(pages + 2);
    let registry = registry.start_with(limited).await;
    let operator = registry.operator();
    let body = common::body_of(&common::devices(10..3000));
    let answer = operator.import("application/x-ndjson", body).await;
    let last = answer.last().unwrap();
    assert_eq!(
        (&last["done"], &last["imported"]),
        (&false.into(), &0.into())
    );
    assert!(
        last["error"].as_str().unwrap().contains("disk is full"),
        "{last}"
    );
    // What was there is there, is fed, and the head did not move.
    let page = registry.edge().feed("").await;
    assert_eq!((page.header.head, page.bindings.len()), (1, 1));
    assert_eq!(operator.get("/v1/devices/acme:SN1").await.0, 200);
    // And a change that has room is made.
    let nothing = serde_json::json!({});
    let (status, answer) = operator
        .post("/v1/devices/acme:SN1/suspend", &nothing)
        .await;
    assert_eq!(
        (status.as_u16(), &answer["state"]),
        (200, &"suspended".into())
    );
}
