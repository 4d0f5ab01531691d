//! What did the peer present? One X.509 certificate, read strictly, once.

use core::fmt;
use core::str::FromStr;

use const_oid::ObjectIdentifier;
use const_oid::db::rfc4519::{COMMON_NAME, SERIAL_NUMBER};
use const_oid::db::rfc5280::{
    ID_CE_AUTHORITY_KEY_IDENTIFIER, ID_CE_BASIC_CONSTRAINTS, ID_CE_EXT_KEY_USAGE, ID_CE_KEY_USAGE,
    ID_CE_SUBJECT_ALT_NAME, ID_CE_SUBJECT_KEY_IDENTIFIER, ID_KP_CLIENT_AUTH,
};
use const_oid::db::rfc5911::ID_ON_HARDWARE_MODULE_NAME;
use der::asn1::{AnyRef, BitStringRef, OctetStringRef, Utf8StringRef};
use der::{Decode, Encode, Reader, Sequence, Tag, Tagged};
use sha2::{Digest, Sha256};
use x509_cert::ext::pkix::name::{GeneralName, GeneralNames, HardwareModuleName, OtherName};
use x509_cert::ext::pkix::{
    AuthorityKeyIdentifier, BasicConstraints, ExtendedKeyUsage, KeyUsage, SubjectKeyIdentifier,
};
use x509_cert::name::Name;
use x509_cert::serial_number::SerialNumber;
use x509_cert::time::{Time, Validity};

use crate::binding::Pin;
use crate::signature::{KeyType, SignatureAlgorithm};
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

impl FromStr for CertificateDigest {
    type Err = CertificateDigestError;

    fn from_str(text: &str) -> Result<Self, CertificateDigestError> {
        Self::from_hex(text.as_bytes())
    }
}

impl fmt::Display for CertificateDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}", base16ct::HexDisplay(&self.0))
    }
}

impl fmt::Debug for CertificateDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CertificateDigest({self})")
    }
}

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
    fn new(tag: Tag, value: &[u8]) -> Self {
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
/// `BOOLEAN DEFAULT FALSE` that says FALSE, and a bit string with zero bits at its end.
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
        let outer = CertificateFields::from_der(der).map_err(|error| strict::cause(&error))?;
        strict::check(der)?;
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
        let issuer = octets(tbs.issuer)?;
        read_name(&issuer, CertificateError::Issuer)?;
        let subject = octets(tbs.subject)?;
        let subject_name = read_name(&subject, CertificateError::Subject)?;
        let attribute = |oid: ObjectIdentifier| {
            subject_name
                .iter()
                .filter(|attribute| attribute.oid == oid)
                .map(|attribute| AttributeText::new(attribute.value.tag(), attribute.value.value()))
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
            issuer,
            subject,
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

fn read_name(der: &[u8], cause: CertificateError) -> Result<Name, CertificateError> {
    let name = Name::from_der(der).map_err(|_| cause)?;
    if name.iter_rdn().any(|rdn| rdn.as_ref().is_empty()) {
        return Err(cause);
    }
    if name.iter().count() > MAX_ATTRIBUTES {
        return Err(CertificateError::TooManyAttributes);
    }
    Ok(name)
}

fn name_text(der: &[u8]) -> String {
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
    let mut seen = Vec::new();
    list.sequence(|reader| {
        while !reader.is_finished() {
            if seen.len() >= MAX_EXTENSIONS {
                return Err(Stop(CertificateError::TooManyExtensions));
            }
            let extension = ExtensionFields::decode(reader)?;
            if seen.contains(&extension.id) {
                return Err(Stop(CertificateError::DuplicateExtension));
            }
            seen.push(extension.id);
            extensions.read(&extension)?;
        }
        Ok(())
    })
    .map_err(|Stop(cause)| cause)?;
    if seen.is_empty() {
        return Err(CertificateError::Extension);
    }
    Ok(extensions)
}

/// Carries a cause out of a reader's closure, which wants to speak of `der::Error`.
struct Stop(CertificateError);

impl From<der::Error> for Stop {
    fn from(_: der::Error) -> Self {
        Self(CertificateError::Extension)
    }
}

impl From<CertificateError> for Stop {
    fn from(cause: CertificateError) -> Self {
        Self(cause)
    }
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
            let purposes: ExtendedKeyUsage = value_of(value, CertificateError::ExtendedKeyUsage)?;
            if purposes.0.is_empty() || purposes.0.len() > MAX_PURPOSES {
                return Err(CertificateError::ExtendedKeyUsage);
            }
            self.purposes = Some(purposes.0);
        } else if id == ID_CE_AUTHORITY_KEY_IDENTIFIER {
            let identifier: AuthorityKeyIdentifier =
                value_of(value, CertificateError::KeyIdentifier)?;
            self.authority_key_identifier = identifier
                .key_identifier
                .map(|octets| octets.as_bytes().into());
        } else if id == ID_CE_SUBJECT_KEY_IDENTIFIER {
            let identifier: SubjectKeyIdentifier =
                value_of(value, CertificateError::KeyIdentifier)?;
            self.subject_key_identifier = Some(identifier.0.as_bytes().into());
        } else if id == ID_CE_SUBJECT_ALT_NAME {
            let names: GeneralNames = value_of(value, CertificateError::SubjectAlternativeName)?;
            self.names = SubjectAlternativeNames::new(&names)?;
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

impl SubjectAlternativeNames {
    fn new(general_names: &[GeneralName]) -> Result<Self, CertificateError> {
        if general_names.is_empty() {
            return Err(CertificateError::SubjectAlternativeName);
        }
        if general_names.len() > MAX_GENERAL_NAMES {
            return Err(CertificateError::TooManyGeneralNames);
        }
        let mut names = Self::default();
        for name in general_names {
            match name {
                GeneralName::DnsName(name) => names.dns.push(name.as_str().into()),
                GeneralName::UniformResourceIdentifier(uri) => {
                    names.uris.push(uri.as_str().into());
                }
                GeneralName::OtherName(name) => names.read_other(name)?,
                GeneralName::Rfc822Name(_)
                | GeneralName::DirectoryName(_)
                | GeneralName::EdiPartyName(_)
                | GeneralName::IpAddress(_)
                | GeneralName::RegisteredId(_) => {}
            }
        }
        Ok(names)
    }

    fn read_other(&mut self, name: &OtherName) -> Result<(), CertificateError> {
        if name.type_id == ID_ON_HARDWARE_MODULE_NAME {
            let module: HardwareModuleName = name
                .value
                .decode_as()
                .map_err(|_| CertificateError::HardwareModuleName)?;
            self.hardware_modules.push(HardwareModule {
                hw_type: module.hw_type,
                serial: module.hw_serial_num.as_bytes().into(),
            });
        } else if name.type_id == ID_ON_PERMANENT_IDENTIFIER {
            let identifier: PermanentIdentifierFields<'_> = name
                .value
                .decode_as()
                .map_err(|_| CertificateError::PermanentIdentifier)?;
            self.permanent_identifiers.push(PermanentIdentifier {
                value: identifier.value.map(|value| value.as_str().into()),
                assigner: identifier.assigner,
            });
        }
        Ok(())
    }
}
