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
    int counts[MOST_TENSORS];
    int decayed[MOST_TENSORS];  // whether it is decayed, and by LARS adapted: rank above 1
};

// Σp² and Σg² over the numbers of a block: sums [gridDim.y, gridDim.x, 2].
COOPERATIVE(lars_norms, const Tensors tensors, double *sums) {
    __shared__ double scratch[THREADS];
    const float *parameters = tensors.parameters[blockIdx.y],
                *gradients = tensors.gradients[blockIdx.y];
    double parameter = 0.0, gradient = 0.0;
    for (int i = blockIdx.x * THREADS + threadIdx.x; i < tensors.counts[blockIdx.y];
         i += gridDim.x * THREADS) {
        parameter += (double)parameters[i] * parameters[i];
        gradient += (double)gradients[i] * gradients[i];
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
COOPERATIVE(sgd_update, const Tensors tensors, const double *sums, const float *loss, float lr,
            float momentum, int nesterov, double decay, double trust) {
    __shared__ double scratch[THREADS];
    if (!isfinite(*loss)) return;
    const float tensor_decay = tensors.decayed[blockIdx.y] ? (float)decay : 0.0f;
    float ratio = 1.0f;
    if (sums != nullptr && tensors.decayed[blockIdx.y]) {
        // Every block adds up the same sums in the same order.
        const double *mine = sums + 2 * blockIdx.y * gridDim.x;
        double parameter = 0.0, gradient = 0.0;
        for (int i = threadIdx.x; i < (int)gridDim.x; i += THREADS) {
            parameter += mine[2 * i];
            gradient += mine[2 * i + 1];
        }
        const double length = sqrt(block_sum(parameter, scratch)),
                     slope = sqrt(block_sum(gradient, scratch));
        if (length > 0.0 && slope > 0.0)
            ratio = (float)(trust * length / (slope + decay * length + LARS_EPSILON));
    }
    float *parameters = tensors.parameters[blockIdx.y],
          *velocities = tensors.velocities[blockIdx.y];
    const float *gradients = tensors.gradients[blockIdx.y];
    for (int i = blockIdx.x * THREADS + threadIdx.x; i < tensors.counts[blockIdx.y];
         i += gridDim.x * THREADS) {
        const float direction = (gradients[i] + tensor_decay * parameters[i]) * ratio,
                    velocity = momentum * velocities[i] + direction;
        velocities[i] = velocity;
        parameters[i] -= lr * (nesterov ? direction + momentum * velocity : velocity);
    }
}

// ξ ← τ ξ + (1 − τ) θ, with ξ the `parameters` and θ in place of the `gradients`; not while a loss,
// where one is given, is NaN or infinite.
KERNEL(update_ema, const Tensors tensors, const float *loss, float tau) {
    if (loss != nullptr && !isfinite(*loss)) return;
    float *target = tensors.parameters[blockIdx.y];
    const float *online = tensors.gradients[blockIdx.y];
    for (int i = blockIdx.x * THREADS + threadIdx.x; i < tensors.counts[blockIdx.y];
         i += gridDim.x * THREADS) {
        target[i] = tau * target[i] + (1.0f - tau) * online[i];
    }
}
