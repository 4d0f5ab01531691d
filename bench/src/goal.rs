//! Which figures are there goals for, and are they met?

use serde::Serialize;

use crate::cpu::{Answer, Cpu};
use crate::first_sight::FirstSight;
use crate::memory::Memory;
use crate::module::Module;
use crate::part::{Failed, Part};
use crate::revocation::Revocation;
use crate::spread::number;
use crate::variant::Variant;

/// The number of bindings that the goals speak of.
pub const MANY: u32 = 1_000_000;

/// Everything that was measured; what was not asked for, or could not be, is absent.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Figures {
    /// CPU per request.
    pub cpu: Option<Cpu>,
    /// First sight of a certificate.
    pub first_sight: Option<FirstSight>,
    /// Memory, and the time to load.
    pub memory: Option<Memory>,
    /// Revocation to first refusal.
    pub revocation: Option<Revocation>,
    /// The module.
    pub module: Option<Module>,
    /// What could not be measured, and why.
    pub failed: Failed,
}

/// In what is it measured?
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    /// One against another.
    Ratio,
    /// Octets, shown in MiB.
    Mebibytes,
    /// Octets, shown in KiB.
    Kibibytes,
    /// Seconds.
    Seconds,
    /// Milliseconds.
    Milliseconds,
    /// Microseconds.
    Microseconds,
    /// So many.
    Count,
}

impl Unit {
    /// As a person reads it.
    pub fn show(self, value: f64) -> String {
        match self {
            Self::Ratio => format!("{value:.3}"),
            Self::Mebibytes => format!("{:.1} MiB", value / 1_048_576.0),
            Self::Kibibytes => format!("{:.1} KiB", value / 1024.0),
            Self::Seconds => format!("{value:.2} s"),
            Self::Milliseconds => format!("{value:.0} ms"),
            Self::Microseconds => format!("{value:.1} µs"),
            Self::Count => format!("{value:.0}"),
        }
    }
}

/// A figure and the most that it may be.
#[derive(Clone, Debug, Serialize)]
pub struct Goal {
    /// What it is.
    pub what: &'static str,
    /// In what it is measured.
    pub unit: Unit,
    /// The most that it may be.
    pub at_most: f64,
    /// What it is; absent where it was not measured.
    pub measured: Option<f64>,
    /// Whether it was to be measured, and could not be.
    pub failed: bool,
}

impl Goal {
    /// Whether it is met; `None` where it was not measured.
    pub fn is_met(&self) -> Option<bool> {
        self.measured.map(|measured| measured <= self.at_most)
    }
}

impl Figures {
    /// The goals, with what was measured.
    pub fn goals(&self) -> Vec<Goal> {
        let cpu = self.cpu.as_ref();
        let cpu = cpu.and_then(|cpu| cpu.costs.get(&Answer::Upstream));
        let memory = self.memory.as_ref();
        let many = memory.and_then(|memory| {
            let many = memory.held.iter().find(|held| held.bindings == MANY)?;
            Some((memory, many))
        });
        let octets = |octets: u64| usize::try_from(octets).map_or(f64::INFINITY, number);
        let goal = |part, what, unit, at_most, measured| Goal {
            what,
            unit,
            at_most,
            measured,
            failed: self.failed.has(part),
        };
        vec![
            goal(
                Part::Cpu,
                "CPU per request, against an empty SDK filter",
                Unit::Ratio,
                1.20,
                cpu.and_then(|cpu| Some(cpu.against_empty.get(&Variant::Medbind)?.median)),
            ),
            goal(
                Part::Cpu,
                "what it adds to no filter, against what ext_authz adds",
                Unit::Ratio,
                1.0 / 6.0,
                cpu.and_then(|cpu| {
                    Some(cpu.added_against_ext_authz.get(&Variant::Medbind)?.median)
                }),
            ),
            goal(
                Part::Memory,
                "1,000,000 bindings, beyond the same Envoy with none",
                Unit::Mebibytes,
                128.0 * 1_048_576.0,
                many.map(|(memory, many)| octets(memory.beyond(many.resident))),
            ),
            goal(
                Part::Memory,
                "the same at the peak of a change of history",
                Unit::Mebibytes,
                200.0 * 1_048_576.0,
                many.map(|(memory, _)| octets(memory.beyond(memory.change.peak))),
            ),
            goal(
                Part::Memory,
                "load of 1,000,000, from the start of Envoy to served",
                Unit::Seconds,
                15.0,
                many.map(|(_, many)| many.seconds),
            ),
            goal(
                Part::Memory,
                "the main thread held at a time, while they are loaded",
                Unit::Milliseconds,
                50.0,
                many.map(|(_, many)| many.longest_hold),
            ),
            goal(
                Part::Revocation,
                "revocation to first refusal, p99",
                Unit::Milliseconds,
                1000.0,
                self.revocation.as_ref().map(|one| one.p99),
            ),
            goal(
                Part::Module,
                "the module",
                Unit::Kibibytes,
                700.0 * 1024.0,
                self.module.as_ref().map(|module| number(module.octets)),
            ),
            goal(
                Part::Module,
                "imports of the module that are not env.proxy_*",
                Unit::Count,
                0.0,
                self.module
                    .as_ref()
                    .map(|module| number(module.foreign_imports().count())),
            ),
            goal(
                Part::FirstSight,
                "first sight of a certificate, parse and verify",
                Unit::Microseconds,
                150.0,
                self.first_sight.as_ref().map(|one| one.added.median),
            ),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::{Figures, Goal, Module, Part, Unit};

    #[test]
    fn what_was_not_measured_is_neither_met_nor_missed() {
        let goals = Figures::default().goals();
        assert_eq!(goals.len(), 10);
        assert!(goals.iter().all(|goal| goal.is_met().is_none()));
    }

    #[test]
    fn a_part_that_fails_takes_its_own_figures_and_no_others() {
        let mut figures = Figures::default();
        let failed = figures
            .failed
            .unless::<()>(Part::Revocation, Err(anyhow::anyhow!("still served")));
        assert!(failed.is_none());
        let module = Module {
            octets: 1024,
            imports: Vec::new(),
        };
        figures.module = figures.failed.unless(Part::Module, Ok(module));
        let goals = figures.goals();
        let of = |what| goals.iter().find(|goal| goal.what == what).unwrap();
        let module = of("the module");
        assert_eq!((module.is_met(), module.failed), (Some(true), false));
        let revocation = of("revocation to first refusal, p99");
        assert_eq!((revocation.is_met(), revocation.failed), (None, true));
        let json = serde_json::to_value(&figures).unwrap();
        assert_eq!(json["failed"]["revocation"], "still served");
        assert_eq!(json["module"]["octets"], 1024);
    }

    #[test]
    fn a_goal_is_the_most_that_a_figure_may_be() {
        for (measured, met) in [(1.2, true), (1.3, false), (f64::NAN, false)] {
            let goal = Goal {
                what: "",
                unit: Unit::Ratio,
                at_most: 1.2,
                measured: Some(measured),
                failed: false,
            };
            assert_eq!(goal.is_met(), Some(met), "{measured}");
        }
    }
}
