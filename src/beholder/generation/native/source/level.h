// The table of kernels of one level. Included last, with LEVEL_NAME and LEVEL_TABLE defined.
// Nothing of the C++ library is used in a level's file: the linker might keep its copy for every processor.
#pragma once

#include "products.h"
#include "vectors.h"
#include "packing.h"

namespace beholder {

const Kernels *LEVEL_TABLE() {
    static const Kernels table = {
        LEVEL_NAME,          multiply_blocks,      convert_row, normalise_row, gate_row,
        attend_row<float>,   attend_row<uint16_t>, pack_row,
    };
    return &table;
}

}  // namespace beholder
