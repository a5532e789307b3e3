// fn(tag) with the kind of an op as a compile-time constant, decltype(tag)::value: for the kernels of
// every backend.
#pragma once
#include <type_traits>

#include "../ops/activation.h"
#include "../ops/elementwise.h"

namespace tilegrad {

template <auto K>
using Tag = std::integral_constant<decltype(K), K>;

// Only the kinds that may be fused, linear to elu.
template <class F>
void with_fused_activation(Activation kind, F&& fn) {
  switch (kind) {
    case Activation::relu:
      return fn(Tag<Activation::relu>{});
    case Activation::leaky_relu:
      return fn(Tag<Activation::leaky_relu>{});
    case Activation::sigmoid:
      return fn(Tag<Activation::sigmoid>{});
    case Activation::tanh:
      return fn(Tag<Activation::tanh>{});
    case Activation::elu:
      return fn(Tag<Activation::elu>{});
    default:
      return fn(Tag<Activation::linear>{});
  }
}

template <class F>
void with_activation(Activation kind, F&& fn) {
  switch (kind) {
    case Activation::gelu:
      return fn(Tag<Activation::gelu>{});
    case Activation::gelu_tanh:
      return fn(Tag<Activation::gelu_tanh>{});
    case Activation::silu:
      return fn(Tag<Activation::silu>{});
    case Activation::softplus:
      return fn(Tag<Activation::softplus>{});
    default:
      return with_fused_activation(kind, fn);
  }
}

template <class F>
void with_binary(Binary kind, F&& fn) {
  switch (kind) {
    case Binary::add:
      return fn(Tag<Binary::add>{});
    case Binary::subtract:
      return fn(Tag<Binary::subtract>{});
    case Binary::multiply:
      return fn(Tag<Binary::multiply>{});
    case Binary::divide:
      return fn(Tag<Binary::divide>{});
    case Binary::power:
      return fn(Tag<Binary::power>{});
    case Binary::maximum:
      return fn(Tag<Binary::maximum>{});
    case Binary::minimum:
      return fn(Tag<Binary::minimum>{});
  }
}

template <class F>
void with_unary(Unary kind, F&& fn) {
  switch (kind) {
    case Unary::negative:
      return fn(Tag<Unary::negative>{});
    case Unary::exp:
      return fn(Tag<Unary::exp>{});
    case Unary::log:
      return fn(Tag<Unary::log>{});
    case Unary::sqrt:
      return fn(Tag<Unary::sqrt>{});
    case Unary::absolute:
      return fn(Tag<Unary::absolute>{});
    case Unary::square:
      return fn(Tag<Unary::square>{});
  }
}

}  // namespace tilegrad
