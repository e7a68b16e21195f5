// Norm, activation function, rounding and attention of single rows. Included once per level, behind its lanes.
#pragma once

namespace {

constexpr float TO_NEAREST = 12582912.0f;  // 1.5 * 2^23: adding it leaves a whole number in the low bits

inline Floats rounded(Floats x) { return subtract(add(x, same(TO_NEAREST)), same(TO_NEAREST)); }

// e^x to about one unit in the last place; x is held within what a float can hold.
inline Floats exponential(Floats x) {
    x = higher(lower(x, same(88.0f)), same(-87.0f));
    const Floats shifted = multiply_add(x, same(1.44269504f), same(TO_NEAREST));
    const Floats whole = subtract(shifted, same(TO_NEAREST));
    Floats rest = multiply_add(whole, same(-0.693359375f), x);
    rest = multiply_add(whole, same(2.12194440e-4f), rest);
    Floats y = same(1.0f / 720);
    y = multiply_add(y, rest, same(1.0f / 120));
    y = multiply_add(y, rest, same(1.0f / 24));
    y = multiply_add(y, rest, same(1.0f / 6));
    y = multiply_add(y, rest, same(0.5f));
    y = multiply_add(y, rest, same(1.0f));
    y = multiply_add(y, rest, same(1.0f));
    return scale_by_power(y, shifted);
}

void normalise_row(const float *x, const float *weight, float epsilon, long columns, float *y) {
    Floats squares[2] = {};
    for (long k = 0; k < columns; k += LANES) {
        const Floats some = load(x + k);
        squares[(k / LANES) & 1] = multiply_add(some, some, squares[(k / LANES) & 1]);
    }
    const float mean = sum(add(squares[0], squares[1])) / static_cast<float>(columns);
    const Floats scale = same(1.0f / __builtin_sqrtf(mean + epsilon));
    for (long k = 0; k < columns; k += LANES)
        store(y + k, multiply(multiply(load(x + k), scale), load(weight + k)));
}

void gate_row(const float *gates, const float *ups, long count, float *y) {
    for (long k = 0; k < count; k += LANES) {
        const Floats gate = load(gates + k);
        const Floats below = add(same(1.0f), exponential(subtract(same(0.0f), gate)));
        store(y + k, multiply(divide(gate, below), load(ups + k)));
    }
}

// Where a row stands among tiles: the tile's first row and how many rows it has.
struct Place {
    long first, rows;
};

inline Place tile_of(long index, long rows) {
    Place place{index / TILE_ROWS * TILE_ROWS, TILE_ROWS};
    while (rows - place.first < place.rows) {  // the last few: 4, 2, 1
        place.rows /= 2;
        if (index - place.first >= place.rows && rows - place.first >= place.rows) place.first += place.rows;
    }
    return place;
}

// One group of a row to signed bytes, its scale, and the sum of the bytes.
int32_t convert_group(const float *row, long count, int8_t *bytes, float *scale) {
    Floats most = same(0.0f), odd = same(0.0f);
    for (long k = 0; k < count; k += LANES) {
        const Floats some = load(row + k);
        most = higher(most, magnitude(some));
        odd = multiply_add(some, same(0.0f), odd);  // stays 0 unless something is no number
    }
    const float largest = highest(most);
    const Floats inverse = same(largest > 0 ? 127.0f / largest : 0.0f);
    Floats added = same(0.0f);
    for (long k = 0; k < count; k += LANES) {
        const Floats scaled = lower(higher(multiply(load(row + k), inverse), same(-127.0f)), same(127.0f));
        const Floats whole = rounded(scaled);
        added = add(added, whole);
        store_bytes(bytes + k, whole);
    }
    // What is no number makes the whole group none, as it would in floats.
    const float poison = sum(odd);
    *scale = largest / 127.0f + poison;
    return poison == 0.0f ? static_cast<int32_t>(sum(added)) : 0;
}

// Words of one row of a tile of `rows`, side by side in `from`.
inline void spread(const void *from, long count, long rows, uint32_t *to) {
    if (rows == 1) {
        __builtin_memcpy(to, from, 4 * count);
        return;
    }
    uint32_t words[LANES];
    for (long done = 0; done < count; done += LANES) {
        const long some = count - done < LANES ? count - done : LANES;
        __builtin_memcpy(words, static_cast<const uint8_t *>(from) + 4 * done, 4 * some);
        for (long w = 0; w < some; ++w) to[(done + w) * rows] = words[w];
    }
}

// `count` floats, padded with zeros to 16, into columns `first` on of row `index`.
void convert_row(const float *from, Activation &x, long index, long first, long count) {
    count = rounded_up(count, LANES);
    const Place place = tile_of(index, x.rows);
    const long lane = index - place.first, rows = place.rows;
    uint32_t *words = x.numbers + place.first * x.words + lane;
    if (x.format == F32) {
        spread(from, count, rows, words + first * rows);
    } else if (x.format == BF16) {
        uint16_t halves[LANES];
        for (long k = 0; k < count; k += LANES) {
            store_bfloats(halves, load(from + k));
            spread(halves, LANES / 2, rows, words + (first + k) / 2 * rows);
        }
    } else {
        const int offset = x.format == INT8 ? BYTE_OFFSET : 8;
        for (long k = 0; k < count; k += x.group) {
            alignas(64) int8_t bytes[LARGEST_GROUP];
            const long length = count - k < x.group ? count - k : x.group;
            const long at = place.first * x.groups + (first + k) / x.group * rows + lane;
            x.starts[at] = -offset * convert_group(from + k, length, bytes, x.scales + at);
            spread(bytes, length / 4, rows, words + (first + k) / 4 * rows);
        }
    }
}

// Products of G query heads with one key, lane by lane; head g's go to sums[g * step].
template <int G, typename Number>
inline void meet_key(const Heads &heads, const float *queries, const Number *key, Floats *sums, long step) {
    Floats found[G] = {};
    long d = 0;
    for (; d + LANES <= heads.width; d += LANES) {
        const Floats some = load(key + d);
        UNROLLED for (int g = 0; g < G; ++g)
            found[g] = multiply_add(load(queries + g * heads.width_padded + d), some, found[g]);
    }
    if (d < heads.width) {
        const Floats some = load_some(key + d, heads.width - d);
        UNROLLED for (int g = 0; g < G; ++g)
            found[g] = multiply_add(load(queries + g * heads.width_padded + d), some, found[g]);
    }
    UNROLLED for (int g = 0; g < G; ++g) sums[g * step] = found[g];
}

// Scores of G query heads: as many keys at once as make sixteen sums, which are cheaper to take together.
// `meet(place, count, sums)` sets those of `count` keys from a place on, head g's from g * KEYS; what it leaves
// in sums of more keys than there are is not read.
template <int G, typename Meet>
inline void score_by(const Heads &heads, long first_head, Meet meet) {
    constexpr long KEYS = LANES / G;
    float *scores = heads.scores + first_head * heads.length_padded;
    for (long r = 0; r < heads.range_count; ++r) {
        const long last = heads.ranges[2 * r + 1];
        for (long place = heads.ranges[2 * r]; place < last;) {
            const long count = last - place < KEYS ? last - place : KEYS;
            Floats sums[LANES];
            meet(place, count, sums);
            float all[LANES];
            store(all, all_sums(sums));
            for (int g = 0; g < G; ++g)
                __builtin_memcpy(scores + g * heads.length_padded, all + g * KEYS, sizeof(float) * count);
            place += count;
            scores += count;
        }
    }
}

template <int G, typename Number>
void score_keys(const Heads &heads, long first_head) {
    constexpr long KEYS = LANES / G;
    const float *queries = heads.queries + first_head * heads.width_padded;
    const Number *keys = static_cast<const Number *>(heads.keys);
    score_by<G>(heads, first_head, [&](long place, long count, Floats *sums) {
        if (count < KEYS) {
            for (int i = 0; i < LANES; ++i) sums[i] = same(0.0f);
        }
        for (long k = 0; k < count; ++k)
            meet_key<G, Number>(heads, queries, keys + (place + k) * heads.width, sums + k, KEYS);
    });
}

// The largest score in all lanes, and 0 in all lanes unless a score is no number.
struct Peak {
    Floats most, odd;
};

// Fills the last vector of scores up with the first score.
inline Peak peak_of(float *scores, long length) {
    const long padded = rounded_up(length, LANES);
    for (long t = length; t < padded; ++t) scores[t] = scores[0];
    Floats most = load(scores), odd = same(0.0f);
    for (long t = 0; t < padded; t += LANES) {
        most = higher(most, load(scores + t));
        odd = multiply_add(load(scores + t), same(0.0f), odd);
    }
    return {same(highest(most)), odd};
}

// Scores to weights that sum to one, in place. What is no number makes all of them none.
void soften(float *scores, long length) {
    const long padded = rounded_up(length, LANES);
    const Peak peak = peak_of(scores, length);
    Floats total = same(0.0f);
    for (long t = 0; t < padded; t += LANES)
        store(scores + t, exponential(subtract(load(scores + t), peak.most)));
    for (long t = length; t < padded; ++t) scores[t] = 0;
    for (long t = 0; t < padded; t += LANES) total = add(total, load(scores + t));
    const Floats scale = same(1.0f / sum(total) + sum(peak.odd));
    for (long t = 0; t < padded; t += LANES) store(scores + t, multiply(load(scores + t), scale));
}

// C lanes of the values of all places, weighted for G query heads.
template <int G, int C, typename Number>
void mix_values(const Heads &heads, long first_head, long d) {
    const float *weights = heads.scores + first_head * heads.length_padded;
    const Number *values = static_cast<const Number *>(heads.values) + d;
    const long rest = heads.width - d < LANES ? heads.width - d : 0;
    Floats sums[G][C] = {};
    for (long r = 0; r < heads.range_count; ++r) {
        for (long place = heads.ranges[2 * r]; place < heads.ranges[2 * r + 1]; ++place, ++weights) {
            const Number *value = values + place * heads.width;
            UNROLLED for (int c = 0; c < C; ++c) {
                const Floats some = rest ? load_some(value, rest) : load(value + c * LANES);
                UNROLLED for (int g = 0; g < G; ++g)
                    sums[g][c] = multiply_add(same(weights[g * heads.length_padded]), some, sums[g][c]);
            }
        }
    }
    UNROLLED for (int g = 0; g < G; ++g) {
        UNROLLED for (int c = 0; c < C; ++c)
            store(heads.mixed + (first_head + g) * heads.width_padded + d + c * LANES, sums[g][c]);
    }
}

// A head's scores to the weights of the values as they are stored; the pointer only tells as what.
template <typename Number>
inline void weigh(const Heads &heads, float *scores, const Number *) {
    soften(scores, heads.length);
}

template <int G, typename Number>
void attend_heads(const Heads &heads, long first_head) {
    score_keys<G, Number>(heads, first_head);
    for (int g = 0; g < G; ++g)
        weigh(heads, heads.scores + (first_head + g) * heads.length_padded, static_cast<const Number *>(nullptr));
    constexpr int C = G * 4 <= 2 * MOST_HEADS ? 4 : G * 2 <= 2 * MOST_HEADS ? 2 : 1;
    long d = 0;
    for (; d + C * LANES <= heads.width; d += C * LANES) mix_values<G, C, Number>(heads, first_head, d);
    for (; d < heads.width; d += LANES) mix_values<G, 1, Number>(heads, first_head, d);
}

template <typename Number>
void attend_row(const Heads &heads) {
    long head = 0;
    for (; heads.group - head >= MOST_HEADS; head += MOST_HEADS) attend_heads<MOST_HEADS, Number>(heads, head);
    for (; heads.group - head >= 4; head += 4) attend_heads<4, Number>(heads, head);
    for (; heads.group - head >= 2; head += 2) attend_heads<2, Number>(heads, head);
    for (; head < heads.group; ++head) attend_heads<1, Number>(heads, head);
}

}  // namespace
