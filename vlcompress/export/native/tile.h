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

// One row's outputs `first` .. `first` + LANES: activation(values + residual), as many of them as the panel has.
template <Floats (*activation)(Floats)>
void write_row(const Step& s, int row, int first, Floats values) {
  const int64_t at = row * s.outputs + first;
  const int count = s.width - first;
  if (s.residual) values += load_some(s.residual + at, count);
  store_some(s.y + at, activation(values), count);
}

template <Floats (*activation)(Floats)>
void write_as(const Step& s, const Tile& tile) {
  float bias[kOutputs] = {};
  if (s.bias) std::memcpy(bias, s.bias, static_cast<size_t>(s.width) * sizeof(float));
  for (int first = 0; first < s.width; first += LANES)
    for (int row = 0; row < s.rows; row += LANES) {
      Floats block[LANES];
#pragma GCC unroll 16
      for (int o = 0; o < LANES; ++o) block[o] = load(tile[first + o] + row) + bias[first + o];
      transpose(block);
#pragma GCC unroll 16
      for (int r = 0; r < LANES; ++r)
        if (row + r < s.rows) write_row<activation>(s, row + r, first, block[r]);
    }
}

// Turns a tile back and writes it: activation(sum + bias + residual).
inline void write(const Step& s, const Tile& tile) {
  static constexpr void (*kWrite[kActivations])(const Step&, const Tile&) = {write_as<same>, write_as<gelu>,
                                                                            write_as<gelu_tanh>, write_as<relu>};
  kWrite[s.activation](s, tile);
}

}  // namespace
}  // namespace vlcompress
