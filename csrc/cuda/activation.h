// Activations on single numbers, for activation.cu and for every fused epilogue.
#pragma once
#include "../core/dispatch.h"
#include "device.h"

namespace tilegrad {
namespace cuda {

// exp only of negative numbers: no overflow, and small results keep their precision
__device__ __forceinline__ float sigmoid(float x) {
  const float e = expf(-fabsf(x));
  return (x < 0.0f ? e : 1.0f) / (1.0f + e);
}

// exp(-x^2 / 2); the rounding error of the square, which exp would magnify, is put back
__device__ __forceinline__ float gaussian(float x) {
  x = clamp(x, -15.0f, 15.0f);
  const float square = x * x;
  const float e = expf(-0.5f * square);
  return fmaf(-0.5f * fmaf(x, x, -square), e, e);
}

// Phi(x) = erfc(z) / 2, z = -x / sqrt 2; what rounding z loses, which erfc would magnify, is put
// back by the slope of Phi. `density` is gaussian(x).
__device__ __forceinline__ float normal_cdf(float x, float density) {
  constexpr float high = 0.707106769f, low = 1.21016175e-8f;  // 1 / sqrt 2 is their sum
  constexpr float inverse_sqrt_pi = 0.564189584f;
  x = clamp(x, -15.0f, 15.0f);
  const float z = -high * x;
  const float lost = fmaf(-low, x, fmaf(-high, x, -z));
  return fmaf(-inverse_sqrt_pi * lost, density, 0.5f * erfcf(z));
}

constexpr float sqrt_2_over_pi = 0.797884561f;
constexpr float inverse_sqrt_2pi = 0.398942280f;
constexpr float gelu_cubic = 0.044715f;

// y = f(x)
template <Activation A>
__device__ __forceinline__ float activate(float x, [[maybe_unused]] float alpha) {
  if constexpr (A == Activation::relu) return x < 0.0f ? 0.0f : x;  // in this order NaN stays NaN
  if constexpr (A == Activation::leaky_relu) return x > 0.0f ? x : alpha * x;
  if constexpr (A == Activation::sigmoid) return sigmoid(x);
  if constexpr (A == Activation::tanh) return tanhf(x);
  if constexpr (A == Activation::elu) return x > 0.0f ? x : alpha * expm1f(x);
  // where Phi or the sigmoid is 0, x = -infinity would give NaN: the limit is 0
  if constexpr (A == Activation::gelu) return fmaxf(x, -1e30f) * normal_cdf(x, gaussian(x));
  if constexpr (A == Activation::gelu_tanh) {
    // (1 + tanh u) / 2 = sigmoid(2 u), which keeps small values where 1 + tanh u cancels
    const float u = x * fmaf(x * x, gelu_cubic, 1.0f);
    return fmaxf(x, -1e30f) * sigmoid(2.0f * sqrt_2_over_pi * u);
  }
  if constexpr (A == Activation::silu) return fmaxf(x, -1e30f) * sigmoid(x);
  if constexpr (A == Activation::softplus) return fmaxf(x, 0.0f) + log1pf(expf(-fabsf(x)));
  if constexpr (A == Activation::linear) return x;
}

// dx = dy f'; `saved` is y up to elu, x after. A closed relu gives 0 whatever dy is.
template <Activation A>
__device__ __forceinline__ float activation_gradient(float dy, [[maybe_unused]] float saved,
                                                     [[maybe_unused]] float alpha) {
  [[maybe_unused]] const float y = saved, x = saved;
  if constexpr (A == Activation::relu) return y > 0.0f ? dy : 0.0f;
  if constexpr (A == Activation::leaky_relu) return y > 0.0f ? dy : alpha * dy;
  if constexpr (A == Activation::sigmoid) return dy * (y * (1.0f - y));
  if constexpr (A == Activation::tanh) return dy * ((1.0f - y) * (1.0f + y));
  if constexpr (A == Activation::elu) return y > 0.0f ? dy : dy * (y + alpha);
  if constexpr (A == Activation::gelu) {
    // Phi(x) + x phi(x)
    const float density = gaussian(x);
    return dy * fmaf(inverse_sqrt_2pi * clamp(x, -15.0f, 15.0f), density, normal_cdf(x, density));
  }
  if constexpr (A == Activation::gelu_tanh) {
    // s + x s (1 - s) 2 u', s = sigmoid(2 u), 1 - s = sigmoid(-2 u); beyond 15 the second term is 0
    const float z = clamp(x, -15.0f, 15.0f), z2 = z * z;
    const float v = 2.0f * sqrt_2_over_pi * z * fmaf(z2, gelu_cubic, 1.0f);
    const float slope = 2.0f * sqrt_2_over_pi * fmaf(z2, 3.0f * gelu_cubic, 1.0f);
    const float s = sigmoid(v);
    return dy * fmaf(z * slope * s, sigmoid(-v), s);
  }
  if constexpr (A == Activation::silu) {
    // s (1 + x (1 - s)); beyond 120 the second term is 0
    const float z = clamp(x, -120.0f, 120.0f), s = sigmoid(z);
    return dy * fmaf(z * s, sigmoid(-z), s);
  }
  if constexpr (A == Activation::softplus) return dy * sigmoid(x);
  if constexpr (A == Activation::linear) return dy;
}

// v[i] = f(v[i])
template <Activation A, int N>
__device__ __forceinline__ void activate_all(float (&v)[N], float alpha) {
#pragma unroll
  for (int i = 0; i < N; ++i) v[i] = activate<A>(v[i], alpha);
}

// The same where the kind is known only at run time, the same for all threads.
template <int N>
__device__ __forceinline__ void activate_all(float (&v)[N], Activation kind, float alpha) {
  if (kind == Activation::relu) activate_all<Activation::relu>(v, alpha);
  if (kind == Activation::leaky_relu) activate_all<Activation::leaky_relu>(v, alpha);
  if (kind == Activation::sigmoid) activate_all<Activation::sigmoid>(v, alpha);
  if (kind == Activation::tanh) activate_all<Activation::tanh>(v, alpha);
  if (kind == Activation::elu) activate_all<Activation::elu>(v, alpha);
}

}  // namespace cuda
}  // namespace tilegrad
