//! Certificates for tests, put together octet by octet so that every one of them can be wrong, and
//! signed in Rust so that they are the same on every target.

use der::asn1::{GeneralizedTime, ObjectIdentifier, UtcTime};
use der::pem::LineEnding;
use der::{DateTime, Encode};
use p256::ecdsa::SigningKey;
use p256::ecdsa::signature::Signer;

use crate::certificate::PeerCertificate;
use crate::issuer::{Issuer, IssuerSet};
use crate::peer::{VerifiedPeer, authenticate};
use crate::signature::{KeyPolicy, RustVerifier};
use crate::source::IdentitySource;

/// `BOOLEAN`, `OCTET STRING`, `UTF8String`, ...: the tags that tests write.
pub(crate) const BOOLEAN: u8 = 0x01;
pub(crate) const INTEGER: u8 = 0x02;
pub(crate) const BIT_STRING: u8 = 0x03;
pub(crate) const OCTET_STRING: u8 = 0x04;
pub(crate) const NULL: u8 = 0x05;
pub(crate) const UTF8: u8 = 0x0C;
pub(crate) const PRINTABLE: u8 = 0x13;
pub(crate) const TELETEX: u8 = 0x14;
pub(crate) const IA5: u8 = 0x16;
pub(crate) const BMP: u8 = 0x1E;
pub(crate) const SEQUENCE: u8 = 0x30;
pub(crate) const SET: u8 = 0x31;

/// Object identifiers.
pub(crate) mod id {
    pub(crate) const SERIAL_NUMBER: &str = "2.5.4.5";
    pub(crate) const COMMON_NAME: &str = "2.5.4.3";
    pub(crate) const KEY_USAGE: &str = "2.5.29.15";
    pub(crate) const SUBJECT_ALT_NAME: &str = "2.5.29.17";
    pub(crate) const BASIC_CONSTRAINTS: &str = "2.5.29.19";
    pub(crate) const NAME_CONSTRAINTS: &str = "2.5.29.30";
    pub(crate) const AUTHORITY_KEY_IDENTIFIER: &str = "2.5.29.35";
    pub(crate) const SUBJECT_KEY_IDENTIFIER: &str = "2.5.29.14";
    pub(crate) const EXT_KEY_USAGE: &str = "2.5.29.37";
    pub(crate) const HARDWARE_MODULE_NAME: &str = "1.3.6.1.5.5.7.8.4";
    pub(crate) const PERMANENT_IDENTIFIER: &str = "1.3.6.1.5.5.7.8.3";
    pub(crate) const CLIENT_AUTH: &str = "1.3.6.1.5.5.7.3.2";
    pub(crate) const SERVER_AUTH: &str = "1.3.6.1.5.5.7.3.1";
    pub(crate) const ANY_PURPOSE: &str = "2.5.29.37.0";
    pub(crate) const HW_TYPE: &str = "1.3.6.1.4.1.32473.1";
}

/// One element, its length written the one DER way.
pub(crate) fn tlv(tag: u8, contents: &[u8]) -> Vec<u8> {
    let mut octets = vec![tag];
    let length = contents.len();
    if let Ok(short @ 0..=0x7F) = u8::try_from(length) {
        octets.push(short);
    } else if let Ok(one) = u8::try_from(length) {
        octets.extend([0x81, one]);
    } else {
        octets.push(0x82);
        octets.extend(u16::try_from(length).unwrap().to_be_bytes());
    }
    octets.extend_from_slice(contents);
    octets
}

pub(crate) fn sequence(parts: &[Vec<u8>]) -> Vec<u8> {
    tlv(SEQUENCE, &parts.concat())
}

pub(crate) fn oid(text: &str) -> Vec<u8> {
    ObjectIdentifier::new(text).unwrap().to_der().unwrap()
}

/// A relative distinguished name of one attribute.
pub(crate) fn attribute(id: &str, tag: u8, value: &[u8]) -> Vec<u8> {
    tlv(SET, &sequence(&[oid(id), tlv(tag, value)]))
}

pub(crate) fn extension(id: &str, critical: bool, value: &[u8]) -> Vec<u8> {
    let mut parts = vec![oid(id)];
    if critical {
        parts.push(tlv(BOOLEAN, &[0xFF]));
    }
    parts.push(tlv(OCTET_STRING, value));
    sequence(&parts)
}

pub(crate) fn basic_constraints(ca: bool) -> Vec<u8> {
    let value = if ca {
        tlv(SEQUENCE, &tlv(BOOLEAN, &[0xFF]))
    } else {
        tlv(SEQUENCE, &[])
    };
    extension(id::BASIC_CONSTRAINTS, true, &value)
}

/// Bits in the first octet: 0x80 is digitalSignature, 0x04 keyCertSign.
pub(crate) fn key_usage(bits: u8) -> Vec<u8> {
    extension(id::KEY_USAGE, true, &tlv(BIT_STRING, &[0, bits]))
}

pub(crate) fn purposes(ids: &[&str]) -> Vec<u8> {
    let ids: Vec<_> = ids.iter().map(|id| oid(id)).collect();
    extension(id::EXT_KEY_USAGE, false, &sequence(&ids))
}

pub(crate) fn alternative_names(names: &[Vec<u8>]) -> Vec<u8> {
    extension(id::SUBJECT_ALT_NAME, false, &sequence(names))
}

pub(crate) fn dns(name: &str) -> Vec<u8> {
    tlv(0x82, name.as_bytes())
}

pub(crate) fn uri(uri: &str) -> Vec<u8> {
    tlv(0x86, uri.as_bytes())
}

pub(crate) fn other_name(id: &str, value: &[u8]) -> Vec<u8> {
    tlv(0xA0, &[oid(id), tlv(0xA0, value)].concat())
}

pub(crate) fn hardware_module(hw_type: &str, serial: &[u8]) -> Vec<u8> {
    other_name(
        id::HARDWARE_MODULE_NAME,
        &sequence(&[oid(hw_type), tlv(OCTET_STRING, serial)]),
    )
}

pub(crate) fn permanent_identifier(value: Option<&str>, assigner: Option<&str>) -> Vec<u8> {
    let mut parts = Vec::new();
    parts.extend(value.map(|value| tlv(UTF8, value.as_bytes())));
    parts.extend(assigner.map(oid));
    other_name(id::PERMANENT_IDENTIFIER, &sequence(&parts))
}

/// A key by number: the same number is the same key.
pub(crate) fn key(number: u8) -> SigningKey {
    SigningKey::from_slice(&[number; 32]).unwrap()
}

pub(crate) fn spki(key: &SigningKey) -> Vec<u8> {
    let point = key.verifying_key().to_sec1_point(false);
    sequence(&[
        sequence(&[oid("1.2.840.10045.2.1"), oid("1.2.840.10045.3.1.7")]),
        tlv(BIT_STRING, &[&[0], point.as_bytes()].concat()),
    ])
}

pub(crate) fn utc_time(seconds: u64) -> Vec<u8> {
    let date = DateTime::from_unix_duration(core::time::Duration::from_secs(seconds)).unwrap();
    UtcTime::from_date_time(date).unwrap().to_der().unwrap()
}

pub(crate) fn generalized_time(text: &str) -> Vec<u8> {
    let time = tlv(0x18, text.as_bytes());
    debug_assert!(<GeneralizedTime as der::Decode>::from_der(&time).is_ok());
    time
}

/// 2026-01-01T00:00:00Z.
pub(crate) const NOT_BEFORE: u64 = 1_767_225_600;
/// 2036-01-01T00:00:00Z.
pub(crate) const NOT_AFTER: u64 = 2_082_758_400;

/// The fields of a `TBSCertificate`, each as its own DER, to be changed before it is signed.
#[derive(Clone, Debug)]
pub(crate) struct Draft {
    pub(crate) version: Vec<u8>,
    pub(crate) serial_number: Vec<u8>,
    pub(crate) algorithm: Vec<u8>,
    pub(crate) outer_algorithm: Vec<u8>,
    pub(crate) issuer: Vec<u8>,
    pub(crate) validity: Vec<u8>,
    pub(crate) subject: Vec<u8>,
    pub(crate) spki: Vec<u8>,
    /// Each an `Extension`; none at all where empty.
    pub(crate) extensions: Vec<Vec<u8>>,
    /// What stands after the extensions in the `TBSCertificate`.
    pub(crate) rest: Vec<u8>,
}

pub(crate) fn name(common_name: &str) -> Vec<u8> {
    sequence(&[attribute(id::COMMON_NAME, UTF8, common_name.as_bytes())])
}

impl Draft {
    fn new(issuer: &str, subject: Vec<u8>, spki: Vec<u8>, extensions: Vec<Vec<u8>>) -> Self {
        let algorithm = sequence(&[oid("1.2.840.10045.4.3.2")]);
        Self {
            version: tlv(0xA0, &tlv(INTEGER, &[2])),
            serial_number: tlv(INTEGER, &[1]),
            algorithm: algorithm.clone(),
            outer_algorithm: algorithm,
            issuer: name(issuer),
            validity: sequence(&[utc_time(NOT_BEFORE), utc_time(NOT_AFTER)]),
            subject,
            spki,
            extensions,
            rest: Vec::new(),
        }
    }

    /// A device's certificate: `serialNumber` SN1 in the subject, end entity, digitalSignature,
    /// clientAuth. Key 2, issued by [`ca`].
    pub(crate) fn device() -> Self {
        Self::new(
            "Acme Device CA",
            sequence(&[attribute(id::SERIAL_NUMBER, PRINTABLE, b"SN1")]),
            spki(&key(2)),
            vec![
                basic_constraints(false),
                key_usage(0x80),
                purposes(&[id::CLIENT_AUTH]),
            ],
        )
    }

    /// A CA's own certificate, with this key.
    pub(crate) fn ca(common_name: &str, signer: &SigningKey) -> Self {
        Self::new(
            common_name,
            name(common_name),
            spki(signer),
            vec![basic_constraints(true), key_usage(0x04)],
        )
    }

    pub(crate) fn subject_attributes(mut self, attributes: &[Vec<u8>]) -> Self {
        self.subject = sequence(attributes);
        self
    }

    pub(crate) fn with(mut self, extension: Vec<u8>) -> Self {
        self.extensions.push(extension);
        self
    }

    pub(crate) fn tbs(&self) -> Vec<u8> {
        let mut parts = vec![
            self.version.clone(),
            self.serial_number.clone(),
            self.algorithm.clone(),
            self.issuer.clone(),
            self.validity.clone(),
            self.subject.clone(),
            self.spki.clone(),
        ];
        if !self.extensions.is_empty() {
            parts.push(tlv(0xA3, &sequence(&self.extensions)));
        }
        parts.push(self.rest.clone());
        sequence(&parts)
    }

    /// The certificate's DER, signed by this key.
    pub(crate) fn signed_by(&self, key: &SigningKey) -> Vec<u8> {
        let tbs = self.tbs();
        let signature: p256::ecdsa::DerSignature = key.sign(&tbs);
        sequence(&[
            tbs,
            self.outer_algorithm.clone(),
            tlv(BIT_STRING, &[&[0], signature.as_bytes()].concat()),
        ])
    }

    /// The certificate's DER, signed by [`ca`]'s key.
    pub(crate) fn signed(&self) -> Vec<u8> {
        self.signed_by(&key(1))
    }

    pub(crate) fn parsed(&self) -> PeerCertificate {
        PeerCertificate::parse_der(&self.signed()).unwrap()
    }
}

pub(crate) fn pem(der: &[u8]) -> String {
    der::pem::encode_string("CERTIFICATE", LineEnding::LF, der).unwrap()
}

/// The certificate, as PEM, of the CA that issues [`Draft::device`]: key 1.
pub(crate) fn ca() -> String {
    pem(&Draft::ca("Acme Device CA", &key(1)).signed())
}

/// The namespace `acme` with [`ca`] and these sources.
pub(crate) fn issuers(sources: Vec<IdentitySource>) -> IssuerSet {
    IssuerSet::new(vec![Issuer::new("acme", &[ca()], sources, false).unwrap()]).unwrap()
}

/// The peer `acme:<serial>`, its certificate issued and verified as in the field.
pub(crate) fn verified_peer(serial: &str) -> VerifiedPeer {
    let certificate = Draft::device()
        .subject_attributes(&[attribute(id::SERIAL_NUMBER, UTF8, serial.as_bytes())])
        .parsed();
    authenticate(
        &issuers(vec![IdentitySource::SubjectSerialNumber]),
        &KeyPolicy::default(),
        &certificate,
        &RustVerifier,
    )
    .unwrap()
}
