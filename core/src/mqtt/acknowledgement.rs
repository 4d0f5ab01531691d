//! What answers, and what ends a session: CONNACK, PUBACK and its like, SUBACK, UNSUBACK, DISCONNECT,
//! AUTH. Codes pass as they are: what they mean is between client and broker.

use core::num::NonZeroU16;

use super::fields::{Body, Fields};
use super::kind::{Kind, Version};
use super::malformed::Malformed;
use super::properties::{Place, Properties};

/// The answer to a CONNECT (3.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Connack<'a> {
    /// Whether the broker goes on with a session that it has.
    pub session_present: bool,
    /// 0 where the client is let in.
    pub code: u8,
    /// Its properties.
    pub properties: Properties<'a>,
}

impl<'a> Connack<'a> {
    pub(super) fn read(body: &'a [u8], version: Version) -> Result<Self, Malformed> {
        let mut fields = Fields::new(body);
        let flags = fields.octet()?;
        let code = fields.octet()?;
        if flags > 1 {
            return Err(Malformed::ConnackFlags);
        }
        let properties = match version {
            Version::V3 => Properties::NONE,
            Version::V5 => Properties::read(&mut fields, Place::Connack)?,
        };
        fields.end()?;
        Ok(Self {
            session_present: flags == 1,
            code,
            properties,
        })
    }

    /// The packet. `None` where its properties are longer than a packet can say.
    pub fn write(&self, version: Version) -> Option<Vec<u8>> {
        let mut body = Body::default();
        body.octet(u8::from(self.session_present));
        body.octet(self.code);
        match version {
            Version::V3 => {}
            Version::V5 => body.properties(self.properties.octets()),
        }
        body.packet(Kind::Connack, 0)
    }
}

/// PUBACK, PUBREC, PUBREL or PUBCOMP (3.4 to 3.7).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Acknowledgement<'a> {
    /// Of which message.
    pub packet_identifier: NonZeroU16,
    /// 0 in 3.1.1, which has no other.
    pub reason: u8,
    /// Its properties.
    pub properties: Properties<'a>,
}

impl<'a> Acknowledgement<'a> {
    pub(super) fn read(body: &'a [u8], version: Version) -> Result<Self, Malformed> {
        let mut fields = Fields::new(body);
        let packet_identifier = fields.packet_identifier()?;
        let reason = Reason::read_rest(fields, version, Place::Acknowledgement)?;
        Ok(Self {
            packet_identifier,
            reason: reason.code,
            properties: reason.properties,
        })
    }

    /// The packet, of one of these four kinds. A reason that is not 0 needs 5.0, and is left out in
    /// 3.1.1.
    pub fn write(&self, kind: Kind, version: Version) -> Option<Vec<u8>> {
        let mut body = Body::default();
        body.two(self.packet_identifier.get());
        let reason = Reason {
            code: self.reason,
            properties: self.properties,
        };
        reason.write_rest(&mut body, version);
        body.packet(kind, 0)
    }
}

/// SUBACK or UNSUBACK (3.9, 3.11).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome<'a> {
    /// Of which packet.
    pub packet_identifier: NonZeroU16,
    /// Its properties.
    pub properties: Properties<'a>,
    /// A code for each filter, in the order of the filters; none in an UNSUBACK of 3.1.1.
    pub codes: &'a [u8],
}

impl<'a> Outcome<'a> {
    pub(super) fn read(body: &'a [u8], version: Version) -> Result<Self, Malformed> {
        let mut fields = Fields::new(body);
        let packet_identifier = fields.packet_identifier()?;
        let properties = match version {
            Version::V3 => Properties::NONE,
            Version::V5 => Properties::read(&mut fields, Place::Subscribed)?,
        };
        Ok(Self {
            packet_identifier,
            properties,
            codes: fields.rest(),
        })
    }

    /// The packet, of one of these two kinds.
    pub fn write(&self, kind: Kind, version: Version) -> Option<Vec<u8>> {
        let mut body = Body::default();
        body.two(self.packet_identifier.get());
        match version {
            Version::V3 => {}
            Version::V5 => body.properties(self.properties.octets()),
        }
        body.octets(self.codes);
        body.packet(kind, 0)
    }
}

/// DISCONNECT or AUTH (3.14; 5.0, 3.15).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reason<'a> {
    /// 0 in 3.1.1, which has no other.
    pub code: u8,
    /// Its properties.
    pub properties: Properties<'a>,
}

impl<'a> Reason<'a> {
    pub(super) fn read(body: &'a [u8], version: Version, kind: Kind) -> Result<Self, Malformed> {
        let place = if kind == Kind::Auth {
            Place::Auth
        } else {
            Place::Disconnect
        };
        Self::read_rest(Fields::new(body), version, place)
    }

    /// Both may be left out from the end (5.0, 3.4.2.1, 3.14.2.1, 3.15.2.1).
    fn read_rest(
        mut fields: Fields<'a>,
        version: Version,
        place: Place,
    ) -> Result<Self, Malformed> {
        let mut reason = Self {
            code: 0,
            properties: Properties::NONE,
        };
        if version == Version::V5 {
            if !fields.is_empty() {
                reason.code = fields.octet()?;
            }
            if !fields.is_empty() {
                reason.properties = Properties::read(&mut fields, place)?;
            }
        }
        fields.end()?;
        Ok(reason)
    }

    fn write_rest(&self, body: &mut Body, version: Version) {
        let has_properties = !self.properties.octets().is_empty();
        if version == Version::V5 && (self.code != 0 || has_properties) {
            body.octet(self.code);
            if has_properties {
                body.properties(self.properties.octets());
            }
        }
    }

    /// The packet, of one of these two kinds.
    pub fn write(&self, kind: Kind, version: Version) -> Option<Vec<u8>> {
        let mut body = Body::default();
        self.write_rest(&mut body, version);
        body.packet(kind, 0)
    }
}
