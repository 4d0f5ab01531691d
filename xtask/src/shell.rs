//! How other programs are run, and how a person sees that something is going on.

use std::io::{IsTerminal, Read};
use std::process::{Command, ExitCode, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use indicatif::{ProgressBar, ProgressStyle};

/// A moment to measure from.
#[derive(Clone, Copy)]
pub struct Stopwatch(Instant);

impl Stopwatch {
    /// Starts to measure.
    pub fn start() -> Self {
        #[expect(
            clippy::disallowed_methods,
            reason = "tells a person how long a step took"
        )]
        let now = Instant::now();
        Self(now)
    }

    /// Since the start.
    pub fn elapsed(self) -> Duration {
        self.0.elapsed()
    }
}

/// A length of time as a person reads it: `850 ms`, `12.3 s`, `4 min 05 s`.
pub fn human(time: Duration) -> String {
    if time < Duration::from_secs(1) {
        format!("{} ms", time.as_millis())
    } else if time < Duration::from_mins(1) {
        format!("{:.1} s", time.as_secs_f64())
    } else {
        format!("{} min {:02} s", time.as_secs() / 60, time.as_secs() % 60)
    }
}

/// Says on standard error what goes on.
pub fn say(text: &str) {
    anstream::eprintln!("\x1b[1m{text}\x1b[0m");
}

/// Says on standard error why it did not work out.
pub fn report(error: &anyhow::Error) {
    anstream::eprintln!("\x1b[1;31merror:\x1b[0m {error:#}");
}

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
    let spinner = spinner(title);
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
    spinner.finish_and_clear();
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

/// Is there a person at standard error who sees a spinner turn?
pub fn is_terminal() -> bool {
    std::io::stderr().is_terminal()
}

/// What goes on in something that takes long and says how far it is: a line that changes on a
/// terminal, now and then a plain line elsewhere.
pub struct Progress {
    title: String,
    spinner: ProgressBar,
    told: std::cell::Cell<Stopwatch>,
}

impl Progress {
    /// Between two plain lines.
    const PAUSE: Duration = Duration::from_secs(15);

    /// Begins to show it.
    pub fn start(title: &str) -> Self {
        Self {
            title: title.to_owned(),
            spinner: spinner(title),
            told: Stopwatch::start().into(),
        }
    }

    /// How far it is.
    pub fn tell(&self, how_far: &str) {
        self.spinner
            .set_message(format!("{}: {how_far}", self.title));
        if !is_terminal() && self.told.get().elapsed() >= Self::PAUSE {
            anstream::eprintln!("    {}: {how_far}", self.title);
            self.told.set(Stopwatch::start());
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.spinner.finish_and_clear();
    }
}

fn spinner(title: &str) -> ProgressBar {
    if !is_terminal() {
        anstream::eprintln!("    {title} ...");
        return ProgressBar::hidden();
    }
    let spinner = ProgressBar::new_spinner();
    if let Ok(style) = ProgressStyle::with_template("    {spinner} {msg} {elapsed}") {
        spinner.set_style(style);
    }
    spinner.set_message(title.to_owned());
    spinner.enable_steady_tick(Duration::from_millis(120));
    spinner
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
