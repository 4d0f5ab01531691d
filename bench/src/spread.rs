//! What do many measurements say? Their median, and how far they lie apart.

use anyhow::{Result, ensure};
use serde::Serialize;

/// Many measurements of one thing.
#[derive(Clone, Debug, Serialize)]
pub struct Spread {
    /// Half of them are below.
    pub median: f64,
    /// A quarter of them is below.
    pub lower_quartile: f64,
    /// A quarter of them is above.
    pub upper_quartile: f64,
    /// How many there are.
    pub count: usize,
}

impl Spread {
    /// Of these; there must be one at least.
    pub fn of(values: &[f64]) -> Result<Self> {
        Ok(Self {
            median: quantile(values, 0.5)?,
            lower_quartile: quantile(values, 0.25)?,
            upper_quartile: quantile(values, 0.75)?,
            count: values.len(),
        })
    }
}

/// The value below which `share` of the values lie, between two of them in proportion.
pub fn quantile(values: &[f64], share: f64) -> Result<f64> {
    ensure!(!values.is_empty(), "nothing was measured");
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let place = share * number(sorted.len() - 1);
    let before = sorted[floor(place).min(sorted.len() - 1)];
    let after = sorted[(floor(place) + 1).min(sorted.len() - 1)];
    Ok(before + (after - before) * place.fract())
}

/// A count as a number to calculate with.
pub fn number(count: usize) -> f64 {
    u32::try_from(count).map_or(f64::INFINITY, f64::from)
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a place in a list: it is neither negative nor large"
)]
const fn floor(place: f64) -> usize {
    place as usize
}

#[cfg(test)]
mod tests {
    use super::{Spread, quantile};

    #[test]
    fn half_lie_below_the_median_and_a_quarter_beyond_each_quartile() {
        let spread = Spread::of(&[5.0, 1.0, 4.0, 2.0, 3.0]).unwrap();
        assert_eq!(
            [spread.lower_quartile, spread.median, spread.upper_quartile].map(f64::to_bits),
            [2.0, 3.0, 4.0].map(f64::to_bits)
        );
    }

    #[test]
    fn between_two_values_it_is_in_proportion() {
        let values = [10.0, 20.0];
        for (share, expected) in [(0.0, 10.0), (0.5, 15.0), (0.99, 19.9), (1.0, 20.0)] {
            let found = quantile(&values, share).unwrap();
            assert!((found - expected).abs() < 1e-9, "{share}: {found}");
        }
        assert!(quantile(&[], 0.5).is_err());
    }
}
