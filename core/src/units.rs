//! How long, how much? Durations and sizes as configuration writes them: a number and its unit.

use core::time::Duration;

/// Text that is no duration or no size.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnitError {
    /// Only digits.
    #[error("the number has no unit")]
    NoUnit,
    /// Not digits followed by a unit.
    #[error("it is not a whole number followed by a unit")]
    NotANumber,
    /// A unit that is not known.
    #[error("the unit is not known")]
    UnknownUnit,
    /// Does not fit.
    #[error("the number is too large")]
    TooLarge,
}

/// Milliseconds in each unit of a duration.
const DURATION_UNITS: [(&str, u64); 5] = [
    ("ms", 1),
    ("s", 1_000),
    ("m", 60_000),
    ("h", 3_600_000),
    ("d", 86_400_000),
];

/// Octets in each unit of a size.
const SIZE_UNITS: [(&str, u64); 4] = [
    ("B", 1),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
];

/// Reads a duration: a whole number and one of `ms`, `s`, `m`, `h`, `d` (`50ms`, `60s`, `15m`).
pub fn parse_duration(text: &str) -> Result<Duration, UnitError> {
    parse(text, &DURATION_UNITS).map(Duration::from_millis)
}

/// Reads a size in octets: a whole number and one of `B`, `KiB`, `MiB`, `GiB` (`64MiB`).
pub fn parse_size(text: &str) -> Result<u64, UnitError> {
    parse(text, &SIZE_UNITS)
}

fn parse(text: &str, units: &[(&str, u64)]) -> Result<u64, UnitError> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at_checked(digits).ok_or(UnitError::NotANumber)?;
    if number.is_empty() {
        return Err(UnitError::NotANumber);
    }
    if unit.is_empty() {
        return Err(UnitError::NoUnit);
    }
    if !unit.bytes().all(|b| b.is_ascii_alphabetic()) {
        return Err(UnitError::NotANumber);
    }
    let (_, scale) = units
        .iter()
        .find(|(name, _)| *name == unit)
        .ok_or(UnitError::UnknownUnit)?;
    let number: u64 = number.parse().map_err(|_| UnitError::TooLarge)?;
    number.checked_mul(*scale).ok_or(UnitError::TooLarge)
}

/// Writes a duration the way [`parse_duration`] reads it, in the largest unit that is exact.
pub fn format_duration(span: Duration) -> String {
    let millis = u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
    let unit = DURATION_UNITS
        .iter()
        .rev()
        .find(|(_, scale)| millis != 0 && millis.checked_rem(*scale) == Some(0));
    match unit {
        Some((name, scale)) => format!("{}{name}", millis.checked_div(*scale).unwrap_or(0)),
        None => format!("{millis}ms"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[test]
    fn a_duration_is_a_number_and_its_unit() {
        for (text, millis) in [
            ("50ms", 50),
            ("60s", 60_000),
            ("15m", 900_000),
            ("1h", 3_600_000),
            ("2d", 172_800_000),
            ("0s", 0),
        ] {
            assert_eq!(
                parse_duration(text),
                Ok(Duration::from_millis(millis)),
                "{text}"
            );
        }
    }

    #[test]
    fn what_is_not_a_number_and_a_unit_is_an_error() {
        for (text, error) in [
            ("", UnitError::NotANumber),
            ("60", UnitError::NoUnit),
            ("s", UnitError::NotANumber),
            ("-1s", UnitError::NotANumber),
            ("+1s", UnitError::NotANumber),
            ("1.5h", UnitError::NotANumber),
            ("1h30m", UnitError::NotANumber),
            ("60 s", UnitError::NotANumber),
            ("60s ", UnitError::NotANumber),
            ("60S", UnitError::UnknownUnit),
            ("60sec", UnitError::UnknownUnit),
            ("18446744073709551616s", UnitError::TooLarge),
            ("18446744073709551615d", UnitError::TooLarge),
            ("\u{664}s", UnitError::NotANumber),
        ] {
            assert_eq!(parse_duration(text), Err(error), "{text}");
        }
    }

    #[test]
    fn a_size_is_in_octets() {
        assert_eq!(parse_size("64MiB"), Ok(64 << 20));
        assert_eq!(parse_size("1KiB"), Ok(1024));
        assert_eq!(parse_size("7B"), Ok(7));
        assert_eq!(parse_size("64MB"), Err(UnitError::UnknownUnit));
        assert_eq!(parse_size("64"), Err(UnitError::NoUnit));
        assert_eq!(parse_size("99999999999GiB"), Err(UnitError::TooLarge));
    }

    #[test]
    fn a_written_duration_reads_back() {
        for text in ["50ms", "90s", "15m", "1h", "1d", "0ms", "1500ms"] {
            assert_eq!(format_duration(parse_duration(text).unwrap()), text);
        }
    }
}
