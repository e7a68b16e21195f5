// Packed matrices times a few rows. Included once per level of processor, behind its lanes.
// B rows of the batch stand in registers against one block; U chains of sums hide the latency of few rows.
#pragma once

namespace {

constexpr long AHEAD = 4096;  // bytes that the weights are fetched ahead of their use

#ifdef __clang__
#define UNROLLED _Pragma("unroll")
#else
#define UNROLLED _Pragma("GCC unroll 16")
#endif

template <int B>
constexpr int chains() {
    return B == 1 ? 4 : B == 2 ? 2 : 1;
}

// Adds the chains of each row up, and the bias, into `out`.
template <int B, int U>
inline void write(const Matrix &matrix, long block, const Floats (&parts)[U][B], float *out, long stride) {
    const Floats bias = matrix.bias ? load(matrix.bias + block * LANES) : same(0.0f);
    UNROLLED for (int b = 0; b < B; ++b) {
        Floats total = parts[0][b];
        UNROLLED for (int u = 1; u < U; ++u) total = add(total, parts[u][b]);
        store(out + b * stride, add(total, bias));
    }
}

struct FloatProduct {
    template <int B>
    static inline void step(Floats (&sums)[B], const float *weights, const float *x, long stride) {
        fetch_ahead(reinterpret_cast<const uint8_t *>(weights) + AHEAD);
        const Floats some = load(weights);
        UNROLLED for (int b = 0; b < B; ++b) sums[b] = multiply_add(some, same(x[b * stride]), sums[b]);
    }

    template <int B>
    static void run(const Matrix &matrix, long block, const Activation &x, long row, float *out, long stride) {
        constexpr int U = chains<B>();
        const float *weights = reinterpret_cast<const float *>(matrix.weights + block * matrix.block_bytes);
        const float *inputs = x.floats + row * x.stride;
        Floats parts[U][B] = {};
        long k = 0;
        for (; k + U <= matrix.columns; k += U) {
            UNROLLED for (int u = 0; u < U; ++u)
                step<B>(parts[u], weights + (k + u) * LANES, inputs + k + u, x.stride);
        }
        for (; k < matrix.columns; ++k) step<B>(parts[0], weights + k * LANES, inputs + k, x.stride);
        write<B, U>(matrix, block, parts, out, stride);
    }
};

struct BfloatProduct {
    template <int B>
    static inline void step(Floats (&sums)[B], const uint16_t *weights, const uint16_t *x, long stride) {
        fetch_ahead(reinterpret_cast<const uint8_t *>(weights) + AHEAD);
        UNROLLED for (int b = 0; b < B; ++b) sums[b] = pair_dot(sums[b], weights, x + b * stride);
    }

    template <int B>
    static void run(const Matrix &matrix, long block, const Activation &x, long row, float *out, long stride) {
        constexpr int U = chains<B>();
        const uint8_t *start = matrix.weights + block * matrix.block_bytes;
        const uint16_t *weights = reinterpret_cast<const uint16_t *>(start);
        const uint16_t *inputs = x.bfloats + row * x.stride;
        Floats parts[U][B] = {};
        long k = 0;
        for (; k + 2 * U <= matrix.width; k += 2 * U) {
            UNROLLED for (int u = 0; u < U; ++u)
                step<B>(parts[u], weights + (k + 2 * u) * LANES, inputs + k + 2 * u, x.stride);
        }
        for (; k < matrix.width; k += 2) step<B>(parts[0], weights + k * LANES, inputs + k, x.stride);
        write<B, U>(matrix, block, parts, out, stride);
    }
};

// Where each chain of whole numbers starts: at what takes the offset of the weights back.
template <int B, int U>
inline void start_group(Ints (&parts)[U][B], int offset, const Activation &x, long row, long group) {
    UNROLLED for (int b = 0; b < B; ++b) {
        parts[0][b] = same_int(-offset * x.sums[(row + b) * x.groups + group]);
        UNROLLED for (int u = 1; u < U; ++u) parts[u][b] = same_int(0);
    }
}

// Adds a group's whole numbers, times their scales, to the floats of each row.
template <int B, int U>
inline void end_group(const Ints (&parts)[U][B], Floats weight_scale, const Activation &x, long row, long group,
                      Floats (&sums)[B]) {
    UNROLLED for (int b = 0; b < B; ++b) {
        Ints total = parts[0][b];
        UNROLLED for (int u = 1; u < U; ++u) total = add_ints(total, parts[u][b]);
        const Floats scale = multiply(weight_scale, same(x.scales[(row + b) * x.groups + group]));
        sums[b] = multiply_add(to_floats(total), scale, sums[b]);
    }
}

struct ByteProduct {
    template <int B>
    static inline void step(Ints (&sums)[B], const uint8_t *weights, const int8_t *x, long stride) {
        fetch_ahead(weights + AHEAD);
        const Bytes some = load_bytes(weights);
        UNROLLED for (int b = 0; b < B; ++b) sums[b] = byte_dot(sums[b], some, same_bytes(x + b * stride));
    }

    template <int B>
    static void run(const Matrix &matrix, long block, const Activation &x, long row, float *out, long stride) {
        constexpr int U = chains<B>();
        const uint8_t *weights = matrix.weights + block * matrix.block_bytes;
        const int8_t *inputs = x.bytes + row * x.stride;
        const Floats scale = load(matrix.row_scales + block * LANES);
        Floats sums[1][B] = {};
        for (long group = 0; group < x.groups; ++group) {
            const long end = (group + 1) * x.group < matrix.width ? (group + 1) * x.group : matrix.width;
            Ints parts[U][B];
            start_group<B, U>(parts, BYTE_OFFSET, x, row, group);
            long k = group * x.group;
            for (; k + 4 * U <= end; k += 4 * U) {
                UNROLLED for (int u = 0; u < U; ++u)
                    step<B>(parts[u], weights + (k + 4 * u) * LANES, inputs + k + 4 * u, x.stride);
            }
            for (; U > 1 && k < end; k += 4) step<B>(parts[0], weights + k * LANES, inputs + k, x.stride);
            end_group<B, U>(parts, scale, x, row, group, sums[0]);
        }
        write<B, 1>(matrix, block, sums, out, stride);
    }
};

struct HalfByteProduct {
    // Low halves go to the first chain and high ones to the last, which is another where there are two.
    template <int B, int U>
    static inline void step(Ints (&sums)[U][B], const uint8_t *weights, const int8_t *x, long stride) {
        fetch_ahead(weights + AHEAD);
        const Bytes both = load_bytes(weights), low = low_halves(both), high = high_halves(both);
        UNROLLED for (int b = 0; b < B; ++b) {
            sums[0][b] = half_dot(sums[0][b], low, same_bytes(x + b * stride));
            sums[U - 1][b] = half_dot(sums[U - 1][b], high, same_bytes(x + b * stride + 4));
        }
    }

    template <int B>
    static void run(const Matrix &matrix, long block, const Activation &x, long row, float *out, long stride) {
        constexpr int U = B <= 4 ? 2 : 1;
        const uint8_t *weights = matrix.weights + block * matrix.block_bytes;
        const uint16_t *scales = matrix.group_scales + block * matrix.groups * LANES;
        const int8_t *inputs = x.bytes + row * x.stride;
        Floats sums[1][B] = {};
        for (long group = 0; group < matrix.groups; ++group) {
            const long end = (group + 1) * x.group < matrix.width ? (group + 1) * x.group : matrix.width;
            Ints parts[U][B];
            start_group<B, U>(parts, 8, x, row, group);
            for (long k = group * x.group; k < end; k += 8)
                step<B, U>(parts, weights + k * (LANES / 2), inputs + k, x.stride);
            end_group<B, U>(parts, load(scales + group * LANES), x, row, group, sums[0]);
        }
        write<B, 1>(matrix, block, sums, out, stride);
    }
};

template <typename Product>
inline void every_row(const Matrix &matrix, long block, long count, const Activation &x, long rows, float *out,
                      long stride) {
    // A few rows are bound by memory, which likes one stream: so block after block, all rows at each.
    for (long end = block + count; block < end; ++block, out += LANES) {
        long row = 0;
        for (; rows - row >= TILE_ROWS; row += TILE_ROWS)
            Product::template run<TILE_ROWS>(matrix, block, x, row, out + row * stride, stride);
        for (; rows - row >= 4; row += 4)
            Product::template run<4>(matrix, block, x, row, out + row * stride, stride);
        for (; rows - row >= 2; row += 2)
            Product::template run<2>(matrix, block, x, row, out + row * stride, stride);
        for (; row < rows; ++row) Product::template run<1>(matrix, block, x, row, out + row * stride, stride);
    }
}

void multiply_blocks(const Matrix &matrix, long block, long count, const Activation &x, long rows, float *out,
                     long stride) {
    switch (matrix.format) {
        case F32:
            return every_row<FloatProduct>(matrix, block, count, x, rows, out, stride);
        case BF16:
            return every_row<BfloatProduct>(matrix, block, count, x, rows, out, stride);
        case INT8:
            return every_row<ByteProduct>(matrix, block, count, x, rows, out, stride);
        case INT4:
            return every_row<HalfByteProduct>(matrix, block, count, x, rows, out, stride);
    }
}

}  // namespace
