// Sixteen numbers at a time on AVX-512 with bfloat16 and VNNI.
#pragma once

#include <immintrin.h>

#include "native.h"

namespace {

using namespace beholder;

using Floats = __m512;
using Ints = __m512i;
using Bytes = __m512i;
// Bytes of int8 weights stand as value + 128 in `byte_dot`; the sum of the activations takes it back.
constexpr int BYTE_OFFSET = 128;
// How many rows of the batch stand in registers at once.
constexpr int TILE_ROWS = 8;
// Chains of sums of a single row.
constexpr int MOST_CHAINS = 4;
// How many query heads of a key head attend at once.
constexpr int MOST_HEADS = 8;

inline Floats same(float value) { return _mm512_set1_ps(value); }
inline Ints same_int(int value) { return _mm512_set1_epi32(value); }
inline Floats load(const float *from) { return _mm512_loadu_ps(from); }
inline Floats load(const uint16_t *from) {
    const __m256i halves = _mm256_loadu_si256(reinterpret_cast<const __m256i *>(from));
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(halves), 16));
}
#define LEVEL_WIDENS_BYTES
inline Floats widened_bytes(const int8_t *from) {
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i *>(from))));
}
inline Floats load_some(const float *from, long count) {
    return _mm512_maskz_loadu_ps(static_cast<__mmask16>((1u << count) - 1), from);
}
inline Floats load_some(const uint16_t *from, long count) {
    const __m256i halves = _mm256_maskz_loadu_epi16(static_cast<__mmask16>((1u << count) - 1), from);
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(halves), 16));
}
inline void store(float *to, Floats x) { _mm512_storeu_ps(to, x); }
inline Floats add(Floats x, Floats y) { return _mm512_add_ps(x, y); }
inline Floats subtract(Floats x, Floats y) { return _mm512_sub_ps(x, y); }
inline Floats multiply(Floats x, Floats y) { return _mm512_mul_ps(x, y); }
inline Floats divide(Floats x, Floats y) { return _mm512_div_ps(x, y); }
inline Floats multiply_add(Floats x, Floats y, Floats z) { return _mm512_fmadd_ps(x, y, z); }
inline Floats higher(Floats x, Floats y) { return _mm512_max_ps(x, y); }
inline Floats lower(Floats x, Floats y) { return _mm512_min_ps(x, y); }
inline Floats magnitude(Floats x) { return _mm512_abs_ps(x); }
inline float sum(Floats x) { return _mm512_reduce_add_ps(x); }
inline float highest(Floats x) { return _mm512_reduce_max_ps(x); }
// Four vectors to the sums of their quarters: [x0 x1 x2 x3] in each quarter.
inline Floats quarter_sums(const Floats *x) {
    const __m512 a = _mm512_add_ps(_mm512_unpacklo_ps(x[0], x[1]), _mm512_unpackhi_ps(x[0], x[1]));
    const __m512 b = _mm512_add_ps(_mm512_unpacklo_ps(x[2], x[3]), _mm512_unpackhi_ps(x[2], x[3]));
    const __m512d c = _mm512_castps_pd(a), d = _mm512_castps_pd(b);
    const __m512d low = _mm512_unpacklo_pd(c, d), high = _mm512_unpackhi_pd(c, d);
    return _mm512_add_ps(_mm512_castpd_ps(low), _mm512_castpd_ps(high));
}
inline Floats joined(Floats x, Floats y) {
    return _mm512_add_ps(_mm512_shuffle_f32x4(x, y, 0x88), _mm512_shuffle_f32x4(x, y, 0xdd));
}
// The sums of sixteen vectors.
inline Floats all_sums(const Floats *x) {
    const Floats first = joined(quarter_sums(x), quarter_sums(x + 4));
    return joined(first, joined(quarter_sums(x + 8), quarter_sums(x + 12)));
}
inline Floats to_floats(Ints x) { return _mm512_cvtepi32_ps(x); }
inline Ints add_ints(Ints x, Ints y) { return _mm512_add_epi32(x, y); }

// y * 2^n, where n stands in the low bits of t.
inline Floats scale_by_power(Floats y, Floats t) {
    const __m512i power = _mm512_slli_epi32(_mm512_castps_si512(t), 23);
    return _mm512_castsi512_ps(_mm512_add_epi32(_mm512_castps_si512(y), power));
}

using Pair = __m512i;
inline Pair same_pair(uint32_t word) { return _mm512_set1_epi32(static_cast<int>(word)); }
inline Floats pair_dot(Floats sum, const uint8_t *weights, Pair x) {
    return _mm512_dpbf16_ps(sum, (__m512bh)_mm512_loadu_si512(weights), (__m512bh)x);
}

inline Bytes load_bytes(const uint8_t *from) { return _mm512_loadu_si512(from); }
inline Bytes same_bytes(uint32_t word) { return _mm512_set1_epi32(static_cast<int>(word)); }
inline Bytes low_halves(Bytes x) { return _mm512_and_si512(x, _mm512_set1_epi8(15)); }
inline Bytes high_halves(Bytes x) {
    return _mm512_and_si512(_mm512_srli_epi16(x, 4), _mm512_set1_epi8(15));
}
// Written out: around the intrinsic GCC 12 copies every sum to another register and back.
inline Ints byte_dot(Ints sum, Bytes weights, Bytes x) {
    __asm__("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(weights), "v"(x));
    return sum;
}
inline Ints half_dot(Ints sum, Bytes weights, Bytes x) { return byte_dot(sum, weights, x); }

inline void store_bytes(int8_t *to, Floats whole) {
    _mm_storeu_si128(reinterpret_cast<__m128i *>(to), _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(whole)));
}
inline void store_bfloats(uint16_t *to, Floats x) {
    _mm256_storeu_si256(reinterpret_cast<__m256i *>(to), (__m256i)_mm512_cvtneps_pbh(x));
}
inline void fetch_ahead(const void *address) {
    _mm_prefetch(static_cast<const char *>(address), _MM_HINT_T0);
}

}  // namespace
