// The pieces of a convolution that run on the calling thread, for conv.cpp and conv_pool.cpp.
#pragma once
#include <algorithm>

#include "../ops/conv_pool.h"
#include "gemm.h"
#include "parallel.h"

namespace tilegrad {

// Segments of one pass at most: bounds the tables, which live on the stack.
constexpr int64_t segment_limit = 32;

// The taps of a window that starts at position `start` which lie inside [0, size).
struct Span {
  int64_t begin, end;
};

inline Span valid_taps(int64_t start, int64_t taps, int64_t dilation, int64_t size) {
  const int64_t begin = start < 0 ? chunk_count(-start, dilation) : 0;
  const int64_t end = size > start ? chunk_count(size - start, dilation) : 0;
  const int64_t from = std::min(begin, taps);
  return {from, std::clamp(end, from, taps)};
}

// Outputs i < count of an axis whose tap at `offset` reads inside: i stride + offset in [0, size).
inline Span valid_outputs(int64_t offset, int64_t size, int64_t stride, Span limit) {
  const int64_t begin = offset < 0 ? chunk_count(-offset, stride) : 0;
  const int64_t end = size > offset ? chunk_count(size - offset, stride) : 0;
  const int64_t from = std::clamp(begin, limit.begin, limit.end);
  return {from, std::clamp(end, from, limit.end)};
}

// w in the order that conv2d_lines reads: in the workspace, or w itself.
int64_t conv2d_arranged_bytes(const Conv2dShape& s);
const float* conv2d_arrange_weights(const float* w, const Conv2dShape& s, void* workspace);
bool forward_packs(const Conv2dShape& s);  // whether they are in panels

// Lines [begin, end) of y, counted over all images; y points at line `begin`. One group.
void conv2d_lines(float* y, const float* x, const float* arranged, const Conv2dShape& s,
                  const Epilogue& epilogue, int64_t begin, int64_t end);

// A line of the window is unbroken in memory, and lines are long enough to fill register tiles: most
// networks' convolutions. There a table of addresses would cost more than it saves; a kernel of its
// own knows them as a base and a step.
bool is_direct(const Conv2dShape& s);

// conv2d_lines for these, with the weights in panels (packed) or in place; only the panels `group`.
void direct_lines(float* y, const float* x, const float* weights, const Conv2dShape& s, bool packed,
                  const Epilogue& epilogue, int64_t begin, int64_t end, Span group);

// Whether rows of 2 x 2 windows can be pooled while their sums are in registers.
bool pools_in_registers(const ConvPool2dShape& s);
// The pooled rows whose windows see no line above or below the image: the only ones that
// direct_pooled_rows may be given.
Span rows_inside(const ConvPool2dShape& s);
// `rows` of an image: y and index point at the first of them; weights as for direct_lines.
void direct_pooled_rows(float* y, uint8_t* index, const float* x, const float* weights,
                        const ConvPool2dShape& s, bool packed, const float* bias, bool relu,
                        int64_t image, Span rows);

// multiply_dw where enough of these lines fit a thread's copies to fill its tiles.
bool is_direct_dw(const Conv2dShape& s);
void direct_dw(float* dw, const float* x, const float* dy, const Conv2dShape& s, int64_t row_begin,
               int64_t row_end, int64_t line_begin, int64_t line_end, bool accumulate);

// How dw is cut: row_chunks of its kh kw c / groups rows, splits of the n oh lines of dy.
struct DwPlan {
  int64_t row_chunks, splits;
};

DwPlan plan_dw(const Conv2dShape& s);

// Rows [row_begin, row_end) of dw for one group, from the lines [line_begin, line_end) of dy; dy
// points at line `line_begin`.
void multiply_dw(float* dw, const float* x, const float* dy, const Conv2dShape& s, int64_t group,
                 int64_t row_begin, int64_t row_end, int64_t line_begin, int64_t line_end,
                 bool accumulate);

}  // namespace tilegrad
