//! What does `x-forwarded-client-cert` hold? Envoy's header, taken apart.

/// The most certificates that are looked at in one header.
const MOST: usize = 8;

/// The values of `Cert=` in the order in which they stand, without their quotes: URL-encoded PEM.
///
/// Elements are parted by `,`, their pairs by `;`, and neither parts anything within quotes, where
/// `\` takes the next octet as it is.
pub fn certificates(header: &[u8]) -> Vec<&[u8]> {
    let mut found = Vec::new();
    let mut rest = header;
    while !rest.is_empty() && found.len() < MOST {
        let end = end_of_pair(rest);
        let pair = rest.get(..end).unwrap_or(rest);
        rest = rest.get(end.saturating_add(1)..).unwrap_or_default();
        let mut halves = pair.splitn(2, |octet| *octet == b'=');
        if let (Some(key), Some(value)) = (halves.next(), halves.next())
            && key.trim_ascii().eq_ignore_ascii_case(b"cert")
        {
            let value = value.trim_ascii();
            let inner = value
                .strip_prefix(b"\"")
                .and_then(|value| value.strip_suffix(b"\""));
            found.push(inner.unwrap_or(value));
        }
    }
    found
}

fn end_of_pair(text: &[u8]) -> usize {
    let mut quoted = false;
    let mut escaped = false;
    for (place, octet) in text.iter().enumerate() {
        match octet {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b';' | b',' if !quoted => return place,
            _ => {}
        }
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn certificates_are_found_whatever_stands_around_them() {
        let cases: [(&str, &[&str]); 7] = [
            ("", &[]),
            ("By=x;Hash=y", &[]),
            (r#"Hash=y;Cert="one""#, &["one"]),
            (
                r#"Cert="one";Subject="CN=a;Cert=\"two\"",cert=three"#,
                &["one", "three"],
            ),
            (r#"Hash=y;Cert="a,b;c",Hash=z;Cert="d""#, &["a,b;c", "d"]),
            (r#"Subject="open;Cert=never"#, &[]),
            ("Chain=x;Cert=", &[""]),
        ];
        for (header, expected) in cases {
            let found = certificates(header.as_bytes());
            let expected: Vec<&[u8]> = expected.iter().map(|text| text.as_bytes()).collect();
            assert_eq!(found, expected, "{header}");
        }
        assert_eq!(certificates("Cert=a,".repeat(100).as_bytes()).len(), MOST);
    }
}
