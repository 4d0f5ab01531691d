//! What does the operator see? Metrics, and the one line that is logged for each deny.
//!
//! # Metrics
//!
//! Names and labels are an interface. Envoy gives Wasm metrics the prefix `wasmcustom.` and takes
//! it off again in `/stats/prometheus`; a label stands in the name as `.<label>.<value>`, and
//! becomes one where the bootstrap says so:
//!
//! ```yaml
//! stats_config:
//!   stats_tags:
//!     - {tag_name: mode, regex: '^wasmcustom\.medbind_.*?(\.mode\.([a-z_]+))'}
//!     - {tag_name: code, regex: '^wasmcustom\.medbind_.*?(\.code\.([a-z_]+))'}
//!     - {tag_name: result, regex: '^wasmcustom\.medbind_.*?(\.result\.([a-z_]+))'}
//!     - {tag_name: verifier, regex: '^wasmcustom\.medbind_.*?(\.verifier\.([a-z_]+))'}
//! ```
//!
//! Without that, `medbind_decisions_mode_enforce_code_permit` is the name.
//!
//! | metric | kind | labels | counts |
//! | --- | --- | --- | --- |
//! | `medbind_decisions` | counter | `mode` (`enforce`, `shadow`), `code` (`permit` or a deny code) | decisions on requests |
//! | `medbind_streams_cut` | counter | `code` | requests that were under way and lost their permit |
//! | `medbind_tags_stripped` | counter | | requests that came with headers or trailers that only medbind may set, or that override the request |
//! | `medbind_verifications` | counter | `verifier` (`host`, `module`) | certificates whose issuer was checked: once each and worker |
//! | `medbind_lookups` | counter | `result` (`found`, `absent`, `failed`) | lookups on demand |
//! | `medbind_ready` | gauge | | 1 while a decision can be made, 0 otherwise; by the guards |
//! | `medbind_bindings` | gauge | | bindings in the cache; by the synchroniser |
//! | `medbind_records_unrecognised` | gauge | | records of a kind or state that this version does not know; by the synchroniser |
//! | `medbind_feed_heard_seconds` | gauge | | Unix time at which the feed last answered; by the synchroniser |
//! | `medbind_leader_term` | gauge | | which of those that have led does now, counted from 1; by the synchroniser |

use std::cell::Cell;
use std::fmt::Write as _;

use medbind_core::deny::{DenyCode, DenyReason};
use medbind_core::time::Timestamp;

use crate::host::{Host, LogLevel, MetricKind};

/// A metric that was defined, or could not be: then counting does nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Metric(Option<u32>);

impl Metric {
    fn define(host: &impl Host, kind: MetricKind, name: &str) -> Self {
        Self(host.define_metric(kind, name).ok())
    }

    /// A counter of this name.
    pub fn counter(host: &impl Host, name: &str) -> Self {
        Self::define(host, MetricKind::Counter, name)
    }

    /// A gauge of this name.
    pub fn gauge(host: &impl Host, name: &str) -> Self {
        Self::define(host, MetricKind::Gauge, name)
    }

    /// Counts one.
    pub fn count(self, host: &impl Host) {
        if let Some(id) = self.0 {
            let _ = host.increment_metric(id, 1);
        }
    }

    /// Sets a gauge.
    pub fn set(self, host: &impl Host, value: u64) {
        if let Some(id) = self.0 {
            let _ = host.record_metric(id, value);
        }
    }
}

/// One counter for each deny code, and one for the permit.
#[derive(Debug)]
struct ByCode {
    permit: Metric,
    denies: Vec<(DenyCode, Metric)>,
}

impl ByCode {
    fn define(host: &impl Host, prefix: &str) -> Self {
        let counter = |code: &str| Metric::counter(host, &format!("{prefix}.code.{code}"));
        Self {
            permit: counter("permit"),
            denies: DenyCode::ALL
                .into_iter()
                .map(|code| (code, counter(code.as_str())))
                .collect(),
        }
    }

    fn deny(&self, code: DenyCode) -> Metric {
        let known = self.denies.iter().find(|(known, _)| *known == code);
        known.map_or(Metric::default(), |(_, metric)| *metric)
    }
}

/// A guard's metrics, defined once for each worker.
#[derive(Debug)]
pub struct GuardMetrics {
    decisions: ByCode,
    cut: ByCode,
    stripped: Metric,
    verified_by_host: Metric,
    verified_by_module: Metric,
    found: Metric,
    absent: Metric,
    failed: Metric,
    ready: Metric,
    last_ready: Cell<Option<bool>>,
}

/// How a lookup on demand ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LookupEnd {
    /// The registry has the device.
    Found,
    /// The registry has no such device.
    Absent,
    /// No answer that can be used.
    Failed,
}

impl GuardMetrics {
    /// Defines them; `mode` is the label's value.
    pub fn define(host: &impl Host, mode: &str) -> Self {
        Self {
            decisions: ByCode::define(host, &format!("medbind_decisions.mode.{mode}")),
            cut: ByCode::define(host, "medbind_streams_cut"),
            stripped: Metric::counter(host, "medbind_tags_stripped"),
            verified_by_host: Metric::counter(host, "medbind_verifications.verifier.host"),
            verified_by_module: Metric::counter(host, "medbind_verifications.verifier.module"),
            found: Metric::counter(host, "medbind_lookups.result.found"),
            absent: Metric::counter(host, "medbind_lookups.result.absent"),
            failed: Metric::counter(host, "medbind_lookups.result.failed"),
            ready: Metric::gauge(host, "medbind_ready"),
            last_ready: Cell::new(None),
        }
    }

    /// A permit.
    pub fn permit(&self, host: &impl Host) {
        self.decisions.permit.count(host);
    }

    /// A deny.
    pub fn deny(&self, host: &impl Host, code: DenyCode) {
        self.decisions.deny(code).count(host);
    }

    /// A request under way lost its permit.
    pub fn cut(&self, host: &impl Host, code: DenyCode) {
        self.cut.deny(code).count(host);
    }

    /// A request came with what only medbind may set.
    pub fn stripped(&self, host: &impl Host) {
        self.stripped.count(host);
    }

    /// A signature was checked, by the host's code or by the module's.
    pub fn verified(&self, host: &impl Host, by_host: bool) {
        if by_host {
            self.verified_by_host.count(host);
        } else {
            self.verified_by_module.count(host);
        }
    }

    /// A lookup on demand ended.
    pub fn lookup(&self, host: &impl Host, end: LookupEnd) {
        match end {
            LookupEnd::Found => self.found.count(host),
            LookupEnd::Absent => self.absent.count(host),
            LookupEnd::Failed => self.failed.count(host),
        }
    }

    /// Whether decisions can be made now; written where it changed.
    pub fn ready(&self, host: &impl Host, ready: bool) {
        if self.last_ready.replace(Some(ready)) != Some(ready) {
            self.ready.set(host, u64::from(ready));
        }
    }
}

/// A synchroniser's metrics.
#[derive(Debug)]
pub struct SyncMetrics {
    bindings: Metric,
    unrecognised: Metric,
    heard: Metric,
    term: Metric,
}

impl SyncMetrics {
    /// Defines them.
    pub fn define(host: &impl Host) -> Self {
        Self {
            bindings: Metric::gauge(host, "medbind_bindings"),
            unrecognised: Metric::gauge(host, "medbind_records_unrecognised"),
            heard: Metric::gauge(host, "medbind_feed_heard_seconds"),
            term: Metric::gauge(host, "medbind_leader_term"),
        }
    }

    /// What the leader sees.
    pub fn tell(
        &self,
        host: &impl Host,
        term: u32,
        bindings: u64,
        unrecognised: u64,
        heard: Option<Timestamp>,
    ) {
        self.term.set(host, u64::from(term));
        self.bindings.set(host, bindings);
        self.unrecognised.set(host, unrecognised);
        let heard = heard.map_or(0, Timestamp::unix_seconds);
        self.heard.set(host, u64::try_from(heard).unwrap_or(0));
    }
}

/// What a log line says of a deny.
#[derive(Debug)]
pub struct DenyLine<'a> {
    /// `enforce` or `shadow`.
    pub mode: &'a str,
    /// What happened to the request.
    pub event: DenyEvent,
    /// Why.
    pub reason: &'a DenyReason,
    /// The device's pseudonym (or, where the operator asked for it, its identity); `None` where no
    /// device is named, or the key is not here yet.
    pub device: Option<&'a str>,
    /// The rule that covered the request, counted from 0.
    pub rule: Option<usize>,
    /// `x-request-id`, as far as it is harmless.
    pub request_id: Option<&'a str>,
}

/// What happened to the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DenyEvent {
    /// It was answered with the deny code.
    Refused,
    /// It was under way and was cut.
    Cut,
    /// It went on, since the guard only watches.
    Passed,
}

impl DenyEvent {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::Cut => "cut",
            Self::Passed => "passed",
        }
    }
}

/// Writes the one line for a deny.
///
/// `medbind deny: event=refused mode=enforce code=unknown_device device=3f1c... rule=2 request_id=...
/// reason="the registry has no such device"`. It holds no device identity, no account, no path and
/// no part of the certificate.
pub fn log_deny(host: &impl Host, line: &DenyLine<'_>) {
    let mut text = String::with_capacity(256);
    let _ = write!(
        text,
        "medbind deny: event={} mode={} code={} device={} rule=",
        line.event.as_str(),
        line.mode,
        line.reason.code(),
        line.device.unwrap_or("-"),
    );
    let _ = match line.rule {
        Some(rule) => write!(text, "{rule}"),
        None => text.write_str("-"),
    };
    let _ = write!(
        text,
        " request_id={} reason=\"{}\"",
        line.request_id.unwrap_or("-"),
        line.reason
    );
    let level = match line.reason.code() {
        DenyCode::Internal => LogLevel::Error,
        DenyCode::NoPeerCertificate
        | DenyCode::MalformedCertificate
        | DenyCode::UnknownIssuer
        | DenyCode::CertificateExpired
        | DenyCode::CertificateNotYetValid
        | DenyCode::CertificateNotAllowed
        | DenyCode::NoDeviceIdentity
        | DenyCode::AmbiguousDeviceIdentity
        | DenyCode::UnknownDevice
        | DenyCode::DeviceUnclaimed
        | DenyCode::BindingSuspended
        | DenyCode::BindingRevoked
        | DenyCode::BindingExpired
        | DenyCode::NoAccount
        | DenyCode::NotPermitted
        | DenyCode::BindingsUnavailable
        | DenyCode::BindingsStale
        | DenyCode::LookupFailed => LogLevel::Info,
    };
    host.log(level, &text);
}
