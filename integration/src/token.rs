//! Tokens of accounts, as the sign-in service of an operator would make them, and as it would not.

use std::sync::OnceLock;

use anyhow::{Context, Result};
use base64ct::{Base64UrlUnpadded, Encoding};
use rcgen::{KeyPair, SigningKey as _};
use serde_json::{Value, json};

use crate::certificate::{RsaKey, now_seconds};

/// Who signs the tokens of `envoy/http.yaml`.
pub const ISSUER: &str = "https://login.example";

/// How a token is signed (RFC 7518, RFC 8037).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    /// Ed25519.
    EdDsa,
    /// ECDSA on P-256.
    Es256,
    /// RSA, PKCS #1 v1.5.
    Rs256,
}

impl Algorithm {
    const fn name(self) -> &'static str {
        match self {
            Self::EdDsa => "EdDSA",
            Self::Es256 => "ES256",
            Self::Rs256 => "RS256",
        }
    }
}

/// What is wrong with a token?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flaw {
    /// An octet of its signature was changed.
    Signature,
    /// Somebody else's key signed it, under the name of the known one.
    Key,
    /// It ended a while ago.
    Expired,
    /// It begins later.
    NotYetValid,
    /// It is for somebody else.
    Audience,
    /// It says that it comes from somebody else.
    Issuer,
}

/// A token that somebody shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Token {
    /// Its subject.
    pub subject: &'static str,
    /// How it is signed.
    pub algorithm: Algorithm,
    /// What is wrong with it; nothing with a good one.
    pub flaw: Option<Flaw>,
}

/// A sign-in service with a key for each algorithm.
pub struct TokenIssuer {
    ed25519: KeyPair,
    p256: KeyPair,
    rsa: KeyPair,
}

/// One for all sign-in services of a process: it takes long to make.
static RSA: OnceLock<RsaKey> = OnceLock::new();

impl TokenIssuer {
    /// New keys.
    pub fn new() -> Result<Self> {
        if RSA.get().is_none() {
            let _ = RSA.set(RsaKey::generate(2048)?);
        }
        let rsa = RSA.get().context("no RSA key")?;
        Ok(Self {
            ed25519: KeyPair::generate_for(&rcgen::PKCS_ED25519)?,
            p256: KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?,
            rsa: rsa.key_pair()?,
        })
    }

    /// The public keys, as the JSON Web Key Set (RFC 7517) that Envoy reads.
    pub fn key_set(&self) -> String {
        let text = Base64UrlUnpadded::encode_string;
        // An uncompressed point (SEC 1, 2.3.3): 4, then both coordinates.
        let point = self.p256.public_key_raw().get(1..).unwrap_or_default();
        let (x, y) = point.split_at(point.len() / 2);
        let (modulus, exponent) = RSA
            .get()
            .map_or((&[][..], &[][..]), |key| (&key.modulus, &key.exponent));
        json!({"keys": [
            {"kty": "OKP", "crv": "Ed25519", "alg": "EdDSA", "kid": "EdDSA", "use": "sig",
             "x": text(self.ed25519.public_key_raw())},
            {"kty": "EC", "crv": "P-256", "alg": "ES256", "kid": "ES256", "use": "sig",
             "x": text(x), "y": text(y)},
            {"kty": "RSA", "alg": "RS256", "kid": "RS256", "use": "sig",
             "n": text(modulus), "e": text(exponent)},
        ]})
        .to_string()
    }

    /// A token (RFC 7519), good for five minutes where nothing is wrong with it.
    pub fn token(&self, token: Token) -> Result<String> {
        let Token {
            subject,
            algorithm,
            flaw,
        } = token;
        let is = |wrong| flaw == Some(wrong);
        let now = now_seconds();
        let (from, to) = if is(Flaw::Expired) {
            (now - 7200, now - 3600)
        } else if is(Flaw::NotYetValid) {
            (now + 3600, now + 7200)
        } else {
            (now, now + 300)
        };
        let issuer = if is(Flaw::Issuer) {
            "https://login.elsewhere.example"
        } else {
            ISSUER
        };
        let audience = if is(Flaw::Audience) {
            "elsewhere"
        } else {
            "medbind"
        };
        let signed = signed_text(
            algorithm,
            &json!({
                "iss": issuer, "sub": subject, "aud": audience, "iat": from, "nbf": from, "exp": to,
            }),
        );
        let mut signature = if is(Flaw::Key) {
            sign(&stranger(algorithm)?, algorithm, signed.as_bytes())?
        } else {
            sign(self.key(algorithm), algorithm, signed.as_bytes())?
        };
        if is(Flaw::Signature)
            && let Some(octet) = signature.last_mut()
        {
            *octet ^= 1;
        }
        Ok(format!(
            "{signed}.{}",
            Base64UrlUnpadded::encode_string(&signature)
        ))
    }

    /// A good token that ends at this moment, in seconds since 1970.
    pub fn good_until(&self, subject: &str, end: i64) -> Result<String> {
        let now = now_seconds();
        let claims = json!({
            "iss": ISSUER, "sub": subject, "aud": "medbind", "iat": now, "nbf": now, "exp": end,
        });
        let signed = signed_text(Algorithm::EdDsa, &claims);
        let signature = sign(&self.ed25519, Algorithm::EdDsa, signed.as_bytes())?;
        Ok(format!(
            "{signed}.{}",
            Base64UrlUnpadded::encode_string(&signature)
        ))
    }

    fn key(&self, algorithm: Algorithm) -> &KeyPair {
        match algorithm {
            Algorithm::EdDsa => &self.ed25519,
            Algorithm::Es256 => &self.p256,
            Algorithm::Rs256 => &self.rsa,
        }
    }
}

/// Header and claims (RFC 7515, 5.1).
fn signed_text(algorithm: Algorithm, claims: &Value) -> String {
    let part = |value: &Value| Base64UrlUnpadded::encode_string(value.to_string().as_bytes());
    let head = json!({"alg": algorithm.name(), "kid": algorithm.name(), "typ": "JWT"});
    format!("{}.{}", part(&head), part(claims))
}

/// A key of somebody else.
fn stranger(algorithm: Algorithm) -> Result<KeyPair> {
    Ok(match algorithm {
        Algorithm::EdDsa => KeyPair::generate_for(&rcgen::PKCS_ED25519)?,
        Algorithm::Es256 => KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?,
        Algorithm::Rs256 => RsaKey::generate(2048)?.key_pair()?,
    })
}

fn sign(key: &KeyPair, algorithm: Algorithm, octets: &[u8]) -> Result<Vec<u8>> {
    let signature = key.sign(octets)?;
    Ok(match algorithm {
        // Both numbers one after the other (RFC 7518, 3.4), not as DER.
        Algorithm::Es256 => p256::ecdsa::Signature::from_der(&signature)?
            .to_bytes()
            .to_vec(),
        Algorithm::EdDsa | Algorithm::Rs256 => signature,
    })
}
