// Matrix products: the dense layer, its gradients, and batched matmul.
#pragma once
#include "activation.h"

namespace tilegrad {

struct DenseShape {
  int64_t n, c, f;
};

// y = act(x w + b)                      y (n, f)  x (n, c)  w (c, f)  b (f) or null; act up to elu
void dense_forward(float* y, const float* x, const float* w, const float* b, DenseShape s,
                   Activation act, float alpha, void* workspace);
int64_t dense_forward_workspace(DenseShape s);

// dx = dy w^T                             dx (n, c)  dy (n, f)  w (c, f)
void dense_backward_dx(float* dx, const float* dy, const float* w, DenseShape s, void* workspace);
int64_t dense_backward_dx_workspace(DenseShape s);

// dw = x^T dy                             dw (c, f)  x (n, c)  dy (n, f)
void dense_backward_dw(float* dw, const float* x, const float* dy, DenseShape s, void* workspace);
int64_t dense_backward_dw_workspace(DenseShape s);

// How dense_forward does this shape, in words (tile, blocks, splits), for TILEGRAD_DEBUG=3.
void dense_plan(char* text, int64_t capacity, DenseShape s);

// db[j] = sum_i dy[i, j]                  db (f)  dy (rows, f); also conv's, with rows = n oh ow
void bias_backward_db(float* db, const float* dy, int64_t rows, int64_t f, void* workspace);
int64_t bias_backward_db_workspace(int64_t rows, int64_t f);

// dz = dy act'(y), db[j] = sum_i dz[i, j], in one pass
// dz, dy, y (rows, f)  db (f); act up to elu; workspace as for bias_backward_db
void bias_activation_backward_dz(float* dz, float* db, const float* dy, const float* y,
                                 int64_t rows, int64_t f, Activation act, float alpha,
                                 void* workspace);

// batch products; a step of 0 repeats one matrix for the whole batch
struct MatmulShape {
  int64_t batch, m, k, n;
  int64_t a_step, b_step;  // elements from one matrix to the next: m k and k n, or 0
};

// y[i] = a[i] b[i]                        y (batch, m, n)  a (batch, m, k)  b (batch, k, n)
void matmul_forward(float* y, const float* a, const float* b, MatmulShape s, void* workspace);
int64_t matmul_forward_workspace(MatmulShape s);

// da[i] = dy[i] b[i]^T                    da (batch, m, k), one per entry even when a_step is 0
void matmul_backward_da(float* da, const float* dy, const float* b, MatmulShape s, void* workspace);
int64_t matmul_backward_da_workspace(MatmulShape s);

// db[i] = a[i]^T dy[i]                    db (batch, k, n), one per entry even when b_step is 0
void matmul_backward_db(float* db, const float* a, const float* dy, MatmulShape s, void* workspace);
int64_t matmul_backward_db_workspace(MatmulShape s);

}  // namespace tilegrad
