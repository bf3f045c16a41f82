//! The few statistics that the measurements need.

/// Probability below which two samples are held to be of two kinds.
pub const LEVEL: f64 = 0.01;

/// Outcome of the two-sample Kolmogorov-Smirnov test.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ks {
    /// Greatest distance between the two distribution functions.
    pub distance: f64,
    /// Probability of such a distance or a greater one if both samples are of one kind; the asymptotic value.
    pub p: f64,
}

/// Compares two samples; neither may be empty.
pub fn kolmogorov_smirnov(a: &[f64], b: &[f64]) -> Ks {
    let (a, b) = (sorted(a), sorted(b));
    let (mut i, mut j, mut distance) = (0, 0, 0.0_f64);
    while let (Some(x), Some(y)) = (a.get(i), b.get(j)) {
        let value = x.min(*y);
        i += a[i..].iter().take_while(|known| **known <= value).count();
        j += b[j..].iter().take_while(|known| **known <= value).count();
        distance = distance.max((i as f64 / a.len() as f64 - j as f64 / b.len() as f64).abs());
    }
    let size = (a.len() * b.len()) as f64 / (a.len() + b.len()).max(1) as f64;
    Ks { distance, p: kolmogorov(size.sqrt() * distance) }
}

fn sorted(values: &[f64]) -> Vec<f64> {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    values
}

/// Probability that a variable with the distribution of Kolmogorov exceeds `x`.
fn kolmogorov(x: f64) -> f64 {
    // The series does not converge near zero, where the probability is 1 to more digits than matter.
    if x < 0.2 {
        return 1.0;
    }
    let term = |k: i32| f64::from(if k % 2 == 1 { 2 } else { -2 }) * (-2.0 * f64::from(k * k) * x * x).exp();
    (1..=100).map(term).sum::<f64>().clamp(0.0, 1.0)
}

/// Probability that a chi-square variable of so many degrees of freedom exceeds `x`.
pub fn chi_square(x: f64, freedom: u32) -> f64 {
    upper_gamma(f64::from(freedom) / 2.0, x / 2.0)
}

/// For each byte position, the probability that uniformly random bytes look less uniform than these.
///
/// Each byte counts as four pairs of bits, so that a few dozen rows are enough.
pub fn uniformity(rows: &[Vec<u8>]) -> Vec<f64> {
    let width = rows.iter().map(Vec::len).min().unwrap_or(0);
    let expected = rows.len() as f64 / 4.0;
    let position = |at: usize| {
        let mut counts = [[0_u32; 4]; 4];
        for row in rows {
            for (pair, counts) in counts.iter_mut().enumerate() {
                counts[usize::from(row[at] >> (2 * pair) & 3)] += 1;
            }
        }
        let sum: f64 = counts.iter().flatten().map(|count| (f64::from(*count) - expected).powi(2) / expected).sum();
        chi_square(sum, 12)
    };
    (0..width).map(position).collect()
}

/// The regularised upper incomplete gamma function.
fn upper_gamma(a: f64, x: f64) -> f64 {
    if x <= 0.0 {
        return 1.0;
    }
    let scale = (a * x.ln() - x - ln_gamma(a)).exp();
    if x < a + 1.0 {
        return 1.0 - scale * lower_series(a, x);
    }
    scale * upper_fraction(a, x)
}

fn lower_series(a: f64, x: f64) -> f64 {
    let (mut term, mut sum) = (1.0 / a, 1.0 / a);
    for n in 1..1000 {
        term *= x / (a + f64::from(n));
        sum += term;
    }
    sum
}

/// The continued fraction, from its far end to its head.
fn upper_fraction(a: f64, x: f64) -> f64 {
    let mut tail = 0.0;
    for n in (1..500).rev() {
        let n = f64::from(n);
        tail = n * (n - a) / (x + 2.0 * n + 1.0 - a - tail);
    }
    1.0 / (x + 1.0 - a - tail)
}

/// Stirling's series, which is exact enough once the argument is not small.
fn ln_gamma(mut x: f64) -> f64 {
    let mut shift = 0.0;
    while x < 10.0 {
        shift += x.ln();
        x += 1.0;
    }
    let square = x * x;
    let series = (1.0 / 12.0 - (1.0 / 360.0 - 1.0 / (1260.0 * square)) / square) / x;
    (x - 0.5) * x.ln() - x + 0.5 * (2.0 * std::f64::consts::PI).ln() + series - shift
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::dice::Dice;

    fn near(a: f64, b: f64) -> bool {
        (a - b).abs() < 1e-4
    }

    #[test]
    fn kolmogorov_is_as_the_tables_have_it() {
        for (x, p) in [(0.5, 0.963_945), (1.0, 0.27), (1.2239, 0.1), (1.3581, 0.05), (1.6276, 0.01), (1.9495, 0.001)] {
            assert!(near(kolmogorov(x), p), "{x}: {}", kolmogorov(x));
        }
        assert_eq!((kolmogorov(0.0), kolmogorov(20.0)), (1.0, 0.0));
    }

    #[test]
    fn distances_are_those_of_the_distribution_functions() {
        let ks = |a: &[f64], b: &[f64]| kolmogorov_smirnov(a, b).distance;
        assert!(near(ks(&[1.0, 2.0, 3.0, 4.0], &[1.0, 2.0, 3.0, 4.0]), 0.0));
        assert!(near(ks(&[1.0, 2.0], &[3.0, 4.0]), 1.0));
        assert!(near(ks(&[1.0, 2.0, 3.0, 4.0], &[3.0, 3.0, 5.0, 6.0]), 0.5));
        assert!(near(ks(&[2.0, 2.0, 2.0, 9.0], &[2.0]), 0.25));
    }

    #[test]
    fn samples_are_told_apart_when_they_are_apart() {
        let mut dice = Dice::new(1);
        let mut sample = |shift: f64| -> Vec<f64> { (0..300).map(|_| dice.below(1000) as f64 + shift).collect() };
        let (one, same, other) = (sample(0.0), sample(0.0), sample(200.0));
        assert!(kolmogorov_smirnov(&one, &same).p > LEVEL);
        assert!(kolmogorov_smirnov(&one, &other).p < LEVEL);
    }

    #[test]
    fn chi_square_is_as_the_tables_have_it() {
        for (x, freedom, p) in [
            (3.8415, 1, 0.05),
            (6.6349, 1, 0.01),
            (5.9915, 2, 0.05),
            (21.0261, 12, 0.05),
            (26.217, 12, 0.01),
            (11.3403, 12, 0.5),
            (293.2478, 255, 0.05),
        ] {
            assert!(near(chi_square(x, freedom), p), "{x} of {freedom}: {}", chi_square(x, freedom));
        }
        assert!(chi_square(200.0, 12) < 1e-9);
        assert_eq!(chi_square(0.0, 3), 1.0);
    }

    #[test]
    fn constant_positions_are_found() {
        let mut dice = Dice::new(2);
        let mut rows: Vec<Vec<u8>> = (0..64).map(|_| dice.bytes(50)).collect();
        assert!(uniformity(&rows).iter().all(|p| *p > 1e-4));
        rows.iter_mut().for_each(|row| row[20] = 7);
        let found: Vec<usize> = (0..50).filter(|at| uniformity(&rows)[*at] < 1e-6).collect();
        assert_eq!(found, [20]);
        assert!(uniformity(&[]).is_empty());
    }
}
