// Packing weights for instructions that multiply groups of columns.
#include <algorithm>
#include <cstring>

#include "kernel.h"

namespace vlcompress {
namespace {

// To the nearest, ties to even; NaN stays NaN.
uint16_t bfloat16(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  if (value != value) return static_cast<uint16_t>(bits >> 16 | 0x40);
  return static_cast<uint16_t>((bits + 0x7FFF + (bits >> 16 & 1)) >> 16);
}

template <class To>
To converted(int8_t value) {
  return value;
}

template <class To>
To converted(float value) {
  return bfloat16(value);
}

// Appends the part of a panel that begins at its output `first`.
template <class From, class To>
void append(const Weight& w, int64_t panel, int64_t first, PackedWeight& to) {
  constexpr int64_t block = sizeof(Line) / sizeof(To);
  const int64_t start = w.starts[panel], count = w.starts[panel + 1] - start;
  const int64_t blocks = (count + block - 1) / block;
  const From* from = static_cast<const From*>(w.values) + start * w.height + first;
  const size_t at = to.values.size();
  to.values.resize(at + static_cast<size_t>(blocks) * kOutputs);  // zeros
  auto* const values = reinterpret_cast<To*>(to.values.data() + at);
  for (int64_t j = 0; j < count; ++j)
    for (int o = 0; o < kOutputs; ++o)
      values[(j / block * kOutputs + o) * block + j % block] = converted<To>(from[j * w.height + o]);
  to.columns.insert(to.columns.end(), w.columns + start, w.columns + start + count);
  to.columns.resize(to.columns.size() + static_cast<size_t>(blocks * block - count), static_cast<int32_t>(w.inputs));
  to.starts.push_back(static_cast<int64_t>(to.columns.size()));
}

template <class From, class To>
PackedWeight packed(const Weight& w) {
  PackedWeight to{{}, {}, {0}, {}};
  for (int64_t panel = 0; panel * w.height < w.outputs; ++panel)
    for (int64_t first = 0; first < w.height && panel * w.height + first < w.outputs; first += kOutputs)
      append<From, To>(w, panel, first, to);
  return to;
}

std::vector<int32_t> sums_of(const Weight& w) {
  std::vector<int32_t> sums(static_cast<size_t>(w.outputs));
  const auto* const values = static_cast<const int8_t*>(w.values);
  for (int64_t output = 0; output < w.outputs; ++output) {
    const int64_t panel = output / w.height;
    for (int64_t j = w.starts[panel]; j < w.starts[panel + 1]; ++j)
      sums[static_cast<size_t>(output)] += values[j * w.height + output % w.height];
  }
  return sums;
}

}  // namespace

PackedWeight pack(const Weight& w, const InstructionSet& set, Precision precision) {
  if (precision == Precision::kBfloat16) return packed<float, uint16_t>(w);
  PackedWeight to = set.value_size == sizeof(int8_t) ? packed<int8_t, int8_t>(w) : packed<int8_t, int16_t>(w);
  to.sums = sums_of(w);
  return to;
}

Weight PackedWeight::view(const Weight& from) const {
  return {values.data(), columns.data(), starts.data(), from.inputs, from.outputs, kOutputs, from.scales, sums.data()};
}

}  // namespace vlcompress
