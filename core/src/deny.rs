//! How do we say no? One stable code for each refusal, and the reason behind it.

use core::fmt;

use crate::certificate::CertificateError;
use crate::path::PathError;
use crate::time::Timestamp;

/// The deny codes: an interface. They are the same in the answer, the log, the metric, the tests
/// and `docs/deny-codes.md`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DenyCode {
    /// No certificate in the session.
    NoPeerCertificate,
    /// The certificate does not parse strictly.
    MalformedCertificate,
    /// No configured issuer signed it.
    UnknownIssuer,
    /// Past its `notAfter` now.
    CertificateExpired,
    /// Before its `notBefore` now.
    CertificateNotYetValid,
    /// A CA, no `clientAuth`, a weak key, an unknown critical extension, or a pin that does not fit.
    CertificateNotAllowed,
    /// None of the configured sources holds a serial.
    NoDeviceIdentity,
    /// Two sources differ, or one holds two values.
    AmbiguousDeviceIdentity,
    /// The registry has no such device.
    UnknownDevice,
    /// No account has claimed the device.
    DeviceUnclaimed,
    /// Held by an operator.
    BindingSuspended,
    /// Ended for good.
    BindingRevoked,
    /// Ended by itself.
    BindingExpired,
    /// A rule wants an account, and there is no verified token.
    NoAccount,
    /// A rule says no, or none says yes.
    NotPermitted,
    /// The bindings are not here (yet), or cannot be read.
    BindingsUnavailable,
    /// The registry has not been heard for longer than `max_stale`.
    BindingsStale,
    /// The registry was asked about this device and did not answer in time.
    LookupFailed,
    /// A bug.
    Internal,
}

impl DenyCode {
    /// Every code, in the order of `docs/deny-codes.md`.
    pub const ALL: [Self; 19] = [
        Self::NoPeerCertificate,
        Self::MalformedCertificate,
        Self::UnknownIssuer,
        Self::CertificateExpired,
        Self::CertificateNotYetValid,
        Self::CertificateNotAllowed,
        Self::NoDeviceIdentity,
        Self::AmbiguousDeviceIdentity,
        Self::UnknownDevice,
        Self::DeviceUnclaimed,
        Self::BindingSuspended,
        Self::BindingRevoked,
        Self::BindingExpired,
        Self::NoAccount,
        Self::NotPermitted,
        Self::BindingsUnavailable,
        Self::BindingsStale,
        Self::LookupFailed,
        Self::Internal,
    ];

    /// The code's one spelling.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NoPeerCertificate => "no_peer_certificate",
            Self::MalformedCertificate => "malformed_certificate",
            Self::UnknownIssuer => "unknown_issuer",
            Self::CertificateExpired => "certificate_expired",
            Self::CertificateNotYetValid => "certificate_not_yet_valid",
            Self::CertificateNotAllowed => "certificate_not_allowed",
            Self::NoDeviceIdentity => "no_device_identity",
            Self::AmbiguousDeviceIdentity => "ambiguous_device_identity",
            Self::UnknownDevice => "unknown_device",
            Self::DeviceUnclaimed => "device_unclaimed",
            Self::BindingSuspended => "binding_suspended",
            Self::BindingRevoked => "binding_revoked",
            Self::BindingExpired => "binding_expired",
            Self::NoAccount => "no_account",
            Self::NotPermitted => "not_permitted",
            Self::BindingsUnavailable => "bindings_unavailable",
            Self::BindingsStale => "bindings_stale",
            Self::LookupFailed => "lookup_failed",
            Self::Internal => "internal",
        }
    }

    /// The HTTP status (RFC 9110, 15.5 and 15.6).
    pub const fn http_status(self) -> u16 {
        match self {
            Self::NoPeerCertificate
            | Self::MalformedCertificate
            | Self::UnknownIssuer
            | Self::CertificateExpired
            | Self::CertificateNotYetValid
            | Self::NoAccount => 401,
            Self::CertificateNotAllowed
            | Self::NoDeviceIdentity
            | Self::AmbiguousDeviceIdentity
            | Self::UnknownDevice
            | Self::DeviceUnclaimed
            | Self::BindingSuspended
            | Self::BindingRevoked
            | Self::BindingExpired
            | Self::NotPermitted => 403,
            Self::BindingsUnavailable | Self::BindingsStale | Self::LookupFailed => 503,
            Self::Internal => 500,
        }
    }

    /// The gRPC status: 16 `UNAUTHENTICATED`, 7 `PERMISSION_DENIED`, 14 `UNAVAILABLE`, 13 `INTERNAL`.
    pub const fn grpc_status(self) -> u8 {
        match self.http_status() {
            401 => 16,
            403 => 7,
            503 => 14,
            _ => 13,
        }
    }

    /// One line for a person: the `title` of the problem document (RFC 9457, 3.1.3). It says no
    /// more than the code does.
    pub const fn title(self) -> &'static str {
        match self {
            Self::NoPeerCertificate => "A client certificate is required",
            Self::MalformedCertificate => "The client certificate cannot be read",
            Self::UnknownIssuer => "The client certificate comes from no issuer known here",
            Self::CertificateExpired => "The client certificate has expired",
            Self::CertificateNotYetValid => "The client certificate is not valid yet",
            Self::CertificateNotAllowed => "The client certificate may not be used here",
            Self::NoDeviceIdentity => "The client certificate names no device",
            Self::AmbiguousDeviceIdentity => "The client certificate names more than one device",
            Self::UnknownDevice => "The device is not known",
            Self::DeviceUnclaimed => "The device has not been claimed by an account",
            Self::BindingSuspended => "The device's binding is suspended",
            Self::BindingRevoked => "The device's binding has been revoked",
            Self::BindingExpired => "The device's binding has expired",
            Self::NoAccount => "A verified account is required",
            Self::NotPermitted => "Not permitted",
            Self::BindingsUnavailable => "Bindings are not available; try again",
            Self::BindingsStale => "Bindings are out of date; try again",
            Self::LookupFailed => "The binding could not be looked up; try again",
            Self::Internal => "Internal error",
        }
    }

    /// Whether trying again later can help without anybody doing anything: the answer then carries
    /// `Retry-After` (RFC 9110, 10.2.3).
    pub const fn is_transient(self) -> bool {
        self.http_status() == 503
    }
}

impl fmt::Display for DenyCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why a request was refused: what the operator reads. The client sees the [`code`](Self::code).
///
/// No reason holds a device identity, an account or a secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DenyReason {
    /// The session has no client certificate.
    #[error("the session has no client certificate")]
    NoPeerCertificate,
    /// The certificate does not parse.
    #[error("the certificate cannot be read: {0}")]
    MalformedCertificate(#[from] CertificateError),
    /// No configured issuer signed it.
    #[error("no configured issuer fits: {0}")]
    UnknownIssuer(IssuerMismatch),
    /// Past `notAfter`.
    #[error("the certificate expired at {not_after}")]
    CertificateExpired {
        /// The certificate's `notAfter`.
        not_after: Timestamp,
    },
    /// Before `notBefore`.
    #[error("the certificate is not valid before {not_before}")]
    CertificateNotYetValid {
        /// The certificate's `notBefore`.
        not_before: Timestamp,
    },
    /// The certificate is valid but may not be used here.
    #[error("the certificate may not be used here: {0}")]
    CertificateNotAllowed(NotAllowed),
    /// None of the issuer's sources is present.
    #[error("none of the issuer's identity sources is in the certificate")]
    NoDeviceIdentity,
    /// More than one serial.
    #[error("the certificate's identity sources do not agree on one serial")]
    AmbiguousDeviceIdentity,
    /// Not in a complete copy of the registry.
    #[error("the registry has no such device")]
    UnknownDevice,
    /// No account.
    #[error("no account has claimed the device")]
    DeviceUnclaimed,
    /// Suspended.
    #[error("the binding is suspended")]
    BindingSuspended,
    /// Revoked.
    #[error("the binding is revoked")]
    BindingRevoked,
    /// Past `expires_at`.
    #[error("the binding expired at {expired_at}")]
    BindingExpired {
        /// The binding's `expires_at`.
        expired_at: Timestamp,
    },
    /// No verified account.
    #[error("the rule wants an account, and no verified token names one")]
    NoAccount,
    /// A rule says no, or none says yes.
    #[error("{0}")]
    NotPermitted(NotPermitted),
    /// No copy of the bindings to look in.
    #[error("bindings are not available: {0}")]
    BindingsUnavailable(Unavailable),
    /// The copy is too old.
    #[error("the registry was last heard {age_seconds} s ago")]
    BindingsStale {
        /// Seconds since the feed last answered.
        age_seconds: u64,
    },
    /// An on-demand lookup did not come back with an answer.
    #[error("the registry did not answer the lookup: {0}")]
    LookupFailed(LookupFailure),
    /// A bug; the text names the place.
    #[error("internal error: {0}")]
    Internal(&'static str),
}

/// How a certificate fails to belong to any configured issuer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IssuerMismatch {
    /// No configured certificate has this name as its subject.
    #[error("its issuer's name is not configured")]
    Name,
    /// The name fits, the key identifiers do not.
    #[error("an issuer has that name but another key identifier")]
    KeyIdentifier,
    /// Name and key identifier fit, the signature does not verify.
    #[error("its signature does not verify under the issuer's key")]
    Signature,
    /// The signature's algorithm or the issuer's key is none that is accepted.
    #[error("its signature algorithm is not accepted")]
    Algorithm,
}

/// Why a valid certificate may not be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotAllowed {
    /// `basicConstraints` says CA (RFC 5280, 4.2.1.9).
    #[error("it is a CA certificate")]
    Ca,
    /// `extKeyUsage` without `clientAuth` (RFC 5280, 4.2.1.12).
    #[error("its extended key usage has no clientAuth")]
    ExtendedKeyUsage,
    /// `keyUsage` without `digitalSignature` (RFC 5280, 4.2.1.3).
    #[error("its key usage has no digitalSignature")]
    KeyUsage,
    /// A critical extension that is not understood (RFC 5280, 4.2).
    #[error("it has a critical extension that is not understood")]
    CriticalExtension,
    /// Key type or size against the policy.
    #[error("its public key is of a type or size that is not accepted")]
    Key,
    /// The binding pins other keys.
    #[error("its public key is not one that the binding pins")]
    Pin,
}

/// How the rules refuse.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotPermitted {
    /// The path may be read in more than one way.
    #[error("the path can be read in more than one way: {0}")]
    Path(PathError),
    /// No rule covers path and method.
    #[error("no rule covers this path and method")]
    NoRule,
    /// The path names a device that is not the caller.
    #[error("the path names another device")]
    OtherDevice,
    /// The path names an account that is not the caller's.
    #[error("the path names another account")]
    OtherAccount,
    /// The path names another class of device.
    #[error("the path names another class")]
    OtherClass,
    /// The path names a device that is not bound to the calling account.
    #[error("the device is not bound to this account")]
    NotBound,
    /// A request that was permitted is still open, and would now carry another tag.
    #[error("the binding is no longer the one that was permitted")]
    Changed,
}

/// Why there is no copy of the bindings to look in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unavailable {
    /// No synchroniser has ever written to the cache.
    #[error("no synchroniser has written to the cache")]
    NoSynchroniser,
    /// The first snapshot is still loading.
    #[error("the first snapshot is still loading")]
    Loading,
    /// The cache is full, so absence proves nothing.
    #[error("the cache is at its capacity and the device may be among those left out")]
    OverCapacity,
    /// The record is of a state or form that this version does not know.
    #[error("the device's record is of a state or kind that this version does not know")]
    UnknownRecord,
    /// The cache's bytes are not of the layout they claim.
    #[error("the cache cannot be read")]
    Corrupt,
    /// The registry's clock and this one are too far apart, or this one stepped back.
    #[error("the clock and the registry's are too far apart")]
    Clock,
    /// Too many requests wait for lookups already.
    #[error("too many requests wait for a lookup")]
    Busy,
}

/// How an on-demand lookup failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LookupFailure {
    /// No answer before the deadline.
    #[error("no answer in time")]
    Timeout,
    /// The call could not be made, or ended without an answer.
    #[error("no connection")]
    Connection,
    /// An answer that is none.
    #[error("the answer could not be read")]
    Answer,
}

impl DenyReason {
    /// The one code that the client, the log and the metric carry.
    pub const fn code(&self) -> DenyCode {
        match self {
            Self::NoPeerCertificate => DenyCode::NoPeerCertificate,
            Self::MalformedCertificate(_) => DenyCode::MalformedCertificate,
            Self::UnknownIssuer(_) => DenyCode::UnknownIssuer,
            Self::CertificateExpired { .. } => DenyCode::CertificateExpired,
            Self::CertificateNotYetValid { .. } => DenyCode::CertificateNotYetValid,
            Self::CertificateNotAllowed(_) => DenyCode::CertificateNotAllowed,
            Self::NoDeviceIdentity => DenyCode::NoDeviceIdentity,
            Self::AmbiguousDeviceIdentity => DenyCode::AmbiguousDeviceIdentity,
            Self::UnknownDevice => DenyCode::UnknownDevice,
            Self::DeviceUnclaimed => DenyCode::DeviceUnclaimed,
            Self::BindingSuspended => DenyCode::BindingSuspended,
            Self::BindingRevoked => DenyCode::BindingRevoked,
            Self::BindingExpired { .. } => DenyCode::BindingExpired,
            Self::NoAccount => DenyCode::NoAccount,
            Self::NotPermitted(_) => DenyCode::NotPermitted,
            Self::BindingsUnavailable(_) => DenyCode::BindingsUnavailable,
            Self::BindingsStale { .. } => DenyCode::BindingsStale,
            Self::LookupFailed(_) => DenyCode::LookupFailed,
            Self::Internal(_) => DenyCode::Internal,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[test]
    fn every_code_has_one_spelling_and_a_status_that_gives_its_grpc_face() {
        let mut words: Vec<_> = DenyCode::ALL.iter().map(|code| code.as_str()).collect();
        words.sort_unstable();
        words.dedup();
        assert_eq!(words.len(), DenyCode::ALL.len());
        for code in DenyCode::ALL {
            let grpc = match code.http_status() {
                401 => 16,
                403 => 7,
                503 => 14,
                500 => 13,
                other => panic!("{code}: {other}"),
            };
            assert_eq!(code.grpc_status(), grpc, "{code}");
        }
    }

    /// One section for each code, in order, with its statuses and what to do.
    #[test]
    fn every_code_stands_in_the_reference_with_its_statuses() {
        let reference = include_str!("../../docs/deny-codes.md");
        let mut sections = reference.split("\n## ").skip(1);
        for code in DenyCode::ALL {
            let section = sections.next().expect("a section for each code");
            let mut lines = section.lines().filter(|line| !line.is_empty());
            assert_eq!(lines.next(), Some(code.as_str()));
            let retry = if code.is_transient() {
                ", with `Retry-After`"
            } else {
                ""
            };
            let statuses = format!(
                "HTTP {}, gRPC {}{retry}.",
                code.http_status(),
                code.grpc_status()
            );
            assert_eq!(lines.next(), Some(statuses.as_str()), "{code}");
            for part in ["**Means**: ", "**Operator**: ", "**Device**: "] {
                assert!(section.contains(part), "{code}: {part}");
            }
        }
        assert_eq!(sections.next(), None);
        let shown = crate::problem::problem_document(DenyCode::DeviceUnclaimed, Some("7d1c"));
        assert!(reference.contains(&shown), "{shown}");
    }
}
