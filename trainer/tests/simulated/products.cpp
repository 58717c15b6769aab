// Matrix products on the CPU, plain and in one order of additions.

#include <cstring>

#include "simulator.h"

namespace simulated {

bf16::bf16(float value) {
    uint32_t word;
    memcpy(&word, &value, sizeof word);
    const bool is_nan = (word & 0x7fffffffu) > 0x7f800000u;
    // To nearest, ties to even.
    bits = is_nan ? 0x7fff : static_cast<uint16_t>((word + 0x7fffu + (word >> 16 & 1u)) >> 16);
}

bf16::operator float() const {
    const uint32_t word = static_cast<uint32_t>(bits) << 16;
    float value;
    memcpy(&value, &word, sizeof value);
    return value;
}

// Elements of a result that are kept in registers: rows and columns.
constexpr size_t HIGH = 4, WIDE = 16;

#ifdef __x86_64__
#define FOR_EACH_CPU __attribute__((target_clones("arch=x86-64-v3", "default")))
#else
#define FOR_EACH_CPU
#endif

FOR_EACH_CPU
void multiply(size_t m, size_t n, size_t k, const float *a, const float *b, float *c) {
    for (size_t column = 0; column < n; column += WIDE) {
        const size_t columns = n - column < WIDE ? n - column : WIDE;
        for (size_t row = 0; row < m; row += HIGH) {
            const size_t rows = m - row < HIGH ? m - row : HIGH;
            float sums[HIGH][WIDE] = {};
            if (rows == HIGH && columns == WIDE) {
                for (size_t l = 0; l < k; ++l) {
                    for (size_t i = 0; i < HIGH; ++i) {
                        for (size_t j = 0; j < WIDE; ++j)
                            sums[i][j] += a[(row + i) * k + l] * b[l * n + column + j];
                    }
                }
            } else {
                for (size_t l = 0; l < k; ++l) {
                    for (size_t i = 0; i < rows; ++i) {
                        for (size_t j = 0; j < columns; ++j)
                            sums[i][j] += a[(row + i) * k + l] * b[l * n + column + j];
                    }
                }
            }
            for (size_t i = 0; i < rows; ++i)
                memcpy(&c[(row + i) * n + column], sums[i], columns * sizeof(float));
        }
    }
}

}  // namespace simulated
