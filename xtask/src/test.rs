//! In which order is everything tested, and how did it go?

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};

use crate::EnvoyArgs;
use crate::compose;
use crate::envoy::RELEASES;
use crate::fuzz;
use crate::module::{self, Module};
use crate::programs::{self, cargo};
use crate::shell::{self, Stopwatch, human};
use crate::tool::Tool;
use crate::toolchain::Toolchain;
use crate::vectors;
use crate::workspace;

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

/// How many tests went how.
#[derive(Clone, Copy, Default)]
struct Tally {
    passed: u64,
    failed: u64,
    skipped: u64,
}

impl Tally {
    const ONE: Self = Self {
        passed: 1,
        failed: 0,
        skipped: 0,
    };

    const ONE_FAILED: Self = Self {
        passed: 0,
        failed: 1,
        skipped: 0,
    };

    fn add(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }

    fn line(self) -> String {
        let Self {
            passed,
            failed,
            skipped,
        } = self;
        if skipped == 0 {
            format!("{passed} passed, {failed} failed")
        } else {
            format!("{passed} passed, {failed} failed, {skipped} skipped")
        }
    }

    /// Reads a closing line of a test runner: `test result: ok. 3 passed; 0 failed; 1 ignored`
    /// of cargo test, or `3 passed, 0 failed, 1 skipped` of our own.
    fn parse(line: &str) -> Option<Self> {
        let line = line.trim();
        let counts = match line.strip_prefix("test result: ") {
            Some(rest) => rest.split_once(". ")?.1,
            None if line.starts_with(|first: char| first.is_ascii_digit()) => line,
            None => return None,
        };
        let mut tally = Self::default();
        let mut seen = 0;
        for part in counts.split([';', ',']) {
            let Some((number, word)) = part.trim().split_once(' ') else {
                continue;
            };
            let Ok(number) = number.parse::<u64>() else {
                continue;
            };
            match word {
                "passed" => tally.passed = number,
                "failed" => tally.failed = number,
                "ignored" | "skipped" => tally.skipped = number,
                _ => continue,
            }
            seen += 1;
        }
        (seen >= 2).then_some(tally)
    }
}

/// `cargo xtask test`.
pub fn run(args: &TestArgs) -> ExitCode {
    let watch = Stopwatch::start();
    // Before all that takes long: an Envoy that there is not.
    if let Err(error) = args.envoy.check() {
        shell::report(&error);
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
        shell::say(&format!(
            "==> {} ({} so far)",
            step.title(),
            human(watch.elapsed())
        ));
        let step_watch = Stopwatch::start();
        let mut tally = Tally::default();
        if let Err(error) = run_step(step, args, &mut tally) {
            shell::report(&error);
            // A step that failed counts, also where no test of it did.
            tally.failed = tally.failed.max(1);
        }
        total.add(tally);
        rows.push((step.title(), tally, step_watch.elapsed()));
    }
    println!();
    for (title, tally, time) in rows {
        println!("{title:<28} {:>12}   {}", human(time), tally.line());
    }
    println!("{:<28} {:>12}\n", "all of it", human(watch.elapsed()));
    println!("{}", total.line());
    if total.failed == 0 && total.passed > 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn run_step(step: Step, args: &TestArgs, tally: &mut Tally) -> Result<()> {
    match step {
        Step::Format => {
            shell::run(cargo("fmt").args(["--all", "--check"])).context("run: cargo fmt --all")?;
            tally.add(Tally::ONE);
        }
        Step::Lints => {
            shell::run(cargo("clippy").args([
                "--workspace",
                "--all-targets",
                "--",
                "-D",
                "warnings",
            ]))?;
            tally.add(Tally::ONE);
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
                Err(error) => shell::report(&error),
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
            tally.add(Tally::ONE);
        }
        Step::Fuzz => {
            for found in fuzz::look(&fuzz::Target::ALL, FUZZING)? {
                tally.add(if found.is_clean() {
                    Tally::ONE
                } else {
                    Tally::ONE_FAILED
                });
            }
        }
        Step::Scenarios => {
            module::build(&[Module::Deployed, Module::Trap])?;
            programs::build(&["medbind", "scenarios"])?;
            let mut outcome = scenarios(&args.envoy, args, false, tally);
            if args.envoy.envoy.is_none() && args.scenario.is_none() {
                // The other lines of Envoy: the short table, or all of it; whether or not one
                // before has failures.
                for release in RELEASES.iter().skip(1) {
                    shell::say(&format!("    Envoy {}", release.version));
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
            programs::build(&["medbind", "demo", "walk"])?;
            counted(&mut programs::harness("walk", &args.envoy)?, tally)?;
        }
        Step::Compose => {
            if let Some(reason) = compose::missing() {
                shell::say(&format!("    skipped: {reason}"));
                tally.skipped += 1;
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
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot run {}", shell::line(command)))?;
    if let Some(stdout) = child.stdout.take() {
        for line in BufReader::new(stdout).split(b'\n') {
            let line = line?;
            let line = String::from_utf8_lossy(&line);
            match Tally::parse(&line) {
                Some(part) => {
                    tally.add(part);
                    // A closing line in the middle of the run is not the run's.
                    println!("    {}", line.trim());
                }
                None => println!("{line}"),
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
    let runner = wasm_bindgen_runner()?;
    let toolchain = Toolchain::find()?;
    let mut command = toolchain.cargo("test")?;
    command
        .args(["--package", "medbind-core", "--lib"])
        .env("CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_RUNNER", runner)
        .env("RUSTFLAGS", r#"--cfg getrandom_backend="wasm_js""#);
    counted(&mut command, tally)
}

/// The runner that fits the locked wasm-bindgen, installed where it is not there yet.
fn wasm_bindgen_runner() -> Result<PathBuf> {
    let lock = fs::read_to_string(workspace::root().join("Cargo.lock"))?;
    let version =
        locked_version(&lock, "wasm-bindgen").context("Cargo.lock names no wasm-bindgen")?;
    let tool = Tool {
        package: "wasm-bindgen-cli",
        version,
        binary: "wasm-bindgen-test-runner",
        // The crate's own lock file asks for versions that are gone.
        locked: false,
    };
    tool.find()
}

fn locked_version<'a>(lock: &'a str, package: &str) -> Option<&'a str> {
    let mut lines = lock.lines();
    lines.find(|line| *line == format!("name = \"{package}\""))?;
    lines
        .next()?
        .strip_prefix("version = \"")?
        .strip_suffix('"')
}

#[cfg(test)]
mod tests {
    use super::{Tally, locked_version};

    #[test]
    fn the_closing_lines_of_test_runners_are_read() {
        let cargo = Tally::parse(
            "test result: FAILED. 3 passed; 2 failed; 1 ignored; 0 measured; 7 filtered out",
        )
        .unwrap();
        assert_eq!((cargo.passed, cargo.failed, cargo.skipped), (3, 2, 1));
        let own = Tally::parse("12 passed, 0 failed, 4 skipped").unwrap();
        assert_eq!((own.passed, own.failed, own.skipped), (12, 0, 4));
        let none = [
            "",
            "test a::b ... ok",
            "3 passed",
            "1 of 2 passed",
            "running 3 tests",
        ];
        assert!(none.into_iter().all(|line| Tally::parse(line).is_none()));
    }

    #[test]
    fn the_locked_version_is_the_package_s_own() {
        let lock = "name = \"wasm-bindgen-cli\"\nversion = \"9\"\n\nname = \"wasm-bindgen\"\nversion = \"0.2.130\"\n";
        assert_eq!(locked_version(lock, "wasm-bindgen"), Some("0.2.130"));
        assert_eq!(locked_version(lock, "other"), None);
    }
}
