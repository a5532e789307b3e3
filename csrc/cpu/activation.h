// Activations on vectors, for activation.cpp and for the epilogues of dense and conv.
#pragma once
#include "../core/dispatch.h"
#include "simd.h"

namespace tilegrad {

constexpr float sqrt_2_over_pi = 0.797884561f;
constexpr float inverse_sqrt_2pi = 0.398942280f;
constexpr float gelu_cubic = 0.044715f;

// y = f(x)
template <Activation A>
TILEGRAD_INLINE Vec activate(Vec x, [[maybe_unused]] Vec alpha) {
  if constexpr (A == Activation::relu) return max(Vec{}, x);  // in this order NaN stays NaN
  if constexpr (A == Activation::leaky_relu) return select(x > 0.0f, x, alpha * x);
  if constexpr (A == Activation::sigmoid) return sigmoid(x);
  if constexpr (A == Activation::tanh) return tanh(x);
  if constexpr (A == Activation::elu) return select(x > 0.0f, x, alpha * expm1_nonpositive(x));
  if constexpr (A == Activation::gelu) {
    // x Phi(x) = max(x, 0) - a P(X > a), a = |x|
    const Vec a = normal_argument(x);
    return fma(-a, normal_tail(a, gaussian(a)), max(Vec{}, x));
  }
  // where the sigmoid is 0, x = -infinity would give NaN: the limit is 0
  if constexpr (A == Activation::gelu_tanh) {
    // (1 + tanh u) / 2 = sigmoid(2 u), which keeps small values where 1 + tanh u cancels
    const Vec u = x * fma(x * x, splat(gelu_cubic), splat(1.0f));
    return max(splat(-1e30f), x) * sigmoid(2.0f * sqrt_2_over_pi * u);
  }
  if constexpr (A == Activation::silu) return max(splat(-1e30f), x) * sigmoid(x);
  if constexpr (A == Activation::softplus)
    return max(Vec{}, x) + log1p_nonnegative(exp_nonpositive(-abs(x)));
  if constexpr (A == Activation::linear) return x;
}

// dx = dy f'; `saved` is y up to elu, x after. A closed relu gives 0 whatever dy is.
template <Activation A>
TILEGRAD_INLINE Vec activation_gradient(Vec dy, [[maybe_unused]] Vec saved,
                                        [[maybe_unused]] Vec alpha) {
  const Vec y = saved, x = saved;
  if constexpr (A == Activation::relu) return select(y > 0.0f, dy, Vec{});
  if constexpr (A == Activation::leaky_relu) return select(y > 0.0f, dy, alpha * dy);
  if constexpr (A == Activation::sigmoid) return dy * (y * (1.0f - y));
  if constexpr (A == Activation::tanh) return dy * ((1.0f - y) * (1.0f + y));
  if constexpr (A == Activation::elu) return select(y > 0.0f, dy, dy * (y + alpha));
  if constexpr (A == Activation::gelu) {
    // Phi(x) + x phi(x) = g for x <= 0, else 1 - g, with g = P(X > a) - a phi(a), a = |x|
    const Vec a = normal_argument(x), density = gaussian(a);
    const Vec g = fma(-inverse_sqrt_2pi * a, density, normal_tail(a, density));
    return dy * select(x > 0.0f, 1.0f - g, g);
  }
  if constexpr (A == Activation::gelu_tanh) {
    // s + x s (1 - s) 2 u', s = sigmoid(2 u), 1 - s = sigmoid(-2 u); beyond 15 the second term is 0
    const Vec z = min(splat(15.0f), max(splat(-15.0f), x)), z2 = z * z;
    const Vec v = 2.0f * sqrt_2_over_pi * z * fma(z2, splat(gelu_cubic), splat(1.0f));
    const Vec slope = 2.0f * sqrt_2_over_pi * fma(z2, splat(3.0f * gelu_cubic), splat(1.0f));
    const Vec s = sigmoid(v);
    return dy * fma(z * slope * s, sigmoid(-v), s);
  }
  if constexpr (A == Activation::silu) {
    // s (1 + x (1 - s)); beyond 120 the second term is 0
    const Vec z = min(splat(120.0f), max(splat(-120.0f), x)), s = sigmoid(z);
    return dy * fma(z * s, sigmoid(-z), s);
  }
  if constexpr (A == Activation::softplus) return dy * sigmoid(x);
  if constexpr (A == Activation::linear) return dy;
}

}  // namespace tilegrad
