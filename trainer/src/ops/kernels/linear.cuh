// What a fully connected layer needs beside its matrix products.

// Adds a bias [columns] to each row of a matrix [rows, columns].
KERNEL(add_bias, scalar *matrix, const float *bias, int rows, int columns) {
    const long long index = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (index >= (long long)rows * columns) return;
    matrix[index] = to_scalar(to_float(matrix[index]) + bias[index % columns]);
}

// The sum of each column of a matrix [rows, columns].
GATHERING(column_sums, const scalar *__restrict__ matrix, float *__restrict__ sums, int rows,
          int columns) {
    __shared__ double scratch[1][SHARERS][COLUMNS];
    const int column = blockIdx.x * COLUMNS + threadIdx.x;
    const int end = column < columns ? rows : 0;
    double sum[1] = {};
    for (int row = threadIdx.y; row < end; row += AHEAD * SHARERS) {
        float values[AHEAD];
#pragma unroll
        for (int i = 0; i < AHEAD; ++i) {
            const long long place = (long long)min(row + i * SHARERS, end - 1) * columns + column;
            values[i] = to_float(matrix[place]);
        }
#pragma unroll
        for (int i = 0; i < AHEAD; ++i) sum[0] += row + i * SHARERS < end ? values[i] : 0.0f;
    }
    sum_of_sharers(sum, scratch);
    if (column < columns && threadIdx.y == 0) sums[column] = (float)sum[0];
}
