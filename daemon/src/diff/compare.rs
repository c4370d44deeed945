//! Two series of a subject: what is more, what is less, and how sure that is.

use std::{collections::BTreeMap, slice};

use serde::Serialize;

use super::{
    quantity::{self, Quantity, Unit},
    series::{Series, align},
    side::Subject,
    uncertainty::{FEWEST, Interval, Mean},
    waits::{Distribution, Waits, longer, mean_log},
};

/// Intervals of all figures of a report together are right with this probability.
pub const CONFIDENCE: f64 = 0.95;

/// Waits that a quantile takes: ten above it.
const FOR_P99: u64 = 1_000;
const FOR_P999: u64 = 10_000;

/// Waits in a bin whose own quantile is part of the quartiles.
const FOR_BIN: u64 = 100;

/// What is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Figure {
    /// Run-queue delay: geometric mean of the waits.
    Delay,
    /// Its 99th percentile.
    DelayP99,
    /// Its 99.9th percentile.
    DelayP999,
    /// What windows count.
    #[serde(untagged)]
    Quantity(Quantity),
}

/// What the two periods come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// More in B: the interval of the ratio is above 1, and not all of it within the threshold.
    More,
    /// Less in B.
    Less,
    /// It may be either, and by how much is not known well enough.
    Unclear,
    /// The interval is within the threshold.
    Same,
}

/// A figure in one period.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Level {
    /// Windows in which it was measured, or bins of several.
    pub bins: usize,
    /// Over the whole period: what the ratio is made of.
    pub mean: f64,
    /// Of the bins; absent if none of them has waits enough for a quantile of its own.
    #[serde(flatten)]
    pub quartiles: Option<Quartiles>,
}

/// How a figure is distributed over bins.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Quartiles {
    /// The lower one.
    pub low_quartile: f64,
    /// The middle one.
    pub median: f64,
    /// The upper one.
    pub high_quartile: f64,
}

/// B by A.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Ratio {
    /// The estimate.
    pub value: f64,
    /// Its interval; absent with too few windows. The upper end is absent if there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub low: Option<f64>,
    /// Upper end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub high: Option<f64>,
}

/// A figure of a subject in both periods.
#[derive(Clone, Debug, Serialize)]
pub struct Comparison {
    /// Of whom.
    #[serde(flatten)]
    pub subject: Subject,
    /// What.
    pub figure: Figure,
    /// In what.
    pub unit: Unit,
    /// In the one.
    pub a: Level,
    /// In the other.
    pub b: Level,
    /// Absent if one of them is zero.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ratio: Option<Ratio>,
    /// What they come to.
    pub verdict: Verdict,
    /// Why there is no interval.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// Logarithm of the ratio at the end of its interval that is nearest to 1: the effect that is sure.
    #[serde(skip)]
    pub sure: f64,
}

/// All waits of a subject in both periods.
#[derive(Clone, Debug, Serialize)]
pub struct Delays {
    /// Of whom.
    #[serde(flatten)]
    pub subject: Subject,
    /// In the one.
    pub a: Quantiles,
    /// In the other.
    pub b: Quantiles,
    /// Is a wait of B longer than one of A?
    pub longer: Longer,
}

/// Waits of a period.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Quantiles {
    /// How many.
    pub count: u64,
    /// Per window.
    pub per_window: f64,
    /// Interpolated within the histogram's buckets.
    pub p50_ns: f64,
    /// 90 %.
    pub p90_ns: f64,
    /// 99 %.
    pub p99_ns: f64,
    /// 99.9 %.
    pub p999_ns: f64,
    /// The longest.
    pub max_ns: u64,
}

/// The effect size of waits.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Longer {
    /// That a random wait of B is longer than one of A, ties by halves (A of Vargha and Delaney): 0.5 is no effect.
    pub probability: f64,
    /// Its interval; absent with too few windows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub low: Option<f64>,
    /// Upper end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub high: Option<f64>,
    /// The same from -1 to 1, 0 being no effect.
    pub cliffs_delta: f64,
}

/// Two series with bins of the same length, and the histograms of all of each.
struct Pair {
    subject: Subject,
    a: Series,
    b: Series,
    waits: [Vec<Waits>; 2],
    all: Option<[Distribution; 2]>,
}

impl Figure {
    /// In what it is counted.
    pub fn unit(self) -> Unit {
        match self {
            Self::Quantity(quantity) => quantity.unit(),
            _ => Unit::Ns,
        }
    }

    /// Is more of it worse? More switches and steal are not the service's doing: there is more to do, or the host is
    /// busy.
    pub fn is_worse_if_more(self) -> bool {
        !matches!(self, Self::Quantity(Quantity::Switches | Quantity::Steal))
    }

    /// The quantile of waits that it is.
    fn share(self) -> Option<f64> {
        match self {
            Self::DelayP99 => Some(0.99),
            Self::DelayP999 => Some(0.999),
            _ => None,
        }
    }
}

/// What two sides come to.
#[derive(Debug, Default)]
pub struct Compared {
    /// The surest and largest effects first.
    pub figures: Vec<Comparison>,
    /// All waits.
    pub delays: Vec<Delays>,
    /// What was measured in one of them only: in which not, and for how many subjects.
    pub unmeasured: BTreeMap<(&'static str, Quantity), usize>,
}

/// Compares what is in both. Changes of up to `threshold`, as a share, are none.
pub fn compare(
    a: BTreeMap<Subject, Series>,
    mut b: BTreeMap<Subject, Series>,
    threshold: f64,
) -> Compared {
    let pairs: Vec<Pair> = a
        .into_iter()
        .filter_map(|(subject, a)| b.remove(&subject).map(|b| Pair::new(subject, a, b)))
        .collect();
    let figures: Vec<(&Pair, Vec<Figure>)> =
        pairs.iter().map(|pair| (pair, pair.figures())).collect();
    let judged: usize = figures.iter().map(|(_, figures)| figures.len()).sum();
    // Bonferroni: of twenty figures at 5 %, one would differ in every comparison.
    let risk = (1.0 - CONFIDENCE) / judged.max(1) as f64;
    let mut compared: Vec<Comparison> = figures
        .iter()
        .flat_map(|(pair, figures)| {
            figures
                .iter()
                .filter_map(|figure| pair.compare(*figure, risk, threshold))
        })
        .collect();
    compared.sort_by(|one, other| {
        let rank = |c: &Comparison| match c.verdict {
            Verdict::More | Verdict::Less => 0,
            Verdict::Unclear => 1,
            Verdict::Same => 2,
        };
        let size = |c: &Comparison| {
            c.ratio
                .map_or(f64::INFINITY, |ratio| ratio.value.ln().abs())
        };
        rank(one)
            .cmp(&rank(other))
            .then(other.sure.total_cmp(&one.sure))
            .then(size(other).total_cmp(&size(one)))
    });
    let mut unmeasured = BTreeMap::new();
    for missing in pairs.iter().flat_map(Pair::unmeasured) {
        *unmeasured.entry(missing).or_default() += 1;
    }
    Compared {
        figures: compared,
        delays: pairs.iter().filter_map(|pair| pair.delays(risk)).collect(),
        unmeasured,
    }
}

impl Pair {
    fn new(subject: Subject, mut a: Series, mut b: Series) -> Self {
        align(&mut a, &mut b);
        let waits = [&a, &b].map(|series| series.waits().cloned().collect::<Vec<_>>());
        let all = Distribution::of(waits[0].iter()).zip(Distribution::of(waits[1].iter()));
        Self {
            subject,
            a,
            b,
            waits,
            all: all.map(|(a, b)| [a, b]),
        }
    }

    /// Those that both have, and one of them not only as zero.
    fn figures(&self) -> Vec<Figure> {
        let mut figures = Vec::new();
        if let Some(all) = &self.all {
            let least = all[0].total().min(all[1].total());
            let of_waits = [
                (Figure::Delay, 1),
                (Figure::DelayP99, FOR_P99),
                (Figure::DelayP999, FOR_P999),
            ];
            figures.extend(
                of_waits
                    .iter()
                    .filter(|(_, needed)| least >= *needed)
                    .map(|(figure, _)| *figure),
            );
        }
        let quantities: &[Quantity] = if self.subject.threads.is_some() {
            &quantity::OF_THREADS
        } else {
            &quantity::ALL
        };
        for &quantity in quantities {
            let means = Mean::of(self.a.parts(quantity)).zip(Mean::of(self.b.parts(quantity)));
            if means.is_some_and(|(a, b)| a.value > 0.0 || b.value > 0.0) {
                figures.push(Figure::Quantity(quantity));
            }
        }
        figures
    }

    /// What one of the two has, and the other has not.
    fn unmeasured(&self) -> impl Iterator<Item = (&'static str, Quantity)> {
        quantity::ALL.into_iter().filter_map(|quantity| {
            let is_known = |series: &Series| series.parts(quantity).any(|part| part.by > 0.0);
            match (is_known(&self.a), is_known(&self.b)) {
                (false, true) => Some(("A", quantity)),
                (true, false) => Some(("B", quantity)),
                _ => None,
            }
        })
    }

    fn compare(&self, figure: Figure, risk: f64, threshold: f64) -> Option<Comparison> {
        let (change, mut interval) = self.change(figure, risk)?;
        let levels = [0, 1].map(|side| self.level(figure, side));
        let [a, b] = [levels[0]?, levels[1]?];
        let few = [("A", a.bins), ("B", b.bins)]
            .into_iter()
            .find(|(_, bins)| *bins < FEWEST);
        let why = few.map(|(side, bins)| {
            format!("{side} has {bins} windows of it; an interval takes {FEWEST}")
        });
        if why.is_some() {
            interval = None;
        }
        let verdict = verdict(interval, threshold.ln_1p());
        let ratio = change.is_finite().then(|| Ratio {
            value: change.exp(),
            low: interval.map(|interval| interval.low.exp()),
            high: interval
                .map(|interval| interval.high.exp())
                .filter(|high| high.is_finite()),
        });
        let sure = interval.map_or(0.0, |interval| interval.low.max(-interval.high).max(0.0));
        Some(Comparison {
            subject: self.subject.clone(),
            figure,
            unit: figure.unit(),
            a,
            b,
            ratio,
            verdict,
            why,
            sure,
        })
    }

    /// Logarithm of the ratio, and its interval.
    fn change(&self, figure: Figure, risk: f64) -> Option<(f64, Option<Interval>)> {
        if let Some(share) = figure.share() {
            return self.change_of_quantile(share, risk);
        }
        let [a, b] = match figure {
            Figure::Quantity(quantity) => {
                let (a, b) = (
                    Mean::of(self.a.parts(quantity))?,
                    Mean::of(self.b.parts(quantity))?,
                );
                match (a.ln(), b.ln()) {
                    (Some(a), Some(b)) => [a, b],
                    _ => return Some(from_or_to_nothing(a, b, risk)),
                }
            }
            _ => [mean_log(&self.waits[0])?, mean_log(&self.waits[1])?],
        };
        let change = b.value - a.value;
        let reach = a
            .spread
            .zip(b.spread)
            .map(|(a, b)| a.of_difference(b).reach(risk));
        let interval = reach.map(|reach| Interval {
            low: change - reach,
            high: change + reach,
        });
        Some((change, interval))
    }

    /// By the intervals of both (Donner and Zou), which are not symmetrical.
    fn change_of_quantile(&self, share: f64, risk: f64) -> Option<(f64, Option<Interval>)> {
        let all = self.all.as_ref()?;
        let at = [0, 1].map(|side| all[side].ln_quantile(share));
        let change = at[1] - at[0];
        let intervals =
            [0, 1].map(|side| all[side].ln_quantile_interval(share, &self.waits[side], risk));
        let interval = intervals[0].zip(intervals[1]).map(|(a, b)| Interval {
            low: change - (at[1] - b.low).hypot(a.high - at[0]),
            high: change + (b.high - at[1]).hypot(at[0] - a.low),
        });
        Some((change, interval))
    }

    fn level(&self, figure: Figure, side: usize) -> Option<Level> {
        let (mean, count, mut bins) = match figure {
            Figure::Quantity(quantity) => {
                let series = [&self.a, &self.b][side];
                let known = series.parts(quantity).filter(|part| part.by > 0.0);
                let bins: Vec<f64> = known.map(|part| part.sum / part.by).collect();
                (Mean::of(series.parts(quantity))?.value, bins.len(), bins)
            }
            _ => self.level_of_waits(figure.share(), side)?,
        };
        bins.sort_unstable_by(f64::total_cmp);
        Some(Level {
            bins: count,
            mean,
            quartiles: Quartiles::of(&bins),
        })
    }

    /// A quantile, or the geometric mean: of all waits, in how many bins there are any, and of those that have enough.
    fn level_of_waits(&self, share: Option<f64>, side: usize) -> Option<(f64, usize, Vec<f64>)> {
        let all = self.all.as_ref().map(|all| &all[side])?;
        let waits = &self.waits[side];
        let single = || {
            waits
                .iter()
                .filter_map(|bin| Distribution::of([bin].into_iter()))
        };
        let count = single().count();
        if let Some(share) = share {
            let enough = single().filter(|all| all.total() >= FOR_BIN);
            let bins = enough.map(|all| all.ln_quantile(share).exp()).collect();
            Some((all.ln_quantile(share).exp(), count, bins))
        } else {
            let means = waits
                .iter()
                .filter_map(|bin| mean_log(slice::from_ref(bin)));
            let bins = means.map(|mean| mean.value.exp()).collect();
            Some((mean_log(waits)?.value.exp(), count, bins))
        }
    }

    fn delays(&self, risk: f64) -> Option<Delays> {
        let all = self.all.as_ref()?;
        let quantiles = |side: usize| {
            let at = |share: f64| all[side].ln_quantile(share).exp();
            Quantiles {
                count: all[side].total(),
                per_window: all[side].total() as f64
                    / [&self.a, &self.b][side].windows().max(1) as f64,
                p50_ns: at(0.5),
                p90_ns: at(0.9),
                p99_ns: at(0.99),
                p999_ns: at(0.999),
                max_ns: all[side].max_ns(),
            }
        };
        let (probability, spread) = longer((&self.waits[0], &all[0]), (&self.waits[1], &all[1]))?;
        let reach = spread.map(|spread| spread.reach(risk));
        Some(Delays {
            subject: self.subject.clone(),
            a: quantiles(0),
            b: quantiles(1),
            longer: Longer {
                probability,
                low: reach.map(|reach| (probability - reach).max(0.0)),
                high: reach.map(|reach| (probability + reach).min(1.0)),
                cliffs_delta: 2.0 * probability - 1.0,
            },
        })
    }
}

/// There is no ratio to zero. What there is of the other is more than nothing if its interval is.
fn from_or_to_nothing(a: Mean, b: Mean, risk: f64) -> (f64, Option<Interval>) {
    let (there, sign) = if b.value > a.value {
        (b, 1.0)
    } else {
        (a, -1.0)
    };
    let interval = a.spread.and(b.spread).and(there.spread).map(|spread| {
        let is_sure = there.value > spread.reach(risk);
        let open = Interval {
            low: f64::NEG_INFINITY,
            high: f64::INFINITY,
        };
        match (is_sure, sign > 0.0) {
            (false, _) => open,
            (true, true) => Interval {
                low: f64::INFINITY,
                ..open
            },
            (true, false) => Interval {
                high: f64::NEG_INFINITY,
                ..open
            },
        }
    });
    (sign * f64::INFINITY, interval)
}

fn verdict(interval: Option<Interval>, threshold: f64) -> Verdict {
    match interval {
        Some(Interval { low, high }) if low >= -threshold && high <= threshold => Verdict::Same,
        Some(Interval { low, .. }) if low > 0.0 => Verdict::More,
        Some(Interval { high, .. }) if high < 0.0 => Verdict::Less,
        _ => Verdict::Unclear,
    }
}

impl Quartiles {
    /// Of values in order.
    fn of(sorted: &[f64]) -> Option<Self> {
        let at = |share: f64| {
            let place = share * sorted.len().saturating_sub(1) as f64;
            let low = sorted.get(place.floor() as usize)?;
            let high = sorted.get(place.ceil() as usize)?;
            Some(low + (high - low) * place.fract())
        };
        Some(Self {
            low_quartile: at(0.25)?,
            median: at(0.5)?,
            high_quartile: at(0.75)?,
        })
    }
}
