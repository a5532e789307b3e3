// Optimizer steps, Keras 3's update rules, all parameters in one call. Decay rates are double: 1 -
// rate is rounded to float once, after the subtraction. Numbers below the least normal float are 0.
#pragma once
#include "glossary.h"

namespace tilegrad {

// One parameter tensor. Before the rule: g' = clamp(scale g, -clip, clip), then w -= decay lr w.
struct Parameter {
  float* w;         // (size), updated in place
  const float* g;   // (size)
  float* state[3];  // (size) each, updated in place; how many a rule uses stands beside it
  int64_t size;
  float scale, decay;  // gradient multiplier (1 = none); decoupled weight decay (0 = none)
};

struct StepOptions {
  float lr;
  float clip;  // largest |g'|; infinity = none
};

// momentum == 0: w -= lr g.  Else v = momentum v - lr g;  w += v, nesterov: w += momentum v - lr g.
// state: v (unused when momentum is 0)
void sgd_update(const Parameter* parameters, int64_t count, StepOptions o, float momentum,
                bool nesterov);

// v = rho v + (1 - rho) g^2;  denominator = v + epsilon
// centered: a = rho a + (1 - rho) g;  denominator = v - a^2 + epsilon
// u = lr g / sqrt(denominator);  momentum > 0: m = momentum m + u, w -= m, else w -= u
// state: v, m (momentum > 0), a (centered)
void rmsprop_update(const Parameter* parameters, int64_t count, StepOptions o, double rho,
                    float momentum, float epsilon, bool centered);

// m += (g - m) (1 - beta_1);  v += (g^2 - v) (1 - beta_2)
// amsgrad: v_hat = max(v_hat, v), which then stands for v
// w -= alpha m / (sqrt(v) + epsilon), alpha = lr sqrt(1 - beta_2^t) / (1 - beta_1^t), t = step[0] + 1
// step: (1), how many updates were made before this one. state: m, v, v_hat (amsgrad)
void adam_update(const Parameter* parameters, int64_t count, StepOptions o, const int64_t* step,
                 double beta_1, double beta_2, float epsilon, bool amsgrad);

// out[p] = sum of squares of parameter p's gradient      out (count), accumulated in double
void gradient_square_sums(double* out, const float* const* g, const int64_t* size, int64_t count);

}  // namespace tilegrad
