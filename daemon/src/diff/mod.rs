//! Two periods of recordings side by side: what is more in one than in the other, and how sure that is.
//!
//! A period is read once, into `side`s of bounded size: a `series` of bins for each subject, whose `quantities` and
//! `waits` are sums. Two series become comparisons (`compare`), with intervals that rest on how bins differ from each
//! other (`uncertainty`), and these with what is `novel` a `report`, which `table` shows to a person.
//!
//! No random numbers: the same recordings give the same report.

pub mod compare;
pub mod novel;
pub mod period;
pub mod quantity;
pub mod read;
pub mod report;
pub mod series;
pub mod side;
pub mod table;
#[cfg(test)]
mod tests;
pub mod uncertainty;
pub mod waits;
