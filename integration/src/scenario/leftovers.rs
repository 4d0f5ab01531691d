//! What is left of a run that is told to end in the middle, or is killed? Another run of the
//! scenarios is, with a folder of its own for what is temporary.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};

use super::report::Report;
use super::story::case;
use crate::process::Process;
use crate::tools::Tools;
use crate::wait::until;

/// How long the other run may take to start an Envoy, and to end.
const LIMIT: Duration = Duration::from_mins(1);
/// What it is in the middle of: an Envoy and a registry run, and there is shared memory.
const MIDDLE: &str = "a hot restart lets no wrong request pass";

/// All of them.
pub async fn none(tools: &Tools, report: &mut Report) {
    case!(
        report,
        "a run that is told to end leaves no program and no file",
        told_to_end(tools)
    );
    case!(
        report,
        "a run that is killed leaves no program",
        killed(tools)
    );
}

/// Another run, in the middle of it.
struct Run {
    process: Process,
    /// By number: how it was called.
    programs: BTreeMap<u32, Vec<String>>,
    folder: tempfile::TempDir,
}

impl Run {
    /// Where it is to be `restarting`, an Envoy is in the middle of a hot restart.
    async fn start(tools: &Tools, restarting: bool) -> Result<Self> {
        let folder = tempfile::Builder::new()
            .prefix("medbind-leftovers-")
            .tempdir()?;
        let mut command = Command::new(std::env::current_exe()?);
        command
            .args(["--only", MIDDLE])
            .env("TMPDIR", folder.path());
        let mut process = Process::start(&command)?;
        let id = process.id();
        let looking = until("the run has an Envoy and a registry", LIMIT, || async {
            let programs = children(id);
            let runs = |program: &Path| {
                let mut programs = programs.values().filter_map(|words| words.first());
                programs.any(|word| Path::new(word) == program)
            };
            let shared = programs.values().find_map(|words| shared_memory(words));
            let is_there = shared.is_some_and(|file| file.exists());
            let far = is_there || !restarting;
            (runs(&tools.command) && runs(&tools.envoy) && far).then_some(programs)
        });
        let (programs, _) = process.meanwhile(looking).await?;
        Ok(Self {
            process,
            programs,
            folder,
        })
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        let id = i32::try_from(self.process.id())
            .ok()
            .and_then(Pid::from_raw);
        Ok(kill_process(id.context("no number")?, signal)?)
    }

    /// How it ended.
    async fn end(&mut self) -> Result<std::process::ExitStatus> {
        let run = &mut self.process;
        let ended = until("the run ends", LIMIT, || {
            let ended = run.ended();
            async move { ended }
        });
        Ok(ended.await?.0)
    }

    async fn no_program(&self) -> Result<()> {
        let gone = until("its programs end", LIMIT, || async {
            let runs = |(id, words): (&u32, &Vec<String>)| called(*id).as_ref() == Some(words);
            (!self.programs.iter().any(runs)).then_some(())
        });
        gone.await?;
        Ok(())
    }
}

/// The children of a process: how each was called, by its number.
fn children(parent: u32) -> BTreeMap<u32, Vec<String>> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let numbers = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let of_parent = numbers.filter(|id: &u32| {
        let stat = fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
        // The name, in brackets, may hold anything (proc(5)).
        let after = stat.rsplit_once(") ").map(|(_, after)| after);
        let number = after.and_then(|after| after.split(' ').nth(1));
        number.and_then(|number| number.parse().ok()) == Some(parent)
    });
    of_parent.filter_map(|id| Some((id, called(id)?))).collect()
}

fn called(id: u32) -> Option<Vec<String>> {
    let words = fs::read(format!("/proc/{id}/cmdline")).ok()?;
    let words = String::from_utf8_lossy(&words).into_owned();
    let words: Vec<_> = words.split_terminator('\0').map(str::to_owned).collect();
    (!words.is_empty()).then_some(words)
}

/// The shared memory of an Envoy that was called like this.
fn shared_memory(words: &[String]) -> Option<PathBuf> {
    let mut words = words.iter();
    words.find(|word| *word == "--base-id")?;
    Some(crate::envoy::shared_memory(words.next()?.parse().ok()?))
}

async fn told_to_end(tools: &Tools) -> Result<()> {
    let mut other = Run::start(tools, true).await?;
    let shared = other
        .programs
        .values()
        .find_map(|words| shared_memory(words));
    other.signal(Signal::TERM)?;
    let status = other.end().await?;
    ensure!(status.code() == Some(128 + 15), "it ended with {status}");
    other.no_program().await?;
    let left = fs::read_dir(other.folder.path())?
        .flatten()
        .map(|entry| entry.path())
        .chain(shared.filter(|file| file.exists()))
        .collect::<Vec<_>>();
    ensure!(left.is_empty(), "it left {left:?}");
    Ok(())
}

async fn killed(tools: &Tools) -> Result<()> {
    let mut other = Run::start(tools, false).await?;
    other.signal(Signal::KILL)?;
    other.end().await?;
    other.no_program().await
}
