//! Eigenvalues of symmetric matrices, in float64.

use rayon::prelude::*;

/// Iterations for one eigenvalue at most; two or three are usual.
const MOST_ITERATIONS: usize = 60;

/// Rows of a matrix that one thread handles at a time.
const ROWS: usize = 32;

/// The eigenvalues of a symmetric matrix `[n, n]`, in no particular order: Householder reflections
/// make it tridiagonal, implicit QL steps make that diagonal (Golub and Van Loan, Matrix
/// Computations, 4th edition, sections 8.3.1 and 8.3.3). The result does not depend on the number
/// of threads.
pub(super) fn eigenvalues(mut matrix: Vec<f64>, n: usize) -> Vec<f64> {
    debug_assert_eq!(matrix.len(), n * n);
    let (mut diagonal, mut beside) = (vec![0.0; n], vec![0.0; n]);
    for k in 0..n {
        diagonal[k] = matrix[k * n + k];
        if k + 1 < n {
            beside[k] = reflect(&mut matrix, n, k);
        }
    }
    solve_tridiagonal(&mut diagonal, &mut beside);
    diagonal
}

/// Makes the elements of row and column `k` zero beyond the one beside the diagonal, by a reflection
/// of the rows and columns after `k`, and returns that one.
fn reflect(matrix: &mut [f64], n: usize, k: usize) -> f64 {
    let mut v = matrix[k * n + k + 1..(k + 1) * n].to_vec();
    let beyond: f64 = v[1..].iter().map(|x| x * x).sum();
    if beyond == 0.0 {
        return v[0];
    }
    let beside = -(v[0] * v[0] + beyond).sqrt().copysign(v[0]);
    v[0] -= beside;
    let scale = 2.0 / (v[0] * v[0] + beyond);
    let rest = &mut matrix[(k + 1) * n..];
    let mut w = vec![0.0; v.len()];
    w.par_iter_mut()
        .zip(rest.par_chunks(n))
        .with_min_len(ROWS)
        .for_each(|(w, row)| *w = scale * dot(&row[k + 1..], &v));
    let along = 0.5 * scale * dot(&v, &w);
    w.iter_mut().zip(&v).for_each(|(w, v)| *w -= along * v);
    rest.par_chunks_mut(n).zip(&v).zip(&w).with_min_len(ROWS).for_each(|((row, v_i), w_i)| {
        for ((x, v), w) in row[k + 1..].iter_mut().zip(&v).zip(&w) {
            *x -= v_i * w + w_i * v;
        }
    });
    beside
}

/// The product of two vectors, by several sums, which the processor can add up at the same time.
fn dot(a: &[f64], b: &[f64]) -> f64 {
    const SUMS: usize = 8;
    let ((a, rest_a), (b, rest_b)) = (a.as_chunks::<SUMS>(), b.as_chunks::<SUMS>());
    let mut sums = [0.0; SUMS];
    for (a, b) in a.iter().zip(b) {
        (0..SUMS).for_each(|i| sums[i] += a[i] * b[i]);
    }
    sums.iter().sum::<f64>() + rest_a.iter().zip(rest_b).map(|(a, b)| a * b).sum::<f64>()
}

/// Turns a tridiagonal matrix, whose row k has `beside[k]` right of its diagonal, into a diagonal
/// one.
fn solve_tridiagonal(diagonal: &mut [f64], beside: &mut [f64]) {
    let n = diagonal.len();
    for first in 0..n {
        for _ in 0..MOST_ITERATIONS {
            // The block from `first` to the first negligible element beside the diagonal.
            let is_negligible = |k: &usize| {
                let around = diagonal[*k].abs() + diagonal[k + 1].abs();
                beside[*k].abs() <= f64::EPSILON * around
            };
            let last = (first..n - 1).find(is_negligible).unwrap_or(n - 1);
            if last == first {
                break;
            }
            // Wilkinson's shift, from the block's first two rows.
            let half = (diagonal[first + 1] - diagonal[first]) / (2.0 * beside[first]);
            let root = half.hypot(1.0).copysign(half);
            let mut g = diagonal[last] - diagonal[first] + beside[first] / (half + root);
            let (mut sine, mut cosine, mut moved) = (1.0, 1.0, 0.0);
            let mut is_split = false;
            for k in (first..last).rev() {
                let (f, b) = (sine * beside[k], cosine * beside[k]);
                let radius = f.hypot(g);
                beside[k + 1] = radius;
                if radius == 0.0 {
                    diagonal[k + 1] -= moved;
                    beside[last] = 0.0;
                    is_split = true;
                    break;
                }
                (sine, cosine) = (f / radius, g / radius);
                let shifted = diagonal[k + 1] - moved;
                let turned = (diagonal[k] - shifted) * sine + 2.0 * cosine * b;
                moved = sine * turned;
                diagonal[k + 1] = shifted + moved;
                g = cosine * turned - b;
            }
            if !is_split {
                diagonal[first] -= moved;
                beside[first] = g;
                beside[last] = 0.0;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sorted eigenvalues of `[n, n]`.
    fn sorted(matrix: Vec<f64>, n: usize) -> Vec<f64> {
        let mut found = eigenvalues(matrix, n);
        found.sort_by(f64::total_cmp);
        found
    }

    #[test]
    fn known_eigenvalues_are_found() {
        assert_eq!(eigenvalues(vec![], 0), [0.0; 0]);
        assert_eq!(eigenvalues(vec![7.0], 1), [7.0]);
        let two = sorted(vec![2.0, 1.0, 1.0, 2.0], 2);
        assert!((two[0] - 1.0).abs() < 1e-15 && (two[1] - 3.0).abs() < 1e-15, "{two:?}");
        assert_eq!(sorted(vec![3.0, 0.0, 0.0, 0.0, -1.0, 0.0, 0.0, 0.0, 0.0], 3), [-1.0, 0.0, 3.0]);
        // The second difference with fixed ends: 2 − 2·cos(kπ / (n + 1)). A rotation of the first and
        // the last axis makes it full at the ends.
        let n = 60;
        let mut matrix = vec![0.0; n * n];
        for k in 0..n {
            matrix[k * n + k] = 2.0;
            if k > 0 {
                matrix[k * n + k - 1] = -1.0;
                matrix[(k - 1) * n + k] = -1.0;
            }
        }
        let (cosine, sine) = (0.6, 0.8);
        for k in 0..n {
            let (a, b) = (matrix[k * n], matrix[k * n + n - 1]);
            matrix[k * n] = cosine * a + sine * b;
            matrix[k * n + n - 1] = cosine * b - sine * a;
        }
        for k in 0..n {
            let (a, b) = (matrix[k], matrix[(n - 1) * n + k]);
            matrix[k] = cosine * a + sine * b;
            matrix[(n - 1) * n + k] = cosine * b - sine * a;
        }
        for (k, value) in sorted(matrix, n).into_iter().enumerate() {
            let angle = (k + 1) as f64 * std::f64::consts::PI / (n + 1) as f64;
            assert!((value - (2.0 - 2.0 * angle.cos())).abs() < 1e-13, "{k}: {value}");
        }
    }

    #[test]
    fn a_matrix_of_rank_one_has_one_eigenvalue() {
        let v: Vec<f64> = (0..200).map(|k| f64::from(k * k % 17) - 8.0).collect();
        let matrix = v.iter().flat_map(|a| v.iter().map(move |b| a * b)).collect();
        let found = sorted(matrix, v.len());
        let length = dot(&v, &v);
        assert!((found[199] / length - 1.0).abs() < 1e-14);
        assert!(found[..199].iter().all(|value| value.abs() < 1e-12 * length));
    }
}
