// Programs that break one rule of the simulated GPU each, and one that breaks none. The first
// argument chooses; without one, all are listed with the words that the report must have in it.

#include <cublas_v2.h>
#include <cuda.h>

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <thread>

static CUstream stream, other;
static CUdeviceptr memory;
constexpr size_t COUNT = 256, BYTES = COUNT * sizeof(float);

static void check(int error) {
    if (error == 0) return;
    printf("a call failed: %d\n", error);
    exit(1);
}

static CUevent record(CUstream on) {
    CUevent event;
    check(cuEventCreate(&event, CU_EVENT_DISABLE_TIMING));
    check(cuEventRecord(event, on));
    return event;
}

static CUdeviceptr allocate(CUstream on) {
    CUdeviceptr made;
    check(cuMemAllocAsync(&made, BYTES, on));
    return made;
}

static void product(CUdeviceptr a, CUdeviceptr b, CUdeviceptr c) {
    cublasHandle_t handle;
    const float alpha = 1, beta = 1;
    check(cublasCreate(&handle));
    check(cublasSetStream(handle, stream));
    const auto at = [](CUdeviceptr address) { return reinterpret_cast<void *>(address); };
    check(cublasGemmEx(handle, CUBLAS_OP_T, CUBLAS_OP_N, 2, 3, 4, &alpha, at(a), CUDA_R_32F, 4,
                       at(b), CUDA_R_32F, 4, &beta, at(c), CUDA_R_32F, 2, CUBLAS_COMPUTE_32F,
                       CUBLAS_GEMM_DEFAULT));
}

// What follows the rules: work on two streams, ordered by events.
static void nothing() {
    float values[COUNT], result[COUNT] = {};
    for (size_t i = 0; i < COUNT; ++i) values[i] = static_cast<float>(i % 5);
    check(cuMemcpyHtoDAsync(memory, values, BYTES, stream));
    check(cuStreamWaitEvent(other, record(stream), 0));
    const CUdeviceptr sums = allocate(other);
    check(cuMemcpyDtoDAsync(sums, memory, BYTES, other));
    check(cuStreamWaitEvent(stream, record(other), 0));
    product(memory, memory + 16 * sizeof(float), sums);
    check(cuMemcpyDtoHAsync(result, sums, BYTES, stream));
    check(cuStreamSynchronize(stream));
    for (int row = 0; row < 2; ++row) {
        for (int column = 0; column < 3; ++column) {
            float expected = values[2 * column + row];
            for (int l = 0; l < 4; ++l)
                expected += values[4 * row + l] * values[16 + 4 * column + l];
            if (result[2 * column + row] != expected) exit(1);
        }
    }
    check(cuMemFreeAsync(sums, stream));
}

static void unordered() {
    float values[COUNT] = {}, result[COUNT];
    check(cuStreamSynchronize(stream));
    check(cuMemcpyHtoDAsync(memory, values, BYTES, stream));
    check(cuMemcpyDtoHAsync(result, memory, BYTES, other));
    check(cuStreamSynchronize(other));
    if (std::isnan(result[0])) puts("NaN, as no event orders the copies");
    exit(0);
}

static void in_freed_memory() {
    check(cuMemFreeAsync(memory, stream));
    check(cuMemsetD8Async(memory, 0, BYTES, stream));
}

static void beyond_the_end() { check(cuMemsetD8Async(memory + 4, 0, BYTES, stream)); }

// As a kernel would write.
static void stray_write() {
    check(cuStreamSynchronize(stream));
    memset(reinterpret_cast<char *>(memory) + BYTES, 0, 1);
}

static void write_after_free() {
    check(cuMemFreeAsync(memory, stream));
    check(cuStreamSynchronize(stream));
    memset(reinterpret_cast<void *>(memory), 0, 1);
    allocate(stream);
    check(cuStreamSynchronize(stream));
}

static void free_twice() {
    check(cuMemFreeAsync(memory, stream));
    check(cuMemFreeAsync(memory, stream));
}

static void free_without_wait() {
    check(cuStreamWaitEvent(other, record(stream), 0));
    check(cuMemsetD8Async(memory, 0, BYTES, other));
    check(cuMemFreeAsync(memory, stream));
}

static void use_before_allocation() { check(cuMemsetD8Async(memory, 0, BYTES, other)); }

static void free_page_locked() {
    void *host;
    check(cuMemHostAlloc(&host, BYTES, 0));
    check(cuMemcpyDtoHAsync(host, memory, BYTES, stream));
    check(cuMemFreeHost(host));
}

static void destroyed_stream() {
    check(cuStreamDestroy(stream));
    check(cuMemsetD8Async(memory, 0, BYTES, stream));
}

static void without_context() {
    std::thread([] { cuMemsetD8Async(memory, 0, BYTES, stream); }).join();
}

static void unaligned_product() { product(memory + 4, memory + 128, memory + 256); }

static void product_onto_itself() { product(memory, memory + 128, memory + 16); }

struct Case {
    const char *name, *report;
    void (*run)();
};

static const Case CASES[] = {
    {"nothing", "results are those of a CPU", nothing},
    {"unordered", "NaN, as no event orders the copies", unordered},
    {"in_freed_memory", "cuMemsetD8Async: freed memory", in_freed_memory},
    {"beyond_the_end", "cuMemsetD8Async: beyond the end of an allocation", beyond_the_end},
    {"stray_write", "bytes beyond the end of an allocation are written", stray_write},
    {"write_after_free", "freed memory is written", write_after_free},
    {"free_twice", "memory is freed that is not allocated", free_twice},
    {"free_without_wait", "does not wait for its use on another one", free_without_wait},
    {"use_before_allocation", "another stream has yet to allocate", use_before_allocation},
    {"free_page_locked", "freed while a copy may be under way", free_page_locked},
    {"destroyed_stream", "on a destroyed stream", destroyed_stream},
    {"without_context", "in a thread without a context", without_context},
    {"unaligned_product", "A: its address is no multiple of 16", unaligned_product},
    {"product_onto_itself", "C shares memory with A or B", product_onto_itself},
};

int main(int count, char **arguments) {
    for (const Case &one : CASES) {
        if (count < 2) printf("%s\t%s\n", one.name, one.report);
        else if (strcmp(arguments[1], one.name) == 0) {
            CUcontext context;
            check(cuInit(0));
            check(cuDevicePrimaryCtxRetain(&context, 0));
            check(cuCtxSetCurrent(context));
            check(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING));
            check(cuStreamCreate(&other, CU_STREAM_NON_BLOCKING));
            memory = allocate(stream);
            one.run();
        }
    }
}
