// Attention over keys and values in bytes, each of which has one scale for its token and head. A key's scale is
// met by its score and a value's by its weight, so what is read place by place are the bytes alone. Included
// once per level of processor, behind vectors.h and packing.h.
#pragma once

namespace {

// A byte of a key or value: a type of its own, whose functions the templates of vectors.h find here.
struct Code {
    int8_t value;
};

// Sixteen bytes as floats. A level that has instructions for it says so, and has its own.
#ifndef LEVEL_WIDENS_BYTES
inline Floats widened_bytes(const int8_t *from) {
    float some[LANES];
    for (long i = 0; i < LANES; ++i) some[i] = from[i];
    return load(some);
}
#endif

inline Floats load(const Code *from) { return widened_bytes(&from->value); }
inline Floats load_some(const Code *from, long count) {
    int8_t filled[LANES] = {};
    __builtin_memcpy(filled, from, count);
    return widened_bytes(filled);
}

// Numbers of one token in one head, padded with zeros to 16, as bytes: those of generation/kept.py's
// `to_bytes`. What is no number makes the scale none.
void keep_row(const float *x, long count, int8_t *to, float *scale) {
    Floats most = same(0.0f), odd = same(0.0f);
    for (long k = 0; k < count; k += LANES) {
        const Floats some = load(x + k);
        most = higher(most, magnitude(some));
        odd = multiply_add(some, same(0.0f), odd);  // stays 0 unless something is no number
    }
    const float largest = highest(most), poison = sum(odd);
    const bool is_number = poison == 0.0f, is_something = is_number && largest >= SMALLEST;
    *scale = is_something ? largest / 127.0f : poison;
    if (!is_something) {
        __builtin_memset(to, 0, count);
        return;
    }
    const Floats inverse = same(127.0f / largest), bottom = same(-127.0f), top = same(127.0f);
    for (long k = 0; k < count; k += LANES) {
        int8_t some[LANES];
        store_bytes(some, whole_within(load(x + k), inverse, bottom, top));
        __builtin_memcpy(to + k, some, count - k < LANES ? count - k : LANES);
    }
}

// Numbers of all places, in the ranges' order, times what each place has.
void multiply_by_places(const Heads &heads, float *numbers, const float *of_places) {
    for (long r = 0; r < heads.range_count; ++r) {
        const float *from = of_places + heads.ranges[2 * r];
        const long count = heads.ranges[2 * r + 1] - heads.ranges[2 * r];
        for (long t = 0; t < count; ++t) numbers[t] *= from[t];
        numbers += count;
    }
}

void weigh(const Heads &heads, float *scores, const Code *) {
    multiply_by_places(heads, scores, heads.key_scales);
    soften(scores, heads.length);
    multiply_by_places(heads, scores, heads.value_scales);
}

void attend_codes(const Heads &heads) { attend_row<Code>(heads); }

}  // namespace
