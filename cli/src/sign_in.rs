//! Can Envoy verify people's tokens? An Envoy that finds no key for them does not start.

use serde_json::Value;

use crate::check::Finding;
use crate::held::{self, Problem};
use crate::locate::Node;
use crate::output::put;

const NO_START: &str = "Envoy does not start";
const FETCH: &str = "fetch the sign-in's key set (RFC 7517), from the `jwks_uri` of its \
                     `/.well-known/openid-configuration`";

/// What each kind of key needs at least (RFC 7518, 6; RFC 8037, 2).
const NEEDED: [(&str, &[&str]); 4] = [
    ("RSA", &["n", "e"]),
    ("EC", &["crv", "x", "y"]),
    ("OKP", &["crv", "x"]),
    ("oct", &["k"]),
];

/// What is wrong with this key set, and where it is from.
pub fn judge(text: &str, from: &str) -> Result<(), Problem> {
    let wrong = |why: &str| Problem::error(format!("{from}: {why}; {NO_START}"), FETCH);
    let set: Value = serde_json::from_str(text).map_err(|_| wrong("this is no JSON"))?;
    let keys = set["keys"]
        .as_array()
        .ok_or_else(|| wrong("this is no key set: it has no list `keys`"))?;
    let is_text = |key: &Value, name: &str| key[name].as_str().is_some_and(|text| !text.is_empty());
    let is_key = |key: &Value| {
        let mut kinds = NEEDED.iter();
        let kind = kinds.find(|(kind, _)| key["kty"] == *kind);
        kind.is_some_and(|(_, needed)| needed.iter().all(|name| is_text(key, name)))
    };
    if keys.iter().any(is_key) {
        Ok(())
    } else {
        Err(wrong(&format!(
            "no key in it can verify a token ({} in `keys`)",
            keys.len()
        )))
    }
}

/// Looks at the key set that this map names, as far as it is on this machine.
pub fn examine(provider: &Node, field: &str) -> Vec<Finding> {
    let Some(source) = provider.get("local_jwks") else {
        return Vec::new();
    };
    let mut field = field.to_owned();
    put!(field, ".local_jwks");
    let mut findings = Vec::new();
    if let Some(path) = source.get("filename") {
        let (file, about) = held::file(path, &field);
        findings.extend(about);
        if file.is_none() {
            return findings;
        }
    }
    let judged = match held::content(Some(source), NO_START, FETCH) {
        Ok(Some((text, from))) => judge(&text, &from),
        Ok(None) => Ok(()),
        Err(problem) => Err(problem),
    };
    findings.extend(judged.err().map(|problem| problem.found(source, &field)));
    findings
}
