//! Certificates as an issuing service makes them (rcgen), from its PEM to a device.
#![cfg(all(feature = "verify", not(target_arch = "wasm32")))]

use medbind_core::certificate::PeerCertificate;
use medbind_core::deny::{DenyCode, DenyReason, NotAllowed};
use medbind_core::issuer::{Issuer, IssuerSet};
use medbind_core::peer::{VerifiedPeer, authenticate};
use medbind_core::signature::{KeyPolicy, RustVerifier};
use medbind_core::source::IdentitySource;
use medbind_core::time::Timestamp;
use proptest::prelude::*;
use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DnType, DnValue, ExtendedKeyUsagePurpose,
    IsCa, KeyPair, KeyUsagePurpose, SanType, SignatureAlgorithm,
};

struct Ca {
    pem: String,
    issuer: rcgen::Issuer<'static, KeyPair>,
}

impl Ca {
    fn new(name: &str, algorithm: &'static SignatureAlgorithm) -> Self {
        let key = KeyPair::generate_for(algorithm).unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let certificate = params.self_signed(&key).unwrap();
        Self {
            pem: certificate.pem(),
            issuer: rcgen::Issuer::new(params, key),
        }
    }

    fn issue(&self, params: &CertificateParams) -> rcgen::Certificate {
        let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
        params.signed_by(&key, &self.issuer).unwrap()
    }

    fn issuers(&self, sources: &str) -> IssuerSet {
        let sources: Vec<IdentitySource> = serde_json::from_str(sources).unwrap();
        IssuerSet::new(vec![
            Issuer::new("acme", &[&self.pem], sources, true).unwrap(),
        ])
        .unwrap()
    }
}

fn device(serial: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(
        DnType::CustomDnType(vec![2, 5, 4, 5]),
        DnValue::Utf8String(serial.into()),
    );
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    params.use_authority_key_identifier_extension = true;
    params
}

fn verdict(issuers: &IssuerSet, der: &[u8]) -> Result<VerifiedPeer, DenyReason> {
    let certificate = PeerCertificate::parse_der(der)?;
    authenticate(issuers, &KeyPolicy::default(), &certificate, &RustVerifier)
}

#[test]
fn a_device_is_known_under_every_kind_of_issuer_key() {
    for algorithm in [
        &rcgen::PKCS_ECDSA_P256_SHA256,
        &rcgen::PKCS_ECDSA_P384_SHA384,
        &rcgen::PKCS_ED25519,
    ] {
        let ca = Ca::new("Acme Device CA", algorithm);
        let issuers = ca.issuers(r#"[{"source": "subject.serial_number"}]"#);
        let certificate = ca.issue(&device("SN-1"));
        let read = PeerCertificate::parse(certificate.pem().as_bytes()).unwrap();
        assert!(read.authority_key_identifier().is_some());
        let peer = verdict(&issuers, certificate.der()).unwrap();
        assert_eq!(peer.device().as_str(), "acme:SN-1");
        assert_eq!(peer.digest(), read.digest());
        let now = "2026-06-01T00:00:00Z".parse::<Timestamp>().unwrap();
        assert_eq!(peer.check_validity(now), Ok(()));

        let stranger = Ca::new("Acme Device CA", algorithm);
        let refused = verdict(&issuers, stranger.issue(&device("SN-1")).der()).unwrap_err();
        assert_eq!(refused.code(), DenyCode::UnknownIssuer);

        let own = PeerCertificate::parse(ca.pem.as_bytes()).unwrap();
        let refused = authenticate(&issuers, &KeyPolicy::default(), &own, &RustVerifier);
        assert_eq!(
            refused.unwrap_err(),
            DenyReason::CertificateNotAllowed(NotAllowed::Ca)
        );
    }
}

#[test]
fn names_of_every_kind_lead_to_the_device() {
    let ca = Ca::new("Acme Device CA", &rcgen::PKCS_ECDSA_P256_SHA256);
    let issuers = ca.issuers(
        r#"[
            {"source": "san.uri", "template": "urn:dev:ops:32473-{serial}"},
            {"source": "san.dns", "template": "{serial}.devices.example"},
            {"source": "subject.serial_number"}
        ]"#,
    );
    let mut params = device("sn1");
    params.subject_alt_names = vec![
        SanType::URI("urn:dev:ops:32473-sn1".try_into().unwrap()),
        SanType::DnsName("sn1.Devices.example".try_into().unwrap()),
        SanType::IpAddress([127, 0, 0, 1].into()),
    ];
    let peer = verdict(&issuers, ca.issue(&params).der()).unwrap();
    assert_eq!(peer.device().as_str(), "acme:sn1");

    params.subject_alt_names[1] = SanType::DnsName("sn2.devices.example".try_into().unwrap());
    let refused = verdict(&issuers, ca.issue(&params).der()).unwrap_err();
    assert_eq!(refused, DenyReason::AmbiguousDeviceIdentity);

    let mut critical = CustomExtension::from_oid_content(&[1, 2, 3], vec![5, 0]);
    critical.set_criticality(true);
    let mut params = device("sn1");
    params.custom_extensions.push(critical);
    let refused = verdict(&issuers, ca.issue(&params).der()).unwrap_err();
    assert_eq!(refused.code(), DenyCode::CertificateNotAllowed);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn a_certificate_names_its_own_device_and_a_changed_one_names_none(
        serial in "[ -~]{1,64}",
        at in any::<prop::sample::Index>(),
        to in any::<u8>(),
    ) {
        let ca = Ca::new("Acme Device CA", &rcgen::PKCS_ECDSA_P256_SHA256);
        let issuers = ca.issuers(r#"[{"source": "subject.serial_number"}]"#);
        let mut der = ca.issue(&device(&serial)).der().to_vec();
        let peer = verdict(&issuers, &der).unwrap();
        let expected =
            medbind_core::identity::DeviceId::new("acme", serial.as_bytes()).unwrap();
        prop_assert_eq!(peer.device(), &expected);

        let place = at.index(der.len());
        prop_assume!(der[place] != to);
        der[place] = to;
        prop_assert!(verdict(&issuers, &der).is_err());
    }
}
