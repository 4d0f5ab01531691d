//! What do scenarios with a story have in common?

use std::time::Duration;

use anyhow::{Result, ensure};
use medbind_core::deny::DenyCode;

use super::real::{Stage, said};
use crate::client::{Answer, Ask, Client};
use crate::wait::until;

/// A change is in force much sooner; this is when a scenario gives up.
pub const LIMIT: Duration = Duration::from_secs(10);

/// So many connections in a row reach every worker, as good as certainly.
const IN_A_ROW: usize = 12;

/// Runs a scenario, where it is asked for.
macro_rules! case {
    ($report:expr, $name:expr, $run:expr) => {
        if $report.wants($name) {
            $report.begin();
            let outcome = $run.await;
            $report.end($name, outcome);
        }
    };
}
pub(super) use case;

/// A device posts a reading of its own.
pub fn reading(serial: &str) -> Ask {
    Ask::post(format!("/v1/devices/acme:{serial}/readings"), "{}")
}

/// It was refused with this code.
pub fn is_code(answer: &Answer, code: DenyCode) -> Result<()> {
    let fits = answer.code().as_deref() == Some(code.as_str());
    ensure!(fits, said(answer, &format!("it was to be {code}")));
    Ok(())
}

/// It was served.
pub fn is_served(answer: &Answer) -> Result<()> {
    ensure!(answer.is_success(), said(answer, "it was not served"));
    Ok(())
}

/// Enrols a device for one scenario, and waits until it is served.
pub async fn new_device(stage: &mut Stage, listener: &str, serial: &str) -> Result<Client> {
    stage.registry()?.hold_active(serial).await?;
    let client = stage.device(listener, serial)?;
    wait_served(&client, serial).await?;
    Ok(client)
}

/// Waits until the device is served by every worker: by many connections in a row, since Envoy
/// gives each to one of them.
pub async fn wait_served(client: &Client, serial: &str) -> Result<Duration> {
    let ask = reading(serial);
    let first = until("the device is served", LIMIT, || async {
        client.send(&ask).await.ok().filter(Answer::is_success)
    });
    let (_, first) = first.await?;
    until("every worker serves the device", LIMIT, || async {
        for _ in 0..IN_A_ROW {
            client.send(&ask).await.ok().filter(Answer::is_success)?;
        }
        Some(())
    })
    .await?;
    Ok(first)
}

/// Waits until every worker refuses the device with this code.
pub async fn wait_refused(client: &Client, serial: &str, code: DenyCode) -> Result<()> {
    let ask = reading(serial);
    until("every worker refuses the device", LIMIT, || async {
        for _ in 0..IN_A_ROW {
            let answer = client.send(&ask).await.ok()?;
            is_code(&answer, code).ok()?;
        }
        Some(())
    })
    .await?;
    Ok(())
}
