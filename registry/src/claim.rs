//! Whose does a device become? Claims, and those that are refused.

use futures_util::FutureExt as _;
use medbind_core::binding::{AccountId, BindingState, Epoch};
use medbind_core::claim::{ClaimCode, ClaimSecret, ClaimSecretHash};
use subtle::{Choice, ConstantTimeEq as _};

use crate::change::{Cause, ChangeError, Entry, new_secret};
use crate::device::Device;
use crate::store::{Store, StoreError, Writing};

/// How many refused claims of one code are answered within [`REFUSALS_WINDOW_MILLIS`] before
/// further ones have to wait: of one account, and of all together. A secret cannot be guessed at
/// either rate; the first keeps who knows the code alone from keeping its owner out.
const REFUSALS_OF_ACCOUNT: i64 = 10;
const REFUSALS_OF_CODE: i64 = 1_000;
const REFUSALS_WINDOW_MILLIS: i64 = 15 * 60 * 1000;

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

/// What became of a claim.
#[derive(Debug)]
pub(crate) enum Claimed {
    /// It is the account's now.
    Won(Box<Device>),
    /// Unknown code, wrong secret, used secret, or a device that cannot be claimed now: the caller
    /// does not learn which.
    Refused,
    /// Too many refusals of this code: wait so many seconds.
    Wait(u32),
}

impl Store {
    /// Claims a device for an account, or refuses and remembers it.
    pub async fn claim(&self, claim: Claim, cause: Cause) -> Result<Claimed, ChangeError> {
        self.write(move |writing| async move { writing.claim(&claim, &cause).await }.boxed())
            .await
    }
}

impl Writing<'_> {
    async fn claim(&mut self, claim: &Claim, cause: &Cause) -> Result<Claimed, ChangeError> {
        if let Some(seconds) = self.claim_has_to_wait(claim).await? {
            return Ok(Claimed::Wait(seconds));
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
                set: None,
                revisions: Some((revision, revision)),
            })
            .await?;
            return Ok(Claimed::Won(Box::new(device)));
        }
        self.refuse(claim).await?;
        self.audit(Entry {
            cause,
            action: "claim_refused",
            device: named.as_ref(),
            account: Some(&claim.account),
            set: None,
            revisions: None,
        })
        .await?;
        Ok(Claimed::Refused)
    }

    /// How many seconds a claim has to wait, where there were too many refused ones like it.
    async fn claim_has_to_wait(&mut self, claim: &Claim) -> Result<Option<u32>, StoreError> {
        let Some(code) = &claim.code else {
            return Ok(None);
        };
        let account = Some(claim.account.as_str());
        let of_account = self
            .newest_refusal_but(code, account, REFUSALS_OF_ACCOUNT - 1)
            .await?;
        let of_code = self
            .newest_refusal_but(code, None, REFUSALS_OF_CODE - 1)
            .await?;
        // Once this one is past there is room for another.
        let Some(at) = of_account.max(of_code) else {
            return Ok(None);
        };
        let left = at
            .saturating_add(REFUSALS_WINDOW_MILLIS)
            .saturating_sub(self.now.unix_millis());
        Ok(u32::try_from(left.saturating_add(999) / 1000).ok())
    }

    /// When a claim of the code was refused, by this account or by any: the newest but so many.
    async fn newest_refusal_but(
        &mut self,
        code: &ClaimCode,
        account: Option<&str>,
        newer: i64,
    ) -> Result<Option<i64>, StoreError> {
        let now = self.now.unix_millis();
        // One from the future is of a clock that has been put right since.
        let at = sqlx::query_scalar(
            "SELECT at FROM refused_claims WHERE code = ?1 AND at > ?2 AND at <= ?3 \
             AND (?4 IS NULL OR account = ?4) ORDER BY at DESC LIMIT 1 OFFSET ?5",
        )
        .bind(code.canonical())
        .bind(now.saturating_sub(REFUSALS_WINDOW_MILLIS))
        .bind(now)
        .bind(account)
        .bind(newer)
        .fetch_optional(&mut *self.tx)
        .await?;
        Ok(at)
    }

    /// Counts the refusal, and forgets those that are long past.
    async fn refuse(&mut self, claim: &Claim) -> Result<(), StoreError> {
        let now = self.now.unix_millis();
        sqlx::query("DELETE FROM refused_claims WHERE at <= ?1")
            .bind(now.saturating_sub(REFUSALS_WINDOW_MILLIS))
            .execute(&mut *self.tx)
            .await?;
        let Some(code) = &claim.code else {
            return Ok(());
        };
        sqlx::query("INSERT INTO refused_claims (code, account, at) VALUES (?1, ?2, ?3)")
            .bind(code.canonical())
            .bind(claim.account.as_str())
            .bind(now)
            .execute(&mut *self.tx)
            .await?;
        Ok(())
    }

    /// Refusals of a secret that is worth nothing any more do not count.
    pub async fn forget_refusals(&mut self, code: &ClaimCode) -> Result<(), StoreError> {
        sqlx::query("DELETE FROM refused_claims WHERE code = ?1")
            .bind(code.canonical())
            .execute(&mut *self.tx)
            .await?;
        Ok(())
    }
}

fn truth(value: bool) -> Choice {
    Choice::from(u8::from(value))
}
