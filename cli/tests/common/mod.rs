//! Runs the command as a person or a script does.
#![allow(dead_code, reason = "each test file uses a part of it")]

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::Value;
use tempfile::TempDir;

/// What a run left.
#[derive(Debug)]
pub struct Ran {
    /// The exit status.
    pub status: i32,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

impl Ran {
    /// Standard output as one JSON value.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// Fails unless the exit status is this one.
    #[track_caller]
    pub fn ended_with(self, status: i32) -> Self {
        assert_eq!(self.status, status, "{}\n{}", self.out, self.err);
        self
    }
}

/// A directory of its own, and an environment without the caller's.
#[derive(Debug)]
pub struct Desk {
    dir: TempDir,
    environment: Vec<(String, String)>,
}

impl Desk {
    /// An empty directory.
    pub fn new() -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
            environment: Vec::new(),
        }
    }

    /// A directory with a device CA of the namespace acme in `ca`.
    pub fn with_ca(more: &[&str]) -> Self {
        let desk = Self::new();
        desk.make_ca(more);
        desk
    }

    /// Makes a device CA of the namespace acme in `ca`.
    pub fn make_ca(&self, more: &[&str]) {
        let init = ["ca", "init", "ca", "--namespace", "acme"];
        self.run(&[&init[..], more].concat()).ended_with(0);
    }

    /// Provisions a device of the class cgm with the CA in `ca`; answers what was made.
    pub fn provision(&self, serial: &str, more: &[&str]) -> Value {
        let provision = ["provision", "--ca", "ca", "--class", "cgm", "--json"];
        let serial = ["--serial", serial];
        let args = [&provision[..], &serial, more].concat();
        self.run(&args).ended_with(0).json()
    }

    /// Sets a variable for all runs.
    pub fn set(&mut self, name: &str, value: &str) {
        self.environment.push((name.to_owned(), value.to_owned()));
    }

    /// A path in the directory.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Writes a file.
    pub fn write(&self, name: &str, text: impl AsRef<[u8]>) {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    /// Reads a file.
    pub fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    /// The command, in the directory.
    pub fn command(&self, args: &[&str]) -> Command {
        self.command_of(Path::new(env!("CARGO_BIN_EXE_medbind")), args)
    }

    fn command_of(&self, program: &Path, args: &[&str]) -> Command {
        let mut command = Command::new(program);
        command.args(args).current_dir(self.dir.path());
        for name in [
            "MEDBIND_REGISTRY",
            "MEDBIND_CREDENTIALS",
            "MEDBIND_CLAIM_SECRET",
            "MEDBIND_LOG",
        ] {
            command.env_remove(name);
        }
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command
    }

    /// Gives all of it to the user nobody, and a copy of the command besides.
    pub fn give_to_nobody(&self) {
        let copy = self.path("medbind");
        let owner = format!("{NOBODY}:{NOBODY}");
        // Copied by another process: one that another test starts meanwhile would hold it open.
        let (program, all) = (env!("CARGO_BIN_EXE_medbind"), self.dir.path());
        let mut steps = [Command::new("cp"), Command::new("chown")];
        steps[0].arg(program).arg(&copy);
        steps[1].args(["-R", &owner]).arg(all);
        for step in &mut steps {
            assert!(step.status().unwrap().success(), "{step:?}");
        }
    }

    /// The command as nobody runs it, who has been given the directory.
    pub fn as_nobody(&self, args: &[&str]) -> Command {
        let mut command = self.command_of(&self.path("medbind"), args);
        command.uid(NOBODY).gid(NOBODY);
        command
    }

    /// Runs the command.
    pub fn run(&self, args: &[&str]) -> Ran {
        self.run_with(args, "")
    }

    /// Runs the command with this on standard input.
    pub fn run_with(&self, args: &[&str], input: &str) -> Ran {
        ran(self.command(args), input)
    }
}

/// Runs a command with this on standard input.
pub fn ran(mut command: Command, input: &str) -> Ran {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_owned();
    // A command that does not read its input ends before all of it is written.
    let writer = std::thread::spawn(move || drop(stdin.write_all(input.as_bytes())));
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    Ran {
        status: output.status.code().unwrap(),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
    }
}

/// The user nobody and the group of that name.
pub const NOBODY: u32 = 65_534;

/// Whether root runs the tests, who can give files to others; where not, it is said that this test
/// is skipped.
pub fn is_root(test: &str) -> bool {
    let is_root = rustix::process::geteuid().is_root();
    if !is_root {
        // Not as `println`, which a test that passes is not heard with.
        let _ = writeln!(std::io::stdout(), "skip  {test}: it needs root");
    }
    is_root
}

/// A pipe to a reader that has gone away.
pub fn unread() -> Stdio {
    let (_, to_nobody) = std::io::pipe().unwrap();
    to_nobody.into()
}

/// `medbind serve` on the directory `data` of a desk, on a free port.
pub const SERVE: [&str; 6] = [
    "serve",
    "--data-dir",
    "data",
    "--listen",
    "127.0.0.1:0",
    "--json",
];

/// A registry in a process of its own, which can be killed.
#[derive(Debug)]
pub struct Served {
    process: Child,
    /// What it has said at its start.
    pub told: Value,
}

impl Served {
    /// Starts [`SERVE`], and waits until it listens.
    pub fn start(desk: &Desk) -> Self {
        Self::of(desk.command(&SERVE))
    }

    /// Starts it by a command of ones own.
    pub fn of(command: Command) -> Self {
        Self::logging_to(command, Stdio::null())
    }

    /// Starts it by a command of ones own, with this as standard error.
    pub fn logging_to(mut command: Command, stderr: Stdio) -> Self {
        let mut process = command
            .stdout(Stdio::piped())
            .stderr(stderr)
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        let told = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line:?}"));
        Self { process, told }
    }

    /// Its address and port.
    pub fn address(&self) -> &str {
        self.told["address"].as_str().unwrap()
    }

    /// Its address as a URL.
    pub fn base(&self) -> String {
        format!("https://{}", self.address())
    }

    /// Its process number.
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// Ends it in the middle of its work.
    pub fn kill(self) {
        drop(self);
    }

    /// Waits until it has ended by itself; answers the exit status.
    pub fn ended(mut self) -> Option<i32> {
        self.process.wait().unwrap().code()
    }
}

impl Drop for Served {
    /// Also where a test fails.
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A file's mode.
pub fn mode(path: &Path) -> u32 {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}

/// Each line moved to the right by `by` blanks.
pub fn indented(text: &str, by: usize) -> String {
    let blanks = " ".repeat(by);
    let mut moved = String::new();
    for line in text.lines() {
        moved.extend([&blanks, line, "\n"]);
    }
    moved
}

/// A guard's configuration around `issuers` (a list in YAML).
pub fn guard_yaml(issuers: &str) -> String {
    let issuers = indented(issuers, 2);
    format!(
        "role: http\n\
         mode: enforce\n\
         issuers:\n\
         {issuers}\
         accounts:\n\
         - issuer: https://sign-in.example\n\
         rules:\n\
         - path: /v1/devices/{{device}}/readings\n  \
           methods: [POST]\n  \
           principals: [device]\n  \
           tags: {{traffic: phi}}\n\
         - path: /v1/devices/{{device}}/**\n  \
           principals: [account]\n\
         - path: /healthz\n  \
           principals: [anyone]\n"
    )
}
