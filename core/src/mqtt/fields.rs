//! The fields that packets are made of (1.5): read from the front, written to the end.

use core::num::NonZeroU16;

use super::kind::Kind;
use super::malformed::Malformed;

/// The largest number that a variable byte integer holds, and with it the largest packet (2.2.3;
/// 5.0, 1.5.5): 256 MiB less one octet.
pub const MAX_REMAINING_LENGTH: u32 = 268_435_455;

/// A variable byte integer, and how many octets it is written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Length {
    pub(super) value: u32,
    pub(super) octets: usize,
}

impl Length {
    /// Reads it from the front; `None` where octets are still missing.
    pub(super) fn read(octets: &[u8]) -> Result<Option<Self>, Malformed> {
        let mut value = 0_u32;
        for (index, shift) in [0_u32, 7, 14, 21].into_iter().enumerate() {
            let Some(octet) = octets.get(index) else {
                return Ok(None);
            };
            value |= u32::from(octet & 0x7F).wrapping_shl(shift);
            if octet & 0x80 == 0 {
                let octets = index.saturating_add(1);
                return Ok(Some(Self { value, octets }));
            }
        }
        Err(Malformed::LongLength)
    }

    /// Whether it is written in as few octets as it can be.
    pub(super) fn is_minimal(self) -> bool {
        self.octets == length_octets(self.value)
    }
}

/// How many octets a variable byte integer is written in.
pub(super) const fn length_octets(value: u32) -> usize {
    match value {
        0..=127 => 1,
        128..=16_383 => 2,
        16_384..=2_097_151 => 3,
        _ => 4,
    }
}

/// Reads from the front.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    pub(super) const fn new(octets: &'a [u8]) -> Self {
        Self(octets)
    }

    pub(super) const fn is_empty(self) -> bool {
        self.0.is_empty()
    }

    /// All that is left.
    pub(super) const fn rest(self) -> &'a [u8] {
        self.0
    }

    /// Nothing may be left.
    pub(super) const fn end(self) -> Result<(), Malformed> {
        if self.0.is_empty() {
            Ok(())
        } else {
            Err(Malformed::Trailing)
        }
    }

    pub(super) fn octets(&mut self, count: usize) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or(Malformed::CutShort)?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (taken, rest) = self.0.split_first_chunk::<N>().ok_or(Malformed::CutShort)?;
        self.0 = rest;
        Ok(*taken)
    }

    pub(super) fn octet(&mut self) -> Result<u8, Malformed> {
        self.array().map(|[octet]| octet)
    }

    pub(super) fn two(&mut self) -> Result<u16, Malformed> {
        self.array().map(u16::from_be_bytes)
    }

    pub(super) fn four(&mut self) -> Result<u32, Malformed> {
        self.array().map(u32::from_be_bytes)
    }

    /// A variable byte integer of 5.0 (1.5.5), in as few octets as it can be.
    pub(super) fn length(&mut self) -> Result<u32, Malformed> {
        let length = Length::read(self.0)?.ok_or(Malformed::CutShort)?;
        if !length.is_minimal() {
            return Err(Malformed::LengthNotMinimal);
        }
        self.octets(length.octets)?;
        Ok(length.value)
    }

    /// Two octets of length, and so many octets (5.0, 1.5.6).
    pub(super) fn binary(&mut self) -> Result<&'a [u8], Malformed> {
        let count = self.two()?;
        self.octets(usize::from(count))
    }

    /// UTF-8 without U+0000 (1.5.3; 5.0, 1.5.4).
    pub(super) fn text(&mut self) -> Result<&'a str, Malformed> {
        let text = core::str::from_utf8(self.binary()?).map_err(|_| Malformed::NotUtf8)?;
        if text.contains('\0') {
            return Err(Malformed::Nul);
        }
        Ok(text)
    }

    /// A packet identifier (2.3.1; 5.0, 2.2.1).
    pub(super) fn packet_identifier(&mut self) -> Result<NonZeroU16, Malformed> {
        NonZeroU16::new(self.two()?).ok_or(Malformed::PacketIdentifier)
    }
}

/// Writes a packet's fields, and its fixed header once they are known.
#[derive(Debug, Default)]
pub(super) struct Body {
    octets: Vec<u8>,
    /// Whether a field did not fit its length.
    too_long: bool,
}

impl Body {
    pub(super) fn octet(&mut self, octet: u8) {
        self.octets.push(octet);
    }

    pub(super) fn two(&mut self, number: u16) {
        self.octets(&number.to_be_bytes());
    }

    pub(super) fn octets(&mut self, octets: &[u8]) {
        self.octets.extend_from_slice(octets);
    }

    /// Octets behind their length as a variable byte integer.
    pub(super) fn properties(&mut self, octets: &[u8]) {
        match u32::try_from(octets.len()) {
            Ok(length) if length <= MAX_REMAINING_LENGTH => put_length(&mut self.octets, length),
            Ok(_) | Err(_) => self.too_long = true,
        }
        self.octets(octets);
    }

    pub(super) fn binary(&mut self, octets: &[u8]) {
        match u16::try_from(octets.len()) {
            Ok(length) => self.two(length),
            Err(_) => self.too_long = true,
        }
        self.octets(octets);
    }

    pub(super) fn text(&mut self, text: &str) {
        self.binary(text.as_bytes());
    }

    /// The whole packet; `flags` come to those that its type always has. `None` where a field is
    /// longer than the standard allows.
    pub(super) fn packet(self, kind: Kind, flags: u8) -> Option<Vec<u8>> {
        self.head(kind, flags, 0)
    }

    /// The same for a packet of which `more` octets follow.
    pub(super) fn head(self, kind: Kind, flags: u8, more: u32) -> Option<Vec<u8>> {
        let length = u32::try_from(self.octets.len()).ok()?.checked_add(more)?;
        if self.too_long || length > MAX_REMAINING_LENGTH {
            return None;
        }
        let mut packet = Vec::with_capacity(self.octets.len().saturating_add(5));
        packet.push(kind.first_octet() | flags);
        put_length(&mut packet, length);
        packet.extend_from_slice(&self.octets);
        Some(packet)
    }
}

/// A variable byte integer, for what is known to be small enough for one.
fn put_length(octets: &mut Vec<u8>, value: u32) {
    let mut rest = value;
    loop {
        let [low, ..] = (rest & 0x7F).to_le_bytes();
        rest >>= 7;
        if rest == 0 {
            octets.push(low);
            return;
        }
        octets.push(low | 0x80);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    /// 5.0, table 1-1.
    const LENGTHS: [(u32, &[u8]); 8] = [
        (0, &[0x00]),
        (127, &[0x7F]),
        (128, &[0x80, 0x01]),
        (16_383, &[0xFF, 0x7F]),
        (16_384, &[0x80, 0x80, 0x01]),
        (2_097_151, &[0xFF, 0xFF, 0x7F]),
        (2_097_152, &[0x80, 0x80, 0x80, 0x01]),
        (MAX_REMAINING_LENGTH, &[0xFF, 0xFF, 0xFF, 0x7F]),
    ];

    #[test]
    fn lengths_are_read_and_written_as_the_standard_shows_them() {
        for (value, octets) in LENGTHS {
            let mut written = Vec::new();
            put_length(&mut written, value);
            assert_eq!(written, octets);
            assert_eq!(length_octets(value), octets.len());
            let read = Length::read(octets).unwrap().unwrap();
            assert_eq!((read.value, read.octets), (value, octets.len()));
            assert!(read.is_minimal());
            for cut in 0..octets.len() {
                assert_eq!(Length::read(&octets[..cut]), Ok(None));
            }
        }
    }

    #[test]
    fn a_length_has_four_octets_at_most_and_none_too_many() {
        assert_eq!(
            Length::read(&[0x80, 0x80, 0x80, 0x80]),
            Err(Malformed::LongLength)
        );
        let padded = Length::read(&[0x81, 0x00]).unwrap().unwrap();
        assert_eq!((padded.value, padded.is_minimal()), (1, false));
        assert_eq!(
            Fields::new(&[0x81, 0x00]).length(),
            Err(Malformed::LengthNotMinimal)
        );
        assert_eq!(Fields::new(&[0x81]).length(), Err(Malformed::CutShort));
    }

    #[test]
    fn text_is_utf8_without_a_nul_and_as_long_as_it_says() {
        for (octets, result) in [
            (&b"\0\x02\xc3\xa9rest"[..], Ok("\u{e9}")),
            (b"\0\0", Ok("")),
            (b"\0\x02a\0", Err(Malformed::Nul)),
            // An overlong NUL, a surrogate, half a character.
            (b"\0\x02\xc0\x80", Err(Malformed::NotUtf8)),
            (b"\0\x03\xed\xa0\x80", Err(Malformed::NotUtf8)),
            (b"\0\x01\xc3\xa9", Err(Malformed::NotUtf8)),
            (b"\0\x02a", Err(Malformed::CutShort)),
            (b"\0", Err(Malformed::CutShort)),
        ] {
            assert_eq!(Fields::new(octets).text(), result);
        }
    }

    #[test]
    fn what_is_longer_than_its_length_can_say_is_not_written() {
        let mut body = Body::default();
        body.binary(&vec![0; 65_536]);
        assert_eq!(body.packet(Kind::Puback, 0), None);
        let mut body = Body::default();
        body.binary(&vec![0; 65_535]);
        assert!(body.packet(Kind::Puback, 0).is_some());
    }
}
