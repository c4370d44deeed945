//! Figures that are taken in turn, and what can be said of them.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Takes a figure of each contender in turn (A B C A B C ...), so that whatever else the machine does happens to all of
/// them alike. A first round, in which caches are cold, does not count.
///
/// # Errors
/// The first one of `figure`.
pub fn in_turn<C, T, E>(
    contenders: &[C],
    rounds: usize,
    mut figure: impl FnMut(&C) -> Result<T, E>,
) -> Result<Vec<Vec<T>>, E> {
    let mut figures: Vec<_> = contenders
        .iter()
        .map(|_| Vec::with_capacity(rounds))
        .collect();
    for round in 0..=rounds {
        for (contender, figures) in contenders.iter().zip(&mut figures) {
            let value = figure(contender)?;
            if round > 0 {
                figures.push(value);
            }
        }
    }
    Ok(figures)
}

/// A median, and the quartiles around it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Spread {
    pub median: f64,
    pub low: f64,
    pub high: f64,
}

impl Spread {
    /// None if there are no figures.
    pub fn of(figures: &[f64]) -> Option<Self> {
        let mut sorted = figures.to_vec();
        sorted.sort_unstable_by(f64::total_cmp);
        Some(Self {
            median: quantile(&sorted, 0.5)?,
            low: quantile(&sorted, 0.25)?,
            high: quantile(&sorted, 0.75)?,
        })
    }

    /// Of the ratios to another's figures, each to the one of the same round: what a round suffers from, it suffers from
    /// as a whole.
    pub fn of_ratios(figures: &[f64], others: &[f64]) -> Option<Self> {
        let ratios: Vec<_> = figures.iter().zip(others).map(|(a, b)| a / b).collect();
        Self::of(&ratios)
    }

    /// Whether a ratio says something: the middle half of all rounds agree to 1 %, or to half of what the ratio is off
    /// from 1. By their logarithms, so that a third is as far off as three times.
    pub fn is_meaningful(&self) -> bool {
        (self.high / self.low).ln() <= f64::max(0.01, self.median.ln().abs() / 2.0)
    }
}

impl Spread {
    /// A ratio without its spread.
    pub fn brief(&self) -> String {
        if self.is_meaningful() {
            format!("{:.3}", self.median)
        } else {
            "noise".into()
        }
    }
}

/// A ratio as one would quote it, or that it says nothing.
impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { median, low, high } = self;
        if self.is_meaningful() {
            write!(f, "{median:.3} ({low:.3} to {high:.3})")
        } else {
            write!(f, "noise ({low:.3} to {high:.3})")
        }
    }
}

/// A number with no more digits than mean something.
pub fn digits(value: f64) -> String {
    match value {
        1000.0.. => format!("{value:.0}"),
        10.0.. => format!("{value:.1}"),
        _ => format!("{value:.3}"),
    }
}

/// Between the two nearest figures, as far as the rank lies between them.
fn quantile(sorted: &[f64], q: f64) -> Option<f64> {
    let rank = q * sorted.len().checked_sub(1)? as f64;
    let (below, above) = (sorted[rank.floor() as usize], sorted[rank.ceil() as usize]);
    Some(below + (above - below) * rank.fract())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everybody_has_a_turn_in_each_round() {
        let mut order = Vec::new();
        let figures = in_turn(&["a", "b"], 2, |who| {
            order.push(*who);
            Ok::<_, ()>(order.len())
        });
        assert_eq!(figures, Ok(vec![vec![3, 5], vec![4, 6]]));
        assert_eq!(order, ["a", "b", "a", "b", "a", "b"]);
    }

    #[test]
    fn quartiles_lie_between_figures() {
        let spread = Spread::of(&[4.0, 1.0, 3.0, 2.0]);
        let expected = Spread {
            median: 2.5,
            low: 1.75,
            high: 3.25,
        };
        assert_eq!(spread, Some(expected));
        assert_eq!(Spread::of(&[]), None);
    }

    #[test]
    fn ratios_are_those_of_a_round() {
        // Everything takes twice as long in the second round.
        let spread = Spread::of_ratios(&[11.0, 22.0], &[10.0, 20.0]);
        assert_eq!(
            spread.map(|ratio| (ratio.low, ratio.high)),
            Some((1.1, 1.1))
        );
    }

    #[test]
    fn a_ratio_in_the_noise_is_not_quoted() {
        let ratio = |low, median, high| Spread { median, low, high };
        assert_eq!(ratio(1.1, 1.12, 1.13).to_string(), "1.120 (1.100 to 1.130)");
        assert_eq!(
            ratio(0.97, 1.03, 1.06).to_string(),
            "noise (0.970 to 1.060)"
        );
        assert!(ratio(0.999, 1.001, 1.004).is_meaningful());
        assert!(!ratio(0.094, 0.127, 0.53).is_meaningful());
    }
}
