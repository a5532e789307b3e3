// Elementwise activations y = f(x). `alpha` is the slope of leaky_relu and the scale of elu; others
// ignore it.
#pragma once
#include "glossary.h"

namespace tilegrad {

// Up to `elu`, f' is a function of y alone (alpha > 0): those may be fused into dense and conv.
enum class Activation : int {
  linear = 0,      // x
  relu = 1,        // max(x, 0)
  leaky_relu = 2,  // x > 0 ? x : alpha x
  sigmoid = 3,     // 1 / (1 + exp(-x))
  tanh = 4,        // tanh(x)
  elu = 5,         // x > 0 ? x : alpha (exp(x) - 1)
  gelu = 6,        // x Phi(x), Phi(x) = (1 + erf(x / sqrt 2)) / 2
  gelu_tanh = 7,   // x / 2 (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3)))
  silu = 8,        // x sigmoid(x)
  softplus = 9,    // log(1 + exp(x))
};

// y[i] = f(x[i])                          y, x (count)
void activation_forward(float* y, const float* x, int64_t count, Activation kind, float alpha);

// dx[i] = dy[i] f'(.)                     dx, dy, saved (count)
// `saved` is y for the kinds up to elu and x for the rest.
void activation_backward_dx(float* dx, const float* dy, const float* saved, int64_t count,
                            Activation kind, float alpha);

}  // namespace tilegrad
