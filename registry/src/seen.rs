//! Where did this import name the device before? A table that is there as long as the import.

use std::collections::HashMap;

use medbind_core::identity::DeviceId;
use sha2::{Digest as _, Sha256};

/// What is kept of a device's SHA-256: with so many octets no two of a fleet are the same by chance.
const FINGERPRINT_OCTETS: usize = 12;
/// The most devices that are remembered. They fill a table of 2^21 places with 17 octets each,
/// 36 MB, as far as it is filled before it grows.
const MAX_DEVICES: usize = 1_835_008;

type Fingerprint = [u8; FINGERPRINT_OCTETS];

/// The devices that an import named, and on which line. What comes after the first 1.8 million
/// is not remembered: the database still knows those devices, only not their lines.
#[derive(Debug)]
pub(crate) struct Seen {
    lines: HashMap<Fingerprint, u32>,
    room: usize,
}

impl Default for Seen {
    fn default() -> Self {
        Self::with_room(MAX_DEVICES)
    }
}

impl Seen {
    fn with_room(room: usize) -> Self {
        Self {
            lines: HashMap::new(),
            room,
        }
    }

    /// The line that the device stands on.
    pub fn line_of(&self, device: &DeviceId) -> Option<u64> {
        self.lines.get(&fingerprint(device)).copied().map(u64::from)
    }

    /// Remembers the line, where there is room.
    pub fn remember(&mut self, device: &DeviceId, line: u64) {
        if let Ok(line) = u32::try_from(line)
            && self.lines.len() < self.room
        {
            self.lines.insert(fingerprint(device), line);
        }
    }
}

fn fingerprint(device: &DeviceId) -> Fingerprint {
    let digest: [u8; 32] = Sha256::digest(device.as_str()).into();
    let mut kept = [0; FINGERPRINT_OCTETS];
    for (to, from) in kept.iter_mut().zip(digest) {
        *to = from;
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_remembered_as_long_as_there_is_room() {
        let device = |n: u32| format!("acme:SN{n}").parse::<DeviceId>().unwrap();
        let mut seen = Seen::with_room(2);
        for n in 0..3 {
            assert_eq!(seen.line_of(&device(n)), None);
            seen.remember(&device(n), u64::from(n) + 10);
        }
        let lines = [0, 1, 2].map(|n| seen.line_of(&device(n)));
        assert_eq!(lines, [Some(10), Some(11), None]);
    }

    #[test]
    fn all_that_are_remembered_fit_the_memory_that_is_promised() {
        assert_eq!(size_of::<(Fingerprint, u32)>(), 16);
        let places = HashMap::<Fingerprint, u32>::with_capacity(MAX_DEVICES);
        assert_eq!(
            places.capacity(),
            MAX_DEVICES,
            "one more would double the table"
        );
    }
}
