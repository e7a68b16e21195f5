// Kernels for the level "avx512"; the compiler's flags for it are in build.py.
#include "lanes_avx512.h"

#define LEVEL_NAME "avx512"
#define LEVEL_ATTENTION "attention_avx512.h"
#define ATTEND_BFLOAT attend_pairs
#define LEVEL_TABLE kernels_avx512
#include "level.h"
