//! MQTT 3.1.1 and 5.0: what stands on the wire, read strictly and without copying.
//!
//! Sections are those of the OASIS standards "MQTT Version 3.1.1" and "MQTT Version 5.0".

mod acknowledgement;
mod aliases;
mod connect;
mod fields;
mod kind;
mod malformed;
mod pattern;
mod properties;
mod publish;
mod reader;
mod session;
mod subscribe;
mod topic;

pub use acknowledgement::{Acknowledgement, Connack, Outcome, Reason};
pub use connect::{Connect, MAX_CLIENT_ID_OCTETS, Will};
pub use fields::MAX_REMAINING_LENGTH;
pub use kind::{Kind, Origin, QoS, Version};
pub use malformed::Malformed;
pub use pattern::{Extent, MAX_LEVELS, MAX_PATTERN_OCTETS, TopicPattern, TopicPatternError};
pub use properties::{Properties, Property, PropertyId};
pub use publish::Publish;
pub use reader::{Packet, Piece, Reader};
pub use session::{Closing, Judge, Onward, Session, Step, Tally, Terms, Unanswerable, Verdict};
pub use subscribe::{Subscribe, Subscription, Unsubscribe};
pub use topic::{TopicFilter, TopicName};
