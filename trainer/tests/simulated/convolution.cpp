// Convolutions on the CPU: patches of the input as rows of a matrix, then a product.

#include "convolution.h"

#include <algorithm>

namespace simulated {

uint64_t Tensor::bytes() const {
    return count() * (type == CUDNN_DATA_BFLOAT16 ? sizeof(bf16) : sizeof(float));
}

bool Tensor::is_packed(bool channels_last) const {
    const std::array<int, 4> inner_first =
        channels_last ? std::array{1, 3, 2, 0} : std::array{3, 2, 1, 0};
    int64_t stride = 1;
    for (int dimension : inner_first) {
        if (strides[dimension] != stride) return false;
        stride *= sizes[dimension];
    }
    return true;
}

std::string Convolution::wrong() const {
    if (x.sizes[0] != y.sizes[0] || x.sizes[1] != w.sizes[1] || y.sizes[1] != w.sizes[0])
        return "batch or channels differ";
    for (int side = 0; side < 2; ++side) {
        const int64_t covered = dilations[side] * (w.sizes[2 + side] - 1) + 1;
        const int64_t room = x.sizes[2 + side] + 2 * paddings[side] - covered;
        if (room < 0 || room / strides[side] + 1 != y.sizes[2 + side])
            return "the result's height or width";
    }
    for (bool channels_last : {true, false}) {
        if (x.is_packed(channels_last) && w.is_packed(channels_last) && y.is_packed(channels_last))
            return "";
    }
    return "the strides are not those of one order";
}

using Values = std::vector<float>;

// Calls `work` with the place in memory of each element in turn, channels innermost.
template <class Work>
static void for_each_place(const Tensor &tensor, Work work) {
    const auto &[batch, channels, height, width] = tensor.sizes;
    for (int64_t n = 0; n < batch; ++n) {
        for (int64_t row = 0; row < height; ++row) {
            for (int64_t column = 0; column < width; ++column) {
                for (int64_t channel = 0; channel < channels; ++channel)
                    work(n * tensor.strides[0] + channel * tensor.strides[1] +
                         row * tensor.strides[2] + column * tensor.strides[3]);
            }
        }
    }
}

static Values load(const Tensor &tensor, Address at) {
    Values values;
    values.reserve(tensor.count());
    const bool is_bf16 = tensor.type == CUDNN_DATA_BFLOAT16;
    for_each_place(tensor, [&](int64_t place) {
        values.push_back(is_bf16 ? static_cast<float>(pointer<bf16>(at)[place])
                                 : pointer<float>(at)[place]);
    });
    return values;
}

static void store(const Tensor &tensor, Address at, const Values &values) {
    const bool is_bf16 = tensor.type == CUDNN_DATA_BFLOAT16;
    size_t next = 0;
    for_each_place(tensor, [&](int64_t place) {
        const float value = values[next++];
        if (is_bf16) pointer<bf16>(at)[place] = bf16(value);
        else pointer<float>(at)[place] = value;
    });
}

static Values transposed(const Values &matrix, size_t rows, size_t columns) {
    // So many rows stay in the cache.
    constexpr size_t BLOCK = 16;
    Values result(matrix.size());
    for (size_t top = 0; top < rows; top += BLOCK) {
        for (size_t column = 0; column < columns; ++column) {
            for (size_t row = top; row < std::min(rows, top + BLOCK); ++row)
                result[column * rows + row] = matrix[row * columns + column];
        }
    }
    return result;
}

// Calls `work` for each pixel of a filter over each pixel of the result, with the places of its
// first channel in the patches and in the input, unless it lies in the padding.
template <class Work>
static void for_each_pixel(const Convolution &c, Work work) {
    const auto &[batch, channels, height, width] = c.x.sizes;
    int64_t patch = 0;
    for (int64_t n = 0; n < batch; ++n) {
        for (int64_t i = 0; i < c.y.sizes[2] * c.y.sizes[3]; ++i) {
            const int64_t top = i / c.y.sizes[3] * c.strides[0] - c.paddings[0];
            const int64_t left = i % c.y.sizes[3] * c.strides[1] - c.paddings[1];
            for (int64_t k = 0; k < c.w.sizes[2] * c.w.sizes[3]; ++k, patch += channels) {
                const int64_t row = top + k / c.w.sizes[3] * c.dilations[0];
                const int64_t column = left + k % c.w.sizes[3] * c.dilations[1];
                if (row < 0 || row >= height || column < 0 || column >= width) continue;
                work(patch, ((n * height + row) * width + column) * channels);
            }
        }
    }
}

void Convolution::compute(Address x_at, Address w_at, Address y_at) const {
    const size_t channels = x.sizes[1], results = w.sizes[0];
    const size_t pixels = y.count() / results, patch = w.count() / results;
    Values patches(pixels * patch, 0.0f);
    if (pass == Pass::DATA) {
        multiply(pixels, patch, results, load(y, y_at).data(), load(w, w_at).data(),
                 patches.data());
        Values sums(x.count(), 0.0f);
        for_each_pixel(*this, [&](int64_t from, int64_t to) {
            for (size_t i = 0; i < channels; ++i) sums[to + i] += patches[from + i];
        });
        store(x, x_at, sums);
        return;
    }
    const Values input = load(x, x_at);
    for_each_pixel(*this, [&](int64_t to, int64_t from) {
        for (size_t i = 0; i < channels; ++i) patches[to + i] = input[from + i];
    });
    if (pass == Pass::FORWARD) {
        Values result(y.count());
        const Values filter = transposed(load(w, w_at), results, patch);
        multiply(pixels, results, patch, patches.data(), filter.data(), result.data());
        store(y, y_at, result);
    } else {
        Values result(w.count());
        const Values gradient = transposed(load(y, y_at), pixels, results);
        multiply(results, patch, pixels, gradient.data(), patches.data(), result.data());
        store(w, w_at, result);
    }
}

}  // namespace simulated
