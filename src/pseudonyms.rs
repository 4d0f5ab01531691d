//! How is a device named in this worker's logs? The key of the pseudonyms, fetched from the
//! registry and kept in this worker's own memory, never in shared data.

use std::time::Duration;

use medbind_core::identity::DeviceId;
use medbind_core::pseudonym::{Pseudonym, PseudonymKey};
use medbind_core::time::Timestamp;

use crate::host::{CallAnswer, Host, LogLevel};
use crate::table::Table;

/// Where the registry gives the key out.
const PATH: &str = "/v1/edge/pseudonym-key";
/// How long one call may take.
const TIMEOUT: Duration = Duration::from_secs(5);
/// How old a key becomes before it is asked for again: the registry rotates it there.
const RENEW: Duration = Duration::from_mins(10);
/// The first pause after a failure, which doubles up to the last.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LAST_PAUSE: Duration = Duration::from_secs(30);

/// The key, and the pseudonyms worked out under it.
#[derive(Debug)]
pub struct Pseudonyms {
    key: Option<PseudonymKey>,
    known: Table<DeviceId, Pseudonym>,
    call: Option<u32>,
    next: Option<Timestamp>,
    pause: Duration,
}

impl Pseudonyms {
    /// No key yet; keeps at most so many pseudonyms: working one out costs more than a decision.
    pub fn new(most: usize) -> Self {
        Self {
            key: None,
            known: Table::new(most),
            call: None,
            next: None,
            pause: FIRST_PAUSE,
        }
    }

    /// Asks for the key where that is due, at this cluster. To be called in the root context, which
    /// gets the answer.
    pub fn tick(&mut self, host: &impl Host, cluster: &str, authority: &str, now: Timestamp) {
        let due = self.next.is_none_or(|next| {
            // A clock that stepped back must not keep the key away.
            now >= next || next.since(now) > RENEW
        });
        if self.call.is_some() || !due {
            return;
        }
        match host.get(cluster, authority, PATH, TIMEOUT) {
            Ok(token) => self.call = Some(token),
            Err(_) => self.failed(now),
        }
    }

    /// Whether this is the answer to the call for the key.
    pub fn is_waiting_for(&self, token: u32) -> bool {
        self.call == Some(token)
    }

    /// Takes the answer.
    pub fn answered(&mut self, host: &impl Host, answer: &CallAnswer, now: Timestamp) {
        self.call = None;
        let key = match answer.status {
            Some(200) => PseudonymKey::from_json(&answer.body).ok(),
            Some(_) | None => None,
        };
        let Some(key) = key else {
            if self.key.is_none() && self.pause == FIRST_PAUSE {
                let status = answer.status.unwrap_or(0);
                host.log(
                    LogLevel::Warn,
                    &format!(
                        "medbind: the registry gives no pseudonym key (status {status}); devices \
                         are logged as \"-\" until it does"
                    ),
                );
            }
            self.failed(now);
            return;
        };
        if self.key.as_ref().map(PseudonymKey::id) != Some(key.id()) {
            self.known.clear();
        }
        self.key = Some(key);
        self.pause = FIRST_PAUSE;
        self.next = Some(now.after(RENEW));
    }

    fn failed(&mut self, now: Timestamp) {
        self.next = Some(now.after(self.pause));
        self.pause = self.pause.saturating_mul(2).min(LAST_PAUSE);
    }

    /// The device's pseudonym; `None` until the key is here.
    pub fn of(&mut self, device: &DeviceId) -> Option<Pseudonym> {
        let key = self.key.as_ref()?;
        if let Some(pseudonym) = self.known.get(device) {
            return Some(*pseudonym);
        }
        let pseudonym = key.pseudonym(device);
        self.known.insert(device.clone(), pseudonym);
        Some(pseudonym)
    }
}
