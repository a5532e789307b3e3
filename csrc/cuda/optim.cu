// Optimizer steps: w, state = rule(w, g, state), the formulas beside the prototypes in ops/optim.h.
// w and state are updated in place. The tensors come by value with the launch, up to 64 at a time,
// cut into tiles that all blocks share evenly; a thread takes four neighbours.
// Bound by memory: per element and step 12 bytes (sgd), 20 (momentum, rmsprop), 28 (adam).
// Adam: Kingma and Ba, ICLR 2015, in the form of Keras 3.
#include "../ops/optim.h"

#include <algorithm>
#include <cfloat>
#include <cmath>

#include "map.h"
#include "reduce.h"

namespace tilegrad {
namespace cuda {

constexpr int tile = 4 * map_threads;  // elements
constexpr int most_parameters = 64;    // a launch carries 4 KB of arguments at most

struct Parameters {
  Parameter each[most_parameters];
  uint32_t first_tile[most_parameters + 1];  // the last used one: how many tiles there are
  int count;
  uint64_t aligned;  // bit p: all arrays of parameter p are 16-byte aligned
};

// numbers below the least normal float are 0; NaN stays NaN
__device__ __forceinline__ float flush(float x) { return fabsf(x) < FLT_MIN ? 0.0f : x; }

struct Element {
  float w, g;
  float state[3];
};

// rule(element) for N neighbours from i on; bit s of Rule::states: it reads and writes state[s]
template <int N, class Rule>
__device__ __forceinline__ void step_elements(const Parameter& p, int64_t i, const StepOptions& o,
                                              const Rule& rule) {
  Pack<N> w = load_pack<N>(p.w + i), g = load_pack<N>(p.g + i), state[3];
#pragma unroll
  for (int s = 0; s < 3; ++s)
    if (Rule::states >> s & 1) state[s] = load_pack<N>(p.state[s] + i);
  const float shrink = p.decay * o.lr;
#pragma unroll
  for (int k = 0; k < N; ++k) {
    Element e;
    e.w = flush(w.v[k]);
    e.g = clamp(p.scale * flush(g.v[k]), -o.clip, o.clip);
#pragma unroll
    for (int s = 0; s < 3; ++s)
      if (Rule::states >> s & 1) e.state[s] = flush(state[s].v[k]);
    e.w -= shrink * e.w;
    rule(e);
    w.v[k] = flush(e.w);
#pragma unroll
    for (int s = 0; s < 3; ++s)
      if (Rule::states >> s & 1) state[s].v[k] = e.state[s];
  }
  store_pack<N>(p.w + i, w);
#pragma unroll
  for (int s = 0; s < 3; ++s)
    if (Rule::states >> s & 1) store_pack<N>(p.state[s] + i, state[s]);
}

template <class Rule>
__global__ void __launch_bounds__(map_threads)
    optimizer_step(Parameters parameters, StepOptions o, Rule rule) {
  rule.begin();
  const uint32_t tiles = parameters.first_tile[parameters.count];
  for (uint32_t t = blockIdx.x; t < tiles; t += gridDim.x) {
    int p = 0;  // the parameter with this tile: the last one that does not begin behind it
    for (int end = parameters.count; end - p > 1;) {
      const int middle = (p + end) / 2;
      if (parameters.first_tile[middle] <= t)
        p = middle;
      else
        end = middle;
    }
    const int64_t i = static_cast<int64_t>(t - parameters.first_tile[p]) * tile + 4 * threadIdx.x;
    const int64_t rest = parameters.each[p].size - i;
    if (rest >= 4 && (parameters.aligned >> p & 1)) {
      step_elements<4>(parameters.each[p], i, o, rule);
    } else {
      for (int k = 0; k < 4 && k < rest; ++k) step_elements<1>(parameters.each[p], i + k, o, rule);
    }
  }
}

template <class Rule>
void step_all(const Parameter* parameters, int64_t count, StepOptions o, Rule rule) {
  for (int64_t next = 0; next < count;) {
    Parameters chunk{};
    for (; next < count && chunk.count < most_parameters; ++next) {
      const Parameter& p = parameters[next];
      if (p.size == 0) continue;
      bool aligned = aligned_16(p.w) && aligned_16(p.g);
      for (int s = 0; s < 3; ++s)
        if (Rule::states >> s & 1) aligned = aligned && aligned_16(p.state[s]);
      chunk.aligned |= static_cast<uint64_t>(aligned) << chunk.count;
      chunk.each[chunk.count++] = p;
      chunk.first_tile[chunk.count] =
          chunk.first_tile[chunk.count - 1] + static_cast<uint32_t>(ceil_div(p.size, tile));
    }
    const uint32_t tiles = chunk.first_tile[chunk.count];
    if (tiles > 0)
      launch(optimizer_step<Rule>, std::min<uint32_t>(tiles, 8 * target_blocks), map_threads, 0,
             current_stream(), chunk, o, rule);
  }
}

struct Sgd {
  static constexpr int states = 0;
  float lr;
  __device__ void begin() {}
  __device__ void operator()(Element& e) const { e.w -= lr * e.g; }
};

template <bool nesterov>
struct SgdMomentum {
  static constexpr int states = 0b001;
  float lr, momentum;
  __device__ void begin() {}
  __device__ void operator()(Element& e) const {
    float& velocity = e.state[0];
    const float step = lr * e.g;
    velocity = flush(momentum * velocity - step);
    e.w += nesterov ? momentum * velocity - step : velocity;
  }
};

template <bool with_momentum, bool centered>
struct RmsProp {
  static constexpr int states = 0b001 | with_momentum << 1 | centered << 2;
  float lr, rho, rate, momentum, epsilon;  // rate is 1 - rho
  __device__ void begin() {}
  __device__ void operator()(Element& e) const {
    float& square = e.state[0];
    square = flush(rho * square + rate * (e.g * e.g));
    float denominator = square;
    if constexpr (centered) {
      float& average = e.state[2];
      average = flush(rho * average + rate * e.g);
      denominator -= average * average;
    }
    const float u = lr * e.g / sqrtf(denominator + epsilon);
    if constexpr (with_momentum) {
      e.state[1] = flush(momentum * e.state[1] + u);
      e.w -= e.state[1];
    } else {
      e.w -= u;
    }
  }
};

template <bool amsgrad>
struct Adam {
  static constexpr int states = 0b011 | amsgrad << 2;
  const int64_t* step;
  double log_beta_1, log_beta_2;
  float lr, rate_1, rate_2, epsilon;  // rates are 1 - beta
  float alpha;                        // known once `begin` has run

  // 1 - beta^t cancels for the first steps, so it is taken in double, by one thread.
  __device__ void begin() {
    __shared__ float shared_alpha;
    if (threadIdx.x == 0) {
      const double t = static_cast<double>(step[0]) + 1.0;
      shared_alpha = static_cast<float>(lr * sqrt(-expm1(t * log_beta_2)) / -expm1(t * log_beta_1));
    }
    __syncthreads();
    alpha = shared_alpha;
  }
  __device__ void operator()(Element& e) const {
    float &m = e.state[0], &square = e.state[1];
    m = flush(m + (e.g - m) * rate_1);
    square = flush(square + (e.g * e.g - square) * rate_2);
    float used = square;
    if constexpr (amsgrad) {
      const float most = e.state[2];
      used = e.state[2] = most > square || isnan(most) ? most : square;
    }
    e.w -= alpha * m / (sqrtf(used) + epsilon);
  }
};

constexpr int sum_threads = 512;
constexpr int most_gradients = 128;

struct Gradients {
  const float* g[most_gradients];
  int64_t size[most_gradients];
};

// The squares of packs thread, thread + sum_threads, ... of one gradient, and of what is left over.
// Their order does not depend on the alignment, so neither do the bits of the sum.
template <bool vector>
__device__ __forceinline__ double square_sum(const float* g, int64_t size) {
  const auto square = [](float x) { return static_cast<double>(x) * x; };
  const int64_t packs = size / 4, tail = 4 * packs + threadIdx.x;
  double s[4] = {};
#pragma unroll 4
  for (int64_t p = threadIdx.x; p < packs; p += sum_threads) {
    Pack<4> a;
    if constexpr (vector)
      a = load_pack<4>(g + 4 * p);
    else
      a = {{g[4 * p], g[4 * p + 1], g[4 * p + 2], g[4 * p + 3]}};
#pragma unroll
    for (int i = 0; i < 4; ++i) s[i] += square(a.v[i]);
  }
  if (tail < size) s[0] += square(g[tail]);
  return (s[0] + s[1]) + (s[2] + s[3]);
}

// out[b] = sum of g[b]^2, one block to each
__global__ void __launch_bounds__(sum_threads)
    gradient_square_sum_blocks(double* out, Gradients gradients) {
  const float* g = gradients.g[blockIdx.x];
  const int64_t size = gradients.size[blockIdx.x];
  const double part = aligned_16(g) ? square_sum<true>(g, size) : square_sum<false>(g, size);
  const double total = block_reduce(part, 0.0, [](double a, double b) { return a + b; });
  if (threadIdx.x == 0) out[blockIdx.x] = total;
}

}  // namespace cuda

void sgd_update(const Parameter* parameters, int64_t count, StepOptions o, float momentum,
                bool nesterov) {
  using namespace cuda;
  if (momentum == 0.0f)
    step_all(parameters, count, o, Sgd{o.lr});
  else if (nesterov)
    step_all(parameters, count, o, SgdMomentum<true>{o.lr, momentum});
  else
    step_all(parameters, count, o, SgdMomentum<false>{o.lr, momentum});
}

void rmsprop_update(const Parameter* parameters, int64_t count, StepOptions o, double rho,
                    float momentum, float epsilon, bool centered) {
  using namespace cuda;
  const float keep = static_cast<float>(rho), rate = static_cast<float>(1.0 - rho);
  if (momentum > 0.0f && centered)
    step_all(parameters, count, o, RmsProp<true, true>{o.lr, keep, rate, momentum, epsilon});
  else if (momentum > 0.0f)
    step_all(parameters, count, o, RmsProp<true, false>{o.lr, keep, rate, momentum, epsilon});
  else if (centered)
    step_all(parameters, count, o, RmsProp<false, true>{o.lr, keep, rate, momentum, epsilon});
  else
    step_all(parameters, count, o, RmsProp<false, false>{o.lr, keep, rate, momentum, epsilon});
}

void adam_update(const Parameter* parameters, int64_t count, StepOptions o, const int64_t* step,
                 double beta_1, double beta_2, float epsilon, bool amsgrad) {
  using namespace cuda;
  const double log_1 = std::log(beta_1), log_2 = std::log(beta_2);
  const float rate_1 = static_cast<float>(1.0 - beta_1), rate_2 = static_cast<float>(1.0 - beta_2);
  if (amsgrad)
    step_all(parameters, count, o,
             Adam<true>{step, log_1, log_2, o.lr, rate_1, rate_2, epsilon, 0.0f});
  else
    step_all(parameters, count, o,
             Adam<false>{step, log_1, log_2, o.lr, rate_1, rate_2, epsilon, 0.0f});
}

void gradient_square_sums(double* out, const float* const* g, const int64_t* size, int64_t count) {
  using namespace cuda;
  for (int64_t next = 0; next < count; next += most_gradients) {
    const int64_t some = std::min<int64_t>(most_gradients, count - next);
    Gradients chunk{};
    std::copy_n(g + next, some, chunk.g);
    std::copy_n(size + next, some, chunk.size);
    launch(gradient_square_sum_blocks, static_cast<unsigned>(some), sum_threads, 0,
           current_stream(), out + next, chunk);
  }
}

}  // namespace tilegrad
