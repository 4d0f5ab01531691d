//! Did this key sign that? Algorithms, keys, and who does the arithmetic.

use core::fmt;

use der::asn1::{AnyRef, BitStringRef, UintRef};
use der::{Decode, Sequence};
use rustls_pki_types::alg_id;

use crate::certificate::CertificateError;

/// The smallest RSA modulus that is accepted anywhere, in bits (NIST SP 800-57 part 1, table 2).
pub const MIN_RSA_BITS: u16 = 2048;
/// The largest RSA modulus that is accepted anywhere, in bits: bounds the cost of a verification.
pub const MAX_RSA_BITS: u16 = 8192;

/// The signature algorithms that a certificate may be signed with: SHA-2, and nothing weaker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SignatureAlgorithm {
    /// ECDSA with SHA-256 (RFC 5758, 3.2).
    EcdsaSha256,
    /// ECDSA with SHA-384.
    EcdsaSha384,
    /// ECDSA with SHA-512.
    EcdsaSha512,
    /// RSA PKCS#1 v1.5 with SHA-256 (RFC 4055, 5).
    RsaPkcs1Sha256,
    /// RSA PKCS#1 v1.5 with SHA-384.
    RsaPkcs1Sha384,
    /// RSA PKCS#1 v1.5 with SHA-512.
    RsaPkcs1Sha512,
    /// RSA PSS with SHA-256, MGF1 with SHA-256, salt of 32 octets (RFC 4055, 3).
    RsaPssSha256,
    /// RSA PSS with SHA-384, MGF1 with SHA-384, salt of 48 octets.
    RsaPssSha384,
    /// RSA PSS with SHA-512, MGF1 with SHA-512, salt of 64 octets.
    RsaPssSha512,
    /// Ed25519 (RFC 8410, 3).
    Ed25519,
}

impl SignatureAlgorithm {
    /// Every algorithm.
    pub const ALL: [Self; 10] = [
        Self::EcdsaSha256,
        Self::EcdsaSha384,
        Self::EcdsaSha512,
        Self::RsaPkcs1Sha256,
        Self::RsaPkcs1Sha384,
        Self::RsaPkcs1Sha512,
        Self::RsaPssSha256,
        Self::RsaPssSha384,
        Self::RsaPssSha512,
        Self::Ed25519,
    ];

    /// The contents of its one `AlgorithmIdentifier` (RFC 5280, 4.1.1.2), parameters included.
    fn identifier(self) -> &'static [u8] {
        match self {
            Self::EcdsaSha256 => alg_id::ECDSA_SHA256.as_ref(),
            Self::EcdsaSha384 => alg_id::ECDSA_SHA384.as_ref(),
            Self::EcdsaSha512 => alg_id::ECDSA_SHA512.as_ref(),
            Self::RsaPkcs1Sha256 => alg_id::RSA_PKCS1_SHA256.as_ref(),
            Self::RsaPkcs1Sha384 => alg_id::RSA_PKCS1_SHA384.as_ref(),
            Self::RsaPkcs1Sha512 => alg_id::RSA_PKCS1_SHA512.as_ref(),
            Self::RsaPssSha256 => alg_id::RSA_PSS_SHA256.as_ref(),
            Self::RsaPssSha384 => alg_id::RSA_PSS_SHA384.as_ref(),
            Self::RsaPssSha512 => alg_id::RSA_PSS_SHA512.as_ref(),
            Self::Ed25519 => alg_id::ED25519.as_ref(),
        }
    }

    /// Recognises the contents of an `AlgorithmIdentifier`; `None` for every other.
    pub(crate) fn from_identifier(contents: &[u8]) -> Option<Self> {
        /// NULL parameters, which a reader "MUST accept" left out (RFC 4055, 5).
        const NULL: &[u8] = &[0x05, 0x00];
        Self::ALL.into_iter().find(|algorithm| {
            let expected = algorithm.identifier();
            contents == expected || expected.strip_suffix(NULL) == Some(contents)
        })
    }

    /// The hash by the name that Envoy's `verify_signature` foreign function takes; `None` where
    /// that function cannot check the algorithm (it knows ECDSA and PKCS#1 v1.5 alone).
    pub const fn host_hash(self) -> Option<&'static str> {
        match self {
            Self::EcdsaSha256 | Self::RsaPkcs1Sha256 => Some("sha256"),
            Self::EcdsaSha384 | Self::RsaPkcs1Sha384 => Some("sha384"),
            Self::EcdsaSha512 | Self::RsaPkcs1Sha512 => Some("sha512"),
            Self::RsaPssSha256 | Self::RsaPssSha384 | Self::RsaPssSha512 | Self::Ed25519 => None,
        }
    }

    /// Whether a key of this type can have made such a signature.
    pub const fn fits(self, key: KeyType) -> bool {
        match self {
            Self::EcdsaSha256 | Self::EcdsaSha384 | Self::EcdsaSha512 => {
                matches!(key, KeyType::P256 | KeyType::P384)
            }
            Self::RsaPkcs1Sha256
            | Self::RsaPkcs1Sha384
            | Self::RsaPkcs1Sha512
            | Self::RsaPssSha256
            | Self::RsaPssSha384
            | Self::RsaPssSha512 => matches!(key, KeyType::Rsa { .. }),
            Self::Ed25519 => matches!(key, KeyType::Ed25519),
        }
    }

    /// Its name, as people write it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::EcdsaSha256 => "ECDSA with SHA-256",
            Self::EcdsaSha384 => "ECDSA with SHA-384",
            Self::EcdsaSha512 => "ECDSA with SHA-512",
            Self::RsaPkcs1Sha256 => "RSA PKCS#1 v1.5 with SHA-256",
            Self::RsaPkcs1Sha384 => "RSA PKCS#1 v1.5 with SHA-384",
            Self::RsaPkcs1Sha512 => "RSA PKCS#1 v1.5 with SHA-512",
            Self::RsaPssSha256 => "RSA PSS with SHA-256",
            Self::RsaPssSha384 => "RSA PSS with SHA-384",
            Self::RsaPssSha512 => "RSA PSS with SHA-512",
            Self::Ed25519 => "Ed25519",
        }
    }
}

impl fmt::Display for SignatureAlgorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The type of a public key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum KeyType {
    /// An elliptic curve key on P-256, as an uncompressed point (RFC 5480).
    P256,
    /// An elliptic curve key on P-384, as an uncompressed point.
    P384,
    /// An RSA key.
    Rsa {
        /// The length of the modulus.
        bits: u16,
    },
    /// An Ed25519 key (RFC 8410).
    Ed25519,
    /// Every other, and those above in a form that is not accepted (a compressed point, an even
    /// or too small RSA exponent).
    Other,
}

impl fmt::Display for KeyType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::P256 => f.write_str("P-256"),
            Self::P384 => f.write_str("P-384"),
            Self::Rsa { bits } => write!(f, "RSA {bits}"),
            Self::Ed25519 => f.write_str("Ed25519"),
            Self::Other => f.write_str("another type"),
        }
    }
}

/// `SubjectPublicKeyInfo` (RFC 5280, 4.1), its algorithm left as it is.
#[derive(Sequence)]
struct PublicKeyInfo<'a> {
    algorithm: AnyRef<'a>,
    key: BitStringRef<'a>,
}

/// `RSAPublicKey` (RFC 8017, A.1.1).
#[derive(Sequence)]
struct RsaKey<'a> {
    modulus: UintRef<'a>,
    exponent: UintRef<'a>,
}

impl KeyType {
    /// Reads a `SubjectPublicKeyInfo`. An error is a key that is not one; a type that is not known
    /// is [`Other`](Self::Other).
    pub(crate) fn from_spki(spki_der: &[u8]) -> Result<Self, CertificateError> {
        let info = PublicKeyInfo::from_der(spki_der).map_err(|_| CertificateError::PublicKey)?;
        if info.algorithm.header().tag() != der::Tag::Sequence {
            return Err(CertificateError::PublicKey);
        }
        let key = info.key.as_bytes().ok_or(CertificateError::PublicKey)?;
        let algorithm = info.algorithm.value();
        let is = |id: rustls_pki_types::AlgorithmIdentifier| algorithm == id.as_ref();
        Ok(if is(alg_id::ECDSA_P256) {
            uncompressed_point(key, 65, Self::P256)
        } else if is(alg_id::ECDSA_P384) {
            uncompressed_point(key, 97, Self::P384)
        } else if is(alg_id::ED25519) {
            match key.len() {
                32 => Self::Ed25519,
                _ => return Err(CertificateError::PublicKey),
            }
        } else if is(alg_id::RSA_ENCRYPTION) {
            let key = RsaKey::from_der(key).map_err(|_| CertificateError::PublicKey)?;
            rsa_key(key.modulus.as_bytes(), key.exponent.as_bytes())
        } else {
            Self::Other
        })
    }

    /// Whether the type is one that is accepted at all, for an issuer or a device.
    pub const fn is_strong(self) -> bool {
        match self {
            Self::P256 | Self::P384 | Self::Ed25519 => true,
            Self::Rsa { bits } => bits >= MIN_RSA_BITS && bits <= MAX_RSA_BITS,
            Self::Other => false,
        }
    }
}

fn uncompressed_point(key: &[u8], octets: usize, key_type: KeyType) -> KeyType {
    if key.len() == octets && key.first() == Some(&0x04) {
        key_type
    } else {
        KeyType::Other
    }
}

/// Both numbers big-endian without leading zeros, as DER has them.
fn rsa_key(modulus: &[u8], exponent: &[u8]) -> KeyType {
    let odd = |number: &[u8]| number.last().is_some_and(|last| last & 1 == 1);
    let exponent_fits = odd(exponent) && exponent != [1] && exponent.len() <= 4;
    let unused = modulus.first().map_or(0, |first| first.leading_zeros());
    let bits = u32::try_from(modulus.len())
        .ok()
        .and_then(|octets| octets.checked_mul(8))
        .and_then(|bits| bits.checked_sub(unused))
        .and_then(|bits| u16::try_from(bits).ok());
    match bits {
        Some(bits) if exponent_fits && odd(modulus) => KeyType::Rsa { bits },
        Some(_) | None => KeyType::Other,
    }
}

/// Which keys a device may have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyPolicy {
    p256: bool,
    p384: bool,
    ed25519: bool,
    min_rsa_bits: Option<u16>,
}

impl Default for KeyPolicy {
    /// P-256, P-384, Ed25519, and RSA from 2048 bits.
    fn default() -> Self {
        Self {
            p256: true,
            p384: true,
            ed25519: true,
            min_rsa_bits: Some(MIN_RSA_BITS),
        }
    }
}

/// A key policy that cannot be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyPolicyError {
    /// No type: no device could ever come in.
    #[error("types is empty; name at least one of p256, p384, rsa, ed25519")]
    NoTypes,
    /// RSA keys below 2048 bits, or above 8192.
    #[error("min_rsa_bits is between 2048 and 8192")]
    RsaBits,
}

/// A type of key by the name that the configuration uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyTypeName {
    /// P-256.
    P256,
    /// P-384.
    P384,
    /// RSA.
    Rsa,
    /// Ed25519.
    Ed25519,
}

impl KeyPolicy {
    /// From the types that are allowed and the smallest RSA modulus (2048 to 8192 bits).
    pub fn new(types: &[KeyTypeName], min_rsa_bits: u16) -> Result<Self, KeyPolicyError> {
        if types.is_empty() {
            return Err(KeyPolicyError::NoTypes);
        }
        if !(MIN_RSA_BITS..=MAX_RSA_BITS).contains(&min_rsa_bits) {
            return Err(KeyPolicyError::RsaBits);
        }
        Ok(Self {
            p256: types.contains(&KeyTypeName::P256),
            p384: types.contains(&KeyTypeName::P384),
            ed25519: types.contains(&KeyTypeName::Ed25519),
            min_rsa_bits: types.contains(&KeyTypeName::Rsa).then_some(min_rsa_bits),
        })
    }

    /// Whether a device may have this key.
    pub fn allows(&self, key: KeyType) -> bool {
        match key {
            KeyType::P256 => self.p256,
            KeyType::P384 => self.p384,
            KeyType::Ed25519 => self.ed25519,
            KeyType::Rsa { bits } => {
                key.is_strong() && self.min_rsa_bits.is_some_and(|least| bits >= least)
            }
            KeyType::Other => false,
        }
    }
}

/// Why a signature does not count. Everything but `Ok` refuses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    /// The key did not make this signature over these octets.
    #[error("the signature does not verify")]
    Mismatch,
    /// The verifier cannot check this algorithm with this key.
    #[error("the algorithm or the key is not supported")]
    Unsupported,
}

/// Verifies signatures: the host's library, or [`RustVerifier`].
pub trait VerifySignature {
    /// Whether the key `spki_der` (a `SubjectPublicKeyInfo`, DER) made `signature` (for ECDSA the
    /// DER of `Ecdsa-Sig-Value`, RFC 3279, 2.2.3; otherwise the octets) over `message` (the
    /// `TBSCertificate` as it was received).
    ///
    /// Callers have checked that the algorithm [fits](SignatureAlgorithm::fits) the key, which is
    /// [strong](KeyType::is_strong).
    fn verify(
        &self,
        algorithm: SignatureAlgorithm,
        spki_der: &[u8],
        message: &[u8],
        signature: &[u8],
    ) -> Result<(), SignatureError>;
}

#[cfg(feature = "verify")]
pub use rust::RustVerifier;

#[cfg(feature = "verify")]
mod rust {
    use der::Decode;
    use der::asn1::UintRef;
    use rsa::{BoxedUint, PublicKey as RsaPublicKey};
    use sha2::{Digest, Sha256, Sha384, Sha512};
    use signature::Verifier;
    use signature::hazmat::PrehashVerifier;

    use super::{
        KeyType, MAX_RSA_BITS, MIN_RSA_BITS, PublicKeyInfo, RsaKey, SignatureAlgorithm,
        SignatureError, VerifySignature,
    };

    /// Verifies in Rust, wherever it runs.
    #[derive(Clone, Copy, Debug, Default)]
    pub struct RustVerifier;

    impl VerifySignature for RustVerifier {
        fn verify(
            &self,
            algorithm: SignatureAlgorithm,
            spki_der: &[u8],
            message: &[u8],
            signature: &[u8],
        ) -> Result<(), SignatureError> {
            let key_type = KeyType::from_spki(spki_der).map_err(|_| SignatureError::Unsupported)?;
            if !key_type.is_strong() || !algorithm.fits(key_type) {
                return Err(SignatureError::Unsupported);
            }
            let info =
                PublicKeyInfo::from_der(spki_der).map_err(|_| SignatureError::Unsupported)?;
            let key = info.key.as_bytes().ok_or(SignatureError::Unsupported)?;
            match algorithm {
                SignatureAlgorithm::EcdsaSha256 => {
                    ecdsa(key_type, key, &Sha256::digest(message), signature)
                }
                SignatureAlgorithm::EcdsaSha384 => {
                    ecdsa(key_type, key, &Sha384::digest(message), signature)
                }
                SignatureAlgorithm::EcdsaSha512 => {
                    ecdsa(key_type, key, &Sha512::digest(message), signature)
                }
                SignatureAlgorithm::RsaPkcs1Sha256 => pkcs1(
                    &rsa::pkcs1v15::VerifyingKey::<Sha256>::new(rsa_key(key)?),
                    message,
                    signature,
                ),
                SignatureAlgorithm::RsaPkcs1Sha384 => pkcs1(
                    &rsa::pkcs1v15::VerifyingKey::<Sha384>::new(rsa_key(key)?),
                    message,
                    signature,
                ),
                SignatureAlgorithm::RsaPkcs1Sha512 => pkcs1(
                    &rsa::pkcs1v15::VerifyingKey::<Sha512>::new(rsa_key(key)?),
                    message,
                    signature,
                ),
                SignatureAlgorithm::RsaPssSha256 => pss(
                    &rsa::pss::VerifyingKey::<Sha256>::new(rsa_key(key)?),
                    message,
                    signature,
                ),
                SignatureAlgorithm::RsaPssSha384 => pss(
                    &rsa::pss::VerifyingKey::<Sha384>::new(rsa_key(key)?),
                    message,
                    signature,
                ),
                SignatureAlgorithm::RsaPssSha512 => pss(
                    &rsa::pss::VerifyingKey::<Sha512>::new(rsa_key(key)?),
                    message,
                    signature,
                ),
                SignatureAlgorithm::Ed25519 => ed25519(key, message, signature),
            }
        }
    }

    fn ecdsa(
        key_type: KeyType,
        point: &[u8],
        hash: &[u8],
        signature: &[u8],
    ) -> Result<(), SignatureError> {
        match key_type {
            KeyType::P256 => {
                let key = p256::ecdsa::VerifyingKey::from_sec1_bytes(point)
                    .map_err(|_| SignatureError::Unsupported)?;
                let signature = p256::ecdsa::Signature::from_der(signature)
                    .map_err(|_| SignatureError::Mismatch)?;
                key.verify_prehash(hash, &signature)
                    .map_err(|_| SignatureError::Mismatch)
            }
            KeyType::P384 => {
                let key = p384::ecdsa::VerifyingKey::from_sec1_bytes(point)
                    .map_err(|_| SignatureError::Unsupported)?;
                let signature = p384::ecdsa::Signature::from_der(signature)
                    .map_err(|_| SignatureError::Mismatch)?;
                key.verify_prehash(hash, &signature)
                    .map_err(|_| SignatureError::Mismatch)
            }
            KeyType::Rsa { .. } | KeyType::Ed25519 | KeyType::Other => {
                Err(SignatureError::Unsupported)
            }
        }
    }

    fn rsa_key(key: &[u8]) -> Result<RsaPublicKey, SignatureError> {
        let key = RsaKey::from_der(key).map_err(|_| SignatureError::Unsupported)?;
        let number = |number: UintRef<'_>| BoxedUint::from_be_slice_vartime(number.as_bytes());
        RsaPublicKey::new_with_size_limits(
            number(key.modulus),
            number(key.exponent),
            usize::from(MIN_RSA_BITS)..=usize::from(MAX_RSA_BITS),
        )
        .map_err(|_| SignatureError::Unsupported)
    }

    fn pkcs1<K: Verifier<rsa::pkcs1v15::Signature>>(
        key: &K,
        message: &[u8],
        signature: &[u8],
    ) -> Result<(), SignatureError> {
        let signature =
            rsa::pkcs1v15::Signature::try_from(signature).map_err(|_| SignatureError::Mismatch)?;
        key.verify(message, &signature)
            .map_err(|_| SignatureError::Mismatch)
    }

    fn pss<K: Verifier<rsa::pss::Signature>>(
        key: &K,
        message: &[u8],
        signature: &[u8],
    ) -> Result<(), SignatureError> {
        let signature =
            rsa::pss::Signature::try_from(signature).map_err(|_| SignatureError::Mismatch)?;
        key.verify(message, &signature)
            .map_err(|_| SignatureError::Mismatch)
    }

    fn ed25519(key: &[u8], message: &[u8], signature: &[u8]) -> Result<(), SignatureError> {
        let key = key
            .try_into()
            .ok()
            .and_then(|key: &[u8; 32]| ed25519_dalek::VerifyingKey::from_bytes(key).ok())
            .ok_or(SignatureError::Unsupported)?;
        let signature = ed25519_dalek::Signature::from_slice(signature)
            .map_err(|_| SignatureError::Mismatch)?;
        // Strict: a key of small order would verify anything.
        key.verify_strict(message, &signature)
            .map_err(|_| SignatureError::Mismatch)
    }
}

#[cfg(all(test, feature = "verify"))]
mod tests {
    use super::*;
    use crate::certificate::PeerCertificate;
    use crate::testing;

    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    macro_rules! fixture {
        ($name:literal) => {
            (
                $name,
                include_bytes!(concat!("../testdata/", $name, ".pem")).as_slice(),
            )
        };
    }

    fn verify(certificate: &PeerCertificate) -> Result<(), SignatureError> {
        RustVerifier.verify(
            certificate
                .signature_algorithm()
                .ok_or(SignatureError::Unsupported)?,
            certificate.spki_der(),
            certificate.tbs_der(),
            certificate.signature(),
        )
    }

    #[test]
    fn every_accepted_algorithm_verifies_and_no_changed_octet_does() {
        use SignatureAlgorithm as A;
        let rsa2048 = KeyType::Rsa { bits: 2048 };
        let cases = [
            (fixture!("p256-sha256"), A::EcdsaSha256, KeyType::P256),
            (fixture!("p256-sha384"), A::EcdsaSha384, KeyType::P256),
            (fixture!("p256-sha512"), A::EcdsaSha512, KeyType::P256),
            (fixture!("p384-sha256"), A::EcdsaSha256, KeyType::P384),
            (fixture!("p384-sha384"), A::EcdsaSha384, KeyType::P384),
            (fixture!("p384-sha512"), A::EcdsaSha512, KeyType::P384),
            (fixture!("rsa2048-sha256"), A::RsaPkcs1Sha256, rsa2048),
            (fixture!("rsa2048-sha384"), A::RsaPkcs1Sha384, rsa2048),
            (fixture!("rsa2048-sha512"), A::RsaPkcs1Sha512, rsa2048),
            (fixture!("rsa2048-e3-sha256"), A::RsaPkcs1Sha256, rsa2048),
            (
                fixture!("rsa3072-sha256"),
                A::RsaPkcs1Sha256,
                KeyType::Rsa { bits: 3072 },
            ),
            (
                fixture!("rsa4096-sha256"),
                A::RsaPkcs1Sha256,
                KeyType::Rsa { bits: 4096 },
            ),
            (fixture!("rsa2048-pss-sha256"), A::RsaPssSha256, rsa2048),
            (fixture!("rsa2048-pss-sha384"), A::RsaPssSha384, rsa2048),
            (fixture!("rsa2048-pss-sha512"), A::RsaPssSha512, rsa2048),
            (fixture!("ed25519"), A::Ed25519, KeyType::Ed25519),
        ];
        for algorithm in SignatureAlgorithm::ALL {
            assert!(cases.iter().any(|(_, covered, _)| *covered == algorithm));
        }
        for ((name, pem), algorithm, key_type) in cases {
            let certificate = PeerCertificate::parse(pem).expect(name);
            assert_eq!(certificate.signature_algorithm(), Some(algorithm), "{name}");
            assert_eq!(certificate.key_type(), key_type, "{name}");
            assert!(certificate.is_ca(), "{name}");
            assert_eq!(verify(&certificate), Ok(()), "{name}");
            let check = |tbs: &[u8], signature: &[u8]| {
                RustVerifier.verify(algorithm, certificate.spki_der(), tbs, signature)
            };
            let flipped = |octets: &[u8], at: usize| {
                let mut octets = octets.to_vec();
                octets[at] ^= 1;
                octets
            };
            let (tbs, signature) = (certificate.tbs_der(), certificate.signature());
            for at in [0, tbs.len() / 2, tbs.len() - 1] {
                assert_eq!(
                    check(&flipped(tbs, at), signature),
                    Err(SignatureError::Mismatch)
                );
            }
            for at in [0, signature.len() / 2, signature.len() - 1] {
                assert_eq!(
                    check(tbs, &flipped(signature, at)),
                    Err(SignatureError::Mismatch)
                );
            }
            for wrong in [&[], &signature[1..], &[signature, &[0]].concat()] {
                assert_eq!(check(tbs, wrong), Err(SignatureError::Mismatch), "{name}");
            }
            for other in SignatureAlgorithm::ALL {
                if other != algorithm {
                    let result = RustVerifier.verify(other, certificate.spki_der(), tbs, signature);
                    let expected = if other.fits(key_type) {
                        SignatureError::Mismatch
                    } else {
                        SignatureError::Unsupported
                    };
                    assert_eq!(result, Err(expected), "{name} as {other}");
                }
            }
        }
    }

    #[test]
    fn nothing_weaker_and_nothing_unknown_is_supported() {
        for (name, pem) in [
            fixture!("p256-sha1"),
            fixture!("rsa2048-sha1"),
            fixture!("rsa1024-sha256"),
            fixture!("rsa2048-pss-sha256-salt20"),
            fixture!("p521-sha256"),
            fixture!("secp256k1-sha256"),
            fixture!("p256-explicit-sha256"),
        ] {
            let certificate = PeerCertificate::parse(pem).expect(name);
            assert_eq!(
                verify(&certificate),
                Err(SignatureError::Unsupported),
                "{name}"
            );
        }
    }

    #[test]
    fn rsa_parameters_may_be_left_out_and_ecdsa_has_none() {
        let of = |algorithm: SignatureAlgorithm| algorithm.identifier().to_vec();
        let rsa = of(SignatureAlgorithm::RsaPkcs1Sha256);
        let without = &rsa[..rsa.len() - 2];
        assert_eq!(
            SignatureAlgorithm::from_identifier(without),
            Some(SignatureAlgorithm::RsaPkcs1Sha256)
        );
        let ecdsa = [of(SignatureAlgorithm::EcdsaSha256), vec![5, 0]].concat();
        assert_eq!(SignatureAlgorithm::from_identifier(&ecdsa), None);
        assert_eq!(SignatureAlgorithm::from_identifier(&[]), None);
        for algorithm in SignatureAlgorithm::ALL {
            assert_eq!(
                SignatureAlgorithm::from_identifier(algorithm.identifier()),
                Some(algorithm)
            );
        }
    }

    #[test]
    fn the_host_is_asked_for_what_it_knows() {
        use SignatureAlgorithm as A;
        for (algorithm, hash) in [
            (A::EcdsaSha256, Some("sha256")),
            (A::EcdsaSha384, Some("sha384")),
            (A::EcdsaSha512, Some("sha512")),
            (A::RsaPkcs1Sha256, Some("sha256")),
            (A::RsaPkcs1Sha384, Some("sha384")),
            (A::RsaPkcs1Sha512, Some("sha512")),
            (A::RsaPssSha256, None),
            (A::RsaPssSha384, None),
            (A::RsaPssSha512, None),
            (A::Ed25519, None),
        ] {
            assert_eq!(algorithm.host_hash(), hash, "{algorithm}");
        }
        let names = [A::EcdsaSha256, A::RsaPssSha512].map(|algorithm| algorithm.to_string());
        assert_eq!(names, ["ECDSA with SHA-256", "RSA PSS with SHA-512"]);
    }

    fn rsa_spki(modulus: &[u8], exponent: &[u8]) -> Vec<u8> {
        use testing::{BIT_STRING, INTEGER, NULL, oid, sequence, tlv};
        let key = sequence(&[tlv(INTEGER, modulus), tlv(INTEGER, exponent)]);
        sequence(&[
            sequence(&[oid("1.2.840.113549.1.1.1"), tlv(NULL, &[])]),
            tlv(BIT_STRING, &[&[0], key.as_slice()].concat()),
        ])
    }

    #[test]
    fn the_type_of_a_key_is_read_from_its_public_key_info() {
        use testing::{BIT_STRING, NULL, oid, sequence, tlv};
        let modulus = |first: u8, octets: usize, last: u8| {
            let mut modulus = vec![0, first];
            modulus.resize(octets, 0xFF);
            modulus.push(last);
            modulus
        };
        let curve = |curve: &str, point: &[u8]| {
            sequence(&[
                sequence(&[oid("1.2.840.10045.2.1"), oid(curve)]),
                tlv(BIT_STRING, &[&[0], point].concat()),
            ])
        };
        let (p256, p384) = ("1.2.840.10045.3.1.7", "1.3.132.0.34");
        let ed25519 = |octets: usize| {
            sequence(&[
                sequence(&[oid("1.3.101.112")]),
                tlv(BIT_STRING, &[&[0], vec![9; octets].as_slice()].concat()),
            ])
        };
        let unused_bits = sequence(&[sequence(&[oid("1.3.101.112")]), tlv(BIT_STRING, &[1; 33])]);
        for (spki, expected) in [
            (
                rsa_spki(&modulus(0x80, 256, 1), &[1, 0, 1]),
                Ok(KeyType::Rsa { bits: 2048 }),
            ),
            (
                rsa_spki(&modulus(0xFF, 1024, 1), &[3]),
                Ok(KeyType::Rsa { bits: 8192 }),
            ),
            (
                rsa_spki(&modulus(0x80, 256, 2), &[1, 0, 1]),
                Ok(KeyType::Other),
            ),
            (rsa_spki(&modulus(0x80, 256, 1), &[1]), Ok(KeyType::Other)),
            (rsa_spki(&modulus(0x80, 256, 1), &[2]), Ok(KeyType::Other)),
            (
                rsa_spki(&modulus(0x80, 256, 1), &[1, 0, 0, 0, 1]),
                Ok(KeyType::Other),
            ),
            (rsa_spki(&modulus(0x80, 9000, 1), &[3]), Ok(KeyType::Other)),
            (rsa_spki(&[0x80, 1], &[3]), Err(CertificateError::PublicKey)),
            (curve(p256, &[4; 65]), Ok(KeyType::P256)),
            (curve(p256, &[2; 33]), Ok(KeyType::Other)),
            (curve(p256, &[6; 65]), Ok(KeyType::Other)),
            (curve(p256, &[4; 97]), Ok(KeyType::Other)),
            (curve(p384, &[4; 97]), Ok(KeyType::P384)),
            (curve(p384, &[4; 65]), Ok(KeyType::Other)),
            (curve("1.3.132.0.35", &[4; 133]), Ok(KeyType::Other)),
            (ed25519(32), Ok(KeyType::Ed25519)),
            (ed25519(31), Err(CertificateError::PublicKey)),
            (unused_bits, Err(CertificateError::PublicKey)),
            (
                sequence(&[tlv(NULL, &[]), tlv(BIT_STRING, &[0])]),
                Err(CertificateError::PublicKey),
            ),
            (Vec::new(), Err(CertificateError::PublicKey)),
        ] {
            assert_eq!(
                KeyType::from_spki(&spki),
                expected,
                "{:x?}",
                &spki[..spki.len().min(40)]
            );
        }
    }

    #[test]
    fn strong_is_what_an_issuer_may_have() {
        for (key, strong) in [
            (KeyType::P256, true),
            (KeyType::P384, true),
            (KeyType::Ed25519, true),
            (KeyType::Rsa { bits: 2047 }, false),
            (KeyType::Rsa { bits: 2048 }, true),
            (KeyType::Rsa { bits: 8192 }, true),
            (KeyType::Rsa { bits: 8193 }, false),
            (KeyType::Other, false),
        ] {
            assert_eq!(key.is_strong(), strong, "{key}");
            assert_eq!(KeyPolicy::default().allows(key), strong, "{key}");
        }
    }

    #[test]
    fn the_key_policy_allows_what_it_names() {
        use KeyTypeName as N;
        let all = [N::P256, N::P384, N::Rsa, N::Ed25519];
        assert_eq!(KeyPolicy::new(&all, 2048), Ok(KeyPolicy::default()));
        let rsa = KeyPolicy::new(&[N::Rsa], 3072).unwrap();
        for (key, allowed) in [
            (KeyType::P256, false),
            (KeyType::P384, false),
            (KeyType::Ed25519, false),
            (KeyType::Other, false),
            (KeyType::Rsa { bits: 3071 }, false),
            (KeyType::Rsa { bits: 3072 }, true),
            (KeyType::Rsa { bits: 8193 }, false),
        ] {
            assert_eq!(rsa.allows(key), allowed, "{key}");
        }
        for (name, key) in [
            (N::P256, KeyType::P256),
            (N::P384, KeyType::P384),
            (N::Ed25519, KeyType::Ed25519),
        ] {
            let policy = KeyPolicy::new(&[name], 2048).unwrap();
            for other in [
                KeyType::P256,
                KeyType::P384,
                KeyType::Ed25519,
                KeyType::Rsa { bits: 4096 },
            ] {
                assert_eq!(policy.allows(other), other == key);
            }
        }
        assert_eq!(KeyPolicy::new(&[], 2048), Err(KeyPolicyError::NoTypes));
        for bits in [0, 2047, 8193] {
            assert_eq!(KeyPolicy::new(&all, bits), Err(KeyPolicyError::RsaBits));
        }
        for bits in [2048, 8192] {
            assert!(KeyPolicy::new(&all, bits).is_ok());
        }
    }
}
