//! What do the connections of an Envoy with `http.yaml` to the registry and to the service bear: one
//! that goes silent, many devices at once?

use anyhow::{Context, Result, ensure};
use futures_util::future::{join_all, try_join_all};
use medbind_core::binding::BindingState;
use medbind_core::deny::DenyCode;
use serde_json::json;

use super::fleet::Device;
use super::report::Report;
use super::shipped::{Around, as_it_is, replace};
use super::story::{case, is_code, is_served, reading, wait_served};
use crate::bootstrap::set;
use crate::certificate::Spec;
use crate::client::Client;
use crate::proxy::Proxy;

const SILENT: &str = "http.yaml gives up a connection to the service that has gone silent";
const AT_ONCE: &str = "http.yaml asks the registry about many devices at once";

/// What is shown here.
pub(super) const NAMES: [&str; 2] = [SILENT, AT_ONCE];

/// More than the calls that HTTP/1.1 could make, and wait to make, and fewer than may wait in a
/// worker.
const DEVICES: usize = 600;

/// All of them.
pub(super) async fn cases(around: &mut Around, report: &mut Report) {
    case!(report, SILENT, gone_silent(around));
    case!(report, AT_ONCE, at_once(around));
}

/// As it is shipped, but that an answer may take a second, and a sign of life too.
fn hurried(text: &str) -> Result<String> {
    let text = replace(text, "timeout: 30s}", "timeout: 1s}")?;
    replace(
        &text,
        "{interval: 30s, timeout: 5s}",
        "{interval: 1s, timeout: 1s}",
    )
}

async fn gone_silent(around: &Around) -> Result<()> {
    let proxy = Proxy::start(around.upstream.address()).await?;
    let envoy = around.start(hurried, |bootstrap| {
        bootstrap.send_to("device_service", proxy.address())
    });
    let envoy = envoy.await?;
    let identity = around.site.device_ca.issue(&Spec::device("SN-A"))?;
    let client = around
        .site
        .client(envoy.listener("edge")?, Some(&identity))?;
    // By every worker, each of which has a connection then.
    wait_served(&client, "SN-A").await?;
    proxy.fall_silent();
    let first = client.send(&reading("SN-A")).await?;
    ensure!(!first.is_success(), "the proxy still relays");
    let time = wait_served(&client, "SN-A").await?;
    println!("      silence to served: {time:.1?}");
    Ok(())
}

async fn at_once(around: &mut Around) -> Result<()> {
    let devices = (0..DEVICES).map(|number| Device {
        id: format!("acme:SN-CROWD-{number}"),
        state: BindingState::Unclaimed,
        expired: false,
        pinned: false,
    });
    around.registry.hold(&devices.collect::<Vec<_>>()).await?;
    let envoy = around.start(as_it_is, |bootstrap| {
        // Long, so that who is refused is not refused for a slow machine.
        let bindings = json!({"preload": false, "capacity": 1000, "lookup_timeout": "10s"});
        for listener in ["edge", "probes"] {
            set(bootstrap.guard(listener)?, "bindings", bindings.clone())?;
        }
        set(bootstrap.synchroniser()?, "bindings", bindings)
    });
    let envoy = envoy.await?;
    let edge = envoy.listener("edge")?;
    let mut clients = Vec::new();
    for number in 0..DEVICES {
        let spec = Spec::device(&format!("SN-CROWD-{number}"));
        let identity = around.site.device_ca.issue(&spec)?;
        clients.push(around.site.client(edge, Some(&identity))?);
    }
    let mut connections = Vec::new();
    for some in clients.chunks(50) {
        connections.extend(try_join_all(some.iter().map(Client::connect)).await?);
    }
    let asks = connections.iter_mut().enumerate();
    let answers = asks.map(|(number, connection)| async move {
        connection
            .send(&reading(&format!("SN-CROWD-{number}")))
            .await
    });
    let mut failed = 0;
    let mut last = None;
    for answer in join_all(answers).await {
        if let Err(error) = is_code(&answer?, DenyCode::DeviceUnclaimed) {
            failed += 1;
            last = Some(error);
        }
    }
    if let Some(error) = last {
        return Err(error).with_context(|| format!("{failed} of {DEVICES} were not answered"));
    }
    // The feed goes by the same connection.
    around.registry.hold_active("SN-AFTER-CROWD").await?;
    let identity = around
        .site
        .device_ca
        .issue(&Spec::device("SN-AFTER-CROWD"))?;
    let client = around.site.client(edge, Some(&identity))?;
    is_served(&client.send(&reading("SN-AFTER-CROWD")).await?)
}
