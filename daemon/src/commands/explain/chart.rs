//! A chart in characters: columns of values, straight lines over them, and marks below.
//!
//! The crates for charts in terminals draw all curves with the same dots, told apart by colour only, and have no other
//! characters for terminals without braille. Here it matters which is the line and which the series, also on paper.

use super::series::{Bin, Columns};
use crate::stream::Moment;

/// Rows of the plot.
const ROWS: usize = 14;

/// Columns left of the plot: a level such as `1023 KiB/s`, and the axis.
const LABEL: usize = 10;
const MARGIN: usize = LABEL + 2;

/// How often the axis has a level.
const TICK: usize = 4;

/// Characters for what is in a chart.
#[derive(Clone, Copy, Debug)]
pub struct Glyphs {
    /// Mean of a column.
    pub mean: char,
    /// From its lowest to its highest window.
    pub range: char,
    /// The line.
    pub line: char,
    /// Ends of its interval.
    pub interval: char,
    /// A level.
    pub level: char,
    axis: [char; 4],
}

/// For terminals that show Unicode.
pub const UNICODE: Glyphs = Glyphs {
    mean: '•',
    range: '│',
    line: '+',
    interval: '·',
    level: '╌',
    axis: ['┤', '│', '└', '─'],
};

/// For all others.
pub const ASCII: Glyphs = Glyphs {
    mean: 'o',
    range: ':',
    line: '+',
    interval: '.',
    level: '-',
    axis: ['+', '|', '+', '-'],
};

/// A straight line.
#[derive(Clone, Copy, Debug)]
pub struct Line {
    /// Where it begins.
    pub from: Moment,
    /// A moment that it goes through.
    pub through: Moment,
    /// Its value then.
    pub value: f64,
    /// How much it rises in an hour.
    pub per_hour: f64,
    /// Drawn with this.
    pub glyph: char,
}

impl Line {
    fn at(&self, moment: u64) -> Option<f64> {
        let hours = (i128::from(moment) - i128::from(self.through.0)) as f64 / 3.6e12;
        (moment >= self.from.0).then_some(self.value + self.per_hour * hours)
    }
}

/// What to draw.
pub struct Chart<'a> {
    /// The series.
    pub columns: &'a Columns,
    /// Behind it; the later ones before the earlier ones.
    pub lines: &'a [Line],
    /// Below it.
    pub marks: &'a [(char, Moment)],
    /// Levels as text.
    pub label: &'a dyn Fn(f64) -> String,
    /// Moments as text.
    pub time: &'a dyn Fn(Moment) -> String,
    /// The characters.
    pub glyphs: Glyphs,
}

/// Columns for the values in a terminal that is so wide.
pub fn plot_width(width: usize) -> usize {
    width.saturating_sub(MARGIN).max(20)
}

impl Chart<'_> {
    /// The lines of the chart.
    pub fn draw(&self) -> Vec<String> {
        let (low, high) = self.range();
        let rows = self.rows(low, high);
        let mut text: Vec<String> = rows
            .iter()
            .enumerate()
            .map(|(row, cells)| {
                let value = high - (high - low) * row as f64 / (ROWS - 1) as f64;
                let is_tick = row % TICK == 0 || row == ROWS - 1;
                let label = if is_tick {
                    (self.label)(value)
                } else {
                    String::new()
                };
                let axis = self.glyphs.axis[usize::from(!is_tick)];
                let cells: String = cells.iter().collect();
                format!("{label:>LABEL$} {axis}{cells}")
                    .trim_end()
                    .to_owned()
            })
            .collect();
        let [_, _, corner, floor] = self.glyphs.axis;
        let floor: String = std::iter::repeat_n(floor, self.columns.bins.len()).collect();
        text.push(format!("{:LABEL$} {corner}{floor}", ""));
        text.extend(self.mark_row());
        text.push(self.times());
        text
    }

    /// From the lowest to the highest value, and the beginnings of the lines.
    fn range(&self) -> (f64, f64) {
        let known = || self.columns.bins.iter().flatten();
        let levels = self
            .lines
            .iter()
            .filter(|line| line.per_hour == 0.0)
            .map(|line| line.value);
        let low = known()
            .map(|bin| bin.low)
            .chain(levels.clone())
            .fold(f64::INFINITY, f64::min);
        let high = known()
            .map(|bin| bin.high)
            .chain(levels)
            .fold(f64::NEG_INFINITY, f64::max);
        // A level has a height, too.
        let least = (1e-3 * high.abs()).max(f64::MIN_POSITIVE);
        (low, high.max(low + least))
    }

    fn rows(&self, low: f64, high: f64) -> Vec<Vec<char>> {
        let width = self.columns.bins.len();
        let mut rows = vec![vec![' '; width]; ROWS];
        let row = |value: f64| {
            let place = (high - value) / (high - low) * (ROWS - 1) as f64;
            let place = place.round();
            (place >= 0.0 && place < ROWS as f64).then_some(place as usize)
        };
        for (column, bin) in self.columns.bins.iter().enumerate() {
            let mut put = |row: Option<usize>, glyph: char| {
                if let Some(row) = row {
                    rows[row][column] = glyph;
                }
            };
            if let Some(Bin { low, high, .. }) = bin {
                let (top, bottom) = (row(*high), row(*low));
                for place in top.unwrap_or(0)..=bottom.unwrap_or(0) {
                    put(Some(place), self.glyphs.range);
                }
            }
            for line in self.lines {
                put(line.at(self.middle(column)).and_then(row), line.glyph);
            }
            if let Some(bin) = bin {
                put(row(bin.mean()), self.glyphs.mean);
            }
        }
        rows
    }

    fn span(&self) -> u128 {
        u128::from(self.columns.to.0 - self.columns.from.0)
    }

    /// The middle of a column.
    fn middle(&self, column: usize) -> u64 {
        let width = 2 * self.columns.bins.len() as u128;
        self.columns.from.0 + (self.span() * (2 * column as u128 + 1) / width) as u64
    }

    /// The marks that are within the chart, each in its column or in the next one that is free.
    fn mark_row(&self) -> Option<String> {
        let width = self.columns.bins.len();
        let mut cells = vec![' '; width];
        for (mark, moment) in self.marks {
            let Some(passed) = moment.0.checked_sub(self.columns.from.0) else {
                continue;
            };
            let column = (u128::from(passed) * width as u128 / self.span()) as usize;
            if moment.0 > self.columns.to.0 {
                continue;
            }
            let column = column.min(width - 1);
            let free = (column..width).chain((0..column).rev());
            if let Some(place) = free.into_iter().find(|place| cells[*place] == ' ') {
                cells[place] = *mark;
            }
        }
        let cells: String = cells.into_iter().collect();
        let text = format!("{:MARGIN$}{cells}", "");
        (!cells.trim().is_empty()).then(|| text.trim_end().to_owned())
    }

    fn times(&self) -> String {
        let (from, to) = ((self.time)(self.columns.from), (self.time)(self.columns.to));
        let space = self
            .columns
            .bins
            .len()
            .saturating_sub(from.len() + to.len())
            .max(1);
        format!("{:MARGIN$}{from}{:space$}{to}", "", "")
    }
}
