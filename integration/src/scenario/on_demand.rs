//! What if a binding has to be asked for?

use std::time::Duration;

use anyhow::{Result, bail, ensure};
use medbind_core::deny::DenyCode;

use super::real::{Stage, said};
use super::report::Report;
use super::story::{LIMIT, case, is_code, is_served, reading};
use crate::client::Protocol;
use crate::feed::Behaviour;
use crate::wait::until;

/// All of them.
pub async fn stories(stage: &mut Stage, report: &mut Report) {
    case!(
        report,
        "a lookup that fails is never remembered as a verdict",
        failed_lookup(stage)
    );
    case!(
        report,
        "a binding is asked for on demand, once for many requests",
        on_demand(stage)
    );
    case!(
        report,
        "a lookup that takes too long refuses",
        too_late(stage)
    );
    case!(
        report,
        "the call of a request that was given up goes on to its end",
        given_up(stage)
    );
}

/// How often the registry was asked for a device.
fn asked(stage: &mut Stage, device: &str) -> Result<usize> {
    let lookups = stage.script()?.lookups();
    Ok(lookups.iter().filter(|asked| *asked == device).count())
}

/// Each request asks the registry anew, and what it answers at last is in force at once: much sooner
/// than a "no" would be forgotten.
async fn failed_lookup(stage: &mut Stage) -> Result<()> {
    stage.script()?.behave(Behaviour {
        lookup_status: Some(500),
        ..Behaviour::default()
    });
    let client = stage.device("edge", "SN-A")?;
    for _ in 0..6 {
        let before = asked(stage, "acme:SN-A")?;
        let answer = client.send(&reading("SN-A")).await?;
        is_code(&answer, DenyCode::LookupFailed)?;
        let times = asked(stage, "acme:SN-A")? - before;
        ensure!(times == 1, "the registry was asked {times} times");
    }
    stage.script()?.behave(Behaviour::default());
    // On every worker.
    for _ in 0..12 {
        is_served(&client.send(&reading("SN-A")).await?)?;
    }
    Ok(())
}

async fn on_demand(stage: &mut Stage) -> Result<()> {
    stage.script()?.behave(Behaviour {
        lookup_delay: Some(Duration::from_millis(50)),
        ..Behaviour::default()
    });
    let client = stage.device("edge", "SN-B")?.with_protocol(Protocol::Http2);
    let ask = reading("SN-B");
    let asking = (0..20).map(|_| client.send(&ask));
    for answer in futures_util::future::join_all(asking).await {
        is_served(&answer?)?;
    }
    let asked = asked(stage, "acme:SN-B")?;
    println!("      20 requests, {asked} lookups");
    // One for each worker.
    ensure!(
        (1..=2).contains(&asked),
        "the registry was asked {asked} times"
    );
    let nobody = stage.device("edge", "SN-NOBODY")?;
    is_code(
        &nobody.send(&reading("SN-NOBODY")).await?,
        DenyCode::UnknownDevice,
    )
}

/// That Envoy does not cancel such a call is what the guard's count of calls stands on.
async fn given_up(stage: &mut Stage) -> Result<()> {
    const LATE: &str = "envoy_cluster_upstream_rq_timeout";
    const CLUSTER: [&str; 1] = ["envoy_cluster_name=\"registry\""];
    let client = stage.device("edge", "SN-GONE")?;
    let before = stage.envoy.metric(LATE, &CLUSTER).await?;
    let script = stage.script()?;
    script.behave(Behaviour {
        lookup_delay: Some(Duration::from_secs(5)),
        ..Behaviour::default()
    });
    let script = &*script;
    let asked = until("the registry is asked", LIMIT, || async {
        let lookups = script.lookups();
        lookups.contains(&"acme:SN-GONE".to_owned()).then_some(())
    });
    let ask = reading("SN-GONE");
    tokio::select! {
        answer = client.send(&ask) => bail!(said(&answer?, "it was to wait")),
        asked = asked => { asked?; }
    }
    // Its own, and the one that is made instead.
    let envoy = &stage.envoy;
    until("two calls run into their deadline", LIMIT, || async {
        let late = envoy.metric(LATE, &CLUSTER).await.ok()?;
        (late >= before + 2.0).then_some(())
    })
    .await?;
    Ok(())
}

async fn too_late(stage: &mut Stage) -> Result<()> {
    stage.script()?.behave(Behaviour {
        lookup_delay: Some(Duration::from_secs(5)),
        ..Behaviour::default()
    });
    let late = stage.device("edge", "SN-LATE")?;
    is_code(
        &late.send(&reading("SN-LATE")).await?,
        DenyCode::LookupFailed,
    )
}
