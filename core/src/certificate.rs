//! What did the peer present? One X.509 certificate, read strictly, once.

/// Why octets are no peer certificate. (Filled in by its owner.)
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CertificateError {
    /// Not PEM with one `CERTIFICATE` block.
    #[error("it is not PEM with exactly one CERTIFICATE block")]
    Pem,
}
