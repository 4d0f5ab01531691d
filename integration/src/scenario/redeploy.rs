//! Who synchronises where no singleton does, and another configuration arrives while Envoy runs?

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use medbind_core::deny::DenyCode;
use serde_json::{Value, json};

use super::registry::Registry;
use super::shipped::{Around, as_it_is};
use super::story::{echoes, ends, open_socket, wait_refused, wait_served};
use crate::bootstrap::{Bootstrap, remove, set};
use crate::certificate::Spec;
use crate::envoy::{Envoy, Options};
use crate::tools::Tools;
use crate::wait::until;

/// The file that Envoy reads its listeners from.
const LISTENERS: &str = "listeners.json";
const SERIAL: &str = "SN-MOVED";
const DEVICE: &str = "acme:SN-MOVED";
/// For how many seconds a former configuration drains: for longer than all of it takes.
const DRAIN: u32 = 120;
/// A guard of the newest configuration leads much sooner than a lease runs out, or than the one
/// before has drained.
const AT_ONCE: Duration = Duration::from_secs(4);

/// The listeners as Envoy reads them from a file, for the registry of this cluster. `waiting` is no
/// matter of the synchroniser's.
fn listeners(bootstrap: &Bootstrap, cluster: &str, waiting: u32) -> Result<String> {
    let mut bootstrap = bootstrap.clone();
    for listener in ["edge", "probes"] {
        let guard = bootstrap.guard(listener)?;
        let registry = guard.get_mut("registry").context("no registry")?;
        set(registry, "cluster", json!(cluster))?;
        let bindings = guard.get_mut("bindings").context("no bindings")?;
        set(bindings, "max_waiting", json!(waiting))?;
    }
    let list = bootstrap.value().pointer("/static_resources/listeners");
    let mut list = list.cloned().context("no listeners")?;
    for listener in list.as_array_mut().into_iter().flatten() {
        let kind = "type.googleapis.com/envoy.config.listener.v3.Listener";
        set(listener, "@type", json!(kind))?;
    }
    Ok(json!({"resources": list}).to_string())
}

/// One cluster more, like the registry's.
fn add_registry(bootstrap: &mut Bootstrap, name: &str, registry: &Registry) -> Result<()> {
    let mut cluster = bootstrap.cluster("registry")?.clone();
    set(&mut cluster, "name", json!(name))?;
    let assignment = cluster.get_mut("load_assignment").context("no address")?;
    set(assignment, "cluster_name", json!(name))?;
    let clusters = bootstrap
        .value_mut()
        .pointer_mut("/static_resources/clusters")
        .and_then(Value::as_array_mut);
    clusters.context("no clusters")?.push(cluster);
    bootstrap.send_to(name, registry.address())?;
    registry.trust_at(name, bootstrap)
}

async fn leads(envoy: &Envoy, term: u32) -> Result<()> {
    let log = envoy.process.stderr.clone();
    let line = format!("synchronising, as leader of term {term}");
    let (_, time) = until(&line, AT_ONCE, || async { log.find(&line) }).await?;
    println!("      leader of term {term} after {time:.1?}");
    Ok(())
}

/// First one registry, then another, then the first again.
pub(super) async fn forth_and_back(tools: &Tools) -> Result<()> {
    let mut around = Around::set(tools).await?;
    around.registry.hold_active(SERIAL).await?;
    let mut next = Registry::start(tools).await?;
    next.hold_active(SERIAL).await?;
    let mut whole = None;
    let options = Options {
        drain: DRAIN,
        ..Options::default()
    };
    let envoy = around.start_with(&options, as_it_is, |bootstrap| {
        remove(bootstrap.value_mut(), "bootstrap_extensions");
        add_registry(bootstrap, "registry_next", &next)?;
        let site = &around.site;
        site.write(LISTENERS, &listeners(bootstrap, "registry", 1000)?)?;
        whole = Some(bootstrap.clone());
        let resources = bootstrap.value_mut().get_mut("static_resources");
        remove(resources.context("no static_resources")?, "listeners");
        let source = json!({"lds_config": {"resource_api_version": "V3", "path_config_source": {
            "path": site.folder().join(LISTENERS), "watched_directory": {"path": site.folder()},
        }}});
        set(bootstrap.value_mut(), "dynamic_resources", source)
    });
    let envoy = envoy.await?;
    let whole = whole.context("Envoy has no bootstrap")?;
    leads(&envoy, 1).await?;
    let identity = around.site.device_ca.issue(&Spec::device(SERIAL))?;
    let client = around
        .site
        .client(envoy.listener("edge")?, Some(&identity))?;
    wait_served(&client, SERIAL).await?;
    let mut socket = open_socket(&client, SERIAL).await?;

    let forth = listeners(&whole, "registry_next", 1000)?;
    around.site.replace(LISTENERS, &forth)?;
    leads(&envoy, 2).await?;
    // The former registry is not asked any more, and what it let in goes on.
    around.registry.act(DEVICE, "suspend").await?;
    next.hold_active("SN-NEXT").await?;
    let newcomer = around.site.device_ca.issue(&Spec::device("SN-NEXT"))?;
    let newcomer = around
        .site
        .client(envoy.listener("edge")?, Some(&newcomer))?;
    wait_served(&newcomer, "SN-NEXT").await?;
    wait_served(&client, SERIAL).await?;
    echoes(&mut socket).await?;
    next.act(DEVICE, "suspend").await?;
    wait_refused(&client, SERIAL, DenyCode::BindingSuspended).await?;
    ends(&mut socket).await?;

    // As docs/operating.md says: with something else changed, since the first still drains.
    around.registry.act(DEVICE, "resume").await?;
    let back = listeners(&whole, "registry", 1001)?;
    around.site.replace(LISTENERS, &back)?;
    leads(&envoy, 3).await?;
    wait_served(&client, SERIAL).await?;
    wait_refused(&newcomer, "SN-NEXT", DenyCode::UnknownDevice).await?;
    around.registry.act(DEVICE, "suspend").await?;
    wait_refused(&client, SERIAL, DenyCode::BindingSuspended).await?;
    let log = &envoy.process.stderr;
    let all = log.count("as leader of term");
    ensure!(all == 3, "{all} have led");
    Ok(())
}
