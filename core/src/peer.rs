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
