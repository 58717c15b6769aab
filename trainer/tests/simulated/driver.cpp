// The device, its context, and the driver's errors.

#include <unistd.h>

#include <cstdio>
#include <cstring>

#include "internal.h"

using namespace simulated;

namespace simulated {

static CUctx_st primary;
static thread_local CUcontext current = nullptr;

CUresult context_error(const char *name) {
    if (current == nullptr) violation(std::string(name) + " in a thread without a context");
    if (current->retained == 0) violation(std::string(name) + " in a destroyed context");
    return CUDA_SUCCESS;
}

// The attributes of an H100.
static int attribute_of_device(CUdevice_attribute attribute) {
    switch (attribute) {
        case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR: return 9;
        case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR: return 0;
        case CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT: return 132;
        case CU_DEVICE_ATTRIBUTE_MEMORY_POOLS_SUPPORTED: return !options().no_pools;
        case CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_BLOCK: return 1024;
        case CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_MULTIPROCESSOR: return 2048;
        case CU_DEVICE_ATTRIBUTE_WARP_SIZE: return 32;
        case CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE: return 50 << 20;
        case CU_DEVICE_ATTRIBUTE_CLOCK_RATE: return 1'980'000;
        case CU_DEVICE_ATTRIBUTE_MEMORY_CLOCK_RATE: return 2'619'000;
        case CU_DEVICE_ATTRIBUTE_GLOBAL_MEMORY_BUS_WIDTH: return 5120;
        case CU_DEVICE_ATTRIBUTE_UNIFIED_ADDRESSING: return 1;
        default: violation("attribute " + std::to_string(attribute) + " is not simulated");
    }
}

struct Named {
    CUresult error;
    const char *name, *text;
};

static Named named(CUresult error) {
    static const Named all[] = {
        {CUDA_SUCCESS, "CUDA_SUCCESS", "no error"},
        {CUDA_ERROR_INVALID_VALUE, "CUDA_ERROR_INVALID_VALUE", "invalid argument"},
        {CUDA_ERROR_OUT_OF_MEMORY, "CUDA_ERROR_OUT_OF_MEMORY", "out of memory"},
        {CUDA_ERROR_INVALID_DEVICE, "CUDA_ERROR_INVALID_DEVICE", "invalid device ordinal"},
        {CUDA_ERROR_NOT_FOUND, "CUDA_ERROR_NOT_FOUND", "named symbol not found"},
        {CUDA_ERROR_NOT_READY, "CUDA_ERROR_NOT_READY", "device not ready"},
        {CUDA_ERROR_NOT_SUPPORTED, "CUDA_ERROR_NOT_SUPPORTED", "operation not supported"},
        {CUDA_ERROR_ILLEGAL_ADDRESS, "CUDA_ERROR_ILLEGAL_ADDRESS",
         "an illegal memory access was encountered"},
    };
    for (const Named &one : all)
        if (one.error == error) return one;
    return {error, "CUDA_ERROR_UNKNOWN", "unknown error"};
}

}  // namespace simulated

extern "C" {

CUresult cuInit(unsigned) {
    Call call(__func__);
    return CUDA_SUCCESS;
}

CUresult cuDriverGetVersion(int *version) {
    Call call(__func__);
    *version = 13000;
    return CUDA_SUCCESS;
}

CUresult cuDeviceGetCount(int *devices) {
    Call call(__func__);
    *devices = 1;
    return CUDA_SUCCESS;
}

CUresult cuDeviceGet(CUdevice *device, int number) {
    Call call(__func__);
    if (number != 0) return CUDA_ERROR_INVALID_DEVICE;
    *device = 0;
    return CUDA_SUCCESS;
}

CUresult cuDeviceGetAttribute(int *value, CUdevice_attribute attribute, CUdevice device) {
    Call call(__func__);
    if (device != 0) return CUDA_ERROR_INVALID_DEVICE;
    *value = attribute_of_device(attribute);
    return CUDA_SUCCESS;
}

CUresult cuDeviceGetName(char *name, int length, CUdevice) {
    Call call(__func__);
    snprintf(name, length, "simulated GPU");
    return CUDA_SUCCESS;
}

CUresult cuDeviceGetUuid(CUuuid *id, CUdevice) {
    Call call(__func__);
    memset(id, 0, sizeof *id);
    // Each process has a GPU of its own.
    const auto process = static_cast<long>(getpid());
    memcpy(id, &process, sizeof process);
    return CUDA_SUCCESS;
}

CUresult cuDevicePrimaryCtxRetain(CUcontext *context, CUdevice) {
    Call call(__func__);
    ++primary.retained;
    *context = &primary;
    return CUDA_SUCCESS;
}

CUresult cuDevicePrimaryCtxRelease(CUdevice) {
    Call call(__func__);
    if (primary.retained == 0) violation("a context is released that is not retained");
    --primary.retained;
    return CUDA_SUCCESS;
}

CUresult cuCtxGetCurrent(CUcontext *context) {
    Call call(__func__);
    *context = current;
    return CUDA_SUCCESS;
}

CUresult cuCtxSetCurrent(CUcontext context) {
    Call call(__func__);
    current = context;
    return is_lost() ? CUDA_ERROR_ILLEGAL_ADDRESS : CUDA_SUCCESS;
}

CUresult cuCtxSetFlags(unsigned) {
    IN_CONTEXT();
    return CUDA_SUCCESS;
}

CUresult cuGetErrorName(CUresult error, const char **name) {
    *name = named(error).name;
    return CUDA_SUCCESS;
}

CUresult cuGetErrorString(CUresult error, const char **text) {
    *text = named(error).text;
    return CUDA_SUCCESS;
}

// By this the CUDA runtime, which candle links for kernels that it does not use here, looks for
// more functions.
CUresult cuGetProcAddress(const char *, void **function, int, cuuint64_t,
                          CUdriverProcAddressQueryResult *result) {
    *function = nullptr;
    if (result != nullptr) *result = CU_GET_PROC_ADDRESS_SYMBOL_NOT_FOUND;
    return CUDA_ERROR_NOT_FOUND;
}

// candle links these, and training never calls them.

CUresult cuCtxDestroy(CUcontext) { violation("cuCtxDestroy is not simulated"); }

CUresult cuModuleLoad(CUmodule *, const char *) { violation("cuModuleLoad is not simulated"); }

CUresult cuMemcpyPeerAsync(CUdeviceptr, CUcontext, CUdeviceptr, CUcontext, size_t, CUstream) {
    violation("cuMemcpyPeerAsync is not simulated");
}

}  // extern "C"
