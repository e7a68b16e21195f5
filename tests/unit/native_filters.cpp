// The two passes of the picture filter, to the last bit against plain loops, over buffers that end where their
// pixels do. Part of native_driver.cpp's program.
#include <algorithm>
#include <array>

#include "native_checks.h"

using namespace beholder;
using namespace checks;

namespace {

struct Numbers {
    std::vector<int32_t> firsts, weights, starts;

    Numbers(Random &random, long size, long places, long taps) {
        for (long place = 0; place < places; ++place) {
            firsts.push_back(static_cast<int32_t>(random.whole(0, size - taps)));
            for (long tap = 0; tap < taps; ++tap) weights.push_back(random.whole(-(1 << 20), 1 << 22) / taps);
            for (long byte = 0; byte < 4; ++byte) starts.push_back(random.whole(-(1 << 22), 1 << 28));
        }
        firsts[0] = 0;
        firsts[places - 1] = static_cast<int32_t>(size - taps);  // up to the last pixel
    }
};

// One byte of the result: `step` bytes from one pixel under a weight to the next.
uint8_t byte_of(const Filter &filter, const uint8_t *from, long step, long place, long byte) {
    int64_t sum = filter.starts[4 * place + byte % 4];
    for (long tap = 0; tap < filter.taps; ++tap) {
        const long pixel = filter.firsts[place] + tap;
        sum += static_cast<int64_t>(from[pixel * step + byte]) * filter.weights[place * filter.taps + tap];
    }
    return static_cast<uint8_t>(std::clamp<int64_t>(sum >> 22, 0, 255));
}

}  // namespace

int filter_failures(const Kernels &kernels) {
    int failures = 0;
    for (const auto &[width, height, places, taps] :
         {std::array{4L, 1L, 1L, 4L}, {9, 5, 3, 4}, {50, 13, 7, 12}, {31, 40, 31, 8}, {64, 8, 5, 64}}) {
        Random random{static_cast<uint32_t>(width * 100 + height)};
        std::vector<uint8_t> pixels(4 * width * height);
        for (uint8_t &one : pixels) one = static_cast<uint8_t>(random.bits());
        const Numbers across(random, width, places, taps);
        const Filter filter{places, taps, across.firsts.data(), across.weights.data(), across.starts.data()};
        std::vector<uint8_t> out(4 * places * height), wanted(out.size());
        kernels.filter_across(filter, pixels.data(), 4 * width, height, out.data());
        for (size_t i = 0; i < out.size(); ++i) {
            const long row = i / (4 * places), place = i / 4 % places;
            wanted[i] = byte_of(filter, pixels.data() + 4 * width * row, 4, place, i % 4);
        }
        if (out != wanted) failures += failed(std::string(kernels.name) + " filters rows otherwise");

        const long down_taps = std::min(taps, height / 4 * 4);
        if (!down_taps) continue;
        const Numbers down(random, height, places, down_taps);
        const Filter other{places, down_taps, down.firsts.data(), down.weights.data(), down.starts.data()};
        out.assign(4 * width * places, 0), wanted = out;
        kernels.filter_down(other, pixels.data(), 4 * width, 4 * width, out.data());
        for (size_t i = 0; i < out.size(); ++i) {
            wanted[i] = byte_of(other, pixels.data(), 4 * width, i / (4 * width), i % (4 * width));
        }
        if (out != wanted) failures += failed(std::string(kernels.name) + " filters columns otherwise");
    }
    return failures;
}
