// Times the backend's own products on zeroed weights.
#include <sys/mman.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <numeric>

#include "backend/backend.h"
#include "backend/cpu/rows.h"
#include "base/check.h"

namespace conclave::backend {
namespace {

// Shape of the probed matrices: an expert of a small model. Larger ones read up to a tenth faster.
constexpr std::size_t kMatrixRows = 1024;
constexpr std::size_t kMatrixCols = 2048;
// Matrices in one parallel section: those of a token's experts in a layer. What starting and ending
// a section costs is part of the layer's own overhead, which the probe measures on small models.
constexpr std::size_t kMatricesTogether = 16;
constexpr double kPassSeconds = 0.02;  // a measurement repeats its pass until it took so long,
constexpr std::size_t kPassesMin = 3;  // and at least so often
// Passes before a measurement: until one is within this share of the one before, at most so many.
// The first over memory that was just written waits for dirty cache lines to leave.
constexpr double kSettled = 0.05;
constexpr std::size_t kWarmUpMax = 6;
constexpr std::size_t kStretches = 128;  // for unsteadiness
constexpr std::size_t kMemoryMin = std::size_t{64} << 20;

class Mapping {
 public:
  explicit Mapping(std::size_t size_bytes)
      : size_(size_bytes),
        data_(::mmap(nullptr, size_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1,
                     0)) {
    if (valid()) ::madvise(data_, size_, MADV_HUGEPAGE);
  }
  Mapping(const Mapping&) = delete;
  Mapping& operator=(const Mapping&) = delete;
  ~Mapping() {
    if (valid()) ::munmap(data_, size_);
  }
  bool valid() const { return data_ != MAP_FAILED; }
  std::span<std::byte> bytes() const { return {static_cast<std::byte*>(data_), size_}; }

 private:
  std::size_t size_;
  void* data_;
};

class CpuKernelProbe final : public KernelProbe {
 public:
  CpuKernelProbe(const kernels::Operations& ops, std::size_t threads, double busy,
                 std::unique_ptr<Mapping> map)
      : pool_(threads, busy), context_{ops, pool_, /*exact=*/false}, memory_(std::move(map)) {
    tiles_.resize(pool_.size());
    // Every page has to be real: an untouched one is the kernel's single page of zeros.
    const std::size_t share = memory_->bytes().size() / pool_.size();
    pool_.parallel_for(pool_.size(), [&](std::size_t chunk, std::size_t) {
      std::ranges::fill(memory_->bytes().subspan(chunk * share, share), std::byte{0});
    });
  }

  double gemv_bandwidth(kernels::PackedFormat format, std::size_t working_set_bytes) override {
    const std::vector<kernels::PackedMatrix> matrices = matrices_of(format, working_set_bytes);
    std::size_t bytes = 0;
    for (const kernels::PackedMatrix& matrix : matrices) bytes += matrix.data.size();
    return static_cast<double>(bytes) / pass_seconds(matrices, 1);
  }

  double gemm_flops(kernels::PackedFormat format, std::size_t rows) override {
    // Small enough to stay cached, as a chunk of prefill uses each weight many times.
    const std::vector<kernels::PackedMatrix> matrices = matrices_of(format, 1);
    const double flops = 2.0 * static_cast<double>(kMatrixRows * kMatrixCols * rows);
    return flops * static_cast<double>(matrices.size()) / pass_seconds(matrices, rows);
  }

  double unsteadiness(kernels::PackedFormat format) override {
    const auto matrices = matrices_of(format, memory_->bytes().size());
    prepare(1);
    warm_up(matrices);
    std::vector<double> seconds;
    while (seconds.size() < kStretches) pass(matrices, &seconds);
    // From one to the next: half the mean square of the differences.
    double mean = seconds.front();
    double squares = 0.0;
    for (std::size_t i = 1; i < seconds.size(); ++i) {
      mean += seconds[i];
      squares += (seconds[i] - seconds[i - 1]) * (seconds[i] - seconds[i - 1]);
    }
    const auto n = static_cast<double>(seconds.size());
    return std::sqrt(squares / (2.0 * (n - 1.0))) / (mean / n);
  }

 private:
  std::vector<kernels::PackedMatrix> matrices_of(kernels::PackedFormat format,
                                                 std::size_t working_set_bytes) const {
    const std::size_t size = kernels::packed_bytes(format, kMatrixRows, kMatrixCols, 0);
    const std::size_t aligned = (size + 4095) / 4096 * 4096;
    const std::size_t room = std::min(working_set_bytes, memory_->bytes().size());
    std::vector<kernels::PackedMatrix> matrices;
    const std::size_t n = std::max<std::size_t>(1, room / aligned);
    // A stride through all of them in a scattered order, as routing picks experts.
    std::size_t stride = n * 5 / 8 | 1;
    while (std::gcd(stride, n) != 1) stride += 2;
    for (std::size_t i = 0; i < n; ++i) {
      matrices.push_back({.format = format,
                          .rows = kMatrixRows,
                          .cols = kMatrixCols,
                          .data = memory_->bytes().subspan(i * stride % n * aligned, size)});
    }
    return matrices;
  }

  // Room and inputs for products with `rows` rows.
  void prepare(std::size_t rows) {
    x_.resize(rows, kMatrixCols);
    for (std::size_t t = 0; t < rows; ++t) {
      for (std::size_t c = 0; c < kMatrixCols; ++c) {
        x_.row(t)[c] = static_cast<float>(c % 7) - 3.0f;
      }
      x_.round_row(context_.ops, t);
    }
    y_.resize(kMatricesTogether * rows * kMatrixRows);
    for (std::vector<float>& tile : tiles_) tile.resize(context_.tile_size(rows));
  }

  // Seconds of one pass over all matrices, after passes that are not counted.
  double pass_seconds(const std::vector<kernels::PackedMatrix>& matrices, std::size_t rows) {
    prepare(rows);
    warm_up(matrices);
    // The mean, not the best: what slows some passes slows some tokens too.
    double elapsed = 0.0;
    std::size_t passes = 0;
    while (passes < kPassesMin || elapsed < kPassSeconds) {
      elapsed += pass(matrices);
      ++passes;
    }
    return elapsed / static_cast<double>(passes);
  }

  void warm_up(const std::vector<kernels::PackedMatrix>& matrices) {
    double last = pass(matrices);
    for (std::size_t i = 1; i < kWarmUpMax; ++i) {
      const double now = pass(matrices);
      if (std::abs(now - last) <= kSettled * last) return;
      last = now;
    }
  }

  // `stretches`: gets the seconds of each parallel section but a short last one.
  double pass(const std::vector<kernels::PackedMatrix>& matrices,
              std::vector<double>* stretches = nullptr) {
    const auto start = std::chrono::steady_clock::now();
    auto last = start;
    for (std::size_t first = 0; first < matrices.size(); first += kMatricesTogether) {
      const std::size_t n = std::min(kMatricesTogether, matrices.size() - first);
      products_.clear();
      for (std::size_t i = 0; i < n; ++i) {
        products_.push_back({&matrices[first + i], x_.view(),
                             y_.data() + i * x_.size() * kMatrixRows, kMatrixRows});
      }
      multiply(context_, products_, tiles_);
      if (stretches == nullptr || n < std::min(kMatricesTogether, matrices.size())) continue;
      const auto now = std::chrono::steady_clock::now();
      stretches->push_back(std::chrono::duration<double>(now - last).count());
      last = now;
    }
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  }

  ThreadPool pool_;
  CpuContext context_;
  std::unique_ptr<Mapping> memory_;
  Rows x_;
  std::vector<float> y_;  // [matrices together, rows, kMatrixRows]
  std::vector<Product> products_;
  std::vector<std::vector<float>> tiles_;
};

}  // namespace

Result<std::unique_ptr<KernelProbe>> make_cpu_kernel_probe(std::string_view isa,
                                                           std::size_t threads,
                                                           std::size_t memory_bytes, double busy) {
  CHECK(memory_bytes >= kMemoryMin);
  const kernels::Isa chosen = TRY(kernels::choose_isa(isa));
  auto memory = std::make_unique<Mapping>(memory_bytes);
  if (!memory->valid()) {
    return exhausted("the probe's memory cannot be had: give a smaller --memory-mb");
  }
  return std::unique_ptr<KernelProbe>(std::make_unique<CpuKernelProbe>(
      kernels::operations(chosen), threads, busy, std::move(memory)));
}

}  // namespace conclave::backend
