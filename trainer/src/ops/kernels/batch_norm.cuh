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

// The row that a thread reads as number i of AHEAD.
__device__ inline int row_of(int i, int row, const Tile &tile) {
    return min(row + i * (int)blockDim.y, tile.end - 1);
}

__device__ inline void load_rows(const scalar *__restrict__ map, int row, int channels,
                                 const Tile &tile, uint4 (&packs)[AHEAD]) {
#pragma unroll
    for (int i = 0; i < AHEAD; ++i) {
        const long long place = at(row_of(i, row, tile), channels, tile.channel);
        packs[i] = *reinterpret_cast<const uint4 *>(map + place);
    }
}

// A channel's share of y = x·factor + summand = (x − mean) / √(variance + ε) · weight + bias.
__device__ inline void load_scale(const float *__restrict__ statistics,
                                  const float *__restrict__ weight, const float *__restrict__ bias,
                                  int channels, int channel, float (&factor)[LANES],
                                  float (&summand)[LANES]) {
    float mean[LANES], variance[LANES];
    load_floats(statistics + channel, mean);
    load_floats(statistics + channels + channel, variance);
    load_floats(weight + channel, factor);
    load_floats(bias + channel, summand);
#pragma unroll
    for (int lane = 0; lane < LANES; ++lane) {
        factor[lane] *= rsqrtf(variance[lane] + BATCH_NORM_EPSILON);
        summand[lane] -= mean[lane] * factor[lane];
    }
}

// A block's two sums of each channel, as its piece of pieces [gridDim.x, 2, channels].
__device__ inline void store_piece(float *__restrict__ pieces, const Tile &tile, int channels,
                                   const float (&first)[LANES], const float (&second)[LANES]) {
    float *to = pieces + (long long)blockIdx.x * 2 * channels + tile.channel;
    store_floats(to, first);
    store_floats(to + channels, second);
}

// Mean and sum of squared differences of each channel over a block's rows: pieces [gridDim.x, 2,
// channels].
COOPERATIVE(batch_moments, const scalar *__restrict__ x, float *__restrict__ pieces, int rows,
            int channels, int rows_per_block) {
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
    for (int row = first; row < tile.end; row += AHEAD * blockDim.y) {
        uint4 packs[AHEAD];
        load_rows(x, row, channels, tile, packs);
#pragma unroll
        for (int i = 0; i < AHEAD; ++i) {
            const bool inside = row + i * (int)blockDim.y < tile.end;
            float value[LANES];
            unpack(packs[i], value);
#pragma unroll
            for (int lane = 0; lane < LANES; ++lane) {
                const float difference = inside ? value[lane] - shift[lane] : 0.0f;
                sum[lane] += difference;
                square[lane] += difference * difference;
            }
            count += inside ? 1.0f : 0.0f;
        }
    }
    counts[thread] = count;
    const float of_one = count > 0.0f ? 1.0f / count : 0.0f;
#pragma unroll
    for (int lane = 0; lane < LANES; ++lane) {
        const float drift = sum[lane] * of_one;
        means[thread][lane] = shift[lane] + drift;
        squares[thread][lane] = square[lane] - drift * sum[lane];
    }
    for (int active = blockDim.y; active > 1;) {
        const int half = (active + 1) / 2;
        const int other = thread + half * blockDim.x;
        __syncthreads();
        if ((int)threadIdx.y + half < active && counts[other] > 0.0f) {
            // Chan, Golub, LeVeque: the moments of two sets of rows together.
            const float share = counts[other] / (counts[thread] + counts[other]);
#pragma unroll
            for (int lane = 0; lane < LANES; ++lane) {
                const float delta = means[other][lane] - means[thread][lane];
                means[thread][lane] += delta * share;
                squares[thread][lane] +=
                    squares[other][lane] + delta * delta * (counts[thread] * share);
            }
            counts[thread] += counts[other];
        }
        active = half;
    }
    if (threadIdx.y == 0 && tile.inside)
        store_piece(pieces, tile, channels, means[thread], squares[thread]);
}

// The two sums of a channel in AHEAD of pieces [end, 2, channels], zeros after the last.
__device__ inline void load_pieces(const float *__restrict__ pieces, int piece, int end,
                                   int channels, int channel, float (&first)[AHEAD],
                                   float (&second)[AHEAD]) {
#pragma unroll
    for (int i = 0; i < AHEAD; ++i) {
        const long long place = 2LL * min(piece + i * SHARERS, end - 1) * channels + channel;
        first[i] = pieces[place];
        second[i] = pieces[place + channels];
    }
#pragma unroll
    for (int i = 0; i < AHEAD; ++i) {
        const bool inside = piece + i * SHARERS < end;
        first[i] = inside ? first[i] : 0.0f;
        second[i] = inside ? second[i] : 0.0f;
    }
}

// The rows of a piece, none after the last piece.
__device__ inline double rows_of_piece(int piece, int rows, int rows_per_block) {
    return (double)max(0, min(rows_per_block, rows - piece * rows_per_block));
}

// The pieces of batch_moments become the statistics, zeros of no rows. Sums of squares lose nothing
// in float64: it has room for a mean of ten thousand standard deviations.
GATHERING(batch_statistics, const float *__restrict__ pieces, int piece_count,
          float *__restrict__ statistics, int rows, int channels, int rows_per_block) {
    __shared__ double scratch[2][SHARERS][COLUMNS];
    const int channel = blockIdx.x * COLUMNS + threadIdx.x;
    const int end = channel < channels ? piece_count : 0;
    double sums[2] = {};  // Σx and Σx²
    for (int piece = threadIdx.y; piece < end; piece += AHEAD * SHARERS) {
        float means[AHEAD], squares[AHEAD];
        load_pieces(pieces, piece, end, channels, channel, means, squares);
#pragma unroll
        for (int i = 0; i < AHEAD; ++i) {
            const double count = rows_of_piece(piece + i * SHARERS, rows, rows_per_block);
            sums[0] += count * means[i];
            sums[1] += squares[i] + count * means[i] * means[i];
        }
    }
    sum_of_sharers(sums, scratch);
    if (channel >= channels || threadIdx.y != 0) return;
    const double n = max(rows, 1), mean = sums[0] / n, variance = sums[1] / n - mean * mean;
    statistics[channel] = (float)mean;
    // Not by fmax, which would turn NaN into zero.
    statistics[channels + channel] = variance < 0.0 ? 0.0f : (float)variance;
    statistics[2 * channels + channel] = (float)rows;
}

// The statistics of the ranks, [ranks, 3, channels], become those of all their rows.
KERNEL(join_statistics, const float *__restrict__ of_ranks, int ranks,
       float *__restrict__ statistics, int channels) {
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

// y = x·factor + summand, plus the residual where there is one, then ReLU if `relu`. Where
// `positive` is given, a bit for each value, a byte for each pack, says whether it is positive.
KERNEL(batch_norm, const scalar *__restrict__ x, const float *__restrict__ statistics,
       const float *__restrict__ weight, const float *__restrict__ bias,
       const scalar *__restrict__ residual, scalar *__restrict__ y,
       unsigned char *__restrict__ positive, int rows, int channels, int rows_per_block, int relu) {
    const Tile tile = tile_of(rows, channels, rows_per_block);
    if (!tile.inside) return;
    float factor[LANES], summand[LANES];
    load_scale(statistics, weight, bias, channels, tile.channel, factor, summand);
    for (int row = tile.begin + threadIdx.y; row < tile.end; row += AHEAD * blockDim.y) {
        uint4 packs[AHEAD], others[AHEAD] = {};
        load_rows(x, row, channels, tile, packs);
        if (residual != nullptr) load_rows(residual, row, channels, tile, others);
#pragma unroll
        for (int i = 0; i < AHEAD; ++i) {
            float value[LANES], other[LANES];
            unpack(packs[i], value);
            unpack(others[i], other);
            unsigned bits = 0;
#pragma unroll
            for (int lane = 0; lane < LANES; ++lane) {
                const float result = value[lane] * factor[lane] + summand[lane] + other[lane];
                // Not by fmaxf, which would turn NaN into zero and hide it.
                value[lane] = relu && result < 0.0f ? 0.0f : result;
                bits |= (unsigned)(result > 0.0f) << lane;
            }
            if (row + i * (int)blockDim.y >= tile.end) continue;
            const long long place = at(row_of(i, row, tile), channels, tile.channel);
            store_pack(y + place, value);
            if (positive != nullptr) positive[place / LANES] = (unsigned char)bits;
        }
    }
}

// Where the gradient of a batch norm's result is passed on.
#define MASK_NONE 0  // everywhere
#define MASK_OWN 1   // where x·factor + summand > 0: ReLU followed directly
#define MASK_BITS 2  // where batch_norm wrote a bit

// dy before ReLU, for a pack of one row: passed on where `bits` has a bit and, with MASK_OWN, the
// normalized value is positive.
__device__ inline void mask_gradient(float (&gradient)[LANES], const float (&value)[LANES],
                                     const float (&factor)[LANES], const float (&summand)[LANES],
                                     unsigned bits, int mask) {
#pragma unroll
    for (int lane = 0; lane < LANES; ++lane) {
        const bool positive = value[lane] * factor[lane] + summand[lane] > 0.0f;
        const bool passed = (bits >> lane & 1u) && (positive || mask != MASK_OWN);
        gradient[lane] = passed ? gradient[lane] : 0.0f;
    }
}

// Σ dy·(x − mean) and Σ dy of each channel over a block's rows: pieces [gridDim.x, 2, channels].
// The masked gradient is written to `masked` where that is given.
COOPERATIVE(batch_norm_sums, const scalar *__restrict__ x, const scalar *__restrict__ dy,
            const unsigned char *__restrict__ positive, int mask,
            const float *__restrict__ statistics, const float *__restrict__ weight,
            const float *__restrict__ bias, float *__restrict__ pieces,
            scalar *__restrict__ masked, int rows, int channels, int rows_per_block) {
    __shared__ float products[THREADS][LANES];
    __shared__ float plain[THREADS][LANES];
    const Tile tile = tile_of(rows, channels, rows_per_block);
    const int thread = threadIdx.y * blockDim.x + threadIdx.x;
    float mean[LANES], factor[LANES], summand[LANES], product[LANES] = {}, sum[LANES] = {};
    load_floats(statistics + tile.channel, mean);
    load_scale(statistics, weight, bias, channels, tile.channel, factor, summand);
    for (int row = tile.begin + threadIdx.y; row < tile.end; row += AHEAD * blockDim.y) {
        uint4 packs[AHEAD], gradients[AHEAD];
        unsigned bits[AHEAD];
        load_rows(x, row, channels, tile, packs);
        load_rows(dy, row, channels, tile, gradients);
#pragma unroll
        for (int i = 0; i < AHEAD; ++i) {
            const long long place = at(row_of(i, row, tile), channels, tile.channel);
            bits[i] = mask == MASK_BITS ? positive[place / LANES] : ~0u;
        }
#pragma unroll
        for (int i = 0; i < AHEAD; ++i) {
            const bool inside = row + i * (int)blockDim.y < tile.end;
            float value[LANES], gradient[LANES];
            unpack(packs[i], value);
            unpack(gradients[i], gradient);
            mask_gradient(gradient, value, factor, summand, inside ? bits[i] : 0, mask);
            if (masked != nullptr && inside && tile.inside)
                store_pack(masked + at(row_of(i, row, tile), channels, tile.channel), gradient);
#pragma unroll
            for (int lane = 0; lane < LANES; ++lane) {
                product[lane] += (value[lane] - mean[lane]) * gradient[lane];
                sum[lane] += gradient[lane];
            }
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
GATHERING(batch_norm_coefficients, const float *__restrict__ pieces, int piece_count,
          const float *__restrict__ statistics, const float *__restrict__ weight,
          float *__restrict__ dweight, float *__restrict__ dbias, float *__restrict__ all_sums,
          float *__restrict__ coefficients, int channels) {
    __shared__ double scratch[2][SHARERS][COLUMNS];
    const int channel = blockIdx.x * COLUMNS + threadIdx.x;
    const int end = channel < channels ? piece_count : 0;
    double sums[2] = {};  // Σ dy·(x − mean) and Σ dy
    for (int piece = threadIdx.y; piece < end; piece += AHEAD * SHARERS) {
        float products[AHEAD], plain[AHEAD];
        load_pieces(pieces, piece, end, channels, channel, products, plain);
#pragma unroll
        for (int i = 0; i < AHEAD; ++i) {
            sums[0] += products[i];
            sums[1] += plain[i];
        }
    }
    sum_of_sharers(sums, scratch);
    if (channel >= channels || threadIdx.y != 0) return;
    const float inverse = 1.0f / sqrtf(statistics[channels + channel] + BATCH_NORM_EPSILON);
    const float weight_sum = (float)(sums[0] * inverse), bias_sum = (float)sums[1];
    if (dweight != nullptr) {
        dweight[channel] = weight_sum;
        dbias[channel] = bias_sum;
    }
    if (all_sums != nullptr) {
        all_sums[channel] = (float)sums[0];
        all_sums[channels + channel] = bias_sum;
    }
    if (coefficients == nullptr) return;
    const float mean = statistics[channel], n = statistics[2 * channels + channel];
    const float factor = inverse * weight[channel];
    const float slope = -factor * inverse * weight_sum / n;
    coefficients[channel] = slope;
    coefficients[channels + channel] = -factor * bias_sum / n - slope * mean;
}

// dx = dy·factor + x·slope + offset, dy masked as in batch_norm_sums.
KERNEL(batch_norm_backward, const scalar *__restrict__ x, const scalar *__restrict__ dy, int mask,
       const float *__restrict__ statistics, const float *__restrict__ weight,
       const float *__restrict__ bias, const float *__restrict__ coefficients,
       scalar *__restrict__ dx, int rows, int channels, int rows_per_block) {
    const Tile tile = tile_of(rows, channels, rows_per_block);
    if (!tile.inside) return;
    float factor[LANES], summand[LANES], slope[LANES], offset[LANES];
    load_scale(statistics, weight, bias, channels, tile.channel, factor, summand);
    load_floats(coefficients + tile.channel, slope);
    load_floats(coefficients + channels + tile.channel, offset);
    for (int row = tile.begin + threadIdx.y; row < tile.end; row += AHEAD * blockDim.y) {
        uint4 packs[AHEAD], gradients[AHEAD];
        load_rows(x, row, channels, tile, packs);
        load_rows(dy, row, channels, tile, gradients);
#pragma unroll
        for (int i = 0; i < AHEAD; ++i) {
            float value[LANES], gradient[LANES];
            unpack(packs[i], value);
            unpack(gradients[i], gradient);
            mask_gradient(gradient, value, factor, summand, ~0u, mask);
#pragma unroll
            for (int lane = 0; lane < LANES; ++lane) {
                gradient[lane] =
                    gradient[lane] * factor[lane] + value[lane] * slope[lane] + offset[lane];
            }
            if (row + i * (int)blockDim.y < tile.end)
                store_pack(dx + at(row_of(i, row, tile), channels, tile.channel), gradient);
        }
    }
}
