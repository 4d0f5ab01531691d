use std::collections::HashMap;

use serde_json::{Value, json};
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

use super::*;
use crate::binding::{Pin, Pins};
use crate::certificate::CertificateError;
use crate::config::tests::{beta_issuer, guard, guard_json, with};
use crate::deny::{DenyCode, IssuerMismatch};
use crate::path::PathError;
use crate::tag::tag_headers;

const NOW: Timestamp = Timestamp::from_unix_seconds(1_800_000_000);
const PIN: Pin = Pin([7; 32]);

fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

/// Rules of every shape.
fn policy() -> Policy {
    policy_of(&policy_json())
}

fn policy_json() -> Value {
    with(
        guard_json(),
        "/rules",
        json!([
            {"path": "/v1/devices/{device}/readings", "methods": ["POST"], "principals": ["device"], "tags": {"traffic": "phi"}},
            {"path": "/v1/devices/{device}/alarms", "principals": ["device"], "max_stale": "12h"},
            {"path": "/v1/devices/{device}/**", "principals": ["device", "account"]},
            {"path": "/v1/mine/{serial}", "principals": ["account", "device"]},
            {"path": "/v1/{class}/{account}/{serial}", "principals": ["device"]},
            {"path": "/v1/accounts/{account}", "principals": ["account"]},
            {"path": "/v1/{class}/{device}", "principals": ["account"]},
            {"path": "/healthz", "principals": ["anyone"]},
        ]),
    )
}

fn policy_of(json: &Value) -> Policy {
    guard(json).policy
}

fn peer(device: &str) -> Peer {
    Peer::Verified(VerifiedPeer::for_test(
        device,
        PIN,
        NOW,
        NOW.after(seconds(100)),
    ))
}

fn token(subject: &str) -> AccountToken {
    AccountToken {
        issuer: "https://login.example".into(),
        subject: subject.into(),
        expires_at: None,
    }
}

fn token_until(end: Timestamp) -> AccountToken {
    AccountToken {
        expires_at: Some(end),
        ..token("acc-1")
    }
}

fn binding(device: &str) -> Binding {
    Binding {
        device: device.parse().unwrap(),
        state: BindingState::Active,
        account: Some("acc-1".parse().unwrap()),
        class: Some("cgm".parse().unwrap()),
        epoch: Epoch::new(3).unwrap(),
        expires_at: None,
        pins: Pins::default(),
        revision: 9,
    }
}

/// A registry's copy as a plain map; what is not in it is absent.
#[derive(Clone, Debug)]
struct Table {
    answers: HashMap<String, Lookup>,
    freshness: Result<Duration, Unavailable>,
    lookups: usize,
}

impl Table {
    fn new(bindings: impl IntoIterator<Item = Binding>) -> Self {
        Self {
            answers: bindings
                .into_iter()
                .map(|one| (one.device.to_string(), Lookup::Found(Arc::new(one))))
                .collect(),
            freshness: Ok(seconds(1)),
            lookups: 0,
        }
    }

    fn answering(device: &str, answer: Lookup) -> Self {
        let mut table = Self::new([]);
        table.answers.insert(device.into(), answer);
        table
    }
}

impl Bindings for Table {
    fn lookup(&mut self, device: &DeviceId, _: Timestamp) -> Lookup {
        self.lookups += 1;
        self.answers
            .get(device.as_str())
            .cloned()
            .unwrap_or(Lookup::Absent)
    }

    fn freshness(&mut self, _: Timestamp) -> Result<Duration, Unavailable> {
        self.freshness
    }
}

/// A case that is permitted until something is changed.
#[derive(Clone, Debug)]
struct Request {
    policy: Policy,
    peer: Peer,
    token: Option<AccountToken>,
    method: String,
    path: String,
    table: Table,
    now: Timestamp,
}

impl Request {
    fn by_device(path: &str) -> Self {
        Self {
            policy: policy(),
            peer: peer("acme:SN1"),
            token: None,
            method: "POST".into(),
            path: path.into(),
            table: Table::new([binding("acme:SN1")]),
            now: NOW,
        }
    }

    fn by_account(path: &str) -> Self {
        Self {
            peer: Peer::None,
            token: Some(token("acc-1")),
            ..Self::by_device(path)
        }
    }

    fn changed(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }

    fn bound(self, change: impl FnOnce(&mut Binding)) -> Self {
        let mut one = binding("acme:SN1");
        change(&mut one);
        Self {
            table: Table::new([one]),
            ..self
        }
    }

    fn answered(self, answer: Lookup) -> Self {
        Self {
            table: Table::answering("acme:SN1", answer),
            ..self
        }
    }

    fn facts(&self) -> Facts<'_> {
        Facts {
            peer: &self.peer,
            tokens: &self.token,
            method: &self.method,
            path: &self.path,
        }
    }

    fn decide(&self) -> Decision {
        let mut table = self.table.clone();
        let decision = decide(&self.policy, &self.facts(), &mut table, self.now);
        let mut steps = Vec::new();
        let traced = decide_traced(
            &self.policy,
            &self.facts(),
            &mut self.table.clone(),
            self.now,
            &mut |step| steps.push(step),
        );
        assert_eq!(
            format!("{decision:?}"),
            format!("{traced:?}"),
            "explained as it was decided"
        );
        if let Decision::Deny(denial) = &traced {
            let refused = |step: &&TraceStep| step.outcome == Outcome::Refused;
            let first = steps.iter().find(refused).expect("a refusal is a step");
            assert!(
                first.read.ends_with(&denial.reason.to_string()),
                "{first:?}"
            );
        }
        decision
    }

    fn permit(&self) -> Permit {
        match self.decide() {
            Decision::Permit(permit) => permit,
            other => panic!("{} {}: {other:?}", self.method, self.path),
        }
    }

    fn reason(&self) -> DenyReason {
        match self.decide() {
            Decision::Deny(denial) => denial.reason,
            other => panic!("{} {}: {other:?}", self.method, self.path),
        }
    }
}

const READINGS: &str = "/v1/devices/acme:SN1/readings";

fn not_permitted(reason: NotPermitted) -> DenyReason {
    DenyReason::NotPermitted(reason)
}

#[test]
fn a_bound_device_is_permitted_and_tagged() {
    let permit = Request::by_device(READINGS).permit();
    let headers: Vec<(&str, String)> = tag_headers(&permit)
        .map(|(name, value)| (name, value.into_owned()))
        .collect();
    let expected = [
        ("x-medbind-principal", "device"),
        ("x-medbind-device", "acme:SN1"),
        ("x-medbind-epoch", "3"),
        ("x-medbind-account", "acc-1"),
        ("x-medbind-class", "cgm"),
        ("x-medbind-traffic", "phi"),
    ];
    assert_eq!(
        headers,
        expected.map(|(name, value)| (name, value.to_owned()))
    );
    assert_eq!(permit.rule_index(), Some(0));
    assert_eq!(permit.valid_until(), NOW.after(seconds(100)));
}

#[test]
fn an_account_is_permitted_for_a_device_that_is_bound_to_it() {
    for path in [
        "/v1/devices/acme:SN1/history",
        "/v1/devices/acme%3ASN1/history",
        "/v1/mine/SN1",
        "/v1/cgm/acme:SN1",
    ] {
        let permit = Request::by_account(path).permit();
        assert_eq!(permit.principal(), Principal::Account, "{path}");
        assert_eq!(permit.device().unwrap().as_str(), "acme:SN1");
        assert_eq!(permit.account().unwrap().as_str(), "acc-1");
        assert_eq!(permit.epoch().unwrap().get(), 3);
        assert_eq!(permit.valid_until(), Timestamp::MAX);
    }
}

#[test]
fn an_account_needs_no_binding_where_the_path_names_no_device() {
    let request = Request::by_account("/v1/accounts/acc-1")
        .changed(|request| request.table.freshness = Err(Unavailable::NoSynchroniser));
    let permit = request.permit();
    assert_eq!(permit.device(), None);
    assert_eq!(permit.account().unwrap().as_str(), "acc-1");
    let other = request.changed(|request| request.path = "/v1/accounts/acc-2".into());
    assert_eq!(other.reason(), not_permitted(NotPermitted::OtherAccount));
}

#[test]
fn anyone_needs_nothing() {
    let request = Request::by_device("/healthz").changed(|request| {
        request.peer = Peer::Refused(DenyReason::NoDeviceIdentity);
        request.table.freshness = Err(Unavailable::Corrupt);
    });
    let permit = request.permit();
    assert_eq!(permit.principal(), Principal::Anyone);
    assert_eq!((permit.device(), permit.account()), (None, None));
    assert_eq!(tag_headers(&permit).count(), 1);
}

#[test]
#[expect(clippy::too_many_lines, reason = "one table")]
fn every_deny_reason_is_reached() {
    let device = || Request::by_device(READINGS);
    let account = || Request::by_account("/v1/mine/SN1");
    let table: Vec<(Request, DenyReason)> = vec![
        (
            device().changed(|r| r.peer = Peer::None),
            DenyReason::NoPeerCertificate,
        ),
        (
            device().changed(|r| {
                r.peer = Peer::Refused(DenyReason::MalformedCertificate(CertificateError::Pem));
            }),
            DenyReason::MalformedCertificate(CertificateError::Pem),
        ),
        (
            device().changed(|r| {
                r.peer = Peer::Refused(DenyReason::UnknownIssuer(IssuerMismatch::Signature));
            }),
            DenyReason::UnknownIssuer(IssuerMismatch::Signature),
        ),
        (
            device().changed(|r| r.peer = Peer::Refused(DenyReason::NoDeviceIdentity)),
            DenyReason::NoDeviceIdentity,
        ),
        (
            device().changed(|r| r.peer = Peer::Refused(DenyReason::AmbiguousDeviceIdentity)),
            DenyReason::AmbiguousDeviceIdentity,
        ),
        (
            device().changed(|r| r.now = NOW.after(seconds(101))),
            DenyReason::CertificateExpired {
                not_after: NOW.after(seconds(100)),
            },
        ),
        (
            device().changed(|r| r.now = Timestamp::from_unix_millis(NOW.unix_millis() - 1)),
            DenyReason::CertificateNotYetValid { not_before: NOW },
        ),
        (
            device().bound(|b| b.pins = Pins::new([Pin([8; 32])]).unwrap()),
            DenyReason::CertificateNotAllowed(NotAllowed::Pin),
        ),
        (device().answered(Lookup::Absent), DenyReason::UnknownDevice),
        (
            device().bound(|b| b.state = BindingState::Unclaimed),
            DenyReason::DeviceUnclaimed,
        ),
        (
            device().bound(|b| b.account = None),
            DenyReason::DeviceUnclaimed,
        ),
        (
            device().bound(|b| b.state = BindingState::Suspended),
            DenyReason::BindingSuspended,
        ),
        (
            device().bound(|b| b.state = BindingState::Revoked),
            DenyReason::BindingRevoked,
        ),
        (
            device().bound(|b| b.state = BindingState::Unrecognised),
            DenyReason::BindingsUnavailable(Unavailable::UnknownRecord),
        ),
        (
            device().bound(|b| b.expires_at = Some(NOW)),
            DenyReason::BindingExpired { expired_at: NOW },
        ),
        (
            device().changed(|r| r.table.freshness = Ok(seconds(901))),
            DenyReason::BindingsStale { age_seconds: 901 },
        ),
        (
            device().changed(|r| r.table.freshness = Err(Unavailable::Clock)),
            DenyReason::BindingsUnavailable(Unavailable::Clock),
        ),
        (
            device().answered(Lookup::Unavailable(Unavailable::UnknownRecord)),
            DenyReason::BindingsUnavailable(Unavailable::UnknownRecord),
        ),
        (
            device().answered(Lookup::Unavailable(Unavailable::OverCapacity)),
            DenyReason::BindingsUnavailable(Unavailable::OverCapacity),
        ),
        (
            device().answered(Lookup::Failed(LookupFailure::Timeout)),
            DenyReason::LookupFailed(LookupFailure::Timeout),
        ),
        (
            device().answered(Lookup::Found(Arc::new(binding("acme:SN2")))),
            DenyReason::Internal("a binding was looked up and another device's came back"),
        ),
        (
            device().changed(|r| r.path = "/v2".into()),
            not_permitted(NotPermitted::NoRule),
        ),
        (
            device().changed(|r| r.path = "/v1/devices/acme:SN2/readings".into()),
            not_permitted(NotPermitted::OtherDevice),
        ),
        (
            device().changed(|r| r.path = "/v1/cgm/acc-1/SN2".into()),
            not_permitted(NotPermitted::OtherDevice),
        ),
        (
            device().changed(|r| r.path = "/v1/cgm/acc-2/SN1".into()),
            not_permitted(NotPermitted::OtherAccount),
        ),
        (
            device().changed(|r| r.path = "/v1/pump/acc-1/SN1".into()),
            not_permitted(NotPermitted::OtherClass),
        ),
        (
            device()
                .bound(|b| b.class = None)
                .changed(|r| r.path = "/v1/cgm/acc-1/SN1".into()),
            not_permitted(NotPermitted::OtherClass),
        ),
        (account().changed(|r| r.token = None), DenyReason::NoAccount),
        (
            account().changed(|r| r.token.as_mut().unwrap().issuer = "https://evil.example".into()),
            DenyReason::NoAccount,
        ),
        (
            account().changed(|r| r.token.as_mut().unwrap().subject = "a b".into()),
            DenyReason::NoAccount,
        ),
        (
            account().changed(|r| r.token.as_mut().unwrap().subject = String::new()),
            DenyReason::NoAccount,
        ),
        (
            account().changed(|r| r.token = Some(token_until(NOW))),
            DenyReason::NoAccount,
        ),
        (
            account().changed(|r| r.token = Some(token("acc-2"))),
            not_permitted(NotPermitted::NotBound),
        ),
        (
            account().changed(|r| r.path = "/v1/mine/SN2".into()),
            not_permitted(NotPermitted::NotBound),
        ),
        (
            account().changed(|r| r.path = "/v1/mine/SN=2F=".into()),
            not_permitted(NotPermitted::NotBound),
        ),
        (
            account().changed(|r| r.path = "/v1/pump/acme:SN1".into()),
            not_permitted(NotPermitted::OtherClass),
        ),
        (
            account().bound(|b| b.state = BindingState::Suspended),
            DenyReason::BindingSuspended,
        ),
        (
            account().bound(|b| b.state = BindingState::Revoked),
            DenyReason::BindingRevoked,
        ),
        (
            account().bound(|b| b.expires_at = Some(NOW)),
            DenyReason::BindingExpired { expired_at: NOW },
        ),
        (
            account().changed(|r| r.table.freshness = Ok(seconds(901))),
            DenyReason::BindingsStale { age_seconds: 901 },
        ),
        (
            account().answered(Lookup::Failed(LookupFailure::Answer)),
            DenyReason::LookupFailed(LookupFailure::Answer),
        ),
    ];
    let mut codes: Vec<DenyCode> = Vec::new();
    for (request, expected) in table {
        let reason = request.reason();
        assert_eq!(reason, expected, "{} {}", request.method, request.path);
        codes.push(reason.code());
    }
    for code in DenyCode::ALL {
        assert!(codes.contains(&code), "{code} is not reached");
    }
}

#[test]
fn a_path_that_an_upstream_might_read_another_way_is_refused() {
    for (path, error) in [
        (
            "/v1/devices/acme:SN1/..;/acme:SN2/readings",
            PathError::Parameter,
        ),
        ("/v1/devices/acme:SN1//readings", PathError::EmptySegment),
        ("//v1/devices/acme:SN1/readings", PathError::EmptySegment),
        (
            "/v1/devices/acme:SN1%2Freadings",
            PathError::EncodedDelimiter,
        ),
        (
            "/v1/devices/acme:SN1%252Freadings",
            PathError::EncodedDelimiter,
        ),
        (
            "https://edge.example/v1/devices/acme:SN1/readings",
            PathError::NotAbsolute,
        ),
        ("/v1/devices/acme:SN1/readings;x=y", PathError::Parameter),
        (
            "/v1/devices/acme:SN1/../acme:SN2/readings",
            PathError::DotSegment,
        ),
        (
            "/v1/devices/acme:SN1/%2e%2e/acme:SN2/readings",
            PathError::DotSegment,
        ),
        (
            "/v1/devices/acme:SN1\\..\\acme:SN2/readings",
            PathError::Backslash,
        ),
        ("", PathError::Empty),
        ("*", PathError::NotAbsolute),
    ] {
        let reason = Request::by_device(path).reason();
        assert_eq!(reason, not_permitted(NotPermitted::Path(error)), "{path}");
    }
}

#[test]
fn a_trailing_slash_is_another_path() {
    let request = Request::by_device("/v1/devices/acme:SN1/readings/");
    assert_eq!(request.permit().rule_index(), Some(2));
    let request = Request::by_device("/healthz/");
    assert_eq!(request.reason(), not_permitted(NotPermitted::NoRule));
}

#[test]
fn the_first_rule_that_fits_is_final() {
    // The rule behind it would take an account.
    let request = Request::by_account(READINGS);
    assert_eq!(request.reason(), DenyReason::NoPeerCertificate);
    let request = request.changed(|request| request.method = "GET".into());
    assert_eq!(request.permit().rule_index(), Some(2));
    let request = request.changed(|request| request.method = "get".into());
    assert_eq!(request.permit().rule_index(), Some(2));
    let request = Request::by_account(READINGS).changed(|request| request.method = "post".into());
    assert_eq!(request.permit().rule_index(), Some(2));
}

#[test]
fn where_no_principal_may_the_refusal_is_that_of_the_first() {
    let request = Request::by_account("/v1/devices/acme:SN2/history");
    assert_eq!(request.reason(), DenyReason::NoPeerCertificate);
    let request = Request::by_account("/v1/mine/SN2");
    assert_eq!(request.reason(), not_permitted(NotPermitted::NotBound));
    // The first refuses, the second may.
    let request = Request::by_device("/v1/mine/SN1");
    assert_eq!(request.permit().principal(), Principal::Device);
}

#[test]
fn nobody_is_asked_about_a_device_of_a_namespace_that_no_issuer_has() {
    for (path, asked) in [
        ("/v1/cgm/acme:SN7", true),
        ("/v1/mine/SN7", true),
        ("/v1/cgm/acm:SN7", false),
        ("/v1/cgm/acme2:SN7", false),
        ("/v1/cgm/SN7", false),
    ] {
        let mut request = Request::by_account(path);
        for device in ["acme:SN7", "acm:SN7", "acme2:SN7"] {
            request.table.answers.insert(device.into(), Lookup::Pending);
        }
        let decision = request.decide();
        if asked {
            assert!(matches!(decision, Decision::AskRegistry(_)), "{path}");
        } else {
            assert_eq!(
                request.reason(),
                not_permitted(NotPermitted::NotBound),
                "{path}"
            );
        }
    }
    let two = with(policy_json(), "/issuers/-", beta_issuer());
    let two = with(two, "/rules/3/principals", json!(["device"]));
    let request = Request::by_account("/v1/cgm/beta:SN1").changed(|r| {
        r.policy = policy_of(&two);
        r.table = Table::new([binding("beta:SN1")]);
    });
    assert_eq!(request.permit().device().unwrap().as_str(), "beta:SN1");
}

/// Whatever another's device is, absent or in any state, the answer is the same.
#[test]
fn an_account_learns_nothing_of_a_device_that_is_not_its_own() {
    let mut answers = vec![
        Lookup::Absent,
        Lookup::Unavailable(Unavailable::UnknownRecord),
    ];
    for state in [
        BindingState::Unclaimed,
        BindingState::Active,
        BindingState::Suspended,
        BindingState::Revoked,
        BindingState::Unrecognised,
    ] {
        for account in [None, Some("acc-2".parse().unwrap())] {
            answers.push(Lookup::Found(Arc::new(Binding {
                state,
                account,
                expires_at: Some(NOW),
                ..binding("acme:SN1")
            })));
        }
    }
    for answer in answers {
        let request = Request::by_account("/v1/cgm/acme:SN1").answered(answer);
        assert_eq!(request.reason(), not_permitted(NotPermitted::NotBound));
    }
}

#[test]
fn a_device_that_is_not_known_here_is_asked_for_and_overtaken_by_no_other_principal() {
    let request = Request::by_device("/v1/devices/acme:SN1/history")
        .changed(|request| request.token = Some(token("acc-1")))
        .answered(Lookup::Pending);
    let Decision::AskRegistry(device) = request.decide() else {
        panic!("the registry is asked");
    };
    assert_eq!(device.as_str(), "acme:SN1");
    // Nobody is asked about a peer that is not valid, nor by stale bindings.
    let late = request.clone().changed(|r| r.now = NOW.after(seconds(500)));
    let late = late.changed(|request| request.token = None);
    assert_eq!(late.reason().code(), DenyCode::CertificateExpired);
}

#[test]
fn a_rule_may_allow_bindings_that_are_staler_and_the_tag_says_so() {
    let alarms = Request::by_device("/v1/devices/acme:SN1/alarms");
    assert_eq!(alarms.permit().stale_age(), None);
    let stale = |age| {
        alarms
            .clone()
            .changed(|r| r.table.freshness = Ok(seconds(age)))
    };
    assert_eq!(stale(900).permit().stale_age(), None);
    let permit = stale(901).permit();
    assert_eq!(permit.stale_age(), Some(seconds(901)));
    assert!(
        tag_headers(&permit)
            .any(|(name, value)| name == "x-medbind-bindings-age" && value == "901")
    );
    assert_eq!(stale(43_200).permit().stale_age(), Some(seconds(43_200)));
    assert_eq!(
        stale(43_201).reason(),
        DenyReason::BindingsStale {
            age_seconds: 43_201
        }
    );
}

#[test]
fn with_two_issuers_a_serial_names_the_callers_own_device_only() {
    let json = with(policy_json(), "/issuers/-", beta_issuer());
    let json = with(json, "/rules/3/principals", json!(["device"]));
    let request = Request::by_device("/v1/mine/SN1").changed(|r| r.policy = policy_of(&json));
    assert_eq!(request.permit().device().unwrap().as_str(), "acme:SN1");
    let other = request.clone().changed(|r| {
        r.peer = peer("beta:SN1");
        r.table = Table::new([binding("beta:SN1"), binding("acme:SN1")]);
    });
    assert_eq!(other.permit().device().unwrap().as_str(), "beta:SN1");
}

#[test]
fn a_prefix_keeps_the_accounts_of_two_issuers_apart() {
    let json = with(
        policy_json(),
        "/accounts",
        json!([
            {"issuer": "https://login.example", "prefix": "home:"},
            {"issuer": "https://sso.example", "prefix": "clinic:"},
        ]),
    );
    let policy = policy_of(&json);
    let account = |issuer: &str| {
        policy
            .accounts()
            .account(&AccountToken {
                issuer: issuer.into(),
                subject: "7".into(),
                expires_at: None,
            })
            .map(|account| account.to_string())
    };
    assert_eq!(account("https://login.example").as_deref(), Some("home:7"));
    assert_eq!(account("https://sso.example").as_deref(), Some("clinic:7"));
    assert_eq!(account("https://login.example/"), None);
    let issuers = policy.accounts().as_slice();
    let issuers: Vec<&str> = issuers.iter().map(|one| &*one.issuer).collect();
    assert_eq!(issuers, ["https://login.example", "https://sso.example"]);
}

/// A host that cannot say whether there is a token, and counts how often it is asked.
#[derive(Default)]
struct NoAnswer(std::cell::Cell<usize>);

impl Tokens for NoAnswer {
    fn verified(&self) -> Result<Option<&AccountToken>, DenyReason> {
        self.0.set(self.0.get() + 1);
        Err(DenyReason::Internal("the token"))
    }
}

#[test]
fn a_token_is_asked_for_where_a_rule_takes_an_account_and_no_answer_refuses() {
    for (path, asked, permitted) in [
        (READINGS, 0, true),
        ("/healthz", 0, true),
        ("/v1/devices/acme:SN1/x", 0, true),
        ("/v1/accounts/acc-1", 1, false),
        ("/v1/mine/SN1", 1, true),
    ] {
        let request = Request::by_device(path);
        let tokens = NoAnswer::default();
        let facts = Facts {
            tokens: &tokens,
            ..request.facts()
        };
        let mut table = request.table.clone();
        match decide(&request.policy, &facts, &mut table, NOW) {
            Decision::Permit(permit) => {
                assert!(permitted, "{path}");
                assert_ne!(permit.principal(), Principal::Account);
            }
            Decision::Deny(denial) => {
                assert!(!permitted, "{path}: {denial:?}");
                assert_eq!(denial.reason, DenyReason::Internal("the token"));
            }
            Decision::AskRegistry(_) => panic!("{path}"),
        }
        assert_eq!(tokens.0.get(), asked, "{path}");
    }
}

#[test]
fn what_is_wrong_with_a_token_is_said_as_it_is() {
    let ended = token_until(NOW);
    let other = AccountToken {
        issuer: "https://other.example".into(),
        ..token_until(NOW.after(seconds(1)))
    };
    for (token, said) in [
        (Some(ended), "the token's end, "),
        (Some(other), "issuer \"https://other.example\", subject"),
        (None, "no verified token"),
    ] {
        let request = Request::by_account("/v1/accounts/acc-1").changed(|r| r.token = token);
        let mut steps = Vec::new();
        let mut table = request.table.clone();
        let listener = &mut |step| steps.push(step);
        decide_traced(&request.policy, &request.facts(), &mut table, NOW, listener);
        let step = steps
            .iter()
            .find(|step| step.step == Check::Account.as_str());
        let read = &step.expect("the account is looked for").read;
        assert!(read.starts_with(said), "{read}");
    }
}

#[test]
fn a_device_alone_is_decided_without_a_rule() {
    let policy = policy();
    let mut steps = Vec::new();
    let decision = decide_device(
        &policy,
        &peer("acme:SN1"),
        &mut Table::new([binding("acme:SN1")]),
        NOW,
        &mut |step| steps.push(step),
    );
    let Decision::Permit(permit) = decision else {
        panic!("{decision:?}");
    };
    assert_eq!(permit.rule_index(), None);
    assert_eq!(permit.tags().iter().count(), 0);
    let names: Vec<&str> = steps.iter().map(|step| step.step).collect();
    assert_eq!(
        names,
        [
            "peer",
            "validity",
            "freshness",
            "binding",
            "state",
            "expiry",
            "pins"
        ]
    );
    let decision = decide_device(&policy, &Peer::None, &mut Table::new([]), NOW, &mut |_| {});
    assert!(matches!(decision, Decision::Deny(_)));
}

#[test]
fn an_explanation_says_until_when_a_certificate_is_valid() {
    for (not_after, says) in [
        (NOW.after(seconds(60)), "to 2027-01-15T08:01:00Z, now"),
        (Timestamp::MAX, "to no well-defined end, now"),
    ] {
        let peer = VerifiedPeer::for_test("acme:SN1", PIN, NOW, not_after);
        let mut steps = Vec::new();
        decide_device(
            &policy(),
            &Peer::Verified(peer),
            &mut Table::new([binding("acme:SN1")]),
            NOW,
            &mut |step| steps.push(step),
        );
        let validity = steps
            .iter()
            .find(|one| one.step == Check::Validity.as_str());
        let read = &validity.expect("validity is looked at").read;
        assert!(read.contains(says), "{read}");
    }
}

#[test]
fn an_open_request_ends_with_the_ownership_that_it_was_permitted_for() {
    let request = Request::by_device(READINGS);
    let first = request.permit();
    let again = |request: &Request| {
        decide_again(
            &first,
            &request.policy,
            &request.facts(),
            &mut request.table.clone(),
            request.now,
        )
    };
    assert!(matches!(again(&request), Decision::Permit(_)));
    let changes: [fn(&mut Binding); 3] = [
        |b| b.epoch = Epoch::new(4).unwrap(),
        |b| b.account = Some("acc-2".parse().unwrap()),
        |b| b.class = Some("pump".parse().unwrap()),
    ];
    for change in changes {
        let other = request.clone().bound(change);
        assert!(matches!(other.decide(), Decision::Permit(_)));
        let Decision::Deny(denial) = again(&other) else {
            panic!("the tag is not true any more");
        };
        assert_eq!(denial.reason, not_permitted(NotPermitted::Changed));
    }
    let revoked = request.bound(|b| b.state = BindingState::Revoked);
    let Decision::Deny(denial) = again(&revoked) else {
        panic!("revoked");
    };
    assert_eq!(denial.reason, DenyReason::BindingRevoked);
}

#[test]
fn a_denial_names_rule_and_device_for_the_operator() {
    let request = Request::by_device(READINGS).bound(|b| b.state = BindingState::Suspended);
    let Decision::Deny(denial) = request.decide() else {
        panic!("suspended");
    };
    assert_eq!(denial.rule, Some(0));
    assert_eq!(denial.device.unwrap().as_str(), "acme:SN1");
    let Decision::Deny(denial) = Request::by_account("/v1/mine/SN2").decide() else {
        panic!("not bound");
    };
    assert_eq!(denial.device.unwrap().as_str(), "acme:SN2");
}

#[test]
fn a_permit_ends_with_the_first_of_certificate_and_binding() {
    let ends = |at: Option<Timestamp>| {
        Request::by_device(READINGS)
            .bound(|b| b.expires_at = at)
            .permit()
            .valid_until()
    };
    assert_eq!(ends(None), NOW.after(seconds(100)));
    assert_eq!(ends(Some(NOW.after(seconds(50)))), NOW.after(seconds(50)));
    assert_eq!(ends(Some(NOW.after(seconds(500)))), NOW.after(seconds(100)));
}

#[test]
fn a_request_by_a_device_costs_one_lookup() {
    let request = Request::by_device(READINGS);
    let mut table = request.table.clone();
    let decision = decide(&request.policy, &request.facts(), &mut table, NOW);
    assert!(matches!(decision, Decision::Permit(_)));
    assert_eq!(table.lookups, 1);
}

#[test]
fn a_permit_is_made_in_one_place() {
    let source = include_str!("../decision.rs");
    let made = source.matches("Permit {\n        principal:").count();
    let literals = source
        .lines()
        .filter(|line| line.trim_start().starts_with("Permit {"))
        .count();
    assert_eq!((made, literals), (1, 1));
}

#[cfg(not(target_arch = "wasm32"))]
mod native {
    use proptest::prelude::*;

    use super::*;

    fn any_state() -> impl Strategy<Value = BindingState> {
        prop_oneof![
            1 => Just(BindingState::Unclaimed),
            16 => Just(BindingState::Active),
            1 => Just(BindingState::Suspended),
            1 => Just(BindingState::Revoked),
            1 => Just(BindingState::Unrecognised),
        ]
    }

    fn any_binding() -> impl Strategy<Value = Binding> {
        (
            any_state(),
            proptest::option::weighted(0.8, prop_oneof![Just("acc-1"), Just("acc-2")]),
            proptest::option::of(prop_oneof![Just("cgm"), Just("pump")]),
            proptest::option::weighted(0.3, -5i64..200),
            proptest::collection::vec(7u8..9, 0..3),
            prop_oneof![9 => Just("acme:SN1"), 1 => Just("acme:SN2")],
        )
            .prop_map(|(state, account, class, expires, pins, device)| Binding {
                device: device.parse().unwrap(),
                state,
                account: account.map(|text| text.parse().unwrap()),
                class: class.map(|text| text.parse().unwrap()),
                epoch: Epoch::FIRST,
                expires_at: expires
                    .map(|seconds| Timestamp::from_unix_seconds(NOW.unix_seconds() + seconds)),
                pins: Pins::new(pins.into_iter().map(|octet| Pin([octet; 32]))).unwrap(),
                revision: 1,
            })
    }

    fn any_lookup() -> impl Strategy<Value = Lookup> {
        prop_oneof![
            24 => any_binding().prop_map(|one| Lookup::Found(Arc::new(one))),
            1 => Just(Lookup::Absent),
            1 => Just(Lookup::Pending),
            1 => Just(Lookup::Failed(LookupFailure::Connection)),
            1 => Just(Lookup::Unavailable(Unavailable::Corrupt)),
        ]
    }

    fn any_path() -> impl Strategy<Value = String> {
        prop_oneof![
            12 => proptest::sample::select(vec![
                READINGS.to_owned(),
                "/v1/devices/acme:SN1/alarms".into(),
                "/v1/devices/acme:SN1/history?x=1".into(),
                "/v1/mine/SN1".into(),
                "/v1/cgm/acc-1/SN1".into(),
                "/v1/accounts/acc-1".into(),
                "/v1/cgm/acme:SN1".into(),
                "/healthz".into(),
            ]),
            2 => "/v1/(devices|mine|cgm|accounts)(/[a-z:%/.;2FESN]{0,12}){0,3}",
            1 => ".{0,40}",
        ]
    }

    fn any_request() -> impl Strategy<Value = Request> {
        let policy = policy();
        let peers = prop_oneof![
            4 => Just(peer("acme:SN1")),
            1 => Just(peer("acme:SN2")),
            1 => Just(Peer::None),
            1 => Just(Peer::Refused(DenyReason::NoDeviceIdentity)),
        ];
        let tokens = proptest::option::of(prop_oneof![
            3 => Just(token("acc-1")),
            3 => (-3i64..103).prop_map(|shift| {
                token_until(Timestamp::from_unix_seconds(NOW.unix_seconds() + shift))
            }),
            1 => Just(token("acc-2")),
            1 => ".{0,10}".prop_map(|subject| token(&subject)),
        ]);
        let freshness = prop_oneof![
            12 => (0u64..1_100).prop_map(|age| Ok(seconds(age))),
            1 => Just(Err(Unavailable::Clock)),
        ];
        (
            peers,
            tokens,
            prop_oneof![Just("POST"), Just("GET")],
            any_path(),
            any_lookup(),
            freshness,
            -2i64..103,
        )
            .prop_map(
                move |(peer, token, method, path, lookup, freshness, shift)| Request {
                    policy: policy.clone(),
                    peer,
                    token,
                    method: method.into(),
                    path,
                    table: Table {
                        freshness,
                        ..Table::answering("acme:SN1", lookup)
                    },
                    now: Timestamp::from_unix_seconds(NOW.unix_seconds() + shift),
                },
            )
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]

        /// What a permit says is what the facts hold, checked here without the module's help.
        #[test]
        fn a_permit_implies_an_active_unexpired_binding_of_the_caller(request in any_request()) {
            let Decision::Permit(permit) = request.decide() else {
                return Ok(());
            };
            prop_assert!(RequestPath::parse(&request.path).is_ok());
            if let Some(binding) = permit.binding() {
                prop_assert_eq!(binding.state, BindingState::Active);
                prop_assert!(binding.account.is_some());
                prop_assert!(binding.expires_at.is_none_or(|at| request.now < at));
                let age = request.table.freshness.unwrap();
                let stale = age > seconds(900);
                prop_assert_eq!(permit.stale_age().is_some(), stale);
                prop_assert!(!stale || permit.rule_index() == Some(1));
            }
            match permit.principal() {
                Principal::Device => {
                    let Peer::Verified(peer) = &request.peer else {
                        return Err(TestCaseError::fail("a device without a verified peer"));
                    };
                    let binding = permit.binding().unwrap();
                    prop_assert_eq!(peer.device(), &binding.device);
                    prop_assert!(peer.check_validity(request.now).is_ok());
                    prop_assert!(binding.pins.allow(&peer.pin()));
                    prop_assert!(request.path.contains("SN1"));
                }
                Principal::Account => {
                    let token = request.token.as_ref().unwrap();
                    prop_assert!(token.expires_at.is_none_or(|at| request.now < at));
                    prop_assert_eq!(permit.account().unwrap().as_str(), token.subject.as_str());
                    if let Some(binding) = permit.binding() {
                        prop_assert_eq!(binding.account.as_ref(), permit.account());
                        prop_assert!(request.path.contains(binding.device.serial()));
                    } else {
                        prop_assert!(request.path.starts_with("/v1/accounts/"));
                    }
                }
                Principal::Anyone => prop_assert!(request.path.starts_with("/healthz")),
            }
        }

        /// A device's permit, and one fact of it changed.
        #[test]
        fn changing_any_one_fact_of_a_devices_permit_makes_it_a_deny(
            path in proptest::sample::select(vec![READINGS, "/v1/cgm/acc-1/SN1"]),
            change in 0usize..13,
        ) {
            let permitted = Request::by_device(path).bound(|b| {
                b.pins = Pins::new([PIN]).unwrap();
                b.expires_at = Some(NOW.after(seconds(50)));
            });
            permitted.permit();
            let pinned = |pin| move |b: &mut Binding| b.pins = Pins::new([Pin([pin; 32])]).unwrap();
            let changed = match change {
                0 => permitted.changed(|r| r.peer = Peer::None),
                1 => permitted.changed(|r| r.peer = peer("acme:SN2")),
                // Another issuer with the same serial.
                2 => permitted.changed(|r| r.peer = peer("beta:SN1")),
                3 => permitted.bound(|b| b.state = BindingState::Suspended),
                4 => permitted.bound(|b| b.state = BindingState::Revoked),
                5 => permitted.bound(|b| b.state = BindingState::Unrecognised),
                6 => permitted.bound(|b| b.account = None),
                7 => permitted.bound(pinned(8)),
                8 => permitted.changed(|r| r.now = NOW.after(seconds(50))),
                9 => permitted.changed(|r| r.now = Timestamp::from_unix_millis(NOW.unix_millis() - 1)),
                10 => permitted.changed(|r| r.table.freshness = Ok(seconds(901))),
                11 => permitted.changed(|r| r.table = Table::new([])),
                _ => permitted.changed(|r| r.path = r.path.replace("SN1", "SN2")),
            };
            prop_assert!(matches!(changed.decide(), Decision::Deny(_)), "{change}");
        }

        /// No other text in the place of a segment is let in.
        #[test]
        fn no_other_segment_passes_for_the_device(segment in "[ -~]{1,24}") {
            let request = Request::by_device(&format!("/v1/devices/{segment}/readings"));
            if let Decision::Permit(_) = request.decide() {
                let path = RequestPath::parse(&request.path).unwrap();
                prop_assert!(path.segments()[2].is("acme:SN1"));
            }
        }

        /// The same for an account, whose path names a device that is looked up.
        #[test]
        fn changing_any_one_fact_of_an_accounts_permit_makes_it_a_deny(
            path in proptest::sample::select(vec!["/v1/mine/SN1", "/v1/cgm/acme:SN1"]),
            change in 0usize..10,
        ) {
            let permitted = Request::by_account(path)
                .changed(|r| r.token = Some(token_until(NOW.after(seconds(50)))));
            permitted.permit();
            let changed = match change {
                0 => permitted.changed(|r| r.token = None),
                1 => permitted.changed(|r| r.token = Some(token("acc-2"))),
                2 => permitted.changed(|r| r.token.as_mut().unwrap().issuer.push('/')),
                3 => permitted.bound(|b| b.account = Some("acc-2".parse().unwrap())),
                4 => permitted.bound(|b| b.state = BindingState::Suspended),
                5 => permitted.bound(|b| b.expires_at = Some(NOW)),
                6 => permitted.changed(|r| r.table.freshness = Err(Unavailable::Loading)),
                7 => permitted.changed(|r| r.path.push('2')),
                8 => permitted.changed(|r| r.now = NOW.after(seconds(50))),
                _ => permitted.bound(|b| b.state = BindingState::Unrecognised),
            };
            prop_assert!(matches!(changed.decide(), Decision::Deny(_)), "{change}");
        }

        #[test]
        fn no_path_makes_reading_panic_and_what_is_read_is_plain(path in "/?[ -~é%/.;\\\\]{0,40}", odd in ".{0,40}") {
            for path in [path, odd] {
                let Ok(read) = RequestPath::parse(&path) else {
                    continue;
                };
                for segment in read.segments() {
                    let text = segment.decoded();
                    prop_assert!(segment.is(&text));
                    prop_assert!(text != "." && text != "..");
                    prop_assert!(!text.contains(['/', '\\', ';', '%', '?', '#', '\0']));
                    prop_assert_eq!(text.trim(), &*text);
                }
            }
        }

        #[test]
        fn no_pattern_makes_reading_panic_and_it_covers_itself(
            text in "/(v1|\\*|\\{device\\}|\\{class\\}|a|)(/(b|\\*|\\{account\\}|\\*\\*|)){0,3}",
            odd in ".{0,40}",
            path in "/(v1|a|x)(/(b|y|)){0,3}",
        ) {
            use crate::rule::Pattern;
            let _ = Pattern::parse(&odd);
            let (Ok(pattern), Ok(path)) = (Pattern::parse(&text), RequestPath::parse(&path)) else {
                return Ok(());
            };
            prop_assert!(pattern.covers(&pattern));
            let all = Pattern::parse("/**").unwrap();
            prop_assert!(all.covers(&pattern) && all.fits(&path));
            // A pattern made of the path itself fits it, and what covers that pattern does too.
            let texts: Vec<_> = path.segments().iter().map(|one| one.decoded()).collect();
            let exact = format!("/{}", texts.join("/"));
            let exact = Pattern::parse(&exact).unwrap();
            prop_assert!(exact.fits(&path));
            prop_assert_eq!(pattern.covers(&exact), pattern.fits(&path));
        }
    }
}
