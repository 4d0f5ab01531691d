//! How are other programs run?

use std::io::Read;
use std::process::{Command, ExitCode, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::progress::{Progress, Stopwatch, human, is_terminal};

/// Is this run as root, so that packages of the system can be installed?
pub fn is_root() -> bool {
    output(Command::new("id").arg("-u")).is_ok_and(|uid| uid.trim() == "0")
}

/// Can a program of this name be run?
pub fn exists(program: &str) -> bool {
    std::env::var_os("PATH").is_some_and(|path| {
        std::env::split_paths(&path).any(|folder| folder.join(program).is_file())
    })
}

/// Runs a command, shows what it prints, and fails where it fails.
pub fn run(command: &mut Command) -> Result<()> {
    let status = command
        .stdin(Stdio::null())
        .status()
        .with_context(|| format!("cannot run {}", line(command)))?;
    if !status.success() {
        bail!("{} ended with {status}", line(command));
    }
    Ok(())
}

/// Becomes another program: Ctrl-C is for it alone, and so is the last word.
pub fn become_program(command: &mut Command) -> Result<ExitCode> {
    use std::os::unix::process::CommandExt as _;
    let error = command.stdin(Stdio::null()).exec();
    Err(error).with_context(|| format!("cannot run {}", line(command)))
}

/// Runs a command and returns what it printed on standard output.
pub fn output(command: &mut Command) -> Result<String> {
    let output = command
        .stdin(Stdio::null())
        .stderr(Stdio::piped())
        .output()
        .with_context(|| format!("cannot run {}", line(command)))?;
    if !output.status.success() {
        bail!(
            "{} ended with {}: {}",
            line(command),
            output.status,
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Runs a command that takes long and says little: a spinner on a terminal, plain lines
/// elsewhere. What it prints is shown only where it fails.
///
/// It is ended where it takes longer than `limit`.
pub fn run_quietly(title: &str, command: &mut Command, limit: Duration) -> Result<()> {
    let watch = Stopwatch::start();
    let progress = Progress::start(title);
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot run {}", line(command)))?;
    let streams = [
        child.stdout.take().map(collect),
        child.stderr.take().map(collect),
    ];
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break Some(status);
        }
        if watch.elapsed() > limit {
            child.kill()?;
            child.wait()?;
            break None;
        }
        thread::sleep(Duration::from_millis(50));
    };
    drop(progress);
    let Some(status) = status else {
        bail!("{} took longer than {}", line(command), human(limit));
    };
    if !status.success() {
        let mut said = String::new();
        for stream in streams.into_iter().flatten() {
            said.push_str(&stream.join().unwrap_or_default());
        }
        bail!("{} ended with {status}\n{}", line(command), said.trim_end());
    }
    if !is_terminal() {
        anstream::eprintln!("    {title}: {}", human(watch.elapsed()));
    }
    Ok(())
}

fn collect(mut stream: impl Read + Send + 'static) -> thread::JoinHandle<String> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = stream.read_to_end(&mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

/// Which signal a program gets where whoever started it is gone, however that ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Orphaned {
    /// It has something to put away.
    Terminate,
    /// It has nothing.
    Kill,
}

/// The same command for a program that is not to outlive the thread that starts it: the kernel sees
/// to it (`PR_SET_PDEATHSIG`), by way of `setpriv`, from the moment that the program itself begins.
/// Where there is no `setpriv`, it is as it was.
#[must_use]
pub fn bound(command: &Command, orphaned: Orphaned) -> Command {
    bound_by("setpriv", command, orphaned)
}

fn bound_by(setpriv: &str, command: &Command, orphaned: Orphaned) -> Command {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    let mut bound = if exists(setpriv) {
        let mut bound = Command::new(setpriv);
        bound.args(["--pdeathsig", orphaned.name(), "--"]);
        bound.args(words);
        bound
    } else {
        let mut same = Command::new(command.get_program());
        same.args(command.get_args());
        same
    };
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => bound.env(name, value),
            None => bound.env_remove(name),
        };
    }
    if let Some(folder) = command.get_current_dir() {
        bound.current_dir(folder);
    }
    bound
}

impl Orphaned {
    const fn name(self) -> &'static str {
        match self {
            Self::Terminate => "TERM",
            Self::Kill => "KILL",
        }
    }
}

/// A command as a person would type it.
pub fn line(command: &Command) -> String {
    std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(|word| word.to_string_lossy())
        .collect::<Vec<_>>()
        .join(" ")
}

/// Installs packages of Debian or Ubuntu where this is root, and otherwise fails with the one
/// line to run.
pub fn install(packages: &[&str], what_for: &str) -> Result<()> {
    let names = packages.join(" ");
    let hint = format!("apt-get install -y --no-install-recommends {names}");
    if !exists("apt-get") {
        bail!(
            "{what_for} needs the Debian packages {names}, or what your system has in their place"
        );
    }
    if !is_root() {
        bail!("{what_for} is missing; as root run: {hint}");
    }
    let limit = Duration::from_mins(15);
    let apt = |arguments: &[&str]| {
        let mut command = Command::new("apt-get");
        command
            .args(arguments)
            .env("DEBIAN_FRONTEND", "noninteractive");
        command
    };
    run_quietly(
        "reading the lists of packages",
        &mut apt(&["update", "-q"]),
        limit,
    )?;
    let mut command = apt(&["install", "-y", "-q", "--no-install-recommends"]);
    run_quietly(
        &format!("installing {names}"),
        command.args(packages),
        limit,
    )
    .with_context(|| format!("{what_for} is missing and could not be installed; run: {hint}"))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_bound_command_is_the_same_command() {
        for setpriv in ["setpriv", "no-such-setpriv"] {
            let mut command = Command::new("sh");
            command
                .args(["-c", "pwd; echo $A $B"])
                .env("A", "1")
                .env_remove("B")
                .current_dir("/");
            let said = output(&mut bound_by(setpriv, &command, Orphaned::Kill)).unwrap();
            assert_eq!(said, "/\n1\n", "{setpriv}");
        }
    }

    #[test]
    fn a_bound_program_ends_with_the_thread_that_started_it() {
        if !exists("setpriv") {
            return;
        }
        let sleep = bound(Command::new("sleep").arg("600"), Orphaned::Kill);
        let started = thread::spawn(move || {
            let child = { sleep }.spawn().unwrap();
            // Until `setpriv` has made way, nothing binds it yet.
            let name = format!("/proc/{}/comm", child.id());
            while fs::read_to_string(&name).unwrap().trim() != "sleep" {
                thread::sleep(Duration::from_millis(5));
            }
            child
        });
        let mut orphan = started.join().unwrap();
        // It ends by itself: nobody kills it here.
        assert!(!orphan.wait().unwrap().success());
    }
}
