//! Where in which history? The chain of changes, and the cursors that edges hold.

use base64ct::{Base64UrlUnpadded, Encoding as _};
use medbind_core::feed::{Cursor, FeedId};
use medbind_core::time::Timestamp;
use sha2::{Digest as _, Sha256};

const CHAIN_CONTEXT: &[u8] = b"medbind-changes-v1:";
/// As much of the chained hash as a cursor holds: enough that no two histories share it.
const CURSOR_HASH_OCTETS: usize = 16;
const CURSOR_OCTETS: usize = 16 + 8 + CURSOR_HASH_OCTETS;

/// One history of a registry: random, made with its database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct History([u8; 16]);

/// A place in a history: the newest change, and the hash of everything up to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Head {
    /// The revision of the change; 0 before the first.
    pub revision: u64,
    /// The chained hash at that revision.
    pub hash: [u8; 32],
}

/// What a cursor says. Whether its history is ours at that revision is for the change log to say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Place {
    /// The last revision that the cursor covers.
    pub revision: u64,
    hash: [u8; CURSOR_HASH_OCTETS],
}

impl Place {
    /// Whether this is the same place in the same past.
    pub fn is(&self, head: &Head) -> bool {
        self.revision == head.revision && head.hash.starts_with(&self.hash)
    }
}

impl History {
    /// A new history.
    pub fn generate() -> Self {
        Self(rand::random())
    }

    /// From the database.
    pub const fn from_octets(octets: [u8; 16]) -> Self {
        Self(octets)
    }

    /// For the database.
    pub const fn octets(&self) -> &[u8; 16] {
        &self.0
    }

    /// As the feed names it: 32 lower-case hex digits. `None` never happens.
    pub fn feed(&self) -> Option<FeedId> {
        base16ct::lower::encode_string(&self.0).parse().ok()
    }

    /// The place before the first change.
    pub fn beginning(&self) -> Head {
        let hash = Sha256::new()
            .chain_update(CHAIN_CONTEXT)
            .chain_update(self.0)
            .finalize();
        Head {
            revision: 0,
            hash: hash.into(),
        }
    }

    /// The cursor of a place.
    pub fn cursor(&self, head: &Head) -> Option<Cursor> {
        let mut octets = Vec::with_capacity(CURSOR_OCTETS);
        octets.extend_from_slice(&self.0);
        octets.extend_from_slice(&head.revision.to_be_bytes());
        octets.extend(head.place().hash);
        Base64UrlUnpadded::encode_string(&octets).parse().ok()
    }

    /// Reads a cursor; `None` where it is none, or one of another history.
    pub fn read_cursor(&self, text: &str) -> Option<Place> {
        let mut octets = [0; CURSOR_OCTETS];
        let octets = Base64UrlUnpadded::decode(text, &mut octets).ok()?;
        let (history, rest) = octets.split_first_chunk::<16>()?;
        let (revision, hash) = rest.split_first_chunk::<8>()?;
        if *history != self.0 {
            return None;
        }
        Some(Place {
            revision: u64::from_be_bytes(*revision),
            hash: hash.try_into().ok()?,
        })
    }
}

impl Head {
    /// The same, as a cursor says it.
    pub fn place(&self) -> Place {
        let mut hash = [0; CURSOR_HASH_OCTETS];
        for (to, from) in hash.iter_mut().zip(self.hash) {
            *to = from;
        }
        Place {
            revision: self.revision,
            hash,
        }
    }

    /// The place after one more change: `line` is the record as the feed sends it.
    pub fn then(&self, at: Timestamp, line: &[u8]) -> Self {
        let revision = self.revision.saturating_add(1);
        let hash = Sha256::new()
            .chain_update(self.hash)
            .chain_update(at.unix_millis().to_be_bytes())
            .chain_update(line)
            .finalize();
        Self {
            revision,
            hash: hash.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_says_its_place_and_nothing_in_another_history() {
        let (ours, theirs) = (History::generate(), History::generate());
        let head = ours
            .beginning()
            .then(Timestamp::from_unix_millis(5), b"one\n");
        let cursor = ours.cursor(&head).unwrap();
        let place = ours.read_cursor(cursor.as_str()).unwrap();
        assert!(place == head.place() && place.is(&head) && !place.is(&ours.beginning()));
        let other = ours
            .beginning()
            .then(Timestamp::from_unix_millis(6), b"one\n");
        assert!(!place.is(&other), "another past at the same revision");
        assert_eq!(theirs.read_cursor(cursor.as_str()), None);
        let longer = format!("{cursor}AAAA");
        for text in ["", "x", "####", &cursor.as_str()[1..], longer.as_str()] {
            assert_eq!(ours.read_cursor(text), None, "{text}");
        }
    }
}
