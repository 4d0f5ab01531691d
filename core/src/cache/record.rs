//! One packed record.
//!
//! ```text
//! length of what follows  varint
//! head                    1 octet: bit 0 and 1 generation A and B, bits 2 to 4 state,
//!                         bit 5 has an end, bit 6 has pins, bit 7 has an epoch other than 1
//! device                  1 octet of length, canonical text
//! revision                varint
//! epoch                   varint, where bit 7
//! end                     zigzag varint of milliseconds since the Unix epoch, where bit 5
//! pins                    1 octet of count, 32 octets each, where bit 6
//! account                 1 octet of length (0: none), text
//! class                   1 octet of length (0: none), text
//! ```
//!
//! A binding without pins and end of `acme:SN0000001`, `acc-000001`, `cgm` takes 35 octets.

use super::codec::{Corrupt, Reader, from_zigzag, put_short, put_varint, zigzag};
use crate::binding::{Binding, BindingState, Epoch, Pin, Pins};
use crate::identity::DeviceId;
use crate::time::Timestamp;

/// The bits of the two generations, in `head`.
pub(super) const GENERATIONS: u8 = 0b11;
const STATE_SHIFT: u32 = 2;
const STATE: u8 = 0b111;
const HAS_END: u8 = 1 << 5;
const HAS_PINS: u8 = 1 << 6;
const HAS_EPOCH: u8 = 1 << 7;

const UNCLAIMED: u8 = 0;
const ACTIVE: u8 = 1;
const SUSPENDED: u8 = 2;
const REVOKED: u8 = 3;
const UNRECOGNISED: u8 = 4;
/// The registry said that it has no such device; the record's end is that of the memory.
const NO_DEVICE: u8 = 5;

const fn state_number(state: BindingState) -> u8 {
    match state {
        BindingState::Unclaimed => UNCLAIMED,
        BindingState::Active => ACTIVE,
        BindingState::Suspended => SUSPENDED,
        BindingState::Revoked => REVOKED,
        BindingState::Unrecognised => UNRECOGNISED,
    }
}

/// What a record says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Content {
    Binding(Binding),
    /// The registry has no such device; remembered until then.
    NoDevice {
        until: Timestamp,
    },
}

/// One record as it stands in a bucket; only its outline has been read.
#[derive(Clone, Copy, Debug)]
pub(super) struct RawRecord<'a> {
    head: u8,
    device: &'a [u8],
    /// Behind the device.
    body: &'a [u8],
}

impl<'a> RawRecord<'a> {
    /// Reads the outline of the next record.
    #[inline]
    pub(super) fn next(reader: &mut Reader<'a>) -> Result<Self, Corrupt> {
        let length = reader.length()?;
        let mut record = Reader::new(reader.take(length)?);
        Ok(Self {
            head: record.u8()?,
            device: record.short()?,
            body: record.rest(),
        })
    }

    pub(super) const fn device(&self) -> &'a [u8] {
        self.device
    }

    pub(super) const fn mask(&self) -> u8 {
        self.head & GENERATIONS
    }

    const fn state(&self) -> u8 {
        self.head.wrapping_shr(STATE_SHIFT) & STATE
    }

    pub(super) const fn is_revoked(&self) -> bool {
        self.state() == REVOKED
    }

    pub(super) const fn is_no_device(&self) -> bool {
        self.state() == NO_DEVICE
    }

    pub(super) fn revision(&self) -> Result<u64, Corrupt> {
        Reader::new(self.body).varint()
    }

    /// Whether it says the same, whatever the generations.
    pub(super) fn says_the_same(&self, other: &RawRecord<'_>) -> bool {
        self.head | GENERATIONS == other.head | GENERATIONS
            && self.device == other.device
            && self.body == other.body
    }

    /// Writes it with these generations.
    pub(super) fn put(&self, to: &mut Vec<u8>, mask: u8) {
        let length = self.length();
        put_varint(to, u64::try_from(length).unwrap_or(u64::MAX));
        to.push((self.head & !GENERATIONS) | (mask & GENERATIONS));
        to.push(u8::try_from(self.device.len()).unwrap_or(u8::MAX));
        to.extend_from_slice(self.device);
        to.extend_from_slice(self.body);
    }

    /// Without the length in front.
    pub(super) fn length(&self) -> usize {
        self.device
            .len()
            .saturating_add(self.body.len())
            .saturating_add(2)
    }

    /// Reads the rest.
    pub(super) fn content(&self) -> Result<Content, Corrupt> {
        let state = match self.state() {
            UNCLAIMED => BindingState::Unclaimed,
            ACTIVE => BindingState::Active,
            SUSPENDED => BindingState::Suspended,
            REVOKED => BindingState::Revoked,
            UNRECOGNISED => BindingState::Unrecognised,
            NO_DEVICE => {
                return Ok(Content::NoDevice {
                    until: self.end()?.ok_or(Corrupt)?,
                });
            }
            _ => return Err(Corrupt),
        };
        let mut reader = Reader::new(self.body);
        let revision = reader.varint()?;
        let epoch = if self.head & HAS_EPOCH == 0 {
            Epoch::FIRST
        } else {
            let count = u32::try_from(reader.varint()?).map_err(|_| Corrupt)?;
            Epoch::new(count).ok_or(Corrupt)?
        };
        let expires_at = if self.head & HAS_END == 0 {
            None
        } else {
            Some(read_end(&mut reader)?)
        };
        let pins = if self.head & HAS_PINS == 0 {
            Pins::default()
        } else {
            read_pins(&mut reader)?
        };
        let account = read_name(&mut reader)?;
        let class = read_name(&mut reader)?;
        if !reader.is_empty() {
            return Err(Corrupt);
        }
        let device = core::str::from_utf8(self.device).map_err(|_| Corrupt)?;
        Ok(Content::Binding(Binding {
            device: device.parse::<DeviceId>().map_err(|_| Corrupt)?,
            state,
            account,
            class,
            epoch,
            expires_at,
            pins,
            revision,
        }))
    }

    /// The end of a remembered "no such device".
    fn end(&self) -> Result<Option<Timestamp>, Corrupt> {
        if self.head & HAS_END == 0 {
            return Ok(None);
        }
        let mut reader = Reader::new(self.body);
        reader.varint()?;
        read_end(&mut reader).map(Some)
    }

    /// Whether it is a "no such device" that is remembered no longer.
    pub(super) fn is_forgotten(&self, now: Timestamp) -> Result<bool, Corrupt> {
        Ok(self.is_no_device() && self.end()?.is_none_or(|until| until <= now))
    }
}

fn read_end(reader: &mut Reader<'_>) -> Result<Timestamp, Corrupt> {
    Ok(Timestamp::from_unix_millis(from_zigzag(reader.varint()?)))
}

fn read_pins(reader: &mut Reader<'_>) -> Result<Pins, Corrupt> {
    let count = reader.u8()?;
    let mut pins = Vec::new();
    for _ in 0..count {
        let octets = reader.take(32)?.try_into().map_err(|_| Corrupt)?;
        pins.push(Pin(octets));
    }
    Pins::new(pins).map_err(|_| Corrupt)
}

fn read_name<T: core::str::FromStr>(reader: &mut Reader<'_>) -> Result<Option<T>, Corrupt> {
    let octets = reader.short()?;
    if octets.is_empty() {
        return Ok(None);
    }
    let text = core::str::from_utf8(octets).map_err(|_| Corrupt)?;
    text.parse().map(Some).map_err(|_| Corrupt)
}

/// A record that is not in a bucket yet.
#[derive(Clone, Debug)]
pub(super) struct NewRecord {
    head: u8,
    device: Box<str>,
    revision: u64,
    body: Vec<u8>,
}

impl NewRecord {
    pub(super) fn binding(binding: &Binding) -> Self {
        let mut head = state_number(binding.state).wrapping_shl(STATE_SHIFT);
        let mut body = Vec::with_capacity(48);
        put_varint(&mut body, binding.revision);
        if binding.epoch != Epoch::FIRST {
            head |= HAS_EPOCH;
            put_varint(&mut body, u64::from(binding.epoch.get()));
        }
        if let Some(end) = binding.expires_at {
            head |= HAS_END;
            put_varint(&mut body, zigzag(end.unix_millis()));
        }
        let pins = binding.pins.as_slice();
        if !pins.is_empty() {
            head |= HAS_PINS;
            body.push(u8::try_from(pins.len()).unwrap_or(u8::MAX));
            for pin in pins {
                body.extend_from_slice(&pin.0);
            }
        }
        put_short(
            &mut body,
            binding.account.as_ref().map_or("", |a| a.as_str()),
        );
        put_short(&mut body, binding.class.as_ref().map_or("", |c| c.as_str()));
        Self {
            head,
            device: binding.device.as_str().into(),
            revision: binding.revision,
            body,
        }
    }

    /// "No such device", as of `revision` of the history, remembered until then.
    pub(super) fn no_device(device: &DeviceId, revision: u64, until: Timestamp) -> Self {
        let mut body = Vec::with_capacity(12);
        put_varint(&mut body, revision);
        put_varint(&mut body, zigzag(until.unix_millis()));
        Self {
            head: NO_DEVICE.wrapping_shl(STATE_SHIFT) | HAS_END,
            device: device.as_str().into(),
            revision,
            body,
        }
    }

    pub(super) fn device(&self) -> &str {
        &self.device
    }

    pub(super) const fn revision(&self) -> u64 {
        self.revision
    }

    /// The same with a revision of at least this.
    pub(super) fn raised_to(&self, revision: u64) -> std::borrow::Cow<'_, Self> {
        if self.revision >= revision {
            return std::borrow::Cow::Borrowed(self);
        }
        let mut reader = Reader::new(&self.body);
        let rest = reader.varint().map_or(&[][..], |_| reader.rest());
        let mut body = Vec::with_capacity(self.body.len().saturating_add(8));
        put_varint(&mut body, revision);
        body.extend_from_slice(rest);
        std::borrow::Cow::Owned(Self {
            head: self.head,
            device: self.device.clone(),
            revision,
            body,
        })
    }

    pub(super) fn as_raw(&self) -> RawRecord<'_> {
        RawRecord {
            head: self.head,
            device: self.device.as_bytes(),
            body: &self.body,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    fn binding() -> Binding {
        Binding {
            device: "acme:SN0000001".parse().unwrap(),
            state: BindingState::Active,
            account: Some("acc-000001".parse().unwrap()),
            class: Some("cgm".parse().unwrap()),
            epoch: Epoch::FIRST,
            expires_at: None,
            pins: Pins::default(),
            revision: 500_000,
        }
    }

    fn packed(record: &NewRecord, mask: u8) -> Vec<u8> {
        let mut octets = Vec::new();
        record.as_raw().put(&mut octets, mask);
        octets
    }

    #[test]
    fn a_binding_is_read_as_it_is_written() {
        let mut full = binding();
        full.state = BindingState::Revoked;
        full.epoch = Epoch::new(300).unwrap();
        full.expires_at = Some(Timestamp::from_unix_millis(-5));
        full.pins = Pins::new((0..8).map(|n| Pin([n; 32]))).unwrap();
        let mut least = binding();
        least.account = None;
        least.class = None;
        least.state = BindingState::Unrecognised;
        let mut longest = full.clone();
        longest.device = DeviceId::new(&"n".repeat(32), &[0; 64]).unwrap();
        longest.account = Some("a".repeat(128).parse().unwrap());
        longest.class = Some("c".repeat(128).parse().unwrap());
        longest.revision = u64::MAX;
        for wanted in [binding(), full, least, longest] {
            let octets = packed(&NewRecord::binding(&wanted), 0b10);
            let mut reader = Reader::new(&octets);
            let raw = RawRecord::next(&mut reader).unwrap();
            assert!(reader.is_empty());
            assert_eq!(raw.mask(), 0b10);
            assert_eq!(raw.revision(), Ok(wanted.revision));
            assert_eq!(raw.is_revoked(), wanted.state == BindingState::Revoked);
            assert_eq!(raw.content(), Ok(Content::Binding(wanted)));
        }
    }

    #[test]
    fn a_typical_binding_is_small() {
        assert_eq!(packed(&NewRecord::binding(&binding()), 0).len(), 35);
    }

    #[test]
    fn a_no_is_remembered_until_its_end() {
        let until = Timestamp::from_unix_millis(1_000);
        let record = NewRecord::no_device(&"acme:SN1".parse().unwrap(), 7, until);
        let raw = record.as_raw();
        assert_eq!(raw.content(), Ok(Content::NoDevice { until }));
        assert_eq!(
            raw.is_forgotten(Timestamp::from_unix_millis(999)),
            Ok(false)
        );
        assert_eq!(raw.is_forgotten(until), Ok(true));
        let binding = NewRecord::binding(&binding());
        assert_eq!(binding.as_raw().is_forgotten(until), Ok(false));
    }

    #[test]
    fn a_no_without_an_end_is_forgotten_and_says_nothing() {
        let until = Timestamp::from_unix_millis(i64::MAX);
        let mut record = NewRecord::no_device(&"acme:SN1".parse().unwrap(), 7, until);
        assert_eq!(
            record.as_raw().is_forgotten(Timestamp::default()),
            Ok(false)
        );
        record.head &= !HAS_END;
        let raw = record.as_raw();
        assert_eq!(raw.is_forgotten(Timestamp::default()), Ok(true));
        assert_eq!(raw.content(), Err(Corrupt));
    }

    #[test]
    fn it_says_the_same_whatever_its_generations_and_with_any_other_change_not() {
        let record = NewRecord::binding(&binding());
        let octets: Vec<_> = (0..4).map(|mask| packed(&record, mask)).collect();
        let raw = |octets| RawRecord::next(&mut Reader::new(octets)).unwrap();
        for one in &octets {
            for other in &octets {
                assert!(raw(one).says_the_same(&raw(other)));
            }
        }
        let others: [fn(&mut Binding); 4] = [
            |b| b.state = BindingState::Suspended,
            |b| b.device = "acme:SN0000002".parse().unwrap(),
            |b| b.revision = 500_001,
            |b| b.class = None,
        ];
        for change in others {
            let mut other = binding();
            change(&mut other);
            let other = NewRecord::binding(&other);
            assert!(!record.as_raw().says_the_same(&other.as_raw()));
        }
    }

    #[test]
    fn no_cut_and_no_flipped_bit_of_a_record_panics() {
        let octets = packed(&NewRecord::binding(&binding()), 1);
        for length in 0..octets.len() {
            assert!(RawRecord::next(&mut Reader::new(&octets[..length])).is_err());
        }
        for bit in 0..octets.len() * 8 {
            let mut flipped = octets.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            if let Ok(raw) = RawRecord::next(&mut Reader::new(&flipped)) {
                let _ = raw.content();
            }
        }
    }
}
