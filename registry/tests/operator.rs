//! What operators do: import, claim, hold, end, release, look.
mod common;

use std::collections::HashSet;
use std::time::Duration;

use common::{Registry, device, devices};
use futures_util::{StreamExt as _, stream};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

#[tokio::test]
async fn bad_lines_are_reported_by_number_and_the_rest_is_imported() {
    let registry = Registry::new().await;
    let operator = registry.operator();
    operator.enrol(&[device(1)]).await;
    let mut changed = device(1);
    changed.secret = device(8).secret;
    let twice = device(3);
    let mut same_code = device(4);
    same_code.code = device(2).code;
    let mut taken_code = device(5);
    taken_code.code = device(1).code;
    let unknown = device(6)
        .line()
        .replace("\"class\"", "\"colour\":1,\"class\"");
    let body = [
        changed.line(),
        device(2).line(),
        twice.line(),
        "not json".to_owned(),
        String::new(),
        twice.line(),
        same_code.line(),
        taken_code.line(),
        unknown,
        device(7).line(),
    ]
    .join("\n");
    let answer = operator.import("application/x-ndjson", body).await;
    let expected = [
        (1, "device acme:SN1 is enrolled already"),
        (4, "the line is no JSON object"),
        (6, "device acme:SN3 stands on line 3 too"),
        (7, "the code of device acme:SN4 is that of line 2 too"),
        (8, "the code of device acme:SN5 is that of acme:SN1"),
        (9, "unknown field `colour`"),
    ];
    let (done, rest) = answer.split_last().unwrap();
    assert_eq!(*done, json!({"imported": 3, "rejected": 6, "done": true}));
    let rejected: Vec<&Value> = rest
        .iter()
        .filter(|line| line.get("line").is_some())
        .collect();
    assert_eq!(rejected.len(), expected.len(), "{rejected:?}");
    for (found, (line, error)) in rejected.iter().zip(expected) {
        assert_eq!(found["line"], line);
        assert!(
            found["error"].as_str().unwrap().starts_with(error),
            "{found}"
        );
    }
    let (_, list) = operator.get("/v1/devices").await;
    let names: Vec<&str> = list["devices"]
        .as_array()
        .unwrap()
        .iter()
        .map(|d| d["device"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["acme:SN1", "acme:SN2", "acme:SN3", "acme:SN7"]);
}

#[tokio::test]
async fn an_import_may_be_repeated() {
    let registry = Registry::new().await;
    let operator = registry.operator();
    operator.enrol(&devices(0..10)).await;
    operator.act("acme:SN3", "revoke").await;
    let body: Vec<String> = devices(0..12)
        .iter()
        .map(common::Provisioned::line)
        .collect();
    let answer = operator
        .import("application/x-ndjson", body.join("\n"))
        .await;
    let done = json!({"imported": 2, "rejected": 0, "unchanged": 10, "done": true});
    assert_eq!(answer.last(), Some(&done));
    let (_, shown) = operator.get("/v1/devices/acme:SN3").await;
    assert_eq!(shown["state"], "revoked");
    assert_eq!(registry.edge().feed("").await.header.head, 13);
}

#[tokio::test]
async fn a_large_import_shows_progress_and_is_all_there() {
    let registry = Registry::new().await;
    let operator = registry.operator();
    let lines: Vec<String> = devices(0..50_000)
        .iter()
        .enumerate()
        .map(|(at, device)| {
            if at % 1000 == 999 {
                "{}\n".into()
            } else {
                device.line() + "\n"
            }
        })
        .collect();
    let chunks: Vec<Result<String, std::io::Error>> =
        lines.chunks(777).map(|lines| Ok(lines.concat())).collect();
    let body = reqwest::Body::wrap_stream(stream::iter(chunks));
    let answer = operator.import("application/x-ndjson", body).await;
    let (done, rest) = answer.split_last().unwrap();
    assert_eq!(
        *done,
        json!({"imported": 49_950, "rejected": 50, "done": true})
    );
    let progress: Vec<u64> = rest
        .iter()
        .filter_map(|line| line["imported"].as_u64())
        .collect();
    assert!(progress.len() >= 10 && progress.is_sorted(), "{progress:?}");
    let rejected: Vec<u64> = rest
        .iter()
        .filter_map(|line| line["line"].as_u64())
        .collect();
    assert_eq!(rejected, (1..=50).map(|n| n * 1000).collect::<Vec<u64>>());
    let registry = registry.restart().await;
    let header = registry.edge().feed("?limit=1").await.header;
    assert_eq!(header.head, 49_950);
}

#[tokio::test]
async fn csv_and_a_single_object_are_taken_too() {
    let registry = Registry::new().await;
    let operator = registry.operator();
    let (one, two) = (device(1), device(2));
    let csv = format!(
        "device,code,secret_hash,class,pins,expires_at\n{},{},{},cgm,,\n{},{},{},cgm,{},2030-01-01T00:00:00Z\nacme:SN3,x,y\n",
        one.device,
        one.code,
        one.secret.hash(),
        two.device,
        two.code,
        two.secret.hash(),
        "ab".repeat(32),
    );
    let answer = operator.import("text/csv; charset=utf-8", csv).await;
    assert_eq!(
        *answer.last().unwrap(),
        json!({"imported": 2, "rejected": 1, "done": true})
    );
    let (_, shown) = operator.get("/v1/devices/acme:SN2").await;
    assert_eq!(shown["expires_at"], "2030-01-01T00:00:00Z");
    assert_eq!(shown["pins"], json!(["ab".repeat(32)]));
    assert_eq!(shown["state"], "unclaimed");
    assert_eq!(shown["code"], two.code());
    assert!(shown.get("secret_hash").is_none());
    let pretty = serde_json::from_str::<Value>(&device(4).line()).unwrap();
    let pretty = serde_json::to_string_pretty(&pretty).unwrap();
    let answer = operator.import("application/json", pretty).await;
    assert_eq!(answer.last().unwrap()["imported"], 1);
    let (status, body) = operator.post("/v1/devices", &json!(["x"])).await;
    assert_eq!(
        (status, body),
        (StatusCode::OK, Value::Null),
        "two lines, so no one document"
    );
    let other = operator
        .request(Method::POST, "/v1/devices")
        .body("x")
        .send()
        .await
        .unwrap();
    assert_eq!(other.status(), StatusCode::UNSUPPORTED_MEDIA_TYPE);
}

#[tokio::test]
async fn a_body_that_is_cut_short_gives_what_came_whole() {
    let registry = Registry::new().await;
    let operator = registry.operator();
    let (one, two) = (device(1).line(), device(2).line());
    let chunks = [
        Ok(format!("{one}\n{}", &two[..40])),
        Err(std::io::Error::other("cut")),
    ];
    let slowly = stream::iter(chunks).then(async |chunk| {
        tokio::time::sleep(Duration::from_millis(200)).await;
        chunk
    });
    let body = reqwest::Body::wrap_stream(Box::pin(slowly));
    let sent = operator
        .request(Method::POST, "/v1/devices")
        .header("content-type", "application/x-ndjson")
        .body(body)
        .send()
        .await;
    drop(sent);
    for _ in 0..100 {
        if operator.get("/v1/devices/acme:SN1").await.0 == StatusCode::OK {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(operator.get("/v1/devices/acme:SN1").await.0, StatusCode::OK);
    assert_eq!(
        operator.get("/v1/devices/acme:SN2").await.0,
        StatusCode::NOT_FOUND
    );
}

#[tokio::test]
async fn a_claim_needs_the_right_code_and_an_unused_secret_and_never_says_which_failed() {
    let registry = Registry::new().await;
    let operator = registry.operator();
    let used = device(1);
    let fresh = device(2);
    let revoked = device(3);
    let suspended = device(4);
    operator
        .enrol(&[
            used.clone(),
            fresh.clone(),
            revoked.clone(),
            suspended.clone(),
        ])
        .await;
    let (status, claimed) = operator.claim(&used.code(), &used.secret(), "acc-1").await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(
        (
            &claimed["state"],
            &claimed["account"],
            &claimed["epoch"],
            &claimed["revision"]
        ),
        (&"active".into(), &"acc-1".into(), &1.into(), &5.into())
    );
    operator.act("acme:SN3", "revoke").await;
    operator.act("acme:SN4", "suspend").await;
    let unknown = device(9);
    let mut answers = HashSet::new();
    for (why, code, secret) in [
        ("unknown code", unknown.code(), unknown.secret()),
        ("wrong secret", fresh.code(), unknown.secret()),
        ("used secret", used.code(), used.secret()),
        (
            "wrong secret of a claimed device",
            used.code(),
            unknown.secret(),
        ),
        ("revoked", revoked.code(), revoked.secret()),
        ("suspended", suspended.code(), suspended.secret()),
        ("no code", "x".into(), fresh.secret()),
        ("no secret", fresh.code(), String::new()),
        ("a code of 10 KiB", "0".repeat(10 << 10), fresh.secret()),
        ("another's code", used.code(), fresh.secret()),
    ] {
        let (status, body) = operator.claim(&code, &secret, "acc-2").await;
        assert_eq!(
            (status, &body["code"]),
            (StatusCode::FORBIDDEN, &"claim_refused".into()),
            "{why}"
        );
        answers.insert(body.to_string());
    }
    assert_eq!(answers.len(), 1, "{answers:?}");
    // Typed kindly: small letters, blanks, look-alikes.
    let code = fresh
        .code()
        .to_lowercase()
        .replace('-', " ")
        .replace('0', "o");
    let (status, _) = operator
        .claim(&code, &fresh.secret().to_lowercase(), "acc-2")
        .await;
    assert_eq!(status, StatusCode::OK);
    // A bad account is the caller's mistake.
    let (status, _) = operator.claim(&fresh.code(), &fresh.secret(), "a b").await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn a_storm_of_wrong_secrets_has_to_wait_and_others_do_not() {
    let registry = Registry::new().await;
    let operator = registry.operator();
    operator.enrol(&devices(1..3)).await;
    let mut statuses = Vec::new();
    for n in 0..12 {
        statuses.push(
            operator
                .claim(&device(1).code(), &device(100 + n).secret(), "a")
                .await
                .0,
        );
    }
    let refused = statuses
        .iter()
        .filter(|status| **status == StatusCode::FORBIDDEN)
        .count();
    assert_eq!((refused, statuses[11]), (10, StatusCode::TOO_MANY_REQUESTS));
    let (status, _) = operator
        .claim(&device(2).code(), &device(2).secret(), "acc-1")
        .await;
    assert_eq!(status, StatusCode::OK);
}

#[tokio::test]
async fn of_two_who_claim_at_once_exactly_one_wins() {
    let registry = Registry::new().await;
    let operator = registry.operator();
    operator.enrol(&devices(0..5)).await;
    for n in 0..5 {
        let claims: Vec<_> = (0..8)
            .map(|who| {
                let (operator, device) = (operator.clone(), device(n));
                let account = format!("acc-{who}");
                tokio::spawn(async move {
                    operator
                        .claim(&device.code(), &device.secret(), &account)
                        .await
                })
            })
            .collect();
        let mut winners = Vec::new();
        for claim in claims {
            let (status, body) = claim.await.unwrap();
            if status == StatusCode::OK {
                winners.push(body["account"].clone());
            } else {
                assert_eq!(status, StatusCode::FORBIDDEN);
            }
        }
        assert_eq!(winners.len(), 1);
        let (_, shown) = operator.get(&format!("/v1/devices/acme:SN{n}")).await;
        assert_eq!(shown["account"], winners[0]);
    }
}

#[tokio::test]
async fn an_epoch_is_an_ownership() {
    let registry = Registry::new().await;
    let operator = registry.operator();
    operator.enrol(&[device(1)]).await;
    let code = device(1).code();
    let mut secret = device(1).secret();
    for (round, account) in ["acc-1", "acc-2", "acc-1"].into_iter().enumerate() {
        let (status, claimed) = operator.claim(&code, &secret, account).await;
        assert_eq!(
            (status, &claimed["epoch"]),
            (StatusCode::OK, &(round + 1).into())
        );
        let (status, released) = operator.act("acme:SN1", "release").await;
        assert_eq!(status, StatusCode::OK);
        assert_eq!(
            (&released["state"], &released["account"]),
            (&"unclaimed".into(), &Value::Null)
        );
        assert_eq!(released["epoch"], round + 1);
        let old = secret;
        secret = released["claim_secret"].as_str().unwrap().to_owned();
        assert_eq!(
            operator.claim(&code, &old, "acc-9").await.0,
            StatusCode::FORBIDDEN
        );
    }
    let (_, shown) = operator.get("/v1/devices/acme:SN1").await;
    assert!(shown.get("claim_secret").is_none());
}

#[tokio::test]
async fn actions_are_one_change_each_and_revoked_is_final() {
    let registry = Registry::new().await;
    let operator = registry.operator();
    operator.enrol(&[device(1)]).await;
    operator
        .claim(&device(1).code(), &device(1).secret(), "acc-1")
        .await;
    let pins = json!({"pins": ["cd".repeat(32)]});
    for (action, status, state, revision) in [
        ("suspend", 200, "suspended", 3),
        ("suspend", 200, "suspended", 3),
        ("resume", 200, "active", 4),
        ("resume", 200, "active", 4),
        ("pins", 200, "active", 5),
        ("pins", 200, "active", 5),
        ("revoke", 200, "revoked", 6),
        ("revoke", 200, "revoked", 6),
        ("suspend", 409, "revoked", 6),
        ("resume", 409, "revoked", 6),
        ("release", 409, "revoked", 6),
        ("pins", 409, "revoked", 6),
    ] {
        let path = format!("/v1/devices/acme:SN1/{action}");
        let request = match action {
            "pins" => operator.request(Method::PUT, &path).json(&pins),
            _ => operator
                .request(Method::POST, &path)
                .json(&json!({"reason": "a test"})),
        };
        let response = request.send().await.unwrap();
        assert_eq!(response.status(), status, "{action}");
        let body: Value = response.json().await.unwrap();
        if status == 409 {
            assert_eq!(body["code"], "state_conflict");
        }
        let (_, shown) = operator.get("/v1/devices/acme:SN1").await;
        assert_eq!(
            (&shown["state"], &shown["revision"]),
            (&state.into(), &revision.into()),
            "{action}"
        );
    }
    let (status, body) = operator.act("acme:SN9", "suspend").await;
    assert_eq!(
        (status, &body["code"]),
        (StatusCode::NOT_FOUND, &"unknown_device".into())
    );
    let long = json!({"reason": "x".repeat(501)});
    let (status, _) = operator.post("/v1/devices/acme:SN1/revoke", &long).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn a_device_that_is_looked_at_tells_who_changed_it_last_and_why() {
    let registry = Registry::new().await;
    let operator = registry.operator();
    // Two batches, so that an entry of the audit that covers several devices stands before others.
    operator.enrol(&common::devices(1..4)).await;
    operator.enrol(&common::devices(4..6)).await;
    let told = |shown: &serde_json::Value| {
        let text = |name: &str| shown[name].as_str().map(str::to_owned);
        (text("change"), text("changed_by"), text("reason"))
    };
    let by = || Some("operator:operator".to_owned());
    let expected = |change: &str, reason: Option<&str>| {
        (Some(change.to_owned()), by(), reason.map(str::to_owned))
    };
    for number in [1, 3, 4, 5] {
        let (_, shown) = operator.get(&format!("/v1/devices/acme:SN{number}")).await;
        assert_eq!(told(&shown), expected("enrol", None), "{number}");
    }
    operator
        .claim(&device(2).code(), &device(2).secret(), "acc-1")
        .await;
    let why = json!({"reason": "reported lost"});
    operator.post("/v1/devices/acme:SN3/suspend", &why).await;
    for (number, change, reason) in [
        (1, "enrol", None),
        (2, "claim", None),
        (3, "suspend", Some("reported lost")),
    ] {
        let (_, shown) = operator.get(&format!("/v1/devices/acme:SN{number}")).await;
        assert_eq!(told(&shown), expected(change, reason), "{number}");
    }
}

#[tokio::test]
async fn a_list_is_paged_and_filtered() {
    let registry = Registry::new().await;
    let operator = registry.operator();
    operator.enrol(&devices(0..25)).await;
    for n in 0..3 {
        operator
            .claim(&device(n).code(), &device(n).secret(), "acc-1")
            .await;
    }
    operator.act("acme:SN2", "suspend").await;
    let mut found = Vec::new();
    let mut path = "/v1/devices?limit=10".to_owned();
    loop {
        let (_, page) = operator.get(&path).await;
        found.extend(page["devices"].as_array().unwrap().clone());
        let Some(next) = page["next"].as_str() else {
            break;
        };
        path = format!("/v1/devices?limit=10&after={next}");
    }
    assert_eq!(found.len(), 25);
    assert!(found.is_sorted_by_key(|device| device["device"].as_str().unwrap().to_owned()));
    let pseudonym = found[4]["pseudonym"].as_str().unwrap();
    assert_eq!(pseudonym.len(), 16);
    for (query, count) in [
        ("state=active".to_owned(), 2),
        ("state=unclaimed".to_owned(), 22),
        ("account=acc-1".to_owned(), 3),
        ("account=acc-1&state=suspended".to_owned(), 1),
        ("account=acc-2".to_owned(), 0),
        ("class=cgm&limit=1000".to_owned(), 25),
        ("class=pump".to_owned(), 0),
        (format!("pseudonym={pseudonym}"), 1),
        (format!("code={}", device(7).code().to_lowercase()), 1),
    ] {
        let (status, page) = operator.get(&format!("/v1/devices?{query}")).await;
        assert_eq!(status, StatusCode::OK, "{query}");
        assert_eq!(page["devices"].as_array().unwrap().len(), count, "{query}");
    }
}
