//! What is asked? The request as its headers say it, and what no request may carry past here.

use medbind_core::deny::DenyReason;
use medbind_core::problem::is_request_id;
use medbind_core::tag::{is_forwarded_certificate_header, is_reserved_header};

use crate::host::{Headers, Host, HostError, RequestMap};

/// What a decision and its answer need to know of a request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Request {
    /// `:method`; empty where it is no UTF-8.
    pub method: String,
    /// `:path`, query and all; empty where there is none, or it is no UTF-8.
    pub path: String,
    /// `x-request-id`, where it is harmless in a log line and in JSON.
    pub request_id: Option<String>,
    /// Whether the caller speaks gRPC, and so reads trailers.
    pub grpc: bool,
}

/// A request whose headers have been read and cleaned.
#[derive(Debug, Default)]
pub struct Arrived {
    /// What is asked.
    pub request: Request,
    /// The values of `x-forwarded-client-cert`, as they came: worth something only where a
    /// certificate in them has the digest of the handshake's.
    pub forwarded_certificates: Vec<Vec<u8>>,
    /// Whether anything was taken away that only medbind may set.
    pub stripped: bool,
}

/// What goes on to the upstream as the client sent it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Untouched {
    /// `x-forwarded-client-cert`, as Envoy's settings for it have left it.
    pub forwarded_certificate: bool,
    /// `authorization`, whether or not anybody has verified what is in it.
    pub authorization: bool,
}

/// Reads the headers once, and takes away what no client may send: before any decision, and
/// whatever it will be.
pub fn read_and_strip(host: &impl Host, untouched: Untouched) -> Result<Arrived, DenyReason> {
    let headers = host
        .request_headers()
        .map_err(|_| DenyReason::Internal("the request's headers cannot be read"))?;
    let mut arrived = Arrived::default();
    let mut remove: Vec<String> = Vec::new();
    let mut connection: Vec<Vec<u8>> = Vec::new();
    for (name, value) in headers {
        #[cfg(feature = "trap")]
        crate::trap::on(host, &name);
        match name.as_str() {
            ":method" => arrived.request.method = String::from_utf8(value).unwrap_or_default(),
            ":path" => arrived.request.path = String::from_utf8(value).unwrap_or_default(),
            "x-request-id" => arrived.request.request_id = harmless(value),
            "content-type" => arrived.request.grpc = is_grpc(&value),
            "connection" => connection.push(value),
            _ => {
                let reserved = is_reserved_header(name.as_bytes());
                let forwarded = !reserved && is_forwarded_certificate_header(name.as_bytes());
                let exact = forwarded && name == "x-forwarded-client-cert";
                arrived.stripped |= reserved;
                if exact {
                    arrived.forwarded_certificates.push(value);
                }
                let goes_on = exact && untouched.forwarded_certificate;
                let token = !untouched.authorization && name == "authorization";
                if (reserved || token || forwarded && !goes_on) && !remove.contains(&name) {
                    remove.push(name);
                }
            }
        }
    }
    for name in &remove {
        take_away(host, RequestMap::Headers, name)?;
    }
    if !connection.is_empty() {
        arrived.stripped |= clean_connection(host, &connection)?;
    }
    Ok(arrived)
}

/// Takes away what no client may send as a trailer. `Ok(true)` where there was any.
pub fn strip_trailers(host: &impl Host, untouched: Untouched) -> Result<bool, HostError> {
    let trailers: Headers = host.request_trailers()?;
    let mut stripped = false;
    for (name, _) in &trailers {
        let reserved = is_reserved_header(name.as_bytes());
        let forwarded = is_forwarded_certificate_header(name.as_bytes())
            && !(untouched.forwarded_certificate && name == "x-forwarded-client-cert");
        let authorization = name == "authorization" && !untouched.authorization;
        if reserved || forwarded || authorization {
            host.remove_header(RequestMap::Trailers, name)?;
        }
        stripped |= reserved;
    }
    Ok(stripped)
}

fn take_away(host: &impl Host, map: RequestMap, name: &str) -> Result<(), DenyReason> {
    // Fail closed: what cannot be taken away would be believed behind this guard.
    host.remove_header(map, name)
        .map_err(|_| DenyReason::Internal("a header that no client may send cannot be removed"))
}

/// A header that `Connection` names is for the next hop alone (RFC 9110, 7.6.1): a client that
/// names a tag there would have a later hop drop it. Such names are taken out.
fn clean_connection(host: &impl Host, values: &[Vec<u8>]) -> Result<bool, DenyReason> {
    let tokens = || {
        values
            .iter()
            .flat_map(|value| value.split(|octet| *octet == b','))
            .map(<[u8]>::trim_ascii)
            .filter(|token| !token.is_empty())
    };
    let harmful =
        |token: &[u8]| is_reserved_header(token) || is_forwarded_certificate_header(token);
    if !tokens().any(harmful) {
        return Ok(false);
    }
    take_away(host, RequestMap::Headers, "connection")?;
    let kept: Vec<&[u8]> = tokens().filter(|token| !harmful(token)).collect();
    if !kept.is_empty() {
        host.set_header(RequestMap::Headers, "connection", &kept.join(&b", "[..]))
            .map_err(|_| DenyReason::Internal("the connection header cannot be written"))?;
    }
    Ok(true)
}

fn harmless(value: Vec<u8>) -> Option<String> {
    is_request_id(&value)
        .then(|| String::from_utf8(value).ok())
        .flatten()
}

/// `application/grpc`, alone or with a suffix or parameters (gRPC over HTTP/2, Requests).
fn is_grpc(content_type: &[u8]) -> bool {
    content_type
        .strip_prefix(b"application/grpc")
        .is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';')))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_grpc_itself_reads_trailers() {
        for (content_type, grpc) in [
            ("application/grpc", true),
            ("application/grpc+proto", true),
            ("application/grpc;charset=utf-8", true),
            ("application/grpc-web", false),
            ("application/json", false),
            ("", false),
        ] {
            assert_eq!(is_grpc(content_type.as_bytes()), grpc, "{content_type}");
        }
    }

    #[test]
    fn a_request_id_that_could_break_a_log_line_is_not_taken_up() {
        assert_eq!(harmless(b"4d2b-1".to_vec()).as_deref(), Some("4d2b-1"));
        for id in ["", "a b", "a\nb", "\"", "\u{e9}", &"x".repeat(129)] {
            assert_eq!(harmless(id.as_bytes().to_vec()), None, "{id}");
        }
    }
}
