//! The properties of MQTT 5.0 (2.2.2.2), with what each packet may have.

use super::fields::Fields;
use super::malformed::Malformed;

/// Where properties stand: in a packet, or in the Will of a CONNECT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    Connect,
    Will,
    Connack,
    /// From the client or the broker.
    Publish,
    /// PUBACK, PUBREC, PUBREL, PUBCOMP.
    Acknowledgement,
    Subscribe,
    /// SUBACK, UNSUBACK.
    Subscribed,
    Unsubscribe,
    Disconnect,
    Auth,
}

/// How a value is written (1.5).
#[derive(Clone, Copy)]
enum Form {
    /// An octet that is 0 or 1.
    Flag,
    Two,
    /// The same, and not 0.
    TwoNotZero,
    Four,
    FourNotZero,
    /// A variable byte integer, and not 0.
    LengthNotZero,
    Text,
    Binary,
    Pair,
}

macro_rules! properties {
    ($($name:ident = $id:literal, $text:literal, $form:ident, [$($place:ident),*];)*) => {
        /// Which property.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum PropertyId {
            $(#[doc = $text] $name,)*
        }

        impl PropertyId {
            /// Every property.
            pub const ALL: &'static [Self] = &[$(Self::$name),*];

            /// As it is written.
            pub const fn number(self) -> u32 {
                match self {
                    $(Self::$name => $id,)*
                }
            }

            /// As the standard writes it.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)*
                }
            }

            const fn form(self) -> Form {
                match self {
                    $(Self::$name => Form::$form,)*
                }
            }

            const fn places(self) -> &'static [Place] {
                match self {
                    $(Self::$name => &[$(Place::$place),*],)*
                }
            }
        }
    };
}

// 5.0, table 2-4.
properties! {
    PayloadFormatIndicator = 0x01, "Payload Format Indicator", Flag, [Publish, Will];
    MessageExpiryInterval = 0x02, "Message Expiry Interval", Four, [Publish, Will];
    ContentType = 0x03, "Content Type", Text, [Publish, Will];
    ResponseTopic = 0x08, "Response Topic", Text, [Publish, Will];
    CorrelationData = 0x09, "Correlation Data", Binary, [Publish, Will];
    SubscriptionIdentifier = 0x0B, "Subscription Identifier", LengthNotZero, [Publish, Subscribe];
    SessionExpiryInterval = 0x11, "Session Expiry Interval", Four, [Connect, Connack, Disconnect];
    AssignedClientIdentifier = 0x12, "Assigned Client Identifier", Text, [Connack];
    ServerKeepAlive = 0x13, "Server Keep Alive", Two, [Connack];
    AuthenticationMethod = 0x15, "Authentication Method", Text, [Connect, Connack, Auth];
    AuthenticationData = 0x16, "Authentication Data", Binary, [Connect, Connack, Auth];
    RequestProblemInformation = 0x17, "Request Problem Information", Flag, [Connect];
    WillDelayInterval = 0x18, "Will Delay Interval", Four, [Will];
    RequestResponseInformation = 0x19, "Request Response Information", Flag, [Connect];
    ResponseInformation = 0x1A, "Response Information", Text, [Connack];
    ServerReference = 0x1C, "Server Reference", Text, [Connack, Disconnect];
    ReasonString = 0x1F, "Reason String", Text,
        [Connack, Acknowledgement, Subscribed, Disconnect, Auth];
    ReceiveMaximum = 0x21, "Receive Maximum", TwoNotZero, [Connect, Connack];
    TopicAliasMaximum = 0x22, "Topic Alias Maximum", Two, [Connect, Connack];
    TopicAlias = 0x23, "Topic Alias", TwoNotZero, [Publish];
    MaximumQoS = 0x24, "Maximum `QoS`", Flag, [Connack];
    RetainAvailable = 0x25, "Retain Available", Flag, [Connack];
    UserProperty = 0x26, "User Property", Pair,
        [Connect, Will, Connack, Publish, Acknowledgement, Subscribe, Subscribed, Unsubscribe,
         Disconnect, Auth];
    MaximumPacketSize = 0x27, "Maximum Packet Size", FourNotZero, [Connect, Connack];
    WildcardSubscriptionAvailable = 0x28, "Wildcard Subscription Available", Flag, [Connack];
    SubscriptionIdentifierAvailable = 0x29, "Subscription Identifier Available", Flag, [Connack];
    SharedSubscriptionAvailable = 0x2A, "Shared Subscription Available", Flag, [Connack];
}

impl PropertyId {
    fn read(number: u32) -> Result<Self, Malformed> {
        let mut all = Self::ALL.iter();
        let found = all.find(|id| id.number() == number);
        found.copied().ok_or(Malformed::Property(number))
    }

    /// Whether it may stand there more than once.
    fn may_repeat(self, place: Place) -> bool {
        // A message has one Subscription Identifier for each that it is for (3.3.2.3.8).
        self == Self::UserProperty
            || self == Self::SubscriptionIdentifier && place == Place::Publish
    }
}

/// One property.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Property<'a> {
    /// Which.
    pub id: PropertyId,
    /// Its number, where it is one.
    pub number: u32,
    /// Its octets, where it is none: text without U+0000, or any octets.
    pub octets: &'a [u8],
    /// As it is written, its identifier first.
    pub whole: &'a [u8],
}

impl<'a> Property<'a> {
    /// Its text, where it is text.
    pub fn text(&self) -> Option<&'a str> {
        match self.id.form() {
            Form::Text => core::str::from_utf8(self.octets).ok(),
            Form::Flag
            | Form::Two
            | Form::TwoNotZero
            | Form::Four
            | Form::FourNotZero
            | Form::LengthNotZero
            | Form::Binary
            | Form::Pair => None,
        }
    }

    fn read(fields: &mut Fields<'a>) -> Result<Self, Malformed> {
        let before = fields.rest();
        let id = PropertyId::read(fields.length()?)?;
        let (mut number, mut octets) = (0, &[][..]);
        match id.form() {
            Form::Flag => {
                number = u32::from(fields.octet()?);
                if number > 1 {
                    return Err(Malformed::PropertyValue(id.number()));
                }
            }
            Form::Two | Form::TwoNotZero => number = u32::from(fields.two()?),
            Form::Four | Form::FourNotZero => number = fields.four()?,
            Form::LengthNotZero => number = fields.length()?,
            Form::Text => octets = fields.text()?.as_bytes(),
            Form::Binary => octets = fields.binary()?,
            Form::Pair => {
                fields.text()?;
                fields.text()?;
            }
        }
        let not_zero = matches!(
            id.form(),
            Form::TwoNotZero | Form::FourNotZero | Form::LengthNotZero
        );
        if not_zero && number == 0 {
            return Err(Malformed::PropertyValue(id.number()));
        }
        let length = before.len().saturating_sub(fields.rest().len());
        Ok(Self {
            id,
            number,
            octets,
            whole: before.get(..length).unwrap_or_default(),
        })
    }
}

/// The properties of a packet, read and found good. Empty in 3.1.1, which has none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Properties<'a>(&'a [u8]);

impl<'a> Properties<'a> {
    /// None.
    pub const NONE: Self = Self(&[]);

    /// Their length, and so many octets of properties that may stand at `place`.
    pub(super) fn read(fields: &mut Fields<'a>, place: Place) -> Result<Self, Malformed> {
        let length = usize::try_from(fields.length()?).map_err(|_| Malformed::CutShort)?;
        let all = Self(fields.octets(length)?);
        let mut seen = 0_u64;
        let mut rest = Fields::new(all.0);
        let mut has_method = false;
        let mut has_data = false;
        while !rest.is_empty() {
            let id = Property::read(&mut rest)?.id;
            if !id.places().contains(&place) {
                return Err(Malformed::PropertyElsewhere(id.number()));
            }
            let bit = 1_u64.wrapping_shl(id.number());
            if seen & bit != 0 && !id.may_repeat(place) {
                return Err(Malformed::PropertyTwice(id.number()));
            }
            seen |= bit;
            has_method |= id == PropertyId::AuthenticationMethod;
            has_data |= id == PropertyId::AuthenticationData;
        }
        if has_data && !has_method {
            return Err(Malformed::AuthenticationData);
        }
        Ok(all)
    }

    /// Octets that are known to be good where they stand.
    pub(super) const fn known_good(octets: &'a [u8]) -> Self {
        Self(octets)
    }

    /// As they are written, without their length.
    pub const fn octets(self) -> &'a [u8] {
        self.0
    }

    /// Each in its turn.
    pub fn iter(self) -> impl Iterator<Item = Property<'a>> {
        let mut rest = Fields::new(self.0);
        // Read once already, so that nothing is wrong with them.
        core::iter::from_fn(move || Property::read(&mut rest).ok())
    }

    /// The first of this kind.
    pub fn get(self, id: PropertyId) -> Option<Property<'a>> {
        self.iter().find(|property| property.id == id)
    }

    /// The number of this kind.
    pub fn number(self, id: PropertyId) -> Option<u32> {
        self.get(id).map(|property| property.number)
    }

    /// Those that `keep` says, as they are written.
    pub fn filtered(self, keep: impl Fn(PropertyId) -> bool) -> Vec<u8> {
        let kept = self.iter().filter(|property| keep(property.id));
        kept.flat_map(|property| property.whole.iter().copied())
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    const PLACES: [Place; 10] = [
        Place::Connect,
        Place::Will,
        Place::Connack,
        Place::Publish,
        Place::Acknowledgement,
        Place::Subscribe,
        Place::Subscribed,
        Place::Unsubscribe,
        Place::Disconnect,
        Place::Auth,
    ];

    fn read(octets: &[u8], place: Place) -> Result<Properties<'_>, Malformed> {
        let mut fields = Fields::new(octets);
        let read = Properties::read(&mut fields, place)?;
        fields.end()?;
        Ok(read)
    }

    fn sample(id: PropertyId) -> Vec<u8> {
        let mut octets = vec![u8::try_from(id.number()).unwrap()];
        octets.extend_from_slice(match id.form() {
            Form::Flag | Form::LengthNotZero => &[1][..],
            Form::Two | Form::TwoNotZero => &[0, 1],
            Form::Four | Form::FourNotZero => &[0, 0, 0, 1],
            Form::Text | Form::Binary => &[0, 1, b'a'],
            Form::Pair => &[0, 1, b'a', 0, 1, b'b'],
        });
        octets
    }

    fn with_length(octets: &[u8]) -> Vec<u8> {
        let mut all = vec![u8::try_from(octets.len()).unwrap()];
        all.extend_from_slice(octets);
        all
    }

    #[test]
    fn each_property_stands_where_the_standard_has_it_and_nowhere_else() {
        for id in PropertyId::ALL {
            for place in PLACES {
                let mut one = sample(*id);
                // Data needs its method.
                if *id == PropertyId::AuthenticationData {
                    one.splice(0..0, sample(PropertyId::AuthenticationMethod));
                }
                let all = with_length(&one);
                let result = read(&all, place);
                if id.places().contains(&place) {
                    let read = result.unwrap();
                    let found = read.get(*id).unwrap();
                    assert!(one.ends_with(found.whole), "{}", id.as_str());
                    assert_eq!(read.octets(), one);
                } else {
                    assert!(
                        matches!(result, Err(Malformed::PropertyElsewhere(_))),
                        "{} at {place:?}",
                        id.as_str()
                    );
                }
            }
        }
    }

    #[test]
    fn no_property_stands_there_twice_but_those_that_may() {
        for id in PropertyId::ALL {
            let Some(place) = id.places().first() else {
                panic!("{} stands nowhere", id.as_str());
            };
            let mut two = [sample(*id), sample(*id)].concat();
            if *id == PropertyId::AuthenticationData {
                two.splice(0..0, sample(PropertyId::AuthenticationMethod));
            }
            let all = with_length(&two);
            let expected = if matches!(
                id,
                PropertyId::UserProperty | PropertyId::SubscriptionIdentifier
            ) {
                Ok(())
            } else {
                Err(Malformed::PropertyTwice(id.number()))
            };
            assert_eq!(read(&all, *place).map(|_| ()), expected, "{}", id.as_str());
        }
        let two = sample(PropertyId::SubscriptionIdentifier).repeat(2);
        assert_eq!(
            read(&with_length(&two), Place::Subscribe),
            Err(Malformed::PropertyTwice(0x0B))
        );
    }

    #[test]
    fn values_that_no_property_may_have_are_refused() {
        for (octets, error) in [
            (&[2, 0x01, 2][..], Malformed::PropertyValue(0x01)),
            (&[3, 0x23, 0, 0], Malformed::PropertyValue(0x23)),
            (&[2, 0x0B, 0], Malformed::PropertyValue(0x0B)),
            (&[3, 0x0B, 0x81, 0], Malformed::LengthNotMinimal),
            (&[1, 0x04], Malformed::Property(0x04)),
            (&[2, 0xA6, 0x00], Malformed::LengthNotMinimal),
            (&[2, 0xFF, 0x7F], Malformed::Property(16_383)),
            (&[3, 0x03, 0, 1], Malformed::CutShort),
            (&[2, 0x03, 0], Malformed::CutShort),
            (&[9, 0x01, 1], Malformed::CutShort),
            (&[5, 0x26, 0, 0, 0, 2], Malformed::CutShort),
            (&[6, 0x26, 0, 1, 0, 0, 0], Malformed::Nul),
            (&[4, 0x03, 0, 1, 0xFF], Malformed::NotUtf8),
        ] {
            assert_eq!(read(octets, Place::Publish), Err(error), "{octets:02x?}");
        }
        assert_eq!(
            read(&[3, 0x21, 0, 0], Place::Connect),
            Err(Malformed::PropertyValue(0x21))
        );
        assert_eq!(
            read(&[5, 0x27, 0, 0, 0, 0], Place::Connect),
            Err(Malformed::PropertyValue(0x27))
        );
        assert_eq!(
            read(&[4, 0x16, 0, 1, 1], Place::Connect),
            Err(Malformed::AuthenticationData)
        );
    }

    #[test]
    fn what_is_kept_is_kept_as_it_was() {
        let octets = [
            sample(PropertyId::UserProperty),
            sample(PropertyId::TopicAlias),
            sample(PropertyId::UserProperty),
            sample(PropertyId::ContentType),
        ]
        .concat();
        let all = with_length(&octets);
        let properties = read(&all, Place::Publish).unwrap();
        assert_eq!(properties.number(PropertyId::TopicAlias), Some(1));
        assert_eq!(
            properties.get(PropertyId::ContentType).unwrap().text(),
            Some("a")
        );
        assert_eq!(properties.get(PropertyId::TopicAlias).unwrap().text(), None);
        let kept = properties.filtered(|id| id != PropertyId::TopicAlias);
        let user = sample(PropertyId::UserProperty);
        assert_eq!(
            kept,
            [&user[..], &user, &sample(PropertyId::ContentType)].concat()
        );
    }
}
