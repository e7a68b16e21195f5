// Rows of floats into packed matrices: rounding to nearest, with a search for the scale that loses least.
// Included once per level of processor, behind vectors.h. Sums of the search are of whole numbers, which are the
// same in any order: every level finds the same numbers, and so does core/narrow.py, which tells the search in
// PyTorch.
#pragma once

namespace {

// What is smaller in all its weights counts as nothing.
constexpr float SMALLEST = 0x1p-100f;
// The search looks at weights as whole numbers of this size.
constexpr float BYTE_SIZE = 16384, HALF_SIZE = 8192;
constexpr float BYTE_SHARES[] = {1, 0.97f, 0.94f, 0.91f, 0.88f, 0.85f, 0.82f, 0.79f, 0.76f, 0.73f, 0.7f};
constexpr long EXACT = 1024;  // products of a byte and BYTE_SIZE that 32 bits can add up

inline Floats whole_within(Floats x, Floats inverse, Floats lowest, Floats largest) {
    return rounded(lower(higher(multiply(x, inverse), lowest), largest));
}

// A product that no compiler joins with what follows, which would round once where others round twice.
inline double alone(double product) {
    __asm__("" : "+m"(product));
    return product;
}

// The sum of squares of what is lost with a scale, less that of the weights, which is the same for all scales.
// The weights are `unit` times whole numbers; `products` are those of these and the rounded ones.
inline double loss(float scale, double unit, double products, double squares) {
    const double wide = scale;
    return wide * (alone(wide * squares) - alone(2 * unit * products));
}

// The value furthest from zero, with its sign; of two the negative one.
float furthest(const float *x, long count) {
    Floats most = same(0.0f), least = same(0.0f);
    for (long k = 0; k < count; k += LANES) {
        most = higher(most, load(x + k));
        least = higher(least, subtract(same(0.0f), load(x + k)));
    }
    const float top = highest(most), bottom = highest(least);
    return bottom >= top ? -bottom : top;
}

// One scale for a row of bytes. Cutting the few largest values may serve all others.
float byte_scale(const float *x, long count, int8_t *wholes, int16_t *near) {
    const float most = __builtin_fabsf(furthest(x, count));
    if (!(most >= SMALLEST)) return 0;
    const Floats factor = same(BYTE_SIZE / most), size = same(BYTE_SIZE), minus = same(-BYTE_SIZE);
    for (long k = 0; k < count; k += LANES) {
        float some[LANES];
        store(some, whole_within(load(x + k), factor, minus, size));
        for (long i = 0; i < LANES; ++i) near[k + i] = static_cast<int16_t>(some[i]);
    }
    const double unit = static_cast<double>(most) / BYTE_SIZE;
    const float base = most / 127;
    float best = 0;
    double least = __builtin_inf();
    for (const float share : BYTE_SHARES) {
        const float scale = base * share;
        const Floats inverse = same(1.0f / scale), bottom = same(-127.0f), top = same(127.0f);
        int64_t products = 0, squares = 0;
        for (long first = 0; first < count; first += EXACT) {
            const long end = count - first < EXACT ? count : first + EXACT;
            for (long k = first; k < end; k += LANES)
                store_bytes(wholes + k, whole_within(load(x + k), inverse, bottom, top));
            int32_t some_products = 0, some_squares = 0;
            for (long k = first; k < end; ++k) {
                some_products += wholes[k] * near[k];
                some_squares += wholes[k] * wholes[k];
            }
            products += some_products;
            squares += some_squares;
        }
        const double lost = loss(scale, unit, static_cast<double>(products), static_cast<double>(squares));
        if (lost < least) least = lost, best = scale;
    }
    return best;
}

// One scale for a group of half bytes: -8 .. 7, so the value furthest from zero leads the long side. The sums
// are of whole numbers below 2^24, which floats hold exactly.
float half_byte_scale(const float *x, long count) {
    const float most = furthest(x, count);
    if (!(__builtin_fabsf(most) >= SMALLEST)) return 0;
    const Floats factor = same(HALF_SIZE / __builtin_fabsf(most)), size = same(HALF_SIZE);
    const Floats minus = same(-HALF_SIZE), bottom = same(-8.0f), top = same(7.0f);
    alignas(64) float near[LARGEST_GROUP];
    for (long k = 0; k < count; k += LANES) store(near + k, whole_within(load(x + k), factor, minus, size));
    const double unit = static_cast<double>(__builtin_fabsf(most)) / HALF_SIZE;
    float best = 0;
    double least = __builtin_inf();
    for (int step = -8; step <= 20; ++step) {
        float scale = bfloat_to_float(float_to_bfloat(most / (-8 + 0.125f * static_cast<float>(step))));
        for (int round = 0; round < 2 && scale != 0; ++round) {
            const Floats inverse = same(1.0f / scale);
            Floats products = same(0.0f), squares = same(0.0f);
            for (long k = 0; k < count; k += LANES) {
                const Floats whole = whole_within(load(x + k), inverse, bottom, top);
                products = multiply_add(whole, load(near + k), products);
                squares = multiply_add(whole, whole, squares);
            }
            const double product = sum(products), square = sum(squares);
            const double lost = loss(scale, unit, product, square);
            if (lost < least) least = lost, best = scale;
            const double better = alone(unit * product) / (square > 1 ? square : 1);
            scale = bfloat_to_float(float_to_bfloat(static_cast<float>(better)));
        }
    }
    return best;
}

inline Floats whole_numbers(const float *x, float scale, float lowest, float largest) {
    return whole_within(load(x), same(scale != 0 ? 1.0f / scale : 0.0f), same(lowest), same(largest));
}

// `scratch` has room for a float per weight: the bytes stand in its beginning, the search's numbers behind them.
void pack_bytes(const Matrix &matrix, long row, const float *source, float *scratch) {
    uint8_t *to = matrix.weights + row / BLOCK * matrix.block_bytes + row % BLOCK * 4;
    const long padded = rounded_up(matrix.width, LANES);
    int8_t *wholes = reinterpret_cast<int8_t *>(scratch);
    const float scale = byte_scale(source, padded, wholes, reinterpret_cast<int16_t *>(wholes + padded));
    matrix.row_scales[row] = scale;
    for (long k = 0; k < padded; k += LANES)
        store_bytes(wholes + k, whole_numbers(source + k, scale, -127, 127));
    for (long k = 0; k < matrix.width; ++k)
        to[k / 4 * STEP_BYTES + k % 4] = static_cast<uint8_t>(wholes[k] + 128);
}

void pack_half_bytes(const Matrix &matrix, long row, const float *source, float *scratch) {
    int8_t *wholes = reinterpret_cast<int8_t *>(scratch);
    const long lane = row % BLOCK, block = row / BLOCK;
    uint8_t *to = matrix.weights + block * matrix.block_bytes + lane * 4;
    const long padded = rounded_up(matrix.width, LANES);
    for (long group = 0; group < matrix.groups; ++group) {
        const long first = group * matrix.group;
        const long count = padded - first < matrix.group ? padded - first : matrix.group;
        const float scale = half_byte_scale(source + first, count);
        matrix.group_scales[(block * matrix.groups + group) * BLOCK + lane] = float_to_bfloat(scale);
        for (long k = first; k < first + count; k += LANES)
            store_bytes(wholes + k, whole_numbers(source + k, scale, -8, 7));
    }
    for (long k = 0; k < matrix.width; k += 8) {
        for (long j = 0; j < 4; ++j) {
            const int low = wholes[k + j] + 8, high = wholes[k + j + 4] + 8;
            to[k / 8 * STEP_BYTES + j] = static_cast<uint8_t>(low | (high << 4));
        }
    }
}

// `source` is padded with zeros to a multiple of 16, and so long is `scratch`.
void pack_row(const Matrix &matrix, long row, const float *source, float *scratch) {
    const long lane = row % BLOCK;
    uint8_t *block = matrix.weights + row / BLOCK * matrix.block_bytes;
    if (matrix.format == F32) {
        float *to = reinterpret_cast<float *>(block);
        for (long k = 0; k < matrix.width; ++k) to[k * BLOCK + lane] = source[k];
    } else if (matrix.format == BF16) {
        uint16_t *to = reinterpret_cast<uint16_t *>(block);
        for (long k = 0; k < matrix.width; ++k)
            to[k / 2 * 2 * BLOCK + lane * 2 + k % 2] = float_to_bfloat(source[k]);
    } else if (matrix.format == INT8) {
        pack_bytes(matrix, row, source, scratch);
    } else {
        pack_half_bytes(matrix, row, source, scratch);
    }
}

}  // namespace
