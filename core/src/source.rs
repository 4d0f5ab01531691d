//! Where in the certificate does the serial stand? The identity sources and their templates.

use core::fmt;
use core::str::FromStr;
use std::borrow::Cow;

use const_oid::ObjectIdentifier;
use serde::{Deserialize, Deserializer, de};

use crate::certificate::{AttributeText, CertificateError, PeerCertificate};

/// What stands for the serial in a template.
const PLACEHOLDER: &str = "{serial}";
/// The longest template, in octets.
pub const MAX_TEMPLATE_OCTETS: usize = 256;
/// The longest DNS label (RFC 1035, 2.3.4).
const MAX_LABEL_OCTETS: usize = 63;

/// One place in a certificate where an issuer writes the device's serial.
///
/// In the configuration an object with the key `source`:
/// `{"source": "san.hardware_module_name", "hw_type": "1.3.6.1.4.1.32473.1"}`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "SourceFields")]
pub enum IdentitySource {
    /// `subject.serial_number`: 2.5.4.5 in the subject (IEEE 802.1AR, 8.6; RFC 8995, 2.3.1).
    SubjectSerialNumber,
    /// `san.hardware_module_name`: `hwSerialNum` of the hardware module names with this `hwType`
    /// (RFC 4108, 5). One with another type is of other hardware, and as good as absent.
    HardwareModuleName {
        /// The `hwType` that counts.
        hw_type: ObjectIdentifier,
    },
    /// `san.permanent_identifier`: the value of the permanent identifiers with this assigner, or,
    /// where none is configured, of those without one (RFC 4043, 2). An identifier without a value
    /// stands for the subject's `serialNumber`.
    PermanentIdentifier {
        /// The assigner that counts.
        assigner: Option<ObjectIdentifier>,
    },
    /// `san.uri`: what stands at `{serial}` in a URI (RFC 9039, SPIFFE).
    Uri {
        /// What the URI looks like.
        template: UriTemplate,
    },
    /// `san.dns`: the label that stands at `{serial}` in a DNS name.
    Dns {
        /// What the name looks like.
        template: DnsTemplate,
    },
    /// `subject.common_name`: 2.5.4.3 in the subject.
    SubjectCommonName,
}

/// As it is written down.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SourceFields {
    pub source: SourceName,
    #[serde(default, deserialize_with = "object_identifier")]
    pub hw_type: Option<ObjectIdentifier>,
    #[serde(default, deserialize_with = "object_identifier")]
    pub assigner: Option<ObjectIdentifier>,
    pub template: Option<String>,
}

#[derive(Clone, Copy, Deserialize)]
pub(crate) enum SourceName {
    #[serde(rename = "subject.serial_number")]
    SubjectSerialNumber,
    #[serde(rename = "san.hardware_module_name")]
    HardwareModuleName,
    #[serde(rename = "san.permanent_identifier")]
    PermanentIdentifier,
    #[serde(rename = "san.uri")]
    Uri,
    #[serde(rename = "san.dns")]
    Dns,
    #[serde(rename = "subject.common_name")]
    SubjectCommonName,
}

/// Why an object is no identity source.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SourceError {
    /// The hardware module name's type is missing.
    #[error("san.hardware_module_name needs hw_type, such as 1.3.6.1.4.1.32473.1")]
    NoHwType,
    /// The template is missing.
    #[error("san.uri and san.dns need a template, such as urn:dev:ops:32473-{{serial}}")]
    NoTemplate,
    /// A key of another source.
    #[error("{0} does not belong to this source")]
    OtherKey(&'static str),
    /// The template is none.
    #[error(transparent)]
    Template(#[from] TemplateError),
}

impl TryFrom<SourceFields> for IdentitySource {
    type Error = SourceError;

    fn try_from(fields: SourceFields) -> Result<Self, SourceError> {
        let takes = |key: &'static str, is_there: bool, of: bool| {
            if is_there && !of {
                Err(SourceError::OtherKey(key))
            } else {
                Ok(())
            }
        };
        let name = fields.source;
        let takes_hw_type = matches!(name, SourceName::HardwareModuleName);
        let takes_assigner = matches!(name, SourceName::PermanentIdentifier);
        let takes_template = matches!(name, SourceName::Uri | SourceName::Dns);
        takes("hw_type", fields.hw_type.is_some(), takes_hw_type)?;
        takes("assigner", fields.assigner.is_some(), takes_assigner)?;
        takes("template", fields.template.is_some(), takes_template)?;
        let template = fields.template.ok_or(SourceError::NoTemplate);
        Ok(match name {
            SourceName::SubjectSerialNumber => Self::SubjectSerialNumber,
            SourceName::HardwareModuleName => Self::HardwareModuleName {
                hw_type: fields.hw_type.ok_or(SourceError::NoHwType)?,
            },
            SourceName::PermanentIdentifier => Self::PermanentIdentifier {
                assigner: fields.assigner,
            },
            SourceName::Uri => Self::Uri {
                template: template?.parse()?,
            },
            SourceName::Dns => Self::Dns {
                template: template?.parse()?,
            },
            SourceName::SubjectCommonName => Self::SubjectCommonName,
        })
    }
}

/// A key that is there holds an object identifier, and `null` is not one.
fn object_identifier<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<ObjectIdentifier>, D::Error> {
    let text = <Cow<'de, str>>::deserialize(deserializer)?;
    ObjectIdentifier::new(&text).map(Some).map_err(|_| {
        de::Error::custom(format_args!(
            "{text:?} is no object identifier; write it in dots, such as 1.3.6.1.4.1.32473.1"
        ))
    })
}

impl IdentitySource {
    /// Its name in the configuration.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::SubjectSerialNumber => "subject.serial_number",
            Self::HardwareModuleName { .. } => "san.hardware_module_name",
            Self::PermanentIdentifier { .. } => "san.permanent_identifier",
            Self::Uri { .. } => "san.uri",
            Self::Dns { .. } => "san.dns",
            Self::SubjectCommonName => "subject.common_name",
        }
    }

    /// Every serial that this source finds, as octets, in the certificate's order; none where the
    /// source is absent. An error where it is present and cannot be read: it then is not absent.
    pub fn serials<'a>(
        &self,
        certificate: &'a PeerCertificate,
    ) -> Result<Vec<&'a [u8]>, CertificateError> {
        match self {
            Self::SubjectSerialNumber => texts(certificate.subject_serial_numbers()),
            Self::SubjectCommonName => texts(certificate.subject_common_names()),
            Self::HardwareModuleName { hw_type } => Ok(certificate
                .hardware_modules()
                .iter()
                .filter(|module| module.hw_type == *hw_type)
                .map(|module| module.serial.as_ref())
                .collect()),
            Self::PermanentIdentifier { assigner } => {
                let mut serials = Vec::new();
                for identifier in certificate.permanent_identifiers() {
                    if identifier.assigner != *assigner {
                        continue;
                    }
                    match &identifier.value {
                        Some(value) => serials.push(value.as_bytes()),
                        None => serials.extend(texts(certificate.subject_serial_numbers())?),
                    }
                }
                Ok(serials)
            }
            Self::Uri { template } => Ok(certificate
                .uris()
                .iter()
                .filter_map(|uri| template.serial(uri))
                .map(str::as_bytes)
                .collect()),
            Self::Dns { template } => Ok(certificate
                .dns_names()
                .iter()
                .filter_map(|name| template.serial(name))
                .map(str::as_bytes)
                .collect()),
        }
    }
}

fn texts(values: &[AttributeText]) -> Result<Vec<&[u8]>, CertificateError> {
    values
        .iter()
        .map(|value| match value {
            AttributeText::Octets(octets) => Ok(octets.as_ref()),
            AttributeText::Unreadable => Err(CertificateError::AttributeText),
        })
        .collect()
}

/// Why text is no template.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    /// `{serial}` is missing, stands twice, or other braces stand beside it.
    #[error("a template has {{serial}} exactly once, and no other braces")]
    Placeholder,
    /// Longer than 256 octets, or not visible ASCII.
    #[error("a template is at most 256 characters of visible ASCII without blanks")]
    Characters,
    /// A URI template whose scheme is not written out (RFC 3986, 3.1).
    #[error("a URI template begins with its scheme, such as urn:dev:ops:32473-{{serial}}")]
    Scheme,
    /// A DNS template in which `{serial}` is not a whole label, or another label is none.
    #[error(
        "in a DNS template {{serial}} is one whole label, and the others are letters, digits and '-': {{serial}}.devices.example"
    )]
    Label,
}

/// What stands before and after `{serial}`.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Template {
    before: Box<str>,
    after: Box<str>,
}

impl FromStr for Template {
    type Err = TemplateError;

    fn from_str(text: &str) -> Result<Self, TemplateError> {
        if text.len() > MAX_TEMPLATE_OCTETS || !text.bytes().all(|octet| octet.is_ascii_graphic()) {
            return Err(TemplateError::Characters);
        }
        let (before, after) = text
            .split_once(PLACEHOLDER)
            .ok_or(TemplateError::Placeholder)?;
        if [before, after].iter().any(|part| part.contains(['{', '}'])) {
            return Err(TemplateError::Placeholder);
        }
        Ok(Self {
            before: before.into(),
            after: after.into(),
        })
    }
}

impl Template {
    fn with(&self, serial: &str) -> String {
        [&self.before, serial, &self.after].concat()
    }
}

/// What an issuer's URIs look like: `urn:dev:ops:32473-{serial}`, `spiffe://acme/device/{serial}`.
///
/// Compared octet by octet: nothing is decoded or case-folded, so `%41` is three octets of the
/// serial, and `URN:` is not `urn:`. `{serial}` is one or more octets, none of them `/`, `?` or `#`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UriTemplate(Template);

impl UriTemplate {
    /// The serial in this URI; `None` where the URI does not look like the template.
    pub fn serial<'a>(&self, uri: &'a str) -> Option<&'a str> {
        uri.strip_prefix(&*self.0.before)?
            .strip_suffix(&*self.0.after)
            .filter(|serial| !serial.is_empty() && !serial.contains(['/', '?', '#']))
    }

    /// The URI of this serial, for whoever issues certificates.
    pub fn with(&self, serial: &str) -> String {
        self.0.with(serial)
    }
}

impl FromStr for UriTemplate {
    type Err = TemplateError;

    fn from_str(text: &str) -> Result<Self, TemplateError> {
        let template: Template = text.parse()?;
        let scheme = template.before.split_once(':').map(|(scheme, _)| scheme);
        let is_scheme = scheme.is_some_and(|scheme| {
            scheme.starts_with(|first: char| first.is_ascii_alphabetic())
                && scheme
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-' | b'.'))
        });
        if is_scheme {
            Ok(Self(template))
        } else {
            Err(TemplateError::Scheme)
        }
    }
}

/// What an issuer's DNS names look like: `{serial}.devices.acme.example`.
///
/// `{serial}` is exactly one label: 1 to 63 letters, digits, `-` or `_`, so a wildcard is none.
/// The other labels are compared without regard to case (RFC 4343); the serial stays as the issuer
/// wrote it, and in another case is another device. A dot at the end of the name is not accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DnsTemplate(Template);

impl DnsTemplate {
    /// The serial in this DNS name; `None` where the name does not look like the template.
    pub fn serial<'a>(&self, name: &'a str) -> Option<&'a str> {
        let (before, rest) = name.split_at_checked(self.0.before.len())?;
        let (serial, after) = rest.split_at_checked(rest.len().checked_sub(self.0.after.len())?)?;
        let fits = before.eq_ignore_ascii_case(&self.0.before)
            && after.eq_ignore_ascii_case(&self.0.after)
            && is_label(serial);
        fits.then_some(serial)
    }

    /// The name of this serial, for whoever issues certificates.
    pub fn with(&self, serial: &str) -> String {
        self.0.with(serial)
    }
}

impl FromStr for DnsTemplate {
    type Err = TemplateError;

    fn from_str(text: &str) -> Result<Self, TemplateError> {
        let template: Template = text.parse()?;
        let whole = text
            .split('.')
            .all(|label| label == PLACEHOLDER || is_label(label));
        if whole {
            Ok(Self(template))
        } else {
            Err(TemplateError::Label)
        }
    }
}

/// One DNS label, with the underscore that names of services have (RFC 8552).
fn is_label(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= MAX_LABEL_OCTETS
        && text
            .bytes()
            .all(|octet| octet.is_ascii_alphanumeric() || matches!(octet, b'-' | b'_'))
}

impl fmt::Display for UriTemplate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.with(PLACEHOLDER))
    }
}

impl fmt::Display for DnsTemplate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.with(PLACEHOLDER))
    }
}

#[cfg(all(test, feature = "verify"))]
mod tests {
    use super::*;
    use crate::testing::*;

    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    fn read(json: &str) -> Result<IdentitySource, String> {
        serde_json::from_str(json).map_err(|error| error.to_string())
    }

    #[test]
    fn a_source_is_written_as_the_configuration_has_it() {
        for (json, name) in [
            (
                r#"{"source": "subject.serial_number"}"#,
                "subject.serial_number",
            ),
            (
                r#"{"source": "san.hardware_module_name", "hw_type": "1.3.6.1.4.1.32473.1"}"#,
                "san.hardware_module_name",
            ),
            (
                r#"{"source": "san.permanent_identifier"}"#,
                "san.permanent_identifier",
            ),
            (
                r#"{"source": "san.permanent_identifier", "assigner": "1.3.6.1.4.1.32473"}"#,
                "san.permanent_identifier",
            ),
            (
                r#"{"source": "san.uri", "template": "urn:x:{serial}"}"#,
                "san.uri",
            ),
            (
                r#"{"source": "san.dns", "template": "{serial}.x"}"#,
                "san.dns",
            ),
            (
                r#"{"source": "subject.common_name"}"#,
                "subject.common_name",
            ),
        ] {
            assert_eq!(read(json).unwrap().name(), name);
        }
        for (json, says) in [
            ("{}", "missing field `source`"),
            (r#"{"source": "san.email"}"#, "unknown variant `san.email`"),
            (
                r#"{"source": "subject.serial_number", "template": "x"}"#,
                "template does not belong to this source",
            ),
            (
                r#"{"source": "san.uri", "template": "urn:{serial}", "hw_type": "1.2.3"}"#,
                "hw_type does not belong to this source",
            ),
            (
                r#"{"source": "san.dns", "template": "{serial}.x", "assigner": "1.2.3"}"#,
                "assigner does not belong to this source",
            ),
            (
                r#"{"source": "san.hardware_module_name", "hw_type": null}"#,
                "invalid type: null",
            ),
            (
                r#"{"source": "san.dns", "template": "x{serial}"}"#,
                "one whole label",
            ),
            (
                r#"{"source": "subject.common_name", "x": 1}"#,
                "unknown field `x`",
            ),
            (r#"{"source": "san.hardware_module_name"}"#, "needs hw_type"),
            (
                r#"{"source": "san.hardware_module_name", "hw_type": "acme"}"#,
                "is no object identifier; write it in dots",
            ),
            (
                r#"{"source": "san.permanent_identifier", "assigner": ""}"#,
                "is no object identifier; write it in dots",
            ),
            (r#"{"source": "san.uri"}"#, "need a template"),
            (
                r#"{"source": "san.uri", "template": "urn:x"}"#,
                "{serial} exactly once",
            ),
        ] {
            let error = read(json).unwrap_err();
            assert!(error.contains(says), "{json}: {error}");
        }
    }

    #[test]
    fn a_uri_template_finds_one_segment() {
        for (template, uri, serial) in [
            (
                "urn:dev:ops:32473-{serial}",
                "urn:dev:ops:32473-SN1",
                Some("SN1"),
            ),
            (
                "urn:dev:ops:32473-{serial}",
                "urn:dev:ops:32473-SN-1",
                Some("SN-1"),
            ),
            ("urn:dev:ops:32473-{serial}", "urn:dev:ops:32473-", None),
            ("urn:dev:ops:32473-{serial}", "urn:dev:ops:32474-SN1", None),
            ("urn:dev:ops:32473-{serial}", "URN:dev:ops:32473-SN1", None),
            ("urn:dev:ops:32473-{serial}", "xurn:dev:ops:32473-SN1", None),
            (
                "urn:dev:ops:32473-{serial}",
                "urn:dev:ops:32473-a%2Fb",
                Some("a%2Fb"),
            ),
            (
                "spiffe://acme/device/{serial}",
                "spiffe://acme/device/SN1",
                Some("SN1"),
            ),
            (
                "spiffe://acme/device/{serial}",
                "spiffe://acme/device/SN1/x",
                None,
            ),
            (
                "spiffe://acme/device/{serial}",
                "spiffe://acme/device/SN1?x",
                None,
            ),
            (
                "spiffe://acme/device/{serial}",
                "spiffe://acme/device/SN1#x",
                None,
            ),
            (
                "spiffe://acme/device/{serial}",
                "spiffe://acme/device/",
                None,
            ),
            (
                "spiffe://acme/{serial}/key",
                "spiffe://acme/SN1/key",
                Some("SN1"),
            ),
            ("spiffe://acme/{serial}/key", "spiffe://acme/SN1/keys", None),
            ("spiffe://acme/{serial}/key", "spiffe://acme/key", None),
            ("spiffe://acme/{serial}/key", "spiffe://acme//key", None),
            ("a:{serial}a", "a:a", None),
            ("a:{serial}a", "a:aa", Some("a")),
        ] {
            let read: UriTemplate = template.parse().unwrap();
            assert_eq!(read.to_string(), template);
            assert_eq!(read.serial(uri), serial, "{template} {uri}");
            if let Some(serial) = serial {
                assert_eq!(read.with(serial), uri);
            }
        }
    }

    #[test]
    fn a_dns_template_finds_one_label() {
        let longest = "x".repeat(63);
        let too_long = "x".repeat(64);
        for (template, name, serial) in [
            (
                "{serial}.devices.example",
                "SN1.devices.example".to_owned(),
                Some("SN1"),
            ),
            (
                "{serial}.devices.example",
                "SN1.DEVICES.Example".to_owned(),
                Some("SN1"),
            ),
            (
                "{serial}.devices.example",
                "sn1.devices.example".to_owned(),
                Some("sn1"),
            ),
            (
                "{serial}.devices.example",
                "a.b.devices.example".to_owned(),
                None,
            ),
            (
                "{serial}.devices.example",
                "*.devices.example".to_owned(),
                None,
            ),
            (
                "{serial}.devices.example",
                "a*.devices.example".to_owned(),
                None,
            ),
            (
                "{serial}.devices.example",
                ".devices.example".to_owned(),
                None,
            ),
            (
                "{serial}.devices.example",
                "devices.example".to_owned(),
                None,
            ),
            (
                "{serial}.devices.example",
                "SN1.devices.example.".to_owned(),
                None,
            ),
            (
                "{serial}.devices.example",
                "SN1.devices.examples".to_owned(),
                None,
            ),
            (
                "{serial}.devices.example",
                "SN1.device.example".to_owned(),
                None,
            ),
            (
                "{serial}.devices.example",
                "a b.devices.example".to_owned(),
                None,
            ),
            (
                "{serial}.devices.example",
                format!("{longest}.devices.example"),
                Some(&*longest),
            ),
            (
                "{serial}.devices.example",
                format!("{too_long}.devices.example"),
                None,
            ),
            (
                "dev.{serial}.example",
                "dev.SN_1.example".to_owned(),
                Some("SN_1"),
            ),
            ("dev.{serial}.example", "dev.example".to_owned(), None),
            ("dev.{serial}.example", "dev.".to_owned(), None),
            ("{serial}", "SN1".to_owned(), Some("SN1")),
            ("{serial}", "SN1.example".to_owned(), None),
        ] {
            let read: DnsTemplate = template.parse().unwrap();
            assert_eq!(read.to_string(), template);
            assert_eq!(read.serial(&name), serial, "{template} {name}");
        }
    }

    #[test]
    fn what_is_no_template_says_how_to_mend_it() {
        use TemplateError as E;
        let long = format!("urn:{}{{serial}}", "x".repeat(256));
        for (text, uri, dns) in [
            ("", E::Placeholder, E::Placeholder),
            ("urn:x", E::Placeholder, E::Placeholder),
            ("urn:{serial}{serial}", E::Placeholder, E::Placeholder),
            ("urn:{serial}:{serial}", E::Placeholder, E::Placeholder),
            ("urn:{Serial}", E::Placeholder, E::Placeholder),
            ("urn:{serial}:{x}", E::Placeholder, E::Placeholder),
            ("urn:{{serial}}", E::Placeholder, E::Placeholder),
            ("urn: {serial}", E::Characters, E::Characters),
            ("urn:ü{serial}", E::Characters, E::Characters),
            (long.as_str(), E::Characters, E::Characters),
        ] {
            assert_eq!(text.parse::<UriTemplate>(), Err(uri), "{text}");
            assert_eq!(text.parse::<DnsTemplate>(), Err(dns), "{text}");
        }
        let longest = format!("urn:{}{{serial}}", "x".repeat(256 - 12));
        assert!(longest.parse::<UriTemplate>().is_ok());
        assert_eq!(
            format!("{longest}x").parse::<UriTemplate>(),
            Err(E::Characters)
        );
        for text in [
            "{serial}",
            "acme/{serial}",
            "{serial}:x",
            "1a:{serial}",
            ":{serial}",
        ] {
            assert_eq!(text.parse::<UriTemplate>(), Err(E::Scheme), "{text}");
        }
        for text in [
            "a-{serial}.x",
            "{serial}-a.x",
            "*.{serial}",
            "{serial}.",
            ".{serial}",
            "a..{serial}",
        ] {
            assert_eq!(text.parse::<DnsTemplate>(), Err(E::Label), "{text}");
        }
    }

    #[test]
    fn each_source_reads_its_own_field() {
        let certificate = Draft::device()
            .subject_attributes(&[
                attribute(id::COMMON_NAME, UTF8, b"cn"),
                attribute(id::SERIAL_NUMBER, PRINTABLE, b"sn"),
                attribute(id::SERIAL_NUMBER, PRINTABLE, b"sn2"),
            ])
            .with(alternative_names(&[
                hardware_module(id::HW_TYPE, b"hw\0"),
                hardware_module("1.3.6.1.4.1.32473.2", b"other"),
                permanent_identifier(Some("perm"), None),
                permanent_identifier(Some("assigned"), Some("1.3.6.1.4.1.32473")),
                permanent_identifier(None, Some("1.2.3")),
                uri("urn:dev:uri"),
                uri("https://example"),
                dns("label.example"),
                dns("example"),
                // Others are read and not kept: rfc822Name, iPAddress, registeredID, UPN.
                tlv(0x81, b"sn@example"),
                tlv(0x87, &[127, 0, 0, 1]),
                tlv(0x88, &[0x2A, 3]),
                other_name("1.3.6.1.4.1.311.20.2.3", &tlv(UTF8, b"upn")),
                tlv(0xA4, &name("directory")),
            ]))
            .parsed();
        for (json, serials) in [
            (r#"{"source": "subject.serial_number"}"#, vec!["sn", "sn2"]),
            (r#"{"source": "subject.common_name"}"#, vec!["cn"]),
            (
                r#"{"source": "san.hardware_module_name", "hw_type": "1.3.6.1.4.1.32473.1"}"#,
                vec!["hw\0"],
            ),
            (
                r#"{"source": "san.hardware_module_name", "hw_type": "1.3.6.1.4.1.32473"}"#,
                vec![],
            ),
            (r#"{"source": "san.permanent_identifier"}"#, vec!["perm"]),
            (
                r#"{"source": "san.permanent_identifier", "assigner": "1.3.6.1.4.1.32473"}"#,
                vec!["assigned"],
            ),
            (
                r#"{"source": "san.permanent_identifier", "assigner": "1.2.3"}"#,
                vec!["sn", "sn2"],
            ),
            (
                r#"{"source": "san.permanent_identifier", "assigner": "1.2.4"}"#,
                vec![],
            ),
            (
                r#"{"source": "san.uri", "template": "urn:dev:{serial}"}"#,
                vec!["uri"],
            ),
            (
                r#"{"source": "san.dns", "template": "{serial}.example"}"#,
                vec!["label"],
            ),
        ] {
            let found = read(json).unwrap().serials(&certificate).unwrap();
            let serials: Vec<_> = serials.iter().map(|serial| serial.as_bytes()).collect();
            assert_eq!(found, serials, "{json}");
        }
        let bare = Draft::device().subject_attributes(&[]).parsed();
        for json in [
            r#"{"source": "subject.serial_number"}"#,
            r#"{"source": "subject.common_name"}"#,
            r#"{"source": "san.permanent_identifier"}"#,
        ] {
            assert!(read(json).unwrap().serials(&bare).unwrap().is_empty());
        }
    }
}
