//! How is a value read that no type of ours reads?

use std::net::SocketAddr;
use std::time::Duration;

/// Where to listen: an IP address and a port.
pub fn socket(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| {
        "expected the IP address of this machine and a port, such as 127.0.0.1:8443 or 0.0.0.0:8443"
            .to_owned()
    })
}

/// A pseudonym as a guard's log line shows it, in lower case.
pub fn pseudonym(text: &str) -> Result<String, String> {
    let digits = text.to_ascii_lowercase();
    if digits.len() == 16 && digits.bytes().all(|octet| octet.is_ascii_hexdigit()) {
        Ok(digits)
    } else {
        Err("expected the 16 hex digits behind device= in a guard's log line".to_owned())
    }
}

/// A span of time as in a guard's configuration, such as `20m`.
pub fn span(text: &str) -> Result<Duration, String> {
    medbind_core::units::parse_duration(text).map_err(|error| error.to_string())
}
