//! What if the registry answers badly? What is known stays in force, and the next good answer is
//! taken.

mod common;

use std::time::Duration;

use common::{Edge, binding};
use medbind_filter::testing::{FakeCall, FakeRequest};

/// What comes in an answer's place; no status for one that the proxy saw cut short.
type Spoil = fn(&str) -> (Option<u16>, String);

const SPOILED: [(&str, Spoil); 14] = [
    ("cut in its header", |good| {
        (Some(200), good[..20].to_owned())
    }),
    ("cut in a record", |good| {
        (Some(200), good[..good.len() - 9].to_owned())
    }),
    ("cut between two records", |good| {
        let end = good.trim_end().rfind('\n').unwrap();
        (Some(200), good[..=end].to_owned())
    }),
    ("empty", |_| (Some(200), String::new())),
    ("too large", |good| {
        (Some(200), good.to_owned() + &" ".repeat(2 << 20))
    }),
    ("of a version of later", |good| {
        (Some(200), replaced(good, "\"version\":1", "\"version\":2"))
    }),
    ("out of order", |good| {
        let lines: Vec<_> = good.lines().collect();
        let [header, one, two] = lines.as_slice() else {
            panic!("{good}");
        };
        (Some(200), format!("{header}\n{two}\n{one}\n"))
    }),
    ("of a count that is not its own", |good| {
        (Some(200), replaced(good, "\"count\":2", "\"count\":3"))
    }),
    ("a page for people", |_| {
        (Some(200), "<html>Welcome</html>\n".to_owned())
    }),
    ("that the edge may not have", |good| {
        (Some(401), good.to_owned())
    }),
    ("of an error", |good| (Some(500), good.to_owned())),
    ("of a registry that is not there", |_| {
        (Some(503), String::new())
    }),
    ("that came too late", |_| (Some(504), String::new())),
    ("that the proxy saw cut short", |good| {
        (None, good.to_owned())
    }),
];

fn replaced(text: &str, from: &str, to: &str) -> String {
    assert_eq!(text.matches(from).count(), 1, "{text}");
    text.replace(from, to)
}

fn code(edge: &mut Edge, certificate: &[u8], serial: &str) -> Option<String> {
    let path = format!("/v1/devices/acme:{serial}/readings");
    let request = FakeRequest::new("POST", &path).certificate(certificate);
    let fate = edge.guard.request(&request);
    if fate.is_forwarded() {
        None
    } else {
        Some(fate.code().unwrap_or_default())
    }
}

/// What the registry answers now.
fn good(edge: &Edge, call: &FakeCall) -> String {
    String::from_utf8(edge.registry.feed(&call.path, edge.world.now())).unwrap()
}

/// Lets time pass and each call be answered by `answer`, until `done`.
fn run(
    edge: &mut Edge,
    mut answer: impl FnMut(&Edge, &FakeCall) -> (Option<u16>, String),
    mut done: impl FnMut(&mut Edge) -> bool,
) {
    for _ in 0..200 {
        edge.world.pass(Duration::from_millis(100));
        edge.sync.tick();
        for call in edge.sync.host().calls() {
            let (status, body) = answer(edge, &call);
            edge.sync.answer(&call, status, body.as_bytes());
        }
        edge.guard.tick();
        if done(edge) {
            return;
        }
    }
    panic!("{}", edge.sync.host().log_lines().join("\n"));
}

#[test]
fn an_answer_that_cannot_be_believed_changes_nothing_and_the_next_good_one_does() {
    for (what, spoil) in SPOILED {
        let mut edge = Edge::new();
        let certificate = edge.maker.device("SN1");
        assert_eq!(code(&mut edge, &certificate, "SN1"), None, "{what}");
        edge.registry.put(&binding("acme:SN1", "suspended"));
        edge.registry.put(&binding("acme:SN2", "active"));
        let mut spoiled = 0;
        run(
            &mut edge,
            |edge, call| {
                spoiled += 1;
                spoil(&good(edge, call))
            },
            |edge| {
                assert_eq!(code(edge, &certificate, "SN1"), None, "{what}");
                // Asked again, and again, each time after a longer pause.
                edge.world.now().since(common::start()) > Duration::from_secs(5)
            },
        );
        assert!((2..20).contains(&spoiled), "{what}: asked {spoiled} times");
        run(
            &mut edge,
            |edge, call| (Some(200), good(edge, call)),
            |edge| code(edge, &certificate, "SN1").as_deref() == Some("binding_suspended"),
        );
    }
}

/// An edge that knows `SN1` and `SN2` as active and `SN3` as revoked; the registry then has a past
/// in which `SN1` is suspended and `SN3` active.
fn edge_of_another_past() -> (Edge, [Vec<u8>; 3]) {
    let mut edge = Edge::new();
    edge.registry.put(&binding("acme:SN2", "active"));
    edge.registry.put(&binding("acme:SN3", "active"));
    edge.registry.put(&binding("acme:SN3", "revoked"));
    edge.settle();
    edge.registry = common::Registry::default();
    for (device, state) in [
        ("acme:SN1", "suspended"),
        ("acme:SN2", "active"),
        ("acme:SN3", "active"),
    ] {
        edge.registry.put(&binding(device, state));
    }
    let certificates = ["SN1", "SN2", "SN3"].map(|serial| edge.maker.device(serial));
    (edge, certificates)
}

#[test]
fn another_history_comes_in_beside_the_old_one_and_no_revocation_is_lost() {
    let (mut edge, [one, two, three]) = edge_of_another_past();
    let mut asked_from_the_beginning = 0;
    run(
        &mut edge,
        |edge, call| {
            if !call.path.contains("cursor=") {
                asked_from_the_beginning += 1;
            }
            (
                Some(200),
                replaced(&good(edge, call), "history-1", "history-2"),
            )
        },
        |edge| {
            assert_eq!(code(edge, &two, "SN2"), None);
            code(edge, &one, "SN1").as_deref() == Some("binding_suspended")
        },
    );
    assert_eq!(asked_from_the_beginning, 1);
    let revoked = code(&mut edge, &three, "SN3");
    assert_eq!(revoked.as_deref(), Some("binding_revoked"));
}

#[test]
fn a_history_that_forked_is_read_from_its_beginning() {
    let (mut edge, [one, two, three]) = edge_of_another_past();
    run(
        &mut edge,
        |edge, call| {
            // What the registry says to a cursor that it never gave.
            if call.path.contains("cursor=c4") {
                (Some(410), String::new())
            } else {
                (Some(200), good(edge, call))
            }
        },
        |edge| {
            assert_eq!(code(edge, &two, "SN2"), None);
            code(edge, &one, "SN1").as_deref() == Some("binding_suspended")
        },
    );
    let revoked = code(&mut edge, &three, "SN3");
    assert_eq!(revoked.as_deref(), Some("binding_revoked"));
}
