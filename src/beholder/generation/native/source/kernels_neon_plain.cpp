// Kernels for the level "neon_plain": every 64-bit ARM processor, also one without dot products.
#include "lanes_neon.h"

#define LEVEL_NAME "neon_plain"
#define LEVEL_TABLE kernels_neon_plain
#include "level.h"
