//! What do the connections of an Envoy with `http.yaml` to the registry and to the service bear: one
//! that goes silent, many devices at once?

use std::collections::BTreeSet;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use futures_util::future::{join_all, try_join_all};
use medbind_core::binding::BindingState;
use medbind_core::deny::DenyCode;
use serde_json::json;

use super::fleet::Device;
use super::report::Report;
use super::shipped::{Around, as_it_is, replace};
use super::story::{
    LIMIT, case, ends, is_code, is_served, open_socket, reading, wait_refused, wait_served,
};
use crate::bootstrap::{Bootstrap, set};
use crate::certificate::Spec;
use crate::client::{Ask, Client};
use crate::envoy::Envoy;
use crate::feed::{Behaviour, FeedServer};
use crate::proxy::Proxy;
use crate::server;
use crate::upstream::Upstream;
use crate::wait::until;

const SILENT: &str = "http.yaml gives up a connection to the service that has gone silent";
const SILENT_REGISTRY: &str =
    "http.yaml gives up a connection to the registry that has gone silent";
const SILENT_SOCKET: &str =
    "http.yaml ends a WebSocket whose service has gone silent, and opens the next";
const ALIVE: &str = "http.yaml has the kernel ask each connection for a sign of life";
const AT_ONCE: &str = "http.yaml asks the registry about many devices at once";

/// What is shown here.
pub(super) const NAMES: [&str; 5] = [SILENT, SILENT_REGISTRY, SILENT_SOCKET, ALIVE, AT_ONCE];

/// More than Envoy has under way with a cluster where nothing is set (1024), and fewer than may wait
/// in two workers.
const DEVICES: usize = 1500;

/// All of them.
pub(super) async fn cases(around: &mut Around, report: &mut Report) {
    case!(report, SILENT, gone_silent(around));
    case!(report, SILENT_REGISTRY, registry_gone_silent(around));
    case!(report, SILENT_SOCKET, socket_gone_silent(around));
    case!(report, ALIVE, signs_of_life(around));
    case!(report, AT_ONCE, at_once(around));
}

/// As it is shipped, but that an answer may take a second, a sign of life too, and nothing may come
/// and go for two.
fn hurried(text: &str) -> Result<String> {
    let text = replace(text, "timeout: 30s}", "timeout: 1s}")?;
    let text = replace(
        &text,
        "stream_idle_timeout: 300s",
        "stream_idle_timeout: 2s",
    )?;
    replace(
        &text,
        "{interval: 30s, timeout: 5s}",
        "{interval: 1s, timeout: 1s}",
    )
}

fn device(around: &Around, envoy: &Envoy, serial: &str) -> Result<Client> {
    let identity = around.site.device_ca.issue(&Spec::device(serial))?;
    around.site.client(envoy.listener("edge")?, Some(&identity))
}

async fn gone_silent(around: &Around) -> Result<()> {
    let mut tls = server::tls(
        &around.site.upstream_identity()?,
        around.site.infra_ca.der(),
    )?;
    for version in ["h2", "http/1.1"] {
        tls.alpn_protocols = vec![version.as_bytes().to_vec()];
        let upstream = Upstream::serve(([127, 0, 0, 1], 0).into(), tls.clone()).await?;
        let proxy = Proxy::start(upstream.address()).await?;
        let envoy = around.start(hurried, |bootstrap| {
            bootstrap.send_to("device_service", proxy.address())
        });
        let envoy = envoy.await?;
        let client = device(around, &envoy, "SN-A")?;
        // By every worker, each of which has a connection then.
        wait_served(&client, "SN-A").await?;
        proxy.fall_silent();
        let first = client.send(&reading("SN-A")).await?;
        ensure!(!first.is_success(), "the proxy still relays");
        let time = wait_served(&client, "SN-A").await.context(version)?;
        println!("      {version}: silence to served: {time:.1?}");
    }
    Ok(())
}

async fn registry_gone_silent(around: &mut Around) -> Result<()> {
    const SERIAL: &str = "SN-SILENT-REGISTRY";
    around.registry.hold_active(SERIAL).await?;
    let proxy = Proxy::start(around.registry.address()).await?;
    let envoy = around.start(hurried, |bootstrap| {
        bootstrap.send_to("registry", proxy.address())
    });
    let envoy = envoy.await?;
    let client = device(around, &envoy, SERIAL)?;
    wait_served(&client, SERIAL).await?;
    proxy.fall_silent();
    around
        .registry
        .act(&format!("acme:{SERIAL}"), "suspend")
        .await?;
    wait_refused(&client, SERIAL, DenyCode::BindingSuspended).await
}

async fn socket_gone_silent(around: &Around) -> Result<()> {
    let proxy = Proxy::start(around.upstream.address()).await?;
    let envoy = around.start(hurried, |bootstrap| {
        bootstrap.send_to("device_service_http1", proxy.address())
    });
    let envoy = envoy.await?;
    let client = device(around, &envoy, "SN-A")?;
    let mut socket = open_socket(&client, "SN-A").await?;
    proxy.fall_silent();
    let mut next = open_socket(&client, "SN-A").await?;
    ends(&mut socket).await?;
    ends(&mut next).await
}

/// A firewall that has forgotten a connection cannot be had here without root, and a proxy's kernel
/// answers for it: so it is looked up whether the kernel has been told to ask.
async fn signs_of_life(around: &Around) -> Result<()> {
    let mut proxies = Vec::new();
    for (cluster, to) in [
        ("registry", around.registry.address()),
        ("device_service", around.upstream.address()),
        ("device_service_http1", around.upstream.address()),
        ("device_service_health", around.upstream.address()),
    ] {
        proxies.push((cluster, Proxy::start(to).await?));
    }
    let envoy = around.start(as_it_is, |bootstrap| {
        for (cluster, proxy) in &proxies {
            bootstrap.send_to(cluster, proxy.address())?;
        }
        Ok(())
    });
    let envoy = envoy.await?;
    let client = device(around, &envoy, "SN-A")?;
    is_served(&client.send(&reading("SN-A")).await?)?;
    is_served(&client.send(&Ask::get("/healthz")).await?)?;
    let _socket = open_socket(&client, "SN-A").await?;
    for (cluster, proxy) in &proxies {
        let to = proxy.address();
        until(cluster, LIMIT, || async {
            let timers = timers(envoy.process.id(), to).ok()?;
            let asked = |seconds: &Option<u64>| seconds.is_some_and(|seconds| seconds <= 30);
            (!timers.is_empty() && timers.iter().all(asked)).then_some(())
        })
        .await
        .with_context(|| format!("{:?}", timers(envoy.process.id(), to)))?;
    }
    Ok(())
}

/// For each connection that a process has to an address: in how many seconds the kernel asks for a
/// sign of life, if it does (Linux, `proc_net_tcp`).
fn timers(process: u32, to: SocketAddr) -> Result<Vec<Option<u64>>> {
    const ESTABLISHED: &str = "01";
    const KEEPALIVE: &str = "02";
    let process = Path::new("/proc").join(process.to_string());
    let mut own = BTreeSet::new();
    for entry in fs::read_dir(process.join("fd"))? {
        // One may be closed by now.
        if let Ok(target) = fs::read_link(entry?.path()) {
            own.insert(target.to_string_lossy().into_owned());
        }
    }
    let port = format!(":{:04X}", to.port());
    let mut found = Vec::new();
    for line in fs::read_to_string(process.join("net/tcp"))?.lines() {
        let fields = line.split_whitespace().collect::<Vec<_>>();
        let [_, _, remote, state, _, timer, _, _, _, inode, ..] = fields[..] else {
            continue;
        };
        let inode = format!("socket:[{inode}]");
        if remote.ends_with(&port) && state == ESTABLISHED && own.contains(&inode) {
            let (kind, when) = timer.split_once(':').context("no timer")?;
            let hundredths = u64::from_str_radix(when, 16)?;
            found.push((kind == KEEPALIVE).then_some(hundredths.div_ceil(100)));
        }
    }
    Ok(found)
}

/// Has the scripted registry of this site asked.
fn ask_script(around: &Around, bootstrap: &mut Bootstrap, script: &FeedServer) -> Result<()> {
    bootstrap.send_to("registry", script.address())?;
    let context = bootstrap
        .cluster("registry")?
        .pointer_mut("/transport_socket/typed_config/common_tls_context")
        .context("the registry's cluster has no TLS")?;
    let file = |name: &str| {
        let path = around.site.folder().join("edge").join(name);
        json!({"filename": path.to_string_lossy()})
    };
    let pair = json!([{"certificate_chain": file("cert.pem"), "private_key": file("key.pem")}]);
    set(context, "tls_certificates", pair)?;
    let trusted = context.pointer_mut("/validation_context/trusted_ca");
    *trusted.context("nobody is trusted")? = file("ca.pem");
    Ok(())
}

fn of_the_crowd(serial: &str, state: BindingState) -> Device {
    Device {
        id: format!("acme:{serial}"),
        state,
        expired: false,
        pinned: false,
    }
}

async fn at_once(around: &Around) -> Result<()> {
    let site = &around.site;
    let script = FeedServer::start(&site.registry_identity()?, &site.infra_ca).await?;
    let serials = (0..DEVICES).map(|number| format!("SN-CROWD-{number}"));
    let serials = serials.collect::<Vec<_>>();
    let unclaimed = |serial: &String| of_the_crowd(serial, BindingState::Unclaimed).record(0);
    script.say_all(serials.iter().map(unclaimed).collect());
    let envoy = around.start(as_it_is, |bootstrap| {
        ask_script(around, bootstrap, &script)?;
        // Long, so that who is refused is not refused for a slow machine.
        let bindings = json!({"preload": false, "capacity": 2000, "lookup_timeout": "10s"});
        for listener in ["edge", "probes"] {
            set(bootstrap.guard(listener)?, "bindings", bindings.clone())?;
        }
        set(bootstrap.synchroniser()?, "bindings", bindings)
    });
    let envoy = envoy.await?;
    let clients = serials.iter().map(|serial| device(around, &envoy, serial));
    let clients = clients.collect::<Result<Vec<_>>>()?;
    let mut connections = Vec::new();
    for some in clients.chunks(50) {
        connections.extend(try_join_all(some.iter().map(Client::connect)).await?);
    }
    // So that all are under way at once, however slow this machine is.
    script.behave(Behaviour {
        lookup_delay: Some(Duration::from_secs(5)),
        ..Behaviour::default()
    });
    let asks = connections.iter_mut().zip(&serials);
    let answers =
        asks.map(|(connection, serial)| async move { connection.send(&reading(serial)).await });
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
    script.behave(Behaviour::default());
    let after = "SN-AFTER-CROWD";
    script.say(of_the_crowd(after, BindingState::Active).record(0));
    is_served(&device(around, &envoy, after)?.send(&reading(after)).await?)
}
