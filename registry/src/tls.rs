//! With which certificate does the registry answer, today and tomorrow?

use core::time::Duration;
use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};

use medbind_core::time::Timestamp;
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;

use crate::certificates::{Certificates, Identity};
use crate::clock::Clock;
use crate::feed::stopped;
use crate::metrics::Metrics;
use crate::server::StartError;

/// What an operator should see to is said so often.
const SAY_AGAIN: Duration = Duration::from_hours(24);

/// Looks after the certificates while the registry runs: takes up what was renewed, renews the
/// server's itself where it can, and says what ends.
pub(crate) struct Keeper {
    certificates: Certificates,
    clock: Clock,
    metrics: Arc<Metrics>,
    tls: watch::Sender<TlsAcceptor>,
    /// The certificates, PEM, that are answered with.
    in_use: [String; 2],
    said: Said,
}

impl Keeper {
    /// Begins with what a start has read. Also answers what connections are accepted with, from now
    /// on.
    pub fn new(
        certificates: Certificates,
        identity: Identity,
        clock: Clock,
        metrics: Arc<Metrics>,
    ) -> Result<(Self, watch::Receiver<TlsAcceptor>), StartError> {
        let tls = watch::Sender::new(acceptor(&identity)?);
        let receiver = tls.subscribe();
        let mut keeper = Self {
            certificates,
            clock,
            metrics,
            tls,
            in_use: [identity.certificate_pem, identity.ca_pem],
            said: Said::default(),
        };
        keeper.say(identity.warnings, identity.ends);
        Ok((keeper, receiver))
    }

    /// Looks again and again, until the registry stops.
    pub async fn keep(mut self, every: Duration, mut stopping: watch::Receiver<bool>) {
        loop {
            tokio::select! {
                () = tokio::time::sleep(every) => self.look(),
                () = stopped(&mut stopping) => return,
            }
        }
    }

    fn look(&mut self) {
        let identity = match self.certificates.look(self.clock.now()) {
            Ok(identity) => identity,
            Err(error) => {
                // What is in use goes on.
                self.say(vec![error.to_string()], Vec::new());
                return;
            }
        };
        let Identity {
            mut warnings, ends, ..
        } = identity;
        let found = [identity.certificate_pem.clone(), identity.ca_pem.clone()];
        if found != self.in_use {
            let identity = Identity {
                warnings: Vec::new(),
                ends: Vec::new(),
                ..identity
            };
            match acceptor(&identity) {
                Ok(acceptor) => {
                    self.tls.send_replace(acceptor);
                    self.in_use = found;
                    tracing::info!("new certificates are taken up");
                }
                // Half of it may be written yet.
                Err(error) => warnings.push(format!("{error}; the old ones stay in use")),
            }
        }
        self.say(warnings, ends);
    }

    fn say(&mut self, mut warnings: Vec<String>, ends: Vec<(&'static str, Timestamp)>) {
        let ca = self.certificates.ca_dir();
        let (now, at) = (self.clock.now(), Instant::now());
        let of_clients = self
            .metrics
            .clients
            .warnings(now, at, &ca.to_string_lossy());
        warnings.extend(of_clients);
        for warning in self.said.due(warnings, at) {
            tracing::warn!("{warning}");
        }
        if !ends.is_empty() {
            let certificates = self.metrics.certificates.lock();
            *certificates.unwrap_or_else(PoisonError::into_inner) = ends;
        }
    }
}

/// What was said, and when.
#[derive(Debug, Default)]
struct Said(BTreeMap<String, Instant>);

impl Said {
    /// Those that are new, or were said a day ago.
    fn due(&mut self, warnings: Vec<String>, now: Instant) -> Vec<String> {
        self.0.retain(|said, _| warnings.contains(said));
        let mut due = Vec::new();
        for warning in warnings {
            let at = self.0.get(&warning);
            if at.is_none_or(|at| now.saturating_duration_since(*at) >= SAY_AGAIN) {
                self.0.insert(warning.clone(), now);
                due.push(warning);
            }
        }
        due
    }
}

/// TLS 1.2 or later; a client certificate may be left out, and is verified where it is given.
fn acceptor(identity: &Identity) -> Result<TlsAcceptor, StartError> {
    let failed =
        |what: &str, error: &dyn core::fmt::Display| StartError::Tls(format!("{what}: {error}"));
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(identity.ca_pem.as_bytes()) {
        let certificate = certificate.map_err(|error| failed("infra-ca/cert.pem", &error))?;
        roots
            .add(certificate)
            .map_err(|error| failed("infra-ca/cert.pem", &error))?;
    }
    let chain = CertificateDer::pem_slice_iter(identity.certificate_pem.as_bytes())
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| failed("server/cert.pem", &error))?;
    let key = PrivateKeyDer::from_pem_slice(identity.key_pem.expose().as_bytes())
        .map_err(|_| StartError::Tls("server/key.pem is no PEM private key".to_owned()))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier =
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
            .allow_unauthenticated()
            .build()
            .map_err(|error| failed("infra-ca/cert.pem", &error))?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
        .map_err(|error| failed("protocol versions", &error))?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)
        .map_err(|error| failed("server/cert.pem", &error))?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pki::CertificateAuthority;

    #[tokio::test]
    async fn a_ca_that_was_renewed_is_taken_up_while_the_registry_runs() {
        let scratch = tempfile::tempdir().unwrap();
        let clock = Clock::new(jiff::SignedDuration::ZERO);
        let certificates = Certificates::new(scratch.path(), &["localhost".to_owned()]);
        let identity = certificates.start(clock.now()).unwrap();
        let dir = certificates.ca_dir();
        let metrics = Arc::new(Metrics::default());
        let (mut keeper, mut tls) = Keeper::new(certificates, identity, clock, metrics).unwrap();
        tls.mark_unchanged();
        keeper.look();
        assert!(!tls.has_changed().unwrap(), "nothing is new");
        let ca = CertificateAuthority::load(&dir).unwrap();
        let tomorrow = clock.now().after(Duration::from_hours(24));
        ca.renewed(tomorrow).unwrap().replace(&dir).unwrap();
        keeper.look();
        assert!(tls.has_changed().unwrap());
        tls.mark_unchanged();
        keeper.look();
        assert!(!tls.has_changed().unwrap(), "it is taken up once");
    }

    #[test]
    fn a_warning_is_said_at_once_and_again_after_a_day() {
        let mut said = Said::default();
        let start = Instant::now();
        let both = || vec!["a".to_owned(), "b".to_owned()];
        assert_eq!(said.due(both(), start), both());
        let soon = start + Duration::from_mins(1);
        assert_eq!(said.due(both(), soon), Vec::<String>::new());
        assert_eq!(said.due(vec!["a".to_owned()], soon), Vec::<String>::new());
        // It was mended, and is there again.
        assert_eq!(said.due(both(), soon), ["b"]);
        assert_eq!(said.due(both(), start + SAY_AGAIN), ["a"]);
    }
}
