//! In which order is everything tested, and how did it go?

use std::io::{BufRead, BufReader};
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};
use medbind_workshop::progress::{self, Stopwatch, human};
use medbind_workshop::shell::{self, Orphaned};

use crate::EnvoyArgs;
use crate::compose;
use crate::envoy::RELEASES;
use crate::fuzz;
use crate::module::{self, Module};
use crate::programs::{self, cargo};
use crate::tally::Tally;
use crate::tool::Tool;
use crate::toolchain::Toolchain;
use crate::vectors;

/// The options of `cargo xtask test`.
#[derive(Args)]
pub struct TestArgs {
    /// Also what takes long: every supported line of Envoy in full, the registry and Envoy killed
    /// again and again, a larger crowd of strangers, the story across containers, fuzzing
    #[arg(long)]
    full: bool,
    #[command(flatten)]
    envoy: EnvoyArgs,
    /// Run these steps alone
    #[arg(long, value_name = "STEP", value_delimiter = ',')]
    only: Vec<Step>,
    /// Run the scenarios whose name holds this, alone
    #[arg(long, value_name = "TEXT")]
    scenario: Option<String>,
}

/// What runs the tests of core on wasm32.
const RUNNER: Tool<'static> = Tool::Folder("xtask/wasm-runner");
/// How long each target is fuzzed.
const FUZZING: Duration = Duration::from_mins(1);

/// One step.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Step {
    /// The source is formatted
    Format,
    /// Clippy has nothing to say
    Lints,
    /// The module is built, and its twin that can be told to trap
    Module,
    /// The tests that need nothing but the host, the module's shape, and the examples in the
    /// documentation
    Native,
    /// The tests of core, compiled to wasm32
    Wasm,
    /// The scenarios in a real Envoy
    Scenarios,
    /// What README and documents show, walked with a real Envoy
    Documents,
    /// The story across containers; with --full, or where it is named
    Compose,
    /// Inputs that break a promise are looked for, a minute for each target: with --full, or
    /// where it is named
    Fuzz,
}

impl Step {
    const ALL: [Self; 9] = [
        Self::Format,
        Self::Lints,
        Self::Module,
        Self::Native,
        Self::Wasm,
        Self::Scenarios,
        Self::Documents,
        Self::Compose,
        Self::Fuzz,
    ];

    /// Whether it takes long, and is left to --full.
    fn is_long(self) -> bool {
        matches!(self, Self::Compose | Self::Fuzz)
    }

    fn title(self) -> &'static str {
        match self {
            Self::Format => "the source is formatted",
            Self::Lints => "clippy has nothing to say",
            Self::Native => "native tests",
            Self::Wasm => "core on wasm32",
            Self::Module => "the module",
            Self::Scenarios => "scenarios in a real Envoy",
            Self::Documents => "what the documents show",
            Self::Compose => "the story across containers",
            Self::Fuzz => "bounded fuzzing",
        }
    }
}

/// `cargo xtask test`.
pub fn run(args: &TestArgs) -> ExitCode {
    let watch = Stopwatch::start();
    // Before all that takes long: an Envoy that there is not.
    if let Err(error) = args.envoy.check() {
        progress::report(&error);
        return ExitCode::FAILURE;
    }
    let mut total = Tally::default();
    let mut rows = Vec::new();
    for step in Step::ALL {
        let wanted = if args.scenario.is_some() {
            step == Step::Scenarios
        } else if args.only.is_empty() {
            args.full || !step.is_long()
        } else {
            args.only.contains(&step)
        };
        if !wanted {
            continue;
        }
        progress::say(&format!(
            "==> {} ({} so far)",
            step.title(),
            human(watch.elapsed())
        ));
        let step_watch = Stopwatch::start();
        let mut tally = Tally::default();
        if let Err(error) = run_step(step, args, &mut tally) {
            progress::report(&error);
            tally.has_failed();
        }
        tally.close();
        rows.push((step.title(), tally.line(), step_watch.elapsed()));
        total.add(tally);
    }
    println!();
    for (title, line, time) in rows {
        println!("{title:<28} {:>12}   {line}", human(time));
    }
    println!("{:<28} {:>12}\n", "all of it", human(watch.elapsed()));
    for skip in total.skips() {
        println!("skipped: {skip}");
    }
    println!("{}", total.line());
    if total.is_green() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn run_step(step: Step, args: &TestArgs, tally: &mut Tally) -> Result<()> {
    match step {
        Step::Format => {
            shell::run(cargo("fmt").args(["--all", "--check"])).context("run: cargo fmt --all")?;
            tally.has_passed();
        }
        Step::Lints => {
            shell::run(cargo("clippy").args([
                "--workspace",
                "--all-targets",
                "--",
                "-D",
                "warnings",
            ]))?;
            tally.has_passed();
        }
        Step::Native => {
            // One after the other, whether or not the first has failures. The module's shape is
            // one of these tests.
            module::build(&[Module::Deployed])?;
            let mut tests = cargo("test");
            tests
                .args(["--workspace", "--all-targets", "--no-fail-fast"])
                .env("MEDBIND_MODULE", Module::Deployed.path());
            match vectors::certificates() {
                Ok(folder) => {
                    tests.env("MEDBIND_VECTORS", folder);
                }
                // What needs them fails, and the rest is tested.
                Err(error) => progress::report(&error),
            }
            if args.full {
                // Loops that are long, such as killing a registry twenty times.
                tests.env("MEDBIND_FULL", "1");
            }
            let tests = counted(&mut tests, tally);
            let examples = counted(
                cargo("test").args(["--workspace", "--doc", "--no-fail-fast"]),
                tally,
            );
            tests.and(examples)?;
        }
        Step::Wasm => core_on_wasm(tally)?,
        Step::Module => {
            module::build(&[Module::Deployed, Module::Trap])?;
            tally.has_passed();
        }
        Step::Fuzz => {
            for found in fuzz::look(&fuzz::Target::ALL, FUZZING)? {
                if found.is_clean() {
                    tally.has_passed();
                } else {
                    tally.has_failed();
                }
            }
        }
        Step::Scenarios => {
            module::build(&[Module::Deployed, Module::Trap])?;
            programs::build_with_tests()?;
            let mut outcome = scenarios(&args.envoy, args, false, tally);
            if args.envoy.envoy.is_none() && args.scenario.is_none() {
                // The other lines of Envoy: the short table, or all of it; whether or not one
                // before has failures.
                for release in RELEASES.iter().skip(1) {
                    progress::say(&format!("    Envoy {}", release.version));
                    let envoy = EnvoyArgs {
                        envoy: Some(release.version.to_owned()),
                    };
                    outcome = outcome.and(scenarios(&envoy, args, !args.full, tally));
                }
            }
            outcome?;
        }
        Step::Documents => {
            for (program, what_for) in [
                ("curl", "curl, which asks as a device does,"),
                (
                    "openssl",
                    "openssl, which makes a device's key as firmware does,",
                ),
            ] {
                if !shell::exists(program) {
                    shell::install(&[program], what_for)?;
                }
            }
            module::build(&[Module::Deployed])?;
            programs::build_with_tests()?;
            counted(&mut programs::harness("walk", &args.envoy)?, tally)?;
        }
        Step::Compose => {
            if let Some(reason) = compose::missing() {
                tally.skip(&format!("{}: {reason}", step.title()));
            } else {
                counted(&mut compose::test(&args.envoy)?, tally)?;
            }
        }
    }
    Ok(())
}

fn scenarios(envoy: &EnvoyArgs, args: &TestArgs, short: bool, tally: &mut Tally) -> Result<()> {
    let mut command = programs::harness("scenarios", envoy)?;
    if short {
        command.arg("--short");
    }
    if args.full {
        command.arg("--full");
    }
    if let Some(text) = &args.scenario {
        command.args(["--only", text]);
    }
    counted(&mut command, tally)
}

/// Runs a test runner, shows what it prints, and adds up its closing lines.
fn counted(command: &mut Command, tally: &mut Tally) -> Result<()> {
    // It has folders, programs and containers to put away, where this is ended before it.
    let mut child = shell::bound(command, Orphaned::Terminate)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot run {}", shell::line(command)))?;
    if let Some(stdout) = child.stdout.take() {
        for line in BufReader::new(stdout).split(b'\n') {
            let line = line?;
            let line = String::from_utf8_lossy(&line);
            if tally.read(&line) {
                // A closing line in the middle of the run is not the run's.
                println!("    {}", line.trim());
            } else {
                println!("{line}");
            }
        }
    }
    let status = child.wait()?;
    if !status.success() {
        bail!("{} ended with {status}", shell::line(command));
    }
    Ok(())
}

/// The tests of core once more, compiled to what the module is compiled to.
fn core_on_wasm(tally: &mut Tally) -> Result<()> {
    if !shell::exists("node") {
        shell::install(&["nodejs"], "Node, which runs the tests on wasm32,")?;
    }
    let runner = RUNNER.find("medbind-wasm-runner")?;
    let toolchain = Toolchain::find()?;
    let mut command = toolchain.cargo("test")?;
    command
        .args(["--package", "medbind-core", "--lib"])
        .env("CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_RUNNER", runner)
        .env("RUSTFLAGS", r#"--cfg getrandom_backend="wasm_js""#);
    counted(&mut command, tally)
}

#[cfg(test)]
mod tests {
    fn locked_version<'a>(lock: &'a str, package: &str) -> Option<&'a str> {
        let mut lines = lock.lines();
        lines.find(|line| *line == format!("name = \"{package}\""))?;
        lines
            .next()?
            .strip_prefix("version = \"")?
            .strip_suffix('"')
    }

    #[test]
    fn the_locked_version_is_the_package_s_own() {
        let lock = "name = \"wasm-bindgen-cli\"\nversion = \"9\"\n\nname = \"wasm-bindgen\"\nversion = \"0.2.130\"\n";
        assert_eq!(locked_version(lock, "wasm-bindgen"), Some("0.2.130"));
        assert_eq!(locked_version(lock, "other"), None);
    }

    #[test]
    fn the_runner_on_wasm32_is_of_the_locked_wasm_bindgen() {
        let ours = locked_version(include_str!("../../Cargo.lock"), "wasm-bindgen");
        let runners = include_str!("../wasm-runner/Cargo.lock");
        assert_eq!(
            locked_version(runners, "wasm-bindgen-cli"),
            ours,
            "write the second into xtask/wasm-runner/Cargo.toml, and run: \
             cargo update --manifest-path xtask/wasm-runner/Cargo.toml"
        );
    }
}
