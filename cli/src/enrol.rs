//! How do devices get into the registry? One by one, or as a stream of a million lines.

use std::io::IsTerminal as _;
use std::path::Path;
use std::process::ExitCode;
use std::sync::{Arc, OnceLock};

use futures_util::{StreamExt as _, stream};
use indicatif::{ProgressBar, ProgressStyle};
use reqwest::Method;
use reqwest::header::CONTENT_TYPE;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use tokio::io::{AsyncRead, AsyncReadExt as _};

use crate::args::{Enrol, EnrolFormat, Global};
use crate::client::{NDJSON, Registry};
use crate::failure::{Failure, Outcome};
use crate::output;

/// How much is read and sent at a time, in octets.
const CHUNK: usize = 64 << 10;
/// The most bad lines that the JSON answer names.
const MAX_ERRORS: usize = 10_000;
/// Where nobody sees a bar, a line is written each time so many are enrolled.
const STEP: u64 = 100_000;

/// One line of the registry's answer.
#[derive(Debug, Deserialize)]
struct Progress {
    imported: Option<u64>,
    rejected: Option<u64>,
    unchanged: Option<u64>,
    #[serde(default)]
    done: bool,
    line: Option<u64>,
    error: Option<String>,
}

/// What came of it.
#[derive(Debug, Default)]
struct Tally {
    imported: u64,
    rejected: u64,
    unchanged: u64,
    errors: Vec<Value>,
    /// Why it ended before all was enrolled.
    cut_short: Option<Failure>,
}

/// `medbind enrol`.
pub async fn enrol(args: &Enrol, global: &Global) -> Outcome {
    let registry = Registry::new(global)?;
    let tally = match &args.file {
        Some(path) => from_file(&registry, args, global, path).await?,
        None => one(&registry, args, global).await?,
    };
    if global.json {
        output::json(&json!({
            "imported": tally.imported,
            "rejected": tally.rejected,
            "unchanged": tally.unchanged,
            "errors": tally.errors,
        }));
    } else {
        let unchanged = match tally.unchanged {
            0 => String::new(),
            unchanged => format!(", {unchanged} were there already"),
        };
        let so_far = match &tally.cut_short {
            Some(_) => ", as far as it got",
            None => "",
        };
        output::line(&format!(
            "{} enrolled, {} rejected{unchanged}{so_far}",
            tally.imported, tally.rejected
        ));
    }
    if let Some(failure) = tally.cut_short {
        return Err(failure.and_next(
            "then send the same again, whole: what is enrolled already and the same is left as it is",
        ));
    }
    if tally.is_empty() {
        return Err(Failure::usage("there is no device in what was read").next(
            "is it the right file? write one device on each line; a CSV file names its columns \
             on the first",
        ));
    }
    Ok(ExitCode::from(u8::from(tally.rejected > 0)))
}

/// One device from the command line, as a stream of one line: the answer is the same.
async fn one(registry: &Registry, args: &Enrol, global: &Global) -> Result<Tally, Failure> {
    let mut line = Map::new();
    line.insert("device".to_owned(), json!(args.device));
    line.insert("code".to_owned(), json!(args.code));
    line.insert("secret_hash".to_owned(), json!(args.secret_hash));
    if let Some(class) = &args.class {
        line.insert("class".to_owned(), json!(class));
    }
    if !args.pins.is_empty() {
        line.insert("pins".to_owned(), json!(args.pins));
    }
    if let Some(expires_at) = &args.expires_at {
        line.insert("expires_at".to_owned(), json!(expires_at));
    }
    let request = registry
        .request(Method::POST, "/v1/devices")
        .header(CONTENT_TYPE, NDJSON)
        .body(format!("{}\n", Value::Object(line)));
    let response = registry.send(request).await?;
    Ok(read_answer(registry, response, &ProgressBar::hidden(), !global.json).await)
}

async fn from_file(
    registry: &Registry,
    args: &Enrol,
    global: &Global,
    path: &Path,
) -> Result<Tally, Failure> {
    let unreadable = |error: std::io::Error| Failure::unreadable(path, &error);
    let standard_input = path == Path::new("-");
    let (mut input, length): (Box<dyn AsyncRead + Send + Unpin>, Option<u64>) = if standard_input {
        (Box::new(tokio::io::stdin()), None)
    } else {
        let file = tokio::fs::File::open(path).await.map_err(unreadable)?;
        let length = file.metadata().await.map_err(unreadable)?.len();
        (Box::new(file), Some(length))
    };
    let mut first = vec![0; CHUNK];
    let read = input.read(&mut first).await.map_err(unreadable)?;
    first.truncate(read);
    let format = args.format.unwrap_or_else(|| guess(path, &first));
    let content_type = match format {
        EnrolFormat::Ndjson => NDJSON,
        EnrolFormat::Csv => "text/csv",
    };

    let bar = progress(length, global.json);
    let (moved, named) = (bar.clone(), path.to_owned());
    let rest = stream::unfold(input, |mut input| async move {
        let mut chunk = vec![0; CHUNK];
        match input.read(&mut chunk).await {
            Ok(0) => None,
            Ok(read) => {
                chunk.truncate(read);
                Some((Ok(chunk), input))
            }
            Err(error) => Some((Err(error), input)),
        }
    });
    let chunks = stream::iter([Ok::<_, std::io::Error>(first)]).chain(rest);
    let unread = Arc::new(OnceLock::new());
    let noted = Arc::clone(&unread);
    let body = chunks.inspect(move |chunk| match chunk {
        Ok(chunk) => moved.inc(u64::try_from(chunk.len()).unwrap_or(0)),
        Err(error) => {
            let _ = noted.set(Failure::unreadable(&named, error));
        }
    });
    let request = registry
        .request(Method::POST, "/v1/devices")
        .header(CONTENT_TYPE, content_type)
        .body(reqwest::Body::wrap_stream(body));
    let response = registry
        .send(request)
        .await
        .inspect_err(|_| bar.finish_and_clear())?;
    let mut tally = read_answer(registry, response, &bar, !global.json).await;
    bar.finish_and_clear();
    // What cannot be read ends the answer, too.
    if let Some(failure) = unread.get() {
        tally.cut_short = Some(failure.clone());
    }
    Ok(tally)
}

/// NDJSON, unless name or content say CSV.
fn guess(path: &Path, first: &[u8]) -> EnrolFormat {
    let extension = path.extension().and_then(|extension| extension.to_str());
    match extension.map(str::to_ascii_lowercase).as_deref() {
        Some("csv") => EnrolFormat::Csv,
        Some("ndjson" | "jsonl" | "json") => EnrolFormat::Ndjson,
        _ => {
            let begin = first.trim_ascii_start().first();
            if begin.is_none_or(|octet| *octet == b'{') {
                EnrolFormat::Ndjson
            } else {
                EnrolFormat::Csv
            }
        }
    }
}

fn progress(length: Option<u64>, as_json: bool) -> ProgressBar {
    if as_json || !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let (bar, template) = match length {
        Some(length) => (
            ProgressBar::new(length),
            "{bar:40} {bytes}/{total_bytes}, {eta} left{msg}",
        ),
        None => (ProgressBar::new_spinner(), "{spinner} {bytes} sent{msg}"),
    };
    let style = ProgressStyle::with_template(template);
    bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

/// Reads the answer as far as it comes: what it has told is on the registry's disk.
async fn read_answer(
    registry: &Registry,
    response: reqwest::Response,
    bar: &ProgressBar,
    show_errors: bool,
) -> Tally {
    let mut tally = Tally::default();
    let ended = tally.read(registry, response, bar, show_errors).await;
    if let Err(failure) = ended {
        tally.cut_short = Some(failure);
    }
    tally
}

impl Tally {
    /// Whether no line of the stream named a device.
    fn is_empty(&self) -> bool {
        self.imported == 0 && self.rejected == 0 && self.unchanged == 0
    }

    async fn read(
        &mut self,
        registry: &Registry,
        response: reqwest::Response,
        bar: &ProgressBar,
        show_errors: bool,
    ) -> Result<(), Failure> {
        let mut pending = Vec::new();
        let mut done = false;
        let mut body = response.bytes_stream();
        while let Some(chunk) = body.next().await {
            let chunk = chunk.map_err(|error| registry.failed(&error))?;
            pending.extend_from_slice(&chunk);
            while let Some(end) = pending.iter().position(|octet| *octet == b'\n') {
                let line: Vec<u8> = pending.drain(..=end).collect();
                done |= self.take(registry, &line, bar, show_errors)?;
            }
        }
        done |= self.take(registry, &pending, bar, show_errors)?;
        if done {
            Ok(())
        } else {
            Err(registry.unexpected(&"it ends before its last line"))
        }
    }

    /// Takes a line; answers whether it is the last one, and all was read.
    fn take(
        &mut self,
        registry: &Registry,
        line: &[u8],
        bar: &ProgressBar,
        show_errors: bool,
    ) -> Result<bool, Failure> {
        if line.trim_ascii().is_empty() {
            return Ok(false);
        }
        let progress: Progress =
            serde_json::from_slice(line).map_err(|error| registry.unexpected(&error))?;
        if let Some(imported) = progress.imported {
            let steps = |count: u64| count.checked_div(STEP);
            if bar.is_hidden() && show_errors && steps(imported) > steps(self.imported) {
                output::note(format_args!("{imported} enrolled so far"));
            }
            self.imported = imported;
            bar.set_message(format!(", {imported} enrolled"));
        }
        if let Some(rejected) = progress.rejected {
            self.rejected = rejected;
        }
        if let Some(unchanged) = progress.unchanged {
            self.unchanged = unchanged;
        }
        match (progress.error, progress.line) {
            (None, _) => {}
            (Some(error), Some(line)) => {
                if show_errors {
                    bar.suspend(|| output::note(format_args!("line {line}: {error}")));
                }
                if self.errors.len() < MAX_ERRORS {
                    self.errors.push(json!({"line": line, "error": error}));
                }
            }
            // Its last line: it ends before the stream did.
            (Some(error), None) => return Err(registry.stopped_reading(&error)),
        }
        Ok(progress.done)
    }
}
