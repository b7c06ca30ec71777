//! Statistics of measured values. Pure functions.

/// Returns the quantile of `values` at `share`, from 0 (the least) to 1 (the greatest): one of the values, without
/// interpolation. NaN if there are none.
#[must_use]
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "an index lies between 0 and the number of values"
)]
pub fn quantile(mut values: Vec<f64>, share: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let last = values.len().saturating_sub(1) as f64;
    values.get((last * share) as usize).copied().unwrap_or(f64::NAN)
}

/// A straight line through points, fitted by least squares.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Trend {
    /// Mean of the values.
    pub mean: f64,
    /// The rise of the line from the first point to the last.
    pub rise: f64,
    /// The standard error of the rise.
    pub error: f64,
}

impl Trend {
    /// Fits the line through `points`, which are in the order of `x`. Returns `None` for fewer than three points, or if all have the same `x`.
    #[must_use]
    pub fn of(points: &[(f64, f64)]) -> Option<Self> {
        let ((first, _), (last, _)) = (points.first()?, points.last()?);
        let count = points.len() as f64;
        let mean_of = |part: fn(&(f64, f64)) -> f64| points.iter().map(part).sum::<f64>() / count;
        let (mean_x, mean) = (mean_of(|point| point.0), mean_of(|point| point.1));
        let spread: f64 = points.iter().map(|(x, _)| (x - mean_x).powi(2)).sum();
        if points.len() < 3 || spread == 0.0 {
            return None;
        }
        let slope = points.iter().map(|(x, y)| (x - mean_x) * (y - mean)).sum::<f64>() / spread;
        let off = |(x, y): &(f64, f64)| (y - mean - slope * (x - mean_x)).powi(2);
        let scatter = points.iter().map(off).sum::<f64>() / (count - 2.0);
        let span = last - first;
        Some(Self { mean, rise: slope * span, error: (scatter / spread).sqrt() * span })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quantile_is_one_of_the_values() {
        let hundred_and_one: Vec<f64> = (0..=100).rev().map(f64::from).collect();
        for (share, value) in [(0.0, 0.0), (0.5, 50.0), (0.99, 99.0), (0.999, 99.0), (1.0, 100.0)] {
            assert!((quantile(hundred_and_one.clone(), share) - value).abs() < f64::EPSILON, "{share}");
        }
        assert!(quantile(Vec::new(), 0.5).is_nan());
    }

    #[test]
    fn the_points_of_a_line_have_its_trend_exactly() {
        let line: Vec<_> = (0..10).map(f64::from).map(|x| (x, 3.0 + 2.0 * x)).collect();
        let trend = Trend::of(&line).unwrap();
        assert!((trend.rise - 18.0).abs() < 1e-9, "{trend:?}");
        assert!((trend.mean - 12.0).abs() < 1e-9, "{trend:?}");
        assert!(trend.error < 1e-9, "{trend:?}");
    }

    #[test]
    fn scatter_without_a_trend_is_within_its_error() {
        let zigzag: Vec<_> = (0..1000).map(f64::from).map(|x| (x, 100.0 + 10.0 * (x % 2.0))).collect();
        let trend = Trend::of(&zigzag).unwrap();
        assert!(trend.error > 0.1, "{trend:?}");
        assert!(trend.rise.abs() < 2.0 * trend.error, "{trend:?}");
    }

    #[test]
    fn too_few_points_have_no_trend() {
        assert_eq!(Trend::of(&[]), None);
        assert_eq!(Trend::of(&[(0.0, 1.0), (1.0, 2.0)]), None);
        assert_eq!(Trend::of(&[(1.0, 1.0), (1.0, 2.0), (1.0, 3.0)]), None);
    }
}
