//! What happens while Envoy, the module or the registry stops and starts?

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use medbind_core::deny::DenyCode;
use serde_json::{Value, json};

use super::load::Load;
use super::real::{Stage, said};
use super::redeploy;
use super::report::Report;
use super::row::Place;
use super::shipped::{Around, as_it_is};
use super::story::{
    LIMIT, case, is_code, is_served, new_device, reading, wait_refused, wait_served,
};
use crate::bootstrap::{Bootstrap, remove};
use crate::certificate::Spec;
use crate::client::Client;
use crate::envoy::{HotRestart, Options, get};
use crate::tools::{Tools, present};
use crate::wait::until;

/// A leader that says nothing any more has been replaced by then.
const TAKEN_OVER: Duration = Duration::from_secs(30);
/// How often the registry and Envoy are killed.
const KILLS: u32 = 10;

/// The scenarios that need an Envoy of their own.
pub async fn alone(tools: &Tools, report: &mut Report, short: bool, full: bool) {
    case!(
        report,
        "a trap refuses the request, the next is served, and so it is after a second trap",
        traps(tools)
    );
    if short {
        return;
    }
    case!(
        report,
        "a hot restart lets no wrong request pass",
        hot_restart(tools)
    );
    case!(
        report,
        "http.yaml as it is shipped goes on without its synchroniser, where that traps",
        singleton_traps(tools)
    );
    case!(
        report,
        "without a singleton one guard synchronises for all, and another where it traps",
        elected(tools)
    );
    case!(
        report,
        "of elected guards the one of the newest configuration leads, forth and back",
        redeploy::forth_and_back(tools)
    );
    if full {
        case!(
            report,
            "nothing is served wrongly while the registry is killed again and again",
            registry_killed(tools)
        );
        case!(
            report,
            "nothing is served wrongly while Envoy is killed again and again",
            envoy_killed(tools)
        );
    }
}

fn with_trap(tools: &Tools) -> Result<Tools> {
    Ok(Tools {
        module: present(&tools.trap_module, "cargo xtask module --trap")?.to_owned(),
        ..tools.clone()
    })
}

/// Makes the module trap; the upstream sees nothing of it.
async fn provoke(stage: &Stage, client: &Client) -> Result<()> {
    let seen = stage.upstream.count();
    let ask = reading("SN-A").header("x-medbind-trap", "now");
    let trapped = client.send(&ask).await?;
    ensure!(trapped.status == 503, said(&trapped, "it was to be 503"));
    ensure!(
        trapped.code().is_none(),
        said(&trapped, "it was to have no code")
    );
    ensure!(
        stage.upstream.count() == seen,
        "the upstream saw the request that trapped"
    );
    Ok(())
}

async fn traps(tools: &Tools) -> Result<()> {
    let options = Options {
        workers: 1,
        ..Options::default()
    };
    let stage = Stage::set_with(&with_trap(tools)?, Place::Fleet, &options, |_| Ok(())).await?;
    let client = stage.device("edge", "SN-A")?;
    is_served(&client.send(&reading("SN-A")).await?)?;
    let mut waited = Vec::new();
    for _ in 0..2 {
        provoke(&stage, &client).await?;
        // Until there is a new VM, whoever asks gets Envoy's own 503, and is not let past.
        let seen = stage.upstream.count();
        // It is alive all the same: one that was started anew for this would cut every device.
        let (alive, _) = get(stage.envoy.listener("probes")?, "/live").await?;
        ensure!(alive == 200, "/live answers {alive}");
        let (between, time) = until("the device is served again", LIMIT, || async {
            let answer = client.send(&reading("SN-A")).await.ok()?;
            answer.is_success().then(|| stage.upstream.count())
        })
        .await?;
        ensure!(between == seen + 1, "the upstream saw what was not served");
        waited.push(time);
        wait_served(&client, "SN-A").await?;
    }
    println!("      first and second trap to next served: {waited:.1?}");
    let revoked = stage.device("edge", "SN-REVOKED")?;
    is_code(
        &revoked.send(&reading("SN-REVOKED")).await?,
        DenyCode::BindingRevoked,
    )
}

/// Gives each listener a port that stays: a second Envoy takes it over by its address.
fn keep_ports(bootstrap: &mut Bootstrap) -> Result<()> {
    let listeners = bootstrap
        .value_mut()
        .pointer_mut("/static_resources/listeners")
        .and_then(Value::as_array_mut);
    // Held until all are chosen, so that no two get the same.
    let mut held = Vec::new();
    for listener in listeners.into_iter().flatten() {
        let free = std::net::TcpListener::bind("127.0.0.1:0")?;
        let place = listener.pointer_mut("/address/socket_address/port_value");
        *place.context("a listener without port")? = json!(free.local_addr()?.port());
        held.push(free);
    }
    Ok(())
}

async fn hot_restart(tools: &Tools) -> Result<()> {
    let shared = HotRestart::new();
    let mut options = Options {
        hot_restart: Some((shared.base(), 0)),
        ..Options::default()
    };
    let mut stage = Stage::set_with(tools, Place::Fleet, &options, keep_ports).await?;
    let load = Load::start(&stage)?;
    load.goes_on(20).await?;
    options.hot_restart = Some((shared.base(), 1));
    let next = stage.start_again(tools, &options).await?;
    let mut old = std::mem::replace(&mut stage.envoy, next);
    stage.wait_until(200, "\"ready\":true").await?;
    until("the old Envoy ends", Duration::from_secs(20), || {
        let ended = old.process.ended();
        async move { ended }
    })
    .await?;
    wait_served(&stage.device("edge", "SN-A")?, "SN-A").await?;
    load.goes_on(20).await?;
    let seen = load.end().await?;
    println!(
        "      hot restart: {} served, {} refused or broken, at the longest {:.1?} without a permit; \
         {} requests of others refused",
        seen.served, seen.unserved, seen.longest, seen.refused
    );
    Ok(())
}

/// Envoy makes the singleton no new VM: without a worker that takes over, the registry would never
/// be asked again.
async fn singleton_traps(tools: &Tools) -> Result<()> {
    let mut around = Around::set(&with_trap(tools)?).await?;
    around.registry.hold_active("SN-LED").await?;
    let envoy = around.start(as_it_is, |_| Ok(())).await?;
    let log = envoy.process.stderr.clone();
    let leads = |term: u32| log.find(&format!("synchronising, as leader of term {term}"));
    let first = leads(1).context("nobody leads")?;
    let main = format!("[{}]", envoy.process.id());
    ensure!(first.contains(&main), "a worker leads beside a singleton");
    let identity = around.site.device_ca.issue(&Spec::device("SN-LED"))?;
    let client = around
        .site
        .client(envoy.listener("edge")?, Some(&identity))?;
    let ask = reading("SN-LED").header("x-medbind-trap-leader", "now");
    is_served(&client.send(&ask).await?)?;
    let (_, time) = until("a worker leads", TAKEN_OVER, || async { leads(2) }).await?;
    println!("      the singleton trapped, and a worker leads after {time:.1?}");
    for (verb, code) in [
        ("suspend", Some(DenyCode::BindingSuspended)),
        ("resume", None),
    ] {
        around.registry.act("acme:SN-LED", verb).await?;
        match code {
            Some(code) => wait_refused(&client, "SN-LED", code).await?,
            None => wait_served(&client, "SN-LED").await.map(|_| ())?,
        }
    }
    let term = envoy.metric("medbind_leader_term", &[]).await?;
    ensure!((1.5..2.5).contains(&term), "the metric says {term}");
    let panics = log.count("asked to panic, as the leader");
    ensure!(panics == 1, "{panics} leaders trapped");
    let (ready, said) = get(envoy.listener("probes")?, "/ready").await?;
    ensure!(ready == 200, "/ready answers {ready} {said}");
    Ok(())
}

async fn elected(tools: &Tools) -> Result<()> {
    let options = Options::default();
    // Each guard knows where the registry is.
    let mut stage = Stage::set_with(&with_trap(tools)?, Place::Fleet, &options, |bootstrap| {
        remove(bootstrap.value_mut(), "bootstrap_extensions");
        Ok(())
    })
    .await?;
    let log = stage.envoy.process.stderr.clone();
    let leaders = |term: u32| log.count(&format!("synchronising, as leader of term {term}"));
    ensure!(leaders(1) == 1, "{} lead at once", leaders(1));
    let trapper = stage.device("edge", "SN-A")?;
    wait_served(&trapper, "SN-A").await?;
    let client = new_device(&mut stage, "edge", "SN-ELECTED").await?;
    stage.registry()?.act("acme:SN-ELECTED", "suspend").await?;
    wait_refused(&client, "SN-ELECTED", DenyCode::BindingSuspended).await?;
    let all = || log.count("as leader of term");
    ensure!(all() == 1, "{} have led, and none has trapped", all());
    // Which worker takes a connection is Envoy's choice: so many meet each of the two, as good as
    // certainly, and with it the leader, unless that is on the main thread.
    for _ in 0..6 {
        provoke(&stage, &trapper).await?;
        wait_served(&trapper, "SN-A").await?;
    }
    // Wherever it is.
    let before = all();
    let ask = reading("SN-A").header("x-medbind-trap-leader", "now");
    is_served(&trapper.send(&ask).await?)?;
    let ((), time) = until("another leads", TAKEN_OVER, || async {
        (all() > before).then_some(())
    })
    .await?;
    let panics = log.count("asked to panic, as the leader");
    ensure!(panics == 1, "{panics} leaders trapped");
    println!("      the leader trapped, and another leads after {time:.1?}");
    stage.registry()?.act("acme:SN-ELECTED", "resume").await?;
    wait_served(&client, "SN-ELECTED").await?;
    let terms = (1..100).take_while(|term| leaders(*term) == 1).count();
    ensure!(all() == terms, "two lead under one term");
    ensure!(terms == before + 1, "{terms} leaders, and {before} before");
    // Envoy writes the thread into each line; the main thread's number is the process's.
    let thread = format!("[{}]", stage.envoy.process.id());
    let main = log
        .find("as leader of term 1")
        .is_some_and(|line| line.contains(&thread));
    println!("      {terms} leaders; the first on the main thread: {main}");
    Ok(())
}

async fn registry_killed(tools: &Tools) -> Result<()> {
    let mut stage = Stage::set(tools, Place::Fleet).await?;
    let client = new_device(&mut stage, "edge", "SN-KILL").await?;
    let load = Load::start(&stage)?;
    for number in 0..KILLS {
        let (verb, back) = if number % 2 == 0 {
            ("suspend", false)
        } else {
            ("resume", true)
        };
        // Acknowledged, and so in force whatever happens next.
        stage.registry()?.act("acme:SN-KILL", verb).await?;
        stage.registry()?.kill();
        load.goes_on(20).await?;
        stage.registry()?.restart().await?;
        if back {
            wait_served(&client, "SN-KILL").await?;
        } else {
            wait_refused(&client, "SN-KILL", DenyCode::BindingSuspended).await?;
        }
    }
    let seen = load.end().await?;
    println!("      the registry killed {KILLS} times: {seen:.1?}");
    ensure!(
        seen.unserved == 0,
        "a known device was not served: {seen:?}"
    );
    Ok(())
}

async fn envoy_killed(tools: &Tools) -> Result<()> {
    let options = Options::default();
    let mut stage = Stage::set_with(tools, Place::Fleet, &options, keep_ports).await?;
    let load = Load::start(&stage)?;
    for _ in 0..KILLS {
        load.goes_on(20).await?;
        stage.envoy.process.kill();
        stage.envoy = stage.start_again(tools, &options).await?;
        stage.wait_until(200, "\"ready\":true").await?;
        wait_served(&stage.device("edge", "SN-A")?, "SN-A").await?;
    }
    let seen = load.end().await?;
    println!("      Envoy killed {KILLS} times: {seen:.1?}");
    Ok(())
}
