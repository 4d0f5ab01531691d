//! What was looked at on the way to a verdict, for whoever has to explain it.

use serde::Serialize;

/// One step on the way from a certificate to a decision: `medbind explain` prints it.
///
/// What was read names the device: a trace goes to the operator who asked for it, and to no log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TraceStep {
    /// Which check this is, in `snake_case` (`issuer`, `key_usage`): the same from run to run.
    pub step: &'static str,
    /// What the check read, in words.
    pub read: String,
    /// What came of it.
    pub outcome: Outcome,
}

/// What came of one step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The check passed.
    Passed,
    /// What it looks for is not there, and need not be.
    Absent,
    /// The check refused.
    Refused,
}

impl Outcome {
    /// The word that is printed.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Passed => "passed",
            Self::Absent => "absent",
            Self::Refused => "refused",
        }
    }
}

/// Where steps go. What a step read is only put into words where somebody listens, so that the
/// request's way and the explanation are one code.
pub(crate) trait Trace {
    /// Takes one step.
    fn step(&mut self, step: &'static str, outcome: Outcome, read: impl FnOnce() -> String);
}

/// Nobody listens.
pub(crate) struct Untraced;

impl Trace for Untraced {
    fn step(&mut self, _step: &'static str, _outcome: Outcome, _read: impl FnOnce() -> String) {}
}

/// Hands each step to a function.
pub(crate) struct Traced<'a>(pub(crate) &'a mut dyn FnMut(TraceStep));

impl Trace for Traced<'_> {
    fn step(&mut self, step: &'static str, outcome: Outcome, read: impl FnOnce() -> String) {
        (self.0)(TraceStep {
            step,
            read: read(),
            outcome,
        });
    }
}
