//! How is changed what the registry holds? Claim, suspend, resume, revoke, release, new secret,
//! expire, pin.

use std::fs;
use std::io::{BufRead as _, IsTerminal as _};
use std::process::ExitCode;

use medbind_core::certificate::PeerCertificate;
use medbind_core::claim::ClaimSecret;
use medbind_core::identity::DeviceId;
use medbind_core::time::Timestamp;
use reqwest::Method;
use serde_json::{Value, json};

use crate::args::{Change, Claim, Expire, Global, PinArgs, Revoke};
use crate::client::{Registry, device_path};
use crate::failure::{Failure, Outcome};
use crate::output::{self, put};

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
        output::ask("claim secret (20 characters, on the label): ");
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
    let released = change(args, global, "release", "released").await;
    released.map_err(|failure| secret_lost(failure, &args.device))
}

/// `medbind new-secret`.
pub async fn new_secret(args: &Change, global: &Global) -> Outcome {
    let made = change(args, global, "secret", "made a new secret for").await;
    made.map_err(|failure| secret_lost(failure, &args.device))
}

/// A change that may have been made all the same has had its claim secret in the answer.
fn secret_lost(failure: Failure, device: &DeviceId) -> Failure {
    if !failure.may_be_done() {
        return failure;
    }
    failure.and_next(format_args!(
        "where it was, its new claim secret is lost: medbind new-secret {device} makes another"
    ))
}

/// `medbind expire`.
pub async fn expire(args: &Expire, global: &Global) -> Outcome {
    let registry = Registry::new(global)?;
    let Change { device, reason } = &args.change;
    let path = device_path(device, "expires_at");
    let body = json!({ "expires_at": args.at, "reason": reason });
    let request = registry.with_json(Method::PUT, &path, &body);
    let record = registry.json(request).await?;
    show_change(global, "set the end of", &record);
    let now = Timestamp::from_unix_millis(jiff::Timestamp::now().as_millisecond());
    if args.at.is_some_and(|at| at <= now) {
        output::note("note: that is past: from now on the device is refused, binding_expired");
    }
    Ok(ExitCode::SUCCESS)
}

/// `medbind revoke`.
pub async fn revoke(args: &Revoke, global: &Global) -> Outcome {
    if !args.yes && std::io::stdin().is_terminal() {
        output::ask(format_args!(
            "{} is refused for good and never comes back. Revoke it? [y/N] ",
            args.change.device
        ));
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
    let mut body = json!({ "pins": pins });
    if let Some(reason) = &args.reason {
        body["reason"] = json!(reason);
    }
    let request = registry.with_json(Method::PUT, &path, &body);
    let record = registry.json(request).await?;
    show_change(global, "pinned", &record);
    Ok(ExitCode::SUCCESS)
}

fn show_change(global: &Global, done: &str, record: &Value) {
    let text = if global.json {
        format!("{record}\n")
    } else {
        change_in_words(done, record)
    };
    if record["claim_secret"].is_null() {
        output::text(&text);
    } else {
        output::text_with_secret(&text, &cell(record, "device"));
    }
}

fn change_in_words(done: &str, record: &Value) -> String {
    let green = output::GREEN;
    let mut text = format!("{green}{done}{green:#} {}", cell(record, "device"));
    if let Some(account) = record["account"].as_str() {
        put!(text, " for account {account}");
    }
    put!(
        text,
        ", now {} (epoch {}, revision {}",
        cell(record, "state"),
        cell(record, "epoch"),
        cell(record, "revision")
    );
    if let Some(end) = record["expires_at"].as_str() {
        put!(text, ", ends {end}");
    }
    text.push_str(")\n");
    // Shown this once.
    if let Some(secret) = record["claim_secret"].as_str() {
        let (bold, dim) = (output::BOLD, output::DIM);
        put!(
            text,
            "  new claim secret  {bold}{secret}{bold:#}  {dim}(shown once){dim:#}\n"
        );
    }
    text
}

/// A field as text: a dash where it is missing or null.
pub fn cell(record: &Value, name: &str) -> String {
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
