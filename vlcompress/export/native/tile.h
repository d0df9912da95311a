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

// Sums of float32 and their bias.
struct Biased {
  const Tile& tile;
  float bias[kOutputs] = {};

  Biased(const Step& s, const Tile& sums) : tile(sums) {
    if (s.bias) std::memcpy(bias, s.bias, static_cast<size_t>(s.width) * sizeof(float));
  }
  Floats operator()(int output, int row) const { return load(tile[output] + row) + bias[output]; }
};

template <Floats (*activation)(Floats), class Sums>
void write_as(const Step& s, const Sums& sums, int rows) {
  for (int first = 0; first < s.width; first += LANES)
    for (int row = 0; row < rows; row += LANES) {
      Floats block[LANES];
#pragma GCC unroll 16
      for (int o = 0; o < LANES; ++o) block[o] = sums(first + o, row);
      transpose(block);
#pragma GCC unroll 16
      for (int r = 0; r < LANES; ++r)
        if (row + r < rows) write_row<activation>(s, row + r, first, block[r]);
    }
}

// Turns so many rows of sums back and writes them: activation(sum + bias + residual). `sums(output, row)` are those of
// LANES rows.
template <class Sums>
void write(const Step& s, const Sums& sums, int rows) {
  static constexpr void (*kWrite[kActivations])(const Step&, const Sums&, int) = {
      write_as<same, Sums>, write_as<gelu, Sums>, write_as<gelu_tanh, Sums>, write_as<relu, Sums>};
  kWrite[s.activation](s, sums, rows);
}

template <Floats (*activation)(Floats), int V>
void write_rows_as(const Step& s, int first, int count, const Floats (*sums)[V]) {
  for (int v = 0; v < V; ++v) {
    const Floats bias = s.bias ? load_some(s.bias + v * LANES, s.width - v * LANES) : Floats{};
    for (int row = 0; row < count; ++row) write_row<activation>(s, first + row, v * LANES, sums[row][v] + bias);
  }
}

// Writes `count` rows of sums that lie as y does, from row `first` on.
template <int V>
void write_rows(const Step& s, int first, int count, const Floats (*sums)[V]) {
  static constexpr void (*kWrite[kActivations])(const Step&, int, int, const Floats(*)[V]) = {
      write_rows_as<same, V>, write_rows_as<gelu, V>, write_rows_as<gelu_tanh, V>, write_rows_as<relu, V>};
  kWrite[s.activation](s, first, count, sums);
}

}  // namespace
}  // namespace vlcompress
