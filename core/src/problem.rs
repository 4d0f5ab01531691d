//! What does a refused client read? The problem document (RFC 9457).

use crate::deny::DenyCode;

/// The media type of a problem document (RFC 9457, 6.1).
pub const CONTENT_TYPE: &str = "application/problem+json";

/// The longest request id that is repeated to the client, in octets.
pub const MAX_REQUEST_ID_OCTETS: usize = 128;

/// Whether a client's request id is repeated to it, and stands in a log line: 1 to 128 letters,
/// digits and `-_.:/+=`, so that it breaks neither.
pub fn is_request_id(octets: &[u8]) -> bool {
    let plain = |octet: &u8| octet.is_ascii_alphanumeric() || b"-_.:/+=".contains(octet);
    (1..=MAX_REQUEST_ID_OCTETS).contains(&octets.len()) && octets.iter().all(plain)
}

/// The `type` of a refusal's problem document: `urn:medbind:deny:<code>`.
pub fn problem_type(code: DenyCode) -> String {
    format!("urn:medbind:deny:{code}")
}

/// The problem document of a refusal: `type`, `title`, `status`, `code`, and `request_id` where
/// there is one. Nothing else: the reason is the operator's.
///
/// A request id that is none by [`is_request_id`] is left out: a client can send one.
pub fn problem_document(code: DenyCode, request_id: Option<&str>) -> String {
    let mut document = format!(
        r#"{{"type":"{}","title":"{}","status":{},"code":"{code}""#,
        problem_type(code),
        code.title(),
        code.http_status(),
    );
    if let Some(id) = request_id.filter(|id| is_request_id(id.as_bytes())) {
        document.push_str(r#","request_id":""#);
        document.push_str(id);
        document.push('"');
    }
    document.push('}');
    document
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[test]
    fn a_problem_document_says_code_and_status_and_no_more() {
        for code in DenyCode::ALL {
            let document = problem_document(code, Some("4d2b-1"));
            let value: serde_json::Value = serde_json::from_str(&document).unwrap();
            assert_eq!(
                value,
                serde_json::json!({
                    "type": format!("urn:medbind:deny:{code}"),
                    "title": code.title(),
                    "status": code.http_status(),
                    "code": code.as_str(),
                    "request_id": "4d2b-1",
                })
            );
        }
    }

    #[test]
    fn a_request_id_that_is_not_plain_is_left_out() {
        let without = problem_document(DenyCode::NoAccount, None);
        let long = "x".repeat(129);
        for id in ["", "a b", "a\"b", "a\\b", "<b>", "é", "a\n", long.as_str()] {
            assert_eq!(problem_document(DenyCode::NoAccount, Some(id)), without);
        }
    }
}
