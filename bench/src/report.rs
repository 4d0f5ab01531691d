//! How are the figures told, to a person and to a program?

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use medbind_integration::tools::Tools;
use serde::Serialize;

use crate::cpu::{Answer, Costs};
use crate::goal::{Figures, Goal, Unit};
use crate::memory::Memory;
use crate::spread::{Spread, number};
use crate::variant::Variant;

/// On what it was measured.
#[derive(Clone, Debug, Serialize)]
pub struct Machine {
    /// The processor's name.
    pub processor: String,
    /// How many of them can be used.
    pub processors: usize,
    /// Memory, as the kernel says it.
    pub memory: String,
    /// The kernel.
    pub kernel: String,
    /// The load average before the first measurement: what other programs were doing.
    pub load: String,
}

/// With what it was measured.
#[derive(Clone, Debug, Serialize)]
pub struct Versions {
    /// medbind's version.
    pub medbind: &'static str,
    /// The module's SHA-256.
    pub module_sha256: String,
    /// What Envoy says of itself.
    pub envoy: String,
}

/// The whole run.
#[derive(Debug, Serialize)]
pub struct Run {
    /// On what.
    pub machine: Machine,
    /// With what.
    pub versions: Versions,
    /// Whether fewer rounds were measured.
    pub quick: bool,
    /// The goals.
    pub goals: Vec<Goal>,
    /// The figures.
    pub figures: Figures,
}

impl Machine {
    /// This machine.
    pub fn this() -> Self {
        let field = |file: &str, name: &str| {
            let text = fs::read_to_string(file).unwrap_or_default();
            let mut fields = text.lines().filter_map(|line| line.split_once(':'));
            let found = fields.find(|(field, _)| field.trim() == name);
            found.map_or_else(String::new, |(_, value)| value.trim().to_owned())
        };
        let line = |file: &str| {
            let text = fs::read_to_string(file).unwrap_or_default();
            text.trim().to_owned()
        };
        Self {
            processor: field("/proc/cpuinfo", "model name"),
            processors: std::thread::available_parallelism().map_or(0, usize::from),
            memory: field("/proc/meminfo", "MemTotal"),
            kernel: line("/proc/sys/kernel/osrelease"),
            load: line("/proc/loadavg"),
        }
    }
}

impl Versions {
    /// Of these programs.
    pub fn of(tools: &Tools) -> Result<Self> {
        let output = std::process::Command::new(&tools.envoy)
            .arg("--version")
            .output()
            .context("cannot run Envoy")?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let envoy = text
            .split_once("version: ")
            .map_or(&*text, |(_, rest)| rest);
        let digest = tools.module.with_extension("wasm.sha256");
        let digest = fs::read_to_string(&digest)
            .with_context(|| format!("cannot read {}", digest.display()))?;
        Ok(Self {
            medbind: env!("CARGO_PKG_VERSION"),
            module_sha256: digest.split(' ').next().unwrap_or_default().to_owned(),
            envoy: envoy.trim().to_owned(),
        })
    }
}

impl Run {
    /// Writes it as JSON.
    pub fn write(&self, file: &Path) -> Result<()> {
        let text = serde_json::to_string_pretty(self)? + "\n";
        fs::write(file, text).with_context(|| format!("cannot write {}", file.display()))
    }

    /// Prints it.
    pub fn print(&self) {
        let Machine {
            processor,
            processors,
            memory,
            kernel,
            load,
        } = &self.machine;
        anstream::println!(
            "\n{processors} x {processor}, {memory}, Linux {kernel}, load {load}\nEnvoy {}",
            self.versions.envoy
        );
        if let Some(cpu) = &self.figures.cpu {
            for (answer, costs) in &cpu.costs {
                print_costs(cpu.requests, *answer, costs);
            }
        }
        if let Some(one) = &self.figures.first_sight {
            title("Processor time of a new connection with one request, µs");
            row("a certificate that the worker knows", &of(&one.known));
            row("one that it has never seen", &of(&one.new));
            row("  costs more", &of(&one.added));
        }
        if let Some(memory) = &self.figures.memory {
            print_memory(memory);
        }
        if let Some(one) = &self.figures.revocation {
            title(&format!(
                "From the operator's call to the first refusal, {} times, ms",
                one.times
            ));
            row(
                "p50, p99, longest",
                &format!("{:.0}, {:.0}, {:.0}", one.p50, one.p99, one.longest),
            );
        }
        if let Some(module) = &self.figures.module {
            title("The module");
            row("octets", &module.octets.to_string());
            row("imports", &module.imports.len().to_string());
        }
        title("Against the goals");
        for goal in &self.goals {
            print_goal(goal);
        }
        if !self.figures.failed.is_empty() {
            title("Could not be measured");
            for (part, why) in self.figures.failed.iter() {
                row(&part, why);
            }
        }
    }
}

fn title(text: &str) {
    anstream::println!("\n\x1b[1m{text}\x1b[0m");
}

fn row(what: &str, figures: &str) {
    anstream::println!("  {what:<56} {figures}");
}

fn of(spread: &Spread) -> String {
    format!(
        "{:>7.2}   {:.2} to {:.2}",
        spread.median, spread.lower_quartile, spread.upper_quartile
    )
}

fn print_costs(requests: u32, answer: Answer, costs: &Costs) {
    title(&format!(
        "Envoy's processor time for a request that is {}, µs",
        answer.title()
    ));
    anstream::println!(
        "  \x1b[2m{:<28} {:>8}  {:<16} {:>16}  {:<16} {:>18}\x1b[0m",
        format!("{} x {requests} requests", costs.rounds.len()),
        "µs",
        "half are within",
        "to empty filter",
        "half are within",
        "adds, to ext_authz"
    );
    for variant in Variant::ALL {
        let (Some(cost), Some(against), Some(added)) = (
            costs.microseconds.get(&variant),
            costs.against_empty.get(&variant),
            costs.added_against_ext_authz.get(&variant),
        ) else {
            continue;
        };
        anstream::println!(
            "  {:<28} {:>8.2}  {:<16} {:>16.3}  {:<16} {:>18.3}",
            variant.title(),
            cost.median,
            format!("{:.2} to {:.2}", cost.lower_quartile, cost.upper_quartile),
            against.median,
            format!(
                "{:.3} to {:.3}",
                against.lower_quartile, against.upper_quartile
            ),
            added.median,
        );
    }
}

fn print_memory(memory: &Memory) {
    title(&format!(
        "Bindings in one Envoy with {} workers",
        memory.workers
    ));
    anstream::println!(
        "  \x1b[2m{:<28} {:>12} {:>14} {:>16} {:>12} {:>14}\x1b[0m",
        "",
        "resident",
        "beyond none",
        "a binding",
        "served after",
        "longest hold"
    );
    let size = |octets: u64| Unit::Mebibytes.show(octets_number(octets));
    for held in std::iter::once(&memory.none).chain(&memory.held) {
        let beyond = memory.beyond(held.resident);
        let each = if held.bindings == 0 {
            String::new()
        } else {
            format!(
                "{:.0} octets",
                octets_number(beyond) / f64::from(held.bindings)
            )
        };
        anstream::println!(
            "  {:<28} {:>12} {:>14} {each:>16} {:>12} {:>14}",
            held.bindings,
            size(held.resident),
            size(beyond),
            Unit::Seconds.show(held.seconds),
            Unit::Milliseconds.show(held.longest_hold),
        );
    }
    for (what, resident) in [
        ("another history, peak", memory.change.peak),
        ("  afterwards", memory.change.after),
    ] {
        anstream::println!(
            "  {what:<28} {:>12} {:>14} {:>16} {:>12} {:>14}",
            size(resident),
            size(memory.beyond(resident)),
            "",
            Unit::Seconds.show(memory.change.seconds),
            Unit::Milliseconds.show(memory.change.longest_hold),
        );
    }
}

fn octets_number(octets: u64) -> f64 {
    usize::try_from(octets).map_or(f64::INFINITY, number)
}

fn print_goal(goal: &Goal) {
    let measured = goal
        .measured
        .map_or_else(|| "-".to_owned(), |measured| goal.unit.show(measured));
    let verdict = match goal.is_met() {
        Some(true) => "\x1b[32mpass\x1b[0m",
        Some(false) => "\x1b[31mmiss\x1b[0m",
        None if goal.failed => "\x1b[31mfailed\x1b[0m",
        None => "\x1b[2mnot measured\x1b[0m",
    };
    anstream::println!(
        "  {:<56} {measured:>12}   at most {:<12} {verdict}",
        goal.what,
        goal.unit.show(goal.at_most)
    );
}
