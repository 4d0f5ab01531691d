//! What goes on while nothing is printed? A bar on a terminal, a line elsewhere.

use std::io::IsTerminal as _;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

/// Something that takes long. Dropping it ends it.
pub struct Progress(ProgressBar);

impl Progress {
    /// Of so many steps.
    pub fn steps(title: &str, steps: u64) -> Self {
        Self::new(
            title,
            ProgressBar::new(steps),
            "  {msg} {wide_bar} {pos}/{len} {elapsed}",
        )
    }

    /// Of unknown length.
    pub fn open(title: &str) -> Self {
        Self::new(
            title,
            ProgressBar::new_spinner(),
            "  {spinner} {msg} {elapsed}",
        )
    }

    fn new(title: &str, bar: ProgressBar, template: &str) -> Self {
        if !std::io::stderr().is_terminal() {
            anstream::eprintln!("  {title} ...");
            return Self(ProgressBar::hidden());
        }
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        bar.set_message(title.to_owned());
        bar.enable_steady_tick(Duration::from_millis(120));
        Self(bar)
    }

    /// One step is done.
    pub fn step(&self) {
        self.0.inc(1);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
