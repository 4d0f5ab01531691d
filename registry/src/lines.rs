//! What does each line of an import say? NDJSON, CSV, or one JSON object.

use std::io::Read as _;

use crate::enrol::{BadLine, COLUMNS, COLUMNS_NEEDED, Enrolment};

/// The longest line, in octets.
pub(crate) const MAX_LINE_OCTETS: usize = 16 << 10;

/// How an import is written.
#[derive(Clone, Debug)]
pub(crate) enum Format {
    /// One JSON object a line.
    Ndjson,
    /// One JSON object, over as many lines as it likes.
    Json,
    /// The columns in the first line.
    Csv,
}

/// A line of the body: its number from 1, and its octets, or nothing where it is too long.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Line {
    number: u64,
    octets: Option<Vec<u8>>,
}

/// Cuts chunks into lines, and keeps no more of a line than a line may have.
#[derive(Debug, Default)]
pub(crate) struct Lines {
    taken: u64,
    begun: Vec<u8>,
    too_long: bool,
}

impl Lines {
    /// The next whole line, and what is left of the chunk; `None`: the chunk is used up.
    pub fn take<'c>(&mut self, chunk: &'c [u8], max: usize) -> Option<(Line, &'c [u8])> {
        let end = chunk.iter().position(|octet| *octet == b'\n');
        let (part, rest) = match end {
            Some(end) => {
                let (part, rest) = chunk.split_at_checked(end)?;
                (part, rest.get(1..))
            }
            None => (chunk, None),
        };
        if self.too_long || self.begun.len().saturating_add(part.len()) > max {
            self.too_long = true;
            self.begun.clear();
        } else {
            self.begun.extend_from_slice(part);
        }
        rest.map(|rest| (self.end_line(), rest))
    }

    fn end_line(&mut self) -> Line {
        self.taken = self.taken.saturating_add(1);
        let octets = core::mem::take(&mut self.begun);
        let too_long = core::mem::take(&mut self.too_long);
        Line {
            number: self.taken,
            octets: (!too_long).then_some(octets),
        }
    }

    /// The last line, where it has no line feed.
    pub fn last(&mut self) -> Option<Line> {
        (self.too_long || !self.begun.is_empty()).then(|| self.end_line())
    }
}

/// Turns lines into enrolments.
#[derive(Clone, Debug)]
pub(crate) struct Reader {
    format: Format,
    /// The columns, once the first line of a CSV file was read.
    columns: Option<csv::StringRecord>,
    /// A CSV file whose first line names no usable columns: nothing in it can be read.
    unusable: bool,
    /// What was read of one JSON object.
    object: Vec<u8>,
}

/// What a line says, with its number.
pub(crate) type Found = Result<(u64, Enrolment), BadLine>;

impl Reader {
    /// At the beginning of a body.
    pub fn new(format: Format) -> Self {
        Self {
            format,
            columns: None,
            unusable: false,
            object: Vec::new(),
        }
    }

    /// What a line says; `None` for an empty one and for the columns of a CSV file.
    pub fn read(&mut self, line: Line) -> Option<Found> {
        let number = line.number;
        let bad = |error: String| {
            Some(Err(BadLine {
                line: number,
                error,
            }))
        };
        let Some(octets) = line.octets else {
            // Without its columns no line can be read.
            self.unusable |= matches!(self.format, Format::Csv) && self.columns.is_none();
            return bad(format!("the line is longer than {MAX_LINE_OCTETS} octets"));
        };
        let octets = if number == 1 {
            octets.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(&octets)
        } else {
            &octets
        };
        if octets.trim_ascii().is_empty() || self.unusable {
            return None;
        }
        match self.format {
            Format::Ndjson if !octets.trim_ascii_start().starts_with(b"{") => {
                bad("the line is no JSON object".to_owned())
            }
            Format::Ndjson => match serde_json::from_slice(octets) {
                Ok(enrolment) => Some(Ok((number, enrolment))),
                Err(error) => bad(json_error(&error)),
            },
            Format::Json => {
                if self.object.len().saturating_add(octets.len()) > MAX_LINE_OCTETS {
                    self.unusable = true;
                    return bad(format!(
                        "the object is longer than {MAX_LINE_OCTETS} octets"
                    ));
                }
                self.object.extend_from_slice(octets);
                self.object.push(b'\n');
                None
            }
            Format::Csv => match self.read_csv(octets) {
                Ok(Some(enrolment)) => Some(Ok((number, enrolment))),
                Ok(None) => None,
                Err(error) => bad(error),
            },
        }
    }

    /// What is to be said at the end of the body.
    pub fn rest(&mut self) -> Vec<Found> {
        if !matches!(self.format, Format::Json) || self.unusable {
            return Vec::new();
        }
        let object = core::mem::take(&mut self.object);
        if !object.trim_ascii_start().starts_with(b"{") {
            let error = "the body is no JSON object".to_owned();
            return vec![Err(BadLine { line: 1, error })];
        }
        let read = serde_json::from_slice(&object)
            .map(|enrolment| (1, enrolment))
            .map_err(|error| BadLine {
                line: 1,
                error: error.to_string(),
            });
        vec![read]
    }

    fn read_csv(&mut self, octets: &[u8]) -> Result<Option<Enrolment>, String> {
        let record = one_record(octets).inspect_err(|_| self.unusable |= self.columns.is_none())?;
        let Some(columns) = &self.columns else {
            check_columns(&record).inspect_err(|_| self.unusable = true)?;
            self.columns = Some(record);
            return Ok(None);
        };
        if record.len() != columns.len() {
            return Err(format!(
                "{} fields, and the first line names {} columns",
                record.len(),
                columns.len()
            ));
        }
        let field = |column: &str| {
            let place = columns.iter().position(|named| named == column)?;
            record.get(place)
        };
        Enrolment::from_fields(field).map(Some)
    }
}

/// The one record of a line. Devices stand on lines, so that each is reported by its number: what
/// another reader would take for more than one record, or for a part of one, is refused.
fn one_record(line: &[u8]) -> Result<csv::StringRecord, String> {
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    if line.contains(&b'\r') {
        return Err(
            "a carriage return stands inside the line: end lines with LF or CR LF".to_owned(),
        );
    }
    // A quote that is still open takes in the end of the line, and the line that is put behind it.
    let with_end = line.chain(b"\nend\n".as_slice());
    let mut reader = csv::ReaderBuilder::new()
        .has_headers(false)
        .flexible(true)
        .trim(csv::Trim::All)
        .terminator(csv::Terminator::Any(b'\n'))
        .from_reader(with_end);
    let mut next = || {
        let mut record = csv::StringRecord::new();
        let read = reader.read_record(&mut record);
        read.map(|there| there.then_some(record))
            .map_err(|_| "the line is no UTF-8 text".to_owned())
    };
    let record = next()?.unwrap_or_default();
    match next()? {
        Some(end) if end == ["end"][..] => Ok(record),
        Some(_) | None => Err("a quote is not closed: a quoted line break is not taken".to_owned()),
    }
}

fn check_columns(columns: &csv::StringRecord) -> Result<(), String> {
    let expected = COLUMNS.join(",");
    for (index, column) in columns.iter().enumerate() {
        if !COLUMNS.contains(&column) {
            let column: String = column.chars().take(40).collect();
            return Err(format!(
                "column {column:?} is not known; expected {expected}"
            ));
        }
        if columns.iter().take(index).any(|earlier| earlier == column) {
            return Err(format!("column {column} stands twice"));
        }
    }
    for needed in COLUMNS.iter().take(COLUMNS_NEEDED) {
        if !columns.iter().any(|column| column == *needed) {
            return Err(format!("column {needed} is missing; expected {expected}"));
        }
    }
    Ok(())
}

/// The message without "at line 1": the line is the answer's own field.
fn json_error(error: &serde_json::Error) -> String {
    let text = error.to_string();
    match text.rsplit_once(" at line 1 column ") {
        Some((words, column)) => format!("{words} (column {column})"),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(chunks: &[&[u8]], max: usize) -> Vec<Line> {
        let mut lines = Lines::default();
        let mut found = Vec::new();
        for chunk in chunks {
            let mut rest = *chunk;
            while let Some((line, after)) = lines.take(rest, max) {
                rest = after;
                found.push(line);
            }
        }
        found.extend(lines.last());
        found
    }

    #[test]
    fn lines_do_not_depend_on_how_the_body_is_cut() {
        let body = b"one\n\ntoo long by far\nlast";
        let expected: Vec<Line> = [Some("one"), Some(""), None, Some("last")]
            .iter()
            .zip(1..)
            .map(|(text, number)| Line {
                number,
                octets: text.map(Into::into),
            })
            .collect();
        for cut in 0..body.len() {
            let (head, tail) = body.split_at(cut);
            assert_eq!(lines(&[head, tail], 5), expected, "{cut}");
        }
        let octets: Vec<&[u8]> = body.chunks(1).collect();
        assert_eq!(lines(&octets, 5), expected);
    }

    fn read(format: Format, text: &str) -> Vec<Result<String, String>> {
        let mut reader = Reader::new(format);
        let mut found: Vec<Found> = Vec::new();
        for line in lines(&[text.as_bytes()], MAX_LINE_OCTETS) {
            found.extend(reader.read(line));
        }
        found.extend(reader.rest());
        found
            .into_iter()
            .map(|read| match read {
                Ok((line, enrolment)) => Ok(format!("{line} {enrolment:?}")),
                Err(BadLine { line, error }) => Err(format!("{line} {error}")),
            })
            .collect()
    }

    const HASH: &str = "9e81e602b6127cd328ecc60a9472e4591044b3b9fd19a35fb276e2714f7e48b5";

    #[test]
    fn a_csv_file_says_what_json_lines_say() {
        let pin = "ab".repeat(32);
        let ndjson = format!(
            "\n{{\"device\":\"acme:SN1\",\"code\":\"0000-0000-0001-1\",\"secret_hash\":\"{HASH}\",\
             \"class\":\"cgm\",\"pins\":[\"{pin}\"],\"expires_at\":\"2030-01-01T00:00:00Z\"}}\r\n\
             {{\"device\":\"acme:SN2\",\"code\":\"0000000000022\",\"secret_hash\":\"{HASH}\",\
             \"class\":\"cgm\"}}"
        );
        let csv = format!(
            "code,device,secret_hash,class,expires_at,pins\r\n\
             0000-0000-0001-1,acme:SN1,{HASH},\"cgm\",2030-01-01T00:00:00Z,{pin}\r\n\
             0000000000022,acme:SN2,{HASH},cgm,,\r\n"
        );
        let found = read(Format::Ndjson, &ndjson);
        assert!(found.iter().all(Result::is_ok), "{found:?}");
        assert_eq!(read(Format::Csv, &csv), found);
        let object = ndjson.lines().nth(1).unwrap().replace(',', ",\n");
        let one = read(Format::Json, &object);
        assert_eq!(one.len(), 1);
        assert!(one[0].is_ok(), "{one:?}");
    }

    #[test]
    fn what_is_wrong_with_a_line_is_said_with_its_number() {
        let good = format!(
            "{{\"device\":\"acme:SN1\",\"code\":\"0000-0000-0001-1\",\"secret_hash\":\"{HASH}\",\
             \"class\":\"cgm\"}}"
        );
        for (line, error) in [
            ("{", "1 EOF while parsing an object (column 1)".to_owned()),
            ("\u{FEFF}[]", "1 the line is no JSON object".to_owned()),
            (
                &good.replace("class", "klass"),
                "1 unknown field `klass`".to_owned(),
            ),
            (
                &good.replace("SN1", "a/b"),
                "1 the serial is not in canonical form".to_owned(),
            ),
            (
                &good.replace("0001-1", "0001-2"),
                "1 the last character does not fit".to_owned(),
            ),
            (
                &good.replace(HASH, "00"),
                "1 a secret_hash is 64 lower-case hex digits".to_owned(),
            ),
            (
                &good.replace(",\"class\":\"cgm\"", ""),
                "1 missing field `class`".to_owned(),
            ),
            (
                &"x".repeat(MAX_LINE_OCTETS + 1),
                "1 the line is longer than".to_owned(),
            ),
        ] {
            let found = read(Format::Ndjson, line);
            let [Err(found)] = found.as_slice() else {
                panic!("{line}: {found:?}")
            };
            assert!(found.starts_with(&error), "{line}: {found}");
        }
        let good_csv =
            format!("device,code,secret_hash,class\nacme:SN1,0000-0000-0001-1,{HASH},cgm\n");
        assert!(read(Format::Csv, &good_csv)[0].is_ok());
        for (csv, errors) in [
            (
                "device,code\nx,y\n",
                vec!["1 column secret_hash is missing"],
            ),
            (
                "device,colour\nx,y\n",
                vec!["1 column \"colour\" is not known"],
            ),
            ("device,device\nx,y\n", vec!["1 column device stands twice"]),
            (
                "device,code,secret_hash,class\na,b,c\nacme:SN1,0000-0000-0001-2,x,cgm\n",
                vec![
                    "2 3 fields, and the first line names 4 columns",
                    "3 code: the last character",
                ],
            ),
            (
                &good_csv.replace('\n', "\r"),
                vec!["1 a carriage return stands inside the line"],
            ),
            (
                &good_csv.replace("cgm\n", "cgm\r\r\n"),
                vec!["2 a carriage return stands inside the line"],
            ),
            (
                &good_csv.replace("cgm\n", "\"c\ngm\"\n"),
                vec![
                    "2 a quote is not closed: a quoted line break is not taken",
                    "3 1 fields, and the first line names 4 columns",
                ],
            ),
            // The quotes are even in number, and the last one is open.
            (
                &good_csv
                    .replace("acme:SN1,", "ac\"me:SN1,")
                    .replace("cgm", "\"cgm"),
                vec!["2 a quote is not closed"],
            ),
            (
                &good_csv.replace("device,", "\"device,"),
                vec!["1 a quote is not closed"],
            ),
            (
                &format!("{}\n{good_csv}", "x".repeat(MAX_LINE_OCTETS + 1)),
                vec!["1 the line is longer than"],
            ),
        ] {
            let found = read(Format::Csv, csv);
            assert_eq!(found.len(), errors.len(), "{found:?}");
            for (found, error) in found.iter().zip(errors) {
                let found = found.as_ref().unwrap_err();
                assert!(found.starts_with(error), "{csv}: {found}");
            }
        }
    }
}
