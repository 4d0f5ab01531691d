//! What if the registry is away, and comes back?

use std::time::Duration;

use anyhow::Result;
use medbind_core::deny::DenyCode;
use tokio::time::Instant;

use super::real::Stage;
use super::story::{is_code, is_served, new_device, reading};
use crate::wait::until;

/// Known devices are served meanwhile, and changes arrive afterwards.
pub async fn registry_down(stage: &mut Stage) -> Result<()> {
    let client = new_device(stage, "edge", "SN-DOWN").await?;
    stage.registry()?.kill();
    for _ in 0..20 {
        is_served(&client.send(&reading("SN-DOWN")).await?)?;
    }
    stage.registry()?.restart().await?;
    stage.registry()?.act("acme:SN-DOWN", "revoke").await?;
    let start = Instant::now();
    let ask = reading("SN-DOWN");
    let refused = until("the change arrives", Duration::from_mins(1), || async {
        client
            .send(&ask)
            .await
            .ok()
            .filter(|answer| !answer.is_success())
    });
    is_code(&refused.await?.0, DenyCode::BindingRevoked)?;
    println!(
        "      restarted and revoked to first refusal: {:.1?}",
        start.elapsed()
    );
    Ok(())
}

/// It was away for longer than `max_stale`.
pub async fn back(stage: &mut Stage) -> Result<()> {
    stage.registry()?.restart().await?;
    let start = Instant::now();
    stage.wait_until(200, "\"ready\":true").await?;
    println!("      registry back to ready: {:.1?}", start.elapsed());
    is_served(&stage.device("edge", "SN-A")?.send(&reading("SN-A")).await?)
}
