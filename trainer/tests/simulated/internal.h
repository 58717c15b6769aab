// What only the parts of the simulated driver share.
#pragma once

#include "simulator.h"

namespace simulated {

// The device fails: all later calls do.
void lose();
// Why the calling thread cannot call `name`.
CUresult context_error(const char *name);
// Runs up to `most` operations of a stream chosen by `choice`.
void run_some(uint64_t choice, uint64_t most);
// The host has waited for all of this.
void host_waited_for(const Clock &clock);
// Most bytes of device memory that were in use at once.
uint64_t peak_bytes();
// No living allocation may have been written beyond its end.
void check_guards();

// Where a kernel's arguments lie, and how many bytes of memory those have that are addresses.
struct Arguments {
    std::vector<char> bytes;
    std::vector<size_t> offsets;
    std::vector<uint64_t> rooms;

    uint64_t number(size_t index) const;
};

// Runs one of candle's kernels by its name. False if it is not one of those.
bool run_candle_kernel(const std::string &name, const Arguments &arguments);

}  // namespace simulated
