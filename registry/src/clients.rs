//! Which certificates do clients show, and when do they end?

use core::time::Duration;
use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use medbind_core::time::Timestamp;
use tokio::time::Instant;

use crate::pki::{CertificateFacts, NEAR_EXPIRY};
use crate::role::{Peer, Role};

/// One that was not shown for so long is not in use any more: a connection lasts two hours at most.
const IN_USE: Duration = Duration::from_hours(3);
/// The most that are remembered.
const MOST: usize = 1_000;

/// The certificates of edges and operators that were seen lately.
#[derive(Debug, Default)]
pub(crate) struct Clients(Mutex<BTreeMap<Shown, Instant>>);

/// Two of one role that end at the same time are one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Shown {
    client: String,
    not_after: Timestamp,
    not_before: Timestamp,
}

impl Clients {
    /// Remembers what a client showed in its handshake.
    pub fn seen(&self, peer: &Peer, now: Instant) {
        let (Some(not_before), Some(not_after)) = (peer.not_before, peer.not_after) else {
            return;
        };
        if peer.role == Role::None {
            return;
        }
        let shown = Shown {
            client: peer.role.to_string(),
            not_after,
            not_before,
        };
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.len() >= MOST && !seen.contains_key(&shown) {
            let oldest = seen.iter().min_by_key(|(_, at)| **at);
            if let Some(oldest) = oldest.map(|(shown, _)| shown.clone()) {
                seen.remove(&oldest);
            }
        }
        seen.insert(shown, now);
    }

    fn in_use(&self, now: Instant) -> Vec<Shown> {
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        seen.retain(|_, at| now.saturating_duration_since(*at) < IN_USE);
        seen.keys().cloned().collect()
    }

    /// For each client, when the first of its certificates in use ends.
    pub fn earliest_ends(&self, now: Instant) -> BTreeMap<String, Timestamp> {
        let mut ends = BTreeMap::new();
        // In their order, so that the first of a client is the earliest.
        for shown in self.in_use(now) {
            ends.entry(shown.client).or_insert(shown.not_after);
        }
        ends
    }

    /// What an operator should see to.
    pub fn warnings(&self, now: Timestamp, at: Instant, ca: &str) -> Vec<String> {
        let near = |shown: &Shown| {
            CertificateFacts {
                not_before: shown.not_before,
                not_after: shown.not_after,
                server_names: Vec::new(),
            }
            .is_near_end(now, NEAR_EXPIRY)
        };
        let ending = self.in_use(at).into_iter().filter(near);
        let words = ending.map(|shown| {
            format!(
                "a certificate of {} ends at {}; renew it where it is: medbind ca issue DIR --ca \
                 {ca} --renew, and let what uses it read it again",
                shown.client, shown.not_after
            )
        });
        words.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(name: &str, not_after: i64) -> Peer {
        Peer {
            role: Role::Edge(name.parse().unwrap()),
            not_before: Some(Timestamp::from_unix_seconds(0)),
            not_after: Some(Timestamp::from_unix_seconds(not_after)),
        }
    }

    #[test]
    fn of_each_client_the_certificate_counts_that_ends_first_while_it_is_in_use() {
        let clients = Clients::default();
        let start = Instant::now();
        clients.seen(&peer("a", 2_000), start);
        clients.seen(&peer("a", 1_000), start);
        clients.seen(&peer("b", 3_000), start);
        clients.seen(&Peer::ANONYMOUS, start);
        let ends = |at| {
            let ends = clients.earliest_ends(at).into_iter();
            ends.map(|(client, end)| (client, end.unix_seconds()))
                .collect::<Vec<_>>()
        };
        let both = [("edge:a".to_owned(), 1_000), ("edge:b".to_owned(), 3_000)];
        assert_eq!(ends(start), both);
        // It was renewed, and its connections have all begun anew since.
        let later = start + IN_USE;
        clients.seen(&peer("a", 2_000), later);
        assert_eq!(ends(later), [("edge:a".to_owned(), 2_000)]);
    }

    #[test]
    fn no_crowd_of_certificates_fills_the_memory() {
        let clients = Clients::default();
        let start = Instant::now();
        for number in 0..i64::try_from(MOST).unwrap() + 5 {
            let at = start + Duration::from_secs(u64::try_from(number).unwrap());
            clients.seen(&peer("a", number), at);
        }
        let ends = clients.earliest_ends(start);
        assert_eq!(clients.0.lock().unwrap().len(), MOST);
        assert_eq!(ends["edge:a"].unix_seconds(), 5);
    }
}
