// Pixels to input, the stem's max-pool, and the mean of a map.

// Bytes [pixels, 3] → (v / 255 − mean) / std as [pixels, LANES], a pack a pixel; the channels after
// the third are zeros, so that the stem's convolution reads full packs, as tensor cores need them.
KERNEL(normalize_pixels, const unsigned char *bytes, scalar *out, long long pixels) {
    const long long pixel = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (pixel >= pixels) return;
    const float mean[3] = {0.485f, 0.456f, 0.406f}, deviation[3] = {0.229f, 0.224f, 0.225f};
    float value[LANES] = {};
#pragma unroll
    for (int channel = 0; channel < 3; ++channel) {
        value[channel] =
            ((float)bytes[3 * pixel + channel] / 255.0f - mean[channel]) / deviation[channel];
    }
    store_pack(out + pixel * LANES, value);
}

// Winners are packed into words of four, the first in the lowest byte. Threads of both kernels are
// counted in 32 bits.
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

// The largest of each window: x [n, height, width, channels] → y [n, height', width', channels].
// `winners` records which of the nine pixels won, the first of equal ones.
KERNEL(max_pool, const scalar *x, scalar *y, unsigned char *winners, int images, int height,
       int width, int channels) {
    const Pool pool = pool_of(height, width, channels);
    const unsigned index = blockIdx.x * blockDim.x + threadIdx.x;
    if (index >= (unsigned)images * pool.out_height * pool.out_width * pool.packs) return;
    const int channel = index % pool.packs * LANES;
    const unsigned pixel = index / pool.packs, row = pixel / pool.out_width;
    const int out_x = pixel % pool.out_width, out_y = row % pool.out_height;
    const long long image = row / pool.out_height;
    float best[LANES];
    unsigned char winner[LANES];
    bool found = false;
#pragma unroll
    for (int tap = 0; tap < 9; ++tap) {
        const int in_y = 2 * out_y - 1 + tap / 3, in_x = 2 * out_x - 1 + tap % 3;
        if (in_y < 0 || in_y >= height || in_x < 0 || in_x >= width) continue;
        float value[LANES];
        load_pack(x + ((image * height + in_y) * width + in_x) * channels + channel, value);
#pragma unroll
        for (int lane = 0; lane < LANES; ++lane) {
            const bool wins = !found || value[lane] > best[lane];
            best[lane] = wins ? value[lane] : best[lane];
            winner[lane] = wins ? (unsigned char)tap : winner[lane];
        }
        found = true;
    }
    store_pack(y + (long long)index * LANES, best);
    unsigned *words = reinterpret_cast<unsigned *>(winners + (long long)index * LANES);
#pragma unroll
    for (int lane = 0; lane < LANES; lane += 4) {
        words[lane / 4] = winner[lane] | winner[lane + 1] << 8 | winner[lane + 2] << 16 |
                          (unsigned)winner[lane + 3] << 24;
    }
}

// The gradient of what was pooled: each pixel gathers from the up to four windows in which it won.
KERNEL(max_pool_backward, const scalar *dy, const unsigned char *winners, scalar *dx, int images,
       int height, int width, int channels) {
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
            const long long from =
                ((image * pool.out_height + out_y) * pool.out_width + out_x) * channels + channel;
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

// The mean of each channel over an image's pixels: [images, pixels, channels] → [images, channels].
KERNEL(average_pool, const scalar *map, scalar *means, int images, int pixels, int channels) {
    const long long index = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (index * LANES >= (long long)images * channels) return;
    const long long image = index * LANES / channels;
    const int channel = (int)(index * LANES % channels);
    float mean[LANES] = {};
    for (int pixel = 0; pixel < pixels; ++pixel) {
        float value[LANES];
        load_pack(map + (image * pixels + pixel) * channels + channel, value);
#pragma unroll
        for (int lane = 0; lane < LANES; ++lane) mean[lane] += value[lane];
    }
#pragma unroll
    for (int lane = 0; lane < LANES; ++lane) mean[lane] /= (float)pixels;
    store_pack(means + index * LANES, mean);
}

// The gradient of average_pool: each pixel gets its share.
KERNEL(average_pool_backward, const scalar *dmeans, scalar *dmap, int images, int pixels,
       int channels) {
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
