// Arrays of CUDA memory, CuPy's and others', read through the CUDA Array Interface, version 3
// (https://numba.readthedocs.io/en/stable/cuda/cuda_array_interface.html).
#pragma once
#include "check.h"

namespace tilegrad {

constexpr int max_rank = 8;

struct CudaArray {
  void* data;
  int ndim;
  int64_t shape[max_rank];
  bool writable;
};

// Throws TypeError or ValueError unless h has the interface, elements of `typestr` ("<f4"), at most
// max_rank axes and is C-contiguous.
CudaArray read_cuda_array(const char* op, const char* name, py::handle h, const char* typestr);

}  // namespace tilegrad
