// z = x - max x, p = exp(z) / sum exp(z), log p = z - log sum exp(z), loss = -sum_j t_j log p_j
// Layout (rows, cols). Outputs are overwritten. Split over rows; each swept three times in cache.
// Sums run in float lanes over blocks, blocks and the total loss in double, in order of the rows.
// About 30 FLOPs (exp) and 8 bytes per element, 12 with dense targets.
#include "../ops/softmax.h"

#include <algorithm>

#include "parallel.h"
#include "simd.h"

namespace tilegrad {

namespace {

template <class F>
void for_each_row(int64_t rows, int64_t cols, F fn) {
  const int64_t grain = std::max<int64_t>(1, 4096 / std::max<int64_t>(1, cols));
  parallel_for(rows, grain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) fn(i);
  });
}

// Passes over NaN: exp(NaN - m) makes the whole row NaN afterwards.
float row_max(const float* x, int64_t cols) {
  Vec m[4] = {splat(-infinity), splat(-infinity), splat(-infinity), splat(-infinity)};
  int64_t j = 0;
  for (; j + 4 * width <= cols; j += 4 * width)
    for (int u = 0; u < 4; ++u) m[u] = max(load(x + j + u * width), m[u]);
  for (; j + width <= cols; j += width) m[0] = max(load(x + j), m[0]);
  if (j < cols) {
    const Vec rest = select(first_lanes(cols - j), load_partial(x + j, cols - j), m[1]);
    m[1] = max(rest, m[1]);
  }
  return hmax(max(max(m[0], m[1]), max(m[2], m[3])));
}

double row_sum(const float* x, int64_t cols) {
  return sum(cols, [](Vec v) { return v; }, x);
}

struct RowStatistics {
  float max;
  double log_sum;  // log sum exp(x - max)
};

// p = softmax(x)
RowStatistics softmax_row(float* p, const float* x, int64_t cols) {
  const float m = row_max(x, cols);
  const double s = map_sum(p, cols, [&](Vec v) { return exp_nonpositive(v - m); }, x);
  const float inverse = static_cast<float>(1.0 / s);
  map(p, cols, [&](Vec v) { return v * inverse; }, p);
  return {m, std::log(s)};
}

// scale sum_i weight[i] losses[i] in order of i
float total_loss(const float* losses, const float* weight, int64_t rows, float scale) {
  double total = 0.0;
  for (int64_t i = 0; i < rows; ++i)
    total += weight ? static_cast<double>(weight[i]) * losses[i] : losses[i];
  return rows == 0 ? 0.0f : static_cast<float>(scale * total);  // the mean's scale is 1 / 0 there
}

bool is_class(int32_t label, int64_t cols) { return label >= 0 && label < cols; }

}  // namespace

void softmax_forward(float* y, const float* x, int64_t rows, int64_t cols) {
  for_each_row(rows, cols, [&](int64_t i) { softmax_row(y + i * cols, x + i * cols, cols); });
}

void softmax_backward_dx(float* dx, const float* dy, const float* y, int64_t rows, int64_t cols) {
  for_each_row(rows, cols, [&](int64_t i) {
    const float *g = dy + i * cols, *p = y + i * cols;
    const float dot = static_cast<float>(sum(cols, [](Vec a, Vec b) { return a * b; }, g, p));
    map(dx + i * cols, cols, [&](Vec a, Vec b) { return b * (a - dot); }, g, p);
  });
}

void log_softmax_forward(float* y, const float* x, int64_t rows, int64_t cols) {
  for_each_row(rows, cols, [&](int64_t i) {
    const float* row = x + i * cols;
    const float m = row_max(row, cols);
    const float log_sum =
        static_cast<float>(std::log(sum(cols, [&](Vec v) { return exp_nonpositive(v - m); }, row)));
    map(y + i * cols, cols, [&](Vec v) { return (v - m) - log_sum; }, row);
  });
}

void log_softmax_backward_dx(float* dx, const float* dy, const float* y, int64_t rows,
                             int64_t cols) {
  for_each_row(rows, cols, [&](int64_t i) {
    const float *g = dy + i * cols, *log_p = y + i * cols;
    const float total = static_cast<float>(row_sum(g, cols));
    map(dx + i * cols, cols, [&](Vec a, Vec b) { return a - exp(b) * total; }, g, log_p);
  });
}

void softmax_cross_entropy_sparse_forward(float* loss, float* losses, float* p, const float* x,
                                          const int32_t* labels, const float* weight, int64_t rows,
                                          int64_t cols, float scale) {
  for_each_row(rows, cols, [&](int64_t i) {
    const float* row = x + i * cols;
    const int32_t label = labels[i];  // read once: p may share its memory
    if (!is_class(label, cols)) {
      losses[i] = quiet_nan;
      std::fill_n(p + i * cols, cols, quiet_nan);
      return;
    }
    const RowStatistics s = softmax_row(p + i * cols, row, cols);
    losses[i] = static_cast<float>(s.log_sum - (static_cast<double>(row[label]) - s.max));
  });
  *loss = total_loss(losses, weight, rows, scale);
}

void softmax_cross_entropy_sparse_backward_dx(float* dx, const float* dlosses, const float* p,
                                              const int32_t* labels, int64_t rows, int64_t cols) {
  for_each_row(rows, cols, [&](int64_t i) {
    const float g = dlosses[i];
    const int32_t label = labels[i];
    float* row = dx + i * cols;
    map(row, cols, [&](Vec v) { return g * v; }, p + i * cols);
    if (is_class(label, cols)) row[label] = g * (p[i * cols + label] - 1.0f);
  });
}

void softmax_cross_entropy_dense_forward(float* loss, float* losses, float* p, const float* x,
                                         const float* t, const float* weight, int64_t rows,
                                         int64_t cols, float scale) {
  for_each_row(rows, cols, [&](int64_t i) {
    const float* row = x + i * cols;
    const RowStatistics s = softmax_row(p + i * cols, row, cols);
    const float log_sum = static_cast<float>(s.log_sum);
    // no target, no loss: also where the logit is -infinity
    const auto term = [&](Vec target, Vec v) {
      return select(target == 0.0f, Vec{}, target * (log_sum - (v - s.max)));
    };
    losses[i] = static_cast<float>(sum(cols, term, t + i * cols, row));
  });
  *loss = total_loss(losses, weight, rows, scale);
}

void softmax_cross_entropy_dense_backward_dx(float* dx, const float* dlosses, const float* p,
                                             const float* t, int64_t rows, int64_t cols) {
  for_each_row(rows, cols, [&](int64_t i) {
    const float g = dlosses[i];
    const float total = static_cast<float>(row_sum(t + i * cols, cols));
    map(
        dx + i * cols, cols, [&](Vec a, Vec b) { return g * (a * total - b); }, p + i * cols,
        t + i * cols);
  });
}

}  // namespace tilegrad
