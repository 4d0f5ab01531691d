//! One bucket: a header, then packed records ([`super::record`]).
//!
//! ```text
//! layout version   1 octet
//! flags            1 octet: bit 0 and 1: records of generation A and B were lost here;
//!                  bit 2 and 3: devices of generation A and B found no room here
//! term             u32, of the leader that wrote last
//! generation A, B  u32 each; 0: none
//! position         u64: where only looked-up devices are kept, the revision up to which changes of
//!                  this bucket's devices have been seen
//! records          to the end
//! ```

use super::codec::{Corrupt, Reader};
use super::record::{Content, GENERATIONS, NewRecord, RawRecord};
use super::shared_data::CacheError;
use crate::identity::DeviceId;
use crate::time::Timestamp;

const VERSION: u8 = 1;
const HEADER_OCTETS: usize = 22;
const FULL_SHIFT: u32 = 2;
/// A bucket this large takes no further device: a bound against serials that all lead to one.
const MAX_OCTETS: usize = 256 << 10;

/// The key of a bucket.
pub(super) fn key(bucket: u32) -> String {
    format!("mb1/b{bucket:x}")
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Header {
    /// The bits of generations of which records were lost here.
    lost: u8,
    /// The bits of generations that take no further device here, because one found no room: a
    /// page that is applied once more must not add a device whose later change was left out.
    full: u8,
    term: u32,
    generations: [u32; 2],
    position: u64,
}

impl Header {
    fn read(from: &mut Reader<'_>) -> Result<Self, Corrupt> {
        if from.u8()? != VERSION {
            return Err(Corrupt);
        }
        let flags = from.u8()?;
        let header = Self {
            lost: flags & GENERATIONS,
            full: flags.wrapping_shr(FULL_SHIFT),
            term: from.u32()?,
            generations: [from.u32()?, from.u32()?],
            position: from.u64()?,
        };
        let [a, b] = header.generations;
        if header.full & !GENERATIONS != 0 || (a == b && a != 0) {
            return Err(Corrupt);
        }
        Ok(header)
    }

    fn put(&self, to: &mut Vec<u8>) {
        let [a, b] = self.generations;
        to.push(VERSION);
        to.push(self.lost | self.full.wrapping_shl(FULL_SHIFT));
        to.extend_from_slice(&self.term.to_le_bytes());
        to.extend_from_slice(&a.to_le_bytes());
        to.extend_from_slice(&b.to_le_bytes());
        to.extend_from_slice(&self.position.to_le_bytes());
    }

    /// Whether a leader of a higher term or a younger generation has written here.
    fn is_ahead_of(&self, target: &Target) -> bool {
        let youngest = target.live.iter().copied().max().unwrap_or_default();
        self.generations.iter().any(|g| *g > youngest)
            || target.term.is_some_and(|term| self.term > term)
    }

    /// The bit that stands for `generation` here; 0: none does.
    const fn bit(&self, generation: u32) -> u8 {
        let [a, b] = self.generations;
        if generation == 0 {
            0
        } else if a == generation {
            0b01
        } else if b == generation {
            0b10
        } else {
            0
        }
    }
}

/// What a bucket says about a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Found {
    Content(Content),
    /// The generation has no record of the device.
    Nothing,
    /// Neither, but a younger generation than the one that was asked for is here: who asks may be
    /// behind.
    NothingButYounger,
    /// The generation may have had one that was lost.
    Lost,
    /// The device may be one that found no room.
    Full,
}

/// Looks for a device without reading the other records.
pub(super) fn find(octets: &[u8], generation: u32, device: &DeviceId) -> Result<Found, Corrupt> {
    let mut reader = Reader::new(octets);
    let header = Header::read(&mut reader)?;
    let bit = header.bit(generation);
    let device = device.as_str().as_bytes();
    let mut found: Option<RawRecord<'_>> = None;
    while !reader.is_empty() {
        let record = RawRecord::next(&mut reader)?;
        if record.device() != device {
            continue;
        }
        let visible = record.is_revoked() || record.mask() & bit != 0;
        match found {
            _ if !visible => {}
            None => found = Some(record),
            // Revoked goes before all else; that two others answer is no state of this layout.
            Some(before) if before.is_revoked() => {}
            Some(_) if record.is_revoked() => found = Some(record),
            Some(_) => return Err(Corrupt),
        }
    }
    match found {
        Some(record) => record.content().map(Found::Content),
        None if header.lost & bit != 0 => Ok(Found::Lost),
        None if header.full & bit != 0 => Ok(Found::Full),
        None if bit == 0 && header.generations.iter().any(|g| *g > generation) => {
            Ok(Found::NothingButYounger)
        }
        None => Ok(Found::Nothing),
    }
}

/// Who writes, and for which generation.
#[derive(Clone, Copy, Debug)]
pub(super) struct Target {
    /// The generation written to.
    pub(super) generation: u32,
    /// The generations in use, 0 for none; what is neither is swept.
    pub(super) live: [u32; 2],
    /// The leader's term; `None` for a worker that keeps a lookup's answer.
    pub(super) term: Option<u32>,
    /// Whether the control record has been found to know of no higher term and no younger
    /// generation: a bucket that does is none of ours then.
    pub(super) is_confirmed: bool,
    pub(super) now: Timestamp,
}

/// Which of the incoming records are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Take {
    /// All, as long as no more than this many devices are added.
    All { room: u32 },
    /// Those of devices that are here already; the feed has seen their changes up to the highest
    /// revision among them, here or not.
    Present,
}

/// A bucket that is rewritten.
#[derive(Debug)]
pub(super) struct Merged {
    /// The new octets; `None`: nothing changes.
    pub(super) value: Option<Vec<u8>>,
    /// Devices that the generation did not have.
    pub(super) added: u32,
    /// Devices that found no room.
    pub(super) left_out: u32,
    /// The octets that stood here were not of this layout and are lost.
    pub(super) corrupt: bool,
}

/// A bucket being rewritten: header, the bit of the target's generation, which bits live on.
struct Rewrite<'a> {
    header: Header,
    bit: u8,
    keep: u8,
    records: Vec<RawRecord<'a>>,
    corrupt: bool,
}

impl<'a> Rewrite<'a> {
    fn open(octets: Option<&'a [u8]>, target: &Target) -> Result<Self, CacheError> {
        let mut read = octets.map_or(Ok((Header::default(), Vec::new())), read_all);
        if let Ok((header, _)) = &read
            && header.is_ahead_of(target)
        {
            if !target.is_confirmed {
                return Err(CacheError::Superseded);
            }
            read = Err(Corrupt);
        }
        let (mut header, records, corrupt) = if let Ok((header, records)) = read {
            (header, records, false)
        } else {
            // Fail closed: what stood here is gone, and what reads as absent says so.
            let mut header = Header {
                generations: target.live,
                ..Header::default()
            };
            header.lost = header.bit(target.live[0]) | header.bit(target.live[1]);
            (header, Vec::new(), true)
        };
        let mut keep = 0;
        for (generation, bit) in header.generations.iter_mut().zip([0b01, 0b10]) {
            if *generation != 0 && target.live.contains(generation) {
                keep |= bit;
            } else {
                *generation = 0;
                header.lost &= !bit;
                header.full &= !bit;
            }
        }
        if header.bit(target.generation) == 0 {
            let free = header.generations.iter_mut().find(|g| **g == 0);
            *free.ok_or(CacheError::Superseded)? = target.generation;
            header.position = 0;
        }
        Ok(Self {
            bit: header.bit(target.generation),
            header,
            keep,
            records,
            corrupt,
        })
    }

    /// The octets, if they differ from what stood there by more than the term.
    fn close(&self, term: Option<u32>, before: Option<&[u8]>, records: &[u8]) -> Option<Vec<u8>> {
        let mut value = Vec::with_capacity(HEADER_OCTETS.saturating_add(records.len()));
        let mut header = self.header;
        header.put(&mut value);
        value.extend_from_slice(records);
        if before == Some(value.as_slice()) {
            return None;
        }
        if let Some(term) = term {
            header.term = term;
            value.clear();
            header.put(&mut value);
            value.extend_from_slice(records);
        }
        Some(value)
    }
}

fn read_all(octets: &[u8]) -> Result<(Header, Vec<RawRecord<'_>>), Corrupt> {
    let mut reader = Reader::new(octets);
    let header = Header::read(&mut reader)?;
    let mut records = Vec::with_capacity(octets.len().checked_div(32).unwrap_or_default());
    while !reader.is_empty() {
        let record = RawRecord::next(&mut reader)?;
        record.revision()?;
        records.push(record);
    }
    Ok((header, records))
}

/// Writes the leader's records into a bucket and sweeps it. `incoming` is sorted by device, each
/// device once; without any it is only swept.
pub(super) fn merge(
    octets: Option<&[u8]>,
    target: &Target,
    take: Take,
    incoming: &[NewRecord],
) -> Result<Merged, CacheError> {
    let mut rewrite = Rewrite::open(octets, target)?;
    let mut output = Output {
        octets: Vec::with_capacity(octets.map_or(64, |o| o.len().saturating_add(64))),
        bit: rewrite.bit,
        take,
        is_full: rewrite.header.full & rewrite.bit != 0,
        added: 0,
        left_out: 0,
    };
    let mut held: Vec<Held<'_>> = vec![Held::default(); incoming.len()];
    for record in &rewrite.records {
        let mask = record.mask() & rewrite.keep;
        if mask == 0 && !record.is_revoked() {
            continue;
        }
        let place = incoming.binary_search_by(|new| new.device().as_bytes().cmp(record.device()));
        match place.ok().and_then(|place| held.get_mut(place)) {
            Some(held) => held.add(*record, mask, rewrite.bit),
            None if record.is_forgotten(target.now).unwrap_or(true) => {}
            None => record.put(&mut output.octets, mask),
        }
    }
    for (new, held) in incoming.iter().zip(&held) {
        output.combine(new, held);
    }
    if take == Take::Present {
        let seen = incoming.iter().map(NewRecord::revision).max();
        rewrite.header.position = rewrite.header.position.max(seen.unwrap_or_default());
    }
    if output.is_full {
        rewrite.header.full |= rewrite.bit;
    }
    // A bucket that was never written, and has nothing to hold, stays unwritten.
    let pointless = octets.is_none() && incoming.is_empty();
    Ok(Merged {
        value: if pointless {
            None
        } else {
            rewrite.close(target.term, octets, &output.octets)
        },
        added: output.added,
        left_out: output.left_out,
        corrupt: rewrite.corrupt,
    })
}

/// What stands in a bucket about one device: at most one record that is revoked, or one for each
/// generation.
#[derive(Clone, Copy, Debug, Default)]
struct Held<'a> {
    revoked: Option<(RawRecord<'a>, u8)>,
    /// The record of the generation written to.
    same: Option<(RawRecord<'a>, u8)>,
    /// The record of the other generation only.
    other: Option<(RawRecord<'a>, u8)>,
}

impl<'a> Held<'a> {
    fn add(&mut self, record: RawRecord<'a>, mask: u8, bit: u8) {
        let place = if record.is_revoked() {
            &mut self.revoked
        } else if mask & bit != 0 {
            &mut self.same
        } else {
            &mut self.other
        };
        // A second one in the same place is no state of this layout: the last written counts.
        *place = Some((record, mask));
    }

    fn mask(&self) -> u8 {
        [self.revoked, self.same, self.other]
            .iter()
            .flatten()
            .fold(0, |all, (_, mask)| all | mask)
    }
}

struct Output {
    octets: Vec<u8>,
    bit: u8,
    take: Take,
    is_full: bool,
    added: u32,
    left_out: u32,
}

impl Output {
    fn combine(&mut self, new: &NewRecord, held: &Held<'_>) {
        let incoming = new.as_raw();
        let is_new = held.mask() & self.bit == 0;
        let all = held.mask() | self.bit;
        if let Some((revoked, mask)) = held.revoked {
            // Revoked stays; a later word on it in the same history is taken.
            let later = mask & self.bit != 0
                && incoming.is_revoked()
                && revoked
                    .revision()
                    .is_ok_and(|before| new.revision() > before);
            if later { incoming } else { revoked }.put(&mut self.octets, all);
            self.count(is_new);
            return;
        }
        if incoming.is_revoked() && (held.same.is_some() || held.other.is_some()) {
            let before = held.same.and_then(|(same, _)| same.revision().ok());
            let raised = new.raised_to(before.unwrap_or_default());
            raised.as_raw().put(&mut self.octets, all);
            self.count(is_new);
            return;
        }
        match (held.same, held.other) {
            (Some((same, mask)), other) => {
                let stale = same.revision().is_ok_and(|before| new.revision() < before);
                if stale || same.says_the_same(&incoming) {
                    same.put(&mut self.octets, mask);
                    self.put_other(other);
                } else if mask & !self.bit != 0 {
                    same.put(&mut self.octets, mask & !self.bit);
                    incoming.put(&mut self.octets, self.bit);
                } else {
                    self.put_beside(incoming, other);
                }
            }
            (None, other) if !self.has_room_for(incoming) => self.put_other(other),
            (None, other) => {
                self.put_beside(incoming, other);
                self.count(true);
            }
        }
    }

    /// The record of the generation, beside that of the other one or, where both say the same, as
    /// one with it.
    fn put_beside(&mut self, incoming: RawRecord<'_>, other: Option<(RawRecord<'_>, u8)>) {
        match other {
            Some((other, mask)) if other.says_the_same(&incoming) => {
                other.put(&mut self.octets, mask | self.bit);
            }
            other => {
                self.put_other(other);
                incoming.put(&mut self.octets, self.bit);
            }
        }
    }

    fn put_other(&mut self, other: Option<(RawRecord<'_>, u8)>) {
        if let Some((record, mask)) = other {
            record.put(&mut self.octets, mask);
        }
    }

    /// Whether a device that the generation does not have may be added.
    fn has_room_for(&mut self, incoming: RawRecord<'_>) -> bool {
        let Take::All { room } = self.take else {
            return false;
        };
        let octets = self.octets.len().saturating_add(incoming.length());
        self.is_full |= self.added >= room || octets > MAX_OCTETS;
        self.left_out = self.left_out.saturating_add(u32::from(self.is_full));
        !self.is_full
    }

    fn count(&mut self, is_new: bool) {
        self.added = self.added.saturating_add(u32::from(is_new));
    }
}

/// What became of a lookup's answer.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Inserted {
    /// To be written; `None`: it stands there already.
    Value(Option<Vec<u8>>),
    /// The bucket is full of records that do not give way.
    NoRoom,
    /// The feed has told of a later change of a device in this bucket.
    Overtaken,
}

/// Keeps a lookup's answer, which holds as of revision `head`, in a bucket of at most `limit`
/// records.
pub(super) fn insert(
    octets: Option<&[u8]>,
    target: &Target,
    limit: usize,
    head: u64,
    new: &NewRecord,
) -> Result<Inserted, CacheError> {
    let rewrite = Rewrite::open(octets, target)?;
    if rewrite.header.position > head {
        return Ok(Inserted::Overtaken);
    }
    let mut present = Held::default();
    let mut others: Vec<(RawRecord<'_>, u8)> = Vec::with_capacity(rewrite.records.len());
    for record in &rewrite.records {
        let mask = record.mask() & rewrite.keep;
        let gone = mask == 0 && !record.is_revoked();
        if gone || record.is_forgotten(target.now).unwrap_or(true) {
            continue;
        }
        if record.device() == new.device().as_bytes() {
            present.add(*record, mask, rewrite.bit);
        } else {
            others.push((*record, mask));
        }
    }
    let is_here = present.revoked.is_some() || present.same.is_some();
    // Revoked ones never go, so they take no other's place: devices that were revoked over the years
    // would leave no room for the living.
    let living = others.iter().filter(|(other, _)| !other.is_revoked());
    if !is_here && living.count() >= limit && !evict(&mut others, new.as_raw().is_no_device()) {
        return Ok(Inserted::NoRoom);
    }
    let mut output = Output {
        octets: Vec::new(),
        bit: rewrite.bit,
        take: Take::All { room: 1 },
        is_full: false,
        added: 0,
        left_out: 0,
    };
    for (record, mask) in others {
        record.put(&mut output.octets, mask);
    }
    output.combine(new, &present);
    if output.left_out > 0 {
        return Ok(Inserted::NoRoom);
    }
    Ok(Inserted::Value(rewrite.close(
        target.term,
        octets,
        &output.octets,
    )))
}

/// Makes room for one: the oldest "no such device" first, then, unless it is for another such, the
/// oldest binding. A revoked one never goes.
fn evict(records: &mut Vec<(RawRecord<'_>, u8)>, for_no_device: bool) -> bool {
    let no_device = records.iter().position(|(r, _)| r.is_no_device());
    let oldest = || records.iter().position(|(r, _)| !r.is_revoked());
    let victim = match no_device {
        Some(place) => Some(place),
        None if for_no_device => None,
        None => oldest(),
    };
    match victim {
        Some(place) => {
            records.remove(place);
            true
        }
        None => false,
    }
}

#[cfg(test)]
mod tests;
