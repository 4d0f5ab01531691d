//! The configuration as Envoy hands it over where it was written as YAML: a
//! `google.protobuf.Struct` in its binary form, not as JSON.
//!
//! Envoy unwraps a `StringValue` and a `BytesValue`, and passes every other message on as its
//! octets.

use serde_json::{Map, Number, Value};

/// The deepest nesting that is read.
const MAX_DEPTH: u32 = 32;

/// Wire types (protobuf encoding, "Message Structure").
const VARINT: u64 = 0;
const FIXED_64: u64 = 1;
const LENGTH_DELIMITED: u64 = 2;

/// Reads a whole `google.protobuf.Struct`; `None` where the octets are no such message, or name a
/// field twice.
pub(super) fn read_struct(octets: &[u8]) -> Option<Value> {
    structure(octets, MAX_DEPTH).map(Value::Object)
}

/// What a field of a message holds.
enum Payload<'a> {
    Varint(u64),
    Fixed64([u8; 8]),
    Octets(&'a [u8]),
}

fn varint(input: &mut &[u8]) -> Option<u64> {
    let mut value = 0_u64;
    for shift in (0..64).step_by(7) {
        let (octet, rest) = input.split_first()?;
        *input = rest;
        value |= u64::from(octet & 0x7f).checked_shl(shift)?;
        if octet & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

/// The next field's number and payload.
fn field<'a>(input: &mut &'a [u8]) -> Option<(u64, Payload<'a>)> {
    let tag = varint(input)?;
    let payload = match tag & 7 {
        VARINT => Payload::Varint(varint(input)?),
        FIXED_64 => {
            let (octets, rest) = input.split_first_chunk()?;
            *input = rest;
            Payload::Fixed64(*octets)
        }
        LENGTH_DELIMITED => {
            let length = usize::try_from(varint(input)?).ok()?;
            let (octets, rest) = input.split_at_checked(length)?;
            *input = rest;
            Payload::Octets(octets)
        }
        // Fail closed: nothing else stands in these messages.
        _ => return None,
    };
    Some((tag.checked_shr(3)?, payload))
}

fn text(octets: &[u8]) -> Option<String> {
    core::str::from_utf8(octets).ok().map(str::to_owned)
}

/// `Struct`: field 1, a map entry of key (1) and value (2), repeated.
fn structure(mut input: &[u8], depth: u32) -> Option<Map<String, Value>> {
    let depth = depth.checked_sub(1)?;
    let mut map = Map::new();
    while !input.is_empty() {
        let (1, Payload::Octets(mut entry)) = field(&mut input)? else {
            return None;
        };
        let (mut key, mut held) = (String::new(), Value::Null);
        while !entry.is_empty() {
            match field(&mut entry)? {
                (1, Payload::Octets(octets)) => key = text(octets)?,
                (2, Payload::Octets(octets)) => held = value(octets, depth)?,
                _ => return None,
            }
        }
        if map.insert(key, held).is_some() {
            return None;
        }
    }
    Some(map)
}

/// `Value`: one of null (1), number (2), string (3), bool (4), struct (5), list (6).
fn value(mut input: &[u8], depth: u32) -> Option<Value> {
    let read = match field(&mut input)? {
        (1, Payload::Varint(_)) => Value::Null,
        (2, Payload::Fixed64(octets)) => {
            Value::Number(Number::from_f64(f64::from_le_bytes(octets))?)
        }
        (3, Payload::Octets(octets)) => Value::String(text(octets)?),
        (4, Payload::Varint(number)) => Value::Bool(number != 0),
        (5, Payload::Octets(octets)) => Value::Object(structure(octets, depth)?),
        (6, Payload::Octets(octets)) => Value::Array(list(octets, depth)?),
        _ => return None,
    };
    input.is_empty().then_some(read)
}

/// `ListValue`: field 1, a value, repeated.
fn list(mut input: &[u8], depth: u32) -> Option<Vec<Value>> {
    let depth = depth.checked_sub(1)?;
    let mut values = Vec::new();
    while !input.is_empty() {
        let (1, Payload::Octets(octets)) = field(&mut input)? else {
            return None;
        };
        values.push(value(octets, depth)?);
    }
    Some(values)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::read_struct;

    fn varint(mut number: usize) -> Vec<u8> {
        let mut octets = Vec::new();
        loop {
            let low = u8::try_from(number & 0x7f).unwrap();
            number >>= 7;
            if number == 0 {
                octets.push(low);
                return octets;
            }
            octets.push(low | 0x80);
        }
    }

    fn delimited(number: u8, content: &[u8]) -> Vec<u8> {
        [&[number << 3 | 2][..], &varint(content.len()), content].concat()
    }

    fn write_value(value: &Value) -> Vec<u8> {
        match value {
            Value::Null => vec![0x08, 0],
            Value::Number(number) => {
                [&[0x11][..], &number.as_f64().unwrap().to_le_bytes()].concat()
            }
            Value::String(text) => delimited(3, text.as_bytes()),
            Value::Bool(yes) => vec![0x20, u8::from(*yes)],
            Value::Object(_) => delimited(5, &write_struct(value)),
            Value::Array(items) => {
                let items = items.iter().map(write_value);
                let list = items
                    .flat_map(|item| delimited(1, &item))
                    .collect::<Vec<_>>();
                delimited(6, &list)
            }
        }
    }

    fn write_struct(value: &Value) -> Vec<u8> {
        let entries = value.as_object().unwrap().iter();
        entries
            .flat_map(|(key, value)| {
                let entry = [
                    delimited(1, key.as_bytes()),
                    delimited(2, &write_value(value)),
                ];
                delimited(1, &entry.concat())
            })
            .collect()
    }

    fn example() -> Value {
        json!({
            "role": "http", "rules": [{"path": "/v1/**", "principals": ["device"]}, {}, []],
            "text": "x".repeat(300), "none": null, "yes": true, "no": false, "number": 15.5, "deep": {"a": {"b": [1.0]}},
        })
    }

    #[test]
    fn what_was_written_as_a_struct_is_read_as_it_was() {
        assert_eq!(read_struct(&write_struct(&example())), Some(example()));
        assert_eq!(read_struct(&[]), Some(json!({})));
    }

    #[test]
    fn every_cut_is_noticed_or_ends_between_two_fields() {
        let octets = write_struct(&example());
        let whole = example();
        for end in 0..octets.len() {
            if let Some(value) = read_struct(&octets[..end]) {
                assert!(value.as_object().unwrap().len() < whole.as_object().unwrap().len());
            }
        }
    }

    #[test]
    fn a_field_that_is_there_twice_is_no_configuration() {
        let once = write_struct(&json!({"role": "http"}));
        assert_eq!(read_struct(&[once.clone(), once].concat()), None);
    }

    #[test]
    fn nesting_has_an_end() {
        let mut value = json!({});
        for _ in 0..40 {
            value = json!({"a": value});
        }
        assert_eq!(read_struct(&write_struct(&value)), None);
    }

    #[test]
    fn text_and_json_are_no_struct() {
        for octets in [
            &b"role: http"[..],
            b"{}",
            b"\n{}",
            b"\n\n{\"role\": \"http\"}\n",
            b"\n  {\n\"a\": 1}",
            b"[]",
        ] {
            assert_eq!(read_struct(octets), None, "{}", octets.escape_ascii());
        }
    }

    #[test]
    fn a_number_that_is_none_is_refused() {
        let nan = [&[0x11][..], &f64::NAN.to_le_bytes()].concat();
        let entry = [delimited(1, b"a"), delimited(2, &nan)].concat();
        assert_eq!(read_struct(&delimited(1, &entry)), None);
    }
}
