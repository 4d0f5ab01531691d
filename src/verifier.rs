//! Did the issuer's key sign this? Asked of the host's own cryptography where that is there and
//! right, and of the module's where it is not.

use std::cell::Cell;

use medbind_core::signature::{RustVerifier, SignatureAlgorithm, SignatureError, VerifySignature};

use crate::host::Host;

/// The name of Envoy's foreign function.
const FUNCTION: &str = "verify_signature";
/// `VerifySignatureResult { result: true }` (a protobuf message): the only answer that means yes.
const YES: [u8; 2] = [0x08, 0x01];

/// A signature whose answer is known.
struct KnownAnswer {
    algorithm: SignatureAlgorithm,
    key: &'static [u8],
    signature: &'static [u8],
}

const MESSAGE: &[u8] = include_bytes!("known_answers/message");

macro_rules! known_answer {
    ($algorithm:ident, $key:literal, $hash:literal) => {
        KnownAnswer {
            algorithm: SignatureAlgorithm::$algorithm,
            key: include_bytes!(concat!("known_answers/", $key, ".spki.der")),
            signature: include_bytes!(concat!("known_answers/", $key, ".", $hash, ".sig")),
        }
    };
}

const KNOWN_ANSWERS: [KnownAnswer; 9] = [
    known_answer!(EcdsaSha256, "p256", "sha256"),
    known_answer!(EcdsaSha256, "p384", "sha256"),
    known_answer!(EcdsaSha384, "p256", "sha384"),
    known_answer!(EcdsaSha384, "p384", "sha384"),
    known_answer!(EcdsaSha512, "p256", "sha512"),
    known_answer!(EcdsaSha512, "p384", "sha512"),
    known_answer!(RsaPkcs1Sha256, "rsa", "sha256"),
    known_answer!(RsaPkcs1Sha384, "rsa", "sha384"),
    known_answer!(RsaPkcs1Sha512, "rsa", "sha512"),
];

/// The algorithms for which the host gave every known answer, right ones and wrong ones.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostAlgorithms(Vec<SignatureAlgorithm>);

impl HostAlgorithms {
    /// Asks the host for each known answer, and for each again with another message, which it must
    /// refuse. A host without the function is asked once.
    pub fn probe(host: &impl Host) -> Self {
        let mut altered = MESSAGE.to_vec();
        if let Some(octet) = altered.first_mut() {
            *octet ^= 1;
        }
        let mut right: Vec<SignatureAlgorithm> = Vec::new();
        let mut wrong: Vec<SignatureAlgorithm> = Vec::new();
        for known in &KNOWN_ANSWERS {
            if wrong.contains(&known.algorithm) {
                continue;
            }
            let ask = |message| ask(host, known.algorithm, known.key, message, known.signature);
            if ask(MESSAGE) == Some(true) && ask(&altered) != Some(true) {
                right.push(known.algorithm);
            } else {
                wrong.push(known.algorithm);
            }
        }
        right.retain(|algorithm| !wrong.contains(algorithm));
        right.dedup();
        Self(right)
    }

    /// Whether the host checks signatures of this algorithm.
    pub fn contains(&self, algorithm: SignatureAlgorithm) -> bool {
        self.0.contains(&algorithm)
    }

    /// The algorithms.
    pub fn as_slice(&self) -> &[SignatureAlgorithm] {
        &self.0
    }
}

/// Checks one certificate's signature, and remembers who did.
#[derive(Debug)]
pub struct Verifier<'a, H> {
    host: &'a H,
    algorithms: &'a HostAlgorithms,
    by_host: Cell<Option<bool>>,
}

impl<'a, H: Host> Verifier<'a, H> {
    /// For one certificate.
    pub const fn new(host: &'a H, algorithms: &'a HostAlgorithms) -> Self {
        Self {
            host,
            algorithms,
            by_host: Cell::new(None),
        }
    }

    /// Whether the last check was the host's; `None` where there was none.
    pub fn by_host(&self) -> Option<bool> {
        self.by_host.get()
    }
}

impl<H: Host> VerifySignature for Verifier<'_, H> {
    fn verify(
        &self,
        algorithm: SignatureAlgorithm,
        spki_der: &[u8],
        message: &[u8],
        signature: &[u8],
    ) -> Result<(), SignatureError> {
        if self.algorithms.contains(algorithm)
            && let Some(yes) = ask(self.host, algorithm, spki_der, message, signature)
        {
            self.by_host.set(Some(true));
            return if yes {
                Ok(())
            } else {
                Err(SignatureError::Mismatch)
            };
        }
        self.by_host.set(Some(false));
        RustVerifier.verify(algorithm, spki_der, message, signature)
    }
}

/// The host's answer; `None` where it has none.
fn ask(
    host: &impl Host,
    algorithm: SignatureAlgorithm,
    spki_der: &[u8],
    message: &[u8],
    signature: &[u8],
) -> Option<bool> {
    let hash = algorithm.host_hash()?;
    let mut argument = Vec::with_capacity(
        32_usize
            .saturating_add(spki_der.len())
            .saturating_add(message.len())
            .saturating_add(signature.len()),
    );
    let fields = [hash.as_bytes(), spki_der, signature, message];
    for (tag, field) in [0x0A, 0x12, 0x1A, 0x22].into_iter().zip(fields) {
        argument.push(tag);
        push_length(&mut argument, field.len());
        argument.extend_from_slice(field);
    }
    let answer = host.foreign_function(FUNCTION, &argument).ok()?;
    Some(answer == YES)
}

/// A protobuf length: base 128, least significant group first.
fn push_length(out: &mut Vec<u8>, mut length: usize) {
    loop {
        let group = u8::try_from(length & 0x7F).unwrap_or(0);
        length >>= 7;
        if length == 0 {
            out.push(group);
            return;
        }
        out.push(group | 0x80);
    }
}
