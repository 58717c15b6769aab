//! Products of matrices on the CPU.

use gemm::Parallelism;

/// A matrix that lies somewhere in a slice: element (i, j) is
/// `data[i * row_stride + j * col_stride]`.
#[derive(Clone, Copy)]
pub(crate) struct Matrix<'a> {
    data: &'a [f32],
    rows: usize,
    cols: usize,
    row_stride: usize,
    col_stride: usize,
}

impl<'a> Matrix<'a> {
    /// A row-major matrix without gaps.
    pub fn new(data: &'a [f32], rows: usize, cols: usize) -> Self {
        assert_eq!(data.len(), rows * cols, "a {rows} by {cols} matrix");
        Self { data, rows, cols, row_stride: cols, col_stride: 1 }
    }

    /// A matrix whose rows begin `row_stride` numbers apart.
    pub fn with_stride(data: &'a [f32], rows: usize, cols: usize, row_stride: usize) -> Self {
        let fits = rows > 0 && cols <= row_stride && data.len() >= (rows - 1) * row_stride + cols;
        assert!(fits, "{rows} by {cols} numbers at a stride of {row_stride}");
        Self { data, rows, cols, row_stride, col_stride: 1 }
    }

    /// The number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Its transpose, in place.
    pub fn transposed(self) -> Self {
        Self {
            rows: self.cols,
            cols: self.rows,
            row_stride: self.col_stride,
            col_stride: self.row_stride,
            ..self
        }
    }
}

/// What happens to the product.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Store {
    /// Replaces what was there.
    Replace,
    /// Is added to what was there.
    Add,
}

/// `dst (rows of lhs × cols of rhs, row-major) = lhs · rhs`, or `+=`. Threads share the rows and
/// columns of the result, never a sum, so the result does not depend on their number.
pub(crate) fn multiply(
    dst: &mut [f32],
    lhs: Matrix,
    rhs: Matrix,
    store: Store,
    parallelism: Parallelism,
) {
    let (m, n, k) = (lhs.rows, rhs.cols, lhs.cols);
    assert_eq!(k, rhs.rows, "inner dimensions");
    assert_eq!(dst.len(), m * n, "size of the product");
    let add = store == Store::Add;
    if m * n * k == 0 {
        // A sum of nothing.
        dst.iter_mut().filter(|_| !add).for_each(|number| *number = 0.0);
        return;
    }
    // SAFETY: a `Matrix` was checked to hold rows × cols numbers at its strides, transposing
    // swaps the sides and strides together, the assertions above fix the result's size, and a
    // `&mut` slice overlaps neither operand.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            dst.as_mut_ptr(),
            1,
            n as isize,
            add,
            lhs.data.as_ptr(),
            lhs.col_stride as isize,
            lhs.row_stride as isize,
            rhs.data.as_ptr(),
            rhs.col_stride as isize,
            rhs.row_stride as isize,
            if add { 1.0 } else { 0.0 },
            1.0,
            false,
            false,
            false,
            parallelism,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn products_of_transposes_and_sums() {
        let a = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]; // 2 × 3
        let b = [1.0, 0.0, 2.0, 1.0, 0.0, 3.0]; // 3 × 2
        let mut c = [0.0; 4];
        multiply(
            &mut c,
            Matrix::new(&a, 2, 3),
            Matrix::new(&b, 3, 2),
            Store::Replace,
            Parallelism::None,
        );
        assert_eq!(c, [5.0, 11.0, 14.0, 23.0]);
        multiply(
            &mut c,
            Matrix::new(&b, 3, 2).transposed(),
            Matrix::new(&a, 2, 3).transposed(),
            Store::Add,
            Parallelism::None,
        );
        assert_eq!(c, [10.0, 25.0, 25.0, 46.0]);
    }
}
