//! Reads values strictly, and collects what is wrong.

use core::fmt;
use core::ops::RangeInclusive;
use core::time::Duration;

use serde::de::{self, Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use super::error::{ConfigProblem, FieldPath};
use super::schema::{SECTIONS, Section, nearest};
use crate::units::{UnitError, format_duration, parse_duration};

/// JSON in which no key stands twice.
pub(super) struct StrictValue(pub Value);

impl<'de> Deserialize<'de> for StrictValue {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(StrictVisitor).map(Self)
    }
}

struct StrictVisitor;

impl<'de> Visitor<'de> for StrictVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Value, E> {
        Number::from_f64(value)
            .map(Value::Number)
            .ok_or_else(|| E::custom("a number that is not finite"))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.into()))
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(StrictValue(item)) = items.next_element()? {
            list.push(item);
        }
        Ok(Value::Array(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        while let Some((key, StrictValue(value))) = entries.next_entry::<String, _>()? {
            if map.contains_key(&key) {
                return Err(de::Error::custom(format!(
                    "the key {key:?} stands there twice"
                )));
            }
            map.insert(key, value);
        }
        Ok(Value::Object(map))
    }
}

/// What is wrong so far.
#[derive(Default)]
pub(super) struct Problems(pub Vec<ConfigProblem>);

impl Problems {
    /// Whether something was told of this field, or of one below it.
    pub fn tells_of(&self, path: &FieldPath) -> bool {
        self.0
            .iter()
            .any(|problem| problem.path.segments().starts_with(path.segments()))
    }

    pub fn add(&mut self, path: &FieldPath, what: impl Into<String>, mend: impl Into<String>) {
        // A hostile configuration gets an answer, not an endless one.
        if self.0.len() < 100 {
            self.0.push(ConfigProblem {
                path: path.clone(),
                what: what.into(),
                mend: mend.into(),
            });
        }
    }
}

/// A value and where it stands.
#[derive(Clone)]
pub(super) struct Field<'v> {
    pub value: &'v Value,
    pub path: FieldPath,
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "nothing",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

impl<'v> Field<'v> {
    fn wrong_kind(&self, expected: &str, problems: &mut Problems) {
        let mend = if self.value.is_null() {
            format!("give it {expected}, or leave the key out")
        } else {
            format!("write {expected}")
        };
        problems.add(
            &self.path,
            format!("expected {expected}, found {}", kind(self.value)),
            mend,
        );
    }

    pub fn text(&self, problems: &mut Problems) -> Option<&'v str> {
        let text = self.value.as_str();
        if text.is_none() {
            self.wrong_kind("text", problems);
        }
        text
    }

    /// Text of 1 to `most` visible ASCII characters.
    pub fn visible(
        &self,
        most: usize,
        expected: &str,
        problems: &mut Problems,
    ) -> Option<Box<str>> {
        let text = self.text(problems)?;
        let fits =
            (1..=most).contains(&text.len()) && text.bytes().all(|octet| octet.is_ascii_graphic());
        if fits {
            return Some(text.into());
        }
        problems.add(
            &self.path,
            format!("expected {expected}: 1 to {most} visible ASCII characters"),
            "write it without blanks and other characters",
        );
        None
    }

    pub fn list(&self, problems: &mut Problems) -> Option<Vec<Field<'v>>> {
        let Some(items) = self.value.as_array() else {
            self.wrong_kind("a list", problems);
            return None;
        };
        Some(
            items
                .iter()
                .enumerate()
                .map(|(index, value)| Field {
                    value,
                    path: self.path.index(index),
                })
                .collect(),
        )
    }

    /// The entries of an object whose keys are free.
    pub fn entries(&self, problems: &mut Problems) -> Vec<(&'v str, Field<'v>)> {
        let Some(map) = self.value.as_object() else {
            self.wrong_kind("an object", problems);
            return Vec::new();
        };
        map.iter()
            .map(|(key, value)| {
                let path = self.path.key(key);
                (key.as_str(), Field { value, path })
            })
            .collect()
    }

    /// An object of this section; keys that are not the section's are problems.
    pub fn object(&self, section: &Section, problems: &mut Problems) -> Option<Object<'v>> {
        let Some(map) = self.value.as_object() else {
            self.wrong_kind("an object", problems);
            return None;
        };
        for key in map.keys() {
            if !section.keys.contains(&key.as_str()) {
                let mend = mend_unknown_key(key, section);
                problems.add(&self.path.key(key), "unknown key", mend);
            }
        }
        Some(Object {
            map,
            path: self.path.clone(),
        })
    }

    /// One of `words`.
    pub fn choice<T: Copy>(&self, words: &[(&str, T)], problems: &mut Problems) -> Option<T> {
        let text = self.text(problems)?;
        let found = words.iter().find(|(word, _)| *word == text);
        if found.is_none() {
            let known = list_words(words.iter().map(|(word, _)| *word));
            let mend = match nearest(text, words.iter().map(|(word, _)| *word)) {
                Some(word) => format!("did you mean `{word}`? Known are {known}"),
                None => format!("use one of {known}"),
            };
            problems.add(&self.path, format!("{text:?} is not known here"), mend);
        }
        found.map(|(_, value)| *value)
    }

    pub fn duration(
        &self,
        range: &RangeInclusive<Duration>,
        problems: &mut Problems,
    ) -> Option<Duration> {
        const UNITS: &str = "write a whole number and a unit (ms, s, m, h, d), such as";
        if let Value::Number(number) = self.value {
            // `900.0` is how a double may be written.
            let number = number.to_string();
            let number = number.strip_suffix(".0").unwrap_or(&number);
            problems.add(
                &self.path,
                "a duration without unit",
                format!("add the unit: \"{number}s\" for seconds, \"{number}ms\" for milliseconds"),
            );
            return None;
        }
        let Some(text) = self.value.as_str() else {
            self.wrong_kind("a duration such as \"60s\"", problems);
            return None;
        };
        let span = match parse_duration(text) {
            Ok(span) => span,
            Err(UnitError::NoUnit) => {
                problems.add(
                    &self.path,
                    "a duration without unit",
                    format!("add the unit: \"{text}s\" for seconds, \"{text}ms\" for milliseconds"),
                );
                return None;
            }
            Err(error @ (UnitError::NotANumber | UnitError::UnknownUnit | UnitError::TooLarge)) => {
                problems.add(
                    &self.path,
                    format!("{text:?} is no duration: {error}"),
                    format!("{UNITS} \"{}\"", format_duration(*range.start())),
                );
                return None;
            }
        };
        if !range.contains(&span) {
            problems.add(
                &self.path,
                format!("{text} is out of range"),
                format!(
                    "use {} to {}",
                    format_duration(*range.start()),
                    format_duration(*range.end())
                ),
            );
            return None;
        }
        Some(span)
    }

    pub fn integer(&self, range: &RangeInclusive<u32>, problems: &mut Problems) -> Option<u32> {
        let Value::Number(number) = self.value else {
            self.wrong_kind("a whole number", problems);
            return None;
        };
        // What comes by way of a protobuf Struct is a double.
        let whole = number.as_u64().or_else(|| {
            let double = number.as_f64()?;
            let fits = double.fract() == 0.0 && (0.0..=4e9).contains(&double);
            fits.then(|| format!("{double:.0}").parse().ok()).flatten()
        });
        let fits = whole
            .and_then(|whole| u32::try_from(whole).ok())
            .filter(|whole| range.contains(whole));
        if fits.is_none() {
            problems.add(
                &self.path,
                format!("{number} is out of range"),
                format!("use a whole number, {} to {}", range.start(), range.end()),
            );
        }
        fits
    }

    pub fn boolean(&self, problems: &mut Problems) -> Option<bool> {
        let value = self.value.as_bool();
        if value.is_none() {
            self.wrong_kind("true or false", problems);
        }
        value
    }
}

/// An object whose keys have been checked.
pub(super) struct Object<'v> {
    map: &'v Map<String, Value>,
    pub path: FieldPath,
}

impl<'v> Object<'v> {
    pub fn get(&self, key: &str) -> Option<Field<'v>> {
        self.map.get(key).map(|value| Field {
            value,
            path: self.path.key(key),
        })
    }

    /// A key that must be there.
    pub fn need(&self, key: &str, mend: &str, problems: &mut Problems) -> Option<Field<'v>> {
        let field = self.get(key);
        if field.is_none() {
            problems.add(&self.path.key(key), "missing", mend);
        }
        field
    }

    /// The items of a list that must be there and hold 1 to `most`.
    pub fn needed_list(
        &self,
        key: &str,
        most: usize,
        mend: &str,
        problems: &mut Problems,
    ) -> Vec<Field<'v>> {
        let Some(field) = self.need(key, mend, problems) else {
            return Vec::new();
        };
        let Some(items) = field.list(problems) else {
            return Vec::new();
        };
        if items.is_empty() {
            problems.add(&field.path, "the list is empty", mend);
        }
        if items.len() > most {
            problems.add(
                &field.path,
                format!("the list has {} items", items.len()),
                format!("at most {most} are allowed"),
            );
            return Vec::new();
        }
        items
    }

    pub fn duration(
        &self,
        key: &str,
        default: Duration,
        range: &RangeInclusive<Duration>,
        problems: &mut Problems,
    ) -> Duration {
        self.get(key)
            .and_then(|field| field.duration(range, problems))
            .unwrap_or(default)
    }

    pub fn integer(
        &self,
        key: &str,
        default: u32,
        range: &RangeInclusive<u32>,
        problems: &mut Problems,
    ) -> u32 {
        self.get(key)
            .and_then(|field| field.integer(range, problems))
            .unwrap_or(default)
    }

    pub fn boolean(&self, key: &str, default: bool, problems: &mut Problems) -> bool {
        self.get(key)
            .and_then(|field| field.boolean(problems))
            .unwrap_or(default)
    }

    pub fn choice<T: Copy + Default>(
        &self,
        key: &str,
        words: &[(&str, T)],
        problems: &mut Problems,
    ) -> T {
        self.get(key)
            .and_then(|field| field.choice(words, problems))
            .unwrap_or_default()
    }
}

fn mend_unknown_key(key: &str, section: &Section) -> String {
    let known = list_words(section.keys.iter().copied());
    let elsewhere = SECTIONS
        .iter()
        .find(|other| other.name != section.name && other.keys.contains(&key));
    let meant = nearest(key, section.keys.iter().copied());
    match (elsewhere, meant) {
        (Some(other), _) => format!(
            "`{key}` belongs to `{}`; known here are {known}",
            other.name
        ),
        (None, Some(meant)) => format!("did you mean `{meant}`?"),
        (None, None) => format!("known here are {known}"),
    }
}

/// `a`, `b`, `c`.
pub(super) fn list_words<'w>(words: impl IntoIterator<Item = &'w str>) -> String {
    let words: Vec<String> = words.into_iter().map(|word| format!("`{word}`")).collect();
    words.join(", ")
}
