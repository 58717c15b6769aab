// Convolutions as cuDNN's descriptors describe them.
#pragma once

#include <cudnn.h>

#include <array>

#include "simulator.h"

namespace simulated {

enum class Pass { FORWARD, DATA, FILTER };

// A tensor of [N, C, H, W], or a filter of [O, I, kh, kw], whatever its order in memory.
struct Tensor {
    cudnnDataType_t type;
    std::array<int64_t, 4> sizes, strides;
    int64_t id, alignment;

    int64_t count() const { return sizes[0] * sizes[1] * sizes[2] * sizes[3]; }
    uint64_t bytes() const;
    // Whether its elements lie side by side with the channels innermost, or else the columns.
    bool is_packed(bool channels_last) const;
};

struct Convolution {
    Pass pass;
    Tensor x, w, y;
    std::array<int64_t, 2> strides, paddings, dilations;

    // What is wrong with its sizes, or nothing.
    std::string wrong() const;
    // Computes the pass from and to memory of the device.
    void compute(Address x_at, Address w_at, Address y_at) const;
};

}  // namespace simulated
