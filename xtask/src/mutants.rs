//! Would the tests notice? What decides is changed in one place after the other, and each time a
//! test has to fail.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, Result, bail};
use clap::Args;
use medbind_workshop::progress::{Progress, Stopwatch, human};
use medbind_workshop::shell::{self, Orphaned};
use medbind_workshop::workspace;
use serde::Deserialize;

use crate::tool::Tool;

/// The options of `cargo xtask mutants`.
#[derive(Args)]
pub struct MutantsArgs {
    /// The files to change, such as 'core/src/cache/*.rs'; without it those of .cargo/mutants.toml
    #[arg(long, value_name = "GLOB")]
    file: Vec<String>,
}

const TOOL: Tool<'static> = Tool::Package {
    name: "cargo-mutants",
    version: "27.1.0",
};

/// What may survive, and why.
const ACCEPTED: &str = "core/mutants-accepted.toml";

/// `cargo xtask mutants`.
pub fn run(args: &MutantsArgs) -> Result<ExitCode> {
    let tool = TOOL.find("cargo-mutants")?;
    let accepted = Accepted::read(&workspace::root().join(ACCEPTED))?;
    let folder = workspace::target().join("mutants");
    fs::create_dir_all(&folder)?;
    let watch = Stopwatch::start();
    let outcome = change(&tool, &folder, &args.file, &accepted)?;
    let verdict = accepted.compare(&outcome);
    println!();
    println!(
        "{} mutants in {}: {} noticed, {} that do not compile, {} that survive",
        outcome.all.values().sum::<usize>(),
        human(watch.elapsed()),
        outcome.noticed,
        outcome.unviable,
        outcome.survivors.values().sum::<usize>(),
    );
    for name in &verdict.not_listed {
        println!("survives, and is not listed: {name}");
    }
    for name in &verdict.gone {
        println!("is listed in {ACCEPTED}, and does not survive any more: {name}");
    }
    Ok(if verdict.not_listed.is_empty() {
        ExitCode::SUCCESS
    } else {
        println!("write a test that fails with it, or list it with its reason in {ACCEPTED}");
        ExitCode::FAILURE
    })
}

/// Mutants by name, and how many there are of each.
type Names = BTreeMap<String, usize>;

/// What was seen.
#[derive(Debug, Default)]
struct Outcome {
    all: Names,
    survivors: Names,
    noticed: usize,
    unviable: usize,
}

impl Outcome {
    /// Takes a line of cargo-mutants: `MISSED   core/src/a.rs:1:2: replace ... in 2s build + 1s test`.
    /// Answers the name of a survivor.
    fn take(&mut self, line: &str) -> Option<String> {
        let (word, rest) = line.split_once(' ')?;
        let name = name(rest.trim())?;
        let survives = match word {
            // One that never ends is noticed: by who waits.
            "caught" | "TIMEOUT" => {
                self.noticed += 1;
                false
            }
            "unviable" => {
                self.unviable += 1;
                false
            }
            "MISSED" => {
                *self.survivors.entry(name.clone()).or_default() += 1;
                true
            }
            _ => return None,
        };
        *self.all.entry(name.clone()).or_default() += 1;
        survives.then_some(name)
    }
}

/// A mutant's name without the line and column, which change with every edit above it, and
/// without the time that it took.
fn name(text: &str) -> Option<String> {
    let (file, rest) = text.split_once(".rs:")?;
    let (_, what) = rest.split_once(": ")?;
    let what = match what.rsplit_once(" in ") {
        Some((what, time)) if time.contains("s build") || time.contains("s test") => what,
        Some(_) | None => what,
    };
    Some(format!("{file}.rs: {what}"))
}

/// Has cargo-mutants change a copy of the tree, and shows how far it is.
fn change(tool: &Path, folder: &Path, files: &[String], accepted: &Accepted) -> Result<Outcome> {
    let mut command = Command::new(tool);
    command
        .args([
            "mutants",
            "--workspace",
            "--caught",
            "--unviable",
            "--colors",
            "never",
            "--config",
        ])
        .arg(config(folder, files)?)
        .arg("--output")
        .arg(folder)
        .current_dir(workspace::root());
    let mut command = shell::bound(&command, Orphaned::Terminate);
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    let progress = Progress::start("trying mutants");
    let mut child = command
        .spawn()
        .with_context(|| format!("cannot run {}", shell::line(&command)))?;
    let stdout = child.stdout.take().context("nothing to listen to")?;
    let watch = Stopwatch::start();
    let mut outcome = Outcome::default();
    let mut found = String::from("?");
    for line in BufReader::new(stdout).lines() {
        let line = line?;
        if let Some(count) = line
            .strip_prefix("Found ")
            .and_then(|rest| rest.split(' ').next())
        {
            count.clone_into(&mut found);
        }
        if line.starts_with("FAILED") {
            eprintln!("{line}");
        }
        if let Some(name) = outcome.take(&line)
            && !accepted.0.contains_key(&name)
        {
            anstream::eprintln!("    survives: {line}");
        }
        let tried: usize = outcome.all.values().sum();
        progress.tell(&format!(
            "{tried} of {found} in {}, {} survive",
            human(watch.elapsed()),
            outcome.survivors.values().sum::<usize>()
        ));
    }
    let status = child.wait()?;
    drop(progress);
    // 2: some were missed, 3: some ran out of time. Everything else is no verdict.
    match status.code() {
        Some(0) if outcome.all.is_empty() => bail!("there is nothing to change in these files"),
        Some(0 | 2 | 3) => Ok(outcome),
        _ => bail!(
            "cargo-mutants ended with {status}; what it did is in {}",
            folder.join("mutants.out/log").display()
        ),
    }
}

/// The configuration of the checkout, with other files where some are named.
fn config(folder: &Path, files: &[String]) -> Result<PathBuf> {
    let committed = workspace::root().join(".cargo/mutants.toml");
    if files.is_empty() {
        return Ok(committed);
    }
    let mut config: toml::Table = fs::read_to_string(&committed)?
        .parse()
        .with_context(|| format!("{} is no TOML", committed.display()))?;
    config.insert("examine_globs".into(), files.to_vec().into());
    let path = folder.join("config.toml");
    fs::write(&path, config.to_string())?;
    Ok(path)
}

/// What may survive: names with how often they may, since one function may hold a thing twice.
#[derive(Debug, Default)]
struct Accepted(Names);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AcceptedFile {
    #[serde(default)]
    accepted: Vec<Entry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    mutant: String,
    reason: String,
    #[serde(default = "one")]
    times: usize,
}

const fn one() -> usize {
    1
}

/// How the list and what was seen differ.
#[derive(Debug, Default, PartialEq, Eq)]
struct Verdict {
    not_listed: Vec<String>,
    gone: Vec<String>,
}

impl Accepted {
    fn read(path: &Path) -> Result<Self> {
        let text =
            fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        Self::parse(&text).with_context(|| format!("in {}", path.display()))
    }

    fn parse(text: &str) -> Result<Self> {
        let file: AcceptedFile = toml::from_str(text)?;
        let mut names = Names::new();
        for entry in file.accepted {
            if entry.reason.trim().is_empty() {
                bail!("no reason for {}", entry.mutant);
            }
            if entry.times == 0 || names.insert(entry.mutant.clone(), entry.times).is_some() {
                bail!("it stands there twice, or no time at all: {}", entry.mutant);
            }
        }
        Ok(Self(names))
    }

    fn compare(&self, outcome: &Outcome) -> Verdict {
        let listed = |name: &String| self.0.get(name).copied().unwrap_or_default();
        let not_listed = outcome
            .survivors
            .iter()
            .filter(|(name, times)| **times > listed(name))
            .map(|(name, _)| name.clone())
            .collect();
        let file = |name: &str| name.split(':').next().unwrap_or_default().to_owned();
        let files: BTreeSet<String> = outcome.all.keys().map(|name| file(name)).collect();
        let gone = self
            .0
            .iter()
            .filter(|(name, _)| files.contains(&file(name)))
            .filter(|(name, times)| {
                **times > outcome.survivors.get(*name).copied().unwrap_or_default()
            })
            .map(|(name, _)| name.clone())
            .collect();
        Verdict { not_listed, gone }
    }
}

#[cfg(test)]
mod tests {
    use super::{ACCEPTED, Accepted, Outcome, workspace};

    const LIST: &str = r#"
        [[accepted]]
        mutant = "core/src/a.rs: replace a with b in c"
        reason = "they are the same"

        [[accepted]]
        mutant = "core/src/b.rs: replace d with e"
        reason = "of a file that was not tried"
    "#;

    fn outcome(lines: &[&str]) -> Outcome {
        let mut outcome = Outcome::default();
        for line in lines {
            outcome.take(line);
        }
        outcome
    }

    #[test]
    fn a_survivor_that_is_not_listed_is_told_and_a_listed_one_that_is_noticed_too() {
        let accepted = Accepted::parse(LIST).unwrap();
        let seen = outcome(&[
            "Found 4 mutants to test",
            "ok       Unmutated baseline in 60s build + 2s test",
            "caught   core/src/a.rs:1:2: replace x with () in 2s build + 1s test",
            "unviable core/src/a.rs:2:2: replace y with Default::default() in 1s build",
            "TIMEOUT  core/src/a.rs:3:2: replace += with *= in z in 2s build + 60s test",
            "MISSED   core/src/a.rs:9:2: replace a with b in c in 2s build + 1s test",
        ]);
        assert_eq!((seen.noticed, seen.unviable), (2, 1));
        assert_eq!(accepted.compare(&seen), super::Verdict::default());

        let twice = outcome(&[
            "MISSED   core/src/a.rs:9:2: replace a with b in c in 2s build + 1s test",
            "MISSED   core/src/a.rs:9:8: replace a with b in c in 2s build + 1s test",
        ]);
        let verdict = accepted.compare(&twice);
        assert_eq!(verdict.not_listed, ["core/src/a.rs: replace a with b in c"]);

        let noticed =
            outcome(&["caught   core/src/a.rs:9:2: replace a with b in c in 2s build + 1s test"]);
        let verdict = accepted.compare(&noticed);
        assert_eq!(verdict.gone, ["core/src/a.rs: replace a with b in c"]);
        assert!(verdict.not_listed.is_empty());
    }

    #[test]
    fn an_entry_without_a_reason_is_none() {
        let empty = LIST.replace("they are the same", " ");
        assert!(Accepted::parse(&empty).is_err());
        let twice = LIST.replace(
            "core/src/b.rs: replace d with e",
            "core/src/a.rs: replace a with b in c",
        );
        assert!(Accepted::parse(&twice).is_err());
        assert!(Accepted::parse(&LIST.replace("reason", "why")).is_err());
    }

    #[test]
    fn the_list_can_be_read() {
        Accepted::read(&workspace::root().join(ACCEPTED)).unwrap();
    }
}
