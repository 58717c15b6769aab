// Memory of the device, page-locked memory, and copies.

#include <sys/mman.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "internal.h"

using namespace simulated;

struct CUmemPoolHandle_st {};

namespace simulated {

// What all memory is filled with before it is written, and the bytes behind an allocation for ever:
// NaN in every type.
constexpr unsigned char UNWRITTEN = 0xFF;
constexpr uint64_t GUARD_BYTES = 512;
// Sizes are rounded up to this.
constexpr uint64_t GRANULARITY = 512;
// As much as the driver promises, and no more.
constexpr uint64_t ALIGNMENT = 256;
// What a pool takes from the device at once.
constexpr uint64_t POOL_BYTES = 32 << 20;
// Addresses, of which only those in use have memory behind them.
constexpr uint64_t ARENA_BYTES = 1ull << 38;

struct Block {
    uint64_t bytes, capacity;
    bool is_alive;
    // The stream it was allocated on and the operation of that, or null.
    CUstream stream;
    uint64_t allocation;
    // By stream, the newest operation that uses it.
    Clock uses;
};

struct Pinned {
    uint64_t bytes;
    Clock uses;
};

static Address arena = 0;
static uint64_t carved = ALIGNMENT;
static std::map<Address, Block> &blocks = *new std::map<Address, Block>;
static std::map<Address, Pinned> &pinned = *new std::map<Address, Pinned>;
// Freed blocks by stream and capacity.
static std::map<std::pair<CUstream, uint64_t>, std::vector<Address>> &freed =
    *new std::map<std::pair<CUstream, uint64_t>, std::vector<Address>>;
static uint64_t used = 0, peak = 0, reserved = 0, most_reserved = 0, most_used = 0;
static CUmemPoolHandle_st pool;

uint64_t peak_bytes() { return peak; }

bool is_device(Address address) {
    return arena != 0 && address >= arena && address < arena + ARENA_BYTES;
}

// The last of `all` that begins at or before `address`.
template <class All>
static typename All::iterator before(All &all, Address address) {
    const auto next = all.upper_bound(address);
    return next == all.begin() ? all.end() : std::prev(next);
}

static std::map<Address, Block>::iterator block_at(Address address) {
    const auto found = before(blocks, address);
    const bool inside = found != blocks.end() && address < found->first + found->second.bytes;
    return inside ? found : blocks.end();
}

uint64_t room_at(Address address) {
    const auto found = block_at(address);
    if (found == blocks.end() || !found->second.is_alive) return 0;
    return found->first + found->second.bytes - address;
}

void use_device(const Operation &operation, CUstream stream) {
    for (const Range &range : operation.device) {
        const auto found = block_at(range.begin);
        if (found == blocks.end()) violation(operation.name + ": an address of no allocation");
        Block &block = found->second;
        if (!block.is_alive) violation(operation.name + ": freed memory");
        if (range.begin + range.bytes > found->first + block.bytes)
            violation(operation.name + ": beyond the end of an allocation");
        const bool own = block.stream == nullptr || block.stream == stream;
        if (!own && !is_before(block.stream->number, block.allocation, stream->clock))
            violation(operation.name + ": memory that another stream has yet to allocate");
        block.uses[stream->number] = stream->enqueued;
    }
}

void use_host(const Operation &operation, CUstream stream) {
    for (const Range &range : operation.host)
        before(pinned, range.begin)->second.uses[stream->number] = stream->enqueued;
}

static bool is_pinned(const void *begin, uint64_t bytes) {
    const auto address = reinterpret_cast<Address>(begin);
    const auto found = before(pinned, address);
    return found != pinned.end() && address + bytes <= found->first + found->second.bytes;
}

// Whether the stream's newest operation comes after all uses of some memory.
static bool is_unused(const Clock &uses, const Clock &clock) {
    return std::all_of(uses.begin(), uses.end(), [&](const auto &use) {
        return is_before(use.first, use.second, clock);
    });
}

static void fill(Address begin, uint64_t bytes) {
    if (!options().dry) memset(pointer<void>(begin), UNWRITTEN, bytes);
}

static void check_unwritten(Address begin, uint64_t bytes, const char *what) {
    if (options().dry) return;
    const auto *memory = pointer<unsigned char>(begin);
    // All bytes are alike if each is like the next.
    if (memory[0] != UNWRITTEN || memcmp(memory, memory + 1, bytes - 1) != 0) violation(what);
}

static void check_guard(Address begin, const Block &block) {
    check_unwritten(begin + block.bytes, block.capacity + GUARD_BYTES - block.bytes,
                    "bytes beyond the end of an allocation are written");
}

void check_guards() {
    for (const auto &[begin, block] : blocks) check_guard(begin, block);
}

static CUresult allocate(Address *address, uint64_t bytes, CUstream stream) {
    if (bytes == 0) return CUDA_ERROR_INVALID_VALUE;
    const uint64_t capacity = (bytes + GRANULARITY - 1) / GRANULARITY * GRANULARITY;
    if (allocation_fails() || used + capacity > options().memory) return CUDA_ERROR_OUT_OF_MEMORY;
    if (arena == 0) {
        void *mapped = mmap(nullptr, ARENA_BYTES, PROT_READ | PROT_WRITE,
                            MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (mapped == MAP_FAILED) violation("no addresses for the memory of the device");
        arena = reinterpret_cast<Address>(mapped);
    }
    auto &reusable = freed[{stream, capacity}];
    if (!reusable.empty()) {
        *address = reusable.back();
        reusable.pop_back();
    } else {
        *address = arena + carved;
        carved += capacity + GUARD_BYTES;
        if (carved > ARENA_BYTES) violation("all addresses of the device are used up");
        fill(*address, capacity + GUARD_BYTES);
    }
    used += capacity;
    peak = std::max(peak, used);
    most_used = std::max(most_used, used);
    reserved = std::max(reserved, (used + POOL_BYTES - 1) / POOL_BYTES * POOL_BYTES);
    most_reserved = std::max(most_reserved, reserved);
    const uint64_t number = stream == nullptr ? 0 : stream->enqueued + 1;
    blocks[*address] = Block{bytes, capacity, true, stream, number, {}};
    return CUDA_SUCCESS;
}

// The living block that begins at an address, which stops living.
static Block take(Address address) {
    const auto found = blocks.find(address);
    if (found == blocks.end() || !found->second.is_alive)
        violation("memory is freed that is not allocated");
    found->second.is_alive = false;
    used -= found->second.capacity;
    return found->second;
}

static Operation operation(const char *name, std::function<void()> work) {
    Operation made;
    made.name = name;
    made.work = std::move(work);
    return made;
}

}  // namespace simulated

extern "C" {

CUresult cuMemAllocAsync(CUdeviceptr *address, size_t bytes, CUstream stream) {
    IN_CONTEXT();
    if (options().no_pools) return CUDA_ERROR_NOT_SUPPORTED;
    if (CUresult failed = allocate(address, bytes, stream)) return failed;
    const Address begin = *address;
    const uint64_t capacity = blocks[begin].capacity;
    enqueue(stream, operation("cuMemAllocAsync", [=] {
        check_unwritten(begin, capacity, "freed memory is written");
    }));
    return CUDA_SUCCESS;
}

CUresult cuMemFreeAsync(CUdeviceptr address, CUstream stream) {
    IN_CONTEXT();
    const Block block = take(address);
    enqueue(stream, operation("cuMemFreeAsync", [=] {
        check_guard(address, block);
        fill(address, block.bytes);
    }));
    if (!is_unused(block.uses, stream->clock))
        violation("memory is freed on a stream that does not wait for its use on another one");
    freed[{stream, block.capacity}].push_back(address);
    return CUDA_SUCCESS;
}

CUresult cuMemAlloc(CUdeviceptr *address, size_t bytes) {
    IN_CONTEXT();
    return allocate(address, bytes, nullptr);
}

CUresult cuMemFree(CUdeviceptr address) {
    IN_CONTEXT();
    const Block block = take(address);
    if (!is_unused(block.uses, {})) violation("memory is freed that is still in use");
    check_guard(address, block);
    fill(address, block.bytes);
    freed[{nullptr, block.capacity}].push_back(address);
    return CUDA_SUCCESS;
}

CUresult cuMemGetInfo(size_t *available, size_t *total) {
    IN_CONTEXT();
    *total = options().memory;
    *available = options().memory - std::min(options().memory, reserved);
    return CUDA_SUCCESS;
}

CUresult cuDeviceTotalMem(size_t *bytes, CUdevice) {
    Call call(__func__);
    *bytes = options().memory;
    return CUDA_SUCCESS;
}

CUresult cuDeviceGetDefaultMemPool(CUmemoryPool *found, CUdevice) {
    Call call(__func__);
    if (options().no_pools) return CUDA_ERROR_NOT_SUPPORTED;
    *found = &pool;
    return CUDA_SUCCESS;
}

CUresult cuDeviceGetMemPool(CUmemoryPool *found, CUdevice device) {
    return cuDeviceGetDefaultMemPool(found, device);
}

CUresult cuMemPoolSetAttribute(CUmemoryPool of, CUmemPool_attribute attribute, void *value) {
    IN_CONTEXT();
    if (of != &pool) violation("an unknown memory pool");
    switch (attribute) {
        case CU_MEMPOOL_ATTR_REUSE_FOLLOW_EVENT_DEPENDENCIES:
        case CU_MEMPOOL_ATTR_REUSE_ALLOW_OPPORTUNISTIC:
        case CU_MEMPOOL_ATTR_REUSE_ALLOW_INTERNAL_DEPENDENCIES:
        case CU_MEMPOOL_ATTR_RELEASE_THRESHOLD:
            return CUDA_SUCCESS;
        // Marks can only be reset.
        case CU_MEMPOOL_ATTR_RESERVED_MEM_HIGH:
            if (*static_cast<uint64_t *>(value) != 0) return CUDA_ERROR_INVALID_VALUE;
            most_reserved = reserved;
            return CUDA_SUCCESS;
        case CU_MEMPOOL_ATTR_USED_MEM_HIGH:
            if (*static_cast<uint64_t *>(value) != 0) return CUDA_ERROR_INVALID_VALUE;
            most_used = used;
            return CUDA_SUCCESS;
        default:
            return CUDA_ERROR_INVALID_VALUE;
    }
}

CUresult cuMemPoolGetAttribute(CUmemoryPool of, CUmemPool_attribute attribute, void *value) {
    IN_CONTEXT();
    if (of != &pool) violation("an unknown memory pool");
    uint64_t &bytes = *static_cast<uint64_t *>(value);
    switch (attribute) {
        case CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT: bytes = reserved; break;
        case CU_MEMPOOL_ATTR_RESERVED_MEM_HIGH: bytes = most_reserved; break;
        case CU_MEMPOOL_ATTR_USED_MEM_CURRENT: bytes = used; break;
        case CU_MEMPOOL_ATTR_USED_MEM_HIGH: bytes = most_used; break;
        default: return CUDA_ERROR_INVALID_VALUE;
    }
    return CUDA_SUCCESS;
}

CUresult cuMemPoolTrimTo(CUmemoryPool of, size_t bytes) {
    IN_CONTEXT();
    if (of != &pool) violation("an unknown memory pool");
    reserved = std::min<uint64_t>(reserved, std::max<uint64_t>(used, bytes));
    return CUDA_SUCCESS;
}

CUresult cuMemHostAlloc(void **begin, size_t bytes, unsigned) {
    IN_CONTEXT();
    if (bytes == 0) return CUDA_ERROR_INVALID_VALUE;
    if (allocation_fails()) return CUDA_ERROR_OUT_OF_MEMORY;
    *begin = malloc(bytes);
    memset(*begin, UNWRITTEN, bytes);
    pinned[reinterpret_cast<Address>(*begin)] = Pinned{bytes, {}};
    return CUDA_SUCCESS;
}

CUresult cuMemFreeHost(void *begin) {
    IN_CONTEXT();
    const auto found = pinned.find(reinterpret_cast<Address>(begin));
    if (found == pinned.end()) violation("page-locked memory is freed that is not allocated");
    if (!is_unused(found->second.uses, {}))
        violation("page-locked memory is freed while a copy may be under way");
    pinned.erase(found);
    free(begin);
    return CUDA_SUCCESS;
}

CUresult cuMemcpyHtoDAsync(CUdeviceptr to, const void *from, size_t bytes, CUstream stream) {
    IN_CONTEXT();
    Operation copy;
    copy.name = "copy from the host";
    copy.device = {{to, bytes}};
    if (is_pinned(from, bytes)) {
        count("copies from page-locked memory");
        copy.host = {{reinterpret_cast<Address>(from), bytes}};
        copy.work = [=] { memcpy(pointer<void>(to), from, bytes); };
    } else {
        // What is not page-locked is copied before the call returns.
        count("copies from pageable memory");
        const auto *begin = static_cast<const char *>(from);
        const auto kept = std::make_shared<std::vector<char>>(begin, begin + bytes);
        copy.work = [=] { memcpy(pointer<void>(to), kept->data(), bytes); };
    }
    if (options().dry) copy.work = nullptr;
    enqueue(stream, copy);
    return CUDA_SUCCESS;
}

CUresult cuMemcpyDtoHAsync(void *to, CUdeviceptr from, size_t bytes, CUstream stream) {
    IN_CONTEXT();
    Operation copy;
    copy.name = "copy to the host";
    copy.device = {{from, bytes}};
    copy.work = [=] {
        // What was not computed counts as zeros.
        if (options().dry) memset(to, 0, bytes);
        else memcpy(to, pointer<void>(from), bytes);
    };
    const bool from_pinned = is_pinned(to, bytes);
    if (from_pinned) copy.host = {{reinterpret_cast<Address>(to), bytes}};
    count(from_pinned ? "copies to page-locked memory" : "copies to pageable memory");
    enqueue(stream, copy);
    if (!from_pinned && !options().late_copies) finish(stream);
    return is_lost() ? CUDA_ERROR_ILLEGAL_ADDRESS : CUDA_SUCCESS;
}

CUresult cuMemcpyDtoDAsync(CUdeviceptr to, CUdeviceptr from, size_t bytes, CUstream stream) {
    IN_CONTEXT();
    Operation copy;
    copy.name = "copy on the device";
    copy.device = {{to, bytes}, {from, bytes}};
    copy.computes = true;
    copy.work = [=] { memmove(pointer<void>(to), pointer<void>(from), bytes); };
    enqueue(stream, copy);
    return CUDA_SUCCESS;
}

CUresult cuMemsetD8Async(CUdeviceptr to, unsigned char value, size_t bytes, CUstream stream) {
    IN_CONTEXT();
    Operation set;
    set.name = "cuMemsetD8Async";
    set.device = {{to, bytes}};
    set.computes = true;
    set.work = [=] { memset(pointer<void>(to), value, bytes); };
    enqueue(stream, set);
    return CUDA_SUCCESS;
}

}  // extern "C"
