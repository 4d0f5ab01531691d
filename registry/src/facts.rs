//! What does a certificate file say about itself?

use core::time::Duration;
use std::net::IpAddr;

use medbind_core::time::Timestamp;
use x509_cert::ext::pkix::SubjectAltName;
use x509_cert::ext::pkix::name::GeneralName;

use crate::pki::{PkiError, moment, parse_certificate};

/// What a certificate file says about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateFacts {
    /// The beginning of its validity.
    pub not_before: Timestamp,
    /// The end of its validity.
    pub not_after: Timestamp,
    /// The DNS names and IP addresses among its subject alternative names.
    pub server_names: Vec<String>,
}

impl CertificateFacts {
    /// Whether it ends within `within` of `now`, or in the last third of its life.
    pub fn is_near_end(&self, now: Timestamp, within: Duration) -> bool {
        let third = self.not_after.since(self.not_before) / 3;
        now.after(within.min(third)) > self.not_after
    }

    /// Reads the one certificate of a PEM text.
    pub fn from_pem(pem: &str) -> Result<Self, PkiError> {
        let certificate = parse_certificate(pem)?;
        let body = certificate.tbs_certificate();
        let names = body
            .get_extension::<SubjectAltName>()
            .map_err(|error| PkiError::Parse {
                what: "the subject alternative name",
                why: error.to_string(),
            })?
            .map(|(_critical, names)| names.0)
            .unwrap_or_default();
        Ok(Self {
            not_before: moment(&body.validity().not_before),
            not_after: moment(&body.validity().not_after),
            server_names: names.iter().filter_map(name_text).collect(),
        })
    }
}

fn name_text(name: &GeneralName) -> Option<String> {
    match name {
        GeneralName::DnsName(name) => Some(name.as_str().to_owned()),
        GeneralName::IpAddress(octets) => match *octets.as_bytes() {
            [a, b, c, d] => Some(IpAddr::from([a, b, c, d]).to_string()),
            ref octets => {
                let octets: [u8; 16] = octets.try_into().ok()?;
                Some(IpAddr::from(octets).to_string())
            }
        },
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pki::NEAR_EXPIRY;

    #[test]
    fn the_last_third_of_a_short_life_is_near_its_end_and_30_days_of_a_long_one() {
        let now: Timestamp = "2026-11-24T16:20:00Z".parse().unwrap();
        let days = |days: u64| Duration::from_hours(24 * days);
        for (life, near) in [(825, 30), (90, 30), (9, 3)] {
            let facts = CertificateFacts {
                not_before: now,
                not_after: now.after(days(life)),
                server_names: Vec::new(),
            };
            let is_near = |left| facts.is_near_end(now.after(days(life - left)), NEAR_EXPIRY);
            assert!(!is_near(near) && is_near(near - 1), "{life}");
        }
    }
}
