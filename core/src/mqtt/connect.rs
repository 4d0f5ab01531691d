//! CONNECT (3.1).

use super::fields::{Body, Fields};
use super::kind::{Kind, QoS, Version};
use super::malformed::Malformed;
use super::properties::{Place, Properties, PropertyId};
use super::publish::{response_topic, response_topic_of};
use super::topic::TopicName;

/// The longest client identifier that a CONNECT holds (1.5.3; 5.0, 1.5.4).
pub const MAX_CLIENT_ID_OCTETS: usize = 65_535;

const NAME: &str = "MQTT";
const CLEAN_START: u8 = 0b0000_0010;
const WILL: u8 = 0b0000_0100;
const WILL_RETAIN: u8 = 0b0010_0000;
const PASSWORD: u8 = 0b0100_0000;
const USER_NAME: u8 = 0b1000_0000;

/// What a client begins with.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Connect<'a> {
    /// Which MQTT it speaks.
    pub version: Version,
    /// Whether it begins a session anew (clean session in 3.1.1).
    pub clean_start: bool,
    /// In seconds; 0 for none.
    pub keep_alive: u16,
    /// Its properties.
    pub properties: Properties<'a>,
    /// Its client identifier; may be empty.
    pub client_id: &'a str,
    /// What is to be published when it is gone.
    pub will: Option<Will<'a>>,
    /// Its user name.
    pub user_name: Option<&'a str>,
    /// Its password.
    pub password: Option<&'a [u8]>,
}

/// Without user name and password, which may be a token.
impl core::fmt::Debug for Connect<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Connect")
            .field("version", &self.version)
            .field("clean_start", &self.clean_start)
            .field("keep_alive", &self.keep_alive)
            .field("has_will", &self.will.is_some())
            .field("has_user_name", &self.user_name.is_some())
            .field("has_password", &self.password.is_some())
            .finish_non_exhaustive()
    }
}

/// What the broker publishes in the client's name when it is gone (3.1.2.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Will<'a> {
    /// How it is delivered.
    pub qos: QoS,
    /// Whether it is kept for later subscribers.
    pub retain: bool,
    /// Its properties.
    pub properties: Properties<'a>,
    /// Where to.
    pub topic: TopicName<'a>,
    /// What.
    pub payload: &'a [u8],
}

impl<'a> Will<'a> {
    /// Where an answer is to be sent to (5.0, 3.1.3.2.5).
    pub fn response_topic(&self) -> Option<TopicName<'a>> {
        response_topic_of(self.properties)
    }
}

impl<'a> Connect<'a> {
    /// From the body of a packet.
    pub(super) fn read(body: &'a [u8]) -> Result<Self, Malformed> {
        let mut fields = Fields::new(body);
        let name = fields.text()?;
        let version = match (name, fields.octet()?) {
            (NAME, 4) => Version::V3,
            (NAME, 5) => Version::V5,
            // MQTT 3.1, which is another protocol's name.
            ("MQIsdp" | NAME, level) => return Err(Malformed::ProtocolVersion(level)),
            _ => return Err(Malformed::ProtocolName),
        };
        let flags = fields.octet()?;
        if flags & 1 != 0 {
            return Err(Malformed::ReservedFlag);
        }
        let has = |flag: u8| flags & flag != 0;
        let will_qos = QoS::from_bits((flags >> 3) & 0b11)?;
        if !has(WILL) && (will_qos != QoS::AtMostOnce || has(WILL_RETAIN)) {
            return Err(Malformed::WillFlags);
        }
        if version == Version::V3 && has(PASSWORD) && !has(USER_NAME) {
            return Err(Malformed::PasswordAlone);
        }
        let keep_alive = fields.two()?;
        let properties = |fields: &mut Fields<'a>, place| match version {
            Version::V3 => Ok(Properties::NONE),
            Version::V5 => Properties::read(fields, place),
        };
        let of_packet = properties(&mut fields, Place::Connect)?;
        let client_id = fields.text()?;
        let will = if has(WILL) {
            let properties = properties(&mut fields, Place::Will)?;
            if let Some(response) = properties.get(PropertyId::ResponseTopic) {
                response_topic(&response)?;
            }
            Some(Will {
                qos: will_qos,
                retain: has(WILL_RETAIN),
                properties,
                topic: TopicName::new(fields.text()?)?,
                payload: fields.binary()?,
            })
        } else {
            None
        };
        let user_name = if has(USER_NAME) {
            Some(fields.text()?)
        } else {
            None
        };
        let password = if has(PASSWORD) {
            Some(fields.binary()?)
        } else {
            None
        };
        fields.end()?;
        Ok(Self {
            version,
            clean_start: has(CLEAN_START),
            keep_alive,
            properties: of_packet,
            client_id,
            will,
            user_name,
            password,
        })
    }

    /// The packet. `None` where a field is longer than a packet can say.
    pub fn write(&self) -> Option<Vec<u8>> {
        let mut flags = 0;
        let mut set = |flag: u8, holds: bool| flags |= if holds { flag } else { 0 };
        set(CLEAN_START, self.clean_start);
        set(USER_NAME, self.user_name.is_some());
        set(PASSWORD, self.password.is_some());
        if let Some(will) = &self.will {
            set(WILL | (will.qos.bits() << 3), true);
            set(WILL_RETAIN, will.retain);
        }
        let mut body = Body::default();
        let properties = |body: &mut Body, properties: Properties<'_>| match self.version {
            Version::V3 => {}
            Version::V5 => body.properties(properties.octets()),
        };
        body.text(NAME);
        body.octet(self.version.level());
        body.octet(flags);
        body.two(self.keep_alive);
        properties(&mut body, self.properties);
        body.text(self.client_id);
        if let Some(will) = &self.will {
            properties(&mut body, will.properties);
            body.text(will.topic.as_str());
            body.binary(will.payload);
        }
        if let Some(name) = self.user_name {
            body.text(name);
        }
        if let Some(password) = self.password {
            body.binary(password);
        }
        body.packet(Kind::Connect, 0)
    }
}
