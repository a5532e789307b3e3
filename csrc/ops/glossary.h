// The words every contract, kernel, binding, reference and test uses.
//
//   n  batch          h, w    image height, width     c  channels in     f  filters (channels out)
//   kh, kw  window    oh, ow  output height, width    m, n, k  matrix    rows, cols  a 2-D view
//
//   x  input    w  weight    b  bias    y  output    dy  gradient of the loss with respect to y
//   dx, dw, db  gradients of x, w, b. Nothing else starts with d + axis (dilation is `dilation`).
//
// Layouts: channels last, row-major, contiguous. Images (n, h, w, c); conv weights (kh, kw, c /
// groups, f); dense weights (c, f). A weight's last axis is its output, so dense and conv are both
// "rows @ matrix".
//
// Arguments: outputs, inputs, saved statistics, sizes, hyperparameters, workspace. Outputs are
// written with `=` and never read first. `<op>_workspace` says how many bytes of 64-byte aligned
// scratch a kernel wants (often 0). Kernels never allocate, throw or keep state; results do not
// depend on the number of threads.
#pragma once
#include <cstdint>
