// LARS and the moving average over all tensors at once. Parameters, gradients, velocities and the target's parameters lie
// in arrays of the same layout; a table cuts them into chunks, none of which spans two tensors. Between the tensors are
// zeros, so that whole groups of four numbers are taken. A block of THREADS threads a chunk.

// The factor between a tensor's norm and the length of its step, and what keeps it finite.
#define TRUST 0.001
#define LARS_EPSILON 1e-8

// Of Chunk.kind.
#define ADAPTED 1  // decayed and adapted: rank above 1
#define WATCHING 2 // of the online evaluation, which rests while no view is labelled
#define FOLLOWED 4 // the target has the same tensor at the same place

struct Chunk {
    long long begin; // in numbers, a multiple of 4
    int count;       // a multiple of 4
    int tensor;
    int kind;
    int padding;
};

// Where a tensor's chunks lie in the table.
struct Span {
    int first;
    int count;
};

// Σp² and Σg² of each chunk: sums [chunks, 2].
COOPERATIVE(lars_norms, const Chunk *chunks, const float *parameters, const float *gradients, double *sums) {
    __shared__ double scratch[THREADS];
    const Chunk chunk = chunks[blockIdx.x];
    double parameter = 0.0, gradient = 0.0;
    for (int i = 4 * threadIdx.x; i < chunk.count; i += 4 * THREADS) {
        const float4 p = *reinterpret_cast<const float4 *>(parameters + chunk.begin + i);
        const float4 g = *reinterpret_cast<const float4 *>(gradients + chunk.begin + i);
        parameter += (double)p.x * p.x + (double)p.y * p.y + (double)p.z * p.z + (double)p.w * p.w;
        gradient += (double)g.x * g.x + (double)g.y * g.y + (double)g.z * g.z + (double)g.w * g.w;
    }
    parameter = block_sum(parameter, scratch);
    gradient = block_sum(gradient, scratch);
    if (threadIdx.x == 0) {
        sums[2 * blockIdx.x] = parameter;
        sums[2 * blockIdx.x + 1] = gradient;
    }
}

// trust·‖p‖ / (‖g‖ + decay·‖p‖ + ε) of each tensor, 1 where a norm is zero. A block a tensor.
COOPERATIVE(lars_ratios, const Span *spans, const double *sums, float *ratios, float decay) {
    __shared__ double scratch[THREADS];
    const Span span = spans[blockIdx.x];
    double parameter = 0.0, gradient = 0.0;
    for (int i = span.first + threadIdx.x; i < span.first + span.count; i += THREADS) {
        parameter += sums[2 * i];
        gradient += sums[2 * i + 1];
    }
    const double length = sqrt(block_sum(parameter, scratch)), slope = sqrt(block_sum(gradient, scratch));
    if (threadIdx.x != 0) return;
    const double adapted = TRUST * length / (slope + decay * length + LARS_EPSILON);
    ratios[blockIdx.x] = length > 0.0 && slope > 0.0 ? (float)adapted : 1.0f;
}

// A number of the network that learns moves, and one of the network that follows.
__device__ inline void move(float &p, float &v, float g, float momentum, float decay, float ratio, float rate) {
    v = momentum * v + (g + decay * p) * ratio;
    p -= rate * v;
}

__device__ inline void store_working_copy(scalar *to, float4 p) {
#ifdef SCRL_BF16
    uint2 raw;
    raw.x = pair_of_bf16(p.x, p.y);
    raw.y = pair_of_bf16(p.z, p.w);
    *reinterpret_cast<uint2 *>(to) = raw;
#else
    *reinterpret_cast<float4 *>(to) = p;
#endif
}

__device__ inline void mix(float4 &target, float4 p, float tau) {
    target.x = tau * target.x + (1.0f - tau) * p.x;
    target.y = tau * target.y + (1.0f - tau) * p.y;
    target.z = tau * target.z + (1.0f - tau) * p.z;
    target.w = tau * target.w + (1.0f - tau) * p.w;
}

// v ← momentum·v + d, p ← p − lr·v with d = (g + decay·p)·ratio for adapted tensors and g for others; then
// ξ ← τ ξ + (1 − τ) p. The working copies, where there are any, are the parameters as feature maps' numbers. Nothing moves
// while the loss is no number.
KERNEL(lars_update, const Chunk *chunks, const float *ratios, const Batch *batch, const Outcome *outcome,
       float *parameters, const float *gradients, float *velocities, float *targets, scalar *working,
       scalar *working_targets, float momentum, float decay) {
    const Chunk chunk = chunks[blockIdx.x];
    if (!isfinite(outcome->loss)) return;
    const bool adapted = chunk.kind & ADAPTED, followed = chunk.kind & FOLLOWED;
    const bool resting = (chunk.kind & WATCHING) && batch->inverse_labels == 0.0f;
    if (resting) return;
    const float ratio = adapted ? ratios[chunk.tensor] : 1.0f, rate = batch->learning_rate;
    const float tensor_decay = adapted ? decay : 0.0f;
    for (int i = 4 * threadIdx.x; i < chunk.count; i += 4 * THREADS) {
        const long long place = chunk.begin + i;
        const float4 g = *reinterpret_cast<const float4 *>(gradients + place);
        float4 p = *reinterpret_cast<float4 *>(parameters + place);
        float4 v = *reinterpret_cast<float4 *>(velocities + place);
        move(p.x, v.x, g.x, momentum, tensor_decay, ratio, rate);
        move(p.y, v.y, g.y, momentum, tensor_decay, ratio, rate);
        move(p.z, v.z, g.z, momentum, tensor_decay, ratio, rate);
        move(p.w, v.w, g.w, momentum, tensor_decay, ratio, rate);
        *reinterpret_cast<float4 *>(velocities + place) = v;
        *reinterpret_cast<float4 *>(parameters + place) = p;
        if (working != nullptr) store_working_copy(working + place, p);
        if (!followed) continue;
        float4 target = *reinterpret_cast<float4 *>(targets + place);
        mix(target, p, batch->tau);
        *reinterpret_cast<float4 *>(targets + place) = target;
        if (working_targets != nullptr) store_working_copy(working_targets + place, target);
    }
}

// The moving average alone, for a step without a single matched box.
KERNEL(follow, const Chunk *chunks, const Batch *batch, const float *parameters, float *targets,
       scalar *working_targets) {
    const Chunk chunk = chunks[blockIdx.x];
    if (!(chunk.kind & FOLLOWED)) return;
    for (int i = 4 * threadIdx.x; i < chunk.count; i += 4 * THREADS) {
        const long long place = chunk.begin + i;
        const float4 p = *reinterpret_cast<const float4 *>(parameters + place);
        float4 target = *reinterpret_cast<float4 *>(targets + place);
        mix(target, p, batch->tau);
        *reinterpret_cast<float4 *>(targets + place) = target;
        if (working_targets != nullptr) store_working_copy(working_targets + place, target);
    }
}

// Parameters as numbers of feature maps; `count` is a multiple of 4.
KERNEL(make_working_copy, const float *parameters, scalar *working, long long count) {
    const long long place = 4 * ((long long)blockIdx.x * blockDim.x + threadIdx.x);
    if (place < count) store_working_copy(working + place, *reinterpret_cast<const float4 *>(parameters + place));
}

// A gradient in the numbers of feature maps, put into its place among the float32 ones or added there.
KERNEL(store_gradient, const scalar *gradient, float *to, int count, int accumulate) {
    const int index = blockIdx.x * blockDim.x + threadIdx.x;
    if (index < count) to[index] = to_float(gradient[index]) + (accumulate ? to[index] : 0.0f);
}
