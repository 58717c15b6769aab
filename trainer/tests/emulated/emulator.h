// Compiles the kernels of src/ops/kernels as plain C++ and runs them on the CPU, so that their
// arithmetic and indexing are tested without a GPU. Blocks run one after the other. Threads of a
// kernel with barriers are contexts on stacks of their own, resumed in turn from barrier to
// barrier; threads of other kernels are iterations of a loop. A barrier that some threads of a
// block never reach ends the program.

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ucontext.h>
#include <utility>

#define __device__
#define __shared__ static

struct uint2 {
    unsigned x, y;
};
struct alignas(16) uint4 {
    unsigned x, y, z, w;
};
struct alignas(16) float4 {
    float x, y, z, w;
};
struct Index {
    unsigned x, y, z;
};

static Index threadIdx, blockIdx, blockDim, gridDim;

using std::isfinite;
static inline int min(int a, int b) { return a < b ? a : b; }
static inline int max(int a, int b) { return a > b ? a : b; }

static inline float __uint_as_float(unsigned bits) {
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static inline unsigned __float_as_uint(float value) {
    unsigned bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

static inline float rsqrtf(float value) { return 1.0f / sqrtf(value); }

// The state of a generator of noise; 0 is none. Tests measure with it how far results of correct
// arithmetic scatter: another order of additions changes a float by as much as this noise does.
static unsigned noise = 0;
extern "C" void set_noise(unsigned seed) { noise = seed; }

// The bits of a float rounded to bfloat16, to nearest, ties to even.
static inline unsigned emulated_bf16(float value) {
    if (noise != 0) {
        noise ^= noise << 13;
        noise ^= noise >> 17;
        noise ^= noise << 5;
        value *= 1.0f + 2.4e-7f * (float)((int)noise * 0x1p-31);
    }
    const unsigned bits = __float_as_uint(value);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return 0x7fff;
    return (bits + 0x7fffu + (bits >> 16 & 1u)) >> 16;
}

// One block's threads.
namespace fibers {
constexpr unsigned MOST = 1024;
constexpr size_t STACK_BYTES = 1 << 16;

// Where a context goes on. The compiler's own jumps take a fraction of the time of the library's,
// which also look for handlers to call on the way.
typedef void *Place[5];

// For functions between whose begin and end other contexts run: a caller must count on no register.
#ifdef __clang__
#define SWITCHING __attribute__((noinline))
#else
#define SWITCHING __attribute__((noipa))
#endif

static ucontext_t entries[MOST], host;
static Place resume_at[MOST], scheduler;
static bool made[MOST], finished[MOST];
static unsigned current;
static void (*work)(void **);
static void **work_arguments;

// Such a jump may not lead to the function that it is in.
SWITCHING static void jump(Place &place) { __builtin_longjmp(place, 1); }

// A fiber runs one thread of a block after the other, for ever.
SWITCHING static void run() {
    for (;;) {
        work(work_arguments);
        finished[current] = true;
        if (__builtin_setjmp(resume_at[current]) == 0) jump(scheduler);
    }
}

SWITCHING static void resume(unsigned fiber) {
    current = fiber;
    if (__builtin_setjmp(scheduler) != 0) return;
    if (made[fiber]) jump(resume_at[fiber]);
    made[fiber] = true;
    getcontext(&entries[fiber]);
    entries[fiber].uc_stack.ss_sp = malloc(STACK_BYTES);
    entries[fiber].uc_stack.ss_size = STACK_BYTES;
    entries[fiber].uc_link = &host;
    makecontext(&entries[fiber], run, 0);
    setcontext(&entries[fiber]);
}

static void set_thread(unsigned index) {
    threadIdx.x = index % blockDim.x;
    threadIdx.y = index / blockDim.x;
}

static void block(unsigned threads) {
    if (threads > MOST) abort();
    for (unsigned i = 0; i < threads; ++i) finished[i] = false;
    for (;;) {
        unsigned done = 0;
        for (unsigned i = 0; i < threads; ++i) {
            set_thread(i);
            resume(i);
            done += finished[i];
        }
        if (done == threads) return;
        if (done != 0) {
            fprintf(stderr, "a barrier that %u of %u threads never reach\n", done, threads);
            abort();
        }
    }
}

SWITCHING static void wait() {
    const Index mine = threadIdx;
    const unsigned fiber = current;
    if (__builtin_setjmp(resume_at[fiber]) == 0) jump(scheduler);
    threadIdx = mine;
}
}  // namespace fibers

static inline void __syncthreads() { fibers::wait(); }

// The kernels by name.
struct Entry {
    const char *name;
    void (*call)(void **);
    bool cooperative;
    Entry *next;
};
static Entry *entries = nullptr;

struct Registered : Entry {
    Registered(const char *kernel, void (*function)(void **), bool has_barriers) {
        name = kernel;
        call = function;
        cooperative = has_barriers;
        next = entries;
        entries = this;
    }
};

template <class... Arguments, size_t... I>
void call_with(void (*kernel)(Arguments...), void **arguments, std::index_sequence<I...>) {
    kernel(*static_cast<Arguments *>(arguments[I])...);
}

template <class... Arguments>
void call_kernel(void (*kernel)(Arguments...), void **arguments) {
    call_with(kernel, arguments, std::index_sequence_for<Arguments...>());
}

#define EMULATED_KERNEL(has_barriers, name, ...)                                          \
    static void name(__VA_ARGS__);                                                        \
    static void call_##name(void **arguments) { call_kernel(name, arguments); }           \
    static Registered registered_##name(#name, call_##name, has_barriers);                \
    static void name(__VA_ARGS__)

#define KERNEL(name, ...) EMULATED_KERNEL(false, name, __VA_ARGS__)
#define COOPERATIVE(name, ...) EMULATED_KERNEL(true, name, __VA_ARGS__)
#define GATHERING(name, ...) EMULATED_KERNEL(true, name, __VA_ARGS__)

// Runs a kernel; 0 if there is none of this name. `arguments` points to each argument, as for
// cuLaunchKernel.
extern "C" int launch(const char *name, const unsigned *grid, const unsigned *block,
                      void **arguments) {
    const Entry *entry = entries;
    while (entry != nullptr && strcmp(entry->name, name) != 0) entry = entry->next;
    if (entry == nullptr) return 0;
    gridDim = {grid[0], grid[1], 1};
    blockDim = {block[0], block[1], 1};
    fibers::work = entry->call;
    fibers::work_arguments = arguments;
    const unsigned threads = block[0] * block[1];
    for (unsigned y = 0; y < grid[1]; ++y) {
        for (unsigned x = 0; x < grid[0]; ++x) {
            blockIdx = {x, y, 0};
            if (entry->cooperative) {
                fibers::block(threads);
                continue;
            }
            for (unsigned i = 0; i < threads; ++i) {
                fibers::set_thread(i);
                entry->call(arguments);
            }
        }
    }
    return 1;
}
