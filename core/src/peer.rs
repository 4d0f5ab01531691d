//! May this certificate stand for a device, and for which? What does not change with time.

use crate::binding::Pin;
use crate::certificate::{CertificateDigest, CertificateError, PeerCertificate};
use crate::deny::{DenyReason, NotAllowed};
use crate::identity::DeviceId;
use crate::issuer::{Issuer, IssuerSet};
use crate::signature::{KeyPolicy, VerifySignature};
use crate::time::Timestamp;
use crate::trace::{Outcome, Trace, TraceStep, Traced, Untraced};

/// A peer whose certificate has passed every check that does not change with time: the issuer and
/// its signature, end entity, extended key usage, key usage, critical extensions, key policy,
/// identity. It is made by [`authenticate`] alone, and small enough to remember.
///
/// What changes with time stays to be asked each time: [`check_validity`](Self::check_validity),
/// and whether the binding's pins [allow](crate::binding::Pins::allow) its [`pin`](Self::pin).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifiedPeer {
    device: DeviceId,
    digest: CertificateDigest,
    pin: Pin,
    not_before: Timestamp,
    not_after: Timestamp,
}

impl VerifiedPeer {
    /// A peer without a certificate, for the tests of what comes after.
    #[cfg(test)]
    pub(crate) fn for_test(
        device: &str,
        pin: Pin,
        not_before: Timestamp,
        not_after: Timestamp,
    ) -> Self {
        Self {
            device: device.parse().unwrap(),
            digest: CertificateDigest::of(device.as_bytes()),
            pin,
            not_before,
            not_after,
        }
    }

    /// Which device it is.
    pub fn device(&self) -> &DeviceId {
        &self.device
    }

    /// SHA-256 of its certificate.
    pub fn digest(&self) -> CertificateDigest {
        self.digest
    }

    /// SHA-256 of its public key info.
    pub fn pin(&self) -> Pin {
        self.pin
    }

    /// The first moment at which its certificate is valid.
    pub fn not_before(&self) -> Timestamp {
        self.not_before
    }

    /// The last moment at which it is valid; [`Timestamp::MAX`] where it never ends.
    pub fn not_after(&self) -> Timestamp {
        self.not_after
    }

    /// Whether its certificate is valid now: both ends are within (RFC 5280, 4.1.2.5). The end is
    /// a whole second, all of which is within.
    pub fn check_validity(&self, now: Timestamp) -> Result<(), DenyReason> {
        if now < self.not_before {
            return Err(DenyReason::CertificateNotYetValid {
                not_before: self.not_before,
            });
        }
        if now.unix_seconds() > self.not_after.unix_seconds() {
            return Err(DenyReason::CertificateExpired {
                not_after: self.not_after,
            });
        }
        Ok(())
    }
}

/// Finds the issuer that signed the certificate and the device that it stands for.
///
/// In this order: issuer and signature, end entity, extended key usage, key usage, critical
/// extensions, key policy, identity. The first check that fails is the reason.
pub fn authenticate(
    issuers: &IssuerSet,
    key_policy: &KeyPolicy,
    certificate: &PeerCertificate,
    verifier: &dyn VerifySignature,
) -> Result<VerifiedPeer, DenyReason> {
    run(issuers, key_policy, certificate, verifier, &mut Untraced)
}

/// [`authenticate`], and hands each step with what it read to `listener`: the same code, so that
/// an explanation is what happened.
pub fn authenticate_traced(
    issuers: &IssuerSet,
    key_policy: &KeyPolicy,
    certificate: &PeerCertificate,
    verifier: &dyn VerifySignature,
    listener: &mut dyn FnMut(TraceStep),
) -> Result<VerifiedPeer, DenyReason> {
    run(
        issuers,
        key_policy,
        certificate,
        verifier,
        &mut Traced(listener),
    )
}

fn run<T: Trace>(
    issuers: &IssuerSet,
    key_policy: &KeyPolicy,
    certificate: &PeerCertificate,
    verifier: &dyn VerifySignature,
    trace: &mut T,
) -> Result<VerifiedPeer, DenyReason> {
    let signer = issuers.issuer_of(certificate, verifier);
    trace.step("issuer", passed(signer.is_ok()), || {
        let algorithm = certificate
            .signature_algorithm()
            .map_or("an algorithm that is not accepted", |algorithm| {
                algorithm.as_str()
            });
        match &signer {
            Ok(signer) => format!("{signer}, {algorithm}"),
            Err(reason) => format!("{}, {algorithm}: {reason}", certificate.issuer_text()),
        }
    });
    let issuer = signer?.issuer;
    check(
        trace,
        "end_entity",
        NotAllowed::Ca,
        passed(!certificate.is_ca()),
        || format!("basicConstraints CA: {}", certificate.is_ca()),
    )?;
    check_extended_key_usage(issuer, certificate, trace)?;
    check_key_usage(certificate, trace)?;
    let not_understood = certificate.critical_not_understood();
    check(
        trace,
        "critical_extensions",
        NotAllowed::CriticalExtension,
        passed(not_understood.is_empty()),
        || format!("not understood: {}", list(not_understood)),
    )?;
    check(
        trace,
        "key",
        NotAllowed::Key,
        passed(key_policy.allows(certificate.key_type())),
        || {
            format!(
                "{}, SHA-256 of its public key info {}",
                certificate.key_type(),
                certificate.pin()
            )
        },
    )?;
    let device = identify(issuer, certificate, trace)?;
    Ok(VerifiedPeer {
        device,
        digest: certificate.digest(),
        pin: certificate.pin(),
        not_before: certificate.not_before(),
        not_after: certificate.not_after(),
    })
}

const fn passed(is_so: bool) -> Outcome {
    if is_so {
        Outcome::Passed
    } else {
        Outcome::Refused
    }
}

fn check<T: Trace>(
    trace: &mut T,
    step: &'static str,
    reason: NotAllowed,
    outcome: Outcome,
    read: impl FnOnce() -> String,
) -> Result<(), DenyReason> {
    trace.step(step, outcome, read);
    match outcome {
        Outcome::Passed | Outcome::Absent => Ok(()),
        Outcome::Refused => Err(DenyReason::CertificateNotAllowed(reason)),
    }
}

/// Absent is accepted (an IDevID often has none) unless the issuer's devices must have it;
/// `anyExtendedKeyUsage` alone is not enough (RFC 5280, 4.2.1.12).
fn check_extended_key_usage<T: Trace>(
    issuer: &Issuer,
    certificate: &PeerCertificate,
    trace: &mut T,
) -> Result<(), DenyReason> {
    let outcome = match certificate.purposes() {
        None if issuer.require_client_auth() => Outcome::Refused,
        None => Outcome::Absent,
        Some(_) => passed(certificate.has_client_auth()),
    };
    check(
        trace,
        "extended_key_usage",
        NotAllowed::ExtendedKeyUsage,
        outcome,
        || match certificate.purposes() {
            None => "extKeyUsage: absent".to_owned(),
            Some(purposes) => format!(
                "extKeyUsage: {}; clientAuth: {}",
                list(purposes),
                certificate.has_client_auth()
            ),
        },
    )
}

fn check_key_usage<T: Trace>(
    certificate: &PeerCertificate,
    trace: &mut T,
) -> Result<(), DenyReason> {
    let signs = certificate
        .key_usage()
        .map(|usage| usage.digital_signature());
    check(
        trace,
        "key_usage",
        NotAllowed::KeyUsage,
        signs.map_or(Outcome::Absent, passed),
        || match signs {
            None => "keyUsage: absent".to_owned(),
            Some(signs) => format!("keyUsage digitalSignature: {signs}"),
        },
    )
}

fn list<I: core::fmt::Display>(items: &[I]) -> String {
    if items.is_empty() {
        return "none".to_owned();
    }
    let items: Vec<_> = items.iter().map(ToString::to_string).collect();
    items.join(", ")
}

/// Zero serials and two serials are both "no". All sources are looked at before the verdict, so
/// that their order does not matter.
fn identify<T: Trace>(
    issuer: &Issuer,
    certificate: &PeerCertificate,
    trace: &mut T,
) -> Result<DeviceId, DenyReason> {
    let mut serial: Option<&[u8]> = None;
    let mut unreadable: Option<CertificateError> = None;
    let mut ambiguous = false;
    for source in issuer.sources() {
        let found = source.serials(certificate);
        trace.step(source.name(), outcome_of(&found), || match &found {
            Ok(serials) if serials.is_empty() => "absent".to_owned(),
            Ok(serials) => {
                let serials: Vec<_> = serials
                    .iter()
                    .map(|serial| serial.escape_ascii().to_string())
                    .collect();
                serials.join(", ")
            }
            Err(cause) => cause.to_string(),
        });
        match found {
            Err(cause) => unreadable = Some(cause),
            Ok(serials) => {
                for found in serials {
                    ambiguous |= serial.is_some_and(|serial| serial != found);
                    serial = Some(found);
                }
            }
        }
    }
    let device = match (unreadable, serial) {
        // Fail closed: a source that is present and cannot be read is not absent.
        (Some(cause), _) => Err(DenyReason::MalformedCertificate(cause)),
        (None, _) if ambiguous => Err(DenyReason::AmbiguousDeviceIdentity),
        (None, None) => Err(DenyReason::NoDeviceIdentity),
        // An empty serial, or one of more than 64 octets, names no device.
        (None, Some(serial)) => {
            DeviceId::new(issuer.namespace(), serial).map_err(|_| DenyReason::NoDeviceIdentity)
        }
    };
    trace.step("identity", passed(device.is_ok()), || match &device {
        Ok(device) => device.to_string(),
        Err(reason) => reason.to_string(),
    });
    device
}

fn outcome_of(found: &Result<Vec<&[u8]>, CertificateError>) -> Outcome {
    match found {
        Ok(serials) if serials.is_empty() => Outcome::Absent,
        Ok(_) => Outcome::Passed,
        Err(_) => Outcome::Refused,
    }
}

#[cfg(all(test, feature = "verify"))]
mod tests {
    use super::*;
    use crate::deny::IssuerMismatch;
    use crate::signature::{KeyTypeName, RustVerifier};
    use crate::source::IdentitySource;
    use crate::testing::*;

    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    const SERIAL: &str = r#"{"source": "subject.serial_number"}"#;
    const NAME: &str = r#"{"source": "subject.common_name"}"#;
    const HARDWARE: &str =
        r#"{"source": "san.hardware_module_name", "hw_type": "1.3.6.1.4.1.32473.1"}"#;
    const PERMANENT: &str = r#"{"source": "san.permanent_identifier"}"#;
    const URI: &str = r#"{"source": "san.uri", "template": "urn:dev:{serial}"}"#;
    const DNS: &str = r#"{"source": "san.dns", "template": "{serial}.devices.example"}"#;

    fn sources(json: &[&str]) -> Vec<IdentitySource> {
        json.iter()
            .map(|json| serde_json::from_str(json).unwrap())
            .collect()
    }

    fn verdict(json: &[&str], draft: &Draft) -> Result<String, DenyReason> {
        authenticate(
            &issuers(sources(json)),
            &KeyPolicy::default(),
            &draft.parsed(),
            &RustVerifier,
        )
        .map(|peer| peer.device().to_string())
    }

    fn with_serial(tag: u8, serial: &[u8]) -> Draft {
        Draft::device().subject_attributes(&[attribute(id::SERIAL_NUMBER, tag, serial)])
    }

    fn with_names(names: &[Vec<u8>]) -> Draft {
        Draft::device()
            .subject_attributes(&[])
            .with(alternative_names(names))
    }

    #[test]
    fn a_good_device_is_known_by_what_does_not_change() {
        let certificate = Draft::device().parsed();
        let peer = authenticate(
            &issuers(sources(&[SERIAL])),
            &KeyPolicy::default(),
            &certificate,
            &RustVerifier,
        )
        .unwrap();
        assert_eq!(peer.device().as_str(), "acme:SN1");
        assert_eq!(peer.digest(), certificate.digest());
        assert_eq!(peer.pin(), certificate.pin());
        assert_eq!(peer.not_before(), certificate.not_before());
        assert_eq!(peer.not_after(), certificate.not_after());
        assert_eq!(peer, verified_peer_of_type(PRINTABLE));
    }

    fn verified_peer_of_type(tag: u8) -> VerifiedPeer {
        authenticate(
            &issuers(sources(&[SERIAL])),
            &KeyPolicy::default(),
            &with_serial(tag, b"SN1").parsed(),
            &RustVerifier,
        )
        .unwrap()
    }

    #[test]
    fn a_renewed_certificate_is_the_same_device() {
        let mut renewed = with_serial(UTF8, b"SN1");
        renewed.spki = spki(&key(7));
        renewed.serial_number = tlv(INTEGER, &[2]);
        assert_eq!(verdict(&[SERIAL], &renewed), Ok("acme:SN1".into()));
        assert_ne!(renewed.parsed().pin(), Draft::device().parsed().pin());
    }

    #[test]
    fn what_the_certificate_may_be_used_for_decides() {
        let not_allowed = |reason| Err(DenyReason::CertificateNotAllowed(reason));
        let fine = || Ok("acme:SN1".to_owned());
        let extensions = |extensions: &[Vec<u8>]| {
            let mut draft = Draft::device();
            draft.extensions = extensions.to_vec();
            draft
        };
        let mut weak = Draft::device();
        weak.spki = crate::certificate::PeerCertificate::parse(include_bytes!(
            "../testdata/rsa1024-sha256.pem"
        ))
        .unwrap()
        .spki_der()
        .to_vec();
        for (draft, expected) in [
            (extensions(&[]), fine()),
            (extensions(&[basic_constraints(false)]), fine()),
            (
                extensions(&[basic_constraints(true)]),
                not_allowed(NotAllowed::Ca),
            ),
            (extensions(&[purposes(&[CLIENT, SERVER])]), fine()),
            (extensions(&[purposes(&[ANY, CLIENT])]), fine()),
            (
                extensions(&[purposes(&[SERVER])]),
                not_allowed(NotAllowed::ExtendedKeyUsage),
            ),
            (
                extensions(&[purposes(&[ANY])]),
                not_allowed(NotAllowed::ExtendedKeyUsage),
            ),
            (extensions(&[key_usage(0x80)]), fine()),
            (extensions(&[key_usage(0xA0)]), fine()),
            (
                extensions(&[key_usage(0x20)]),
                not_allowed(NotAllowed::KeyUsage),
            ),
            (extensions(&[extension("1.2.3", false, b"x")]), fine()),
            (
                extensions(&[extension("1.2.3", true, b"x")]),
                not_allowed(NotAllowed::CriticalExtension),
            ),
            (
                extensions(&[extension(id::NAME_CONSTRAINTS, true, &sequence(&[]))]),
                not_allowed(NotAllowed::CriticalExtension),
            ),
            (weak, not_allowed(NotAllowed::Key)),
        ] {
            assert_eq!(verdict(&[SERIAL], &draft), expected, "{draft:x?}");
        }
    }

    const CLIENT: &str = id::CLIENT_AUTH;
    const SERVER: &str = id::SERVER_AUTH;
    const ANY: &str = id::ANY_PURPOSE;

    #[test]
    fn an_issuer_may_insist_on_client_auth() {
        let issuers = IssuerSet::new(vec![
            Issuer::new("acme", &[ca()], sources(&[SERIAL]), true).unwrap(),
        ])
        .unwrap();
        let mut draft = Draft::device();
        let verdict = |draft: &Draft| {
            authenticate(
                &issuers,
                &KeyPolicy::default(),
                &draft.parsed(),
                &RustVerifier,
            )
            .map(|peer| peer.device().to_string())
        };
        assert_eq!(verdict(&draft), Ok("acme:SN1".into()));
        draft.extensions.clear();
        let refused = DenyReason::CertificateNotAllowed(NotAllowed::ExtendedKeyUsage);
        assert_eq!(verdict(&draft), Err(refused));
    }

    #[test]
    fn the_key_policy_decides_for_devices_and_not_for_their_issuers() {
        let policy = KeyPolicy::new(&[KeyTypeName::P384], 2048).unwrap();
        let issuers = issuers(sources(&[SERIAL]));
        let run = |draft: &Draft| {
            authenticate(&issuers, &policy, &draft.parsed(), &RustVerifier).map(|_| ())
        };
        let mut draft = Draft::device();
        let refused = DenyReason::CertificateNotAllowed(NotAllowed::Key);
        assert_eq!(run(&draft), Err(refused));
        draft.spki = PeerCertificate::parse(include_bytes!("../testdata/p384-sha384.pem"))
            .unwrap()
            .spki_der()
            .to_vec();
        assert_eq!(run(&draft), Ok(()));
    }

    #[test]
    fn the_first_check_that_fails_is_the_reason() {
        // Everything is wrong; mended one by one in the order of the checks.
        let mut draft = with_serial(UTF8, b"");
        draft.issuer = name("Stranger");
        draft.spki = include_spki();
        draft.extensions = vec![
            basic_constraints(true),
            purposes(&[SERVER]),
            key_usage(0x20),
            extension("1.2.3", true, b""),
        ];
        let refusal = |draft: &Draft| verdict(&[SERIAL], draft).unwrap_err();
        let not_allowed = DenyReason::CertificateNotAllowed;
        assert_eq!(
            refusal(&draft),
            DenyReason::UnknownIssuer(IssuerMismatch::Name)
        );
        draft.issuer = name("Acme Device CA");
        assert_eq!(refusal(&draft), not_allowed(NotAllowed::Ca));
        draft.extensions[0] = basic_constraints(false);
        assert_eq!(refusal(&draft), not_allowed(NotAllowed::ExtendedKeyUsage));
        draft.extensions[1] = purposes(&[CLIENT]);
        assert_eq!(refusal(&draft), not_allowed(NotAllowed::KeyUsage));
        draft.extensions[2] = key_usage(0x80);
        assert_eq!(refusal(&draft), not_allowed(NotAllowed::CriticalExtension));
        draft.extensions.pop();
        assert_eq!(refusal(&draft), not_allowed(NotAllowed::Key));
        draft.spki = spki(&key(2));
        assert_eq!(refusal(&draft), DenyReason::NoDeviceIdentity);
        draft.subject = sequence(&[attribute(id::SERIAL_NUMBER, UTF8, b"SN1")]);
        assert_eq!(verdict(&[SERIAL], &draft), Ok("acme:SN1".into()));
    }

    fn include_spki() -> Vec<u8> {
        PeerCertificate::parse(include_bytes!("../testdata/p521-sha256.pem"))
            .unwrap()
            .spki_der()
            .to_vec()
    }

    #[test]
    #[expect(clippy::too_many_lines, reason = "one table")]
    fn zero_identities_and_two_identities_are_both_no() {
        let none = || Err(DenyReason::NoDeviceIdentity);
        let two = || Err(DenyReason::AmbiguousDeviceIdentity);
        let device = |serial: &str| Ok(format!("acme:{serial}"));
        let subject = |attributes: &[(&str, &[u8])]| {
            let attributes: Vec<_> = attributes
                .iter()
                .map(|(id, value)| attribute(id, UTF8, value))
                .collect();
            Draft::device().subject_attributes(&attributes)
        };
        let serial = |value: &'static [u8]| (id::SERIAL_NUMBER, value);
        let common = |value: &'static [u8]| (id::COMMON_NAME, value);
        let both = |subject: &[u8], names: &[Vec<u8>]| {
            with_serial(UTF8, subject).with(alternative_names(names))
        };
        let hardware = |serial: &[u8]| hardware_module(id::HW_TYPE, serial);
        let cases: &[(&[&str], Draft, Result<String, DenyReason>)] = &[
            (&[SERIAL], subject(&[]), none()),
            (&[SERIAL], subject(&[common(b"SN1")]), none()),
            (&[SERIAL], subject(&[serial(b"")]), none()),
            (
                &[SERIAL],
                subject(&[serial(&[b'x'; 64])]),
                device(&"x".repeat(64)),
            ),
            (&[SERIAL], subject(&[serial(&[b'x'; 65])]), none()),
            (
                &[SERIAL],
                subject(&[serial(b"SN1"), serial(b"SN1")]),
                device("SN1"),
            ),
            (&[SERIAL], subject(&[serial(b"SN1"), serial(b"SN2")]), two()),
            (&[SERIAL], subject(&[serial(b"SN1"), serial(b"sn1")]), two()),
            (
                &[SERIAL],
                subject(&[serial(b"SN1"), serial(b"SN1 ")]),
                two(),
            ),
            (&[SERIAL], subject(&[serial(b"SN1"), serial(b"")]), two()),
            (
                &[SERIAL],
                subject(&[serial(b"SN1"), serial(b"SN2"), serial(b"SN1")]),
                two(),
            ),
            (
                &[SERIAL, NAME],
                subject(&[serial(b"SN1"), common(b"SN1")]),
                device("SN1"),
            ),
            (
                &[SERIAL, NAME],
                subject(&[serial(b"SN1"), common(b"pump")]),
                two(),
            ),
            (&[SERIAL, NAME], subject(&[common(b"SN1")]), device("SN1")),
            (
                &[NAME],
                subject(&[serial(b"SN2"), common(b"SN1")]),
                device("SN1"),
            ),
            (&[HARDWARE], with_names(&[hardware(b"SN1")]), device("SN1")),
            (
                &[HARDWARE],
                with_names(&[hardware(b"SN1"), hardware(b"SN2")]),
                two(),
            ),
            (
                &[HARDWARE],
                with_names(&[hardware(b"SN1"), hardware(b"SN1")]),
                device("SN1"),
            ),
            (
                &[HARDWARE],
                with_names(&[hardware_module("1.2.3", b"SN1")]),
                none(),
            ),
            (
                &[HARDWARE],
                with_names(&[hardware_module("1.2.3", b"SN2"), hardware(b"SN1")]),
                device("SN1"),
            ),
            (&[HARDWARE], with_names(&[hardware(b"")]), none()),
            (
                &[HARDWARE, SERIAL],
                both(b"SN1", &[hardware(b"SN1")]),
                device("SN1"),
            ),
            (
                &[HARDWARE, SERIAL],
                both(b"SN2", &[hardware(b"SN1")]),
                two(),
            ),
            (
                &[HARDWARE, SERIAL],
                both(b"SN1", &[dns("x")]),
                device("SN1"),
            ),
            (
                &[PERMANENT],
                with_names(&[permanent_identifier(Some("SN1"), None)]),
                device("SN1"),
            ),
            (
                &[PERMANENT],
                with_names(&[permanent_identifier(Some("SN1"), Some("1.2.3"))]),
                none(),
            ),
            (
                &[PERMANENT],
                both(b"SN1", &[permanent_identifier(None, None)]),
                device("SN1"),
            ),
            (
                &[PERMANENT],
                with_names(&[permanent_identifier(None, None)]),
                none(),
            ),
            (
                &[URI],
                with_names(&[uri("urn:dev:SN1"), uri("https://x/SN2")]),
                device("SN1"),
            ),
            (
                &[URI],
                with_names(&[uri("urn:dev:SN1"), uri("urn:dev:SN2")]),
                two(),
            ),
            (&[URI], with_names(&[uri("urn:dev:SN1/x")]), none()),
            (
                &[DNS],
                with_names(&[dns("SN1.devices.example"), dns("x.example")]),
                device("SN1"),
            ),
            (&[DNS], with_names(&[dns("*.devices.example")]), none()),
            (
                &[DNS],
                with_names(&[dns("a.devices.example"), dns("b.devices.example")]),
                two(),
            ),
            (
                &[URI, DNS],
                with_names(&[uri("urn:dev:a"), dns("a.devices.example")]),
                device("a"),
            ),
            (
                &[URI, DNS],
                with_names(&[uri("urn:dev:a"), dns("b.devices.example")]),
                two(),
            ),
        ];
        for (sources, draft, expected) in cases {
            assert_eq!(verdict(sources, draft), *expected, "{sources:?} {draft:x?}");
            let turned: Vec<_> = sources.iter().rev().copied().collect();
            assert_eq!(verdict(&turned, draft), *expected, "{turned:?} {draft:x?}");
        }
    }

    #[test]
    fn odd_serials_are_octets_like_others() {
        for (serial, device) in [
            (b"a/b".as_slice(), "acme:a=2Fb"),
            (b".", "acme:=2E"),
            (b"..", "acme:=2E=2E"),
            (b" SN 1 ", "acme:=20SN=201=20"),
            (b"a=b", "acme:a=3Db"),
            (b"a%2Fb", "acme:a=252Fb"),
            (b"a\0b", "acme:a=00b"),
            (b"a\r\nb", "acme:a=0D=0Ab"),
            (b"\xff\xfe", "acme:=FF=FE"),
        ] {
            let draft = with_names(&[hardware_module(id::HW_TYPE, serial)]);
            assert_eq!(verdict(&[HARDWARE], &draft), Ok(device.into()));
            if serial.is_ascii() {
                let draft = with_serial(UTF8, serial);
                assert_eq!(verdict(&[SERIAL], &draft), Ok(device.into()));
            }
        }
    }

    #[test]
    fn a_source_that_is_there_and_cannot_be_read_is_not_absent() {
        let unreadable = Err(DenyReason::MalformedCertificate(
            CertificateError::AttributeText,
        ));
        let draft = with_serial(BMP, b"\0S\0N\0\x31")
            .with(alternative_names(&[hardware_module(id::HW_TYPE, b"SN1")]));
        for sources in [
            &[SERIAL] as &[_],
            &[SERIAL, HARDWARE],
            &[HARDWARE, SERIAL],
            &[SERIAL, NAME],
        ] {
            assert_eq!(verdict(sources, &draft), unreadable, "{sources:?}");
        }
        // Where it is no source it does not matter.
        assert_eq!(verdict(&[HARDWARE], &draft), Ok("acme:SN1".into()));
        let draft = draft.subject_attributes(&[
            attribute(id::SERIAL_NUMBER, BMP, b"\0S"),
            attribute(id::SERIAL_NUMBER, UTF8, b"SN1"),
        ]);
        assert_eq!(verdict(&[SERIAL], &draft), unreadable);
    }

    #[test]
    fn validity_is_asked_each_time_and_both_ends_are_within() {
        let peer = verified_peer("SN1");
        let at = |seconds: u64, millis: i64| {
            let seconds = i64::try_from(seconds).unwrap();
            peer.check_validity(Timestamp::from_unix_millis(seconds * 1000 + millis))
        };
        let early = DenyReason::CertificateNotYetValid {
            not_before: peer.not_before(),
        };
        let late = DenyReason::CertificateExpired {
            not_after: peer.not_after(),
        };
        assert_eq!(at(NOT_BEFORE, -1), Err(early.clone()));
        assert_eq!(at(NOT_BEFORE, 0), Ok(()));
        assert_eq!(at(NOT_AFTER, 0), Ok(()));
        assert_eq!(at(NOT_AFTER, 999), Ok(()));
        assert_eq!(at(NOT_AFTER, 1000), Err(late.clone()));
        assert_eq!(at(0, 0), Err(early));
        assert_eq!(peer.check_validity(Timestamp::MAX), Err(late));

        let mut draft = Draft::device();
        draft.validity = sequence(&[utc_time(NOT_BEFORE), generalized_time("99991231235959Z")]);
        let peer = authenticate(
            &issuers(sources(&[SERIAL])),
            &KeyPolicy::default(),
            &draft.parsed(),
            &RustVerifier,
        )
        .unwrap();
        assert_eq!(peer.not_after(), Timestamp::MAX);
        assert_eq!(peer.check_validity(Timestamp::MAX), Ok(()));
    }

    /// The steps of one run, its verdict among them.
    fn steps(json: &[&str], draft: &Draft) -> Vec<TraceStep> {
        let mut steps = Vec::new();
        let issuers = issuers(sources(json));
        let certificate = draft.parsed();
        let policy = KeyPolicy::default();
        let traced = authenticate_traced(
            &issuers,
            &policy,
            &certificate,
            &RustVerifier,
            &mut |step| steps.push(step),
        );
        assert_eq!(
            traced,
            authenticate(&issuers, &policy, &certificate, &RustVerifier)
        );
        let refused = steps.last().unwrap().outcome == Outcome::Refused;
        assert_eq!(refused, traced.is_err());
        steps
    }

    #[test]
    fn a_trace_tells_each_step_with_what_it_read() {
        let seen = |steps: &[TraceStep]| -> Vec<(&str, &str)> {
            steps
                .iter()
                .map(|step| (step.step, step.outcome.as_str()))
                .collect()
        };
        let good = steps(&[HARDWARE, SERIAL], &Draft::device());
        assert_eq!(
            seen(&good),
            [
                ("issuer", "passed"),
                ("end_entity", "passed"),
                ("extended_key_usage", "passed"),
                ("key_usage", "passed"),
                ("critical_extensions", "passed"),
                ("key", "passed"),
                ("san.hardware_module_name", "absent"),
                ("subject.serial_number", "passed"),
                ("identity", "passed"),
            ]
        );
        let read: Vec<_> = good.iter().map(|step| step.read.as_str()).collect();
        assert_eq!(
            read[0],
            "namespace acme, signed by CN=Acme Device CA (P-256), ECDSA with SHA-256"
        );
        assert_eq!(read[2], "extKeyUsage: 1.3.6.1.5.5.7.3.2; clientAuth: true");
        assert!(read[5].starts_with("P-256, SHA-256 of its public key info "));
        assert_eq!(read[6..], ["absent", "SN1", "acme:SN1"]);

        let mut stranger = Draft::device();
        stranger.issuer = name("Stranger");
        let stranger = steps(&[SERIAL], &stranger);
        assert_eq!(seen(&stranger), [("issuer", "refused")]);
        assert!(
            stranger[0]
                .read
                .starts_with("CN=Stranger, ECDSA with SHA-256: ")
        );

        let two = steps(
            &[SERIAL],
            &Draft::device().subject_attributes(&[
                attribute(id::SERIAL_NUMBER, UTF8, b"SN1"),
                attribute(id::SERIAL_NUMBER, UTF8, b"S\n2"),
            ]),
        );
        let [.., source, identity] = &two[..] else {
            panic!("{two:?}")
        };
        assert_eq!(
            (source.read.as_str(), source.outcome),
            ("SN1, S\\n2", Outcome::Passed)
        );
        assert_eq!(identity.outcome, Outcome::Refused);

        let unreadable = steps(&[SERIAL], &with_serial(BMP, b"\0S"));
        assert_eq!(
            seen(&unreadable)[6..],
            [
                ("subject.serial_number", "refused"),
                ("identity", "refused")
            ]
        );
        let mut bare = Draft::device();
        bare.extensions.clear();
        assert_eq!(
            seen(&steps(&[SERIAL], &bare))[1..4],
            [
                ("end_entity", "passed"),
                ("extended_key_usage", "absent"),
                ("key_usage", "absent")
            ]
        );
        let json = serde_json::to_value(&good[8]).unwrap();
        assert_eq!(
            json,
            serde_json::json!({"step": "identity", "read": "acme:SN1", "outcome": "passed"})
        );
    }

    #[test]
    fn any_changed_octet_of_a_certificate_is_refused() {
        let issuers = issuers(sources(&[SERIAL]));
        let der = Draft::device().signed();
        let good = authenticate(
            &issuers,
            &KeyPolicy::default(),
            &PeerCertificate::parse_der(&der).unwrap(),
            &RustVerifier,
        )
        .unwrap();
        // Natively every bit of every octet; elsewhere, where it takes long, one bit of each.
        let flips: &[u8] = if cfg!(target_arch = "wasm32") {
            &[0x01]
        } else {
            &[0x01, 0x02, 0x04, 0x08, 0x10, 0x20, 0x40, 0x80]
        };
        for at in 0..der.len() {
            for flip in flips {
                let mut der = der.clone();
                der[at] ^= flip;
                let peer = PeerCertificate::parse_der(&der)
                    .map_err(DenyReason::from)
                    .and_then(|certificate| {
                        authenticate(&issuers, &KeyPolicy::default(), &certificate, &RustVerifier)
                    });
                assert!(
                    matches!(
                        peer,
                        Err(DenyReason::MalformedCertificate(_) | DenyReason::UnknownIssuer(_))
                    ),
                    "octet {at} of {good:?}"
                );
            }
        }
    }

    #[cfg(not(target_arch = "wasm32"))]
    proptest::proptest! {
        #[test]
        fn the_order_of_the_sources_does_not_matter(
            order in proptest::sample::subsequence(
                vec![SERIAL, NAME, HARDWARE, PERMANENT, URI, DNS],
                1..=6,
            ).prop_shuffle(),
            serials in proptest::collection::vec(
                proptest::sample::select(vec!["", "a", "b"]),
                6,
            ),
        ) {
            let [serial, name, hardware, permanent, in_uri, in_dns] = serials[..] else {
                panic!("six serials")
            };
            let mut names = vec![dns("other.example")];
            if !hardware.is_empty() {
                names.push(hardware_module(id::HW_TYPE, hardware.as_bytes()));
            }
            if !permanent.is_empty() {
                names.push(permanent_identifier(Some(permanent), None));
            }
            names.push(uri(&format!("urn:dev:{in_uri}")));
            names.push(dns(&format!("{in_dns}.devices.example")));
            let mut attributes = Vec::new();
            for (id, value) in [(id::SERIAL_NUMBER, serial), (id::COMMON_NAME, name)] {
                if !value.is_empty() {
                    attributes.push(attribute(id, UTF8, value.as_bytes()));
                }
            }
            let draft = Draft::device()
                .subject_attributes(&attributes)
                .with(alternative_names(&names));
            let mut sorted = order.clone();
            sorted.sort_unstable();
            let result = verdict(&order, &draft);
            proptest::prop_assert_eq!(&result, &verdict(&sorted, &draft));
            let found: std::collections::BTreeSet<_> = [
                (SERIAL, serial), (NAME, name), (HARDWARE, hardware),
                (PERMANENT, permanent), (URI, in_uri), (DNS, in_dns),
            ]
            .into_iter()
            .filter(|(source, serial)| order.contains(source) && !serial.is_empty())
            .map(|(_, serial)| serial)
            .collect();
            let expected = match found.len() {
                0 => Err(DenyReason::NoDeviceIdentity),
                1 => Ok(format!("acme:{}", found.first().unwrap())),
                _ => Err(DenyReason::AmbiguousDeviceIdentity),
            };
            proptest::prop_assert_eq!(result, expected);
        }
    }

    #[cfg(not(target_arch = "wasm32"))]
    use proptest::strategy::Strategy;
}
