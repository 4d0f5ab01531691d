//! Who did what, when and why? The audit, as operators read it.

use axum::Json;
use axum::extract::State;
use medbind_core::binding::{AccountId, Pins};
use medbind_core::identity::DeviceId;
use medbind_core::time::Timestamp;
use serde::{Deserialize, Serialize};
use sqlx::sqlite::SqliteRow;
use sqlx::{QueryBuilder, Row as _, Sqlite};

use crate::device::parse;
use crate::problem::Problem;
use crate::routes::{App, Asked};
use crate::store::StoreError;

/// The entries of a page where the client names no `limit`, and the most it may name.
const DEFAULT_LIMIT: u32 = 100;
const MAX_LIMIT: u32 = 1_000;

/// What an action has set.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Setting {
    /// The keys that the device may use.
    Pins(Pins),
    /// When the binding ends by itself.
    ExpiresAt(Option<Timestamp>),
}

/// One thing that was done, or refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditEntry {
    /// Counts the entries, from 1.
    pub id: u64,
    /// When.
    pub at: Timestamp,
    /// By whom, as in `operator:ann`.
    pub actor: String,
    /// What: `enrol`, `claim`, `claim_refused`, `suspend`, `resume`, `revoke`, `release`,
    /// `new_secret`, `pin`, `expire`.
    pub action: String,
    /// To which device; `null` where it was several, or a claim whose code no device has.
    pub device: Option<DeviceId>,
    /// For which account, or from which.
    pub account: Option<AccountId>,
    /// Of `pin` and `expire`, what they have set; `null` in entries of versions that kept none.
    pub set: Option<Setting>,
    /// Why, where a reason was given.
    pub reason: Option<String>,
    /// The first revision that it made; `null` where it changed nothing.
    pub first_revision: Option<u64>,
    /// The last one.
    pub last_revision: Option<u64>,
}

/// A page of `GET /v1/audit`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditPage {
    /// The entries, newest first.
    pub entries: Vec<AuditEntry>,
    /// What to ask for as `before` to go on; `null` on the last page.
    pub next: Option<u64>,
}

/// The query of `GET /v1/audit`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct AuditQuery {
    before: Option<u64>,
    limit: Option<u32>,
    device: Option<DeviceId>,
    account: Option<AccountId>,
}

/// The import that a device came in with is found by its moment, and is the one among the entries
/// of that moment that holds a change of the device.
const ITS_IMPORT: &str = "SELECT entry.id FROM devices JOIN audit entry \
     ON entry.device IS NULL AND entry.at = devices.enrolled_at AND EXISTS \
     (SELECT 1 FROM changes WHERE changes.device = devices.device \
      AND changes.revision BETWEEN entry.first_revision AND entry.last_revision) \
     WHERE devices.device = ";

/// `GET /v1/audit`: newest first.
pub(crate) async fn read(
    State(app): State<App>,
    Asked(query): Asked<AuditQuery>,
) -> Result<Json<AuditPage>, Problem> {
    let limit = query.limit.unwrap_or(DEFAULT_LIMIT).clamp(1, MAX_LIMIT);
    let mut sql = reading(&query, limit);
    let mut connection = app.store.read().await?;
    let rows = sql
        .build()
        .fetch_all(&mut *connection)
        .await
        .map_err(StoreError::from)?;
    let mut entries = rows
        .iter()
        .map(AuditEntry::from_row)
        .collect::<Result<Vec<_>, _>>()?;
    let most = usize::try_from(limit).unwrap_or(usize::MAX);
    let more = entries.len() > most;
    entries.truncate(most);
    let last = entries.last().map(|last| last.id);
    Ok(Json(AuditPage {
        entries,
        next: last.filter(|_| more),
    }))
}

/// What a page is read with. One entry more than is shown: then there is a next page.
fn reading(query: &AuditQuery, limit: u32) -> QueryBuilder<Sqlite> {
    let before = query.before.and_then(|id| i64::try_from(id).ok());
    let mut sql = QueryBuilder::<Sqlite>::new(
        "SELECT id, at, actor, action, device, account, reason, first_revision, last_revision, \
         setting FROM audit WHERE id < ",
    );
    sql.push_bind(before.unwrap_or(i64::MAX));
    if let Some(device) = &query.device {
        sql.push(" AND (device = ").push_bind(device.as_str());
        sql.push(" OR id IN (").push(ITS_IMPORT);
        sql.push_bind(device.as_str()).push("))");
    }
    if let Some(account) = &query.account {
        sql.push(" AND account = ").push_bind(account.as_str());
    }
    sql.push(" ORDER BY id DESC LIMIT ")
        .push_bind(i64::from(limit) + 1);
    sql
}

impl AuditEntry {
    fn from_row(row: &SqliteRow) -> Result<Self, StoreError> {
        let id: i64 = row.try_get(0)?;
        let device: Option<&str> = row.try_get(4)?;
        let account: Option<&str> = row.try_get(5)?;
        let set: Option<&str> = row.try_get(9)?;
        let set = set.map(|text| {
            serde_json::from_str(text).map_err(|_| StoreError::Corrupt("a setting of the audit"))
        });
        let number = |number: i64| {
            u64::try_from(number).map_err(|_| StoreError::Corrupt("a number of the audit"))
        };
        let revision = |column| {
            let revision: Option<i64> = row.try_get(column)?;
            revision.map(number).transpose()
        };
        Ok(Self {
            id: number(id)?,
            at: Timestamp::from_unix_millis(row.try_get(1)?),
            actor: row.try_get(2)?,
            action: row.try_get(3)?,
            device: device.map(|text| parse(text, "a device")).transpose()?,
            account: account.map(|text| parse(text, "an account")).transpose()?,
            set: set.transpose()?,
            reason: row.try_get(6)?,
            first_revision: revision(7)?,
            last_revision: revision(8)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::plans::Plans;

    #[tokio::test]
    async fn every_reading_of_the_audit_is_led_by_an_index() {
        let mut plans = Plans::new().await;
        for filters in 0..8_u8 {
            let has = |filter: u8| filters & (1 << filter) != 0;
            let query = AuditQuery {
                before: has(0).then_some(7),
                limit: None,
                device: has(1).then(|| "acme:SN1".parse().unwrap()),
                account: has(2).then(|| "acc-1".parse().unwrap()),
            };
            let plan = plans.of(reading(&query, 100)).await;
            assert!(
                plan.iter().all(|step| !step.starts_with("SCAN")),
                "{filters:03b}: {plan:?}"
            );
            if has(1) || has(2) {
                let by = |index: &str| plan.iter().any(|step| step.contains(index));
                assert!(
                    by("audit_by_device (device=?") || by("audit_by_account (account=?"),
                    "{filters:03b}: {plan:?}"
                );
            }
        }
    }
}
