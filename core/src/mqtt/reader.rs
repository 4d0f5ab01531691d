//! One packet after the other out of a stream that comes in pieces of any size (2.1, 2.2).
//!
//! What lies whole in a piece is not copied. Of what does not, the beginning is kept until the rest is
//! here: a packet, or the head of a PUBLISH, and never more octets than the budget. The payload of a
//! PUBLISH is not kept.

use super::acknowledgement::{Acknowledgement, Connack, Outcome, Reason};
use super::connect::Connect;
use super::fields::{Fields, Length};
use super::kind::{Kind, Origin, Version};
use super::malformed::Malformed;
use super::publish::{Head, Publish, head_of, qos_of};
use super::subscribe::{Subscribe, Unsubscribe};

/// The smallest budget: the fixed header of any packet, and the head of a small one.
const LEAST_BUDGET: usize = 64;

/// A packet, read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Packet<'a> {
    /// CONNECT.
    Connect(Connect<'a>),
    /// CONNACK.
    Connack(Connack<'a>),
    /// PUBLISH: its head. The payload comes after it.
    Publish(Publish<'a>),
    /// PUBACK.
    Puback(Acknowledgement<'a>),
    /// PUBREC.
    Pubrec(Acknowledgement<'a>),
    /// PUBREL.
    Pubrel(Acknowledgement<'a>),
    /// PUBCOMP.
    Pubcomp(Acknowledgement<'a>),
    /// SUBSCRIBE.
    Subscribe(Subscribe<'a>),
    /// SUBACK.
    Suback(Outcome<'a>),
    /// UNSUBSCRIBE.
    Unsubscribe(Unsubscribe<'a>),
    /// UNSUBACK.
    Unsuback(Outcome<'a>),
    /// PINGREQ.
    Pingreq,
    /// PINGRESP.
    Pingresp,
    /// DISCONNECT.
    Disconnect(Reason<'a>),
    /// AUTH.
    Auth(Reason<'a>),
}

/// What comes next in a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Piece<'a> {
    /// A packet, and its octets as they came; of a PUBLISH its head's.
    Packet(Packet<'a>, &'a [u8]),
    /// Octets of the payload of the PUBLISH whose head came last.
    Payload(&'a [u8]),
}

/// Reads what one side of a connection sends.
#[derive(Debug)]
pub struct Reader {
    origin: Origin,
    version: Option<Version>,
    budget: usize,
    /// The beginning of a packet whose rest has not come.
    kept: Vec<u8>,
    /// Whether `kept` was given out, and is to be forgotten.
    given: bool,
    /// How much of a payload is still to come.
    payload: u32,
}

impl Reader {
    /// Of what `origin` sends. Keeps at most `budget` octets, in which a packet must fit that is read
    /// whole, and the head of a PUBLISH.
    ///
    /// Until [`Reader::speaks`] says which MQTT it is, nothing but a CONNECT can be read.
    pub fn new(origin: Origin, budget: usize) -> Self {
        Self {
            origin,
            version: None,
            budget: budget.max(LEAST_BUDGET),
            kept: Vec::new(),
            given: false,
            payload: 0,
        }
    }

    /// It is this MQTT from now on, as the CONNECT says.
    pub const fn speaks(&mut self, version: Version) {
        self.version = Some(version);
    }

    /// How many octets are kept, at most the budget.
    pub fn kept(&self) -> usize {
        if self.given { 0 } else { self.kept.len() }
    }

    /// Whether a payload has begun that has not ended.
    pub const fn is_in_payload(&self) -> bool {
        self.payload > 0
    }

    /// Takes the next piece from the front of `input`; `None` once all of it is taken, and what could
    /// not be given yet is kept.
    ///
    /// # Errors
    ///
    /// What came is no MQTT, or more than may be kept. Nothing that comes after it can be read.
    pub fn next<'a, 'i: 'a>(
        &'a mut self,
        input: &mut &'i [u8],
    ) -> Result<Option<Piece<'a>>, Malformed> {
        if self.given {
            self.given = false;
            self.kept.clear();
            // A connection that has had one large packet does not hold on to its room.
            self.kept.shrink_to(LEAST_BUDGET);
        }
        if self.payload > 0 {
            return Ok(self.next_of_payload(input));
        }
        if self.kept.is_empty()
            && let Head::Is(octets) = self.extent(input)?
            && let Some((whole, rest)) = input.split_at_checked(octets)
        {
            *input = rest;
            let packet = read(whole, self.version)?;
            self.payload = payload_of(&packet);
            return Ok(Some(Piece::Packet(packet, whole)));
        }
        loop {
            let (Head::Is(wanted) | Head::AtLeast(wanted)) = match self.extent(&self.kept)? {
                Head::Is(octets) if octets <= self.kept.len() => break,
                extent @ (Head::Is(_) | Head::AtLeast(_)) => extent,
            };
            let wanted = wanted.saturating_sub(self.kept.len()).max(1);
            let (first, rest) = input
                .split_at_checked(wanted)
                .unwrap_or((input, Default::default()));
            self.kept.extend_from_slice(first);
            *input = rest;
            if first.len() < wanted {
                return Ok(None);
            }
        }
        self.given = true;
        let packet = read(&self.kept, self.version)?;
        self.payload = payload_of(&packet);
        Ok(Some(Piece::Packet(packet, &self.kept)))
    }

    fn next_of_payload<'a>(&mut self, input: &mut &'a [u8]) -> Option<Piece<'a>> {
        let most = usize::try_from(self.payload).unwrap_or(usize::MAX);
        let (payload, rest) = input.split_at_checked(most.min(input.len()))?;
        if payload.is_empty() {
            return None;
        }
        *input = rest;
        let taken = u32::try_from(payload.len()).unwrap_or(u32::MAX);
        self.payload = self.payload.saturating_sub(taken);
        Some(Piece::Payload(payload))
    }

    /// How many octets are to be read at once of a packet that begins with `octets`.
    fn extent(&self, octets: &[u8]) -> Result<Head, Malformed> {
        let Some((&first, rest)) = octets.split_first() else {
            return Ok(Head::AtLeast(2));
        };
        // What is wrong with the first octet is said before the others are waited for.
        let kind = Kind::read(first, self.origin, self.version)?;
        match (kind, self.version) {
            (Kind::Connect, None) => {}
            (Kind::Connect, Some(_)) => return Err(Malformed::SecondConnect),
            (_, None) => return Err(Malformed::BeforeConnect(kind)),
            (_, Some(_)) => {}
        }
        let Some(length) = Length::read(rest)? else {
            return Ok(Head::AtLeast(octets.len().saturating_add(1)));
        };
        check_length(length, self.version)?;
        let body = usize::try_from(length.value).unwrap_or(usize::MAX);
        let head = match (kind, self.version) {
            (Kind::Publish, Some(version)) => {
                let begun = rest.get(length.octets..).unwrap_or_default();
                let begun = begun.get(..body).unwrap_or(begun);
                head_of(begun, body, qos_of(first)?, version)?
            }
            _ => Head::Is(body),
        };
        let before = length.octets.saturating_add(1);
        let bounded = |octets: usize| {
            let octets = octets.saturating_add(before);
            if octets > self.budget {
                return Err(Malformed::TooLarge {
                    kind,
                    octets,
                    budget: self.budget,
                });
            }
            Ok(octets)
        };
        match head {
            Head::Is(octets) => bounded(octets).map(Head::Is),
            Head::AtLeast(octets) => bounded(octets).map(Head::AtLeast),
        }
    }
}

/// In 5.0 a length has no octet too many. Before the CONNECT is read it is not known whether this is
/// 5.0.
fn check_length(length: Length, version: Option<Version>) -> Result<(), Malformed> {
    if version == Some(Version::V5) && !length.is_minimal() {
        return Err(Malformed::LengthNotMinimal);
    }
    Ok(())
}

/// How much payload comes after it.
const fn payload_of(packet: &Packet<'_>) -> u32 {
    if let Packet::Publish(publish) = packet {
        publish.payload_octets
    } else {
        0
    }
}

/// A packet, or the head of a PUBLISH, whose octets are all there. `None` for the version: it is a
/// CONNECT.
fn read(octets: &[u8], version: Option<Version>) -> Result<Packet<'_>, Malformed> {
    let (&first, rest) = octets.split_first().ok_or(Malformed::CutShort)?;
    let length = Length::read(rest)?.ok_or(Malformed::CutShort)?;
    let body = rest.get(length.octets..).ok_or(Malformed::CutShort)?;
    let kind = Kind::of(first)?;
    let Some(version) = version else {
        let connect = Connect::read(body)?;
        check_length(length, Some(connect.version))?;
        return Ok(Packet::Connect(connect));
    };
    Ok(match kind {
        Kind::Connect => return Err(Malformed::SecondConnect),
        Kind::Connack => Packet::Connack(Connack::read(body, version)?),
        Kind::Publish => {
            let octets = usize::try_from(length.value).unwrap_or(usize::MAX);
            Packet::Publish(Publish::read(first, body, octets, version)?)
        }
        Kind::Puback => Packet::Puback(Acknowledgement::read(body, version)?),
        Kind::Pubrec => Packet::Pubrec(Acknowledgement::read(body, version)?),
        Kind::Pubrel => Packet::Pubrel(Acknowledgement::read(body, version)?),
        Kind::Pubcomp => Packet::Pubcomp(Acknowledgement::read(body, version)?),
        Kind::Subscribe => Packet::Subscribe(Subscribe::read(body, version)?),
        Kind::Suback => Packet::Suback(Outcome::read(body, version)?),
        Kind::Unsubscribe => Packet::Unsubscribe(Unsubscribe::read(body, version)?),
        Kind::Unsuback => Packet::Unsuback(Outcome::read(body, version)?),
        Kind::Pingreq => nothing(body, Packet::Pingreq)?,
        Kind::Pingresp => nothing(body, Packet::Pingresp)?,
        Kind::Disconnect => Packet::Disconnect(Reason::read(body, version, kind)?),
        Kind::Auth => Packet::Auth(Reason::read(body, version, kind)?),
    })
}

/// A packet without a body.
fn nothing<'a>(body: &[u8], packet: Packet<'a>) -> Result<Packet<'a>, Malformed> {
    Fields::new(body).end()?;
    Ok(packet)
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    const BUDGET: usize = 1_024;

    /// A packet, or the whole payload of a PUBLISH, in octets of its own.
    #[derive(Clone, Debug, PartialEq, Eq)]
    enum Got {
        Packet(String, Vec<u8>),
        Payload(Vec<u8>),
    }

    /// All that is read from `segments`, payloads joined, and what ended it.
    fn all(
        origin: Origin,
        version: Option<Version>,
        segments: &[&[u8]],
    ) -> (Vec<Got>, Result<(), Malformed>) {
        let mut reader = Reader::new(origin, BUDGET);
        if let Some(version) = version {
            reader.speaks(version);
        }
        let mut got = Vec::new();
        for segment in segments {
            let mut input = *segment;
            loop {
                let mut speaks = None;
                match reader.next(&mut input) {
                    Ok(None) => break,
                    Ok(Some(Piece::Packet(packet, octets))) => {
                        if let Packet::Connect(connect) = &packet {
                            speaks = Some(connect.version);
                        }
                        got.push(Got::Packet(format!("{packet:?}"), octets.to_vec()));
                    }
                    Ok(Some(Piece::Payload(octets))) => match got.last_mut() {
                        Some(Got::Payload(before)) => before.extend_from_slice(octets),
                        _ => got.push(Got::Payload(octets.to_vec())),
                    },
                    Err(error) => return (got, Err(error)),
                }
                if let Some(version) = speaks {
                    reader.speaks(version);
                }
                assert!(reader.kept() <= BUDGET);
            }
            assert!(input.is_empty());
        }
        (got, Ok(()))
    }

    fn one(origin: Origin, version: Version, octets: &[u8]) -> Result<usize, Malformed> {
        let (got, result) = all(origin, Some(version), &[octets]);
        result.map(|()| got.len())
    }

    const CONNECT_V3: &[u8] = b"\x10\x0f\0\x04MQTT\x04\x02\0\x3c\0\x03abc";
    const CONNECT_V5: &[u8] = b"\x10\x10\0\x04MQTT\x05\x02\0\x3c\0\0\x03abc";
    const V3: Version = Version::V3;
    const V5: Version = Version::V5;

    #[test]
    fn nothing_comes_before_the_connect_and_no_other_after_it() {
        for connect in [CONNECT_V3, CONNECT_V5] {
            let (got, result) = all(Origin::Client, None, &[connect, b"\xc0\0"]);
            assert_eq!((got.len(), result), (2, Ok(())));
            let twice = [connect, connect].concat();
            let (got, result) = all(Origin::Client, None, &[&twice]);
            assert_eq!((got.len(), result), (1, Err(Malformed::SecondConnect)));
        }
        for (octets, kind) in [
            (&b"\xc0\0"[..], Kind::Pingreq),
            (b"\x30", Kind::Publish),
            (b"\xf0", Kind::Auth),
        ] {
            let (got, result) = all(Origin::Client, None, &[octets]);
            assert_eq!(
                (got.len(), result),
                (0, Err(Malformed::BeforeConnect(kind)))
            );
        }
    }

    #[test]
    fn each_side_sends_what_it_may_with_the_flags_that_it_has() {
        use Origin::{Broker, Client};
        for (origin, version, octets, expected) in [
            (Client, V3, &[0x00, 0][..], Err(Malformed::Type(0))),
            (Client, V3, &[0xF0, 0], Err(Malformed::Type(15))),
            (Client, V5, &[0xF0, 0], Ok(1)),
            (Client, V3, &[0xC0, 0], Ok(1)),
            (Client, V3, &[0xC1, 0], Err(Malformed::Flags(Kind::Pingreq))),
            (Client, V3, &[0xC0, 1, 0], Err(Malformed::Trailing)),
            (
                Broker,
                V3,
                &[0xC0, 0],
                Err(Malformed::Direction(Kind::Pingreq)),
            ),
            (Broker, V3, &[0xD0, 0], Ok(1)),
            (
                Client,
                V3,
                &[0xD0, 0],
                Err(Malformed::Direction(Kind::Pingresp)),
            ),
            (Client, V3, &[0xE0, 0], Ok(1)),
            (Client, V3, &[0xE0, 1, 0], Err(Malformed::Trailing)),
            (Client, V5, &[0xE0, 1, 4], Ok(1)),
            (Client, V5, &[0xE0, 2, 4, 0], Ok(1)),
            (Client, V5, &[0xE0, 3, 4, 0, 0], Err(Malformed::Trailing)),
            (Broker, V5, &[0xE0, 2, 0x98, 0], Ok(1)),
            (
                Broker,
                V3,
                &[0xE0, 0],
                Err(Malformed::Direction(Kind::Disconnect)),
            ),
            (Client, V3, &[0x40, 2, 0, 1], Ok(1)),
            (
                Client,
                V3,
                &[0x40, 2, 0, 0],
                Err(Malformed::PacketIdentifier),
            ),
            (Client, V3, &[0x40, 3, 0, 1, 0], Err(Malformed::Trailing)),
            (Client, V5, &[0x40, 3, 0, 1, 0x10], Ok(1)),
            (Client, V5, &[0x40, 4, 0, 1, 0x10, 0], Ok(1)),
            (Client, V3, &[0x62, 2, 0, 1], Ok(1)),
            (
                Client,
                V3,
                &[0x60, 2, 0, 1],
                Err(Malformed::Flags(Kind::Pubrel)),
            ),
            (Broker, V3, &[0x20, 2, 1, 0], Ok(1)),
            (Broker, V3, &[0x20, 2, 2, 0], Err(Malformed::ConnackFlags)),
            (Broker, V5, &[0x20, 3, 0, 0, 0], Ok(1)),
            (Broker, V5, &[0x20, 2, 0, 0], Err(Malformed::CutShort)),
            (Broker, V3, &[0x90, 4, 0, 1, 0, 0x80], Ok(1)),
            (Broker, V5, &[0x90, 4, 0, 1, 0, 0x87], Ok(1)),
            (Broker, V3, &[0xB0, 2, 0, 1], Ok(1)),
            // 5.0 has no octet too many in a length; 3.1.1 does not say.
            (Client, V3, &[0xC0, 0x80, 0], Ok(1)),
            (
                Client,
                V5,
                &[0xC0, 0x80, 0],
                Err(Malformed::LengthNotMinimal),
            ),
            (
                Client,
                V3,
                &[0xC0, 0xFF, 0xFF, 0xFF, 0xFF],
                Err(Malformed::LongLength),
            ),
        ] {
            assert_eq!(one(origin, version, octets), expected, "{octets:02x?}");
        }
    }

    #[test]
    fn a_publish_is_its_head_and_a_payload_that_is_not_kept() {
        let octets = b"\x3b\x0c\0\x03a/b\0\x07pay!!";
        let (got, result) = all(Origin::Client, Some(V3), &[octets]);
        assert_eq!(result, Ok(()));
        assert_eq!(got.len(), 2);
        assert_eq!(got[1], Got::Payload(b"pay!!".to_vec()));
        let mut reader = Reader::new(Origin::Client, BUDGET);
        reader.speaks(V3);
        let mut input = &octets[..9];
        let Ok(Some(Piece::Packet(Packet::Publish(publish), head))) = reader.next(&mut input)
        else {
            panic!("no head");
        };
        assert_eq!(head, &octets[..9]);
        assert!(
            publish.retain && publish.duplicate && publish.qos == super::super::QoS::AtLeastOnce
        );
        assert_eq!(publish.packet_identifier.unwrap().get(), 7);
        assert_eq!(publish.topic.unwrap().as_str(), "a/b");
        assert_eq!(publish.payload_octets, 5);
        assert!(reader.is_in_payload() && reader.kept() == 0);
        let mut input = &octets[9..];
        assert_eq!(reader.next(&mut input), Ok(Some(Piece::Payload(b"pay!!"))));
        assert!(!reader.is_in_payload());
    }

    #[test]
    fn a_publish_says_one_topic_and_says_it_well() {
        for (version, octets, expected) in [
            (V3, &b"\x30\x03\0\x01a"[..], Ok(1)),
            (V3, b"\x36\x05\0\x01a\0\x01", Err(Malformed::QoS)),
            (V3, b"\x38\x03\0\x01a", Err(Malformed::Duplicate)),
            (V3, b"\x32\x05\0\x01a\0\0", Err(Malformed::PacketIdentifier)),
            (V3, b"\x32\x03\0\x01a", Err(Malformed::CutShort)),
            (V3, b"\x30\x02\0\0", Err(Malformed::EmptyTopic)),
            (V3, b"\x30\x01\0", Err(Malformed::CutShort)),
            (V3, b"\x30\0", Err(Malformed::CutShort)),
            (V3, b"\x30\x03\0\x01#", Err(Malformed::WildcardInName)),
            (V3, b"\x30\x03\0\x01\0", Err(Malformed::Nul)),
            (V3, b"\x30\x03\0\x02a", Err(Malformed::CutShort)),
            (V5, b"\x30\x04\0\x01a\0", Ok(1)),
            (V5, b"\x30\x03\0\x01a", Err(Malformed::CutShort)),
            (V5, b"\x30\x04\0\x01a\x01", Err(Malformed::CutShort)),
            (V5, b"\x30\x03\0\0\0", Err(Malformed::EmptyTopic)),
            (V5, b"\x30\x06\0\0\x03\x23\0\x05", Ok(1)),
            (
                V5,
                b"\x30\x08\0\x01a\x04\x08\0\x01+",
                Err(Malformed::WildcardInName),
            ),
            (
                V5,
                b"\x30\x07\0\x01a\x03\x08\0\0",
                Err(Malformed::EmptyTopic),
            ),
        ] {
            assert_eq!(
                one(Origin::Client, version, octets),
                expected,
                "{octets:02x?}"
            );
        }
    }

    #[test]
    fn a_connect_says_what_the_standard_lets_it_say() {
        for (octets, expected) in [
            (CONNECT_V3, Ok(())),
            (CONNECT_V5, Ok(())),
            (
                b"\x10\x0e\0\x06MQIsdp\x03\x02\0\0\0\0",
                Err(Malformed::ProtocolVersion(3)),
            ),
            (
                b"\x10\x0c\0\x04MQTT\x06\x02\0\0\0\0",
                Err(Malformed::ProtocolVersion(6)),
            ),
            (
                b"\x10\x0c\0\x04mqtt\x04\x02\0\0\0\0",
                Err(Malformed::ProtocolName),
            ),
            (
                b"\x10\x0c\0\x04MQTT\x04\x01\0\0\0\0",
                Err(Malformed::ReservedFlag),
            ),
            (
                b"\x10\x0c\0\x04MQTT\x04\x08\0\0\0\0",
                Err(Malformed::WillFlags),
            ),
            (
                b"\x10\x0c\0\x04MQTT\x04\x20\0\0\0\0",
                Err(Malformed::WillFlags),
            ),
            (
                b"\x10\x10\0\x04MQTT\x04\x1c\0\0\0\0\0\x01a\0",
                Err(Malformed::QoS),
            ),
            (
                b"\x10\x0e\0\x04MQTT\x04\x40\0\0\0\0\0\0",
                Err(Malformed::PasswordAlone),
            ),
            // 5.0 lets a password stand alone.
            (b"\x10\x0f\0\x04MQTT\x05\x40\0\0\0\0\0\0\0", Ok(())),
            (
                b"\x10\x11\0\x04MQTT\x04\x04\0\0\0\0\0\x01+\0\0",
                Err(Malformed::WildcardInName),
            ),
            (
                b"\x10\x0d\0\x04MQTT\x04\x02\0\0\0\0x",
                Err(Malformed::Trailing),
            ),
            (
                b"\x10\x0b\0\x04MQTT\x04\x02\0\0\0",
                Err(Malformed::CutShort),
            ),
            // As long as it says, in an octet too many.
            (
                b"\x10\x8d\0\0\x04MQTT\x05\x02\0\0\0\0\0",
                Err(Malformed::LengthNotMinimal),
            ),
            (b"\x10\x8c\0\0\x04MQTT\x04\x02\0\0\0\0", Ok(())),
        ] {
            let (_, result) = all(Origin::Client, None, &[octets]);
            assert_eq!(result, expected, "{octets:02x?}");
        }
    }

    #[test]
    fn what_is_subscribed_to_is_said_well() {
        for (version, octets, expected) in [
            (V3, &b"\x82\x06\0\x01\0\x01#\x02"[..], Ok(1)),
            (
                V3,
                b"\x82\x06\0\x01\0\x01#\x03",
                Err(Malformed::SubscriptionOptions),
            ),
            (
                V3,
                b"\x82\x06\0\x01\0\x01#\x04",
                Err(Malformed::SubscriptionOptions),
            ),
            (V3, b"\x82\x02\0\x01", Err(Malformed::NoFilter)),
            (V3, b"\x82\x05\0\x01\0\x01#", Err(Malformed::CutShort)),
            (
                V3,
                b"\x82\x06\0\0\0\x01#\0",
                Err(Malformed::PacketIdentifier),
            ),
            (
                V3,
                b"\x80\x06\0\x01\0\x01#\0",
                Err(Malformed::Flags(Kind::Subscribe)),
            ),
            (V3, b"\x82\x05\0\x01\0\0\0", Err(Malformed::EmptyTopic)),
            (V5, b"\x82\x07\0\x01\0\0\x01#\x2e", Ok(1)),
            (
                V5,
                b"\x82\x07\0\x01\0\0\x01#\x30",
                Err(Malformed::SubscriptionOptions),
            ),
            (
                V5,
                b"\x82\x07\0\x01\0\0\x01#\x40",
                Err(Malformed::SubscriptionOptions),
            ),
            (V5, b"\x82\x10\0\x01\0\0\x0a$share/g/a\0", Ok(1)),
            (
                V5,
                b"\x82\x10\0\x01\0\0\x0a$share/g/a\x04",
                Err(Malformed::SubscriptionOptions),
            ),
            (V3, b"\xa2\x05\0\x01\0\x01#", Ok(1)),
            (V3, b"\xa2\x02\0\x01", Err(Malformed::NoFilter)),
            (V5, b"\xa2\x06\0\x01\0\0\x01#", Ok(1)),
            (V5, b"\xa2\x06\0\x01\0\0\x02##", Err(Malformed::CutShort)),
        ] {
            assert_eq!(
                one(Origin::Client, version, octets),
                expected,
                "{octets:02x?}"
            );
        }
    }

    #[test]
    fn no_more_is_kept_than_may_be_and_a_payload_is_not() {
        // 1,025 octets: one more than the budget.
        let mut subscribe = b"\x82\xfe\x07\0\x01".to_vec();
        subscribe.resize(1_025, b'a');
        assert_eq!(
            one(Origin::Client, V3, &subscribe),
            Err(Malformed::TooLarge {
                kind: Kind::Subscribe,
                octets: 1_025,
                budget: BUDGET
            })
        );
        // Said as soon as it is known.
        assert!(one(Origin::Client, V3, &subscribe[..3]).is_err());
        // A payload of 2 MiB in one packet, of which little comes.
        let mut publish = b"\x30\x83\x80\x80\x01\0\x01a".to_vec();
        publish.resize(500_000, b'x');
        let (got, result) = all(Origin::Client, Some(V3), &[&publish]);
        assert_eq!((got.len(), result), (2, Ok(())));
        // A topic beyond the budget.
        assert!(matches!(
            one(Origin::Client, V3, b"\x30\xff\x7f\x04\0"),
            Err(Malformed::TooLarge {
                kind: Kind::Publish,
                ..
            })
        ));
        // Properties beyond the budget.
        assert!(matches!(
            one(Origin::Client, V5, b"\x30\xff\x7f\0\x01a\xff\x0f"),
            Err(Malformed::TooLarge {
                kind: Kind::Publish,
                ..
            })
        ));
        // A CONNECT beyond it.
        let (_, result) = all(Origin::Client, None, &[b"\x10\xff\x7f"]);
        assert!(matches!(result, Err(Malformed::TooLarge { .. })));
    }

    #[cfg(not(target_arch = "wasm32"))]
    mod native {
        use core::num::NonZeroU16;

        use proptest::collection::vec;
        use proptest::prelude::*;

        use super::*;
        use crate::mqtt::properties::Properties;
        use crate::mqtt::{QoS, TopicName, Will};

        fn properties() -> impl Strategy<Value = Vec<u8>> {
            vec(
                prop_oneof![
                    Just(b"\x26\0\x01k\0\x02vv".to_vec()),
                    Just(b"\x26\0\0\0\0".to_vec()),
                ],
                0..3,
            )
            .prop_map(|all| all.concat())
        }

        fn read_properties(octets: &[u8]) -> Properties<'_> {
            // Of a DISCONNECT, since all may have these.
            Properties::known_good(octets)
        }

        fn identifier() -> impl Strategy<Value = NonZeroU16> {
            (1..=u16::MAX).prop_map(|number| NonZeroU16::new(number).unwrap())
        }

        fn qos() -> impl Strategy<Value = QoS> {
            prop::sample::select(QoS::ALL.to_vec())
        }

        fn connect(version: Version) -> impl Strategy<Value = Vec<u8>> {
            let will = (
                qos(),
                any::<bool>(),
                properties(),
                "[a-z]{1,9}",
                vec(any::<u8>(), 0..20),
            );
            (
                any::<bool>(),
                any::<u16>(),
                properties(),
                "[a-z]{0,9}",
                prop::option::of(will),
                prop::option::of("[a-z]{0,9}"),
                prop::option::of(vec(any::<u8>(), 0..20)),
            )
                .prop_map(
                    move |(clean_start, keep_alive, of_packet, id, will, name, password)| {
                        let v5 = version == Version::V5;
                        let of = |octets: &'_ [u8]| if v5 { octets.to_vec() } else { Vec::new() };
                        let of_packet = of(&of_packet);
                        let will = will.map(|(q, r, p, t, l)| (q, r, of(&p), t, l));
                        let connect = Connect {
                            version,
                            clean_start,
                            keep_alive,
                            properties: read_properties(&of_packet),
                            client_id: &id,
                            will: will
                                .as_ref()
                                .map(|(qos, retain, properties, topic, payload)| Will {
                                    qos: *qos,
                                    retain: *retain,
                                    properties: read_properties(properties),
                                    topic: TopicName::new(topic).unwrap(),
                                    payload,
                                }),
                            user_name: name.as_deref(),
                            password: password.as_deref().filter(|_| v5 || name.is_some()),
                        };
                        let octets = connect.write().unwrap();
                        // What is written reads as what was meant.
                        let Ok(Packet::Connect(again)) = read(&octets, None) else {
                            panic!("{octets:02x?}");
                        };
                        assert!(again == connect);
                        octets
                    },
                )
        }

        fn publish(version: Version) -> impl Strategy<Value = Vec<u8>> {
            (
                qos(),
                any::<bool>(),
                any::<bool>(),
                "[a-z/]{1,20}",
                identifier(),
                properties(),
                vec(any::<u8>(), 0..300),
            )
                .prop_map(
                    move |(qos, retain, again, topic, id, properties, payload)| {
                        let publish = Publish {
                            duplicate: again && qos != QoS::AtMostOnce,
                            qos,
                            retain,
                            topic: Some(TopicName::new(&topic).unwrap()),
                            packet_identifier: (qos != QoS::AtMostOnce).then_some(id),
                            properties: if version == Version::V5 {
                                read_properties(&properties)
                            } else {
                                Properties::NONE
                            },
                            payload_octets: u32::try_from(payload.len()).unwrap(),
                        };
                        let octets = [publish.write(version).unwrap(), payload].concat();
                        let mut reader = Reader::new(Origin::Client, BUDGET);
                        reader.speaks(version);
                        let mut input = &octets[..];
                        let Ok(Some(Piece::Packet(Packet::Publish(read), _))) =
                            reader.next(&mut input)
                        else {
                            panic!("{octets:02x?}");
                        };
                        assert_eq!(read, publish);
                        octets
                    },
                )
        }

        fn small(version: Version) -> impl Strategy<Value = Vec<u8>> {
            let of = |v3: &'static [u8], v5: &'static [u8]| {
                Just(if version == Version::V3 { v3 } else { v5 }.to_vec())
            };
            prop_oneof![
                of(b"\xc0\0", b"\xc0\0"),
                of(b"\x40\x02\0\x01", b"\x40\x04\0\x01\x87\0"),
                of(b"\x50\x02\0\x02", b"\x50\x03\0\x02\0"),
                of(b"\x62\x02\0\x02", b"\x62\x02\0\x02"),
                of(b"\x82\x06\0\x01\0\x01#\x01", b"\x82\x07\0\x01\0\0\x01#\x2e"),
                of(b"\xa2\x05\0\x01\0\x01#", b"\xa2\x06\0\x01\0\0\x01#"),
            ]
        }

        fn session() -> impl Strategy<Value = Vec<Vec<u8>>> {
            prop::sample::select(Version::ALL.to_vec()).prop_flat_map(|version| {
                (
                    connect(version),
                    vec(prop_oneof![publish(version), small(version)], 0..8),
                )
                    .prop_map(|(connect, mut packets)| {
                        packets.insert(0, connect);
                        packets
                    })
            })
        }

        fn cut<'a>(octets: &'a [u8], cuts: &[usize]) -> Vec<&'a [u8]> {
            let mut cuts: Vec<_> = cuts.iter().map(|cut| cut % (octets.len() + 1)).collect();
            cuts.push(0);
            cuts.push(octets.len());
            cuts.sort_unstable();
            cuts.windows(2)
                .map(|ends| &octets[ends[0]..ends[1]])
                .collect()
        }

        proptest! {
            #[test]
            fn any_split_of_a_session_gives_the_same_packets(
                packets in session(),
                cuts in vec(any::<usize>(), 0..20),
            ) {
                let octets = packets.concat();
                let whole = all(Origin::Client, None, &[&octets]);
                prop_assert_eq!(&whole.1, &Ok(()));
                prop_assert_eq!(&whole, &all(Origin::Client, None, &cut(&octets, &cuts)));
                let single: Vec<_> = octets.chunks(1).collect();
                prop_assert_eq!(&whole, &all(Origin::Client, None, &single));
                // And what is given is what came, each octet once.
                let given = whole.0.iter().flat_map(|got| match got {
                    Got::Packet(_, octets) | Got::Payload(octets) => octets.clone(),
                });
                prop_assert_eq!(given.collect::<Vec<_>>(), octets);
                let heads = whole.0.iter().filter(|got| matches!(got, Got::Packet(..)));
                prop_assert_eq!(heads.count(), packets.len());
            }

            #[test]
            fn no_octets_make_it_panic_or_keep_more_than_it_may(
                packets in session(),
                damage in vec((any::<usize>(), any::<u8>()), 0..6),
                noise in vec(any::<u8>(), 0..100),
                cuts in vec(any::<usize>(), 0..20),
            ) {
                let mut octets = packets.concat();
                for (place, octet) in damage {
                    let place = place % octets.len();
                    octets[place] = octet;
                }
                octets.extend_from_slice(&noise);
                let whole = all(Origin::Client, None, &[&octets]);
                prop_assert_eq!(&whole, &all(Origin::Client, None, &cut(&octets, &cuts)));
                for origin in [Origin::Client, Origin::Broker] {
                    for version in Version::ALL {
                        let whole = all(origin, Some(version), &[&noise]);
                        let split = all(origin, Some(version), &cut(&noise, &cuts));
                        prop_assert_eq!(whole, split);
                    }
                }
            }
        }
    }
}
