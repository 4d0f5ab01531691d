//! Topic names and topic filters (4.7; 5.0, 4.8.2).

use core::fmt;

use super::malformed::Malformed;

/// A topic that a message is published to: not empty, and without wildcards (4.7.1, 4.7.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TopicName<'a>(&'a str);

impl<'a> TopicName<'a> {
    /// From a topic as it stands in a packet.
    ///
    /// # Errors
    ///
    /// It is empty, or holds `+` or `#`.
    pub fn new(text: &'a str) -> Result<Self, Malformed> {
        if text.is_empty() {
            return Err(Malformed::EmptyTopic);
        }
        if text.contains(['+', '#']) {
            return Err(Malformed::WildcardInName);
        }
        Ok(Self(text))
    }

    /// As it stands in the packet.
    pub const fn as_str(self) -> &'a str {
        self.0
    }

    /// Its levels: at least one, and each may be empty.
    pub fn levels(self) -> impl Iterator<Item = &'a str> {
        self.0.split('/')
    }
}

impl fmt::Display for TopicName<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

/// What is subscribed to: a filter, and the name of the group where it is shared among its members.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TopicFilter<'a> {
    whole: &'a str,
    group: Option<&'a str>,
    filter: &'a str,
}

impl<'a> TopicFilter<'a> {
    /// From a topic filter as it stands in a packet. `$share/group/filter` is a shared subscription in
    /// 3.1.1 too: brokers that know it there do not ask for the version (5.0, 4.8.2).
    ///
    /// # Errors
    ///
    /// It is empty, or a wildcard in it is not one (4.7.1), or what is shared has no proper name or no
    /// filter.
    pub fn new(whole: &'a str) -> Result<Self, Malformed> {
        let (group, filter) = match whole.strip_prefix("$share/") {
            None if whole == "$share" => return Err(Malformed::Share),
            None => (None, whole),
            Some(shared) => {
                let (group, filter) = shared.split_once('/').ok_or(Malformed::Share)?;
                if group.is_empty() || group.contains(['+', '#']) || filter.is_empty() {
                    return Err(Malformed::Share);
                }
                (Some(group), filter)
            }
        };
        if filter.is_empty() {
            return Err(Malformed::EmptyTopic);
        }
        let mut levels = filter.split('/').peekable();
        while let Some(level) = levels.next() {
            let alone = level.len() == 1;
            let is_last = levels.peek().is_none();
            if level.contains('+') && !alone || level.contains('#') && !(alone && is_last) {
                return Err(Malformed::Wildcard);
            }
        }
        Ok(Self {
            whole,
            group,
            filter,
        })
    }

    /// As it stands in the packet.
    pub const fn as_str(self) -> &'a str {
        self.whole
    }

    /// Among whom it is shared.
    pub const fn group(self) -> Option<&'a str> {
        self.group
    }

    /// The levels of the filter, without what it is shared by. `+` and `#` stand alone in theirs, and
    /// `#` is the last.
    pub fn levels(self) -> impl Iterator<Item = &'a str> {
        self.filter.split('/')
    }

    /// Whether a message to `name` is one for this filter (4.7.1, 4.7.2): a wildcard in the first
    /// level matches nothing that begins with `$`.
    pub fn matches(self, name: TopicName<'_>) -> bool {
        let mut names = name.levels();
        let mut first = true;
        for level in self.levels() {
            let hidden = first && name.as_str().starts_with('$');
            first = false;
            match (level, names.next()) {
                // `a/#` is for `a` too.
                ("#", _) => return !hidden,
                ("+", Some(_)) if !hidden => {}
                (level, Some(of_name)) if level == of_name => {}
                (_, Some(_) | None) => return false,
            }
        }
        names.next().is_none()
    }
}

impl fmt::Display for TopicFilter<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.whole)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[test]
    fn a_name_has_no_wildcard_and_is_not_empty() {
        for (text, result) in [
            ("", Err(Malformed::EmptyTopic)),
            ("a/+", Err(Malformed::WildcardInName)),
            ("a#", Err(Malformed::WildcardInName)),
        ] {
            assert_eq!(TopicName::new(text).map(TopicName::as_str), result);
        }
        for text in ["a", "/", "//", "a/b", "/a", "a/", " ", "$SYS/x"] {
            assert_eq!(TopicName::new(text).map(TopicName::as_str), Ok(text));
        }
        let levels: Vec<_> = TopicName::new("/a/").unwrap().levels().collect();
        assert_eq!(levels, ["", "a", ""]);
    }

    #[test]
    fn wildcards_stand_alone_in_their_level() {
        for text in [
            "#", "+", "/#", "+/#", "a/#", "a/+/b", "+/+", "/+", "a/+/", "$SYS/#",
        ] {
            assert!(TopicFilter::new(text).is_ok(), "{text}");
        }
        for text in ["a#", "#/a", "a/#/b", "a+", "+a/b", "a/++", "##", "a/+#"] {
            assert_eq!(TopicFilter::new(text), Err(Malformed::Wildcard), "{text}");
        }
        assert_eq!(TopicFilter::new(""), Err(Malformed::EmptyTopic));
    }

    #[test]
    fn what_is_shared_has_a_group_and_a_filter() {
        let shared = TopicFilter::new("$share/g/a/+").unwrap();
        assert_eq!(shared.group(), Some("g"));
        assert_eq!(shared.levels().collect::<Vec<_>>(), ["a", "+"]);
        assert_eq!(shared.as_str(), "$share/g/a/+");
        // The filter may begin with a slash, and be nothing else.
        assert!(TopicFilter::new("$share/g//").is_ok());
        for text in [
            "$share",
            "$share/",
            "$share/g",
            "$share/g/",
            "$share//a",
            "$share/+/a",
            "$share/#/a",
            "$share/g#/a",
        ] {
            assert_eq!(TopicFilter::new(text), Err(Malformed::Share), "{text}");
        }
        assert_eq!(TopicFilter::new("$share/g/a#"), Err(Malformed::Wildcard));
        // Another name.
        assert_eq!(TopicFilter::new("$shared/g/a").unwrap().group(), None);
    }

    /// 4.7.1.2, 4.7.1.3, 4.7.2, with the standard's own examples.
    #[test]
    fn filters_match_as_the_standard_shows() {
        for (filter, name, matches) in [
            ("sport/tennis/player1/#", "sport/tennis/player1", true),
            (
                "sport/tennis/player1/#",
                "sport/tennis/player1/ranking",
                true,
            ),
            (
                "sport/tennis/player1/#",
                "sport/tennis/player1/score/wimbledon",
                true,
            ),
            ("sport/#", "sport", true),
            ("#", "a/b", true),
            ("sport/tennis/+", "sport/tennis/player1", true),
            ("sport/tennis/+", "sport/tennis/player1/ranking", false),
            ("sport/+", "sport", false),
            ("sport/+", "sport/", true),
            ("+/+", "/finance", true),
            ("/+", "/finance", true),
            ("+", "/finance", false),
            ("#", "$SYS/monitor", false),
            ("+/monitor/Clients", "$SYS/monitor/Clients", false),
            ("$SYS/#", "$SYS/monitor", true),
            ("$SYS/monitor/+", "$SYS/monitor/Clients", true),
            ("a/+/c", "a/b/c", true),
            ("a/+", "a/$b", true),
            ("ACCOUNTS", "Accounts", false),
            ("/a", "a", false),
            ("a/b", "a", false),
            ("a", "a/b", false),
        ] {
            let (of, to) = (
                TopicFilter::new(filter).unwrap(),
                TopicName::new(name).unwrap(),
            );
            assert_eq!(of.matches(to), matches, "{filter} {name}");
        }
    }
}
