//! Which devices are there, and in which state? Both runners know the same.

use medbind_core::binding::BindingState;
use serde_json::{Value, json};

/// One device of the registry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// Its canonical identity.
    pub id: String,
    /// The state of its binding.
    pub state: BindingState,
    /// Its binding ended before now.
    pub expired: bool,
    /// Its binding pins a key that nobody has.
    pub pinned: bool,
}

/// The account of every device that has one.
pub const ACCOUNT: &str = "acc-1";
/// The class of every device.
pub const CLASS: &str = "cgm";
/// A pin that no key has.
pub const PIN: &str = "0000000000000000000000000000000000000000000000000000000000000001";
/// The end of a binding that has ended.
pub const ENDED: &str = "2020-01-01T00:00:00Z";

/// Serials that a path, a topic or a header could be broken with, and the device that each is.
/// Text, since most sources hold nothing else.
pub const ODD_SERIALS: [(&str, &str); 9] = [
    ("a/b", "acme:a=2Fb"),
    (".", "acme:=2E"),
    ("..", "acme:=2E=2E"),
    ("a b", "acme:a=20b"),
    (" a ", "acme:=20a=20"),
    ("a=b", "acme:a=3Db"),
    ("a%2Fb", "acme:a=252Fb"),
    ("a;b", "acme:a=3Bb"),
    ("\u{e9}\u{df}", "acme:=C3=A9=C3=9F"),
];

/// A serial of octets that are no text, and the device that it is.
pub const NO_TEXT: ([u8; 4], &str) = ([0xff, 0x00, 0x0a, 0x80], "acme:=FF=00=0A=80");

/// The longest serial that there can be.
pub const LONGEST: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

/// Everything that the registry knows.
pub fn fleet() -> Vec<Device> {
    let device = |id: String, state| Device {
        id,
        state,
        expired: false,
        pinned: false,
    };
    let mut devices = vec![
        device("acme:SN-UNCLAIMED".to_owned(), BindingState::Unclaimed),
        device("acme:SN-SUSPENDED".to_owned(), BindingState::Suspended),
        device("acme:SN-REVOKED".to_owned(), BindingState::Revoked),
        Device {
            expired: true,
            ..device("acme:SN-EXPIRED".to_owned(), BindingState::Active)
        },
        Device {
            pinned: true,
            ..device("acme:SN-PINNED".to_owned(), BindingState::Active)
        },
    ];
    let odd = ODD_SERIALS.iter().map(|(_, id)| (*id).to_owned());
    let others = [NO_TEXT.1, "acme:SN-A", "acme:SN-B", "other:SN-A"].map(str::to_owned);
    let active = odd.chain(others).chain([format!("acme:{LONGEST}")]);
    devices.extend(active.map(|id| device(id, BindingState::Active)));
    devices
}

/// What a scripted registry says besides: records that this version cannot read, about devices
/// and about nobody, and behind them a device that it can.
pub fn unread() -> Vec<Value> {
    let active = Device {
        id: "acme:SN-BEHIND".to_owned(),
        state: BindingState::Active,
        expired: false,
        pinned: false,
    };
    vec![
        json!({"kind": "binding", "device": "acme:SN-NEW-STATE", "account": ACCOUNT,
               "state": "quarantined", "class": CLASS}),
        json!({"kind": "tether", "device": "acme:SN-NEW-KIND", "account": ACCOUNT,
               "state": "active", "class": CLASS}),
        json!({"kind": "weather", "sky": "blue"}),
        active.record(0),
    ]
}

impl Device {
    /// The record that the feed carries.
    pub fn record(&self, revision: u64) -> Value {
        let account = (self.state != BindingState::Unclaimed).then_some(ACCOUNT);
        json!({
            "kind": "binding", "device": self.id, "account": account, "state": self.state.as_str(),
            "class": CLASS, "epoch": 1, "expires_at": self.expired.then_some(ENDED),
            "pins": self.pins(), "revision": revision,
        })
    }

    /// Its pins.
    pub fn pins(&self) -> Vec<&'static str> {
        self.pinned.then_some(PIN).into_iter().collect()
    }
}
