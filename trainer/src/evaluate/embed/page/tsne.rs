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

/// Rows whose forces are summed side by side. The number of rows is filled up to a multiple of it by
/// points so far off that they exert none.
const LANES: usize = 8;
const FAR: f32 = 1e15;

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
        let [xs, ys] = [0, 1].map(|axis| {
            let mut coordinates: Vec<f32> = points.iter().map(|at| at[axis] as f32).collect();
            coordinates.resize(stride(number), FAR);
            coordinates
        });
        let forces: Vec<Force> = affinities
            .par_chunks_exact(stride(number))
            .zip(&points)
            .map(|(affinities, &point)| Force::of(point, [&xs, &ys], affinities))
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
    /// The sums are in float32 and side by side, which the compiler turns into vectors.
    fn of([x, y]: [f64; 2], [xs, ys]: [&[f32]; 2], affinities: &[f32]) -> Self {
        let [x, y] = [x, y].map(|at| at as f32);
        let mut sums = [[0.0f32; LANES]; 5];
        let others = xs.chunks_exact(LANES).zip(ys.chunks_exact(LANES));
        for ((xs, ys), affinities) in others.zip(affinities.chunks_exact(LANES)) {
            for lane in 0..LANES {
                let [dx, dy] = [x - xs[lane], y - ys[lane]];
                let weight = 1.0 / (1.0 + dx * dx + dy * dy);
                let (pull, push) = (affinities[lane] * weight, weight * weight);
                sums[0][lane] += pull * dx;
                sums[1][lane] += pull * dy;
                sums[2][lane] += push * dx;
                sums[3][lane] += push * dy;
                sums[4][lane] += weight;
            }
        }
        let [pull_x, pull_y, push_x, push_y, weights] =
            sums.map(|lanes| lanes.iter().copied().map(f64::from).sum::<f64>());
        Self { attraction: [pull_x, pull_y], repulsion: [push_x, push_y], weights }
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

/// The number of rows, filled up.
fn stride(number: usize) -> usize {
    number.max(1).next_multiple_of(LANES)
}

/// The joint probabilities of all pairs, which are symmetric and sum to 1: for each row those with
/// the others, filled up with zeros.
fn affinities(rows: &[f32], channels: usize) -> Vec<f32> {
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
    let mut joint = vec![0.0; number * stride(number)];
    for (i, row) in joint.chunks_exact_mut(stride(number)).enumerate() {
        for (j, joint) in row[..number].iter_mut().enumerate() {
            let sum = conditional[i][j] + conditional[j][i];
            *joint = (sum / (2 * number) as f64) as f32;
        }
    }
    joint
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
        let total: f64 = found.iter().copied().map(f64::from).sum();
        assert!((total - 1.0).abs() < 1e-6, "{total}");
        let at = |i: usize, j: usize| found[i * 152 + j];
        assert_eq!(found.len(), number * 152);
        for (i, j) in [(0, 1), (7, 149), (30, 31)] {
            assert!(at(i, j) > 0.0 && at(i, j) == at(j, i), "{i}, {j}");
        }
        assert_eq!([at(30, 30), at(30, 150), at(149, 151)], [0.0; 3]);
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
