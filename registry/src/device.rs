//! A device as the registry keeps it, and as operators see it.

use core::fmt;
use core::str::FromStr;

use medbind_core::binding::{AccountId, Binding, BindingState, DeviceClass, Epoch, Pin, Pins};
use medbind_core::claim::{ClaimCode, ClaimSecretHash};
use medbind_core::identity::DeviceId;
use medbind_core::time::Timestamp;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use sqlx::Row as _;
use sqlx::sqlite::{SqliteConnection, SqliteRow};

use crate::store::StoreError;

/// A device as the operator API shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceRecord {
    /// The device.
    pub device: DeviceId,
    /// The code that is printed on it.
    pub code: ClaimCode,
    /// What edges write in their logs instead of the device: 16 lower-case hex digits.
    pub pseudonym: String,
    /// The account that it is claimed for.
    pub account: Option<AccountId>,
    /// Where the binding stands, as a word.
    #[serde(serialize_with = "write_state", deserialize_with = "read_state")]
    pub state: BindingState,
    /// What kind of device it is.
    pub class: Option<DeviceClass>,
    /// Counts the ownerships, from 1.
    pub epoch: Epoch,
    /// The end of the binding; `null` where it does not end by itself.
    pub expires_at: Option<Timestamp>,
    /// The public keys that it may use, where not empty.
    pub pins: Pins,
    /// The revision of its newest change.
    pub revision: u64,
    /// When it was enrolled.
    pub enrolled_at: Timestamp,
    /// When it was last changed.
    pub changed_at: Timestamp,
}

/// The answer to `GET /v1/devices/{device}`: the device, and who changed it last, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceShown {
    /// The device.
    #[serde(flatten)]
    pub record: DeviceRecord,
    /// What was done: `enrol`, `claim`, `suspend`, `resume`, `revoke`, `release`, `new_secret`,
    /// `pin`, `expire`.
    pub change: Option<String>,
    /// Who did it, as in `operator:ann`.
    pub changed_by: Option<String>,
    /// Why, where a reason was given.
    pub reason: Option<String>,
}

/// A page of `GET /v1/devices`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceList {
    /// The devices, in the order of their canonical text.
    pub devices: Vec<DeviceRecord>,
    /// What to ask for as `after` to go on; `null` on the last page.
    pub next: Option<String>,
}

/// The answer to a release, and to a call for a new secret: the device, and the secret for its next
/// claim, which is shown this once. `Debug` does not show it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewSecret {
    /// The device.
    #[serde(flatten)]
    pub record: DeviceRecord,
    /// The new claim secret, in groups of four.
    pub claim_secret: String,
}

impl fmt::Debug for NewSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NewSecret")
            .field("record", &self.record)
            .finish_non_exhaustive()
    }
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde hands a reference over"
)]
fn write_state<S: Serializer>(state: &BindingState, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(state.as_str())
}

fn read_state<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BindingState, D::Error> {
    let word = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
    match BindingState::from_word(&word) {
        BindingState::Unrecognised => Err(de::Error::custom("the state is not known")),
        state @ (BindingState::Unclaimed
        | BindingState::Active
        | BindingState::Suspended
        | BindingState::Revoked) => Ok(state),
    }
}

/// A row of the table `devices`.
#[derive(Clone, Debug)]
pub(crate) struct Device {
    /// What edges learn of it.
    pub binding: Binding,
    /// Its code.
    pub code: ClaimCode,
    /// The hash of its secret.
    pub secret_hash: ClaimSecretHash,
    /// Whether the secret has been used.
    pub secret_used: bool,
    /// Whether it has been claimed in this or an earlier epoch.
    pub owned: bool,
    /// What edges write in their logs instead of it.
    pub pseudonym: String,
    /// When it was enrolled.
    pub enrolled_at: Timestamp,
    /// When it was last changed.
    pub changed_at: Timestamp,
    /// The digest of the line that it was enrolled with; older rows have none.
    pub enrolment: Option<[u8; 32]>,
}

/// The columns that [`read_binding`] reads, in its order.
macro_rules! binding_columns {
    () => {
        "device, state, account, class, epoch, expires_at, pins, revision"
    };
}
pub(crate) use binding_columns;

/// The columns that [`Device::from_row`] reads, in its order.
macro_rules! device_columns {
    () => {
        concat!(
            $crate::device::binding_columns!(),
            ", code, secret_hash, secret_used, owned, pseudonym, enrolled_at, changed_at, enrolment"
        )
    };
}
pub(crate) use device_columns;

/// Reads what the database holds as text.
pub(crate) fn parse<T: FromStr>(text: &str, what: &'static str) -> Result<T, StoreError> {
    text.parse().map_err(|_| StoreError::Corrupt(what))
}

/// Reads a row of [`binding_columns`].
pub(crate) fn read_binding(row: &SqliteRow) -> Result<Binding, StoreError> {
    let state = BindingState::from_word(row.try_get(1)?);
    if state == BindingState::Unrecognised {
        return Err(StoreError::Corrupt("a state"));
    }
    let account: Option<&str> = row.try_get(2)?;
    let class: Option<&str> = row.try_get(3)?;
    let epoch: i64 = row.try_get(4)?;
    let expires_at: Option<i64> = row.try_get(5)?;
    let revision: i64 = row.try_get(7)?;
    Ok(Binding {
        device: parse(row.try_get(0)?, "a device")?,
        state,
        account: account.map(|text| parse(text, "an account")).transpose()?,
        class: class.map(|text| parse(text, "a class")).transpose()?,
        epoch: u32::try_from(epoch)
            .ok()
            .and_then(Epoch::new)
            .ok_or(StoreError::Corrupt("an epoch"))?,
        expires_at: expires_at.map(Timestamp::from_unix_millis),
        pins: read_pins(row.try_get(6)?)?,
        revision: u64::try_from(revision).map_err(|_| StoreError::Corrupt("a revision"))?,
    })
}

fn read_pins(octets: &[u8]) -> Result<Pins, StoreError> {
    let (pins, rest) = octets.as_chunks::<32>();
    if !rest.is_empty() {
        return Err(StoreError::Corrupt("pins"));
    }
    Pins::new(pins.iter().copied().map(Pin)).map_err(|_| StoreError::Corrupt("pins"))
}

/// Pins as the database keeps them.
pub(crate) fn pins_octets(pins: &Pins) -> Vec<u8> {
    pins.as_slice().iter().flat_map(|pin| pin.0).collect()
}

impl Device {
    /// Reads a row of [`device_columns`].
    pub fn from_row(row: &SqliteRow) -> Result<Self, StoreError> {
        let secret_hash: &[u8] = row.try_get(9)?;
        let enrolment: Option<&[u8]> = row.try_get(15)?;
        Ok(Self {
            binding: read_binding(row)?,
            code: parse(row.try_get(8)?, "a claim code")?,
            secret_hash: ClaimSecretHash(
                secret_hash
                    .try_into()
                    .map_err(|_| StoreError::Corrupt("a secret's hash"))?,
            ),
            secret_used: row.try_get(10)?,
            owned: row.try_get(11)?,
            pseudonym: row.try_get(12)?,
            enrolled_at: Timestamp::from_unix_millis(row.try_get(13)?),
            changed_at: Timestamp::from_unix_millis(row.try_get(14)?),
            enrolment: enrolment
                .map(TryInto::try_into)
                .transpose()
                .map_err(|_| StoreError::Corrupt("an enrolment's digest"))?,
        })
    }

    /// Finds a device by its identity.
    pub async fn find(
        connection: &mut SqliteConnection,
        device: &DeviceId,
    ) -> Result<Option<Self>, StoreError> {
        sqlx::query(concat!(
            "SELECT ",
            device_columns!(),
            " FROM devices WHERE device = ?1"
        ))
        .bind(device.as_str())
        .fetch_optional(connection)
        .await?
        .as_ref()
        .map(Self::from_row)
        .transpose()
    }

    /// Finds a device by its code.
    pub async fn find_by_code(
        connection: &mut SqliteConnection,
        code: &ClaimCode,
    ) -> Result<Option<Self>, StoreError> {
        sqlx::query(concat!(
            "SELECT ",
            device_columns!(),
            " FROM devices WHERE code = ?1"
        ))
        .bind(code.canonical())
        .fetch_optional(connection)
        .await?
        .as_ref()
        .map(Self::from_row)
        .transpose()
    }

    /// As an operator sees it who looks at it alone.
    pub async fn into_shown(
        self,
        connection: &mut SqliteConnection,
    ) -> Result<DeviceShown, StoreError> {
        let revision =
            i64::try_from(self.binding.revision).map_err(|_| StoreError::Corrupt("a revision"))?;
        // An entry covers a range of revisions, and no two overlap.
        let entry: Option<(String, String, Option<String>)> = sqlx::query_as(
            "SELECT action, actor, reason FROM audit WHERE last_revision >= ?1 \
             AND first_revision <= ?1 ORDER BY last_revision LIMIT 1",
        )
        .bind(revision)
        .fetch_optional(connection)
        .await?;
        let (change, changed_by, reason) = match entry {
            Some((action, actor, reason)) => (Some(action), Some(actor), reason),
            None => (None, None, None),
        };
        Ok(DeviceShown {
            record: self.into_record(),
            change,
            changed_by,
            reason,
        })
    }

    /// As operators see it.
    pub fn into_record(self) -> DeviceRecord {
        let Binding {
            device,
            state,
            account,
            class,
            epoch,
            expires_at,
            pins,
            revision,
        } = self.binding;
        DeviceRecord {
            device,
            code: self.code,
            pseudonym: self.pseudonym,
            account,
            state,
            class,
            epoch,
            expires_at,
            pins,
            revision,
            enrolled_at: self.enrolled_at,
            changed_at: self.changed_at,
        }
    }
}
