// Sixteen numbers at a time in plain C++ with the vector types of GCC and Clang: runs on every processor.
#pragma once

#include "native.h"

namespace {

using namespace beholder;

typedef float Floats __attribute__((vector_size(64)));
typedef int32_t Ints __attribute__((vector_size(64)));
struct Bytes {
    int8_t at[64];
};
// `byte_dot` takes the offset of int8 weights back itself.
constexpr int BYTE_OFFSET = 0;
// How many rows of the batch stand in registers at once.
constexpr int TILE_ROWS = 2;
// Chains of sums of a single row.
constexpr int MOST_CHAINS = 4;
// How many query heads of a key head attend at once.
constexpr int MOST_HEADS = 4;

inline Floats same(float value) { return value - Floats{}; }
inline Ints same_int(int value) { return value - Ints{}; }
inline Floats load(const float *from) {
    Floats x;
    __builtin_memcpy(&x, from, sizeof x);
    return x;
}
inline Floats load(const uint16_t *from) {
    Floats x;
    for (int i = 0; i < LANES; ++i) x[i] = bfloat_to_float(from[i]);
    return x;
}
template <typename Number>
inline Floats load_some(const Number *from, long count) {
    Number filled[LANES] = {};
    __builtin_memcpy(filled, from, sizeof(Number) * count);
    return load(filled);
}
inline void store(float *to, Floats x) { __builtin_memcpy(to, &x, sizeof x); }
inline Floats add(Floats x, Floats y) { return x + y; }
inline Floats subtract(Floats x, Floats y) { return x - y; }
inline Floats multiply(Floats x, Floats y) { return x * y; }
inline Floats divide(Floats x, Floats y) { return x / y; }
inline Floats multiply_add(Floats x, Floats y, Floats z) { return x * y + z; }
inline Floats higher(Floats x, Floats y) { return x > y ? x : y; }
inline Floats lower(Floats x, Floats y) { return x < y ? x : y; }
inline Floats magnitude(Floats x) { return x < 0.0f ? -x : x; }
inline float sum(Floats x) {
    float total = 0;
    for (int i = 0; i < LANES; ++i) total += x[i];
    return total;
}
// The sums of sixteen vectors.
inline Floats all_sums(const Floats *x) {
    Floats sums;
    for (int i = 0; i < LANES; ++i) sums[i] = sum(x[i]);
    return sums;
}
inline float highest(Floats x) {
    float best = x[0];
    for (int i = 1; i < LANES; ++i) best = x[i] > best ? x[i] : best;
    return best;
}
inline Floats to_floats(Ints x) { return __builtin_convertvector(x, Floats); }
inline Ints add_ints(Ints x, Ints y) { return x + y; }

// y * 2^n, where n stands in the low bits of t.
inline Floats scale_by_power(Floats y, Floats t) {
    typedef uint32_t Bits __attribute__((vector_size(64)));
    return (Floats)((Bits)y + ((Bits)t << 23));
}

#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
#error "packed pairs and bytes are read as little-endian words"
#endif
struct Pair {
    float first, second;
};
inline Pair same_pair(uint32_t word) {
    return {word_as_float(word << 16), word_as_float(word & 0xffff0000u)};
}
inline Floats pair_dot(Floats sum, const uint8_t *weights, Pair x) {
    typedef uint32_t Bits __attribute__((vector_size(64)));
    Bits both;
    __builtin_memcpy(&both, weights, sizeof both);
    sum += (Floats)(both << 16) * x.first;
    return sum + (Floats)(both & 0xffff0000u) * x.second;
}

inline Bytes load_bytes(const uint8_t *from) {
    Bytes x;
    __builtin_memcpy(x.at, from, sizeof x.at);
    return x;
}
inline Bytes same_bytes(uint32_t word) {
    Bytes x;
    for (int i = 0; i < 64; i += 4) __builtin_memcpy(x.at + i, &word, 4);
    return x;
}
inline Bytes low_halves(Bytes x) {
    for (int i = 0; i < 64; ++i) x.at[i] = static_cast<int8_t>(x.at[i] & 15);
    return x;
}
inline Bytes high_halves(Bytes x) {
    for (int i = 0; i < 64; ++i) x.at[i] = static_cast<int8_t>(static_cast<uint8_t>(x.at[i]) >> 4);
    return x;
}
inline Ints half_dot(Ints sum, const Bytes &weights, const Bytes &x) {
    int16_t products[64];
    for (int i = 0; i < 64; ++i) products[i] = static_cast<int16_t>(weights.at[i] * x.at[i]);
    for (int i = 0; i < LANES; ++i)
        sum[i] += products[4 * i] + products[4 * i + 1] + products[4 * i + 2] + products[4 * i + 3];
    return sum;
}
inline Ints byte_dot(Ints sum, Bytes weights, const Bytes &x) {
    for (int i = 0; i < 64; ++i) weights.at[i] = static_cast<int8_t>(weights.at[i] ^ -128);
    return half_dot(sum, weights, x);
}

inline void store_bytes(int8_t *to, Floats whole) {
    for (int i = 0; i < LANES; ++i) to[i] = static_cast<int8_t>(whole[i]);
}
inline void store_bfloats(uint16_t *to, Floats x) {
    for (int i = 0; i < LANES; ++i) to[i] = float_to_bfloat(x[i]);
}
inline void fetch_ahead(const void *address) { __builtin_prefetch(address); }

}  // namespace
