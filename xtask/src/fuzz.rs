//! Is there an input that breaks a promise? libFuzzer looks for one, for a bounded time.

use std::collections::VecDeque;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};
use medbind_workshop::progress::{self, Progress, Stopwatch, human};
use medbind_workshop::shell::{self, Orphaned};
use medbind_workshop::workspace;

use crate::programs::{self, cargo};
use crate::vectors;

/// The options of `cargo xtask fuzz`.
#[derive(Args)]
pub struct FuzzArgs {
    /// How long for each target
    #[arg(long, value_name = "N", default_value_t = 60)]
    seconds: u64,
    /// These targets alone
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    target: Vec<Target>,
    /// Do not look for anything: hold one target against this input
    #[arg(long, value_name = "FILE", requires = "target")]
    input: Option<PathBuf>,
}

/// What is fuzzed: a module of the package `medbind-fuzz` each.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Target {
    /// The peer's certificate, from PEM or DER to a permit
    Certificate,
    /// The plug-in's configuration
    Configuration,
    /// The registry's answers, and what becomes of them in the cache
    Feed,
    /// The path that is asked for, under rules of any shape
    Path,
}

impl Target {
    /// Every target.
    pub const ALL: [Self; 4] = [
        Self::Certificate,
        Self::Configuration,
        Self::Feed,
        Self::Path,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Certificate => "certificate",
            Self::Configuration => "configuration",
            Self::Feed => "feed",
            Self::Path => "path",
        }
    }

    fn program(self) -> String {
        format!("fuzz-{}", self.name())
    }
}

/// An input that takes longer is one that breaks the promise of a bounded time.
const SECONDS_FOR_ONE: u64 = 10;
/// The longest inputs, in octets: beyond the budgets of what is read.
const LONGEST: u32 = 70_000;
/// How many of libFuzzer's last lines are kept for a report.
const LINES_KEPT: usize = 400;

/// What was seen of one target.
pub struct Found {
    target: Target,
    executions: u64,
    edges: u64,
    inputs: u64,
    time: Duration,
    crash: Option<Crash>,
}

/// An input that broke a promise.
struct Crash {
    said: String,
    input: Option<PathBuf>,
}

impl Found {
    /// Whether nothing was broken.
    pub fn is_clean(&self) -> bool {
        self.crash.is_none()
    }
}

/// `cargo xtask fuzz`.
pub fn run(args: &FuzzArgs) -> Result<ExitCode> {
    let targets: Vec<Target> = if args.target.is_empty() {
        Target::ALL.to_vec()
    } else {
        args.target.clone()
    };
    if let Some(input) = &args.input {
        return hold(&targets, input);
    }
    let found = look(&targets, Duration::from_secs(args.seconds))?;
    Ok(if found.iter().all(Found::is_clean) {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Holds targets against one input, and shows what they say.
fn hold(targets: &[Target], input: &Path) -> Result<ExitCode> {
    // The programs are run in the root of the checkout, whatever folder this is run in.
    let input = input
        .canonicalize()
        .with_context(|| format!("cannot read {}", input.display()))?;
    let programs = build(targets)?;
    for target in targets {
        shell::run(Command::new(programs.join(target.program())).arg(&input))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Looks for inputs that break a promise, `time` long for each target, and prints a table of what
/// was seen.
pub fn look(targets: &[Target], time: Duration) -> Result<Vec<Found>> {
    let programs = build(targets)?;
    let seeds = seeds()?;
    let odd = if targets.contains(&Target::Certificate) {
        vectors::certificates()
            .inspect_err(|error| {
                progress::say(&format!("    without odd certificates: {error:#}"));
            })
            .ok()
    } else {
        None
    };
    let mut found = Vec::new();
    for target in targets {
        let mut folders = vec![folder("corpus", *target)?, seeds.join(target.name())];
        if *target == Target::Certificate {
            folders.extend(odd.clone());
        }
        found.push(fuzz(*target, &programs, &seeds, &folders, time)?);
    }
    print(&found);
    Ok(found)
}

fn home() -> PathBuf {
    workspace::target().join("fuzz")
}

/// A folder of a target's own, made where it is not there.
fn folder(kind: &str, target: Target) -> Result<PathBuf> {
    let folder = home().join(kind).join(target.name());
    fs::create_dir_all(&folder)?;
    Ok(folder)
}

/// Builds the targets with libFuzzer and with what tells it which way an input took. The flags are
/// those of cargo-fuzz without a sanitizer: no code of ours is `unsafe`.
fn build(targets: &[Target]) -> Result<PathBuf> {
    const FLAGS: [&str; 7] = [
        "--cfg=fuzzing",
        "-Cpasses=sancov-module",
        "-Cllvm-args=-sanitizer-coverage-level=4",
        "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
        "-Cllvm-args=-sanitizer-coverage-pc-table",
        "-Cllvm-args=-sanitizer-coverage-trace-compares",
        "-Cllvm-args=-simplifycfg-branch-fold-threshold=0",
    ];
    if !shell::exists("c++") {
        shell::install(
            &["g++"],
            "A compiler for C++, in which libFuzzer is written,",
        )?;
    }
    let host = host()?;
    let mut command = cargo("build");
    command
        .args(["--package", "medbind-fuzz", "--features", "libfuzzer"])
        .args(["--profile", "fuzz", "--target", &host, "--target-dir"])
        .arg(home())
        // Named by the target, the flags are not those of what runs while it is built.
        .env("CARGO_ENCODED_RUSTFLAGS", FLAGS.join("\x1f"))
        .env_remove("RUSTFLAGS")
        .env_remove("RUSTC_WRAPPER");
    for target in targets {
        command.args(["--bin", &target.program()]);
    }
    let limit = Duration::from_mins(30);
    shell::run_quietly("building what is fuzzed", &mut command, limit)?;
    Ok(home().join(host).join("fuzz"))
}

fn host() -> Result<String> {
    let version = shell::output(Command::new("rustc").arg("-vV"))?;
    let host = version.lines().find_map(|line| line.strip_prefix("host: "));
    Ok(host.context("rustc names no host")?.to_owned())
}

/// Writes what to begin with, made from keys that are always the same.
fn seeds() -> Result<PathBuf> {
    let folder = home().join("seeds");
    programs::build(&["fuzz-seeds"])?;
    shell::run(Command::new(programs::path("fuzz-seeds")).arg(&folder))?;
    Ok(folder)
}

/// Ends the program where this ends before it, by an error.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn fuzz(
    target: Target,
    programs: &Path,
    seeds: &Path,
    folders: &[PathBuf],
    time: Duration,
) -> Result<Found> {
    let crashes = folder("crashes", target)?;
    let before = inputs_in(&crashes)?;
    let mut command = Command::new(programs.join(target.program()));
    command
        .current_dir(workspace::root())
        .arg(format!("-max_total_time={}", time.as_secs().max(1)))
        .arg(format!("-timeout={SECONDS_FOR_ONE}"))
        .arg(format!("-max_len={LONGEST}"))
        .arg(format!(
            "-dict={}",
            seeds.join(format!("{}.dict", target.name())).display()
        ))
        // The last '/' makes it a folder.
        .arg(format!("-artifact_prefix={}/", crashes.display()))
        .args(folders)
        .env("RUST_BACKTRACE", "0");
    let mut command = shell::bound(&command, Orphaned::Kill);
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    let watch = Stopwatch::start();
    let progress = Progress::start(&format!("fuzzing {}", target.name()));
    let mut running = Running(
        command
            .spawn()
            .with_context(|| format!("cannot run {}", shell::line(&command)))?,
    );
    let stderr = running.0.stderr.take().context("nothing to listen to")?;
    let mut last = VecDeque::new();
    let mut seen = Line::default();
    for line in BufReader::new(stderr).split(b'\n') {
        let line = String::from_utf8_lossy(&line?).into_owned();
        if let Some(read) = Line::parse(&line) {
            seen = read;
            progress.tell(&format!(
                "{} of {}, {} executions, {} edges",
                human(watch.elapsed()),
                human(time),
                seen.executions,
                seen.edges
            ));
        }
        if last.len() == LINES_KEPT {
            last.pop_front();
        }
        last.push_back(line);
    }
    let status = running.0.wait()?;
    drop(progress);
    let said = Vec::from(last).join("\n");
    let input = inputs_in(&crashes)?
        .into_iter()
        .find(|path| !before.contains(path));
    if status.success() && seen.executions == 0 {
        bail!("{} executed nothing\n{said}", target.program());
    }
    Ok(Found {
        target,
        executions: seen.executions,
        edges: seen.edges,
        inputs: seen.inputs,
        time: watch.elapsed(),
        crash: (!status.success()).then_some(Crash { said, input }),
    })
}

fn inputs_in(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(folder)?;
    Ok(entries.filter_map(Result::ok).map(|e| e.path()).collect())
}

/// What a line of libFuzzer tells: `#8192  pulse  cov: 512 ft: 900 corp: 60/9Kb ...`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Line {
    executions: u64,
    edges: u64,
    inputs: u64,
}

impl Line {
    fn parse(line: &str) -> Option<Self> {
        let mut words = line.strip_prefix('#')?.split_whitespace();
        let executions = words.next()?.parse().ok()?;
        let mut read = Self {
            executions,
            ..Self::default()
        };
        while let Some(word) = words.next() {
            match word {
                "cov:" => read.edges = words.next()?.parse().ok()?,
                "corp:" => read.inputs = words.next()?.split('/').next()?.parse().ok()?,
                _ => {}
            }
        }
        Some(read)
    }
}

fn print(found: &[Found]) {
    println!();
    println!(
        "{:<16} {:>12} {:>10} {:>10} {:>12}   crashes",
        "target", "executions", "edges", "inputs", "time"
    );
    for one in found {
        println!(
            "{:<16} {:>12} {:>10} {:>10} {:>12}   {}",
            one.target.name(),
            one.executions,
            one.edges,
            one.inputs,
            human(one.time),
            u8::from(!one.is_clean())
        );
    }
    for one in found {
        let Some(crash) = &one.crash else { continue };
        println!();
        println!("{}:\n{}", one.target.name(), what_was_said(&crash.said));
        match &crash.input {
            Some(input) => println!(
                "the input is {}\nto see it again: cargo xtask fuzz --target {} --input {}",
                input.display(),
                one.target.name(),
                input.display()
            ),
            None => println!("libFuzzer left no input"),
        }
    }
    println!();
}

/// The lines that say which promise was broken; all that there are where none says so.
fn what_was_said(said: &str) -> String {
    let lines: Vec<&str> = said.lines().collect();
    let telling = |line: &&str| line.contains("panicked at") || line.starts_with("==");
    let Some(first) = lines.iter().position(telling) else {
        return said.to_owned();
    };
    let from_there = lines.iter().skip(first).take(12);
    from_there
        .map(|line| format!("    {line}"))
        .collect::<Vec<_>>()
        .join("\n")
}

#[cfg(test)]
mod tests {
    use super::{Line, what_was_said};

    #[test]
    fn the_lines_of_libfuzzer_are_read() {
        let line = "#336001\tNEW    cov: 2495 ft: 6282 corp: 1005/56Kb lim: 212 exec/s: 8400 rss: 33Mb L: 203/212 MS: 2";
        assert_eq!(
            Line::parse(line),
            Some(Line {
                executions: 336_001,
                edges: 2495,
                inputs: 1005
            })
        );
        assert_eq!(Line::parse("INFO: Seed: 1"), None);
        assert_eq!(Line::parse("#x"), None);
    }

    #[test]
    fn a_report_begins_where_the_promise_broke() {
        let said = "#1\tINITED\nthread '<unnamed>' (1) panicked at fuzz/src/feed.rs:1:1:\na head went back\n==1== ERROR: libFuzzer: deadly signal";
        let report = what_was_said(said);
        assert!(report.starts_with("    thread"), "{report}");
        assert!(report.contains("a head went back"), "{report}");
        assert_eq!(what_was_said("nothing"), "nothing");
    }
}
