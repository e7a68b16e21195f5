// What the parts of the native decode step share: formats, packed matrices, activations, one table of kernels
// per level of processor. Rows of a matrix stand interleaved in blocks, so that one word of the inputs meets all
// rows of a block and the pointer into the weights only moves forward.
#pragma once

#include <stddef.h>
#include <stdint.h>

namespace beholder {

constexpr long LANES = 16;         // numbers of a vector, and what buffers of floats are padded to
constexpr int HALVES = 2;          // vectors that make a block
constexpr long BLOCK = LANES * HALVES;  // rows of a block
constexpr long STEP_BYTES = BLOCK * 4;  // of weights that meet one word of the inputs, two in INT4
constexpr long ACTIVATIONS = 128;   // activations that share a scale where weights are int8
constexpr long LARGEST_GROUP = 128;

enum Format : int32_t { F32 = 0, BF16 = 1, INT8 = 2, INT4 = 3 };

inline long rounded_up(long value, long step) { return (value + step - 1) / step * step; }

// A packed matrix of `rows` x `columns`. Blocks of 32 rows r, columns k:
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
    long steps;      // of STEP_BYTES in a block
    long blocks;     // of 32 rows
    long groups;     // of `group` columns, in INT4
    size_t block_bytes;
    uint8_t *weights;
    float *row_scales;       // INT8: blocks * 32
    uint16_t *group_scales;  // INT4: blocks * groups * 32
    float *bias;             // blocks * 32, or null
};

// Rows of inputs in the form that a matrix of that format takes. A word is a float, two bfloat16 or four bytes.
// Rows stand in tiles, as many at a time as are multiplied at once, of which the last few are smaller; in a tile
// of n rows words are [word][n], scales and starts [group][n].
struct Activation {
    Format format;
    long rows;      // that there are now
    long columns;   // padded to 16
    long words;     // of a row
    long group;     // columns that share a scale
    long groups;    // of them in a row
    uint32_t *numbers;
    float *scales;
    int32_t *starts;  // what takes the offset of the weights back
};

// One row's attention for the query heads of one key head.
struct Heads {
    long group;      // query heads
    long width;      // of a head
    long width_padded;
    const float *queries;  // [group][width_padded], scaled and turned
    const void *keys;      // [place][width] of this key head, float, bfloat16 or bytes
    const void *values;
    const float *key_scales;  // [place], of bytes
    const float *value_scales;
    const int64_t *ranges;  // pairs: first place, one past the last
    long range_count;
    long length;     // places in all ranges
    long length_padded;
    float *scores;   // [group][length_padded]
    float *mixed;    // [group][width_padded], the result
};

// One pass of a picture filter: each place of the result is a weighted sum of neighbouring pixels.
struct Filter {
    long places;             // of the result along the axis
    long taps;               // weights of a place, a multiple of 4
    const int32_t *firsts;   // [places] pixels that the weights begin at
    const int32_t *weights;  // [places][taps], 22 bits behind the point
    const int32_t *starts;   // [places][4] what the sums of a pixel's bytes begin with
};

struct Kernels {
    const char *name;
    // `count` neighbouring blocks times the rows of x: out[row * stride + row of the block], the next behind.
    void (*multiply)(const Matrix &, long block, long count, const Activation &, float *out, long stride);
    // `count` floats, padded with zeros to 16, into columns `first` on of row `index`; a group begins there.
    void (*convert)(const float *from, Activation &, long index, long first, long count);
    // y = x / rms(x) * weight over `columns`; x, weight and y are padded to 16 with zeros.
    void (*normalise)(const float *x, const float *weight, float epsilon, long columns, float *y);
    // y = silu(gate) * up; count is a multiple of 16.
    void (*gate)(const float *gates, const float *ups, long count, float *y);
    void (*attend_float)(const Heads &);
    void (*attend_bfloat)(const Heads &);
    void (*attend_bytes)(const Heads &);
    // `count` floats, padded with zeros to 16, as bytes and their scale: what generation/kept.py stores.
    void (*keep)(const float *x, long count, int8_t *to, float *scale);
    // One row of floats, padded with zeros to `width`, into a matrix.
    void (*pack)(const Matrix &, long row, const float *source, float *scratch);
    // One row of an INT8 or INT4 matrix as what it stands for, in float or bfloat16.
    void (*widen_float)(const Matrix &, long row, float *to);
    void (*widen_bfloat)(const Matrix &, long row, uint16_t *to);
    // The two passes over pixels of four bytes; see filter.h.
    void (*filter_across)(const Filter &, const uint8_t *pixels, long stride, long rows, uint8_t *out);
    void (*filter_down)(const Filter &, const uint8_t *pixels, long stride, long bytes, uint8_t *out);
};

const Kernels *kernels_avx512();
const Kernels *kernels_avx2();
const Kernels *kernels_neon();
const Kernels *kernels_neon_plain();
const Kernels *kernels_portable();
// The kernels of a level; null where this processor or build has no such level.
const Kernels *find_kernels(const char *level);

inline float word_as_float(uint32_t bits) {
    union {
        uint32_t bits;
        float number;
    } both;
    both.bits = bits;
    return both.number;
}

inline float bfloat_to_float(uint16_t value) { return word_as_float(static_cast<uint32_t>(value) << 16); }

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
