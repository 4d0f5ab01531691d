//! Who is the peer of this session? From the handshake's digest to an authenticated device.

use std::rc::Rc;

use medbind_core::certificate::{CertificateDigest, CertificateError, PeerCertificate};
use medbind_core::config::CertificateSource;
use medbind_core::decision::Peer;
use medbind_core::deny::DenyReason;
use medbind_core::issuer::IssuerSet;
use medbind_core::peer::authenticate;
use medbind_core::signature::KeyPolicy;

use crate::forwarded;
use crate::host::Host;
use crate::table::Table;
use crate::telemetry::GuardMetrics;
use crate::verifier::{HostAlgorithms, Verifier};

/// The peers that this worker has seen, by the digest of their certificate. What was refused is in
/// a table of its own, so that a flood of strangers pushes out nobody but strangers.
#[derive(Debug)]
pub struct Peers {
    known: Table<CertificateDigest, Rc<Peer>>,
    refused: Table<CertificateDigest, Rc<Peer>>,
    nobody: Rc<Peer>,
}

/// What a certificate is judged by.
#[derive(Debug)]
pub struct Judge<'a, H> {
    /// The host.
    pub host: &'a H,
    /// The configured issuers.
    pub issuers: &'a IssuerSet,
    /// Which keys a leaf may have.
    pub key_policy: &'a KeyPolicy,
    /// What the host can verify.
    pub algorithms: &'a HostAlgorithms,
    /// Where the certificate is read.
    pub source: CertificateSource,
    /// Where verifications are counted.
    pub metrics: &'a GuardMetrics,
}

impl Peers {
    /// Nobody seen yet; remembers at most so many authenticated and so many refused ones.
    pub fn new(most_known: usize, most_refused: usize) -> Self {
        Self {
            known: Table::new(most_known),
            refused: Table::new(most_refused),
            nobody: Rc::new(Peer::None),
        }
    }

    /// The peer of the effective context's session.
    ///
    /// What a certificate is does not change, so it is worked out once; whether it is valid now is
    /// asked at each decision. One that cannot be found out is refused, where a rule asks for it.
    pub fn recognise<H: Host>(&mut self, judge: &Judge<'_, H>, forwarded: &[Vec<u8>]) -> Rc<Peer> {
        self.find(judge, forwarded)
            .unwrap_or_else(|reason| Rc::new(Peer::Refused(reason)))
    }

    fn find<H: Host>(
        &mut self,
        judge: &Judge<'_, H>,
        forwarded: &[Vec<u8>],
    ) -> Result<Rc<Peer>, DenyReason> {
        let digest = judge
            .host
            .property(&["connection", "sha256_peer_certificate_digest"])
            .map_err(|_| DenyReason::Internal("the certificate's digest cannot be read"))?;
        let Some(digest) = digest.filter(|text| !text.is_empty()) else {
            return Ok(Rc::clone(&self.nobody));
        };
        let digest = CertificateDigest::from_hex(&digest)
            .map_err(|_| DenyReason::Internal("the certificate's digest is none"))?;
        if let Some(peer) = self.known.get(&digest) {
            return Ok(Rc::clone(peer));
        }
        if let Some(peer) = self.refused.get(&digest) {
            return Ok(Rc::clone(peer));
        }
        let (peer, lasting) = first_sight(judge, digest, forwarded)?;
        let refused = matches!(peer, Peer::Refused(_));
        let peer = Rc::new(peer);
        if lasting {
            let table = if refused {
                &mut self.refused
            } else {
                &mut self.known
            };
            table.insert(digest, Rc::clone(&peer));
        }
        Ok(peer)
    }

    /// How many authenticated and how many refused peers are remembered.
    pub fn len(&self) -> (usize, usize) {
        (self.known.len(), self.refused.len())
    }
}

/// Reads and judges a certificate that this worker has not seen. The flag says whether the verdict
/// is about the handshake's own certificate beyond doubt, and may be remembered.
fn first_sight<H: Host>(
    judge: &Judge<'_, H>,
    digest: CertificateDigest,
    forwarded: &[Vec<u8>],
) -> Result<(Peer, bool), DenyReason> {
    let pem = match judge.source {
        CertificateSource::ForwardedHeader => None,
        CertificateSource::Auto | CertificateSource::Connection => judge
            .host
            .property(&["connection", "peer_certificate"])
            .map_err(|_| DenyReason::Internal("the certificate cannot be read"))?
            .filter(|pem| !pem.is_empty()),
    };
    let (parsed, lasting) = match (pem, judge.source) {
        (Some(pem), _) => (PeerCertificate::parse(&pem), true),
        (None, CertificateSource::Connection) => {
            return Err(DenyReason::Internal(
                "this Envoy does not give the certificate: it takes 1.38, or another \
                 certificate_source",
            ));
        }
        (None, CertificateSource::Auto | CertificateSource::ForwardedHeader) => {
            (from_header(digest, forwarded)?, false)
        }
    };
    let certificate = match parsed {
        Ok(certificate) => certificate,
        Err(error) => {
            return Ok((
                Peer::Refused(DenyReason::MalformedCertificate(error)),
                lasting,
            ));
        }
    };
    if certificate.digest() != digest {
        return Err(DenyReason::Internal(
            "the certificate is not the one of the handshake",
        ));
    }
    let verifier = Verifier::new(judge.host, judge.algorithms);
    let verdict = authenticate(judge.issuers, judge.key_policy, &certificate, &verifier);
    if let Some(by_host) = verifier.by_host() {
        judge.metrics.verified(judge.host, by_host);
    }
    // From here on the octets are those of the handshake, wherever they came from.
    Ok((verdict.map_or_else(Peer::Refused, Peer::Verified), true))
}

/// The certificate with this digest in `x-forwarded-client-cert`. One that does not have it counts
/// for nothing, whoever wrote it; one that does not parse refuses this request and no other.
fn from_header(
    digest: CertificateDigest,
    forwarded: &[Vec<u8>],
) -> Result<Result<PeerCertificate, CertificateError>, DenyReason> {
    let mut unreadable = None;
    for text in forwarded
        .iter()
        .flat_map(|value| forwarded::certificates(value))
    {
        match PeerCertificate::parse(text) {
            Ok(certificate) if certificate.digest() == digest => return Ok(Ok(certificate)),
            Ok(_) => {}
            Err(error) => unreadable = Some(error),
        }
    }
    unreadable.map(Err).ok_or(DenyReason::Internal(
        "this Envoy does not give the certificate: it takes 1.38, or x-forwarded-client-cert with \
         SANITIZE_SET and cert: true",
    ))
}
