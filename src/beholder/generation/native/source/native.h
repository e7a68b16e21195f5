// What the parts of the native decode step share: formats, packed matrices, activations, one table of kernels
// per level of processor. Rows of a matrix stand interleaved in blocks of LANES, so that one load feeds all
// rows of a block and the pointer into the weights only moves forward.
#pragma once

#include <stddef.h>
#include <stdint.h>

namespace beholder {

constexpr long LANES = 16;        // rows of a block, and elements that buffers are padded to
constexpr long ACTIVATIONS = 128;  // activations that share a scale where weights are int8

enum Format : int32_t { F32 = 0, BF16 = 1, INT8 = 2, INT4 = 3 };

inline long rounded_up(long value, long step) { return (value + step - 1) / step * step; }

// A packed matrix of `rows` x `columns`. Blocks of 16 rows r, columns k:
//   F32  [k][r] floats            BF16 [k/2][r][2]
//   INT8 [k/4][r][4] bytes, value + 128, one scale per row
//   INT4 [k/8][r][4] bytes, value + 8: columns k..k+3 in the low halves, k+4..k+7 in the high ones;
//        scales in bfloat16, [block][group][r]
struct Matrix {
    Format format;
    int32_t group;   // columns that share a scale in INT4
    long rows;       // outputs, padding not counted
    long columns;    // inputs
    long width;      // columns as stored
    long blocks;     // of 16 rows
    long groups;     // of `group` columns, in INT4
    size_t block_bytes;
    uint8_t *weights;
    float *row_scales;       // INT8: blocks * 16
    uint16_t *group_scales;  // INT4: blocks * groups * 16
    float *bias;             // blocks * 16, or null
};

// Rows of inputs in the form that a matrix of that format takes.
struct Activation {
    Format format;
    long columns;   // real ones
    long stride;    // elements from one row to the next, a multiple of 16
    long group;     // elements that share a scale
    long groups;    // of them in a row
    float *floats;      // F32
    uint16_t *bfloats;  // BF16
    int8_t *bytes;      // INT8, INT4
    float *scales;      // [row][groups]
    int32_t *sums;      // [row][groups], of the bytes
};

// One row's attention for the query heads of one key head.
struct Heads {
    long group;      // query heads
    long width;      // of a head
    long width_padded;
    const float *queries;  // [group][width_padded], scaled and turned
    const void *keys;      // [place][width] of this key head, float or bfloat16
    const void *values;
    const int64_t *ranges;  // pairs: first place, one past the last
    long range_count;
    long length;     // places in all ranges
    long length_padded;
    float *scores;   // [group][length_padded]
    float *mixed;    // [group][width_padded], the result
};

struct Kernels {
    const char *name;
    // `count` neighbouring blocks times `rows` rows of x: out[row * out_stride + lane], the next block behind.
    void (*multiply)(const Matrix &, long block, long count, const Activation &, long rows, float *out,
                     long out_stride);
    // `count` floats, padded with zeros to 16, into elements `first` on of row `index`; a group begins there.
    void (*convert)(const float *from, Activation &, long index, long first, long count);
    // y = x / rms(x) * weight over `columns`; x, weight and y are padded to 16 with zeros.
    void (*normalise)(const float *x, const float *weight, float epsilon, long columns, float *y);
    // y = silu(gate) * up; count is a multiple of 16.
    void (*gate)(const float *gates, const float *ups, long count, float *y);
    void (*attend_float)(const Heads &);
    void (*attend_bfloat)(const Heads &);
    // One row of floats, padded with zeros to `width`, into a matrix.
    void (*pack)(const Matrix &, long row, const float *source, float *scratch);
};

const Kernels *kernels_avx512();
const Kernels *kernels_avx2();
const Kernels *kernels_portable();

inline float bfloat_to_float(uint16_t value) {
    union {
        uint32_t bits;
        float number;
    } both;
    both.bits = static_cast<uint32_t>(value) << 16;
    return both.number;
}

inline uint16_t float_to_bfloat(float number) {
    union {
        float number;
        uint32_t bits;
    } both;
    both.number = number;
    if (number != number) return 0x7fc0;
    return static_cast<uint16_t>((both.bits + 0x7fffu + ((both.bits >> 16) & 1u)) >> 16);
}

}  // namespace beholder
