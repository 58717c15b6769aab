// A GPU simulated in host memory, so that programs built with `--features cuda` run on a CPU.
//
// Libraries with the names of NVIDIA's stand for the driver, cuBLAS, cuRAND, cuDNN and NCCL. This
// header is what they share: memory, streams, and the rules of both. A stream keeps its operations
// and runs them late: when the host waits for them or, with a seed, at times drawn from it. So an
// order that nothing guarantees shows as NaN, which fills all memory that nobody has written, or as
// another result. What breaks a rule ends the process, with an exit code of its own.
//
// scripts/simulate_gpu.sh builds the libraries and says which variables of the environment steer
// them.
#pragma once

#include <cuda.h>

#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

namespace simulated {

using Address = CUdeviceptr;

// Exit code after a broken rule, which no program of ours has.
constexpr int VIOLATION = 86;

// What the environment asks for.
struct Options {
    bool has_seed = false;        // SCRL_SIM_SEED: order the streams at random
    uint64_t seed = 0;            //
    uint64_t memory = 80ull << 30;  // SCRL_SIM_MEMORY: bytes of the GPU
    uint64_t failing_allocation;  // SCRL_SIM_FAIL_ALLOCATION: the one that fails, from 1; 0: none
    uint64_t failing_operation;   // SCRL_SIM_FAIL_OPERATION: the one that accesses illegal memory
    bool no_pools;                // SCRL_SIM_NO_POOLS: the device knows no memory pools
    bool late_copies;             // SCRL_SIM_LATE_COPIES: copies into pageable memory return early
    bool no_engines;              // SCRL_SIM_NO_ENGINES: cuDNN refuses every plan
    bool only_nchw;               // SCRL_SIM_ONLY_NCHW: cuDNN knows float32 in this order only
    bool dry;                     // SCRL_SIM_DRY: check and count, but compute nothing
    std::string report;           // SCRL_SIM_REPORT: file for counts, as JSON
};
const Options &options();

// Reports a broken rule and ends the process.
[[noreturn]] void violation(const std::string &what);

// Adds one to a count of the report.
void count(const std::string &what);

// One call of a library. It holds the lock of all, and lets the streams make progress.
class Call {
  public:
    explicit Call(const char *name);

    // Why nothing can be done in the thread's context: it has none, or an operation has failed
    // before. Such an error stays until the process ends.
    CUresult error() const;

  private:
    std::unique_lock<std::mutex> lock;
    const char *name;
};

// Whether an operation has failed, and with it the device.
bool is_lost();

// Whether this allocation is the one that shall fail.
bool allocation_fails();

// Of each stream, by its number, how many of its operations come before a moment.
using Clock = std::map<int, uint64_t>;

// Bytes of device memory or of page-locked memory.
struct Range {
    uint64_t begin;
    uint64_t bytes;
};

// What an event has recorded and how much of it has been passed. Operations may outlive the event.
struct Recording {
    uint64_t recorded = 0, passed = 0;
    Clock clock;
};

struct Operation {
    std::string name;
    // Memory of the device, and page-locked memory, that it reads or writes.
    std::vector<Range> device, host;
    std::function<void()> work;
    // Computes on the device, rather than copying or keeping books.
    bool computes = false;
    // Passes or waits for a version of an event.
    std::shared_ptr<Recording> passes, waits_for;
    uint64_t version = 0;
    // Where it takes part in work of several processes: whether all have come to it.
    std::function<bool()> is_possible;
};

// Appends an operation to a stream, after a look at the memory that it uses.
void enqueue(CUstream stream, Operation operation);

// Runs a stream to its end, and what it waits for.
void finish(CUstream stream);

// Runs one operation that can be run, of any stream. False if there is none.
bool make_progress();

// From now on, runs what can be run whenever the process makes no call for a while. Other processes
// may wait for it without this one's host waiting for anything.
void progress_while_idle();

// Whether an operation of a stream surely comes before what is enqueued after `clock`.
bool is_before(int stream, uint64_t operation, const Clock &clock);

// Notes a use of device memory, and of page-locked memory, by the newest operation of a stream.
void use_device(const Operation &operation, CUstream stream);
void use_host(const Operation &operation, CUstream stream);

// The allocation's bytes from `address` on; 0 if it is not the address of a living allocation.
uint64_t room_at(Address address);
// Whether this is an address of the device, of living memory or not.
bool is_device(Address address);

// Bytes of device memory as numbers of the host.
template <class T>
T *pointer(Address address) {
    return reinterpret_cast<T *>(address);
}

// A bfloat16, computed with as float32.
struct bf16 {
    uint16_t bits;

    bf16() = default;
    bf16(float value);
    operator float() const;
};

// c ← a·b of row-major matrices of m × k and k × n. Always in the same order.
void multiply(size_t m, size_t n, size_t k, const float *a, const float *b, float *c);

}  // namespace simulated

struct CUctx_st {
    int retained = 0;
};

struct CUstream_st {
    int number;
    bool is_destroyed = false;
    uint64_t enqueued = 0;
    // What comes before the next operation.
    simulated::Clock clock;
    std::deque<simulated::Operation> pending;
};

struct CUevent_st {
    bool is_destroyed = false;
    std::shared_ptr<simulated::Recording> recording = std::make_shared<simulated::Recording>();
};

// Begins a call of the driver that needs a context.
#define IN_CONTEXT()             \
    simulated::Call call(__func__); \
    if (CUresult error = call.error()) return error
