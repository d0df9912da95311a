// Runs the kernel as a program, for processors that are only emulated here. It reads a line of numbers and then arrays
// from stdin, and writes y to stdout, as test_aarch64.py says.
#include <cstdio>
#include <string>
#include <vector>

#include "kernel.h"

extern "C" const char* vlcompress_block_sparse_linear(const float*, int64_t, int64_t, const void*, int64_t,
                                                      const int32_t*, int64_t, const int64_t*, int64_t, int64_t,
                                                      int64_t, const float*, const float*, const float*, int32_t,
                                                      float*, const char*, int);

template <class T>
std::vector<T> read(size_t count) {
  std::vector<T> values(count);
  if (fread(values.data(), sizeof(T), count, stdin) != count) exit(2);
  return values;
}

int main() {
  long rows, inputs, outputs, height, kept, int8, activation;
  if (scanf("%ld %ld %ld %ld %ld %ld %ld", &rows, &inputs, &outputs, &height, &kept, &int8, &activation) != 7) return 2;
  getchar();
  const auto panels = static_cast<size_t>(outputs / height);
  const auto x = read<float>(static_cast<size_t>(rows * inputs));
  const auto values = read<char>(static_cast<size_t>(kept * height) * (int8 ? 1 : sizeof(float)));
  const auto columns = read<int32_t>(static_cast<size_t>(kept));
  const auto starts = read<int64_t>(panels + 1);
  const auto scales = read<float>(int8 ? static_cast<size_t>(outputs) : 0);
  const auto bias = read<float>(static_cast<size_t>(outputs));
  const auto residual = read<float>(static_cast<size_t>(rows * outputs));
  std::vector<float> y(static_cast<size_t>(rows * outputs));
  const char* const wrong = vlcompress_block_sparse_linear(
      x.data(), rows, inputs, values.data(), kept * height, columns.data(), kept, starts.data(),
      static_cast<int64_t>(panels), outputs, height, int8 ? scales.data() : nullptr, bias.data(), residual.data(),
      static_cast<int32_t>(activation), y.data(), nullptr, 2);
  if (wrong) return fprintf(stderr, "%s\n", wrong), 1;
  return fwrite(y.data(), sizeof(float), y.size(), stdout) == y.size() ? 0 : 2;
}
