// The loss and the online evaluation's. A block of THREADS threads a row; rows are summed
// afterwards, in float64.

// ℓ(q, z) = 2 − 2·cos(q, z) of each prediction [gridDim.x, width] with the target of the other
// view, divided by the matched boxes, as row_losses [gridDim.x]; and its gradient −2/‖q‖ · (ẑ −
// q̂·cos) / matches.
COOPERATIVE(cosine_loss, const scalar *predictions, const scalar *targets, scalar *gradient,
            double *row_losses, int width, double matches) {
    __shared__ double scratch[THREADS];
    const int row = blockIdx.x, half = gridDim.x / 2;
    const scalar *q = predictions + (long long)row * width;
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
    const double scale = -2.0 / (norm * matches);
    const float target_part = (float)(scale / target_norm),
                own_part = (float)(scale * cosine / norm);
    for (int i = threadIdx.x; i < width; i += THREADS) {
        gradient[(long long)row * width + i] =
            to_scalar(target_part * to_float(z[i]) - own_part * to_float(q[i]));
    }
    if (threadIdx.x == 0) row_losses[row] = (2.0 - 2.0 * cosine) / matches;
}

// −log softmax(logits)[class], divided by the labeled rows, of each row of known class (not −1) as
// row_losses [gridDim.x]; row_correct [gridDim.x], 1 where the first of the largest logits is at
// the class; and the gradient of the logits. The online evaluation is float32 whatever the maps
// are.
COOPERATIVE(cross_entropy, const float *logits, const long long *classes, float *gradient,
            double *row_losses, double *row_correct, int width, double labeled) {
    __shared__ double scratch[THREADS];
    __shared__ float largest[THREADS];
    __shared__ int place[THREADS];
    const float *row = logits + (long long)blockIdx.x * width;
    const long long expected = classes[blockIdx.x];
    const int thread = threadIdx.x;
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
            const bool first_of_equal =
                other == largest[thread] && place[thread + half] < place[thread];
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
        row_losses[blockIdx.x] = known ? (log_sum - (double)row[expected]) / labeled : 0.0;
        row_correct[blockIdx.x] = known && place[0] == expected ? 1.0 : 0.0;
    }
    for (int i = thread; i < width; i += THREADS) {
        const double share = exp((double)row[i] - log_sum) - (i == expected ? 1.0 : 0.0);
        gradient[(long long)blockIdx.x * width + i] = known ? (float)(share / labeled) : 0.0f;
    }
}
