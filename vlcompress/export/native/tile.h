// Sums of some outputs for some rows, [outputs][rows], and their way to y; and rows of x on their way in.
#pragma once

#include "vectors.h"

namespace vlcompress {
namespace {

using Tile = float[kOutputs][kMaxRows];

// LANES columns of x for LANES rows that are `inputs` apart; rows and columns that are missing become zeros.
inline void load_turned(const float* x, int64_t inputs, int rows, int columns, Floats (&block)[LANES]) {
#pragma GCC unroll 16
  for (int r = 0; r < LANES; ++r) block[r] = r < rows ? load_some(x + r * inputs, columns) : Floats{};
  transpose(block);
}

// Sums of float32 and their bias.
struct Biased {
  const Tile& tile;
  float bias[kOutputs] = {};

  Biased(const Step& s, const Tile& sums) : tile(sums) {
    if (s.bias) std::memcpy(bias, s.bias, static_cast<size_t>(s.width) * sizeof(float));
  }
  Floats operator()(int output, int row) const { return load(tile[output] + row) + bias[output]; }
};

// Turns so many rows of sums back and writes them. `sums(output, row)` are those of LANES rows.
template <class Sums>
void write(const Step& s, const Sums& sums, int rows) {
  for (int first = 0; first < kOutputs; first += LANES)
    for (int row = 0; row < rows; row += LANES) {
      Floats block[LANES];
#pragma GCC unroll 16
      for (int o = 0; o < LANES; ++o) block[o] = sums(first + o, row);
      transpose(block);
#pragma GCC unroll 16
      for (int r = 0; r < LANES; ++r) store(s.to + (row + r) * kSpanStride + first, block[r]);
    }
}

// Writes `count` rows of sums that lie as y does, from row `first` on.
template <int V>
void write_rows(const Step& s, int first, int count, const Floats (*sums)[V]) {
  for (int v = 0; v < V; ++v) {
    const Floats bias = s.bias ? load_some(s.bias + v * LANES, s.width - v * LANES) : Floats{};
    for (int row = 0; row < count; ++row) store(s.to + (first + row) * kSpanStride + v * LANES, sums[row][v] + bias);
  }
}

template <Floats (*activation)(Floats)>
void finish_as(const Finish& f) {
  for (int row = 0; row < f.rows; ++row)
    for (int first = 0; first < f.width; first += LANES) {
      const int64_t at = row * f.outputs + first;
      Floats values = load(f.from + row * kSpanStride + first);
      if (f.residual) values += load_some(f.residual + at, f.width - first);
      store_some(f.y + at, activation(values), f.width - first);
    }
}

void finish(const Finish& f) {
  static constexpr void (*kFinish[kActivations])(const Finish&) = {finish_as<same>, finish_as<gelu>,
                                                                   finish_as<gelu_tanh>, finish_as<relu>};
  kFinish[f.activation](f);
}

}  // namespace
}  // namespace vlcompress
