// What all kernels share: the numbers of feature maps, and packs of 16 bytes of them.
//
// The sources are compiled once for each precision. SCRL_BF16 makes `scalar` bfloat16, otherwise it
// is float. Sums, statistics and whatever is kept between steps are float32 or float64 in both. No
// kernel adds with atomics: every sum has an order that depends on the shapes alone.

// Most threads of a block; of a block of one dimension, all.
#define THREADS 256

#ifndef SCRL_EMULATED
// A kernel whose threads never wait for each other.
#define KERNEL(name, ...) extern "C" __global__ void __launch_bounds__(THREADS) name(__VA_ARGS__)
// A kernel with barriers.
#define COOPERATIVE(name, ...) KERNEL(name, __VA_ARGS__)
// One with barriers whose blocks are COLUMNS by SHARERS threads.
#define GATHERING(name, ...) extern "C" __global__ void __launch_bounds__(1024) name(__VA_ARGS__)
#endif

#ifdef SCRL_BF16
struct scalar {
    unsigned short bits;
};
// Numbers in a pack.
#define LANES 8
#else
typedef float scalar;
#define LANES 4
#endif

// Of the variance in batch norm, as in the CPU path.
#define BATCH_NORM_EPSILON 1e-5f

// Norms below this count as this.
#define SMALLEST_NORM 1e-12

// Two floats as a pair of bfloat16, rounded to nearest, ties to even; `low` in the lower half.
__device__ inline unsigned pair_of_bf16(float low, float high) {
#ifdef SCRL_EMULATED
    return emulated_bf16(low) | emulated_bf16(high) << 16;
#else
    unsigned pair;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
    return pair;
#endif
}

__device__ inline float to_float(float value) { return value; }

#ifdef SCRL_BF16
__device__ inline float to_float(scalar value) {
    return __uint_as_float((unsigned)value.bits << 16);
}

__device__ inline scalar to_scalar(float value) {
    scalar result;
    result.bits = (unsigned short)pair_of_bf16(value, 0.0f);
    return result;
}
#else
__device__ inline scalar to_scalar(float value) { return value; }
#endif

// A pack from an address that is a multiple of 16.
__device__ inline void load_pack(const scalar *from, float (&values)[LANES]) {
    const uint4 raw = *reinterpret_cast<const uint4 *>(from);
    const unsigned words[4] = {raw.x, raw.y, raw.z, raw.w};
#pragma unroll
    for (int word = 0; word < 4; ++word) {
#ifdef SCRL_BF16
        values[2 * word] = __uint_as_float(words[word] << 16);
        values[2 * word + 1] = __uint_as_float(words[word] & 0xffff0000u);
#else
        values[word] = __uint_as_float(words[word]);
#endif
    }
}

// A pack to an address that is a multiple of 16.
__device__ inline void store_pack(scalar *to, const float (&values)[LANES]) {
    uint4 raw;
#ifdef SCRL_BF16
    raw.x = pair_of_bf16(values[0], values[1]);
    raw.y = pair_of_bf16(values[2], values[3]);
    raw.z = pair_of_bf16(values[4], values[5]);
    raw.w = pair_of_bf16(values[6], values[7]);
#else
    raw.x = __float_as_uint(values[0]);
    raw.y = __float_as_uint(values[1]);
    raw.z = __float_as_uint(values[2]);
    raw.w = __float_as_uint(values[3]);
#endif
    *reinterpret_cast<uint4 *>(to) = raw;
}

// LANES float32.
__device__ inline void load_floats(const float *from, float (&values)[LANES]) {
#pragma unroll
    for (int lane = 0; lane < LANES; ++lane) values[lane] = from[lane];
}

// The sum over a block of THREADS threads, known to all of them; `scratch` has THREADS places.
__device__ inline double block_sum(double value, double *scratch) {
    const int thread = threadIdx.x;
    __syncthreads();
    scratch[thread] = value;
    __syncthreads();
    for (int half = THREADS / 2; half > 0; half /= 2) {
        if (thread < half) scratch[thread] += scratch[thread + half];
        __syncthreads();
    }
    return scratch[0];
}

// Columns, and rows of threads that share them, of the kernels whose blocks are COLUMNS by SHARERS
// threads.
#define COLUMNS 32
#define SHARERS 32

// The sum over threadIdx.y of a COLUMNS by SHARERS block, for each threadIdx.x.
__device__ inline double sum_of_sharers(double value, double (*scratch)[COLUMNS]) {
    __syncthreads();
    scratch[threadIdx.y][threadIdx.x] = value;
    __syncthreads();
    for (int half = SHARERS / 2; half > 0; half /= 2) {
        if ((int)threadIdx.y < half)
            scratch[threadIdx.y][threadIdx.x] += scratch[threadIdx.y + half][threadIdx.x];
        __syncthreads();
    }
    return scratch[0][threadIdx.x];
}
