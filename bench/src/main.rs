//! The published comparison: `cargo xtask bench`.

mod cpu;
mod first_sight;
mod fleet;
mod goal;
mod load;
mod memory;
mod module;
mod part;
mod processor;
mod report;
mod revocation;
mod setting;
mod spread;
mod variant;
mod yes;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;
use medbind_integration::ending::unless_told;
use medbind_workshop::progress;

use crate::goal::{Figures, MANY};
use crate::part::Part;
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

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let measured = async {
        match run(&arguments).await {
            Ok(code) => code,
            Err(error) => {
                progress::report(&error);
                ExitCode::FAILURE
            }
        }
    };
    unless_told(Box::pin(measured)).await
}

async fn run(arguments: &Arguments) -> Result<ExitCode> {
    let setting = Setting::new()?;
    let machine = Machine::this();
    let versions = Versions::of(&setting.tools)?;
    let figures = measure(&setting, arguments).await;
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
    Ok(if run.figures.failed.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// One part after the other: what cannot be measured takes nothing from what can.
async fn measure(setting: &Setting, arguments: &Arguments) -> Figures {
    let wanted = |part| arguments.only.is_empty() || arguments.only.contains(&part);
    let rounds = |quick, all| if arguments.quick { quick } else { all };
    let mut figures = Figures::default();
    let failed = &mut figures.failed;
    if wanted(Part::Module) {
        figures.module = failed.unless(Part::Module, module::measure(&setting.tools.module));
    }
    if wanted(Part::Cpu) {
        let measured = cpu::measure(setting, rounds(25, 100)).await;
        figures.cpu = failed.unless(Part::Cpu, measured);
    }
    if wanted(Part::FirstSight) {
        let measured = first_sight::measure(setting, rounds(60, 200)).await;
        figures.first_sight = failed.unless(Part::FirstSight, measured);
    }
    if wanted(Part::Revocation) {
        let measured = revocation::measure(setting, 200).await;
        figures.revocation = failed.unless(Part::Revocation, measured);
    }
    if wanted(Part::Memory) {
        let measured = memory::measure(setting, &[1_000, 100_000, MANY]).await;
        figures.memory = failed.unless(Part::Memory, measured);
    }
    figures
}
