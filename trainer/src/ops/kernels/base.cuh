// What all kernels share: the numbers of feature maps, and packs of 16 bytes of them.
//
// The sources are compiled once for each precision. SCRL_BF16 makes `scalar` bfloat16, otherwise it
// is float. Sums, statistics and whatever is kept between steps are float32 or float64 in both. No
// kernel adds with atomics: every sum has an order that depends on the shapes alone.

// Most threads of a block; of a block of one dimension, all.
#define THREADS 256

#ifndef SCRL_EMULATED
// A kernel whose threads never wait for each other. With two blocks a multiprocessor the compiler
// has 128 registers a thread; left alone it aims at more blocks, and to save registers reads a
// pack only after it has used the one before.
#define KERNEL(name, ...) extern "C" __global__ void __launch_bounds__(THREADS, 2) name(__VA_ARGS__)
// A kernel with barriers.
#define COOPERATIVE(name, ...) KERNEL(name, __VA_ARGS__)
// One with barriers whose blocks are COLUMNS by SHARERS threads.
#define GATHERING(name, ...)                                                                       \
    extern "C" __global__ void __launch_bounds__(COLUMNS *SHARERS, 1) name(__VA_ARGS__)
#endif

// Packs or numbers of a stream that a thread reads before it uses the first. Reads are without a
// condition, of the last one again where there are no more: behind a branch each would wait for the
// one before.
#define AHEAD 4

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

// The numbers of a pack.
__device__ inline void unpack(const uint4 &raw, float (&values)[LANES]) {
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

// A pack from an address that is a multiple of 16.
__device__ inline void load_pack(const scalar *__restrict__ from, float (&values)[LANES]) {
    unpack(*reinterpret_cast<const uint4 *>(from), values);
}

// A pack to an address that is a multiple of 16.
__device__ inline void store_pack(scalar *__restrict__ to, const float (&values)[LANES]) {
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

// LANES float32 from an address that is a multiple of 16.
__device__ inline void load_floats(const float *__restrict__ from, float (&values)[LANES]) {
#pragma unroll
    for (int lane = 0; lane < LANES; lane += 4) {
        const float4 four = *reinterpret_cast<const float4 *>(from + lane);
        values[lane] = four.x;
        values[lane + 1] = four.y;
        values[lane + 2] = four.z;
        values[lane + 3] = four.w;
    }
}

// LANES float32 to an address that is a multiple of 16.
__device__ inline void store_floats(float *__restrict__ to, const float (&values)[LANES]) {
#pragma unroll
    for (int lane = 0; lane < LANES; lane += 4) {
        const float4 four = {values[lane], values[lane + 1], values[lane + 2], values[lane + 3]};
        *reinterpret_cast<float4 *>(to + lane) = four;
    }
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

// Columns, and threads that share each, of the kernels whose blocks are COLUMNS by SHARERS threads:
// few columns, so that even 64 channels are 8 blocks, and eight float32 side by side, which memory
// delivers at once.
#define COLUMNS 8
#define SHARERS 128

// The sums over threadIdx.y of a COLUMNS by SHARERS block, for each threadIdx.x, known to the
// threads of threadIdx.y 0.
template <int COUNT>
__device__ inline void sum_of_sharers(double (&values)[COUNT],
                                      double (&scratch)[COUNT][SHARERS][COLUMNS]) {
    const int x = threadIdx.x, y = threadIdx.y;
#pragma unroll
    for (int i = 0; i < COUNT; ++i) scratch[i][y][x] = values[i];
    for (int half = SHARERS / 2; half > 0; half /= 2) {
        __syncthreads();
        if (y >= half) continue;
#pragma unroll
        for (int i = 0; i < COUNT; ++i) scratch[i][y][x] += scratch[i][y + half][x];
    }
    if (y != 0) return;
#pragma unroll
    for (int i = 0; i < COUNT; ++i) values[i] = scratch[i][0][x];
}
