//! Which packet is it, of which version, and who sends it?

use core::fmt;

use super::malformed::Malformed;

/// Which MQTT.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Version {
    /// 3.1.1, protocol level 4.
    V3,
    /// 5.0.
    V5,
}

impl Version {
    /// Both.
    pub const ALL: [Self; 2] = [Self::V3, Self::V5];

    /// The octet of a CONNECT (3.1.2.2).
    pub const fn level(self) -> u8 {
        match self {
            Self::V3 => 4,
            Self::V5 => 5,
        }
    }
}

/// Who sends a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Origin {
    /// The client: a device, or a person's program.
    Client,
    /// The broker.
    Broker,
}

/// How a message is delivered (4.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum QoS {
    /// At most once.
    AtMostOnce,
    /// At least once.
    AtLeastOnce,
    /// Exactly once.
    ExactlyOnce,
}

impl QoS {
    /// All.
    pub const ALL: [Self; 3] = [Self::AtMostOnce, Self::AtLeastOnce, Self::ExactlyOnce];

    /// From its two bits.
    pub(super) const fn from_bits(bits: u8) -> Result<Self, Malformed> {
        match bits {
            0 => Ok(Self::AtMostOnce),
            1 => Ok(Self::AtLeastOnce),
            2 => Ok(Self::ExactlyOnce),
            _ => Err(Malformed::QoS),
        }
    }

    /// Its two bits.
    pub const fn bits(self) -> u8 {
        match self {
            Self::AtMostOnce => 0,
            Self::AtLeastOnce => 1,
            Self::ExactlyOnce => 2,
        }
    }
}

/// The type of a control packet (2.2.1; 5.0, 2.1.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// 1, from the client.
    Connect,
    /// 2, from the broker.
    Connack,
    /// 3.
    Publish,
    /// 4.
    Puback,
    /// 5.
    Pubrec,
    /// 6.
    Pubrel,
    /// 7.
    Pubcomp,
    /// 8, from the client.
    Subscribe,
    /// 9, from the broker.
    Suback,
    /// 10, from the client.
    Unsubscribe,
    /// 11, from the broker.
    Unsuback,
    /// 12, from the client.
    Pingreq,
    /// 13, from the broker.
    Pingresp,
    /// 14; from the broker in 5.0 alone.
    Disconnect,
    /// 15, in 5.0 alone.
    Auth,
}

impl Kind {
    /// Every type.
    pub const ALL: [Self; 15] = [
        Self::Connect,
        Self::Connack,
        Self::Publish,
        Self::Puback,
        Self::Pubrec,
        Self::Pubrel,
        Self::Pubcomp,
        Self::Subscribe,
        Self::Suback,
        Self::Unsubscribe,
        Self::Unsuback,
        Self::Pingreq,
        Self::Pingresp,
        Self::Disconnect,
        Self::Auth,
    ];

    /// As the standard writes it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Connect => "CONNECT",
            Self::Connack => "CONNACK",
            Self::Publish => "PUBLISH",
            Self::Puback => "PUBACK",
            Self::Pubrec => "PUBREC",
            Self::Pubrel => "PUBREL",
            Self::Pubcomp => "PUBCOMP",
            Self::Subscribe => "SUBSCRIBE",
            Self::Suback => "SUBACK",
            Self::Unsubscribe => "UNSUBSCRIBE",
            Self::Unsuback => "UNSUBACK",
            Self::Pingreq => "PINGREQ",
            Self::Pingresp => "PINGRESP",
            Self::Disconnect => "DISCONNECT",
            Self::Auth => "AUTH",
        }
    }

    /// The upper four bits of the first octet.
    const fn bits(self) -> u8 {
        match self {
            Self::Connect => 1,
            Self::Connack => 2,
            Self::Publish => 3,
            Self::Puback => 4,
            Self::Pubrec => 5,
            Self::Pubrel => 6,
            Self::Pubcomp => 7,
            Self::Subscribe => 8,
            Self::Suback => 9,
            Self::Unsubscribe => 10,
            Self::Unsuback => 11,
            Self::Pingreq => 12,
            Self::Pingresp => 13,
            Self::Disconnect => 14,
            Self::Auth => 15,
        }
    }

    /// The lower four bits, where they are always the same (2.2.2; 5.0, 2.1.3).
    const fn flags(self) -> u8 {
        match self {
            Self::Pubrel | Self::Subscribe | Self::Unsubscribe => 0b0010,
            Self::Connect
            | Self::Connack
            | Self::Publish
            | Self::Puback
            | Self::Pubrec
            | Self::Pubcomp
            | Self::Suback
            | Self::Unsuback
            | Self::Pingreq
            | Self::Pingresp
            | Self::Disconnect
            | Self::Auth => 0,
        }
    }

    /// The first octet of a packet of this type; a PUBLISH has flags of its own in it.
    pub(super) const fn first_octet(self) -> u8 {
        (self.bits() << 4) | self.flags()
    }

    /// From the upper four bits of a first octet.
    pub(super) fn of(first: u8) -> Result<Self, Malformed> {
        let bits = first >> 4;
        let mut all = Self::ALL.into_iter();
        let found = all.find(|kind| kind.bits() == bits);
        found.ok_or(Malformed::Type(bits))
    }

    /// From the first octet of what `origin` sends. Before the CONNECT no version is known.
    pub(super) fn read(
        first: u8,
        origin: Origin,
        version: Option<Version>,
    ) -> Result<Self, Malformed> {
        let kind = Self::of(first)?;
        if version == Some(Version::V3) && kind == Self::Auth {
            return Err(Malformed::Type(kind.bits()));
        }
        if !kind.is_sent_by(origin, version) {
            return Err(Malformed::Direction(kind));
        }
        if kind == Self::Publish {
            return Ok(kind);
        }
        if first & 0x0F == kind.flags() {
            Ok(kind)
        } else {
            Err(Malformed::Flags(kind))
        }
    }

    fn is_sent_by(self, origin: Origin, version: Option<Version>) -> bool {
        match self {
            Self::Connect | Self::Subscribe | Self::Unsubscribe | Self::Pingreq => {
                origin == Origin::Client
            }
            Self::Connack | Self::Suback | Self::Unsuback | Self::Pingresp => {
                origin == Origin::Broker
            }
            Self::Disconnect => origin == Origin::Client || version == Some(Version::V5),
            Self::Publish
            | Self::Puback
            | Self::Pubrec
            | Self::Pubrel
            | Self::Pubcomp
            | Self::Auth => true,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
