// Kernels for the level "avx2"; the compiler's flags for it are in build.py.
#include "lanes_avx2.h"

#define LEVEL_NAME "avx2"
#define LEVEL_TABLE kernels_avx2
#include "level.h"
