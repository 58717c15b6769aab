// Modules of PTX, and launches of their kernels. Nothing is read of a kernel but its name, its
// parameters and the most threads of its blocks: it runs as compiled for the emulator, or if it is
// candle's, as written anew in candle_kernels.cpp.

#include <dlfcn.h>

#include <cstdio>
#include <cstring>

#include "internal.h"

using namespace simulated;

struct CUmod_st {
    std::map<std::string, CUfunc_st> kernels;
};

// `launch` of emulator.h.
using Launch = int (*)(const char *, const unsigned *, const unsigned *, void **);

struct CUfunc_st {
    std::string name;
    std::vector<size_t> parameter_bytes;
    unsigned most_threads;
    // Null for candle's kernels.
    Launch launch;
};

namespace simulated {

// The newest PTX that a driver for CUDA 13.0 compiles.
constexpr double NEWEST_PTX = 9.0;
constexpr int COMPUTE_CAPABILITY = 90;
// What our kernels' tensors are aligned to, since they read 16 bytes at a time.
constexpr uint64_t ALIGNMENT = 16;

static Launch compiled_kernels(const char *library) {
    void *opened = dlopen(library, RTLD_NOW | RTLD_LOCAL);
    if (opened == nullptr) violation(dlerror());
    return reinterpret_cast<Launch>(dlsym(opened, "launch"));
}

// The emulator's kernels for feature maps of float32 or of bfloat16.
static Launch own_kernels(bool of_bf16) {
    static const Launch launches[] = {compiled_kernels("libscrl_kernels_f32.so"),
                                      compiled_kernels("libscrl_kernels_bf16.so")};
    return launches[of_bf16];
}

static bool is_known(Launch launch, const std::string &kernel) {
    const unsigned none[] = {0, 0};
    return launch(kernel.c_str(), none, none, nullptr) != 0;
}

// The bytes of a parameter, such as `.param .u64 .ptr .align 1 name` or `.param .align 8 .b8
// name[512]`.
static size_t parameter_bytes(const std::string &declaration) {
    size_t bits = 0, elements = 1;
    for (size_t at = 0; (at = declaration.find('.', at)) != std::string::npos; ++at) {
        const char type = declaration[at + 1];
        if (strchr("usfb", type) != nullptr && isdigit(declaration[at + 2]))
            bits = strtoul(&declaration[at + 2], nullptr, 10);
    }
    if (const size_t at = declaration.find('['); at != std::string::npos)
        elements = strtoul(&declaration[at + 1], nullptr, 10);
    return bits / 8 * elements;
}

static CUfunc_st kernel(const std::string &ptx, size_t begin) {
    const size_t open = ptx.find('(', begin), close = ptx.find(')', open);
    const size_t body = ptx.find('{', close);
    CUfunc_st kernel{ptx.substr(begin, open - begin), {}, 1024, nullptr};
    std::string parameters = ptx.substr(open + 1, close - open - 1);
    for (size_t at = 0; (at = parameters.find(".param", at)) != std::string::npos;) {
        const size_t end = std::min(parameters.find(',', at), parameters.size());
        kernel.parameter_bytes.push_back(parameter_bytes(parameters.substr(at, end - at)));
        at = end;
    }
    if (const size_t at = ptx.find(".maxntid", close); at < body)
        kernel.most_threads = strtoul(&ptx[at + strlen(".maxntid")], nullptr, 10);
    return kernel;
}

static void check_launch(const CUfunc_st &kernel, const unsigned *grid, const unsigned *block,
                         unsigned shared_bytes) {
    const auto refuse = [&](const char *what) { violation(kernel.name + ": " + what); };
    if (grid[0] == 0 || grid[1] == 0 || grid[2] == 0) refuse("a grid without blocks");
    if (grid[0] > 0x7fffffff || grid[1] > 0xffff || grid[2] > 0xffff) refuse("too many blocks");
    const uint64_t threads = 1ull * block[0] * block[1] * block[2];
    if (threads == 0 || threads > kernel.most_threads) refuse("a block of too many threads");
    if (kernel.launch == nullptr) return;
    if (grid[2] != 1 || block[2] != 1) refuse("the emulator knows no third dimension");
    if (shared_bytes != 0) refuse("the emulator knows no dynamic shared memory");
}

// Copies a kernel's arguments, and notes the memory that they point to.
static std::shared_ptr<Arguments> arguments_of(const CUfunc_st &kernel, void **given,
                                               std::vector<Range> &memory) {
    const auto arguments = std::make_shared<Arguments>();
    for (size_t index = 0; index < kernel.parameter_bytes.size(); ++index) {
        const size_t bytes = kernel.parameter_bytes[index];
        const auto *from = static_cast<const char *>(given[index]);
        const size_t offset = (arguments->bytes.size() + 15) / 16 * 16;
        arguments->offsets.push_back(offset);
        arguments->bytes.resize(offset);
        arguments->bytes.insert(arguments->bytes.end(), from, from + bytes);
        arguments->rooms.push_back(0);
        // A struct may have addresses in it.
        for (size_t at = 0; at + sizeof(Address) <= bytes; at += sizeof(Address)) {
            Address address;
            memcpy(&address, from + at, sizeof address);
            if (!is_device(address)) continue;
            if (kernel.launch != nullptr && bytes == sizeof address && address % ALIGNMENT != 0)
                violation(kernel.name + ": an address is no multiple of 16");
            memory.push_back({address, 1});
            arguments->rooms.back() = room_at(address);
        }
    }
    return arguments;
}

uint64_t Arguments::number(size_t index) const {
    uint64_t value = 0;
    const size_t end = index + 1 < offsets.size() ? offsets[index + 1] : bytes.size();
    memcpy(&value, &bytes[offsets[index]], std::min(sizeof value, end - offsets[index]));
    return value;
}

}  // namespace simulated

extern "C" {

CUresult cuModuleLoadData(CUmodule *loaded, const void *image) {
    IN_CONTEXT();
    if (allocation_fails()) return CUDA_ERROR_OUT_OF_MEMORY;
    const std::string ptx = static_cast<const char *>(image);
    double version = 0;
    int target = 0;
    char suffix = ' ';
    const size_t version_at = ptx.find(".version "), target_at = ptx.find(".target sm_");
    if (version_at == std::string::npos || target_at == std::string::npos)
        violation("a module that is not PTX");
    sscanf(&ptx[version_at], ".version %lf", &version);
    sscanf(&ptx[target_at], ".target sm_%d%c", &target, &suffix);
    if (version > NEWEST_PTX) return CUDA_ERROR_UNSUPPORTED_PTX_VERSION;
    const bool is_specific = suffix == 'a' || suffix == 'f';
    if (target > COMPUTE_CAPABILITY || (is_specific && target != COMPUTE_CAPABILITY))
        return CUDA_ERROR_NO_BINARY_FOR_GPU;
    *loaded = new CUmod_st;
    const std::string entry = ".entry ";
    for (size_t at = 0; (at = ptx.find(entry, at)) != std::string::npos;) {
        at += entry.size();
        CUfunc_st made = kernel(ptx, at);
        (*loaded)->kernels[made.name] = made;
    }
    // Our two modules have the same names; only in one of them do batch norms round to bfloat16.
    const size_t norm_at = ptx.find(entry + "batch_norm(");
    if (norm_at == std::string::npos) return CUDA_SUCCESS;
    const bool is_bf16 = ptx.find("cvt.rn.bf16x2", norm_at) < ptx.find("\n}", norm_at);
    const Launch launch = own_kernels(is_bf16);
    for (auto &[name, kernel] : (*loaded)->kernels) {
        if (!is_known(launch, name)) violation(name + " is not among the compiled kernels");
        kernel.launch = launch;
    }
    return CUDA_SUCCESS;
}

CUresult cuModuleUnload(CUmodule) {
    IN_CONTEXT();
    return CUDA_SUCCESS;
}

CUresult cuModuleGetFunction(CUfunction *function, CUmodule module, const char *name) {
    IN_CONTEXT();
    const auto found = module->kernels.find(name);
    if (found == module->kernels.end()) return CUDA_ERROR_NOT_FOUND;
    *function = &found->second;
    return CUDA_SUCCESS;
}

CUresult cuLaunchKernel(CUfunction function, unsigned grid_x, unsigned grid_y, unsigned grid_z,
                        unsigned block_x, unsigned block_y, unsigned block_z,
                        unsigned shared_bytes, CUstream stream, void **given, void **) {
    IN_CONTEXT();
    const unsigned grid[] = {grid_x, grid_y, grid_z}, block[] = {block_x, block_y, block_z};
    check_launch(*function, grid, block, shared_bytes);
    count("kernel " + function->name);
    Operation launch;
    launch.name = function->name;
    launch.computes = true;
    const auto arguments = arguments_of(*function, given, launch.device);
    launch.work = [=] {
        if (function->launch == nullptr) {
            if (!run_candle_kernel(function->name, *arguments))
                violation("candle's kernel " + function->name + " is not simulated");
            return;
        }
        std::vector<void *> places;
        for (size_t offset : arguments->offsets) places.push_back(&arguments->bytes[offset]);
        const unsigned blocks[] = {grid_x, grid_y}, threads[] = {block_x, block_y};
        function->launch(function->name.c_str(), blocks, threads, places.data());
    };
    enqueue(stream, launch);
    return CUDA_SUCCESS;
}

}  // extern "C"
