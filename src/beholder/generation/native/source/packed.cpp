// Filling a trunk with weights, and reading back what they became.
#include <algorithm>
#include <chrono>

#include "trunk.h"

namespace beholder {

namespace {

// Where row `index` of a source goes: row 0 to `first`, and `spread` 2 leaves every second block out.
long target(long index, long first, long spread) {
    return first + index / LANES * spread * LANES + index % LANES;
}

}  // namespace

void Trunk::pack(long layer, Part which, const void *source, bool is_bfloat, long rows, long first,
                 long spread) {
    const Matrix &matrix = part(layer, which).matrix;
    const long padded = rounded_up(matrix.width, LANES), columns = matrix.columns;
    Next next{0};
    threads_.run([&](int) {
        std::vector<float> row(padded), scratch(padded);
        for (long piece; (piece = next.fetch_add(LANES)) < rows;) {
            for (long index = piece; index < std::min(piece + LANES, rows); ++index) {
                const float *floats = static_cast<const float *>(source) + index * columns;
                const uint16_t *halves = static_cast<const uint16_t *>(source) + index * columns;
                for (long k = 0; k < columns; ++k) row[k] = is_bfloat ? bfloat_to_float(halves[k]) : floats[k];
                kernels.pack(matrix, target(index, first, spread), row.data(), scratch.data());
            }
        }
    });
}

void Trunk::put_bias(long layer, Part which, const float *source, long rows, long first, long spread) {
    Packed &packed = part(layer, which);
    packed.need_bias();
    for (long row = 0; row < rows; ++row) packed.matrix.bias[target(row, first, spread)] = source[row];
}

void Trunk::put_norm(long layer, int which, const float *source) {
    std::vector<float> &norm =
        which == 2 ? last_norm_ : which == 1 ? layers_[layer].second_norm : layers_[layer].first_norm;
    std::copy(source, source + shape.hidden, norm.begin());
}

void Trunk::unpack(long layer, Part which, long row, float *out) {
    const Matrix &m = part(layer, which).matrix;
    const long lane = row % BLOCK, number = row / BLOCK;
    const uint8_t *block = m.weights + number * m.block_bytes;
    for (long k = 0; k < m.columns; ++k) {
        if (m.format == F32) {
            out[k] = reinterpret_cast<const float *>(block)[k * BLOCK + lane];
        } else if (m.format == BF16) {
            out[k] = bfloat_to_float(reinterpret_cast<const uint16_t *>(block)[k / 2 * 2 * BLOCK + lane * 2 + k % 2]);
        } else if (m.format == INT8) {
            out[k] = static_cast<float>(block[k / 4 * STEP_BYTES + lane * 4 + k % 4] - 128) * m.row_scales[row];
        } else {
            const int both = block[k / 8 * STEP_BYTES + lane * 4 + k % 4];
            const uint16_t scale = m.group_scales[(number * m.groups + k / m.group) * BLOCK + lane];
            out[k] = static_cast<float>((k % 8 < 4 ? both & 15 : both >> 4) - 8) * bfloat_to_float(scale);
        }
    }
}

long Trunk::bytes() {
    long total = 0;
    for (long layer = 0; layer <= shape.layers; ++layer) {
        for (const Part which : {Part::ENTER, Part::LEAVE, Part::WIDEN, Part::NARROW}) {
            if (layer == shape.layers && which != Part::ENTER) break;
            const Matrix &m = part(layer, layer == shape.layers ? Part::HEAD : which).matrix;
            const long scales = m.row_scales ? 4 : m.group_scales ? 2 * m.groups : 0;
            total += m.blocks * (static_cast<long>(m.block_bytes) + BLOCK * scales);
        }
    }
    return total;
}

double Trunk::read(long bytes) {
    constexpr long PIECE = 1 << 16;
    const long words = bytes / static_cast<long>(sizeof(uint64_t));
    const Memory memory(bytes);
    uint64_t *from = memory.at<uint64_t>(0);
    std::fill(from, from + words, 1);
    Next next{0};
    std::atomic<uint64_t> total{0};
    const auto begun = std::chrono::steady_clock::now();
    threads_.run([&](int) {
        uint64_t sums[8] = {};
        for (long piece; (piece = next.fetch_add(PIECE)) < words;) {
            const long end = std::min(piece + PIECE, words) - 7;
            for (long k = piece; k < end; k += 8) {
                __builtin_prefetch(from + k + 512);
                for (int i = 0; i < 8; ++i) sums[i] += from[k + i];
            }
        }
        for (const uint64_t one : sums) total.fetch_add(one);
    });
    const std::chrono::duration<double> took = std::chrono::steady_clock::now() - begun;
    return total.load() ? took.count() : 0;  // the sum is asked for, so that it must be made
}

}  // namespace beholder
