//! The peer's certificate, which is the first thing that a stranger can shape.
//!
//! - Nothing panics, and both doors (PEM, URL-encoded or not, and DER) read the same.
//! - Where another reader of X.509 takes the certificate too, it reads the same in it: what was
//!   signed, the names, the key, the times, what the extensions say.
//! - Whatever its signature, a certificate that is taken for a device is an end entity's with
//!   `clientAuth`, and the device's name is canonical and of a configured namespace.
//! - **Whoever is authenticated holds what a configured issuer signed, octet for octet, for that
//!   device.** All that the issuers have ever signed is known here, so no signature has to be
//!   believed. The same holds for every permit.

use std::borrow::Cow;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use medbind_core::binding::{Binding, BindingState, Epoch, Pins};
use medbind_core::certificate::PeerCertificate;
use medbind_core::config::{GuardConfig, PluginConfig};
use medbind_core::decision::{Bindings, Decision, Facts, Lookup, Peer, decide};
use medbind_core::deny::{DenyReason, Unavailable};
use medbind_core::identity::DeviceId;
use medbind_core::issuer::Issuer;
use medbind_core::peer::{VerifiedPeer, authenticate, authenticate_traced};
use medbind_core::signature::{
    KeyPolicy, RustVerifier, SignatureAlgorithm, SignatureError, VerifySignature,
};
use medbind_core::source::IdentitySource;
use medbind_core::time::Timestamp;
use percent_encoding::{NON_ALPHANUMERIC, percent_decode, percent_encode};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use serde_json::json;
use sha2::{Digest, Sha256};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;

use crate::site::{NOW, SITE};
use crate::{Reached, Seed, Target};

pub(crate) const TARGET: Target = Target {
    name: "certificate",
    run,
    seeds,
    words: &[
        "-----BEGIN CERTIFICATE-----",
        "-----END CERTIFICATE-----",
        "%0A",
        "\x30\x03\x01\x01",
        "\x06\x03\x55\x04\x05",
        "\x06\x03\x55\x1d\x11",
        "\x06\x03\x55\x1d\x0f",
        "\x06\x03\x55\x1d\x13",
        "\x06\x03\x55\x1d\x25",
        "\x06\x08\x2b\x06\x01\x05\x05\x07\x08\x04",
        "urn:dev:ops:32473-",
        ".devices.example",
    ],
};

/// One octet too many for every budget, so that the budgets are reached too.
const LONGEST: usize = 64 * 1024 + 1;

/// Holds the promises against one input: PEM, or, where it does not look like it, DER.
///
/// # Panics
///
/// Where a promise is broken.
pub fn run(input: &[u8]) -> Reached {
    if input.len() > LONGEST {
        return Reached::Refused;
    }
    let is_pem = input.trim_ascii_start().starts_with(b"-----");
    let text: Cow<'_, [u8]> = if is_pem || input.contains(&b'%') && input.is_ascii() {
        input.into()
    } else {
        let by_der = PeerCertificate::parse_der(input);
        let text = pem(input).into_bytes();
        assert_eq!(
            by_der.ok(),
            PeerCertificate::parse(&text).ok(),
            "DER and its PEM are the same certificate"
        );
        text.into()
    };
    let parsed = PeerCertificate::parse(&text);
    let configured: Vec<IdentitySource> = Vec::from([IdentitySource::SubjectSerialNumber]);
    let as_issuer = Issuer::new("own", &[&text], configured, false);
    let Ok(certificate) = parsed else {
        assert!(as_issuer.is_err(), "what is no certificate is no issuer's");
        return Reached::Refused;
    };
    if as_issuer.is_ok() {
        assert!(certificate.is_ca(), "only a CA is an issuer");
    }
    spelled_otherwise(&text, &certificate);
    if let Some(der) = der_by_another_reader(&text) {
        assert_eq!(
            certificate.digest().0,
            <[u8; 32]>::from(Sha256::digest(&der)),
            "two readers decode one certificate"
        );
        if let Ok((rest, other)) = x509_parser::parse_x509_certificate(&der) {
            assert!(rest.is_empty(), "nothing follows a certificate");
            same_as_another_reader(&certificate, &other);
        }
    }
    whatever_the_signature(&certificate);
    genuine(&certificate)
}

fn pem(der: &[u8]) -> String {
    der::pem::encode_string("CERTIFICATE", der::pem::LineEnding::LF, der).unwrap_or_default()
}

/// URL-encoded as Envoy's `x-forwarded-client-cert` has it.
fn spelled_otherwise(text: &[u8], certificate: &PeerCertificate) {
    if text.contains(&b'%') {
        return;
    }
    let encoded = percent_encode(text, NON_ALPHANUMERIC).to_string();
    if encoded.len() < LONGEST {
        let again = PeerCertificate::parse(encoded.as_bytes());
        assert_eq!(
            again.as_ref(),
            Ok(certificate),
            "URL-encoded it is the same"
        );
    }
}

fn der_by_another_reader(text: &[u8]) -> Option<CertificateDer<'static>> {
    let decoded: Vec<u8> = percent_decode(text).collect();
    CertificateDer::from_pem_slice(&decoded).ok()
}

fn same_as_another_reader(ours: &PeerCertificate, theirs: &X509Certificate<'_>) {
    let tbs = &theirs.tbs_certificate;
    assert_eq!(ours.tbs_der(), tbs.as_ref(), "what was signed");
    assert_eq!(
        ours.signature(),
        &*theirs.signature_value.data,
        "the signature"
    );
    assert_eq!(ours.issuer_der(), tbs.issuer.as_raw(), "the issuer");
    assert_eq!(ours.subject_der(), tbs.subject.as_raw(), "the subject");
    assert_eq!(ours.spki_der(), tbs.subject_pki.raw, "the key");
    let validity = &tbs.validity;
    assert_eq!(
        ours.not_before().unix_seconds(),
        validity.not_before.timestamp(),
        "notBefore"
    );
    assert!(
        ours.not_after() == Timestamp::MAX
            || ours.not_after().unix_seconds() == validity.not_after.timestamp(),
        "notAfter"
    );
    if let Ok(constraints) = theirs.basic_constraints() {
        let ca = constraints.is_some_and(|extension| extension.value.ca);
        assert_eq!(ours.is_ca(), ca, "basicConstraints");
    }
    if let Ok(usage) = theirs.key_usage() {
        assert_eq!(
            ours.key_usage().map(|usage| usage.digital_signature()),
            usage.map(|extension| extension.value.digital_signature()),
            "keyUsage"
        );
    }
    if let Ok(purposes) = theirs.extended_key_usage() {
        let client_auth = purposes.is_some_and(|extension| extension.value.client_auth);
        assert_eq!(ours.has_client_auth(), client_auth, "extKeyUsage");
    }
    if let Ok(names) = theirs.subject_alternative_name() {
        let names = names.map_or(&[][..], |extension| &extension.value.general_names);
        let mut dns = Vec::new();
        let mut uris = Vec::new();
        for name in names {
            if let GeneralName::DNSName(name) = name {
                dns.push(Box::from(*name));
            } else if let GeneralName::URI(name) = name {
                uris.push(Box::from(*name));
            }
        }
        assert_eq!(ours.dns_names(), dns, "dNSName");
        assert_eq!(ours.uris(), uris, "uniformResourceIdentifier");
    }
}

/// Takes every signature, so that what comes after it is reached by certificates that nobody
/// signed.
struct Gullible;

impl VerifySignature for Gullible {
    fn verify(
        &self,
        _: SignatureAlgorithm,
        _: &[u8],
        _: &[u8],
        _: &[u8],
    ) -> Result<(), SignatureError> {
        Ok(())
    }
}

fn whatever_the_signature(certificate: &PeerCertificate) {
    let verdict = verdict(certificate, &Gullible);
    let Ok(peer) = verdict else {
        return;
    };
    assert!(!certificate.is_ca(), "a CA is no device");
    assert!(
        certificate.purposes().is_none() || certificate.has_client_auth(),
        "clientAuth"
    );
    assert!(
        certificate
            .key_usage()
            .is_none_or(|usage| usage.digital_signature()),
        "digitalSignature"
    );
    assert!(certificate.critical_not_understood().is_empty());
    assert!(certificate.key_type().is_strong());
    assert!(
        matches!(peer.device().namespace(), "acme" | "beta"),
        "the namespace is configured"
    );
    let text = peer.device().as_str();
    assert_eq!(text.parse().as_ref(), Ok(peer.device()), "one spelling");
    assert!(
        text.bytes()
            .all(|octet| octet.is_ascii_alphanumeric() || b"-._~=:".contains(&octet)),
        "safe in a path, a topic and a header"
    );
    assert!(!matches!(peer.device().serial(), "" | "." | ".."));
    let again = Timestamp::from_unix_seconds(peer.not_before().unix_seconds().saturating_sub(1));
    assert!(peer.check_validity(again).is_err(), "not before its time");
}

/// The verdict, and that an explanation is what happened.
fn verdict(
    certificate: &PeerCertificate,
    verifier: &dyn VerifySignature,
) -> Result<VerifiedPeer, DenyReason> {
    let policy = KeyPolicy::default();
    let verdict = authenticate(&SITE.issuers, &policy, certificate, verifier);
    let mut steps = 0_u32;
    let traced = authenticate_traced(&SITE.issuers, &policy, certificate, verifier, &mut |_| {
        steps += 1;
    });
    assert_eq!(verdict, traced, "an explanation is what happened");
    assert!(steps > 0);
    verdict
}

static GUARD: LazyLock<GuardConfig> = LazyLock::new(|| {
    let json = json!({
        "role": "http",
        "issuers": SITE.json,
        "rules": [{"path": "/**", "principals": ["device"]}],
    });
    match PluginConfig::from_value(&json) {
        Ok(PluginConfig::Guard(guard)) => *guard,
        other => panic!("the site's guard: {other:?}"),
    }
});

/// A registry in which every device is claimed.
pub(crate) struct Everybody;

impl Bindings for Everybody {
    fn lookup(&mut self, device: &DeviceId, _: Timestamp) -> Lookup {
        Lookup::Found(Arc::new(Binding {
            device: device.clone(),
            state: BindingState::Active,
            account: "acc-1".parse().ok(),
            class: "cgm".parse().ok(),
            epoch: Epoch::FIRST,
            expires_at: None,
            pins: Pins::default(),
            revision: 1,
        }))
    }

    fn freshness(&mut self, _: Timestamp) -> Result<Duration, Unavailable> {
        Ok(Duration::ZERO)
    }
}

/// The real verdict, and the decision that stands on it.
fn genuine(certificate: &PeerCertificate) -> Reached {
    let signed = SITE.signed.get(certificate.tbs_der()).copied().flatten();
    let verdict = verdict(certificate, &RustVerifier);
    if let Ok(peer) = &verdict {
        assert_eq!(
            Some(peer.device().as_str()),
            signed,
            "an issuer signed this, for this device"
        );
        assert_eq!(peer.digest(), certificate.digest());
        assert_eq!(peer.pin(), certificate.pin());
    }
    let peer = verdict.map_or_else(Peer::Refused, Peer::Verified);
    let facts = Facts {
        peer: &peer,
        tokens: &None,
        method: "GET",
        path: "/",
    };
    let Decision::Permit(permit) = decide(&GUARD.policy, &facts, &mut Everybody, NOW) else {
        return Reached::Refused;
    };
    assert_eq!(
        permit.device().map(DeviceId::as_str),
        signed,
        "a permit is for a device that an issuer named"
    );
    assert!(certificate.not_before() <= NOW && NOW <= certificate.not_after());
    Reached::Taken
}

/// Certificates that are read, and refused: by algorithm, by key, because they are CAs' own.
const STRANGERS: [(&str, &[u8]); 12] = [
    ("ed25519", include_bytes!("../../core/testdata/ed25519.pem")),
    (
        "p256-sha1",
        include_bytes!("../../core/testdata/p256-sha1.pem"),
    ),
    (
        "p256-explicit",
        include_bytes!("../../core/testdata/p256-explicit-sha256.pem"),
    ),
    (
        "p384",
        include_bytes!("../../core/testdata/p384-sha384.pem"),
    ),
    (
        "p521",
        include_bytes!("../../core/testdata/p521-sha256.pem"),
    ),
    (
        "secp256k1",
        include_bytes!("../../core/testdata/secp256k1-sha256.pem"),
    ),
    (
        "rsa1024",
        include_bytes!("../../core/testdata/rsa1024-sha256.pem"),
    ),
    (
        "rsa2048",
        include_bytes!("../../core/testdata/rsa2048-sha256.pem"),
    ),
    (
        "rsa2048-e3",
        include_bytes!("../../core/testdata/rsa2048-e3-sha256.pem"),
    ),
    (
        "rsa2048-pss",
        include_bytes!("../../core/testdata/rsa2048-pss-sha256.pem"),
    ),
    (
        "rsa2048-pss-salt20",
        include_bytes!("../../core/testdata/rsa2048-pss-sha256-salt20.pem"),
    ),
    (
        "rsa4096",
        include_bytes!("../../core/testdata/rsa4096-sha256.pem"),
    ),
];

fn seeds() -> Vec<Seed> {
    let mut seeds = Vec::new();
    for one in &SITE.issued {
        let is_now = one.name != "expired";
        let reaches = if one.device.is_some() && is_now {
            Reached::Taken
        } else {
            Reached::Refused
        };
        seeds.push(Seed::new(
            format!("{}.pem", one.name),
            one.pem.as_bytes(),
            reaches,
        ));
        seeds.push(Seed::new(
            format!("{}.der", one.name),
            one.der.clone(),
            reaches,
        ));
    }
    let device = SITE.issued("device");
    seeds.push(Seed::new(
        "device.url",
        percent_encode(device.pem.as_bytes(), NON_ALPHANUMERIC).to_string(),
        Reached::Taken,
    ));
    seeds.push(Seed::new(
        "device-crlf.pem",
        device.pem.replace('\n', "\r\n"),
        Reached::Taken,
    ));
    let mut forged = device.der.clone();
    if let Some(last) = forged.last_mut() {
        *last ^= 1;
    }
    seeds.push(Seed::new("forged.der", forged, Reached::Refused));
    for (name, pem) in STRANGERS {
        seeds.push(Seed::new(format!("{name}.pem"), pem, Reached::Refused));
    }
    seeds
}
