//! Where in a certificate does the serial stand? The sources as `provision` writes them; the
//! guard's configuration names the same ones.

use der::asn1::{Any, ObjectIdentifier, OctetString, Utf8StringRef};
use der::{Encode as _, Tag};
use rcgen::{CustomExtension, DistinguishedName, DnType, DnValue};
use serde::{Deserialize, Serialize};
use x509_cert::ext::pkix::SubjectAltName;
use x509_cert::ext::pkix::name::{GeneralName, OtherName};

use crate::args::Sources;
use crate::failure::Failure;

/// id-on-hardwareModuleName (RFC 4108, 5).
const HARDWARE_MODULE_NAME: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.5.5.7.8.4");
/// id-on-permanentIdentifier (RFC 4043, 2).
const PERMANENT_IDENTIFIER: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.5.5.7.8.3");
/// id-ce-subjectAltName (RFC 5280, 4.2.1.6).
const SUBJECT_ALT_NAME: &[u64] = &[2, 5, 29, 17];
/// id-at-serialNumber (RFC 5280, appendix A).
const SERIAL_NUMBER: &[u64] = &[2, 5, 4, 5];
const PLACEHOLDER: &str = "{serial}";

/// One place in a certificate that holds the serial, spelt as in the guard's configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "source", deny_unknown_fields)]
pub enum Source {
    /// 2.5.4.5 in the subject.
    #[serde(rename = "subject.serial_number")]
    SerialNumber,
    /// 2.5.4.3 in the subject.
    #[serde(rename = "subject.common_name")]
    CommonName,
    /// The hardware serial number of RFC 4108.
    #[serde(rename = "san.hardware_module_name")]
    HardwareModuleName {
        /// The object identifier of the kind of hardware.
        hw_type: String,
    },
    /// The permanent identifier of RFC 4043, without an assigner.
    #[serde(rename = "san.permanent_identifier")]
    PermanentIdentifier,
    /// A URI that holds the serial once.
    #[serde(rename = "san.uri")]
    Uri {
        /// With one `{serial}`.
        template: String,
    },
    /// A DNS name whose one label is the serial.
    #[serde(rename = "san.dns")]
    Dns {
        /// With one `{serial}`.
        template: String,
    },
}

/// Reads `--source` and `--hw-type`; empty where none was given.
pub fn parse(args: &Sources) -> Result<Vec<Source>, Failure> {
    let mut sources = Vec::new();
    for text in &args.sources {
        let source = parse_one(text, args.hw_type.as_deref())?;
        if sources.contains(&source) {
            return Err(Failure::usage(format_args!("--source {text} stands twice")));
        }
        sources.push(source);
    }
    let takes_hw_type = |source: &Source| matches!(source, Source::HardwareModuleName { .. });
    if args.hw_type.is_some() && !sources.iter().any(takes_hw_type) {
        return Err(Failure::usage("--hw-type is given, but nothing takes it")
            .next("add --source san.hardware_module_name"));
    }
    Ok(sources)
}

fn parse_one(text: &str, hw_type: Option<&str>) -> Result<Source, Failure> {
    let (name, template) = match text.split_once('=') {
        Some((name, template)) => (name, Some(template)),
        None => (text, None),
    };
    let with_template = |example: &str| {
        let template = template.filter(|template| template.matches(PLACEHOLDER).count() == 1);
        template.map(str::to_owned).ok_or_else(|| {
            Failure::usage(format_args!(
                "--source {text}: a template with one {{serial}} is needed"
            ))
            .next(format_args!("write --source '{name}={example}'"))
        })
    };
    let source = match name {
        "san.uri" => {
            return Ok(Source::Uri {
                template: with_template("urn:dev:ops:32473-{serial}")?,
            });
        }
        "san.dns" => {
            return Ok(Source::Dns {
                template: with_template("{serial}.devices.example")?,
            });
        }
        "subject.serial_number" => Source::SerialNumber,
        "subject.common_name" => Source::CommonName,
        "san.permanent_identifier" => Source::PermanentIdentifier,
        "san.hardware_module_name" => {
            let hw_type = hw_type.ok_or_else(|| {
                Failure::usage("--source san.hardware_module_name needs the kind of hardware")
                    .next("add --hw-type OID, such as --hw-type 1.3.6.1.4.1.32473.1")
            })?;
            object_identifier(hw_type)?;
            Source::HardwareModuleName {
                hw_type: hw_type.to_owned(),
            }
        }
        _ => {
            return Err(
                Failure::usage(format_args!("--source {text} is not known")).next(
                    "subject.serial_number, subject.common_name, san.hardware_module_name, \
                 san.permanent_identifier, san.uri=TEMPLATE or san.dns=TEMPLATE",
                ),
            );
        }
    };
    if template.is_some() {
        return Err(Failure::usage(format_args!(
            "--source {text}: {name} takes no template"
        )));
    }
    Ok(source)
}

fn object_identifier(text: &str) -> Result<ObjectIdentifier, Failure> {
    ObjectIdentifier::new(text).map_err(|error| {
        Failure::usage(format_args!(
            "--hw-type {text} is no object identifier: {error}"
        ))
        .next("write it with dots, such as 1.3.6.1.4.1.32473.1")
    })
}

/// Puts the serial where the sources say: into the subject, and into one subject alternative name
/// extension where a source asks for that.
pub fn place(
    sources: &[Source],
    serial: &str,
    subject: &mut DistinguishedName,
) -> Result<Option<CustomExtension>, Failure> {
    let mut names = Vec::new();
    let failed = |source: &Source| {
        let source = source.clone();
        move |error: der::Error| {
            Failure::usage(format_args!(
                "the serial {serial:?} does not fit into {source:?}: {error}"
            ))
        }
    };
    for source in sources {
        match source {
            Source::SerialNumber => {
                // RFC 5280, appendix A: serialNumber is a PrintableString.
                let text = serial.try_into().map_err(|_| {
                    Failure::usage(format_args!(
                        "the serial {serial:?} cannot be a subject.serial_number: letters, digits, \
                         blanks and '()+,-./:=? only"
                    ))
                    .next("choose another --source, such as san.permanent_identifier")
                })?;
                let kind = DnType::CustomDnType(SERIAL_NUMBER.to_vec());
                subject.push(kind, DnValue::PrintableString(text));
            }
            Source::CommonName => {
                subject.push(DnType::CommonName, DnValue::Utf8String(serial.to_owned()));
            }
            Source::HardwareModuleName { hw_type } => {
                let hw_type = object_identifier(hw_type)?;
                let name = hardware_module_name(hw_type, serial).map_err(failed(source))?;
                names.push(other_name(HARDWARE_MODULE_NAME, name));
            }
            Source::PermanentIdentifier => {
                let name = permanent_identifier(serial).map_err(failed(source))?;
                names.push(other_name(PERMANENT_IDENTIFIER, name));
            }
            Source::Uri { template } => {
                let uri = template.replace(PLACEHOLDER, serial).try_into();
                names.push(GeneralName::UniformResourceIdentifier(
                    uri.map_err(failed(source))?,
                ));
            }
            Source::Dns { template } => {
                let name = template.replace(PLACEHOLDER, serial).try_into();
                names.push(GeneralName::DnsName(name.map_err(failed(source))?));
            }
        }
    }
    if names.is_empty() {
        return Ok(None);
    }
    let der = SubjectAltName(names).to_der();
    let der =
        der.map_err(|error| Failure::usage(format_args!("the serial {serial:?}: {error}")))?;
    let mut extension = CustomExtension::from_oid_content(SUBJECT_ALT_NAME, der);
    // RFC 5280, 4.2.1.6: critical where the subject is empty.
    extension.set_criticality(subject.iter().next().is_none());
    Ok(Some(extension))
}

fn other_name(type_id: ObjectIdentifier, value: Any) -> GeneralName {
    GeneralName::OtherName(OtherName { type_id, value })
}

/// `HardwareModuleName ::= SEQUENCE { hwType OBJECT IDENTIFIER, hwSerialNum OCTET STRING }`
fn hardware_module_name(hw_type: ObjectIdentifier, serial: &str) -> Result<Any, der::Error> {
    let mut body = hw_type.to_der()?;
    body.extend(OctetString::new(serial.as_bytes())?.to_der()?);
    Any::new(Tag::Sequence, body)
}

/// `PermanentIdentifier ::= SEQUENCE { identifierValue UTF8String OPTIONAL, assigner OPTIONAL }`
fn permanent_identifier(serial: &str) -> Result<Any, der::Error> {
    Any::new(Tag::Sequence, Utf8StringRef::new(serial)?.to_der()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(sources: &[&str], hw_type: Option<&str>) -> Result<Vec<Source>, Failure> {
        parse(&Sources {
            sources: sources.iter().map(|&source| source.to_owned()).collect(),
            hw_type: hw_type.map(str::to_owned),
        })
    }

    #[test]
    fn a_source_is_written_in_ca_json_as_in_the_guards_configuration() {
        let sources = read(
            &[
                "subject.serial_number",
                "san.hardware_module_name",
                "san.uri=urn:x:{serial}",
            ],
            Some("1.3.6.1.4.1.32473.1"),
        );
        assert_eq!(
            serde_json::to_string(&sources.unwrap()).unwrap(),
            r#"[{"source":"subject.serial_number"},{"source":"san.hardware_module_name","hw_type":"1.3.6.1.4.1.32473.1"},{"source":"san.uri","template":"urn:x:{serial}"}]"#
        );
    }

    #[test]
    fn what_is_no_source_is_refused() {
        for (sources, hw_type) in [
            (["subject"].as_slice(), None),
            (&["san.uri"], None),
            (&["san.uri=urn:x"], None),
            (&["san.uri={serial}{serial}"], None),
            (&["san.hardware_module_name"], None),
            (&["san.hardware_module_name"], Some("hardware")),
            (&["subject.serial_number"], Some("1.2.3")),
            (&["subject.common_name=x"], None),
            (&["san.dns={serial}.a", "san.dns={serial}.a"], None),
        ] {
            assert!(read(sources, hw_type).is_err(), "{sources:?}");
        }
    }
}
