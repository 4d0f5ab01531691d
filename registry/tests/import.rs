//! What an import does with a device that is there, or that it named before.
mod common;

use common::{Caller, Provisioned, Registry, body_of, device, devices};
use futures_util::{StreamExt as _, stream};
use medbind_registry::DATABASE_FILE;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{Connection as _, SqliteConnection};

const NDJSON: &str = "application/x-ndjson";

fn csv_of(devices: &[Provisioned]) -> String {
    let rows = devices.iter().map(|device| {
        let code = device.code().replace('-', "").to_lowercase();
        format!("cgm,{},{},{code}\n", device.secret.hash(), device.device)
    });
    ["class,secret_hash,device,code\n".to_owned()]
        .into_iter()
        .chain(rows)
        .collect()
}

async fn put(operator: &Caller, path: &str, body: &Value) {
    let request = operator.request(Method::PUT, path).json(body);
    assert_eq!(request.send().await.unwrap().status(), StatusCode::OK);
}

/// Something of everything that may become of a device, and the secret of the one that was
/// released.
async fn lives(operator: &Caller) -> String {
    for n in 1..=2 {
        let device = device(n);
        let (status, _) = operator
            .claim(&device.code(), &device.secret(), "acc-1")
            .await;
        assert_eq!(status, StatusCode::OK);
    }
    let (_, released) = operator.act("acme:SN2", "release").await;
    operator.act("acme:SN3", "revoke").await;
    operator.act("acme:SN4", "suspend").await;
    let pins = json!({"pins": ["cd".repeat(32)]});
    put(operator, "/v1/devices/acme:SN5/pins", &pins).await;
    let end = json!({"expires_at": "2035-01-01T00:00:00Z"});
    put(operator, "/v1/devices/acme:SN6/expires_at", &end).await;
    assert_eq!(operator.act("acme:SN7", "secret").await.0, StatusCode::OK);
    released["claim_secret"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn the_same_line_again_is_no_change_whatever_became_of_the_device() {
    let registry = Registry::new().await;
    let operator = registry.operator();
    operator.enrol(&devices(0..10)).await;
    let secret = lives(&operator).await;
    let head = registry.edge().feed("").await.header.head;
    let answer = operator.import(NDJSON, body_of(&devices(0..12))).await;
    let done = json!({"imported": 2, "rejected": 0, "unchanged": 10, "done": true});
    assert_eq!(answer.last(), Some(&done));
    // Spelt another way, in other columns.
    let answer = operator.import("text/csv", csv_of(&devices(0..12))).await;
    let done = json!({"imported": 0, "rejected": 0, "unchanged": 12, "done": true});
    assert_eq!(answer.last(), Some(&done));
    assert_eq!(registry.edge().feed("").await.header.head, head + 2);
    // The secret that a release made is still the one that counts.
    let (status, _) = operator.claim(&device(2).code(), &secret, "acc-2").await;
    assert_eq!(status, StatusCode::OK);
}

#[tokio::test]
async fn another_line_for_a_device_that_is_there_is_an_error_that_says_in_what() {
    let registry = Registry::new().await;
    let operator = registry.operator();
    operator.enrol(&devices(0..4)).await;
    let mut code = device(1);
    code.code = device(100).code;
    let mut secret = device(2);
    secret.secret = device(100).secret;
    let class = device(3).line().replace("cgm", "pump");
    // An order of its own, and another line than the one that it was enrolled with, though the
    // device is now as it says.
    let pins = json!({"pins": ["ab".repeat(32)]});
    put(&operator, "/v1/devices/acme:SN0/pins", &pins).await;
    let pinned = device(0).line().replace(
        "\"class\"",
        &format!("\"pins\":[\"{}\"],\"class\"", "ab".repeat(32)),
    );
    let body = [pinned, code.line(), secret.line(), class].join("\n");
    let answer = operator.import(NDJSON, body).await;
    let already = "is enrolled already";
    assert_eq!(
        answer,
        [
            json!({"line": 1, "error": format!("device acme:SN0 {already}, by a line with other values")}),
            json!({"line": 2, "error": format!("device acme:SN1 {already}, and differs in code")}),
            json!({"line": 3, "error": format!("device acme:SN2 {already}, and differs in secret_hash")}),
            json!({"line": 4, "error": format!("device acme:SN3 {already}, and differs in class")}),
            json!({"imported": 0}),
            json!({"imported": 0, "rejected": 4, "done": true}),
        ]
    );
}

/// The answer that docs/api.md shows.
fn shown() -> Vec<Value> {
    let document = include_str!("../../docs/api.md");
    let (_, shown) = document
        .split_once("\n    {\"imported\":5000}\n")
        .expect("docs/api.md shows an answer to an import");
    let (shown, _) = shown.split_once("\n\n").unwrap();
    common::lines(&format!("{{\"imported\":5000}}\n{shown}"))
}

#[tokio::test]
async fn a_device_that_stands_twice_is_reported_with_both_lines_however_far_apart() {
    let registry = Registry::new().await;
    let operator = registry.operator();
    // acme:SN1 stands on line 12, and again on line 7001: two batches.
    let mut fleet = devices(101..10_101);
    fleet[11] = device(1);
    fleet[7_000] = device(1);
    let answer = operator.import(NDJSON, body_of(&fleet)).await;
    assert_eq!(answer, shown());
    // So it is said when the file is sent again, and not that the second is there already.
    let again = operator.import(NDJSON, body_of(&fleet)).await;
    assert_eq!(again[1], answer[1]);
    let done = json!({"imported": 0, "rejected": 1, "unchanged": 9_999, "done": true});
    assert_eq!(again.last(), Some(&done));
    // Another import is another file.
    let one = operator.import(NDJSON, device(1).line()).await;
    assert_eq!(one.last().unwrap()["unchanged"], 1);
}

#[tokio::test]
async fn a_file_that_is_sent_again_while_the_first_is_still_read_is_no_conflict() {
    let registry = Registry::new().await;
    let operator = registry.operator();
    let fleet = devices(0..400);
    let slowly = |lines: Vec<Provisioned>| {
        let chunks: Vec<_> = lines.chunks(50).map(body_of).collect();
        let paced = stream::iter(chunks).then(async |chunk| {
            tokio::task::yield_now().await;
            Ok::<_, std::io::Error>(chunk)
        });
        reqwest::Body::wrap_stream(Box::pin(paced))
    };
    // The first is cut off, and what came of it is taken.
    let cut: Vec<Result<String, std::io::Error>> = vec![
        Ok(body_of(&fleet[..200])),
        Err(std::io::Error::other("cut off")),
    ];
    let sent = operator
        .request(Method::POST, "/v1/devices")
        .header("content-type", NDJSON)
        .body(reqwest::Body::wrap_stream(stream::iter(cut)))
        .send();
    let (first, second, third) = tokio::join!(
        sent,
        operator.import(NDJSON, slowly(fleet.clone())),
        operator.import(NDJSON, slowly(fleet.clone())),
    );
    drop(first);
    for answer in [second, third] {
        let done = answer.last().unwrap();
        let count = |name: &str| done[name].as_u64().unwrap_or(0);
        assert_eq!(count("rejected"), 0, "{answer:?}");
        assert_eq!(count("imported") + count("unchanged"), 400, "{done}");
    }
    let last = operator.import(NDJSON, body_of(&fleet)).await;
    assert_eq!(last.last().unwrap()["unchanged"], 400);
    assert_eq!(registry.edge().feed("").await.header.head, 400);
}

#[tokio::test]
async fn a_device_enrolled_before_lines_were_kept_is_compared_with_what_it_is_now() {
    let registry = Registry::new().await;
    let operator = registry.operator();
    operator.enrol(&devices(0..10)).await;
    lives(&operator).await;
    let registry = registry.stop().await;
    // The database as an older version left it.
    let options = SqliteConnectOptions::new().filename(registry.dir.join(DATABASE_FILE));
    let mut connection = SqliteConnection::connect_with(&options).await.unwrap();
    for statement in [
        "ALTER TABLE devices DROP COLUMN enrolment",
        "DELETE FROM _sqlx_migrations WHERE version = 4",
    ] {
        sqlx::query(statement)
            .execute(&mut connection)
            .await
            .unwrap();
    }
    connection.close().await.unwrap();
    let registry = registry.start().await;
    let answer = registry
        .operator()
        .import(NDJSON, body_of(&devices(0..11)))
        .await;
    let (done, rest) = answer.split_last().unwrap();
    assert_eq!(
        *done,
        json!({"imported": 1, "rejected": 4, "unchanged": 6, "done": true})
    );
    let errors: Vec<&str> = rest
        .iter()
        .filter_map(|line| line["error"].as_str())
        .collect();
    assert_eq!(
        errors,
        [
            "device acme:SN2 is enrolled already, and differs in secret_hash",
            "device acme:SN5 is enrolled already, and differs in pins",
            "device acme:SN6 is enrolled already, and differs in expires_at",
            "device acme:SN7 is enrolled already, and differs in secret_hash",
        ]
    );
}
