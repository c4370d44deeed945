//! What a comparison comes to, as it is printed with `--json`.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use anyhow::bail;
use serde::Serialize;

use super::{
    compare::{CONFIDENCE, Comparison, Delays, Figure, Verdict, compare},
    novel::{Novel, only_in},
    side::{Facts, FlagAbout, Gaps, Lives, MOST_NAMES, MOST_SUBJECTS, Side},
    table,
};
use crate::stream::{LossClass, Moment};

/// Two periods side by side.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// All of it in a sentence.
    pub conclusion: String,
    /// The one.
    pub a: About,
    /// The other.
    pub b: About,
    /// All intervals together are right with this probability.
    pub confidence: f64,
    /// What is within this, as a share, is the same.
    pub threshold: f64,
    /// What both have, the surest and largest effects first.
    pub figures: Vec<Comparison>,
    /// All waits for a CPU.
    pub delays: Vec<Delays>,
    /// What only A has.
    pub gone: Vec<Novel>,
    /// What only B has.
    pub new: Vec<Novel>,
    /// Flags that were raised in either.
    pub flags: Vec<Flags>,
    /// What became of processes, for services where anything did.
    pub lives: Vec<ServiceLives>,
    /// What makes it less sure than it looks.
    pub notes: Vec<String>,
}

/// What a side consists of.
#[derive(Clone, Debug, Serialize)]
pub struct About {
    /// The recording.
    pub file: String,
    /// Beginning of the first window.
    pub begin: Moment,
    /// End of the last one.
    pub end: Moment,
    /// Windows, those at the same time counted once.
    pub windows: u64,
    /// Their length, on the average.
    pub window_ns: u64,
    /// How long they were together.
    pub observed_ns: u64,
    /// What is missing between them.
    pub gaps: Gaps,
    /// What was lost in the period, by class.
    pub lost: BTreeMap<LossClass, u64>,
}

/// Flags about the same.
#[derive(Clone, Debug, Serialize)]
pub struct Flags {
    /// About what.
    #[serde(flatten)]
    pub about: FlagAbout,
    /// Raised in A.
    pub a: u64,
    /// Raised in B.
    pub b: u64,
}

/// What became of the processes of a service.
#[derive(Clone, Debug, Serialize)]
pub struct ServiceLives {
    /// The service.
    #[serde(rename = "service.name")]
    pub service: String,
    /// In A.
    pub a: Lives,
    /// In B.
    pub b: Lives,
}

impl Report {
    /// Compares two sides of these recordings; what is within `threshold`, as a share, is the same.
    ///
    /// # Errors
    /// If they have nothing in common.
    pub fn of(files: [&Path; 2], mut sides: [Side; 2], threshold: f64) -> anyhow::Result<Self> {
        let series = [0, 1].map(|side| sides[side].finish());
        let [a, b] = sides.map(|side| side.facts);
        let [of_a, of_b] = series;
        let services = |facts: &Facts| {
            let there = facts
                .services
                .iter()
                .filter(|(_, service)| service.windows > 0);
            there.map(|(name, _)| name.clone()).collect::<BTreeSet<_>>()
        };
        if services(&a).is_disjoint(&services(&b)) {
            let list = |names: BTreeSet<String>| names.into_iter().collect::<Vec<_>>().join(", ");
            bail!(
                "there is nothing to compare: A has {}, and B has {}. To compare services of different names, say \
                 --service NAME=OTHER",
                list(services(&a)),
                list(services(&b))
            );
        }
        let compared = compare(of_a, of_b, threshold);
        let (gone, new) = (only_in(&a, &b), only_in(&b, &a));
        let mut report = Self {
            conclusion: String::new(),
            a: about(files[0], &a),
            b: about(files[1], &b),
            confidence: CONFIDENCE,
            threshold,
            figures: compared.figures,
            delays: compared.delays,
            gone,
            new,
            flags: flags(&a, &b),
            lives: lives(&a, &b),
            notes: [notes("A", &a), notes("B", &b)].concat(),
        };
        for ((side, quantity), subjects) in compared.unmeasured {
            let figure = table::name(Figure::Quantity(quantity));
            report.notes.push(format!(
                "{side}: {figure} was not measured (for {subjects} that the other has it of)"
            ));
        }
        if files[0] == files[1] && report.a.begin < report.b.end && report.b.begin < report.a.end {
            let note = "A and B overlap: what they have in common makes them more alike than they are sure to be";
            report.notes.push(note.to_owned());
        }
        report.conclusion = table::conclusion(&report);
        Ok(report)
    }

    /// Is anything more in B of which more is worse?
    pub fn is_worse(&self) -> bool {
        let mut figures = self.figures.iter();
        figures.any(|figure| figure.verdict == Verdict::More && figure.figure.is_worse_if_more())
    }
}

fn about(file: &Path, facts: &Facts) -> About {
    About {
        file: file.display().to_string(),
        begin: facts.begin.unwrap_or_default(),
        end: facts.end.unwrap_or_default(),
        windows: facts.windows,
        window_ns: facts.observed_ns / facts.windows.max(1),
        observed_ns: facts.observed_ns,
        gaps: facts.gaps,
        lost: facts.lost.clone(),
    }
}

fn flags(a: &Facts, b: &Facts) -> Vec<Flags> {
    let all: BTreeSet<&FlagAbout> = a.flags.keys().chain(b.flags.keys()).collect();
    let raised = |facts: &Facts, about: &FlagAbout| facts.flags.get(about).copied().unwrap_or(0);
    let flags = all.into_iter().map(|about| Flags {
        about: about.clone(),
        a: raised(a, about),
        b: raised(b, about),
    });
    flags.collect()
}

fn lives(a: &Facts, b: &Facts) -> Vec<ServiceLives> {
    let all: BTreeSet<&String> = a.services.keys().chain(b.services.keys()).collect();
    let of = |facts: &Facts, service: &String| {
        facts
            .services
            .get(service)
            .map(|service| service.lives)
            .unwrap_or_default()
    };
    let lives = all.into_iter().map(|service| ServiceLives {
        service: service.clone(),
        a: of(a, service),
        b: of(b, service),
    });
    lives
        .filter(|lives| (lives.a, lives.b) != (Lives::default(), Lives::default()))
        .collect()
}

/// What a reader should know of a side.
fn notes(side: &str, facts: &Facts) -> Vec<String> {
    let mut notes = Vec::new();
    let mut note = |count: u64, text: &str| {
        if count > 0 {
            notes.push(format!(
                "{side}: {}",
                text.replace("{}", &count.to_string())
            ));
        }
    };
    note(
        facts.restarts,
        "slowburn was started again {} times in the period",
    );
    note(
        facts.gaps.count,
        "{} gaps between windows; nothing is known of what happened in them",
    );
    note(
        facts.lost.values().sum(),
        "{} losses; docs/json.md says what each class means",
    );
    note(
        facts.waits_unmeasured,
        "in {} windows of processes, waits were not measured all the time, to stay within the budget; these are left \
         out of the delays",
    );
    note(
        facts.calls_unmeasured,
        "in {} windows of processes, not each call was looked at; these are left out of what was mapped",
    );
    note(facts.unreadable, "{} histograms could not be read");
    note(
        facts.no_room,
        &format!(
            "{{}} windows of further subjects than the first {MOST_SUBJECTS} are not compared"
        ),
    );
    note(
        facts.names_left_out,
        &format!(
            "{{}} windows or flags with further names than the first {MOST_NAMES} are not looked at"
        ),
    );
    note(
        u64::from(facts.is_cut),
        "the recording ends within a line, as if cut off",
    );
    notes
}
