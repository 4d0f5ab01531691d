//! How do devices enter? One batch, one transaction; what cannot enter is named, the rest does.

use core::fmt::Display;
use core::str::FromStr;
use std::collections::HashMap;

use base16ct::lower::encode_string as hex;
use futures_util::FutureExt as _;
use medbind_core::binding::{Binding, BindingState, DeviceClass, Epoch, Pin, Pins};
use medbind_core::claim::{ClaimCode, ClaimSecretHash};
use medbind_core::feed::binding_line;
use medbind_core::identity::DeviceId;
use medbind_core::time::Timestamp;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::change::{Cause, Entry};
use crate::device::{Device, device_columns, pins_octets};
use crate::seen::Seen;
use crate::store::{Store, StoreError, Writing};

const DIGEST_CONTEXT: &[u8] = b"medbind-enrolment-v1:";

/// A device to be enrolled, as a line of an import says it. A field that is not known is an error.
///
/// Written as JSON it is the canonical line, whose digest the database keeps: a field that is added
/// here must not be written where it is absent, so that the lines of today are known again.
#[derive(Clone, Debug, Deserialize, Serialize)]
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
    /// SHA-256 of the canonical line: NDJSON and CSV, spellings of the code and the time, and the
    /// order of the pins make no difference.
    fn digest(&self) -> Result<[u8; 32], StoreError> {
        let pins = Pins::new(sorted(&self.pins)).map_err(|_| StoreError::Corrupt("pins"))?;
        let canonical = Self {
            pins,
            ..self.clone()
        };
        let digest = Sha256::new()
            .chain_update(DIGEST_CONTEXT)
            .chain_update(json(&canonical)?)
            .finalize();
        Ok(digest.into())
    }

    /// Why the line is not the one that the device was enrolled with; `None` where it is.
    fn conflict_with(&self, known: &Device) -> Result<Option<String>, StoreError> {
        let differs = self.differences(known);
        let is_same = match known.enrolment {
            Some(digest) => digest == self.digest()?,
            // Enrolled before digests were kept: what it is now is all that is known.
            None => differs.is_empty(),
        };
        if is_same {
            return Ok(None);
        }
        let device = &self.device;
        Ok(Some(if differs.is_empty() {
            format!("device {device} is enrolled already, by a line with other values")
        } else {
            let fields = differs.join(", ");
            format!("device {device} is enrolled already, and differs in {fields}")
        }))
    }

    /// The fields that are not as the device has them now.
    fn differences(&self, known: &Device) -> Vec<&'static str> {
        let Self {
            device: _,
            code,
            secret_hash,
            class,
            pins,
            expires_at,
        } = self;
        let binding = &known.binding;
        [
            ("code", *code == known.code),
            ("secret_hash", *secret_hash == known.secret_hash),
            ("class", Some(class) == binding.class.as_ref()),
            ("pins", sorted(pins) == sorted(&binding.pins)),
            ("expires_at", *expires_at == binding.expires_at),
        ]
        .into_iter()
        .filter_map(|(name, same)| (!same).then_some(name))
        .collect()
    }
}

fn sorted(pins: &Pins) -> Vec<Pin> {
    let mut pins = pins.as_slice().to_vec();
    pins.sort_unstable();
    pins
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
    /// How many were there before, by the same line.
    pub unchanged: u64,
    /// Those that did not.
    pub rejected: Vec<BadLine>,
    /// The devices that the import named so far.
    pub seen: Seen,
}

impl Store {
    /// Enrols a batch in one transaction. A device that an earlier line of the import names is
    /// rejected, and so is a code that another device has. A device that is there by the same line
    /// is left as it is, so that an import can be repeated; by another line, it is rejected.
    pub async fn enrol(
        &self,
        batch: Vec<(u64, Enrolment)>,
        seen: Seen,
        cause: Cause,
    ) -> Result<Enrolled, StoreError> {
        self.write(move |writing| async move { writing.enrol(batch, seen, &cause).await }.boxed())
            .await
    }
}

impl Writing<'_> {
    async fn enrol(
        &mut self,
        batch: Vec<(u64, Enrolment)>,
        mut seen: Seen,
        cause: &Cause,
    ) -> Result<Enrolled, StoreError> {
        let Sorted {
            accepted,
            unchanged,
            rejected,
        } = self.sort_out(batch, &mut seen).await?;
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
                hex(&enrolment.digest()?),
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
                set: None,
                revisions: Some((first, last)),
            })
            .await?;
        }
        let imported = u64::try_from(accepted.len()).unwrap_or(u64::MAX);
        Ok(Enrolled {
            imported,
            unchanged,
            rejected,
            seen,
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
             epoch, owned, expires_at, pins, revision, pseudonym, enrolment, enrolled_at, changed_at) \
             SELECT value ->> 0, value ->> 1, unhex(value ->> 2), 0, 'unclaimed', NULL, \
             value ->> 3, 1, 0, value ->> 4, unhex(value ->> 5), value ->> 6, value ->> 7, \
             unhex(value ->> 8), ?2, ?2 FROM json_each(?1)",
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
        seen: &mut Seen,
    ) -> Result<Sorted, StoreError> {
        let known = self.known_devices(&batch).await?;
        let taken_codes = self.taken_codes(&batch).await?;
        // The lines that devices and codes of this batch stand on. `seen` may have no room.
        let mut devices: HashMap<String, u64> = HashMap::new();
        let mut codes: HashMap<String, u64> = HashMap::new();
        let mut sorted = Sorted::default();
        for (line, enrolment) in batch {
            let device = enrolment.device.as_str();
            let code = enrolment.code.canonical();
            let before = devices.get(device).copied();
            let error = if let Some(first) = before.or_else(|| seen.line_of(&enrolment.device)) {
                Some(format!("device {device} stands on line {first} too"))
            } else if let Some(known) = known.get(device) {
                let conflict = enrolment.conflict_with(known)?;
                if conflict.is_none() {
                    sorted.unchanged = sorted.unchanged.saturating_add(1);
                    devices.insert(device.to_owned(), line);
                    seen.remember(&enrolment.device, line);
                    continue;
                }
                conflict
            } else if let Some(owner) = taken_codes.get(code) {
                Some(format!("the code of device {device} is that of {owner}"))
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
            seen.remember(&enrolment.device, line);
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

    /// The codes of a batch that devices have already, and which devices.
    async fn taken_codes(
        &mut self,
        batch: &[(u64, Enrolment)],
    ) -> Result<HashMap<String, String>, StoreError> {
        let texts: Vec<&str> = batch.iter().map(|(_, one)| one.code.canonical()).collect();
        let codes: Vec<(String, String)> = sqlx::query_as(
            "SELECT code, device FROM json_each(?1) batch CROSS JOIN devices \
             WHERE code = batch.value",
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

#[cfg(test)]
mod tests {
    use super::*;

    /// What databases hold: an older registry's digest must be this one's.
    #[test]
    fn a_line_has_one_digest_however_it_is_written() {
        let line = |code: &str, pins: [&str; 2], end: &str| {
            let pins = pins.map(|pin| pin.repeat(32));
            let line = serde_json::json!({
                "expires_at": end,
                "pins": pins,
                "class": "cgm",
                "code": code,
                "secret_hash": "9e81e602b6127cd328ecc60a9472e4591044b3b9fd19a35fb276e2714f7e48b5",
                "device": "acme:SN1",
            });
            serde_json::from_value::<Enrolment>(line).unwrap()
        };
        // printf 'medbind-enrolment-v1:{"device":"acme:SN1","code":"0000-0000-0001-1",\
        // "secret_hash":"9e81...48b5","class":"cgm","pins":["abab...","cdcd..."],\
        // "expires_at":"2035-06-30T22:00:00Z"}' | sha256sum
        let known = "5ace37b334224a84338354d4c493a42755c18fa8d3734089dc183aad5ba3bba3";
        for line in [
            line("0000-0000-0001-1", ["ab", "cd"], "2035-06-30T22:00:00Z"),
            line(
                "oooo 0000 0001 l",
                ["cd", "ab"],
                "2035-07-01T00:00:00.000+02:00",
            ),
        ] {
            assert_eq!(hex(&line.digest().unwrap()), known);
        }
        let other = line("0000-0000-0001-1", ["ab", "ce"], "2035-06-30T22:00:00Z");
        assert_ne!(hex(&other.digest().unwrap()), known);
    }
}
