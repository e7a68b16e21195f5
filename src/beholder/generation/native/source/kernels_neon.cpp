// Kernels for the level "neon", which has dot products of bytes; the compiler's flags for it are in build.py.
#include "lanes_neon.h"

#define LEVEL_NAME "neon"
#define LEVEL_TABLE kernels_neon
#include "level.h"
