// The table of kernels of one level. Included last, with LEVEL_NAME and LEVEL_TABLE defined, and
// LEVEL_ATTENTION and ATTEND_BFLOAT where it has an attention of its own.
// Nothing of the C++ library is used in a level's file: the linker might keep its copy for every processor.
#pragma once

#include "products.h"
#include "vectors.h"
#include "filter.h"
#include "packing.h"
#include "widening.h"
#include "attention_bytes.h"

#ifdef LEVEL_ATTENTION
#include LEVEL_ATTENTION
#else
#define ATTEND_BFLOAT attend_row<uint16_t>
#endif

namespace beholder {

const Kernels *LEVEL_TABLE() {
    static const Kernels table = {
        LEVEL_NAME, multiply_blocks, convert_row, normalise_row, gate_row, attend_row<float>, ATTEND_BFLOAT,
        attend_codes, keep_row,
        pack_row, widen_row<float>, widen_row<uint16_t>,
        filter_across, filter_down,
    };
    return &table;
}

}  // namespace beholder
