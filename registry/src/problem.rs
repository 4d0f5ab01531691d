//! How the registry says no: to the client a problem document (RFC 9457), to the operator a line
//! in the log. They are two things, and the client never learns the second.

use core::fmt;

use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use serde::Serialize;

/// A refusal or failure of a request.
#[derive(Debug)]
pub(crate) struct Problem {
    /// The status of the answer.
    pub status: StatusCode,
    /// The stable code, for programs.
    pub code: &'static str,
    /// For the person who calls; never holds a secret.
    pub detail: Option<String>,
    /// Seconds to wait before the next try (RFC 9110, 10.2.3).
    pub retry_after: Option<u32>,
    /// For the operator of the registry, in the log only.
    cause: Option<String>,
}

impl Problem {
    /// A refusal that needs no more words.
    pub const fn new(status: StatusCode, code: &'static str) -> Self {
        Self {
            status,
            code,
            detail: None,
            retry_after: None,
            cause: None,
        }
    }

    /// The client sent what makes no sense: 400 `invalid_request`.
    pub fn invalid(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "invalid_request").because(detail)
    }

    /// With words for the person who calls.
    pub fn because(mut self, detail: impl Into<String>) -> Self {
        self.detail = Some(detail.into());
        self
    }

    /// 500 `internal`: the cause goes to the log and nowhere else.
    pub fn internal(cause: impl fmt::Display) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal").caused_by(cause)
    }

    /// Writes the line for the operator, where there is one.
    pub fn log(&self) {
        if let Some(cause) = &self.cause {
            tracing::error!(status = self.status.as_u16(), code = self.code, "{cause}");
        }
    }

    /// With words for the log.
    pub fn caused_by(mut self, cause: impl fmt::Display) -> Self {
        self.cause = Some(cause.to_string());
        self
    }
}

/// The document (RFC 9457, 3.1) with `code` as extension.
#[derive(Serialize)]
struct Document<'a> {
    r#type: String,
    title: &'a str,
    status: u16,
    code: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<&'a str>,
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        self.log();
        let document = Document {
            r#type: format!("urn:medbind:problem:{}", self.code),
            title: self.status.canonical_reason().unwrap_or("Error"),
            status: self.status.as_u16(),
            code: self.code,
            detail: self.detail.as_deref(),
        };
        let body = serde_json::to_vec(&document).unwrap_or_default();
        let mut response = (self.status, body).into_response();
        let headers = response.headers_mut();
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/problem+json"),
        );
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if let Some(seconds) = self.retry_after {
            headers.insert(header::RETRY_AFTER, seconds.into());
        }
        response
    }
}
