//! When: one point in time, as facts carry it.

use core::fmt;
use core::str::FromStr;
use core::time::Duration;

use crate::text::serde_as_text;

/// A point in time: milliseconds since 1970-01-01T00:00:00Z, leap seconds not counted (POSIX).
///
/// On the wire it is RFC 3339 text (`2026-11-24T16:20:00Z`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(i64);

/// Text that is no RFC 3339 date and time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not an RFC 3339 date and time such as 2026-11-24T16:20:00Z: {0}")]
pub struct TimestampError(&'static str);

impl Timestamp {
    /// The last moment that can be written down: what never ends, ends here.
    pub const MAX: Self = Self(i64::MAX);

    /// From milliseconds since the Unix epoch.
    pub const fn from_unix_millis(millis: i64) -> Self {
        Self(millis)
    }

    /// From whole seconds since the Unix epoch; saturates.
    pub const fn from_unix_seconds(seconds: i64) -> Self {
        Self(seconds.saturating_mul(1000))
    }

    /// From a `NumericDate` (RFC 7519, 2): seconds since the Unix epoch, which may have a fraction.
    /// `None` for what is no such number, and before the epoch.
    pub fn from_numeric_date(seconds: f64) -> Option<Self> {
        let since = Duration::try_from_secs_f64(seconds).ok()?;
        Some(Self(0).after(since))
    }

    /// Milliseconds since the Unix epoch.
    pub const fn unix_millis(self) -> i64 {
        self.0
    }

    /// Whole seconds since the Unix epoch, rounded down.
    pub const fn unix_seconds(self) -> i64 {
        self.0.div_euclid(1000)
    }

    /// This much later; saturates.
    #[must_use]
    pub fn after(self, span: Duration) -> Self {
        let millis = i64::try_from(span.as_millis()).unwrap_or(i64::MAX);
        Self(self.0.saturating_add(millis))
    }

    /// How long after `earlier` this is; zero where it is not after it.
    pub fn since(self, earlier: Self) -> Duration {
        let millis = self.0.saturating_sub(earlier.0);
        Duration::from_millis(u64::try_from(millis).unwrap_or(0))
    }
}

impl FromStr for Timestamp {
    type Err = TimestampError;

    /// RFC 3339, 5.6, with its zone; `T` and `Z` in either case. A leap second is the second after
    /// it (POSIX), and what is finer than a millisecond is cut off.
    fn from_str(text: &str) -> Result<Self, TimestampError> {
        let mut reader = Reader(text.as_bytes());
        let year = reader.number(4)?;
        reader.one_of(b"-")?;
        let month = reader.number(2)?;
        reader.one_of(b"-")?;
        let day = reader.number(2)?;
        if !(1..=12).contains(&month) || !(1..=days_of_month(year, month)).contains(&day) {
            return Err(TimestampError("there is no such day"));
        }
        reader.one_of(b"Tt")?;
        let hour = reader.number(2)?;
        reader.one_of(b":")?;
        let minute = reader.number(2)?;
        reader.one_of(b":")?;
        let second = reader.number(2)?;
        if hour > 23 || minute > 59 || second > 60 {
            return Err(TimestampError("there is no such time of day"));
        }
        let millis = reader.fraction()?;
        let offset_minutes = reader.zone()?;
        let minutes = hour
            .saturating_mul(60)
            .saturating_add(minute)
            .saturating_sub(offset_minutes);
        let seconds = days_since_1970(year, month, day)
            .saturating_mul(86_400)
            .saturating_add(minutes.saturating_mul(60))
            .saturating_add(second);
        Ok(Self(seconds.saturating_mul(1_000).saturating_add(millis)))
    }
}

/// What is left of the text.
struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn next(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    fn digit(&mut self) -> Option<i64> {
        let digit = char::from(*self.0.first()?).to_digit(10)?;
        self.next();
        Some(i64::from(digit))
    }

    fn number(&mut self, digits: u8) -> Result<i64, TimestampError> {
        (0..digits).try_fold(0_i64, |number, _| {
            let digit = self.digit().ok_or(TimestampError("a digit is missing"))?;
            Ok(number.saturating_mul(10).saturating_add(digit))
        })
    }

    fn one_of(&mut self, octets: &[u8]) -> Result<u8, TimestampError> {
        self.next()
            .filter(|octet| octets.contains(octet))
            .ok_or(TimestampError("it is not YYYY-MM-DDThh:mm:ss and a zone"))
    }

    /// Milliseconds.
    fn fraction(&mut self) -> Result<i64, TimestampError> {
        if self.0.first() != Some(&b'.') {
            return Ok(0);
        }
        self.next();
        let mut millis = self
            .digit()
            .ok_or(TimestampError("a digit is missing"))?
            .saturating_mul(100);
        for weight in [10, 1] {
            let digit = self.digit().unwrap_or(0);
            millis = millis.saturating_add(digit.saturating_mul(weight));
        }
        while self.digit().is_some() {}
        Ok(millis)
    }

    /// How far the zone is ahead of UTC, in minutes; and the end of the text.
    fn zone(&mut self) -> Result<i64, TimestampError> {
        let missing = TimestampError("the zone is missing; write Z for UTC");
        let sign = match self.next().ok_or(missing)? {
            b'Z' | b'z' => 0,
            b'+' => 1,
            b'-' => -1,
            _ => return Err(missing),
        };
        let mut minutes = 0;
        if sign != 0 {
            let hours = self.number(2)?;
            self.one_of(b":")?;
            let more = self.number(2)?;
            if hours > 23 || more > 59 {
                return Err(TimestampError("there is no such zone"));
            }
            minutes = hours.saturating_mul(60).saturating_add(more);
        }
        if self.0.is_empty() {
            Ok(minutes.saturating_mul(sign))
        } else {
            Err(TimestampError("something stands behind the zone"))
        }
    }
}

const fn is_leap_year(year: i64) -> bool {
    year.rem_euclid(4) == 0 && (year.rem_euclid(100) != 0 || year.rem_euclid(400) == 0)
}

const fn days_of_month(year: i64, month: i64) -> i64 {
    match month {
        2 if is_leap_year(year) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Days from 1970-01-01 to a day of the proleptic Gregorian calendar (Howard Hinnant's
/// `days_from_civil`: years that begin in March, in eras of 400).
const fn days_since_1970(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 {
        year.saturating_sub(1)
    } else {
        year
    };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let month_from_march = month.saturating_add(9).rem_euclid(12);
    let day_of_year = month_from_march
        .saturating_mul(153)
        .saturating_add(2)
        .div_euclid(5)
        .saturating_add(day)
        .saturating_sub(1);
    let day_of_era = year_of_era
        .saturating_mul(365)
        .saturating_add(year_of_era.div_euclid(4))
        .saturating_sub(year_of_era.div_euclid(100))
        .saturating_add(day_of_year);
    era.saturating_mul(146_097)
        .saturating_add(day_of_era)
        .saturating_sub(719_468)
}

/// Year, month and day of a day counted from 1970-01-01 (the same, the other way round).
const fn day_of_calendar(days: i64) -> (i64, i64, i64) {
    let days = days.saturating_add(719_468);
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era = day_of_era
        .saturating_sub(day_of_era.div_euclid(1_460))
        .saturating_add(day_of_era.div_euclid(36_524))
        .saturating_sub(day_of_era.div_euclid(146_096))
        .div_euclid(365);
    let before = year_of_era
        .saturating_mul(365)
        .saturating_add(year_of_era.div_euclid(4))
        .saturating_sub(year_of_era.div_euclid(100));
    let day_of_year = day_of_era.saturating_sub(before);
    let month_from_march = day_of_year
        .saturating_mul(5)
        .saturating_add(2)
        .div_euclid(153);
    let month_begins = month_from_march
        .saturating_mul(153)
        .saturating_add(2)
        .div_euclid(5);
    let day = day_of_year.saturating_sub(month_begins).saturating_add(1);
    let month = month_from_march
        .saturating_add(2)
        .rem_euclid(12)
        .saturating_add(1);
    let year = era.saturating_mul(400).saturating_add(year_of_era);
    let year = if month <= 2 {
        year.saturating_add(1)
    } else {
        year
    };
    (year, month, day)
}

impl fmt::Display for Timestamp {
    /// RFC 3339 in UTC, with no more digits of the second than it has; what lies outside the years
    /// 0000 to 9999 cannot be written so, and is `unix:<ms>`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (year, month, day) = day_of_calendar(self.0.div_euclid(86_400_000));
        if !(0..=9_999).contains(&year) {
            return write!(f, "unix:{}", self.0);
        }
        let of_day = self.0.rem_euclid(86_400_000);
        let hour = of_day.div_euclid(3_600_000);
        let minute = of_day.div_euclid(60_000).rem_euclid(60);
        let second = of_day.div_euclid(1_000).rem_euclid(60);
        write!(
            f,
            "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}"
        )?;
        match of_day.rem_euclid(1_000) {
            0 => {}
            millis if millis.rem_euclid(100) == 0 => write!(f, ".{}", millis.div_euclid(100))?,
            millis if millis.rem_euclid(10) == 0 => write!(f, ".{:02}", millis.div_euclid(10))?,
            millis => write!(f, ".{millis:03}")?,
        }
        f.write_str("Z")
    }
}

serde_as_text!(Timestamp);

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[test]
    fn rfc3339_is_read_and_written_in_utc() {
        let at: Timestamp = "2026-11-24T17:20:00.25+01:00".parse().unwrap();
        assert_eq!(at.to_string(), "2026-11-24T16:20:00.25Z");
        assert_eq!(at.unix_seconds(), 1_795_537_200);
    }

    #[test]
    fn a_date_without_a_zone_is_no_point_in_time() {
        assert!("2026-11-24T16:20:00".parse::<Timestamp>().is_err());
        assert!("2026-11-24".parse::<Timestamp>().is_err());
        assert!("soon".parse::<Timestamp>().is_err());
    }

    #[test]
    fn a_numeric_date_is_read_and_what_is_none_is_not() {
        let read = |seconds| Timestamp::from_numeric_date(seconds).map(Timestamp::unix_millis);
        assert_eq!(read(1_795_537_200.0), Some(1_795_537_200_000));
        assert_eq!(read(1.25), Some(1_250));
        assert_eq!(read(0.0), Some(0));
        assert_eq!(read(1e18), Some(i64::MAX));
        for seconds in [-1.0, f64::NAN, f64::INFINITY, 1e300] {
            assert_eq!(read(seconds), None, "{seconds}");
        }
    }

    #[test]
    fn the_ends_of_time_saturate() {
        assert_eq!(Timestamp::MAX.after(Duration::from_secs(1)), Timestamp::MAX);
        assert_eq!(Timestamp(5).since(Timestamp(9)), Duration::ZERO);
        assert_eq!(Timestamp(-1).unix_seconds(), -1);
    }

    #[test]
    fn text_that_is_no_moment_is_refused() {
        for text in [
            "",
            "2026-11-24T16:20:00",
            "2026-11-24 16:20:00Z",
            "2026-11-24T16:20Z",
            "2026-11-24T16:20:00Z ",
            "2026-02-29T00:00:00Z",
            "2026-13-01T00:00:00Z",
            "2026-00-01T00:00:00Z",
            "2026-04-31T00:00:00Z",
            "2026-04-00T00:00:00Z",
            "2026-11-24T24:00:00Z",
            "2026-11-24T16:60:00Z",
            "2026-11-24T16:20:61Z",
            "2026-11-24T16:20:00.Z",
            "2026-11-24T16:20:00+1:00",
            "2026-11-24T16:20:00+24:00",
            "+026-11-24T16:20:00Z",
            "2026-11-24T16:20:00\u{661}Z",
        ] {
            assert!(text.parse::<Timestamp>().is_err(), "{text}");
        }
    }

    #[test]
    fn every_day_of_the_calendar_is_written_and_read_as_another_library_does() {
        // One moment in each day from the year 0000 to 9999, at another time of day each.
        let first = days_since_1970(0, 1, 1);
        let last = days_since_1970(9_999, 12, 31);
        for day in (first..=last).step_by(if cfg!(debug_assertions) { 11 } else { 1 }) {
            let millis = day * 86_400_000 + (day * 7_919_333).rem_euclid(86_400_000);
            let text = Timestamp(millis).to_string();
            let theirs = jiff::Timestamp::from_millisecond(millis)
                .unwrap()
                .to_string();
            assert_eq!(text, theirs);
            assert_eq!(text.parse(), Ok(Timestamp(millis)));
        }
        assert_eq!(
            Timestamp(-62_167_219_200_001).to_string(),
            "unix:-62167219200001"
        );
        assert_eq!(Timestamp::MAX.to_string(), format!("unix:{}", i64::MAX));
    }

    #[test]
    fn zones_fractions_and_leap_seconds_are_read() {
        let read = |text: &str| text.parse::<Timestamp>().unwrap().to_string();
        for (text, utc) in [
            ("2026-11-24t16:20:00.1239z", "2026-11-24T16:20:00.123Z"),
            ("2026-11-24T00:20:00+05:45", "2026-11-23T18:35:00Z"),
            ("2026-12-31T20:20:00-08:00", "2027-01-01T04:20:00Z"),
            ("2016-12-31T23:59:60Z", "2017-01-01T00:00:00Z"),
            ("2024-02-29T12:00:00.05-00:00", "2024-02-29T12:00:00.05Z"),
        ] {
            assert_eq!(read(text), utc, "{text}");
        }
    }
}
