//! How did it go?

use anyhow::Error;
use tokio::time::Instant;

/// What became of each scenario, printed as it comes.
#[derive(Debug)]
pub struct Report {
    only: Option<String>,
    passed: usize,
    failed: Vec<String>,
    skipped: usize,
    since: Instant,
}

impl Report {
    /// None yet; scenarios whose name does not hold `only` are left out.
    pub fn new(only: Option<String>) -> Self {
        Self {
            only,
            passed: 0,
            failed: Vec::new(),
            skipped: 0,
            since: Instant::now(),
        }
    }

    /// Whether a scenario is asked for.
    pub fn wants(&self, name: &str) -> bool {
        self.only.as_ref().is_none_or(|only| name.contains(only))
    }

    /// A scenario begins: the time is taken from here.
    pub fn begin(&mut self) {
        self.since = Instant::now();
    }

    /// A scenario has ended.
    pub fn end(&mut self, name: &str, outcome: Result<(), Error>) {
        let time = self.since.elapsed();
        match outcome {
            Ok(()) => {
                self.passed += 1;
                println!("pass  {name} ({time:.1?})");
            }
            Err(error) => {
                println!("FAIL  {name} ({time:.1?})\n      {error:#}");
                self.failed.push(name.to_owned());
            }
        }
    }

    /// A scenario cannot run here.
    pub fn skip(&mut self, name: &str, reason: &str) {
        self.skipped += 1;
        println!("skip  {name}: {reason}");
    }

    /// Says it all in one line; `true` where something passed and nothing failed.
    pub fn close(&self) -> bool {
        for name in &self.failed {
            println!("failed: {name}");
        }
        let (passed, failed) = (self.passed, self.failed.len());
        println!("{passed} passed, {failed} failed, {} skipped", self.skipped);
        self.failed.is_empty() && self.passed > 0
    }
}
