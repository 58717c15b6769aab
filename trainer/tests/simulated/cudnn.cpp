// cuDNN's backend API, which is also called its graph API, for graphs of one convolution.
//
// What its headers forbid is a broken rule here, not a status: a status may be taken for the answer
// that an engine does not fit.

#include <algorithm>
#include <cstdio>
#include <cstring>

#include "convolution.h"

using namespace simulated;

struct cudnnContext {
    CUstream stream = nullptr;
};

namespace simulated {

using Kind = cudnnBackendDescriptorType_t;
using Name = cudnnBackendAttributeName_t;
using Type = cudnnBackendAttributeType_t;

struct Attribute {
    Kind of;
    Name name;
    Type type;
    int64_t count;
    // Of an attribute that is a descriptor.
    Kind descriptor = {};
};

// The attributes that can be set, of which all are required.
#define OPERATION(KIND, PREFIX, X, W, Y)                                                          \
    {KIND, PREFIX##X, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, CUDNN_BACKEND_TENSOR_DESCRIPTOR},         \
    {KIND, PREFIX##W, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, CUDNN_BACKEND_TENSOR_DESCRIPTOR},         \
    {KIND, PREFIX##Y, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, CUDNN_BACKEND_TENSOR_DESCRIPTOR},         \
    {KIND, PREFIX##CONV_DESC, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1,                                   \
     CUDNN_BACKEND_CONVOLUTION_DESCRIPTOR},                                                       \
    {KIND, PREFIX##ALPHA, CUDNN_TYPE_FLOAT, 1}, {KIND, PREFIX##BETA, CUDNN_TYPE_FLOAT, 1}

#pragma GCC diagnostic ignored "-Wdeprecated-declarations"
static const Attribute ATTRIBUTES[] = {
    {CUDNN_BACKEND_TENSOR_DESCRIPTOR, CUDNN_ATTR_TENSOR_DATA_TYPE, CUDNN_TYPE_DATA_TYPE, 1},
    {CUDNN_BACKEND_TENSOR_DESCRIPTOR, CUDNN_ATTR_TENSOR_DIMENSIONS, CUDNN_TYPE_INT64, 4},
    {CUDNN_BACKEND_TENSOR_DESCRIPTOR, CUDNN_ATTR_TENSOR_STRIDES, CUDNN_TYPE_INT64, 4},
    {CUDNN_BACKEND_TENSOR_DESCRIPTOR, CUDNN_ATTR_TENSOR_UNIQUE_ID, CUDNN_TYPE_INT64, 1},
    {CUDNN_BACKEND_TENSOR_DESCRIPTOR, CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT, CUDNN_TYPE_INT64, 1},
    {CUDNN_BACKEND_CONVOLUTION_DESCRIPTOR, CUDNN_ATTR_CONVOLUTION_COMP_TYPE, CUDNN_TYPE_DATA_TYPE,
     1},
    {CUDNN_BACKEND_CONVOLUTION_DESCRIPTOR, CUDNN_ATTR_CONVOLUTION_CONV_MODE,
     CUDNN_TYPE_CONVOLUTION_MODE, 1},
    {CUDNN_BACKEND_CONVOLUTION_DESCRIPTOR, CUDNN_ATTR_CONVOLUTION_SPATIAL_DIMS, CUDNN_TYPE_INT64,
     1},
    {CUDNN_BACKEND_CONVOLUTION_DESCRIPTOR, CUDNN_ATTR_CONVOLUTION_DILATIONS, CUDNN_TYPE_INT64, 2},
    {CUDNN_BACKEND_CONVOLUTION_DESCRIPTOR, CUDNN_ATTR_CONVOLUTION_FILTER_STRIDES, CUDNN_TYPE_INT64,
     2},
    {CUDNN_BACKEND_CONVOLUTION_DESCRIPTOR, CUDNN_ATTR_CONVOLUTION_PRE_PADDINGS, CUDNN_TYPE_INT64,
     2},
    {CUDNN_BACKEND_CONVOLUTION_DESCRIPTOR, CUDNN_ATTR_CONVOLUTION_POST_PADDINGS, CUDNN_TYPE_INT64,
     2},
    OPERATION(CUDNN_BACKEND_OPERATION_CONVOLUTION_FORWARD_DESCRIPTOR,
              CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_, X, W, Y),
    OPERATION(CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_DATA_DESCRIPTOR,
              CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_, DX, W, DY),
    OPERATION(CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_FILTER_DESCRIPTOR,
              CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_, X, DW, DY),
    {CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR, CUDNN_ATTR_OPERATIONGRAPH_HANDLE, CUDNN_TYPE_HANDLE,
     1},
    {CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR, CUDNN_ATTR_OPERATIONGRAPH_OPS,
     CUDNN_TYPE_BACKEND_DESCRIPTOR, 1},
    {CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR, CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH,
     CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR},
    {CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR, CUDNN_ATTR_ENGINEHEUR_MODE, CUDNN_TYPE_HEUR_MODE, 1},
    {CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR, CUDNN_ATTR_EXECUTION_PLAN_HANDLE, CUDNN_TYPE_HANDLE,
     1},
    {CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR, CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG,
     CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, CUDNN_BACKEND_ENGINECFG_DESCRIPTOR},
    {CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR, CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS, CUDNN_TYPE_INT64,
     3},
    {CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR, CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS,
     CUDNN_TYPE_VOID_PTR, 3},
    {CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR, CUDNN_ATTR_VARIANT_PACK_WORKSPACE, CUDNN_TYPE_VOID_PTR,
     1},
};

// A way to compute a convolution.
struct Engine {
    int64_t index;
    std::vector<cudnnBackendNumericalNote_t> notes;
    uint64_t workspace;
    // Whether its plans can be made.
    bool is_supported;
    // Whether it gives the same bits in every run, and float32 for float32.
    bool is_exact;
};

struct Descriptor {
    Kind kind;
    bool is_finalized = false;
    std::map<Name, std::vector<char>> values;
    // Of operations and what is made from them.
    Convolution convolution;
    // Of heuristics, and of what is made from their results.
    std::vector<Engine> engines;

    template <class T>
    T get(Name name) const {
        T value;
        const std::vector<char> &bytes = values.at(name);
        if (bytes.size() != sizeof value) violation("cuDNN: an attribute of another size");
        memcpy(&value, bytes.data(), sizeof value);
        return value;
    }

    const Descriptor &descriptor(Name name) const {
        return *static_cast<const Descriptor *>(get<cudnnBackendDescriptor_t>(name));
    }
};

static std::vector<Descriptor *> &descriptors = *new std::vector<Descriptor *>;
static std::vector<cudnnHandle_t> &handles = *new std::vector<cudnnHandle_t>;

static Descriptor &known(cudnnBackendDescriptor_t descriptor) {
    auto *pointer = static_cast<Descriptor *>(descriptor);
    if (std::find(descriptors.begin(), descriptors.end(), pointer) == descriptors.end())
        violation("cuDNN: a descriptor that is not, or no longer, there");
    return *pointer;
}

static size_t bytes_of(Type type) {
    switch (type) {
        case CUDNN_TYPE_INT64:
        case CUDNN_TYPE_HANDLE:
        case CUDNN_TYPE_VOID_PTR:
        case CUDNN_TYPE_BACKEND_DESCRIPTOR: return 8;
        default: return 4;
    }
}

// The engines in the order in which heuristics recommend them. Most have something about them for
// which a careful caller passes them over.
static std::vector<Engine> engines_for(const Convolution &convolution, bool fallback) {
    using Notes = std::vector<cudnnBackendNumericalNote_t>;
    const bool is_bf16 = convolution.x.type == CUDNN_DATA_BFLOAT16;
    if (options().only_nchw && !is_bf16 && !convolution.x.is_packed(false)) return {};
    if (fallback) return {{4, {}, 0, true, true}};
    const Notes tensor_core = {CUDNN_NUMERICAL_NOTE_TENSOR_CORE};
    const Notes other_bits = {CUDNN_NUMERICAL_NOTE_TENSOR_CORE,
                              CUDNN_NUMERICAL_NOTE_NONDETERMINISTIC};
    return {
        {0, other_bits, 1 << 16, true, false},
        // TF32 for float32; and for bfloat16 one whose plans cannot be made.
        {1, tensor_core, 1 << 16, !is_bf16, false},
        {2, is_bf16 ? tensor_core : Notes{}, 1ull << 32, true, true},
        {3, is_bf16 ? tensor_core : Notes{}, 1 << 16, true, true},
    };
}

static void finalize_tensor(Descriptor &tensor) {
    const auto sizes = tensor.get<std::array<int64_t, 4>>(CUDNN_ATTR_TENSOR_DIMENSIONS);
    const auto alignment = tensor.get<int64_t>(CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT);
    if (*std::min_element(sizes.begin(), sizes.end()) <= 0) violation("cuDNN: a size of 0");
    if (alignment <= 0 || (alignment & (alignment - 1)) != 0)
        violation("cuDNN: an alignment that is no power of two");
    const auto type = tensor.get<cudnnDataType_t>(CUDNN_ATTR_TENSOR_DATA_TYPE);
    if (type != CUDNN_DATA_FLOAT && type != CUDNN_DATA_BFLOAT16)
        violation("cuDNN: a type that is not simulated");
}

static Tensor tensor(const Descriptor &descriptor) {
    Tensor made;
    made.type = descriptor.get<cudnnDataType_t>(CUDNN_ATTR_TENSOR_DATA_TYPE);
    made.sizes = descriptor.get<std::array<int64_t, 4>>(CUDNN_ATTR_TENSOR_DIMENSIONS);
    made.strides = descriptor.get<std::array<int64_t, 4>>(CUDNN_ATTR_TENSOR_STRIDES);
    made.id = descriptor.get<int64_t>(CUDNN_ATTR_TENSOR_UNIQUE_ID);
    made.alignment = descriptor.get<int64_t>(CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT);
    return made;
}

static void finalize_convolution(const Descriptor &convolution) {
    using Pair = std::array<int64_t, 2>;
    const auto type = convolution.get<cudnnDataType_t>(CUDNN_ATTR_CONVOLUTION_COMP_TYPE);
    if (type != CUDNN_DATA_FLOAT) violation("cuDNN: a convolution not summed up as float32");
    const auto mode = convolution.get<cudnnConvolutionMode_t>(CUDNN_ATTR_CONVOLUTION_CONV_MODE);
    if (mode != CUDNN_CROSS_CORRELATION) violation("cuDNN: a convolution with a mirrored filter");
    if (convolution.get<int64_t>(CUDNN_ATTR_CONVOLUTION_SPATIAL_DIMS) != 2)
        violation("cuDNN: a convolution that is not of two dimensions");
    if (convolution.get<Pair>(CUDNN_ATTR_CONVOLUTION_PRE_PADDINGS) !=
        convolution.get<Pair>(CUDNN_ATTR_CONVOLUTION_POST_PADDINGS))
        violation("cuDNN: paddings that differ are not simulated");
}

// The names of an operation's attributes, in the order of OPERATION.
static std::array<Name, 6> names_of(Kind operation) {
    std::array<Name, 6> names;
    size_t next = 0;
    for (const Attribute &attribute : ATTRIBUTES)
        if (attribute.of == operation) names[next++] = attribute.name;
    return names;
}

static void finalize_operation(Descriptor &operation, Pass pass) {
    using Pair = std::array<int64_t, 2>;
    const auto [x, w, y, convolution, alpha, beta] = names_of(operation.kind);
    const Descriptor &described = operation.descriptor(convolution);
    operation.convolution = {pass,
                             tensor(operation.descriptor(x)),
                             tensor(operation.descriptor(w)),
                             tensor(operation.descriptor(y)),
                             described.get<Pair>(CUDNN_ATTR_CONVOLUTION_FILTER_STRIDES),
                             described.get<Pair>(CUDNN_ATTR_CONVOLUTION_PRE_PADDINGS),
                             described.get<Pair>(CUDNN_ATTR_CONVOLUTION_DILATIONS)};
    const Convolution &made = operation.convolution;
    const std::string wrong = made.wrong();
    if (!wrong.empty()) violation("cuDNN: a convolution: " + wrong);
    if (made.x.type != made.w.type || made.x.type != made.y.type)
        violation("cuDNN: a convolution of several types");
    if (made.x.id == made.w.id || made.x.id == made.y.id || made.w.id == made.y.id)
        violation("cuDNN: two tensors with one id");
    if (operation.get<float>(alpha) != 1.0f || operation.get<float>(beta) != 0.0f)
        violation("cuDNN: factors that are not simulated");
}

static cudnnStatus_t finalize_plan(Descriptor &plan) {
    const Descriptor &configuration = plan.descriptor(CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG);
    plan.convolution = configuration.convolution;
    plan.engines = configuration.engines;
    if (options().no_engines || !plan.engines[0].is_supported) return CUDNN_STATUS_NOT_SUPPORTED;
    if (allocation_fails()) return CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED;
    return CUDNN_STATUS_SUCCESS;
}

static cudnnStatus_t finalize(Descriptor &descriptor) {
    for (const Attribute &attribute : ATTRIBUTES) {
        if (attribute.of == descriptor.kind && descriptor.values.count(attribute.name) == 0)
            violation("cuDNN: attribute " + std::to_string(attribute.name) + " is not set");
    }
    switch (descriptor.kind) {
        case CUDNN_BACKEND_TENSOR_DESCRIPTOR: finalize_tensor(descriptor); break;
        case CUDNN_BACKEND_CONVOLUTION_DESCRIPTOR: finalize_convolution(descriptor); break;
        case CUDNN_BACKEND_OPERATION_CONVOLUTION_FORWARD_DESCRIPTOR:
            finalize_operation(descriptor, Pass::FORWARD);
            break;
        case CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_DATA_DESCRIPTOR:
            finalize_operation(descriptor, Pass::DATA);
            break;
        case CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_FILTER_DESCRIPTOR:
            finalize_operation(descriptor, Pass::FILTER);
            break;
        case CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR:
            descriptor.convolution =
                descriptor.descriptor(CUDNN_ATTR_OPERATIONGRAPH_OPS).convolution;
            break;
        case CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR: {
            const auto mode = descriptor.get<cudnnBackendHeurMode_t>(CUDNN_ATTR_ENGINEHEUR_MODE);
            const bool is_fallback = mode == CUDNN_HEUR_MODE_FALLBACK;
            descriptor.convolution =
                descriptor.descriptor(CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH).convolution;
            descriptor.engines = engines_for(descriptor.convolution, is_fallback);
            if (descriptor.engines.empty()) return CUDNN_STATUS_NOT_SUPPORTED;
            break;
        }
        case CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR: return finalize_plan(descriptor);
        case CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR: break;
        default: violation("cuDNN: a descriptor that only cuDNN finalizes");
    }
    return CUDNN_STATUS_SUCCESS;
}

// Fills descriptors that the caller has made with what is of an engine each.
static void fill(const Descriptor &source, Kind kind, int64_t count, void *elements) {
    for (int64_t i = 0; i < count; ++i) {
        Descriptor &made = known(static_cast<cudnnBackendDescriptor_t *>(elements)[i]);
        if (made.kind != kind || made.is_finalized)
            violation("cuDNN: a descriptor to be filled is of another kind, or finalized");
        made.convolution = source.convolution;
        made.engines = {source.engines[i]};
        made.is_finalized = true;
    }
}

static cudnnStatus_t execute(cudnnHandle_t handle, const Descriptor &plan, const Descriptor &pack) {
    const Convolution convolution = plan.convolution;
    const Engine &engine = plan.engines[0];
    if (!engine.is_exact) violation("cuDNN: an engine with other bits in every run, or TF32");
    const auto ids = pack.get<std::array<int64_t, 3>>(CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS);
    const auto addresses = pack.get<std::array<Address, 3>>(CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS);
    Operation operation;
    operation.name = "a convolution";
    operation.computes = true;
    const auto place = [&](const Tensor &tensor) {
        const auto found = std::find(ids.begin(), ids.end(), tensor.id);
        if (found == ids.end()) violation("cuDNN: a tensor without an address");
        const Address address = addresses[found - ids.begin()];
        if (address % tensor.alignment != 0) violation("cuDNN: a tensor that is not aligned");
        operation.device.push_back({address, tensor.bytes()});
        return address;
    };
    const Address x = place(convolution.x), w = place(convolution.w), y = place(convolution.y);
    const auto workspace = pack.get<Address>(CUDNN_ATTR_VARIANT_PACK_WORKSPACE);
    const uint64_t workspace_bytes = engine.workspace;
    if (workspace_bytes > 0) operation.device.push_back({workspace, workspace_bytes});
    const char *passes[] = {"convolutions forward", "convolutions' data gradients",
                            "convolutions' filter gradients"};
    count(passes[static_cast<int>(convolution.pass)]);
    operation.work = [=] {
        // An engine leaves nothing of what was there.
        memset(pointer<void>(workspace), 0x5A, workspace_bytes);
        convolution.compute(x, w, y);
    };
    enqueue(handle->stream, operation);
    return CUDNN_STATUS_SUCCESS;
}

}  // namespace simulated

// Begins a call that needs a context.
#define CUDNN_CALL()     \
    Call call(__func__); \
    if (call.error() != CUDA_SUCCESS) return CUDNN_STATUS_EXECUTION_FAILED_CUDA_DRIVER

extern "C" {

size_t cudnnGetVersion() { return CUDNN_VERSION; }

void cudnnGetLastErrorString(char *message, size_t bytes) { snprintf(message, bytes, "simulated"); }

const char *cudnnGetErrorString(cudnnStatus_t) { return "an error of the simulated cuDNN"; }

cudnnStatus_t cudnnCreate(cudnnHandle_t *handle) {
    CUDNN_CALL();
    if (allocation_fails()) return CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED;
    *handle = new cudnnContext;
    handles.push_back(*handle);
    return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnDestroy(cudnnHandle_t handle) {
    CUDNN_CALL();
    handles.erase(std::remove(handles.begin(), handles.end(), handle), handles.end());
    if (handles.empty() && !descriptors.empty())
        violation("cuDNN: " + std::to_string(descriptors.size()) + " descriptors are left");
    delete handle;
    return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnSetStream(cudnnHandle_t handle, cudaStream_t stream) {
    CUDNN_CALL();
    handle->stream = stream;
    return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnBackendCreateDescriptor(cudnnBackendDescriptorType_t kind,
                                           cudnnBackendDescriptor_t *made) {
    Call call(__func__);
    auto *descriptor = new Descriptor{};
    descriptor->kind = kind;
    descriptors.push_back(descriptor);
    *made = descriptor;
    return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnBackendDestroyDescriptor(cudnnBackendDescriptor_t descriptor) {
    Call call(__func__);
    Descriptor *ended = &known(descriptor);
    descriptors.erase(std::remove(descriptors.begin(), descriptors.end(), ended),
                      descriptors.end());
    delete ended;
    return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnBackendSetAttribute(cudnnBackendDescriptor_t descriptor, Name name, Type type,
                                       int64_t count, const void *elements) {
    Call call(__func__);
    Descriptor &changed = known(descriptor);
    const std::string what = "cuDNN: attribute " + std::to_string(name);
    const auto is_it = [&](const Attribute &attribute) {
        return attribute.of == changed.kind && attribute.name == name;
    };
    const auto found = std::find_if(std::begin(ATTRIBUTES), std::end(ATTRIBUTES), is_it);
    if (found == std::end(ATTRIBUTES))
        violation(what + " is of another descriptor, or not simulated");
    if (changed.is_finalized) violation(what + " is set after the descriptor was finalized");
    if (found->type != type) violation(what + " is of another type");
    if (found->count != count) violation(what + " has another number of elements");
    const auto *bytes = static_cast<const char *>(elements);
    changed.values[name] = {bytes, bytes + count * bytes_of(type)};
    if (type == CUDNN_TYPE_HANDLE) {
        const auto handle = changed.get<cudnnHandle_t>(name);
        if (std::find(handles.begin(), handles.end(), handle) == handles.end())
            violation(what + " is no living handle");
    }
    if (type == CUDNN_TYPE_BACKEND_DESCRIPTOR) {
        const Descriptor &part = known(changed.get<cudnnBackendDescriptor_t>(name));
        if (!part.is_finalized) violation(what + " is not finalized");
        // Of an operation graph several kinds of operations can be part.
        if (found->descriptor != Kind{} && part.kind != found->descriptor)
            violation(what + " is another kind of descriptor");
    }
    return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnBackendFinalize(cudnnBackendDescriptor_t descriptor) {
    Call call(__func__);
    Descriptor &finalized = known(descriptor);
    if (finalized.is_finalized) violation("cuDNN: a descriptor is finalized twice");
    const cudnnStatus_t status = finalize(finalized);
    finalized.is_finalized = status == CUDNN_STATUS_SUCCESS;
    return status;
}

cudnnStatus_t cudnnBackendGetAttribute(cudnnBackendDescriptor_t descriptor, Name name, Type type,
                                       int64_t room, int64_t *count, void *elements) {
    Call call(__func__);
    const Descriptor &read = known(descriptor);
    const std::string what = "cuDNN: attribute " + std::to_string(name);
    if (!read.is_finalized) violation(what + " is read before the descriptor is finalized");
    const auto is = [&](Kind kind, Name wanted, Type of) {
        return read.kind == kind && name == wanted && type == of;
    };
    const int64_t engines = static_cast<int64_t>(read.engines.size());
    const auto fits = [&](int64_t available) {
        *count = room == 0 ? available : std::min(room, available);
        return room == 0 ? 0 : *count;
    };
    if (is(CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR, CUDNN_ATTR_ENGINEHEUR_RESULTS,
           CUDNN_TYPE_BACKEND_DESCRIPTOR)) {
        fill(read, CUDNN_BACKEND_ENGINECFG_DESCRIPTOR, fits(engines), elements);
    } else if (is(CUDNN_BACKEND_ENGINECFG_DESCRIPTOR, CUDNN_ATTR_ENGINECFG_ENGINE,
                  CUDNN_TYPE_BACKEND_DESCRIPTOR)) {
        fill(read, CUDNN_BACKEND_ENGINE_DESCRIPTOR, fits(1), elements);
    } else if (is(CUDNN_BACKEND_ENGINE_DESCRIPTOR, CUDNN_ATTR_ENGINE_NUMERICAL_NOTE,
                  CUDNN_TYPE_NUMERICAL_NOTE)) {
        const auto &notes = read.engines[0].notes;
        std::copy_n(notes.begin(), fits(static_cast<int64_t>(notes.size())),
                    static_cast<cudnnBackendNumericalNote_t *>(elements));
    } else if (is(CUDNN_BACKEND_ENGINE_DESCRIPTOR, CUDNN_ATTR_ENGINE_BEHAVIOR_NOTE,
                  CUDNN_TYPE_BEHAVIOR_NOTE)) {
        fits(0);
    } else if (is(CUDNN_BACKEND_ENGINE_DESCRIPTOR, CUDNN_ATTR_ENGINE_GLOBAL_INDEX,
                  CUDNN_TYPE_INT64)) {
        std::copy_n(&read.engines[0].index, fits(1), static_cast<int64_t *>(elements));
    } else if (is(CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR,
                  CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE, CUDNN_TYPE_INT64)) {
        std::copy_n(&read.engines[0].workspace, fits(1), static_cast<int64_t *>(elements));
    } else {
        violation(what + " is of another descriptor or type, or not simulated");
    }
    return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnBackendExecute(cudnnHandle_t handle, cudnnBackendDescriptor_t plan,
                                  cudnnBackendDescriptor_t pack) {
    CUDNN_CALL();
    const Descriptor &planned = known(plan), &given = known(pack);
    if (planned.kind != CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR || !planned.is_finalized)
        violation("cuDNN: what is executed is no finalized plan");
    if (given.kind != CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR || !given.is_finalized)
        violation("cuDNN: what a plan is given is no finalized variant pack");
    if (planned.get<cudnnHandle_t>(CUDNN_ATTR_EXECUTION_PLAN_HANDLE) != handle)
        violation("cuDNN: a plan of another handle");
    return execute(handle, planned, given);
}

}  // extern "C"
