// Norm, gate, attention and the rounding of keys and values of one level by themselves, against plain loops in
// double. Part of native_driver.cpp's program.
#include <algorithm>

#include "native_checks.h"

using namespace beholder;
using namespace checks;

namespace {

int vector_failures(const Kernels &kernels) {
    int failures = 0;
    for (const long columns : {3L, 16L, 50L, 160L}) {
        const long padded = rounded_up(columns, LANES);
        Random random{static_cast<uint32_t>(columns)};
        auto x = random.many(padded), weight = random.many(padded), y = random.many(padded), out = y;
        double squares = 0;
        for (long k = 0; k < padded; ++k) {
            if (k >= columns) x[k] = weight[k] = 0;
            squares += static_cast<double>(x[k]) * x[k];
        }
        kernels.normalise(x.data(), weight.data(), 1e-5f, columns, out.data());
        std::vector<float> wanted(padded);
        for (long k = 0; k < padded; ++k) wanted[k] = x[k] / sqrt(squares / columns + 1e-5f) * weight[k];
        if (!(apart(out, wanted) < 1e-6)) failures += failed(std::string(kernels.name) + " norm");
        for (float &one : x) one *= 100;
        kernels.gate(x.data(), y.data(), padded, out.data());
        for (long k = 0; k < padded; ++k) {
            const double right = x[k] / (1 + exp(-static_cast<double>(x[k]))) * y[k];
            if (!(fabs(out[k] - right) <= 1e-6 * fabs(right) + 1e-30))
                return failures + failed(std::string(kernels.name) + " gate of " + std::to_string(x[k]));
        }
    }
    return failures;
}

// Bytes of keys and values, and narrow rows made wide, bit by bit as the portable level has them.
int byte_failures(const Kernels &kernels) {
    const Kernels &portable = *find_kernels("portable");
    int failures = 0;
    for (const long width : {1L, 16L, 18L, 130L}) {
        auto x = Random{static_cast<uint32_t>(width)}.many(rounded_up(width, LANES));
        std::fill(x.begin() + width, x.end(), 0.0f);
        for (const float special : {0.5f, 1e-30f, 1e30f, 1e-38f, INFINITY, NAN}) {
            x[width / 2] = special;
            std::vector<int8_t> bytes(width), wanted(width);
            float scale, wanted_scale;
            kernels.keep(x.data(), width, bytes.data(), &scale);
            portable.keep(x.data(), width, wanted.data(), &wanted_scale);
            const bool is_none = isnan(wanted_scale);
            if (bytes != wanted || isnan(scale) != is_none || (!is_none && scale != wanted_scale))
                failures += failed(std::string(kernels.name) + " keeps otherwise: " + std::to_string(special));
        }
    }
    return failures;
}

// Keys or values of all places as they are stored: floats, bfloat16, or bytes with a scale for each place.
struct Stored {
    std::vector<uint8_t> bytes;
    std::vector<float> scales;

    Stored(const std::vector<float> &numbers, long width, Format form) {
        const long places = static_cast<long>(numbers.size()) / width;
        bytes.resize(numbers.size() * (form == F32 ? 4 : form == BF16 ? 2 : 1));
        scales.resize(form == INT8 ? places : 0);
        for (long place = 0; form == INT8 && place < places; ++place) {
            std::vector<float> row(numbers.begin() + place * width, numbers.begin() + (place + 1) * width);
            row.resize(rounded_up(width, LANES));
            find_kernels("portable")->keep(row.data(), width, reinterpret_cast<int8_t *>(&bytes[place * width]),
                                           &scales[place]);
        }
        for (size_t i = 0; form != INT8 && i < numbers.size(); ++i) {
            const uint16_t half = float_to_bfloat(numbers[i]);
            form == F32 ? memcpy(&bytes[4 * i], &numbers[i], 4) : memcpy(&bytes[2 * i], &half, 2);
        }
    }

    // The numbers that they stand for.
    std::vector<float> read(long width, Format form) const {
        std::vector<float> numbers(bytes.size() / (form == F32 ? 4 : form == BF16 ? 2 : 1));
        for (size_t i = 0; i < numbers.size(); ++i) {
            uint16_t half;
            if (form == F32) memcpy(&numbers[i], &bytes[4 * i], 4);
            if (form == BF16) memcpy(&half, &bytes[2 * i], 2), numbers[i] = bfloat_to_float(half);
            if (form == INT8) numbers[i] = static_cast<int8_t>(bytes[i]) * scales[i / width];
        }
        return numbers;
    }
};

// One row's heads over shuffled ranges of places, float, bfloat16 or bytes, against plain loops.
struct Scene {
    long group, width, padded, places = 90;
    Format form;
    std::vector<float> queries, keys, values;
    std::vector<int64_t> ranges{3, 4, 60, 83, 11, 12, 20, 56, 88, 90};
    long length = 0;

    Scene(long heads, long size, Format stored)
        : group(heads), width(size), padded(rounded_up(size, LANES)), form(stored) {
        Random random{static_cast<uint32_t>(heads * 100 + size)};
        queries.resize(group * padded);
        for (long g = 0; g < group; ++g)
            for (long d = 0; d < width; ++d) queries[g * padded + d] = random.next();
        keys = random.many(places * width);
        values = random.many(places * width);
        for (auto *some : {&keys, &values}) *some = Stored(*some, width, form).read(width, form);
        for (float &one : queries) one = bfloat_to_float(float_to_bfloat(one));
        for (size_t at = 0; at < ranges.size(); at += 2) length += ranges[at + 1] - ranges[at];
    }

    std::vector<float> found(const Kernels &kernels) const {
        const long longest = rounded_up(length, LANES);
        std::vector<float> scores(group * longest), mixed(group * padded);
        const Stored some(keys, width, form), others(values, width, form);
        Heads heads{};
        heads.group = group;
        heads.width = width;
        heads.width_padded = padded;
        heads.queries = queries.data();
        heads.keys = some.bytes.data();
        heads.values = others.bytes.data();
        heads.key_scales = some.scales.data();
        heads.value_scales = others.scales.data();
        heads.ranges = ranges.data();
        heads.range_count = static_cast<long>(ranges.size() / 2);
        heads.length = length;
        heads.length_padded = longest;
        heads.scores = scores.data();
        heads.mixed = mixed.data();
        (form == F32 ? kernels.attend_float : form == BF16 ? kernels.attend_bfloat : kernels.attend_bytes)(heads);
        std::vector<float> out;
        for (long g = 0; g < group; ++g)
            out.insert(out.end(), mixed.begin() + g * padded, mixed.begin() + g * padded + width);
        return out;
    }

    std::vector<float> wanted() const {
        std::vector<float> out;
        for (long g = 0; g < group; ++g) {
            std::vector<double> mixed(width);
            double total = 0;
            for (size_t at = 0; at < ranges.size(); at += 2) {
                for (long place = ranges[at]; place < ranges[at + 1]; ++place) {
                    double score = 0;
                    for (long d = 0; d < width; ++d)
                        score += static_cast<double>(queries[g * padded + d]) * keys[place * width + d];
                    const double weight = exp(score);
                    total += weight;
                    for (long d = 0; d < width; ++d) mixed[d] += weight * values[place * width + d];
                }
            }
            for (const double one : mixed) out.push_back(static_cast<float>(one / total));
        }
        return out;
    }
};

int attention_failures(const Kernels &kernels) {
    int failures = 0;
    for (const long width : {2L, 10L, 18L, 64L, 130L}) {
        for (const long group : {1L, 2L, 3L, 4L, 7L, 9L}) {
            for (const Format form : {F32, BF16, INT8}) {
                Scene scene(group, width, form);
                // On AVX-512 weights are rounded to bfloat16, as PyTorch rounds them.
                const double bound = form == BF16 && strcmp(kernels.name, "avx512") == 0 ? 1e-2 : 5e-6;
                const double error = apart(scene.found(kernels), scene.wanted());
                if (!(error < bound))
                    failures += failed(std::string(kernels.name) + " attention of " + std::to_string(group) +
                                       " heads of " + std::to_string(width) + ", format " + std::to_string(form) + ": " +
                                       std::to_string(error));
                scene.keys[61 * width] = NAN;
                for (const float one : scene.found(kernels))
                    if (!isnan(one)) return failures + failed(std::string(kernels.name) + " attention to no number");
            }
        }
    }
    return failures;
}

}  // namespace

int row_failures(const Kernels &kernels) {
    return vector_failures(kernels) + byte_failures(kernels) + attention_failures(kernels);
}
