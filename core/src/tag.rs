//! How do we say yes? The headers that a permitted request carries, and those that no client may
//! send.

use std::borrow::Cow;

use crate::decision::Permit;

/// What every tag header begins with.
pub const PREFIX: &str = "x-medbind-";
/// Which kind of principal was permitted: `device`, `account` or `anyone`.
pub const PRINCIPAL: &str = "x-medbind-principal";
/// The device's canonical identity.
pub const DEVICE: &str = "x-medbind-device";
/// Which ownership of the device this is, from 1.
pub const EPOCH: &str = "x-medbind-epoch";
/// The account.
pub const ACCOUNT: &str = "x-medbind-account";
/// The device's class.
pub const CLASS: &str = "x-medbind-class";
/// Seconds since the registry was last heard, where a rule lets that be more than the general
/// bound.
pub const BINDINGS_AGE: &str = "x-medbind-bindings-age";

/// What a rule's tag may not be called: the headers above, and `assertion`, which is kept for a
/// signed statement of the same.
pub const RESERVED_TAGS: [&str; 7] = [
    "principal",
    "device",
    "epoch",
    "account",
    "class",
    "bindings-age",
    "assertion",
];

/// The most tags of one rule.
pub const MAX_TAGS: usize = 16;
/// The longest name of a rule's tag, in octets.
pub const MAX_TAG_NAME_OCTETS: usize = 32;
/// The longest value of a rule's tag, in octets.
pub const MAX_TAG_VALUE_OCTETS: usize = 128;

/// What every name begins with that is medbind's own: this, or this and a hyphen.
const OWN: &str = "x-medbind";

/// Headers by which a client asks an upstream to take another path or method for the real one: what
/// was decided about. No request carries them past the guard.
const OVERRIDES: [&str; 12] = [
    "x-original-url",
    "x-original-uri",
    "x-original-path",
    "x-original-method",
    "x-rewrite-url",
    "x-forwarded-uri",
    "x-forwarded-path",
    "x-forwarded-method",
    "x-envoy-original-path",
    "x-http-method-override",
    "x-http-method",
    "x-method-override",
];

/// What headers begin with in which a client claims a certificate of its own: `client-cert` and
/// `client-cert-chain` (RFC 9440), and what proxies call them that hand on a certificate or parts of
/// it. No request carries them past the guard. `x-forwarded-client-cert` is none of them: it is
/// evidence where Envoy has set it.
const CERTIFICATES: [&str; 10] = [
    "client-cert",
    "ssl-client-",
    "x-client-cert",
    "x-ssl-client-",
    "x-ssl-cert",
    "x-tls-client-",
    "x-forwarded-tls-client-cert",
    "x-forwarded-ssl-client-",
    "x-amzn-mtls-clientcert",
    "x-arr-clientcert",
];

/// The tags that a rule sets: header name and value, ready to send.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tags(Vec<(Box<str>, Box<str>)>);

/// Why a rule's tag is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TagError {
    /// Not 1 to 32 of `a-z 0-9 -`, first a letter.
    #[error("a tag's name is 1 to 32 of a-z, 0-9 and '-', and begins with a letter")]
    Name,
    /// A name that medbind sets itself.
    #[error("medbind sets this tag itself")]
    Reserved,
    /// Not a header value that arrives as it was sent.
    #[error("a tag's value is 1 to 128 printable ASCII characters, the first and last no blank")]
    Value,
}

/// Checks the name of a rule's tag.
pub fn check_tag_name(name: &str) -> Result<(), TagError> {
    let fits = name.len() <= MAX_TAG_NAME_OCTETS
        && name.bytes().next().is_some_and(|b| b.is_ascii_lowercase())
        && name
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    if !fits {
        return Err(TagError::Name);
    }
    if RESERVED_TAGS.contains(&name) {
        return Err(TagError::Reserved);
    }
    Ok(())
}

/// Checks the value of a rule's tag (RFC 9110, 5.5: nothing that a hop would trim).
pub fn check_tag_value(value: &str) -> Result<(), TagError> {
    let fits = !value.is_empty()
        && value.len() <= MAX_TAG_VALUE_OCTETS
        && value.bytes().all(|b| b == b' ' || b.is_ascii_graphic())
        && value.trim_ascii().len() == value.len();
    if fits { Ok(()) } else { Err(TagError::Value) }
}

impl Tags {
    pub(crate) const NONE: Self = Self(Vec::new());

    /// From names (without the prefix) and values that have been checked.
    pub(crate) fn new<'t>(tags: impl IntoIterator<Item = (&'t str, &'t str)>) -> Self {
        Self(
            tags.into_iter()
                .map(|(name, value)| (format!("{PREFIX}{name}").into(), value.into()))
                .collect(),
        )
    }

    /// Header names (with the prefix) and values.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (&**name, &**value))
    }
}

/// The headers that a permitted request carries: each name once, in lower case.
///
/// A name that is absent here must be absent from the request too.
pub fn tag_headers(permit: &Permit) -> impl Iterator<Item = (&str, Cow<'_, str>)> {
    let number = |n: u64| Cow::Owned(n.to_string());
    let own = [
        Some((PRINCIPAL, Cow::Borrowed(permit.principal().as_str()))),
        permit
            .device()
            .map(|device| (DEVICE, device.as_str().into())),
        permit
            .epoch()
            .map(|epoch| (EPOCH, number(u64::from(epoch.get())))),
        permit
            .account()
            .map(|account| (ACCOUNT, account.as_str().into())),
        permit.class().map(|class| (CLASS, class.as_str().into())),
        permit
            .stale_age()
            .map(|age| (BINDINGS_AGE, number(age.as_secs()))),
    ];
    own.into_iter().flatten().chain(
        permit
            .tags()
            .iter()
            .map(|(name, value)| (name, Cow::Borrowed(value))),
    )
}

/// Whether a client may not send this header or trailer, in this or any spelling that an upstream
/// may take for it.
///
/// CGI and its heirs (RFC 3875, 4.1.18) turn `-` into `_` and letters into upper case; some turn
/// every octet that is no letter or digit into `_`. So names are compared with letters in lower
/// case and every other octet but digits as `-`.
pub fn is_reserved_header(name: &[u8]) -> bool {
    // Every request asks this of every header: most names end here.
    if !matches!(name.first(), Some(b'x' | b'X' | b'c' | b'C' | b's' | b'S')) {
        return false;
    }
    let is_own = || {
        has_prefix(name, OWN)
            && name
                .get(OWN.len())
                .is_none_or(|octet| folded(*octet) == b'-')
    };
    is_own()
        || OVERRIDES.iter().any(|reserved| is_spelling(name, reserved))
        || CERTIFICATES
            .iter()
            .any(|beginning| has_prefix(name, beginning))
}

/// Whether this header is `x-forwarded-client-cert`, in any spelling that an upstream may take for
/// it.
pub fn is_forwarded_certificate_header(name: &[u8]) -> bool {
    is_spelling(name, "x-forwarded-client-cert")
}

const fn folded(octet: u8) -> u8 {
    if octet.is_ascii_alphanumeric() {
        octet.to_ascii_lowercase()
    } else {
        b'-'
    }
}

fn has_prefix(name: &[u8], prefix: &str) -> bool {
    name.len() >= prefix.len()
        && name
            .iter()
            .zip(prefix.bytes())
            .all(|(octet, expected)| folded(*octet) == expected)
}

fn is_spelling(name: &[u8], of: &str) -> bool {
    name.len() == of.len() && has_prefix(name, of)
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[test]
    fn a_client_may_send_no_tag_in_any_spelling() {
        for name in [
            "x-medbind-account",
            "X-Medbind-Account",
            "x_medbind_account",
            "X_MEDBIND-device",
            "x.medbind.account",
            "x-medbind-",
            "x-medbind-whatever",
            "x-medbind",
            "X_Medbind",
            "x-original-url",
            "X_Rewrite_URL",
            "x-http-method-override",
            "x-http-method",
            "X-Method_Override",
            "client-cert",
            "Client-Cert-Chain",
            "x-original-uri",
            "X-Forwarded_Path",
            "ssl-client-verify",
            "SSL_CLIENT_S_DN",
            "X-SSL-Client-CN",
            "x-client-cert",
            "X-Client-Certificate",
            "x-forwarded-tls-client-cert-info",
            "X-Amzn-Mtls-Clientcert-Serial-Number",
            "x-arr-clientcert",
        ] {
            assert!(is_reserved_header(name.as_bytes()), "{name}");
        }
        for name in [
            "",
            "x",
            "x-medbin",
            "x-medbin-d",
            "medbind",
            "x-medbinding",
            "x-request-id",
            "accept",
            "content-type",
            "x-original",
            "x-original-url-2",
            "x-forwarded-for",
            "x-forwarded-proto",
            "x-forwarded-client-cert",
            "x-forwarded-client-certificate",
            "x-client-id",
            "x-ssl",
        ] {
            assert!(!is_reserved_header(name.as_bytes()), "{name}");
        }
        assert!(is_forwarded_certificate_header(b"X-Forwarded_client-cert"));
        assert!(!is_forwarded_certificate_header(b"x-forwarded-for"));
    }

    #[test]
    fn what_is_listed_is_taken_away_and_a_certificate_of_envoy_s_is_not() {
        let listed = OVERRIDES.iter().chain(&CERTIFICATES).chain([&OWN, &PREFIX]);
        for name in listed {
            assert!(is_reserved_header(name.as_bytes()), "{name}");
            let upper = name.to_ascii_uppercase();
            assert!(is_reserved_header(upper.as_bytes()), "{upper}");
        }
        assert!(!is_reserved_header(b"x-forwarded-client-cert"));
    }

    #[test]
    fn a_rule_cannot_set_what_medbind_sets() {
        for name in RESERVED_TAGS {
            assert_eq!(check_tag_name(name), Err(TagError::Reserved), "{name}");
        }
        for header in [PRINCIPAL, DEVICE, EPOCH, ACCOUNT, CLASS, BINDINGS_AGE] {
            let name = header.strip_prefix(PREFIX).unwrap();
            assert!(RESERVED_TAGS.contains(&name), "{name}");
        }
        for name in ["", "Traffic", "a_b", "1a", "-a", "é", &"a".repeat(33)] {
            assert_eq!(check_tag_name(name), Err(TagError::Name), "{name}");
        }
        assert_eq!(check_tag_name("traffic"), Ok(()));
        for value in ["", " a", "a ", "a\n", "é", &"a".repeat(129)] {
            assert_eq!(check_tag_value(value), Err(TagError::Value), "{value}");
        }
        assert_eq!(check_tag_value("phi; level=2"), Ok(()));
    }
}
