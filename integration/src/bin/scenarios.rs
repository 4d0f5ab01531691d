//! Runs the scenarios in a real Envoy: `cargo xtask test --only scenarios`.

use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;
use medbind_integration::ending::unless_told;
use medbind_integration::envoy::Options;
use medbind_integration::scenario::real::Stage;
use medbind_integration::scenario::report::Report;
use medbind_integration::scenario::row::{Place, Scenario};
use medbind_integration::scenario::{leftovers, restart, shipped, special, table};
use medbind_integration::tools::Tools;
use medbind_workshop::progress;

/// Runs the scenarios in a real Envoy.
#[derive(Parser)]
struct Arguments {
    /// The short table alone
    #[arg(long)]
    short: bool,
    /// Also what takes long
    #[arg(long)]
    full: bool,
    /// The scenarios whose name holds this, alone
    #[arg(long, value_name = "TEXT")]
    only: Option<String>,
}

const PLACES: [Place; 5] = [
    Place::Fleet,
    Place::NoSynchroniser,
    Place::Stale,
    Place::OnDemand,
    Place::Script,
];

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let told = async {
        match tell(arguments).await {
            Ok(code) => code,
            Err(error) => {
                progress::report(&error);
                ExitCode::FAILURE
            }
        }
    };
    unless_told(Box::pin(told)).await
}

async fn tell(arguments: Arguments) -> Result<ExitCode> {
    let (short, full) = (arguments.short && !arguments.full, arguments.full);
    let tools = Tools::find()?;
    let (major, minor) = tools.envoy_line()?;
    println!("Envoy {major}.{minor}");
    let mut report = Report::new(arguments.only);
    let rows = table::table();
    let options = Options::default();
    for place in PLACES {
        let here = rows
            .iter()
            .filter(|row| row.place == place && (row.short || !short) && report.wants(&row.name))
            .collect::<Vec<_>>();
        // Of the stories, those of the short table are all told in the fleet.
        if here.is_empty() && short && place != Place::Fleet {
            continue;
        }
        report.begin();
        let stage = Stage::set_with(&tools, place, &options, |bootstrap| match place {
            Place::Fleet => special::listeners(bootstrap),
            Place::NoSynchroniser | Place::Stale | Place::OnDemand | Place::Script => Ok(()),
        });
        match stage.await {
            Ok(stage) => Box::pin(run(stage, place, &here, &mut report, short, full)).await,
            Err(error) => report.end(&format!("the place {place:?} is set up"), Err(error)),
        }
    }
    Box::pin(restart::alone(&tools, &mut report, short, full)).await;
    Box::pin(shipped::files(&tools, &mut report, short)).await;
    if !short {
        Box::pin(leftovers::none(&tools, &mut report)).await;
    }
    Ok(if report.close() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

async fn run(
    mut stage: Stage,
    place: Place,
    rows: &[&Scenario],
    report: &mut Report,
    short: bool,
    full: bool,
) {
    for row in rows {
        if let Some(reason) = row.native_alone {
            report.skip(&row.name, reason);
            continue;
        }
        report.begin();
        let outcome = stage.run(row).await;
        report.end(&row.name, outcome);
    }
    if place == Place::Fleet {
        special::fleet(&mut stage, report, short, full).await;
    }
    if !short {
        special::after(place, &mut stage, report).await;
    }
}
