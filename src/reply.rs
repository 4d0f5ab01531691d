//! How is a request answered here? Refusals, and the readiness path.

use core::time::Duration;

use medbind_core::deny::{DenyCode, Unavailable};
use medbind_core::problem::{CONTENT_TYPE, problem_document};

use crate::host::{Host, HostError, LocalReply};

/// When to come back: whole seconds between `least` and twice that, so that a fleet does not come
/// back all at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryAfter {
    /// The least.
    pub least: Duration,
    /// Any number: chooses among them.
    pub jitter: u32,
}

impl RetryAfter {
    fn seconds(self) -> u64 {
        let least = self.least.as_secs().max(1);
        let more = u64::from(self.jitter)
            .checked_rem(least.saturating_add(1))
            .unwrap_or(0);
        least.saturating_add(more)
    }
}

/// Refuses the request of the effective context: `application/problem+json` (RFC 9457), or for
/// gRPC a trailers-only answer; with `Retry-After` where the code is transient.
pub fn refuse(
    host: &impl Host,
    code: DenyCode,
    request_id: Option<&str>,
    grpc: bool,
    retry_after: RetryAfter,
) -> Result<(), HostError> {
    let retry_after = code
        .is_transient()
        .then(|| retry_after.seconds().to_string());
    let mut headers: Vec<(&str, &str)> = Vec::with_capacity(3);
    if !grpc {
        headers.push(("content-type", CONTENT_TYPE));
    }
    headers.push(("cache-control", "no-store"));
    if let Some(seconds) = &retry_after {
        headers.push(("retry-after", seconds));
    }
    if grpc {
        return host.send_response(&LocalReply::Grpc {
            status: code.grpc_status(),
            message: code.as_str(),
            headers: &headers,
        });
    }
    host.send_response(&LocalReply::Http {
        status: code.http_status(),
        headers: &headers,
        body: problem_document(code, request_id).as_bytes(),
    })
}

/// Whether this Envoy can decide now, and if not, why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Readiness {
    /// A decision can be made.
    Ready,
    /// There are no bindings to look in.
    Unavailable(Unavailable),
    /// They are too old.
    Stale {
        /// Seconds since the feed last answered.
        age_seconds: u64,
    },
}

/// Answers the readiness path: 200 `{"ready":true}`, or 503 with code and reason.
pub fn readiness(host: &impl Host, readiness: Readiness) -> Result<(), HostError> {
    let not_ready = |code: DenyCode, reason: &str| {
        let body = format!(r#"{{"ready":false,"code":"{code}","reason":"{reason}"}}"#);
        (503, body)
    };
    let (status, body) = match readiness {
        Readiness::Ready => (200, r#"{"ready":true}"#.to_owned()),
        // No reason holds what JSON would have to escape: a test says so.
        Readiness::Unavailable(reason) => {
            not_ready(DenyCode::BindingsUnavailable, &reason.to_string())
        }
        Readiness::Stale { age_seconds } => not_ready(
            DenyCode::BindingsStale,
            &format!("the registry was last heard {age_seconds} s ago"),
        ),
    };
    host.send_response(&LocalReply::Http {
        status,
        headers: &[
            ("content-type", "application/json"),
            ("cache-control", "no-store"),
        ],
        body: body.as_bytes(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_stands_in_json_as_it_is() {
        for reason in [
            Unavailable::NoSynchroniser,
            Unavailable::Loading,
            Unavailable::OverCapacity,
            Unavailable::UnknownRecord,
            Unavailable::Corrupt,
            Unavailable::Clock,
            Unavailable::Busy,
        ] {
            let text = reason.to_string();
            assert!(
                !text.contains(['"', '\\']) && !text.contains(char::is_control),
                "{text}"
            );
        }
    }

    #[test]
    fn retry_after_is_spread_over_the_range_and_never_leaves_it() {
        let seconds = |jitter| {
            let least = Duration::from_secs(5);
            RetryAfter { least, jitter }.seconds()
        };
        let all: std::collections::BTreeSet<_> = (0..1_000).map(seconds).collect();
        assert_eq!(all, (5..=10).collect());
        assert!((5..=10).contains(&seconds(u32::MAX)));
    }
}
