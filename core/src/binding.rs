//! Whose device is it? The binding between a device and an account.

use core::num::NonZeroU32;

use serde::{Deserialize, Deserializer, Serialize, de};

use crate::identity::DeviceId;
use crate::text::{checked_text, serde_as_text, sha256_as_text};
use crate::time::Timestamp;

/// The longest account or class name, in octets.
pub const MAX_NAME_OCTETS: usize = 128;
/// The most pins that one binding may hold.
pub const MAX_PINS: usize = 8;

/// What a device is bound to, as the registry last said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Binding {
    /// The device, by its canonical identity.
    pub device: DeviceId,
    /// Where the binding stands.
    pub state: BindingState,
    /// The account that the device is claimed for. An active binding without one permits nothing.
    pub account: Option<AccountId>,
    /// What kind of device it is; chooses rules, goes into the tag.
    pub class: Option<DeviceClass>,
    /// Counts the ownerships of this device, from 1.
    pub epoch: Epoch,
    /// The binding ends here by itself; `None` where it does not.
    pub expires_at: Option<Timestamp>,
    /// Where not empty: the public keys that the device may use, and no other.
    pub pins: Pins,
    /// Counts the changes of this record within one history of the registry.
    pub revision: u64,
}

/// The states of a binding. Only [`Active`](Self::Active) permits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BindingState {
    /// Known, but no account has claimed it.
    Unclaimed,
    /// Claimed and in use.
    Active,
    /// Held by an operator; may be resumed.
    Suspended,
    /// Final for this identity.
    Revoked,
    /// A state that this version does not know. Fail closed: it permits nothing.
    Unrecognised,
}

impl BindingState {
    /// The states that can be written down by this version.
    pub const KNOWN: [Self; 4] = [
        Self::Unclaimed,
        Self::Active,
        Self::Suspended,
        Self::Revoked,
    ];

    /// The word on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unclaimed => "unclaimed",
            Self::Active => "active",
            Self::Suspended => "suspended",
            Self::Revoked => "revoked",
            Self::Unrecognised => "unrecognised",
        }
    }

    /// Reads the word on the wire; one that is not known is [`Unrecognised`](Self::Unrecognised).
    pub fn from_word(word: &str) -> Self {
        Self::KNOWN
            .into_iter()
            .find(|state| state.as_str() == word)
            .unwrap_or(Self::Unrecognised)
    }
}

/// Text that cannot be an account or a class.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected 1 to 128 visible ASCII characters without blanks")]
pub struct NameError;

/// 1 to 128 octets of visible ASCII (RFC 9110, 5.5: safe as a header value, nothing to trim).
fn is_name(text: &str) -> bool {
    !text.is_empty() && text.len() <= MAX_NAME_OCTETS && text.bytes().all(|b| b.is_ascii_graphic())
}

checked_text! {
    /// An account, as the registry names it: 1 to 128 octets of visible ASCII.
    AccountId, is_name, NameError
}
checked_text! {
    /// What kind of device it is (`infusion_pump`, `cgm`): 1 to 128 octets of visible ASCII.
    DeviceClass, is_name, NameError
}

/// Which ownership of a device this is, from 1; each claim and transfer counts it up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Epoch(NonZeroU32);

impl Epoch {
    /// The first ownership.
    pub const FIRST: Self = Self(NonZeroU32::MIN);

    /// `None` for 0.
    pub const fn new(count: u32) -> Option<Self> {
        match NonZeroU32::new(count) {
            Some(count) => Some(Self(count)),
            None => None,
        }
    }

    /// The count, 1 or more.
    pub const fn get(self) -> u32 {
        self.0.get()
    }
}

/// SHA-256 of a subject public key info as DER (the pin of RFC 7469, 2.4, in hex).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pin(pub [u8; 32]);

/// Text that is no pin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PinError {
    /// Not 64 lower-case hex digits.
    #[error("a pin is the SHA-256 of the subject public key info: 64 lower-case hex digits")]
    NotHex,
    /// More than [`MAX_PINS`].
    #[error("a binding holds at most 8 pins")]
    TooMany,
}

sha256_as_text!(Pin, PinError, PinError::NotHex);
serde_as_text!(Pin);

/// The pins of a binding: 0 to 8.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Pins(Box<[Pin]>);

impl Pins {
    /// At most [`MAX_PINS`]; a pin that stands twice is kept once.
    pub fn new(pins: impl IntoIterator<Item = Pin>) -> Result<Self, PinError> {
        let mut kept: Vec<Pin> = Vec::new();
        for pin in pins {
            if kept.contains(&pin) {
                continue;
            }
            if kept.len() >= MAX_PINS {
                return Err(PinError::TooMany);
            }
            kept.push(pin);
        }
        Ok(Self(kept.into_boxed_slice()))
    }

    /// The pins, in the order given.
    pub fn as_slice(&self) -> &[Pin] {
        &self.0
    }

    /// Whether a key with this pin may be used: always where there are no pins.
    pub fn allow(&self, pin: &Pin) -> bool {
        self.0.is_empty() || self.0.contains(pin)
    }
}

impl<'de> Deserialize<'de> for Pins {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let pins = Vec::<Pin>::deserialize(deserializer)?;
        Self::new(pins).map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[test]
    fn a_state_that_is_not_known_permits_nothing_and_is_kept_apart() {
        assert_eq!(BindingState::from_word("active"), BindingState::Active);
        for word in ["", "Active", "paused", "unrecognised"] {
            assert_eq!(BindingState::from_word(word), BindingState::Unrecognised);
        }
    }

    #[test]
    fn a_name_is_a_header_value_as_it_is() {
        assert!("acc-1".parse::<AccountId>().is_ok());
        let long = "x".repeat(129);
        for text in ["", "a b", "a\n", "é", long.as_str()] {
            assert_eq!(text.parse::<AccountId>(), Err(NameError), "{text:?}");
        }
    }

    #[test]
    fn pins_are_lower_case_hex_and_few() {
        let text = "ab".repeat(32);
        let pin: Pin = text.parse().unwrap();
        assert_eq!(pin.to_string(), text);
        for wrong in [
            text.to_uppercase(),
            "ab".repeat(31),
            "ab".repeat(33),
            format!("{text}a"),
        ] {
            assert_eq!(wrong.parse::<Pin>(), Err(PinError::NotHex), "{wrong}");
        }
        let many = (0..9).map(|n| Pin([n; 32]));
        assert_eq!(Pins::new(many), Err(PinError::TooMany));
        let pins = Pins::new([pin, pin]).unwrap();
        assert_eq!(pins.as_slice().len(), 1);
        assert!(pins.allow(&pin) && !pins.allow(&Pin([0; 32])));
        assert!(Pins::default().allow(&pin));
    }
}
