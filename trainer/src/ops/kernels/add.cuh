// Sums of gradients, in place.

// sum ← sum + values. A thread adds a pack, the last one perhaps less.
KERNEL(add, scalar *sum, const scalar *values, long long count) {
    const long long first = ((long long)blockIdx.x * blockDim.x + threadIdx.x) * LANES;
    if (first + LANES > count) {
        for (long long i = first; i < count; ++i)
            sum[i] = to_scalar(to_float(sum[i]) + to_float(values[i]));
        return;
    }
    float total[LANES], value[LANES];
    load_pack(sum + first, total);
    load_pack(values + first, value);
#pragma unroll
    for (int lane = 0; lane < LANES; ++lane) total[lane] += value[lane];
    store_pack(sum + first, total);
}

// A map [images, out_height, out_width, channels] is added to every `stride`th pixel of every
// `stride`th row of a map [images, height, width, channels]. A thread adds a pack.
KERNEL(add_pixels, scalar *sum, const scalar *values, int images, int out_height, int out_width,
       int height, int width, int channels, int stride) {
    const int packs = channels / LANES;
    const unsigned index = blockIdx.x * blockDim.x + threadIdx.x;
    if (index >= (unsigned)images * out_height * out_width * packs) return;
    const int channel = index % packs * LANES;
    const unsigned pixel = index / packs, row = pixel / out_width;
    const int x = pixel % out_width * stride, y = row % out_height * stride;
    const long long image = row / out_height;
    scalar *to = sum + ((image * height + y) * width + x) * channels + channel;
    float total[LANES], value[LANES];
    load_pack(to, total);
    load_pack(values + (long long)index * LANES, value);
#pragma unroll
    for (int lane = 0; lane < LANES; ++lane) total[lane] += value[lane];
    store_pack(to, total);
}
