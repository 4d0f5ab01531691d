//! How is a device named in this worker's logs? The key of the pseudonyms, fetched from the
//! registry and kept in this worker's own memory, never in shared data.

use std::time::Duration;

use medbind_core::identity::DeviceId;
use medbind_core::pseudonym::{Pseudonym, PseudonymKey};

use crate::host::{CallAnswer, Host, LogLevel};
use crate::table::Table;

/// Where the registry gives the key out.
const PATH: &str = "/v1/edge/pseudonym-key";
/// How long one call may take.
const TIMEOUT: Duration = Duration::from_secs(5);
/// How much later than that a call that says nothing is given up.
const GRACE: Duration = Duration::from_secs(1);
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
    call: Option<Call>,
    /// How long until the key is asked for. Counted by ticks: no step of the clock keeps it away.
    rest: Duration,
    /// How long that is after the next failure.
    pause: Duration,
}

#[derive(Clone, Copy, Debug)]
struct Call {
    token: u32,
    /// How long it may still say nothing.
    left: Duration,
}

impl Pseudonyms {
    /// No key yet; keeps at most so many pseudonyms: working one out costs more than a decision.
    pub fn new(most: usize) -> Self {
        Self {
            key: None,
            known: Table::new(most),
            call: None,
            rest: Duration::ZERO,
            pause: FIRST_PAUSE,
        }
    }

    /// A tick, `period` after the last one: asks for the key where that is due, at this cluster. To be
    /// called in the root context, which gets the answer.
    pub fn tick(&mut self, host: &impl Host, cluster: &str, authority: &str, period: Duration) {
        self.rest = self.rest.saturating_sub(period);
        if let Some(call) = &mut self.call {
            call.left = call.left.saturating_sub(period);
            if call.left.is_zero() {
                self.call = None;
                self.failed(host, None);
            }
            return;
        }
        if !self.rest.is_zero() {
            return;
        }
        match host.get(cluster, authority, PATH, TIMEOUT) {
            Ok(token) => {
                let left = TIMEOUT.saturating_add(GRACE);
                self.call = Some(Call { token, left });
            }
            Err(_) => self.pauses(),
        }
    }

    /// Whether this is the answer to the call for the key.
    pub fn is_waiting_for(&self, token: u32) -> bool {
        self.call.is_some_and(|call| call.token == token)
    }

    /// Takes the answer.
    pub fn answered(&mut self, host: &impl Host, answer: &CallAnswer) {
        self.call = None;
        let key = match answer.status {
            Some(200) => PseudonymKey::from_json(&answer.body).ok(),
            Some(_) | None => None,
        };
        let Some(key) = key else {
            return self.failed(host, answer.status);
        };
        if self.key.as_ref().map(PseudonymKey::id) != Some(key.id()) {
            self.known.clear();
        }
        self.key = Some(key);
        self.pause = FIRST_PAUSE;
        self.rest = RENEW;
    }

    fn failed(&mut self, host: &impl Host, status: Option<u16>) {
        if self.key.is_none() && self.pause == FIRST_PAUSE {
            let status = status.unwrap_or(0);
            host.log(
                LogLevel::Warn,
                &format!(
                    "medbind: the registry gives no pseudonym key (status {status}); devices are \
                     logged as \"-\" until it does"
                ),
            );
        }
        self.pauses();
    }

    fn pauses(&mut self) {
        self.rest = self.pause;
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
