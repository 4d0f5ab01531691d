//! What does the registry hold, and what was done to it? Show, list, audit, export.

use std::process::ExitCode;

use futures_util::StreamExt as _;
use medbind_core::binding::AccountId;
use medbind_core::identity::DeviceId;
use reqwest::{Method, Url};
use serde_json::{Value, json};

use crate::args::{Audit, Export, Global, List, Show, State};
use crate::client::{Registry, device_path};
use crate::devices::cell;
use crate::failure::{Failure, Outcome};
use crate::files::Replacement;
use crate::output::{self, put};

/// The most that one page of the registry's lists holds.
const PAGE: u64 = 1000;

/// `medbind show`.
pub async fn show(args: &Show, global: &Global) -> Outcome {
    let registry = Registry::new(global)?;
    let device = match &args.device {
        Some(device) => device.clone(),
        None => find(&registry, args).await?,
    };
    let request = registry.request(Method::GET, &device_path(&device, ""));
    let record = registry.json(request).await?;
    if global.json {
        output::json(&record);
    } else {
        output::text(&fields(&record));
    }
    Ok(ExitCode::SUCCESS)
}

/// The device of a pseudonym or of a claim code.
async fn find(registry: &Registry, args: &Show) -> Result<DeviceId, Failure> {
    let code = args.code.as_ref().map(ToString::to_string);
    let asked = [
        ("pseudonym", args.pseudonym.as_deref()),
        ("code", code.as_deref()),
    ];
    let path = query("/v1/devices", &asked)?;
    let answer = registry.json(registry.request(Method::GET, &path)).await?;
    let devices = answer["devices"].as_array();
    let devices = devices.ok_or_else(|| registry.unexpected(&"no list of devices"))?;
    match devices.as_slice() {
        [] => Err(Failure::refused(nothing_found(args.pseudonym.is_some()))
            .next("is --registry the one that this Envoy reads?")),
        [one] => {
            let device: Option<DeviceId> = one["device"].as_str().and_then(|t| t.parse().ok());
            device.ok_or_else(|| registry.unexpected(&"a device without its name"))
        }
        [..] => Err(Failure::refused("several devices have it").next("see `medbind list`")),
    }
}

fn fields(record: &Value) -> String {
    let names: Vec<&String> = record
        .as_object()
        .into_iter()
        .flat_map(|map| map.keys())
        .collect();
    let width = names.iter().map(|name| name.len()).max().unwrap_or(0);
    let order = [
        "device",
        "state",
        "account",
        "class",
        "epoch",
        "changed_at",
        "change",
        "changed_by",
        "reason",
    ];
    let first = order.into_iter().filter(|name| record.get(name).is_some());
    let rest = names.iter().map(|name| name.as_str());
    let rest = rest.filter(|name| !order.contains(name));
    let dim = output::DIM;
    let mut text = String::new();
    for name in first.chain(rest) {
        put!(text, "{dim}{name:<width$}{dim:#}  {}\n", cell(record, name));
    }
    text
}

/// `medbind list`.
pub async fn list(args: &List, global: &Global) -> Outcome {
    let registry = Registry::new(global)?;
    let mut after = args.after.as_ref().map(ToString::to_string);
    let mut left = if args.limit == 0 {
        u64::MAX
    } else {
        args.limit
    };
    let mut rows = Vec::new();
    let mut more = false;
    while left > 0 {
        let asked = left.min(PAGE);
        let path = list_path(args, after.as_deref(), asked)?;
        let answer = registry.json(registry.request(Method::GET, &path)).await?;
        let devices = answer["devices"].as_array();
        let devices = devices.ok_or_else(|| registry.unexpected(&"no list of devices"))?;
        after = answer["next"].as_str().map(str::to_owned);
        for device in devices {
            left = left.saturating_sub(1);
            if global.json {
                output::json(device);
            } else {
                let columns = ["device", "state", "account", "class", "epoch", "revision"];
                rows.push(columns.map(|name| cell(device, name)).to_vec());
            }
        }
        more = after.is_some();
        if !more {
            break;
        }
    }
    if !global.json {
        let headings = ["DEVICE", "STATE", "ACCOUNT", "CLASS", "EPOCH", "REVISION"];
        output::text(&output::table(&headings, &rows));
        if rows.is_empty() {
            output::note(nothing_found(args.pseudonym.is_some()));
        }
    }
    if more && let Some(after) = after {
        output::note(format_args!(
            "there are more: add --after {after}, or --limit 0 for all"
        ));
    }
    Ok(ExitCode::SUCCESS)
}

/// Why a list may be empty.
const fn nothing_found(by_pseudonym: bool) -> &'static str {
    if by_pseudonym {
        "no device of this registry has this pseudonym; another registry's are others"
    } else {
        "no device fits"
    }
}

fn list_path(args: &List, after: Option<&str>, limit: u64) -> Result<String, Failure> {
    let limit = limit.to_string();
    let account = args.account.as_ref().map(ToString::to_string);
    let class = args.class.as_ref().map(ToString::to_string);
    let code = args.code.as_ref().map(ToString::to_string);
    query(
        "/v1/devices",
        &[
            ("limit", Some(&limit)),
            ("after", after),
            ("state", args.state.map(State::as_str)),
            ("account", account.as_deref()),
            ("class", class.as_deref()),
            ("code", code.as_deref()),
            ("pseudonym", args.pseudonym.as_deref()),
        ],
    )
}

/// A path with what is asked behind it, escaped.
fn query(path: &str, asked: &[(&str, Option<&str>)]) -> Result<String, Failure> {
    let asked = asked
        .iter()
        .filter_map(|(name, value)| Some((name, (*value)?)));
    let base = format!("https://registry{path}");
    let url = Url::parse_with_params(&base, asked).map_err(Failure::refused)?;
    Ok(format!(
        "{}?{}",
        url.path(),
        url.query().unwrap_or_default()
    ))
}

/// `medbind audit`: newest first.
pub async fn audit(args: &Audit, global: &Global) -> Outcome {
    let registry = Registry::new(global)?;
    let mut before = args.before;
    let mut left = if args.limit == 0 {
        u64::MAX
    } else {
        args.limit
    };
    let mut rows = Vec::new();
    while left > 0 {
        let number = |number: u64| number.to_string();
        let (asked, from) = (number(left.min(PAGE)), before.map(number));
        let path = query(
            "/v1/audit",
            &[
                ("limit", Some(&asked)),
                ("before", from.as_deref()),
                ("device", args.device.as_ref().map(DeviceId::as_str)),
                ("account", args.account.as_ref().map(AccountId::as_str)),
            ],
        )?;
        let answer = registry.json(registry.request(Method::GET, &path)).await?;
        let entries = answer["entries"].as_array();
        let entries = entries.ok_or_else(|| registry.unexpected(&"no list of entries"))?;
        for entry in entries {
            left = left.saturating_sub(1);
            if global.json {
                output::json(entry);
            } else {
                rows.push(audit_row(entry));
            }
        }
        before = answer["next"].as_u64();
        if before.is_none() {
            break;
        }
    }
    if !global.json {
        let headings = ["AT", "BY", "WHAT", "DEVICE", "ACCOUNT", "REASON"];
        output::text(&output::table(&headings, &rows));
        if rows.is_empty() {
            output::note("nothing was done");
        }
    }
    if let Some(before) = before {
        output::note(format_args!(
            "there are older ones: add --before {before}, or --limit 0 for all"
        ));
    }
    Ok(ExitCode::SUCCESS)
}

fn audit_row(entry: &Value) -> Vec<String> {
    let columns = ["at", "actor", "action", "device", "account", "reason"];
    let mut row = columns.map(|name| cell(entry, name)).to_vec();
    if let (Some(set), Some(what)) = (setting(&entry["set"]), row.get_mut(2)) {
        *what = format!("{what} {set}");
    }
    let revision = |name: &str| entry[name].as_u64();
    // Part of an import: several devices, each with a revision of its own.
    if let (Value::Null, Some(first), Some(last), Some(device)) = (
        &entry["device"],
        revision("first_revision"),
        revision("last_revision"),
        row.get_mut(3),
    ) {
        *device = format!("{} devices", last.saturating_sub(first).saturating_add(1));
    }
    row
}

/// What an entry has set. The beginning of a pin tells it from others; all of it is in the JSON.
fn setting(set: &Value) -> Option<String> {
    const DIGITS: usize = 12;
    let (name, value) = set.as_object()?.iter().next()?;
    let texts: Vec<String> = match value {
        Value::Array(pins) => {
            let pins = pins.iter().filter_map(Value::as_str);
            pins.map(|pin| match pin.get(..DIGITS) {
                Some(beginning) => format!("{beginning}..."),
                None => pin.to_owned(),
            })
            .collect()
        }
        Value::String(text) => vec![text.clone()],
        _ => Vec::new(),
    };
    Some(match (texts.is_empty(), name.as_str()) {
        (false, _) => texts.join(", "),
        (true, "expires_at") => "never".to_owned(),
        (true, _) => "none".to_owned(),
    })
}

impl State {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Unclaimed => "unclaimed",
            Self::Active => "active",
            Self::Suspended => "suspended",
            Self::Revoked => "revoked",
        }
    }
}

/// `medbind export`.
pub async fn export(args: &Export, global: &Global) -> Outcome {
    let registry = Registry::new(global)?;
    let Some(path) = &args.output else {
        let shown = |octets: &[u8]| {
            output::octets(octets);
            Ok(())
        };
        read_export(&registry, shown).await?;
        return Ok(ExitCode::SUCCESS);
    };
    let mut file = Replacement::of(path)?;
    let reading = read_export(&registry, |octets| file.write(octets));
    let read = tokio::select! {
        read = reading => read,
        _ = tokio::signal::ctrl_c() => Err(Failure::refused("interrupted")),
    };
    let records = read.map_err(|failure| {
        failure.and_next(format_args!(
            "{} is as it was: export again",
            path.display()
        ))
    })?;
    file.take_place()?;
    if global.json {
        output::json(&json!({"records": records, "file": path.display().to_string()}));
    } else {
        output::line(&format!("{records} records in {}", path.display()));
    }
    Ok(ExitCode::SUCCESS)
}

/// Hands the whole export over as it arrives; answers how many records it holds.
async fn read_export(
    registry: &Registry,
    mut take: impl FnMut(&[u8]) -> Result<(), Failure>,
) -> Result<usize, Failure> {
    let request = registry.request(Method::GET, "/v1/export");
    let mut body = registry.send(request).await?.bytes_stream();
    let mut lines: usize = 0;
    while let Some(chunk) = body.next().await {
        let chunk = chunk.map_err(|error| registry.failed(&error))?;
        lines += chunk.split(|octet| *octet == b'\n').count() - 1;
        take(&chunk)?;
    }
    Ok(lines)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_set_stands_beside_what_was_done() {
        let [one, other] = ["5a", "c3"].map(|octet| octet.repeat(32));
        for (action, set, shown) in [
            (
                "pin",
                json!({"pins": [one, other]}),
                "pin 5a5a5a5a5a5a..., c3c3c3c3c3c3...",
            ),
            ("pin", json!({"pins": []}), "pin none"),
            (
                "expire",
                json!({"expires_at": "2035-06-30T22:00:00Z"}),
                "expire 2035-06-30T22:00:00Z",
            ),
            ("expire", json!({"expires_at": null}), "expire never"),
            // Of a registry that kept none.
            ("expire", Value::Null, "expire"),
            ("suspend", Value::Null, "suspend"),
        ] {
            let row = audit_row(&json!({"action": action, "set": set}));
            assert_eq!(row[2], shown);
        }
    }
}
