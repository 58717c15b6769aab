// What a fully connected layer needs beside its matrix products.

// Adds a bias [columns] to each row of a matrix [rows, columns].
KERNEL(add_bias, scalar *matrix, const float *bias, int rows, int columns) {
    const long long index = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (index >= (long long)rows * columns) return;
    matrix[index] = to_scalar(to_float(matrix[index]) + bias[index % columns]);
}

// The sum of each column of a matrix [rows, columns]. A block takes COLUMNS columns, so that reads
// are side by side.
GATHERING(column_sums, const scalar *matrix, float *sums, int rows, int columns) {
    __shared__ double scratch[SHARERS][COLUMNS];
    const int column = blockIdx.x * COLUMNS + threadIdx.x;
    const bool inside = column < columns;
    double sum = 0.0;
    for (int row = threadIdx.y; inside && row < rows; row += SHARERS) {
        sum += to_float(matrix[(long long)row * columns + column]);
    }
    sum = sum_of_sharers(sum, scratch);
    if (inside && threadIdx.y == 0) sums[column] = (float)sum;
}
