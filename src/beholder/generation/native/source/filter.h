// Pillow's antialiasing filter, to the last bit: weights are whole numbers with 22 bits behind the point, and sums
// are rounded to bytes after each of its two passes (libImaging/Resample.c of Pillow). Pixels have four bytes.
// The vectors are the compiler's own; only how pixels and weights come into them is said for each processor, which
// GCC 12 does byte by byte if it is left to it.
#pragma once

#include <string.h>

#if defined(__AVX2__)
#include <immintrin.h>
#endif

#include "native.h"

namespace beholder {

namespace {

template <typename Vector>
inline Vector vector_at(const void *from) {
    Vector vector;
    memcpy(&vector, from, sizeof vector);
    return vector;
}

constexpr int POINT = 22;
constexpr long PIXEL = 4;  // bytes

typedef int32_t PixelSums __attribute__((vector_size(16)));

#if defined(__AVX512F__)

constexpr long PIXELS = 4;  // of a vector
typedef int32_t Sums __attribute__((vector_size(64)));

inline Sums wide(const uint8_t *pixels) {
    return reinterpret_cast<Sums>(_mm512_cvtepu8_epi32(vector_at<__m128i>(pixels)));
}

// Each weight for the four bytes of its pixel.
inline Sums for_pixels(const int32_t *weights) {
    const __m512i places = _mm512_set_epi32(3, 3, 3, 3, 2, 2, 2, 2, 1, 1, 1, 1, 0, 0, 0, 0);
    const __m512i some = _mm512_castsi128_si512(vector_at<__m128i>(weights));
    return reinterpret_cast<Sums>(_mm512_permutexvar_epi32(places, some));
}

#elif defined(__AVX2__)

constexpr long PIXELS = 2;
typedef int32_t Sums __attribute__((vector_size(32)));

inline Sums wide(const uint8_t *pixels) {
    return reinterpret_cast<Sums>(_mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i *>(pixels))));
}

inline Sums for_pixels(const int32_t *weights) {
    const __m256i places = _mm256_set_epi32(1, 1, 1, 1, 0, 0, 0, 0);
    const __m128i some = _mm_loadl_epi64(reinterpret_cast<const __m128i *>(weights));
    return reinterpret_cast<Sums>(_mm256_permutevar8x32_epi32(_mm256_castsi128_si256(some), places));
}

#else

constexpr long PIXELS = 4;
typedef int32_t Sums __attribute__((vector_size(64)));

inline Sums wide(const uint8_t *pixels) {
    Sums sums;
    for (int byte = 0; byte < 16; byte++) sums[byte] = pixels[byte];
    return sums;
}

inline Sums for_pixels(const int32_t *weights) {
    const PixelSums w = vector_at<PixelSums>(weights);
    return Sums{w[0], w[0], w[0], w[0], w[1], w[1], w[1], w[1], w[2], w[2], w[2], w[2], w[3], w[3], w[3], w[3]};
}

#endif

constexpr long VECTOR = PIXELS * PIXEL;  // numbers in one, and bytes of the pixels
typedef uint8_t Bytes __attribute__((vector_size(VECTOR)));

// Rounded down, none below 0 or above 255.
template <typename Vector>
inline Vector in_bytes(Vector sums) {
    sums >>= POINT;
    sums &= ~(sums >> 31);
    const Vector above = sums > 255;  // all bits where it is so
    return (sums & ~above) | (above & 255);
}

// ROWS rows at once, so that weights are spread out once for all of them.
template <int ROWS>
inline void rows_across(const Filter &filter, const uint8_t *pixels, long stride, uint8_t *out) {
    for (long place = 0; place < filter.places; place++) {
        const int32_t *weights = filter.weights + place * filter.taps;
        const uint8_t *from = pixels + PIXEL * filter.firsts[place];
        Sums sums[ROWS] = {};
        for (long tap = 0; tap < filter.taps; tap += PIXELS) {
            const Sums some = for_pixels(weights + tap);
            for (int row = 0; row < ROWS; row++) sums[row] += wide(from + row * stride + PIXEL * tap) * some;
        }
        for (int row = 0; row < ROWS; row++) {
            PixelSums sum = vector_at<PixelSums>(filter.starts + PIXEL * place);
            for (int pixel = 0; pixel < PIXELS; pixel++) {
                sum += vector_at<PixelSums>(reinterpret_cast<const uint8_t *>(&sums[row]) + pixel * sizeof sum);
            }
            sum = in_bytes(sum);
            uint8_t *to = out + PIXEL * (row * filter.places + place);
            for (int byte = 0; byte < PIXEL; byte++) to[byte] = static_cast<uint8_t>(sum[byte]);
        }
    }
}

// `rows` rows of pixels, `stride` bytes apart, into (rows, places) pixels.
inline void filter_across(const Filter &filter, const uint8_t *pixels, long stride, long rows, uint8_t *out) {
    long row = 0;
    for (; row + 4 <= rows; row += 4) {
        rows_across<4>(filter, pixels + row * stride, stride, out + PIXEL * row * filter.places);
    }
    for (; row < rows; row++) rows_across<1>(filter, pixels + row * stride, stride, out + PIXEL * row * filter.places);
}

// Columns of `bytes` bytes, 16 or more, in rows `stride` bytes apart, into (places, bytes).
inline void filter_down(const Filter &filter, const uint8_t *pixels, long stride, long bytes, uint8_t *out) {
    for (long place = 0; place < filter.places; place++) {
        const int32_t *weights = filter.weights + place * filter.taps;
        const uint8_t *from = pixels + stride * filter.firsts[place];
        Sums start;
        for (int number = 0; number < VECTOR; number++) start[number] = filter.starts[PIXEL * place + number % PIXEL];
        for (long byte = 0; byte < bytes; byte += VECTOR) {
            const long first = byte + VECTOR <= bytes ? byte : bytes - VECTOR;  // the last may overlap
            Sums sums = start;
            for (long tap = 0; tap < filter.taps; tap++) sums += wide(from + tap * stride + first) * weights[tap];
            const Bytes made = __builtin_convertvector(in_bytes(sums), Bytes);
            memcpy(out + place * bytes + first, &made, sizeof made);
        }
    }
}

}  // namespace

}  // namespace beholder
