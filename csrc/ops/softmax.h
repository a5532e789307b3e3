// Softmax, log-softmax and softmax-cross-entropy over the last axis; the row maximum is subtracted
// first.
#pragma once
#include "glossary.h"

namespace tilegrad {

// y = exp(x) / sum exp(x)                 y, x (rows, cols)
void softmax_forward(float* y, const float* x, int64_t rows, int64_t cols);

// dx = y (dy - sum dy y)                  dx, dy, y (rows, cols)
void softmax_backward_dx(float* dx, const float* dy, const float* y, int64_t rows, int64_t cols);

// y = x - log sum exp(x)                  y, x (rows, cols)
void log_softmax_forward(float* y, const float* x, int64_t rows, int64_t cols);

// dx = dy - exp(y) sum dy                 dx, dy, y (rows, cols)
void log_softmax_backward_dx(float* dx, const float* dy, const float* y, int64_t rows,
                             int64_t cols);

// losses[i] = -log p[i, label[i]],  loss = scale sum_i weight[i] losses[i],  p = softmax(x)
// loss (1)  losses (rows)  p, x (rows, cols)  labels (rows)  weight (rows) or null
// A label outside [0, cols) makes its loss and its row of p NaN; nothing out of bounds is touched.
void softmax_cross_entropy_sparse_forward(float* loss, float* losses, float* p, const float* x,
                                          const int32_t* labels, const float* weight, int64_t rows,
                                          int64_t cols, float scale);

// dx[i] = dlosses[i] (p[i] - onehot(label[i]))          dx, p (rows, cols)  dlosses, labels (rows)
void softmax_cross_entropy_sparse_backward_dx(float* dx, const float* dlosses, const float* p,
                                              const int32_t* labels, int64_t rows, int64_t cols);

// losses[i] = -sum_j t[i, j] log p[i, j], t any non-negative targets; loss, weight and scale as
// above
// loss (1)  losses (rows)  p, x, t (rows, cols)  weight (rows) or null
void softmax_cross_entropy_dense_forward(float* loss, float* losses, float* p, const float* x,
                                         const float* t, const float* weight, int64_t rows,
                                         int64_t cols, float scale);

// dx[i] = dlosses[i] (p[i] sum_j t[i, j] - t[i])        dx, p, t (rows, cols)  dlosses (rows)
void softmax_cross_entropy_dense_backward_dx(float* dx, const float* dlosses, const float* p,
                                             const float* t, int64_t rows, int64_t cols);

}  // namespace tilegrad
