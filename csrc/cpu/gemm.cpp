// c = act(op(a) op(b) + bias)     op(a) (m, k)  op(b) (k, n)  c (m, n), row-major; c is never read.
// Split: c into row blocks x panel groups; a long k over a small c into partials, added in order.
// 2 m n k FLOPs; A and C pass memory once per column block, B once per row block (packed: cache).
// Blocked as in Goto and van de Geijn, Anatomy of High-Performance Matrix Multiplication, 2008,
// but rows of A are read in place: streams that the hardware prefetches, so a copy would only cost.
#include "gemm.h"

#include <cstdio>
#include <utility>

#include "activation.h"
#include "parallel.h"

namespace tilegrad {
namespace {

// ---- the register tile ----

template <int R, int V>
TILEGRAD_INLINE void finish(Vec (&acc)[R][V], const Epilogue& e, int64_t col, int64_t last_lanes) {
  if (e.bias != nullptr) {
#pragma GCC unroll 8
    for (int j = 0; j < V; ++j) {
      const float* bias = e.bias + col + j * width;
      const Vec b = j < V - 1 ? load(bias) : load_partial(bias, last_lanes);
#pragma GCC unroll 8
      for (int i = 0; i < R; ++i) acc[i][j] += b;
    }
  }
  if (e.act == Activation::relu) {
#pragma GCC unroll 8
    for (int i = 0; i < R; ++i) {
#pragma GCC unroll 8
      for (int j = 0; j < V; ++j) acc[i][j] = activate<Activation::relu>(acc[i][j], Vec{});
    }
  }
}

template <int R, int V>
void tile_kernel(const Tile& tile) {
  // Kept in memory: a compiler short of registers would park it in a vector register, and reading
  // it back would queue behind the arithmetic.
  const Tile* const volatile kept = &tile;
  Vec acc[R][V];
#pragma GCC unroll 8
  for (int i = 0; i < R; ++i) {
#pragma GCC unroll 8
    for (int j = 0; j < V; ++j) acc[i][j] = Vec{};
  }
  const float* const* segment = tile.segments;
  const float* const* const stop = segment + tile.segment_count * (R + 1);
  const int64_t a_step = tile.a_step, b_step = tile.b_step, end = tile.depth * a_step;
  for (; segment != stop; segment += R + 1) {
    const float* b = segment[0];
    const float* a[R];
#pragma GCC unroll 8
    for (int i = 0; i < R; ++i) a[i] = segment[1 + i];
    for (int64_t p = 0; p != end; p += a_step, b += b_step) {
      add_outer_product(
          acc, [&](int i) { return splat(a[i][p]); }, [&](int j) { return load(b + j * width); });
    }
  }

  const Tile& t = *kept;
  const int64_t last_lanes = t.cols - (V - 1) * width;
  const bool full = last_lanes == width;
  constexpr int last = (V - 1) * width;
  if (t.accumulate) {
#pragma GCC unroll 8
    for (int i = 0; i < R; ++i) {
#pragma GCC unroll 8
      for (int j = 0; j < V - 1; ++j) acc[i][j] += load(t.c[i] + j * width);
      acc[i][V - 1] += full ? load(t.c[i] + last) : load_partial(t.c[i] + last, last_lanes);
    }
  }
  if (t.epilogue != nullptr) finish(acc, *t.epilogue, t.epilogue_col, last_lanes);
#pragma GCC unroll 8
  for (int i = 0; i < R; ++i) {
#pragma GCC unroll 8
    for (int j = 0; j < V - 1; ++j) store(t.c[i] + j * width, acc[i][j]);
    if (full) {
      store(t.c[i] + last, acc[i][V - 1]);
    } else {
      store_partial(t.c[i] + last, acc[i][V - 1], last_lanes);
    }
  }
  if (t.epilogue != nullptr && needs_row_pass(*t.epilogue)) {
    for (int i = 0; i < R; ++i) activate_row(t.c[i], t.cols, *t.epilogue);
  }
}

using TileKernel = void (*)(const Tile&);

template <class Indices>
struct Kernels;
template <int... I>
struct Kernels<std::integer_sequence<int, I...>> {
  static constexpr TileKernel table[] = {
      tile_kernel<I / tile_vectors + 1, I % tile_vectors + 1>...};
};

// ---- blocks ----

struct Left {
  const float* data;
  int64_t row_step, k_step;
};

struct Right {
  const float* data;
  int64_t ld;
  bool transposed;
  const float* packed;  // all of it, panel after panel; or null
};

struct Output {
  float* data;
  int64_t ld;
};

struct Range {
  int64_t begin, end;
};

// c[rows, panels] = a[rows, depth] b[depth, panels] on the calling thread.
void multiply_block(Output c, Left a, Right b, const Panels& panels, int64_t k, Range rows,
                    Range group, Range depth, const Epilogue* epilogue) {
  alignas(64) float scratch[depth_block * tile_cols], rows_copy[depth_block * row_block];
  // Columns of a far apart share few places of the caches: a copy pays where two panels use it.
  const bool copies_rows = a.row_step == 1 && a.k_step >= 1024 && group.end - group.begin > 1 &&
                           rows.end - rows.begin <= row_block;
  const EvenCut row_cut(rows.end - rows.begin, tile_rows);
  const EvenCut cut(depth.end - depth.begin, depth_block);
  const int64_t passes = std::max<int64_t>(cut.pieces, 1);
  for (int64_t pass = 0; pass < passes; ++pass) {
    const int64_t p0 = depth.begin + (cut.pieces > 0 ? cut(pass) : 0);
    const int64_t p1 = depth.begin + (cut.pieces > 0 ? cut(pass + 1) : 0);
    Left left{a.data + rows.begin * a.row_step + p0 * a.k_step, a.row_step, a.k_step};
    if (copies_rows) {
      const int64_t count = rows.end - rows.begin;
      for (int64_t p = 0; p < p1 - p0; ++p) {
        std::copy_n(left.data + p * left.k_step, count, rows_copy + p * count);
      }
      left = {rows_copy, 1, count};
    }
    for (int64_t q = group.begin; q < group.end; ++q) {
      const int vectors = static_cast<int>(panels.vectors_of(q));
      const int64_t j = panels.begin(q), cols = panels.cols_of(q);
      const float* panel;
      int64_t b_step = vectors * width;
      if (b.packed != nullptr) {
        panel = b.packed + j * k + p0 * b_step;
      } else if (!b.transposed && cols == b_step) {
        panel = b.data + p0 * b.ld + j;
        b_step = b.ld;
      } else {
        const float* source = b.transposed ? b.data + j * b.ld + p0 : b.data + p0 * b.ld + j;
        pack_panel(scratch, b_step, source, b.ld, b.transposed, p1 - p0, cols);
        panel = scratch;
      }
      const float* segment[1 + tile_rows] = {panel};
      float* out[tile_rows];
      const Tile tile{segment,
                      1,
                      p1 - p0,
                      left.k_step,
                      b_step,
                      out,
                      cols,
                      pass > 0,
                      pass + 1 == passes ? epilogue : nullptr,
                      j};
      for (int64_t i = 0; i < row_cut.pieces; ++i) {
        const int64_t r0 = rows.begin + row_cut(i);
        const int count = static_cast<int>(rows.begin + row_cut(i + 1) - r0);
        for (int r = 0; r < count; ++r) {
          segment[1 + r] = left.data + (row_cut(i) + r) * left.row_step;
          out[r] = c.data + (r0 + r) * c.ld + j;
        }
        run_tile(count, vectors, tile);
      }
    }
  }
}

void pack_all(float* packed, Right b, const Panels& panels, int64_t k) {
  const int64_t pieces = chunk_count(k, depth_block);
  parallel_for(panels.count() * pieces, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t q = i / pieces, p = i % pieces * depth_block;
      const int64_t j = panels.begin(q), step = panels.vectors_of(q) * width;
      const float* source = b.transposed ? b.data + j * b.ld + p : b.data + p * b.ld + j;
      pack_panel(packed + j * k + p * step, step, source, b.ld, b.transposed,
                 std::min(depth_block, k - p), panels.cols_of(q));
    }
  });
}

// ---- the plan: a function of the shape alone ----

struct Plan {
  int64_t splits;        // pieces of k, each with its own partial c
  int64_t column_block;  // columns done before the next ones begin
  bool packs;            // B is copied into panels first
  int64_t rows, panels;  // of a chunk
};

Plan make_plan(GemmKind kind, GemmShape s) {
  Plan plan{1, s.n, false, std::min(row_block, s.m), Panels(s.n).count()};
  const int64_t work = s.m * s.n * s.k;
  if (work <= 2 * small_work) {
    plan.rows = s.m;
    return plan;
  }
  const int64_t natural = chunk_count(s.m, row_block) * plan.panels;
  if (natural < wanted_chunks / 2 && s.k >= 4 * depth_block) {
    // a power of two, so that two, four or eight threads get equal shares
    const int64_t most = std::min(s.k / depth_block, wanted_chunks / natural);
    while (plan.splits * 2 <= most) plan.splits *= 2;
    return plan;
  }
  // A copy of B pays where enough rows use it. A transposed B is copied anyway: panel by panel, each
  // once, where there are panels for all threads and the rows stay in L2; else as a whole.
  const bool by_panel =
      kind == GemmKind::nt && plan.panels >= wanted_chunks && s.m * s.k <= resident_floats;
  if (by_panel) plan.rows = s.m;
  plan.packs = !by_panel && s.m > (kind == GemmKind::nt ? row_block : 2 * row_block);
  if (plan.packs) {
    const int64_t fit = std::max<int64_t>(packed_floats / s.k / tile_cols, 1) * tile_cols;
    plan.column_block = std::min(s.n, fit);
  }
  plan.panels = Panels(plan.column_block).count();
  const auto chunks = [&] {
    return chunk_count(s.m, plan.rows) * chunk_count(Panels(s.n).count(), plan.panels);
  };
  const auto divisible = [&] {
    return chunks() < wanted_chunks && work / chunks() > 4 * small_work;
  };
  while (divisible() && plan.panels > 1) plan.panels = (plan.panels + 1) / 2;
  while (divisible() && plan.rows > 2 * tile_rows) plan.rows = (plan.rows + 1) / 2;
  return plan;
}

Left left_of(GemmKind kind, const float* a, GemmShape s) {
  if (kind == GemmKind::tn) return {a, 1, s.m};
  return {a, s.k, 1};
}

Right right_of(GemmKind kind, const float* b, GemmShape s) {
  return {b, kind == GemmKind::nt ? s.k : s.n, kind == GemmKind::nt, nullptr};
}

}  // namespace

bool needs_row_pass(const Epilogue& e) {
  return e.act != Activation::linear && e.act != Activation::relu;
}

void activate_row(float* y, int64_t cols, const Epilogue& e) {
  const Vec alpha = splat(e.alpha);
  with_fused_activation(e.act, [&](auto kind) {
    map(y, cols, [alpha](Vec x) { return activate<decltype(kind)::value>(x, alpha); }, y);
  });
}

void run_tile(int rows, int vectors, const Tile& tile) {
  using All = std::make_integer_sequence<int, tile_rows * tile_vectors>;
  Kernels<All>::table[(rows - 1) * tile_vectors + vectors - 1](tile);
}

void pack_panel(float* dst, int64_t step, const float* b, int64_t ld, bool transposed,
                int64_t depth, int64_t cols) {
  if (!transposed) {
    for (int64_t p = 0; p < depth; ++p) {
      for (int64_t j = 0; j < step; j += width) {
        const float* source = b + p * ld + j;
        store(dst + p * step + j, j + width <= cols
                                      ? load(source)
                                      : load_partial(source, std::max<int64_t>(cols - j, 0)));
      }
    }
    return;
  }
  const int64_t whole_cols = cols - cols % width, whole_depth = depth & ~int64_t{3};
  for (int64_t j = 0; j < whole_cols; j += width) {
    for (int64_t p = 0; p < whole_depth; p += 4) {
      transpose_block(dst + p * step + j, step, b + j * ld + p, ld);
    }
    for (int64_t p = whole_depth; p < depth; ++p) {
      for (int64_t i = j; i < j + width; ++i) dst[p * step + i] = b[i * ld + p];
    }
  }
  for (int64_t p = 0; p < depth; ++p) {
    for (int64_t j = whole_cols; j < step; ++j) dst[p * step + j] = j < cols ? b[j * ld + p] : 0.0f;
  }
}

void combine_partials(float* y, const float* partial, int64_t parts, int64_t size, int64_t cols,
                      const Epilogue& epilogue) {
  if (cols == 0) return;
  const int64_t rows = size / cols;
  parallel_for(rows, std::max<int64_t>(8192 / (cols * parts), 1), [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      float* out = y + row * cols;
      const float* in = partial + row * cols;
      for (int64_t j = 0; j < cols; j += width) {
        const int64_t lanes = std::min<int64_t>(width, cols - j);
        Vec sum = load_partial(in + j, lanes);
        for (int64_t p = 1; p < parts; ++p) sum += load_partial(in + p * size + j, lanes);
        if (epilogue.bias != nullptr) sum += load_partial(epilogue.bias + j, lanes);
        if (epilogue.act == Activation::relu) sum = activate<Activation::relu>(sum, Vec{});
        store_partial(out + j, sum, lanes);
      }
      if (needs_row_pass(epilogue)) activate_row(out, cols, epilogue);
    }
  });
}

int64_t gemm_workspace(GemmKind kind, GemmShape s) {
  const Plan plan = make_plan(kind, s);
  int64_t floats = 0;
  if (plan.splits > 1) floats = plan.splits * s.m * s.n;
  if (plan.packs) floats = Panels(plan.column_block).padded() * s.k;
  return floats * static_cast<int64_t>(sizeof(float));
}

void gemm(GemmKind kind, float* c, const float* a, const float* b, GemmShape s,
          const Epilogue& epilogue, void* workspace) {
  if (s.m == 0 || s.n == 0) return;
  const Plan plan = make_plan(kind, s);
  const Left left = left_of(kind, a, s);
  const Right right = right_of(kind, b, s);
  float* const scratch = static_cast<float*>(workspace);

  if (plan.splits > 1) {
    const Panels panels(s.n);
    parallel_for(plan.splits, 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const Range depth{s.k * i / plan.splits, s.k * (i + 1) / plan.splits};
        multiply_block({scratch + i * s.m * s.n, s.n}, left, right, panels, s.k, {0, s.m},
                       {0, panels.count()}, depth, nullptr);
      }
    });
    combine_partials(c, scratch, plan.splits, s.m * s.n, s.n, epilogue);
    return;
  }

  for (int64_t j = 0; j < s.n; j += plan.column_block) {
    const Panels panels(std::min(plan.column_block, s.n - j));
    Right part = right;
    part.data += kind == GemmKind::nt ? j * s.k : j;
    if (plan.packs) {
      pack_all(scratch, part, panels, s.k);
      part.packed = scratch;
    }
    Epilogue shifted = epilogue;
    if (shifted.bias != nullptr) shifted.bias += j;
    const int64_t groups = chunk_count(panels.count(), plan.panels);
    parallel_for(chunk_count(s.m, plan.rows) * groups, 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const int64_t r = i / groups * plan.rows, q = i % groups * plan.panels;
        multiply_block({c + j, s.n}, left, part, panels, s.k, {r, std::min(r + plan.rows, s.m)},
                       {q, std::min(q + plan.panels, panels.count())}, {0, s.k}, &shifted);
      }
    });
  }
}

void gemm_serial(GemmKind kind, float* c, const float* a, const float* b, GemmShape s,
                 const Epilogue& epilogue) {
  if (s.m == 0 || s.n == 0) return;
  const Panels panels(s.n);
  multiply_block({c, s.n}, left_of(kind, a, s), right_of(kind, b, s), panels, s.k, {0, s.m},
                 {0, panels.count()}, {0, s.k}, &epilogue);
}

void describe_gemm(char* text, int64_t capacity, GemmKind kind, GemmShape s) {
  static const char* const names[] = {"nn", "nt", "tn"};
  const Plan plan = make_plan(kind, s);
  std::snprintf(text, static_cast<size_t>(capacity),
                "gemm %s %dx%d, kc %lld, mc %lld, nc %lld, %s, split-k %lld",
                names[static_cast<int>(kind)], tile_rows, tile_cols,
                static_cast<long long>(depth_block), static_cast<long long>(plan.rows),
                static_cast<long long>(std::min(plan.panels * tile_cols, s.n)),
                plan.packs ? "b packed" : "b in place", static_cast<long long>(plan.splits));
}

}  // namespace tilegrad
