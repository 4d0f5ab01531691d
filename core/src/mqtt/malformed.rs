//! Why octets are no MQTT: one cause each.

use super::kind::Kind;

/// Why a session cannot go on: the connection is closed (3.1.1, 4.8; 5.0, 4.13).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// A packet type that is reserved, or that this version does not have (2.2.1; 5.0, 2.1.2).
    #[error("there is no packet of type {0}")]
    Type(u8),
    /// Flags of the fixed header that this type does not have (2.2.2; 5.0, 2.1.3).
    #[error("a {0} has other flags in its first octet")]
    Flags(Kind),
    /// Only the other side sends it.
    #[error("a {0} is not sent by this side")]
    Direction(Kind),
    /// Anything but a CONNECT comes first (3.1).
    #[error("a {0} comes before the CONNECT")]
    BeforeConnect(Kind),
    /// A CONNECT that is not the first packet (3.1).
    #[error("there is a second CONNECT")]
    SecondConnect,
    /// A variable byte integer of more than four octets (2.2.3; 5.0, 1.5.5).
    #[error("a length is written in more than four octets")]
    LongLength,
    /// A variable byte integer in more octets than it needs (5.0, 1.5.5).
    #[error("a length is written in more octets than it needs")]
    LengthNotMinimal,
    /// A packet that is read whole, or the head of a PUBLISH, is larger than what may be kept.
    #[error("a {kind} holds {octets} octets, and {budget} may be kept")]
    TooLarge {
        /// Of this packet.
        kind: Kind,
        /// So many.
        octets: usize,
        /// The budget.
        budget: usize,
    },
    /// A field goes beyond the end of its packet.
    #[error("a packet ends in the middle of a field")]
    CutShort,
    /// A packet goes on after its last field.
    #[error("octets follow the last field of a packet")]
    Trailing,
    /// Text that is not UTF-8 (1.5.3; 5.0, 1.5.4).
    #[error("text is not UTF-8")]
    NotUtf8,
    /// Text that holds U+0000 (1.5.3; 5.0, 1.5.4).
    #[error("text holds a NUL")]
    Nul,
    /// Not `MQTT` (3.1.2.1).
    #[error("the protocol's name is not MQTT")]
    ProtocolName,
    /// Neither 4 (3.1.1) nor 5 (3.1.2.2).
    #[error("MQTT of version {0} is not spoken here")]
    ProtocolVersion(u8),
    /// The reserved flag of a CONNECT is set (3.1.2.3).
    #[error("the reserved flag of a CONNECT is set")]
    ReservedFlag,
    /// A Will's `QoS` or retain flag without a Will (3.1.2.6, 3.1.2.7).
    #[error("there is no Will, and its flags are set")]
    WillFlags,
    /// A password without a user name (3.1.1, 3.1.2.9).
    #[error("there is a password, and no user name")]
    PasswordAlone,
    /// `QoS` 3 (3.3.1.2).
    #[error("there is no QoS 3")]
    QoS,
    /// DUP with `QoS` 0 (3.3.1.1).
    #[error("a PUBLISH of QoS 0 is said to be sent again")]
    Duplicate,
    /// Packet identifier 0 (2.3.1; 5.0, 2.2.1).
    #[error("a packet identifier is 0")]
    PacketIdentifier,
    /// A topic that is empty where it may not be (4.7.3).
    #[error("a topic is empty")]
    EmptyTopic,
    /// A wildcard in a topic name (4.7.1).
    #[error("a topic to publish to holds a wildcard")]
    WildcardInName,
    /// A wildcard beside other text, or `#` that is not last (4.7.1).
    #[error("a wildcard of a topic filter is not a level of its own, or '#' is not last")]
    Wildcard,
    /// `$share` without a name, or with a wildcard in it, or without a filter (5.0, 4.8.2).
    #[error("a shared subscription has no proper name or no filter")]
    Share,
    /// No topic filter (3.8.3, 3.10.3).
    #[error("a packet of topic filters holds none")]
    NoFilter,
    /// Reserved bits of subscription options, or a value that does not exist (3.8.3; 5.0, 3.8.3.1).
    #[error("the options of a subscription are none")]
    SubscriptionOptions,
    /// A property that does not exist (5.0, 2.2.2.2).
    #[error("there is no property {0:#04x}")]
    Property(u32),
    /// A property that this packet does not have (5.0, 2.2.2.2).
    #[error("property {0:#04x} does not belong into this packet")]
    PropertyElsewhere(u32),
    /// A property that stands there twice (5.0, 2.2.2.2).
    #[error("property {0:#04x} stands there twice")]
    PropertyTwice(u32),
    /// A value that this property may not have (5.0, 3.1.2.11 and others).
    #[error("property {0:#04x} has a value that it may not have")]
    PropertyValue(u32),
    /// Authentication data without a method (5.0, 3.1.2.11.10).
    #[error("there is authentication data, and no method")]
    AuthenticationData,
    /// A flag of an acknowledgement that is reserved (3.2.2.1).
    #[error("the reserved flags of a CONNACK are set")]
    ConnackFlags,
}
