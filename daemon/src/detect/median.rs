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
