// Packing weights in bfloat16.
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

// Appends the part of a panel that begins at its output `first`.
void append(const Weight& w, int64_t panel, int64_t first, Bfloat16Weight& to) {
  const int64_t start = w.starts[panel], count = w.starts[panel + 1] - start;
  const int64_t filled = (count + kBlock - 1) / kBlock * kBlock;
  const float* from = static_cast<const float*>(w.values) + start * w.height + first;
  size_t at = to.values.size();
  to.values.resize(at + static_cast<size_t>(filled) * kOutputs);
  for (int64_t j = 0; j < count; ++j)
    for (int o = 0; o < kOutputs; ++o)
      to.values[at + static_cast<size_t>((j / kBlock * kOutputs + o) * kBlock + j % kBlock)] =
          bfloat16(from[j * w.height + o]);
  to.columns.insert(to.columns.end(), w.columns + start, w.columns + start + count);
  to.columns.resize(to.columns.size() + static_cast<size_t>(filled - count), static_cast<int32_t>(w.inputs));
  to.starts.push_back(static_cast<int64_t>(to.columns.size()));
}

}  // namespace

Bfloat16Weight pack_bfloat16(const Weight& w) {
  Bfloat16Weight packed{{}, {}, {0}};
  for (int64_t panel = 0; panel * w.height < w.outputs; ++panel)
    for (int64_t first = 0; first < w.height && panel * w.height + first < w.outputs; first += kOutputs)
      append(w, panel, first, packed);
  return packed;
}

Weight Bfloat16Weight::view(const Weight& from) const {
  return {values.data(), columns.data(), starts.data(), from.inputs, from.outputs, kOutputs};
}

}  // namespace vlcompress
