// Batch norm on matrices of `rows` pixels by `channels`, with what surrounds it in a ResNet.
//
// A block is blockDim.x packs of channels wide and `rows_per_block` rows high; rows are read in
// steps of blockDim.y, so that each thread keeps its channels' factors in registers. Rows go along
// blockIdx.x, which may be long, channels along blockIdx.y. `statistics` are [3, channels]: mean,
// biased variance, and the rows that both are of.

// What a thread works on.
struct Tile {
    int channel;
    int begin;
    int end;
    bool inside;
};

__device__ inline Tile tile_of(int rows, int channels, int rows_per_block) {
    Tile tile;
    const int pack = blockIdx.y * blockDim.x + threadIdx.x;
    tile.inside = pack * LANES < channels;
    tile.channel = tile.inside ? pack * LANES : 0;
    tile.begin = blockIdx.x * rows_per_block;
    tile.end = min(rows, tile.begin + rows_per_block);
    return tile;
}

__device__ inline long long at(int row, int channels, int channel) {
    return (long long)row * channels + channel;
}

// A channel's share of y = x·factor + summand = (x − mean) / √(variance + ε) · weight + bias.
__device__ inline void load_scale(const float *statistics, const float *weight, const float *bias,
                                  int channels, int channel, float (&factor)[LANES],
                                  float (&summand)[LANES]) {
#pragma unroll
    for (int lane = 0; lane < LANES; ++lane) {
        const float mean = statistics[channel + lane],
                    variance = statistics[channels + channel + lane];
        factor[lane] = 1.0f / sqrtf(variance + BATCH_NORM_EPSILON) * weight[channel + lane];
        summand[lane] = bias[channel + lane] - mean * factor[lane];
    }
}

// Joins mean and sum of squared differences of `count` rows with those of `other_count` rows (Chan,
// Golub, LeVeque).
__device__ inline void join_moments(float &mean, float &m2, float count, float other_mean,
                                    float other_m2, float other_count) {
    if (other_count == 0.0f) return;
    const float total = count + other_count;
    const float delta = other_mean - mean;
    mean += delta * (other_count / total);
    m2 += other_m2 + delta * delta * (count * other_count / total);
}

// A block's two sums of each channel, as its piece of pieces [gridDim.x, 2, channels].
__device__ inline void store_piece(float *pieces, const Tile &tile, int channels,
                                   const float (&first)[LANES], const float (&second)[LANES]) {
    float *to = pieces + (long long)blockIdx.x * 2 * channels + tile.channel;
#pragma unroll
    for (int lane = 0; lane < LANES; ++lane) {
        to[lane] = first[lane];
        to[channels + lane] = second[lane];
    }
}

// Mean and sum of squared differences of each channel over a block's rows: pieces [gridDim.x, 2,
// channels].
COOPERATIVE(batch_moments, const scalar *x, float *pieces, int rows, int channels,
            int rows_per_block) {
    __shared__ float means[THREADS][LANES];
    __shared__ float squares[THREADS][LANES];
    __shared__ float counts[THREADS];
    const Tile tile = tile_of(rows, channels, rows_per_block);
    const int thread = threadIdx.y * blockDim.x + threadIdx.x;
    const int first = tile.begin + threadIdx.y;
    float shift[LANES] = {}, sum[LANES] = {}, square[LANES] = {};
    float count = 0.0f;
    // Differences from the first row keep a large mean from costing precision.
    if (first < tile.end) load_pack(x + at(first, channels, tile.channel), shift);
#pragma unroll 4
    for (int row = first; row < tile.end; row += blockDim.y) {
        float value[LANES];
        load_pack(x + at(row, channels, tile.channel), value);
#pragma unroll
        for (int lane = 0; lane < LANES; ++lane) {
            const float difference = value[lane] - shift[lane];
            sum[lane] += difference;
            square[lane] += difference * difference;
        }
        count += 1.0f;
    }
    counts[thread] = count;
#pragma unroll
    for (int lane = 0; lane < LANES; ++lane) {
        const float drift = count > 0.0f ? sum[lane] / count : 0.0f;
        means[thread][lane] = shift[lane] + drift;
        squares[thread][lane] = square[lane] - drift * sum[lane];
    }
    for (int active = blockDim.y; active > 1;) {
        const int half = (active + 1) / 2;
        const int other = thread + half * blockDim.x;
        __syncthreads();
        if ((int)threadIdx.y + half < active) {
#pragma unroll
            for (int lane = 0; lane < LANES; ++lane) {
                join_moments(means[thread][lane], squares[thread][lane], counts[thread],
                             means[other][lane], squares[other][lane], counts[other]);
            }
            counts[thread] += counts[other];
        }
        active = half;
    }
    if (threadIdx.y == 0 && tile.inside)
        store_piece(pieces, tile, channels, means[thread], squares[thread]);
}

__device__ inline double rows_of_piece(int piece, int rows, int rows_per_block) {
    return (double)max(0, min(rows_per_block, rows - piece * rows_per_block));
}

// The pieces of batch_moments become the statistics, zeros of no rows.
GATHERING(batch_statistics, const float *pieces, int piece_count, float *statistics, int rows,
          int channels, int rows_per_block) {
    __shared__ double scratch[SHARERS][COLUMNS];
    const int channel = blockIdx.x * COLUMNS + threadIdx.x;
    const bool inside = channel < channels;
    double sum = 0.0;
    for (int piece = threadIdx.y; inside && piece < piece_count; piece += SHARERS) {
        const double count = rows_of_piece(piece, rows, rows_per_block);
        sum += count * pieces[(long long)piece * 2 * channels + channel];
    }
    const double n = max(rows, 1);
    const double mean = sum_of_sharers(sum, scratch) / n;
    sum = 0.0;
    for (int piece = threadIdx.y; inside && piece < piece_count; piece += SHARERS) {
        const float *moments = pieces + (long long)piece * 2 * channels + channel;
        const double drift = moments[0] - mean;
        sum += moments[channels] + rows_of_piece(piece, rows, rows_per_block) * drift * drift;
    }
    const double variance = sum_of_sharers(sum, scratch) / n;
    if (!inside || threadIdx.y != 0) return;
    statistics[channel] = (float)mean;
    statistics[channels + channel] = (float)variance;
    statistics[2 * channels + channel] = (float)rows;
}

// The statistics of the ranks, [ranks, 3, channels], become those of all their rows.
KERNEL(join_statistics, const float *of_ranks, int ranks, float *statistics, int channels) {
    const int channel = blockIdx.x * blockDim.x + threadIdx.x;
    if (channel >= channels) return;
    double rows = 0.0, sum = 0.0;
    for (int rank = 0; rank < ranks; ++rank) {
        const float *of_rank = of_ranks + (long long)rank * 3 * channels + channel;
        rows += of_rank[2 * channels];
        sum += (double)of_rank[2 * channels] * of_rank[0];
    }
    const double mean = sum / rows;
    double squares = 0.0;
    for (int rank = 0; rank < ranks; ++rank) {
        const float *of_rank = of_ranks + (long long)rank * 3 * channels + channel;
        const double drift = of_rank[0] - mean;
        squares += of_rank[2 * channels] * (of_rank[channels] + drift * drift);
    }
    statistics[channel] = (float)mean;
    statistics[channels + channel] = (float)(squares / rows);
    statistics[2 * channels + channel] = (float)rows;
}

// Running mean and variance move towards the batch's, whose variance is made unbiased.
KERNEL(update_running, const float *statistics, float *mean, float *variance, int channels,
       float momentum) {
    const int channel = blockIdx.x * blockDim.x + threadIdx.x;
    if (channel >= channels) return;
    const float rows = statistics[2 * channels + channel];
    const float unbiased = rows / fmaxf(rows - 1.0f, 1.0f);
    mean[channel] += momentum * (statistics[channel] - mean[channel]);
    variance[channel] += momentum * (statistics[channels + channel] * unbiased - variance[channel]);
}

// y = x·factor + summand, plus the residual where there is one, then ReLU if `relu`.
KERNEL(batch_norm, const scalar *x, const float *statistics, const float *weight, const float *bias,
       const scalar *residual, scalar *y, int rows, int channels, int rows_per_block, int relu) {
    const Tile tile = tile_of(rows, channels, rows_per_block);
    if (!tile.inside) return;
    float factor[LANES], summand[LANES];
    load_scale(statistics, weight, bias, channels, tile.channel, factor, summand);
#pragma unroll 4
    for (int row = tile.begin + threadIdx.y; row < tile.end; row += blockDim.y) {
        const long long place = at(row, channels, tile.channel);
        float value[LANES], other[LANES] = {};
        load_pack(x + place, value);
        if (residual != nullptr) load_pack(residual + place, other);
#pragma unroll
        for (int lane = 0; lane < LANES; ++lane) {
            float result = value[lane] * factor[lane] + summand[lane];
            if (residual != nullptr) result += other[lane];
            // Not by fmaxf, which would turn NaN into zero and hide it.
            value[lane] = relu && result < 0.0f ? 0.0f : result;
        }
        store_pack(y + place, value);
    }
}

// Where the gradient of a batch norm's result is passed on.
#define MASK_NONE 0    // everywhere
#define MASK_OWN 1     // where x·factor + summand > 0: ReLU followed directly
#define MASK_RESULT 2  // where the result of ReLU, given as a map, is positive

// dy before ReLU, for a pack of one row.
__device__ inline void masked_gradient(float (&gradient)[LANES], const float (&value)[LANES],
                                       const float (&factor)[LANES], const float (&summand)[LANES],
                                       const scalar *result, int mask) {
    if (mask == MASK_NONE) return;
    float positive[LANES];
    if (mask == MASK_RESULT) load_pack(result, positive);
#pragma unroll
    for (int lane = 0; lane < LANES; ++lane) {
        if (mask == MASK_OWN) positive[lane] = value[lane] * factor[lane] + summand[lane];
        if (!(positive[lane] > 0.0f)) gradient[lane] = 0.0f;
    }
}

// Σ dy·(x − mean) and Σ dy of each channel over a block's rows: pieces [gridDim.x, 2, channels].
// The masked gradient is written to `masked` where that is given.
COOPERATIVE(batch_norm_sums, const scalar *x, const scalar *dy, const scalar *result, int mask,
            const float *statistics, const float *weight, const float *bias, float *pieces,
            scalar *masked, int rows, int channels, int rows_per_block) {
    __shared__ float products[THREADS][LANES];
    __shared__ float plain[THREADS][LANES];
    const Tile tile = tile_of(rows, channels, rows_per_block);
    const int thread = threadIdx.y * blockDim.x + threadIdx.x;
    float mean[LANES], factor[LANES], summand[LANES], product[LANES] = {}, sum[LANES] = {};
    load_floats(statistics + tile.channel, mean);
    load_scale(statistics, weight, bias, channels, tile.channel, factor, summand);
#pragma unroll 2
    for (int row = tile.begin + threadIdx.y; row < tile.end; row += blockDim.y) {
        const long long place = at(row, channels, tile.channel);
        float value[LANES], gradient[LANES];
        load_pack(x + place, value);
        load_pack(dy + place, gradient);
        masked_gradient(gradient, value, factor, summand, result + place, mask);
        if (masked != nullptr && tile.inside) store_pack(masked + place, gradient);
#pragma unroll
        for (int lane = 0; lane < LANES; ++lane) {
            product[lane] += (value[lane] - mean[lane]) * gradient[lane];
            sum[lane] += gradient[lane];
        }
    }
#pragma unroll
    for (int lane = 0; lane < LANES; ++lane) {
        products[thread][lane] = product[lane];
        plain[thread][lane] = sum[lane];
    }
    for (int active = blockDim.y; active > 1;) {
        const int half = (active + 1) / 2;
        const int other = thread + half * blockDim.x;
        __syncthreads();
        if ((int)threadIdx.y + half < active) {
#pragma unroll
            for (int lane = 0; lane < LANES; ++lane) {
                products[thread][lane] += products[other][lane];
                plain[thread][lane] += plain[other][lane];
            }
        }
        active = half;
    }
    if (threadIdx.y == 0 && tile.inside)
        store_piece(pieces, tile, channels, products[thread], plain[thread]);
}

// The pieces of batch_norm_sums, or the sums of all ranks, become the gradients of weight and bias,
// the sums [2, channels] of all pieces, and the coefficients [2, channels] of dx = dy·factor +
// x·slope + offset; each where it is given.
GATHERING(batch_norm_coefficients, const float *pieces, int piece_count, const float *statistics,
          const float *weight, float *dweight, float *dbias, float *sums, float *coefficients,
          int channels) {
    __shared__ double scratch[SHARERS][COLUMNS];
    const int channel = blockIdx.x * COLUMNS + threadIdx.x;
    const bool inside = channel < channels;
    double product = 0.0, plain = 0.0;
    for (int piece = threadIdx.y; inside && piece < piece_count; piece += SHARERS) {
        const float *of_piece = pieces + (long long)piece * 2 * channels + channel;
        product += of_piece[0];
        plain += of_piece[channels];
    }
    product = sum_of_sharers(product, scratch);
    plain = sum_of_sharers(plain, scratch);
    if (!inside || threadIdx.y != 0) return;
    const float inverse = 1.0f / sqrtf(statistics[channels + channel] + BATCH_NORM_EPSILON);
    const float weight_sum = (float)(product * inverse), bias_sum = (float)plain;
    if (dweight != nullptr) {
        dweight[channel] = weight_sum;
        dbias[channel] = bias_sum;
    }
    if (sums != nullptr) {
        sums[channel] = (float)product;
        sums[channels + channel] = bias_sum;
    }
    if (coefficients == nullptr) return;
    const float mean = statistics[channel], n = statistics[2 * channels + channel];
    const float factor = inverse * weight[channel];
    const float slope = -factor * inverse * weight_sum / n;
    coefficients[channel] = slope;
    coefficients[channels + channel] = -factor * bias_sum / n - slope * mean;
}

// dx = dy·factor + x·slope + offset, dy masked as in batch_norm_sums.
KERNEL(batch_norm_backward, const scalar *x, const scalar *dy, int mask, const float *statistics,
       const float *weight, const float *bias, const float *coefficients, scalar *dx, int rows,
       int channels, int rows_per_block) {
    const Tile tile = tile_of(rows, channels, rows_per_block);
    if (!tile.inside) return;
    float factor[LANES], summand[LANES], slope[LANES], offset[LANES];
    load_scale(statistics, weight, bias, channels, tile.channel, factor, summand);
    load_floats(coefficients + tile.channel, slope);
    load_floats(coefficients + channels + tile.channel, offset);
#pragma unroll 4
    for (int row = tile.begin + threadIdx.y; row < tile.end; row += blockDim.y) {
        const long long place = at(row, channels, tile.channel);
        float value[LANES], gradient[LANES];
        load_pack(x + place, value);
        load_pack(dy + place, gradient);
        masked_gradient(gradient, value, factor, summand, nullptr, mask);
#pragma unroll
        for (int lane = 0; lane < LANES; ++lane) {
            gradient[lane] =
                gradient[lane] * factor[lane] + value[lane] * slope[lane] + offset[lane];
        }
        store_pack(dx + place, gradient);
    }
}
