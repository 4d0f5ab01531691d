//! How many tests went how, and which were left out?

/// How many tests went how.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    passed: u64,
    failed: u64,
    skipped: u64,
    /// The tests that were left out, by name and with the reason, as far as their runner says.
    skips: Vec<String>,
}

impl Tally {
    /// A test passed.
    pub fn has_passed(&mut self) {
        self.passed += 1;
    }

    /// Something failed that no runner counted.
    pub fn has_failed(&mut self) {
        self.failed = self.failed.max(1);
    }

    /// A test is left out: `name: reason`.
    pub fn skip(&mut self, skip: &str) {
        self.skipped += 1;
        self.skips.push(skip.to_owned());
    }

    /// A step has ended. One in which nothing passed has failed, whatever was left out: it says
    /// nothing of what it is there for.
    pub fn close(&mut self) {
        if self.passed == 0 {
            self.has_failed();
        }
        for number in self.skips.len()..usize::try_from(self.skipped).unwrap_or(usize::MAX) {
            let skip = format!("number {}, which its runner does not name", number + 1);
            self.skips.push(skip);
        }
    }

    /// Whether all is well.
    pub const fn is_green(&self) -> bool {
        self.failed == 0 && self.passed > 0
    }

    /// Adds what another one counted.
    pub fn add(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
        self.skips.extend(other.skips);
    }

    /// What was left out.
    pub fn skips(&self) -> &[String] {
        &self.skips
    }

    /// In one line.
    pub fn line(&self) -> String {
        let Self {
            passed,
            failed,
            skipped,
            skips: _,
        } = self;
        if *skipped == 0 {
            format!("{passed} passed, {failed} failed")
        } else {
            format!("{passed} passed, {failed} failed, {skipped} skipped")
        }
    }

    /// Reads a line of a test runner. `true`: it was a closing line, and is counted.
    pub fn read(&mut self, line: &str) -> bool {
        if let Some(closing) = Self::parse(line) {
            self.add(closing);
            return true;
        }
        if let Some(skip) = skip_in(line) {
            self.skips.push(skip);
        }
        false
    }

    /// Reads a closing line of a test runner: `test result: ok. 3 passed; 0 failed; 1 ignored`
    /// of cargo test, or `3 passed, 0 failed, 1 skipped` of our own.
    fn parse(line: &str) -> Option<Self> {
        let line = line.trim();
        let counts = match line.strip_prefix("test result: ") {
            Some(rest) => rest.split_once(". ")?.1,
            None if line.starts_with(|first: char| first.is_ascii_digit()) => line,
            None => return None,
        };
        let mut tally = Self::default();
        let mut seen = 0;
        for part in counts.split([';', ',']) {
            let Some((number, word)) = part.trim().split_once(' ') else {
                continue;
            };
            let Ok(number) = number.parse::<u64>() else {
                continue;
            };
            match word {
                "passed" => tally.passed = number,
                "failed" => tally.failed = number,
                "ignored" | "skipped" => tally.skipped = number,
                _ => continue,
            }
            seen += 1;
        }
        (seen >= 2).then_some(tally)
    }
}

/// The test that a line says is left out, and why: `skip  NAME: REASON` of our own runners,
/// `test NAME ... ignored, REASON` of cargo test.
fn skip_in(line: &str) -> Option<String> {
    let line = line.trim();
    if let Some(skip) = line.strip_prefix("skip  ") {
        return Some(skip.to_owned());
    }
    let (name, reason) = line.strip_prefix("test ")?.split_once(" ... ignored")?;
    let reason = reason.strip_prefix(", ").unwrap_or("it does not say why");
    Some(format!("{name}: {reason}"))
}

#[cfg(test)]
mod tests {
    use super::Tally;

    fn read(lines: &[&str]) -> Tally {
        let mut tally = Tally::default();
        for line in lines {
            tally.read(line);
        }
        tally
    }

    #[test]
    fn the_closing_lines_of_test_runners_are_read() {
        let cargo = read(&[
            "test result: FAILED. 3 passed; 2 failed; 1 ignored; 0 measured; 7 filtered out",
        ]);
        assert_eq!((cargo.passed, cargo.failed, cargo.skipped), (3, 2, 1));
        let own = read(&["12 passed, 0 failed, 4 skipped"]);
        assert_eq!((own.passed, own.failed, own.skipped), (12, 0, 4));
        let none = read(&[
            "",
            "test a::b ... ok",
            "3 passed",
            "1 of 2 passed",
            "running 3 tests",
        ]);
        assert_eq!(none, Tally::default());
    }

    #[test]
    fn what_is_left_out_is_told_by_name_with_the_reason() {
        let mut tally = read(&[
            "pass  a device is served (1.0ms)",
            "skip  a key that may not sign: Envoy refuses it",
            "test slow::one ... ignored, takes an hour",
            "test slow::two ... ignored",
            "test result: ok. 1 passed; 0 failed; 2 ignored; 0 measured",
            "1 passed, 0 failed, 2 skipped",
        ]);
        tally.close();
        assert_eq!(
            tally.skips(),
            [
                "a key that may not sign: Envoy refuses it",
                "slow::one: takes an hour",
                "slow::two: it does not say why",
                "number 4, which its runner does not name",
            ]
        );
        assert!(tally.is_green());
    }

    #[test]
    fn a_step_in_which_nothing_passed_has_failed() {
        let mut nothing = Tally::default();
        let mut skipped = Tally::default();
        skipped.skip("all of it: no daemon");
        let mut failed = read(&["0 passed, 2 failed"]);
        for (tally, line) in [
            (&mut nothing, "0 passed, 1 failed"),
            (&mut skipped, "0 passed, 1 failed, 1 skipped"),
            (&mut failed, "0 passed, 2 failed"),
        ] {
            tally.close();
            assert_eq!(tally.line(), line);
            assert!(!tally.is_green());
        }
        let mut all = read(&["7 passed, 0 failed"]);
        all.close();
        assert!(all.is_green());
        // And so has the whole.
        all.add(nothing);
        assert!(!all.is_green());
    }
}
