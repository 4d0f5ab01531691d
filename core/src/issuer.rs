//! Who issued it? The issuers of the configuration, and which of them signed a certificate.

use core::fmt;

use crate::certificate::{CertificateError, PeerCertificate, name_text};
use crate::deny::{DenyReason, IssuerMismatch};
use crate::identity::check_namespace;
use crate::signature::{KeyType, SignatureError, VerifySignature};
use crate::source::IdentitySource;

/// The most certificates that one issuer may have: bounds the verifications of one peer.
pub const MAX_ISSUER_CERTIFICATES: usize = 16;

/// One of an issuer's certificates: its name and its key.
#[derive(Clone, Debug, PartialEq, Eq)]
struct IssuerCertificate {
    name: Box<[u8]>,
    key_identifier: Option<Box<[u8]>>,
    spki: Box<[u8]>,
    key_type: KeyType,
}

/// Who issues device certificates: a namespace, one certificate or (while one CA hands over to the
/// next) several, and where the serial stands in what it issues.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Issuer {
    namespace: Box<str>,
    certificates: Vec<IssuerCertificate>,
    sources: Vec<IdentitySource>,
    require_client_auth: bool,
}

/// Why an issuer of the configuration cannot be one. `certificate` counts from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IssuerError {
    /// The namespace is empty, too long, or holds what it may not.
    #[error("a namespace is 1 to 32 of a-z, 0-9, '-' and '_', and begins with a letter or digit")]
    Namespace,
    /// No certificate.
    #[error("an issuer needs at least one certificate, as PEM")]
    NoCertificate,
    /// More than 16 certificates.
    #[error("an issuer has at most 16 certificates")]
    TooManyCertificates,
    /// No source: no device could ever have an identity.
    #[error("an issuer needs at least one identity source, such as subject.serial_number")]
    NoSource,
    /// A certificate cannot be read.
    #[error("certificate cannot be read: {cause}")]
    Unreadable {
        /// Which.
        certificate: usize,
        /// Why.
        cause: CertificateError,
    },
    /// A certificate is not a CA's: it has to say so in `basicConstraints`, and `keyUsage`, where
    /// present, has to have `keyCertSign` (RFC 5280, 4.2.1.3, 4.2.1.9).
    #[error(
        "certificate is not a CA certificate: basicConstraints CA and, where it has keyUsage, keyCertSign are needed; give the certificate that signed the devices' certificates"
    )]
    NotCa {
        /// Which.
        certificate: usize,
    },
    /// A certificate has a key that is not accepted.
    #[error(
        "certificate has a key of {key}; P-256, P-384, RSA of 2048 to 8192 bits and Ed25519 are accepted"
    )]
    Key {
        /// Which.
        certificate: usize,
        /// Its key.
        key: KeyType,
    },
    /// A certificate has a critical extension that medbind would not apply (name constraints,
    /// policies): what it signed might be out of bounds.
    #[error(
        "certificate has a critical extension that is not applied here (such as name constraints or policies)"
    )]
    CriticalExtension {
        /// Which.
        certificate: usize,
    },
    /// The same name and key stand twice in this issuer.
    #[error(
        "certificate has the name and key of another certificate of this issuer; one is enough"
    )]
    Twice {
        /// Which.
        certificate: usize,
    },
}

impl IssuerError {
    /// Which certificate it is about, from 0; `None` where it is about the issuer.
    pub const fn certificate(&self) -> Option<usize> {
        match *self {
            Self::Namespace | Self::NoCertificate | Self::TooManyCertificates | Self::NoSource => {
                None
            }
            Self::Unreadable { certificate, .. }
            | Self::NotCa { certificate }
            | Self::Key { certificate, .. }
            | Self::CriticalExtension { certificate }
            | Self::Twice { certificate } => Some(certificate),
        }
    }
}

impl Issuer {
    /// From the parts of the configuration. Each of `certificates` is PEM of one CA certificate;
    /// it may be an intermediate's, and its own validity is not looked at: whom it names is the
    /// operator's word.
    pub fn new<P: AsRef<[u8]>>(
        namespace: &str,
        certificates: &[P],
        sources: Vec<IdentitySource>,
        require_client_auth: bool,
    ) -> Result<Self, IssuerError> {
        check_namespace(namespace).map_err(|_| IssuerError::Namespace)?;
        if sources.is_empty() {
            return Err(IssuerError::NoSource);
        }
        if certificates.is_empty() {
            return Err(IssuerError::NoCertificate);
        }
        if certificates.len() > MAX_ISSUER_CERTIFICATES {
            return Err(IssuerError::TooManyCertificates);
        }
        let mut read: Vec<IssuerCertificate> = Vec::with_capacity(certificates.len());
        for (index, pem) in certificates.iter().enumerate() {
            let certificate = IssuerCertificate::new(pem.as_ref(), index)?;
            if read.iter().any(|other| other.is_same(&certificate)) {
                return Err(IssuerError::Twice { certificate: index });
            }
            read.push(certificate);
        }
        Ok(Self {
            namespace: namespace.into(),
            certificates: read,
            sources,
            require_client_auth,
        })
    }

    /// The first half of the device identities of its devices.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// Where the serial stands, at least one.
    pub fn sources(&self) -> &[IdentitySource] {
        &self.sources
    }

    /// Whether its devices' certificates must have `extKeyUsage` with `clientAuth`.
    pub fn require_client_auth(&self) -> bool {
        self.require_client_auth
    }
}

impl IssuerCertificate {
    fn new(pem: &[u8], index: usize) -> Result<Self, IssuerError> {
        let certificate = PeerCertificate::parse(pem).map_err(|cause| IssuerError::Unreadable {
            certificate: index,
            cause,
        })?;
        let may_sign = certificate
            .key_usage()
            .is_none_or(|usage| usage.key_cert_sign());
        if !certificate.is_ca() || !may_sign {
            return Err(IssuerError::NotCa { certificate: index });
        }
        if !certificate.key_type().is_strong() {
            return Err(IssuerError::Key {
                certificate: index,
                key: certificate.key_type(),
            });
        }
        if !certificate.critical_not_understood().is_empty() {
            return Err(IssuerError::CriticalExtension { certificate: index });
        }
        Ok(Self {
            name: certificate.subject_der().into(),
            key_identifier: certificate.subject_key_identifier().map(Into::into),
            spki: certificate.spki_der().into(),
            key_type: certificate.key_type(),
        })
    }

    /// Whether what one signed counts as signed by the other.
    fn is_same(&self, other: &Self) -> bool {
        self.name == other.name && self.spki == other.spki
    }

    /// Whether it signed this certificate, by the name as DER (RFC 5280, 7.1), the key identifiers
    /// where both are present, and the signature. The mismatch is the last step that was reached.
    fn check(
        &self,
        certificate: &PeerCertificate,
        verifier: &dyn VerifySignature,
    ) -> Result<(), IssuerMismatch> {
        if *self.name != *certificate.issuer_der() {
            return Err(IssuerMismatch::Name);
        }
        match (&self.key_identifier, certificate.authority_key_identifier()) {
            (Some(own), Some(named)) if **own != *named => {
                return Err(IssuerMismatch::KeyIdentifier);
            }
            (Some(_) | None, Some(_) | None) => {}
        }
        let algorithm = certificate
            .signature_algorithm()
            .filter(|algorithm| algorithm.fits(self.key_type))
            .ok_or(IssuerMismatch::Algorithm)?;
        verifier
            .verify(
                algorithm,
                &self.spki,
                certificate.tbs_der(),
                certificate.signature(),
            )
            .map_err(|error| match error {
                SignatureError::Mismatch => IssuerMismatch::Signature,
                SignatureError::Unsupported => IssuerMismatch::Algorithm,
            })
    }
}

/// How far a certificate came on its way to an issuer.
const fn reached(mismatch: IssuerMismatch) -> u8 {
    match mismatch {
        IssuerMismatch::Name => 0,
        IssuerMismatch::KeyIdentifier => 1,
        IssuerMismatch::Algorithm => 2,
        IssuerMismatch::Signature => 3,
    }
}

/// The issuers of a configuration, one for each namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IssuerSet {
    issuers: Vec<Issuer>,
}

/// Why issuers do not go together. `issuer` and `other` count from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IssuerSetError {
    /// Two issuers with one namespace.
    #[error("the namespace is another issuer's already; give one issuer both certificates")]
    Namespace {
        /// The second of them.
        issuer: usize,
        /// The first.
        other: usize,
    },
    /// One name and key in two namespaces: its devices would have two identities.
    #[error(
        "the certificate's name and key stand in another issuer too; a device would have two identities"
    )]
    Certificate {
        /// The second of them.
        issuer: usize,
        /// Which of its certificates.
        certificate: usize,
        /// The first.
        other: usize,
    },
}

impl IssuerSetError {
    /// Which issuer it is about, from 0: the later of the two.
    pub const fn issuer(&self) -> usize {
        match *self {
            Self::Namespace { issuer, .. } | Self::Certificate { issuer, .. } => issuer,
        }
    }
}

impl IssuerSet {
    /// Checks that no two issuers share a namespace, or a name and key. An empty set knows nobody.
    pub fn new(issuers: Vec<Issuer>) -> Result<Self, IssuerSetError> {
        for (index, issuer) in issuers.iter().enumerate() {
            for (before, other) in issuers.iter().enumerate().take(index) {
                if issuer.namespace == other.namespace {
                    return Err(IssuerSetError::Namespace {
                        issuer: index,
                        other: before,
                    });
                }
                let shared = issuer.certificates.iter().position(|certificate| {
                    other
                        .certificates
                        .iter()
                        .any(|theirs| theirs.is_same(certificate))
                });
                if let Some(certificate) = shared {
                    return Err(IssuerSetError::Certificate {
                        issuer: index,
                        certificate,
                        other: before,
                    });
                }
            }
        }
        Ok(Self { issuers })
    }

    /// The issuers, in the configuration's order.
    pub fn iter(&self) -> impl Iterator<Item = &Issuer> {
        self.issuers.iter()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.issuers.is_empty()
    }

    /// The issuer that signed `certificate`, and the subject of the certificate that fits.
    ///
    /// Where none does, the reason is that of the one that came nearest.
    pub(crate) fn issuer_of(
        &self,
        certificate: &PeerCertificate,
        verifier: &dyn VerifySignature,
    ) -> Result<Signer<'_>, DenyReason> {
        let mut nearest = IssuerMismatch::Name;
        for issuer in &self.issuers {
            for candidate in &issuer.certificates {
                match candidate.check(certificate, verifier) {
                    Ok(()) => {
                        return Ok(Signer {
                            issuer,
                            subject: &candidate.name,
                            key_type: candidate.key_type,
                        });
                    }
                    Err(mismatch) if reached(mismatch) > reached(nearest) => nearest = mismatch,
                    Err(_) => {}
                }
            }
        }
        Err(DenyReason::UnknownIssuer(nearest))
    }
}

/// The issuer whose key made a certificate's signature.
pub(crate) struct Signer<'a> {
    pub(crate) issuer: &'a Issuer,
    subject: &'a [u8],
    key_type: KeyType,
}

impl fmt::Display for Signer<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "namespace {}, signed by {} ({})",
            self.issuer.namespace,
            name_text(self.subject),
            self.key_type
        )
    }
}

#[cfg(all(test, feature = "verify"))]
mod tests {
    use super::*;
    use crate::signature::RustVerifier;
    use crate::testing::*;

    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    fn sources() -> Vec<IdentitySource> {
        vec![IdentitySource::SubjectSerialNumber]
    }

    fn issuer(namespace: &str, certificates: &[String]) -> Result<Issuer, IssuerError> {
        Issuer::new(namespace, certificates, sources(), false)
    }

    /// The namespace of the issuer that signed it.
    fn namespace_of(issuers: &IssuerSet, der: &[u8]) -> Result<String, IssuerMismatch> {
        let certificate = PeerCertificate::parse_der(der).unwrap();
        match issuers.issuer_of(&certificate, &RustVerifier) {
            Ok(signer) => Ok(signer.issuer.namespace().to_owned()),
            Err(DenyReason::UnknownIssuer(mismatch)) => Err(mismatch),
            Err(other) => panic!("{other}"),
        }
    }

    fn key_identifier(draft: Draft, octets: &[u8]) -> Draft {
        draft.with(extension(
            id::SUBJECT_KEY_IDENTIFIER,
            false,
            &tlv(OCTET_STRING, octets),
        ))
    }

    fn authority(draft: Draft, octets: &[u8]) -> Draft {
        let value = sequence(&[tlv(0x80, octets)]);
        draft.with(extension(id::AUTHORITY_KEY_IDENTIFIER, false, &value))
    }

    #[test]
    fn what_cannot_be_an_issuer_says_which_certificate_and_why() {
        let draft = || Draft::ca("Acme Device CA", &key(1));
        let pem_of = |change: &dyn Fn(&mut Draft)| {
            let mut draft = draft();
            change(&mut draft);
            pem(&draft.signed())
        };
        let weak = include_str!("../testdata/rsa1024-sha256.pem");
        let curve = include_str!("../testdata/p521-sha256.pem");
        for (certificate, error) in [
            (
                "x".into(),
                IssuerError::Unreadable {
                    certificate: 1,
                    cause: CertificateError::Pem,
                },
            ),
            (
                pem(&Draft::device().signed()),
                IssuerError::NotCa { certificate: 1 },
            ),
            (
                pem_of(&|draft| draft.extensions = vec![key_usage(0x04)]),
                IssuerError::NotCa { certificate: 1 },
            ),
            (
                pem_of(&|draft| draft.extensions = vec![basic_constraints(true), key_usage(0x80)]),
                IssuerError::NotCa { certificate: 1 },
            ),
            (
                pem_of(&|draft| {
                    let constraints = extension(id::NAME_CONSTRAINTS, true, &sequence(&[]));
                    draft.extensions.push(constraints);
                }),
                IssuerError::CriticalExtension { certificate: 1 },
            ),
            (
                weak.into(),
                IssuerError::Key {
                    certificate: 1,
                    key: KeyType::Rsa { bits: 1024 },
                },
            ),
            (
                curve.into(),
                IssuerError::Key {
                    certificate: 1,
                    key: KeyType::Other,
                },
            ),
            (ca(), IssuerError::Twice { certificate: 1 }),
            (
                pem_of(&|draft| draft.serial_number = tlv(INTEGER, &[9])),
                IssuerError::Twice { certificate: 1 },
            ),
        ] {
            let error_seen = issuer("acme", &[ca(), certificate]).unwrap_err();
            assert_eq!(error_seen, error);
            assert_eq!(error_seen.certificate(), Some(1));
        }
        let bare = pem_of(&|draft| draft.extensions = vec![basic_constraints(true)]);
        assert!(issuer("acme", &[bare]).is_ok(), "keyUsage may be absent");
        for (error, expected) in [
            (issuer("Acme", &[ca()]), IssuerError::Namespace),
            (issuer("acme", &[]), IssuerError::NoCertificate),
            (
                issuer("acme", &vec![ca(); 17]),
                IssuerError::TooManyCertificates,
            ),
            (
                Issuer::new("acme", &[ca()], Vec::new(), false),
                IssuerError::NoSource,
            ),
        ] {
            assert_eq!(error, Err(expected));
            assert_eq!(expected.certificate(), None);
        }
    }

    #[test]
    fn issuers_that_would_give_a_device_two_identities_do_not_go_together() {
        let other = pem(&Draft::ca("Other CA", &key(3)).signed_by(&key(3)));
        let acme = issuer("acme", &[ca()]).unwrap();
        let both = issuer("both", &[other.clone(), ca()]).unwrap();
        let error = IssuerSet::new(vec![acme.clone(), both]).unwrap_err();
        assert_eq!(
            error,
            IssuerSetError::Certificate {
                issuer: 1,
                certificate: 1,
                other: 0
            }
        );
        assert_eq!(error.issuer(), 1);
        let again = issuer("acme", std::slice::from_ref(&other)).unwrap();
        let globex = issuer("globex", &[other]).unwrap();
        let error = IssuerSet::new(vec![acme.clone(), again]).unwrap_err();
        assert_eq!(
            error,
            IssuerSetError::Namespace {
                issuer: 1,
                other: 0
            }
        );
        let error = IssuerSet::new(vec![acme.clone(), globex.clone(), globex.clone()]).unwrap_err();
        assert_eq!(error.issuer(), 2, "the later of the two");
        let issuers = IssuerSet::new(vec![acme, globex]).unwrap();
        assert_eq!(issuers.iter().count(), 2);
        assert!(!issuers.is_empty() && IssuerSet::default().is_empty());
    }

    #[test]
    fn the_signature_names_the_issuer() {
        // The same name in two namespaces; the key tells them apart.
        let twin = pem(&Draft::ca("Acme Device CA", &key(3)).signed_by(&key(3)));
        let issuers = IssuerSet::new(vec![
            issuer("acme", &[ca()]).unwrap(),
            issuer("globex", &[twin]).unwrap(),
        ])
        .unwrap();
        let device = Draft::device();
        for (signer, namespace) in [
            (1, Ok("acme".to_owned())),
            (3, Ok("globex".to_owned())),
            (4, Err(IssuerMismatch::Signature)),
        ] {
            assert_eq!(
                namespace_of(&issuers, &device.signed_by(&key(signer))),
                namespace
            );
        }
        let nobody = IssuerSet::default();
        assert_eq!(
            namespace_of(&nobody, &device.signed()),
            Err(IssuerMismatch::Name)
        );
    }

    #[test]
    fn where_nobody_signed_it_the_reason_is_that_of_who_came_nearest() {
        let other = pem(&Draft::ca("Other CA", &key(3)).signed_by(&key(3)));
        let acme = issuer("acme", &[ca()]).unwrap();
        let other = issuer("other", &[other]).unwrap();
        let forged = Draft::device().signed_by(&key(4));
        for issuers in [vec![acme.clone(), other.clone()], vec![other, acme]] {
            let issuers = IssuerSet::new(issuers).unwrap();
            assert_eq!(
                namespace_of(&issuers, &forged),
                Err(IssuerMismatch::Signature)
            );
        }
    }

    #[test]
    fn a_name_is_compared_as_der() {
        let issuers = issuers(sources());
        let as_type = |tag, text: &[u8]| {
            let mut device = Draft::device();
            device.issuer = sequence(&[attribute(id::COMMON_NAME, tag, text)]);
            namespace_of(&issuers, &device.signed())
        };
        assert_eq!(as_type(UTF8, b"Acme Device CA"), Ok("acme".into()));
        assert_eq!(
            as_type(PRINTABLE, b"Acme Device CA"),
            Err(IssuerMismatch::Name)
        );
        assert_eq!(as_type(UTF8, b"acme device ca"), Err(IssuerMismatch::Name));
        assert_eq!(as_type(UTF8, b""), Err(IssuerMismatch::Name));
    }

    #[test]
    fn key_identifiers_agree_where_both_are_present() {
        let with = pem(&key_identifier(Draft::ca("Acme Device CA", &key(1)), b"k1").signed());
        for (certificate, named, fits) in [
            (ca(), None, true),
            (ca(), Some(b"k1"), true),
            (with.clone(), None, true),
            (with.clone(), Some(b"k1"), true),
            (with, Some(b"k2"), false),
        ] {
            let issuers = IssuerSet::new(vec![issuer("acme", &[certificate]).unwrap()]).unwrap();
            let device = match named {
                Some(octets) => authority(Draft::device(), octets),
                None => Draft::device(),
            };
            let expected = if fits {
                Ok("acme".to_owned())
            } else {
                Err(IssuerMismatch::KeyIdentifier)
            };
            assert_eq!(namespace_of(&issuers, &device.signed()), expected);
        }
    }

    #[test]
    fn while_one_ca_hands_over_both_sign_for_the_namespace() {
        // The next one: the same name, another key.
        let next = pem(&Draft::ca("Acme Device CA", &key(5)).signed_by(&key(5)));
        for certificates in [[ca(), next.clone()], [next, ca()]] {
            let issuers = IssuerSet::new(vec![issuer("acme", &certificates).unwrap()]).unwrap();
            for (signer, expected) in [
                (1, Ok("acme".to_owned())),
                (5, Ok("acme".to_owned())),
                (6, Err(IssuerMismatch::Signature)),
            ] {
                let device = Draft::device().signed_by(&key(signer));
                assert_eq!(namespace_of(&issuers, &device), expected);
            }
        }
    }

    #[test]
    fn an_algorithm_that_is_not_accepted_or_does_not_fit_the_key_is_refused_unverified() {
        struct NoVerifier;
        impl VerifySignature for NoVerifier {
            fn verify(
                &self,
                _: crate::signature::SignatureAlgorithm,
                _: &[u8],
                _: &[u8],
                _: &[u8],
            ) -> Result<(), SignatureError> {
                panic!("asked to verify")
            }
        }
        let issuers = issuers(sources());
        // ECDSA with SHA-1, RSA with SHA-256, Ed25519.
        for algorithm in ["1.2.840.10045.4.1", "1.2.840.113549.1.1.11", "1.3.101.112"] {
            let mut device = Draft::device();
            device.algorithm = sequence(&[oid(algorithm)]);
            device.outer_algorithm.clone_from(&device.algorithm);
            let result = issuers.issuer_of(&device.parsed(), &NoVerifier).map(|_| ());
            assert_eq!(
                result,
                Err(DenyReason::UnknownIssuer(IssuerMismatch::Algorithm)),
                "{algorithm}"
            );
        }
    }

    #[test]
    fn a_verifier_that_cannot_is_a_no() {
        struct Cannot;
        impl VerifySignature for Cannot {
            fn verify(
                &self,
                _: crate::signature::SignatureAlgorithm,
                _: &[u8],
                _: &[u8],
                _: &[u8],
            ) -> Result<(), SignatureError> {
                Err(SignatureError::Unsupported)
            }
        }
        let result = issuers(sources())
            .issuer_of(&Draft::device().parsed(), &Cannot)
            .map(|_| ());
        assert_eq!(
            result,
            Err(DenyReason::UnknownIssuer(IssuerMismatch::Algorithm))
        );
    }
}
