#include "apps/probe_measure.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <optional>

#include "apps/bench_measure.h"
#include "apps/synth_model.h"
#include "apps/synth_writer.h"
#include "backend/backend.h"
#include "base/check.h"
#include "base/memory_size.h"
#include "cluster/cluster.h"
#include "model/model.h"

namespace conclave::apps {
namespace {

using kernels::PackedFormat;

constexpr std::size_t kCacheSetMax = std::size_t{24} << 20;  // well inside a cache others use too
constexpr std::size_t kPrefillRows = 64;  // rows that meet an expert in a large chunk
constexpr std::size_t kSmallTokens = 24;
constexpr std::size_t kSmallRuns = 9;
constexpr std::size_t kFewLayers = 2;
constexpr std::size_t kManyLayers = 18;
constexpr std::size_t kFewExperts = 2;  // per token
constexpr std::size_t kManyExperts = 8;

PackedFormat packed(plan::Format format) {
  switch (format) {
    case plan::Format::kInt4:
      return PackedFormat::kInt4;
    case plan::Format::kInt8:
      return PackedFormat::kInt8;
    case plan::Format::kFp8:
      return PackedFormat::kFp8;
    case plan::Format::kBf16:
      return PackedFormat::kBF16;
    case plan::Format::kF32:
      return PackedFormat::kF32;
  }
  CHECK(false);
  return PackedFormat::kF32;
}

// A small model of the usual proportions. What its step takes beyond the reading of its weights is
// the cost of running a layer: starting and joining threads, uneven ends of matrices, norms,
// router. It is as narrow as the models for which that cost counts: in wide ones reading is all.
SynthModel small_model(std::size_t n_layers, std::size_t experts_per_token) {
  SynthModel synth;
  model::ModelConfig& c = synth.config;
  c.architecture = "DeepseekV3ForCausalLM";
  c.model_type = "kimi_k2";
  c.vocab_size = 1024;
  c.hidden_size = 384;
  c.n_layers = n_layers;
  c.n_dense_layers = 1;
  c.intermediate_size = 384;
  c.moe_intermediate_size = 128;
  c.n_experts = 16;
  c.n_shared_experts = 1;
  c.experts_per_token = experts_per_token;
  c.n_heads = 8;
  c.q_lora_rank = 192;
  c.kv_lora_rank = 128;
  c.qk_nope_head_dim = 64;
  c.qk_rope_head_dim = 32;
  c.v_head_dim = 64;
  c.max_positions = 4096;
  c.eos_token_ids = {};
  synth.quant = SynthQuant::kInt4;
  return synth;
}

// Removes the folder at the end of the scope.
class TemporaryFolder {
 public:
  explicit TemporaryFolder(std::filesystem::path path) : path_(std::move(path)) {}
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;
  ~TemporaryFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

// A small model in memory, and how long its weights take to read.
struct SmallModel {
  std::optional<backend::WholeModel> whole;
  double reading_seconds = 0.0;  // per token
};

Result<SmallModel> load_small(const ProbeRequest& request, const plan::Machine& machine,
                              std::size_t n_layers, std::size_t experts_per_token,
                              const std::filesystem::path& dir) {
  const TemporaryFolder folder(
      dir / fmt::format("conclave-probe-{}-{}-{}", ::getpid(), n_layers, experts_per_token));
  TRY(write_checkpoint(small_model(n_layers, experts_per_token), folder.path(), 1, {}));
  const plan::Model model =
      TRY(cluster::read_folder_model(folder.path(), model::WeightsMode::kInt8));
  SmallModel small;
  for (std::size_t i = 0; i < plan::kParts; ++i) {
    const plan::Part part = static_cast<plan::Part>(i);
    const std::size_t format = static_cast<std::size_t>(model.quant.of(part).format);
    const double rate = machine.cache_gemv_bandwidth[format] > 0.0
                            ? machine.cache_gemv_bandwidth[format]
                            : machine.gemv_bandwidth[format];
    small.reading_seconds += plan::read_bytes(model, part) / rate;
  }
  const model::ModelSource source = TRY(model::ModelSource::open(folder.path()));
  backend::CpuOptions options;
  options.isa = request.isa;
  options.threads = request.threads;
  options.busy = request.busy;
  options.weights = model::WeightsMode::kInt8;
  options.limits = {.rows_max = 8, .pages = 8};
  small.whole = TRY(backend::load_whole_cpu_model(source, options, {}));
  return small;
}

// Seconds per decoded token beyond the reading of weights.
Result<double> overhead_seconds(const Clock& clock, const SmallModel& small, std::size_t run) {
  const double all = TRY(time_decode(clock, *small.whole->backend, kSmallTokens, run));
  return all / static_cast<double>(kSmallTokens) - small.reading_seconds;
}

// What a layer, an expert in it and a step cost besides reading: from a shallow model, a deep one
// and a deep one whose tokens take few experts, run in turn, so that a slow moment of the machine
// falls on all.
Result<void> measure_overheads(const Clock& clock, const ProbeRequest& request,
                               const std::filesystem::path& dir, plan::Machine& machine) {
  const SmallModel small = TRY(load_small(request, machine, kFewLayers, kManyExperts, dir));
  const SmallModel deep = TRY(load_small(request, machine, kManyLayers, kManyExperts, dir));
  const SmallModel lean = TRY(load_small(request, machine, kManyLayers, kFewExperts, dir));
  std::vector<double> layer;
  std::vector<double> expert;
  std::vector<double> shallow;
  for (std::size_t run = 0; run <= kSmallRuns; ++run) {
    const double small_seconds = TRY(overhead_seconds(clock, small, run));
    const double deep_seconds = TRY(overhead_seconds(clock, deep, run));
    const double lean_seconds = TRY(overhead_seconds(clock, lean, run));
    if (run == 0) continue;  // touches everything once
    layer.push_back((deep_seconds - small_seconds) / static_cast<double>(kManyLayers - kFewLayers));
    expert.push_back((deep_seconds - lean_seconds) /
                     static_cast<double>((kManyLayers - 1) * (kManyExperts - kFewExperts)));
    shallow.push_back(small_seconds);
  }
  const double with_experts = std::max(1e-7, spread_of(std::move(layer)).median);
  const double experts =
      std::clamp(spread_of(std::move(expert)).median * static_cast<double>(kManyExperts), 0.0,
                 0.9 * with_experts);
  machine.expert_seconds = experts / static_cast<double>(kManyExperts);
  machine.dispatch_seconds = with_experts - experts;
  machine.step_seconds = std::max(
      0.0, spread_of(std::move(shallow)).median - static_cast<double>(kFewLayers) * with_experts);
  return {};
}

}  // namespace

std::size_t last_level_cache_bytes() {
  std::size_t largest = 0;
  for (int index = 0; index < 8; ++index) {
    std::ifstream file(fmt::format("/sys/devices/system/cpu/cpu0/cache/index{}/size", index));
    std::size_t kib = 0;
    char unit = 0;
    if (!(file >> kib >> unit)) continue;
    largest = std::max(largest, unit == 'M' ? kib << 20 : kib << 10);
  }
  return largest;
}

Result<plan::Machine> probe_machine(const Clock& clock, const ProbeRequest& request,
                                    const std::filesystem::path& temporary_dir) {
  plan::Machine machine;
  machine.name = request.name;
  machine.title =
      fmt::format("this machine, {} thread{}", request.threads, request.threads == 1 ? "" : "s");
  machine.device = plan::DeviceClass::kCpu;
  const double memory = static_cast<double>(memory_size_bytes().value_or(0));
  machine.memory_bytes = memory;
  machine.usable_bytes = 0.9 * memory;  // the rest is the system's
  machine.cache_bytes = static_cast<double>(last_level_cache_bytes());
  machine.peak_bandwidth = backend::probe_read_bandwidth(request.threads, 4, request.memory_bytes);

  const std::unique_ptr<backend::KernelProbe> probe = TRY(backend::make_cpu_kernel_probe(
      request.isa, request.threads, request.memory_bytes, request.busy));
  const std::size_t cache_set =
      std::min<std::size_t>(kCacheSetMax, static_cast<std::size_t>(machine.cache_bytes) / 2);
  for (std::size_t i = 0; i < plan::kFormats; ++i) {
    const PackedFormat format = packed(static_cast<plan::Format>(i));
    machine.gemv_bandwidth[i] = probe->gemv_bandwidth(format, request.memory_bytes);
    if (cache_set > 0) machine.cache_gemv_bandwidth[i] = probe->gemv_bandwidth(format, cache_set);
    // Two reads of one memory differ by noise; neither can be above what memory gives.
    machine.peak_bandwidth = std::max(machine.peak_bandwidth, machine.gemv_bandwidth[i]);
  }
  machine.efficiency =
      std::clamp(machine.gemv_bandwidth[static_cast<std::size_t>(plan::Format::kInt8)] /
                     machine.peak_bandwidth,
                 0.01, 1.0);
  machine.unsteadiness = std::min(1.0, probe->unsteadiness(PackedFormat::kInt8));
  machine.prefill_flops = probe->gemm_flops(PackedFormat::kInt8, kPrefillRows);

  TRY(measure_overheads(clock, request, temporary_dir, machine));
  return machine;
}

}  // namespace conclave::apps
