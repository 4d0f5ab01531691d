//! What can callers without a certificate take from devices, before an Envoy with `http.yaml`?

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use futures_util::future::{join_all, try_join_all};
use http_body_util::BodyExt;
use medbind_core::deny::DenyCode;

use super::report::Report;
use super::shipped::{Around, replace};
use super::story::{LIMIT, case, is_code, is_served, reading, slow_body, wait_served};
use crate::certificate::Spec;
use crate::client::{Ask, Client, Protocol};
use crate::envoy::Envoy;
use crate::wait::until;

const HEALTH: &str = "http.yaml lets strangers who ask without end take nothing from devices";

/// What is shown here.
pub(super) const NAMES: [&str; 1] = [HEALTH];

/// All of them.
pub(super) async fn cases(around: &Around, report: &mut Report) {
    case!(report, HEALTH, endless(around));
}

/// As it is shipped, but that the service takes fewer requests of devices at once than strangers
/// ask here.
fn narrow(text: &str) -> Result<String> {
    replace(text, "max_requests: 16384", "max_requests: 40")
}

/// So many strangers ask at once.
const STRANGERS: usize = 100;
/// As the file says.
const MOST: f64 = 64.0;

/// What nobody answers, in ways of asking that other routes are for.
fn question(number: usize) -> Ask {
    let ask = Ask::get("/healthz?silence");
    match number % 4 {
        0 => ask,
        1 => ask.header("accept", "text/event-stream"),
        2 => ask.header("content-type", "application/grpc"),
        _ => Ask::get("/%68ealth%7A?silence"),
    }
}

/// How many requests of a cluster were turned away, since as many were under way as its
/// `circuit_breakers` allow (Envoy 1.36 counts all of them as the first).
async fn turned_away(envoy: &Envoy, cluster: &str) -> Result<f64> {
    let waiting = of_cluster(envoy, "upstream_rq_pending_overflow", cluster).await?;
    let asking = of_cluster(envoy, "upstream_rq_active_overflow", cluster).await?;
    Ok(waiting + asking)
}

async fn of_cluster(envoy: &Envoy, metric: &str, cluster: &str) -> Result<f64> {
    let label = format!("envoy_cluster_name=\"{cluster}\"");
    envoy
        .metric(&format!("envoy_cluster_{metric}"), &[&label])
        .await
}

async fn endless(around: &Around) -> Result<()> {
    let envoy = around.start(narrow, |_| Ok(())).await?;
    let edge = envoy.listener("edge")?;
    let identity = around.site.device_ca.issue(&Spec::device("SN-A"))?;
    let device = around.site.client(edge, Some(&identity))?;
    wait_served(&device, "SN-A").await?;
    let nobody = around.site.client(edge, None)?;
    is_served(&nobody.send(&Ask::get("/healthz")).await?)?;
    is_code(
        &nobody.send(&Ask::post("/healthz", "x")).await?,
        DenyCode::NotPermitted,
    )?;
    let socket = "GET /healthz HTTP/1.1\r\nhost: edge.example\r\nconnection: upgrade\r\n\
                  upgrade: websocket\r\nsec-websocket-version: 13\r\n\
                  sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    let socket = nobody.raw(socket.as_bytes()).await?;
    ensure!(socket.status == 403, "a socket: {}", socket.status);

    let strangers = vec![nobody.with_protocol(Protocol::Http2); STRANGERS];
    let mut connections = Vec::new();
    for some in strangers.chunks(50) {
        connections.extend(try_join_all(some.iter().map(Client::connect)).await?);
    }
    let mut dripping = connections.pop().context("no connection")?;
    let dripping = tokio::spawn(async move {
        let body = slow_body(Duration::from_mins(1)).boxed_unsync();
        let started = dripping.start(&Ask::get("/healthz"), body).await?;
        anyhow::Ok(started.status())
    });
    let asking = tokio::spawn(async move {
        let asks = connections.iter_mut().enumerate();
        join_all(asks.map(|(number, connection)| {
            let ask = question(number);
            async move { connection.send(&ask).await }
        }))
        .await
    });
    let health = "device_service_health";
    until("strangers are turned away", LIMIT, || async {
        let turned = turned_away(&envoy, health).await;
        let under_way = of_cluster(&envoy, "upstream_rq_active", health).await;
        (turned.ok()? > 0.5 && under_way.ok()? > MOST - 0.5).then_some(())
    })
    .await?;
    for _ in 0..20 {
        is_served(&device.send(&reading("SN-A")).await?)?;
    }
    let under_way = of_cluster(&envoy, "upstream_rq_active", health).await?;
    ensure!(
        (1.0..MOST + 0.5).contains(&under_way),
        "{under_way} are under way"
    );
    let turned = turned_away(&envoy, "device_service").await?;
    ensure!(turned < 0.5, "{turned} devices were turned away");
    for answer in asking.await? {
        let status = answer?.status;
        ensure!([200, 503, 504].contains(&status), "it was {status}");
    }
    let told = envoy
        .access_log()
        .iter()
        .any(|line| line["status"] == 503 && line["flags"] == "UO");
    ensure!(told, "no line of the access log has the flag UO");
    let status = dripping.await?.context("who drips is not answered")?;
    ensure!(!status.is_success(), "who drips was answered with {status}");
    // And there is room again.
    is_served(&device.send(&reading("SN-A")).await?)?;
    is_served(&strangers[0].send(&Ask::get("/healthz")).await?)
}
