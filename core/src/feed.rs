//! What has changed? The change feed's answers, as the registry writes and the edge reads them.
//!
//! An answer is `application/x-ndjson`: a header line, then exactly `count` records, one a line,
//! in ascending order of revision, the last line ended like the others. An answer that breaks one
//! of these rules is refused whole and asked for again. A single *record* that cannot be read does
//! not stop the feed: see [`FeedRecord`].

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use crate::binding::{AccountId, Binding, BindingState, DeviceClass, Epoch, Pins};
use crate::identity::DeviceId;
use crate::text::checked_text;
use crate::time::Timestamp;

/// The feed's major version, which both ends name. Within it unknown fields are ignored.
pub const FEED_VERSION: u32 = 1;
/// The longest answer that is read, in octets.
pub const MAX_BODY_OCTETS: usize = 1 << 20;
/// The longest line that is read as a record, in octets.
pub const MAX_LINE_OCTETS: usize = 8 << 10;
/// The most records that one answer may hold.
pub const MAX_RECORDS: u32 = 5_000;
/// The longest history identifier or cursor, in octets.
pub const MAX_TOKEN_OCTETS: usize = 256;

/// Text that can be neither a history identifier nor a cursor: those are 1 to 256 letters, digits
/// and `-._~` (RFC 3986, 2.3), so that they stand in a query as they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected 1 to 256 letters, digits and -._~")]
pub struct FeedTokenError;

fn is_token(text: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b'~');
    !text.is_empty() && text.len() <= MAX_TOKEN_OCTETS && text.bytes().all(plain)
}

checked_text! {
    /// Names the history that a registry's database tells, from its first start on; any other text
    /// is a [`FeedTokenError`]. A copy of the database that is put back keeps the name, though what
    /// came after the copy is not in its past, and what comes next is another future: that shows in
    /// the cursor, not here.
    FeedId, is_token, FeedTokenError
}
checked_text! {
    /// A place in a history, made by the registry and opaque to everybody else; any other text is a
    /// [`FeedTokenError`]. It says what was before it: a registry that was put back from a copy does
    /// not know a cursor of what the copy does not hold, even after as many changes (410), and the
    /// history is read from its beginning.
    Cursor, is_token, FeedTokenError
}

/// The first line of every answer of the feed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FeedHeader {
    /// The history that the answer is from.
    pub feed: FeedId,
    /// The feed's major version: [`FEED_VERSION`].
    pub version: u32,
    /// Where to go on from: covers the last record of this answer; without records (and for a
    /// lookup of one device) the head.
    pub cursor: Cursor,
    /// Whether more records are there already.
    pub more: bool,
    /// The revision of the newest change in the whole history when the answer was made; 0 in an
    /// empty one. No record of the answer is above it. It goes down only where the registry was put
    /// back from a copy.
    pub head: u64,
    /// How many records follow.
    pub count: u32,
    /// The registry's clock when the answer was made.
    pub time: Timestamp,
}

impl FeedHeader {
    /// The line as it is sent, its line feed included.
    pub fn to_line(&self) -> Vec<u8> {
        line(self)
    }
}

fn line(value: &impl Serialize) -> Vec<u8> {
    let mut octets = serde_json::to_vec(value).unwrap_or_default();
    octets.push(b'\n');
    octets
}

/// Why a whole answer is refused. It is asked for again later; what is in the cache goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FeedError {
    /// Longer than [`MAX_BODY_OCTETS`], or more than [`MAX_RECORDS`] records.
    #[error("the answer is larger than 1 MiB or 5000 records")]
    TooLarge,
    /// The header line is missing or is none.
    #[error("the answer does not begin with a feed header")]
    Header,
    /// A major version other than [`FEED_VERSION`].
    #[error("the feed is of version {0}, and this edge reads version 1")]
    Version(u32),
    /// Fewer records than the header counts, or a last line without its end.
    #[error("the answer is cut short")]
    Truncated,
    /// More lines than the header counts.
    #[error("the answer goes on after its last record")]
    TrailingData,
    /// Revisions do not ascend, or one is above the head.
    #[error("the answer's records are out of order")]
    OutOfOrder,
    /// More is promised, and nothing is given: going on would never end.
    #[error("the answer promises more and holds no record")]
    EmptyPage,
    /// A lookup's answer holds more than one record, or one of another device.
    #[error("the answer is not about the device that was asked for")]
    OtherDevice,
    /// A lookup's record cannot be read.
    #[error("the device's record cannot be read")]
    Record,
}

/// One record of the feed.
///
/// What this version cannot read denies what it names: a binding of unknown state is a
/// [`Binding`](Self::Binding) whose state is `Unrecognised`; anything else is
/// [`Unrecognised`](Self::Unrecognised) and says what it is about, as far as that can be told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FeedRecord {
    /// A device's newest state.
    Binding(Binding),
    /// A record of another kind, or one that is no record.
    Unrecognised {
        /// What it is about.
        names: Named,
        /// Its revision, where it can be read.
        revision: Option<u64>,
    },
}

/// What an unrecognised record is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Named {
    /// This device. Fail closed: nothing is permitted for it until a newer record can be read.
    Device(DeviceId),
    /// Something that is no device: a record of another kind without a device.
    Other,
    /// It may be about any device: a binding whose device cannot be read, or no JSON object.
    Unknown,
}

/// What every record shows of itself, whatever its kind.
#[derive(Deserialize)]
struct Outline<'a> {
    #[serde(borrow, default)]
    kind: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    device: Option<Cow<'a, str>>,
    #[serde(default)]
    revision: serde_json::Value,
}

/// A binding as it is read.
#[derive(Deserialize)]
struct ReadBinding<'a> {
    #[serde(borrow, default)]
    kind: Option<Cow<'a, str>>,
    device: DeviceId,
    #[serde(default)]
    account: Option<AccountId>,
    #[serde(borrow)]
    state: Cow<'a, str>,
    #[serde(default)]
    class: Option<DeviceClass>,
    #[serde(default = "first_epoch")]
    epoch: Epoch,
    #[serde(default)]
    expires_at: Option<Timestamp>,
    #[serde(default)]
    pins: Pins,
    revision: u64,
}

const fn first_epoch() -> Epoch {
    Epoch::FIRST
}

/// A binding as it is written.
#[derive(Serialize)]
struct WrittenBinding<'a> {
    kind: &'static str,
    device: &'a DeviceId,
    account: &'a Option<AccountId>,
    state: &'static str,
    class: &'a Option<DeviceClass>,
    epoch: Epoch,
    expires_at: &'a Option<Timestamp>,
    pins: &'a Pins,
    revision: u64,
}

const KIND_BINDING: &str = "binding";

impl FeedRecord {
    /// Reads one line, with or without its line feed. Every line is a record: one that cannot be
    /// read is [`Unrecognised`](Self::Unrecognised).
    ///
    /// ```
    /// use medbind_core::feed::FeedRecord;
    ///
    /// let line = br#"{"device":"acme:SN1","account":"acc-1","state":"active","revision":7}"#;
    /// let FeedRecord::Binding(binding) = FeedRecord::parse_line(line) else { panic!() };
    /// assert_eq!(binding.device.as_str(), "acme:SN1");
    /// ```
    pub fn parse_line(line: &[u8]) -> Self {
        if line.len() > MAX_LINE_OCTETS {
            return Self::Unrecognised {
                names: Named::Unknown,
                revision: None,
            };
        }
        match serde_json::from_slice::<ReadBinding<'_>>(line) {
            Ok(read) if is_binding(read.kind.as_deref()) => Self::Binding(Binding {
                device: read.device,
                state: BindingState::from_word(&read.state),
                account: read.account,
                class: read.class,
                epoch: read.epoch,
                expires_at: read.expires_at,
                pins: read.pins,
                revision: read.revision,
            }),
            Ok(_) | Err(_) => Self::outline(line),
        }
    }

    /// What can be told of a record that is no readable binding.
    fn outline(line: &[u8]) -> Self {
        let Ok(outline) = serde_json::from_slice::<Outline<'_>>(line) else {
            return Self::Unrecognised {
                names: Named::Unknown,
                revision: None,
            };
        };
        let names = match outline.device.as_deref().map(str::parse) {
            Some(Ok(device)) => Named::Device(device),
            None if !is_binding(outline.kind.as_deref()) => Named::Other,
            Some(Err(_)) | None => Named::Unknown,
        };
        Self::Unrecognised {
            names,
            revision: outline.revision.as_u64(),
        }
    }

    /// The revision, where it can be read.
    pub const fn revision(&self) -> Option<u64> {
        match self {
            Self::Binding(binding) => Some(binding.revision),
            Self::Unrecognised { revision, .. } => *revision,
        }
    }
}

/// Whether a record's `kind` says binding; it may be left out for one.
fn is_binding(kind: Option<&str>) -> bool {
    kind.is_none_or(|kind| kind == KIND_BINDING)
}

/// The record of a binding as it is sent, its line feed included.
pub fn binding_line(binding: &Binding) -> Vec<u8> {
    line(&WrittenBinding {
        kind: KIND_BINDING,
        device: &binding.device,
        account: &binding.account,
        state: binding.state.as_str(),
        class: &binding.class,
        epoch: binding.epoch,
        expires_at: &binding.expires_at,
        pins: &binding.pins,
        revision: binding.revision,
    })
}

/// A binding that stands for a record which names `device` and cannot be read: it permits nothing.
fn unrecognised_binding(device: DeviceId, revision: u64) -> Binding {
    Binding {
        device,
        state: BindingState::Unrecognised,
        account: None,
        class: None,
        epoch: Epoch::FIRST,
        expires_at: None,
        pins: Pins::default(),
        revision,
    }
}

/// One answer of the feed, read whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FeedPage {
    /// The header.
    pub header: FeedHeader,
    /// What is to be written into the cache, in ascending order of revision. A record that names
    /// a device and cannot be read is here as a binding whose state is `Unrecognised`; where it
    /// has no revision of its own, it has that of the record before.
    pub bindings: Vec<Binding>,
    /// The highest revision that the answer covers: that of its last record, or the head where
    /// the answer reaches it.
    pub position: u64,
    /// Records of unknown kind, state or form, in all.
    pub unrecognised: u32,
    /// Those among them that may be about any device.
    pub unknown: u32,
}

impl FeedPage {
    /// Reads an answer to `GET /v1/feed`. `after` is the revision that the cursor asked with
    /// covers, 0 without a cursor: every record must be above it.
    pub fn parse(body: &[u8], after: u64) -> Result<Self, FeedError> {
        let (header, lines) = split(body)?;
        if header.more && header.count == 0 {
            return Err(FeedError::EmptyPage);
        }
        let mut page = Self {
            bindings: Vec::with_capacity(lines.len()),
            position: after,
            unrecognised: 0,
            unknown: 0,
            header,
        };
        for line in lines {
            page.take(FeedRecord::parse_line(line))?;
        }
        if page.position > page.header.head {
            return Err(FeedError::OutOfOrder);
        }
        if !page.header.more {
            page.position = page.header.head;
        }
        Ok(page)
    }

    fn take(&mut self, record: FeedRecord) -> Result<(), FeedError> {
        if let Some(revision) = record.revision() {
            if revision <= self.position {
                return Err(FeedError::OutOfOrder);
            }
            self.position = revision;
        }
        match record {
            FeedRecord::Binding(binding) => {
                if binding.state == BindingState::Unrecognised {
                    self.unrecognised = self.unrecognised.saturating_add(1);
                }
                self.bindings.push(binding);
            }
            FeedRecord::Unrecognised { names, .. } => {
                self.unrecognised = self.unrecognised.saturating_add(1);
                match names {
                    Named::Device(device) => self
                        .bindings
                        .push(unrecognised_binding(device, self.position)),
                    Named::Unknown => self.unknown = self.unknown.saturating_add(1),
                    Named::Other => {}
                }
            }
        }
        Ok(())
    }
}

/// An answer to `GET /v1/feed/devices/{device}`, read whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LookupAnswer {
    /// The header: its `head` is the revision up to which the answer holds.
    pub header: FeedHeader,
    /// The device that was asked for.
    pub device: DeviceId,
    /// Its binding; `None`: the registry has no such device.
    pub binding: Option<Binding>,
}

impl LookupAnswer {
    /// Reads the answer for `device`.
    pub fn parse(body: &[u8], device: &DeviceId) -> Result<Self, FeedError> {
        let (header, lines) = split(body)?;
        let mut lines = lines.into_iter();
        let binding = match (lines.next(), lines.next()) {
            (None, _) => None,
            (Some(line), None) => Some(match FeedRecord::parse_line(line) {
                FeedRecord::Binding(binding) => binding,
                FeedRecord::Unrecognised {
                    names: Named::Device(device),
                    revision,
                } => unrecognised_binding(device, revision.unwrap_or(header.head)),
                FeedRecord::Unrecognised { .. } => return Err(FeedError::Record),
            }),
            (Some(_), Some(_)) => return Err(FeedError::OtherDevice),
        };
        if binding.as_ref().is_some_and(|b| b.device != *device) {
            return Err(FeedError::OtherDevice);
        }
        if binding.as_ref().is_some_and(|b| b.revision > header.head) {
            return Err(FeedError::OutOfOrder);
        }
        Ok(Self {
            header,
            device: device.clone(),
            binding,
        })
    }
}

/// The path of a lookup of one device.
pub fn lookup_path(device: &DeviceId) -> String {
    format!("/v1/feed/devices/{device}")
}

/// The header and the lines after it, as many as it counts, each with its end.
fn split(body: &[u8]) -> Result<(FeedHeader, Vec<&[u8]>), FeedError> {
    if body.len() > MAX_BODY_OCTETS {
        return Err(FeedError::TooLarge);
    }
    let mut lines = body.split_inclusive(|&octet| octet == b'\n');
    let first = lines.next().ok_or(FeedError::Header)?;
    let header = read_header(first)?;
    if header.count > MAX_RECORDS {
        return Err(FeedError::TooLarge);
    }
    let count = usize::try_from(header.count).map_err(|_| FeedError::TooLarge)?;
    let mut records = Vec::with_capacity(count);
    for _ in 0..count {
        let line = lines.next().ok_or(FeedError::Truncated)?;
        records.push(line.strip_suffix(b"\n").ok_or(FeedError::Truncated)?);
    }
    if lines.next().is_some() {
        return Err(FeedError::TrailingData);
    }
    Ok((header, records))
}

/// The history that an answer is of, whatever else it says; `None` where that cannot be read.
pub fn history_of(body: &[u8]) -> Option<FeedId> {
    let first = body.split_inclusive(|&octet| octet == b'\n').next()?;
    Some(read_header(first).ok()?.feed)
}

fn read_header(line: &[u8]) -> Result<FeedHeader, FeedError> {
    /// Read first: an answer of another version may have another header.
    #[derive(Deserialize)]
    struct Version {
        version: u32,
    }
    if line.len() > MAX_LINE_OCTETS {
        return Err(FeedError::Header);
    }
    let line = line.strip_suffix(b"\n").ok_or(FeedError::Truncated)?;
    let Version { version } = serde_json::from_slice(line).map_err(|_| FeedError::Header)?;
    if version != FEED_VERSION {
        return Err(FeedError::Version(version));
    }
    serde_json::from_slice(line).map_err(|_| FeedError::Header)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    const HEADER: &str = r#"{"feed":"f1","version":1,"cursor":"c-2","more":false,"head":9,"count":2,"time":"2026-11-24T16:20:00Z"}"#;
    const SN1: &str = r#"{"kind":"binding","device":"acme:SN1","account":"acc-1","state":"active","class":"cgm","epoch":1,"expires_at":null,"pins":[],"revision":7}"#;
    const SN2: &str = r#"{"device":"acme:SN2","state":"unclaimed","revision":9}"#;

    fn body(lines: &[&str]) -> Vec<u8> {
        lines
            .iter()
            .flat_map(|line| [line, "\n"])
            .collect::<String>()
            .into_bytes()
    }

    #[test]
    fn a_binding_is_written_as_it_is_read() {
        let FeedRecord::Binding(binding) = FeedRecord::parse_line(SN1.as_bytes()) else {
            panic!("no binding");
        };
        assert_eq!(binding_line(&binding), format!("{SN1}\n").into_bytes());
    }

    #[test]
    fn a_header_is_written_as_it_is_read() {
        let header = read_header(format!("{HEADER}\n").as_bytes()).unwrap();
        assert_eq!(header.to_line(), format!("{HEADER}\n").into_bytes());
    }

    #[test]
    fn what_may_be_left_out_is_left_out() {
        let FeedRecord::Binding(binding) = FeedRecord::parse_line(SN2.as_bytes()) else {
            panic!("no binding");
        };
        assert_eq!(binding.epoch, Epoch::FIRST);
        assert_eq!(
            (binding.account, binding.class, binding.expires_at),
            (None, None, None)
        );
    }

    #[test]
    fn a_page_is_read_whole() {
        let page = FeedPage::parse(&body(&[HEADER, SN1, SN2]), 6).unwrap();
        assert_eq!(page.bindings.len(), 2);
        assert_eq!((page.position, page.unrecognised, page.unknown), (9, 0, 0));
    }

    #[test]
    fn an_answer_that_breaks_a_rule_is_refused_whole() {
        let more = HEADER.replace("false", "true").replace(":2,", ":0,");
        let version = HEADER.replace("\"version\":1", "\"version\":2");
        let low = HEADER.replace("\"head\":9", "\"head\":8");
        let huge = HEADER.replace("\"count\":2", "\"count\":5001");
        let cursor = HEADER.replace("c-2", "c 2");
        for (lines, after, error) in [
            (vec![], 0, FeedError::Header),
            (vec!["{}"], 0, FeedError::Header),
            (vec![cursor.as_str(), SN1, SN2], 0, FeedError::Header),
            (vec![SN1], 0, FeedError::Header),
            (vec![version.as_str(), SN1, SN2], 0, FeedError::Version(2)),
            (vec![HEADER, SN1], 0, FeedError::Truncated),
            (vec![HEADER, SN1, SN2, SN2], 0, FeedError::TrailingData),
            (vec![HEADER, SN2, SN1], 0, FeedError::OutOfOrder),
            (vec![HEADER, SN1, SN1], 0, FeedError::OutOfOrder),
            (vec![HEADER, SN1, SN2], 7, FeedError::OutOfOrder),
            (vec![low.as_str(), SN1, SN2], 0, FeedError::OutOfOrder),
            (vec![huge.as_str()], 0, FeedError::TooLarge),
            (vec![more.as_str()], 0, FeedError::EmptyPage),
        ] {
            assert_eq!(
                FeedPage::parse(&body(&lines), after),
                Err(error),
                "{lines:?}"
            );
        }
        let whole = body(&[HEADER, SN1, SN2]);
        for length in 0..whole.len() {
            assert!(FeedPage::parse(&whole[..length], 0).is_err(), "{length}");
        }
        let too_long = vec![b' '; MAX_BODY_OCTETS + 1];
        assert_eq!(FeedPage::parse(&too_long, 0), Err(FeedError::TooLarge));
    }

    #[test]
    fn a_head_that_went_back_is_out_of_order() {
        let header = HEADER.replace(":2,", ":0,");
        assert_eq!(
            FeedPage::parse(&body(&[&header]), 10),
            Err(FeedError::OutOfOrder)
        );
        assert!(FeedPage::parse(&body(&[&header]), 9).is_ok());
    }

    #[test]
    fn what_cannot_be_read_denies_what_it_names() {
        let device = || Named::Device("acme:SN1".parse().unwrap());
        let long = format!(
            r#"{{"device":"acme:SN1","x":"{}"}}"#,
            "x".repeat(MAX_LINE_OCTETS)
        );
        for (line, names, revision) in [
            (
                r#"{"kind":"grant","device":"acme:SN1","revision":3}"#,
                device(),
                Some(3),
            ),
            (r#"{"kind":"grant","revision":3}"#, Named::Other, Some(3)),
            (
                r#"{"kind":"grant","device":"?","revision":3}"#,
                Named::Unknown,
                Some(3),
            ),
            (r#"{"device":"acme:SN1","state":"active"}"#, device(), None),
            (
                r#"{"device":"acme:SN1","state":"active","revision":-1}"#,
                device(),
                None,
            ),
            (
                r#"{"device":"acme:SN1","state":7,"revision":4}"#,
                device(),
                Some(4),
            ),
            (
                r#"{"device":"acme:SN1","state":"active","epoch":0,"revision":4}"#,
                device(),
                Some(4),
            ),
            (
                r#"{"device":"acme:SN1","state":"active","account":"a b","revision":4}"#,
                device(),
                Some(4),
            ),
            (
                r#"{"device":"acme:SN1","state":"active","pins":["x"],"revision":4}"#,
                device(),
                Some(4),
            ),
            (
                r#"{"device":"acme:SN1","state":"active","expires_at":"soon","revision":4}"#,
                device(),
                Some(4),
            ),
            (
                r#"{"device":"acme:a/b","state":"active","revision":4}"#,
                Named::Unknown,
                Some(4),
            ),
            (
                r#"{"device":"acme:SN1","device":"acme:SN2","state":"active","revision":4}"#,
                Named::Unknown,
                None,
            ),
            (
                r#"{"state":"active","revision":4}"#,
                Named::Unknown,
                Some(4),
            ),
            ("", Named::Unknown, None),
            ("[]", Named::Unknown, None),
            ("{", Named::Unknown, None),
            (long.as_str(), Named::Unknown, None),
        ] {
            let record = FeedRecord::parse_line(line.as_bytes());
            assert_eq!(
                record,
                FeedRecord::Unrecognised { names, revision },
                "{line}"
            );
        }
        let line = br#"{"device":"acme:SN1","state":"paused","revision":4}"#;
        let FeedRecord::Binding(binding) = FeedRecord::parse_line(line) else {
            panic!("no binding");
        };
        assert_eq!(binding.state, BindingState::Unrecognised);
    }

    #[test]
    fn a_record_that_cannot_be_read_does_not_stop_the_feed() {
        let nameless = r#"{"device":"?","revision":8}"#;
        let page = FeedPage::parse(&body(&[HEADER, nameless, SN2]), 0).unwrap();
        assert_eq!(
            (page.bindings.len(), page.unrecognised, page.unknown),
            (1, 1, 1)
        );

        let unversioned = r#"{"device":"acme:SN3","state":"active"}"#;
        let page = FeedPage::parse(&body(&[HEADER, SN1, unversioned]), 0).unwrap();
        assert_eq!(page.bindings[1].state, BindingState::Unrecognised);
        assert_eq!(page.bindings[1].revision, 7);
        assert_eq!((page.unrecognised, page.unknown), (1, 0));
    }

    #[test]
    fn a_lookup_answers_for_the_device_that_was_asked_for() {
        let device: DeviceId = "acme:SN1".parse().unwrap();
        let one = HEADER.replace(":2,", ":1,");
        let none = HEADER.replace(":2,", ":0,");
        let found = LookupAnswer::parse(&body(&[&one, SN1]), &device).unwrap();
        assert_eq!(found.binding.unwrap().device, device);
        let absent = LookupAnswer::parse(&body(&[&none]), &device).unwrap();
        assert_eq!(absent.binding, None);
        let odd = r#"{"kind":"grant","device":"acme:SN1"}"#;
        let odd = LookupAnswer::parse(&body(&[&one, odd]), &device).unwrap();
        assert_eq!(odd.binding.unwrap().state, BindingState::Unrecognised);
        let above = SN1.replace(":7", ":10");
        for (lines, error) in [
            (vec![one.as_str(), SN2], FeedError::OtherDevice),
            (vec![HEADER, SN1, SN2], FeedError::OtherDevice),
            (vec![one.as_str(), "{}"], FeedError::Record),
            (vec![one.as_str(), above.as_str()], FeedError::OutOfOrder),
        ] {
            assert_eq!(
                LookupAnswer::parse(&body(&lines), &device),
                Err(error),
                "{lines:?}"
            );
        }
        assert_eq!(lookup_path(&device), "/v1/feed/devices/acme:SN1");
    }
}

#[cfg(all(test, not(target_arch = "wasm32")))]
mod properties {
    use proptest::prelude::*;

    use super::*;

    const WORDS: [&str; 14] = [
        "{",
        "}",
        "\"device\":\"acme:SN1\"",
        "\"kind\":\"binding\"",
        "\"state\":\"active\"",
        "\"revision\":7",
        "\"pins\":[]",
        ",",
        "\n",
        "\"feed\":\"f1\"",
        "\"count\":1",
        "\"version\":1",
        "null",
        "\u{0}",
    ];

    proptest! {
        #[test]
        fn no_octets_make_the_reader_panic(body in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = FeedPage::parse(&body, 0);
            FeedRecord::parse_line(&body);
        }

        #[test]
        fn no_words_of_the_feed_make_the_reader_panic(
            words in prop::collection::vec(prop::sample::select(&WORDS[..]), 0..30),
        ) {
            let body = words.concat();
            let _ = FeedPage::parse(body.as_bytes(), 0);
            if let FeedRecord::Binding(binding) = FeedRecord::parse_line(body.as_bytes()) {
                prop_assert_eq!(binding.device.as_str(), "acme:SN1");
            }
        }
    }
}
