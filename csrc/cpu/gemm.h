// Matrix products on a register tile, for dense, matmul and (through tables of addresses)
// convolution.
#pragma once
#include "../ops/activation.h"
#include "blocking.h"

namespace tilegrad {

// ---- the register tile ----

// acc[r][j] += x(r) b(j), for functions that load a number into all lanes, and a vector. Few rows stay
// in registers while the columns pass: of 16 registers, 2 x 6 sums leave too few for the columns.
template <int R, int V, class X, class B>
TILEGRAD_INLINE void add_outer_product(Vec (&acc)[R][V], X x, B b) {
  if constexpr (R <= 2 && R < V) {
    Vec rows[R];
#pragma GCC unroll 2
    for (int r = 0; r < R; ++r) rows[r] = x(r);
#pragma GCC unroll 8
    for (int j = 0; j < V; ++j) {
      Vec column = b(j);
#if defined(__SSE2__)
      asm("" : "+x"(column));  // else loaded anew for each row, and loads are what limits
#endif
#pragma GCC unroll 2
      for (int r = 0; r < R; ++r) acc[r][j] = fma(rows[r], column, acc[r][j]);
    }
  } else {
    Vec columns[V];
#pragma GCC unroll 8
    for (int j = 0; j < V; ++j) columns[j] = b(j);
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
      const Vec row = x(r);
#pragma GCC unroll 8
      for (int j = 0; j < V; ++j) acc[r][j] = fma(row, columns[j], acc[r][j]);
    }
  }
}

// What happens to a finished sum: y = act(sum + bias[j]).
struct Epilogue {
  const float* bias = nullptr;  // of column 0, or null
  Activation act = Activation::linear;
  float alpha = 0.0f;
};

// Beyond linear and relu, which cost one instruction, the activation is a pass of its own over rows
// still in L1.
bool needs_row_pass(const Epilogue& e);
void activate_row(float* y, int64_t cols, const Epilogue& e);

// c[r][j] (+)= sum over segments s and p < depth of a_s[r][p a_step] b_s[p b_step + j], j < cols.
// A segment is rows + 1 pointers: b_s, then a_s[0 .. rows). Rows of A may lie anywhere, so a plain
// matrix, its transpose and the patches of an image need no copy. Rows of B must be readable up to
// the next full vector.
struct Tile {
  const float* const* segments;
  int64_t segment_count, depth, a_step, b_step;
  float* const* c;
  int64_t cols;
  bool accumulate;           // false: c is overwritten, whatever it holds
  const Epilogue* epilogue;  // null: more is to be added later
  int64_t epilogue_col;      // column of the whole matrix that column 0 of the tile is
};

// rows <= tile_rows, vectors = ceil(cols / width) <= tile_vectors
void run_tile(int rows, int vectors, const Tile& tile);

// count units in pieces of at most `most`, as even as can be: piece i is [cut(i), cut(i + 1)).
struct EvenCut {
  int64_t count, pieces;
  EvenCut(int64_t count, int64_t most) : count(count), pieces((count + most - 1) / most) {}
  int64_t operator()(int64_t i) const { return count * i / pieces; }
};

// The columns of a matrix as panels of whole vectors, one register tile wide at most.
struct Panels {
  int64_t cols;
  EvenCut vectors;
  explicit Panels(int64_t cols) : cols(cols), vectors((cols + width - 1) / width, tile_vectors) {}
  int64_t count() const { return vectors.pieces; }
  int64_t begin(int64_t i) const { return vectors(i) * width; }
  int64_t vectors_of(int64_t i) const { return vectors(i + 1) - vectors(i); }
  int64_t cols_of(int64_t i) const {
    const int64_t end = begin(i + 1);
    return (end < cols ? end : cols) - begin(i);
  }
  int64_t padded() const { return vectors.count * width; }
};

// dst[p step + j] = b[p ld + j], or b[j ld + p] where transposed; zero for cols <= j < step
void pack_panel(float* dst, int64_t step, const float* b, int64_t ld, bool transposed,
                int64_t depth, int64_t cols);

// ---- matrices ----

struct GemmShape {
  int64_t m, n, k;
};

// c (m, n) = act(op(a) op(b) + bias), all row-major and contiguous; k = 0 gives act(bias)
//   nn  a (m, k)  b (k, n)      nt  a (m, k)  b (n, k)      tn  a (k, m)  b (k, n)
enum class GemmKind { nn, nt, tn };
void gemm(GemmKind kind, float* c, const float* a, const float* b, GemmShape s,
          const Epilogue& epilogue, void* workspace);
int64_t gemm_workspace(GemmKind kind, GemmShape s);

// The same on the calling thread alone, with no workspace: for many small products side by side.
void gemm_serial(GemmKind kind, float* c, const float* a, const float* b, GemmShape s,
                 const Epilogue& epilogue);

// How gemm will do it, as text: tile, blocks, splits.
void describe_gemm(char* text, int64_t capacity, GemmKind kind, GemmShape s);

// y[i] = act(sum over parts p of partial[p size + i] + bias[i % cols]), parts added in order
void combine_partials(float* y, const float* partial, int64_t parts, int64_t size, int64_t cols,
                      const Epilogue& epilogue);

}  // namespace tilegrad
