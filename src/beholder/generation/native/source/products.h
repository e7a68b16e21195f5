// Packed matrices times a few rows. Included once per level of processor, behind its lanes.
// B rows of the batch stand in registers against one block; U chains of sums hide the latency of few rows.
#pragma once

namespace {

constexpr long AHEAD = 2048;  // bytes that the weights are fetched ahead of their use

#ifdef __clang__
#define UNROLLED _Pragma("unroll")
#else
#define UNROLLED _Pragma("GCC unroll 16")
#endif

template <int B>
constexpr int chains() {
    return B < MOST_CHAINS ? MOST_CHAINS / B : 1;
}

// Adds the chains of each row up, times the scales of the block's rows where there are any, and the bias.
template <int B, int U>
inline void write(const Matrix &matrix, long block, const Floats (&parts)[U][B][HALVES], float *out,
                  long stride) {
    UNROLLED for (int h = 0; h < HALVES; ++h) {
        const long first = block * BLOCK + h * LANES;
        const Floats bias = matrix.bias ? load(matrix.bias + first) : same(0.0f);
        const Floats scale = matrix.row_scales ? load(matrix.row_scales + first) : same(1.0f);
        UNROLLED for (int b = 0; b < B; ++b) {
            Floats total = parts[0][b][h];
            UNROLLED for (int u = 1; u < U; ++u) total = add(total, parts[u][b][h]);
            store(out + b * stride + h * LANES, multiply_add(total, scale, bias));
        }
    }
}

inline void fetch_both(const uint8_t *weights) {
    fetch_ahead(weights + AHEAD);
    fetch_ahead(weights + AHEAD + STEP_BYTES / 2);
}

// What one word of the inputs adds: a float times floats, or two bfloat16 times pairs of them.
struct FloatWord {
    using Input = Floats;
    static Input input(uint32_t word) { return same(word_as_float(word)); }
    static Floats dot(Floats sum, const uint8_t *weights, Input x) {
        return multiply_add(load(reinterpret_cast<const float *>(weights)), x, sum);
    }
};
struct PairWord {
    using Input = Pair;
    static Input input(uint32_t word) { return same_pair(word); }
    static Floats dot(Floats sum, const uint8_t *weights, Input x) { return pair_dot(sum, weights, x); }
};

template <typename Word>
struct DenseProduct {
    template <int B>
    static inline void step(Floats (&sums)[B][HALVES], const uint8_t *weights, const uint32_t *x) {
        fetch_both(weights);
        UNROLLED for (int b = 0; b < B; ++b) {
            const typename Word::Input input = Word::input(x[b]);
            UNROLLED for (int h = 0; h < HALVES; ++h)
                sums[b][h] = Word::dot(sums[b][h], weights + h * (STEP_BYTES / HALVES), input);
        }
    }

    template <int B>
    static void run(const Matrix &matrix, long block, const Activation &x, long row, float *out, long stride) {
        constexpr int U = chains<B>();
        const uint8_t *weights = matrix.weights + block * matrix.block_bytes;
        const uint32_t *words = x.numbers + row * x.words;
        Floats parts[U][B][HALVES] = {};
        long k = 0;
        for (; k + U <= matrix.steps; k += U) {
            UNROLLED for (int u = 0; u < U; ++u)
                step<B>(parts[u], weights + (k + u) * STEP_BYTES, words + (k + u) * B);
        }
        for (; k < matrix.steps; ++k) step<B>(parts[0], weights + k * STEP_BYTES, words + k * B);
        write<B, U>(matrix, block, parts, out, stride);
    }
};

// Where each chain of whole numbers starts: at what takes the offset of the weights back.
template <int B, int U>
inline void start_group(Ints (&parts)[U][B][HALVES], const int32_t *starts) {
    UNROLLED for (int b = 0; b < B; ++b) {
        const Ints first = same_int(starts[b]);
        UNROLLED for (int h = 0; h < HALVES; ++h) {
            parts[0][b][h] = first;
            UNROLLED for (int u = 1; u < U; ++u) parts[u][b][h] = same_int(0);
        }
    }
}

template <int B, int U>
inline Floats group_total(const Ints (&parts)[U][B][HALVES], int b, int h) {
    Ints total = parts[0][b][h];
    UNROLLED for (int u = 1; u < U; ++u) total = add_ints(total, parts[u][b][h]);
    return to_floats(total);
}

struct ByteProduct {
    template <int B>
    static inline void step(Ints (&sums)[B][HALVES], const uint8_t *weights, const uint32_t *x) {
        fetch_both(weights);
        Bytes some[HALVES];
        UNROLLED for (int h = 0; h < HALVES; ++h) some[h] = load_bytes(weights + h * (STEP_BYTES / HALVES));
        UNROLLED for (int b = 0; b < B; ++b) {
            const Bytes input = same_bytes(x[b]);
            UNROLLED for (int h = 0; h < HALVES; ++h) sums[b][h] = byte_dot(sums[b][h], some[h], input);
        }
    }

    template <int B>
    static void run(const Matrix &matrix, long block, const Activation &x, long row, float *out, long stride) {
        constexpr int U = chains<B>();
        const uint8_t *weights = matrix.weights + block * matrix.block_bytes;
        const uint32_t *words = x.numbers + row * x.words;
        const int32_t *starts = x.starts + row * x.groups;
        const float *scales = x.scales + row * x.groups;
        const long per_group = x.group / 4;
        Floats sums[1][B][HALVES] = {};
        for (long group = 0; group < x.groups; ++group, starts += B, scales += B) {
            const long end = (group + 1) * per_group < matrix.steps ? (group + 1) * per_group : matrix.steps;
            Ints parts[U][B][HALVES];
            start_group<B, U>(parts, starts);
            long k = group * per_group;
            for (; k + U <= end; k += U) {
                UNROLLED for (int u = 0; u < U; ++u)
                    step<B>(parts[u], weights + (k + u) * STEP_BYTES, words + (k + u) * B);
            }
            for (; U > 1 && k < end; ++k) step<B>(parts[0], weights + k * STEP_BYTES, words + k * B);
            UNROLLED for (int b = 0; b < B; ++b) {
                const Floats scale = same(scales[b]);
                UNROLLED for (int h = 0; h < HALVES; ++h)
                    sums[0][b][h] = multiply_add(group_total<B, U>(parts, b, h), scale, sums[0][b][h]);
            }
        }
        write<B, 1>(matrix, block, sums, out, stride);
    }
};

struct HalfByteProduct {
    // Low halves go to the first chain and high ones to the last, which is another where there are two.
    template <int B, int U>
    static inline void step(Ints (&sums)[U][B][HALVES], const uint8_t *weights, const uint32_t *x) {
        fetch_both(weights);
        Bytes low[HALVES], high[HALVES];
        UNROLLED for (int h = 0; h < HALVES; ++h) {
            const Bytes both = load_bytes(weights + h * (STEP_BYTES / HALVES));
            low[h] = low_halves(both);
            high[h] = high_halves(both);
        }
        UNROLLED for (int b = 0; b < B; ++b) {
            const Bytes first = same_bytes(x[b]), second = same_bytes(x[B + b]);
            UNROLLED for (int h = 0; h < HALVES; ++h) {
                sums[0][b][h] = half_dot(sums[0][b][h], low[h], first);
                sums[U - 1][b][h] = half_dot(sums[U - 1][b][h], high[h], second);
            }
        }
    }

    template <int B>
    static void run(const Matrix &matrix, long block, const Activation &x, long row, float *out, long stride) {
        constexpr int U = chains<B>() > 1 ? 2 : 1;
        const uint8_t *weights = matrix.weights + block * matrix.block_bytes;
        const uint16_t *group_scales = matrix.group_scales + block * matrix.groups * BLOCK;
        const uint32_t *words = x.numbers + row * x.words;
        const int32_t *starts = x.starts + row * x.groups;
        const float *scales = x.scales + row * x.groups;
        const long per_group = x.group / 8;
        Floats sums[1][B][HALVES] = {};
        for (long group = 0; group < matrix.groups; ++group, starts += B, scales += B) {
            const long end = (group + 1) * per_group < matrix.steps ? (group + 1) * per_group : matrix.steps;
            Ints parts[U][B][HALVES];
            start_group<B, U>(parts, starts);
            for (long k = group * per_group; k < end; ++k)
                step<B, U>(parts, weights + k * STEP_BYTES, words + 2 * k * B);
            UNROLLED for (int h = 0; h < HALVES; ++h) {
                const Floats own = load(group_scales + group * BLOCK + h * LANES);
                UNROLLED for (int b = 0; b < B; ++b) {
                    const Floats scale = multiply(own, same(scales[b]));
                    sums[0][b][h] = multiply_add(group_total<B, U>(parts, b, h), scale, sums[0][b][h]);
                }
            }
        }
        write<B, 1>(matrix, block, sums, out, stride);
    }
};

template <typename Product>
inline void every_row(const Matrix &matrix, long block, long count, const Activation &x, float *out,
                      long stride) {
    // A few rows are bound by memory, which likes one stream: so block after block, all rows at each.
    for (long end = block + count; block < end; ++block, out += BLOCK) {
        long row = 0;
        for (; x.rows - row >= TILE_ROWS; row += TILE_ROWS)
            Product::template run<TILE_ROWS>(matrix, block, x, row, out + row * stride, stride);
        if (TILE_ROWS > 4 && x.rows - row >= 4) {
            Product::template run<4>(matrix, block, x, row, out + row * stride, stride);
            row += 4;
        }
        if (TILE_ROWS > 2 && x.rows - row >= 2) {
            Product::template run<2>(matrix, block, x, row, out + row * stride, stride);
            row += 2;
        }
        if (row < x.rows) Product::template run<1>(matrix, block, x, row, out + row * stride, stride);
    }
}

void multiply_blocks(const Matrix &matrix, long block, long count, const Activation &x, float *out,
                     long stride) {
    switch (matrix.format) {
        case F32:
            return every_row<DenseProduct<FloatWord>>(matrix, block, count, x, out, stride);
        case BF16:
            return every_row<DenseProduct<PairWord>>(matrix, block, count, x, out, stride);
        case INT8:
            return every_row<ByteProduct>(matrix, block, count, x, out, stride);
        case INT4:
            return every_row<HalfByteProduct>(matrix, block, count, x, out, stride);
    }
}

}  // namespace
