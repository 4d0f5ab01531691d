//! How does a registry come to hold a million bindings?

use std::fmt::Write as _;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use medbind_core::claim::{ClaimCode, ClaimSecret};
use medbind_integration::scenario::registry::Registry;
use medbind_integration::tools::Tools;
use medbind_workshop::progress::Progress;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{Connection as _, Executor as _};

/// The serial number of a device.
pub fn serial(number: u32) -> String {
    format!("SN-{number:07}")
}

/// Enrols the devices from `from` to before `to` as an operator does, by `medbind enrol` with a
/// file, and claims them all.
///
/// The claims are written to the database where it lies, since a million people would be needed
/// otherwise. What the feed says of these devices is what it would say had they been claimed one
/// by one, but that their epoch's claim has no revision of its own.
pub async fn fill(tools: &Tools, registry: &mut Registry, from: u32, to: u32) -> Result<()> {
    let progress = Progress::start(&format!("enrolling devices: {to}"));
    let file = registry.data_dir().join("devices.ndjson");
    let secret_hash = ClaimSecret::from_entropy([7; 20]).hash();
    let mut lines = String::new();
    for number in from..to {
        let mut entropy = [0; 12];
        for (place, symbol) in entropy.iter_mut().enumerate() {
            // A symbol holds five bits. The first is none of those that the harness gives out.
            *symbol = match place {
                0..7 => u8::try_from(number >> (5 * place) & 0x1f)?,
                _ => 0x1f,
            };
        }
        let _ = writeln!(
            lines,
            r#"{{"device":"acme:{}","code":"{}","secret_hash":"{secret_hash}","class":"infusion_pump"}}"#,
            serial(number),
            ClaimCode::from_entropy(entropy),
        );
    }
    std::fs::write(&file, lines)?;
    let output = Command::new(&tools.command)
        .arg("enrol")
        .arg(&file)
        .args(["--registry", &registry.url(), "--credentials"])
        .arg(registry.data_dir().join("operator"))
        .output()
        .context("cannot run medbind enrol")?;
    ensure!(
        output.status.success(),
        "medbind enrol: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    std::fs::remove_file(&file)?;
    registry.kill();
    let mut database = database(registry).await?;
    database
        .execute(
            "UPDATE devices SET state = 'active', account = printf('acc-%07d', rowid), owned = 1, \
             secret_used = 1 WHERE state = 'unclaimed'",
        )
        .await?;
    database.close().await?;
    registry.restart().await?;
    drop(progress);
    Ok(())
}

/// Makes the registry one that tells another history of the same devices. In it every one of them
/// belongs to another account, so that the edge can keep nothing in one place for both; and one is
/// suspended.
pub async fn begin_history(registry: &mut Registry, suspended: &str) -> Result<()> {
    registry.kill();
    let mut database = database(registry).await?;
    database
        .execute("UPDATE history SET feed = randomblob(16)")
        .await?;
    database
        .execute("UPDATE devices SET account = printf('new-%07d', rowid)")
        .await?;
    sqlx::query("UPDATE devices SET state = 'suspended' WHERE device = ?1")
        .bind(suspended)
        .execute(&mut database)
        .await?;
    database.close().await?;
    registry.restart().await
}

async fn database(registry: &Registry) -> Result<SqliteConnection> {
    let file = registry.data_dir().join("registry.sqlite");
    let options = SqliteConnectOptions::new().filename(&file);
    SqliteConnection::connect_with(&options)
        .await
        .with_context(|| format!("cannot open {}", file.display()))
}
