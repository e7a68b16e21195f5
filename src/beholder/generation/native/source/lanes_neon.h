// Sixteen numbers at a time on 64-bit ARM, as four quarters of four. With dot products of bytes where the compiler
// is told that the processor has them (FEAT_DotProd), with widening products where not: both are exact.
#pragma once

#include <arm_neon.h>

#include "native.h"

namespace {

using namespace beholder;

struct Floats {
    float32x4_t a, b, c, d;
};
struct Ints {
    int32x4_t a, b, c, d;
};
struct Bytes {
    int8x16_t a, b, c, d;
};
// `byte_dot` takes the offset of int8 weights back itself.
constexpr int BYTE_OFFSET = 0;
// How many rows of the batch stand in registers at once: each has eight of the 32.
constexpr int TILE_ROWS = 2;
// Chains of sums of a single row.
constexpr int MOST_CHAINS = 2;
// How many query heads of a key head attend at once; the mix of values has two times four vectors of each.
constexpr int MOST_HEADS = 2;

inline Floats same(float value) {
    const float32x4_t x = vdupq_n_f32(value);
    return {x, x, x, x};
}
inline Ints same_int(int value) {
    const int32x4_t x = vdupq_n_s32(value);
    return {x, x, x, x};
}
inline Floats load(const float *from) {
    return {vld1q_f32(from), vld1q_f32(from + 4), vld1q_f32(from + 8), vld1q_f32(from + 12)};
}
// Behind a zero each, on a little-endian processor, halves are the high parts of words.
inline Floats load(const uint16_t *from) {
    const uint16x8_t none = vdupq_n_u16(0), x = vld1q_u16(from), y = vld1q_u16(from + 8);
    return {vreinterpretq_f32_u16(vzip1q_u16(none, x)), vreinterpretq_f32_u16(vzip2q_u16(none, x)),
            vreinterpretq_f32_u16(vzip1q_u16(none, y)), vreinterpretq_f32_u16(vzip2q_u16(none, y))};
}
template <typename Number>
inline Floats load_some(const Number *from, long count) {
    Number filled[LANES] = {};
    __builtin_memcpy(filled, from, sizeof(Number) * count);
    return load(filled);
}
inline void store(float *to, Floats x) {
    vst1q_f32(to, x.a);
    vst1q_f32(to + 4, x.b);
    vst1q_f32(to + 8, x.c);
    vst1q_f32(to + 12, x.d);
}
inline Floats add(Floats x, Floats y) {
    return {vaddq_f32(x.a, y.a), vaddq_f32(x.b, y.b), vaddq_f32(x.c, y.c), vaddq_f32(x.d, y.d)};
}
inline Floats subtract(Floats x, Floats y) {
    return {vsubq_f32(x.a, y.a), vsubq_f32(x.b, y.b), vsubq_f32(x.c, y.c), vsubq_f32(x.d, y.d)};
}
inline Floats multiply(Floats x, Floats y) {
    return {vmulq_f32(x.a, y.a), vmulq_f32(x.b, y.b), vmulq_f32(x.c, y.c), vmulq_f32(x.d, y.d)};
}
inline Floats divide(Floats x, Floats y) {
    return {vdivq_f32(x.a, y.a), vdivq_f32(x.b, y.b), vdivq_f32(x.c, y.c), vdivq_f32(x.d, y.d)};
}
inline Floats multiply_add(Floats x, Floats y, Floats z) {
    return {vfmaq_f32(z.a, x.a, y.a), vfmaq_f32(z.b, x.b, y.b), vfmaq_f32(z.c, x.c, y.c),
            vfmaq_f32(z.d, x.d, y.d)};
}
// Of what cannot be compared the second, as on the other levels; vmaxq_f32 would keep what is no number.
inline float32x4_t higher_quarter(float32x4_t x, float32x4_t y) { return vbslq_f32(vcgtq_f32(x, y), x, y); }
inline float32x4_t lower_quarter(float32x4_t x, float32x4_t y) { return vbslq_f32(vcltq_f32(x, y), x, y); }
inline Floats higher(Floats x, Floats y) {
    return {higher_quarter(x.a, y.a), higher_quarter(x.b, y.b), higher_quarter(x.c, y.c),
            higher_quarter(x.d, y.d)};
}
inline Floats lower(Floats x, Floats y) {
    return {lower_quarter(x.a, y.a), lower_quarter(x.b, y.b), lower_quarter(x.c, y.c), lower_quarter(x.d, y.d)};
}
inline Floats magnitude(Floats x) { return {vabsq_f32(x.a), vabsq_f32(x.b), vabsq_f32(x.c), vabsq_f32(x.d)}; }
inline float32x4_t folded(Floats x) { return vaddq_f32(vaddq_f32(x.a, x.b), vaddq_f32(x.c, x.d)); }
inline float sum(Floats x) { return vaddvq_f32(folded(x)); }
inline float highest(Floats x) {
    return vmaxvq_f32(higher_quarter(higher_quarter(x.a, x.b), higher_quarter(x.c, x.d)));
}
inline float32x4_t four_sums(const Floats *x) {
    return vpaddq_f32(vpaddq_f32(folded(x[0]), folded(x[1])), vpaddq_f32(folded(x[2]), folded(x[3])));
}
// The sums of sixteen vectors.
inline Floats all_sums(const Floats *x) {
    return {four_sums(x), four_sums(x + 4), four_sums(x + 8), four_sums(x + 12)};
}
inline Floats to_floats(Ints x) {
    return {vcvtq_f32_s32(x.a), vcvtq_f32_s32(x.b), vcvtq_f32_s32(x.c), vcvtq_f32_s32(x.d)};
}
inline Ints add_ints(Ints x, Ints y) {
    return {vaddq_s32(x.a, y.a), vaddq_s32(x.b, y.b), vaddq_s32(x.c, y.c), vaddq_s32(x.d, y.d)};
}

inline float32x4_t scaled_quarter(float32x4_t y, float32x4_t t) {
    const uint32x4_t power = vshlq_n_u32(vreinterpretq_u32_f32(t), 23);
    return vreinterpretq_f32_u32(vaddq_u32(vreinterpretq_u32_f32(y), power));
}
// y * 2^n, where n stands in the low bits of t.
inline Floats scale_by_power(Floats y, Floats t) {
    return {scaled_quarter(y.a, t.a), scaled_quarter(y.b, t.b), scaled_quarter(y.c, t.c),
            scaled_quarter(y.d, t.d)};
}

// Pairs of bfloat16 are widened and met one after the other. There are instructions for pairs (BFDOT), which newer
// processors alone have and which round in their own way; a row alone waits for memory either way.
struct Pair {
    float32x4_t first, second;
};
inline Pair same_pair(uint32_t word) {
    return {vdupq_n_f32(word_as_float(word << 16)), vdupq_n_f32(word_as_float(word & 0xffff0000u))};
}
inline float32x4_t pair_dot_quarter(float32x4_t sum, const uint8_t *weights, Pair x) {
    const uint32x4_t both = vreinterpretq_u32_u8(vld1q_u8(weights));
    sum = vfmaq_f32(sum, vreinterpretq_f32_u32(vshlq_n_u32(both, 16)), x.first);
    return vfmaq_f32(sum, vreinterpretq_f32_u32(vandq_u32(both, vdupq_n_u32(0xffff0000u))), x.second);
}
inline Floats pair_dot(Floats sum, const uint8_t *weights, Pair x) {
    return {pair_dot_quarter(sum.a, weights, x), pair_dot_quarter(sum.b, weights + 16, x),
            pair_dot_quarter(sum.c, weights + 32, x), pair_dot_quarter(sum.d, weights + 48, x)};
}

inline int8x16_t load_quarter(const uint8_t *from) { return vreinterpretq_s8_u8(vld1q_u8(from)); }
inline Bytes load_bytes(const uint8_t *from) {
    return {load_quarter(from), load_quarter(from + 16), load_quarter(from + 32), load_quarter(from + 48)};
}
inline Bytes same_bytes(uint32_t word) {
    const int8x16_t x = vreinterpretq_s8_u32(vdupq_n_u32(word));
    return {x, x, x, x};
}
inline Bytes low_halves(Bytes x) {
    const int8x16_t mask = vdupq_n_s8(15);
    return {vandq_s8(x.a, mask), vandq_s8(x.b, mask), vandq_s8(x.c, mask), vandq_s8(x.d, mask)};
}
inline int8x16_t high_quarter(int8x16_t x) {
    return vreinterpretq_s8_u8(vshrq_n_u8(vreinterpretq_u8_s8(x), 4));
}
inline Bytes high_halves(Bytes x) {
    return {high_quarter(x.a), high_quarter(x.b), high_quarter(x.c), high_quarter(x.d)};
}
#ifdef __ARM_FEATURE_DOTPROD
inline int32x4_t dot_quarter(int32x4_t sum, int8x16_t weights, int8x16_t x) { return vdotq_s32(sum, weights, x); }
#else
// Two products of bytes fit into 16 bits: 2 * 128 * 127.
inline int32x4_t dot_quarter(int32x4_t sum, int8x16_t weights, int8x16_t x) {
    const int16x8_t first = vmull_s8(vget_low_s8(weights), vget_low_s8(x));
    return vpadalq_s16(sum, vpaddq_s16(first, vmull_high_s8(weights, x)));
}
#endif
inline Ints half_dot(Ints sum, Bytes weights, Bytes x) {
    return {dot_quarter(sum.a, weights.a, x.a), dot_quarter(sum.b, weights.b, x.b),
            dot_quarter(sum.c, weights.c, x.c), dot_quarter(sum.d, weights.d, x.d)};
}
inline Ints byte_dot(Ints sum, Bytes weights, Bytes x) {
    const int8x16_t sign = vdupq_n_s8(-128);
    return half_dot(sum, {veorq_s8(weights.a, sign), veorq_s8(weights.b, sign), veorq_s8(weights.c, sign),
                          veorq_s8(weights.d, sign)}, x);
}

#define LEVEL_WIDENS_BYTES
// Sixteen signed bytes as floats.
inline Floats widened_bytes(const int8_t *from) {
    const int8x16_t x = vld1q_s8(from);
    const int16x8_t low = vmovl_s8(vget_low_s8(x)), high = vmovl_high_s8(x);
    return to_floats({vmovl_s16(vget_low_s16(low)), vmovl_high_s16(low), vmovl_s16(vget_low_s16(high)),
                      vmovl_high_s16(high)});
}

inline int16x8_t whole_half(float32x4_t x, float32x4_t y) {
    return vcombine_s16(vqmovn_s32(vcvtnq_s32_f32(x)), vqmovn_s32(vcvtnq_s32_f32(y)));
}
inline void store_bytes(int8_t *to, Floats whole) {
    vst1q_s8(to, vcombine_s8(vqmovn_s16(whole_half(whole.a, whole.b)), vqmovn_s16(whole_half(whole.c, whole.d))));
}
inline uint16x4_t rounded_quarter(float32x4_t x) {
    const uint32x4_t bits = vreinterpretq_u32_f32(x);
    const uint32x4_t odd = vandq_u32(vshrq_n_u32(bits, 16), vdupq_n_u32(1));
    const uint32x4_t up = vaddq_u32(vaddq_u32(bits, odd), vdupq_n_u32(0x7fff));
    const uint16x4_t is_number = vmovn_u32(vceqq_f32(x, x));
    return vbsl_u16(is_number, vshrn_n_u32(up, 16), vdup_n_u16(0x7fc0));
}
inline void store_bfloats(uint16_t *to, Floats x) {
    vst1q_u16(to, vcombine_u16(rounded_quarter(x.a), rounded_quarter(x.b)));
    vst1q_u16(to + 8, vcombine_u16(rounded_quarter(x.c), rounded_quarter(x.d)));
}
inline void fetch_ahead(const void *address) { __builtin_prefetch(address); }

}  // namespace
