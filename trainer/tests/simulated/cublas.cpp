// cuBLAS as far as it is called: products of matrices, whose arguments are checked one by one.

#include <cublas_v2.h>

#include <cstring>

#include "simulator.h"

using namespace simulated;

struct cublasContext {
    CUstream stream = nullptr;
    cublasMath_t math = CUBLAS_DEFAULT_MATH;
    cublasPointerMode_t pointers = CUBLAS_POINTER_MODE_HOST;
    Range workspace = {0, 0};
};

namespace simulated {

// What tensors and the workspace are aligned to, so that every product is as fast as it can be.
constexpr uint64_t ALIGNMENT = 16, WORKSPACE_ALIGNMENT = 256;

// A column-major matrix in device memory, as stored.
struct Matrix {
    Address begin;
    cudaDataType_t type;
    uint64_t rows, columns, leading;

    uint64_t element_bytes() const { return type == CUDA_R_16BF ? sizeof(bf16) : sizeof(float); }

    uint64_t bytes() const { return ((columns - 1) * leading + rows) * element_bytes(); }

    float get(uint64_t row, uint64_t column) const {
        const uint64_t at = column * leading + row;
        return type == CUDA_R_16BF ? static_cast<float>(pointer<bf16>(begin)[at])
                                   : pointer<float>(begin)[at];
    }

    void set(uint64_t row, uint64_t column, float value) const {
        const uint64_t at = column * leading + row;
        if (type == CUDA_R_16BF) pointer<bf16>(begin)[at] = bf16(value);
        else pointer<float>(begin)[at] = value;
    }

    void check(const char *name) const {
        const std::string matrix = std::string("cuBLAS: ") + name;
        if (leading < rows) violation(matrix + ": the leading dimension is less than the rows");
        if (begin % ALIGNMENT != 0) violation(matrix + ": its address is no multiple of 16");
    }

    bool overlaps(const Matrix &other) const {
        return begin < other.begin + other.bytes() && other.begin < begin + bytes();
    }
};

struct Product {
    bool transpose_a, transpose_b;
    Matrix a, b, c;
    uint64_t inner;
    float alpha, beta;

    // c ← alpha·op(a)·op(b) + beta·c, computed as its transpose, which is row-major.
    void compute() const {
        std::vector<float> left(c.columns * inner), right(inner * c.rows),
            result(c.columns * c.rows);
        for (uint64_t column = 0; column < c.columns; ++column) {
            for (uint64_t l = 0; l < inner; ++l)
                left[column * inner + l] = transpose_b ? b.get(column, l) : b.get(l, column);
        }
        for (uint64_t l = 0; l < inner; ++l) {
            for (uint64_t row = 0; row < c.rows; ++row)
                right[l * c.rows + row] = transpose_a ? a.get(l, row) : a.get(row, l);
        }
        multiply(c.columns, c.rows, inner, left.data(), right.data(), result.data());
        for (uint64_t column = 0; column < c.columns; ++column) {
            for (uint64_t row = 0; row < c.rows; ++row) {
                float value = alpha * result[column * c.rows + row];
                // What is multiplied by 0 is not read.
                if (beta != 0) value += beta * c.get(row, column);
                c.set(row, column, value);
            }
        }
    }
};

static bool is_combination(cudaDataType_t a, cudaDataType_t b, cudaDataType_t c) {
    if (a != b) return false;
    return a == CUDA_R_16BF ? c == CUDA_R_16BF || c == CUDA_R_32F
                            : a == CUDA_R_32F && c == CUDA_R_32F;
}

static void check_workspace(const Range &workspace) {
    if (workspace.bytes > 0 && room_at(workspace.begin) < workspace.bytes)
        violation("cuBLAS: its workspace is no living memory of that size");
}

static cublasStatus_t start(cublasHandle_t handle, Product product) {
    if (is_lost()) return CUBLAS_STATUS_EXECUTION_FAILED;
    product.a.check("A");
    product.b.check("B");
    product.c.check("C");
    if (product.c.overlaps(product.a) || product.c.overlaps(product.b))
        violation("cuBLAS: C shares memory with A or B");
    check_workspace(handle->workspace);
    const bool is_bf16 = product.a.type == CUDA_R_16BF;
    count(is_bf16 ? "products of bfloat16" : "products of float32");
    Operation operation;
    operation.name = "a product of matrices";
    for (const Matrix *matrix : {&product.a, &product.b, &product.c})
        operation.device.push_back({matrix->begin, matrix->bytes()});
    if (handle->workspace.bytes > 0) operation.device.push_back(handle->workspace);
    operation.computes = true;
    operation.work = [=] { product.compute(); };
    enqueue(handle->stream, operation);
    return CUBLAS_STATUS_SUCCESS;
}

}  // namespace simulated

// Begins a call.
#define CUBLAS_CALL(handle)                                    \
    Call call(__func__);                                       \
    if (call.error() != CUDA_SUCCESS) return CUBLAS_STATUS_EXECUTION_FAILED; \
    if ((handle) == nullptr) return CUBLAS_STATUS_NOT_INITIALIZED

extern "C" {

cublasStatus_t cublasCreate(cublasHandle_t *handle) {
    CUBLAS_CALL(handle);
    // Its own workspace.
    if (allocation_fails()) return CUBLAS_STATUS_ALLOC_FAILED;
    *handle = new cublasContext;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasDestroy(cublasHandle_t handle) {
    CUBLAS_CALL(handle);
    delete handle;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasSetStream(cublasHandle_t handle, cudaStream_t stream) {
    CUBLAS_CALL(handle);
    handle->stream = stream;
    // As documented: the workspace is the handle's own again.
    handle->workspace = {0, 0};
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasGetStream(cublasHandle_t handle, cudaStream_t *stream) {
    CUBLAS_CALL(handle);
    *stream = handle->stream;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasSetWorkspace(cublasHandle_t handle, void *workspace, size_t bytes) {
    CUBLAS_CALL(handle);
    const auto address = reinterpret_cast<Address>(workspace);
    if (address % WORKSPACE_ALIGNMENT != 0) return CUBLAS_STATUS_INVALID_VALUE;
    handle->workspace = {address, bytes};
    check_workspace(handle->workspace);
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasSetMathMode(cublasHandle_t handle, cublasMath_t mode) {
    CUBLAS_CALL(handle);
    const int kind = mode & ~CUBLAS_MATH_DISALLOW_REDUCED_PRECISION_REDUCTION;
    if (kind == CUBLAS_TF32_TENSOR_OP_MATH) violation("cuBLAS: float32 computed as TF32");
    if (kind != CUBLAS_DEFAULT_MATH && kind != CUBLAS_PEDANTIC_MATH)
        return CUBLAS_STATUS_INVALID_VALUE;
    handle->math = mode;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasGetMathMode(cublasHandle_t handle, cublasMath_t *mode) {
    CUBLAS_CALL(handle);
    *mode = handle->math;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasSetPointerMode(cublasHandle_t handle, cublasPointerMode_t mode) {
    CUBLAS_CALL(handle);
    handle->pointers = mode;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasGetPointerMode(cublasHandle_t handle, cublasPointerMode_t *mode) {
    CUBLAS_CALL(handle);
    *mode = handle->pointers;
    return CUBLAS_STATUS_SUCCESS;
}

static cublasStatus_t product_of(cublasHandle_t handle, cublasOperation_t transpose_a,
                                 cublasOperation_t transpose_b, int m, int n, int k,
                                 const void *alpha, Matrix a, Matrix b, const void *beta, Matrix c,
                                 cublasComputeType_t compute) {
    const bool is_transposed_a = transpose_a == CUBLAS_OP_T;
    const bool is_transposed_b = transpose_b == CUBLAS_OP_T;
    if ((!is_transposed_a && transpose_a != CUBLAS_OP_N) ||
        (!is_transposed_b && transpose_b != CUBLAS_OP_N))
        return CUBLAS_STATUS_INVALID_VALUE;
    if (m < 0 || n < 0 || k < 0) return CUBLAS_STATUS_INVALID_VALUE;
    if (alpha == nullptr || beta == nullptr) return CUBLAS_STATUS_INVALID_VALUE;
    if (compute != CUBLAS_COMPUTE_32F && compute != CUBLAS_COMPUTE_32F_PEDANTIC)
        violation("cuBLAS: a product that is not summed up as float32");
    if (!is_combination(a.type, b.type, c.type)) return CUBLAS_STATUS_NOT_SUPPORTED;
    if (handle->pointers != CUBLAS_POINTER_MODE_HOST ||
        is_device(reinterpret_cast<Address>(alpha)) || is_device(reinterpret_cast<Address>(beta)))
        violation("cuBLAS: alpha and beta must lie in the host's memory");
    if (m == 0 || n == 0) return CUBLAS_STATUS_SUCCESS;
    if (k == 0) violation("cuBLAS: a product without inner dimension");
    a.rows = is_transposed_a ? k : m;
    a.columns = is_transposed_a ? m : k;
    b.rows = is_transposed_b ? n : k;
    b.columns = is_transposed_b ? k : n;
    c.rows = m;
    c.columns = n;
    Product product{is_transposed_a, is_transposed_b, a, b, c, static_cast<uint64_t>(k), 0, 0};
    memcpy(&product.alpha, alpha, sizeof product.alpha);
    memcpy(&product.beta, beta, sizeof product.beta);
    return start(handle, product);
}

static Matrix matrix(const void *begin, cudaDataType_t type, int leading) {
    const uint64_t positive = leading < 0 ? 0 : leading;
    return {reinterpret_cast<Address>(begin), type, 0, 0, positive};
}

cublasStatus_t cublasGemmEx(cublasHandle_t handle, cublasOperation_t transpose_a,
                            cublasOperation_t transpose_b, int m, int n, int k, const void *alpha,
                            const void *a, cudaDataType a_type, int lda, const void *b,
                            cudaDataType b_type, int ldb, const void *beta, void *c,
                            cudaDataType c_type, int ldc, cublasComputeType_t compute,
                            cublasGemmAlgo_t) {
    CUBLAS_CALL(handle);
    return product_of(handle, transpose_a, transpose_b, m, n, k, alpha, matrix(a, a_type, lda),
                      matrix(b, b_type, ldb), beta, matrix(c, c_type, ldc), compute);
}

cublasStatus_t cublasGemmStridedBatchedEx(
    cublasHandle_t handle, cublasOperation_t transpose_a, cublasOperation_t transpose_b, int m,
    int n, int k, const void *alpha, const void *a, cudaDataType a_type, int lda, long long,
    const void *b, cudaDataType b_type, int ldb, long long, const void *beta, void *c,
    cudaDataType c_type, int ldc, long long, int batch, cublasComputeType_t compute,
    cublasGemmAlgo_t) {
    CUBLAS_CALL(handle);
    if (batch != 1) violation("cuBLAS: batches of products are not simulated");
    return product_of(handle, transpose_a, transpose_b, m, n, k, alpha, matrix(a, a_type, lda),
                      matrix(b, b_type, ldb), beta, matrix(c, c_type, ldc), compute);
}

// candle links this, and training never calls it.
cublasStatus_t cublasDgemmStridedBatched(cublasHandle_t, cublasOperation_t, cublasOperation_t, int,
                                         int, int, const double *, const double *, int, long long,
                                         const double *, int, long long, const double *, double *,
                                         int, long long, int) {
    violation("cublasDgemmStridedBatched is not simulated");
}

}  // extern "C"
