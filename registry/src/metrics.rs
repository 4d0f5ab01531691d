//! What is counted, in Prometheus' text format (version 0.0.4).

use core::fmt::Write as _;
use core::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use http::{Method, StatusCode};
use medbind_core::time::Timestamp;
use tokio::time::Instant;

use crate::clients::Clients;

/// The counters and gauges of one registry.
#[derive(Debug, Default)]
pub(crate) struct Metrics {
    requests: Mutex<BTreeMap<(String, String, u16), u64>>,
    /// Connections whose handshake succeeded and that are open.
    pub connections: Gauge,
    /// Polls that wait for a change.
    pub waiting: Gauge,
    /// Connections without a certificate that found no slot.
    pub refused_connections: Counter,
    /// Handshakes that failed, took too long, or made room for others.
    pub failed_handshakes: Counter,
    /// When the certificates of the data directory end, by the name of their directory.
    pub certificates: Mutex<Vec<(&'static str, Timestamp)>>,
    /// The certificates that clients show.
    pub clients: Clients,
    /// Claims that succeeded.
    pub claims: Counter,
    /// Claims that were refused.
    pub refused_claims: Counter,
}

/// Counts up.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    /// One more.
    pub fn add(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Counts what is there now.
#[derive(Debug, Default)]
pub(crate) struct Gauge(AtomicI64);

/// One that is there, until it is dropped.
#[derive(Debug)]
pub(crate) struct Counted<'a>(&'a Gauge);

impl Gauge {
    /// Counts one for as long as the value lives.
    pub fn enter(&self) -> Counted<'_> {
        self.0.fetch_add(1, Ordering::Relaxed);
        Counted(self)
    }

    fn get(&self) -> i64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Metrics {
    /// Counts an answered request. `route` is a path of the table, never what the client sent.
    pub fn count_request(&self, method: &Method, route: &str, status: StatusCode) {
        let method = match *method {
            Method::GET => "GET",
            Method::POST => "POST",
            Method::PUT => "PUT",
            _ => "other",
        };
        let key = (method.to_owned(), route.to_owned(), status.as_u16());
        let mut requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        *requests.entry(key).or_default() += 1;
    }

    /// The text. `devices` is how many there are of each state.
    pub fn render(&self, head: u64, devices: &[(String, i64)]) -> String {
        let mut text = String::new();
        for (name, kind, help, value) in [
            (
                "connections",
                "gauge",
                "Open connections.",
                self.connections.get().to_string(),
            ),
            (
                "feed_waiting",
                "gauge",
                "Polls that wait for a change.",
                self.waiting.get().to_string(),
            ),
            (
                "head_revision",
                "gauge",
                "The newest change's revision.",
                head.to_string(),
            ),
            (
                "connections_refused_total",
                "counter",
                "Connections without a certificate for which there was no slot.",
                self.refused_connections.get().to_string(),
            ),
            (
                "handshake_failures_total",
                "counter",
                "TLS handshakes that failed, took too long, or made room for others.",
                self.failed_handshakes.get().to_string(),
            ),
            (
                "claims_total",
                "counter",
                "Claims that succeeded.",
                self.claims.get().to_string(),
            ),
            (
                "claims_refused_total",
                "counter",
                "Claims that were refused.",
                self.refused_claims.get().to_string(),
            ),
        ] {
            family(&mut text, name, kind, help);
            // Writing to a String does not fail; so everywhere here.
            let _ = writeln!(text, "medbind_registry_{name} {value}");
        }
        family(&mut text, "devices", "gauge", "Devices by state.");
        for (state, count) in devices {
            let _ = writeln!(
                text,
                "medbind_registry_devices{{state=\"{state}\"}} {count}"
            );
        }
        self.render_certificates(&mut text);
        family(&mut text, "requests_total", "counter", "Answered requests.");
        let requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        for ((method, route, status), count) in requests.iter() {
            let _ = writeln!(
                text,
                "medbind_registry_requests_total{{method=\"{method}\",route=\"{route}\",\
                 status=\"{status}\"}} {count}"
            );
        }
        text
    }
}

impl Metrics {
    fn render_certificates(&self, text: &mut String) {
        let name = "certificate_not_after_seconds";
        let help = "When a certificate of the data directory ends, Unix time.";
        family(text, name, "gauge", help);
        let ends = self.certificates.lock();
        for (certificate, end) in ends.unwrap_or_else(PoisonError::into_inner).iter() {
            let end = end.unix_seconds();
            let _ = writeln!(
                text,
                "medbind_registry_{name}{{certificate=\"{certificate}\"}} {end}"
            );
        }
        let name = "client_certificate_not_after_seconds";
        let help = "When the certificate of a client ends that was connected lately, Unix time.";
        family(text, name, "gauge", help);
        for (client, end) in self.clients.earliest_ends(Instant::now()) {
            let end = end.unix_seconds();
            let _ = writeln!(text, "medbind_registry_{name}{{client=\"{client}\"}} {end}");
        }
    }
}

fn family(text: &mut String, name: &str, kind: &str, help: &str) {
    let _ = writeln!(text, "# HELP medbind_registry_{name} {help}");
    let _ = writeln!(text, "# TYPE medbind_registry_{name} {kind}");
}
