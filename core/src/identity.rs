//! Who is this? The device identity, and its one canonical text.

use core::fmt;
use core::str::FromStr;

use crate::text::{debug_as_text, serde_as_text};

/// The longest serial, in octets as the certificate holds them.
pub const MAX_SERIAL_OCTETS: usize = 64;
/// The longest namespace, in octets.
pub const MAX_NAMESPACE_OCTETS: usize = 32;
/// The longest canonical text of a device identity: every octet of the serial escaped.
pub const MAX_DEVICE_ID_OCTETS: usize = MAX_NAMESPACE_OCTETS + 1 + 3 * MAX_SERIAL_OCTETS;

/// A device's identity: `namespace:serial`.
///
/// The namespace names the issuer and comes from configuration (1 to 32 of `a-z 0-9 - _`, first a
/// letter or digit). The serial comes from the certificate: 1 to 64 octets. In the canonical text
/// letters, digits and `-._~` stand as they are and every other octet is `=` and two upper-case
/// hex digits (`a/b` is `a=2Fb`); a serial that is `.` or `..` has its dots escaped too. So the
/// text is safe as one URL path segment (RFC 3986, 3.3), one MQTT topic level (MQTT 5.0, 4.7) and
/// one header value (RFC 9110, 5.5), and two identities are equal exactly where their texts are.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeviceId {
    text: Box<str>,
    namespace_length: u8,
}

/// What cannot be a device identity, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DeviceIdError {
    /// No `:` between namespace and serial.
    #[error("a device identity is namespace:serial; the colon is missing")]
    NoNamespace,
    /// The namespace is empty, too long, or holds what it may not.
    #[error("a namespace is 1 to 32 of a-z, 0-9, '-' and '_', and begins with a letter or digit")]
    Namespace,
    /// The serial has no octets.
    #[error("the serial is empty")]
    EmptySerial,
    /// The serial has more than 64 octets.
    #[error("the serial is longer than 64 octets")]
    LongSerial,
    /// The text is not the canonical one.
    #[error(
        "the serial is not in canonical form: letters, digits and -._~ as they are, every other octet as '=' and two upper-case hex digits"
    )]
    NotCanonical,
}

/// Whether `octet` stands as it is in the canonical text.
const fn is_plain(octet: u8) -> bool {
    octet.is_ascii_alphanumeric() || matches!(octet, b'-' | b'.' | b'_' | b'~')
}

/// Checks a namespace: 1 to 32 of `a-z 0-9 - _`, the first a letter or digit.
pub fn check_namespace(namespace: &str) -> Result<(), DeviceIdError> {
    let first = namespace.bytes().next().ok_or(DeviceIdError::Namespace)?;
    let fits = namespace.len() <= MAX_NAMESPACE_OCTETS
        && (first.is_ascii_lowercase() || first.is_ascii_digit())
        && namespace
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_'));
    if fits {
        Ok(())
    } else {
        Err(DeviceIdError::Namespace)
    }
}

impl DeviceId {
    /// From a namespace and the serial's octets as the certificate holds them: nothing is trimmed,
    /// case-folded or decoded.
    pub fn new(namespace: &str, serial: &[u8]) -> Result<Self, DeviceIdError> {
        check_namespace(namespace)?;
        if serial.is_empty() {
            return Err(DeviceIdError::EmptySerial);
        }
        if serial.len() > MAX_SERIAL_OCTETS {
            return Err(DeviceIdError::LongSerial);
        }
        let only_dots = matches!(serial, b"." | b"..");
        let mut text = String::with_capacity(
            namespace
                .len()
                .saturating_add(1)
                .saturating_add(serial.len()),
        );
        text.push_str(namespace);
        text.push(':');
        for &octet in serial {
            if is_plain(octet) && !only_dots {
                text.push(char::from(octet));
            } else {
                text.push('=');
                text.push_str(&base16ct::upper::encode_string(&[octet]));
            }
        }
        Self::from_parts(text, namespace.len())
    }

    fn from_parts(text: String, namespace_length: usize) -> Result<Self, DeviceIdError> {
        let namespace_length =
            u8::try_from(namespace_length).map_err(|_| DeviceIdError::Namespace)?;
        Ok(Self {
            text: text.into_boxed_str(),
            namespace_length,
        })
    }

    /// The canonical text, `namespace:serial`.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The issuer's name in the configuration.
    pub fn namespace(&self) -> &str {
        self.text
            .get(..usize::from(self.namespace_length))
            .unwrap_or_default()
    }

    /// The canonical text of the serial alone.
    pub fn serial(&self) -> &str {
        let start = usize::from(self.namespace_length).saturating_add(1);
        self.text.get(start..).unwrap_or_default()
    }
}

impl FromStr for DeviceId {
    type Err = DeviceIdError;

    /// Reads the canonical text; every other spelling is an error.
    fn from_str(text: &str) -> Result<Self, DeviceIdError> {
        let (namespace, canonical) = text.split_once(':').ok_or(DeviceIdError::NoNamespace)?;
        if canonical.len() > 3 * MAX_SERIAL_OCTETS {
            return Err(DeviceIdError::LongSerial);
        }
        let mut serial = Vec::with_capacity(canonical.len());
        let mut rest = canonical.as_bytes();
        while let Some((&octet, tail)) = rest.split_first() {
            if octet == b'=' {
                let (digits, tail) = tail
                    .split_at_checked(2)
                    .ok_or(DeviceIdError::NotCanonical)?;
                let mut escaped = [0];
                base16ct::upper::decode(digits, &mut escaped)
                    .map_err(|_| DeviceIdError::NotCanonical)?;
                serial.extend_from_slice(&escaped);
                rest = tail;
            } else {
                serial.push(octet);
                rest = tail;
            }
        }
        let id = Self::new(namespace, &serial)?;
        if id.as_str() == text {
            Ok(id)
        } else {
            Err(DeviceIdError::NotCanonical)
        }
    }
}

impl fmt::Display for DeviceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

debug_as_text!(DeviceId);
serde_as_text!(DeviceId);

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[test]
    fn the_canonical_text_escapes_what_is_not_plain() {
        for (serial, text) in [
            (b"SN1".as_slice(), "acme:SN1"),
            (b"a/b", "acme:a=2Fb"),
            (b".", "acme:=2E"),
            (b"..", "acme:=2E=2E"),
            (b"...", "acme:..."),
            (b"a=b", "acme:a=3Db"),
            (b" x ", "acme:=20x=20"),
            (b"\xff\x00", "acme:=FF=00"),
            (b"%2F", "acme:=252F"),
            (b"a:b", "acme:a=3Ab"),
        ] {
            let id = DeviceId::new("acme", serial).unwrap();
            assert_eq!(id.as_str(), text);
            assert_eq!(text.parse::<DeviceId>().unwrap(), id);
            assert_eq!(id.namespace(), "acme");
            assert_eq!(Some(id.serial()), text.strip_prefix("acme:"));
        }
    }

    #[test]
    fn other_spellings_are_no_identity() {
        for (text, error) in [
            ("SN1", DeviceIdError::NoNamespace),
            (":SN1", DeviceIdError::Namespace),
            ("Acme:SN1", DeviceIdError::Namespace),
            ("-acme:SN1", DeviceIdError::Namespace),
            ("acme:", DeviceIdError::EmptySerial),
            ("acme:a/b", DeviceIdError::NotCanonical),
            ("acme:a=2fb", DeviceIdError::NotCanonical),
            ("acme:=41", DeviceIdError::NotCanonical),
            ("acme:a=2", DeviceIdError::NotCanonical),
            ("acme:..", DeviceIdError::NotCanonical),
            ("acme:a:b", DeviceIdError::NotCanonical),
        ] {
            assert_eq!(text.parse::<DeviceId>(), Err(error), "{text}");
        }
        assert_eq!(
            DeviceId::new("acme", &[b'x'; 65]),
            Err(DeviceIdError::LongSerial)
        );
        assert!(DeviceId::new("acme", &[b'x'; 64]).is_ok());
        assert!(DeviceId::new(&"n".repeat(33), b"x").is_err());
    }

    #[test]
    fn a_namespace_holds_lower_case_letters_digits_and_two_signs() {
        for namespace in ["a", "0", "a-b", "a_b", "a1", "0-_"] {
            assert_eq!(check_namespace(namespace), Ok(()), "{namespace}");
        }
        for namespace in ["", "-a", "_a", "A", "aB", "a.b", "a:b", "a b", "é"] {
            let refusal = Err(DeviceIdError::Namespace);
            assert_eq!(check_namespace(namespace), refusal, "{namespace}");
        }
    }

    #[test]
    fn the_longest_identity_is_read_as_it_is_written() {
        let id = DeviceId::new(&"n".repeat(32), &[0; 64]).unwrap();
        assert_eq!(id.as_str().len(), MAX_DEVICE_ID_OCTETS);
        assert_eq!(id.as_str().parse(), Ok(id.clone()));
        assert_eq!(
            format!("{id}=00").parse::<DeviceId>(),
            Err(DeviceIdError::LongSerial)
        );
    }
}
