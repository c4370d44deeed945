//! Counts tests in what the test binaries print.

use std::{fmt, ops::AddAssign};

/// How many tests there were.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub passed: usize,
    pub failed: usize,
    pub skipped: usize,
}

impl AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            passed,
            failed,
            skipped,
        } = self;
        write!(f, "{passed} passed, {failed} failed, {skipped} skipped")
    }
}

/// Reads the output of test binaries that were started with `--show-output`, line by line.
///
/// A test that cannot run here prints a line that begins with `SKIP` and returns, for which the test
/// harness has no word but "ok". It counts as skipped.
#[derive(Debug, Default)]
pub struct Reader {
    done: Counts,
    /// A test binary is between "running" and its result.
    running: bool,
    /// Inside the section that shows the output of tests that passed.
    in_successes: bool,
    /// The test whose output this is has already said that it was skipped.
    said_skip: bool,
    /// Tests of the current binary that said so.
    skips: usize,
}

impl Reader {
    /// Takes the next line.
    pub fn line(&mut self, line: &str) {
        if is_start(line) {
            self.lose_binary();
            self.running = true;
        } else if let Some(counts) = result(line) {
            self.finish(counts);
        } else if line == "successes:" || line == "failures:" {
            self.in_successes = line == "successes:";
        } else if line.starts_with("---- ") && line.ends_with(" ----") {
            self.said_skip = false;
        } else if self.in_successes && !self.said_skip && line.starts_with("SKIP") {
            self.said_skip = true;
            self.skips += 1;
        }
    }

    /// The counts over all binaries, when there is no more output.
    pub fn finished(mut self) -> Counts {
        self.lose_binary();
        self.done
    }

    fn finish(&mut self, mut counts: Counts) {
        let skips = self.skips.min(counts.passed);
        counts.passed -= skips;
        counts.skipped += skips;
        self.done += counts;
        *self = Self {
            done: self.done,
            ..Self::default()
        };
    }

    /// A binary that ends without a result has crashed, and the test that it was in has failed.
    fn lose_binary(&mut self) {
        if self.running {
            self.finish(Counts {
                failed: 1,
                ..Counts::default()
            });
        }
    }
}

/// `running 3 tests`
fn is_start(line: &str) -> bool {
    let words: Vec<_> = line.split(' ').collect();
    matches!(words[..], ["running", number, "test" | "tests"] if number.parse::<usize>().is_ok())
}

/// `test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s`
fn result(line: &str) -> Option<Counts> {
    let (_, numbers) = line.strip_prefix("test result: ")?.split_once(". ")?;
    let number = |name: &str| {
        numbers
            .split(';')
            .find_map(|part| part.trim().strip_suffix(name)?.trim().parse().ok())
    };
    Some(Counts {
        passed: number("passed")?,
        failed: number("failed")?,
        skipped: number("ignored")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(text: &str) -> Counts {
        let mut reader = Reader::default();
        text.lines().for_each(|line| reader.line(line));
        reader.finished()
    }

    fn counts(passed: usize, failed: usize, skipped: usize) -> Counts {
        Counts {
            passed,
            failed,
            skipped,
        }
    }

    const OK: &str = "test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 2 filtered out; finished in 0.01s";

    #[test]
    fn adds_up_over_binaries() {
        let failed = "test result: FAILED. 1 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out; finished in 1s";
        let text = format!("\nrunning 4 tests\ntest a ... ok\n{OK}\n\nrunning 3 tests\n{failed}\n");
        assert_eq!(count(&text), counts(4, 2, 1));
        assert_eq!(count(&text).to_string(), "4 passed, 2 failed, 1 skipped");
    }

    #[test]
    fn skipped_tests_are_not_passed() {
        let text = format!(
            "running 4 tests\nsuccesses:\n\n---- a stdout ----\nSKIP no nginx\nSKIP twice\n\n\
             ---- b stdout ----\nnot SKIP\n---- c stdout ----\nSKIP no redis\n\nsuccesses:\n    a\n    b\n{OK}\n"
        );
        assert_eq!(count(&text), counts(1, 0, 3));
    }

    #[test]
    fn failed_test_stays_failed_whatever_it_printed() {
        let text = "running 1 test\nfailures:\n\n---- a stdout ----\nSKIP this\npanicked\n\n\
                    test result: FAILED. 0 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out\n";
        assert_eq!(count(text), counts(0, 1, 0));
    }

    #[test]
    fn crashed_binary_is_a_failure() {
        assert_eq!(count("running 2 tests\ntest a ... ok\n"), counts(0, 1, 0));
        let text = format!("running 2 tests\ntest a ... ok\nrunning 4 tests\n{OK}\n");
        assert_eq!(count(&text), counts(3, 1, 1));
    }

    #[test]
    fn other_lines_do_not_count() {
        for line in [
            "running some tests",
            "test result: strange",
            "SKIP outside",
            "running 1 test more",
        ] {
            assert_eq!(count(line), counts(0, 0, 0), "{line}");
        }
        assert_eq!(count(""), counts(0, 0, 0));
    }
}
