//! Which path is asked for? `:path` read strictly, into segments that are each decoded once.
//!
//! Two readers must never see two paths in one request. So a path that a proxy, a framework or a
//! file system might read another way is refused here, whatever the listener normalises.

/// The longest path, query left out, in octets.
pub const MAX_PATH_OCTETS: usize = 8 * 1024;
/// The most segments of a path.
pub const MAX_SEGMENTS: usize = 64;

/// Why a path is refused: it could be read in more than one way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// No path: `CONNECT`, or octets that are no text.
    #[error("there is no path")]
    Empty,
    /// Absolute form, asterisk form, or anything else that does not begin with `/` (RFC 9112, 3.2).
    #[error("it does not begin with '/'")]
    NotAbsolute,
    /// Longer than [`MAX_PATH_OCTETS`].
    #[error("it is longer than 8 KiB")]
    TooLong,
    /// More than [`MAX_SEGMENTS`].
    #[error("it has more than 64 segments")]
    TooManySegments,
    /// `//`.
    #[error("it holds '//'")]
    EmptySegment,
    /// `.` or `..`, encoded or not.
    #[error("it holds a dot segment")]
    DotSegment,
    /// `;`, encoded or not: some servers cut path parameters off.
    #[error("it holds ';'")]
    Parameter,
    /// `\`, encoded or not: some servers read it as `/`.
    #[error("it holds '\\'")]
    Backslash,
    /// `#`: a fragment is never sent (RFC 9110, 7.1).
    #[error("it holds '#'")]
    Fragment,
    /// A raw octet that no path holds (RFC 3986, 3.3): a control, a blank, not ASCII, `{`, `|`.
    #[error("it holds an octet that must be percent-encoded")]
    RawOctet,
    /// `%` without two hex digits.
    #[error("it holds a broken percent-encoding")]
    BrokenEscape,
    /// `%2F`, `%25`, `%3F`, `%23` or a control: decoded again, or too early, it is another path.
    #[error("it holds a percent-encoded delimiter or control")]
    EncodedDelimiter,
    /// Decoded, a segment is not UTF-8 (an overlong `/` or `.` is not).
    #[error("a segment is not UTF-8 when decoded")]
    NotUtf8,
    /// Decoded, a segment begins or ends with a blank, which some servers trim.
    #[error("a segment begins or ends with a blank")]
    Blank,
}

impl PathError {
    /// Every variant: for tables and tests.
    pub const ALL: [Self; 14] = [
        Self::Empty,
        Self::NotAbsolute,
        Self::TooLong,
        Self::TooManySegments,
        Self::EmptySegment,
        Self::DotSegment,
        Self::Parameter,
        Self::Backslash,
        Self::Fragment,
        Self::RawOctet,
        Self::BrokenEscape,
        Self::EncodedDelimiter,
        Self::NotUtf8,
        Self::Blank,
    ];
}

/// A path that can be read in one way only. Borrows the request's text and allocates nothing.
#[derive(Clone, Copy, Debug)]
pub struct RequestPath<'a> {
    segments: [Segment<'a>; MAX_SEGMENTS],
    count: usize,
}

/// One segment of a [`RequestPath`]: valid UTF-8 once decoded, and not a dot segment.
#[derive(Clone, Copy, Debug)]
pub struct Segment<'a> {
    raw: &'a str,
    encoded: bool,
}

impl<'a> RequestPath<'a> {
    /// Reads `:path` (RFC 9113, 8.3.1), query and all. The query is not looked at.
    ///
    /// `/` has one segment, which is empty; `/a/` has two, of which the last is empty: a trailing
    /// slash makes another path. No other segment is empty.
    pub fn parse(path: &'a str) -> Result<Self, PathError> {
        if path.is_empty() {
            return Err(PathError::Empty);
        }
        if path.bytes().any(|octet| octet == b'#') {
            return Err(PathError::Fragment);
        }
        let path = path.split_once('?').map_or(path, |(before, _)| before);
        let rest = path.strip_prefix('/').ok_or(PathError::NotAbsolute)?;
        if path.len() > MAX_PATH_OCTETS {
            return Err(PathError::TooLong);
        }
        let mut parsed = Self {
            segments: [Segment {
                raw: "",
                encoded: false,
            }; MAX_SEGMENTS],
            count: 0,
        };
        let mut ended = false;
        for raw in rest.split('/') {
            // Only the last segment may be empty.
            if ended {
                return Err(PathError::EmptySegment);
            }
            ended = raw.is_empty();
            let slot = parsed
                .segments
                .get_mut(parsed.count)
                .ok_or(PathError::TooManySegments)?;
            *slot = Segment::parse(raw)?;
            parsed.count = parsed.count.saturating_add(1);
        }
        Ok(parsed)
    }

    /// The segments, 1 to 64.
    pub fn segments(&self) -> &[Segment<'a>] {
        self.segments.get(..self.count).unwrap_or_default()
    }
}

impl<'a> Segment<'a> {
    fn parse(raw: &'a str) -> Result<Self, PathError> {
        let mut encoded = false;
        let mut rest = raw.bytes();
        while let Some(octet) = rest.next() {
            match octet {
                b';' => return Err(PathError::Parameter),
                b'\\' => return Err(PathError::Backslash),
                b'%' => {
                    let digits = (
                        rest.next().and_then(hex_digit),
                        rest.next().and_then(hex_digit),
                    );
                    let (Some(high), Some(low)) = digits else {
                        return Err(PathError::BrokenEscape);
                    };
                    encoded = true;
                    match (high << 4) | low {
                        b';' => return Err(PathError::Parameter),
                        b'\\' => return Err(PathError::Backslash),
                        b'/' | b'%' | b'?' | b'#' | 0..=0x1F | 0x7F => {
                            return Err(PathError::EncodedDelimiter);
                        }
                        _ => {}
                    }
                }
                _ if is_path_octet(octet) => {}
                _ => return Err(PathError::RawOctet),
            }
        }
        let segment = Self { raw, encoded };
        if encoded {
            segment.check_decoded()?;
        } else if matches!(raw, "." | "..") {
            return Err(PathError::DotSegment);
        }
        Ok(segment)
    }

    fn check_decoded(self) -> Result<(), PathError> {
        let decoded: Vec<u8> = self.octets().collect();
        let text = core::str::from_utf8(&decoded).map_err(|_| PathError::NotUtf8)?;
        if matches!(text, "." | "..") {
            return Err(PathError::DotSegment);
        }
        // U+0080 to U+009F are controls that two octets encode.
        if text.chars().any(char::is_control) {
            return Err(PathError::EncodedDelimiter);
        }
        if text.trim().len() != text.len() {
            return Err(PathError::Blank);
        }
        Ok(())
    }

    /// Whether there is nothing in it: after a trailing slash.
    pub fn is_empty(self) -> bool {
        self.raw.is_empty()
    }

    /// Whether the segment, decoded once, is this text.
    pub fn is(self, text: &str) -> bool {
        if self.encoded {
            self.octets().eq(text.bytes())
        } else {
            self.raw == text
        }
    }

    /// The segment, decoded once. Allocates only where something is encoded.
    pub fn decoded(self) -> std::borrow::Cow<'a, str> {
        if self.encoded {
            // `check_decoded` has seen that it is UTF-8.
            let octets: Vec<u8> = self.octets().collect();
            String::from_utf8(octets).unwrap_or_default().into()
        } else {
            self.raw.into()
        }
    }

    fn octets(self) -> impl Iterator<Item = u8> + 'a {
        let mut rest = self.raw.bytes();
        core::iter::from_fn(move || {
            let octet = rest.next()?;
            if octet != b'%' {
                return Some(octet);
            }
            let high = rest.next().and_then(hex_digit)?;
            let low = rest.next().and_then(hex_digit)?;
            Some((high << 4) | low)
        })
    }
}

/// `pchar` without `;` and `%` (RFC 3986, 3.3).
const fn is_path_octet(octet: u8) -> bool {
    octet.is_ascii_alphanumeric()
        || matches!(
            octet,
            b'-' | b'.'
                | b'_'
                | b'~'
                | b'!'
                | b'$'
                | b'&'
                | b'\''
                | b'('
                | b')'
                | b'*'
                | b'+'
                | b','
                | b'='
                | b':'
                | b'@'
        )
}

const fn hex_digit(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit.wrapping_sub(b'0')),
        b'a'..=b'f' => Some(digit.wrapping_sub(b'a').wrapping_add(10)),
        b'A'..=b'F' => Some(digit.wrapping_sub(b'A').wrapping_add(10)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    fn decoded(path: &str) -> Vec<String> {
        let path = RequestPath::parse(path).unwrap();
        path.segments()
            .iter()
            .map(|segment| segment.decoded().into_owned())
            .collect()
    }

    #[test]
    fn a_path_is_its_segments_each_decoded_once() {
        for (path, segments) in [
            ("/", vec![""]),
            ("/a", vec!["a"]),
            ("/a/", vec!["a", ""]),
            ("/v1/devices/acme:SN1", vec!["v1", "devices", "acme:SN1"]),
            ("/v1/devices/acme%3ASN1", vec!["v1", "devices", "acme:SN1"]),
            ("/%61%2E%2e%2E", vec!["a..."]),
            ("/...", vec!["..."]),
            ("/a=2Fb", vec!["a=2Fb"]),
            ("/%C3%A9", vec!["é"]),
            ("/a%20b", vec!["a b"]),
            ("/a?x=//;%2F%zz", vec!["a"]),
            ("/?", vec![""]),
            ("/pkg.Service/Method", vec!["pkg.Service", "Method"]),
        ] {
            assert_eq!(decoded(path), segments, "{path}");
        }
    }

    #[test]
    fn a_path_that_could_be_read_another_way_is_refused() {
        let long = format!("/{}", "a".repeat(MAX_PATH_OCTETS));
        let deep = "/a".repeat(MAX_SEGMENTS + 1);
        let table = [
            ("", PathError::Empty),
            ("*", PathError::NotAbsolute),
            ("?/a", PathError::NotAbsolute),
            ("v1/devices", PathError::NotAbsolute),
            ("https://edge.example/v1", PathError::NotAbsolute),
            ("edge.example:443", PathError::NotAbsolute),
            (long.as_str(), PathError::TooLong),
            (deep.as_str(), PathError::TooManySegments),
            ("//", PathError::EmptySegment),
            ("//a", PathError::EmptySegment),
            ("/a//b", PathError::EmptySegment),
            ("/a//", PathError::EmptySegment),
            ("/.", PathError::DotSegment),
            ("/..", PathError::DotSegment),
            ("/a/../b", PathError::DotSegment),
            ("/a/./b", PathError::DotSegment),
            ("/a/%2e%2E/b", PathError::DotSegment),
            ("/a/.%2e/b", PathError::DotSegment),
            ("/a/%2e", PathError::DotSegment),
            ("/a;x=y", PathError::Parameter),
            ("/a/..;/b", PathError::Parameter),
            ("/a/;", PathError::Parameter),
            ("/a%3Bx", PathError::Parameter),
            ("/a\\b", PathError::Backslash),
            ("/a%5Cb", PathError::Backslash),
            ("/a%5cb", PathError::Backslash),
            ("/a#b", PathError::Fragment),
            ("/a?b#c", PathError::Fragment),
            ("/a b", PathError::RawOctet),
            ("/a\tb", PathError::RawOctet),
            ("/a\0", PathError::RawOctet),
            ("/a\u{7f}", PathError::RawOctet),
            ("/é", PathError::RawOctet),
            ("/{a}", PathError::RawOctet),
            ("/a|b", PathError::RawOctet),
            ("/a\"b", PathError::RawOctet),
            ("/%", PathError::BrokenEscape),
            ("/%4", PathError::BrokenEscape),
            ("/%4/a", PathError::BrokenEscape),
            ("/%zz", PathError::BrokenEscape),
            ("/%u002e", PathError::BrokenEscape),
            ("/a%2Fb", PathError::EncodedDelimiter),
            ("/a%2fb", PathError::EncodedDelimiter),
            ("/a%252Fb", PathError::EncodedDelimiter),
            ("/a%00", PathError::EncodedDelimiter),
            ("/a%0a", PathError::EncodedDelimiter),
            ("/a%7F", PathError::EncodedDelimiter),
            ("/a%3Fb", PathError::EncodedDelimiter),
            ("/a%23b", PathError::EncodedDelimiter),
            ("/a%C2%85", PathError::EncodedDelimiter),
            ("/%C0%AF", PathError::NotUtf8),
            ("/%C0%AE%C0%AE", PathError::NotUtf8),
            ("/%FF", PathError::NotUtf8),
            ("/%20..", PathError::Blank),
            ("/a%20", PathError::Blank),
            ("/a%C2%A0", PathError::Blank),
        ];
        for (path, error) in table {
            assert_eq!(RequestPath::parse(path).err(), Some(error), "{path:?}");
        }
        for error in PathError::ALL {
            assert!(table.iter().any(|(_, seen)| *seen == error), "{error:?}");
        }
    }

    #[test]
    fn a_segment_is_compared_decoded() {
        let path = RequestPath::parse("/acme%3aSN1/x").unwrap();
        let [first, second] = path.segments() else {
            panic!("two segments");
        };
        assert!(first.is("acme:SN1") && !first.is("acme:SN") && !first.is("acme%3aSN1"));
        assert!(second.is("x") && !second.is("y") && !second.is_empty());
    }

    #[test]
    fn the_longest_path_and_the_most_segments_are_read() {
        let long = format!("/{}?{}", "a".repeat(8 * 1024 - 1), "q".repeat(9000));
        assert!(RequestPath::parse(&long).is_ok());
        let deep = RequestPath::parse(&"/a".repeat(MAX_SEGMENTS)).map(|path| path.segments().len());
        assert_eq!(deep, Ok(MAX_SEGMENTS));
    }
}
