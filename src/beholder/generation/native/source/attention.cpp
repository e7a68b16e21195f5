// A row's heads: turned by its position, stored, and attended over the places that it sees.
#include <string.h>

#include <algorithm>

#include "trunk.h"

namespace beholder {

namespace {

inline void store_number(float *to, float value) { *to = value; }
inline void store_number(uint16_t *to, float value) { *to = float_to_bfloat(value); }

}  // namespace

// Element j of a head and j + width / 2 are turned as a pair.
void Trunk::turn(const float *from, long row, float scale, float *to) const {
    const long half = shape.head_width / 2;
    const float *cosines = step_->cosines + row * half, *sines = step_->sines + row * half;
    for (long j = 0; j < half; ++j) {
        const float first = from[j], second = from[j + half];
        to[j] = (first * cosines[j] - second * sines[j]) * scale;
        to[j + half] = (second * cosines[j] + first * sines[j]) * scale;
    }
}

// A row's key and value of one head to its place, which is the last it has.
template <typename Number>
void Trunk::store(long layer, long row, long key_head, Own &own) {
    const long width = shape.head_width;
    const float *key = entered_.data() + row * enter_stride_ + (shape.heads + key_head) * width;
    const float *value = key + shape.key_heads * width;
    const long at = key_head * step_->places + ranges_[2 * range_ends_[row] - 1] - 1;
    Number *keys = static_cast<Number *>(step_->keys[layer]) + at * width;
    Number *values = static_cast<Number *>(step_->values[layer]) + at * width;
    float *turned = own.heads.data();
    turn(key, row, 1.0f, turned);
    for (long d = 0; d < width; ++d) {
        store_number(keys + d, turned[d]);
        store_number(values + d, value[d]);
    }
}

void Trunk::store_row(long layer, long row, long key_head, Own &own) {
    if (step_->is_bfloat)
        store<uint16_t>(layer, row, key_head, own);
    else
        store<float>(layer, row, key_head, own);
}

template <typename Number>
Heads Trunk::turned(long layer, long row, long key_head, Own &own) {
    const long width = shape.head_width, padded = rounded_up(width, LANES);
    const long group = shape.heads / shape.key_heads;
    const float *entered = entered_.data() + row * enter_stride_;
    const long begin = row ? range_ends_[row - 1] : 0, end = range_ends_[row];
    const long first = key_head * step_->places * width;
    float *queries = own.heads.data();
    std::fill(own.heads.begin(), own.heads.end(), 0.0f);
    for (long g = 0; g < group; ++g)
        turn(entered + (key_head * group + g) * width, row, shape.scaling, queries + g * padded);
    Heads heads{group, width, padded, queries, static_cast<Number *>(step_->keys[layer]) + first,
                static_cast<Number *>(step_->values[layer]) + first, ranges_ + 2 * begin, end - begin, 0, 0,
                own.scores.data(), queries + group * padded};
    for (long at = begin; at < end; ++at) heads.length += ranges_[2 * at + 1] - ranges_[2 * at];
    heads.length_padded = rounded_up(heads.length, LANES);
    return heads;
}

void Trunk::attend(long layer, long row, long key_head, Own &own) {
    if (!step_->is_text) store_row(layer, row, key_head, own);
    const Heads heads = step_->is_bfloat ? turned<uint16_t>(layer, row, key_head, own)
                                         : turned<float>(layer, row, key_head, own);
    (step_->is_bfloat ? kernels.attend_bfloat : kernels.attend_float)(heads);
    float *mixed = mixed_.data() + row * mixed_stride_ + key_head * heads.group * heads.width;
    for (long g = 0; g < heads.group; ++g)
        memcpy(mixed + g * heads.width, heads.mixed + g * heads.width_padded, sizeof(float) * heads.width);
}

}  // namespace beholder
