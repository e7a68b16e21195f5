// What the checks of single kernels share: numbers that are the same on every machine, and how far two lists of
// them are apart.
#pragma once

#include <math.h>
#include <stdio.h>
#include <string.h>

#include <string>
#include <vector>

#include "native.h"

// Each tells what is wrong with the kernels of a level, and how many things are.
int product_failures(const beholder::Kernels &kernels);
int row_failures(const beholder::Kernels &kernels);
int filter_failures(const beholder::Kernels &kernels);

namespace checks {

struct Random {
    uint32_t state;
    uint32_t bits() { return (state = state * 1664525u + 1013904223u) >> 8; }
    long whole(long lowest, long highest) { return lowest + static_cast<long>(bits() % (highest - lowest + 1)); }
    float next() { return static_cast<float>(bits()) / 8388608.0f - 1.0f; }  // -1 to 1
    std::vector<float> many(size_t count) {
        std::vector<float> made(count);
        for (float &one : made) one = next();
        return made;
    }
};

inline int failed(const std::string &what) {
    printf("%s\n", what.c_str());
    return 1;
}

// Root mean square of the differences, as a part of that of b.
inline double apart(const std::vector<float> &a, const std::vector<float> &b) {
    if (a.size() != b.size()) return 1;
    double lost = 0, all = 1e-30;
    for (size_t i = 0; i < a.size(); ++i) {
        lost += (static_cast<double>(a[i]) - b[i]) * (static_cast<double>(a[i]) - b[i]);
        all += static_cast<double>(b[i]) * b[i];
    }
    return sqrt(lost / all);
}

}  // namespace checks
