//! How does a person see that something is going on?

use std::cell::Cell;
use std::io::IsTerminal as _;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

/// A moment to measure from.
#[derive(Clone, Copy)]
pub struct Stopwatch(Instant);

impl Stopwatch {
    /// Starts to measure.
    pub fn start() -> Self {
        #[expect(
            clippy::disallowed_methods,
            reason = "tells a person how long a step took"
        )]
        let now = Instant::now();
        Self(now)
    }

    /// Since the start.
    pub fn elapsed(self) -> Duration {
        self.0.elapsed()
    }
}

/// A length of time as a person reads it: `850 ms`, `12.3 s`, `4 min 05 s`.
pub fn human(time: Duration) -> String {
    if time < Duration::from_secs(1) {
        format!("{} ms", time.as_millis())
    } else if time < Duration::from_mins(1) {
        format!("{:.1} s", time.as_secs_f64())
    } else {
        format!("{} min {:02} s", time.as_secs() / 60, time.as_secs() % 60)
    }
}

/// Says on standard error what goes on.
pub fn say(text: &str) {
    anstream::eprintln!("\x1b[1m{text}\x1b[0m");
}

/// Says on standard error why it did not work out.
pub fn report(error: &anyhow::Error) {
    anstream::eprintln!("\x1b[1;31merror:\x1b[0m {error:#}");
}

/// Is there a person at standard error who sees a spinner turn?
pub fn is_terminal() -> bool {
    std::io::stderr().is_terminal()
}

/// What goes on in something that takes long: a line that changes on a terminal, plain lines
/// elsewhere. Dropping it ends it.
pub struct Progress {
    title: String,
    bar: ProgressBar,
    told: Cell<Stopwatch>,
}

impl Progress {
    /// Between two plain lines.
    const PAUSE: Duration = Duration::from_secs(15);

    /// Of something of unknown length.
    pub fn start(title: &str) -> Self {
        let bar = ProgressBar::new_spinner();
        Self::show(title, bar, "    {spinner} {msg} {elapsed}")
    }

    /// Of something with so many steps.
    pub fn steps(title: &str, steps: u64) -> Self {
        let bar = ProgressBar::new(steps);
        Self::show(title, bar, "    {msg} {wide_bar} {pos}/{len} {elapsed}")
    }

    fn show(title: &str, bar: ProgressBar, template: &str) -> Self {
        let told = Cell::new(Stopwatch::start());
        let title = title.to_owned();
        if !is_terminal() {
            anstream::eprintln!("    {title} ...");
            let bar = ProgressBar::hidden();
            return Self { title, bar, told };
        }
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        bar.set_message(title.clone());
        bar.enable_steady_tick(Duration::from_millis(120));
        Self { title, bar, told }
    }

    /// How far it is, in words.
    pub fn tell(&self, how_far: &str) {
        self.bar.set_message(format!("{}: {how_far}", self.title));
        if !is_terminal() && self.told.get().elapsed() >= Self::PAUSE {
            anstream::eprintln!("    {}: {how_far}", self.title);
            self.told.set(Stopwatch::start());
        }
    }

    /// One step is done.
    pub fn step(&self) {
        self.bar.inc(1);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
