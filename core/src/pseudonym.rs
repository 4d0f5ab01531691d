//! How is a device named in a log? By a keyed pseudonym that only the operator can resolve.
//!
//! Device identifiers are identifiers in the sense of 45 CFR 164.514(b)(2)(i)(M): they stay out of
//! edge logs unless the operator asks for them.

use core::fmt;

use base64ct::{Base64UrlUnpadded, Encoding};
use hmac::{Hmac, KeyInit, Mac};
use serde::Deserialize;
use sha2::Sha256;

use crate::identity::DeviceId;

/// The key of the pseudonyms, as the registry hands it to edges and operators.
///
/// On the wire `{"id":"k1","key":"<base64url without padding, 32 octets>"}`. It is a secret: it
/// does not go into the cache, and `Debug` does not show it.
#[derive(Clone)]
pub struct PseudonymKey {
    id: Box<str>,
    key: [u8; 32],
}

/// Octets that are no pseudonym key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a pseudonym key: expected {{\"id\", \"key\"}} with 32 octets as base64url")]
pub struct PseudonymKeyError;

/// A device's pseudonym: the first 16 lower-case hex digits of HMAC-SHA256 (RFC 2104) of its
/// canonical identity.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Pseudonym([u8; 8]);

#[derive(Deserialize)]
struct Wire<'a> {
    #[serde(borrow)]
    id: std::borrow::Cow<'a, str>,
    #[serde(borrow)]
    key: std::borrow::Cow<'a, str>,
}

impl PseudonymKey {
    /// From an id (1 to 64 visible ASCII characters) and the key's octets.
    pub fn new(id: &str, key: [u8; 32]) -> Result<Self, PseudonymKeyError> {
        let fits = (1..=64).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_graphic());
        if fits {
            Ok(Self { id: id.into(), key })
        } else {
            Err(PseudonymKeyError)
        }
    }

    /// Reads the registry's answer. Fields that are not known are ignored.
    pub fn from_json(body: &[u8]) -> Result<Self, PseudonymKeyError> {
        let wire: Wire<'_> = serde_json::from_slice(body).map_err(|_| PseudonymKeyError)?;
        let mut key = [0; 32];
        let decoded = Base64UrlUnpadded::decode(wire.key.as_bytes(), &mut key)
            .map_err(|_| PseudonymKeyError)?;
        if decoded.len() != 32 {
            return Err(PseudonymKeyError);
        }
        Self::new(&wire.id, key)
    }

    /// Writes what [`from_json`](Self::from_json) reads.
    pub fn to_json(&self) -> String {
        serde_json::json!({
            "id": &*self.id,
            "key": Base64UrlUnpadded::encode_string(&self.key),
        })
        .to_string()
    }

    /// The key's id: not secret.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The pseudonym of a device under this key.
    pub fn pseudonym(&self, device: &DeviceId) -> Pseudonym {
        let mut octets = [0; 8];
        // HMAC takes a key of any length (RFC 2104, 2).
        if let Ok(mut mac) = <Hmac<Sha256> as KeyInit>::new_from_slice(&self.key) {
            mac.update(device.as_str().as_bytes());
            for (octet, tag) in octets.iter_mut().zip(mac.finalize().into_bytes()) {
                *octet = tag;
            }
        }
        Pseudonym(octets)
    }
}

impl fmt::Debug for PseudonymKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PseudonymKey({})", self.id)
    }
}

impl fmt::Display for Pseudonym {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|octet| write!(f, "{octet:02x}"))
    }
}

impl fmt::Debug for Pseudonym {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pseudonym({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[test]
    fn a_pseudonym_is_a_keyed_hash_of_the_canonical_identity() {
        // python3 -c 'import hmac; print(hmac.new(bytes(range(32)), b"acme:SN1", "sha256").hexdigest()[:16])'
        let key = PseudonymKey::from_json(
            br#"{"id":"k1","key":"AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8","more":1}"#,
        )
        .unwrap();
        assert_eq!(key.id(), "k1");
        let device = "acme:SN1".parse().unwrap();
        assert_eq!(key.pseudonym(&device).to_string(), "b878b6294a98369f");
        let again = PseudonymKey::from_json(key.to_json().as_bytes()).unwrap();
        assert_eq!(again.pseudonym(&device), key.pseudonym(&device));
        assert_eq!(format!("{key:?}"), "PseudonymKey(k1)");
    }

    #[test]
    fn what_is_no_key_is_an_error() {
        for body in [
            "",
            "{}",
            r#"{"id":"k1","key":""}"#,
            r#"{"id":"k1","key":"AAEC"}"#,
            r#"{"id":"k1","key":"AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="}"#,
            r#"{"id":"k1","key":"AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8A"}"#,
            r#"{"id":"","key":"AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8"}"#,
        ] {
            assert!(PseudonymKey::from_json(body.as_bytes()).is_err(), "{body}");
        }
    }
}
