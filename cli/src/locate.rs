//! Where in the file does it stand? YAML and JSON read as a tree that knows its lines.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};
use serde_saphyr::Spanned;

/// A value and the line where it begins, from 1; 0 where it is not known.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// The value.
    pub kind: Kind,
    /// Its line in the file.
    pub line: u64,
}

/// The values of JSON, which YAML's are read as.
#[derive(Clone, Debug, PartialEq)]
pub enum Kind {
    /// Nothing.
    Null,
    /// True or false.
    Bool(bool),
    /// A number.
    Number(Number),
    /// Text.
    Text(String),
    /// A list.
    List(Vec<Node>),
    /// Fields in the order of the file.
    Map(Vec<(String, Node)>),
}

/// Why a file is neither YAML nor JSON.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SyntaxError {
    /// Its line, from 1; 0 where it is not known.
    pub line: u64,
    /// What is wrong.
    pub what: String,
}

impl Node {
    /// Reads the documents of a file. Empty ones are left out.
    pub fn parse(text: &str) -> Result<Vec<Self>, SyntaxError> {
        Self::parse_from(text, 0)
    }

    /// Reads documents that stand inside another file, whose first line is the line after
    /// `before` there.
    pub fn parse_from(text: &str, before: u64) -> Result<Vec<Self>, SyntaxError> {
        let documents: Vec<Spanned<Raw>> =
            serde_saphyr::from_multiple(text).map_err(|error| SyntaxError {
                line: error
                    .location()
                    .map_or(0, |at| at.line().saturating_add(before)),
                what: first_line(&error),
            })?;
        let documents = documents.into_iter().map(|raw| node(raw, before));
        Ok(documents.filter(|node| node.kind != Kind::Null).collect())
    }

    /// The field of a map.
    pub fn get(&self, name: &str) -> Option<&Self> {
        self.fields()
            .find(|(field, _)| *field == name)
            .map(|(_, node)| node)
    }

    /// Follows field names.
    pub fn at(&self, names: &[&str]) -> Option<&Self> {
        names.iter().try_fold(self, |node, name| node.get(name))
    }

    /// The text of a field.
    pub fn text_of(&self, name: &str) -> Option<&str> {
        self.get(name)?.text()
    }

    /// The text.
    pub fn text(&self) -> Option<&str> {
        match &self.kind {
            Kind::Text(text) => Some(text),
            Kind::Null | Kind::Bool(_) | Kind::Number(_) | Kind::List(_) | Kind::Map(_) => None,
        }
    }

    /// Whether it is `true`.
    pub fn is_true(&self) -> bool {
        self.kind == Kind::Bool(true)
    }

    /// The fields of a map; of anything else none.
    pub fn fields(&self) -> impl Iterator<Item = (&str, &Self)> {
        let fields = match &self.kind {
            Kind::Map(fields) => fields.as_slice(),
            Kind::Null | Kind::Bool(_) | Kind::Number(_) | Kind::Text(_) | Kind::List(_) => &[],
        };
        fields.iter().map(|(name, node)| (name.as_str(), node))
    }

    /// The items of a list; of anything else none.
    pub fn items(&self) -> &[Self] {
        match &self.kind {
            Kind::List(items) => items,
            Kind::Null | Kind::Bool(_) | Kind::Number(_) | Kind::Text(_) | Kind::Map(_) => &[],
        }
    }

    /// As JSON.
    pub fn to_json(&self) -> Value {
        match &self.kind {
            Kind::Null => Value::Null,
            Kind::Bool(truth) => Value::Bool(*truth),
            Kind::Number(number) => Value::Number(number.clone()),
            Kind::Text(text) => Value::String(text.clone()),
            Kind::List(items) => Value::Array(items.iter().map(Self::to_json).collect()),
            Kind::Map(fields) => {
                let fields = fields
                    .iter()
                    .map(|(name, node)| (name.clone(), node.to_json()));
                Value::Object(fields.collect::<Map<_, _>>())
            }
        }
    }

    /// The line of a field path such as `rules[2].principals`: of the nearest part of it that is
    /// there.
    pub fn line_of(&self, path: &str) -> u64 {
        self.follow(path).1
    }

    /// The text at a field path, as far as there is one.
    pub fn text_at(&self, path: &str) -> Option<&str> {
        self.follow(path).0.text()
    }

    /// The node at a field path, or the last one on the way to it, and its line.
    fn follow(&self, path: &str) -> (&Self, u64) {
        let mut node = self;
        let mut line = self.line;
        for part in path.split(['.', '[']) {
            let next = match part.strip_suffix(']') {
                Some(index) => index
                    .parse()
                    .ok()
                    .and_then(|index: usize| node.items().get(index)),
                None => node.get(part),
            };
            let Some(next) = next else { break };
            node = next;
            line = if next.line == 0 { line } else { next.line };
        }
        (node, line)
    }
}

/// The message without the excerpt of the file that follows it.
fn first_line(error: &serde_saphyr::Error) -> String {
    let text = error.without_snippet().to_string();
    text.lines()
        .next()
        .unwrap_or("not YAML and not JSON")
        .to_owned()
}

fn node(raw: Spanned<Raw>, before: u64) -> Node {
    let line = match raw.referenced.line() {
        0 => 0,
        line => line.saturating_add(before),
    };
    let kind = match raw.value {
        Raw::Null => Kind::Null,
        Raw::Bool(truth) => Kind::Bool(truth),
        Raw::Number(number) => Kind::Number(number),
        Raw::Text(text) => Kind::Text(text),
        Raw::List(items) => Kind::List(items.into_iter().map(|raw| node(raw, before)).collect()),
        Raw::Map(fields) => {
            let fields = fields
                .into_iter()
                .map(|(name, raw)| (name, node(raw, before)));
            Kind::Map(fields.collect())
        }
    };
    Node { kind, line }
}

enum Raw {
    Null,
    Bool(bool),
    Number(Number),
    Text(String),
    List(Vec<Spanned<Raw>>),
    Map(Vec<(String, Spanned<Raw>)>),
}

impl<'de> Deserialize<'de> for Raw {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(RawVisitor)
    }
}

struct RawVisitor;

impl<'de> Visitor<'de> for RawVisitor {
    type Value = Raw;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<Raw, E> {
        Ok(Raw::Null)
    }

    fn visit_none<E>(self) -> Result<Raw, E> {
        Ok(Raw::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Raw, D::Error> {
        Raw::deserialize(deserializer)
    }

    fn visit_bool<E>(self, truth: bool) -> Result<Raw, E> {
        Ok(Raw::Bool(truth))
    }

    fn visit_i64<E>(self, number: i64) -> Result<Raw, E> {
        Ok(Raw::Number(number.into()))
    }

    fn visit_u64<E>(self, number: u64) -> Result<Raw, E> {
        Ok(Raw::Number(number.into()))
    }

    fn visit_f64<E>(self, number: f64) -> Result<Raw, E> {
        let finite = Number::from_f64(number).map(Raw::Number);
        Ok(finite.unwrap_or_else(|| Raw::Text(number.to_string())))
    }

    fn visit_str<E>(self, text: &str) -> Result<Raw, E> {
        Ok(Raw::Text(text.to_owned()))
    }

    fn visit_string<E>(self, text: String) -> Result<Raw, E> {
        Ok(Raw::Text(text))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Raw, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(Raw::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Raw, A::Error> {
        let mut map = Vec::new();
        while let Some(field) = fields.next_entry()? {
            map.push(field);
        }
        Ok(Raw::Map(map))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(text: &str) -> Node {
        Node::parse(text).unwrap().remove(0)
    }

    #[test]
    fn yaml_is_read_as_the_json_that_it_means() {
        let text = "a: 1\nb: [true, null, '1', 10s, -2.5]\nc:\n  - {d: \"x\"}\ne: |\n  line\n  two\nf: &x 15m\ng: *x\n";
        let expected = serde_json::json!({
            "a": 1, "b": [true, null, "1", "10s", -2.5], "c": [{"d": "x"}], "e": "line\ntwo\n",
            "f": "15m", "g": "15m",
        });
        assert_eq!(one(text).to_json(), expected);
        assert_eq!(one(&expected.to_string()).to_json(), expected);
        let pretty = serde_json::to_string_pretty(&expected).unwrap();
        assert_eq!(one(&pretty).to_json(), expected);
        assert_eq!(one(&pretty.replace("  ", "\t")).to_json(), expected);
    }

    #[test]
    fn a_field_path_leads_to_its_line_or_to_the_nearest_that_is_there() {
        let root =
            one("role: http\nrules:\n  - path: /a\n  - path: /b\n    methods:\n      - GET\n");
        for (path, line) in [
            ("role", 1),
            ("rules[0].path", 3),
            ("rules[1]", 4),
            ("rules[1].methods[0]", 6),
            ("rules[1].principals", 4),
            ("rules[7].path", 3),
            ("nothing", 1),
            ("", 1),
        ] {
            assert_eq!(root.line_of(path), line, "{path}");
        }
    }

    #[test]
    fn documents_are_read_one_by_one_with_the_lines_of_the_file() {
        let documents = Node::parse("---\na: 1\n---\n---\nb: 2\n").unwrap();
        let lines: Vec<u64> = documents.iter().map(|node| node.line_of("b")).collect();
        assert_eq!(lines, [2, 5]);
        let inner = Node::parse_from("b: 2\n", 10).unwrap().remove(0);
        assert_eq!(inner.line_of("b"), 11);
    }

    #[test]
    fn what_is_no_yaml_is_refused_with_its_line() {
        for (text, line) in [
            ("a: 1\nb: [\n", 3),
            ("a: 1\n\tb: 2\n", 2),
            ("a: 1\na: 2\n", 2),
            ("{\"a\": \"b", 1),
        ] {
            let error = Node::parse(text).unwrap_err();
            assert!(error.line.abs_diff(line) <= 1, "{text:?}: {error:?}");
            assert!(!error.what.is_empty() && !error.what.contains('\n'));
        }
    }
}
