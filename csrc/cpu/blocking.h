// Tile sizes of the matrix kernels, one row per ISA. The only file to touch when tuning for another
// machine.
#pragma once
#include "simd.h"

namespace tilegrad {

// The register tile is tile_rows x (tile_vectors width). Accumulators + one row of B + one
// broadcast fill the register file: 8 x 3 + 3 of 32 (AVX-512, which broadcasts from memory), 6 x 2
// + 3 of 16; 2 x 6 + 2 + 1 of 16, where numbers are shuffled into all lanes, so few of them.
#if defined(__AVX512F__)
constexpr int tile_rows = 8, tile_vectors = 3;
#elif defined(__AVX2__)
constexpr int tile_rows = 6, tile_vectors = 2;
#elif defined(__aarch64__)
constexpr int tile_rows = 6, tile_vectors = 4;
#else
constexpr int tile_rows = 2, tile_vectors = 6;
#endif
constexpr int tile_cols = tile_vectors * width;

// One pass over k: a panel of B, depth_block x tile_cols floats, stays in L1 or close to it while
// row_block rows of A, row_block x depth_block floats, come from L2.
constexpr int64_t depth_block = 256;
constexpr int64_t row_block = 96 / tile_rows * tile_rows;

// Rows of A that every panel comes back to stay in L2: 512 KiB.
constexpr int64_t resident_floats = int64_t{1} << 17;

// B is packed this many floats at a time: 8 MiB, a share of L3.
constexpr int64_t packed_floats = int64_t{1} << 21;

// Below this many multiply-adds a chunk costs less than handing it to another thread.
constexpr int64_t small_work = 16 * 1024;
// Chunks a large product is cut into at least, so that many threads find work.
constexpr int64_t wanted_chunks = 32;

}  // namespace tilegrad
