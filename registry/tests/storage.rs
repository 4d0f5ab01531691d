//! What is on disk: acknowledged changes, refused databases, modes.
mod common;

use std::os::unix::fs::PermissionsExt as _;

use common::{Registry, config, device};
use medbind_registry::{DATABASE_FILE, start};
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

#[tokio::test]
async fn a_database_of_a_newer_version_or_of_somebody_else_is_left_alone() {
    let registry = Registry::new().await;
    let dir = registry.dir.clone();
    let database = dir.join(DATABASE_FILE);
    let mode = std::fs::metadata(&database).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode, 0o600);
    let registry = registry.stop().await;
    let mut connection = open(&database).await;
    sqlx::query(
        "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) \
         VALUES (9999, 'of the future', 1, x'00', 0)",
    )
    .execute(&mut connection)
    .await
    .unwrap();
    connection.close().await.unwrap();
    let before = std::fs::read(&database).unwrap();
    let error = start(config(&dir)).await.unwrap_err().to_string();
    assert!(
        error.contains("newer version") && error.contains("9999"),
        "{error}"
    );
    assert_eq!(std::fs::read(&database).unwrap(), before);

    std::fs::remove_file(&database).unwrap();
    let mut connection = open(&database).await;
    sqlx::query("CREATE TABLE somebody (x)")
        .execute(&mut connection)
        .await
        .unwrap();
    connection.close().await.unwrap();
    let error = start(config(&dir)).await.unwrap_err().to_string();
    assert!(
        error.contains("no database of medbind's registry"),
        "{error}"
    );

    std::fs::write(&database, "no database at all, but long enough to look at").unwrap();
    let error = start(config(&dir)).await.unwrap_err().to_string();
    assert!(error.contains("damaged"), "{error}");
    drop(registry);
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

#[tokio::test]
async fn a_full_disk_refuses_changes_and_goes_on_answering() {
    let registry = Registry::new().await;
    registry.operator().enrol(&[device(1)]).await;
    let registry = registry.stop().await;
    // A database that may not grow is as good as a full disk, and as bad.
    let database = registry.dir.join(DATABASE_FILE);
    let mut connection = open(&database).await;
    let pages: i64 = sqlx::query_scalar("PRAGMA page_count")
        .fetch_one(&mut connection)
        .await
        .unwrap();
    connection.close().await.unwrap();
    assert!(pages > 0);
    let mut limited = config(&registry.dir);
    limited.max_database_pages = Some(u32::try_from(pages).unwrap() + 2);
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
