// cuRAND, of which candle makes a generator that nothing uses.

#include <curand.h>

#include "simulator.h"

using namespace simulated;

struct curandGenerator_st {};

#define CURAND_CALL()    \
    Call call(__func__); \
    if (call.error() != CUDA_SUCCESS) return CURAND_STATUS_PREEXISTING_FAILURE

extern "C" {

curandStatus_t curandCreateGenerator(curandGenerator_t *generator, curandRngType_t) {
    CURAND_CALL();
    if (allocation_fails()) return CURAND_STATUS_ALLOCATION_FAILED;
    *generator = new curandGenerator_st;
    return CURAND_STATUS_SUCCESS;
}

curandStatus_t curandDestroyGenerator(curandGenerator_t generator) {
    CURAND_CALL();
    delete generator;
    return CURAND_STATUS_SUCCESS;
}

curandStatus_t curandSetStream(curandGenerator_t, cudaStream_t) {
    CURAND_CALL();
    return CURAND_STATUS_SUCCESS;
}

curandStatus_t curandSetPseudoRandomGeneratorSeed(curandGenerator_t, unsigned long long) {
    CURAND_CALL();
    return CURAND_STATUS_SUCCESS;
}

}  // extern "C"
