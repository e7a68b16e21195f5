// Rows of floats into packed matrices: rounding to nearest, with a search for the scale that loses least.
// Included once per level of processor, behind vectors.h.
#pragma once

namespace {

inline Floats whole_within(Floats x, Floats inverse, Floats lowest, Floats largest) {
    return rounded(lower(higher(multiply(x, inverse), lowest), largest));
}

struct Fit {
    float error;   // sum of squares of what is lost
    float better;  // the scale that fits these whole numbers best
};

// How well `count` floats (a multiple of 16) are told by whole numbers within bounds times a scale.
Fit fit(const float *x, long count, float scale, float lowest, float largest) {
    const Floats inverse = same(1.0f / scale), minus = same(-scale);
    const Floats bottom = same(lowest), top = same(largest);
    Floats error = same(0.0f), products = same(0.0f), squares = same(0.0f);
    for (long k = 0; k < count; k += LANES) {
        const Floats some = load(x + k), whole = whole_within(some, inverse, bottom, top);
        const Floats lost = multiply_add(whole, minus, some);
        error = multiply_add(lost, lost, error);
        products = multiply_add(whole, some, products);
        squares = multiply_add(whole, whole, squares);
    }
    const float square = sum(squares);
    return {sum(error), square > 0 ? sum(products) / square : scale};
}

// The value furthest from zero, with its sign.
float furthest(const float *x, long count) {
    float found = 0;
    for (long k = 0; k < count; ++k) found = __builtin_fabsf(x[k]) > __builtin_fabsf(found) ? x[k] : found;
    return found;
}

// One scale for a row of bytes. Cutting the few largest values may serve all others.
float byte_scale(const float *x, long count) {
    const float most = __builtin_fabsf(furthest(x, count));
    if (!(most > 0)) return 0;
    float best = most / 127, least = fit(x, count, best, -127, 127).error;
    for (int step = 1; step <= 10; ++step) {
        const float scale = most / 127 * (1 - 0.03f * static_cast<float>(step));
        const float error = fit(x, count, scale, -127, 127).error;
        if (error < least) least = error, best = scale;
    }
    return best;
}

// One scale for a group of half bytes: -8 .. 7, so the value furthest from zero leads the long side.
float half_byte_scale(const float *x, long count) {
    const float most = furthest(x, count);
    if (most == 0) return 0;
    float best = 0, least = __builtin_inff();
    for (int step = -8; step <= 20; ++step) {
        float scale = bfloat_to_float(float_to_bfloat(most / (-8 + 0.125f * static_cast<float>(step))));
        for (int round = 0; round < 2; ++round) {
            if (scale == 0 || __builtin_isinf(1.0f / scale)) break;
            const Fit found = fit(x, count, scale, -8, 7);
            if (found.error < least) least = found.error, best = scale;
            scale = bfloat_to_float(float_to_bfloat(found.better));
        }
    }
    return best;
}

inline Floats whole_numbers(const float *x, float scale, float lowest, float largest) {
    return whole_within(load(x), same(scale != 0 ? 1.0f / scale : 0.0f), same(lowest), same(largest));
}

void pack_bytes(const Matrix &matrix, long row, const float *source, int8_t *wholes) {
    uint8_t *to = matrix.weights + row / BLOCK * matrix.block_bytes + row % BLOCK * 4;
    const long padded = rounded_up(matrix.width, LANES);
    const float scale = byte_scale(source, padded);
    matrix.row_scales[row] = scale;
    for (long k = 0; k < padded; k += LANES)
        store_bytes(wholes + k, whole_numbers(source + k, scale, -127, 127));
    for (long k = 0; k < matrix.width; ++k)
        to[k / 4 * STEP_BYTES + k % 4] = static_cast<uint8_t>(wholes[k] + 128);
}

void pack_half_bytes(const Matrix &matrix, long row, const float *source, int8_t *wholes) {
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
        pack_bytes(matrix, row, source, reinterpret_cast<int8_t *>(scratch));
    } else {
        pack_half_bytes(matrix, row, source, reinterpret_cast<int8_t *>(scratch));
    }
}

}  // namespace
