//! How do devices enter? One batch, one transaction; what cannot enter is named, the rest does.

use core::fmt::Display;
use core::str::FromStr;
use std::collections::HashMap;

use futures_util::FutureExt as _;
use medbind_core::binding::{Binding, BindingState, DeviceClass, Epoch, Pins};
use medbind_core::claim::{ClaimCode, ClaimSecretHash};
use medbind_core::feed::binding_line;
use medbind_core::identity::DeviceId;
use medbind_core::time::Timestamp;
use serde::Deserialize;
use sqlx::Row as _;

use crate::change::{Cause, Entry};
use crate::device::pins_octets;
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
    /// Those that did not.
    pub rejected: Vec<BadLine>,
}

impl Store {
    /// Enrols a batch in one transaction. A device that is there already, in the database or in an
    /// earlier line, is rejected, and so is a code that another device has.
    pub async fn enrol(
        &self,
        batch: Vec<(u64, Enrolment)>,
        cause: Cause,
    ) -> Result<Enrolled, StoreError> {
        self.write(move |writing| async move { writing.enrol(batch, &cause).await }.boxed())
            .await
    }
}

impl Writing<'_> {
    async fn enrol(
        &mut self,
        batch: Vec<(u64, Enrolment)>,
        cause: &Cause,
    ) -> Result<Enrolled, StoreError> {
        let (accepted, rejected) = self.sort_out(batch).await?;
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
                self.pseudonym_key.pseudonym(&enrolment.device),
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
        Ok(Enrolled { imported, rejected })
    }

    /// One statement for a whole batch: the rows travel as one JSON text.
    async fn insert(
        &mut self,
        rows: &impl serde::Serialize,
        changes: &impl serde::Serialize,
    ) -> Result<(), StoreError> {
        let json = |value: Result<String, _>| {
            value.map_err(|_: serde_json::Error| StoreError::Corrupt("a batch"))
        };
        sqlx::query(
            "INSERT INTO devices (device, code, secret_hash, secret_used, state, account, class, \
             epoch, owned, expires_at, pins, revision, pseudonym, enrolled_at, changed_at) \
             SELECT value ->> 0, value ->> 1, unhex(value ->> 2), 0, 'unclaimed', NULL, \
             value ->> 3, 1, 0, value ->> 4, unhex(value ->> 5), value ->> 6, value ->> 7, ?2, ?2 \
             FROM json_each(?1)",
        )
        .bind(json(serde_json::to_string(rows))?)
        .bind(self.now.unix_millis())
        .execute(&mut *self.tx)
        .await?;
        sqlx::query(
            "INSERT INTO changes (revision, device, at, hash) \
             SELECT value ->> 0, value ->> 1, ?2, unhex(value ->> 2) FROM json_each(?1)",
        )
        .bind(json(serde_json::to_string(changes))?)
        .bind(self.now.unix_millis())
        .execute(&mut *self.tx)
        .await?;
        Ok(())
    }

    /// Which of a batch may enter.
    async fn sort_out(
        &mut self,
        batch: Vec<(u64, Enrolment)>,
    ) -> Result<(Vec<Enrolment>, Vec<BadLine>), StoreError> {
        let json = |texts: Vec<&str>| {
            serde_json::to_string(&texts).map_err(|_| StoreError::Corrupt("a batch"))
        };
        let devices = json(batch.iter().map(|(_, one)| one.device.as_str()).collect())?;
        let codes = json(batch.iter().map(|(_, one)| one.code.canonical()).collect())?;
        let taken = sqlx::query(
            "SELECT d.device, d.code FROM json_each(?1) j JOIN devices d ON d.device = j.value \
             UNION \
             SELECT d.device, d.code FROM json_each(?2) j JOIN devices d ON d.code = j.value",
        )
        .bind(devices)
        .bind(codes)
        .fetch_all(&mut *self.tx)
        .await?;
        // The line that a device or code was seen on; `None`: in the database.
        let mut seen_devices: HashMap<String, Option<u64>> = HashMap::new();
        let mut seen_codes: HashMap<String, Option<u64>> = HashMap::new();
        for row in taken {
            seen_devices.insert(row.try_get(0)?, None);
            seen_codes.insert(row.try_get(1)?, None);
        }
        let mut accepted = Vec::with_capacity(batch.len());
        let mut rejected = Vec::new();
        for (line, enrolment) in batch {
            let device = enrolment.device.as_str();
            let code = enrolment.code.canonical();
            let error = match (seen_devices.get(device), seen_codes.get(code)) {
                (Some(Some(first)), _) => {
                    Some(format!("device {device} stands on line {first} too"))
                }
                (Some(None), _) => Some(format!("device {device} is enrolled already")),
                (None, Some(Some(first))) => Some(format!(
                    "the code of device {device} is that of line {first} too"
                )),
                (None, Some(None)) => {
                    Some(format!("the code of device {device} is another device's"))
                }
                (None, None) => None,
            };
            if let Some(error) = error {
                rejected.push(BadLine { line, error });
                continue;
            }
            seen_devices.insert(device.to_owned(), Some(line));
            seen_codes.insert(code.to_owned(), Some(line));
            accepted.push(enrolment);
        }
        Ok((accepted, rejected))
    }
}
