//! The case for a cause: what speaks for it and against it, weighed.
//!
//! Each piece of evidence adds to or takes from the logarithm of the odds, as independent pieces do (I. J. Good's weight of
//! evidence, 1950). The weights are judgement, in steps that have names; what they come to is held against labelled
//! incidents in the tests.

use crate::stream::{Cause, CauseKind};

/// By how much a piece of evidence moves the logarithm of the odds: to 1.6, 4.5 and 12 to one.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Weight {
    Slight,
    Clear,
    Strong,
}

impl Weight {
    fn log_odds(self) -> f64 {
        match self {
            Self::Slight => 0.5,
            Self::Clear => 1.5,
            Self::Strong => 2.5,
        }
    }
}

/// Collects what speaks for and against a cause.
pub struct Case {
    cause: CauseKind,
    log_odds: f64,
    supporting: Vec<String>,
    against: Vec<String>,
    next: Vec<String>,
}

impl Case {
    /// Even odds: what was flagged suggests this cause, and nothing else is known.
    pub fn open(cause: CauseKind) -> Self {
        Self {
            cause,
            log_odds: 0.0,
            supporting: Vec::new(),
            against: Vec::new(),
            next: Vec::new(),
        }
    }

    /// Which cause.
    pub fn cause(&self) -> CauseKind {
        self.cause
    }

    /// Does anything speak for it?
    pub fn is_supported(&self) -> bool {
        !self.supporting.is_empty()
    }

    /// This speaks for it.
    pub fn supported(&mut self, weight: Weight, why: impl Into<String>) {
        self.log_odds += weight.log_odds();
        self.supporting.push(why.into());
    }

    /// This speaks against it.
    pub fn opposed(&mut self, weight: Weight, why: impl Into<String>) {
        self.log_odds -= weight.log_odds();
        self.against.push(why.into());
    }

    /// A command that would tell more.
    pub fn next(&mut self, command: impl Into<String>) {
        self.next.push(command.into());
    }

    /// The cause with its confidence, to two digits.
    pub fn close(self) -> Cause {
        let confidence = 1.0 / (1.0 + (-self.log_odds).exp());
        Cause {
            cause: self.cause,
            confidence: (100.0 * confidence).round() / 100.0,
            supporting: self.supporting,
            against: self.against,
            next: self.next,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn evidence_adds_up() {
        let confidence = |cause: &Cause| (100.0 * cause.confidence).round() as u32;
        assert_eq!(confidence(&Case::open(CauseKind::Steal).close()), 50);
        let mut open = Case::open(CauseKind::Steal);
        open.supported(Weight::Clear, "a");
        open.opposed(Weight::Clear, "b");
        open.supported(Weight::Strong, "c");
        let cause = open.close();
        assert_eq!(confidence(&cause), 92);
        assert_eq!(cause.supporting, ["a", "c"]);
        assert_eq!(cause.against, ["b"]);
    }
}
