//! The path that is asked for, under rules of any shape.
//!
//! An input is the path, then one rule a line: a letter for its principals and its pattern
//! (`d /v1/devices/{device}/**`).
//!
//! - Nothing panics.
//! - **Nobody reads another path.** What is read here, a plain reader (split at `/`, decode once),
//!   one that decodes first and then splits, and the URL standard's parser, which resolves dot
//!   segments and takes `\` for `/`, read the same.
//! - What is permitted holds no `;`, `\`, `//`, `#`, dot segment, encoded delimiter or control.
//! - The rule that is found is the first one that fits, by a matcher that knows no tricks; one
//!   that covers another leaves it nothing.
//! - A path that names a device by a rule's placeholder is permitted to that device, or to an
//!   account that it is bound to, and to nobody else.

use std::sync::LazyLock;

use medbind_core::binding::{AccountId, DeviceClass};
use medbind_core::certificate::PeerCertificate;
use medbind_core::config::PluginConfig;
use medbind_core::decision::{AccountToken, Decision, Facts, Peer, Permit, Policy, decide};
use medbind_core::identity::DeviceId;
use medbind_core::path::{PathError, RequestPath};
use medbind_core::peer::authenticate;
use medbind_core::rule::{Pattern, Principal};
use medbind_core::signature::{KeyPolicy, RustVerifier};
use percent_encoding::percent_decode_str;
use serde_json::{Value, json};
use url::Url;

use crate::certificate::Everybody;
use crate::site::{NOW, SITE};
use crate::{Reached, Seed, Target};

pub(crate) const TARGET: Target = Target {
    name: "path",
    run,
    seeds,
    words: &[
        "/v1/devices/",
        "acme:SN1",
        "acme%3ASN1",
        "..;/",
        "/../",
        "/./",
        "//",
        "%2e",
        "%2F",
        "%252F",
        "%5C",
        "%3B",
        "%00",
        "%C0%AF",
        "%EF%BC%8F",
        "{device}",
        "{serial}",
        "{account}",
        "{class}",
        "**",
        "/*",
        "\nd /",
        "\na /",
        "\nb /",
        "\nn /",
    ],
};

/// The device that asks.
static PEER: LazyLock<Peer> = LazyLock::new(|| {
    let certificate = PeerCertificate::parse_der(&SITE.issued("device").der);
    let certificate = certificate.expect("a certificate of the site");
    let policy = KeyPolicy::default();
    match authenticate(&SITE.issuers, &policy, &certificate, &RustVerifier) {
        Ok(peer) => Peer::Verified(peer),
        Err(reason) => panic!("a device of the site: {reason}"),
    }
});

/// More lines than this make an input slower, not better.
const MOST_RULES: usize = 16;

/// A rule of the input: whom it takes, and its path.
struct Line<'a> {
    principals: &'static [&'static str],
    pattern: &'a str,
}

fn read_line(line: &str) -> Option<Line<'_>> {
    let (letter, pattern) = line.split_once(' ')?;
    let principals: &[&str] = match letter {
        "d" => &["device"],
        "a" => &["account"],
        "b" => &["account", "device"],
        "n" => &["anyone"],
        _ => return None,
    };
    Some(Line {
        principals,
        pattern,
    })
}

/// Holds the promises against one input.
///
/// # Panics
///
/// Where a promise is broken.
pub fn run(input: &[u8]) -> Reached {
    let Ok(input) = std::str::from_utf8(input) else {
        return Reached::Refused;
    };
    let mut lines = input.split('\n');
    let asked = lines.next().unwrap_or_default();
    let rules: Vec<Line<'_>> = lines.take(MOST_RULES).filter_map(read_line).collect();
    let read = RequestPath::parse(asked);
    let segments = read.as_ref().ok().map(|path| {
        let segments: Vec<String> = path
            .segments()
            .iter()
            .map(|segment| segment.decoded().into_owned())
            .collect();
        for (segment, text) in path.segments().iter().zip(&segments) {
            assert!(segment.is(text), "a segment is what it decodes to");
        }
        others_read_the_same(asked, &segments);
        segments
    });
    patterns(&rules, read.as_ref(), segments.as_deref());
    let Some(policy) = policy(&rules) else {
        return Reached::Refused;
    };
    decision(asked, segments.as_deref(), &policy)
}

/// What no path that is taken may hold, however it is written.
const NEVER: [&str; 5] = [";", "\\", "#", "//", "/./"];
const NEVER_ENCODED: [&str; 6] = ["%2f", "%25", "%5c", "%3b", "%3f", "%23"];

fn others_read_the_same(asked: &str, segments: &[String]) {
    let path = asked.split('?').next().unwrap_or_default();
    let lower = path.to_ascii_lowercase();
    for text in NEVER.iter().chain(&NEVER_ENCODED) {
        assert!(!lower.contains(text), "{text} is in it");
    }
    for segment in segments {
        assert!(!matches!(segment.as_str(), "." | ".."), "a dot segment");
        assert!(!segment.contains(char::is_control), "a control");
        assert_eq!(segment.trim(), segment, "a blank at an end");
    }
    let rest = path.strip_prefix('/').unwrap_or_else(|| panic!("no '/'"));
    let decode = |text: &str| {
        let decoded = percent_decode_str(text).decode_utf8();
        decoded.expect("UTF-8 when decoded").into_owned()
    };
    let split_first: Vec<String> = rest.split('/').map(decode).collect();
    assert_eq!(segments, split_first, "split, then decoded");
    let decoded = decode(rest);
    let decoded_first: Vec<&str> = decoded.split('/').collect();
    assert_eq!(segments, decoded_first, "decoded, then split");
    assert_eq!(decode(&decoded), decoded, "decoded twice");
    let url = Url::parse(&format!("https://edge.example{asked}"));
    let url = url.expect("a URL");
    let by_url: Vec<String> = url
        .path_segments()
        .map(|segments| segments.map(decode).collect())
        .unwrap_or_default();
    assert_eq!(segments, by_url, "as the URL standard reads it");
}

/// Does the pattern fit, by the definition?
fn fits(pattern: &str, segments: &[String]) -> bool {
    let mut segments = segments.iter();
    for part in pattern.trim_start_matches('/').split('/') {
        if part == "**" {
            return true;
        }
        let Some(segment) = segments.next() else {
            return false;
        };
        let any = part == "*" || part.starts_with('{');
        let fits = if any {
            !segment.is_empty()
        } else {
            part == segment
        };
        if !fits {
            return false;
        }
    }
    segments.next().is_none()
}

fn patterns(
    rules: &[Line<'_>],
    path: Result<&RequestPath<'_>, &PathError>,
    segments: Option<&[String]>,
) {
    let read: Vec<Pattern> = rules
        .iter()
        .filter_map(|rule| match Pattern::parse(rule.pattern) {
            Ok(pattern) => Some(pattern),
            Err(error) => {
                assert!(!error.to_string().is_empty() && !error.mend().is_empty());
                None
            }
        })
        .collect();
    for pattern in &read {
        assert_eq!(Pattern::parse(pattern.as_str()).as_ref(), Ok(pattern));
        let (Ok(path), Some(segments)) = (path, segments) else {
            continue;
        };
        let expected = fits(pattern.as_str(), segments);
        assert_eq!(pattern.fits(path), expected, "{}", pattern.as_str());
        for other in &read {
            if other.covers(pattern) && pattern.fits(path) {
                assert!(other.fits(path), "it covers {}", pattern.as_str());
            }
        }
    }
}

/// A policy of those rules that go together.
fn policy(rules: &[Line<'_>]) -> Option<Policy> {
    let rules: Vec<Value> = rules
        .iter()
        .map(|rule| json!({"path": rule.pattern, "principals": rule.principals}))
        .collect();
    let json = json!({
        "role": "http",
        "issuers": SITE.json,
        "accounts": [{"issuer": "https://login.example"}],
        "rules": rules,
    });
    match PluginConfig::from_value(&json) {
        Ok(PluginConfig::Guard(guard)) => Some(guard.policy),
        Ok(PluginConfig::Sync(_)) => panic!("a guard is no synchroniser"),
        Err(error) => {
            assert!(!error.problems().is_empty());
            None
        }
    }
}

fn decision(asked: &str, segments: Option<&[String]>, policy: &Policy) -> Reached {
    let account = Some(AccountToken {
        issuer: "https://login.example".into(),
        subject: "acc-1".into(),
        expires_at: None,
    });
    let first = segments.and_then(|segments| {
        let mut rules = policy.rules().as_slice().iter();
        rules.position(|rule| fits(rule.pattern().as_str(), segments))
    });
    let mut reached = Reached::Refused;
    for (peer, tokens) in [
        (&*PEER, &None),
        (&*PEER, &account),
        (&Peer::None, &account),
        (&Peer::None, &None),
    ] {
        let facts = Facts {
            peer,
            tokens,
            method: "GET",
            path: asked,
        };
        match decide(policy, &facts, &mut Everybody, NOW) {
            Decision::Permit(permit) => {
                let segments = segments.expect("a path that was read");
                assert_eq!(permit.rule_index(), first, "the first rule is final");
                let rule = first.and_then(|first| policy.rules().as_slice().get(first));
                let pattern = rule.expect("a rule").pattern().as_str();
                let named = named(pattern, segments);
                holds(&permit, &named);
                reached = Reached::Taken;
            }
            Decision::Deny(denial) => {
                assert_eq!(denial.rule, first, "the rule that says no");
                assert!(!denial.reason.code().as_str().is_empty());
            }
            Decision::AskRegistry(_) => panic!("everybody is known"),
        }
    }
    reached
}

/// The placeholders of a pattern with what stands in their places.
fn named<'a>(pattern: &'a str, segments: &'a [String]) -> Vec<(&'a str, &'a str)> {
    pattern
        .trim_start_matches('/')
        .split('/')
        .zip(segments)
        .filter(|(part, _)| part.starts_with('{'))
        .map(|(part, segment)| (part, segment.as_str()))
        .collect()
}

/// A path that names somebody is permitted to nobody else.
fn holds(permit: &Permit, named: &[(&str, &str)]) {
    let is_device = permit.principal() == Principal::Device;
    for (placeholder, text) in named {
        let holds = match (*placeholder, permit.principal()) {
            (_, Principal::Anyone) => true,
            ("{device}", _) => permit.device().map(DeviceId::as_str) == Some(text),
            ("{serial}", _) => permit.device().map(DeviceId::serial) == Some(text),
            ("{account}", _) => permit.account().map(AccountId::as_str) == Some(text),
            ("{class}", _) => permit.class().map(DeviceClass::as_str) == Some(text),
            (other, _) => panic!("{other} is no placeholder"),
        };
        assert!(holds, "{placeholder} is {text}");
    }
    if is_device {
        assert_eq!(
            permit.device().map(DeviceId::as_str),
            Some("acme:SN1"),
            "a device is itself"
        );
    }
}

fn seeds() -> Vec<Seed> {
    use Reached::{Refused, Taken};
    let rules = "\nd /v1/devices/{device}/readings\nb /v1/devices/{device}/**\nn /healthz";
    [
        ("readings", "/v1/devices/acme:SN1/readings", rules, Taken),
        ("encoded", "/v1/devices/acme%3ASN1/a%20b?x=;", rules, Taken),
        ("another", "/v1/devices/acme:SN2/readings", rules, Refused),
        ("of-account", "/v1/devices/acme:SN2/alarms/", rules, Taken),
        ("anyone", "/healthz", rules, Taken),
        ("no-rule", "/nowhere", rules, Refused),
        (
            "parameters",
            "/v1/devices/acme:SN1/..;/acme:SN2/x",
            rules,
            Refused,
        ),
        ("dots", "/v1/devices/%2e%2e/x", rules, Refused),
        ("slashes", "/v1//devices", rules, Refused),
        ("encoded-slash", "/v1/devices/acme:SN1%2Fx", rules, Refused),
        ("twice", "/v1/devices/acme:SN1%252Fx", rules, Refused),
        ("backslash", "/v1/devices\\acme:SN1", rules, Refused),
        ("absolute", "https://edge.example/healthz", rules, Refused),
        ("root", "/", "\nn /", Taken),
        ("wide", "/%C3%A9/%EF%BC%8F", "\nn /*/*", Taken),
        (
            "placeholders",
            "/cgm/acc-1/SN1",
            "\nd /{class}/{account}/{serial}",
            Taken,
        ),
        (
            "class",
            "/cgm/acc-1/acme:SN1",
            "\nd /{class}/{account}/{device}",
            Taken,
        ),
    ]
    .into_iter()
    .map(|(name, path, rules, reaches)| Seed::new(name, format!("{path}{rules}"), reaches))
    .collect()
}
