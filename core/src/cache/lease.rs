//! Who synchronises? A lease in shared data, taken by compare-and-swap and kept by a heartbeat.

use core::time::Duration;

use super::codec::{Corrupt, Reader};
use super::control::term_of_control;
use super::shared_data::{CacheError, SharedData, SharedDataError, cas_of};
use crate::time::Timestamp;

pub(super) const KEY: &str = "mb1/l";
const VERSION: u8 = 2;

/// Where a synchroniser runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Candidate {
    /// On a worker, beside the requests. It waits for a singleton first, and gives way to one.
    Worker,
    /// On the main thread, as a singleton service.
    Singleton,
}

/// Whether this synchroniser leads now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leadership {
    /// It leads; `term` is its fencing token, part of everything that it writes.
    Leader {
        /// Counts the leaders, from 1.
        term: u32,
    },
    /// Another leads, or nobody yet.
    Follower {
        /// What has become of the place.
        place: Place,
    },
}

/// The leader's place, to one who does not have it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Another has it.
    Held,
    /// Nobody has ever led, or whoever did has stopped.
    Vacant,
    /// Its holder has given it back.
    Left,
}

/// Which places that nobody has may be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    /// One that is [`Place::Vacant`].
    pub vacant: bool,
    /// One that is [`Place::Left`] by a holder that goes before whoever asks: those that it does not
    /// go before take it at once, and have to have been given the time.
    pub left: bool,
}

/// Who wants to lead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidacy {
    /// A number that no other synchroniser of this Envoy has.
    pub owner: u64,
    /// Where it runs.
    pub candidate: Candidate,
    /// The same for all that the same configuration has made.
    pub configuration: u64,
    /// Higher than that of each synchroniser of this Envoy that began before.
    pub number: u64,
}

impl Candidacy {
    /// A singleton goes before the workers. Of two alike, one of a newer configuration goes before
    /// one of an older: a host goes on with the old for as long as requests are under way that it
    /// let in, and its registry may be gone.
    const fn goes_before(self, other: Self) -> bool {
        match (self.candidate, other.candidate) {
            (Candidate::Singleton, Candidate::Worker) => true,
            (Candidate::Worker, Candidate::Singleton) => false,
            (Candidate::Worker, Candidate::Worker)
            | (Candidate::Singleton, Candidate::Singleton) => {
                self.configuration != other.configuration && self.number > other.number
            }
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Lease {
    term: u32,
    by: Candidacy,
    heartbeat: Timestamp,
    /// Whether its holder has let it go before it was over.
    given_back: bool,
}

impl Lease {
    fn encode(self) -> Vec<u8> {
        let mut octets = Vec::with_capacity(39);
        octets.push(VERSION);
        octets.extend_from_slice(&self.term.to_le_bytes());
        octets.extend_from_slice(&self.by.owner.to_le_bytes());
        octets.push(match self.by.candidate {
            Candidate::Worker => 0,
            Candidate::Singleton => 1,
        });
        octets.extend_from_slice(&self.by.configuration.to_le_bytes());
        octets.extend_from_slice(&self.by.number.to_le_bytes());
        octets.extend_from_slice(&self.heartbeat.unix_millis().to_le_bytes());
        octets.push(u8::from(self.given_back));
        octets
    }

    fn decode(octets: &[u8]) -> Result<Self, Corrupt> {
        let mut reader = Reader::new(octets);
        if reader.u8()? != VERSION {
            return Err(Corrupt);
        }
        let lease = Self {
            term: reader.u32()?,
            by: Candidacy {
                owner: reader.u64()?,
                candidate: if reader.flag()? {
                    Candidate::Singleton
                } else {
                    Candidate::Worker
                },
                configuration: reader.u64()?,
                number: reader.u64()?,
            },
            heartbeat: Timestamp::from_unix_millis(reader.i64()?),
            given_back: reader.flag()?,
        };
        if reader.is_empty() && lease.term < u32::MAX {
            Ok(lease)
        } else {
            Err(Corrupt)
        }
    }

    /// Older than `timeout`, or so far in the future that the clock must have stepped back.
    fn is_over(self, now: Timestamp, timeout: Duration) -> bool {
        now.since(self.heartbeat) > timeout || self.heartbeat.since(now) > timeout
    }
}

/// Takes, keeps or leaves the lease.
pub fn lead(
    store: &dyn SharedData,
    by: Candidacy,
    now: Timestamp,
    timeout: Duration,
    patience: Patience,
) -> Result<Leadership, CacheError> {
    let read = store.get(KEY).map_err(|_| CacheError::Host)?;
    // A lease that cannot be read is nobody's.
    let lease = read
        .as_ref()
        .and_then(|(octets, _)| Lease::decode(octets).ok());
    let left = lease.filter(|lease| lease.given_back);
    // Its holder goes on with one that is over and that nobody has taken: by a clock that was set, or
    // since it was held up.
    let is_held = |lease: &Lease| lease.by.owner == by.owner || !lease.is_over(now, timeout);
    let held = lease.filter(|lease| !lease.given_back && is_held(lease));
    let term = match (held, lease) {
        (Some(held), _) if held.by.owner == by.owner => {
            let quarter = timeout.checked_div(4).unwrap_or_default();
            if now.since(held.heartbeat) < quarter && held.heartbeat <= now {
                return Ok(Leadership::Leader { term: held.term });
            }
            held.term
        }
        (Some(held), _) if !by.goes_before(held.by) => {
            return Ok(Leadership::Follower { place: Place::Held });
        }
        (None, _) if left.is_some_and(|left| !patience.left && left.by.goes_before(by)) => {
            return Ok(Leadership::Follower { place: Place::Left });
        }
        (None, _) if left.is_none() && !patience.vacant => {
            return Ok(Leadership::Follower {
                place: Place::Vacant,
            });
        }
        (Some(_) | None, before) => {
            // A lease that was lost does not bring back a term that control has seen.
            let seen = before.map_or(0, |lease| lease.term);
            let control = term_of_control(store);
            seen.max(control)
                .checked_add(1)
                .ok_or(CacheError::Superseded)?
        }
    };
    let lease = Lease {
        term,
        by,
        heartbeat: now,
        given_back: false,
    };
    match store.set(KEY, &lease.encode(), Some(cas_of(read.as_ref()))) {
        Ok(()) => Ok(Leadership::Leader { term }),
        Err(SharedDataError::CasMismatch) => Ok(Leadership::Follower { place: Place::Held }),
        Err(SharedDataError::Host) => Err(CacheError::Host),
    }
}

/// Gives the lease back, where `by` holds it: another takes it at one of its next ticks, and does not
/// wait for it to run out. Where that cannot be written, it runs out.
pub fn give_back(store: &dyn SharedData, by: Candidacy) {
    let Ok(Some((octets, cas))) = store.get(KEY) else {
        return;
    };
    if let Ok(lease) = Lease::decode(&octets)
        && lease.by.owner == by.owner
    {
        let lease = Lease {
            given_back: true,
            ..lease
        };
        let _ = store.set(KEY, &lease.encode(), Some(cas_of(Some(&(octets, cas)))));
    }
}

#[cfg(test)]
mod tests {
    use super::super::memory::MemorySharedData;
    use super::*;

    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    const TIMEOUT: Duration = Duration::from_secs(4);
    const PATIENT: Patience = Patience {
        vacant: false,
        left: false,
    };
    const AT_ONCE: Patience = Patience {
        vacant: true,
        left: false,
    };

    fn at(millis: i64) -> Timestamp {
        Timestamp::from_unix_millis(millis)
    }

    fn by(owner: u64, candidate: Candidate) -> Candidacy {
        Candidacy {
            owner,
            candidate,
            configuration: 1,
            number: owner,
        }
    }

    fn term(leadership: Leadership) -> Option<u32> {
        match leadership {
            Leadership::Leader { term } => Some(term),
            Leadership::Follower { .. } => None,
        }
    }

    #[test]
    fn one_leads_until_its_heartbeat_is_too_old() {
        let store = MemorySharedData::new();
        let run = |owner, candidate, now| {
            term(lead(&store, by(owner, candidate), at(now), TIMEOUT, AT_ONCE).unwrap())
        };
        let worker = Candidate::Worker;
        assert_eq!(run(1, worker, 0), Some(1));
        assert_eq!(run(2, worker, 10), None);
        assert_eq!(run(1, worker, 2_000), Some(1), "a heartbeat keeps the term");
        assert_eq!(run(2, worker, 5_900), None);
        assert_eq!(run(2, worker, 6_001), Some(2), "2,000 + 4,000 is over");
        assert_eq!(run(1, worker, 6_002), None, "the old leader follows");
        assert_eq!(
            run(3, Candidate::Singleton, 6_003),
            Some(3),
            "a worker gives way"
        );
        assert_eq!(run(2, worker, 6_004), None);
        assert_eq!(run(4, Candidate::Singleton, 6_005), None);
        assert_eq!(run(2, worker, 1_000), Some(4), "the clock stepped back");
    }

    #[test]
    fn of_two_alike_the_one_of_the_newer_configuration_leads() {
        for candidate in [Candidate::Worker, Candidate::Singleton] {
            let store = MemorySharedData::new();
            let run = |owner, configuration, number| {
                let by = Candidacy {
                    owner,
                    candidate,
                    configuration,
                    number,
                };
                term(lead(&store, by, at(0), TIMEOUT, AT_ONCE).unwrap())
            };
            assert_eq!(run(1, 1, 1), Some(1));
            assert_eq!(run(2, 1, 2), None, "of the same configuration");
            assert_eq!(run(3, 2, 3), Some(2));
            assert_eq!(run(1, 1, 1), None, "the older gives up");
            assert_eq!(run(2, 1, 2), None);
            assert_eq!(run(4, 2, 4), None, "of the same configuration");
            assert_eq!(run(5, 1, 3), None, "no newer");
            assert_eq!(run(6, 1, 5), Some(3), "back to the first configuration");
        }
    }

    #[test]
    fn a_newer_configuration_does_not_push_a_singleton_out() {
        let store = MemorySharedData::new();
        let run = |owner, candidate, configuration| {
            let by = Candidacy {
                configuration,
                ..by(owner, candidate)
            };
            term(lead(&store, by, at(0), TIMEOUT, AT_ONCE).unwrap())
        };
        assert_eq!(run(5, Candidate::Worker, 1), Some(1));
        assert_eq!(
            run(4, Candidate::Singleton, 2),
            Some(2),
            "an older one, too"
        );
        assert_eq!(run(6, Candidate::Worker, 3), None);
    }

    #[test]
    fn a_heartbeat_that_is_as_old_as_the_timeout_still_holds() {
        for now in [4_000, -4_000] {
            let store = MemorySharedData::new();
            let run = |owner, now| {
                lead(
                    &store,
                    by(owner, Candidate::Worker),
                    at(now),
                    TIMEOUT,
                    AT_ONCE,
                )
                .unwrap()
            };
            assert_eq!(term(run(1, 0)), Some(1));
            assert_eq!(
                run(2, now),
                Leadership::Follower { place: Place::Held },
                "{now}"
            );
        }
    }

    #[test]
    fn a_leader_writes_its_heartbeat_four_times_a_timeout() {
        let store = MemorySharedData::new();
        let writes_after = |now| {
            let leads = lead(&store, by(1, Candidate::Worker), at(now), TIMEOUT, AT_ONCE).unwrap();
            assert_eq!(term(leads), Some(1));
            store.writes()
        };
        assert_eq!(writes_after(0), 1);
        assert_eq!(writes_after(0), 1);
        assert_eq!(writes_after(999), 1);
        assert_eq!(writes_after(1_000), 2);
        assert_eq!(writes_after(500), 3, "the clock stepped back");
        assert_eq!(writes_after(1_499), 3);
    }

    #[test]
    fn a_vacant_place_is_left_where_it_may_not_be_taken() {
        let store = MemorySharedData::new();
        let run = |vacant| {
            let patience = Patience { vacant, ..PATIENT };
            lead(&store, by(1, Candidate::Worker), at(0), TIMEOUT, patience).unwrap()
        };
        assert_eq!(
            run(false),
            Leadership::Follower {
                place: Place::Vacant
            }
        );
        assert_eq!(run(true), Leadership::Leader { term: 1 });
    }

    #[test]
    fn what_is_given_back_is_taken_at_once_and_only_by_its_holder_given() {
        let store = MemorySharedData::new();
        let run = |owner, vacant| {
            let by = by(owner, Candidate::Worker);
            let patience = Patience { vacant, ..PATIENT };
            lead(&store, by, at(0), TIMEOUT, patience).unwrap()
        };
        assert_eq!(run(1, true), Leadership::Leader { term: 1 });
        give_back(&store, by(2, Candidate::Worker));
        assert_eq!(run(2, false), Leadership::Follower { place: Place::Held });
        give_back(&store, by(1, Candidate::Worker));
        assert_eq!(run(2, false), Leadership::Leader { term: 2 });
        // It was given back once.
        assert_eq!(run(1, true), Leadership::Follower { place: Place::Held });
        give_back(&store, by(1, Candidate::Worker));
        assert_eq!(run(2, false), Leadership::Leader { term: 2 });
    }

    #[test]
    fn what_a_newer_configuration_gives_back_an_older_one_leaves_to_its_like_for_a_while() {
        let of = |owner, candidate, configuration| Candidacy {
            configuration,
            ..by(owner, candidate)
        };
        let (worker, singleton) = (Candidate::Worker, Candidate::Singleton);
        let cases = [
            (of(5, worker, 2), of(3, worker, 1)),
            (of(5, singleton, 2), of(3, singleton, 1)),
            (of(5, singleton, 2), of(6, worker, 2)),
        ];
        for (holder, older) in cases {
            let store = MemorySharedData::new();
            let run = |by, patience| lead(&store, by, at(0), TIMEOUT, patience).unwrap();
            assert_eq!(term(run(holder, AT_ONCE)), Some(1));
            give_back(&store, holder);
            let waits = Leadership::Follower { place: Place::Left };
            assert_eq!(run(older, AT_ONCE), waits);
            assert_eq!(
                term(run(
                    older,
                    Patience {
                        left: true,
                        ..PATIENT
                    }
                )),
                Some(2)
            );
        }
        for next in [of(6, worker, 2), of(7, worker, 3), of(4, singleton, 1)] {
            let store = MemorySharedData::new();
            let run = |by, patience| lead(&store, by, at(0), TIMEOUT, patience).unwrap();
            let holder = of(5, worker, 2);
            assert_eq!(term(run(holder, AT_ONCE)), Some(1));
            give_back(&store, holder);
            assert_eq!(term(run(next, PATIENT)), Some(2), "{next:?}");
        }
    }

    #[test]
    fn a_lease_that_cannot_be_read_is_nobodys() {
        let store = MemorySharedData::new();
        for octets in [&b"x"[..], &[1; 30], &[1, 2, 3]] {
            store.set(KEY, octets, None).unwrap();
            assert!(
                term(lead(&store, by(1, Candidate::Worker), at(0), TIMEOUT, AT_ONCE).unwrap())
                    .is_some()
            );
        }
    }

    #[test]
    fn reading_cut_octets_is_an_error() {
        let lease = Lease {
            term: 7,
            by: by(9, Candidate::Singleton),
            heartbeat: at(-3),
            given_back: true,
        };
        let octets = lease.encode();
        assert_eq!(Lease::decode(&octets), Ok(lease));
        for length in 0..octets.len() {
            assert_eq!(Lease::decode(&octets[..length]), Err(Corrupt));
        }
        assert_eq!(Lease::decode(&[octets, vec![0]].concat()), Err(Corrupt));
        let last = Lease {
            term: u32::MAX,
            ..lease
        };
        assert_eq!(
            Lease::decode(&last.encode()),
            Err(Corrupt),
            "none is after it"
        );
    }
}
