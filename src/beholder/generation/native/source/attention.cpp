// A row's heads: turned by its position, stored, and attended over the places that it sees.
#include <string.h>

#include <algorithm>

#include "trunk.h"

namespace beholder {

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
void Trunk::store_row(long layer, long row, long key_head, Own &own) {
    const long width = shape.head_width, padded = rounded_up(width, LANES);
    const float *key = entered_.data() + row * enter_stride_ + (shape.heads + key_head) * width;
    const float *value = key + shape.key_heads * width;
    const long place = key_head * step_->places + ranges_[2 * range_ends_[row] - 1] - 1;
    float *both = own.heads.data();
    std::fill(both, both + 2 * padded, 0.0f);
    turn(key, row, 1.0f, both);
    memcpy(both + padded, value, sizeof(float) * width);
    store(both, step_->keys[layer], step_->key_scales, layer, place);
    store(both + padded, step_->values[layer], step_->value_scales, layer, place);
}

// Numbers of one token in one head, padded with zeros, to their place of all heads'.
void Trunk::store(const float *numbers, void *memory, float *const *scales, long layer, long place) const {
    const long width = shape.head_width;
    if (step_->stored == F32) {
        memcpy(static_cast<float *>(memory) + place * width, numbers, sizeof(float) * width);
    } else if (step_->stored == BF16) {
        uint16_t *to = static_cast<uint16_t *>(memory) + place * width;
        for (long d = 0; d < width; ++d) to[d] = float_to_bfloat(numbers[d]);
    } else {
        kernels.keep(numbers, width, static_cast<int8_t *>(memory) + place * width, scales[layer] + place);
    }
}

Heads Trunk::turned(long layer, long row, long key_head, Own &own) {
    const long width = shape.head_width, padded = rounded_up(width, LANES);
    const long group = shape.heads / shape.key_heads;
    const float *entered = entered_.data() + row * enter_stride_;
    const long begin = row ? range_ends_[row - 1] : 0, end = range_ends_[row];
    const long place = key_head * step_->places, bytes_each = step_->stored == F32 ? 4 : step_->stored == BF16 ? 2 : 1;
    const bool has_scales = step_->stored == INT8;
    float *queries = own.heads.data();
    std::fill(own.heads.begin(), own.heads.end(), 0.0f);
    for (long g = 0; g < group; ++g)
        turn(entered + (key_head * group + g) * width, row, shape.scaling, queries + g * padded);
    Heads heads{group, width, padded, queries,
                static_cast<const uint8_t *>(step_->keys[layer]) + place * width * bytes_each,
                static_cast<const uint8_t *>(step_->values[layer]) + place * width * bytes_each,
                has_scales ? step_->key_scales[layer] + place : nullptr,
                has_scales ? step_->value_scales[layer] + place : nullptr,
                ranges_ + 2 * begin, end - begin, 0, 0, own.scores.data(), queries + group * padded};
    for (long at = begin; at < end; ++at) heads.length += ranges_[2 * at + 1] - ranges_[2 * at];
    heads.length_padded = rounded_up(heads.length, LANES);
    return heads;
}

void Trunk::attend(long layer, long row, long key_head, Own &own) {
    if (!step_->is_text) store_row(layer, row, key_head, own);
    const Heads heads = turned(layer, row, key_head, own);
    if (step_->stored == F32)
        kernels.attend_float(heads);
    else if (step_->stored == BF16)
        kernels.attend_bfloat(heads);
    else
        kernels.attend_bytes(heads);
    float *mixed = mixed_.data() + row * mixed_stride_ + key_head * heads.group * heads.width;
    for (long g = 0; g < heads.group; ++g)
        memcpy(mixed + g * heads.width, heads.mixed + g * heads.width_padded, sizeof(float) * heads.width);
}

}  // namespace beholder
