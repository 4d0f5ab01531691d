//! Tokens of accounts, as the sign-in service of an operator would make them.

use anyhow::Result;
use base64ct::{Base64UrlUnpadded, Encoding};
use rcgen::{KeyPair, SigningKey};
use serde_json::json;

use crate::certificate::now_seconds;

/// Who signs the tokens of `envoy/http.yaml`.
pub const ISSUER: &str = "https://login.example";

/// A sign-in service's key.
pub struct TokenIssuer {
    key: KeyPair,
}

impl TokenIssuer {
    /// A new key (Ed25519).
    pub fn new() -> Result<Self> {
        Ok(Self {
            key: KeyPair::generate_for(&rcgen::PKCS_ED25519)?,
        })
    }

    /// The public key, as the JSON Web Key Set (RFC 7517) that Envoy reads.
    pub fn key_set(&self) -> String {
        let x = Base64UrlUnpadded::encode_string(self.key.public_key_raw());
        json!({"keys": [{"kty": "OKP", "crv": "Ed25519", "alg": "EdDSA", "kid": "harness", "use": "sig", "x": x}]}).to_string()
    }

    /// A token (RFC 7519) of `subject` that is good for five minutes.
    pub fn token(&self, issuer: &str, subject: &str) -> Result<String> {
        let part = |value: serde_json::Value| {
            Base64UrlUnpadded::encode_string(value.to_string().as_bytes())
        };
        let now = now_seconds();
        let head = part(json!({"alg": "EdDSA", "kid": "harness", "typ": "JWT"}));
        let body = part(
            json!({"iss": issuer, "sub": subject, "aud": "medbind", "iat": now, "exp": now + 300}),
        );
        let signed = format!("{head}.{body}");
        let signature = self.key.sign(signed.as_bytes())?;
        Ok(format!(
            "{signed}.{}",
            Base64UrlUnpadded::encode_string(&signature)
        ))
    }
}
