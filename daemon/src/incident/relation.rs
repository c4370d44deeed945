//! How two signals go together, and by how much one has changed.

/// Fewer pairs say nothing about a correlation.
const LEAST_PAIRS: usize = 8;

/// Spearman's rank correlation of the pairs of which both are known.
///
/// `None` with fewer than eight, or if one of them never changes.
pub fn rank_correlation(a: &[f64], b: &[f64]) -> Option<f64> {
    let pairs: Vec<(f64, f64)> = a
        .iter()
        .copied()
        .zip(b.iter().copied())
        .filter(|(a, b)| !a.is_nan() && !b.is_nan())
        .collect();
    if pairs.len() < LEAST_PAIRS {
        return None;
    }
    let (a, b): (Vec<f64>, Vec<f64>) = pairs.into_iter().unzip();
    let (a, b) = (ranks(&a), ranks(&b));
    let mean = (a.len() - 1) as f64 / 2.0;
    let product = |x: &[f64], y: &[f64]| -> f64 {
        x.iter().zip(y).map(|(x, y)| (x - mean) * (y - mean)).sum()
    };
    let power = (product(&a, &a) * product(&b, &b)).sqrt();
    (power > 0.0).then(|| product(&a, &b) / power)
}

/// Ranks from 0; equal values share the mean of theirs.
fn ranks(values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|a, b| values[*a].total_cmp(&values[*b]));
    let mut ranks = vec![0.0; values.len()];
    let mut first = 0;
    while first < order.len() {
        let same = |at: &&usize| values[**at].total_cmp(&values[order[first]]).is_eq();
        let count = order[first..].iter().take_while(same).count();
        let shared = first as f64 + (count - 1) as f64 / 2.0;
        for at in &order[first..first + count] {
            ranks[*at] = shared;
        }
        first += count;
    }
    ranks
}

/// The median of what is known.
pub fn median(values: &[f64]) -> Option<f64> {
    let mut known: Vec<f64> = values
        .iter()
        .copied()
        .filter(|value| !value.is_nan())
        .collect();
    if known.is_empty() {
        return None;
    }
    known.sort_by(f64::total_cmp);
    let middle = known.len() / 2;
    Some(if known.len() % 2 == 1 {
        known[middle]
    } else {
        f64::midpoint(known[middle - 1], known[middle])
    })
}

/// Where it has gone a quarter of the way from one level to another for good: the place after the last value that is below.
pub fn quarter_of_the_way(values: &[f64], before: f64, now: f64) -> usize {
    let bound = before + 0.25 * (now - before);
    let is_before = |value: &f64| {
        if now >= before {
            *value < bound
        } else {
            *value > bound
        }
    };
    values.iter().rposition(is_before).map_or(0, |at| at + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn correlation_of_ranks() {
        let a: Vec<f64> = (0..20).map(f64::from).collect();
        let squares: Vec<f64> = a.iter().map(|x| x * x).collect();
        let down: Vec<f64> = a.iter().map(|x| -x).collect();
        assert!((rank_correlation(&a, &squares).unwrap() - 1.0).abs() < 1e-12);
        assert!((rank_correlation(&a, &down).unwrap() + 1.0).abs() < 1e-12);
        assert_eq!(rank_correlation(&a, &[1.0; 20]), None);
        assert_eq!(rank_correlation(&a[..7], &squares[..7]), None);
        // By hand: ranks 0..=7 against 1,0,3,2,5,4,7,6, whose squared differences add up to 8: 1 - 6 * 8 / (8 * 63).
        let swapped = [1.0, 0.0, 3.0, 2.0, 5.0, 4.0, 7.0, 6.0];
        let expected = 1.0 - 48.0 / 504.0;
        assert!((rank_correlation(&a[..8], &swapped).unwrap() - expected).abs() < 1e-12);
    }

    #[test]
    fn equal_values_share_ranks() {
        assert_eq!(ranks(&[2.0, 1.0, 2.0, 3.0]), [1.5, 0.0, 1.5, 3.0]);
    }

    #[test]
    fn missing_values_are_left_out() {
        let a: Vec<f64> = (0..10).map(f64::from).collect();
        let mut b = a.clone();
        b[3] = f64::NAN;
        assert!((rank_correlation(&a, &b).unwrap() - 1.0).abs() < 1e-12);
        assert_eq!(median(&b), Some(5.0));
        assert_eq!(median(&[f64::NAN]), None);
        assert_eq!(median(&[1.0, 4.0]), Some(2.5));
    }

    #[test]
    fn onsets() {
        assert_eq!(quarter_of_the_way(&[1.0, 1.0, 1.0, 5.0, 5.0], 1.0, 5.0), 3);
        assert_eq!(quarter_of_the_way(&[1.0, 1.9, 1.0, 2.0, 5.0], 1.0, 5.0), 3);
        assert_eq!(quarter_of_the_way(&[5.0, 1.0, 1.0], 5.0, 1.0), 1);
        assert_eq!(quarter_of_the_way(&[3.0, 4.0], 1.0, 5.0), 0);
    }
}
