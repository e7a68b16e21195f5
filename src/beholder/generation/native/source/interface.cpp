// What library.py calls. Nothing is thrown across; what went wrong comes back as text, null where nothing did.
#include <math.h>
#include <string.h>

#include <exception>
#include <string>

#include "trunk.h"

#if defined(__aarch64__) && defined(__linux__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#elif defined(__aarch64__) && defined(__APPLE__)
#include <sys/sysctl.h>
#endif

using namespace beholder;

#define EXPORTED extern "C" __attribute__((visibility("default")))

namespace {

thread_local std::string last_error;

const char *told(const std::string &text) {
    last_error = text;
    return last_error.c_str();
}

struct Level {
    const char *name;
    const Kernels *(*kernels)();
    bool is_supported;
};

#ifdef WITH_NEON
// Whether this processor multiplies bytes four at a time (FEAT_DotProd). Where nobody can be asked: no.
bool has_byte_products() {
#if defined(__linux__)
    return (getauxval(AT_HWCAP) & HWCAP_ASIMDDP) != 0;
#elif defined(__APPLE__)
    int has = 0;
    size_t size = sizeof has;
    return sysctlbyname("hw.optional.arm.FEAT_DotProd", &has, &size, nullptr, 0) == 0 && has != 0;
#else
    return false;
#endif
}
#endif

// Best first. What the compiler could not build is left out by build.py.
const std::vector<Level> &levels() {
    static const std::vector<Level> all = {
#ifdef WITH_AVX512
        {"avx512", kernels_avx512,
         __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
             __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
             __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512bf16")},
#endif
#ifdef WITH_AVX2
        {"avx2", kernels_avx2, __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")},
#endif
#ifdef WITH_NEON
        {"neon", kernels_neon, has_byte_products()},
#endif
#ifdef WITH_NEON_PLAIN
        {"neon_plain", kernels_neon_plain, true},
#endif
        {"portable", kernels_portable, true},
    };
    return all;
}

const char *no_level(const char *level) { return told("this processor or build has no level " + std::string(level)); }

}  // namespace

namespace beholder {

const Kernels *find_kernels(const char *level) {
    for (const Level &one : levels()) {
        if (one.is_supported && strcmp(one.name, level) == 0) return one.kernels();
    }
    return nullptr;
}

}  // namespace beholder

// The digest of the sources that this was built from.
EXPORTED const char *beholder_sources() { return SOURCES; }

// Names of the levels that this processor has, best first, with blanks between.
EXPORTED const char *beholder_levels() {
    std::string names;
    for (const Level &level : levels()) {
        if (level.is_supported) names += (names.empty() ? "" : " ") + std::string(level.name);
    }
    return told(names);
}

// INT8 or INT4 codes and scales of a matrix.
EXPORTED const char *beholder_make_narrow(const char *level, int32_t format, int32_t group, const void *source,
                                          int32_t is_bfloat, int64_t rows, int64_t columns, void *codes,
                                          void *scales) {
    try {
        const Kernels *kernels = find_kernels(level);
        if (!kernels) return no_level(level);
        make_narrow(*kernels, static_cast<Format>(format), group, source, is_bfloat != 0, rows, columns,
                    static_cast<uint8_t *>(codes), scales);
        return nullptr;
    } catch (const std::exception &error) {
        return told(std::string("the matrix could not be made narrow: ") + error.what());
    }
}

EXPORTED const char *beholder_make(const Shape *shape, const char *level, int32_t threads,
                                   const int32_t *processors, int32_t processor_count, Trunk **made) {
    try {
        const Kernels *kernels = find_kernels(level);
        if (!kernels) return no_level(level);
        *made = new Trunk(*shape, *kernels, threads, {processors, processors + processor_count});
        return nullptr;
    } catch (const std::exception &error) {
        return told(std::string("the trunk could not be made: ") + error.what());
    }
}

// One pass of a picture filter, across (0) `count` rows or down (1) `count` bytes of each row.
EXPORTED const char *beholder_filter(const char *level, int32_t axis, int64_t places, int64_t taps,
                                     const int32_t *firsts, const int32_t *weights, const int32_t *starts,
                                     const uint8_t *pixels, int64_t stride, int64_t count, uint8_t *out) {
    const Kernels *kernels = find_kernels(level);
    if (!kernels) return no_level(level);
    const auto run = axis ? kernels->filter_down : kernels->filter_across;
    run({places, taps, firsts, weights, starts}, pixels, stride, count, out);
    return nullptr;
}

EXPORTED void beholder_free(Trunk *trunk) { delete trunk; }

EXPORTED void beholder_pack(Trunk *trunk, int64_t layer, int32_t part, const void *source, int32_t is_bfloat,
                            int64_t rows, int64_t first, int64_t spread) {
    trunk->pack(layer, static_cast<Part>(part), source, is_bfloat != 0, rows, first, spread);
}

EXPORTED void beholder_put_codes(Trunk *trunk, int64_t layer, int32_t part, const void *codes, const void *scales,
                                 int64_t rows, int64_t first, int64_t spread) {
    trunk->put_codes(layer, static_cast<Part>(part), static_cast<const uint8_t *>(codes), scales, rows, first, spread);
}

EXPORTED void beholder_take_codes(Trunk *trunk, int64_t layer, int32_t part, void *codes, void *scales, int64_t from,
                                  int64_t to, int64_t first, int64_t spread) {
    trunk->take_codes(layer, static_cast<Part>(part), static_cast<uint8_t *>(codes), scales, from, to, first, spread);
}

EXPORTED void beholder_widen_codes(Trunk *trunk, int64_t layer, int32_t part, void *wide, int32_t is_bfloat,
                                   int64_t from, int64_t to, int64_t first, int64_t spread) {
    trunk->widen_codes(layer, static_cast<Part>(part), wide, is_bfloat != 0, from, to, first, spread);
}

EXPORTED void beholder_drop(Trunk *trunk, int64_t layer, int32_t part) { trunk->drop(layer, static_cast<Part>(part)); }

EXPORTED void beholder_put_bias(Trunk *trunk, int64_t layer, int32_t part, const float *source, int64_t rows,
                                int64_t first, int64_t spread) {
    trunk->put_bias(layer, static_cast<Part>(part), source, rows, first, spread);
}

EXPORTED void beholder_put_norm(Trunk *trunk, int64_t layer, int32_t which, const float *source) {
    trunk->put_norm(layer, which, source);
}

EXPORTED void beholder_unpack(Trunk *trunk, int64_t layer, int32_t part, int64_t row, float *out) {
    trunk->unpack(layer, static_cast<Part>(part), row, out);
}

EXPORTED const char *beholder_step(Trunk *trunk, const Step *step) {
    try {
        const char *wrong = trunk->run(*step);
        return wrong ? told(wrong) : nullptr;
    } catch (const std::exception &error) {
        return told(std::string("the step could not be run: ") + error.what());
    }
}

// Seconds for reading so much memory once with the trunk's threads; infinite where there is not so much.
EXPORTED double beholder_read(Trunk *trunk, int64_t bytes) {
    try {
        return trunk->read(bytes);
    } catch (const std::exception &) {
        return HUGE_VAL;
    }
}

// What all packed matrices take.
EXPORTED int64_t beholder_bytes(Trunk *trunk) { return trunk->bytes(); }
