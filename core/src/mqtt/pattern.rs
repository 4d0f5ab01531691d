//! Which topics does a rule cover? Patterns with wildcards and placeholders, and how topics and topic
//! filters lie to them.

use super::topic::{TopicFilter, TopicName};
use crate::rule::Placeholder;

/// The longest topic of a rule, in octets.
pub const MAX_PATTERN_OCTETS: usize = 8 * 1024;
/// The most levels of a rule's topic.
pub const MAX_LEVELS: usize = 64;

/// Why text is no topic of a rule.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TopicPatternError {
    /// No text.
    #[error("the topic is empty")]
    Empty,
    /// More than [`MAX_PATTERN_OCTETS`] or [`MAX_LEVELS`].
    #[error("the topic is longer than 8 KiB or has more than 64 levels")]
    TooLong,
    /// U+0000, which no topic holds (4.7.3).
    #[error("the topic holds a NUL")]
    Nul,
    /// `+` or `#` beside other text (4.7.1).
    #[error("'{0}' is no wildcard and no name of a level")]
    PartialWildcard(String),
    /// `#` that is not last (4.7.1.2).
    #[error("'#' stands before other levels")]
    OpenNotLast,
    /// `{...}` that is none of the placeholders, or is not a whole level.
    #[error("'{0}' is no placeholder")]
    UnknownPlaceholder(String),
    /// The same placeholder twice.
    #[error("'{0}' stands there twice")]
    Twice(&'static str),
    /// `{device}` and `{serial}`.
    #[error("'{{device}}' and '{{serial}}' both name the device")]
    DeviceTwice,
    /// `$share/...`: a rule names topics, however they are subscribed to (5.0, 4.8.2).
    #[error("a rule is about topics, and '$share' is a way to subscribe to them")]
    Share,
}

impl TopicPatternError {
    /// What to do about it.
    pub fn mend(&self) -> String {
        match self {
            Self::Empty => "write what the clients publish to, such as devices/{device}/#".into(),
            Self::TooLong => "shorten it; end it with /# to cover what is below".into(),
            Self::Nul => "leave it out".into(),
            Self::PartialWildcard(_) => {
                "let + stand for a whole level, and # for all the levels that are left".into()
            }
            Self::OpenNotLast => "use + for one level, or end the topic there".into(),
            Self::UnknownPlaceholder(_) => {
                "use {device}, {serial}, {account} or {class} as a whole level".into()
            }
            Self::Twice(_) => "use + for the second".into(),
            Self::DeviceTwice => "keep one of them, and use + for the other".into(),
            Self::Share => {
                "write the topic filter alone: it holds for shared subscriptions too".into()
            }
        }
    }
}

/// A level of a rule's topic.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Level {
    Literal(Box<str>),
    /// `+`.
    Any,
    Placeholder(Placeholder),
}

impl Level {
    fn parse(level: &str) -> Result<Self, TopicPatternError> {
        if level == "+" {
            return Ok(Self::Any);
        }
        let mut known = Placeholder::ALL.into_iter();
        if let Some(placeholder) = known.find(|one| one.as_str() == level) {
            return Ok(Self::Placeholder(placeholder));
        }
        if level.contains(['+', '#']) {
            return Err(TopicPatternError::PartialWildcard(level.into()));
        }
        if level.contains(['{', '}']) {
            return Err(TopicPatternError::UnknownPlaceholder(level.into()));
        }
        Ok(Self::Literal(level.into()))
    }

    /// Whether some level that `of_filter` matches has this shape: `of_filter` is a level's name or
    /// `+`. A level that is first, and begins with `$`, is met by its name alone (4.7.2).
    fn meets(&self, of_filter: &str, first: bool) -> bool {
        match self {
            Self::Literal(name) if of_filter == "+" => !(first && name.starts_with('$')),
            Self::Literal(name) => **name == *of_filter,
            Self::Any | Self::Placeholder(_) => !(first && of_filter.starts_with('$')),
        }
    }
}

/// The topics that a rule covers: literal levels, `+` (one level), `#` (zero or more, last), and
/// `{device}`, `{serial}`, `{account}`, `{class}` as whole levels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicPattern {
    text: Box<str>,
    levels: Box<[Level]>,
    /// Ends in `#`.
    open: bool,
}

/// How the topics of a filter lie to those of a pattern.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// None is of the pattern's shape.
    Outside,
    /// All are the pattern's, with its placeholders as they are to be.
    Inside,
    /// Some are of the pattern's shape, and not all are the pattern's; where it is one placeholder
    /// alone that another name stands in, which.
    Beyond(Option<Placeholder>),
}

impl TopicPattern {
    /// Reads a rule's topic. Literals are compared octet for octet; an empty level is a level.
    ///
    /// # Errors
    ///
    /// It is no topic that a rule can cover; [`TopicPatternError::mend`] says what to do.
    pub fn parse(text: &str) -> Result<Self, TopicPatternError> {
        if text.is_empty() {
            return Err(TopicPatternError::Empty);
        }
        if text.len() > MAX_PATTERN_OCTETS {
            return Err(TopicPatternError::TooLong);
        }
        if text.contains('\0') {
            return Err(TopicPatternError::Nul);
        }
        if text == "$share" || text.starts_with("$share/") {
            return Err(TopicPatternError::Share);
        }
        let mut levels: Vec<Level> = Vec::new();
        let mut open = false;
        for level in text.split('/') {
            if open {
                return Err(TopicPatternError::OpenNotLast);
            }
            if level == "#" {
                open = true;
            } else {
                levels.push(Level::parse(level)?);
            }
        }
        if levels.len() > MAX_LEVELS {
            return Err(TopicPatternError::TooLong);
        }
        let pattern = Self {
            text: text.into(),
            levels: levels.into_boxed_slice(),
            open,
        };
        pattern.check_placeholders()?;
        Ok(pattern)
    }

    fn check_placeholders(&self) -> Result<(), TopicPatternError> {
        for placeholder in Placeholder::ALL {
            let wanted = Level::Placeholder(placeholder);
            if self.levels.iter().filter(|level| **level == wanted).count() > 1 {
                return Err(TopicPatternError::Twice(placeholder.as_str()));
            }
        }
        if self.has(Placeholder::Device) && self.has(Placeholder::Serial) {
            return Err(TopicPatternError::DeviceTwice);
        }
        Ok(())
    }

    /// The topic as configuration writes it.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether this placeholder stands in it.
    pub fn has(&self, placeholder: Placeholder) -> bool {
        self.levels.contains(&Level::Placeholder(placeholder))
    }

    /// How a topic that is published to lies to this: inside, outside, or of its shape with another
    /// name in a placeholder's place. `value` gives what is to stand there.
    pub fn extent_of_name<'v>(
        &self,
        name: TopicName<'_>,
        value: impl Fn(Placeholder) -> Option<&'v str>,
    ) -> Extent {
        self.extent(name.levels(), value)
    }

    /// How the topics that a filter matches lie to this. `value` gives what is to stand in a
    /// placeholder's place.
    pub fn extent_of_filter<'v>(
        &self,
        filter: TopicFilter<'_>,
        value: impl Fn(Placeholder) -> Option<&'v str>,
    ) -> Extent {
        self.extent(filter.levels(), value)
    }

    fn extent<'a, 'v>(
        &self,
        mut asked: impl Iterator<Item = &'a str>,
        value: impl Fn(Placeholder) -> Option<&'v str>,
    ) -> Extent {
        // A name in a placeholder's place that is not to stand there, and whether a wildcard reaches
        // beyond the pattern.
        let (mut other, mut wide) = (None, false);
        let mut first_is_empty = false;
        for (index, level) in self.levels.iter().enumerate() {
            let first = index == 0;
            let next = asked.next();
            first_is_empty |= first && next == Some("");
            match next {
                // It stands for all that the pattern says from here on, and for more.
                Some("#") if level.meets("+", first) => return Extent::Beyond(None),
                Some(asked) if asked != "#" && level.meets(asked, first) => match level {
                    Level::Any => {}
                    Level::Literal(_) => wide |= asked == "+",
                    Level::Placeholder(_) if asked == "+" => wide = true,
                    Level::Placeholder(placeholder) => {
                        if value(*placeholder) != Some(asked) {
                            other = other.or(Some(*placeholder));
                        }
                    }
                },
                Some(_) | None => return Extent::Outside,
            }
        }
        match asked.next() {
            // `a/#` covers `a`; and `#` no topic that begins with `$` (4.7.1.2, 4.7.2).
            Some(asked) if self.open && !(self.levels.is_empty() && asked.starts_with('$')) => {}
            // Both would be for the topic that is empty alone, which there is not (4.7.3).
            None if *self.levels == [Level::Literal("".into())] => return Extent::Outside,
            Some("#") if self.levels.len() == 1 && first_is_empty => return Extent::Outside,
            None => {}
            Some("#") => wide = true,
            Some(_) => return Extent::Outside,
        }
        match (wide, other) {
            (false, None) => Extent::Inside,
            (false, Some(_)) => Extent::Beyond(other),
            (true, _) => Extent::Beyond(None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    fn value(placeholder: Placeholder) -> Option<&'static str> {
        match placeholder {
            Placeholder::Device => Some("acme:SN-1"),
            Placeholder::Serial => Some("SN-1"),
            Placeholder::Account => Some("acc-1"),
            Placeholder::Class => None,
        }
    }

    fn of_filter(pattern: &str, filter: &str) -> Extent {
        let filter = TopicFilter::new(filter).unwrap();
        TopicPattern::parse(pattern)
            .unwrap()
            .extent_of_filter(filter, value)
    }

    #[test]
    fn a_topic_that_no_rule_can_cover_is_refused_and_the_mend_is_said() {
        for (text, error) in [
            ("", TopicPatternError::Empty),
            ("a\0", TopicPatternError::Nul),
            ("a/b+", TopicPatternError::PartialWildcard("b+".into())),
            ("a/#b", TopicPatternError::PartialWildcard("#b".into())),
            ("#/a", TopicPatternError::OpenNotLast),
            ("a/#/#", TopicPatternError::OpenNotLast),
            (
                "{nobody}",
                TopicPatternError::UnknownPlaceholder("{nobody}".into()),
            ),
            (
                "a{device}",
                TopicPatternError::UnknownPlaceholder("a{device}".into()),
            ),
            ("{device}/{device}", TopicPatternError::Twice("{device}")),
            ("{device}/{serial}", TopicPatternError::DeviceTwice),
            ("$share/g/a", TopicPatternError::Share),
            ("$share", TopicPatternError::Share),
        ] {
            assert!(!error.mend().is_empty());
            assert_eq!(TopicPattern::parse(text), Err(error), "{text}");
        }
        let long = "a/".repeat(64);
        assert_eq!(TopicPattern::parse(&long), Err(TopicPatternError::TooLong));
        assert!(TopicPattern::parse(&long[..127]).is_ok());
        let long = "a".repeat(8 * 1024 + 1);
        assert_eq!(TopicPattern::parse(&long), Err(TopicPatternError::TooLong));
        assert!(TopicPattern::parse(&long[..8 * 1024]).is_ok());
        let pattern = TopicPattern::parse("/{class}/#").unwrap();
        assert_eq!(pattern.as_str(), "/{class}/#");
        assert!(pattern.has(Placeholder::Class) && !pattern.has(Placeholder::Device));
    }

    #[test]
    fn a_filter_is_inside_where_every_topic_that_it_matches_is() {
        use Placeholder::{Account, Class, Device};
        for (pattern, filter, extent) in [
            ("devices/{device}/#", "devices/acme:SN-1/#", Extent::Inside),
            ("devices/{device}/#", "devices/acme:SN-1", Extent::Inside),
            (
                "devices/{device}/#",
                "devices/acme:SN-1/+/x",
                Extent::Inside,
            ),
            (
                "devices/{device}/#",
                "$share/g/devices/acme:SN-1/x",
                Extent::Inside,
            ),
            ("devices/{device}/#", "devices/+/x", Extent::Beyond(None)),
            ("devices/{device}/#", "devices/#", Extent::Beyond(None)),
            ("devices/{device}/#", "#", Extent::Beyond(None)),
            ("devices/{device}/#", "+/acme:SN-1/x", Extent::Beyond(None)),
            (
                "devices/{device}/#",
                "devices/acme:SN-2/x",
                Extent::Beyond(Some(Device)),
            ),
            (
                "devices/{device}/#",
                "devices//x",
                Extent::Beyond(Some(Device)),
            ),
            ("devices/{device}/#", "devices", Extent::Outside),
            ("devices/{device}/#", "other/acme:SN-1/x", Extent::Outside),
            ("{account}/{device}", "acc-1/acme:SN-1", Extent::Inside),
            (
                "{account}/{device}",
                "acc-2/acme:SN-2",
                Extent::Beyond(Some(Account)),
            ),
            ("{account}/{device}", "+/acme:SN-2", Extent::Beyond(None)),
            // What is not known stands for nothing.
            ("{class}/x", "pump/x", Extent::Beyond(Some(Class))),
            ("a", "a/#", Extent::Beyond(None)),
            ("a/+", "a/+", Extent::Inside),
            ("a/+", "a/#", Extent::Beyond(None)),
            ("a/+", "a/b/c", Extent::Outside),
            ("#", "#", Extent::Inside),
            ("/#", "+", Extent::Outside),
            ("/#", "+/#", Extent::Beyond(None)),
            ("+", "/#", Extent::Outside),
            ("+/#", "/#", Extent::Inside),
            ("#", "$SYS/#", Extent::Outside),
            ("+/x", "$SYS/x", Extent::Outside),
            ("{account}/x", "$SYS/x", Extent::Outside),
            ("$SYS/#", "#", Extent::Outside),
            ("$SYS/#", "+/x", Extent::Outside),
            ("$SYS/#", "$SYS/x", Extent::Inside),
            ("$SYS/+/x", "$SYS/+/x", Extent::Inside),
        ] {
            assert_eq!(of_filter(pattern, filter), extent, "{filter} to {pattern}");
        }
    }

    #[cfg(not(target_arch = "wasm32"))]
    mod native {
        use proptest::prelude::*;

        use super::*;

        const LEVELS: [&str; 5] = ["a", "b", "", "$x", "c"];

        /// Every topic of up to four levels.
        fn names() -> Vec<String> {
            let mut all: Vec<String> = Vec::new();
            let mut last: Vec<String> = LEVELS.map(String::from).to_vec();
            for _ in 0..4 {
                all.extend(last.iter().cloned());
                let next = last
                    .iter()
                    .flat_map(|name| LEVELS.map(|level| format!("{name}/{level}")));
                last = next.collect();
            }
            all.retain(|name| !name.is_empty());
            all
        }

        fn text(levels: &'static [&'static str]) -> impl Strategy<Value = String> {
            let levels = prop::collection::vec(prop::sample::select(levels), 1..4);
            (levels, any::<bool>())
                .prop_map(|(mut levels, open)| {
                    if open {
                        levels.push("#");
                    }
                    levels.join("/")
                })
                .prop_filter("a topic", |text| !text.is_empty())
        }

        /// As [`TopicFilter`] matches: the pattern with these in its placeholders' places.
        fn matches(pattern: &str, with: &str, name: &str) -> bool {
            let filter = pattern.replace("{account}", with);
            TopicFilter::new(&filter)
                .unwrap()
                .matches(TopicName::new(name).unwrap())
        }

        proptest! {
            #[test]
            fn an_extent_is_what_the_topics_say(
                pattern in prop_oneof![
                    text(&["a", "b", "", "$x", "+"]),
                    text(&["a", "b", "", "$x", "+"])
                        .prop_map(|text| format!("{text}/{{account}}"))
                        .prop_filter("# is last", |text| !text.contains('#')),
                    text(&["a", "+", "$x"]).prop_map(|text| format!("{{account}}/{text}")),
                ],
                filter in text(&["a", "b", "", "$x", "+"]),
            ) {
                let parsed = TopicPattern::parse(&pattern).unwrap();
                let asked = TopicFilter::new(&filter).unwrap();
                let extent = parsed.extent_of_filter(asked, |_| Some("a"));
                let names = names();
                let mut asked = names
                    .iter()
                    .filter(|name| asked.matches(TopicName::new(name).unwrap()))
                    .peekable();
                prop_assert!(asked.peek().is_some());
                let (mut all, mut any) = (true, false);
                for name in asked {
                    all &= matches(&pattern, "a", name);
                    any |= matches(&pattern, "+", name);
                    let of_name = parsed.extent_of_name(TopicName::new(name).unwrap(), |_| Some("a"));
                    prop_assert_eq!(of_name == Extent::Inside, matches(&pattern, "a", name));
                    prop_assert_eq!(of_name != Extent::Outside, matches(&pattern, "+", name));
                }
                prop_assert_eq!(extent == Extent::Inside, all, "{:?}", extent);
                prop_assert_eq!(extent != Extent::Outside, any, "{:?}", extent);
            }
        }
    }
}
