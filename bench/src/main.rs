//! The published comparison: `cargo xtask bench`.

mod cpu;
mod first_sight;
mod fleet;
mod goal;
mod load;
mod memory;
mod module;
mod processor;
mod progress;
mod report;
mod revocation;
mod setting;
mod spread;
mod variant;
mod yes;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, ValueEnum};

use crate::goal::{Figures, MANY};
use crate::report::{Machine, Run, Versions};
use crate::setting::Setting;

/// Measures what medbind costs, against the alternatives and against its goals.
///
/// A goal that is missed is a figure like any other: the exit status is 0 wherever everything could
/// be measured.
#[derive(Parser)]
#[command(name = "cargo xtask bench", bin_name = "cargo xtask bench")]
struct Arguments {
    /// Fewer rounds: in under five minutes
    #[arg(long)]
    quick: bool,
    /// Measure these parts alone
    #[arg(long, value_name = "PART")]
    only: Vec<Part>,
    /// Write machine, versions, figures and rounds to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    /// CPU per request, against no filter, RBAC, an empty SDK filter and `ext_authz`
    Cpu,
    /// First sight of a certificate
    FirstSight,
    /// Memory of many bindings, the time to load them, and a change of history
    Memory,
    /// Revocation to first refusal
    Revocation,
    /// Size and imports of the module
    Module,
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(&arguments).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            anstream::eprintln!("\x1b[1;31merror:\x1b[0m {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: &Arguments) -> Result<()> {
    let setting = Setting::new()?;
    let machine = Machine::this();
    let versions = Versions::of(&setting.tools)?;
    let figures = measure(&setting, arguments).await?;
    let run = Run {
        machine,
        versions,
        quick: arguments.quick,
        goals: figures.goals(),
        figures,
    };
    run.print();
    if let Some(file) = &arguments.json {
        run.write(file)?;
    }
    Ok(())
}

async fn measure(setting: &Setting, arguments: &Arguments) -> Result<Figures> {
    let wanted = |part| arguments.only.is_empty() || arguments.only.contains(&part);
    let rounds = |quick, all| if arguments.quick { quick } else { all };
    let mut figures = Figures::default();
    if wanted(Part::Module) {
        figures.module = Some(module::measure(&setting.tools.module)?);
    }
    if wanted(Part::Cpu) {
        figures.cpu = Some(cpu::measure(setting, rounds(25, 100)).await?);
    }
    if wanted(Part::FirstSight) {
        figures.first_sight = Some(first_sight::measure(setting, rounds(60, 200)).await?);
    }
    if wanted(Part::Revocation) {
        figures.revocation = Some(revocation::measure(setting, 200).await?);
    }
    if wanted(Part::Memory) {
        let sizes = [1_000, 100_000, MANY];
        figures.memory = Some(memory::measure(setting, &sizes).await?);
    }
    Ok(figures)
}
