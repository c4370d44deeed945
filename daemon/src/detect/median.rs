//! Medians of values of which some may be missing.

/// The median of the values that are numbers; not a number if there are none. Reorders them.
pub fn median_of(values: &mut [f64]) -> f64 {
    // Positive not-a-numbers come last in total order.
    let known = values.iter().filter(|value| !value.is_nan()).count();
    if known == 0 {
        return f64::NAN;
    }
    let values = if known < values.len() {
        values.sort_unstable_by(|a, b| a.is_nan().cmp(&b.is_nan()).then(a.total_cmp(b)));
        &mut values[..known]
    } else {
        values
    };
    let (below, upper, _) = values.select_nth_unstable_by(known / 2, f64::total_cmp);
    let upper = *upper;
    if !known.is_multiple_of(2) {
        return upper;
    }
    let lower = below.iter().copied().max_by(f64::total_cmp);
    lower.map_or(upper, |lower| f64::midpoint(lower, upper))
}

/// The longest series there is: three days of hours.
pub const LONGEST: usize = 72;

/// The median of a copy, which needs no room on the heap.
///
/// # Panics
/// If there are more than [`LONGEST`] values.
pub fn median(values: &[f64]) -> f64 {
    let mut copy = [f64::NAN; LONGEST];
    let copy = &mut copy[..values.len()];
    copy.copy_from_slice(values);
    median_of(copy)
}
