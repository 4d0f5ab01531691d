//! PUBLISH (3.3): its head. The payload streams by.

use core::num::NonZeroU16;

use super::fields::{Body, Fields, Length};
use super::kind::{Kind, QoS, Version};
use super::malformed::Malformed;
use super::properties::{Place, Properties, PropertyId};
use super::topic::TopicName;

/// The head of a PUBLISH: all but its payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Publish<'a> {
    /// Sent again (3.3.1.1).
    pub duplicate: bool,
    /// How it is delivered.
    pub qos: QoS,
    /// Whether it is kept for later subscribers.
    pub retain: bool,
    /// Where to; `None` where a topic alias says it, which is there then (5.0, 3.3.2.1).
    pub topic: Option<TopicName<'a>>,
    /// Its packet identifier: with `QoS` 1 and 2, and with no other.
    pub packet_identifier: Option<NonZeroU16>,
    /// Its properties.
    pub properties: Properties<'a>,
    /// How many octets of payload follow.
    pub payload_octets: u32,
}

/// How long a head is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Head {
    Is(usize),
    /// That many octets have to be there to say more.
    AtLeast(usize),
}

/// How many octets of a PUBLISH's body are its head, as far as `begun` says, with which the body of
/// `length` octets begins. The head is never longer than the body.
pub(super) fn head_of(
    begun: &[u8],
    length: usize,
    qos: QoS,
    version: Version,
) -> Result<Head, Malformed> {
    let head = head(begun, qos, version)?;
    let (Head::Is(octets) | Head::AtLeast(octets)) = head;
    if octets > length {
        return Err(Malformed::CutShort);
    }
    Ok(head)
}

fn head(begun: &[u8], qos: QoS, version: Version) -> Result<Head, Malformed> {
    let Some((topic, _)) = begun.split_first_chunk::<2>() else {
        return Ok(Head::AtLeast(2));
    };
    let identifier = match qos {
        QoS::AtMostOnce => 0,
        QoS::AtLeastOnce | QoS::ExactlyOnce => 2,
    };
    let topic = usize::from(u16::from_be_bytes(*topic));
    let before = topic.saturating_add(identifier).saturating_add(2);
    match version {
        Version::V3 => Ok(Head::Is(before)),
        Version::V5 => {
            let properties = begun.get(before..).unwrap_or_default();
            let Some(length) = Length::read(properties)? else {
                let there = before.saturating_add(properties.len());
                return Ok(Head::AtLeast(there.saturating_add(1)));
            };
            let octets = usize::try_from(length.value).unwrap_or(usize::MAX);
            let head = before.saturating_add(length.octets).saturating_add(octets);
            Ok(Head::Is(head))
        }
    }
}

impl<'a> Publish<'a> {
    /// From the first octet and the head of a body of `length` octets.
    pub(super) fn read(
        first: u8,
        head: &'a [u8],
        length: usize,
        version: Version,
    ) -> Result<Self, Malformed> {
        let qos = qos_of(first)?;
        let duplicate = first & 0b1000 != 0;
        if duplicate && qos == QoS::AtMostOnce {
            return Err(Malformed::Duplicate);
        }
        let mut fields = Fields::new(head);
        let topic = fields.text()?;
        let packet_identifier = match qos {
            QoS::AtMostOnce => None,
            QoS::AtLeastOnce | QoS::ExactlyOnce => Some(fields.packet_identifier()?),
        };
        let properties = match version {
            Version::V3 => Properties::NONE,
            Version::V5 => Properties::read(&mut fields, Place::Publish)?,
        };
        fields.end()?;
        let topic = if topic.is_empty() && properties.get(PropertyId::TopicAlias).is_some() {
            None
        } else {
            Some(TopicName::new(topic)?)
        };
        if let Some(response) = properties.get(PropertyId::ResponseTopic) {
            response_topic(&response)?;
        }
        let payload = length.saturating_sub(head.len());
        Ok(Self {
            duplicate,
            qos,
            retain: first & 1 != 0,
            topic,
            packet_identifier,
            properties,
            payload_octets: u32::try_from(payload).unwrap_or(u32::MAX),
        })
    }

    /// The alias that it sets or uses (5.0, 3.3.2.3.4).
    pub fn topic_alias(&self) -> Option<NonZeroU16> {
        let alias = self.properties.number(PropertyId::TopicAlias)?;
        u16::try_from(alias).ok().and_then(NonZeroU16::new)
    }

    /// Where an answer is to be sent to (5.0, 3.3.2.3.5).
    pub fn response_topic(&self) -> Option<TopicName<'a>> {
        response_topic_of(self.properties)
    }

    /// The head, before a payload of as many octets as it says. `None` where the packet would be larger
    /// than packets are.
    pub fn write(&self, version: Version) -> Option<Vec<u8>> {
        let mut body = Body::default();
        body.text(self.topic.map_or("", TopicName::as_str));
        if let Some(identifier) = self.packet_identifier {
            body.two(identifier.get());
        }
        match version {
            Version::V3 => {}
            Version::V5 => body.properties(self.properties.octets()),
        }
        let flags =
            (u8::from(self.duplicate) << 3) | (self.qos.bits() << 1) | u8::from(self.retain);
        body.head(Kind::Publish, flags, self.payload_octets)
    }
}

/// The `QoS` in a PUBLISH's first octet (3.3.1.2).
pub(super) const fn qos_of(first: u8) -> Result<QoS, Malformed> {
    QoS::from_bits((first >> 1) & 0b11)
}

/// A Response Topic is a topic name: no wildcard stands in it (5.0, 3.3.2.3.5).
pub(super) fn response_topic<'a>(
    property: &super::properties::Property<'a>,
) -> Result<TopicName<'a>, Malformed> {
    TopicName::new(property.text().unwrap_or_default())
}

/// The same of properties that were found good.
pub(super) fn response_topic_of(properties: Properties<'_>) -> Option<TopicName<'_>> {
    let property = properties.get(PropertyId::ResponseTopic)?;
    response_topic(&property).ok()
}
