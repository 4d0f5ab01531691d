//! Which rule covers this request? Ordered rules by path and method; the first that fits is final.

use core::time::Duration;
use std::sync::Arc;

use crate::path::{MAX_PATH_OCTETS, MAX_SEGMENTS, RequestPath, Segment};
use crate::tag::Tags;

/// The most rules of one configuration.
pub const MAX_RULES: usize = 1_000;

/// Who may be let in by a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Principal {
    /// A device, by its peer certificate and an active binding.
    Device,
    /// An account, by a verified token.
    Account,
    /// Whoever asks.
    Anyone,
}

impl Principal {
    /// Every principal.
    pub const ALL: [Self; 3] = [Self::Device, Self::Account, Self::Anyone];

    /// The word in configuration and in `x-medbind-principal`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Device => "device",
            Self::Account => "account",
            Self::Anyone => "anyone",
        }
    }
}

/// A whole segment of a rule's path that is tied to the principal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Placeholder {
    /// `{device}`: the canonical identity, `namespace:serial`.
    Device,
    /// `{serial}`: the canonical text of the serial alone.
    Serial,
    /// `{account}`: the account.
    Account,
    /// `{class}`: the device's class.
    Class,
}

impl Placeholder {
    /// Every placeholder.
    pub const ALL: [Self; 4] = [Self::Device, Self::Serial, Self::Account, Self::Class];

    /// As it stands in a rule's path.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Device => "{device}",
            Self::Serial => "{serial}",
            Self::Account => "{account}",
            Self::Class => "{class}",
        }
    }
}

/// Why text is no path of a rule.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    /// Does not begin with `/`.
    #[error("a path begins with '/'")]
    NotAbsolute,
    /// Longer than any request's path may be.
    #[error("the path is longer than 8 KiB or has more than 64 segments")]
    TooLong,
    /// `//`.
    #[error("the path holds '//', which no request may hold")]
    EmptySegment,
    /// `.` or `..`.
    #[error("the path holds a dot segment, which no request may hold")]
    DotSegment,
    /// An octet that no decoded segment of a permitted path holds, or that is easily misread.
    #[error("the path holds {0:?}")]
    Octet(char),
    /// `*` or `**` beside other text, or more than two.
    #[error("'{0}' is not a whole segment of its own kind")]
    PartialWildcard(String),
    /// `**` that is not last.
    #[error("'**' stands before other segments")]
    OpenNotLast,
    /// `{...}` that is none of the placeholders, or is not a whole segment.
    #[error("'{0}' is no placeholder")]
    UnknownPlaceholder(String),
    /// The same placeholder twice.
    #[error("'{0}' stands there twice")]
    Twice(&'static str),
    /// `{device}` and `{serial}`.
    #[error("'{{device}}' and '{{serial}}' both name the device")]
    DeviceTwice,
}

impl PatternError {
    /// What to do about it.
    pub fn mend(&self) -> String {
        match self {
            Self::NotAbsolute => "write it as the client asks for it, such as /v1/devices".into(),
            Self::TooLong => "shorten it; end it with /** to cover what is below".into(),
            Self::EmptySegment => "leave the second '/' out".into(),
            Self::DotSegment => "write the path that it leads to".into(),
            Self::Octet('%') => "write segments decoded: 'é' or ' ' cannot be matched as a literal, use * for that segment".into(),
            Self::Octet('?') => "leave the query out: rules do not look at it".into(),
            Self::Octet(_) => "use letters, digits and -._~!$&'()+,=:@ in a literal segment, or * for the whole segment".into(),
            Self::PartialWildcard(_) => "use * for one whole segment, ** last for zero or more".into(),
            Self::OpenNotLast => "put ** last, or use * for one segment".into(),
            Self::UnknownPlaceholder(_) => {
                "use {device}, {serial}, {account} or {class} as a whole segment".into()
            }
            Self::Twice(_) => "keep one and use * for the other".into(),
            Self::DeviceTwice => "keep the one that the path of your service holds, and use * for the other".into(),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    /// This text, decoded. Empty only as the last: a trailing slash.
    Literal(Box<str>),
    /// `*`: any one segment that is not empty.
    Any,
    /// Any one segment that is not empty, here; whether it names the principal is decided later.
    Placeholder(Placeholder),
}

impl Part {
    fn fits(&self, segment: Segment<'_>) -> bool {
        match self {
            Self::Literal(text) => segment.is(text),
            Self::Any | Self::Placeholder(_) => !segment.is_empty(),
        }
    }

    fn covers(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Literal(ours), Self::Literal(theirs)) => ours == theirs,
            (Self::Literal(_), Self::Any | Self::Placeholder(_)) => false,
            (Self::Any | Self::Placeholder(_), Self::Literal(theirs)) => !theirs.is_empty(),
            (Self::Any | Self::Placeholder(_), Self::Any | Self::Placeholder(_)) => true,
        }
    }
}

/// The path of a rule: literal segments, `*` (one segment), `**` (zero or more, last), and
/// `{device}`, `{serial}`, `{account}`, `{class}` as whole segments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern {
    text: Box<str>,
    parts: Box<[Part]>,
    /// Ends in `**`.
    open: bool,
}

impl Pattern {
    /// Reads a rule's path. Literals are compared with decoded segments, octet for octet; the
    /// letter's case counts; a trailing slash is another path.
    pub fn parse(text: &str) -> Result<Self, PatternError> {
        let rest = text.strip_prefix('/').ok_or(PatternError::NotAbsolute)?;
        if text.len() > MAX_PATH_OCTETS {
            return Err(PatternError::TooLong);
        }
        let mut parts: Vec<Part> = Vec::new();
        let mut open = false;
        let mut segments = rest.split('/').peekable();
        while let Some(segment) = segments.next() {
            let last = segments.peek().is_none();
            if segment == "**" {
                if !last {
                    return Err(PatternError::OpenNotLast);
                }
                open = true;
                break;
            }
            if segment.is_empty() && !last {
                return Err(PatternError::EmptySegment);
            }
            parts.push(parse_part(segment)?);
        }
        if parts.len() > MAX_SEGMENTS {
            return Err(PatternError::TooLong);
        }
        let pattern = Self {
            text: text.into(),
            parts: parts.into_boxed_slice(),
            open,
        };
        pattern.check_placeholders()?;
        Ok(pattern)
    }

    fn check_placeholders(&self) -> Result<(), PatternError> {
        for placeholder in Placeholder::ALL {
            let count = self
                .parts
                .iter()
                .filter(|part| **part == Part::Placeholder(placeholder))
                .count();
            if count > 1 {
                return Err(PatternError::Twice(placeholder.as_str()));
            }
        }
        if self.has(Placeholder::Device) && self.has(Placeholder::Serial) {
            return Err(PatternError::DeviceTwice);
        }
        Ok(())
    }

    /// The path as configuration writes it.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether this placeholder stands in it.
    pub fn has(&self, placeholder: Placeholder) -> bool {
        self.parts.contains(&Part::Placeholder(placeholder))
    }

    /// Whether a request's path has this shape. A placeholder fits any one segment that is not
    /// empty.
    pub fn fits(&self, path: &RequestPath<'_>) -> bool {
        let segments = path.segments();
        let count_fits = if self.open {
            segments.len() >= self.parts.len()
        } else {
            segments.len() == self.parts.len()
        };
        count_fits
            && self
                .parts
                .iter()
                .zip(segments)
                .all(|(part, segment)| part.fits(*segment))
    }

    /// The placeholders with the segments that stand in their places.
    pub fn filled<'p>(
        &'p self,
        path: &'p RequestPath<'_>,
    ) -> impl Iterator<Item = (Placeholder, Segment<'p>)> {
        self.parts
            .iter()
            .zip(path.segments())
            .filter_map(|(part, segment)| match part {
                Part::Placeholder(placeholder) => Some((*placeholder, *segment)),
                Part::Literal(_) | Part::Any => None,
            })
    }

    /// Whether every path that `other` fits, this one fits too.
    pub fn covers(&self, other: &Self) -> bool {
        let reaches = if self.open {
            other.parts.len() >= self.parts.len()
        } else {
            !other.open && other.parts.len() == self.parts.len()
        };
        reaches
            && self
                .parts
                .iter()
                .zip(&other.parts)
                .all(|(ours, theirs)| ours.covers(theirs))
    }
}

fn parse_part(segment: &str) -> Result<Part, PatternError> {
    if segment == "*" {
        return Ok(Part::Any);
    }
    let known = Placeholder::ALL
        .into_iter()
        .find(|placeholder| placeholder.as_str() == segment);
    if let Some(placeholder) = known {
        return Ok(Part::Placeholder(placeholder));
    }
    if matches!(segment, "." | "..") {
        return Err(PatternError::DotSegment);
    }
    if segment.contains(['{', '}']) {
        return Err(PatternError::UnknownPlaceholder(segment.into()));
    }
    if segment.contains('*') {
        return Err(PatternError::PartialWildcard(segment.into()));
    }
    let strange = segment.chars().find(|c| {
        !(c.is_ascii_alphanumeric()
            || matches!(
                c,
                '-' | '.'
                    | '_'
                    | '~'
                    | '!'
                    | '$'
                    | '&'
                    | '\''
                    | '('
                    | ')'
                    | '+'
                    | ','
                    | '='
                    | ':'
                    | '@'
            ))
    });
    match strange {
        Some(strange) => Err(PatternError::Octet(strange)),
        None => Ok(Part::Literal(segment.into())),
    }
}

/// One rule, compiled. Made by configuration alone.
#[derive(Clone, Debug)]
pub struct Rule {
    pub(crate) pattern: Pattern,
    /// `None`: every method.
    pub(crate) methods: Option<Box<[Box<str>]>>,
    pub(crate) principals: Box<[Principal]>,
    pub(crate) tags: Arc<Tags>,
    pub(crate) max_stale: Option<Duration>,
}

impl Rule {
    /// The rule's path.
    pub fn pattern(&self) -> &Pattern {
        &self.pattern
    }

    /// The methods that it covers; `None` where it covers all.
    pub fn methods(&self) -> Option<&[Box<str>]> {
        self.methods.as_deref()
    }

    /// The principals that it takes, in the order in which they are tried; never empty.
    pub fn principals(&self) -> &[Principal] {
        &self.principals
    }

    /// The tags that it sets.
    pub fn tags(&self) -> &Tags {
        &self.tags
    }

    /// How stale bindings may be for this rule, where that is not the general bound.
    pub fn max_stale(&self) -> Option<Duration> {
        self.max_stale
    }

    /// Whether a decision under this rule may need a device: as principal, or named in the path.
    pub fn concerns_devices(&self) -> bool {
        self.principals.contains(&Principal::Device)
            || self.pattern.has(Placeholder::Device)
            || self.pattern.has(Placeholder::Serial)
    }

    /// Whether path (by its shape) and method fit.
    pub fn fits(&self, method: &str, path: &RequestPath<'_>) -> bool {
        self.fits_method(method) && self.pattern.fits(path)
    }

    fn fits_method(&self, method: &str) -> bool {
        self.methods
            .as_ref()
            .is_none_or(|methods| methods.iter().any(|one| **one == *method))
    }

    /// Whether nothing is left for `other` where it stands behind this rule.
    pub fn covers(&self, other: &Self) -> bool {
        let methods = match (&self.methods, &other.methods) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(ours), Some(theirs)) => theirs.iter().all(|method| ours.contains(method)),
        };
        methods && self.pattern.covers(&other.pattern)
    }
}

/// The rules, in order.
#[derive(Clone, Debug, Default)]
pub struct RuleSet {
    rules: Box<[Rule]>,
}

impl RuleSet {
    pub(crate) fn new(rules: Vec<Rule>) -> Self {
        Self {
            rules: rules.into_boxed_slice(),
        }
    }

    /// The rules in the order of configuration.
    pub fn as_slice(&self) -> &[Rule] {
        &self.rules
    }

    /// The first rule that covers path and method, with its index; it is final.
    pub fn find(&self, method: &str, path: &RequestPath<'_>) -> Option<(usize, &Rule)> {
        self.rules
            .iter()
            .enumerate()
            .find(|(_, rule)| rule.fits(method, path))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    fn fits(pattern: &str, path: &str) -> bool {
        let path = RequestPath::parse(path).unwrap();
        Pattern::parse(pattern).unwrap().fits(&path)
    }

    #[test]
    fn a_pattern_fits_whole_segments() {
        for (pattern, path, expected) in [
            ("/", "/", true),
            ("/", "/a", false),
            ("/a", "/a", true),
            ("/a", "/a?x", true),
            ("/a", "/A", false),
            ("/a", "/a/", false),
            ("/a", "/ab", false),
            ("/a/", "/a/", true),
            ("/a/", "/a", false),
            ("/a", "/%61", true),
            ("/*", "/a", true),
            ("/*", "/", false),
            ("/*", "/a/b", false),
            ("/a/*", "/a/", false),
            ("/a/*", "/a", false),
            ("/*/b", "/a/b", true),
            ("/**", "/", true),
            ("/**", "/a", true),
            ("/**", "/a/b/", true),
            ("/a/**", "/a", true),
            ("/a/**", "/a/", true),
            ("/a/**", "/a/b/c", true),
            ("/a/**", "/ab", false),
            ("/a/**", "/b/a", false),
            ("/d/{device}", "/d/anything", true),
            ("/d/{device}", "/d/", false),
            ("/d/{serial}/**", "/d/x", true),
            ("/d/{serial}/**", "/d", false),
            ("/{account}/{class}", "/a/b", true),
        ] {
            assert_eq!(fits(pattern, path), expected, "{pattern} {path}");
        }
    }

    #[test]
    fn what_is_no_pattern_says_why_and_how_to_mend_it() {
        let mut mends = std::collections::BTreeSet::new();
        let deep = "/a".repeat(65);
        let long = format!("/{}", "a".repeat(MAX_PATH_OCTETS));
        for (text, error) in [
            ("", PatternError::NotAbsolute),
            ("a", PatternError::NotAbsolute),
            ("**", PatternError::NotAbsolute),
            (deep.as_str(), PatternError::TooLong),
            (long.as_str(), PatternError::TooLong),
            ("//", PatternError::EmptySegment),
            ("/a//b", PatternError::EmptySegment),
            ("/a/./b", PatternError::DotSegment),
            ("/..", PatternError::DotSegment),
            ("/a%20b", PatternError::Octet('%')),
            ("/a?b", PatternError::Octet('?')),
            ("/a;b", PatternError::Octet(';')),
            ("/a b", PatternError::Octet(' ')),
            ("/é", PatternError::Octet('é')),
            ("/a*", PatternError::PartialWildcard("a*".into())),
            ("/***", PatternError::PartialWildcard("***".into())),
            ("/**/a", PatternError::OpenNotLast),
            ("/**/", PatternError::OpenNotLast),
            ("/{dev}", PatternError::UnknownPlaceholder("{dev}".into())),
            (
                "/x-{device}",
                PatternError::UnknownPlaceholder("x-{device}".into()),
            ),
            ("/{serial}/{serial}", PatternError::Twice("{serial}")),
            ("/{device}/{serial}", PatternError::DeviceTwice),
        ] {
            assert_eq!(Pattern::parse(text), Err(error.clone()), "{text}");
            mends.insert(error.mend());
        }
        assert_eq!(mends.len(), 12, "each has its own: {mends:?}");
    }

    #[test]
    fn the_longest_pattern_and_the_most_segments_are_read() {
        let long = format!("/{}", "a".repeat(MAX_PATH_OCTETS - 1));
        let deep = "/a".repeat(MAX_SEGMENTS);
        for text in [long, deep] {
            let pattern = Pattern::parse(&text).unwrap();
            assert_eq!(pattern.as_str(), text);
        }
    }

    #[test]
    fn a_rule_concerns_devices_as_principals_or_by_its_path() {
        for (path, principal, expected) in [
            ("/a", Principal::Device, true),
            ("/{device}", Principal::Account, true),
            ("/{serial}", Principal::Account, true),
            ("/{account}", Principal::Account, false),
            ("/a", Principal::Anyone, false),
        ] {
            let rule = Rule {
                pattern: Pattern::parse(path).unwrap(),
                methods: None,
                principals: Box::new([principal]),
                tags: Arc::default(),
                max_stale: None,
            };
            assert_eq!(rule.concerns_devices(), expected, "{path} {principal:?}");
        }
    }

    #[test]
    fn a_pattern_that_covers_another_leaves_it_nothing() {
        for (first, second, expected) in [
            ("/**", "/a/b", true),
            ("/**", "/", true),
            ("/a/**", "/a", true),
            ("/a/**", "/a/{device}/**", true),
            ("/a/*", "/a/{device}", true),
            ("/a/{device}", "/a/b", true),
            ("/a/b", "/a/{device}", false),
            ("/a/*", "/a/", false),
            ("/a/*", "/a/**", false),
            ("/a/**", "/**", false),
            ("/a", "/b", false),
            ("/a", "/a/b", false),
            ("/a/*", "/a/b/c", false),
            ("/a/b", "/a", false),
        ] {
            let (first, second) = (Pattern::parse(first), Pattern::parse(second));
            let (first, second) = (first.unwrap(), second.unwrap());
            assert_eq!(
                first.covers(&second),
                expected,
                "{} {}",
                first.as_str(),
                second.as_str()
            );
        }
    }
}
