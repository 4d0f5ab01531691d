//! SUBSCRIBE and UNSUBSCRIBE (3.8, 3.10).

use core::num::NonZeroU16;

use super::fields::{Body, Fields};
use super::kind::{Kind, QoS, Version};
use super::malformed::Malformed;
use super::properties::{Place, Properties};
use super::topic::TopicFilter;

/// One filter of a SUBSCRIBE.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subscription<'a> {
    /// What is subscribed to.
    pub filter: TopicFilter<'a>,
    /// The highest `QoS` that messages are to come with.
    pub qos: QoS,
    /// The whole octet of options (5.0, 3.8.3.1); in 3.1.1 the `QoS` alone.
    pub options: u8,
}

impl<'a> Subscription<'a> {
    fn read(fields: &mut Fields<'a>, version: Version) -> Result<Self, Malformed> {
        const NO_LOCAL: u8 = 0b100;
        let filter = TopicFilter::new(fields.text()?)?;
        let options = fields.octet()?;
        let reserved = match version {
            Version::V3 => 0b1111_1100,
            Version::V5 => 0b1100_0000,
        };
        let qos = QoS::from_bits(options & 0b11).map_err(|_| Malformed::SubscriptionOptions)?;
        let retain_handling = (options >> 4) & 0b11;
        // No Local has no meaning among those who share (5.0, 3.8.3.1).
        let no_local_shared = options & NO_LOCAL != 0 && filter.group().is_some();
        if options & reserved != 0 || retain_handling == 3 || no_local_shared {
            return Err(Malformed::SubscriptionOptions);
        }
        Ok(Self {
            filter,
            qos,
            options,
        })
    }
}

/// What a client wants to hear of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subscribe<'a> {
    /// Its packet identifier.
    pub packet_identifier: NonZeroU16,
    /// Its properties.
    pub properties: Properties<'a>,
    version: Version,
    filters: &'a [u8],
}

impl<'a> Subscribe<'a> {
    /// From the body of a packet.
    pub(super) fn read(body: &'a [u8], version: Version) -> Result<Self, Malformed> {
        let mut fields = Fields::new(body);
        let packet_identifier = fields.packet_identifier()?;
        let properties = match version {
            Version::V3 => Properties::NONE,
            Version::V5 => Properties::read(&mut fields, Place::Subscribe)?,
        };
        let filters = fields.rest();
        if filters.is_empty() {
            return Err(Malformed::NoFilter);
        }
        while !fields.is_empty() {
            Subscription::read(&mut fields, version)?;
        }
        Ok(Self {
            packet_identifier,
            properties,
            version,
            filters,
        })
    }

    /// Its filters: at least one.
    pub fn subscriptions(&self) -> impl Iterator<Item = Subscription<'a>> {
        let (mut fields, version) = (Fields::new(self.filters), self.version);
        // Read once already, so that nothing is wrong with them.
        core::iter::from_fn(move || Subscription::read(&mut fields, version).ok())
    }

    /// The packet with the filters that `keep` says. `None` where none is left.
    pub fn write(&self, mut keep: impl FnMut(&Subscription<'a>) -> bool) -> Option<Vec<u8>> {
        let mut body = Body::default();
        body.two(self.packet_identifier.get());
        match self.version {
            Version::V3 => {}
            Version::V5 => body.properties(self.properties.octets()),
        }
        let mut any = false;
        for one in self.subscriptions() {
            if keep(&one) {
                body.text(one.filter.as_str());
                body.octet(one.options);
                any = true;
            }
        }
        any.then_some(body)?.packet(Kind::Subscribe, 0)
    }
}

/// What a client wants to hear of no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unsubscribe<'a> {
    /// Its packet identifier.
    pub packet_identifier: NonZeroU16,
    /// Its properties.
    pub properties: Properties<'a>,
    filters: &'a [u8],
}

impl<'a> Unsubscribe<'a> {
    /// From the body of a packet.
    pub(super) fn read(body: &'a [u8], version: Version) -> Result<Self, Malformed> {
        let mut fields = Fields::new(body);
        let packet_identifier = fields.packet_identifier()?;
        let properties = match version {
            Version::V3 => Properties::NONE,
            Version::V5 => Properties::read(&mut fields, Place::Unsubscribe)?,
        };
        let filters = fields.rest();
        if filters.is_empty() {
            return Err(Malformed::NoFilter);
        }
        while !fields.is_empty() {
            TopicFilter::new(fields.text()?)?;
        }
        Ok(Self {
            packet_identifier,
            properties,
            filters,
        })
    }

    /// Its filters: at least one.
    pub fn filters(&self) -> impl Iterator<Item = TopicFilter<'a>> {
        let mut fields = Fields::new(self.filters);
        core::iter::from_fn(move || TopicFilter::new(fields.text().ok()?).ok())
    }
}
