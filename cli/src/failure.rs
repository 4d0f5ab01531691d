//! How does a command end badly? What happened, where, and what to do next.

use std::fmt;
use std::path::Path;
use std::process::ExitCode;

use clap::error::ErrorKind;
use serde_json::json;

use crate::output;

/// Whose fault it is, and so the exit status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It was refused, or failed: 1.
    Refused,
    /// Wrong usage or configuration: 2.
    Usage,
}

impl From<Kind> for ExitCode {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::Refused => Self::from(1),
            Kind::Usage => Self::from(2),
        }
    }
}

/// What a command answers when it cannot do its work.
#[derive(Clone, Debug)]
pub struct Failure {
    kind: Kind,
    what: String,
    next: Option<String>,
    code: Option<String>,
    retry_after: Option<u64>,
    may_be_done: bool,
}

/// What a command answers with: the exit status, or why it failed.
pub type Outcome = Result<ExitCode, Failure>;

impl Failure {
    /// It was refused, or failed.
    pub fn refused(what: impl fmt::Display) -> Self {
        Self::new(Kind::Refused, what)
    }

    /// Wrong usage or configuration.
    pub fn usage(what: impl fmt::Display) -> Self {
        Self::new(Kind::Usage, what)
    }

    /// A command line that does not parse: what `clap` says in its first paragraph, and its tips.
    pub fn of_command_line(error: &clap::Error) -> Self {
        let help = "medbind --help";
        if error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
            return Self::usage("no command is named").next(help);
        }
        let said = error.to_string();
        let mut paragraphs = said.split("\n\n");
        let what = on_one_line(paragraphs.next().unwrap_or_default());
        let tips: Vec<String> = paragraphs
            .flat_map(str::lines)
            .filter_map(|line| line.trim().strip_prefix("tip: "))
            .map(str::to_owned)
            .collect();
        let what = what.strip_prefix("error: ").unwrap_or(&what);
        Self::usage(what).next(if tips.is_empty() {
            help.to_owned()
        } else {
            tips.join("; ")
        })
    }

    fn new(kind: Kind, what: impl fmt::Display) -> Self {
        Self {
            kind,
            what: what.to_string(),
            next: None,
            code: None,
            retry_after: None,
            may_be_done: false,
        }
    }

    /// A file that was named and cannot be read.
    pub fn unreadable(path: &Path, error: &std::io::Error) -> Self {
        Self::usage(format_args!("cannot read {}: {error}", path.display()))
    }

    /// A file or directory that cannot be written.
    pub fn unwritable(path: &Path, error: &std::io::Error) -> Self {
        Self::refused(format_args!("cannot write {}: {error}", path.display()))
    }

    /// With what to do next.
    #[must_use]
    pub fn next(mut self, next: impl fmt::Display) -> Self {
        self.next = Some(next.to_string());
        self
    }

    /// With something more to do next, behind what is to be done already.
    #[must_use]
    pub fn and_next(self, more: impl fmt::Display) -> Self {
        match self.next.clone() {
            Some(next) => self.next(format_args!("{next}; {more}")),
            None => self.next(more),
        }
    }

    /// With the registry's code.
    #[must_use]
    pub fn code(mut self, code: Option<&str>) -> Self {
        self.code = code.map(str::to_owned);
        self
    }

    /// With the seconds to wait before the next try.
    #[must_use]
    pub fn retry_after(mut self, seconds: Option<u64>) -> Self {
        self.retry_after = seconds;
        self
    }

    /// With the doubt that what was asked for was done all the same.
    #[must_use]
    pub fn perhaps_done(self, may_be_done: bool) -> Self {
        Self {
            may_be_done,
            ..self
        }
    }

    /// Whether what was asked for may have been done all the same.
    pub fn may_be_done(&self) -> bool {
        self.may_be_done
    }

    /// The same, where it keeps a question from being answered: 2, not 1.
    #[must_use]
    pub fn into_usage(self) -> Self {
        Self {
            kind: Kind::Usage,
            ..self
        }
    }

    /// The exit status.
    pub fn status(&self) -> ExitCode {
        self.kind.into()
    }

    /// To standard error, in words or as one JSON object.
    pub fn print(&self, as_json: bool) {
        if as_json {
            let object = json!({
                "error": self.what,
                "code": self.code,
                "retry_after": self.retry_after,
                "next": self.next,
            });
            output::note(object);
            return;
        }
        let (red, bold) = (output::RED, output::BOLD);
        output::note(format_args!("{red}error:{red:#} {}", self.what));
        if let Some(next) = &self.next {
            output::note(format_args!("  {bold}next:{bold:#} {next}"));
        }
    }
}

fn on_one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}
