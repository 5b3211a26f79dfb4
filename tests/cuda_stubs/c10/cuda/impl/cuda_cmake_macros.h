#pragma once  // torch's builds without CUDA lack it
#define C10_CUDA_BUILD_SHARED_LIBS
