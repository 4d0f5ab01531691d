//! What may an operator do to a device, and when? Holds, ends, releases, new secrets, pins.

use futures_util::FutureExt as _;
use medbind_core::binding::{AccountId, BindingState, Pins};
use medbind_core::claim::{ClaimSecret, SECRET_SYMBOLS};
use medbind_core::feed::binding_line;
use medbind_core::identity::DeviceId;
use medbind_core::time::Timestamp;

use crate::audit::Setting;
use crate::device::{Device, pins_octets};
use crate::store::{Store, StoreError, Writing};

/// What an operator may do to a binding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Hold it, until it is resumed.
    Suspend,
    /// End a hold.
    Resume,
    /// End it for good.
    Revoke,
    /// Take it from its account. A hold stays.
    Release,
    /// Make a new claim secret for a device that no account has.
    NewSecret,
    /// Say which keys it may use.
    Pin(Pins),
    /// Say when it ends by itself.
    Expire(Option<Timestamp>),
}

impl Action {
    const fn word(&self) -> &'static str {
        match self {
            Self::Suspend => "suspend",
            Self::Resume => "resume",
            Self::Revoke => "revoke",
            Self::Release => "release",
            Self::NewSecret => "new_secret",
            Self::Pin(_) => "pin",
            Self::Expire(_) => "expire",
        }
    }

    /// What it sets, where the word alone does not say it.
    fn setting(&self) -> Option<Setting> {
        match self {
            Self::Pin(pins) => Some(Setting::Pins(pins.clone())),
            Self::Expire(at) => Some(Setting::ExpiresAt(*at)),
            Self::Suspend | Self::Resume | Self::Revoke | Self::Release | Self::NewSecret => None,
        }
    }

    /// Whether it ends with a secret that nobody has yet.
    const fn makes_secret(&self) -> bool {
        match self {
            Self::Release | Self::NewSecret => true,
            Self::Suspend | Self::Resume | Self::Revoke | Self::Pin(_) | Self::Expire(_) => false,
        }
    }
}

/// Who asks for a change, and why.
#[derive(Clone, Debug)]
pub(crate) struct Cause {
    /// The role and name of the client.
    pub actor: String,
    /// In the operator's words.
    pub reason: Option<String>,
}

/// Why a change is not made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ChangeError {
    /// The registry has no such device.
    #[error("no such device")]
    NoSuchDevice,
    /// The binding's state does not allow it.
    #[error("{0}")]
    Conflict(&'static str),
    /// The epochs of a device are used up.
    #[error("no further epoch can be counted")]
    EpochsUsedUp,
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What became of an action.
#[derive(Debug)]
pub(crate) struct Changed {
    /// The device as it is now.
    pub device: Device,
    /// Where one was made: the secret for the next claim.
    pub secret: Option<ClaimSecret>,
}

/// A new claim secret.
pub(crate) fn new_secret() -> ClaimSecret {
    ClaimSecret::from_entropy(rand::random::<[u8; SECRET_SYMBOLS]>())
}

const FINAL: &str = "the device is revoked, which is final";
const NOTHING_TO_RELEASE: &str = "no account has the device, so there is nothing to release; where \
                                  its claim secret is lost, `medbind new-secret` makes another";
const ACCOUNT_HAS_IT: &str = "an account has the device: a release takes it away, and makes a new \
                              claim secret";

/// Carries out the action on the row. `Ok(false)`: it is so already.
fn carry_out(
    action: &Action,
    device: &mut Device,
    secret: &ClaimSecret,
) -> Result<bool, ChangeError> {
    use BindingState::{Active, Revoked, Suspended, Unclaimed, Unrecognised};
    let claimed = device.binding.account.is_some();
    let state = device.binding.state;
    let next = match (action, state) {
        (_, Unrecognised) => return Err(StoreError::Corrupt("a state").into()),
        (Action::Revoke, _) => Revoked,
        (_, Revoked) => return Err(ChangeError::Conflict(FINAL)),
        (Action::Suspend, _) => Suspended,
        (Action::Resume, Suspended) if claimed => Active,
        (Action::Resume, Suspended) => Unclaimed,
        (Action::Resume, Active | Unclaimed) => state,
        (Action::Release, Active | Suspended) if claimed => {
            device.binding.account = None;
            device.renew_secret(secret);
            if state == Suspended {
                Suspended
            } else {
                Unclaimed
            }
        }
        (Action::Release, Active | Suspended | Unclaimed) => {
            return Err(ChangeError::Conflict(NOTHING_TO_RELEASE));
        }
        (Action::NewSecret, Suspended | Unclaimed) if !claimed => {
            device.renew_secret(secret);
            state
        }
        (Action::NewSecret, Active | Suspended | Unclaimed) => {
            return Err(ChangeError::Conflict(ACCOUNT_HAS_IT));
        }
        (Action::Pin(pins), Active | Suspended | Unclaimed) => {
            let changed = device.binding.pins != *pins;
            device.binding.pins = pins.clone();
            return Ok(changed);
        }
        (Action::Expire(at), Active | Suspended | Unclaimed) => {
            let changed = device.binding.expires_at != *at;
            device.binding.expires_at = *at;
            return Ok(changed);
        }
    };
    device.binding.state = next;
    Ok(next != state || action.makes_secret())
}

impl Device {
    /// The old secret is worth nothing from now on, used or not.
    fn renew_secret(&mut self, secret: &ClaimSecret) {
        self.secret_hash = secret.hash();
        self.secret_used = false;
    }
}

impl Writing<'_> {
    /// Writes the device with its next revision, and the change into the log.
    pub async fn save(&mut self, device: &mut Device) -> Result<(), StoreError> {
        let revision = self.head.revision.saturating_add(1);
        device.binding.revision = revision;
        device.changed_at = self.now;
        let head = self.head.then(self.now, &binding_line(&device.binding));
        let revision = i64::try_from(revision).map_err(|_| StoreError::Corrupt("a revision"))?;
        let binding = &device.binding;
        sqlx::query(
            "UPDATE devices SET secret_hash = ?2, secret_used = ?3, state = ?4, account = ?5, \
             epoch = ?6, owned = ?7, pins = ?8, revision = ?9, changed_at = ?10, \
             expires_at = ?11 WHERE device = ?1",
        )
        .bind(binding.device.as_str())
        .bind(device.secret_hash.0.as_slice())
        .bind(device.secret_used)
        .bind(binding.state.as_str())
        .bind(binding.account.as_ref().map(AccountId::as_str))
        .bind(binding.epoch.get())
        .bind(device.owned)
        .bind(pins_octets(&binding.pins))
        .bind(revision)
        .bind(self.now.unix_millis())
        .bind(binding.expires_at.map(Timestamp::unix_millis))
        .execute(&mut *self.tx)
        .await?;
        sqlx::query("INSERT INTO changes (revision, device, at, hash) VALUES (?1, ?2, ?3, ?4)")
            .bind(revision)
            .bind(binding.device.as_str())
            .bind(self.now.unix_millis())
            .bind(head.hash.as_slice())
            .execute(&mut *self.tx)
            .await?;
        self.head = head;
        Ok(())
    }

    /// Adds an entry to the audit.
    pub async fn audit(&mut self, entry: Entry<'_>) -> Result<(), StoreError> {
        let revision =
            |revision: Option<u64>| revision.and_then(|number| i64::try_from(number).ok());
        let set = entry.set.map(|set| serde_json::to_string(&set));
        let set = set.transpose();
        let set = set.map_err(|_| StoreError::Corrupt("a setting"))?;
        sqlx::query(
            "INSERT INTO audit \
             (at, actor, action, device, account, reason, first_revision, last_revision, setting) \
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
        )
        .bind(self.now.unix_millis())
        .bind(&entry.cause.actor)
        .bind(entry.action)
        .bind(entry.device.map(DeviceId::as_str))
        .bind(entry.account.map(AccountId::as_str))
        .bind(entry.cause.reason.as_deref())
        .bind(revision(entry.revisions.map(|(first, _)| first)))
        .bind(revision(entry.revisions.map(|(_, last)| last)))
        .bind(set)
        .execute(&mut *self.tx)
        .await?;
        Ok(())
    }

    async fn act(
        &mut self,
        device: &DeviceId,
        action: &Action,
        cause: &Cause,
    ) -> Result<Changed, ChangeError> {
        let found = Device::find(&mut self.tx, device).await?;
        let mut device = found.ok_or(ChangeError::NoSuchDevice)?;
        let account = device.binding.account.clone();
        let secret = new_secret();
        if carry_out(action, &mut device, &secret)? {
            self.save(&mut device).await?;
            let revision = self.head.revision;
            self.audit(Entry {
                cause,
                action: action.word(),
                device: Some(&device.binding.device),
                account: account.as_ref(),
                set: action.setting(),
                revisions: Some((revision, revision)),
            })
            .await?;
        }
        let secret = if action.makes_secret() {
            self.forget_refusals(&device.code).await?;
            Some(secret)
        } else {
            None
        };
        Ok(Changed { device, secret })
    }
}

/// An entry of the audit.
pub(crate) struct Entry<'a> {
    /// Who and why.
    pub cause: &'a Cause,
    /// What.
    pub action: &'static str,
    /// To which device, where it is one.
    pub device: Option<&'a DeviceId>,
    /// For or from which account.
    pub account: Option<&'a AccountId>,
    /// What it has set.
    pub set: Option<Setting>,
    /// The first and last revision that it made.
    pub revisions: Option<(u64, u64)>,
}

impl Store {
    /// Carries out an operator's action in one transaction with its log entry. Where it is so
    /// already nothing changes, and the revision stays.
    pub async fn act(
        &self,
        device: DeviceId,
        action: Action,
        cause: Cause,
    ) -> Result<Changed, ChangeError> {
        self.write(move |writing| {
            async move { writing.act(&device, &action, &cause).await }.boxed()
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use medbind_core::binding::{Binding, Epoch, Pin};
    use medbind_core::claim::{CODE_SYMBOLS, ClaimCode};

    fn device(state: BindingState, account: Option<&str>) -> Device {
        Device {
            binding: Binding {
                device: "acme:SN1".parse().unwrap(),
                state,
                account: account.map(|text| text.parse().unwrap()),
                class: None,
                epoch: Epoch::FIRST,
                expires_at: None,
                pins: Pins::default(),
                revision: 1,
            },
            code: ClaimCode::from_entropy([1; CODE_SYMBOLS]),
            secret_hash: new_secret().hash(),
            secret_used: account.is_some(),
            owned: account.is_some(),
            pseudonym: String::new(),
            enrolled_at: Timestamp::default(),
            changed_at: Timestamp::default(),
            enrolment: None,
        }
    }

    /// Every action in every state: the state after it and whether it is a change, or a conflict.
    #[test]
    fn each_state_allows_what_it_allows() {
        use BindingState::{Active, Revoked, Suspended, Unclaimed};
        let pin = || Action::Pin(Pins::new([Pin([1; 32])]).unwrap());
        let end = || Action::Expire(Some(Timestamp::from_unix_seconds(1)));
        let acc = Some("acc-1");
        for (action, state, account, expected) in [
            (Action::Suspend, Unclaimed, None, Some((Suspended, true))),
            (Action::Suspend, Active, acc, Some((Suspended, true))),
            (Action::Suspend, Suspended, acc, Some((Suspended, false))),
            (Action::Suspend, Revoked, acc, None),
            (Action::Resume, Unclaimed, None, Some((Unclaimed, false))),
            (Action::Resume, Active, acc, Some((Active, false))),
            (Action::Resume, Suspended, acc, Some((Active, true))),
            (Action::Resume, Suspended, None, Some((Unclaimed, true))),
            (Action::Resume, Revoked, acc, None),
            (Action::Revoke, Unclaimed, None, Some((Revoked, true))),
            (Action::Revoke, Active, acc, Some((Revoked, true))),
            (Action::Revoke, Suspended, acc, Some((Revoked, true))),
            (Action::Revoke, Revoked, acc, Some((Revoked, false))),
            (Action::Release, Unclaimed, None, None),
            (Action::Release, Active, acc, Some((Unclaimed, true))),
            (Action::Release, Suspended, acc, Some((Suspended, true))),
            (Action::Release, Suspended, None, None),
            (Action::Release, Revoked, acc, None),
            (Action::NewSecret, Unclaimed, None, Some((Unclaimed, true))),
            (Action::NewSecret, Active, acc, None),
            (Action::NewSecret, Suspended, acc, None),
            (Action::NewSecret, Suspended, None, Some((Suspended, true))),
            (Action::NewSecret, Revoked, None, None),
            (Action::NewSecret, Revoked, acc, None),
            (pin(), Unclaimed, None, Some((Unclaimed, true))),
            (pin(), Active, acc, Some((Active, true))),
            (pin(), Suspended, acc, Some((Suspended, true))),
            (pin(), Revoked, acc, None),
            (end(), Unclaimed, None, Some((Unclaimed, true))),
            (end(), Active, acc, Some((Active, true))),
            (end(), Suspended, acc, Some((Suspended, true))),
            (end(), Revoked, acc, None),
        ] {
            let mut device = device(state, account);
            let secret = new_secret();
            let before = device.secret_hash;
            let changed = carry_out(&action, &mut device, &secret);
            let found = changed.ok().map(|changed| (device.binding.state, changed));
            assert_eq!(found, expected, "{action:?} in {state:?}");
            if action.makes_secret() && expected.is_some() {
                assert_eq!(device.binding.account, None);
                assert!(!device.secret_used && device.secret_hash == secret.hash());
            } else {
                assert_eq!(device.secret_hash, before, "{action:?} in {state:?}");
            }
        }
    }
}
