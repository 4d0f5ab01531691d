//! Two issuers with the devices that they issued for: everything that is true of them is known
//! here, so that nobody has to be asked whether a certificate is genuine.

use std::collections::HashMap;
use std::sync::LazyLock;
use std::time::Duration;

use medbind_core::issuer::{Issuer, IssuerSet};
use medbind_core::source::IdentitySource;
use medbind_core::time::Timestamp;
use p256::ecdsa::signature::Signer as _;
use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DnType, DnValue, ExtendedKeyUsagePurpose,
    IsCa, KeyIdMethod, KeyUsagePurpose, PublicKeyData, SanType, SerialNumber, SignatureAlgorithm,
    SigningKey,
};
use serde_json::{Value, json};

/// A moment at which every certificate of the site is valid but the one that has expired.
pub(crate) const NOW: Timestamp = Timestamp::from_unix_seconds(1_800_000_000);

/// A certificate that an issuer of the site has signed.
pub(crate) struct Issued {
    pub(crate) name: &'static str,
    pub(crate) pem: String,
    pub(crate) der: Vec<u8>,
    /// The device that it stands for; `None` where the issuer signed it and it must be refused.
    pub(crate) device: Option<&'static str>,
}

/// The issuers, and all that they have ever signed.
pub(crate) struct Site {
    /// The configuration's `issuers`.
    pub(crate) json: Value,
    pub(crate) issuers: IssuerSet,
    pub(crate) issued: Vec<Issued>,
    /// What was signed, with the device that it stands for.
    pub(crate) signed: HashMap<Vec<u8>, Option<&'static str>>,
}

/// The one site: the same in every process.
pub(crate) static SITE: LazyLock<Site> = LazyLock::new(Site::new);

/// A key that is the same in every process, and signs the same octets the same way.
enum Key {
    P256(p256::ecdsa::SigningKey, Vec<u8>),
    Ed25519(ed25519_dalek::SigningKey, Vec<u8>),
}

impl Key {
    fn p256(number: u8) -> Self {
        let key = p256::ecdsa::SigningKey::from_slice(&[number; 32])
            .expect("any of these numbers is a key");
        let point = key.verifying_key().to_sec1_point(false);
        Self::P256(key, point.as_bytes().to_vec())
    }

    fn ed25519(number: u8) -> Self {
        let key = ed25519_dalek::SigningKey::from_bytes(&[number; 32]);
        let public = key.verifying_key().to_bytes().to_vec();
        Self::Ed25519(key, public)
    }
}

impl PublicKeyData for Key {
    fn der_bytes(&self) -> &[u8] {
        match self {
            Self::P256(_, public) | Self::Ed25519(_, public) => public,
        }
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        match self {
            Self::P256(..) => &rcgen::PKCS_ECDSA_P256_SHA256,
            Self::Ed25519(..) => &rcgen::PKCS_ED25519,
        }
    }
}

impl SigningKey for Key {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        Ok(match self {
            Self::P256(key, _) => {
                let signature: p256::ecdsa::DerSignature = key.sign(message);
                signature.as_bytes().to_vec()
            }
            Self::Ed25519(key, _) => key.sign(message).to_bytes().to_vec(),
        })
    }
}

/// One element of DER, of fewer than 128 octets.
fn element(tag: u8, contents: &[u8]) -> Vec<u8> {
    let length = u8::try_from(contents.len()).expect("the site's names are short");
    assert!(length < 0x80);
    [&[tag, length], contents].concat()
}

/// 1.3.6.1.4.1.32473.1 as `OBJECT IDENTIFIER`.
const HW_TYPE: [u8; 11] = [
    0x06, 0x09, 0x2B, 0x06, 0x01, 0x04, 0x01, 0x81, 0xFD, 0x59, 0x01,
];

/// `subjectAltName` with a hardware module name (RFC 4108) and a permanent identifier (RFC 4043).
fn factory_names(serial: &str) -> CustomExtension {
    let other_name = |last: u8, value: &[u8]| {
        let id = [0x06, 0x08, 0x2B, 0x06, 0x01, 0x05, 0x05, 0x07, 0x08, last];
        element(0xA0, &[&id, element(0xA0, value).as_slice()].concat())
    };
    let hardware = element(
        0x30,
        &[&HW_TYPE, element(0x04, serial.as_bytes()).as_slice()].concat(),
    );
    let permanent = element(0x30, &element(0x0C, serial.as_bytes()));
    let names = [other_name(4, &hardware), other_name(3, &permanent)].concat();
    CustomExtension::from_oid_content(&[2, 5, 29, 17], element(0x30, &names))
}

fn at(seconds: u64) -> time::OffsetDateTime {
    rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(seconds)
}

fn params(serial_number: u64) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.serial_number = Some(SerialNumber::from(serial_number));
    params.key_identifier_method = KeyIdMethod::PreSpecified(vec![7; 20]);
    params.not_before = at(1_700_000_000);
    params.not_after = at(2_000_000_000);
    params.distinguished_name = rcgen::DistinguishedName::new();
    params
}

fn ca(name: &str) -> CertificateParams {
    let mut params = params(1);
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params
}

fn device(serial_number: u64, serial: &str) -> CertificateParams {
    let mut params = params(serial_number);
    params.distinguished_name.push(
        DnType::CustomDnType(vec![2, 5, 4, 5]),
        DnValue::Utf8String(serial.into()),
    );
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    params.use_authority_key_identifier_extension = true;
    params
}

/// The devices of the issuer `acme`.
fn acme_devices() -> Vec<(&'static str, CertificateParams, Option<&'static str>)> {
    let mut names = device(4, "sn3");
    names.subject_alt_names = vec![
        SanType::URI("urn:dev:ops:32473-sn3".try_into().expect("ASCII")),
        SanType::DnsName("sn3.devices.example".try_into().expect("ASCII")),
        SanType::IpAddress([127, 0, 0, 1].into()),
        SanType::Rfc822Name("sn3@devices.example".try_into().expect("ASCII")),
    ];
    let mut factory = device(5, "SN4");
    factory.custom_extensions = vec![factory_names("SN4")];
    // IEEE 802.1AR: no well-defined expiry.
    factory.not_after = at(253_402_300_799);
    let mut two = device(6, "SN5");
    two.custom_extensions = vec![factory_names("SN6")];
    let mut server = device(7, "SN7");
    server.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let mut expired = device(8, "SN8");
    expired.not_after = at(1_750_000_000);
    let mut sub_ca = ca("Acme Sub CA");
    sub_ca.serial_number = Some(SerialNumber::from(9));
    let mut critical = device(10, "SN10");
    let mut unknown = CustomExtension::from_oid_content(&[1, 2, 3], vec![5, 0]);
    unknown.set_criticality(true);
    critical.custom_extensions = vec![unknown];
    let mut nameless = params(11);
    nameless.distinguished_name.push(DnType::CommonName, "SN11");
    vec![
        ("device", device(2, "SN1"), Some("acme:SN1")),
        (
            "device-escaped",
            device(3, "a/b %"),
            Some("acme:a=2Fb=20=25"),
        ),
        ("device-names", names, Some("acme:sn3")),
        ("device-factory", factory, Some("acme:SN4")),
        ("two-serials", two, None),
        ("server", server, None),
        // The device is who it says; whether the certificate is valid now is asked later.
        ("expired", expired, Some("acme:SN8")),
        ("sub-ca", sub_ca, None),
        ("critical-extension", critical, None),
        ("no-serial", nameless, None),
    ]
}

impl Site {
    fn new() -> Self {
        let acme = (ca("Acme Device CA"), Key::p256(1));
        let beta = (ca("Beta Device CA"), Key::ed25519(3));
        let own = |(params, key): &(CertificateParams, Key)| {
            params.self_signed(key).expect("a CA of the site")
        };
        let (acme_ca, beta_ca) = (own(&acme), own(&beta));
        let json = json!([
            {
                "namespace": "acme",
                "certificates": [acme_ca.pem()],
                "identity": [
                    {"source": "san.hardware_module_name", "hw_type": "1.3.6.1.4.1.32473.1"},
                    {"source": "san.permanent_identifier"},
                    {"source": "san.uri", "template": "urn:dev:ops:32473-{serial}"},
                    {"source": "san.dns", "template": "{serial}.devices.example"},
                    {"source": "subject.serial_number"},
                ],
            },
            {
                "namespace": "beta",
                "certificates": [beta_ca.pem()],
                "identity": [{"source": "subject.common_name"}],
                "require_client_auth": true,
            },
        ]);
        let mut issued = Vec::new();
        let mut add = |name, certificate: &rcgen::Certificate, device| {
            issued.push(Issued {
                name,
                pem: certificate.pem(),
                der: certificate.der().to_vec(),
                device,
            });
        };
        add("acme-ca", &acme_ca, None);
        add("beta-ca", &beta_ca, None);
        let key = Key::p256(2);
        let by_acme = rcgen::Issuer::new(acme.0, acme.1);
        for (name, params, device) in acme_devices() {
            let certificate = params.signed_by(&key, &by_acme).expect("a device's");
            add(name, &certificate, device);
        }
        let mut params = device(2, "SN1");
        params.distinguished_name.push(DnType::CommonName, "pump 7");
        let by_beta = rcgen::Issuer::new(beta.0, beta.1);
        let certificate = params
            .signed_by(&Key::ed25519(4), &by_beta)
            .expect("a device's");
        add("beta-device", &certificate, Some("beta:pump=207"));
        let signed = issued
            .iter()
            .map(|one| (signed_part(&one.der), one.device))
            .collect();
        Self {
            issuers: issuers(&json),
            json,
            issued,
            signed,
        }
    }

    /// The first certificate of this name.
    pub(crate) fn issued(&self, name: &str) -> &Issued {
        self.issued
            .iter()
            .find(|one| one.name == name)
            .expect("a certificate of the site")
    }
}

fn issuers(json: &Value) -> IssuerSet {
    let read = |one: &Value| {
        let sources: Vec<IdentitySource> =
            serde_json::from_value(one["identity"].clone()).expect("sources");
        let certificates: Vec<String> =
            serde_json::from_value(one["certificates"].clone()).expect("certificates");
        let client_auth = one["require_client_auth"].as_bool().unwrap_or_default();
        let namespace = one["namespace"].as_str().expect("a namespace");
        Issuer::new(namespace, &certificates, sources, client_auth).expect("an issuer")
    };
    let issuers = json.as_array().expect("a list").iter().map(read).collect();
    IssuerSet::new(issuers).expect("issuers that go together")
}

/// The `TBSCertificate` of a certificate, as another reader finds it.
fn signed_part(der: &[u8]) -> Vec<u8> {
    let (_, certificate) = x509_parser::parse_x509_certificate(der).expect("a certificate");
    certificate.tbs_certificate.as_ref().to_vec()
}
