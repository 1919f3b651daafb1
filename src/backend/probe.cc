// The yardstick of decode: how fast this machine reads memory.
#include <sys/mman.h>

#include <chrono>
#include <cstring>
#include <vector>

#include "backend/backend.h"
#include "base/check.h"
#include "base/thread_pool.h"
#include "kernels/kernels.h"

namespace conclave::backend {

double probe_read_bandwidth(std::size_t threads, std::size_t streams, std::size_t size_bytes) {
  CHECK(streams == 1 || streams == 2 || streams == 4 || streams == 8);
  CHECK(size_bytes >= (std::size_t{1} << 20));
  ThreadPool pool(threads);
  void* memory =
      ::mmap(nullptr, size_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) return 0.0;
  ::madvise(memory, size_bytes, MADV_HUGEPAGE);
  auto* data = static_cast<std::byte*>(memory);
  const std::size_t share = size_bytes / pool.size() / 4096 * 4096;
  pool.parallel_for(pool.size(), [&](std::size_t chunk, std::size_t) {
    std::memset(data + chunk * share, 0, share);
  });
  const kernels::Operations& ops = kernels::operations(kernels::available_isas().back());
  std::vector<float> sums(pool.size());
  const auto read = [&] {
    const auto start = std::chrono::steady_clock::now();
    pool.parallel_for(pool.size(), [&](std::size_t chunk, std::size_t) {
      sums[chunk] += ops.read_streams({data + chunk * share, share}, streams);
    });
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  };
  // The first pass still writes the memset's lines back and is slower by half.
  read();
  const double took = (read() + read()) / 2.0;
  // Keeps the reads alive: their result decides nothing, but the compiler cannot know.
  volatile float sink = 0.0f;
  for (const float sum : sums) sink = sink + sum;
  ::munmap(memory, size_bytes);
  return static_cast<double>(share * pool.size()) / took;
}

}  // namespace conclave::backend
