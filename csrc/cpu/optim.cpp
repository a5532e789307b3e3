// Optimizer steps: w, state = rule(w, g, state), the formulas beside the prototypes in ops/optim.h.
// w and state are updated in place. All parameters form one flat range, cut into fixed chunks.
// Bound by memory: per element and step 12 bytes (sgd), 20 (momentum, rmsprop), 28 (adam).
// Adam: Kingma and Ba, ICLR 2015, in the form of Keras 3.
#include "../ops/optim.h"

#include <algorithm>

#include "parallel.h"
#include "simd.h"

namespace tilegrad {

namespace {

constexpr int64_t chunk = 8192;

struct Lanes {
  Vec w, g;
  Vec state[3];
};

// rule(lanes) for every vector of elements; bit s of Rule::states: it reads and writes state[s]
template <class Rule>
void sweep(const Parameter* parameters, int64_t count, StepOptions o, Rule rule) {
  int64_t total = 0;
  for (int64_t p = 0; p < count; ++p) total += parameters[p].size;
  parallel_for(total, chunk, [&](int64_t begin, int64_t end) {
    const FlushDenormals flush;  // a weight without gradient ends there, and would cost ten times
    const Parameter* p = parameters;
    for (; begin >= p->size; ++p) begin -= p->size, end -= p->size;
    for (; end > 0; end -= p->size, begin = 0, ++p) {
      const Vec scale = splat(p->scale), shrink = splat(p->decay * o.lr), clip = splat(o.clip);
      const auto step = [&](auto load_lanes, auto store_lanes, int64_t i) {
        Lanes v{};
        v.w = load_lanes(p->w + i);
        v.g = min(clip, max(-clip, scale * load_lanes(p->g + i)));  // NaN passes
        for (int s = 0; s < 3; ++s)
          if (Rule::states >> s & 1) v.state[s] = load_lanes(p->state[s] + i);
        v.w -= shrink * v.w;
        rule(v);
        store_lanes(p->w + i, v.w);
        for (int s = 0; s < 3; ++s)
          if (Rule::states >> s & 1) store_lanes(p->state[s] + i, v.state[s]);
      };
      const int64_t stop = std::min(end, p->size);
      int64_t i = begin;
      for (; i + width <= stop; i += width)
        step([](const float* a) { return load(a); }, [](float* a, Vec v) { store(a, v); }, i);
      const int64_t rest = stop - i;
      if (rest > 0)
        step([&](const float* a) { return load_partial(a, rest); },
             [&](float* a, Vec v) { store_partial(a, v, rest); }, i);
    }
  });
}

struct Sgd {
  static constexpr int states = 0;
  float lr;
  void operator()(Lanes& v) const { v.w -= lr * v.g; }
};

template <bool nesterov>
struct SgdMomentum {
  static constexpr int states = 0b001;
  float lr, momentum;
  void operator()(Lanes& v) const {
    Vec& velocity = v.state[0];
    const Vec step = lr * v.g;
    velocity = momentum * velocity - step;
    v.w += nesterov ? momentum * velocity - step : velocity;
  }
};

template <bool with_momentum, bool centered>
struct RmsProp {
  static constexpr int states = 0b001 | with_momentum << 1 | centered << 2;
  float lr, rho, rate, momentum, epsilon;  // rate is 1 - rho
  void operator()(Lanes& v) const {
    Vec& square = v.state[0];
    square = rho * square + rate * (v.g * v.g);
    Vec denominator = square;
    if constexpr (centered) {
      Vec& average = v.state[2];
      average = rho * average + rate * v.g;
      denominator -= average * average;
    }
    const Vec u = lr * v.g / sqrt(denominator + epsilon);
    if constexpr (with_momentum) {
      v.state[1] = momentum * v.state[1] + u;
      v.w -= v.state[1];
    } else {
      v.w -= u;
    }
  }
};

template <bool amsgrad>
struct Adam {
  static constexpr int states = 0b011 | amsgrad << 2;
  float alpha, rate_1, rate_2, epsilon;  // rates are 1 - beta
  void operator()(Lanes& v) const {
    Vec &m = v.state[0], &square = v.state[1];
    m += (v.g - m) * rate_1;
    square += (v.g * v.g - square) * rate_2;
    Vec used = square;
    if constexpr (amsgrad) used = v.state[2] = maximum(v.state[2], square);
    v.w -= alpha * m / (sqrt(used) + epsilon);
  }
};

}  // namespace

void sgd_update(const Parameter* parameters, int64_t count, StepOptions o, float momentum,
                bool nesterov) {
  if (momentum == 0.0f)
    sweep(parameters, count, o, Sgd{o.lr});
  else if (nesterov)
    sweep(parameters, count, o, SgdMomentum<true>{o.lr, momentum});
  else
    sweep(parameters, count, o, SgdMomentum<false>{o.lr, momentum});
}

void rmsprop_update(const Parameter* parameters, int64_t count, StepOptions o, double rho,
                    float momentum, float epsilon, bool centered) {
  const float keep = static_cast<float>(rho), rate = static_cast<float>(1.0 - rho);
  if (momentum > 0.0f && centered)
    sweep(parameters, count, o, RmsProp<true, true>{o.lr, keep, rate, momentum, epsilon});
  else if (momentum > 0.0f)
    sweep(parameters, count, o, RmsProp<true, false>{o.lr, keep, rate, momentum, epsilon});
  else if (centered)
    sweep(parameters, count, o, RmsProp<false, true>{o.lr, keep, rate, momentum, epsilon});
  else
    sweep(parameters, count, o, RmsProp<false, false>{o.lr, keep, rate, momentum, epsilon});
}

void adam_update(const Parameter* parameters, int64_t count, StepOptions o, const int64_t* step,
                 double beta_1, double beta_2, float epsilon, bool amsgrad) {
  // in double: 1 - beta^step cancels for the first steps
  const double t = static_cast<double>(step[0]) + 1.0;
  const float alpha =
      static_cast<float>(o.lr * std::sqrt(1.0 - std::pow(beta_2, t)) / (1.0 - std::pow(beta_1, t)));
  const float rate_1 = static_cast<float>(1.0 - beta_1), rate_2 = static_cast<float>(1.0 - beta_2);
  if (amsgrad)
    sweep(parameters, count, o, Adam<true>{alpha, rate_1, rate_2, epsilon});
  else
    sweep(parameters, count, o, Adam<false>{alpha, rate_1, rate_2, epsilon});
}

void gradient_square_sums(double* out, const float* const* g, const int64_t* size, int64_t count) {
  constexpr int64_t max_segments = 64;
  constexpr int lanes = 16;  // the same on every ISA
  for (int64_t p = 0; p < count; ++p) {
    const int64_t segment = std::max(chunk, (size[p] + max_segments - 1) / max_segments);
    double partial[max_segments] = {};
    parallel_for(size[p], segment, [&, p](int64_t begin, int64_t end) {
      const float* x = g[p];
      double s[lanes] = {};
      int64_t i = begin;
      for (; i + lanes <= end; i += lanes)
        for (int l = 0; l < lanes; ++l) s[l] += static_cast<double>(x[i + l]) * x[i + l];
      for (int l = 0; i < end; ++i, ++l) s[l] += static_cast<double>(x[i]) * x[i];
      for (int l = 1; l < lanes; ++l) s[0] += s[l];
      partial[begin / segment] = s[0];
    });
    double total = 0.0;
    for (double s : partial) total += s;
    out[p] = total;
  }
}

}  // namespace tilegrad
