#include "trunk.h"

#include <stdlib.h>
#include <string.h>

#include <new>
#include <utility>

#ifdef __linux__
#include <sys/mman.h>
#endif

namespace beholder {

namespace {

constexpr size_t HUGE_PAGE = size_t{2} << 20;
constexpr size_t LINE = 64;

}  // namespace

// Large pieces are asked for in huge pages: a stream of weights through small ones misses the address cache.
// Under AddressSanitizer everything comes from the heap, where it is watched.
Memory::Memory(size_t bytes) : bytes_(bytes) {
    if (bytes == 0) return;
#if defined(__linux__) && !defined(__SANITIZE_ADDRESS__)
    if (bytes >= HUGE_PAGE) {
        bytes_ = (bytes + HUGE_PAGE - 1) / HUGE_PAGE * HUGE_PAGE;
        const size_t asked = bytes_ + HUGE_PAGE;
        void *got = mmap(nullptr, asked, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (got == MAP_FAILED) throw std::bad_alloc();
        const size_t start = reinterpret_cast<size_t>(got);
        const size_t aligned = (start + HUGE_PAGE - 1) / HUGE_PAGE * HUGE_PAGE;
        if (aligned > start) munmap(got, aligned - start);
        const size_t behind = start + asked - (aligned + bytes_);
        if (behind) munmap(reinterpret_cast<void *>(aligned + bytes_), behind);
        start_ = reinterpret_cast<uint8_t *>(aligned);
        is_mapped_ = true;
        madvise(start_, bytes_, MADV_HUGEPAGE);  // refused, it is only slower
        return;
    }
#endif
    void *got = nullptr;
    if (posix_memalign(&got, LINE, bytes)) throw std::bad_alloc();
    start_ = static_cast<uint8_t *>(got);
    memset(start_, 0, bytes);
}

Memory::~Memory() {
    if (!start_) return;
#ifdef __linux__
    if (is_mapped_) {
        munmap(start_, bytes_);
        return;
    }
#endif
    free(start_);
}

Memory::Memory(Memory &&other) noexcept { *this = std::move(other); }

Memory &Memory::operator=(Memory &&other) noexcept {
    std::swap(start_, other.start_);
    std::swap(bytes_, other.bytes_);
    std::swap(is_mapped_, other.is_mapped_);
    return *this;
}

Packed::Packed(long rows, long columns, Format format, long group) {
    Matrix &m = matrix;
    m.format = format;
    m.rows = rows;
    m.columns = columns;
    m.blocks = rounded_up(rows, BLOCK) / BLOCK;
    const long per_step[] = {1, 2, 4, 8};
    m.width = rounded_up(columns, per_step[format]);
    m.steps = m.width / per_step[format];
    m.group = static_cast<int32_t>(group);
    m.groups = format == INT4 ? (m.width + group - 1) / group : 0;
    m.block_bytes = static_cast<size_t>(m.steps * STEP_BYTES);
    weights = Memory(m.block_bytes * m.blocks);
    m.weights = weights.at<uint8_t>(0);
    const size_t scale_bytes = format == INT8 ? m.blocks * BLOCK * sizeof(float)
                                              : m.blocks * m.groups * BLOCK * sizeof(uint16_t);
    if (format == INT8 || format == INT4) scales = Memory(scale_bytes);
    m.row_scales = format == INT8 ? scales.at<float>(0) : nullptr;
    m.group_scales = format == INT4 ? scales.at<uint16_t>(0) : nullptr;
}

void Packed::need_bias() {
    if (matrix.bias) return;
    bias = Memory(matrix.blocks * BLOCK * sizeof(float));
    matrix.bias = bias.at<float>(0);
}

Prepared::Prepared(long rows, long columns, Format format, long group) {
    Activation &x = activation;
    x.format = format;
    x.rows = rows;
    x.columns = rounded_up(columns, LANES);
    const long per_word[] = {1, 2, 4, 4};
    x.words = x.columns / per_word[format];
    x.group = format == INT8 ? ACTIVATIONS : group;
    const bool is_whole = format == INT8 || format == INT4;
    x.groups = is_whole ? (x.columns + x.group - 1) / x.group : 0;
    const size_t numbers = rounded_up(rows * x.words * sizeof(uint32_t), LINE);
    const size_t scales = rounded_up(rows * x.groups * sizeof(float), LINE);
    memory = Memory(numbers + 2 * scales);
    x.numbers = memory.at<uint32_t>(0);
    x.scales = memory.at<float>(numbers);
    x.starts = memory.at<int32_t>(numbers + scales);
}

}  // namespace beholder
