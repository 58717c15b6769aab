//! Exact t-SNE (van der Maaten and Hinton: Visualizing Data using t-SNE, JMLR 2008), which places
//! rows in two dimensions so that near ones stay near.
//!
//! The settings are those of scikit-learn: the principal components to begin with, early
//! exaggeration, momentum, and gains for each coordinate. Every pair of rows is computed in every
//! iteration, so the rows should be few.

use rayon::prelude::*;
use scrl_cli::Reporter;

use crate::Result;
use crate::evaluate::embed::pca;

/// The number of neighbors that a row attends to, more or less.
const PERPLEXITY: f64 = 30.0;

/// Iterations, and the first ones of them that pull neighbors together more strongly.
const ITERATIONS: usize = 1000;
const EARLY: usize = 250;
const EXAGGERATION: f64 = 12.0;

/// The standard deviation of the first coordinate at the beginning.
const START: f64 = 1e-4;

/// Points in the plane, one for each of `rows` of `channels` elements, in their unit. Equal rows
/// have equal points. The result does not depend on the number of threads.
///
/// # Errors
/// [`Error::Stopped`](crate::Error::Stopped) if the program is asked to stop, and errors of the
/// principal components.
pub(super) fn tsne(rows: &[f32], channels: usize, reporter: &Reporter) -> Result<Vec<[f64; 2]>> {
    let number = rows.len() / channels;
    let affinities = affinities(rows, channels);
    let mut points = start(rows, channels)?;
    let mut steps = vec![[0.0f64; 2]; number];
    let mut gains = vec![[1.0f64; 2]; number];
    let rate = (number as f64 / EXAGGERATION / 4.0).max(50.0);
    for iteration in 0..ITERATIONS {
        reporter.check_stop()?;
        let early = iteration < EARLY;
        let (exaggeration, momentum) = if early { (EXAGGERATION, 0.5) } else { (1.0, 0.8) };
        let forces: Vec<Force> = affinities
            .par_chunks_exact(number.max(1))
            .zip(&points)
            .map(|(affinities, &point)| Force::of(point, &points, affinities))
            .collect();
        // The sum over all pairs but those of a row and itself, whose weight is 1.
        let total: f64 = forces.iter().map(|force| force.weights - 1.0).sum();
        for (i, force) in forces.iter().enumerate() {
            for axis in 0..2 {
                let repulsion = force.repulsion[axis] / total.max(f64::MIN_POSITIVE);
                let gradient = 4.0 * (exaggeration * force.attraction[axis] - repulsion);
                let (step, gain) = (&mut steps[i][axis], &mut gains[i][axis]);
                let turns = *step * gradient < 0.0;
                *gain = (if turns { *gain + 0.2 } else { *gain * 0.8 }).max(0.01);
                *step = momentum * *step - rate * *gain * gradient;
                points[i][axis] += *step;
            }
        }
    }
    Ok(points)
}

/// What all other rows do to a row.
struct Force {
    attraction: [f64; 2],
    /// Not yet divided by the sum of the weights of all pairs.
    repulsion: [f64; 2],
    /// The sum of the weights of Student's t-distribution, that of the row itself included.
    weights: f64,
}

impl Force {
    fn of([x, y]: [f64; 2], points: &[[f64; 2]], affinities: &[f64]) -> Self {
        let mut force = Self { attraction: [0.0; 2], repulsion: [0.0; 2], weights: 0.0 };
        for ([other_x, other_y], affinity) in points.iter().zip(affinities) {
            let [dx, dy] = [x - other_x, y - other_y];
            let weight = 1.0 / (1.0 + dx * dx + dy * dy);
            let (pull, push) = (affinity * weight, weight * weight);
            force.attraction[0] += pull * dx;
            force.attraction[1] += pull * dy;
            force.repulsion[0] += push * dx;
            force.repulsion[1] += push * dy;
            force.weights += weight;
        }
        force
    }
}

/// The two leading principal components, scaled down.
fn start(rows: &[f32], channels: usize) -> Result<Vec<[f64; 2]>> {
    let components = pca::components(rows, channels, 2)?.project(rows);
    let points = components.chunks_exact(2).map(|pair| [pair[0], pair[1]].map(f64::from));
    let points: Vec<[f64; 2]> = points.collect();
    let squares: f64 = points.iter().map(|[x, _]| x * x).sum();
    let deviation = (squares / points.len() as f64).sqrt();
    let scale = if deviation > 0.0 { START / deviation } else { 0.0 };
    Ok(points.into_iter().map(|point| point.map(|x| x * scale)).collect())
}

/// The joint probabilities of all pairs, `[rows, rows]`; they are symmetric and sum to 1.
fn affinities(rows: &[f32], channels: usize) -> Vec<f64> {
    let number = rows.len() / channels;
    let perplexity = PERPLEXITY.min((number as f64 - 1.0) / 3.0).max(1.0);
    let rows: Vec<&[f32]> = rows.chunks_exact(channels).collect();
    let conditional: Vec<Vec<f64>> = (0..number)
        .into_par_iter()
        .map(|i| {
            let mut distances: Vec<f64> =
                rows.iter().map(|row| squared_distance(rows[i], row)).collect();
            distances[i] = f64::INFINITY;
            conditional(&distances, perplexity.ln())
        })
        .collect();
    let pair = |i: usize, j: usize| (conditional[i][j] + conditional[j][i]) / (2 * number) as f64;
    let of_row = |i: usize| (0..number).map(move |j| (i, j));
    (0..number).flat_map(of_row).map(|(i, j)| pair(i, j)).collect()
}

fn squared_distance(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| f64::from(a - b).powi(2)).sum()
}

/// The probabilities of the neighbors of a row by a normal distribution over their distances, as
/// wide as it must be for the distribution to have this entropy.
fn conditional(distances: &[f64], entropy: f64) -> Vec<f64> {
    /// Halvings and doublings; a distribution of ties may never have the entropy.
    const SEARCH: usize = 64;
    let nearest = distances.iter().copied().fold(f64::INFINITY, f64::min);
    let (mut low, mut high, mut precision) = (0.0, f64::INFINITY, 1.0);
    let mut weights = vec![0.0; distances.len()];
    for _ in 0..SEARCH {
        let mut moment = 0.0;
        for (weight, distance) in weights.iter_mut().zip(distances) {
            let beyond = distance - nearest;
            // Also of the row itself, which is infinitely far.
            *weight = if beyond.is_finite() { (-beyond * precision).exp() } else { 0.0 };
            moment += if *weight > 0.0 { *weight * beyond } else { 0.0 };
        }
        let total: f64 = weights.iter().sum();
        weights.iter_mut().for_each(|weight| *weight /= total.max(1.0));
        let found = total.max(1.0).ln() + precision * moment / total.max(1.0);
        if (found - entropy).abs() < 1e-5 {
            break;
        }
        if found > entropy {
            low = precision;
            precision = if high.is_finite() { (low + high) / 2.0 } else { precision * 2.0 };
        } else {
            high = precision;
            precision = (low + high) / 2.0;
        }
    }
    weights
}

#[cfg(test)]
mod tests {
    use scrl_preprocess::views::rng::{Purpose, Stream};

    use super::*;

    #[test]
    fn the_affinities_are_symmetric_and_have_the_perplexity() {
        let mut random = Stream::new(3, 0, 0, Purpose::Evaluation);
        let (number, channels) = (150, 5);
        let rows: Vec<f32> = (0..number * channels).map(|_| random.normal() as f32).collect();
        let found = affinities(&rows, channels);
        assert!((found.iter().sum::<f64>() - 1.0).abs() < 1e-12);
        for (i, j) in [(0, 1), (7, 149), (30, 30)] {
            assert_eq!(found[i * number + j], found[j * number + i]);
        }
        assert_eq!(found[30 * number + 30], 0.0);
        let distances: Vec<f64> = (0..number).map(|i| (i as f64).powi(2) / 100.0).collect();
        let weights = conditional(&distances, PERPLEXITY.ln());
        let entropy: f64 = weights.iter().filter(|p| **p > 0.0).map(|p| -p * p.ln()).sum();
        assert!((entropy.exp() - PERPLEXITY).abs() < 1e-3, "{}", entropy.exp());
    }

    #[test]
    fn planted_clusters_are_clusters_on_the_map() {
        let mut random = Stream::new(4, 0, 0, Purpose::Evaluation);
        let (number, groups, channels) = (200, 5, 20);
        let centers: Vec<f64> = (0..groups * channels).map(|_| random.normal()).collect();
        let rows: Vec<f32> = (0..number * channels)
            .map(|i| (i / channels % groups, i % channels))
            .map(|(group, channel)| centers[group * channels + channel] + 0.3 * random.normal())
            .map(|x| x as f32)
            .collect();
        let points = tsne(&rows, channels, &Reporter::silent()).unwrap();
        for (i, a) in points.iter().enumerate() {
            let distance = |b: &[f64; 2]| (a[0] - b[0]).hypot(a[1] - b[1]);
            let others = (0..number).filter(|&j| j != i);
            let mut others: Vec<(f64, usize)> = others.map(|j| (distance(&points[j]), j)).collect();
            others.sort_by(|a, b| a.0.total_cmp(&b.0));
            assert!(others[..10].iter().all(|(_, j)| j % groups == i % groups), "row {i}");
        }
    }
}
