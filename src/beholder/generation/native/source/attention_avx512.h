// Attention over keys and values in bfloat16 with products of pairs, which take half as long as those of
// floats. Queries and weights are rounded to bfloat16 for it, as PyTorch rounds them. For heads of whole
// vectors of pairs.
#pragma once

namespace {

constexpr long PAIRED = 2 * LANES;  // elements of a head that one product takes
constexpr long WIDEST = 256;        // head that is done here

inline __m512bh load_pairs(const uint16_t *from) { return (__m512bh)_mm512_loadu_si512(from); }

// Scores of G heads over all places, as `score_keys` does it.
template <int G>
void score_pairs(const Heads &heads, const uint16_t *queries, long first_head) {
    constexpr long KEYS = LANES / G;
    const uint16_t *keys = static_cast<const uint16_t *>(heads.keys);
    score_by<G>(heads, first_head, [&](long place, long count, Floats *found) {
        const uint16_t *rows[KEYS];  // where keys end, the last again
        UNROLLED for (long k = 0; k < KEYS; ++k)
            rows[k] = keys + (place + (k < count ? k : count - 1)) * heads.width;
        fetch_ahead(rows[0] + AHEAD);
        fetch_ahead(rows[KEYS / 2] + AHEAD);
        Floats sums[LANES] = {};
        for (long d = 0; d < heads.width; d += PAIRED) {
            __m512bh some[KEYS];
            UNROLLED for (long k = 0; k < KEYS; ++k) some[k] = load_pairs(rows[k] + d);
            UNROLLED for (int g = 0; g < G; ++g) {
                const __m512bh query = load_pairs(queries + g * WIDEST + d);
                UNROLLED for (long k = 0; k < KEYS; ++k)
                    sums[g * KEYS + k] = _mm512_dpbf16_ps(sums[g * KEYS + k], some[k], query);
            }
        }
        UNROLLED for (long i = 0; i < LANES; ++i) found[i] = sums[i];
    });
}

// Scores to weights in bfloat16, in place, of which the largest is 1; what makes them sum to one comes back.
// It is that of the rounded ones, so rounding them all the same way loses nothing.
float weigh_pairs(float *scores, long length) {
    const long padded = rounded_up(length, LANES);
    const Peak peak = peak_of(scores, length);
    Floats total = same(0.0f);
    uint16_t *weights = reinterpret_cast<uint16_t *>(scores);  // writing never catches up with reading
    for (long t = 0; t < padded; t += LANES)
        store_bfloats(weights + t, exponential(subtract(load(scores + t), peak.most)));
    __builtin_memset(weights + length, 0, sizeof(uint16_t) * (padded - length));
    for (long t = 0; t < padded; t += LANES) total = add(total, load(weights + t));
    return 1.0f / sum(total) + sum(peak.odd);
}

// Adds the values of two places, weighted: their elements are brought side by side, which leaves `sums` in
// the order of the halves of quarters.
template <int G, int C>
inline void mix_pair(Floats (&sums)[G][C][2], const uint16_t *one, const uint16_t *other,
                     const uint32_t *weights) {
    UNROLLED for (int c = 0; c < C; ++c) {
        const __m512i x = _mm512_loadu_si512(one + c * PAIRED);
        const __m512i y = other ? _mm512_loadu_si512(other + c * PAIRED) : _mm512_setzero_si512();
        const __m512bh low = (__m512bh)_mm512_unpacklo_epi16(x, y);
        const __m512bh high = (__m512bh)_mm512_unpackhi_epi16(x, y);
        UNROLLED for (int g = 0; g < G; ++g) {
            const __m512bh weight = (__m512bh)_mm512_set1_epi32(static_cast<int>(weights[g]));
            sums[g][c][0] = _mm512_dpbf16_ps(sums[g][c][0], low, weight);
            sums[g][c][1] = _mm512_dpbf16_ps(sums[g][c][1], high, weight);
        }
    }
}

// 2 * C vectors of the mix of G heads. Weights are bfloat16 in the rows of scores.
template <int G, int C>
void mix_pairs(const Heads &heads, long first_head, long d, const float *scales) {
    const long stride = 2 * heads.length_padded;
    const float *scores = heads.scores + first_head * heads.length_padded;
    const uint16_t *weights = reinterpret_cast<const uint16_t *>(scores);
    const uint16_t *values = static_cast<const uint16_t *>(heads.values) + d;
    Floats sums[G][C][2] = {};
    uint32_t words[G];
    for (long r = 0; r < heads.range_count; ++r) {
        long place = heads.ranges[2 * r];
        const long last = heads.ranges[2 * r + 1];
        for (; place + 2 <= last; place += 2, weights += 2) {
            const uint16_t *one = values + place * heads.width;
            fetch_ahead(one + AHEAD);
            UNROLLED for (int g = 0; g < G; ++g) __builtin_memcpy(words + g, weights + g * stride, 4);
            mix_pair<G, C>(sums, one, one + heads.width, words);
        }
        if (place < last) {
            for (int g = 0; g < G; ++g) {
                words[g] = 0;
                __builtin_memcpy(words + g, weights + g * stride, 2);
            }
            mix_pair<G, C>(sums, values + place * heads.width, nullptr, words);
            ++weights;
        }
    }
    const __m512i first = _mm512_setr_epi32(0, 1, 2, 3, 16, 17, 18, 19, 4, 5, 6, 7, 20, 21, 22, 23);
    const __m512i second = _mm512_add_epi32(first, _mm512_set1_epi32(8));
    UNROLLED for (int g = 0; g < G; ++g) {
        float *mixed = heads.mixed + (first_head + g) * heads.width_padded + d;
        const Floats scale = same(scales[g]);
        UNROLLED for (int c = 0; c < C; ++c) {
            const Floats low = multiply(sums[g][c][0], scale), high = multiply(sums[g][c][1], scale);
            store(mixed + c * PAIRED, _mm512_permutex2var_ps(low, first, high));
            store(mixed + c * PAIRED + LANES, _mm512_permutex2var_ps(low, second, high));
        }
    }
}

template <int G>
void attend_pairs_of(const Heads &heads, long first_head) {
    alignas(64) uint16_t queries[G * WIDEST];
    for (int g = 0; g < G; ++g) {
        const float *from = heads.queries + (first_head + g) * heads.width_padded;
        for (long d = 0; d < heads.width; d += LANES) store_bfloats(queries + g * WIDEST + d, load(from + d));
    }
    score_pairs<G>(heads, queries, first_head);
    float scales[G];
    for (int g = 0; g < G; ++g)
        scales[g] = weigh_pairs(heads.scores + (first_head + g) * heads.length_padded, heads.length);
    constexpr int C = G == 1 ? 4 : MOST_HEADS / G;
    long d = 0;
    for (; d + C * PAIRED <= heads.width; d += C * PAIRED) mix_pairs<G, C>(heads, first_head, d, scales);
    for (; d < heads.width; d += PAIRED) mix_pairs<G, 1>(heads, first_head, d, scales);
}

void attend_pairs(const Heads &heads) {
    if (heads.width % PAIRED || heads.width > WIDEST) return attend_row<uint16_t>(heads);
    long head = 0;
    for (; heads.group - head >= 8; head += 8) attend_pairs_of<8>(heads, head);
    for (; heads.group - head >= 4; head += 4) attend_pairs_of<4>(heads, head);
    for (; heads.group - head >= 2; head += 2) attend_pairs_of<2>(heads, head);
    for (; head < heads.group; ++head) attend_pairs_of<1>(heads, head);
}

}  // namespace
