//! Scores flags by labels.
//!
//! A climb is found if one of its metrics is flagged as climbing at or after its onset. A climb flagged elsewhere is
//! false: in a case without one, on a metric that does not climb, or before the onset.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::label::Label;

/// Kinds that are no climbs but have a name.
const OTHER_KINDS: [&str; 3] = ["step", "spike", "periodic"];

/// A flag.
#[derive(Debug, Deserialize)]
pub struct Flag {
    case: String,
    /// Seconds since the beginning of the case.
    t: f64,
    metric: String,
    kind: String,
    /// How likely it is said to be right.
    #[serde(default)]
    score: Option<f64>,
}

/// How a case went.
#[derive(Debug, Default)]
struct Verdict {
    climbs: bool,
    found: bool,
    /// False flags.
    wrong: usize,
    /// Share of the time from the onset to exhaustion that had passed at the first right flag.
    delay: Option<f64>,
    /// The kinds flagged.
    kinds: Vec<String>,
    /// Flags that say how likely they are right, and whether they are.
    scored: Vec<(f64, bool)>,
}

/// Sums over cases.
#[derive(Debug, Default)]
struct Score {
    cases: usize,
    days: f64,
    climbs: usize,
    found: usize,
    /// Healthy cases with a false flag.
    healthy_wrong: usize,
    /// Climbs with a false flag.
    climbs_wrong: usize,
    wrong: usize,
    delays: Vec<f64>,
}

/// Prints the score, by family, by kind, and the cases that went wrong if they are asked for.
pub fn print(labels: &[Label], flags: &[Flag], cases: bool) {
    let verdicts: Vec<_> = labels
        .iter()
        .map(|label| {
            let flags = flags.iter().filter(|flag| label.is_called(&flag.case));
            (label, Verdict::of(label, flags))
        })
        .collect();
    let mut families = BTreeMap::<&str, Score>::new();
    let mut all = Score::default();
    for (label, verdict) in &verdicts {
        families
            .entry(&label.family)
            .or_default()
            .add(label, verdict);
        all.add(label, verdict);
    }
    println!("\nfamily           cases  found  false cases  false flags  delay");
    for (family, score) in &families {
        println!(
            "{family:<16} {:>5}  {:>5}  {:>11}  {:>11}  {}",
            score.cases,
            if score.climbs > 0 {
                score.found.to_string()
            } else {
                "-".into()
            },
            score.healthy_wrong + score.climbs_wrong,
            score.wrong,
            score.delay(0.5).map_or("-".into(), |at| format!("{at:.2}")),
        );
    }
    print_kinds(&verdicts);
    print_reliability(&verdicts);
    if cases {
        print_cases(&verdicts, flags);
    }
    println!("\n{}", all.sentence());
}

impl Verdict {
    fn of<'a>(label: &Label, flags: impl Iterator<Item = &'a Flag>) -> Self {
        let mut verdict = Self {
            climbs: label.climbs(),
            ..Self::default()
        };
        let onset = label.onset_s.unwrap_or(0.0);
        let mut first = f64::INFINITY;
        for flag in flags {
            if flag.kind != "climb" {
                verdict.kinds.push(flag.kind.clone());
                continue;
            }
            let late_enough = flag.t >= onset;
            let right = label.metrics.contains(&flag.metric);
            if verdict.climbs && right && late_enough {
                first = first.min(flag.t);
            }
            let allowed = right || label.metrics_ok.contains(&flag.metric);
            let is_right = verdict.climbs && allowed && late_enough;
            verdict.wrong += usize::from(!is_right);
            verdict
                .scored
                .extend(flag.score.map(|score| (score, is_right)));
            verdict.kinds.push("climb".into());
        }
        verdict.found = first.is_finite();
        let until = label.t_exhaust_s.filter(|_| verdict.found);
        verdict.delay = until.map(|until| (first - onset) / (until - onset).max(1e-9));
        verdict
    }
}

impl Score {
    fn add(&mut self, label: &Label, verdict: &Verdict) {
        self.cases += 1;
        self.days += label.duration_s / 86_400.0;
        self.climbs += usize::from(verdict.climbs);
        self.found += usize::from(verdict.found);
        let wrong = usize::from(verdict.wrong > 0);
        if verdict.climbs {
            self.climbs_wrong += wrong;
        } else {
            self.healthy_wrong += wrong;
        }
        self.wrong += verdict.wrong;
        self.delays.extend(verdict.delay);
    }

    fn delay(&self, quantile: f64) -> Option<f64> {
        let mut delays = self.delays.clone();
        delays.sort_unstable_by(f64::total_cmp);
        let at = (quantile * delays.len() as f64) as usize;
        delays.get(at.min(delays.len().saturating_sub(1))).copied()
    }

    fn sentence(&self) -> String {
        let share = |part: usize, of: usize| part as f64 / of.max(1) as f64;
        let flagged = self.found + self.healthy_wrong + self.climbs_wrong;
        let in_time = self.delays.iter().filter(|delay| **delay <= 0.5).count();
        format!(
            "{} cases, {:.1} task-days: recall {:.3}, precision {:.3} (by case), {} false flags, {:.4} a task-day\n\
             delay: median {:.3}, p90 {:.3} of the time to exhaustion; {:.3} of the climbs before half of it",
            self.cases,
            self.days,
            share(self.found, self.climbs),
            share(self.found, flagged),
            self.wrong,
            self.wrong as f64 / self.days.max(1e-9),
            self.delay(0.5).unwrap_or(f64::NAN),
            self.delay(0.9).unwrap_or(f64::NAN),
            share(in_time, self.climbs),
        )
    }
}

/// Are as many of the flags right as their scores say? By twentieths.
fn print_reliability(verdicts: &[(&Label, Verdict)]) {
    let mut bins = BTreeMap::<usize, Vec<(f64, bool)>>::new();
    for (score, is_right) in verdicts.iter().flat_map(|(_, verdict)| &verdict.scored) {
        let bin = (score * 20.0) as usize;
        bins.entry(bin).or_default().push((*score, *is_right));
    }
    let flags: usize = bins.values().map(Vec::len).sum();
    println!("\nscore      flags  mean   right");
    let mut error = 0.0;
    for (bin, scored) in &bins {
        let count = scored.len() as f64;
        let mean = scored.iter().map(|(score, _)| score).sum::<f64>() / count;
        let right = scored.iter().filter(|(_, is_right)| *is_right).count() as f64 / count;
        error += (mean - right).abs() * count / flags as f64;
        let from = *bin as f64 / 20.0;
        println!(
            "{from:.2}-{:.2}  {count:>5}  {mean:.3}  {right:.3}",
            from + 0.05
        );
    }
    println!("expected calibration error {error:.3}");
}

/// Cases that are steps, spikes or periodic are named right if that kind is flagged and no climb is.
fn print_kinds(verdicts: &[(&Label, Verdict)]) {
    println!("\nkind      cases  right  as climb  other  silent");
    for kind in OTHER_KINDS {
        let of_kind = || verdicts.iter().filter(|(label, _)| label.kind == kind);
        let count = |what: &dyn Fn(&Verdict) -> bool| of_kind().filter(|(_, v)| what(v)).count();
        let climb = |v: &Verdict| v.kinds.iter().any(|k| k == "climb");
        let named = |v: &Verdict| v.kinds.iter().any(|k| k == kind);
        println!(
            "{kind:<9} {:>5}  {:>5}  {:>8}  {:>5}  {:>6}",
            of_kind().count(),
            count(&|v| named(v) && !climb(v)),
            count(&climb),
            count(&|v| !named(v) && !climb(v) && !v.kinds.is_empty()),
            count(&|v| v.kinds.is_empty()),
        );
    }
    println!(
        "\nflagged a task-day in cases that are neither    step           spike          periodic"
    );
    for truth in ["none", "climb"] {
        let of_truth = || verdicts.iter().filter(|(label, _)| label.kind == truth);
        print_unasked(truth, of_truth, |_, _| true);
        let without = format!("{truth}, nothing of the kind put in");
        print_unasked(&without, of_truth, |label, kind| !label.holds(kind));
    }
}

fn print_unasked<'a, I: Iterator<Item = &'a (&'a Label, Verdict)>>(
    name: &str,
    cases: impl Fn() -> I,
    counts: impl Fn(&Label, &str) -> bool,
) {
    let figures = OTHER_KINDS.map(|kind| {
        let of_kind = || cases().filter(|(label, _)| counts(label, kind));
        let flags: usize = of_kind()
            .map(|(_, verdict)| verdict.kinds.iter().filter(|k| *k == kind).count())
            .sum();
        let days: f64 = of_kind().map(|(label, _)| label.duration_s).sum::<f64>() / 86_400.0;
        format!("{:.3} ({flags})", flags as f64 / days.max(1e-9))
    });
    println!(
        "{name:<46}  {:<13}  {:<13}  {}",
        figures[0], figures[1], figures[2]
    );
}

fn print_cases(verdicts: &[(&Label, Verdict)], flags: &[Flag]) {
    println!();
    for (label, verdict) in verdicts {
        let missed = label.climbs() && !verdict.found;
        let unnamed =
            OTHER_KINDS.contains(&label.kind.as_str()) && !verdict.kinds.contains(&label.kind);
        if verdict.wrong == 0 && !missed && !unnamed {
            continue;
        }
        let raised: Vec<String> = flags
            .iter()
            .filter(|flag| label.is_called(&flag.case))
            .map(|flag| format!("{} {} {:.0}", flag.kind, flag.metric, flag.t))
            .collect();
        println!(
            "{} ({}): {} {:?} from {:.0} of {:.0} s{}; raised: {}",
            label.case,
            label.id.as_deref().unwrap_or("-"),
            label.kind,
            label.metrics,
            label.onset_s.unwrap_or(0.0),
            label.duration_s,
            if missed { ", missed" } else { "" },
            raised.join(", ")
        );
    }
}
