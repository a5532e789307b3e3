// y = act(x w + b), dx = dy w^T, dw = x^T dy, db = sum of the rows of dy; and batches of products.
// x (n, c), w (c, f), b (f), y (n, f), row-major. Outputs are overwritten.
// Split: products as in gemm.h; sums of rows cut into chunks whose sums are added in order.
// 2 n c f FLOPs each, 4 (n c + c f + n f) bytes; db n f FLOPs, 4 n f bytes, with dz three times.
#include "../ops/dense.h"

#include "gemm.h"

namespace tilegrad {
namespace cuda {

// ---- products ----

struct GemmShape {
  int64_t m, n, k;
};

// c (batch, m, n) = a b, all contiguous; a_step and b_step lead from one operand to the next
//   nn  a (m, k)  b (k, n)      nt  a (m, k)  b (n, k)      tn  a (k, m)  b (k, n)
template <bool a_along_k, bool b_along_k, bool with_finish>
struct MatrixProduct : Product<MatrixOperand<a_along_k>, MatrixOperand<b_along_k>, MatrixResult> {
  static constexpr bool finishes = with_finish;
};

GemmPlan plan_products(int64_t batch, GemmShape s) { return plan_gemm(s.m, s.n, s.k, batch); }

int64_t products_workspace(int64_t batch, GemmShape s) {
  return split_workspace(plan_products(batch, s), batch * s.m * s.n);
}

template <bool a_along_k, bool b_along_k, bool finishes>
void multiply(float* c, const float* a, const float* b, int64_t batch, int64_t a_batch_step,
              int64_t b_batch_step, GemmShape s, Finish finish, void* workspace) {
  if (s.m * s.n == 0 || batch == 0) return;  // a batch of nothing may be of any length
  const int64_t a_step = a_along_k ? s.k : s.m, b_step = b_along_k ? s.k : s.n;
  MatrixProduct<a_along_k, b_along_k, finishes> product;
  product.a = {a, a_step, a_batch_step, moves_by_four(a, a_step, a_batch_step), 0, 0};
  product.b = {b, b_step, b_batch_step, moves_by_four(b, b_step, b_batch_step), 0, 0};
  product.c = {c, s.n, s.m * s.n, 0, moves_by_four(c, s.n), finish, 0};
  product.m = s.m, product.n = s.n, product.k = s.k;
  run_product(product, plan_products(batch, s), batch, batch * s.m * s.n, s.n, workspace);
}

// ---- sums of rows ----

// The summands of db: dy as it is,
struct Gradient {
  const float* dy;
  template <int by>
  __device__ __forceinline__ void load(float (&v)[by], int64_t at) const {
    read_vector(v, dy + at);
  }
};

// or dz = dy act'(y), which is written on the way.
template <Activation A>
struct MaskedGradient {
  float* dz;
  const float *dy, *y;
  float alpha;
  template <int by>
  __device__ __forceinline__ void load(float (&v)[by], int64_t at) const {
    float out[by];
    read_vector(v, dy + at);
    read_vector(out, y + at);
#pragma unroll
    for (int j = 0; j < by; ++j) v[j] = activation_gradient<A>(v[j], out[j], alpha);
    write_vector(dz + at, v);
  }
};

// sums[chunk, j] = sum over the chunk's rows i of summand(i, j)         summand (rows, f)
// blockDim.x lanes stand along f, blockDim.y along the rows; each adds its rows in order, then the
// first of each column adds the others' sums in order.
template <int by, class Summand>
__global__ void __launch_bounds__(256) sum_rows(float* sums, bool aligned_sums, Summand summand,
                                                int64_t rows, int64_t chunk_rows, int64_t f) {
  __shared__ __align__(16) float shared[256 * by];
  const int64_t column_blocks = ceil_div(f, int64_t{blockDim.x} * by);
  const int64_t chunk = blockIdx.x / column_blocks;
  const int64_t j = (blockIdx.x % column_blocks * blockDim.x + threadIdx.x) * by;
  const int64_t end = min(rows, (chunk + 1) * chunk_rows), step = blockDim.y * f;
  const int thread = threadIdx.y * blockDim.x + threadIdx.x;
  float sum[by] = {};
  if (j < f) {
    const int64_t first = chunk * chunk_rows + threadIdx.y;
#pragma unroll 4
    for (int64_t at = first * f + j; at < end * f; at += step) {
      float v[by];
      summand.load(v, at);
#pragma unroll
      for (int l = 0; l < by; ++l) sum[l] += v[l];
    }
  }
#pragma unroll
  for (int l = 0; l < by; ++l) shared[l * 256 + thread] = sum[l];
  __syncthreads();
  if (threadIdx.y > 0 || j >= f) return;
  for (unsigned r = 1; r < blockDim.y; ++r) {
#pragma unroll
    for (int l = 0; l < by; ++l) sum[l] += shared[l * 256 + r * blockDim.x + threadIdx.x];
  }
  if (by == 4 && aligned_sums) {
    if constexpr (by == 4) write4(sums + chunk * f + j, sum);
  } else {
#pragma unroll
    for (int l = 0; l < by; ++l) sums[chunk * f + j + l] = sum[l];
  }
}

// Chunks of rows: as many as keep the GPU busy, but of 64 rows at least.
int64_t row_chunks(int64_t rows, int64_t f) {
  const int64_t column_blocks = ceil_div(std::max<int64_t>(f, 1), 32);
  return std::clamp<int64_t>(ceil_div(rows, 64), 1,
                             std::max<int64_t>(target_blocks / column_blocks, 1));
}

template <class Summand>
void sum_all_rows(float* db, const Summand& summand, int64_t rows, int64_t f, bool by_four,
                  void* workspace) {
  if (f == 0) return;
  const int64_t wanted = row_chunks(rows, f),
                chunk_rows = std::max<int64_t>(ceil_div(rows, wanted), 1);
  const int64_t chunks = std::max<int64_t>(ceil_div(rows, chunk_rows), 1), by = by_four ? 4 : 1;
  float* const sums = chunks > 1 ? static_cast<float*>(workspace) : db;
  // How many rows are added side by side follows from f alone: so do the bits of the result.
  unsigned row_lanes = 256, lanes = 1;
  while (row_lanes > 8 && 256 / row_lanes < f) row_lanes /= 2;
  while (lanes < warp_size && lanes * by < f) lanes *= 2;
  const int64_t blocks = ceil_div(f, lanes * by) * chunks;
  launch(by_four ? sum_rows<4, Summand> : sum_rows<1, Summand>, dim3(static_cast<unsigned>(blocks)),
         dim3(lanes, row_lanes), 0, current_stream(), sums, moves_by_four(sums, f), summand, rows,
         chunk_rows, f);
  if (chunks > 1) add_parts(db, sums, chunks, f, f, unfinished);
}

}  // namespace cuda

using namespace cuda;

// ---- dense ----

void dense_forward(float* y, const float* x, const float* w, const float* b, DenseShape s,
                   Activation act, float alpha, void* workspace) {
  multiply<true, false, true>(y, x, w, 1, 0, 0, {s.n, s.f, s.c}, {b, act, alpha}, workspace);
}

int64_t dense_forward_workspace(DenseShape s) { return products_workspace(1, {s.n, s.f, s.c}); }

void dense_backward_dx(float* dx, const float* dy, const float* w, DenseShape s, void* workspace) {
  multiply<true, true, false>(dx, dy, w, 1, 0, 0, {s.n, s.c, s.f}, unfinished, workspace);
}

int64_t dense_backward_dx_workspace(DenseShape s) { return products_workspace(1, {s.n, s.c, s.f}); }

void dense_backward_dw(float* dw, const float* x, const float* dy, DenseShape s, void* workspace) {
  multiply<false, false, false>(dw, x, dy, 1, 0, 0, {s.c, s.f, s.n}, unfinished, workspace);
}

int64_t dense_backward_dw_workspace(DenseShape s) { return products_workspace(1, {s.c, s.f, s.n}); }

void dense_plan(char* text, int64_t capacity, DenseShape s) {
  describe_plan(text, capacity, "gemm", plan_products(1, {s.n, s.f, s.c}), s.n, s.f, 1);
}

// ---- bias ----

void bias_backward_db(float* db, const float* dy, int64_t rows, int64_t f, void* workspace) {
  sum_all_rows(db, Gradient{dy}, rows, f, moves_by_four(dy, f), workspace);
}

void bias_activation_backward_dz(float* dz, float* db, const float* dy, const float* y,
                                 int64_t rows, int64_t f, Activation act, float alpha,
                                 void* workspace) {
  const bool by_four = moves_by_four(dz, f) && moves_by_four(dy) && moves_by_four(y);
  with_fused_activation(act, [&](auto tag) {
    const MaskedGradient<decltype(tag)::value> summand{dz, dy, y, alpha};
    sum_all_rows(db, summand, rows, f, by_four, workspace);
  });
}

int64_t bias_backward_db_workspace(int64_t rows, int64_t f) {
  const int64_t chunks = row_chunks(rows, f);
  return chunks > 1 ? chunks * f * static_cast<int64_t>(sizeof(float)) : 0;
}

// ---- matmul ----

void matmul_forward(float* y, const float* a, const float* b, MatmulShape s, void* workspace) {
  multiply<true, false, true>(y, a, b, s.batch, s.a_step, s.b_step, {s.m, s.n, s.k}, unfinished,
                              workspace);
}

int64_t matmul_forward_workspace(MatmulShape s) {
  return products_workspace(s.batch, {s.m, s.n, s.k});
}

void matmul_backward_da(float* da, const float* dy, const float* b, MatmulShape s,
                        void* workspace) {
  multiply<true, true, false>(da, dy, b, s.batch, s.m * s.n, s.b_step, {s.m, s.k, s.n}, unfinished,
                              workspace);
}

int64_t matmul_backward_da_workspace(MatmulShape s) {
  return products_workspace(s.batch, {s.m, s.k, s.n});
}

void matmul_backward_db(float* db, const float* a, const float* dy, MatmulShape s,
                        void* workspace) {
  multiply<false, false, false>(db, a, dy, s.batch, s.a_step, s.m * s.n, {s.k, s.n, s.m},
                                unfinished, workspace);
}

int64_t matmul_backward_db_workspace(MatmulShape s) {
  return products_workspace(s.batch, {s.k, s.n, s.m});
}

}  // namespace tilegrad
