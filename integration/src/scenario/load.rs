//! Is anything served wrongly while parts come and go? Callers who never stop asking, good ones and
//! bad ones, and what became of them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::fleet::ACCOUNT;
use super::real::Stage;
use super::story::reading;
use crate::client::{Answer, Client};
use crate::wait::until;

/// How long a caller waits where it was not served: without it, those whom nobody answers would
/// keep the machine from starting what is to answer them.
const BREATH: Duration = Duration::from_millis(5);

/// What the callers saw.
#[derive(Clone, Copy, Debug, Default)]
pub struct Seen {
    /// Requests of the good device that were served.
    pub served: u32,
    /// Requests of the good device that were refused, or never answered.
    pub unserved: u32,
    /// The longest time in which the good device was not served.
    pub longest: Duration,
    /// Requests of those that may not, each of which was refused or never answered.
    pub refused: u32,
}

/// Callers who ask until they are told to stop.
pub struct Load {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicU32>,
    good: JoinHandle<Result<Seen>>,
    bad: JoinHandle<Result<u32>>,
}

impl Load {
    /// Starts to call the shipped listener: as a good device with a forged tag, as a revoked one,
    /// as one that nobody has claimed, as a good one that names another, and as nobody.
    pub fn start(stage: &Stage) -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let answered = Arc::new(AtomicU32::new(0));
        let good = stage.device("edge", "SN-A")?;
        let bad = vec![
            (stage.device("edge", "SN-REVOKED")?, "SN-REVOKED"),
            (stage.device("edge", "SN-UNCLAIMED")?, "SN-UNCLAIMED"),
            (stage.device("edge", "SN-A")?, "SN-B"),
            (stage.client("edge", None)?, "SN-A"),
        ];
        Ok(Self {
            good: tokio::spawn(ask_well(good, stop.clone(), answered.clone())),
            bad: tokio::spawn(ask_badly(bad, stop.clone())),
            stop,
            answered,
        })
    }

    /// Waits until the good device has had so many more answers, of whatever kind.
    pub async fn goes_on(&self, answers: u32) -> Result<()> {
        let from = self.answered.load(Ordering::Relaxed);
        until("the callers go on", Duration::from_mins(1), || async {
            (self.answered.load(Ordering::Relaxed) >= from + answers).then_some(())
        })
        .await?;
        Ok(())
    }

    /// Stops, and says what they saw.
    ///
    /// # Errors
    /// Somebody was served who may not be, or as somebody else.
    pub async fn end(self) -> Result<Seen> {
        self.stop.store(true, Ordering::Relaxed);
        let seen = self.good.await??;
        let refused = self.bad.await??;
        ensure!(seen.served > 0 && refused > 0, "nobody was asked: {seen:?}");
        Ok(Seen { refused, ..seen })
    }
}

async fn ask_well(client: Client, stop: Arc<AtomicBool>, all: Arc<AtomicU32>) -> Result<Seen> {
    let ask = reading("SN-A").header("x-medbind-account", "acc-9");
    let mut seen = Seen::default();
    let mut last = Instant::now();
    while !stop.load(Ordering::Relaxed) {
        let answer = client.send(&ask).await.ok().filter(Answer::is_success);
        all.fetch_add(1, Ordering::Relaxed);
        let Some(answer) = answer else {
            seen.unserved += 1;
            tokio::time::sleep(BREATH).await;
            continue;
        };
        let saw = answer
            .saw()
            .context("the upstream does not say what it saw")?;
        let tags = ["x-medbind-device", "x-medbind-account"].map(|name| saw.one(name));
        ensure!(
            tags == [Some("acme:SN-A"), Some(ACCOUNT)],
            "it was served as {tags:?}"
        );
        seen.served += 1;
        seen.longest = seen.longest.max(last.elapsed());
        last = Instant::now();
    }
    seen.longest = seen.longest.max(last.elapsed());
    Ok(seen)
}

async fn ask_badly(callers: Vec<(Client, &'static str)>, stop: Arc<AtomicBool>) -> Result<u32> {
    let mut refused = 0;
    while !stop.load(Ordering::Relaxed) {
        for (client, names) in &callers {
            match client.send(&reading(names)).await {
                Ok(answer) => ensure!(
                    !answer.is_success(),
                    "a caller who may not was served as {names}: {}",
                    answer.text()
                ),
                Err(_) => tokio::time::sleep(BREATH).await,
            }
            refused += 1;
        }
    }
    Ok(refused)
}
