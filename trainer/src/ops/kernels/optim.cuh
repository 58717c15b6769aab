// SGD, LARS and the EMA of the target network over many tensors at once. The tensors' addresses come
// with the launch, so that nothing has to be copied ahead. blockIdx.y is the tensor; the blocks
// along blockIdx.x share its numbers.

// Keeps LARS's adaptation finite.
#define LARS_EPSILON 1e-8

// The most tensors of a launch: their addresses must fit the 4 KB of a kernel's arguments.
#define MOST_TENSORS 64

struct Tensors {
    float *parameters[MOST_TENSORS];
    const float *gradients[MOST_TENSORS];
    float *velocities[MOST_TENSORS];
    unsigned short *copies[MOST_TENSORS];  // the parameters in bfloat16, where there are such
    int counts[MOST_TENSORS];
    int decayed[MOST_TENSORS];  // whether it is decayed, and by LARS adapted: rank above 1
};

// Numbers of a tensor that a thread reads at once: a pack of 16 bytes.
#define FOUR 4

// The first of a thread's numbers, and how far apart they are.
__device__ inline int first_four() { return FOUR * (blockIdx.x * THREADS + threadIdx.x); }
__device__ inline int next_four() { return FOUR * gridDim.x * THREADS; }

// Four of a tensor's numbers from an address that is a multiple of 16, zeros after the last of
// `left`.
__device__ inline void load_four(const float *from, int left, float (&values)[FOUR]) {
    if (left >= FOUR) {
        const float4 four = *reinterpret_cast<const float4 *>(from);
        values[0] = four.x;
        values[1] = four.y;
        values[2] = four.z;
        values[3] = four.w;
    } else {
#pragma unroll
        for (int i = 0; i < FOUR; ++i) values[i] = i < left ? from[i] : 0.0f;
    }
}

__device__ inline void store_four(float *to, int left, const float (&values)[FOUR]) {
    if (left >= FOUR) {
        *reinterpret_cast<float4 *>(to) = {values[0], values[1], values[2], values[3]};
    } else {
#pragma unroll
        for (int i = 0; i < FOUR; ++i)
            if (i < left) to[i] = values[i];
    }
}

// The numbers of a parameter's copy, where it has one.
__device__ inline void store_copy(unsigned short *copy, int place, int left,
                                  const float (&values)[FOUR]) {
    if (copy == nullptr) return;
    const uint2 four = {pair_of_bf16(values[0], values[1]), pair_of_bf16(values[2], values[3])};
    if (left >= FOUR) {
        *reinterpret_cast<uint2 *>(copy + place) = four;
    } else {
#pragma unroll
        for (int i = 0; i < FOUR; ++i)
            if (i < left)
                copy[place + i] = (unsigned short)((i < 2 ? four.x : four.y) >> 16 * (i % 2));
    }
}

// Σp² and Σg² over the numbers of a block: sums [gridDim.y, gridDim.x, 2].
COOPERATIVE(lars_norms, const Tensors tensors, double *sums) {
    __shared__ double scratch[THREADS];
    const float *parameters = tensors.parameters[blockIdx.y],
                *gradients = tensors.gradients[blockIdx.y];
    const int count = tensors.counts[blockIdx.y];
    double parameter = 0.0, gradient = 0.0;
    for (int i = first_four(); i < count; i += next_four()) {
        float p[FOUR], g[FOUR];
        load_four(parameters + i, count - i, p);
        load_four(gradients + i, count - i, g);
#pragma unroll
        for (int of = 0; of < FOUR; ++of) {
            parameter += (double)p[of] * p[of];
            gradient += (double)g[of] * g[of];
        }
    }
    parameter = block_sum(parameter, scratch);
    gradient = block_sum(gradient, scratch);
    if (threadIdx.x == 0) {
        double *to = sums + 2 * (blockIdx.y * gridDim.x + blockIdx.x);
        to[0] = parameter;
        to[1] = gradient;
    }
}

// v ← momentum·v + d, p ← p − lr·v, or with Nesterov's momentum p ← p − lr·(d + momentum·v). d is
// (g + decay·p)·ratio for decayed tensors, and g for others. The ratio is 1; with `sums`, in LARS,
// trust·‖p‖ / (‖g‖ + decay·‖p‖ + ε) where both norms are positive. Nothing moves while the loss is
// NaN or infinite.
COOPERATIVE(sgd_update, const Tensors tensors, const double *__restrict__ sums,
            const float *__restrict__ loss, float lr, float momentum, int nesterov, double decay,
            double trust) {
    __shared__ double scratch[THREADS];
    const int tensor = blockIdx.y, count = tensors.counts[tensor];
    if (!isfinite(*loss) || (int)(FOUR * blockIdx.x * THREADS) >= count) return;
    const float tensor_decay = tensors.decayed[tensor] ? (float)decay : 0.0f;
    float ratio = 1.0f;
    if (sums != nullptr && tensors.decayed[tensor]) {
        // Every block adds up the same sums, of at most THREADS blocks, in the same order.
        const double *mine = sums + 2 * (tensor * gridDim.x + threadIdx.x);
        const bool inside = threadIdx.x < gridDim.x;
        const double length = sqrt(block_sum(inside ? mine[0] : 0.0, scratch)),
                     slope = sqrt(block_sum(inside ? mine[1] : 0.0, scratch));
        if (length > 0.0 && slope > 0.0)
            ratio = (float)(trust * length / (slope + decay * length + LARS_EPSILON));
    }
    float *parameters = tensors.parameters[tensor], *velocities = tensors.velocities[tensor];
    const float *gradients = tensors.gradients[tensor];
    for (int i = first_four(); i < count; i += next_four()) {
        const int left = count - i;
        float p[FOUR], g[FOUR], v[FOUR];
        load_four(parameters + i, left, p);
        load_four(gradients + i, left, g);
        load_four(velocities + i, left, v);
#pragma unroll
        for (int of = 0; of < FOUR; ++of) {
            const float direction = (g[of] + tensor_decay * p[of]) * ratio;
            v[of] = momentum * v[of] + direction;
            p[of] -= lr * (nesterov ? direction + momentum * v[of] : v[of]);
        }
        store_four(velocities + i, left, v);
        store_four(parameters + i, left, p);
        store_copy(tensors.copies[tensor], i, left, p);
    }
}

// ξ ← τ ξ + (1 − τ) θ, with ξ the `parameters` and θ in place of the `gradients`; not while a loss,
// where one is given, is NaN or infinite.
KERNEL(update_ema, const Tensors tensors, const float *__restrict__ loss, float tau) {
    if (loss != nullptr && !isfinite(*loss)) return;
    float *targets = tensors.parameters[blockIdx.y];
    const float *online = tensors.gradients[blockIdx.y];
    const int count = tensors.counts[blockIdx.y];
    for (int i = first_four(); i < count; i += next_four()) {
        const int left = count - i;
        float target[FOUR], other[FOUR];
        load_four(targets + i, left, target);
        load_four(online + i, left, other);
#pragma unroll
        for (int of = 0; of < FOUR; ++of) target[of] = tau * target[of] + (1.0f - tau) * other[of];
        store_four(targets + i, left, target);
        store_copy(tensors.copies[blockIdx.y], i, left, target);
    }
}
