// Rows of narrow matrices as the floats that they stand for. Included once per level of processor. Each number
// is one product of a whole number and a scale, so every level finds the bits of core/narrow.py's `dequantize`,
// and in bfloat16 those of its rounding.
#pragma once

namespace {

constexpr long EIGHT = 8;  // columns that are made wide at once
typedef float EightFloats __attribute__((vector_size(32)));
typedef int32_t EightInts __attribute__((vector_size(32)));
typedef uint32_t EightWords __attribute__((vector_size(32)));
typedef uint16_t EightHalves __attribute__((vector_size(16)));
typedef uint8_t EightBytes __attribute__((vector_size(8)));

inline void put_eight(float *to, EightFloats x) { __builtin_memcpy(to, &x, sizeof x); }
inline void put_eight(uint16_t *to, EightFloats x) {
    const EightWords bits = (EightWords)x;
    const EightWords up = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
    const EightWords none = EightWords{} + 0x7fc0u;
    const EightHalves halves = __builtin_convertvector(x == x ? up : none, EightHalves);
    __builtin_memcpy(to, &halves, sizeof halves);
}

// Eight columns of a row of bytes, whose word is at `from`, the next a step behind.
inline EightFloats eight_of_bytes(const uint8_t *from) {
    EightBytes bytes;
    __builtin_memcpy(&bytes, from, 4);
    __builtin_memcpy(reinterpret_cast<uint8_t *>(&bytes) + 4, from + STEP_BYTES, 4);
    return __builtin_convertvector(__builtin_convertvector(bytes, EightInts) - 128, EightFloats);
}

// The same of half bytes, of which one word holds eight.
inline EightFloats eight_of_half_bytes(const uint8_t *from) {
    uint32_t word;
    __builtin_memcpy(&word, from, 4);
    const EightWords places = {0, 8, 16, 24, 4, 12, 20, 28};
    const EightInts wholes = (EightInts)(((EightWords{} + word) >> places) & 15u) - 8;
    return __builtin_convertvector(wholes, EightFloats);
}

// The last columns of a row, of which there are fewer than eight.
template <typename Number>
inline void put_some(Number *to, EightFloats x, long count) {
    Number all[EIGHT];
    put_eight(all, x);
    __builtin_memcpy(to, all, sizeof(Number) * count);
}

template <typename Number>
void widen_bytes(const Matrix &m, const uint8_t *from, long row, Number *to) {
    const float scale = m.row_scales[row];
    long k = 0;
    for (; k + EIGHT <= m.columns; k += EIGHT, from += 2 * STEP_BYTES)
        put_eight(to + k, eight_of_bytes(from) * scale);
    if (k == m.columns) return;
    uint8_t last[STEP_BYTES + 4] = {};  // of which the second word need not be there
    __builtin_memcpy(last, from, 4);
    if (m.columns - k > 4) __builtin_memcpy(last + STEP_BYTES, from + STEP_BYTES, 4);
    put_some(to + k, eight_of_bytes(last) * scale, m.columns - k);
}

template <typename Number>
void widen_half_bytes(const Matrix &m, const uint8_t *from, long row, Number *to) {
    const uint16_t *scales = m.group_scales + row / BLOCK * m.groups * BLOCK + row % BLOCK;
    for (long first = 0; first < m.columns; first += m.group, scales += BLOCK) {
        const float scale = bfloat_to_float(*scales);
        const long end = m.columns - first < m.group ? m.columns : first + m.group;
        long k = first;
        for (; k + EIGHT <= end; k += EIGHT, from += STEP_BYTES)
            put_eight(to + k, eight_of_half_bytes(from) * scale);
        if (k < end) put_some(to + k, eight_of_half_bytes(from) * scale, end - k);
    }
}

// One row of an INT8 or INT4 matrix, as many numbers as it has columns.
template <typename Number>
void widen_row(const Matrix &m, long row, Number *to) {
    const uint8_t *from = m.weights + row / BLOCK * m.block_bytes + row % BLOCK * 4;
    if (m.format == INT8)
        widen_bytes(m, from, row, to);
    else
        widen_half_bytes(m, from, row, to);
}

}  // namespace
