// y = f(x) and dx = dy f'(.), elementwise over flat arrays.
// Outputs are overwritten. Each thread takes four neighbours at a time, or single elements where an
// array is not 16-byte aligned; 8 or 12 bytes per element.
// FLOPs: 1 for relu to about 60 for gelu, so all are bound by memory.
#include "activation.h"

#include "map.h"

namespace tilegrad {
namespace cuda {

template <Activation A>
struct ActivationForward {
  float alpha;
  __device__ float operator()(float x) const { return activate<A>(x, alpha); }
};

template <Activation A>
struct ActivationBackward {
  float alpha;
  __device__ float operator()(float dy, float saved) const {
    return activation_gradient<A>(dy, saved, alpha);
  }
};

}  // namespace cuda

void activation_forward(float* y, const float* x, int64_t count, Activation kind, float alpha) {
  with_activation(kind, [&](auto tag) {
    cuda::map(y, count, cuda::ActivationForward<decltype(tag)::value>{alpha}, x);
  });
}

void activation_backward_dx(float* dx, const float* dy, const float* saved, int64_t count,
                            Activation kind, float alpha) {
  with_activation(kind, [&](auto tag) {
    cuda::map(dx, count, cuda::ActivationBackward<decltype(tag)::value>{alpha}, dy, saved);
  });
}

}  // namespace tilegrad
