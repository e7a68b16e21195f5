// Runs the native step on small trunks of awkward shapes, every format on every level of this processor, with
// buffers of exactly the size that is asked for. Compiled with sanitizers by test_native_sanitized.py, which
// lets it end with 0 only if all levels agree.
#include <math.h>
#include <stdio.h>
#include <string.h>

#include <string>
#include <vector>

#include "trunk.h"

using namespace beholder;

extern "C" const char *beholder_levels();

namespace {

struct Random {
    uint32_t state;
    float next() {  // -1 to 1
        state = state * 1664525u + 1013904223u;
        return static_cast<float>(state >> 8) / 8388608.0f - 1.0f;
    }
    std::vector<float> many(size_t count, float scale) {
        std::vector<float> made(count);
        for (float &one : made) one = next() * scale;
        return made;
    }
};

const Kernels *kernels_of(const char *name) {
#ifdef WITH_AVX512
    if (strcmp(name, "avx512") == 0) return kernels_avx512();
#endif
#ifdef WITH_AVX2
    if (strcmp(name, "avx2") == 0) return kernels_avx2();
#endif
    return kernels_portable();
}

void fill(Trunk &trunk) {
    const Shape &s = trunk.shape;
    const long mixed = s.heads * s.head_width, stored = s.key_heads * s.head_width;
    Random random{7};
    auto put = [&](long layer, Part part, long rows, long columns, long first, long spread) {
        const auto weights = random.many(rows * columns, 1.5f / sqrtf(static_cast<float>(columns)));
        std::vector<uint16_t> halves;
        for (const float one : weights) halves.push_back(float_to_bfloat(one));
        trunk.pack(layer, part, halves.data(), true, rows, first, spread);
    };
    for (long layer = 0; layer < s.layers; ++layer) {
        put(layer, Part::ENTER, mixed, s.hidden, 0, 1);
        put(layer, Part::ENTER, stored, s.hidden, mixed, 1);
        put(layer, Part::ENTER, stored, s.hidden, mixed + stored, 1);
        put(layer, Part::LEAVE, s.hidden, mixed, 0, 1);
        put(layer, Part::WIDEN, s.inner, s.hidden, 0, 2);
        put(layer, Part::WIDEN, s.inner, s.hidden, 16, 2);
        put(layer, Part::NARROW, s.hidden, s.inner, 0, 1);
        const std::vector<float> ones(s.hidden, 1.0f), bias = random.many(mixed, 0.1f);
        trunk.put_bias(layer, Part::ENTER, bias.data(), mixed, 0, 1);
        for (int which = 0; which < 3; ++which) trunk.put_norm(layer, which, ones.data());
    }
    put(0, Part::HEAD, s.vocabulary, s.hidden, 0, 1);
    std::vector<float> row(s.inner);
    trunk.unpack(s.layers - 1, Part::NARROW, s.hidden - 1, row.data());
}

// Rows with 1, 2, 3 .. ranges of places, none of them shared.
std::vector<float> scores(const Shape &shape, const Kernels &kernels, int threads, long rows, bool is_bfloat) {
    Trunk trunk(shape, kernels, threads, {});
    fill(trunk);
    std::vector<int64_t> ranges, ends;
    int64_t place = 1;
    for (long row = 0; row < rows; ++row) {
        for (long piece = 0; piece <= row % 3; ++piece) {
            ranges.push_back(place);
            place += 1 + (row * 7 + piece * 5) % 23;
            ranges.push_back(place++);
        }
        ends.push_back(static_cast<int64_t>(ranges.size() / 2));
    }
    Random random{11};
    std::vector<std::vector<uint8_t>> memory;
    std::vector<void *> keys, values;
    for (long layer = 0; layer < 2 * shape.layers; ++layer) {
        const auto numbers = random.many(shape.key_heads * place * shape.head_width, 1.0f);
        std::vector<uint8_t> stored(numbers.size() * (is_bfloat ? 2 : 4));
        for (size_t i = 0; i < numbers.size(); ++i) {
            const uint16_t half = float_to_bfloat(numbers[i]);
            is_bfloat ? memcpy(&stored[2 * i], &half, 2) : memcpy(&stored[4 * i], &numbers[i], 4);
        }
        memory.push_back(std::move(stored));
        (layer % 2 ? values : keys).push_back(memory.back().data());
    }
    const long half = shape.head_width / 2, stride = rounded_up(shape.vocabulary, BLOCK);
    const auto hidden = random.many(rows * shape.hidden, 1.0f);
    std::vector<float> cosines(rows * half, 0.8f), sines(rows * half, 0.6f), logits(rows * stride);
    const Step step{rows, hidden.data(), cosines.data(), sines.data(), ranges.data(), ends.data(),
                    keys.data(), values.data(), place, is_bfloat, 0, logits.data(), stride};
    for (int again = 0; again < 2; ++again) {
        if (const char *wrong = trunk.run(step)) {
            printf("%s\n", wrong);
            return {};
        }
    }
    // All places as one text, of which these rows are the end; its scores stand behind the others.
    const int64_t whole[] = {1, place}, one[] = {1};
    Step text = step;
    text.is_text = 1;
    text.ranges = whole;
    text.range_ends = one;
    std::vector<float> last(stride);
    text.logits = last.data();
    if (const char *wrong = trunk.run(text)) printf("%s\n", wrong);
    logits.insert(logits.end(), last.begin(), last.end());
    text.rows = shape.most_rows + 1;
    if (!trunk.run(text)) printf("more rows than there is room for: a text was accepted\n");
    Step outside = step;
    outside.places = place - 2;
    if (!trunk.run(outside)) printf("a range outside of the memory was accepted\n");
    return logits;
}

double apart(const std::vector<float> &a, const std::vector<float> &b) {
    double lost = 0, all = 1e-12;
    if (a.size() != b.size() || a.empty()) return 1;
    for (size_t i = 0; i < a.size(); ++i) {
        lost += (a[i] - b[i]) * (a[i] - b[i]);
        all += b[i] * b[i];
    }
    return sqrt(lost / all);
}

// A matrix made narrow row by row, put into a trunk and taken out again, in buffers of exactly that size.
int narrow_failures(const Shape &shape, const Kernels &kernels) {
    const Format format = static_cast<Format>(shape.format);
    if (format != INT8 && format != INT4) return 0;
    const long rows = shape.hidden, columns = shape.inner;
    const long length = format == INT8 ? columns : (columns + 7) / 8 * 4;
    const long scale_bytes = format == INT8 ? 4 : (columns + shape.group - 1) / shape.group * 2;
    Random random{5};
    const auto weights = random.many(rows * columns, 0.3f);
    std::vector<uint8_t> codes(rows * length), scales(rows * scale_bytes), taken(rows * length), again(rows * scale_bytes);
    make_narrow(kernels, format, shape.group, weights.data(), false, rows, columns, codes.data(), scales.data());
    Trunk packed(shape, kernels, 2, {}), put(shape, kernels, 2, {});
    packed.pack(0, Part::NARROW, weights.data(), false, rows, 0, 1);
    put.put_codes(0, Part::NARROW, codes.data(), scales.data(), rows, 0, 1);
    put.take_codes(0, Part::NARROW, taken.data(), again.data(), 0, rows, 0, 1);
    int failures = taken != codes || again != scales;
    put.take_codes(0, Part::NARROW, taken.data(), again.data(), rows / 2, rows, 0, 1);
    failures += memcmp(taken.data(), codes.data() + rows / 2 * length, (rows - rows / 2) * length) != 0;
    std::vector<float> one(columns), other(columns);
    for (long row = 0; row < rows; ++row) {
        packed.unpack(0, Part::NARROW, row, one.data());
        put.unpack(0, Part::NARROW, row, other.data());
        failures += memcmp(one.data(), other.data(), columns * sizeof(float)) != 0;
    }
    put.drop(0, Part::NARROW);
    put.take_codes(0, Part::NARROW, taken.data(), again.data(), 0, rows, 0, 1);
    if (failures) printf("%s format %d: codes come back as others\n", kernels.name, format);
    return failures;
}

}  // namespace

int main() {
    // layers, hidden, heads, key heads, head width, inner, vocabulary, rows
    const Shape shapes[] = {
        {2, 40, 4, 2, 10, 52, 33, 3, 1e-5f, 0.3f, 0, 32, 0, 32},
        {1, 144, 9, 1, 36, 264, 48, 16, 1e-5f, 0.2f, 0, 64, 0, 32},
        {1, 7, 3, 3, 2, 5, 3, 5, 1e-5f, 0.7f, 0, 128, 0, 128},
    };
    const double bounds[] = {1e-5, 1e-3, 5e-3, 5e-3};
    int failures = 0, number = 0;
    for (Shape shape : shapes) {
        for (int format = F32; format <= INT4; ++format, ++number) {
            shape.format = format;
            shape.head_format = format == INT4 ? INT8 : format;
            const bool is_bfloat = number % 2 == 1;
            const auto wanted = scores(shape, *kernels_portable(), 1, shape.most_rows, is_bfloat);
            std::string levels = beholder_levels();
            for (char *name = strtok(levels.data(), " "); name; name = strtok(nullptr, " ")) {
                const double error = apart(
                    scores(shape, *kernels_of(name), 2, shape.most_rows, is_bfloat), wanted);
                printf("%s format %d hidden %ld: %.1e\n", name, format, static_cast<long>(shape.hidden), error);
                failures += !(error <= bounds[format]) + narrow_failures(shape, *kernels_of(name));
            }
        }
    }
    return failures;
}
