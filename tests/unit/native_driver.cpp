// Runs the native step on small trunks of awkward shapes, every format on every level of this processor, with
// buffers of exactly the size that is asked for. Compiled with sanitizers by test_native_sanitized.py, which
// lets it end with 0 only if all levels agree.
#include <math.h>
#include <stdio.h>
#include <string.h>

#include <string>
#include <vector>

#include "native_checks.h"
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

// A token's numbers of one head at their place, as the step stores them; bytes by the portable kernels.
void store(const float *numbers, long width, Format stored, long token, std::vector<uint8_t> &memory,
           std::vector<float> &scales) {
    if (stored == INT8) {
        std::vector<float> padded(numbers, numbers + width);
        padded.resize(rounded_up(width, LANES));
        find_kernels("portable")->keep(padded.data(), width, reinterpret_cast<int8_t *>(&memory[token * width]),
                                 &scales[token]);
        return;
    }
    for (long d = 0; d < width; ++d) {
        const uint16_t half = float_to_bfloat(numbers[d]);
        const long at = token * width + d;
        stored == BF16 ? memcpy(&memory[2 * at], &half, 2) : memcpy(&memory[4 * at], &numbers[d], 4);
    }
}

// Rows with 1, 2, 3 .. ranges of places, none of them shared.
std::vector<float> scores(Trunk &trunk, Format stored) {
    const Shape &shape = trunk.shape;
    const long rows = shape.most_rows;
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
    const long tokens = shape.key_heads * place, width = shape.head_width;
    std::vector<std::vector<uint8_t>> memory;
    std::vector<std::vector<float>> scales;
    std::vector<void *> keys, values;
    std::vector<float *> key_scales, value_scales;
    for (long layer = 0; layer < 2 * shape.layers; ++layer) {
        const auto numbers = random.many(tokens * width, 1.0f);
        memory.emplace_back(numbers.size() * (stored == F32 ? 4 : stored == BF16 ? 2 : 1));
        scales.emplace_back(stored == INT8 ? tokens : 0);
        for (long token = 0; token < tokens; ++token)
            store(numbers.data() + token * width, width, stored, token, memory.back(), scales.back());
        (layer % 2 ? values : keys).push_back(memory.back().data());
        (layer % 2 ? value_scales : key_scales).push_back(scales.back().data());
    }
    const long half = shape.head_width / 2, stride = rounded_up(shape.vocabulary, BLOCK);
    const auto hidden = random.many(rows * shape.hidden, 1.0f);
    std::vector<float> cosines(rows * half, 0.8f), sines(rows * half, 0.6f), logits(rows * stride);
    const Step step{rows, hidden.data(), cosines.data(), sines.data(), ranges.data(), ends.data(),
                    keys.data(), values.data(), key_scales.data(), value_scales.data(), place, stored, 0,
                    logits.data(), stride};
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
    Step unknown = step;
    unknown.stored = INT4;
    if (!trunk.run(unknown)) printf("keys and values in a format that there is not: a step was accepted\n");
    unknown.stored = INT8;
    unknown.key_scales = nullptr;
    if (!trunk.run(unknown)) printf("bytes without scales: a step was accepted\n");
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
    std::vector<float> wide(rows * columns);
    std::vector<uint16_t> halves(rows * columns);
    put.widen_codes(0, Part::NARROW, wide.data(), false, 0, rows, 0, 1);
    put.widen_codes(0, Part::NARROW, halves.data(), true, 0, rows, 0, 1);
    std::vector<float> one(columns), other(columns);
    for (long row = 0; row < rows; ++row) {
        packed.unpack(0, Part::NARROW, row, one.data());
        put.unpack(0, Part::NARROW, row, other.data());
        failures += memcmp(one.data(), other.data(), columns * sizeof(float)) != 0;
        failures += memcmp(one.data(), wide.data() + row * columns, columns * sizeof(float)) != 0;
        for (long k = 0; k < columns; ++k) failures += halves[row * columns + k] != float_to_bfloat(one[k]);
    }
    put.drop(0, Part::NARROW);
    put.take_codes(0, Part::NARROW, taken.data(), again.data(), 0, rows, 0, 1);
    put.widen_codes(0, Part::NARROW, wide.data(), false, 0, rows, 0, 1);
    if (failures) printf("%s format %d: codes come back as others\n", kernels.name, format);
    return failures;
}

// Whether all levels say what the portable one says, over memory of every kind.
int score_failures(const Shape &shape) {
    const double bounds[] = {1e-5, 1e-3, 5e-3, 5e-3};
    const Format forms[] = {F32, BF16, INT8};
    Trunk right(shape, *find_kernels("portable"), 1, {});
    fill(right);
    std::vector<std::vector<float>> wanted;
    for (const Format stored : forms) wanted.push_back(scores(right, stored));
    std::string levels = beholder_levels();
    int failures = 0;
    for (char *name = strtok(levels.data(), " "); name; name = strtok(nullptr, " ")) {
        Trunk trunk(shape, *find_kernels(name), 2, {});
        fill(trunk);
        for (int form = 0; form < 3; ++form) {
            const double error = apart(scores(trunk, forms[form]), wanted[form]);
            printf("%s format %d over %d hidden %ld: %.1e\n", name, shape.format, forms[form],
                   static_cast<long>(shape.hidden), error);
            failures += !(error <= bounds[shape.format]);
        }
    }
    return failures;
}

}  // namespace

// With any argument it only tells which levels this processor has.
int main(int argc, char **) {
    if (argc > 1) return printf("%s\n", beholder_levels()) < 0;
    // layers, hidden, heads, key heads, head width, inner, vocabulary, rows
    const Shape shapes[] = {
        {2, 40, 4, 2, 10, 52, 33, 3, 1e-5f, 0.3f, 0, 32, 0, 32},
        {1, 144, 9, 1, 36, 264, 48, 16, 1e-5f, 0.2f, 0, 64, 0, 32},
        {1, 7, 3, 3, 2, 5, 3, 5, 1e-5f, 0.7f, 0, 128, 0, 128},
    };
    int failures = 0;
    for (Shape shape : shapes) {
        for (int format = F32; format <= INT4; ++format) {
            shape.format = format;
            shape.head_format = format == INT4 ? INT8 : format;
            std::string levels = beholder_levels();
            for (char *name = strtok(levels.data(), " "); name; name = strtok(nullptr, " "))
                failures += narrow_failures(shape, *find_kernels(name));
            failures += score_failures(shape);
        }
    }
    std::string levels = beholder_levels();
    for (char *name = strtok(levels.data(), " "); name; name = strtok(nullptr, " ")) {
        const Kernels &kernels = *find_kernels(name);
        failures += product_failures(kernels) + row_failures(kernels) + filter_failures(kernels);
    }
    return failures > 0;
}
