//! What does an Envoy with `http.yaml` do whose name server says nothing as it starts?

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use medbind_core::deny::DenyCode;
use serde_json::{Value, json};

use super::report::Report;
use super::shipped::{Around, as_it_is};
use super::story::{LIMIT, case, is_code, reading};
use crate::bootstrap::{Bootstrap, set};
use crate::certificate::Spec;
use crate::client::{Answer, Ask};
use crate::envoy::{Options, get};
use crate::name_server::NameServer;
use crate::wait::until;

const SILENT: &str = "http.yaml is alive, and says that it is not ready, where no name resolves";

/// What is shown here.
pub(super) const NAMES: [&str; 1] = [SILENT];

/// All of them.
pub(super) async fn cases(around: &Around, report: &mut Report) {
    case!(report, SILENT, no_name_resolves(around));
}

/// Envoy asks again after 5 s, 10 s and 20 s.
const ASKED_AGAIN: Duration = Duration::from_mins(1);

/// Names in the place of addresses, and who is asked about them.
fn by_name(bootstrap: &mut Bootstrap, names: &NameServer) -> Result<()> {
    for (cluster, name) in [
        ("registry", "registry.test"),
        ("device_service", "device-service.test"),
        ("device_service_http1", "device-service.test"),
        ("device_service_health", "device-service.test"),
    ] {
        let address = bootstrap.cluster(cluster)?.pointer_mut(
            "/load_assignment/endpoints/0/lb_endpoints/0/endpoint/address/socket_address",
        );
        set(
            address.context("a cluster without address")?,
            "address",
            json!(name),
        )?;
    }
    let at = names.address();
    let resolver = json!({
        "name": "envoy.network.dns_resolver.cares",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.network.dns_resolver.cares.v3.CaresDnsResolverConfig",
            "resolvers": [{"socket_address": {"address": at.ip().to_string(), "port_value": at.port()}}],
            "dns_resolver_options": {"no_default_search_domain": true},
        },
    });
    set(bootstrap.value_mut(), "typed_dns_resolver_config", resolver)
}

async fn no_name_resolves(around: &Around) -> Result<()> {
    let names = NameServer::start_silent().await?;
    let options = Options::default();
    let envoy = around
        .begin(&options, as_it_is, |bootstrap| by_name(bootstrap, &names))
        .await?;
    let probes = envoy.listener("probes")?;
    let (alive, _) = get(probes, "/live").await?;
    ensure!(alive == 200, "/live answers {alive}");
    let (ready, why) = get(probes, "/ready").await?;
    ensure!(
        ready == 503 && why.contains("bindings_unavailable"),
        "/ready answers {ready} {why}"
    );
    let identity = around.site.device_ca.issue(&Spec::device("SN-A"))?;
    let edge = envoy.listener("edge")?;
    let device = around.site.client(edge, Some(&identity))?;
    is_code(
        &device.send(&reading("SN-A")).await?,
        DenyCode::BindingsUnavailable,
    )?;
    let nobody = around.site.client(edge, None)?;
    let unknown = nobody.send(&Ask::get("/healthz")).await?;
    ensure!(unknown.status == 503, "/healthz answers {}", unknown.status);
    until("the access log tells of it", LIMIT, || async {
        let log = envoy.access_log();
        let told = |line: &Value| line["method"] == "GET" && line["flags"] == "UH";
        log.iter().any(told).then_some(())
    })
    .await?;
    for cluster in ["registry", "device_service"] {
        let label = format!("envoy_cluster_name=\"{cluster}\"");
        let hosts = envoy
            .metric("envoy_cluster_membership_total", &[&label])
            .await?;
        ensure!(hosts < 0.5, "{cluster} has {hosts} addresses");
    }
    names.answer();
    until("the device is served", ASKED_AGAIN, || async {
        let answer = device.send(&reading("SN-A")).await.ok();
        answer.filter(Answer::is_success)
    })
    .await?;
    Ok(())
}
