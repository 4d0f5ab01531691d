//! Who did what, when and why: the audit, read page by page.
mod common;

use common::{Registry, device, devices};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

/// What was done and to which device, in the order of the answer.
fn told(page: &Value) -> Vec<(String, Option<String>)> {
    let text = |entry: &Value, name: &str| entry[name].as_str().map(str::to_owned);
    let entries = page["entries"].as_array().unwrap().iter();
    entries
        .map(|entry| (text(entry, "action").unwrap(), text(entry, "device")))
        .collect()
}

fn entry(action: &str, device: Option<&str>) -> (String, Option<String>) {
    (action.to_owned(), device.map(str::to_owned))
}

#[tokio::test]
async fn a_device_has_its_own_entries_and_the_import_that_it_came_in_with() {
    let registry = Registry::new().await;
    let operator = registry.operator();
    operator.enrol(&devices(1..4)).await;
    operator.enrol(&devices(4..9)).await;
    operator.enrol(&[device(9)]).await;
    let wrong = device(3).secret();
    operator.claim(&device(2).code(), &wrong, "acc-1").await;
    operator
        .claim(&device(2).code(), &device(2).secret(), "acc-1")
        .await;
    let why = json!({"reason": "reported lost"});
    operator.post("/v1/devices/acme:SN2/suspend", &why).await;
    // It is so already, which is no change.
    operator.post("/v1/devices/acme:SN2/suspend", &why).await;
    operator.act("acme:SN5", "revoke").await;
    operator.claim(&device(77).code(), &wrong, "acc-2").await;

    let (status, page) = operator.get("/v1/audit?device=acme:SN2").await;
    assert_eq!(status, StatusCode::OK, "{page}");
    let sn2 = Some("acme:SN2");
    assert_eq!(
        told(&page),
        [
            entry("suspend", sn2),
            entry("claim", sn2),
            entry("claim_refused", sn2),
            entry("enrol", None),
        ]
    );
    let newest = &page["entries"][0];
    assert_eq!(newest["actor"], "operator:operator");
    assert_eq!(newest["reason"], "reported lost");
    assert_eq!(newest["account"], "acc-1");
    let (_, shown) = operator.get("/v1/devices/acme:SN2").await;
    assert_eq!(newest["at"], shown["changed_at"]);
    assert_eq!(newest["last_revision"], shown["revision"]);
    assert_eq!(page["entries"][2]["last_revision"], Value::Null);
    let import = &page["entries"][3];
    assert_eq!(
        (&import["first_revision"], &import["last_revision"]),
        (&json!(1), &json!(3))
    );
    assert_eq!(page["next"], Value::Null);

    for (query, expected) in [
        (
            "device=acme:SN5",
            vec![entry("revoke", Some("acme:SN5")), entry("enrol", None)],
        ),
        ("device=acme:SN6", vec![entry("enrol", None)]),
        ("device=acme:SN9", vec![entry("enrol", Some("acme:SN9"))]),
        ("device=acme:SN77", vec![]),
        ("account=acc-2", vec![entry("claim_refused", None)]),
        (
            "account=acc-1&device=acme:SN2&limit=1",
            vec![entry("suspend", sn2)],
        ),
        ("account=acc-1&device=acme:SN5", vec![]),
    ] {
        let (_, page) = operator.get(&format!("/v1/audit?{query}")).await;
        assert_eq!(told(&page), expected, "{query}");
    }
}

#[tokio::test]
async fn the_audit_says_what_was_set_and_why() {
    let registry = Registry::new().await;
    let operator = registry.operator();
    operator.enrol(&[device(1)]).await;
    let [theirs, another] = ["5a", "c3"].map(|octet| octet.repeat(32));
    let end = "2027-06-30T22:00:00Z";
    for (name, body) in [
        ("pins", json!({"pins": [theirs], "reason": "its first key"})),
        ("pins", json!({"pins": [another, theirs]})),
        ("pins", json!({"pins": [theirs], "reason": "and back"})),
        ("pins", json!({"pins": []})),
        (
            "expires_at",
            json!({"expires_at": end, "reason": "on loan"}),
        ),
        ("expires_at", json!({"expires_at": null})),
    ] {
        let path = format!("/v1/devices/acme:SN1/{name}");
        let request = operator.request(Method::PUT, &path).json(&body);
        assert_eq!(request.send().await.unwrap().status(), StatusCode::OK);
    }
    operator.act("acme:SN1", "suspend").await;
    let (_, page) = operator.get("/v1/audit?device=acme:SN1").await;
    let entries = page["entries"].as_array().unwrap().iter();
    let told: Vec<Value> = entries
        .map(|entry| json!([entry["action"], entry["set"], entry["reason"]]))
        .collect();
    let expected = json!([
        ["suspend", null, null],
        ["expire", {"expires_at": null}, null],
        ["expire", {"expires_at": end}, "on loan"],
        ["pin", {"pins": []}, null],
        ["pin", {"pins": [theirs]}, "and back"],
        ["pin", {"pins": [another, theirs]}, null],
        ["pin", {"pins": [theirs]}, "its first key"],
        ["enrol", null, null],
    ]);
    assert_eq!(Value::from(told), expected);
    let long = json!({"pins": [], "reason": "x".repeat(501)});
    let request = operator.request(Method::PUT, "/v1/devices/acme:SN1/pins");
    let answer = request.json(&long).send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn the_audit_is_read_in_pages_that_new_entries_do_not_shift() {
    let registry = Registry::new().await;
    let operator = registry.operator();
    operator.enrol(&devices(0..25)).await;
    for n in 0..25 {
        operator.act(&format!("acme:SN{n}"), "suspend").await;
    }
    let mut ids = Vec::new();
    let mut path = "/v1/audit?limit=10".to_owned();
    loop {
        let (_, page) = operator.get(&path).await;
        let entries = page["entries"].as_array().unwrap();
        ids.extend(entries.iter().map(|entry| entry["id"].as_u64().unwrap()));
        let Some(next) = page["next"].as_u64() else {
            break;
        };
        path = format!("/v1/audit?limit=10&before={next}");
        operator.act("acme:SN3", "resume").await;
        operator.act("acme:SN3", "suspend").await;
    }
    let all: Vec<u64> = (1..=26).rev().collect();
    assert_eq!(ids, all);

    for (query, count) in [
        ("limit=0", 1),
        ("before=1", 0),
        ("before=18446744073709551615&limit=1000", 30),
    ] {
        let (status, page) = operator.get(&format!("/v1/audit?{query}")).await;
        assert_eq!(status, StatusCode::OK, "{query}");
        assert_eq!(told(&page).len(), count, "{query}");
    }
    for query in ["before=x", "limit=-1", "device=SN1", "colour=red"] {
        let (status, page) = operator.get(&format!("/v1/audit?{query}")).await;
        assert_eq!(
            (status, &page["code"]),
            (StatusCode::BAD_REQUEST, &json!("invalid_request")),
            "{query}"
        );
    }
}
