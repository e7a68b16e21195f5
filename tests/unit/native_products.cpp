// Packing and products of one level by themselves: products of whole numbers, which every order of summing must get
// exactly, against plain loops; the search for scales and the rounding of inputs bit by bit. Part of
// native_driver.cpp's program.
#include "native_checks.h"
#include "trunk.h"

using namespace beholder;
using namespace checks;

namespace {

constexpr long MOST_ROWS = 16;  // of a batch
// What the packed matrices below add up to on every machine and level.
constexpr uint64_t PACKED = 0xc7b611afe8c8f39eu;

struct Case {
    Format format;
    long rows, columns, group;
};

std::string told(const Kernels &kernels, const char *what, const Case &one) {
    return std::string(kernels.name) + " " + what + ": format " + std::to_string(one.format) + ", " +
           std::to_string(one.rows) + " x " + std::to_string(one.columns) + ", group " + std::to_string(one.group);
}

// A matrix of `columns` floats per row, packed by a level, and inputs multiplied with it.
class Product {
public:
    Product(const Kernels &kernels, const Case &one, const std::vector<float> &weights)
        : packed(one.rows, one.columns, one.format, one.group), kernels_(kernels), one_(one) {
        const long padded = rounded_up(packed.matrix.width, LANES);
        std::vector<float> scratch(padded);
        for (long row = 0; row < one.rows; ++row) {
            std::vector<float> source(weights.begin() + row * one.columns, weights.begin() + (row + 1) * one.columns);
            source.resize(padded);
            kernels.pack(packed.matrix, row, source.data(), scratch.data());
        }
        packed.need_bias();
    }

    std::vector<float> times(const float *inputs, long batch) const {
        Prepared prepared(batch, one_.columns, one_.format, one_.group);
        for (long index = 0; index < batch; ++index) {
            std::vector<float> row(inputs + index * one_.columns, inputs + (index + 1) * one_.columns);
            row.resize(rounded_up(one_.columns, LANES));
            kernels_.convert(row.data(), prepared.activation, index, 0, one_.columns);
        }
        const long stride = packed.matrix.blocks * BLOCK;
        std::vector<float> padded(batch * stride), out;
        kernels_.multiply(packed.matrix, 0, packed.matrix.blocks, prepared.activation, padded.data(), stride);
        for (long index = 0; index < batch; ++index)
            out.insert(out.end(), padded.begin() + index * stride, padded.begin() + index * stride + one_.rows);
        return out;
    }

    Packed packed;

private:
    const Kernels &kernels_;
    const Case one_;
};

// Whole numbers times powers of two, of which every format holds weights and inputs exactly: the first of each
// group is the largest there can be.
int exact_failures(const Kernels &kernels, const Case &one) {
    Random random{static_cast<uint32_t>(3 + one.format * 1000 + one.rows * 37 + one.columns)};
    const bool is_half = one.format == INT4;
    std::vector<float> weights(one.rows * one.columns), inputs(MOST_ROWS * one.columns);
    for (long row = 0; row < one.rows; ++row) {
        for (long k = 0; k < one.columns; ++k) {
            const long whole = k % 32 == 0 ? (is_half ? -8 : 127) : is_half ? random.whole(-8, 7) : random.whole(-127, 127);
            weights[row * one.columns + k] = ldexpf(whole, static_cast<int>(row % 5 - 2));
        }
    }
    for (long row = 0; row < MOST_ROWS; ++row) {
        for (long k = 0; k < one.columns; ++k) {
            const long whole = k % 32 == 0 ? (row % 2 ? 127 : -127) : random.whole(-127, 127);
            inputs[row * one.columns + k] = ldexpf(whole, static_cast<int>(row % 3 - 1));
        }
    }
    Product product(kernels, one, weights);
    for (long row = 0; row < one.rows; ++row) product.packed.matrix.bias[row] = ldexpf(row - 9, row % 5 - 2);
    for (long batch = 1; batch <= MOST_ROWS; ++batch) {
        const auto found = product.times(inputs.data(), batch);
        for (long index = 0; index < batch; ++index) {
            for (long row = 0; row < one.rows; ++row) {
                double wanted = product.packed.matrix.bias[row];
                for (long k = 0; k < one.columns; ++k)
                    wanted += static_cast<double>(weights[row * one.columns + k]) * inputs[index * one.columns + k];
                const float got = found[index * one.rows + row];
                if (got != static_cast<float>(wanted))
                    return failed(told(kernels, "product", one) + ", input " + std::to_string(index) + " of " +
                                  std::to_string(batch) + ", row " + std::to_string(row) + ": " + std::to_string(got) +
                                  " for " + std::to_string(wanted));
            }
        }
    }
    return 0;
}

// Weights of very different sizes, rows of nothing, and next to nothing.
std::vector<float> uneven(const Case &one) {
    std::vector<float> made = Random{77}.many(one.rows * one.columns);
    for (long row = 0; row < one.rows; ++row) {
        for (long k = 0; k < one.columns; ++k) {
            float &number = made[row * one.columns + k];
            if (row % 7 == 1) number *= number * number * 30;
            if (row % 7 == 2) number = k % 3 ? 0 : number;
            if (row % 7 == 3) number = ldexpf(number, -140);
            if (row % 7 == 4) number = ldexpf(roundf(number * 8), 9) / 2;
            if (row % 7 == 5) number = k % 50 == 3 ? 100 : number;
            if (row % 7 == 6) number = 0;
        }
    }
    return made;
}

// Adds what stands in memory to a digest (FNV-1a).
void digest(uint64_t &total, const void *from, size_t bytes) {
    const uint8_t *at = static_cast<const uint8_t *>(from);
    for (size_t i = 0; i < bytes; ++i) total = (total ^ at[i]) * 0x100000001b3u;
}

bool is_same(const void *a, const void *b, size_t bytes) { return bytes == 0 || memcmp(a, b, bytes) == 0; }

// Narrow rows made wide, bit by bit as the portable level does it, and no further than they are long.
int widening_failures(const Kernels &kernels, const Kernels &portable, const Product &product, const Case &one) {
    std::vector<float> wide(one.columns), wanted(one.columns);
    std::vector<uint16_t> halves(one.columns), wanted_halves(one.columns);
    for (long row = 0; row < one.rows; ++row) {
        kernels.widen_float(product.packed.matrix, row, wide.data());
        portable.widen_float(product.packed.matrix, row, wanted.data());
        kernels.widen_bfloat(product.packed.matrix, row, halves.data());
        portable.widen_bfloat(product.packed.matrix, row, wanted_halves.data());
        if (wide != wanted || halves != wanted_halves) return failed(told(kernels, "widens otherwise", one));
    }
    return 0;
}

// Packed as the portable level packs, bit by bit; products near its; narrow rows alone as in any batch, bit by bit.
int likeness_failures(const Kernels &kernels, const Kernels &portable, const Case &one, uint64_t &packed) {
    const auto weights = uneven(one);
    const Product product(kernels, one, weights), like(portable, one, weights);
    const Matrix &m = product.packed.matrix, &other = like.packed.matrix;
    const bool is_narrow = one.format == INT8 || one.format == INT4;
    const size_t bytes = m.blocks * m.block_bytes, row_bytes = m.row_scales ? 4 * m.blocks * BLOCK : 0;
    const size_t group_bytes = m.group_scales ? 2 * m.blocks * m.groups * BLOCK : 0;
    digest(packed, m.weights, bytes);
    digest(packed, m.row_scales, row_bytes);
    digest(packed, m.group_scales, group_bytes);
    int failures = 0;
    if (!is_same(m.weights, other.weights, bytes) || !is_same(m.row_scales, other.row_scales, row_bytes) ||
        !is_same(m.group_scales, other.group_scales, group_bytes))
        failures += failed(told(kernels, "packs otherwise", one));
    if (is_narrow) failures += widening_failures(kernels, portable, product, one);
    const auto inputs = Random{13}.many(MOST_ROWS * one.columns);
    std::vector<float> alone;
    for (long row = 0; row < MOST_ROWS; ++row) {
        const auto some = product.times(inputs.data() + row * one.columns, 1);
        alone.insert(alone.end(), some.begin(), some.end());
    }
    for (long batch = 1; batch <= MOST_ROWS; ++batch) {
        const auto found = product.times(inputs.data(), batch), wanted = like.times(inputs.data(), batch);
        if (!(apart(found, wanted) < 2e-6)) failures += failed(told(kernels, "random product", one));
        if (is_narrow && !is_same(found.data(), alone.data(), sizeof(float) * found.size()))
            failures += failed(told(kernels, "batch", one) + ": other numbers than alone");
    }
    return failures;
}

// What is no number in one row makes all of its results none, and no other's.
int poison_failures(const Kernels &kernels, const Case &one) {
    const Product product(kernels, one, uneven(one));
    const auto clean = Random{19}.many(3 * one.columns);
    const auto wanted = product.times(clean.data(), 3);
    int failures = 0;
    for (const float bad : {NAN, -NAN, INFINITY, -INFINITY}) {
        auto inputs = clean;
        inputs[one.columns + one.columns / 2] = bad;
        const auto found = product.times(inputs.data(), 3);
        for (long row = 0; row < one.rows; ++row) {
            const bool is_none = isnan(found[one.rows + row]);
            if (!is_none && (one.format >= INT8 || isnan(bad)))
                return failed(told(kernels, "a number of none", one));
        }
        for (const long index : {0L, 2L})
            failures += !is_same(&found[index * one.rows], &wanted[index * one.rows], sizeof(float) * one.rows);
        if (failures) return failed(told(kernels, "none spreads", one));
    }
    return 0;
}

// Inputs come back from a matrix of ones on the diagonal as they were rounded.
int rounding_failures(const Kernels &kernels) {
    const Case one{BF16, 48, 48, 32};
    std::vector<float> weights(one.rows * one.columns), inputs(one.columns);
    for (long row = 0; row < one.rows; ++row) weights[row * one.columns + row] = 1;
    const Product product(kernels, one, weights);
    Random random{23};
    for (int turn = 0; turn < 50; ++turn) {
        for (long k = 0; k < one.columns; ++k) {
            const uint32_t low = turn % 3 ? 0x7fff + turn % 3 : random.bits() & 0xffff;  // halfway, or just above
            const uint32_t high = random.bits() & 0x807f, power = 64 + random.bits() % 128;
            inputs[k] = word_as_float(high << 16 | power << 23 | low);
        }
        const auto found = product.times(inputs.data(), 1);
        for (long k = 0; k < one.columns; ++k)
            if (found[k] != bfloat_to_float(float_to_bfloat(inputs[k]))) return failed(told(kernels, "rounding", one));
    }
    return 0;
}

}  // namespace

int product_failures(const Kernels &kernels) {
    const Kernels &portable = *find_kernels("portable");
    const Case shapes[] = {{F32, 1, 1, 32}, {F32, 33, 17, 32}, {F32, 70, 130, 64}, {F32, 5, 300, 128}};
    int failures = rounding_failures(kernels);
    uint64_t packed = 0xcbf29ce484222325u;
    for (Case one : shapes) {
        for (const Format format : {F32, BF16, INT8, INT4}) {
            one.format = format;
            failures += exact_failures(kernels, one) + likeness_failures(kernels, portable, one, packed) +
                        poison_failures(kernels, one);
        }
    }
    if (packed != PACKED) {
        printf("%s packs to %llx\n", kernels.name, static_cast<unsigned long long>(packed));
        ++failures;
    }
    return failures;
}
