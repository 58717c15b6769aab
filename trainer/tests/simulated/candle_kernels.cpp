// The kernels of candle that training uses, written anew from what they are to compute. Their names
// end in the types of their elements; all but `copy2d` count elements and take dimensions, strides
// and addresses of tensors, where a null address of dimensions stands for contiguous ones.

#include <cmath>
#include <cstring>

#include "internal.h"

namespace simulated {

// The elements at an address, up to the end of its allocation.
template <class T>
struct Elements {
    T *begin;
    uint64_t count;

    Elements(const Arguments &arguments, size_t index)
        : begin(pointer<T>(arguments.number(index))),
          count(arguments.rooms[index] / sizeof(T)) {}

    T &operator[](uint64_t index) const {
        if (index >= count) violation("one of candle's kernels: beyond the end of an allocation");
        return begin[index];
    }
};

// Where the elements of a tensor lie. `which` of several tensors that share dimensions.
class Layout {
  public:
    Layout(const Arguments &arguments, size_t rank_at, size_t which = 0)
        : rank(arguments.number(rank_at)), given(arguments, rank_at + 1), which(which) {}

    uint64_t operator()(uint64_t index) const {
        if (given.begin == nullptr) return index;
        uint64_t place = 0;
        for (uint64_t dimension = rank; dimension-- > 0;) {
            place += index % given[dimension] * given[(1 + which) * rank + dimension];
            index /= given[dimension];
        }
        return place;
    }

  private:
    uint64_t rank;
    Elements<uint64_t> given;
    size_t which;
};

// Calls `work` with a zero of the type of this name.
template <class Work>
static bool with_type(const std::string &type, Work work) {
    if (type == "f32") work(float());
    else if (type == "bf16") work(bf16());
    else if (type == "f64") work(double());
    else if (type == "u8") work(uint8_t());
    else if (type == "u32") work(uint32_t());
    else if (type == "i64") work(int64_t());
    else return false;
    return true;
}

template <class To, class From>
static void cast(const Arguments &arguments) {
    const Layout layout(arguments, 1);
    const Elements<From> from(arguments, 3);
    const Elements<To> to(arguments, 4);
    for (uint64_t i = 0, count = arguments.number(0); i < count; ++i)
        to[i] = static_cast<To>(from[layout(i)]);
}

template <class T>
static void copy2d(const Arguments &arguments) {
    const Elements<T> from(arguments, 0), to(arguments, 1);
    const uint64_t rows = arguments.number(2), columns = arguments.number(3);
    const uint64_t from_stride = arguments.number(4), to_stride = arguments.number(5);
    for (uint64_t row = 0; row < rows; ++row) {
        for (uint64_t column = 0; column < columns; ++column)
            to[row * to_stride + column] = from[row * from_stride + column];
    }
}

template <class T>
static void const_set(const Arguments &arguments) {
    const Layout layout(arguments, 1);
    T value;
    memcpy(&value, &arguments.bytes[arguments.offsets[3]], sizeof value);
    const Elements<T> to(arguments, 4);
    for (uint64_t i = 0, count = arguments.number(0); i < count; ++i) to[layout(i)] = value;
}

template <class T>
static void affine(const Arguments &arguments) {
    const Layout layout(arguments, 1);
    const Elements<T> from(arguments, 3), to(arguments, 4);
    T factor, summand;
    memcpy(&factor, &arguments.bytes[arguments.offsets[5]], sizeof factor);
    memcpy(&summand, &arguments.bytes[arguments.offsets[6]], sizeof summand);
    for (uint64_t i = 0, count = arguments.number(0); i < count; ++i)
        to[i] = static_cast<T>(from[layout(i)] * factor + summand);
}

// Sums of `length` elements each. The results' count is given, or that of all elements.
template <class T>
static void fast_sum(const Arguments &arguments, bool counts_results) {
    const uint64_t length = arguments.number(1), given = arguments.number(0);
    const uint64_t results = counts_results || length == 0 ? given : given / length;
    const Layout layout(arguments, 2);
    const Elements<T> from(arguments, 4), to(arguments, 5);
    for (uint64_t result = 0; result < results; ++result) {
        double sum = 0;
        for (uint64_t i = 0; i < length; ++i) sum += from[layout(result * length + i)];
        to[result] = static_cast<T>(sum);
    }
}

template <class T, class Function>
static void unary(const Arguments &arguments, Function function) {
    const Layout layout(arguments, 1);
    const Elements<T> from(arguments, 3), to(arguments, 4);
    for (uint64_t i = 0, count = arguments.number(0); i < count; ++i)
        to[i] = function(from[layout(i)]);
}

template <class T, class Function>
static void binary(const Arguments &arguments, Function function) {
    const Layout left_layout(arguments, 1, 0), right_layout(arguments, 1, 1);
    const Elements<T> left(arguments, 3), right(arguments, 4), to(arguments, 5);
    for (uint64_t i = 0, count = arguments.number(0); i < count; ++i)
        to[i] = function(left[left_layout(i)], right[right_layout(i)]);
}

bool run_candle_kernel(const std::string &name, const Arguments &arguments) {
    const size_t split = name.rfind('_');
    if (split == std::string::npos) return false;
    const std::string kernel = name.substr(0, split);
    if (kernel.rfind("cast_", 0) == 0) {
        bool is_simulated = false;
        with_type(kernel.substr(strlen("cast_")), [&](auto from) {
            is_simulated = with_type(name.substr(split + 1), [&](auto to) {
                cast<decltype(to), decltype(from)>(arguments);
            });
        });
        return is_simulated;
    }
    bool is_simulated = true;
    const bool has_type = with_type(name.substr(split + 1), [&](auto zero) {
        using T = decltype(zero);
        if (kernel == "copy2d") copy2d<T>(arguments);
        else if (kernel == "const_set") const_set<T>(arguments);
        else if (kernel == "affine") affine<T>(arguments);
        else if (kernel == "fast_sum") fast_sum<T>(arguments, false);
        else if (kernel == "fast_sum_small") fast_sum<T>(arguments, true);
        else if (kernel == "ucopy") unary<T>(arguments, [](T x) { return x; });
        else if (kernel == "usqr") unary<T>(arguments, [](T x) { return x * x; });
        else if (kernel == "usqrt") unary<T>(arguments, [](T x) { return std::sqrt(x); });
        else if (kernel == "badd") binary<T>(arguments, [](T x, T y) { return x + y; });
        else if (kernel == "bsub") binary<T>(arguments, [](T x, T y) { return x - y; });
        else if (kernel == "bmul") binary<T>(arguments, [](T x, T y) { return x * y; });
        else if (kernel == "bdiv") binary<T>(arguments, [](T x, T y) { return x / y; });
        else if (kernel == "bmaximum")
            binary<T>(arguments, [](T x, T y) { return x < y ? y : x; });
        else is_simulated = false;
    });
    return has_type && is_simulated;
}

}  // namespace simulated
