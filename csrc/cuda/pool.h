// Max pooling with a relu behind it, for pool.cu and for conv_pool.cu.
#pragma once
#include "../ops/pool.h"

namespace tilegrad {
namespace cuda {

// y = max(0, maximum), and the index is closed_window (conv_pool.h) where that is not above 0. With
// `relu` false it is max_pool2d_forward.
void max_pool2d(float* y, uint8_t* index, const float* x, const Pool2dShape& s, bool relu);

}  // namespace cuda
}  // namespace tilegrad
