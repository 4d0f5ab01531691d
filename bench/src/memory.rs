//! How much memory do bindings take in an Envoy, how long does it take until they are there, and
//! how long is the main thread held by it?

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use medbind_integration::bootstrap::{Bootstrap, set};
use medbind_integration::certificate::Spec;
use medbind_integration::client::{Answer, Ask};
use medbind_integration::envoy::Envoy;
use medbind_integration::scenario::registry::Registry;
use medbind_integration::wait::until;
use medbind_workshop::progress::Progress;
use serde::Serialize;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::fleet::{begin_history, fill, serial};
use crate::setting::{Setting, ready};
use crate::variant::ANSWERED;

/// Workers of the Envoy that is measured.
const WORKERS: u32 = 4;
/// When a load that hangs is given up.
const LIMIT: Duration = Duration::from_mins(3);
/// When a worker that does not see the other history is given up.
const TAKEN_UP: Duration = Duration::from_secs(1);
/// What the synchroniser says when a history has been read whole, and is in use.
const READ: &str = "the registry has been read";
/// The statistic that says how long Envoy's threads are held at a time.
const HELD: &str = "server.dispatcher.loop_duration_us";

/// An Envoy that holds so many bindings.
#[derive(Clone, Debug, Serialize)]
pub struct Held {
    /// How many.
    pub bindings: u32,
    /// From the start of Envoy to the first request served.
    pub seconds: f64,
    /// Resident memory of the process, in octets.
    pub resident: u64,
    /// Memory that is allocated in it, by its own count, in octets.
    pub allocated: u64,
    /// The longest time for which the main thread was held while they came, in milliseconds.
    pub longest_hold: f64,
}

/// A change of history.
#[derive(Clone, Debug, Serialize)]
pub struct Change {
    /// Until the new history answers.
    pub seconds: f64,
    /// The most resident memory while both were there, in octets.
    pub peak: u64,
    /// Resident memory after it, in octets.
    pub after: u64,
    /// The longest time for which the main thread was held, in milliseconds.
    pub longest_hold: f64,
}

/// What was measured.
#[derive(Clone, Debug, Serialize)]
pub struct Memory {
    /// Workers of the Envoy.
    pub workers: u32,
    /// The Envoy with none.
    pub none: Held,
    /// The Envoys with more and more.
    pub held: Vec<Held>,
    /// With the most of them: the change to another history.
    pub change: Change,
}

impl Memory {
    /// Octets beyond the Envoy with none.
    pub fn beyond(&self, resident: u64) -> u64 {
        resident.saturating_sub(self.none.resident)
    }
}

/// Measures an Envoy with each of these numbers of bindings, in ascending order, and the change of
/// history of the last.
pub async fn measure(setting: &Setting, sizes: &[u32]) -> Result<Memory> {
    let mut registry = Registry::start(&setting.tools).await?;
    let (none, _) = hold(setting, &registry, 0).await?;
    let mut held = Vec::new();
    let mut there = 0;
    let mut change = None;
    for size in sizes {
        fill(&setting.tools, &mut registry, there, *size).await?;
        there = *size;
        let (one, envoy) = hold(setting, &registry, there).await?;
        held.push(one);
        if sizes.last() == Some(size) {
            change = Some(change_of_history(setting, &mut registry, envoy).await?);
        }
    }
    Ok(Memory {
        workers: WORKERS,
        none,
        held,
        change: change.context("no number of bindings was asked for")?,
    })
}

fn bootstrap(setting: &Setting, registry: &Registry) -> Result<Bootstrap> {
    let mut bootstrap = setting.answering_bootstrap(registry)?;
    set(
        bootstrap.value_mut(),
        "enable_dispatcher_stats",
        json!(true),
    )?;
    set(bootstrap.value_mut(), "stats_flush_interval", json!("1s"))?;
    Ok(bootstrap)
}

async fn hold(setting: &Setting, registry: &Registry, bindings: u32) -> Result<(Held, Envoy)> {
    let _progress = Progress::start(&format!("an Envoy with {bindings} bindings"));
    let bootstrap = bootstrap(setting, registry)?;
    let start = Instant::now();
    let mut envoy = setting
        .envoy(&format!("memory-{bindings}"), &bootstrap, WORKERS, "info")
        .await?;
    ready(&mut envoy, LIMIT).await?;
    if let Some(last) = bindings.checked_sub(1) {
        let answer = ask(setting, &envoy, last).await?;
        ensure!(answer.status == 200, "not served: {}", answer.text());
    }
    let seconds = start.elapsed().as_secs_f64();
    let resident = settled(&envoy).await?;
    let held = Held {
        bindings,
        seconds,
        resident,
        allocated: allocated(&envoy).await?,
        longest_hold: longest_hold(&envoy, Interval::SinceStart).await?,
    };
    Ok((held, envoy))
}

async fn ask(setting: &Setting, envoy: &Envoy, number: u32) -> Result<Answer> {
    let serial = serial(number);
    let identity = setting.site.device_ca.issue(&Spec::device(&serial))?;
    let client = setting
        .site
        .client(envoy.listener("edge")?, Some(&identity))?;
    let ask = Ask {
        authority: Some(ANSWERED.to_owned()),
        ..Ask::get(format!("/v1/devices/acme:{serial}/readings"))
    };
    client.send(&ask).await
}

async fn change_of_history(
    setting: &Setting,
    registry: &mut Registry,
    envoy: Envoy,
) -> Result<Change> {
    let _progress = Progress::start("another history beside it");
    let process = envoy.process.id();
    // The kernel's high-water mark of resident memory starts anew (proc(5)).
    std::fs::write(format!("/proc/{process}/clear_refs"), "5")?;
    let suspended = serial(0);
    begin_history(registry, &format!("acme:{suspended}")).await?;
    let start = Instant::now();
    let mut longest_hold_so_far = 0.0_f64;
    let deadline = start + LIMIT;
    while envoy.process.stderr.count(READ) < 2 {
        ensure!(Instant::now() < deadline, "the other history was not read");
        sleep(Duration::from_millis(500)).await;
        let hold = longest_hold(&envoy, Interval::Last).await?;
        longest_hold_so_far = longest_hold_so_far.max(hold);
    }
    let seconds = start.elapsed().as_secs_f64();
    // A worker looks at each tick.
    until("the other history answers", TAKEN_UP, || async {
        let answer = ask(setting, &envoy, 0).await.ok()?;
        (answer.code().as_deref() == Some("binding_suspended")).then_some(())
    })
    .await?;
    let after = settled(&envoy).await?;
    Ok(Change {
        seconds,
        peak: status_octets(process, "VmHWM:")?,
        after,
        longest_hold: longest_hold_so_far,
    })
}

/// Resident memory once it has stayed the same for a while.
async fn settled(envoy: &Envoy) -> Result<u64> {
    const PAUSE: Duration = Duration::from_millis(500);
    const IN_A_ROW: usize = 6;
    const SAME: u64 = 256 << 10;
    let deadline = Instant::now() + LIMIT;
    let mut before = envoy.resident_octets()?;
    let mut same = 0;
    while same < IN_A_ROW {
        ensure!(Instant::now() < deadline, "Envoy's memory does not settle");
        sleep(PAUSE).await;
        let now = envoy.resident_octets()?;
        same = if now.abs_diff(before) <= SAME {
            same + 1
        } else {
            0
        };
        before = now;
    }
    Ok(before)
}

/// What Envoy's allocator says is in use.
async fn allocated(envoy: &Envoy) -> Result<u64> {
    let memory = serde_json::from_str::<Value>(&envoy.admin_get("/memory").await?)?;
    let allocated = memory.get("allocated").and_then(Value::as_str);
    allocated
        .and_then(|octets| octets.parse().ok())
        .context("the admin page says nothing of memory")
}

fn status_octets(process: u32, field: &str) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix(field));
    let kibibytes = line.and_then(|line| line.split_whitespace().next());
    let kibibytes = kibibytes.and_then(|number| number.parse::<u64>().ok());
    Ok(kibibytes.with_context(|| format!("no {field}"))? * 1024)
}

/// Of which time?
#[derive(Clone, Copy, PartialEq, Eq)]
enum Interval {
    /// All of it.
    SinceStart,
    /// The last second.
    Last,
}

/// The longest round of the main thread's event loop, in milliseconds: the time in which nothing
/// else got its turn. It is time on the clock, and longer where other programs take the processor.
async fn longest_hold(envoy: &Envoy, interval: Interval) -> Result<f64> {
    let page = format!("/stats?format=json&filter=^{}$", HELD.replace('.', "%5C."));
    let stats = serde_json::from_str::<Value>(&envoy.admin_get(&page).await?)?;
    let values = stats
        .pointer("/stats/0/histograms/computed_quantiles/0/values")
        .and_then(Value::as_array)
        .with_context(|| format!("Envoy has no {HELD}: {stats}"))?;
    let field = match interval {
        Interval::SinceStart => "cumulative",
        Interval::Last => "interval",
    };
    // The last quantile is the greatest value; there is none where nothing was counted.
    let longest = values.last().and_then(|value| value.get(field));
    Ok(longest.and_then(Value::as_f64).unwrap_or_default() / 1000.0)
}
