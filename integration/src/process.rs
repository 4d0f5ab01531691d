//! A program that runs beside us: what it says is kept, and it ends when we let go of it.

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use medbind_workshop::shell::{self, Orphaned};

/// The most lines of output that are kept of one stream.
const MAX_LINES: usize = 200_000;

/// What a program has said so far, line by line.
#[derive(Clone, Default)]
pub struct Said(Arc<Mutex<Vec<String>>>);

impl Said {
    /// All lines so far.
    pub fn lines(&self) -> Vec<String> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// The first line that holds `text`.
    pub fn find(&self, text: &str) -> Option<String> {
        let lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        lines.iter().find(|line| line.contains(text)).cloned()
    }

    /// How many lines hold `text`.
    pub fn count(&self, text: &str) -> usize {
        let lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        lines.iter().filter(|line| line.contains(text)).count()
    }

    /// The last lines, for an error that shows them.
    pub fn tail(&self, lines: usize) -> String {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.iter()
            .skip(all.len().saturating_sub(lines))
            .fold(String::new(), |text, line| text + line + "\n")
    }

    fn listen(&self, stream: impl Read + Send + 'static) {
        let said = self.clone();
        thread::spawn(move || {
            for line in BufReader::new(stream).split(b'\n').map_while(Result::ok) {
                let mut lines = said.0.lock().unwrap_or_else(PoisonError::into_inner);
                if lines.len() < MAX_LINES {
                    lines.push(String::from_utf8_lossy(&line).into_owned());
                }
            }
        });
    }
}

/// A program that runs beside us. Dropping it ends it, by its process id; and where we do not come
/// to that, the kernel does it.
pub struct Process {
    name: String,
    child: Child,
    /// What it said on standard output.
    pub stdout: Said,
    /// What it said on standard error.
    pub stderr: Said,
}

impl Process {
    /// Starts a program. The thread that does so is to last as long as it.
    pub fn start(command: &Command) -> Result<Self> {
        let name = Path::new(command.get_program())
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        let mut child = shell::bound(command, Orphaned::Kill)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start {}", command.get_program().to_string_lossy()))?;
        let (stdout, stderr) = (Said::default(), Said::default());
        if let Some(stream) = child.stdout.take() {
            stdout.listen(stream);
        }
        if let Some(stream) = child.stderr.take() {
            stderr.listen(stream);
        }
        Ok(Self {
            name,
            child,
            stdout,
            stderr,
        })
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// How it ended, where it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Fails with what it said where it is no longer there.
    pub fn check(&mut self) -> Result<()> {
        match self.ended() {
            None => Ok(()),
            Some(status) => {
                thread::sleep(Duration::from_millis(100));
                anyhow::bail!(
                    "{} ended with {status}:\n{}",
                    self.name,
                    self.stderr.tail(30)
                )
            }
        }
    }

    /// Waits for something for as long as the program runs.
    ///
    /// # Errors
    /// What is waited for failed, or the program ended; then the error holds its last lines.
    pub async fn meanwhile<T>(&mut self, waiting: impl Future<Output = Result<T>>) -> Result<T> {
        let mut waiting = std::pin::pin!(waiting);
        loop {
            tokio::select! {
                done = &mut waiting => return done,
                () = tokio::time::sleep(Duration::from_millis(50)) => self.check()?,
            }
        }
    }

    /// Ends it at once, as a power cut would.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_waits_for_a_program_that_ends_hears_of_it_at_once() {
        let mut program = Process::start(
            Command::new("sh").args(["-c", "echo there is no such listener >&2; exit 3"]),
        )
        .unwrap();
        let never = std::future::pending::<Result<()>>();
        let error = program.meanwhile(never).await.unwrap_err().to_string();
        assert!(error.contains("exit status: 3"), "{error}");
        assert!(error.contains("there is no such listener"), "{error}");
    }
}
