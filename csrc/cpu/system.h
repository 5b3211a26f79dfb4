// Everything from outside that the ISA files need, included before the target pragma: a standard header after it would give
// other translation units AVX code through its inline functions.
#pragma once
#include <immintrin.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <type_traits>

#include "args.h"
#include "cpu/cache.h"
#include "cpu/kernels.h"
#include "cpu/partition.h"
#include "cpu/pieces.h"
#include "cpu/share.h"
#include "cpu/task.h"
#include "cpu/team.h"
#include "cpu/walk.h"
#include "cpu/workspace.h"
#include "dispatch.h"

#define RNNK_FN inline __attribute__((always_inline))
#define RNNK_NOINLINE __attribute__((noinline))
