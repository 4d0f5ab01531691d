//! Who is calling the registry? The role that an infrastructure certificate names.

use core::fmt;
use core::str::FromStr;

use der::Decode as _;
use medbind_core::time::Timestamp;
use x509_cert::Certificate;
use x509_cert::ext::pkix::SubjectAltName;
use x509_cert::ext::pkix::name::GeneralName;

use crate::pki::moment;

/// The longest name of an edge or operator, in octets.
pub const MAX_NAME_OCTETS: usize = 64;
const URN: &str = "urn:medbind:";

/// The role of a client, from the one `urn:medbind:` URI among its certificate's subject
/// alternative names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Role {
    /// No certificate, or one of the infrastructure CA that names no role.
    None,
    /// `urn:medbind:edge:<name>`: reads the feed, and nothing else.
    Edge(Name),
    /// `urn:medbind:operator:<name>`: enrols, claims, revokes, and reads everything.
    Operator(Name),
}

impl Role {
    /// The URI that stands in the certificate; `None` for [`Role::None`].
    pub fn uri(&self) -> Option<String> {
        match self {
            Self::None => None,
            Self::Edge(name) => Some(format!("{URN}edge:{name}")),
            Self::Operator(name) => Some(format!("{URN}operator:{name}")),
        }
    }

    /// Reads the URI; `None` where it is none of ours, an error where it is and is malformed.
    fn from_uri(uri: &str) -> Option<Result<Self, PeerError>> {
        let rest = uri.strip_prefix(URN)?;
        let role = match rest.split_once(':') {
            Some(("edge", name)) => name.parse().map(Self::Edge),
            Some(("operator", name)) => name.parse().map(Self::Operator),
            Some(_) | None => return Some(Err(PeerError::UnknownRole)),
        };
        Some(role.map_err(|NameError| PeerError::UnknownRole))
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("none"),
            Self::Edge(name) => write!(f, "edge:{name}"),
            Self::Operator(name) => write!(f, "operator:{name}"),
        }
    }
}

/// The name of an edge or an operator: 1 to 64 of letters, digits and `-._@`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(Box<str>);

/// Text that is no name of an edge or operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a name is 1 to 64 of letters, digits and '-', '.', '_', '@'")]
pub struct NameError;

impl FromStr for Name {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b'@');
        if !text.is_empty() && text.len() <= MAX_NAME_OCTETS && text.bytes().all(plain) {
            Ok(Self(text.into()))
        } else {
            Err(NameError)
        }
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A client as its handshake showed it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// What it may be asked to prove.
    pub role: Role,
    /// The beginning of its certificate's validity.
    pub not_before: Option<Timestamp>,
    /// The end of its certificate, looked at again on each request; `None` without a certificate.
    pub not_after: Option<Timestamp>,
}

/// Why a certificate that the infrastructure CA signed names no usable role.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PeerError {
    /// The certificate does not parse.
    #[error("the client's certificate does not parse")]
    Malformed,
    /// A `urn:medbind:` URI that is neither edge nor operator, or whose name is malformed.
    #[error("the client's certificate names a role that is not known")]
    UnknownRole,
    /// Two roles are as good as none.
    #[error("the client's certificate names more than one role")]
    Ambiguous,
}

impl Peer {
    /// A client without a certificate.
    pub const ANONYMOUS: Self = Self {
        role: Role::None,
        not_before: None,
        not_after: None,
    };

    /// Reads the role from a certificate (DER) that the handshake has verified. A certificate
    /// without a `urn:medbind:` URI has the role `none`.
    pub fn from_certificate(der: &[u8]) -> Result<Self, PeerError> {
        let certificate = Certificate::from_der(der).map_err(|_| PeerError::Malformed)?;
        let body = certificate.tbs_certificate();
        let names = body
            .get_extension::<SubjectAltName>()
            .map_err(|_| PeerError::Malformed)?
            .map(|(_critical, names)| names.0)
            .unwrap_or_default();
        let mut role = Role::None;
        for name in &names {
            let GeneralName::UniformResourceIdentifier(uri) = name else {
                continue;
            };
            let Some(found) = Role::from_uri(uri.as_str()) else {
                continue;
            };
            // Fail closed: two roles in one certificate are none.
            if role != Role::None {
                return Err(PeerError::Ambiguous);
            }
            role = found?;
        }
        Ok(Self {
            role,
            not_before: Some(moment(&body.validity().not_before)),
            not_after: Some(moment(&body.validity().not_after)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, KeyPair, SanType};

    fn certificate(uris: &[&str]) -> Vec<u8> {
        let mut params = CertificateParams::default();
        params.subject_alt_names = uris
            .iter()
            .map(|uri| SanType::URI((*uri).try_into().unwrap()))
            .collect();
        let key = KeyPair::generate().unwrap();
        params.self_signed(&key).unwrap().der().to_vec()
    }

    #[test]
    fn a_role_is_the_one_uri_of_ours() {
        let edge = Role::Edge("edge-1".parse().unwrap());
        let operator = Role::Operator("ops@example".parse().unwrap());
        for (uris, expected) in [
            (vec![], Ok(Role::None)),
            (vec!["https://example/"], Ok(Role::None)),
            (vec!["urn:medbind:edge:edge-1"], Ok(edge.clone())),
            (
                vec!["https://example/", "urn:medbind:operator:ops@example"],
                Ok(operator),
            ),
            (vec!["urn:medbind:root:x"], Err(PeerError::UnknownRole)),
            (vec!["urn:medbind:edge"], Err(PeerError::UnknownRole)),
            (vec!["urn:medbind:edge:"], Err(PeerError::UnknownRole)),
            (vec!["urn:medbind:edge:a:b"], Err(PeerError::UnknownRole)),
            (
                vec!["urn:medbind:edge:a", "urn:medbind:operator:a"],
                Err(PeerError::Ambiguous),
            ),
        ] {
            let peer = Peer::from_certificate(&certificate(&uris));
            assert_eq!(peer.map(|peer| peer.role), expected, "{uris:?}");
        }
        assert_eq!(edge.uri().as_deref(), Some("urn:medbind:edge:edge-1"));
    }

    #[test]
    fn octets_that_are_no_certificate_name_no_role() {
        assert_eq!(
            Peer::from_certificate(b"\x30\x00"),
            Err(PeerError::Malformed)
        );
    }
}
