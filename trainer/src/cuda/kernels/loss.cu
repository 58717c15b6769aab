// The loss, the online evaluation's, and how much vectors differ. Blocks have THREADS threads.

// What a step's kernels know of the batch: written by the host before each step, read on the device alone, so that a
// recorded step serves for every batch.
struct Batch {
    int rows;              // vectors that count: twice the matched boxes, or the views
    float inverse_matches; // 1 / matched boxes of the global batch
    float inverse_labels;  // 1 / labelled views of the global batch; 0 without any
    float learning_rate;
    float tau;
    int vectors;           // those that count in all micro-batches of the step
};

// What a step's kernels tell the host, summed over the micro-batches.
struct Outcome {
    float loss;
    float online_loss;
    float right;
    float projection_spread;
    float target_spread;
};

// ℓ(q, z) = 2 − 2·cos(q, z) of each prediction with the target of the other view, times 1 / matches, as row_losses
// [gridDim.x], and its gradient −2/‖q‖ · (ẑ − q̂·cos) / matches. Rows from batch->rows on give zeros. A block a row.
COOPERATIVE(cosine_loss, const scalar *predictions, const scalar *targets, scalar *gradient, double *row_losses,
            const Batch *batch, int width) {
    __shared__ double scratch[THREADS];
    const int row = blockIdx.x, rows = batch->rows;
    const long long mine = (long long)row * width;
    if (row >= rows) {
        for (int i = threadIdx.x; i < width; i += THREADS) gradient[mine + i] = to_scalar(0.0f);
        if (threadIdx.x == 0) row_losses[row] = 0.0;
        return;
    }
    const int half = rows / 2;
    const scalar *q = predictions + mine;
    const scalar *z = targets + (long long)(row < half ? row + half : row - half) * width;
    double squares = 0.0, target_squares = 0.0, products = 0.0;
    for (int i = threadIdx.x; i < width; i += THREADS) {
        const double a = to_float(q[i]), b = to_float(z[i]);
        squares += a * a;
        target_squares += b * b;
        products += a * b;
    }
    const double norm = fmax(sqrt(block_sum(squares, scratch)), SMALLEST_NORM);
    const double target_norm = fmax(sqrt(block_sum(target_squares, scratch)), SMALLEST_NORM);
    const double cosine = block_sum(products, scratch) / (norm * target_norm);
    const double scale = -2.0 / norm * batch->inverse_matches;
    const float target_part = (float)(scale / target_norm), own_part = (float)(scale * cosine / norm);
    for (int i = threadIdx.x; i < width; i += THREADS) {
        gradient[mine + i] = to_scalar(target_part * to_float(z[i]) - own_part * to_float(q[i]));
    }
    if (threadIdx.x == 0) row_losses[row] = (2.0 - 2.0 * cosine) * batch->inverse_matches;
}

// One block: the sum of `count` numbers, put into `sum` or added to it.
COOPERATIVE(sum_rows, const double *numbers, int count, float *sum, int accumulate) {
    __shared__ double scratch[THREADS];
    double mine = 0.0;
    for (int i = threadIdx.x; i < count; i += THREADS) mine += numbers[i];
    const double total = block_sum(mine, scratch);
    if (threadIdx.x == 0) *sum = (float)total + (accumulate ? *sum : 0.0f);
}

// Adds a bias [columns] to each row of a float32 matrix [rows, columns].
KERNEL(add_bias, float *matrix, const float *bias, int rows, int columns) {
    const long long index = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (index < (long long)rows * columns) matrix[index] += bias[index % columns];
}

// −log softmax(logits)[class], times 1 / labels, of each row of known class (not −1): row_losses and row_right
// [gridDim.x], the latter 1 where the first of the largest logits is at the class. The logits become their gradient.
COOPERATIVE(cross_entropy, float *logits, const int *classes, double *row_losses, double *row_right,
            const Batch *batch, int width) {
    __shared__ double scratch[THREADS];
    __shared__ float largest[THREADS];
    __shared__ int place[THREADS];
    float *row = logits + (long long)blockIdx.x * width;
    const int expected = classes[blockIdx.x], thread = threadIdx.x;
    float most = __uint_as_float(0xff800000u);  // −∞
    int where = 0;
    for (int i = thread; i < width; i += THREADS) {
        if (row[i] > most) {
            most = row[i];
            where = i;
        }
    }
    largest[thread] = most;
    place[thread] = where;
    for (int half = THREADS / 2; half > 0; half /= 2) {
        __syncthreads();
        if (thread < half) {
            const float other = largest[thread + half];
            const bool first_of_equal = other == largest[thread] && place[thread + half] < place[thread];
            if (other > largest[thread] || first_of_equal) {
                largest[thread] = other;
                place[thread] = place[thread + half];
            }
        }
    }
    __syncthreads();
    double sum = 0.0;
    for (int i = thread; i < width; i += THREADS) sum += exp((double)row[i] - (double)largest[0]);
    const double log_sum = (double)largest[0] + log(block_sum(sum, scratch));
    const bool known = expected >= 0 && expected < width;
    if (thread == 0) {
        row_losses[blockIdx.x] = known ? (log_sum - (double)row[expected]) * batch->inverse_labels : 0.0;
        row_right[blockIdx.x] = known && place[0] == expected ? 1.0 : 0.0;
    }
    __syncthreads();
    for (int i = thread; i < width; i += THREADS) {
        const double share = exp((double)row[i] - log_sum) - (i == expected ? 1.0 : 0.0);
        row[i] = known ? (float)(share * batch->inverse_labels) : 0.0f;
    }
}

// The sum of each column of a float32 matrix [rows, columns], put into `sums` or added to it. A block a column.
COOPERATIVE(column_sums, const float *matrix, int rows, int columns, float *sums, int accumulate) {
    __shared__ double scratch[THREADS];
    double mine = 0.0;
    for (int row = threadIdx.x; row < rows; row += THREADS) mine += matrix[(long long)row * columns + blockIdx.x];
    const double total = block_sum(mine, scratch);
    if (threadIdx.x == 0) sums[blockIdx.x] = (float)total + (accumulate ? sums[blockIdx.x] : 0.0f);
}

// The inverse length of each row [gridDim.x] of vectors. A block a row.
COOPERATIVE(inverse_lengths, const scalar *vectors, double *inverses, int width) {
    __shared__ double scratch[THREADS];
    const scalar *vector = vectors + (long long)blockIdx.x * width;
    double squares = 0.0;
    for (int i = threadIdx.x; i < width; i += THREADS) squares += (double)to_float(vector[i]) * to_float(vector[i]);
    const double length = fmax(sqrt(block_sum(squares, scratch)), SMALLEST_NORM);
    if (threadIdx.x == 0) inverses[blockIdx.x] = 1.0 / length;
}

// Σ and Σ² over the rows that count of each column of the vectors scaled to length 1: moments [2, gridDim.x], put there or
// added. A block a column.
COOPERATIVE(unit_moments, const scalar *vectors, const double *inverses, const Batch *batch, double *moments,
            int accumulate) {
    __shared__ double scratch[THREADS];
    const int column = blockIdx.x, width = gridDim.x;
    double sum = 0.0, square = 0.0;
    for (int row = threadIdx.x; row < batch->rows; row += THREADS) {
        const double value = to_float(vectors[(long long)row * width + column]) * inverses[row];
        sum += value;
        square += value * value;
    }
    sum = block_sum(sum, scratch);
    square = block_sum(square, scratch);
    if (threadIdx.x != 0) return;
    moments[column] = sum + (accumulate ? moments[column] : 0.0);
    moments[width + column] = square + (accumulate ? moments[width + column] : 0.0);
}

// One block: the mean over the columns of their standard deviation over the step's vectors.
COOPERATIVE(unit_spread, const double *moments, int width, const Batch *batch, float *spread) {
    __shared__ double scratch[THREADS];
    const double count = batch->vectors;
    double sum = 0.0;
    for (int column = threadIdx.x; column < width; column += THREADS) {
        const double mean = moments[column] / count;
        sum += sqrt(fmax(moments[width + column] / count - mean * mean, 0.0));
    }
    const double total = block_sum(sum, scratch);
    if (threadIdx.x == 0) *spread = (float)(total / width);
}
