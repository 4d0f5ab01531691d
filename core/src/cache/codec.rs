//! How octets are read and written: little-endian numbers, varints, short text.

/// Octets that are not of the layout they claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Corrupt;

/// Reads from the front; nothing here panics, and what is missing is [`Corrupt`].
#[derive(Clone, Copy, Debug)]
pub(super) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(super) const fn new(octets: &'a [u8]) -> Self {
        Self { rest: octets }
    }

    pub(super) const fn rest(&self) -> &'a [u8] {
        self.rest
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    #[inline]
    pub(super) fn take(&mut self, length: usize) -> Result<&'a [u8], Corrupt> {
        let (taken, rest) = self.rest.split_at_checked(length).ok_or(Corrupt)?;
        self.rest = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Corrupt> {
        let (taken, rest) = self.rest.split_first_chunk::<N>().ok_or(Corrupt)?;
        self.rest = rest;
        Ok(*taken)
    }

    #[inline]
    pub(super) fn u8(&mut self) -> Result<u8, Corrupt> {
        let (&octet, rest) = self.rest.split_first().ok_or(Corrupt)?;
        self.rest = rest;
        Ok(octet)
    }

    pub(super) fn flag(&mut self) -> Result<bool, Corrupt> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(Corrupt),
        }
    }

    pub(super) fn u32(&mut self) -> Result<u32, Corrupt> {
        self.array().map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self) -> Result<u64, Corrupt> {
        self.array().map(u64::from_le_bytes)
    }

    pub(super) fn i64(&mut self) -> Result<i64, Corrupt> {
        self.array().map(i64::from_le_bytes)
    }

    /// LEB128, at most 10 octets.
    #[inline]
    pub(super) fn varint(&mut self) -> Result<u64, Corrupt> {
        let mut value = 0_u64;
        for shift in (0_u32..64).step_by(7) {
            let octet = self.u8()?;
            let bits = u64::from(octet & 0x7F);
            let shifted = bits.wrapping_shl(shift);
            if shifted.wrapping_shr(shift) != bits {
                return Err(Corrupt);
            }
            value |= shifted;
            if octet & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(Corrupt)
    }

    #[inline]
    pub(super) fn length(&mut self) -> Result<usize, Corrupt> {
        usize::try_from(self.varint()?).map_err(|_| Corrupt)
    }

    pub(super) fn short(&mut self) -> Result<&'a [u8], Corrupt> {
        let length = usize::from(self.u8()?);
        self.take(length)
    }

    pub(super) fn text(&mut self) -> Result<&'a str, Corrupt> {
        let length = self.length()?;
        core::str::from_utf8(self.take(length)?).map_err(|_| Corrupt)
    }
}

pub(super) fn put_varint(to: &mut Vec<u8>, mut value: u64) {
    loop {
        let low = value.to_le_bytes()[0] & 0x7F;
        value = value.wrapping_shr(7);
        if value == 0 {
            to.push(low);
            return;
        }
        to.push(low | 0x80);
    }
}

pub(super) fn put_text(to: &mut Vec<u8>, text: &str) {
    put_varint(to, u64::try_from(text.len()).unwrap_or(u64::MAX));
    to.extend_from_slice(text.as_bytes());
}

/// Text of at most 255 octets behind one octet of length. Every text that is written this way is
/// bounded by its type.
pub(super) fn put_short(to: &mut Vec<u8>, text: &str) {
    let length = u8::try_from(text.len()).unwrap_or(u8::MAX);
    to.push(length);
    to.extend(text.bytes().take(usize::from(length)));
}

/// Small numbers of either sign become small numbers.
pub(super) const fn zigzag(value: i64) -> u64 {
    (value.wrapping_shl(1) ^ value.wrapping_shr(63)).cast_unsigned()
}

pub(super) const fn from_zigzag(value: u64) -> i64 {
    value.wrapping_shr(1).cast_signed() ^ (value & 1).cast_signed().wrapping_neg()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[test]
    fn numbers_are_read_as_they_are_written() {
        for value in [0, 1, 127, 128, 300, 1 << 20, u64::MAX - 1, u64::MAX] {
            let mut octets = Vec::new();
            put_varint(&mut octets, value);
            let mut reader = Reader::new(&octets);
            assert_eq!(reader.varint(), Ok(value));
            assert!(reader.is_empty());
        }
        for value in [0, 1, -1, 63, -64, i64::MAX, i64::MIN] {
            assert_eq!(from_zigzag(zigzag(value)), value);
        }
        assert_eq!(zigzag(-1), 1);
    }

    #[test]
    fn a_varint_that_does_not_fit_is_corrupt() {
        for octets in [&[0x80_u8; 12][..], &[0xFF; 10], &[0x80], &[]] {
            assert_eq!(Reader::new(octets).varint(), Err(Corrupt));
        }
    }
}
