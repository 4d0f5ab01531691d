//! What stands in an edge's log instead of a device: its pseudonym.

use core::fmt;

use hmac::{Hmac, KeyInit as _, Mac as _};
use medbind_core::identity::DeviceId;
use sha2::Sha256;

use crate::history::hex;

/// The octets of HMAC-SHA256 that a pseudonym shows: 16 hex digits.
const PSEUDONYM_OCTETS: usize = 8;

/// The key that edges and registry share for pseudonyms.
#[derive(Clone)]
pub(crate) struct PseudonymKey {
    /// Names the key (`k1`).
    pub id: String,
    /// 32 octets.
    pub key: Vec<u8>,
}

impl PseudonymKey {
    /// The first 16 lower-case hex digits of HMAC-SHA256 over the device's canonical text.
    pub fn pseudonym(&self, device: &DeviceId) -> String {
        let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(&self.key) else {
            return String::new();
        };
        mac.update(device.as_str().as_bytes());
        let digest = mac.finalize().into_bytes();
        hex(digest.get(..PSEUDONYM_OCTETS).unwrap_or_default())
    }
}

impl fmt::Debug for PseudonymKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PseudonymKey({})", self.id)
    }
}
