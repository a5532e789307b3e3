// y = act(x w + b), dx = dy w^T, dw = x^T dy, db = sum of the rows of dy; and batches of products.
// x (n, c), w (c, f), b (f), y (n, f), row-major. Outputs are written; nothing accumulates.
// Split: as in gemm.cpp; db cuts the rows into fixed chunks whose sums are added in order; a batch
// of small products gives whole products to threads.
// 2 n c f FLOPs each, 4 (n c + c f + n f) bytes; db n f FLOPs, 4 n f bytes, with dz three times.
#include "../ops/dense.h"

#include "activation.h"
#include "gemm.h"
#include "parallel.h"

namespace tilegrad {

// ---- dense ----

void dense_forward(float* y, const float* x, const float* w, const float* b, DenseShape s,
                   Activation act, float alpha, void* workspace) {
  gemm(GemmKind::nn, y, x, w, {s.n, s.f, s.c}, {b, act, alpha}, workspace);
}

int64_t dense_forward_workspace(DenseShape s) {
  return gemm_workspace(GemmKind::nn, {s.n, s.f, s.c});
}

void dense_backward_dx(float* dx, const float* dy, const float* w, DenseShape s, void* workspace) {
  gemm(GemmKind::nt, dx, dy, w, {s.n, s.c, s.f}, {}, workspace);
}

int64_t dense_backward_dx_workspace(DenseShape s) {
  return gemm_workspace(GemmKind::nt, {s.n, s.c, s.f});
}

void dense_backward_dw(float* dw, const float* x, const float* dy, DenseShape s, void* workspace) {
  gemm(GemmKind::tn, dw, x, dy, {s.c, s.f, s.n}, {}, workspace);
}

int64_t dense_backward_dw_workspace(DenseShape s) {
  return gemm_workspace(GemmKind::tn, {s.c, s.f, s.n});
}

void dense_plan(char* text, int64_t capacity, DenseShape s) {
  describe_gemm(text, capacity, GemmKind::nn, {s.n, s.f, s.c});
}

// ---- bias ----

namespace {

// Rows of one partial sum: about 32 KiB of dy, but never more than 64 partials.
int64_t bias_chunk_rows(int64_t rows, int64_t f) {
  return std::max<int64_t>({8192 / std::max<int64_t>(f, 1), chunk_count(rows, 64), 1});
}

// The summands of db, a vector from element `at` on: dy as it is,
struct Gradient {
  const float* dy;
  Vec operator()(int64_t at) const { return load(dy + at); }
  Vec operator()(int64_t at, int64_t lanes) const { return load_partial(dy + at, lanes); }
};

// or dz = dy act'(y), which is written on the way.
template <Activation A>
struct MaskedGradient {
  float* dz;
  const float *dy, *y;
  Vec alpha;
  Vec operator()(int64_t at) const {
    const Vec v = activation_gradient<A>(load(dy + at), load(y + at), alpha);
    store(dz + at, v);
    return v;
  }
  Vec operator()(int64_t at, int64_t lanes) const {
    const Vec v =
        activation_gradient<A>(load_partial(dy + at, lanes), load_partial(y + at, lanes), alpha);
    store_partial(dz + at, v, lanes);
    return v;
  }
};

// sum[j] = sum over rows [begin, end): four vectors of columns at a time, in registers over all rows
template <class Summand>
void sum_rows(float* sum, const Summand& summand, int64_t begin, int64_t end, int64_t f) {
  int64_t j = 0;
  for (; j + 4 * width <= f; j += 4 * width) {
    Vec acc[4] = {};
    for (int64_t i = begin; i < end; ++i) {
      for (int v = 0; v < 4; ++v) acc[v] += summand(i * f + j + v * width);
    }
    for (int v = 0; v < 4; ++v) store(sum + j + v * width, acc[v]);
  }
  for (; j < f; j += width) {
    const int64_t lanes = std::min<int64_t>(width, f - j);
    Vec acc[4] = {};
    int64_t i = begin;
    for (; i + 4 <= end; i += 4) {
      for (int v = 0; v < 4; ++v) acc[v] += summand((i + v) * f + j, lanes);
    }
    for (; i < end; ++i) acc[0] += summand(i * f + j, lanes);
    store_partial(sum + j, (acc[0] + acc[1]) + (acc[2] + acc[3]), lanes);
  }
}

template <class Summand>
void sum_all_rows(float* db, const Summand& summand, int64_t rows, int64_t f, void* workspace) {
  const int64_t grain = bias_chunk_rows(rows, f);
  if (rows <= grain) {
    sum_rows(db, summand, 0, rows, f);
    return;
  }
  float* const partial = static_cast<float*>(workspace);
  parallel_for(rows, grain, [&](int64_t begin, int64_t end) {
    sum_rows(partial + begin / grain * f, summand, begin, end, f);
  });
  sum_rows(db, Gradient{partial}, 0, chunk_count(rows, grain), f);
}

}  // namespace

void bias_backward_db(float* db, const float* dy, int64_t rows, int64_t f, void* workspace) {
  sum_all_rows(db, Gradient{dy}, rows, f, workspace);
}

void bias_activation_backward_dz(float* dz, float* db, const float* dy, const float* y,
                                 int64_t rows, int64_t f, Activation act, float alpha,
                                 void* workspace) {
  with_fused_activation(act, [&](auto tag) {
    const MaskedGradient<decltype(tag)::value> summand{dz, dy, y, splat(alpha)};
    sum_all_rows(db, summand, rows, f, workspace);
  });
}

int64_t bias_backward_db_workspace(int64_t rows, int64_t f) {
  const int64_t chunks = chunk_count(rows, bias_chunk_rows(rows, f));
  return chunks > 1 ? chunks * f * static_cast<int64_t>(sizeof(float)) : 0;
}

// ---- matmul ----

namespace {

// Many products: each on one thread. Few or large ones: each on all threads.
bool whole_products(int64_t batch, GemmShape s) {
  return batch >= wanted_chunks || (batch > 1 && s.m * s.n * s.k <= (int64_t{1} << 18));
}

int64_t batch_workspace(GemmKind kind, int64_t batch, GemmShape s) {
  return whole_products(batch, s) ? 0 : gemm_workspace(kind, s);
}

// c (batch, m, n) contiguous; a_step and b_step lead from one operand to the next
void multiply_batch(GemmKind kind, float* c, const float* a, const float* b, int64_t batch,
                    int64_t a_step, int64_t b_step, GemmShape s, void* workspace) {
  if (s.m * s.n == 0) return;  // a batch of nothing may be of any length
  if (!whole_products(batch, s)) {
    for (int64_t i = 0; i < batch; ++i) {
      gemm(kind, c + i * s.m * s.n, a + i * a_step, b + i * b_step, s, {}, workspace);
    }
    return;
  }
  const int64_t work = std::max<int64_t>(s.m * s.n * s.k, 1);
  parallel_for(batch, std::max<int64_t>(2 * small_work / work, 1), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      gemm_serial(kind, c + i * s.m * s.n, a + i * a_step, b + i * b_step, s, {});
    }
  });
}

}  // namespace

void matmul_forward(float* y, const float* a, const float* b, MatmulShape s, void* workspace) {
  multiply_batch(GemmKind::nn, y, a, b, s.batch, s.a_step, s.b_step, {s.m, s.n, s.k}, workspace);
}

int64_t matmul_forward_workspace(MatmulShape s) {
  return batch_workspace(GemmKind::nn, s.batch, {s.m, s.n, s.k});
}

void matmul_backward_da(float* da, const float* dy, const float* b, MatmulShape s,
                        void* workspace) {
  multiply_batch(GemmKind::nt, da, dy, b, s.batch, s.m * s.n, s.b_step, {s.m, s.k, s.n}, workspace);
}

int64_t matmul_backward_da_workspace(MatmulShape s) {
  return batch_workspace(GemmKind::nt, s.batch, {s.m, s.k, s.n});
}

void matmul_backward_db(float* db, const float* a, const float* dy, MatmulShape s,
                        void* workspace) {
  multiply_batch(GemmKind::tn, db, a, dy, s.batch, s.a_step, s.m * s.n, {s.k, s.n, s.m}, workspace);
}

int64_t matmul_backward_db_workspace(MatmulShape s) {
  return batch_workspace(GemmKind::tn, s.batch, {s.k, s.n, s.m});
}

}  // namespace tilegrad
