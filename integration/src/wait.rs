//! How long does it take until something is so?

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tokio::time::{Instant, sleep, timeout};

/// How often a condition is looked at.
const INTERVAL: Duration = Duration::from_millis(5);

/// Waits until `look` returns a value, and says how long that took.
///
/// # Errors
/// `what` did not come about within `limit`.
pub async fn until<T, F>(
    what: &str,
    limit: Duration,
    mut look: impl FnMut() -> F,
) -> Result<(T, Duration)>
where
    F: Future<Output = Option<T>>,
{
    let start = Instant::now();
    let waiting = async {
        loop {
            if let Some(value) = look().await {
                return value;
            }
            sleep(INTERVAL).await;
        }
    };
    let value = timeout(limit, waiting)
        .await
        .with_context(|| format!("not within {limit:?}: {what}"))?;
    Ok((value, start.elapsed()))
}

/// Waits until `holds`, where what is looked at are other programs. `holds` is asked every 200 ms.
///
/// # Errors
/// `what` did not come about within `limit`, or `holds` failed.
pub fn blocking(
    what: &str,
    limit: Duration,
    mut holds: impl FnMut() -> Result<bool>,
) -> Result<()> {
    let start = Instant::now();
    while !holds().with_context(|| format!("while waiting for: {what}"))? {
        ensure!(start.elapsed() < limit, "not within {limit:?}: {what}");
        std::thread::sleep(Duration::from_millis(200));
    }
    Ok(())
}
