// Sixteen numbers at a time on AVX2 with FMA, as two halves of eight.
#pragma once

#include <immintrin.h>

#include "native.h"

namespace {

using namespace beholder;

struct Floats {
    __m256 a, b;
};
struct Ints {
    __m256i a, b;
};
using Bytes = Ints;
// `byte_dot` takes the offset of int8 weights back itself.
constexpr int BYTE_OFFSET = 0;
// How many rows of the batch stand in registers at once.
constexpr int TILE_ROWS = 2;
// Chains of sums of a single row.
constexpr int MOST_CHAINS = 4;
// How many query heads of a key head attend at once.
constexpr int MOST_HEADS = 4;

inline __m256i widened(const uint16_t *from) {
    const __m128i halves = _mm_loadu_si128(reinterpret_cast<const __m128i *>(from));
    return _mm256_slli_epi32(_mm256_cvtepu16_epi32(halves), 16);
}
inline Floats same(float value) { return {_mm256_set1_ps(value), _mm256_set1_ps(value)}; }
inline Ints same_int(int value) { return {_mm256_set1_epi32(value), _mm256_set1_epi32(value)}; }
inline Floats load(const float *from) { return {_mm256_loadu_ps(from), _mm256_loadu_ps(from + 8)}; }
inline Floats load(const uint16_t *from) {
    return {_mm256_castsi256_ps(widened(from)), _mm256_castsi256_ps(widened(from + 8))};
}
#define LEVEL_WIDENS_BYTES
inline __m256 widened_half(const int8_t *from) {
    const __m128i bytes = _mm_loadl_epi64(reinterpret_cast<const __m128i *>(from));
    return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes));
}
inline Floats widened_bytes(const int8_t *from) { return {widened_half(from), widened_half(from + 8)}; }
template <typename Number>
inline Floats load_some(const Number *from, long count) {
    Number filled[LANES] = {};
    __builtin_memcpy(filled, from, sizeof(Number) * count);
    return load(filled);
}
inline void store(float *to, Floats x) {
    _mm256_storeu_ps(to, x.a);
    _mm256_storeu_ps(to + 8, x.b);
}
inline Floats add(Floats x, Floats y) { return {_mm256_add_ps(x.a, y.a), _mm256_add_ps(x.b, y.b)}; }
inline Floats subtract(Floats x, Floats y) { return {_mm256_sub_ps(x.a, y.a), _mm256_sub_ps(x.b, y.b)}; }
inline Floats multiply(Floats x, Floats y) { return {_mm256_mul_ps(x.a, y.a), _mm256_mul_ps(x.b, y.b)}; }
inline Floats divide(Floats x, Floats y) { return {_mm256_div_ps(x.a, y.a), _mm256_div_ps(x.b, y.b)}; }
inline Floats multiply_add(Floats x, Floats y, Floats z) {
    return {_mm256_fmadd_ps(x.a, y.a, z.a), _mm256_fmadd_ps(x.b, y.b, z.b)};
}
inline Floats higher(Floats x, Floats y) { return {_mm256_max_ps(x.a, y.a), _mm256_max_ps(x.b, y.b)}; }
inline Floats lower(Floats x, Floats y) { return {_mm256_min_ps(x.a, y.a), _mm256_min_ps(x.b, y.b)}; }
inline Floats magnitude(Floats x) {
    const __m256 sign = _mm256_set1_ps(-0.0f);
    return {_mm256_andnot_ps(sign, x.a), _mm256_andnot_ps(sign, x.b)};
}
inline float sum(Floats x) {
    const __m256 eight = _mm256_add_ps(x.a, x.b);
    __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    four = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(four, _mm_movehdup_ps(four)));
}
inline float highest(Floats x) {
    const __m256 eight = _mm256_max_ps(x.a, x.b);
    __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    four = _mm_max_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_max_ss(four, _mm_movehdup_ps(four)));
}
inline __m256 folded(Floats x) { return _mm256_add_ps(x.a, x.b); }
inline __m256 four_sums(const Floats *x) {
    const __m256 a = _mm256_hadd_ps(folded(x[0]), folded(x[1])), b = _mm256_hadd_ps(folded(x[2]), folded(x[3]));
    return _mm256_hadd_ps(a, b);
}
inline __m256 eight_sums(const Floats *x) {
    const __m256 a = four_sums(x), b = four_sums(x + 4);
    return _mm256_add_ps(_mm256_permute2f128_ps(a, b, 0x20), _mm256_permute2f128_ps(a, b, 0x31));
}
// The sums of sixteen vectors.
inline Floats all_sums(const Floats *x) { return {eight_sums(x), eight_sums(x + 8)}; }
inline Floats to_floats(Ints x) { return {_mm256_cvtepi32_ps(x.a), _mm256_cvtepi32_ps(x.b)}; }
inline Ints add_ints(Ints x, Ints y) { return {_mm256_add_epi32(x.a, y.a), _mm256_add_epi32(x.b, y.b)}; }

inline __m256 scaled_half(__m256 y, __m256 t) {
    const __m256i power = _mm256_slli_epi32(_mm256_castps_si256(t), 23);
    return _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(y), power));
}
// y * 2^n, where n stands in the low bits of t.
inline Floats scale_by_power(Floats y, Floats t) { return {scaled_half(y.a, t.a), scaled_half(y.b, t.b)}; }

inline __m256 pair_dot_half(__m256 sum, __m256i weights, __m256 first, __m256 second) {
    const __m256 high = _mm256_castsi256_ps(_mm256_and_si256(weights, _mm256_set1_epi32(0xffff0000)));
    sum = _mm256_fmadd_ps(_mm256_castsi256_ps(_mm256_slli_epi32(weights, 16)), first, sum);
    return _mm256_fmadd_ps(high, second, sum);
}
struct Pair {
    __m256 first, second;
};
inline Pair same_pair(uint32_t word) {
    return {_mm256_set1_ps(word_as_float(word << 16)), _mm256_set1_ps(word_as_float(word & 0xffff0000u))};
}
inline Floats pair_dot(Floats sum, const uint8_t *weights, Pair x) {
    const __m256i *from = reinterpret_cast<const __m256i *>(weights);
    return {pair_dot_half(sum.a, _mm256_loadu_si256(from), x.first, x.second),
            pair_dot_half(sum.b, _mm256_loadu_si256(from + 1), x.first, x.second)};
}

inline Bytes load_bytes(const uint8_t *from) {
    const __m256i *at = reinterpret_cast<const __m256i *>(from);
    return {_mm256_loadu_si256(at), _mm256_loadu_si256(at + 1)};
}
inline Bytes same_bytes(uint32_t word) { return same_int(static_cast<int>(word)); }
inline Bytes low_halves(Bytes x) {
    const __m256i mask = _mm256_set1_epi8(15);
    return {_mm256_and_si256(x.a, mask), _mm256_and_si256(x.b, mask)};
}
inline Bytes high_halves(Bytes x) {
    return low_halves({_mm256_srli_epi16(x.a, 4), _mm256_srli_epi16(x.b, 4)});
}
inline __m256i add_pairs(__m256i sum, __m256i products) {
    return _mm256_add_epi32(sum, _mm256_madd_epi16(products, _mm256_set1_epi16(1)));
}
// Sums of pairs saturate at 16 bits; |weight| * (x with the weight's sign) stays below: 2 * 127 * 127.
inline __m256i signed_dot(__m256i sum, __m256i weights, __m256i x) {
    const __m256i w = _mm256_xor_si256(weights, _mm256_set1_epi8(-128));
    return add_pairs(sum, _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(x, w)));
}
inline Ints byte_dot(Ints sum, Bytes weights, Bytes x) {
    return {signed_dot(sum.a, weights.a, x.a), signed_dot(sum.b, weights.b, x.b)};
}
inline Ints half_dot(Ints sum, Bytes weights, Bytes x) {
    return {add_pairs(sum.a, _mm256_maddubs_epi16(weights.a, x.a)),
            add_pairs(sum.b, _mm256_maddubs_epi16(weights.b, x.b))};
}

inline void store_bytes(int8_t *to, Floats whole) {
    const __m256i pairs = _mm256_packs_epi32(_mm256_cvtps_epi32(whole.a), _mm256_cvtps_epi32(whole.b));
    const __m256i ordered = _mm256_permute4x64_epi64(pairs, 0xd8);
    const __m128i all = _mm_packs_epi16(_mm256_castsi256_si128(ordered), _mm256_extracti128_si256(ordered, 1));
    _mm_storeu_si128(reinterpret_cast<__m128i *>(to), all);
}
inline __m256i rounded_half(__m256 x) {
    const __m256i bits = _mm256_castps_si256(x), one = _mm256_set1_epi32(1);
    const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), one);
    const __m256i up = _mm256_add_epi32(_mm256_add_epi32(bits, odd), _mm256_set1_epi32(0x7fff));
    const __m256i is_number = _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_ORD_Q));
    const __m256i nothing = _mm256_set1_epi32(0x7fc0);
    return _mm256_blendv_epi8(nothing, _mm256_srli_epi32(up, 16), is_number);
}
inline void store_bfloats(uint16_t *to, Floats x) {
    const __m256i pairs = _mm256_packus_epi32(rounded_half(x.a), rounded_half(x.b));
    _mm256_storeu_si256(reinterpret_cast<__m256i *>(to), _mm256_permute4x64_epi64(pairs, 0xd8));
}
inline void fetch_ahead(const void *address) {
    _mm_prefetch(static_cast<const char *>(address), _MM_HINT_T0);
}

}  // namespace
