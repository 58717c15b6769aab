// Pixels to input, the stem's max-pool, and the mean of a map.

// Bytes [pixels, 3] → (v / 255 − mean) / std as [pixels, 4], the fourth channel zero: a width that tensor cores take.
// A thread takes four pixels, twelve bytes of a buffer that is a multiple of four long.
KERNEL(normalize_pixels, const unsigned *bytes, scalar *out, long long pixels) {
    const long long first = 4 * ((long long)blockIdx.x * blockDim.x + threadIdx.x);
    if (first >= pixels) return;
    const float mean[3] = {0.485f, 0.456f, 0.406f}, deviation[3] = {0.229f, 0.224f, 0.225f};
    unsigned words[3];
#pragma unroll
    for (int word = 0; word < 3; ++word) words[word] = bytes[first / 4 * 3 + word];
#pragma unroll
    for (int pixel = 0; pixel < 4; ++pixel) {
        if (first + pixel >= pixels) return;
        float value[4] = {0.0f, 0.0f, 0.0f, 0.0f};
#pragma unroll
        for (int channel = 0; channel < 3; ++channel) {
            const int byte = 3 * pixel + channel;
            const unsigned level = words[byte / 4] >> (8 * (byte % 4)) & 0xffu;
            value[channel] = ((float)level / 255.0f - mean[channel]) / deviation[channel];
        }
        scalar *to = out + 4 * (first + pixel);
#ifdef SCRL_BF16
        uint2 raw;
        raw.x = pair_of_bf16(value[0], value[1]);
        raw.y = pair_of_bf16(value[2], value[3]);
        *reinterpret_cast<uint2 *>(to) = raw;
#else
        store_pack(to, value);
#endif
    }
}

// A filter of three channels [taps, 3] as one of four [taps, 4].
KERNEL(pad_filter, const float *filter, scalar *padded, int taps) {
    const int index = blockIdx.x * blockDim.x + threadIdx.x;
    if (index >= 4 * taps) return;
    const int tap = index / 4, channel = index % 4;
    padded[index] = to_scalar(channel < 3 ? filter[3 * tap + channel] : 0.0f);
}

// The gradient of the filter from that of the padded one.
KERNEL(unpad_gradient, const scalar *padded, float *gradient, int taps, int accumulate) {
    const int index = blockIdx.x * blockDim.x + threadIdx.x;
    if (index >= 3 * taps) return;
    const float value = to_float(padded[index / 3 * 4 + index % 3]);
    gradient[index] = value + (accumulate ? gradient[index] : 0.0f);
}

// Winners are packed into words of four, the first in the lowest byte. Threads of both kernels are counted in 32 bits.
//
// Sizes of a max-pool with windows of 3 by 3, stride 2, one pixel outside.
struct Pool {
    int height, width, packs, out_height, out_width;
};

__device__ inline Pool pool_of(int height, int width, int channels) {
    Pool pool;
    pool.height = height;
    pool.width = width;
    pool.packs = channels / LANES;
    pool.out_height = (height - 1) / 2 + 1;
    pool.out_width = (width - 1) / 2 + 1;
    return pool;
}

// Batch norm's factor and summand, ReLU, then the largest of each window: x [n, height, width, channels] before its batch
// norm → y [n, height', width', channels]. `winners`, where given, notes which of the nine pixels won, the first of
// equal ones.
KERNEL(max_pool, const scalar *x, const float *scale, scalar *y, unsigned char *winners, int images, int height,
       int width, int channels) {
    const Pool pool = pool_of(height, width, channels);
    const unsigned index = blockIdx.x * blockDim.x + threadIdx.x;
    if (index >= (unsigned)images * pool.out_height * pool.out_width * pool.packs) return;
    const int channel = index % pool.packs * LANES;
    const unsigned pixel = index / pool.packs, row = pixel / pool.out_width;
    const int out_x = pixel % pool.out_width, out_y = row % pool.out_height;
    const long long image = row / pool.out_height;
    float factor[LANES], summand[LANES], best[LANES];
    unsigned char winner[LANES];
    load_floats(scale + 2 * channels + channel, factor);
    load_floats(scale + 3 * channels + channel, summand);
    bool found = false;
#pragma unroll
    for (int tap = 0; tap < 9; ++tap) {
        const int in_y = 2 * out_y - 1 + tap / 3, in_x = 2 * out_x - 1 + tap % 3;
        if (in_y < 0 || in_y >= height || in_x < 0 || in_x >= width) continue;
        float value[LANES];
        load_pack(x + ((image * height + in_y) * width + in_x) * channels + channel, value);
#pragma unroll
        for (int lane = 0; lane < LANES; ++lane) {
            float activation = value[lane] * factor[lane] + summand[lane];
            if (activation < 0.0f) activation = 0.0f;
            const bool wins = !found || activation > best[lane];
            best[lane] = wins ? activation : best[lane];
            winner[lane] = wins ? (unsigned char)tap : winner[lane];
        }
        found = true;
    }
    store_pack(y + (long long)index * LANES, best);
    if (winners == nullptr) return;
    unsigned *words = reinterpret_cast<unsigned *>(winners + (long long)index * LANES);
#pragma unroll
    for (int lane = 0; lane < LANES; lane += 4) {
        words[lane / 4] =
            winner[lane] | winner[lane + 1] << 8 | winner[lane + 2] << 16 | (unsigned)winner[lane + 3] << 24;
    }
}

// The gradient of max_pool's activations: each pixel gathers from the up to four windows in which it won.
KERNEL(max_pool_backward, const scalar *dy, const unsigned char *winners, scalar *dx, int images, int height,
       int width, int channels) {
    const Pool pool = pool_of(height, width, channels);
    const unsigned index = blockIdx.x * blockDim.x + threadIdx.x;
    if (index >= (unsigned)images * height * width * pool.packs) return;
    const int channel = index % pool.packs * LANES;
    const unsigned pixel = index / pool.packs, row = pixel / width;
    const int in_x = pixel % width, in_y = row % height;
    const long long image = row / height;
    float gradient[LANES] = {};
    for (int out_y = in_y / 2; out_y <= (in_y + 1) / 2 && out_y < pool.out_height; ++out_y) {
        for (int out_x = in_x / 2; out_x <= (in_x + 1) / 2 && out_x < pool.out_width; ++out_x) {
            const int tap = (in_y - (2 * out_y - 1)) * 3 + in_x - (2 * out_x - 1);
            const long long from = ((image * pool.out_height + out_y) * pool.out_width + out_x) * channels + channel;
            const unsigned *words = reinterpret_cast<const unsigned *>(winners + from);
            float value[LANES];
            load_pack(dy + from, value);
#pragma unroll
            for (int lane = 0; lane < LANES; ++lane) {
                const int winner = words[lane / 4] >> (8 * (lane % 4)) & 0xffu;
                if (winner == tap) gradient[lane] += value[lane];
            }
        }
    }
    store_pack(dx + (long long)index * LANES, gradient);
}

// The mean of each channel over an image's pixels.
__device__ inline void mean_of_pixels(const scalar *map, long long image, int pixels, int channels, int channel,
                                      float (&mean)[LANES]) {
#pragma unroll
    for (int lane = 0; lane < LANES; ++lane) mean[lane] = 0.0f;
    for (int pixel = 0; pixel < pixels; ++pixel) {
        float value[LANES];
        load_pack(map + (image * pixels + pixel) * channels + channel, value);
#pragma unroll
        for (int lane = 0; lane < LANES; ++lane) mean[lane] += value[lane];
    }
#pragma unroll
    for (int lane = 0; lane < LANES; ++lane) mean[lane] /= (float)pixels;
}

// [images, pixels, channels] → [images, channels], for the heads.
KERNEL(average_pool, const scalar *map, scalar *means, int images, int pixels, int channels) {
    const long long index = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (index * LANES >= (long long)images * channels) return;
    float mean[LANES];
    mean_of_pixels(map, index * LANES / channels, pixels, channels, (int)(index * LANES % channels), mean);
    store_pack(means + index * LANES, mean);
}

// The same as float32, for the online evaluation.
KERNEL(average_features, const scalar *map, float *means, int images, int pixels, int channels) {
    const long long index = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (index * LANES >= (long long)images * channels) return;
    float mean[LANES];
    mean_of_pixels(map, index * LANES / channels, pixels, channels, (int)(index * LANES % channels), mean);
#pragma unroll
    for (int lane = 0; lane < LANES; ++lane) means[index * LANES + lane] = mean[lane];
}

// The gradient of average_pool: each pixel gets its share.
KERNEL(average_pool_backward, const scalar *dmeans, scalar *dmap, int images, int pixels, int channels) {
    const long long index = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (index * LANES >= (long long)images * pixels * channels) return;
    const long long row = index * LANES / channels;
    const int channel = (int)(index * LANES % channels);
    float value[LANES];
    load_pack(dmeans + row / pixels * channels + channel, value);
#pragma unroll
    for (int lane = 0; lane < LANES; ++lane) value[lane] /= (float)pixels;
    store_pack(dmap + index * LANES, value);
}
