//! What did the peer present? One X.509 certificate, read strictly, once.

use const_oid::ObjectIdentifier;
use const_oid::db::rfc4519::{COMMON_NAME, SERIAL_NUMBER};
use const_oid::db::rfc5280::{
    ID_CE_AUTHORITY_KEY_IDENTIFIER, ID_CE_BASIC_CONSTRAINTS, ID_CE_EXT_KEY_USAGE, ID_CE_KEY_USAGE,
    ID_CE_SUBJECT_ALT_NAME, ID_CE_SUBJECT_KEY_IDENTIFIER, ID_KP_CLIENT_AUTH,
};
use const_oid::db::rfc5911::ID_ON_HARDWARE_MODULE_NAME;
use der::asn1::{AnyRef, BitStringRef, OctetStringRef, Utf8StringRef};
use der::{Decode, Encode, Sequence, Tag, TagNumber, Tagged};
use sha2::{Digest, Sha256};
use x509_cert::ext::pkix::name::HardwareModuleName;
use x509_cert::ext::pkix::{BasicConstraints, KeyUsage};
use x509_cert::name::Name;
use x509_cert::serial_number::SerialNumber;
use x509_cert::time::{Time, Validity};

use crate::binding::Pin;
use crate::signature::{KeyType, SignatureAlgorithm};
use crate::text::sha256_as_text;
use crate::time::Timestamp;
use crate::{hex, pem, strict};

/// The most extensions that a certificate may have.
pub const MAX_EXTENSIONS: usize = 32;
/// The most general names in its subject alternative name.
pub const MAX_GENERAL_NAMES: usize = 64;
/// The most attributes in its subject, and in its issuer.
pub const MAX_ATTRIBUTES: usize = 64;
/// The most purposes in its extended key usage.
pub const MAX_PURPOSES: usize = 32;

/// `id-on-permanentIdentifier` (RFC 4043, 2).
const ID_ON_PERMANENT_IDENTIFIER: ObjectIdentifier =
    ObjectIdentifier::new_unwrap("1.3.6.1.5.5.7.8.3");

/// 9999-12-31T23:59:59Z, in seconds since the Unix epoch: no well-defined expiry (RFC 5280,
/// 4.1.2.5).
const NO_EXPIRY_SECONDS: i64 = 253_402_300_799;

/// Why octets are no peer certificate: one for each cause.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum CertificateError {
    /// Over 64 KiB of text or 16 KiB of DER.
    #[error("it is longer than 64 KiB of text or 16 KiB of DER")]
    TooLong,
    /// A `%` without two hex digits.
    #[error("its URL encoding is broken: '%' without two hex digits")]
    UrlEncoding,
    /// No PEM, or PEM with broken base64, or something before or after it.
    #[error("it is not PEM with one CERTIFICATE block and nothing around it")]
    Pem,
    /// More than one PEM block.
    #[error("it holds more than one PEM block; the certificate alone is expected")]
    SeveralBlocks,
    /// PEM of something else.
    #[error("its PEM block is not labelled CERTIFICATE")]
    Label,
    /// The octets end before the structure does.
    #[error("it is cut short")]
    Truncated,
    /// Octets after the structure, or after one inside it.
    #[error("octets follow where it should end")]
    TrailingData,
    /// Not DER, or not the structure of a certificate (RFC 5280, 4.1).
    #[error("it is not the DER of an X.509 certificate")]
    Der,
    /// More than 16 levels.
    #[error("it is nested more than 16 levels deep")]
    Nesting,
    /// More than 1024 elements.
    #[error("it holds more than 1024 elements")]
    TooManyElements,
    /// Version 1 or 2.
    #[error("it is not an X.509 version 3 certificate")]
    Version,
    /// `signatureAlgorithm` and `signature` differ (RFC 5280, 4.1.1.2).
    #[error("it names two different signature algorithms, inside and outside of what is signed")]
    SignatureAlgorithm,
    /// The signature is not a whole number of octets.
    #[error("its signature is not a whole number of octets")]
    SignatureBits,
    /// The issuer is no name.
    #[error("its issuer is not a distinguished name")]
    Issuer,
    /// The subject is no name.
    #[error("its subject is not a distinguished name")]
    Subject,
    /// More than 64 attributes in a name.
    #[error("its issuer or subject has more than 64 attributes")]
    TooManyAttributes,
    /// The subject public key info cannot be read.
    #[error("its public key cannot be read")]
    PublicKey,
    /// More than 32 extensions.
    #[error("it has more than 32 extensions")]
    TooManyExtensions,
    /// The same extension twice (RFC 5280, 4.2).
    #[error("it has the same extension twice")]
    DuplicateExtension,
    /// An extension that is not one, or a list of none.
    #[error("its extensions cannot be read")]
    Extension,
    /// `basicConstraints` cannot be read.
    #[error("its basicConstraints extension cannot be read")]
    BasicConstraints,
    /// `keyUsage` cannot be read.
    #[error("its keyUsage extension cannot be read")]
    KeyUsage,
    /// `extKeyUsage` cannot be read, is empty, or has more than 32 purposes.
    #[error("its extKeyUsage extension cannot be read, is empty, or has more than 32 purposes")]
    ExtendedKeyUsage,
    /// `authorityKeyIdentifier` or `subjectKeyIdentifier` cannot be read.
    #[error("its authority or subject key identifier extension cannot be read")]
    KeyIdentifier,
    /// `subjectAltName` cannot be read or is empty.
    #[error("its subjectAltName extension cannot be read or is empty")]
    SubjectAlternativeName,
    /// More than 64 general names.
    #[error("its subjectAltName has more than 64 names")]
    TooManyGeneralNames,
    /// A hardware module name (RFC 4108, 5) cannot be read.
    #[error("a hardware module name in its subjectAltName cannot be read")]
    HardwareModuleName,
    /// A permanent identifier (RFC 4043, 2) cannot be read.
    #[error("a permanent identifier in its subjectAltName cannot be read")]
    PermanentIdentifier,
    /// The subject attribute that would be the identity is no text that can be read in one way
    /// only: see [`AttributeText`].
    #[error(
        "the subject attribute that holds its identity is of a string type or holds characters that are not accepted"
    )]
    AttributeText,
}

/// SHA-256 of a certificate's DER: what Envoy calls its digest. In text 64 lower-case hex digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CertificateDigest(pub [u8; 32]);

/// Text that is no digest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a certificate digest is 64 lower-case hex digits")]
pub struct CertificateDigestError;

impl CertificateDigest {
    /// From 64 lower-case hex digits, as `connection.sha256_peer_certificate_digest` has them.
    pub fn from_hex(text: &[u8]) -> Result<Self, CertificateDigestError> {
        hex::decode(text).map(Self).ok_or(CertificateDigestError)
    }

    /// The digest of this DER.
    pub fn of(der: &[u8]) -> Self {
        Self(Sha256::digest(der).into())
    }
}

sha256_as_text!(
    CertificateDigest,
    CertificateDigestError,
    CertificateDigestError
);

/// The value of a subject attribute that may be an identity.
///
/// Taken as octets: `UTF8String`; `IA5String`, all seven bits; `PrintableString` and
/// `TeletexString` (`T61String`) that hold visible ASCII and blanks (X.680 allows fewer in a
/// `PrintableString`, but issuers write `_`, `@` and `*` into it). The same text in another of
/// these types is the same octets, so a renewal may change the type. `BMPString` and
/// `UniversalString` are not read: their octets would make another device of the same text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AttributeText {
    /// The octets as they stand in the certificate.
    Octets(Box<[u8]>),
    /// Another type, or not what its type says. A source that meets it refuses.
    Unreadable,
}

impl AttributeText {
    fn new(value: AnyRef<'_>) -> Self {
        let tag = value.tag();
        let value = value.value();
        let fits = if tag == Tag::Utf8String {
            core::str::from_utf8(value).is_ok()
        } else if tag == Tag::Ia5String {
            value.is_ascii()
        } else if tag == Tag::PrintableString || tag == Tag::TeletexString {
            value.iter().all(|octet| matches!(octet, 0x20..=0x7E))
        } else {
            false
        };
        if fits {
            Self::Octets(value.into())
        } else {
            Self::Unreadable
        }
    }
}

/// A hardware module name (RFC 4108, 5; IEEE 802.1AR, 8.10).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HardwareModule {
    /// `hwType`: the kind of hardware.
    pub hw_type: ObjectIdentifier,
    /// `hwSerialNum`: the serial's octets.
    pub serial: Box<[u8]>,
}

/// A permanent identifier (RFC 4043, 2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PermanentIdentifier {
    /// `identifierValue`; where it is left out, the subject's `serialNumber` stands for it.
    pub value: Option<Box<str>>,
    /// `assigner`: who sees to it that the value is unique; where left out, the issuer does.
    pub assigner: Option<ObjectIdentifier>,
}

/// The general names that may be an identity; others are read and not kept.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct SubjectAlternativeNames {
    dns: Vec<Box<str>>,
    uris: Vec<Box<str>>,
    hardware_modules: Vec<HardwareModule>,
    permanent_identifiers: Vec<PermanentIdentifier>,
}

/// What the extensions say that are understood, and which critical ones are not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Extensions {
    ca: bool,
    key_usage: Option<KeyUsage>,
    purposes: Option<Vec<ObjectIdentifier>>,
    authority_key_identifier: Option<Box<[u8]>>,
    subject_key_identifier: Option<Box<[u8]>>,
    names: SubjectAlternativeNames,
    critical_not_understood: Vec<ObjectIdentifier>,
}

/// A peer's certificate, read once (RFC 5280, 4.1): nothing past [`parse`](Self::parse) touches DER.
///
/// What is held against DER: lengths definite and minimal, tags and types as they must be, sets
/// sorted, nothing left over. Two things that DER forbids and factories write are taken, because
/// they read one way only and a certificate burnt into a device cannot be issued again: a
/// `BOOLEAN DEFAULT FALSE` that says FALSE, and a `keyUsage` that ends in zero bits.
///
/// Refused although RFC 5280 knows them: versions 1 and 2, and times before 1970. Of the 405
/// certificates of the NIST PKITS, 402 are read; the others are two whose signatures are not whole
/// octets on purpose, and one with a time before 1970.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerCertificate {
    digest: CertificateDigest,
    tbs: Box<[u8]>,
    signature_algorithm: Option<SignatureAlgorithm>,
    signature: Box<[u8]>,
    serial_number: Box<[u8]>,
    issuer: Box<[u8]>,
    subject: Box<[u8]>,
    subject_serial_numbers: Vec<AttributeText>,
    subject_common_names: Vec<AttributeText>,
    not_before: Timestamp,
    not_after: Timestamp,
    spki: Box<[u8]>,
    pin: Pin,
    key_type: KeyType,
    extensions: Extensions,
}

/// `Certificate`, what is signed left as it is.
#[derive(Sequence)]
struct CertificateFields<'a> {
    tbs: AnyRef<'a>,
    signature_algorithm: AnyRef<'a>,
    signature: BitStringRef<'a>,
}

/// `TBSCertificate`, what is compared as octets left as it is.
#[derive(Sequence)]
struct TbsFields<'a> {
    #[asn1(context_specific = "0", default = "Default::default")]
    version: u8,
    serial_number: SerialNumber,
    signature_algorithm: AnyRef<'a>,
    issuer: AnyRef<'a>,
    validity: Validity,
    subject: AnyRef<'a>,
    spki: AnyRef<'a>,
    #[asn1(context_specific = "1", tag_mode = "IMPLICIT", optional = "true")]
    issuer_unique_id: Option<BitStringRef<'a>>,
    #[asn1(context_specific = "2", tag_mode = "IMPLICIT", optional = "true")]
    subject_unique_id: Option<BitStringRef<'a>>,
    #[asn1(context_specific = "3", tag_mode = "EXPLICIT", optional = "true")]
    extensions: Option<AnyRef<'a>>,
}

/// `AttributeTypeAndValue` (RFC 5280, 4.1.2.4).
#[derive(Sequence)]
struct AttributeFields<'a> {
    id: ObjectIdentifier,
    value: AnyRef<'a>,
}

/// `Extension`, its value left as it is.
#[derive(Sequence)]
struct ExtensionFields<'a> {
    id: ObjectIdentifier,
    #[asn1(default = "Default::default")]
    critical: bool,
    value: &'a OctetStringRef,
}

/// `PermanentIdentifier` (RFC 4043, 2).
#[derive(Sequence)]
struct PermanentIdentifierFields<'a> {
    #[asn1(optional = "true")]
    value: Option<Utf8StringRef<'a>>,
    #[asn1(optional = "true")]
    assigner: Option<ObjectIdentifier>,
}

/// The only version that has extensions: v3 is written as 2.
const VERSION_3: u8 = 2;

impl PeerCertificate {
    /// Reads PEM (RFC 7468) as Envoy hands it over: exactly one `CERTIFICATE` block of at most
    /// 16 KiB DER, plain or URL-encoded.
    pub fn parse(pem: &[u8]) -> Result<Self, CertificateError> {
        Self::parse_der(&pem::decode(pem)?)
    }

    /// Reads the DER of one certificate, at most 16 KiB.
    pub fn parse_der(der: &[u8]) -> Result<Self, CertificateError> {
        if der.len() > pem::MAX_DER_OCTETS {
            return Err(CertificateError::TooLong);
        }
        strict::check(der)?;
        let outer = CertificateFields::from_der(der).map_err(|error| strict::cause(&error))?;
        let tbs_der = octets(outer.tbs)?;
        let tbs = TbsFields::from_der(&tbs_der).map_err(|error| strict::cause(&error))?;
        if tbs.version != VERSION_3 {
            return Err(CertificateError::Version);
        }
        if outer.signature_algorithm != tbs.signature_algorithm {
            return Err(CertificateError::SignatureAlgorithm);
        }
        let signature = outer
            .signature
            .as_bytes()
            .ok_or(CertificateError::SignatureBits)?;
        read_name(tbs.issuer, CertificateError::Issuer)?;
        let subject = read_name(tbs.subject, CertificateError::Subject)?;
        let attribute = |id: ObjectIdentifier| {
            subject
                .iter()
                .filter(|attribute| attribute.id == id)
                .map(|attribute| AttributeText::new(attribute.value))
                .collect()
        };
        let spki = octets(tbs.spki)?;
        Ok(Self {
            digest: CertificateDigest::of(der),
            signature_algorithm: signature_algorithm(outer.signature_algorithm)?,
            signature: signature.into(),
            serial_number: tbs.serial_number.as_bytes().into(),
            subject_serial_numbers: attribute(SERIAL_NUMBER),
            subject_common_names: attribute(COMMON_NAME),
            not_before: moment(tbs.validity.not_before),
            not_after: match moment(tbs.validity.not_after) {
                end if end.unix_seconds() == NO_EXPIRY_SECONDS => Timestamp::MAX,
                end => end,
            },
            pin: Pin(Sha256::digest(&spki).into()),
            key_type: KeyType::from_spki(&spki)?,
            extensions: read_extensions(tbs.extensions)?,
            issuer: octets(tbs.issuer)?,
            subject: octets(tbs.subject)?,
            spki,
            tbs: tbs_der.clone(),
        })
    }

    /// SHA-256 of the whole certificate.
    pub fn digest(&self) -> CertificateDigest {
        self.digest
    }

    /// SHA-256 of its subject public key info.
    pub fn pin(&self) -> Pin {
        self.pin
    }

    /// The first moment at which it is valid.
    pub fn not_before(&self) -> Timestamp {
        self.not_before
    }

    /// The last moment at which it is valid; [`Timestamp::MAX`] where the certificate says
    /// 99991231235959Z, no well-defined expiry (RFC 5280, 4.1.2.5).
    pub fn not_after(&self) -> Timestamp {
        self.not_after
    }

    /// The certificate's own serial number, as octets. It is never the device's.
    pub fn serial_number(&self) -> &[u8] {
        &self.serial_number
    }

    /// The issuer's name, as the octets of its DER.
    pub fn issuer_der(&self) -> &[u8] {
        &self.issuer
    }

    /// The subject's name, as the octets of its DER.
    pub fn subject_der(&self) -> &[u8] {
        &self.subject
    }

    /// The issuer's name for people (RFC 4514).
    pub fn issuer_text(&self) -> String {
        name_text(&self.issuer)
    }

    /// The subject's name for people (RFC 4514).
    pub fn subject_text(&self) -> String {
        name_text(&self.subject)
    }

    /// Every `serialNumber` (2.5.4.5) in the subject.
    pub fn subject_serial_numbers(&self) -> &[AttributeText] {
        &self.subject_serial_numbers
    }

    /// Every `commonName` (2.5.4.3) in the subject.
    pub fn subject_common_names(&self) -> &[AttributeText] {
        &self.subject_common_names
    }

    /// Its subject public key info, as the octets of its DER.
    pub fn spki_der(&self) -> &[u8] {
        &self.spki
    }

    /// The type of its key.
    pub fn key_type(&self) -> KeyType {
        self.key_type
    }

    /// What it was signed with; `None` for an algorithm that is not accepted.
    pub fn signature_algorithm(&self) -> Option<SignatureAlgorithm> {
        self.signature_algorithm
    }

    /// The signature's octets.
    pub fn signature(&self) -> &[u8] {
        &self.signature
    }

    /// The octets that were signed, as they were received.
    pub fn tbs_der(&self) -> &[u8] {
        &self.tbs
    }

    /// Whether `basicConstraints` says that it is a CA (RFC 5280, 4.2.1.9).
    pub fn is_ca(&self) -> bool {
        self.extensions.ca
    }

    /// `keyUsage` (RFC 5280, 4.2.1.3), where present.
    pub fn key_usage(&self) -> Option<KeyUsage> {
        self.extensions.key_usage
    }

    /// The purposes in `extKeyUsage` (RFC 5280, 4.2.1.12), where present.
    pub fn purposes(&self) -> Option<&[ObjectIdentifier]> {
        self.extensions.purposes.as_deref()
    }

    /// Whether `extKeyUsage` is present and has `clientAuth`; `anyExtendedKeyUsage` is not enough.
    pub fn has_client_auth(&self) -> bool {
        self.purposes()
            .is_some_and(|purposes| purposes.contains(&ID_KP_CLIENT_AUTH))
    }

    /// The key identifier in `authorityKeyIdentifier` (RFC 5280, 4.2.1.1), where present.
    pub fn authority_key_identifier(&self) -> Option<&[u8]> {
        self.extensions.authority_key_identifier.as_deref()
    }

    /// `subjectKeyIdentifier` (RFC 5280, 4.2.1.2), where present.
    pub fn subject_key_identifier(&self) -> Option<&[u8]> {
        self.extensions.subject_key_identifier.as_deref()
    }

    /// The DNS names among its subject alternative names.
    pub fn dns_names(&self) -> &[Box<str>] {
        &self.extensions.names.dns
    }

    /// The URIs among its subject alternative names.
    pub fn uris(&self) -> &[Box<str>] {
        &self.extensions.names.uris
    }

    /// The hardware module names among its subject alternative names.
    pub fn hardware_modules(&self) -> &[HardwareModule] {
        &self.extensions.names.hardware_modules
    }

    /// The permanent identifiers among its subject alternative names.
    pub fn permanent_identifiers(&self) -> &[PermanentIdentifier] {
        &self.extensions.names.permanent_identifiers
    }

    /// The critical extensions that are not understood: one is enough to refuse (RFC 5280, 4.2).
    pub fn critical_not_understood(&self) -> &[ObjectIdentifier] {
        &self.extensions.critical_not_understood
    }
}

/// The element's octets. They are those it was read from: DER has one way to write a header.
fn octets(element: AnyRef<'_>) -> Result<Box<[u8]>, CertificateError> {
    element
        .to_der()
        .map(Vec::into_boxed_slice)
        .map_err(|error| strict::cause(&error))
}

fn signature_algorithm(
    identifier: AnyRef<'_>,
) -> Result<Option<SignatureAlgorithm>, CertificateError> {
    if identifier.tag() == Tag::Sequence {
        Ok(SignatureAlgorithm::from_identifier(identifier.value()))
    } else {
        Err(CertificateError::Der)
    }
}

fn read_name(
    name: AnyRef<'_>,
    wrong: CertificateError,
) -> Result<Vec<AttributeFields<'_>>, CertificateError> {
    let mut attributes = Vec::new();
    for relative in strict::elements(name, Tag::Sequence, wrong)? {
        let of_one = strict::elements(relative, Tag::Set, wrong)?;
        if of_one.is_empty() {
            return Err(wrong);
        }
        for attribute in of_one {
            if attributes.len() >= MAX_ATTRIBUTES {
                return Err(CertificateError::TooManyAttributes);
            }
            attributes.push(attribute.decode_as().map_err(|_| wrong)?);
        }
    }
    Ok(attributes)
}

pub(crate) fn name_text(der: &[u8]) -> String {
    Name::from_der(der).map_or_else(|_| String::new(), |name| name.to_string())
}

fn moment(time: Time) -> Timestamp {
    let seconds = time.to_unix_duration().as_secs();
    Timestamp::from_unix_seconds(i64::try_from(seconds).unwrap_or(i64::MAX))
}

fn read_extensions(list: Option<AnyRef<'_>>) -> Result<Extensions, CertificateError> {
    let mut extensions = Extensions::default();
    let Some(list) = list else {
        return Ok(extensions);
    };
    let list = strict::elements(list, Tag::Sequence, CertificateError::Extension)?;
    if list.is_empty() {
        return Err(CertificateError::Extension);
    }
    if list.len() > MAX_EXTENSIONS {
        return Err(CertificateError::TooManyExtensions);
    }
    let mut seen = Vec::with_capacity(list.len());
    for extension in list {
        let extension: ExtensionFields<'_> = extension
            .decode_as()
            .map_err(|_| CertificateError::Extension)?;
        if seen.contains(&extension.id) {
            return Err(CertificateError::DuplicateExtension);
        }
        seen.push(extension.id);
        extensions.read(&extension)?;
    }
    Ok(extensions)
}

impl Extensions {
    fn read(&mut self, extension: &ExtensionFields<'_>) -> Result<(), CertificateError> {
        let value = extension.value.as_bytes();
        let id = extension.id;
        if id == ID_CE_BASIC_CONSTRAINTS {
            let constraints: BasicConstraints =
                value_of(value, CertificateError::BasicConstraints)?;
            self.ca = constraints.ca;
        } else if id == ID_CE_KEY_USAGE {
            self.key_usage = Some(value_of(value, CertificateError::KeyUsage)?);
        } else if id == ID_CE_EXT_KEY_USAGE {
            self.purposes = Some(read_purposes(value)?);
        } else if id == ID_CE_AUTHORITY_KEY_IDENTIFIER {
            self.authority_key_identifier = read_authority_key_identifier(value)?;
        } else if id == ID_CE_SUBJECT_KEY_IDENTIFIER {
            let identifier: &OctetStringRef = value_of(value, CertificateError::KeyIdentifier)?;
            self.subject_key_identifier = Some(identifier.as_bytes().into());
        } else if id == ID_CE_SUBJECT_ALT_NAME {
            self.names = SubjectAlternativeNames::read(value)?;
        } else if extension.critical {
            self.critical_not_understood.push(id);
        }
        Ok(())
    }
}

/// Reads an extension's value, after the same look over its octets that the certificate had.
fn value_of<'a, T: Decode<'a>>(
    value: &'a [u8],
    cause: CertificateError,
) -> Result<T, CertificateError> {
    match strict::check(value) {
        Ok(()) => T::from_der(value).map_err(|_| cause),
        Err(budget @ (CertificateError::Nesting | CertificateError::TooManyElements)) => {
            Err(budget)
        }
        Err(_) => Err(cause),
    }
}

/// The elements of the list that an extension's value is.
fn values_of(value: &[u8], cause: CertificateError) -> Result<Vec<AnyRef<'_>>, CertificateError> {
    strict::elements(value_of(value, cause)?, Tag::Sequence, cause)
}

fn read_purposes(value: &[u8]) -> Result<Vec<ObjectIdentifier>, CertificateError> {
    let wrong = CertificateError::ExtendedKeyUsage;
    let purposes = values_of(value, wrong)?;
    if purposes.is_empty() || purposes.len() > MAX_PURPOSES {
        return Err(wrong);
    }
    purposes
        .into_iter()
        .map(|purpose| purpose.decode_as().map_err(|_| wrong))
        .collect()
}

/// `AuthorityKeyIdentifier` (RFC 5280, 4.2.1.1): `[0]` is the key identifier; `[1]` and `[2]`, the
/// issuer's issuer and serial number, are not looked at.
fn read_authority_key_identifier(value: &[u8]) -> Result<Option<Box<[u8]>>, CertificateError> {
    let wrong = CertificateError::KeyIdentifier;
    let mut identifier = None;
    let mut last = None;
    for field in values_of(value, wrong)? {
        let number = match context_tag(field.tag()) {
            Some((false, 0)) => {
                identifier = Some(field.value().into());
                0
            }
            Some((true, 1)) => 1,
            Some((false, 2)) => 2,
            Some(_) | None => return Err(wrong),
        };
        if last >= Some(number) {
            return Err(wrong);
        }
        last = Some(number);
    }
    Ok(identifier)
}

/// Whether it is constructed, and the number, of a context-specific tag.
fn context_tag(tag: Tag) -> Option<(bool, u32)> {
    if let Tag::ContextSpecific {
        constructed,
        number: TagNumber(number),
    } = tag
    {
        Some((constructed, number))
    } else {
        None
    }
}

impl SubjectAlternativeNames {
    /// Reads `GeneralNames` (RFC 5280, 4.2.1.6). Of the forms that are no source of an identity
    /// only the tag and the strictness of their DER are looked at.
    fn read(value: &[u8]) -> Result<Self, CertificateError> {
        let wrong = CertificateError::SubjectAlternativeName;
        let general_names = values_of(value, wrong)?;
        if general_names.is_empty() {
            return Err(wrong);
        }
        if general_names.len() > MAX_GENERAL_NAMES {
            return Err(CertificateError::TooManyGeneralNames);
        }
        let mut names = Self::default();
        for name in general_names {
            match context_tag(name.tag()) {
                Some((true, 0)) => names.read_other(name)?,
                Some((false, 2)) => names.dns.push(ia5(name.value())?.into()),
                Some((false, 6)) => names.uris.push(ia5(name.value())?.into()),
                // rfc822Name, iPAddress, registeredID; x400Address, directoryName, ediPartyName.
                Some((false, 1 | 7 | 8) | (true, 3..=5)) => {}
                Some(_) | None => return Err(wrong),
            }
        }
        Ok(names)
    }

    /// `OtherName`: an object identifier, and in `[0]` a value of the type that it names.
    fn read_other(&mut self, name: AnyRef<'_>) -> Result<(), CertificateError> {
        let wrong = CertificateError::SubjectAlternativeName;
        let fields = strict::elements(name, name.tag(), wrong)?;
        let [id, value] = fields.as_slice() else {
            return Err(wrong);
        };
        let id: ObjectIdentifier = id.decode_as().map_err(|_| wrong)?;
        if context_tag(value.tag()) != Some((true, 0)) {
            return Err(wrong);
        }
        if id == ID_ON_HARDWARE_MODULE_NAME {
            let module = HardwareModuleName::from_der(value.value())
                .map_err(|_| CertificateError::HardwareModuleName)?;
            self.hardware_modules.push(HardwareModule {
                hw_type: module.hw_type,
                serial: module.hw_serial_num.as_bytes().into(),
            });
        } else if id == ID_ON_PERMANENT_IDENTIFIER {
            let identifier = PermanentIdentifierFields::from_der(value.value())
                .map_err(|_| CertificateError::PermanentIdentifier)?;
            self.permanent_identifiers.push(PermanentIdentifier {
                value: identifier.value.map(|value| value.as_str().into()),
                assigner: identifier.assigner,
            });
        }
        Ok(())
    }
}

/// The text of an `IA5String`: seven bits.
fn ia5(octets: &[u8]) -> Result<&str, CertificateError> {
    core::str::from_utf8(octets)
        .ok()
        .filter(|text| text.is_ascii())
        .ok_or(CertificateError::SubjectAlternativeName)
}

#[cfg(all(test, feature = "verify"))]
mod tests {
    use super::*;
    use crate::testing::*;

    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    fn refusal(draft: &Draft) -> CertificateError {
        PeerCertificate::parse_der(&draft.signed()).unwrap_err()
    }

    #[test]
    fn a_device_certificate_is_read_as_it_is() {
        let mut draft = Draft::device();
        draft.serial_number = tlv(INTEGER, &[0x5A, 7]);
        let der = draft.signed();
        let certificate = PeerCertificate::parse(pem(&der).as_bytes()).unwrap();
        assert_eq!(certificate.digest(), CertificateDigest::of(&der));
        assert_eq!(certificate.tbs_der(), draft.tbs());
        assert_eq!(certificate.spki_der(), draft.spki);
        assert_eq!(certificate.subject_der(), draft.subject);
        assert_eq!(certificate.issuer_der(), draft.issuer);
        assert_eq!(certificate.issuer_text(), "CN=Acme Device CA");
        assert_eq!(
            certificate.pin().0,
            <[u8; 32]>::from(Sha256::digest(&draft.spki))
        );
        assert_eq!(certificate.key_type(), KeyType::P256);
        assert_eq!(
            certificate.signature_algorithm(),
            Some(SignatureAlgorithm::EcdsaSha256)
        );
        assert_eq!(certificate.not_before().to_string(), "2026-01-01T00:00:00Z");
        assert_eq!(certificate.not_after().to_string(), "2036-01-01T00:00:00Z");
        assert_eq!(certificate.serial_number(), [0x5A, 7]);
        assert!(certificate.subject_text().ends_with("=SN1"));
        assert!(!certificate.is_ca() && certificate.has_client_auth());
        assert!(certificate.key_usage().unwrap().digital_signature());
        assert_eq!(certificate.purposes().unwrap(), [ID_KP_CLIENT_AUTH]);
        assert!(certificate.critical_not_understood().is_empty());
        assert_eq!(
            certificate.subject_serial_numbers(),
            [AttributeText::Octets((*b"SN1").into())]
        );
    }

    #[test]
    fn a_digest_is_64_lower_case_hex_digits() {
        let digest = CertificateDigest::of(b"");
        assert_eq!(digest.to_string().parse(), Ok(digest));
        let text = digest.to_string();
        for wrong in [
            text.to_uppercase(),
            text[1..].into(),
            text.clone() + "00",
            String::new(),
        ] {
            assert_eq!(
                wrong.parse::<CertificateDigest>(),
                Err(CertificateDigestError),
                "{wrong}"
            );
        }
    }

    #[test]
    fn pem_is_taken_plain_and_url_encoded() {
        let der = Draft::device().signed();
        let plain = pem(&der);
        let url_encoded: String = plain
            .bytes()
            .map(|octet| match octet {
                b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' => char::from(octet).to_string(),
                other => format!("%{other:02X}"),
            })
            .collect();
        let base64: String = plain
            .lines()
            .filter(|line| !line.starts_with('-'))
            .collect();
        for text in [
            plain.clone(),
            plain.replace('\n', "\r\n"),
            format!("\n {plain}\n\n"),
            plain.trim_end().into(),
            format!("-----BEGIN CERTIFICATE-----\n{base64}\n-----END CERTIFICATE-----\n"),
            url_encoded.clone(),
            url_encoded.replace("%2F", "/").replace("%3D", "="),
            url_encoded.replace("%0A", "%0a"),
        ] {
            let certificate = PeerCertificate::parse(text.as_bytes()).expect(&text);
            assert_eq!(certificate.digest(), CertificateDigest::of(&der));
        }
    }

    #[test]
    fn what_is_not_one_pem_certificate_is_refused_with_its_cause() {
        use CertificateError as E;
        let good = pem(&Draft::device().signed());
        let big = pem(&vec![0x30; pem::MAX_DER_OCTETS + 1]);
        for (text, cause) in [
            (String::new(), E::Pem),
            ("nonsense".into(), E::Pem),
            ("x".repeat(64 * 1024 + 1), E::TooLong),
            ("%2D".repeat(30_000), E::TooLong),
            (big, E::TooLong),
            (format!("{good}{good}"), E::SeveralBlocks),
            (good.replace("CERTIFICATE", "PRIVATE KEY"), E::Label),
            (good.replace("CERTIFICATE", "TRUSTED CERTIFICATE"), E::Label),
            (format!("Subject: SN1\n{good}"), E::Pem),
            (format!("{good}and more"), E::Pem),
            (good.replace("-----END CERTIFICATE-----", ""), E::Pem),
            (good.replace("END CERTIFICATE", "END OTHER"), E::Pem),
            (good.replacen('M', "*", 1), E::Pem),
            (good.replacen('M', "\0", 1), E::Pem),
            (good.replace('\n', "%0"), E::UrlEncoding),
            (good.replace('\n', "%0G"), E::UrlEncoding),
            (format!("{good}%"), E::UrlEncoding),
            (
                "-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n".into(),
                E::Pem,
            ),
        ] {
            let result = PeerCertificate::parse(text.as_bytes());
            let shown: String = text.chars().take(60).collect();
            assert_eq!(result.unwrap_err(), cause, "{shown}");
        }
    }

    #[test]
    fn every_cut_and_every_addition_is_refused() {
        let der = Draft::device().signed();
        for length in 0..der.len() {
            assert_eq!(
                PeerCertificate::parse_der(&der[..length]),
                Err(CertificateError::Truncated),
                "{length}"
            );
        }
        assert_eq!(
            PeerCertificate::parse_der(&[der, vec![0]].concat()),
            Err(CertificateError::TrailingData)
        );
    }

    #[test]
    fn what_is_not_der_is_refused() {
        let der = Draft::device().signed();
        // The outer length in three octets, where two are enough.
        let mut long_length = vec![0x30, 0x83, 0x00];
        long_length.extend_from_slice(&der[2..4]);
        long_length.extend_from_slice(&der[4..]);
        // Indefinite length (BER).
        let mut indefinite = vec![0x30, 0x80];
        indefinite.extend_from_slice(&der[4..]);
        indefinite.extend([0, 0]);
        assert_eq!(der[1], 0x82);
        for octets in [long_length, indefinite, vec![0x31, 0], vec![0x30, 0]] {
            assert!(PeerCertificate::parse_der(&octets).is_err());
        }
    }

    #[test]
    #[expect(clippy::too_many_lines, reason = "one table")]
    fn each_field_that_is_wrong_has_its_cause() {
        use CertificateError as E;
        let device = Draft::device;
        let change = |change: &dyn Fn(&mut Draft)| {
            let mut draft = device();
            change(&mut draft);
            draft
        };
        let unsorted = tlv(
            SET,
            &[
                sequence(&[oid(id::SERIAL_NUMBER), tlv(PRINTABLE, b"SN1")]),
                sequence(&[oid(id::COMMON_NAME), tlv(PRINTABLE, b"x")]),
            ]
            .concat(),
        );
        let deep = (0..40).fold(tlv(NULL, &[]), |inner, _| tlv(SEQUENCE, &inner));
        let many = tlv(SEQUENCE, &tlv(NULL, &[]).repeat(2000));
        let names = |count| vec![attribute(id::COMMON_NAME, UTF8, b"x"); count];
        let unknown = |count: u8| (0..count).map(|n| extension(&format!("1.2.3.{n}"), false, b""));
        for (draft, cause) in [
            (change(&|d| d.version = Vec::new()), E::Version),
            (
                change(&|d| d.version = tlv(0xA0, &tlv(INTEGER, &[1]))),
                E::Version,
            ),
            (
                change(&|d| d.version = tlv(0xA0, &tlv(INTEGER, &[3]))),
                E::Version,
            ),
            (
                change(&|d| {
                    d.version = Vec::new();
                    d.extensions.clear();
                }),
                E::Version,
            ),
            (
                change(&|d| d.outer_algorithm = sequence(&[oid("1.2.840.10045.4.3.3")])),
                E::SignatureAlgorithm,
            ),
            (
                change(&|d| d.algorithm = sequence(&[oid("1.2.840.10045.4.3.2"), tlv(NULL, &[])])),
                E::SignatureAlgorithm,
            ),
            (change(&|d| d.rest = tlv(NULL, &[])), E::TrailingData),
            (
                change(&|d| d.serial_number = tlv(INTEGER, &[1; 22])),
                E::Der,
            ),
            (change(&|d| d.serial_number = tlv(INTEGER, &[0, 1])), E::Der),
            (change(&|d| d.issuer = tlv(NULL, &[])), E::Issuer),
            (change(&|d| d.subject = tlv(SET, &[])), E::Subject),
            (
                change(&|d| d.subject = sequence(&[tlv(SET, &[])])),
                E::Subject,
            ),
            (
                change(&|d| d.subject = sequence(&[tlv(NULL, &[])])),
                E::Subject,
            ),
            (
                change(&|d| d.subject = sequence(std::slice::from_ref(&unsorted))),
                E::Der,
            ),
            (
                device().subject_attributes(&names(65)),
                E::TooManyAttributes,
            ),
            (
                change(&|d| d.issuer = sequence(&names(65))),
                E::TooManyAttributes,
            ),
            (
                change(&|d| d.validity = sequence(&[utc_time(NOT_BEFORE)])),
                E::Der,
            ),
            (
                change(&|d| {
                    d.validity = sequence(&[tlv(0x17, b"260101000000"), utc_time(NOT_AFTER)]);
                }),
                E::Der,
            ),
            (
                change(&|d| {
                    d.validity = sequence(&[tlv(0x17, b"261301000000Z"), utc_time(NOT_AFTER)]);
                }),
                E::Der,
            ),
            (change(&|d| d.spki = tlv(NULL, &[])), E::PublicKey),
            (
                change(&|d| d.spki = sequence(&[tlv(NULL, &[]), tlv(BIT_STRING, &[0])])),
                E::PublicKey,
            ),
            (change(&|d| d.algorithm.clone_from(&deep)), E::Nesting),
            (
                change(&|d| d.algorithm.clone_from(&many)),
                E::TooManyElements,
            ),
            (
                device().with(basic_constraints(false)),
                E::DuplicateExtension,
            ),
            (
                device()
                    .with(extension("1.2.3", false, b""))
                    .with(extension("1.2.3", false, b"")),
                E::DuplicateExtension,
            ),
            (
                unknown(30).fold(device(), Draft::with),
                E::TooManyExtensions,
            ),
            (change(&|d| d.extensions = vec![Vec::new()]), E::Extension),
            (
                change(&|d| d.extensions = vec![tlv(NULL, &[])]),
                E::Extension,
            ),
            (
                // BER TRUE.
                change(&|d| {
                    d.extensions = vec![sequence(&[
                        oid("1.2.3"),
                        tlv(BOOLEAN, &[1]),
                        tlv(OCTET_STRING, b""),
                    ])];
                }),
                E::Der,
            ),
        ] {
            assert_eq!(refusal(&draft), cause, "{draft:x?}");
        }
    }

    #[test]
    #[expect(clippy::too_many_lines, reason = "one table")]
    fn each_extension_that_cannot_be_read_has_its_cause() {
        use CertificateError as E;
        let without_extensions = || {
            let mut draft = Draft::device();
            draft.extensions.clear();
            draft
        };
        let deep = (0..40).fold(tlv(NULL, &[]), |inner, _| tlv(SEQUENCE, &inner));
        let thousand: Vec<_> = (0..1000).map(|n| dns(&format!("d{n}"))).collect();
        let exactly_one_too_many: Vec<_> = (0..65).map(|n| dns(&format!("d{n}"))).collect();
        let ber_true = tlv(SEQUENCE, &tlv(BOOLEAN, &[1]));
        for (extension, cause) in [
            (
                extension(id::BASIC_CONSTRAINTS, true, b""),
                E::BasicConstraints,
            ),
            (
                extension(id::BASIC_CONSTRAINTS, true, &ber_true),
                E::BasicConstraints,
            ),
            (extension(id::BASIC_CONSTRAINTS, true, &deep), E::Nesting),
            (extension(id::KEY_USAGE, true, &tlv(NULL, &[])), E::KeyUsage),
            (
                extension(id::KEY_USAGE, true, &[0x03, 0x03, 0x07, 0x80]),
                E::KeyUsage,
            ),
            (
                extension(id::EXT_KEY_USAGE, true, &sequence(&[])),
                E::ExtendedKeyUsage,
            ),
            (
                extension(id::EXT_KEY_USAGE, true, &sequence(&[tlv(NULL, &[])])),
                E::ExtendedKeyUsage,
            ),
            (purposes(&[id::SERVER_AUTH; 33]), E::ExtendedKeyUsage),
            (
                extension(id::AUTHORITY_KEY_IDENTIFIER, false, b"x"),
                E::KeyIdentifier,
            ),
            (
                extension(id::SUBJECT_KEY_IDENTIFIER, false, b"x"),
                E::KeyIdentifier,
            ),
            (
                extension(id::SUBJECT_ALT_NAME, false, &sequence(&[])),
                E::SubjectAlternativeName,
            ),
            (
                extension(id::SUBJECT_ALT_NAME, false, b""),
                E::SubjectAlternativeName,
            ),
            (
                extension(
                    id::SUBJECT_ALT_NAME,
                    false,
                    &[sequence(&[dns("a")]), vec![0]].concat(),
                ),
                E::SubjectAlternativeName,
            ),
            (
                alternative_names(&[tlv(0x82, b"\xff")]),
                E::SubjectAlternativeName,
            ),
            (
                alternative_names(&[tlv(0x8F, b"x")]),
                E::SubjectAlternativeName,
            ),
            (
                alternative_names(&exactly_one_too_many),
                E::TooManyGeneralNames,
            ),
            (alternative_names(&thousand), E::TooManyGeneralNames),
            (
                alternative_names(&[other_name(id::HARDWARE_MODULE_NAME, &tlv(UTF8, b"SN1"))]),
                E::HardwareModuleName,
            ),
            (
                alternative_names(&[other_name(
                    id::HARDWARE_MODULE_NAME,
                    &sequence(&[oid(id::HW_TYPE), tlv(UTF8, b"SN1")]),
                )]),
                E::HardwareModuleName,
            ),
            (
                alternative_names(&[other_name(
                    id::HARDWARE_MODULE_NAME,
                    &sequence(&[oid(id::HW_TYPE), tlv(OCTET_STRING, b"SN1"), tlv(NULL, &[])]),
                )]),
                E::HardwareModuleName,
            ),
            (
                alternative_names(&[other_name(
                    id::PERMANENT_IDENTIFIER,
                    &sequence(&[tlv(UTF8, b"\xff")]),
                )]),
                E::PermanentIdentifier,
            ),
            (
                alternative_names(&[other_name(
                    id::PERMANENT_IDENTIFIER,
                    &sequence(&[oid(id::HW_TYPE), tlv(UTF8, b"SN1")]),
                )]),
                E::PermanentIdentifier,
            ),
        ] {
            assert_eq!(refusal(&without_extensions().with(extension)), cause);
        }
    }

    #[test]
    fn the_largest_that_fits_is_read() {
        let names: Vec<_> = (0..64).map(|n| dns(&format!("d{n}"))).collect();
        let certificate = Draft::device().with(alternative_names(&names)).parsed();
        assert_eq!(certificate.dns_names().len(), 64);
        let attributes = vec![attribute(id::COMMON_NAME, UTF8, b"x"); 64];
        let certificate = Draft::device().subject_attributes(&attributes).parsed();
        assert_eq!(certificate.subject_common_names().len(), 64);
        let certificate = (0..29)
            .map(|n| extension(&format!("1.2.3.{n}"), true, b""))
            .fold(Draft::device(), Draft::with)
            .parsed();
        assert_eq!(certificate.critical_not_understood().len(), 29);
        let mut draft = Draft::device();
        draft.extensions = vec![purposes(&[id::SERVER_AUTH; 32])];
        assert_eq!(draft.parsed().purposes().map(<[_]>::len), Some(32));
        let der = Draft::device()
            .with(extension("1.2.3", false, &vec![0; 15_000]))
            .signed();
        assert!(der.len() < 16 * 1024);
        let text = pem(&der);
        assert!(PeerCertificate::parse(text.as_bytes()).is_ok());
        let blanks = " ".repeat(64 * 1024 - text.len());
        assert!(PeerCertificate::parse((text + &blanks).as_bytes()).is_ok());

        // No certificate, but not for its length.
        let der = tlv(SEQUENCE, &vec![0; 16 * 1024 - 4]);
        assert_eq!(der.len(), 16 * 1024);
        let refusals = [
            PeerCertificate::parse_der(&der).unwrap_err(),
            PeerCertificate::parse(pem(&der).as_bytes()).unwrap_err(),
        ];
        assert!(
            !refusals.contains(&CertificateError::TooLong),
            "{refusals:?}"
        );
        let longer = [der, vec![0]].concat();
        assert_eq!(
            PeerCertificate::parse_der(&longer),
            Err(CertificateError::TooLong)
        );
    }

    #[test]
    fn an_explicit_default_reads_as_what_it_is() {
        let explicit_false = tlv(BOOLEAN, &[0]);
        let mut draft = Draft::device();
        draft.extensions = vec![
            extension(id::BASIC_CONSTRAINTS, true, &tlv(SEQUENCE, &explicit_false)),
            sequence(&[oid("1.2.3"), explicit_false, tlv(OCTET_STRING, b"")]),
        ];
        let certificate = draft.parsed();
        assert!(!certificate.is_ca());
        assert!(certificate.critical_not_understood().is_empty());
    }

    #[test]
    fn subject_texts_are_octets_of_the_types_that_read_one_way() {
        for (tag, value, reads) in [
            (PRINTABLE, b"SN1".as_slice(), true),
            (PRINTABLE, b"SN_1@*", true),
            (PRINTABLE, b"SN\n1", false),
            (PRINTABLE, b"SN\xe9", false),
            (UTF8, b"SN\n1\0", true),
            (UTF8, "Gerät".as_bytes(), true),
            (UTF8, b"SN\xff", false),
            (IA5, b"SN\x001", true),
            (IA5, b"SN\x80", false),
            (TELETEX, b"SN1", true),
            (TELETEX, b"SN\xe9", false),
            (BMP, b"\0S\0N", false),
            (OCTET_STRING, b"SN1", false),
            (SEQUENCE, b"", false),
        ] {
            let certificate = Draft::device()
                .subject_attributes(&[attribute(id::SERIAL_NUMBER, tag, value)])
                .parsed();
            let expected = if reads {
                AttributeText::Octets(value.into())
            } else {
                AttributeText::Unreadable
            };
            assert_eq!(
                certificate.subject_serial_numbers(),
                [expected],
                "{tag:#x} {value:?}"
            );
        }
    }

    #[test]
    fn no_well_defined_expiry_is_the_end_of_time() {
        let mut draft = Draft::device();
        for (end, not_after) in [
            ("99991231235959Z", Timestamp::MAX),
            (
                "99991231235958Z",
                Timestamp::from_unix_seconds(NO_EXPIRY_SECONDS - 1),
            ),
            (
                "20500101000000Z",
                Timestamp::from_unix_seconds(2_524_608_000),
            ),
        ] {
            draft.validity = sequence(&[utc_time(NOT_BEFORE), generalized_time(end)]);
            assert_eq!(draft.parsed().not_after(), not_after);
        }
    }

    #[test]
    fn an_algorithm_that_is_not_accepted_is_read_and_left_to_the_issuer_check() {
        let mut draft = Draft::device();
        // ECDSA with SHA-1.
        draft.algorithm = sequence(&[oid("1.2.840.10045.4.1")]);
        draft.outer_algorithm.clone_from(&draft.algorithm);
        assert_eq!(draft.parsed().signature_algorithm(), None);
    }

    #[cfg(not(target_arch = "wasm32"))]
    proptest::proptest! {
        #[test]
        fn no_octets_make_the_reader_panic(octets: Vec<u8>) {
            let _ = PeerCertificate::parse(&octets);
            let _ = PeerCertificate::parse_der(&octets);
        }

        #[test]
        fn no_damage_to_a_certificate_makes_the_reader_panic(
            damage in proptest::collection::vec((0_usize..400, proptest::num::u8::ANY), 1..8),
        ) {
            let mut der = Draft::device()
                .with(alternative_names(&[
                    hardware_module(id::HW_TYPE, b"SN1"),
                    permanent_identifier(Some("SN1"), Some(id::HW_TYPE)),
                    dns("sn1.devices.example"),
                ]))
                .signed();
            for (at, octet) in damage {
                if let Some(place) = der.get_mut(at) {
                    *place = octet;
                }
            }
            let _ = PeerCertificate::parse_der(&der);
        }
    }
}
