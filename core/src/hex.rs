//! Hex digits of hashes: lower case, and of the right number.

/// 32 octets from exactly 64 lower-case hex digits.
pub(crate) fn decode(text: &[u8]) -> Option<[u8; 32]> {
    let mut octets = [0; 32];
    let decoded = base16ct::lower::decode(text, &mut octets).ok()?;
    (decoded.len() == 32).then_some(octets)
}
