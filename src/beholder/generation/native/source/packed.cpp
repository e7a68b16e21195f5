// Filling a trunk with weights, and reading back what they became.
#include <string.h>

#include <algorithm>
#include <chrono>
#include <system_error>
#include <thread>

#include "trunk.h"

namespace beholder {

namespace {

// Where row `index` of a source goes: row 0 to `first`, and `spread` 2 leaves every second block out.
long target(long index, long first, long spread) {
    return first + index / LANES * spread * LANES + index % LANES;
}

// A narrow matrix row by row: what int8 stores as value + 128 is signed there, and rows are as long as told;
// int4 has its words. A row's words stand STEP_BYTES apart here.
struct Rows {
    long length;   // bytes of a row
    long words;    // of four bytes, of which the last may be a part
    uint32_t flip;  // between the two ways to store a byte
    explicit Rows(const Matrix &m)
        : length(m.format == INT8 ? m.columns : m.steps * 4), words(m.steps),
          flip(m.format == INT8 ? 0x80808080u : 0) {}
};

bool is_narrow(const Matrix &m) { return m.format == INT8 || m.format == INT4; }

uint8_t *words_of(const Matrix &m, long row) {
    return m.weights + row / BLOCK * m.block_bytes + row % BLOCK * 4;
}

// Calls task(first, last) for pieces of LANES rows, by so many threads that live as long as this does.
template <typename Task>
void by_pieces(int threads, long from, long to, const Task &task) {
    std::atomic<long> next{from};
    const auto work = [&] {
        for (long piece; (piece = next.fetch_add(LANES)) < to;) task(piece, std::min(piece + LANES, to));
    };
    std::vector<std::thread> others;
    const long useful = std::min<long>(threads, (to - from + LANES - 1) / LANES);
    others.reserve(std::max(useful, 1L));
    try {
        for (long other = 1; other < useful; ++other) others.emplace_back(work);
    } catch (const std::system_error &) {
        // There are no more threads: those that came, and the caller, do it all.
    }
    work();
    for (std::thread &other : others) other.join();
}

// A few rows of a source that was packed, as the source had them; `codes` and `scales` begin at row `from`.
void read_rows(const Matrix &m, uint8_t *codes, void *scales, long from, long piece, long end, long first,
               long spread) {
    const Rows form(m);
    uint32_t tile[LANES][LANES];  // of rows and words: each line of memory is met once
    for (long word = 0; word < form.words; word += LANES) {
        const long count = std::min(LANES, form.words - word);
        for (long index = piece; index < end; ++index) {
            const uint8_t *words = words_of(m, target(index, first, spread)) + word * STEP_BYTES;
            for (long w = 0; w < count; ++w) {
                memcpy(&tile[index - piece][w], words + w * STEP_BYTES, 4);
                tile[index - piece][w] ^= form.flip;
            }
        }
        const long bytes = std::min(4 * count, form.length - 4 * word);
        for (long index = piece; index < end; ++index)
            memcpy(codes + (index - from) * form.length + 4 * word, tile[index - piece], bytes);
    }
    for (long index = piece; index < end; ++index) {
        const long row = target(index, first, spread), at = index - from;
        if (m.format == INT8) static_cast<float *>(scales)[at] = m.row_scales[row];
        for (long group = 0; group < m.groups; ++group)
            static_cast<uint16_t *>(scales)[at * m.groups + group] =
                m.group_scales[(row / BLOCK * m.groups + group) * BLOCK + row % BLOCK];
    }
}

// The way back of codes alone.
void write_rows(const Matrix &m, const uint8_t *codes, long piece, long end, long first, long spread) {
    const Rows form(m);
    uint32_t tile[LANES][LANES] = {};
    for (long word = 0; word < form.words; word += LANES) {
        const long count = std::min(LANES, form.words - word);
        const long bytes = std::min(4 * count, form.length - 4 * word);
        for (long index = piece; index < end; ++index) {
            uint32_t *row = tile[index - piece];
            row[count - 1] = 0;  // of which a part may be beyond the row
            memcpy(row, codes + index * form.length + 4 * word, bytes);
        }
        for (long w = 0; w < count; ++w) {
            for (long index = piece; index < end; ++index) {
                const uint32_t some = tile[index - piece][w] ^ form.flip;
                memcpy(words_of(m, target(index, first, spread)) + (word + w) * STEP_BYTES, &some, 4);
            }
        }
    }
}

// One row of a source as floats; what stands behind it in `to` stays.
void as_floats(const void *source, bool is_bfloat, long index, long columns, float *to) {
    const float *floats = static_cast<const float *>(source) + index * columns;
    const uint16_t *halves = static_cast<const uint16_t *>(source) + index * columns;
    for (long k = 0; k < columns; ++k) to[k] = is_bfloat ? bfloat_to_float(halves[k]) : floats[k];
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
                as_floats(source, is_bfloat, index, columns, row.data());
                kernels.pack(matrix, target(index, first, spread), row.data(), scratch.data());
            }
        }
    });
}

void Trunk::put_codes(long layer, Part which, const uint8_t *codes, const void *scales, long rows, long first,
                      long spread) {
    const Matrix &m = part(layer, which).matrix;
    if (!is_narrow(m)) return;
    Next next{0};
    threads_.run([&](int) {
        for (long piece; (piece = next.fetch_add(LANES)) < rows;) {
            const long end = std::min(piece + LANES, rows);
            write_rows(m, codes, piece, end, first, spread);
            for (long index = piece; index < end; ++index) put_scales(m, target(index, first, spread), index, scales);
        }
    });
}

void Trunk::put_scales(const Matrix &m, long row, long index, const void *scales) {
    if (m.format == INT8) m.row_scales[row] = static_cast<const float *>(scales)[index];
    for (long group = 0; group < m.groups; ++group)
        m.group_scales[(row / BLOCK * m.groups + group) * BLOCK + row % BLOCK] =
            static_cast<const uint16_t *>(scales)[index * m.groups + group];
}

void Trunk::take_codes(long layer, Part which, uint8_t *codes, void *scales, long from, long to, long first,
                       long spread) {
    const Matrix &m = part(layer, which).matrix;
    if (!is_narrow(m) || !m.weights) return;
    by_pieces(threads_.count(), from, to, [&](long piece, long end) {
        read_rows(m, codes, scales, from, piece, end, first, spread);
    });
}

void Trunk::widen_codes(long layer, Part which, void *wide, bool is_bfloat, long from, long to, long first,
                        long spread) {
    const Matrix &m = part(layer, which).matrix;
    if (!is_narrow(m) || !m.weights) return;
    by_pieces(threads_.count(), from, to, [&](long piece, long end) {
        for (long index = piece; index < end; ++index) {
            const long row = target(index, first, spread), at = (index - from) * m.columns;
            if (is_bfloat)
                kernels.widen_bfloat(m, row, static_cast<uint16_t *>(wide) + at);
            else
                kernels.widen_float(m, row, static_cast<float *>(wide) + at);
        }
    });
}

void Trunk::drop(long layer, Part which) {
    Packed &packed = part(layer, which);
    packed.weights = Memory();
    packed.scales = Memory();
    packed.matrix.weights = nullptr;
    packed.matrix.row_scales = nullptr;
    packed.matrix.group_scales = nullptr;
    is_whole_ = false;
}

void make_narrow(const Kernels &kernels, Format format, long group, const void *source, bool is_bfloat, long rows,
                 long columns, uint8_t *codes, void *scales) {
    const Packed packed(rows, columns, format, group);
    const long padded = rounded_up(packed.matrix.width, LANES);
    std::vector<float> row(padded), scratch(padded);
    for (long index = 0; index < rows; ++index) {
        as_floats(source, is_bfloat, index, columns, row.data());
        kernels.pack(packed.matrix, index, row.data(), scratch.data());
    }
    for (long piece = 0; piece < rows; piece += LANES)
        read_rows(packed.matrix, codes, scales, 0, piece, std::min(piece + LANES, rows), 0, 1);
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
