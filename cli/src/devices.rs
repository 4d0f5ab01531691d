//! What does the registry hold, and how is it changed? Claim, suspend, resume, revoke, release,
//! pin; show, list, export.

use std::fs;
use std::io::{BufRead as _, IsTerminal as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::process::ExitCode;

use futures_util::StreamExt as _;
use medbind_core::certificate::PeerCertificate;
use medbind_core::claim::ClaimSecret;
use reqwest::{Method, Url};
use serde_json::{Value, json};

use crate::args::{Change, Claim, Export, Global, List, PinArgs, Revoke, Show, State};
use crate::client::{Registry, device_path};
use crate::failure::{Failure, Outcome};
use crate::output::{self, put};

/// The most devices that one page of the registry's list holds.
const PAGE: u64 = 1000;

/// `medbind claim`.
pub async fn claim(args: &Claim, global: &Global) -> Outcome {
    let registry = Registry::new(global)?;
    let typed = match &args.secret {
        Some(secret) => secret.clone(),
        None => ask_for_secret()?,
    };
    let secret: ClaimSecret = typed.parse().map_err(|error| {
        Failure::usage(format_args!("the claim secret: {error}"))
            .next("compare it with the label; capitals, dashes and blanks do not matter")
    })?;
    let body = json!({
        "code": args.code,
        "secret": secret.reveal().to_string(),
        "account": args.account,
    });
    let record = registry.post("/v1/claims", &body).await?;
    show_change(global, "claimed", &record);
    Ok(ExitCode::SUCCESS)
}

/// One line from standard input; a person is asked for it.
fn ask_for_secret() -> Result<String, Failure> {
    let input = std::io::stdin();
    if input.is_terminal() {
        anstream::eprint!("claim secret (20 characters, on the label): ");
    }
    let mut line = String::new();
    let read = input.lock().read_line(&mut line);
    read.map_err(|error| Failure::usage(format_args!("cannot read the claim secret: {error}")))?;
    if line.trim().is_empty() {
        return Err(Failure::usage("no claim secret was given")
            .next("type it, pipe it in, or set MEDBIND_CLAIM_SECRET"));
    }
    Ok(line)
}

/// `medbind suspend`.
pub async fn suspend(args: &Change, global: &Global) -> Outcome {
    change(args, global, "suspend", "suspended").await
}

/// `medbind resume`.
pub async fn resume(args: &Change, global: &Global) -> Outcome {
    change(args, global, "resume", "resumed").await
}

/// `medbind release`.
pub async fn release(args: &Change, global: &Global) -> Outcome {
    change(args, global, "release", "released").await
}

/// `medbind revoke`.
pub async fn revoke(args: &Revoke, global: &Global) -> Outcome {
    if !args.yes && std::io::stdin().is_terminal() {
        anstream::eprint!(
            "{} is refused for good and never comes back. Revoke it? [y/N] ",
            args.change.device
        );
        let mut answer = String::new();
        let read = std::io::stdin().lock().read_line(&mut answer);
        read.map_err(|error| Failure::usage(format_args!("cannot read the answer: {error}")))?;
        if !matches!(answer.trim(), "y" | "Y" | "yes") {
            return Err(Failure::refused("not revoked"));
        }
    }
    change(&args.change, global, "revoke", "revoked").await
}

async fn change(args: &Change, global: &Global, action: &str, done: &str) -> Outcome {
    let registry = Registry::new(global)?;
    let body = args
        .reason
        .as_ref()
        .map_or_else(|| json!({}), |reason| json!({ "reason": reason }));
    let record = registry
        .post(&device_path(&args.device, action), &body)
        .await?;
    show_change(global, done, &record);
    Ok(ExitCode::SUCCESS)
}

/// `medbind pin`.
pub async fn pin(args: &PinArgs, global: &Global) -> Outcome {
    let registry = Registry::new(global)?;
    let mut pins = args.pins.clone();
    for path in &args.certificates {
        let pem = fs::read(path).map_err(|error| Failure::unreadable(path, &error))?;
        let certificate = PeerCertificate::parse(&pem)
            .map_err(|error| Failure::usage(format_args!("{}: {error}", path.display())))?;
        pins.push(certificate.pin());
    }
    let path = device_path(&args.device, "pins");
    let request = registry.with_json(Method::PUT, &path, &json!({ "pins": pins }));
    let record = registry.json(request).await?;
    show_change(global, "pinned", &record);
    Ok(ExitCode::SUCCESS)
}

/// `medbind show`.
pub async fn show(args: &Show, global: &Global) -> Outcome {
    let registry = Registry::new(global)?;
    let request = registry.request(Method::GET, &device_path(&args.device, ""));
    let record = registry.json(request).await?;
    if global.json {
        output::json(&record);
    } else {
        output::text(&fields(&record));
    }
    Ok(ExitCode::SUCCESS)
}

fn show_change(global: &Global, done: &str, record: &Value) {
    if global.json {
        output::json(record);
        return;
    }
    let green = output::GREEN;
    let mut text = format!("{green}{done}{green:#} {}", cell(record, "device"));
    if let Some(account) = record["account"].as_str() {
        put!(text, " for account {account}");
    }
    put!(
        text,
        ", now {} (epoch {}, revision {})\n",
        cell(record, "state"),
        cell(record, "epoch"),
        cell(record, "revision")
    );
    // A release answers with the next claim secret, this once.
    if let Some(secret) = record["claim_secret"].as_str() {
        let (bold, dim) = (output::BOLD, output::DIM);
        put!(
            text,
            "  new claim secret  {bold}{secret}{bold:#}  {dim}(shown once){dim:#}\n"
        );
    }
    output::text(&text);
}

/// A field as text: a dash where it is missing or null.
fn cell(record: &Value, name: &str) -> String {
    match &record[name] {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(values) if values.is_empty() => "-".to_owned(),
        Value::Array(values) => {
            let texts = values.iter().map(|value| match value {
                Value::String(text) => text.clone(),
                other => other.to_string(),
            });
            texts.collect::<Vec<_>>().join(", ")
        }
        other => other.to_string(),
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
            anstream::eprintln!("{}", nothing_found(args));
        }
    }
    if more && let Some(after) = after {
        anstream::eprintln!("there are more: add --after {after}, or --limit 0 for all");
    }
    Ok(ExitCode::SUCCESS)
}

/// Why a list may be empty.
fn nothing_found(args: &List) -> &'static str {
    if args.pseudonym.is_some() {
        "no device has this pseudonym: it is 16 hex digits, and another registry's are others"
    } else {
        "no device fits"
    }
}

fn list_path(args: &List, after: Option<&str>, limit: u64) -> Result<String, Failure> {
    let mut url = Url::parse("https://registry/v1/devices").map_err(Failure::refused)?;
    {
        let mut query = url.query_pairs_mut();
        query.append_pair("limit", &limit.to_string());
        if let Some(after) = after {
            query.append_pair("after", after);
        }
        if let Some(state) = args.state {
            query.append_pair("state", state.as_str());
        }
        if let Some(account) = &args.account {
            query.append_pair("account", account.as_str());
        }
        if let Some(pseudonym) = &args.pseudonym {
            query.append_pair("pseudonym", pseudonym);
        }
    }
    Ok(format!(
        "{}?{}",
        url.path(),
        url.query().unwrap_or_default()
    ))
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
    let request = registry.request(Method::GET, "/v1/export");
    let mut body = registry.send(request).await?.bytes_stream();
    let mut file = match &args.output {
        Some(path) => {
            let file = fs::OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(true)
                .mode(0o600)
                .open(path);
            Some((
                path,
                file.map_err(|error| Failure::unwritable(path, &error))?,
            ))
        }
        None => None,
    };
    let mut lines: usize = 0;
    while let Some(chunk) = body.next().await {
        let chunk = chunk.map_err(|error| registry.failed(&error))?;
        lines += chunk.split(|octet| *octet == b'\n').count() - 1;
        match &mut file {
            Some((path, file)) => {
                let written = file.write_all(&chunk);
                written.map_err(|error| Failure::unwritable(path, &error))?;
            }
            None => output::octets(&chunk),
        }
    }
    if let Some((path, _)) = file {
        if global.json {
            output::json(&json!({"records": lines, "file": path.display().to_string()}));
        } else {
            output::line(&format!("{lines} records in {}", path.display()));
        }
    }
    Ok(ExitCode::SUCCESS)
}
