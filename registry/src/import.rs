//! How does a stream of a million lines become batches? `POST /v1/devices`.

use core::convert::Infallible;
use core::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use futures_util::{Stream, StreamExt as _, stream};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use crate::change::Cause;
use crate::enrol::{BadLine, Enrolment};
use crate::lines::{Format, Line, Lines, MAX_LINE_OCTETS, Reader};
use crate::problem::Problem;
use crate::routes::{App, Caller};
use crate::seen::Seen;
use crate::store::StoreError;

/// How many lines make one transaction.
const BATCH_LINES: usize = 5_000;
/// A client that sends nothing for so long is gone.
const STALLED: Duration = Duration::from_mins(1);
/// How many messages wait for a client that sends everything before it reads anything.
const ANSWERS_AHEAD: usize = 1_024;

/// A line of the answer to an import.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum ImportLine {
    /// A line that was not imported.
    Rejected {
        /// The line of the request's body, from 1.
        line: u64,
        /// What is wrong with it.
        error: String,
    },
    /// The last line. Where `error` is there, the import ended before the stream did.
    Done {
        /// How many devices were enrolled.
        imported: u64,
        /// How many lines were not.
        rejected: u64,
        /// How many were there before, by the same line.
        #[serde(default, skip_serializing_if = "is_zero")]
        unchanged: u64,
        /// Whether the whole stream was read.
        done: bool,
        /// Why not.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        error: Option<String>,
    },
    /// Progress: what is on disk so far.
    Progress {
        /// How many devices were enrolled.
        imported: u64,
    },
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde hands a reference over"
)]
const fn is_zero(count: &u64) -> bool {
    *count == 0
}

fn format_of(headers: &HeaderMap) -> Result<Format, Problem> {
    let text = headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok());
    let essence = text
        .unwrap_or_default()
        .split(';')
        .next()
        .unwrap_or_default()
        .trim();
    match essence.to_ascii_lowercase().as_str() {
        "application/x-ndjson" | "application/ndjson" => Ok(Format::Ndjson),
        "application/json" => Ok(Format::Json),
        "text/csv" => Ok(Format::Csv),
        _ => Err(
            Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type")
                .because("content-type is one of application/x-ndjson, text/csv, application/json"),
        ),
    }
}

/// `POST /v1/devices`.
pub(crate) async fn import(
    State(app): State<App>,
    caller: Caller,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let format = format_of(&headers)?;
    let (answers, mut lines) = mpsc::channel::<Bytes>(ANSWERS_AHEAD);
    let cause = Cause {
        actor: caller.to_string(),
        reason: None,
    };
    tokio::spawn(async move {
        let mut import = Import {
            app,
            cause,
            answers,
            reader: Reader::new(format),
            seen: Seen::default(),
            imported: 0,
            unchanged: 0,
            rejected: 0,
        };
        let error = import.run(body).await.err();
        import.finish(error).await;
    });
    let body = stream::poll_fn(move |context| lines.poll_recv(context)).map(Ok::<_, Infallible>);
    let mut response = Body::from_stream(body).into_response();
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/x-ndjson"),
    );
    Ok(response)
}

struct Import {
    app: App,
    cause: Cause,
    answers: mpsc::Sender<Bytes>,
    reader: Reader,
    seen: Seen,
    imported: u64,
    unchanged: u64,
    rejected: u64,
}

impl Import {
    /// Reads the body to its end. What was read whole is imported also where the rest fails.
    async fn run(&mut self, body: Body) -> Result<(), String> {
        let mut chunks = body.into_data_stream();
        let mut lines = Lines::default();
        let mut batch = Vec::new();
        let ended = loop {
            match next_chunk(&mut chunks).await {
                Ok(Some(chunk)) => {
                    let mut rest = chunk.as_ref();
                    while let Some((line, after)) = lines.take(rest, MAX_LINE_OCTETS) {
                        rest = after;
                        batch.push(line);
                        if batch.len() >= BATCH_LINES {
                            self.enrol(core::mem::take(&mut batch)).await?;
                        }
                    }
                }
                Ok(None) => break Ok(()),
                Err(error) => break Err(error),
            }
        };
        // A line that was cut off by an error is no line.
        if ended.is_ok() {
            batch.extend(lines.last());
        }
        self.enrol(batch).await?;
        if ended.is_ok() {
            let rest = self.reader.rest();
            self.take(rest).await?;
        }
        ended
    }

    /// Parses and writes one batch.
    async fn enrol(&mut self, lines: Vec<Line>) -> Result<(), String> {
        if lines.is_empty() {
            return Ok(());
        }
        let mut reader = self.reader.clone();
        let parsed = tokio::task::spawn_blocking(move || {
            let found = lines
                .into_iter()
                .filter_map(|line| reader.read(line))
                .collect::<Vec<_>>();
            (reader, found)
        });
        let (reader, found) = parsed.await.map_err(|error| {
            tracing::error!("import: {error}");
            "internal error".to_owned()
        })?;
        self.reader = reader;
        self.take(found).await
    }

    async fn take(&mut self, found: Vec<Result<(u64, Enrolment), BadLine>>) -> Result<(), String> {
        if found.is_empty() {
            return Ok(());
        }
        let mut good = Vec::with_capacity(found.len());
        let mut bad = Vec::new();
        for line in found {
            match line {
                Ok(line) => good.push(line),
                Err(line) => bad.push(line),
            }
        }
        if !good.is_empty() {
            // Where the batch fails, the import ends, and nobody asks what was seen.
            let seen = core::mem::take(&mut self.seen);
            let enrolled = self
                .app
                .store
                .enrol(good, seen, self.cause.clone())
                .await
                .map_err(|error| {
                    // Not the words for one change: parts of an import may be on the disk already.
                    let full = matches!(error, StoreError::Full);
                    let problem = Problem::from(error);
                    let words = problem
                        .detail
                        .clone()
                        .unwrap_or_else(|| problem.code.to_owned());
                    problem.log();
                    if full {
                        "the registry's disk is full; what came before is imported".to_owned()
                    } else {
                        words
                    }
                })?;
            self.imported = self.imported.saturating_add(enrolled.imported);
            self.unchanged = self.unchanged.saturating_add(enrolled.unchanged);
            self.seen = enrolled.seen;
            bad.extend(enrolled.rejected);
        }
        bad.sort_by_key(|bad| bad.line);
        self.rejected = self
            .rejected
            .saturating_add(u64::try_from(bad.len()).unwrap_or(u64::MAX));
        let rejected = bad
            .into_iter()
            .map(|BadLine { line, error }| ImportLine::Rejected { line, error });
        let progress = ImportLine::Progress {
            imported: self.imported,
        };
        self.answer(rejected.chain([progress])).await;
        Ok(())
    }

    async fn answer(&self, lines: impl Iterator<Item = ImportLine>) {
        let mut octets = Vec::new();
        for line in lines {
            if serde_json::to_writer(&mut octets, &line).is_ok() {
                octets.push(b'\n');
            }
        }
        // Nobody listens any more: what was asked for is done all the same.
        let _ = self.answers.send(octets.into()).await;
    }

    async fn finish(self, error: Option<String>) {
        tracing::info!(
            actor = self.cause.actor,
            imported = self.imported,
            unchanged = self.unchanged,
            rejected = self.rejected,
            error,
            "import ended"
        );
        let done = ImportLine::Done {
            imported: self.imported,
            rejected: self.rejected,
            unchanged: self.unchanged,
            done: error.is_none(),
            error,
        };
        self.answer([done].into_iter()).await;
    }
}

async fn next_chunk(
    chunks: &mut (impl Stream<Item = Result<Bytes, axum::Error>> + Unpin),
) -> Result<Option<Bytes>, String> {
    match tokio::time::timeout(STALLED, chunks.next()).await {
        Ok(Some(Ok(chunk))) => Ok(Some(chunk)),
        Ok(None) => Ok(None),
        Ok(Some(Err(_))) => Err("the body was cut short; what came before is imported".to_owned()),
        Err(_) => Err("no more lines came; what came before is imported".to_owned()),
    }
}
