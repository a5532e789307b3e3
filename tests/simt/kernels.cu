// Small calls of the production kernels, for tests/test_kernel_traces.py, which compiles copies of
// csrc/cuda with faults in them. A fault is there while its number is `planted`.
//
// Usage: kernels N: runs all calls with fault 0 (none), 1, ..., N; prints a report of each, a list.
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "../../csrc/cuda/device.h"
#include "../../csrc/ops/conv_pool.h"
#include "../../csrc/ops/dense.h"
#include "../../csrc/ops/elementwise.h"
#include "../../csrc/ops/optim.h"
#include "../../csrc/simt/trace.h"

namespace tilegrad {

int planted = 0;

namespace {

// The arrays of one call.
class Memory {
 public:
  ~Memory() {
    for (void* block : blocks_) device_free(block);
  }
  template <class T = float>
  T* of(int64_t count, T value = T{1}) {
    std::vector<T> numbers(static_cast<size_t>(count), value);
    void* const block = device_malloc(numbers.size() * sizeof(T));
    copy_to_device(block, numbers.data(), numbers.size() * sizeof(T));
    blocks_.push_back(block);
    return static_cast<T*>(block);
  }
  void* bytes(int64_t count) { return count > 0 ? of<char>(count) : nullptr; }

 private:
  std::vector<void*> blocks_;
};

void dense(Memory& m) {
  const DenseShape s{33, 40, 35};
  dense_forward(m.of(33 * 35), m.of(33 * 40), m.of(40 * 35), m.of(35), s, Activation::relu, 0.0f,
                m.bytes(dense_forward_workspace(s)));
}

void bias(Memory& m) {
  bias_backward_db(m.of(4), m.of(1200 * 4), 1200, 4, m.bytes(bias_backward_db_workspace(1200, 4)));
}

Conv2dShape convolution(int64_t c, int64_t f, int64_t groups) {
  return {1, 9, 10, c, f, 3, 3, 7, 8, 1, 1, 0, 0, 1, 1, groups};
}

void implicit_gemm(Memory& m) {
  Conv2dShape s = convolution(5, 7, 1);
  s.pad_top = s.pad_left = 1, s.oh = s.h, s.ow = s.w;
  conv2d_forward(m.of(90 * 7), m.of(90 * 5), m.of(9 * 5 * 7), nullptr, s, Activation::linear, 0.0f,
                 m.bytes(conv2d_forward_workspace(s)));
}

void first_layer(Memory& m) {
  const Conv2dShape s = convolution(2, 5, 1);
  conv2d_forward(m.of(56 * 5), m.of(90 * 2), m.of(9 * 2 * 5), m.of(5), s, Activation::relu, 0.0f,
                 nullptr);
}

void depthwise(Memory& m) {
  const Conv2dShape s = convolution(6, 6, 6);
  conv2d_backward_dw(m.of(9 * 6), m.of(90 * 6), m.of(56 * 6), s,
                     m.bytes(conv2d_backward_dw_workspace(s)));
}

void fused_first_layer(Memory& m) {
  ConvPool2dShape s{convolution(1, 5, 1), {1, 7, 8, 5, 3, 4, 2, 2, 2, 2, 0, 0}};
  s.conv.n = s.pool.n = 3;
  float *const y = m.of(3 * 12 * 5), *const x = m.of(3 * 90);
  uint8_t* const index = m.of<uint8_t>(3 * 12 * 5);
  conv2d_max_pool2d_forward(y, index, x, m.of(9 * 5), m.of(5), s, Activation::relu,
                            m.bytes(conv2d_max_pool2d_forward_workspace(s)));
  conv2d_max_pool2d_backward_dw(m.of(9 * 5), m.of(5), x, y, index, s,
                                m.bytes(conv2d_max_pool2d_backward_dw_workspace(s)));
}

void pool(Memory& m) {
  const Pool2dShape s{1, 7, 8, 5, 3, 4, 2, 2, 2, 2, 0, 0};
  max_pool2d_forward(m.of(12 * 5), m.of<uint8_t>(12 * 5), m.of(56 * 5), s);
}

void elementwise(Memory& m) {
  clip_forward(m.of(1001), m.of(1001), 1001, 0.0f, 1.0f);
  strided_copy(m.of(40 * 70), m.of(40 * 70), {2, {70, 40}, {40, 1}, {1, 70}});
}

void reductions(Memory& m) {
  reduce_sum_forward(m.of(2), m.of(2 * 2100), 2, 2100, 1, 1.0f);
  reduce_max_backward_dx(m.of(64 * 70), m.of(70), m.of(64 * 70), m.of(70), 1, 64, 70);
}

void optimizer(Memory& m) {
  constexpr int64_t size = 37;
  const Parameter p{m.of(size), m.of(size), {m.of(size), m.of(size), nullptr}, size, 1.0f, 0.0f};
  adam_update(&p, 1, {0.1f, INFINITY}, m.of<int64_t>(1), 0.9, 0.999, 1e-7f, false);
  gradient_square_sums(m.of<double>(1), &p.g, &size, 1);
}

}  // namespace
}  // namespace tilegrad

int main(int, char** arguments) {
  using namespace tilegrad;
  const auto calls = {dense,     bias,      implicit_gemm,     first_layer,
                      depthwise, pool,      fused_first_layer, elementwise,
                      optimizer, reductions};
  const int last = std::atoi(arguments[1]);
  for (; planted <= last; ++planted) {
    simt::trace_start(false);
    for (const auto call : calls) {
      Memory memory;
      call(memory);
    }
    std::printf("%s%s\n", planted == 0 ? "[" : ",", simt::trace_stop().c_str());
  }
  std::printf("]\n");
}
