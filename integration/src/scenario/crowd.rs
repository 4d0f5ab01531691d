//! What does a crowd of strangers take?

use anyhow::{Context, Result, ensure};
use medbind_core::deny::DenyCode;
use serde_json::json;

use super::real::Stage;
use super::story::{is_code, is_served, reading};
use super::world::{add_listener, open};
use crate::bootstrap::{Bootstrap, set};
use crate::certificate::Spec;

/// How many strangers fill what is remembered of them, on every worker.
const FULL: u32 = 3_000;
/// How much Envoy may grow by strangers after that: what its allocator does, and no more.
const MORE_AT_MOST: u64 = 4 << 20;

/// The listener whose guard remembers few.
pub const FORGETFUL: &str = "forgetful";

/// Adds it.
pub fn listener(bootstrap: &mut Bootstrap) -> Result<()> {
    let edge = bootstrap.listener("edge")?.clone();
    add_listener(bootstrap, &edge, FORGETFUL)?;
    open(bootstrap, FORGETFUL)?;
    let few = json!({"known_devices": 16, "refused": 16});
    set(bootstrap.guard(FORGETFUL)?, "local_table", few)
}

/// Many strangers, and among them a known device on a connection that stays, and so on one worker,
/// which is to remember it: its certificate is checked once.
pub async fn crowd(stage: &mut Stage, listener: &str, count: u32) -> Result<()> {
    let known = stage.device(listener, "SN-A")?;
    let mut connection = known.connect().await?;
    is_served(&connection.send(&reading("SN-A")).await?)?;
    let checked = stage.envoy.metric("medbind_verifications", &[]).await?;
    let spec = Spec::device("SN-A");
    let mut full = None;
    for (number, stranger) in (0..count).zip(stage.world.site.stranger_ca.many(&spec)?) {
        let answer = stage
            .client(listener, Some(&stranger?))?
            .send(&reading("SN-A"))
            .await?;
        is_code(&answer, DenyCode::UnknownIssuer).with_context(|| format!("stranger {number}"))?;
        if number % 50 == 0 {
            is_served(&connection.send(&reading("SN-A")).await?)?;
        }
        if number == FULL {
            full = Some(stage.envoy.resident_octets()?);
        }
    }
    if let Some(full) = full {
        let more = stage.envoy.resident_octets()?.saturating_sub(full);
        println!(
            "      {} strangers after the first {FULL}: {} KiB more",
            count - FULL,
            more / 1024
        );
        // Each would take some hundred octets, if it were remembered.
        ensure!(more < MORE_AT_MOST, "{more} octets more");
    }
    is_served(&connection.send(&reading("SN-A")).await?)?;
    let checked = stage.envoy.metric("medbind_verifications", &[]).await? - checked;
    println!("      {checked} signatures checked");
    // A stranger's issuer is told by its key identifier, without a signature.
    ensure!(
        checked < 0.5,
        "the known device was forgotten: {checked} signatures were checked"
    );
    Ok(())
}
