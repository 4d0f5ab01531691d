//! How does a person name a device, and prove that it is in their hands? Claim code and claim
//! secret, as printed on a label and typed by people.
//!
//! Both are Crockford base 32 (`0-9 A-Z` without `I L O U`). Typed text is read kindly: small
//! letters count as capitals, `I` and `L` as `1`, `O` as `0`; blanks and `-` are passed over.

use core::fmt;
use core::str::FromStr;

use sha2::{Digest, Sha256};

use crate::text::{debug_as_text, serde_as_text, sha256_as_text};

/// The 32 symbols by value, then the five that only a check symbol may be.
const SYMBOLS: &[u8; 37] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ*~$=U";
/// What the hash of a claim secret begins with, so that it is of use nowhere else.
const HASH_CONTEXT: &[u8] = b"medbind-claim-secret-v1:";

/// The symbols of a claim code, without its check symbol: 60 bits.
pub const CODE_SYMBOLS: usize = 12;
/// The symbols of a claim secret: 100 bits.
pub const SECRET_SYMBOLS: usize = 20;
/// Longer text is not looked at.
const MAX_TYPED_OCTETS: usize = 64;

/// What was typed and is no claim code or claim secret. It never holds what was typed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClaimTextError {
    /// A character that is none of the symbols.
    #[error("it holds a character that is not used: expected 0-9 and A-Z without U")]
    Symbol,
    /// Too few or too many symbols for a claim code.
    #[error("a claim code has 13 characters, such as K7Q2-9F3M-X4TB-Z")]
    CodeLength,
    /// The check symbol does not fit: a typing error.
    #[error("the last character does not fit the others: one of them is mistyped")]
    Check,
    /// Too few or too many symbols for a claim secret.
    #[error("a claim secret has 20 characters, in five groups of four")]
    SecretLength,
}

/// The value of a symbol, 0 to 36, as kindly as the module says.
fn value(symbol: char) -> Option<u8> {
    let symbol = match symbol.to_ascii_uppercase() {
        'O' => '0',
        'I' | 'L' => '1',
        other => other,
    };
    let symbol = u8::try_from(symbol).ok()?;
    let index = SYMBOLS.iter().position(|known| *known == symbol)?;
    u8::try_from(index).ok()
}

/// The symbol of a value, 0 to 36; what lies beyond has none.
fn symbol(value: u8) -> char {
    SYMBOLS
        .get(usize::from(value))
        .map_or('?', |symbol| char::from(*symbol))
}

/// The values of what was typed, separators left out.
fn values(typed: &str) -> Result<Vec<u8>, ClaimTextError> {
    if typed.len() > MAX_TYPED_OCTETS {
        return Err(ClaimTextError::Symbol);
    }
    typed
        .chars()
        .filter(|c| !matches!(c, '-' | ' ' | '\t' | '\r' | '\n'))
        .map(|c| value(c).ok_or(ClaimTextError::Symbol))
        .collect()
}

/// The value of the number that the symbols spell, modulo 37.
fn check(values: &[u8]) -> u8 {
    let rest = values.iter().fold(0u16, |rest, value| {
        rest.wrapping_mul(32)
            .wrapping_add(u16::from(*value))
            .checked_rem(37)
            .unwrap_or_default()
    });
    u8::try_from(rest).unwrap_or_default()
}

/// The symbols in groups of four with `-` between.
fn grouped(f: &mut fmt::Formatter<'_>, canonical: &str) -> fmt::Result {
    for (index, symbol) in canonical.chars().enumerate() {
        if index > 0 && index.is_multiple_of(4) {
            f.write_str("-")?;
        }
        fmt::Write::write_char(f, symbol)?;
    }
    Ok(())
}

/// The claim code: public, printed on the device, one for each device. 12 symbols and Crockford's
/// check symbol (the number modulo 37), which finds one wrong symbol and two that changed places.
///
/// `Display` and JSON show it in groups (`K7Q2-9F3M-X4TB-Z`).
///
/// ```
/// use medbind_core::claim::ClaimCode;
///
/// let code = ClaimCode::from_entropy([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
/// assert_eq!(code.to_string(), "0000-0000-0001-1");
/// assert_eq!("ooooooooOOOlI".parse(), Ok(code));
/// ```
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClaimCode(Box<str>);

impl ClaimCode {
    /// From octets of a cryptographic random generator; the low five bits of each are used.
    pub fn from_entropy(entropy: [u8; CODE_SYMBOLS]) -> Self {
        Self::from_values(entropy.map(|octet| octet & 0x1F).as_slice())
    }

    fn from_values(values: &[u8]) -> Self {
        let last = symbol(check(values));
        Self(values.iter().map(|v| symbol(*v)).chain([last]).collect())
    }

    /// The canonical form: 13 symbols without separators. This is what a registry keeps.
    pub fn canonical(&self) -> &str {
        &self.0
    }

    /// Whether the check symbol is one of the 32 that the rest is made of, not one of `* ~ $ = U`,
    /// which are harder to read aloud and to type.
    pub fn is_plain(&self) -> bool {
        self.0
            .bytes()
            .last()
            .is_some_and(|last| last.is_ascii_alphanumeric() && last != b'U')
    }
}

impl FromStr for ClaimCode {
    type Err = ClaimTextError;

    fn from_str(typed: &str) -> Result<Self, ClaimTextError> {
        let values = values(typed)?;
        let Some((last, rest)) = values.split_last() else {
            return Err(ClaimTextError::CodeLength);
        };
        if rest.len() != CODE_SYMBOLS {
            return Err(ClaimTextError::CodeLength);
        }
        if rest.iter().any(|value| *value > 31) {
            return Err(ClaimTextError::Symbol);
        }
        if *last != check(rest) {
            return Err(ClaimTextError::Check);
        }
        Ok(Self::from_values(rest))
    }
}

impl fmt::Display for ClaimCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        grouped(f, &self.0)
    }
}

debug_as_text!(ClaimCode);
serde_as_text!(ClaimCode);

/// The claim secret: proves possession, used once. 20 symbols, 100 bits.
///
/// `Debug` says nothing, and there is no `Display`: who shows it calls
/// [`reveal`](Self::reveal).
#[derive(Clone, PartialEq, Eq)]
pub struct ClaimSecret(Box<str>);

impl ClaimSecret {
    /// From octets of a cryptographic random generator; the low five bits of each are used.
    pub fn from_entropy(entropy: [u8; SECRET_SYMBOLS]) -> Self {
        Self(entropy.iter().map(|octet| symbol(octet & 0x1F)).collect())
    }

    /// The canonical form, 20 symbols without separators: a secret.
    pub fn canonical(&self) -> &str {
        &self.0
    }

    /// The secret in five groups of four, for the one time that it is shown.
    pub fn reveal(&self) -> impl fmt::Display + '_ {
        Revealed(&self.0)
    }

    /// What a registry keeps: SHA-256 of `medbind-claim-secret-v1:` and the canonical form. With
    /// 100 random bits there is nothing to guess, so it needs neither salt nor slowness.
    pub fn hash(&self) -> ClaimSecretHash {
        let digest = Sha256::new()
            .chain_update(HASH_CONTEXT)
            .chain_update(self.0.as_bytes())
            .finalize();
        ClaimSecretHash(digest.into())
    }
}

struct Revealed<'a>(&'a str);

impl fmt::Display for Revealed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        grouped(f, self.0)
    }
}

impl FromStr for ClaimSecret {
    type Err = ClaimTextError;

    fn from_str(typed: &str) -> Result<Self, ClaimTextError> {
        let values = values(typed)?;
        if values.len() != SECRET_SYMBOLS {
            return Err(ClaimTextError::SecretLength);
        }
        if values.iter().any(|value| *value > 31) {
            return Err(ClaimTextError::Symbol);
        }
        Ok(Self(values.iter().map(|v| symbol(*v)).collect()))
    }
}

impl fmt::Debug for ClaimSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClaimSecret(..)")
    }
}

/// SHA-256 of a claim secret (see [`ClaimSecret::hash`]): 64 lower-case hex digits on the wire.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct ClaimSecretHash(pub [u8; 32]);

/// Text that is no hash of a claim secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a secret_hash is 64 lower-case hex digits")]
pub struct ClaimSecretHashError;

sha256_as_text!(ClaimSecretHash, ClaimSecretHashError, ClaimSecretHashError);
serde_as_text!(ClaimSecretHash);

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[test]
    fn a_code_is_read_however_kindly_it_was_typed() {
        let code = ClaimCode::from_entropy([0, 1, 31, 10, 17, 20, 21, 22, 26, 27, 28, 29]);
        let shown = code.to_string();
        assert_eq!(shown.len(), 16);
        for typed in [
            shown.clone(),
            shown.to_lowercase(),
            shown.replace('-', " "),
            shown.replace('-', ""),
            shown.replace('0', "o").replace('1', "l"),
            shown.replace('0', "O").replace('1', "i"),
            format!(" {shown}\r\n"),
        ] {
            assert_eq!(typed.parse::<ClaimCode>().as_ref(), Ok(&code), "{typed:?}");
        }
        assert_eq!(code.canonical(), shown.replace('-', ""));
    }

    #[test]
    fn every_single_mistyped_symbol_and_every_swap_of_neighbours_is_found() {
        let code = ClaimCode::from_entropy([7, 30, 2, 0, 9, 15, 3, 21, 29, 4, 26, 11]);
        let symbols: Vec<char> = code.canonical().chars().collect();
        for at in 0..symbols.len() {
            for other in SYMBOLS.iter().map(|s| char::from(*s)) {
                let mut wrong = symbols.clone();
                wrong[at] = other;
                let read = wrong.iter().collect::<String>().parse::<ClaimCode>();
                assert_eq!(read.is_ok(), wrong == symbols, "{at} {other}");
            }
        }
        for at in 1..symbols.len() {
            let mut wrong = symbols.clone();
            wrong.swap(at - 1, at);
            assert!(
                wrong
                    .iter()
                    .collect::<String>()
                    .parse::<ClaimCode>()
                    .is_err()
            );
        }
    }

    #[test]
    fn what_is_no_code_or_secret_is_refused_with_its_reason() {
        for (typed, error) in [
            ("", ClaimTextError::CodeLength),
            ("0000-0000-0001", ClaimTextError::CodeLength),
            ("0000-0000-0001-11", ClaimTextError::CodeLength),
            ("0000-0000-0001-2", ClaimTextError::Check),
            ("0000-0000-000U-1", ClaimTextError::Symbol),
            ("0000-0000-000é-1", ClaimTextError::Symbol),
            ("0000.0000.0001.1", ClaimTextError::Symbol),
        ] {
            assert_eq!(typed.parse::<ClaimCode>(), Err(error), "{typed}");
        }
        for (typed, error) in [
            ("ABCD", ClaimTextError::SecretLength),
            ("ABCDEFGHJKMNPQRSTVW*", ClaimTextError::Symbol),
        ] {
            assert_eq!(typed.parse::<ClaimSecret>(), Err(error), "{typed}");
        }
        let endless = "0".repeat(1 << 20);
        assert!(endless.parse::<ClaimSecret>().is_err());
    }

    #[test]
    fn a_secret_is_shown_only_where_asked_and_hashed_in_its_canonical_form() {
        let secret = ClaimSecret::from_entropy([10; SECRET_SYMBOLS]);
        assert_eq!(secret.reveal().to_string(), "AAAA-AAAA-AAAA-AAAA-AAAA");
        assert_eq!(format!("{secret:?}"), "ClaimSecret(..)");
        let typed: ClaimSecret = "aaaa aaaa aaaa aaaa aaaa".parse().unwrap();
        assert_eq!(typed.hash(), secret.hash());
        // printf 'medbind-claim-secret-v1:AAAAAAAAAAAAAAAAAAAA' | sha256sum
        let known = "9e81e602b6127cd328ecc60a9472e4591044b3b9fd19a35fb276e2714f7e48b5";
        assert_eq!(secret.hash().to_string(), known);
        assert_eq!(known.parse(), Ok(secret.hash()));
        assert!(known.to_uppercase().parse::<ClaimSecretHash>().is_err());
    }

    #[test]
    fn a_check_symbol_of_the_extra_five_is_read_but_not_plain() {
        let odd = ClaimCode::from_entropy([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0]);
        assert_eq!(odd.to_string(), "0000-0000-0010-*");
        assert_eq!(odd.to_string().parse(), Ok(odd.clone()));
        assert!(!odd.is_plain());
        assert!(ClaimCode::from_entropy([1; CODE_SYMBOLS]).is_plain());
    }
}
