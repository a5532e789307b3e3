// z = x - max x, p = exp(z) / sum exp(z), log p = z - log sum exp(z), loss = -sum_j t_j log p_j
// Layout (rows, cols). Outputs are overwritten. Split over rows: 8 or 16 threads, a warp or a block
// each, which keep the row in registers (one read); a longer row is read twice, its maximum and sum
// found in one pass (Milakov, Gimelshein, arXiv:1805.02867). One block adds up the total loss.
// About 30 FLOPs (exp) and 8 bytes per element, 12 with dense targets.
#include "../ops/softmax.h"

#include "map.h"
#include "reduce.h"

namespace tilegrad {
namespace cuda {

// ---- rows, the same for every kernel below ----

// A row in the registers of `threads` threads, V numbers an access: thread t holds the numbers
// (i threads + t) V + [0, V) for i < chunks.
template <int threads_, int chunks, int V_>
struct RegisterRow {
  static constexpr int threads = threads_, V = V_;
  static constexpr int64_t most = int64_t{threads} * chunks * V;
  Pack<V> x[chunks];
  int first, cols;  // of this thread

  __device__ __forceinline__ RegisterRow(const float* row, int64_t cols_)
      : first(threadIdx.x % threads * V), cols(static_cast<int>(cols_)) {
#pragma unroll
    for (int i = 0; i < chunks; ++i) {
      if (first + i * threads * V < cols) x[i] = load_pack<V>(row + first + i * threads * V);
    }
  }

  // fn(column, numbers) for the numbers of this thread, in order
  template <class F>
  __device__ __forceinline__ void for_each(F fn) const {
#pragma unroll
    for (int i = 0; i < chunks; ++i) {
      if (first + i * threads * V < cols) fn(int64_t{first + i * threads * V}, x[i]);
    }
  }
};

// A row that stays in memory, for a block.
template <int V_>
struct MemoryRow {
  static constexpr int threads = 512, V = V_;
  const float* x;
  int64_t cols;

  __device__ __forceinline__ MemoryRow(const float* x_, int64_t cols_) : x(x_), cols(cols_) {}

  template <class F>
  __device__ __forceinline__ void for_each(F fn) const {
    for (int64_t j = int64_t{threadIdx.x} * V; j < cols; j += threads * V) {
      fn(j, load_pack<V>(x + j));
    }
  }
};

// fn(column, numbers of a, numbers of b) for the numbers of this thread, in order
template <int threads, int chunks, int V, class F>
__device__ __forceinline__ void for_each_pair(const RegisterRow<threads, chunks, V>& a,
                                              const RegisterRow<threads, chunks, V>& b, F fn) {
#pragma unroll
  for (int i = 0; i < chunks; ++i) {
    const int j = a.first + i * threads * V;
    if (j < a.cols) fn(int64_t{j}, a.x[i], b.x[i]);
  }
}

template <int V, class F>
__device__ __forceinline__ void for_each_pair(const MemoryRow<V>& a, const MemoryRow<V>& b, F fn) {
  a.for_each([&](int64_t j, const Pack<V>& u) { fn(j, u, load_pack<V>(b.x + j)); });
}

constexpr int short_row_block = 128;  // threads of a block that does several rows

template <class Row>
constexpr int block_threads = Row::threads <= warp_size ? short_row_block : Row::threads;

// The row of this thread; threads beyond the last row have one without columns, since all threads
// of a warp take part in its reductions.
template <class Row>
struct RowPlace {
  int64_t row, cols;
  bool present;

  __device__ __forceinline__ RowPlace(int64_t rows, int64_t cols_) {
    constexpr int rows_of_block = block_threads<Row> / Row::threads;
    row = int64_t{blockIdx.x} * rows_of_block + threadIdx.x / Row::threads;
    present = row < rows;
    if (!present) row = 0;
    cols = present ? cols_ : 0;
  }
  __device__ __forceinline__ bool leads() const {
    return present && threadIdx.x % Row::threads == 0;
  }
};

// max x and sum exp(x - max x). A NaN makes the sum NaN, and so does a maximum of +-infinity: then
// the whole row is NaN.
struct RowStatistics {
  float max, sum;
};

template <int threads, int chunks, int V>
__device__ __forceinline__ RowStatistics statistics(const RegisterRow<threads, chunks, V>& row) {
  float max = -INFINITY, sum = 0.0f;
  row.for_each([&](int64_t, const Pack<V>& q) {
#pragma unroll
    for (int e = 0; e < V; ++e) max = fmaxf(max, q.v[e]);
  });
  max = group_max<threads>(max);
  row.for_each([&](int64_t, const Pack<V>& q) {
#pragma unroll
    for (int e = 0; e < V; ++e) sum += expf(q.v[e] - max);
  });
  return {max, group_sum<threads>(sum)};
}

template <int V>
__device__ __forceinline__ RowStatistics statistics(const MemoryRow<V>& row) {
  float max = -INFINITY, sum = 0.0f;
  row.for_each([&](int64_t, const Pack<V>& q) {
    float higher = max;
#pragma unroll
    for (int e = 0; e < V; ++e) higher = fmaxf(higher, q.v[e]);
    const float shift = higher == -INFINITY ? 0.0f : higher;  // exp(-infinity - 0) = 0
    sum *= expf(max - shift);
#pragma unroll
    for (int e = 0; e < V; ++e) sum += expf(q.v[e] - shift);
    max = higher;
  });
  constexpr int threads = MemoryRow<V>::threads;
  const float top = group_max<threads>(max);
  return {top, group_sum<threads>(sum * expf(max - top))};
}

// ---- forward ----

// y = softmax(x), or its log               y, x (rows, cols)
template <class Row, bool log>
__global__ void __launch_bounds__(block_threads<Row>, 1)
    softmax_forward_rows(float* y, const float* x, int64_t rows, int64_t cols) {
  const RowPlace<Row> place(rows, cols);
  const Row row(x + place.row * cols, place.cols);
  const RowStatistics s = statistics(row);
  const float inverse = 1.0f / s.sum, log_sum = log ? logf(s.sum) : 0.0f;
  float* const to = y + place.row * cols;
  row.for_each([&](int64_t j, const Pack<Row::V>& q) {
    Pack<Row::V> out;
#pragma unroll
    for (int e = 0; e < Row::V; ++e) {
      out.v[e] = log ? (q.v[e] - s.max) - log_sum : expf(q.v[e] - s.max) * inverse;
    }
    store_pack(to + j, out);
  });
}

// p = softmax(x), losses = -log p[label]
// losses, labels (rows)  p, x (rows, cols)
template <class Row>
__global__ void __launch_bounds__(block_threads<Row>, 1)
    cross_entropy_sparse_forward_rows(float* losses, float* p, const float* x,
                                      const int32_t* labels, int64_t rows, int64_t cols) {
  const RowPlace<Row> place(rows, cols);
  const Row row(x + place.row * cols, place.cols);
  const int32_t label = place.present ? labels[place.row] : 0;
  const bool valid = label >= 0 && label < cols;
  float logit = NAN;  // read before p is written: p may be x
  if (place.leads() && valid) logit = x[place.row * cols + label];
  const RowStatistics s = statistics(row);
  if (place.leads()) losses[place.row] = logf(s.sum) - (logit - s.max);
  const float inverse = valid ? 1.0f / s.sum : NAN;
  float* const to = p + place.row * cols;
  row.for_each([&](int64_t j, const Pack<Row::V>& q) {
    Pack<Row::V> out;
#pragma unroll
    for (int e = 0; e < Row::V; ++e) out.v[e] = expf(q.v[e] - s.max) * inverse;
    store_pack(to + j, out);
  });
}

// p = softmax(x), losses = -sum_j t log p
// losses (rows)  p, x, t (rows, cols)
template <class Row>
__global__ void __launch_bounds__(block_threads<Row>, 1)
    cross_entropy_dense_forward_rows(float* losses, float* p, const float* x, const float* t,
                                     int64_t rows, int64_t cols) {
  const RowPlace<Row> place(rows, cols);
  const Row row(x + place.row * cols, place.cols);
  const RowStatistics s = statistics(row);
  const float inverse = 1.0f / s.sum, log_sum = logf(s.sum);
  float* const to = p + place.row * cols;
  const float* const targets = t + place.row * cols;
  float loss = 0.0f;
  row.for_each([&](int64_t j, const Pack<Row::V>& q) {
    const Pack<Row::V> target = load_pack<Row::V>(targets + j);
    Pack<Row::V> out;
#pragma unroll
    for (int e = 0; e < Row::V; ++e) {
      const float z = q.v[e] - s.max;
      // no target, no loss: also where the logit is -infinity
      if (target.v[e] != 0.0f) loss += target.v[e] * (log_sum - z);
      out.v[e] = expf(z) * inverse;
    }
    store_pack(to + j, out);
  });
  loss = group_sum<Row::threads>(loss);
  if (place.leads()) losses[place.row] = loss;
}

constexpr int total_threads = 1024;

// loss = scale sum_i weight[i] losses[i], by one block     loss (1)  losses, weight (rows) or null
__global__ void __launch_bounds__(total_threads)
    total_loss(float* loss, const float* losses, const float* weight, int64_t rows, float scale) {
  float sum = 0.0f;
  for (int64_t i = threadIdx.x; i < rows; i += total_threads) {
    sum += weight != nullptr ? weight[i] * losses[i] : losses[i];
  }
  sum = group_sum<total_threads>(sum);
  if (threadIdx.x == 0) *loss = rows == 0 ? 0.0f : scale * sum;  // the mean's scale is 1 / 0 there
}

// ---- backward: dx from two arrays a, b and one sum over the row ----

// dx = y (dy - sum dy y)                   a = dy, b = y
struct SoftmaxGradient {
  static __device__ __forceinline__ float term(float a, float b) { return a * b; }
  static __device__ __forceinline__ float result(float a, float b, float sum, float) {
    return b * (a - sum);
  }
};

// dx = dy - exp(y) sum dy                  a = dy, b = y
struct LogSoftmaxGradient {
  static __device__ __forceinline__ float term(float a, float) { return a; }
  static __device__ __forceinline__ float result(float a, float b, float sum, float) {
    return a - expf(b) * sum;
  }
};

// dx = dlosses (p sum t - t)               a = t, b = p
struct CrossEntropyGradient {
  static __device__ __forceinline__ float term(float a, float) { return a; }
  static __device__ __forceinline__ float result(float a, float b, float sum, float dloss) {
    return dloss * (b * sum - a);
  }
};

// dx, a, b (rows, cols)  dlosses (rows) or null
template <class Row, class Gradient>
__global__ void __launch_bounds__(block_threads<Row>, 1)
    softmax_backward_rows(float* dx, const float* a, const float* b, const float* dlosses,
                          int64_t rows, int64_t cols) {
  const RowPlace<Row> place(rows, cols);
  const Row first(a + place.row * cols, place.cols), second(b + place.row * cols, place.cols);
  float sum = 0.0f;
  for_each_pair(first, second, [&](int64_t, const Pack<Row::V>& u, const Pack<Row::V>& q) {
#pragma unroll
    for (int e = 0; e < Row::V; ++e) sum += Gradient::term(u.v[e], q.v[e]);
  });
  sum = group_sum<Row::threads>(sum);
  const float dloss = dlosses != nullptr && place.present ? dlosses[place.row] : 0.0f;
  float* const to = dx + place.row * cols;
  for_each_pair(first, second, [&](int64_t j, const Pack<Row::V>& u, const Pack<Row::V>& q) {
    Pack<Row::V> out;
#pragma unroll
    for (int e = 0; e < Row::V; ++e) out.v[e] = Gradient::result(u.v[e], q.v[e], sum, dloss);
    store_pack(to + j, out);
  });
}

// dx = dlosses (p - onehot(label)), V numbers a thread
// dx, p (rows, cols)  dlosses, labels (rows)  Int holds rows cols / V
template <int V, class Int>
__global__ void cross_entropy_sparse_backward(float* dx, const float* dlosses, const float* p,
                                              const int32_t* labels, Int count, Int row_count) {
  const Int i = static_cast<Int>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= count) return;
  const Int row = i / row_count;
  const int64_t from = static_cast<int64_t>(i) * V;
  const int64_t hot = labels[row] - static_cast<int64_t>(i - row * row_count) * V;
  const float dloss = dlosses[row];
  Pack<V> q = load_pack<V>(p + from);
#pragma unroll
  for (int e = 0; e < V; ++e) q.v[e] = dloss * (e == hot ? q.v[e] - 1.0f : q.v[e]);
  store_pack(dx + from, q);
}

// ---- launches ----

template <class Row>
struct RowTag {
  using type = Row;
};

// fn(RowTag) for the shortest kind of row that holds `cols` numbers. `arrays` rows at a time are
// kept: two of the longest would not fit into the registers.
template <int arrays, int V, class F>
void with_row_of(int64_t cols, F&& fn) {
  using Tiny = RegisterRow<V == 4 ? 8 : 16, 1, V>;
  using Short = RegisterRow<32, 8 / V, V>;
  using Middle = RegisterRow<256, 8 / V, V>;
  using Long = RegisterRow<256, 32 / V, V>;
  using Longest = RegisterRow<1024, V == 4 ? 8 : 16, V>;  // 64 registers a thread: no more fit
  if (cols <= Tiny::most) return fn(RowTag<Tiny>{});
  if (cols <= Short::most) return fn(RowTag<Short>{});
  if (cols <= Middle::most) return fn(RowTag<Middle>{});
  if (cols <= Long::most) return fn(RowTag<Long>{});
  if constexpr (arrays == 1) {
    if (cols <= Longest::most) return fn(RowTag<Longest>{});
  }
  fn(RowTag<MemoryRow<V>>{});
}

template <int arrays, class F>
void with_row(int64_t cols, std::initializer_list<const void*> pointers, F&& fn) {
  if (packs_of_4(cols, pointers)) return with_row_of<arrays, 4>(cols, fn);
  with_row_of<arrays, 1>(cols, fn);
}

template <class Row, class... Parameters, class... Args>
void launch_rows(void (*kernel)(Parameters...), int64_t rows, Args... args) {
  constexpr int rows_of_block = block_threads<Row> / Row::threads;
  launch(kernel, dim3(static_cast<unsigned>(ceil_div(rows, rows_of_block))),
         dim3(block_threads<Row>), 0, current_stream(), args...);
}

template <bool log>
void forward_rows(float* y, const float* x, int64_t rows, int64_t cols) {
  if (rows == 0) return;
  with_row<1>(cols, {y, x}, [&](auto tag) {
    using Row = typename decltype(tag)::type;
    launch_rows<Row>(softmax_forward_rows<Row, log>, rows, y, x, rows, cols);
  });
}

template <class Gradient>
void backward_rows(float* dx, const float* a, const float* b, const float* dlosses, int64_t rows,
                   int64_t cols) {
  if (rows == 0) return;
  with_row<2>(cols, {dx, a, b}, [&](auto tag) {
    using Row = typename decltype(tag)::type;
    launch_rows<Row>(softmax_backward_rows<Row, Gradient>, rows, dx, a, b, dlosses, rows, cols);
  });
}

void launch_total(float* loss, const float* losses, const float* weight, int64_t rows,
                  float scale) {
  launch(total_loss, dim3(1), dim3(total_threads), 0, current_stream(), loss, losses, weight, rows,
         scale);
}

template <int V, class Int>
void sparse_backward(float* dx, const float* dlosses, const float* p, const int32_t* labels,
                     int64_t rows, int64_t cols) {
  constexpr int threads = 256;
  const int64_t count = rows * cols / V;
  launch(cross_entropy_sparse_backward<V, Int>,
         dim3(static_cast<unsigned>(ceil_div(count, threads))), dim3(threads), 0, current_stream(),
         dx, dlosses, p, labels, static_cast<Int>(count), static_cast<Int>(cols / V));
}

}  // namespace cuda

void softmax_forward(float* y, const float* x, int64_t rows, int64_t cols) {
  cuda::forward_rows<false>(y, x, rows, cols);
}

void log_softmax_forward(float* y, const float* x, int64_t rows, int64_t cols) {
  cuda::forward_rows<true>(y, x, rows, cols);
}

void softmax_backward_dx(float* dx, const float* dy, const float* y, int64_t rows, int64_t cols) {
  cuda::backward_rows<cuda::SoftmaxGradient>(dx, dy, y, nullptr, rows, cols);
}

void log_softmax_backward_dx(float* dx, const float* dy, const float* y, int64_t rows,
                             int64_t cols) {
  cuda::backward_rows<cuda::LogSoftmaxGradient>(dx, dy, y, nullptr, rows, cols);
}

void softmax_cross_entropy_sparse_forward(float* loss, float* losses, float* p, const float* x,
                                          const int32_t* labels, const float* weight, int64_t rows,
                                          int64_t cols, float scale) {
  if (rows > 0) {
    cuda::with_row<1>(cols, {p, x}, [&](auto tag) {
      using Row = typename decltype(tag)::type;
      cuda::launch_rows<Row>(cuda::cross_entropy_sparse_forward_rows<Row>, rows, losses, p, x,
                             labels, rows, cols);
    });
  }
  cuda::launch_total(loss, losses, weight, rows, scale);
}

void softmax_cross_entropy_sparse_backward_dx(float* dx, const float* dlosses, const float* p,
                                              const int32_t* labels, int64_t rows, int64_t cols) {
  if (rows == 0) return;
  const bool wide = cuda::packs_of_4(cols, {dx, p});
  const bool small = rows * cols <= INT32_MAX;
  const auto backward =
      wide    ? small ? cuda::sparse_backward<4, unsigned> : cuda::sparse_backward<4, int64_t>
      : small ? cuda::sparse_backward<1, unsigned>
              : cuda::sparse_backward<1, int64_t>;
  backward(dx, dlosses, p, labels, rows, cols);
}

void softmax_cross_entropy_dense_forward(float* loss, float* losses, float* p, const float* x,
                                         const float* t, const float* weight, int64_t rows,
                                         int64_t cols, float scale) {
  if (rows > 0) {
    cuda::with_row<1>(cols, {p, x, t}, [&](auto tag) {
      using Row = typename decltype(tag)::type;
      cuda::launch_rows<Row>(cuda::cross_entropy_dense_forward_rows<Row>, rows, losses, p, x, t,
                             rows, cols);
    });
  }
  cuda::launch_total(loss, losses, weight, rows, scale);
}

void softmax_cross_entropy_dense_backward_dx(float* dx, const float* dlosses, const float* p,
                                             const float* t, int64_t rows, int64_t cols) {
  cuda::backward_rows<cuda::CrossEntropyGradient>(dx, t, p, dlosses, rows, cols);
}

}  // namespace tilegrad
