// Kernels for the level "portable"; the compiler's flags for it are in build.py.
#include "lanes_portable.h"

#define LEVEL_NAME "portable"
#define LEVEL_TABLE kernels_portable
#include "level.h"
