//! What may happen to a device, and when? Claims, holds, ends and releases.

use futures_util::FutureExt as _;
use medbind_core::binding::{AccountId, BindingState, Epoch, Pins};
use medbind_core::claim::{ClaimCode, ClaimSecret, ClaimSecretHash, SECRET_SYMBOLS};
use medbind_core::feed::binding_line;
use medbind_core::identity::DeviceId;
use subtle::{Choice, ConstantTimeEq as _};

use crate::device::{Device, pins_octets};
use crate::store::{Store, StoreError, Writing};

/// How many refused claims of one code are answered within [`REFUSALS_WINDOW_MILLIS`] before
/// further ones have to wait.
const REFUSALS_ALLOWED: i64 = 10;
const REFUSALS_WINDOW_MILLIS: i64 = 15 * 60 * 1000;

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
    /// Say which keys it may use.
    Pin(Pins),
}

impl Action {
    const fn word(&self) -> &'static str {
        match self {
            Self::Suspend => "suspend",
            Self::Resume => "resume",
            Self::Revoke => "revoke",
            Self::Release => "release",
            Self::Pin(_) => "pin",
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
    /// After a release: the secret for the next claim.
    pub secret: Option<ClaimSecret>,
}

/// What became of a claim.
#[derive(Debug)]
pub(crate) enum Claimed {
    /// It is the account's now.
    Won(Box<Device>),
    /// Unknown code, wrong secret, used secret, or a device that cannot be claimed now: the caller
    /// does not learn which.
    Refused,
    /// Too many refusals of this code: wait.
    Wait,
}

/// A new claim secret.
pub(crate) fn new_secret() -> ClaimSecret {
    ClaimSecret::from_entropy(rand::random::<[u8; SECRET_SYMBOLS]>())
}

const FINAL: &str = "the device is revoked, which is final";

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
            device.secret_hash = secret.hash();
            device.secret_used = false;
            if state == Suspended {
                Suspended
            } else {
                Unclaimed
            }
        }
        (Action::Release, Active | Suspended | Unclaimed) => {
            return Err(ChangeError::Conflict("no account has claimed the device"));
        }
        (Action::Pin(pins), Active | Suspended | Unclaimed) => {
            let changed = device.binding.pins != *pins;
            device.binding.pins = pins.clone();
            return Ok(changed);
        }
    };
    device.binding.state = next;
    Ok(next != state || *action == Action::Release)
}

impl Writing<'_> {
    /// Writes the device with its next revision, and the change into the log.
    async fn save(&mut self, device: &mut Device) -> Result<(), StoreError> {
        let revision = self.head.revision.saturating_add(1);
        device.binding.revision = revision;
        device.changed_at = self.now;
        let head = self.head.then(self.now, &binding_line(&device.binding));
        let revision = i64::try_from(revision).map_err(|_| StoreError::Corrupt("a revision"))?;
        let binding = &device.binding;
        sqlx::query(
            "UPDATE devices SET secret_hash = ?2, secret_used = ?3, state = ?4, account = ?5, \
             epoch = ?6, owned = ?7, pins = ?8, revision = ?9, changed_at = ?10 \
             WHERE device = ?1",
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
        sqlx::query(
            "INSERT INTO audit \
             (at, actor, action, device, account, reason, first_revision, last_revision) \
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
        )
        .bind(self.now.unix_millis())
        .bind(&entry.cause.actor)
        .bind(entry.action)
        .bind(entry.device.map(DeviceId::as_str))
        .bind(entry.account.map(AccountId::as_str))
        .bind(entry.cause.reason.as_deref())
        .bind(revision(entry.revisions.map(|(first, _)| first)))
        .bind(revision(entry.revisions.map(|(_, last)| last)))
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
                revisions: Some((revision, revision)),
            })
            .await?;
        }
        let secret = (*action == Action::Release).then_some(secret);
        Ok(Changed { device, secret })
    }

    async fn claim(&mut self, claim: &Claim, cause: &Cause) -> Result<Claimed, ChangeError> {
        let since = self
            .now
            .unix_millis()
            .saturating_sub(REFUSALS_WINDOW_MILLIS);
        let code = claim.code.as_ref().map_or("", ClaimCode::canonical);
        let refusals: i64 =
            sqlx::query_scalar("SELECT count(*) FROM refused_claims WHERE code = ?1 AND at > ?2")
                .bind(code)
                .bind(since)
                .fetch_one(&mut *self.tx)
                .await
                .map_err(StoreError::from)?;
        if refusals >= REFUSALS_ALLOWED && claim.code.is_some() {
            return Ok(Claimed::Wait);
        }
        let found = match &claim.code {
            Some(code) => Device::find_by_code(&mut self.tx, code).await?,
            None => None,
        };
        // The same steps whether the code is known or not, and no answer before the last.
        let unknown = ClaimSecretHash([0; 32]);
        let expected = found
            .as_ref()
            .map_or(&unknown, |device| &device.secret_hash);
        let matches = claim.secret_hash.0.ct_eq(&expected.0)
            & truth(claim.secret_is_one)
            & truth(found.is_some())
            & truth(found.as_ref().is_some_and(|device| !device.secret_used))
            & truth(found.as_ref().is_some_and(|device| {
                device.binding.state == BindingState::Unclaimed && device.binding.account.is_none()
            }));
        let named = found.as_ref().map(|device| device.binding.device.clone());
        if let (true, Some(mut device)) = (bool::from(matches), found) {
            if device.owned {
                let next = device
                    .binding
                    .epoch
                    .get()
                    .checked_add(1)
                    .and_then(Epoch::new);
                device.binding.epoch = next.ok_or(ChangeError::EpochsUsedUp)?;
            }
            device.owned = true;
            device.secret_used = true;
            device.binding.state = BindingState::Active;
            device.binding.account = Some(claim.account.clone());
            self.save(&mut device).await?;
            let revision = self.head.revision;
            self.audit(Entry {
                cause,
                action: "claim",
                device: Some(&device.binding.device),
                account: Some(&claim.account),
                revisions: Some((revision, revision)),
            })
            .await?;
            return Ok(Claimed::Won(Box::new(device)));
        }
        self.refuse(code, since).await?;
        self.audit(Entry {
            cause,
            action: "claim_refused",
            device: named.as_ref(),
            account: Some(&claim.account),
            revisions: None,
        })
        .await?;
        Ok(Claimed::Refused)
    }

    /// Counts the refusal, and forgets those that are long past.
    async fn refuse(&mut self, code: &str, since: i64) -> Result<(), StoreError> {
        sqlx::query("DELETE FROM refused_claims WHERE at <= ?1")
            .bind(since)
            .execute(&mut *self.tx)
            .await?;
        sqlx::query("INSERT INTO refused_claims (code, at) VALUES (?1, ?2)")
            .bind(code)
            .bind(self.now.unix_millis())
            .execute(&mut *self.tx)
            .await?;
        Ok(())
    }
}

fn truth(value: bool) -> Choice {
    Choice::from(u8::from(value))
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
    /// The first and last revision that it made.
    pub revisions: Option<(u64, u64)>,
}

/// A claim as it was typed. Text that can be no code or no secret is refused like a wrong one.
#[derive(Debug)]
pub(crate) struct Claim {
    code: Option<ClaimCode>,
    secret_hash: ClaimSecretHash,
    secret_is_one: bool,
    account: AccountId,
}

impl Claim {
    /// From what was typed.
    pub fn new(code: &str, secret: &str, account: AccountId) -> Self {
        let secret: Option<ClaimSecret> = secret.parse().ok();
        let secret_is_one = secret.is_some();
        let secret_hash = secret.unwrap_or_else(new_secret).hash();
        Self {
            code: code.parse().ok(),
            secret_hash,
            secret_is_one,
            account,
        }
    }
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

    /// Claims a device for an account, or refuses and remembers it.
    pub async fn claim(&self, claim: Claim, cause: Cause) -> Result<Claimed, ChangeError> {
        self.write(move |writing| async move { writing.claim(&claim, &cause).await }.boxed())
            .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use medbind_core::binding::{Binding, Pin};
    use medbind_core::claim::CODE_SYMBOLS;
    use medbind_core::time::Timestamp;

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
        }
    }

    /// Every action in every state: the state after it and whether it is a change, or a conflict.
    #[test]
    fn each_state_allows_what_it_allows() {
        use BindingState::{Active, Revoked, Suspended, Unclaimed};
        let pin = || Action::Pin(Pins::new([Pin([1; 32])]).unwrap());
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
            (pin(), Unclaimed, None, Some((Unclaimed, true))),
            (pin(), Active, acc, Some((Active, true))),
            (pin(), Suspended, acc, Some((Suspended, true))),
            (pin(), Revoked, acc, None),
        ] {
            let mut device = device(state, account);
            let secret = new_secret();
            let changed = carry_out(&action, &mut device, &secret);
            let found = changed.ok().map(|changed| (device.binding.state, changed));
            assert_eq!(found, expected, "{action:?} in {state:?}");
            if action == Action::Release && expected.is_some() {
                assert_eq!(device.binding.account, None);
                assert!(!device.secret_used && device.secret_hash == secret.hash());
            }
        }
    }
}
