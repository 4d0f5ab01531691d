//! What a person types: the claim code that is printed on a device, and the claim secret that
//! proves possession.
//!
//! Both are Crockford's base 32 (`0-9 A-Z` without I, L, O and U). What people mistake is
//! forgiven: case, dashes and blanks anywhere, `I` and `L` for `1`, `O` for `0`.

use core::fmt;
use core::str::FromStr;

use sha2::{Digest as _, Sha256};
use subtle::{Choice, ConstantTimeEq};

const ALPHABET: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";
/// What stands before the canonical text of a secret where it is hashed.
const HASH_PREFIX: &[u8] = b"medbind-claim-secret-v1:";
/// The longest text that is looked at, in octets: longer is no code and no secret.
const MAX_TEXT_OCTETS: usize = 256;

/// A claim code has 4 to 32 characters in its canonical form.
pub const CODE_CHARACTERS: core::ops::RangeInclusive<usize> = 4..=32;
/// A claim secret has 8 to 64 characters in its canonical form.
pub const SECRET_CHARACTERS: core::ops::RangeInclusive<usize> = 8..=64;

/// Text that is no claim code or claim secret. The text is not repeated here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TypedError {
    /// Holds a character that is not in Crockford's base 32.
    #[error("letters and digits only, without U")]
    Character,
    /// Too short or too long.
    #[error("a claim code has 4 to 32 characters, a claim secret 8 to 64")]
    Length,
}

/// The canonical form: upper case, no dashes or blanks, look-alikes replaced.
fn canonical(
    text: &str,
    characters: &core::ops::RangeInclusive<usize>,
) -> Result<String, TypedError> {
    if text.len() > MAX_TEXT_OCTETS {
        return Err(TypedError::Length);
    }
    let mut found = String::with_capacity(text.len());
    for character in text.chars() {
        let character = match character.to_ascii_uppercase() {
            '-' | ' ' | '\t' => continue,
            'I' | 'L' => '1',
            'O' => '0',
            other => other,
        };
        let known = u8::try_from(character).is_ok_and(|octet| ALPHABET.contains(&octet));
        if !known {
            return Err(TypedError::Character);
        }
        found.push(character);
    }
    if characters.contains(&found.len()) {
        Ok(found)
    } else {
        Err(TypedError::Length)
    }
}

/// `LENGTH` random characters, 5 bits each.
fn random<const LENGTH: usize>() -> String {
    let octets: [u8; LENGTH] = rand::random();
    octets
        .iter()
        .filter_map(|octet| ALPHABET.get(usize::from(octet % 32)))
        .map(|octet| char::from(*octet))
        .collect()
}

/// In groups of `size`, joined by dashes.
fn grouped(text: &str, size: usize) -> String {
    let mut grouped = String::with_capacity(text.len() * 2);
    for (index, character) in text.chars().enumerate() {
        if index > 0 && index % size == 0 {
            grouped.push('-');
        }
        grouped.push(character);
    }
    grouped
}

/// A claim code: public, printed on the device, names it without telling its serial.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ClaimCode(String);

impl ClaimCode {
    /// Ten random characters (50 bits).
    pub fn generate() -> Self {
        Self(random::<10>())
    }

    /// The canonical form, as it is stored and compared.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// As it is printed: in groups of five.
    pub fn printed(&self) -> String {
        grouped(&self.0, 5)
    }
}

impl FromStr for ClaimCode {
    type Err = TypedError;

    fn from_str(text: &str) -> Result<Self, TypedError> {
        canonical(text, &CODE_CHARACTERS).map(Self)
    }
}

impl fmt::Display for ClaimCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A claim secret. `Debug` does not show it, and there is no `Display`.
#[derive(Clone)]
pub struct ClaimSecret(String);

impl ClaimSecret {
    /// Twenty random characters (100 bits).
    pub fn generate() -> Self {
        Self(random::<20>())
    }

    /// As it is shown once to whoever hands it over: in groups of four.
    pub fn expose_printed(&self) -> String {
        grouped(&self.0, 4)
    }

    /// What the registry keeps instead.
    pub fn hash(&self) -> SecretHash {
        let mut hasher = Sha256::new();
        hasher.update(HASH_PREFIX);
        hasher.update(self.0.as_bytes());
        SecretHash(hasher.finalize().into())
    }
}

impl FromStr for ClaimSecret {
    type Err = TypedError;

    fn from_str(text: &str) -> Result<Self, TypedError> {
        canonical(text, &SECRET_CHARACTERS).map(Self)
    }
}

impl fmt::Debug for ClaimSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClaimSecret(..)")
    }
}

/// SHA-256 of `medbind-claim-secret-v1:` and the secret's canonical form. Secrets are random and
/// long, so that a slow hash would add nothing.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct SecretHash([u8; 32]);

impl SecretHash {
    /// From 32 octets.
    pub const fn from_octets(octets: [u8; 32]) -> Self {
        Self(octets)
    }

    /// The 32 octets.
    pub const fn octets(&self) -> &[u8; 32] {
        &self.0
    }

    /// Compares in constant time.
    pub fn matches(&self, other: &Self) -> Choice {
        self.0.ct_eq(&other.0)
    }
}

/// Text that is no hash of a claim secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "a secret_hash is 64 lower-case hex digits: SHA-256 of 'medbind-claim-secret-v1:' and the secret without dashes, in upper case"
)]
pub struct SecretHashError;

impl FromStr for SecretHash {
    type Err = SecretHashError;

    fn from_str(text: &str) -> Result<Self, SecretHashError> {
        // The same form as a pin: 64 lower-case hex digits.
        let pin: medbind_core::binding::Pin = text.parse().map_err(|_| SecretHashError)?;
        Ok(Self(pin.0))
    }
}

impl fmt::Display for SecretHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|octet| write!(f, "{octet:02x}"))
    }
}

impl fmt::Debug for SecretHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretHash(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_people_mistake_is_forgiven() {
        for text in [
            "0123-4ABC",
            "o1 23 4abc",
            "OL23-4AbC",
            "0i234aBc-",
            "\t0123 4ABC",
        ] {
            assert_eq!(
                text.parse::<ClaimCode>().unwrap().as_str(),
                "01234ABC",
                "{text:?}"
            );
        }
        for (text, error) in [
            ("", TypedError::Length),
            ("ABC", TypedError::Length),
            ("ABCU", TypedError::Character),
            ("ABC\u{2014}D", TypedError::Character),
            ("ABCD\n", TypedError::Character),
        ] {
            assert_eq!(text.parse::<ClaimCode>(), Err(error), "{text:?}");
        }
        assert_eq!("A".repeat(33).parse::<ClaimCode>(), Err(TypedError::Length));
        assert_eq!(
            "A".repeat(10 << 10).parse::<ClaimCode>(),
            Err(TypedError::Length)
        );
    }

    #[test]
    fn a_secrets_hash_is_of_its_canonical_form() {
        let hash = "abcd-efgh".parse::<ClaimSecret>().unwrap().hash();
        assert_eq!(
            hash.to_string(),
            "8f3d097eeb01f7826bb37b33e83005eb37d32a94daa4004658cbf7c26985135a"
        );
        assert_eq!(hash.to_string().parse::<SecretHash>(), Ok(hash));
        assert!(
            hash.to_string()
                .to_uppercase()
                .parse::<SecretHash>()
                .is_err()
        );
    }

    #[test]
    fn a_generated_pair_can_be_typed_back() {
        let (code, secret) = (ClaimCode::generate(), ClaimSecret::generate());
        assert_eq!(
            code.printed().to_lowercase().parse::<ClaimCode>().unwrap(),
            code
        );
        let typed: ClaimSecret = secret.expose_printed().parse().unwrap();
        assert_eq!(typed.hash(), secret.hash());
        assert_ne!(ClaimSecret::generate().hash(), secret.hash());
    }

    #[test]
    fn a_secret_is_not_shown() {
        let secret: ClaimSecret = "ABCD-EFGH".parse().unwrap();
        assert_eq!(
            format!("{secret:?} {:?}", secret.hash()),
            "ClaimSecret(..) SecretHash(..)"
        );
    }
}
