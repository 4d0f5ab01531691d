//! How much processor time has a program used?

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};

/// The time that all threads of a process have spent on a processor, to the nanosecond. Waiting
/// for a processor that others use is not in it.
///
/// Read from `schedstat` of each thread (the kernel's `CONFIG_SCHED_INFO`), since `stat` counts in
/// hundredths of a second. A thread that has ended is no longer counted: Envoy ends none while it
/// serves.
pub fn time(process: u32) -> Result<Duration> {
    let mut nanoseconds = 0;
    for task in fs::read_dir(format!("/proc/{process}/task"))? {
        let file = task?.path().join("schedstat");
        let text =
            fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
        nanoseconds += text
            .split_whitespace()
            .next()
            .and_then(|on_a_processor| on_a_processor.parse::<u64>().ok())
            .with_context(|| format!("{} holds {text:?}", file.display()))?;
    }
    Ok(Duration::from_nanos(nanoseconds))
}
