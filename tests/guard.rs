//! The guard over a host without Envoy: what it strips, remembers, answers, counts and cuts.

mod common;

use std::time::Duration;

use common::{Edge, Setup, binding, pseudonym_key, reading, seconds, start};
use medbind_core::time::Timestamp;
use medbind_filter::host::{HostError, LogLevel};
use medbind_filter::testing::{FakeEnvoy, FakeRequest, Fate, HostCall, StreamId, World, pem};
use serde_json::json;

fn saw(fate: &Fate, name: &str) -> Vec<String> {
    fate.upstream_saw(name)
        .unwrap_or_else(|| panic!("not forwarded: {fate:?}"))
}

fn url_encoded(text: &str) -> String {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    let mut encoded = String::new();
    for octet in text.bytes() {
        encoded.push('%');
        encoded.push(char::from(DIGITS[usize::from(octet >> 4)]));
        encoded.push(char::from(DIGITS[usize::from(octet & 15)]));
    }
    encoded
}

#[test]
fn a_permitted_request_is_tagged_counted_and_described_in_filter_state() {
    let mut edge = Edge::new();
    let certificate = edge.maker.device("SN1");
    let stream = edge.guard.send(&reading().certificate(&certificate));
    let fate = edge.guard.fate(stream);
    for (name, value) in [
        ("x-medbind-principal", "device"),
        ("x-medbind-device", "acme:SN1"),
        ("x-medbind-epoch", "3"),
        ("x-medbind-account", "acc-1"),
        ("x-medbind-class", "cgm"),
        ("x-medbind-traffic", "phi"),
    ] {
        assert_eq!(saw(&fate, name), [value], "{name}");
    }
    let pseudonym = pseudonym_key().pseudonym(&"acme:SN1".parse().unwrap());
    let state = edge.guard.filter_state(stream);
    assert!(!state.contains_key("medbind_decision"));
    assert_eq!(state["medbind_class"], "cgm");
    assert_eq!(state["medbind_device"], pseudonym.to_string());
    assert_eq!(edge.decisions("permit"), 1);
}

#[test]
fn what_only_medbind_may_set_is_taken_away_whatever_the_decision() {
    let spellings = [
        "x-medbind-account",
        "X-Medbind-Account",
        "x_medbind_account",
        "x-medbind_device",
        "x.medbind.device",
        "x-medbind-assertion",
        "x-medbind",
        "X_Medbind",
        "x-original-url",
        "X-Original-URI",
        "x-forwarded-uri",
        "x_forwarded_path",
        "x-forwarded-method",
        "X-SSL-Client-Verify",
        "ssl_client_s_dn",
        "x-client-cert",
        "x-rewrite-url",
        "x-http-method-override",
        "x_http_method",
        "x-method-override",
        "x-forwarded-client-cert",
        "x_forwarded_client_cert",
    ];
    let mut edge = Edge::new();
    let certificate = edge.maker.device("SN1");
    let forge = |mut request: FakeRequest| {
        for name in spellings {
            // Twice, with different values: both go.
            request = request.header(name, "forged").header(name, "again");
        }
        request
    };
    for request in [
        forge(reading().certificate(&certificate)),
        forge(FakeRequest::new("GET", "/healthz")),
    ] {
        let Fate::Forwarded(headers) = edge.guard.request(&request) else {
            panic!("not forwarded");
        };
        assert!(
            !headers
                .iter()
                .any(|(_, value)| value == "forged" || value == "again"),
            "{headers:?}"
        );
    }
    let account = edge
        .guard
        .request(&forge(reading().certificate(&certificate)));
    assert_eq!(saw(&account, "x-medbind-account"), ["acc-1"]);
    assert_eq!(edge.world.metric("medbind_tags_stripped"), 3);
    // In trailers too.
    let stream = edge.guard.send(&reading().certificate(&certificate));
    let trailers: Vec<_> = spellings
        .iter()
        .map(|name| (*name, "forged"))
        .chain([("grpc-status", "0")])
        .collect();
    assert_eq!(edge.guard.trailers(stream, &trailers), ["grpc-status"]);
}

#[test]
fn a_tag_that_connection_names_is_not_dropped_by_a_later_hop() {
    let mut edge = Edge::new();
    let certificate = edge.maker.device("SN1");
    let send = |edge: &mut Edge, value: &str| {
        let request = reading()
            .certificate(&certificate)
            .header("connection", value);
        let fate = edge.guard.request(&request);
        saw(&fate, "connection")
    };
    assert_eq!(
        send(
            &mut edge,
            "Upgrade, X-Medbind-Account,keep-alive , x_medbind_device"
        ),
        ["Upgrade, keep-alive"]
    );
    assert!(send(&mut edge, "x-medbind-account").is_empty());
    assert_eq!(send(&mut edge, "keep-alive"), ["keep-alive"]);
    assert_eq!(send(&mut edge, "x-forwarded-client-cert, close"), ["close"]);
}

#[test]
fn the_forwarded_header_goes_on_only_where_the_configuration_says_so() {
    let setup = Setup {
        guard: json!({"forward_client_cert": true}),
        ..Setup::default()
    };
    let mut edge = Edge::set_up(setup);
    edge.change("acme:SN1", "active");
    let certificate = edge.maker.device("SN1");
    let request = reading()
        .certificate(&certificate)
        .header("x-forwarded-client-cert", "Hash=x")
        .header("x_forwarded_client_cert", "Hash=x");
    let fate = edge.guard.request(&request);
    assert_eq!(saw(&fate, "x-forwarded-client-cert"), ["Hash=x"]);
    assert!(saw(&fate, "x_forwarded_client_cert").is_empty());
}

#[test]
fn a_token_goes_on_only_where_nobody_verifies_it_or_the_configuration_says_so() {
    let accounts = json!([{"issuer": "https://login.example"}]);
    for (guard, goes_on) in [
        (json!({"accounts": accounts}), false),
        (
            json!({"accounts": accounts, "forward_authorization": true}),
            true,
        ),
        (json!({"accounts": accounts, "mode": "shadow"}), true),
        (
            json!({"accounts": [], "rules": [{"path": "/**", "principals": ["device"]}]}),
            true,
        ),
    ] {
        let told = guard.to_string();
        let mut edge = Edge::set_up(Setup {
            guard,
            ..Setup::default()
        });
        edge.change("acme:SN1", "active");
        let certificate = edge.maker.device("SN1");
        let request = reading()
            .certificate(&certificate)
            .header("authorization", "Bearer one")
            .header("Authorization", "Bearer two");
        let stream = edge.guard.send(&request);
        let fate = edge.guard.fate(stream);
        let expected: &[&str] = if goes_on {
            &["Bearer one", "Bearer two"]
        } else {
            &[]
        };
        assert_eq!(saw(&fate, "authorization"), expected, "{told}");
        let trailers = edge
            .guard
            .trailers(stream, &[("authorization", "Bearer one")]);
        assert_eq!(trailers.len(), usize::from(goes_on), "{told}");
        assert_eq!(edge.world.metric("medbind_tags_stripped"), 0, "{told}");
    }
}

#[test]
fn a_certificate_in_the_forwarded_header_counts_only_with_the_handshakes_digest() {
    let mut edge = Edge::new();
    let own = edge.maker.device("SN1");
    let other = edge.maker.device("SN2");
    let header = |der: &[u8]| format!("Hash=00;Cert=\"{}\";Subject=\"\"", url_encoded(&pem(der)));
    let session = reading().handshake_of(&own);
    let code = |edge: &mut Edge, request: FakeRequest| edge.guard.request(&request).code();
    // Another device's certificate, and none: the operator is told, nobody is let in.
    for forged in [header(&other), "Hash=00".into(), String::new()] {
        let request = session.clone().header("x-forwarded-client-cert", &forged);
        assert_eq!(code(&mut edge, request).as_deref(), Some("internal"));
    }
    // One that cannot be read refuses this request alone.
    let broken = session
        .clone()
        .header("x-forwarded-client-cert", "Cert=\"nonsense\"");
    assert_eq!(
        code(&mut edge, broken).as_deref(),
        Some("malformed_certificate")
    );
    // The right one among others.
    let both = format!("{},{}", header(&other), header(&own));
    let request = session.clone().header("x-forwarded-client-cert", &both);
    let fate = edge.guard.request(&request);
    assert_eq!(saw(&fate, "x-medbind-device"), ["acme:SN1"]);
    assert!(saw(&fate, "x-forwarded-client-cert").is_empty());
    // Known from here on by the digest alone.
    assert!(edge.guard.request(&session).is_forwarded());
    // A header alone, without a certificate in the session, is worth nothing.
    let request = reading().header("x-forwarded-client-cert", header(&own));
    assert_eq!(
        code(&mut edge, request).as_deref(),
        Some("no_peer_certificate")
    );
}

#[test]
fn where_the_connection_is_the_only_source_the_header_is_not_looked_at() {
    let setup = Setup {
        guard: json!({"certificate_source": "connection"}),
        ..Setup::default()
    };
    let mut edge = Edge::set_up(setup);
    edge.change("acme:SN1", "active");
    let own = edge.maker.device("SN1");
    let header = format!("Cert=\"{}\"", url_encoded(&pem(&own)));
    let request = reading()
        .handshake_of(&own)
        .header("x-forwarded-client-cert", header);
    assert_eq!(
        edge.guard.request(&request).code().as_deref(),
        Some("internal")
    );
}

#[test]
fn a_certificate_that_is_not_the_handshakes_is_refused_and_not_remembered() {
    let mut edge = Edge::new();
    let own = edge.maker.device("SN1");
    let other = edge.maker.device("SN2");
    let request = reading()
        .handshake_of(&other)
        .property("connection.peer_certificate", pem(&own));
    assert_eq!(
        edge.guard.request(&request).code().as_deref(),
        Some("internal")
    );
    let guard = edge.guard.root().guard().unwrap();
    assert_eq!(guard.remembered_peers(), (0, 0));
}

#[test]
fn a_flood_of_strangers_pushes_no_known_device_out() {
    let mut edge = Edge::new();
    let own = edge.maker.device("SN1");
    assert!(
        edge.guard
            .request(&reading().certificate(&own))
            .is_forwarded()
    );
    let verified = || "medbind_verifications.verifier.module";
    let before = edge.world.metric(verified());
    // 2,000 whole certificates of a stranger; and, since what the table holds does not depend on
    // why a certificate was refused, 98,000 that cannot be read.
    let strangers: Vec<_> = edge.stranger.many("SN1", 2_000).collect();
    for certificate in &strangers {
        let fate = edge.guard.request(&reading().certificate(certificate));
        assert_eq!(fate.code().as_deref(), Some("unknown_issuer"));
    }
    for number in 0..98_000_u32 {
        let der = number.to_be_bytes();
        let fate = edge.guard.request(&reading().certificate(&der));
        assert_eq!(fate.code().as_deref(), Some("malformed_certificate"));
    }
    let guard = edge.guard.root().guard().unwrap();
    assert_eq!(guard.remembered_peers(), (1, 1_024));
    let during = edge.world.metric(verified());
    assert_eq!(during, before + 2_000);
    // Served from the table: neither read nor verified again.
    let digest_alone = reading().handshake_of(&own);
    assert!(edge.guard.request(&digest_alone).is_forwarded());
    assert_eq!(edge.world.metric(verified()), during);
}

#[test]
fn a_refused_certificate_is_remembered_too() {
    let mut edge = Edge::new();
    let stranger = edge.stranger.device("SN1");
    for _ in 0..3 {
        let fate = edge.guard.request(&reading().certificate(&stranger));
        assert_eq!(fate.code().as_deref(), Some("unknown_issuer"));
    }
    assert_eq!(
        edge.world.metric("medbind_verifications.verifier.module"),
        1
    );
}

#[test]
fn validity_and_binding_are_asked_at_each_request_whatever_is_remembered() {
    let mut edge = Edge::new();
    let certificate = edge.maker.device_until("SN1", 2027);
    let request = reading().certificate(&certificate);
    assert!(edge.guard.request(&request).is_forwarded());
    for (state, code) in [
        ("suspended", Some("binding_suspended")),
        ("active", None),
        ("unclaimed", Some("device_unclaimed")),
        ("revoked", Some("binding_revoked")),
    ] {
        edge.change("acme:SN1", state);
        assert_eq!(
            edge.guard.request(&request).code().as_deref(),
            code,
            "{state}"
        );
    }
    let mut edge = Edge::new();
    let certificate = edge.maker.device_until("SN1", 2027);
    let request = reading().certificate(&certificate);
    assert!(edge.guard.request(&request).is_forwarded());
    edge.world.set_now("2026-12-31T23:59:58Z".parse().unwrap());
    edge.settle();
    assert!(edge.guard.request(&request).is_forwarded());
    edge.world.pass(seconds(3));
    assert_eq!(
        edge.guard.request(&request).code().as_deref(),
        Some("certificate_expired")
    );
}

#[test]
fn a_binding_that_expires_by_itself_needs_no_change_to_do_so() {
    let mut edge = Edge::new();
    let mut record = binding("acme:SN1", "active");
    record["expires_at"] = json!("2026-11-24T16:21:00Z");
    edge.registry.put(&record);
    edge.settle();
    let request = reading().certificate(&edge.maker.device("SN1"));
    let stream = edge.guard.send(&request);
    assert!(edge.guard.fate(stream).is_forwarded());
    edge.world.pass(seconds(61));
    assert_eq!(
        edge.guard.request(&request).code().as_deref(),
        Some("binding_expired")
    );
    edge.guard.tick();
    assert_eq!(edge.guard.fate(stream), Fate::Reset);
    assert_eq!(
        edge.world
            .metric("medbind_streams_cut.code.binding_expired"),
        1
    );
}

#[test]
fn a_request_under_way_is_cut_where_its_binding_ends_and_no_other_is() {
    let mut edge = Edge::new();
    edge.registry.put(&binding("acme:SN2", "active"));
    edge.settle();
    let one = edge
        .guard
        .send(&reading().certificate(&edge.maker.device("SN1")));
    let two = FakeRequest::new("GET", "/v1/devices/acme:SN2/events")
        .certificate(&edge.maker.device("SN2"));
    let two = edge.guard.send(&two);
    let over = edge
        .guard
        .send(&reading().certificate(&edge.maker.device("SN1")));
    edge.guard.end(over);
    let nobody = edge.guard.send(&FakeRequest::new("GET", "/healthz"));
    assert_eq!(edge.guard.root().guard().unwrap().under_way(), 2);
    edge.registry.put(&binding("acme:SN1", "suspended"));
    // The synchroniser writes it; the guard's next tick cuts.
    for call in edge.sync.host().calls() {
        let body = edge.registry.feed(&call.path, edge.world.now());
        edge.sync.answer(&call, Some(200), &body);
    }
    assert!(edge.guard.fate(one).is_forwarded());
    edge.guard.tick();
    assert_eq!(edge.guard.fate(one), Fate::Reset);
    assert!(edge.guard.fate(two).is_forwarded());
    assert!(edge.guard.fate(nobody).is_forwarded());
    assert_eq!(
        edge.world
            .metric("medbind_streams_cut.code.binding_suspended"),
        1
    );
    let log = edge.guard.host().log_lines().join("\n");
    assert!(
        log.contains("event=cut mode=enforce code=binding_suspended"),
        "{log}"
    );
    assert_eq!(edge.guard.root().guard().unwrap().under_way(), 1);
}

#[test]
fn a_request_under_way_is_cut_where_the_device_gets_a_new_owner() {
    let mut edge = Edge::new();
    let stream = edge
        .guard
        .send(&reading().certificate(&edge.maker.device("SN1")));
    let mut record = binding("acme:SN1", "active");
    record["account"] = json!("acc-2");
    record["epoch"] = json!(4);
    edge.registry.put(&record);
    edge.settle();
    assert_eq!(edge.guard.fate(stream), Fate::Reset);
}

#[test]
fn requests_under_way_are_cut_where_the_registry_is_silent_for_too_long() {
    let mut edge = Edge::new();
    let stream = edge
        .guard
        .send(&reading().certificate(&edge.maker.device("SN1")));
    edge.world.pass(seconds(14 * 60));
    edge.guard.tick();
    assert!(edge.guard.fate(stream).is_forwarded());
    edge.world.pass(seconds(2 * 60));
    edge.guard.tick();
    assert_eq!(edge.guard.fate(stream), Fate::Reset);
    let fate = edge
        .guard
        .request(&reading().certificate(&edge.maker.device("SN1")));
    let Fate::Answered(reply) = fate else {
        panic!("{fate:?}");
    };
    assert_eq!(
        (reply.status, reply.code().as_deref()),
        (503, Some("bindings_stale"))
    );
    let wait: u64 = reply.header("retry-after").unwrap().parse().unwrap();
    assert!(wait >= 1);
    assert_eq!(reply.header("cache-control"), Some("no-store"));
}

#[test]
fn a_refusal_is_a_problem_document_with_the_request_id_and_one_log_line() {
    let mut edge = Edge::new();
    let fate = edge
        .guard
        .request(&reading().certificate(&edge.maker.device("SN9")));
    let Fate::Answered(reply) = fate else {
        panic!("{fate:?}");
    };
    assert_eq!(reply.status, 403);
    assert_eq!(
        reply.header("content-type"),
        Some("application/problem+json")
    );
    assert_eq!(reply.header("retry-after"), None);
    let document: serde_json::Value = serde_json::from_str(&reply.body).unwrap();
    assert_eq!(document["code"], "unknown_device");
    assert_eq!(document["request_id"], "r-1");
    assert_eq!(edge.decisions("unknown_device"), 1);
    let pseudonym = pseudonym_key().pseudonym(&"acme:SN9".parse().unwrap());
    let lines: Vec<_> = edge
        .guard
        .host()
        .log_lines()
        .into_iter()
        .filter(|line| line.contains("deny"))
        .collect();
    assert_eq!(
        lines,
        [format!(
            "medbind deny: event=refused mode=enforce code=unknown_device device={pseudonym} \
             rule=0 request_id=r-1 reason=\"the registry has no such device\""
        )]
    );
    assert!(!edge.guard.host().log_lines().concat().contains("SN9"));
}

#[test]
fn until_the_key_is_here_a_device_is_logged_as_a_dash() {
    let mut edge = Edge::set_up(Setup::default());
    let request = reading().certificate(&edge.maker.device("SN1"));
    let fate = edge.guard.request(&request);
    assert_eq!(fate.code().as_deref(), Some("bindings_unavailable"));
    let log = edge.guard.host().log_lines().join("\n");
    assert!(log.contains("device=- "), "{log}");
    // The registry refuses the key: asked for again, with pauses.
    edge.settle_without_key();
    let call = edge.guard.call("/v1/edge/pseudonym-key").unwrap();
    assert_eq!(
        (&*call.cluster, &*call.authority),
        ("registry", "registry.example")
    );
    edge.guard.answer(&call, Some(403), b"{}");
    for _ in 0..4 {
        edge.guard.tick();
        assert!(edge.guard.call("/v1/edge/pseudonym-key").is_none());
    }
    edge.guard.tick();
    edge.answer_key();
    let fate = edge.guard.request(&request);
    assert_eq!(fate.code().as_deref(), Some("unknown_device"));
    let pseudonym = pseudonym_key().pseudonym(&"acme:SN1".parse().unwrap());
    let log = edge.guard.host().log_lines().join("\n");
    assert!(log.contains(&format!("device={pseudonym} ")), "{log}");
}

#[test]
fn a_call_for_the_key_that_says_nothing_is_made_again_and_its_late_answer_is_nobodys() {
    let mut edge = Edge::set_up(Setup::default());
    edge.settle_without_key();
    let silent = edge.guard.call("/v1/edge/pseudonym-key").unwrap();
    // Six seconds, and half a second of pause, whatever the clock says meanwhile.
    edge.world.set_now(edge.world.now().after(seconds(3_600)));
    for _ in 0..70 {
        edge.guard.tick();
    }
    let calls = edge.guard.host().calls();
    let calls: Vec<_> = calls
        .iter()
        .filter(|call| call.path == silent.path)
        .collect();
    assert_eq!(calls.len(), 2);
    edge.guard.answer(&silent, Some(403), b"{}");
    edge.guard.tick();
    let another = edge.guard.call("/v1/edge/pseudonym-key").unwrap();
    assert_ne!(another.token, silent.token);
    edge.answer_key();
    edge.guard
        .request(&reading().certificate(&edge.maker.device("SN1")));
    let pseudonym = pseudonym_key().pseudonym(&"acme:SN1".parse().unwrap());
    let log = edge.guard.host().log_lines().join("\n");
    assert!(log.contains(&format!("device={pseudonym} ")), "{log}");
}

#[test]
fn where_the_operator_asked_for_it_devices_are_named_in_clear() {
    let setup = Setup {
        guard: json!({"log_identifiers": "plain"}),
        ..Setup::default()
    };
    let mut edge = Edge::set_up(setup);
    edge.settle();
    edge.guard
        .request(&reading().certificate(&edge.maker.device("SN1")));
    let log = edge.guard.host().log_lines().join("\n");
    assert!(log.contains("device=acme:SN1 "), "{log}");
    assert!(edge.guard.call("/v1/edge/pseudonym-key").is_none());
}

#[test]
fn grpc_is_answered_in_trailers_alone() {
    let mut edge = Edge::new();
    for (certificate, code, grpc) in [
        (None, "no_peer_certificate", 16),
        (Some("SN9"), "unknown_device", 7),
    ] {
        let mut request = reading().header("content-type", "application/grpc+proto");
        if let Some(serial) = certificate {
            request = request.certificate(&edge.maker.device(serial));
        }
        let fate = edge.guard.request(&request);
        let Fate::Answered(reply) = fate else {
            panic!("{fate:?}");
        };
        assert_eq!(reply.grpc_status, Some(grpc));
        assert_eq!(reply.code().as_deref(), Some(code));
    }
}

#[test]
fn the_ready_path_says_whether_this_envoy_can_decide() {
    let mut edge = Edge::set_up(Setup::default());
    let ask = |edge: &mut Edge| {
        let fate = edge.guard.request(&FakeRequest::new("GET", "/ready?full"));
        let Fate::Answered(reply) = fate else {
            panic!("{fate:?}");
        };
        let body: serde_json::Value = serde_json::from_str(&reply.body).unwrap();
        (reply.status, body)
    };
    let (status, body) = ask(&mut edge);
    assert_eq!(
        (status, &body["code"]),
        (503, &json!("bindings_unavailable"))
    );
    assert!(body["reason"].as_str().unwrap().contains("synchroniser"));
    edge.sync.tick();
    edge.guard.tick();
    let (status, body) = ask(&mut edge);
    assert_eq!((status, &body["ready"]), (503, &json!(false)));
    assert_eq!(edge.world.metric("medbind_ready"), 0);
    edge.settle();
    assert_eq!(ask(&mut edge), (200, json!({"ready": true})));
    assert_eq!(edge.world.metric("medbind_ready"), 1);
    edge.world.pass(seconds(16 * 60));
    edge.guard.tick();
    let (status, body) = ask(&mut edge);
    assert_eq!((status, &body["code"]), (503, &json!("bindings_stale")));
    assert_eq!(edge.world.metric("medbind_ready"), 0);
    // A POST there is a request like any other.
    let fate = edge.guard.request(&FakeRequest::new("POST", "/ready"));
    assert_eq!(fate.code().as_deref(), Some("not_permitted"));
}

#[test]
fn shadow_decides_counts_and_logs_and_lets_pass_untagged() {
    let setup = Setup {
        guard: json!({"mode": "shadow"}),
        ..Setup::default()
    };
    let mut edge = Edge::set_up(setup);
    let start = edge.guard.host().log_entries();
    assert!(
        start
            .iter()
            .any(|(level, line)| *level == LogLevel::Warn && line.contains("shadow")),
        "{start:?}"
    );
    edge.change("acme:SN1", "active");
    let forged = |request: FakeRequest| request.header("x-medbind-account", "forged");
    let good = forged(reading().certificate(&edge.maker.device("SN1")));
    let stranger = forged(reading().certificate(&edge.stranger.device("SN1")));
    for request in [&good, &stranger, &forged(reading())] {
        let Fate::Forwarded(headers) = edge.guard.request(request) else {
            panic!("not forwarded");
        };
        assert!(
            !headers
                .iter()
                .any(|(name, _)| name.starts_with("x-medbind-"))
        );
    }
    let count = |code: &str| {
        edge.world
            .metric(&format!("medbind_decisions.mode.shadow.code.{code}"))
    };
    assert_eq!(count("permit"), 1);
    assert_eq!(count("unknown_issuer"), 1);
    assert_eq!(count("no_peer_certificate"), 1);
    let log = edge.guard.host().log_lines().join("\n");
    assert!(
        log.contains("event=passed mode=shadow code=unknown_issuer"),
        "{log}"
    );
    // A request under way is not cut either.
    let stream = edge.guard.send(&good);
    edge.change("acme:SN1", "revoked");
    assert!(edge.guard.fate(stream).is_forwarded());
}

#[test]
fn shadow_never_pauses() {
    let setup = Setup {
        preload: false,
        guard: json!({
            "mode": "shadow", "bindings": {"preload": false},
            "registry": {"cluster": "registry", "authority": "registry.example"},
        }),
        ..Setup::default()
    };
    let mut edge = Edge::set_up(setup);
    edge.registry.put(&binding("acme:SN1", "suspended"));
    edge.settle();
    let stream = edge
        .guard
        .send(&reading().certificate(&edge.maker.device("SN1")));
    assert!(edge.guard.fate(stream).is_forwarded());
    // With its own end the answer is lost; the next tick makes the call again.
    edge.guard.end(stream);
    let lost = edge.lookups().pop().unwrap();
    edge.answer_lookup(&lost);
    assert!(edge.lookups().is_empty());
    edge.guard.tick();
    let call = edge.lookups().pop().unwrap();
    edge.answer_lookup(&call);
    let name = "medbind_decisions.mode.shadow.code.binding_suspended";
    assert_eq!(edge.world.metric(name), 1);
}

fn on_demand() -> Edge {
    on_demand_with(
        10_000,
        &json!({"preload": false, "lookup_timeout": "80ms", "max_waiting_per_device": 5}),
    )
}

fn on_demand_with(capacity: u32, bindings: &serde_json::Value) -> Edge {
    let mut edge = Edge::set_up(Setup {
        preload: false,
        capacity,
        guard: json!({
            "bindings": bindings,
            "registry": {"cluster": "registry", "authority": "registry.example"},
        }),
        ..Setup::default()
    });
    edge.registry.put(&binding("acme:SN1", "active"));
    edge.settle();
    edge
}

/// A request of `acme:SN1` that is under way, on a binding whose place in the cache others have
/// taken: at the next change of whatever device, nothing is known of it here.
fn under_way_and_evicted(bindings: &serde_json::Value) -> (Edge, StreamId) {
    // One record in each of 16 buckets.
    let mut edge = on_demand_with(1, bindings);
    let stream = edge
        .guard
        .send(&reading().certificate(&edge.maker.device("SN1")));
    let call = edge.lookups().pop().unwrap();
    edge.answer_lookup(&call);
    assert!(edge.guard.fate(stream).is_forwarded());
    for number in 100..300 {
        let device = format!("acme:SN{number}");
        edge.registry.put(&binding(&device, "active"));
        let path = format!("/v1/devices/{device}/settings");
        let account =
            FakeRequest::new("GET", &path).token("medbind", "https://login.example", "acc-1");
        let other = edge.guard.send(&account);
        let call = edge.lookups().pop().unwrap();
        edge.answer_lookup(&call);
        assert!(edge.guard.fate(other).is_forwarded());
        edge.guard.end(other);
    }
    edge.guard.tick();
    assert!(edge.lookups().is_empty(), "as long as nothing changes");
    (edge, stream)
}

#[test]
fn a_request_under_way_that_is_known_no_more_is_asked_about_and_goes_by_the_answer() {
    let settings = json!({"preload": false, "max_waiting_per_device": 5});
    for (state, cut) in [
        ("active", None),
        ("suspended", Some("binding_suspended")),
        ("gone", Some("unknown_device")),
    ] {
        let (mut edge, stream) = under_way_and_evicted(&settings);
        edge.change("acme:SN2", "active");
        let call = edge.lookups().pop().expect(state);
        assert_eq!(call.path, "/v1/feed/devices/acme:SN1");
        assert!(edge.guard.fate(stream).is_forwarded(), "{state}");
        // Once, however many ticks pass.
        edge.guard.tick();
        assert_eq!(edge.lookups().len(), 1, "{state}");
        match state {
            "gone" => edge.registry.forget("acme:SN1"),
            state => edge.registry.put(&binding("acme:SN1", state)),
        }
        edge.answer_lookup(&call);
        let guard = edge.guard.root().guard().unwrap();
        if let Some(code) = cut {
            assert_eq!(edge.guard.fate(stream), Fate::Reset, "{state}");
            let name = format!("medbind_streams_cut.code.{code}");
            assert_eq!(edge.world.metric(&name), 1, "{state}");
            assert_eq!(guard.under_way(), 0, "{state}");
        } else {
            assert!(edge.guard.fate(stream).is_forwarded(), "{state}");
            assert_eq!(guard.under_way(), 1, "{state}");
        }
    }
}

#[test]
fn a_request_under_way_is_cut_where_the_registry_cannot_be_asked() {
    let (mut edge, stream) = under_way_and_evicted(&json!({"preload": false}));
    edge.guard.host().no_such_cluster("registry");
    edge.change("acme:SN2", "active");
    // Something may have changed, so that it is not waited for long until it can.
    // Some of the ten ticks have passed.
    for _ in 0..6 {
        assert!(edge.guard.fate(stream).is_forwarded());
        edge.guard.tick();
    }
    for _ in 0..4 {
        edge.guard.tick();
    }
    assert_eq!(edge.guard.fate(stream), Fate::Reset);
    assert_eq!(
        edge.world.metric("medbind_streams_cut.code.lookup_failed"),
        1
    );
}

#[test]
fn however_many_wait_a_healthy_request_under_way_is_not_cut() {
    let settings = json!({"preload": false, "max_waiting": 4, "max_waiting_per_device": 1});
    let (mut edge, stream) = under_way_and_evicted(&settings);
    edge.change("acme:SN2", "active");
    let own = edge.lookups().pop().unwrap();
    // The table is full: those that wait for others, and one that waits for this device too.
    for serial in ["SN1", "SN301", "SN302", "SN303"] {
        let request = FakeRequest::new("GET", &format!("/v1/devices/acme:{serial}/readings"))
            .certificate(&edge.maker.device(serial));
        let waiting = edge.guard.send(&request);
        assert_eq!(edge.guard.fate(waiting), Fate::Paused, "{serial}");
    }
    let late = FakeRequest::new("GET", "/v1/devices/acme:SN304/readings")
        .certificate(&edge.maker.device("SN304"));
    let fate = edge.guard.request(&late);
    assert_eq!(fate.code().as_deref(), Some("bindings_unavailable"));
    // Something changes again: it is decided once more.
    edge.change("acme:SN2", "suspended");
    assert!(edge.guard.fate(stream).is_forwarded());
    edge.answer_lookup(&own);
    assert!(edge.guard.fate(stream).is_forwarded());
    assert_eq!(edge.guard.root().guard().unwrap().under_way(), 2);
}

#[test]
fn a_call_about_which_the_host_says_nothing_is_given_up_whatever_the_clock_does() {
    let mut edge = on_demand();
    let stream = edge
        .guard
        .send(&reading().certificate(&edge.maker.device("SN1")));
    let back = start().unix_millis() - 3_600_000;
    edge.world.set_now(Timestamp::from_unix_millis(back));
    // 80 ms, the second that is waited beyond that, and what is left of a tick.
    for tick in 1..=12 {
        assert_eq!(edge.guard.fate(stream), Fate::Paused, "{tick}");
        edge.world.pass(Duration::from_millis(100));
        edge.guard.tick();
    }
    let code = edge.guard.fate(stream).code();
    assert!(code.is_some(), "it waits still");
}

#[test]
fn a_clock_that_is_set_forward_gives_up_no_call() {
    let mut edge = on_demand();
    let stream = edge
        .guard
        .send(&reading().certificate(&edge.maker.device("SN1")));
    edge.world.pass(Duration::from_secs(10));
    edge.guard.tick();
    assert_eq!(edge.guard.fate(stream), Fate::Paused);
    let call = edge.lookups().pop().unwrap();
    edge.answer_lookup(&call);
    assert!(edge.guard.fate(stream).is_forwarded());
}

#[test]
fn an_account_that_names_devices_at_random_leaves_room_for_the_devices() {
    let settings = json!({"preload": false, "max_waiting": 8});
    let mut edge = on_demand_with(10_000, &settings);
    let names = |device: &str| {
        FakeRequest::new("GET", &format!("/v1/devices/{device}/settings")).token(
            "medbind",
            "https://login.example",
            "acc-9",
        )
    };
    // A quarter of what may wait.
    for serial in ["A", "B"] {
        let stream = edge.guard.send(&names(&format!("acme:{serial}")));
        assert_eq!(edge.guard.fate(stream), Fate::Paused);
    }
    assert_eq!(edge.lookups().len(), 2);
    let refused = edge.guard.request(&names("acme:C"));
    assert!(!refused.is_forwarded() && refused != Fate::Paused);
    assert_eq!(edge.lookups().len(), 2);
    let stream = edge
        .guard
        .send(&reading().certificate(&edge.maker.device("SN1")));
    assert_eq!(edge.guard.fate(stream), Fate::Paused);
    let call = edge.lookups().pop().unwrap();
    edge.answer_lookup(&call);
    assert!(edge.guard.fate(stream).is_forwarded());
    // About a namespace that no issuer has nobody is asked.
    let fate = edge.guard.request(&names("other:SN1"));
    assert!(matches!(fate, Fate::Answered(_)), "{fate:?}");
    assert_eq!(edge.lookups().len(), 2);
}

#[test]
fn one_lookup_serves_everyone_who_waits_for_the_same_device() {
    let mut edge = on_demand();
    let request = reading().certificate(&edge.maker.device("SN1"));
    let streams: Vec<_> = (0..5).map(|_| edge.guard.send(&request)).collect();
    for stream in &streams {
        assert_eq!(edge.guard.fate(*stream), Fate::Paused);
    }
    let calls = edge.lookups();
    assert_eq!(calls.len(), 1);
    assert_eq!(calls[0].path, "/v1/feed/devices/acme:SN1");
    assert_eq!(calls[0].timeout, Duration::from_millis(80));
    // More than may wait: refused, and told to come back.
    let busy = edge.guard.request(&request);
    assert_eq!(busy.code().as_deref(), Some("bindings_unavailable"));
    edge.answer_lookup(&calls[0]);
    for stream in &streams {
        let fate = edge.guard.fate(*stream);
        assert_eq!(saw(&fate, "x-medbind-device"), ["acme:SN1"]);
    }
    // In the cache from here on.
    assert!(edge.guard.request(&request).is_forwarded());
    assert!(edge.lookups().is_empty());
    assert_eq!(edge.world.metric("medbind_lookups.result.found"), 1);
    // And a change of it comes by the feed.
    edge.change("acme:SN1", "suspended");
    assert_eq!(
        edge.guard.request(&request).code().as_deref(),
        Some("binding_suspended")
    );
    assert_eq!(edge.guard.fate(streams[0]), Fate::Reset);
}

#[test]
fn a_lookup_that_fails_is_no_verdict_and_is_made_again() {
    let mut edge = on_demand();
    let request = reading().certificate(&edge.maker.device("SN1"));
    for (status, body) in [
        (Some(504), &b""[..]),
        (Some(503), b""),
        (Some(500), b""),
        (Some(200), b"nonsense"),
        (None, b""),
    ] {
        let stream = edge.guard.send(&request);
        let call = edge.lookups().pop().unwrap();
        edge.guard.answer(&call, status, body);
        let fate = edge.guard.fate(stream);
        assert_eq!(fate.code().as_deref(), Some("lookup_failed"), "{status:?}");
        edge.guard.end(stream);
    }
    let stream = edge.guard.send(&request);
    let call = edge.lookups().pop().unwrap();
    edge.answer_lookup(&call);
    assert!(edge.guard.fate(stream).is_forwarded());
    // A cluster that does not exist: at once, without a call.
    let mut edge = on_demand();
    edge.guard.host().no_such_cluster("registry");
    let request = reading().certificate(&edge.maker.device("SN1"));
    let fate = edge.guard.request(&request);
    assert_eq!(fate.code().as_deref(), Some("lookup_failed"));
}

#[test]
fn a_device_that_the_registry_does_not_know_is_remembered_as_such_for_a_while() {
    let mut edge = on_demand();
    let request = FakeRequest::new("GET", "/v1/devices/acme:SN2/readings")
        .certificate(&edge.maker.device("SN2"));
    let stream = edge.guard.send(&request);
    let call = edge.lookups().pop().unwrap();
    edge.answer_lookup(&call);
    assert_eq!(
        edge.guard.fate(stream).code().as_deref(),
        Some("unknown_device")
    );
    assert_eq!(
        edge.guard.request(&request).code().as_deref(),
        Some("unknown_device")
    );
    assert_eq!(edge.world.metric("medbind_lookups.result.absent"), 1);
    // Enrolled meanwhile: the feed says so before the "no" runs out.
    edge.change("acme:SN2", "active");
    let stream = edge.guard.send(&request);
    if let Some(call) = edge.lookups().pop() {
        edge.answer_lookup(&call);
    }
    assert!(edge.guard.fate(stream).is_forwarded());
}

#[test]
fn where_the_caller_of_a_lookup_goes_away_the_others_are_served() {
    let mut edge = on_demand();
    let request = reading().certificate(&edge.maker.device("SN1"));
    let first = edge.guard.send(&request);
    let second = edge.guard.send(&request);
    edge.guard.end(first);
    let lost = edge.lookups().pop().unwrap();
    edge.answer_lookup(&lost);
    assert!(edge.lookups().is_empty());
    assert_eq!(edge.guard.fate(second), Fate::Paused);
    edge.guard.tick();
    let call = edge.lookups().pop().unwrap();
    edge.answer_lookup(&call);
    assert!(edge.guard.fate(second).is_forwarded());
}

#[test]
fn a_lookup_that_is_never_answered_ends_all_the_same() {
    let mut edge = on_demand();
    let stream = edge
        .guard
        .send(&reading().certificate(&edge.maker.device("SN1")));
    // Two seconds of ticks.
    for _ in 0..20 {
        edge.world.pass(Duration::from_millis(100));
        edge.guard.tick();
    }
    assert_eq!(
        edge.guard.fate(stream).code().as_deref(),
        Some("lookup_failed")
    );
}

#[test]
fn an_account_that_the_proxy_verified_reaches_its_own_devices() {
    let mut edge = Edge::new();
    let path = "/v1/devices/acme:SN1/settings";
    let request = |issuer: &str, subject: &str| {
        FakeRequest::new("GET", path).token("medbind", issuer, subject)
    };
    let good = edge
        .guard
        .request(&request("https://login.example", "acc-1"));
    assert_eq!(saw(&good, "x-medbind-principal"), ["account"]);
    assert_eq!(saw(&good, "x-medbind-account"), ["acc-1"]);
    for (issuer, subject) in [
        ("https://login.example", "acc-2"),
        ("https://elsewhere.example", "acc-1"),
        ("https://login.example", ""),
    ] {
        let fate = edge.guard.request(&request(issuer, subject));
        assert!(
            matches!(fate, Fate::Answered(_)),
            "{issuer} {subject}: {fate:?}"
        );
    }
}

#[test]
fn an_accounts_open_request_ends_with_its_token() {
    let mut edge = Edge::new();
    edge.settle();
    let end = edge.world.now().after(seconds(60));
    let request = |path: &str| {
        FakeRequest::new("GET", path)
            .token("medbind", "https://login.example", "acc-1")
            .token_ends("medbind", end)
    };
    // With a binding, and without one.
    let paths = ["/v1/devices/acme:SN1/settings", "/v1/accounts/acc-1"];
    let streams = paths.map(|path| edge.guard.send(&request(path)));
    let guard = edge.guard.root().guard().unwrap();
    assert_eq!(guard.under_way(), 2);
    edge.world.pass(seconds(59));
    edge.guard.tick();
    assert!(
        streams
            .iter()
            .all(|one| edge.guard.fate(*one).is_forwarded())
    );
    edge.world.pass(seconds(1));
    edge.guard.tick();
    for (stream, path) in streams.into_iter().zip(paths) {
        assert_eq!(edge.guard.fate(stream), Fate::Reset, "{path}");
        // And a new one is not let in, whatever `jwt_authn` allows a clock.
        let fate = edge.guard.request(&request(path));
        let code = fate.code();
        assert!(
            matches!(code.as_deref(), Some("no_account" | "no_peer_certificate")),
            "{path}: {code:?}"
        );
    }
    assert_eq!(edge.world.metric("medbind_streams_cut.code.no_account"), 1);
}

#[test]
fn a_token_whose_end_cannot_be_read_names_nobody() {
    let mut edge = Edge::new();
    let claim = "metadata.filter_metadata.envoy.filters.http.jwt_authn.medbind.exp";
    let request = FakeRequest::new("GET", "/v1/accounts/acc-1").token(
        "medbind",
        "https://login.example",
        "acc-1",
    );
    assert!(edge.guard.request(&request).is_forwarded());
    for end in [
        &b""[..],
        b"1795537200",
        &[0; 4],
        &f64::NAN.to_le_bytes(),
        &(-1_f64).to_le_bytes(),
    ] {
        let fate = edge.guard.request(&request.clone().property(claim, end));
        assert_eq!(fate.code().as_deref(), Some("internal"), "{end:?}");
    }
}

#[test]
fn a_host_that_answers_with_errors_lets_nobody_in() {
    for call in [
        HostCall::RequestHeaders,
        HostCall::RemoveHeader,
        HostCall::SetHeader,
        HostCall::Property,
        HostCall::SharedData,
    ] {
        let mut edge = Edge::new();
        let certificate = edge.maker.device("SN1");
        let request = reading()
            .certificate(&certificate)
            .header("x-medbind-account", "forged");
        edge.guard.host().fail(call);
        edge.guard.tick();
        let fate = edge.guard.request(&request);
        let code = fate.code();
        assert!(
            matches!(code.as_deref(), Some("internal" | "bindings_unavailable")),
            "{call:?}: {fate:?}"
        );
        edge.guard.host().mend();
        edge.guard.tick();
        assert!(edge.guard.request(&request).is_forwarded(), "{call:?}");
    }
    // These do not decide.
    for call in [
        HostCall::SetFilterState,
        HostCall::Metrics,
        HostCall::ForeignFunction,
    ] {
        let mut edge = Edge::new();
        edge.guard.host().fail(call);
        let request = reading().certificate(&edge.maker.device("SN1"));
        assert!(edge.guard.request(&request).is_forwarded(), "{call:?}");
    }
    // Trailers that cannot be read end the request.
    let mut edge = Edge::new();
    let stream = edge
        .guard
        .send(&reading().certificate(&edge.maker.device("SN1")));
    edge.guard.host().fail(HostCall::RequestTrailers);
    edge.guard
        .trailers(stream, &[("x-medbind-account", "forged")]);
    assert_eq!(edge.guard.fate(stream), Fate::Reset);
}

#[test]
fn even_in_shadow_what_cannot_be_stripped_does_not_pass() {
    let setup = Setup {
        guard: json!({"mode": "shadow"}),
        ..Setup::default()
    };
    let mut edge = Edge::set_up(setup);
    edge.guard.host().fail(HostCall::RemoveHeader);
    let request = reading().header("x-medbind-account", "forged");
    assert_eq!(
        edge.guard.request(&request).code().as_deref(),
        Some("internal")
    );
}

#[test]
fn a_digest_that_is_none_lets_nobody_in() {
    let mut edge = Edge::new();
    for digest in ["zz", "AB", &"a".repeat(63), &"A".repeat(64)] {
        let request = reading().property("connection.sha256_peer_certificate_digest", digest);
        let fate = edge.guard.request(&request);
        assert_eq!(fate.code().as_deref(), Some("internal"), "{digest}");
    }
    // What a plain TLS session without a certificate gives.
    let request = reading().property("connection.sha256_peer_certificate_digest", "");
    let fate = edge.guard.request(&request);
    assert_eq!(fate.code().as_deref(), Some("no_peer_certificate"));
}

#[test]
fn known_devices_are_served_with_few_host_calls() {
    let mut edge = Edge::new();
    let request = reading().certificate(&edge.maker.device("SN1"));
    edge.guard.request(&request);
    let shared = edge.world.shared_reads();
    let before = edge.guard.host().host_calls();
    assert!(edge.guard.request(&request).is_forwarded());
    // Headers, digest, six tags, the counter, pseudonym and class for the access log.
    assert_eq!(edge.guard.host().host_calls() - before, 11);
    assert_eq!(edge.world.shared_reads(), shared, "no shared data");
}

/// `verify_signature` as Envoy offers it.
fn boring(
    name: &str,
    argument: &[u8],
    verify: impl Fn(&[&[u8]]) -> Vec<u8>,
) -> Result<Vec<u8>, HostError> {
    if name != "verify_signature" {
        return Err(HostError::Status(1));
    }
    let mut fields = Vec::new();
    let mut rest = argument;
    while let [_tag, more @ ..] = rest {
        let (mut length, mut shift, mut place) = (0, 0, 0);
        loop {
            length |= usize::from(more[place] & 0x7F) << shift;
            shift += 7;
            place += 1;
            if more[place - 1] < 0x80 {
                break;
            }
        }
        fields.push(&more[place..place + length]);
        rest = &more[place + length..];
    }
    assert_eq!(fields.len(), 4);
    Ok(verify(&fields))
}

fn right(fields: &[&[u8]]) -> Vec<u8> {
    use medbind_core::signature::{RustVerifier, SignatureAlgorithm, VerifySignature};
    let rsa = fields[1].len() > 200;
    let algorithm = match (fields[0], rsa) {
        (b"sha256", false) => SignatureAlgorithm::EcdsaSha256,
        (b"sha384", false) => SignatureAlgorithm::EcdsaSha384,
        (b"sha512", false) => SignatureAlgorithm::EcdsaSha512,
        (b"sha256", true) => SignatureAlgorithm::RsaPkcs1Sha256,
        (b"sha384", true) => SignatureAlgorithm::RsaPkcs1Sha384,
        (b"sha512", true) => SignatureAlgorithm::RsaPkcs1Sha512,
        (other, _) => panic!("{other:?}"),
    };
    match RustVerifier.verify(algorithm, fields[1], fields[3], fields[2]) {
        Ok(()) => vec![0x08, 0x01],
        Err(_) => Vec::new(),
    }
}

#[test]
fn the_hosts_cryptography_is_used_where_it_gives_every_known_answer() {
    type Function = fn(&[&[u8]]) -> Vec<u8>;
    let cases: [(&str, Function, bool); 5] = [
        ("right", right, true),
        ("says nothing", |_| Vec::new(), false),
        ("says yes to everything", |_| vec![0x08, 0x01], false),
        ("says more than yes", |_| vec![0x08, 0x01, 0x00], false),
        (
            "says yes in other octets",
            |fields| {
                if right(fields).is_empty() {
                    Vec::new()
                } else {
                    vec![0x01]
                }
            },
            false,
        ),
    ];
    for (name, function, used) in cases {
        let mut edge = Edge::set_up(Setup {
            host: Some(Box::new(move |host| {
                host.offer_foreign_functions(move |name, argument| {
                    boring(name, argument, function)
                });
            })),
            ..Setup::default()
        });
        edge.change("acme:SN1", "active");
        let algorithms = edge.guard.root().guard().unwrap().algorithms();
        assert_eq!(
            algorithms.as_slice().len(),
            if used { 6 } else { 0 },
            "{name}"
        );
        let good = reading().certificate(&edge.maker.device("SN1"));
        assert!(edge.guard.request(&good).is_forwarded(), "{name}");
        let forged = reading().certificate(&edge.stranger.device("SN1"));
        let fate = edge.guard.request(&forged);
        assert_eq!(fate.code().as_deref(), Some("unknown_issuer"), "{name}");
        let by = |who: &str| {
            edge.world
                .metric(&format!("medbind_verifications.verifier.{who}"))
        };
        let expected = if used { (2, 0) } else { (0, 2) };
        assert_eq!((by("host"), by("module")), expected, "{name}");
    }
}

#[test]
fn a_host_that_fails_later_is_replaced_by_the_modules_own_cryptography() {
    let mut edge = Edge::set_up(Setup {
        host: Some(Box::new(|host| {
            host.offer_foreign_functions(|name, argument| boring(name, argument, right));
        })),
        ..Setup::default()
    });
    edge.change("acme:SN1", "active");
    edge.guard.host().fail(HostCall::ForeignFunction);
    let good = reading().certificate(&edge.maker.device("SN1"));
    assert!(edge.guard.request(&good).is_forwarded());
    assert_eq!(
        edge.world.metric("medbind_verifications.verifier.module"),
        1
    );
}

#[test]
fn a_configuration_that_is_none_is_refused_with_a_line_for_each_problem() {
    let world = World::at(common::start());
    for (text, says) in [
        ("", "configuration"),
        ("{", "configuration"),
        (r#"{"role": "http", "rules": []}"#, "rules"),
        (
            r#"{"role": "sync", "registry": {"cluster": "a"}}"#,
            "authority",
        ),
    ] {
        let log = FakeEnvoy::start(&world, text).err().expect(text);
        assert!(log.contains(says), "{text}: {log}");
    }
}

#[test]
fn a_synchroniser_in_a_filter_chain_refuses_everything() {
    let mut edge = Edge::new();
    let fate = edge
        .sync
        .request(&reading().certificate(&edge.maker.device("SN1")));
    assert_eq!(fate.code().as_deref(), Some("internal"));
}

#[test]
fn a_peer_that_cannot_be_read_is_refused_where_a_rule_takes_a_device_and_nowhere_else() {
    let mut edge = Edge::new();
    let own = edge.maker.device("SN1");
    // What an Envoy before 1.38 without SANITIZE_SET gives, and a digest that is none.
    let unread = |request: FakeRequest| request.handshake_of(&own);
    let broken =
        |request: FakeRequest| request.property("connection.sha256_peer_certificate_digest", "zz");
    for session in [&unread as &dyn Fn(FakeRequest) -> FakeRequest, &broken] {
        let anyone = session(FakeRequest::new("GET", "/healthz"));
        assert!(edge.guard.request(&anyone).is_forwarded());
        let account = session(FakeRequest::new("GET", "/v1/accounts/acc-1")).token(
            "medbind",
            "https://login.example",
            "acc-1",
        );
        assert!(edge.guard.request(&account).is_forwarded());
        let nothing = session(FakeRequest::new("GET", "/v2"));
        let fate = edge.guard.request(&nothing);
        assert_eq!(fate.code().as_deref(), Some("not_permitted"));
        let fate = edge.guard.request(&session(reading()));
        assert_eq!(fate.code().as_deref(), Some("internal"));
    }
    let log = edge.guard.host().log_lines().join("\n");
    assert!(log.contains("SANITIZE_SET"), "{log}");
}

#[test]
fn what_an_earlier_configuration_let_in_is_watched_until_it_ends() {
    let mut edge = Edge::new();
    edge.registry.put(&binding("acme:SN2", "active"));
    edge.settle();
    let one = edge
        .guard
        .send(&reading().certificate(&edge.maker.device("SN1")));
    let mut settings = common::guard_settings();
    settings["issuers"] = json!([{
        "namespace": "acme",
        "certificates": [edge.maker.pem()],
        "identity": [{"source": "subject.serial_number"}],
    }]);
    assert!(edge.guard.configure_again(&settings.to_string()));
    let two = FakeRequest::new("POST", "/v1/devices/acme:SN2/readings")
        .certificate(&edge.maker.device("SN2"));
    let two = edge.guard.send(&two);
    edge.change("acme:SN1", "suspended");
    assert_eq!(edge.guard.fate(one), Fate::Reset);
    assert!(edge.guard.fate(two).is_forwarded());
    // Once more, to another role: nothing is let in, and the open request is watched.
    let sync = common::sync_settings(true).to_string();
    assert!(edge.guard.configure_again(&sync));
    let fate = edge
        .guard
        .request(&reading().certificate(&edge.maker.device("SN1")));
    assert_eq!(fate.code().as_deref(), Some("internal"));
    edge.change("acme:SN2", "revoked");
    assert_eq!(edge.guard.fate(two), Fate::Reset);
}

#[test]
fn an_answer_that_cannot_be_sent_ends_the_request() {
    let mut edge = Edge::new();
    edge.guard.host().fail(HostCall::SendResponse);
    for path in ["/ready", "/v2"] {
        let fate = edge.guard.request(&FakeRequest::new("GET", path));
        assert_eq!(fate, Fate::Reset, "{path}");
    }
}

#[test]
fn in_shadow_a_certificate_header_goes_on_and_what_overrides_the_request_does_not() {
    let setup = Setup {
        guard: json!({"mode": "shadow"}),
        ..Setup::default()
    };
    let mut edge = Edge::set_up(setup);
    let request = reading()
        .header("x-forwarded-client-cert", "Hash=x")
        .header("x-original-url", "/admin")
        .header("x-medbind-account", "forged");
    let fate = edge.guard.request(&request);
    assert_eq!(saw(&fate, "x-forwarded-client-cert"), ["Hash=x"]);
    assert!(saw(&fate, "x-original-url").is_empty());
    assert!(saw(&fate, "x-medbind-account").is_empty());
}

#[test]
fn a_module_without_its_synchroniser_refuses_with_503() {
    let mut edge = Edge::set_up(Setup::default());
    edge.guard.tick();
    let fate = edge
        .guard
        .request(&reading().certificate(&edge.maker.device("SN1")));
    let Fate::Answered(reply) = fate else {
        panic!("{fate:?}");
    };
    assert_eq!(
        (reply.status, reply.code().as_deref()),
        (503, Some("bindings_unavailable"))
    );
    assert!(reply.header("retry-after").is_some());
    assert!(
        edge.guard
            .request(&FakeRequest::new("GET", "/healthz"))
            .is_forwarded()
    );
}

#[test]
fn a_registry_whose_clock_is_far_off_counts_as_silent() {
    let mut edge = Edge::new();
    let request = reading().certificate(&edge.maker.device("SN1"));
    edge.registry.put(&binding("acme:SN1", "active"));
    for call in edge.sync.host().calls() {
        let now = edge.world.now().after(seconds(3 * 3600));
        let body = edge.registry.feed(&call.path, now);
        edge.sync.answer(&call, Some(200), &body);
    }
    edge.guard.tick();
    let fate = edge.guard.request(&request);
    assert_eq!(fate.code().as_deref(), Some("bindings_unavailable"));
}
