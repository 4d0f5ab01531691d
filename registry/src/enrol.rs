//! How do devices enter? One batch, one transaction; what cannot enter is named, the rest does.

use core::fmt::Display;
use core::str::FromStr;
use std::collections::{HashMap, HashSet};

use futures_util::FutureExt as _;
use medbind_core::binding::{Binding, BindingState, DeviceClass, Epoch, Pins};
use medbind_core::claim::{ClaimCode, ClaimSecretHash};
use medbind_core::feed::binding_line;
use medbind_core::identity::DeviceId;
use medbind_core::time::Timestamp;
use serde::Deserialize;

use crate::change::{Cause, Entry};
use crate::device::{Device, device_columns, pins_octets};
use crate::history::hex;
use crate::store::{Store, StoreError, Writing};

/// A device to be enrolled, as a line of an import says it. A field that is not known is an error.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Enrolment {
    device: DeviceId,
    code: ClaimCode,
    secret_hash: ClaimSecretHash,
    class: DeviceClass,
    #[serde(default)]
    pins: Pins,
    #[serde(default)]
    expires_at: Option<Timestamp>,
}

impl Enrolment {
    /// Whether the device was enrolled with the same.
    fn is_same_as(&self, known: &Device) -> bool {
        let Self {
            device,
            code,
            secret_hash,
            class,
            pins,
            expires_at,
        } = self;
        let binding = &known.binding;
        *device == binding.device
            && *code == known.code
            && *secret_hash == known.secret_hash
            && Some(class) == binding.class.as_ref()
            && *pins == binding.pins
            && *expires_at == binding.expires_at
    }
}

/// The columns of a CSV file, those first that must be there.
pub(crate) const COLUMNS: [&str; 6] = [
    "device",
    "code",
    "secret_hash",
    "class",
    "pins",
    "expires_at",
];
/// How many of [`COLUMNS`] must be there.
pub(crate) const COLUMNS_NEEDED: usize = 4;

impl Enrolment {
    /// From the fields of a line of a CSV file; `field` gives the text under a column. An empty
    /// field is an absent one; pins stand with blanks between.
    pub fn from_fields<'f>(field: impl Fn(&str) -> Option<&'f str>) -> Result<Self, String> {
        fn parse<T: FromStr<Err: Display>>(column: &str, text: &str) -> Result<T, String> {
            text.parse().map_err(|error| format!("{column}: {error}"))
        }
        let given = |column| field(column).filter(|text| !text.is_empty());
        let needed = |column| given(column).ok_or_else(|| format!("{column} is empty"));
        let pins = given("pins")
            .unwrap_or_default()
            .split_ascii_whitespace()
            .map(|pin| parse("pins", pin))
            .collect::<Result<Vec<_>, _>>()?;
        Ok(Self {
            device: parse("device", needed("device")?)?,
            code: parse("code", needed("code")?)?,
            secret_hash: parse("secret_hash", needed("secret_hash")?)?,
            class: parse("class", needed("class")?)?,
            pins: Pins::new(pins).map_err(|error| format!("pins: {error}"))?,
            expires_at: given("expires_at")
                .map(|text| parse("expires_at", text))
                .transpose()?,
        })
    }
}

/// A line that was not imported, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct BadLine {
    /// The line, from 1.
    pub line: u64,
    /// What is wrong with it, for the operator.
    pub error: String,
}

/// What became of a batch.
#[derive(Debug, Default)]
pub(crate) struct Enrolled {
    /// How many devices entered.
    pub imported: u64,
    /// How many were there before the import began, and are the same.
    pub unchanged: u64,
    /// Those that did not.
    pub rejected: Vec<BadLine>,
}

impl Store {
    /// Enrols a batch in one transaction. A device that an earlier line names is rejected, and so
    /// is a code that another device has. A device that was enrolled before the import `begun` is
    /// left as it is where the line says the same, so that an import can be repeated, and rejected
    /// where it does not.
    pub async fn enrol(
        &self,
        batch: Vec<(u64, Enrolment)>,
        begun: Timestamp,
        cause: Cause,
    ) -> Result<Enrolled, StoreError> {
        self.write(move |writing| async move { writing.enrol(batch, begun, &cause).await }.boxed())
            .await
    }
}

impl Writing<'_> {
    async fn enrol(
        &mut self,
        batch: Vec<(u64, Enrolment)>,
        begun: Timestamp,
        cause: &Cause,
    ) -> Result<Enrolled, StoreError> {
        let Sorted {
            accepted,
            unchanged,
            rejected,
        } = self.sort_out(batch, begun).await?;
        let mut rows = Vec::with_capacity(accepted.len());
        let mut changes = Vec::with_capacity(accepted.len());
        let first = self.head.revision.saturating_add(1);
        for enrolment in &accepted {
            let revision = self.head.revision.saturating_add(1);
            let binding = Binding {
                device: enrolment.device.clone(),
                state: BindingState::Unclaimed,
                account: None,
                class: Some(enrolment.class.clone()),
                epoch: Epoch::FIRST,
                expires_at: enrolment.expires_at,
                pins: enrolment.pins.clone(),
                revision,
            };
            self.head = self.head.then(self.now, &binding_line(&binding));
            rows.push((
                enrolment.device.as_str(),
                enrolment.code.canonical(),
                hex(&enrolment.secret_hash.0),
                enrolment.class.as_str(),
                enrolment.expires_at.map(Timestamp::unix_millis),
                hex(&pins_octets(&enrolment.pins)),
                revision,
                self.pseudonym_key.pseudonym(&enrolment.device).to_string(),
            ));
            changes.push((revision, enrolment.device.as_str(), hex(&self.head.hash)));
        }
        if !accepted.is_empty() {
            self.insert(&rows, &changes).await?;
            let last = self.head.revision;
            let only = match accepted.as_slice() {
                [one] => Some(&one.device),
                _ => None,
            };
            self.audit(Entry {
                cause,
                action: "enrol",
                device: only,
                account: None,
                revisions: Some((first, last)),
            })
            .await?;
        }
        let imported = u64::try_from(accepted.len()).unwrap_or(u64::MAX);
        Ok(Enrolled {
            imported,
            unchanged,
            rejected,
        })
    }

    /// One statement for a whole batch: the rows travel as one JSON text.
    async fn insert(
        &mut self,
        rows: &impl serde::Serialize,
        changes: &impl serde::Serialize,
    ) -> Result<(), StoreError> {
        sqlx::query(
            "INSERT INTO devices (device, code, secret_hash, secret_used, state, account, class, \
             epoch, owned, expires_at, pins, revision, pseudonym, enrolled_at, changed_at) \
             SELECT value ->> 0, value ->> 1, unhex(value ->> 2), 0, 'unclaimed', NULL, \
             value ->> 3, 1, 0, value ->> 4, unhex(value ->> 5), value ->> 6, value ->> 7, ?2, ?2 \
             FROM json_each(?1)",
        )
        .bind(json(rows)?)
        .bind(self.now.unix_millis())
        .execute(&mut *self.tx)
        .await?;
        sqlx::query(
            "INSERT INTO changes (revision, device, at, hash) \
             SELECT value ->> 0, value ->> 1, ?2, unhex(value ->> 2) FROM json_each(?1)",
        )
        .bind(json(changes)?)
        .bind(self.now.unix_millis())
        .execute(&mut *self.tx)
        .await?;
        Ok(())
    }

    /// Which of a batch may enter.
    async fn sort_out(
        &mut self,
        batch: Vec<(u64, Enrolment)>,
        begun: Timestamp,
    ) -> Result<Sorted, StoreError> {
        let known = self.known_devices(&batch).await?;
        let taken_codes = self.taken_codes(&batch).await?;
        // The lines that devices and codes of this batch stand on.
        let mut devices: HashMap<String, u64> = HashMap::new();
        let mut codes: HashMap<String, u64> = HashMap::new();
        let mut sorted = Sorted::default();
        for (line, enrolment) in batch {
            let device = enrolment.device.as_str();
            let code = enrolment.code.canonical();
            let error = if let Some(known) = known.get(device) {
                if known.enrolled_at < begun && enrolment.is_same_as(known) {
                    sorted.unchanged = sorted.unchanged.saturating_add(1);
                    continue;
                }
                Some(format!("device {device} is enrolled already"))
            } else if let Some(first) = devices.get(device) {
                Some(format!("device {device} stands on line {first} too"))
            } else if taken_codes.contains(code) {
                Some(format!("the code of device {device} is another device's"))
            } else {
                let first = codes.get(code);
                first
                    .map(|first| format!("the code of device {device} is that of line {first} too"))
            };
            if let Some(error) = error {
                sorted.rejected.push(BadLine { line, error });
                continue;
            }
            devices.insert(device.to_owned(), line);
            codes.insert(code.to_owned(), line);
            sorted.accepted.push(enrolment);
        }
        Ok(sorted)
    }

    /// The devices of a batch that are there already.
    async fn known_devices(
        &mut self,
        batch: &[(u64, Enrolment)],
    ) -> Result<HashMap<String, Device>, StoreError> {
        let texts: Vec<&str> = batch.iter().map(|(_, one)| one.device.as_str()).collect();
        let rows = sqlx::query(concat!(
            "SELECT ",
            device_columns!(),
            // CROSS JOIN: the batch is walked, not the table.
            " FROM json_each(?1) batch CROSS JOIN devices WHERE device = batch.value"
        ))
        .bind(json(&texts)?)
        .fetch_all(&mut *self.tx)
        .await?;
        rows.iter()
            .map(|row| {
                let device = Device::from_row(row)?;
                Ok((device.binding.device.as_str().to_owned(), device))
            })
            .collect()
    }

    /// The codes of a batch that devices have already.
    async fn taken_codes(
        &mut self,
        batch: &[(u64, Enrolment)],
    ) -> Result<HashSet<String>, StoreError> {
        let texts: Vec<&str> = batch.iter().map(|(_, one)| one.code.canonical()).collect();
        let codes = sqlx::query_scalar(
            "SELECT code FROM json_each(?1) batch CROSS JOIN devices WHERE code = batch.value",
        )
        .bind(json(&texts)?)
        .fetch_all(&mut *self.tx)
        .await?;
        Ok(codes.into_iter().collect())
    }
}

/// A batch, sorted.
#[derive(Debug, Default)]
struct Sorted {
    accepted: Vec<Enrolment>,
    unchanged: u64,
    rejected: Vec<BadLine>,
}

fn json(value: &impl serde::Serialize) -> Result<String, StoreError> {
    serde_json::to_string(value).map_err(|_| StoreError::Corrupt("a batch"))
}
