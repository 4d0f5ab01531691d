//! How is an answer shown? Colours, tables, JSON lines.

use std::fmt;
use std::io::{ErrorKind, Write as _};
use std::sync::OnceLock;

use clap::builder::styling::{AnsiColor, Style};

use crate::failure::Failure;

/// What is emphasised.
pub const BOLD: Style = Style::new().bold();
/// What went wrong.
pub const RED: Style = AnsiColor::Red.on_default().bold();
/// What needs a look.
pub const YELLOW: Style = AnsiColor::Yellow.on_default().bold();
/// What went well.
pub const GREEN: Style = AnsiColor::Green.on_default().bold();
/// What can be passed over.
pub const DIM: Style = Style::new().dimmed();

/// Writes to the end of a `String`, as `write!` does, which cannot fail there.
macro_rules! put {
    ($text:expr, $($words:tt)*) => {{
        use std::fmt::Write as _;
        let _ = write!($text, $($words)*);
    }};
}
pub(crate) use put;

/// Why standard output takes no more.
static LOST: OnceLock<std::io::Error> = OnceLock::new();

/// Of which device the claim secret was in an answer that could not be written.
static SECRET_LOST: OnceLock<String> = OnceLock::new();

/// Writes text with the only copy of a device's claim secret in it: that it was lost is told even
/// where the reader has gone away.
pub fn text_with_secret(text: &str, device: &str) {
    octets(text.as_bytes());
    if LOST.get().is_some() {
        // The first one stands.
        let _ = SECRET_LOST.set(device.to_owned());
    }
}

/// Writes text to standard output. Once that takes no more (its reader has gone away, its disk is
/// full) nothing is written, and the command goes on: what it does, and the status that it ends
/// with, are the same whoever reads.
pub fn text(text: &str) {
    octets(text.as_bytes());
}

/// Writes text that is no answer to standard output: one that cannot be written is told, and changes
/// nothing of how the command ends.
pub fn announce(text: &str) {
    let mut out = anstream::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            warning(format_args!("cannot write to standard output: {error}"));
        }
        Ok(()) | Err(_) => {}
    }
}

/// Writes octets to standard output, as [`text`] does.
pub fn octets(octets: &[u8]) {
    if LOST.get().is_some() {
        return;
    }
    let mut out = anstream::stdout().lock();
    if let Err(error) = out.write_all(octets).and_then(|()| out.flush()) {
        // The first one stands.
        let _ = LOST.set(error);
    }
}

/// What there is to say of an answer that could not be written. A reader that has gone away has
/// read what it wanted, unless it was to read a secret.
pub fn unwritten() -> Option<Failure> {
    if let (Some(error), Some(device)) = (LOST.get(), SECRET_LOST.get()) {
        return Some(
            Failure::refused(format_args!(
                "cannot write the answer: {error}; the claim secret of {device} was in it, is shown \
                 once, and is lost"
            ))
            .next(format_args!(
                "make another: medbind new-secret {device} (where it is not enrolled yet: medbind \
                 enrol its device.json first)"
            )),
        );
    }
    let error = LOST
        .get()
        .filter(|error| error.kind() != ErrorKind::BrokenPipe)?;
    Some(Failure::refused(format_args!(
        "cannot write the answer: {error}"
    )))
}

/// Writes a line to standard output.
pub fn line(line: &str) {
    text(&format!("{line}\n"));
}

/// Writes a line to standard error. One that cannot be written changes nothing of what the command
/// does, nor of its status.
pub fn note(words: impl fmt::Display) {
    let _ = writeln!(anstream::stderr(), "{words}");
}

/// Asks on standard error, with the answer on the same line.
pub fn ask(words: impl fmt::Display) {
    let _ = write!(anstream::stderr(), "{words}");
}

/// Says on standard error what needs a look.
pub fn warning(words: impl fmt::Display) {
    note(format_args!("{YELLOW}warning:{YELLOW:#} {words}"));
}

/// Says on standard error each of what needs a look.
pub fn warnings(words: &[String]) {
    for words in words {
        warning(words);
    }
}

/// Writes a JSON value to standard output, on one line.
pub fn json(value: &serde_json::Value) {
    line(&value.to_string());
}

/// Rows under headings, each column as wide as it must be. Cells hold no colours.
pub fn table(headings: &[&str], rows: &[Vec<String>]) -> String {
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        let cells = cells.map(|cell| cell.chars().count());
        let heading = headings.get(column).map_or(0, |h| h.chars().count());
        cells.fold(heading, usize::max)
    };
    let widths: Vec<usize> = (0..headings.len()).map(width).collect();
    let row = |cells: &[String]| {
        let padded: Vec<String> = cells
            .iter()
            .zip(&widths)
            .map(|(cell, width)| format!("{cell:<width$}"))
            .collect();
        padded.join("  ").trim_end().to_owned()
    };
    let headings: Vec<String> = headings.iter().map(|&heading| heading.to_owned()).collect();
    let mut text = format!("{BOLD}{}{BOLD:#}\n", row(&headings));
    for cells in rows {
        text.push_str(&row(cells));
        text.push('\n');
    }
    text
}
