//! Refused claims, and who has to wait for them; new secrets, and what they end.
mod common;

use common::{Caller, Provisioned, Registry, config, device, devices};
use jiff::SignedDuration;
use medbind_registry::DATABASE_FILE;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{Connection as _, SqliteConnection};

/// A claim with a wrong secret: the status, and `retry-after`.
async fn guess(operator: &Caller, device: &Provisioned, account: &str) -> (u16, Option<u64>) {
    let body = json!({
        "code": device.code(),
        "secret": common::device(9_999).secret(),
        "account": account,
    });
    let request = operator.request(Method::POST, "/v1/claims").json(&body);
    let response = request.send().await.unwrap();
    let seconds = response.headers().get("retry-after").map(|value| {
        let text = value.to_str().unwrap();
        text.parse().unwrap()
    });
    (response.status().as_u16(), seconds)
}

async fn claims(operator: &Caller, device: &Provisioned, secret: &str, account: &str) -> u16 {
    let (status, _) = operator.claim(&device.code(), secret, account).await;
    status.as_u16()
}

/// The same data under a clock that is so far ahead.
async fn later(registry: Registry, seconds: i64) -> Registry {
    let stopped = registry.stop().await;
    let mut config = config(&stopped.dir);
    config.clock_offset = SignedDuration::from_secs(seconds);
    stopped.start_with(config).await
}

#[tokio::test]
async fn who_knows_the_code_alone_locks_out_nobody_but_themselves() {
    let registry = Registry::new().await;
    let operator = registry.operator();
    operator.enrol(&devices(1..3)).await;
    for _ in 0..10 {
        let refused = guess(&operator, &device(1), "stranger").await;
        assert_eq!(refused, (403, None));
    }
    let (status, wait) = guess(&operator, &device(1), "stranger").await;
    assert_eq!(status, 429);
    assert!((1..=900).contains(&wait.unwrap()), "{wait:?}");
    // Not even with the right secret.
    let secret = device(1).secret();
    assert_eq!(
        claims(&operator, &device(1), &secret, "stranger").await,
        429
    );
    // Of another code the stranger may try, and the owner may claim.
    assert_eq!(guess(&operator, &device(2), "stranger").await, (403, None));
    assert_eq!(claims(&operator, &device(1), &secret, "owner").await, 200);
}

#[tokio::test]
async fn a_claim_waits_as_long_as_retry_after_says_and_no_longer() {
    let registry = Registry::new().await;
    let operator = registry.operator();
    operator.enrol(&[device(1)]).await;
    for _ in 0..10 {
        guess(&operator, &device(1), "acc-1").await;
    }
    let registry = later(registry, 14 * 60).await;
    let (status, wait) = guess(&registry.operator(), &device(1), "acc-1").await;
    assert_eq!(status, 429);
    assert!((1..=60).contains(&wait.unwrap()), "{wait:?}");
    let registry = later(registry, 15 * 60).await;
    let secret = device(1).secret();
    assert_eq!(
        claims(&registry.operator(), &device(1), &secret, "acc-1").await,
        200
    );
}

#[tokio::test]
async fn a_thousand_refusals_of_a_code_make_all_wait_until_there_is_a_new_secret() {
    let registry = Registry::new().await;
    registry.operator().enrol(&devices(1..3)).await;
    let stopped = registry.stop().await;
    let options = SqliteConnectOptions::new().filename(stopped.dir.join(DATABASE_FILE));
    let mut connection = SqliteConnection::connect_with(&options).await.unwrap();
    // As 111 accounts leave it that try nine secrets each; the oldest is 10 minutes old.
    let now = jiff::Timestamp::now().as_millisecond();
    sqlx::query(
        "WITH RECURSIVE numbers (n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM numbers WHERE n < 998) \
         INSERT INTO refused_claims (code, account, at) \
         SELECT ?1, 'stranger-' || (n % 111), ?2 + n FROM numbers",
    )
    .bind(device(1).code.canonical())
    .bind(now - 600_000)
    .execute(&mut connection)
    .await
    .unwrap();
    connection.close().await.unwrap();
    let registry = stopped.start().await;
    let operator = registry.operator();
    assert_eq!(guess(&operator, &device(1), "one-more").await, (403, None));
    let (status, wait) = guess(&operator, &device(1), "owner").await;
    assert_eq!(status, 429);
    assert!((1..=300).contains(&wait.unwrap()), "{wait:?}");
    assert_eq!(guess(&operator, &device(2), "owner").await, (403, None));
    let (_, made) = operator.act("acme:SN1", "secret").await;
    let secret = made["claim_secret"].as_str().unwrap();
    assert_eq!(claims(&operator, &device(1), secret, "owner").await, 200);
}

#[tokio::test]
async fn a_secret_that_nobody_has_is_replaced_while_no_account_has_the_device() {
    let registry = Registry::new().await;
    let operator = registry.operator();
    operator.enrol(&devices(1..3)).await;
    let (code, first) = (device(1).code(), device(1).secret());
    operator.claim(&code, &first, "acc-1").await;
    // An account has it: no new secret, and the binding is as it was.
    let (status, refused) = operator.act("acme:SN1", "secret").await;
    assert_eq!(
        (status, &refused["code"]),
        (StatusCode::CONFLICT, &"state_conflict".into())
    );
    assert!(refused["detail"].as_str().unwrap().contains("release"));
    let (_, released) = operator.act("acme:SN1", "release").await;
    let lost = released["claim_secret"].as_str().unwrap();
    // What was lost cannot be had again, and the refusal says what can.
    let (status, refused) = operator.act("acme:SN1", "release").await;
    assert_eq!(status, StatusCode::CONFLICT);
    assert!(
        refused["detail"].as_str().unwrap().contains("new-secret"),
        "{refused}"
    );
    let why = json!({"reason": "the answer was lost"});
    let (status, made) = operator.post("/v1/devices/acme:SN1/secret", &why).await;
    assert_eq!(
        (status, &made["state"], &made["epoch"]),
        (StatusCode::OK, &"unclaimed".into(), &1.into())
    );
    let (_, shown) = operator.get("/v1/devices/acme:SN1").await;
    assert_eq!(
        (&shown["change"], &shown["changed_by"], &shown["reason"]),
        (
            &"new_secret".into(),
            &"operator:operator".into(),
            &"the answer was lost".into()
        )
    );
    assert!(shown.get("claim_secret").is_none());
    let made = made["claim_secret"].as_str().unwrap();
    assert_eq!(claims(&operator, &device(1), lost, "acc-2").await, 403);
    assert_eq!(claims(&operator, &device(1), &first, "acc-2").await, 403);
    let (status, claimed) = operator.claim(&code, made, "acc-2").await;
    assert_eq!((status, &claimed["epoch"]), (StatusCode::OK, &2.into()));

    // A hold stays, and a revoked device gets nothing.
    operator.act("acme:SN2", "suspend").await;
    let (status, made) = operator.act("acme:SN2", "secret").await;
    assert_eq!(
        (status, &made["state"]),
        (StatusCode::OK, &"suspended".into())
    );
    operator.act("acme:SN2", "revoke").await;
    let (status, _) = operator.act("acme:SN2", "secret").await;
    assert_eq!(status, StatusCode::CONFLICT);
    let (status, _) = operator.act("acme:SN9", "secret").await;
    assert_eq!(status, StatusCode::NOT_FOUND);
}

async fn set_end(operator: &Caller, body: &Value) -> (u16, Value) {
    let request = operator.request(Method::PUT, "/v1/devices/acme:SN1/expires_at");
    let response = request.json(body).send().await.unwrap();
    let status = response.status().as_u16();
    (status, response.json().await.unwrap())
}

#[tokio::test]
async fn the_end_of_a_binding_is_moved_and_the_feed_tells_it() {
    let registry = Registry::new().await;
    let (operator, edge) = (registry.operator(), registry.edge());
    operator.enrol(&[device(1)]).await;
    operator
        .claim(&device(1).code(), &device(1).secret(), "acc-1")
        .await;
    let cursor = edge.feed("").await.header.cursor;
    let poll = format!("?cursor={cursor}&wait=30s");
    let end = "2035-06-30T22:00:00Z";
    let loan = json!({"expires_at": "2035-07-01T00:00:00+02:00", "reason": "on loan"});
    let (heard, (status, set)) = tokio::join!(edge.feed(&poll), set_end(&operator, &loan));
    assert_eq!(
        (status, &set["expires_at"], &set["state"], &set["revision"]),
        (200, &end.into(), &"active".into(), &3.into())
    );
    let told = &heard.bindings[0];
    assert_eq!(
        (told.expires_at, told.revision),
        (Some(end.parse().unwrap()), 3)
    );
    let (_, shown) = operator.get("/v1/devices/acme:SN1").await;
    assert_eq!(
        (&shown["change"], &shown["reason"]),
        (&"expire".into(), &"on loan".into())
    );
    // The same again is no change; null takes it away; the past is a time, too.
    let mut revision = 3;
    for (to, changes) in [
        (json!(end), false),
        (Value::Null, true),
        (Value::Null, false),
        (json!("2020-01-01T00:00:00Z"), true),
    ] {
        revision += u64::from(changes);
        let (status, set) = set_end(&operator, &json!({ "expires_at": to })).await;
        assert_eq!(
            (status, &set["expires_at"], &set["revision"]),
            (200, &to, &revision.into())
        );
        let told = edge.lookup("acme:SN1").await.binding.unwrap();
        assert_eq!(
            told.expires_at.map(|end| json!(end)).unwrap_or_default(),
            to
        );
    }
    for wrong in [
        json!({}),
        json!({"expires_at": "tomorrow"}),
        json!({"expires_at": null, "at": 1}),
        json!({"expires_at": null, "reason": "two\nlines"}),
    ] {
        let (status, refused) = set_end(&operator, &wrong).await;
        assert_eq!(
            (status, &refused["code"]),
            (400, &"invalid_request".into()),
            "{wrong}"
        );
    }
    // It is the device's, and stays with it.
    let (_, released) = operator.act("acme:SN1", "release").await;
    assert_eq!(released["expires_at"], "2020-01-01T00:00:00Z");
    operator.act("acme:SN1", "revoke").await;
    let (status, _) = set_end(&operator, &json!({"expires_at": null})).await;
    assert_eq!(status, 409);
}
