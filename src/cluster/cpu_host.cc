#include "cluster/cpu_host.h"

#include <algorithm>
#include <charconv>
#include <functional>
#include <random>
#include <utility>

#include "base/check.h"
#include "base/rng.h"
#include "cluster/facts.h"

namespace conclave::cluster {
namespace {

constexpr std::size_t kAttention = SIZE_MAX;  // stands for the slice of replicated attention
constexpr std::string_view kKvPrefix = "kv-";

std::string range_text(kernels::Range range) {
  return std::to_string(range.begin) + "-" + std::to_string(range.end);
}

std::uint64_t hash_of(std::span<const model::LayerExpert> copies) {
  std::uint64_t hash = copies.size();
  for (const model::LayerExpert& copy : copies) {
    hash = hash_combine(hash, std::uint64_t{copy.layer.value} << 16 | copy.expert.value);
  }
  return hash;
}

// Equal names have equal contents, whatever layout they serve: what a new layout needs again stays.
std::string slice_name(const Layout& layout, const model::Slice& slice) {
  return "slice-" + hex_text(layout.model) + "-h" + range_text(slice.heads) + "-e" +
         range_text(slice.expert_columns) + "-s" + range_text(slice.shared_columns) + "-d" +
         range_text(slice.dense_columns) + "-v" + range_text(slice.vocab) +
         (slice.experts == model::kAll ? "" : "-x" + range_text(slice.experts)) +
         (slice.layers == model::kAll ? "" : "-l" + range_text(slice.layers)) +
         (slice.replicas.empty() ? "" : "-r" + hex_text(hash_of(slice.replicas)));
}

// Null where every expert is in one virtual rank only.
std::shared_ptr<const backend::ExpertDivision> expert_division(const model::ModelConfig& config,
                                                               const Layout& layout) {
  std::vector<backend::DivisionMember> members;
  bool any = false;
  for (const VirtualRank& rank : layout.virtual_ranks) {
    members.push_back({rank.slice, rank.group});
    any = any || !rank.slice.replicas.empty();
  }
  return any ? std::make_shared<backend::ExpertDivision>(config, members) : nullptr;
}

model::Slice attention_slice(const model::ModelConfig& config) {
  model::Slice slice;
  slice.heads = {0, config.n_heads};
  slice.embedding = false;
  return slice;
}

std::uint64_t random_id() {
  std::random_device device;
  return (std::uint64_t{device()} << 32 | device()) | 1u;
}

}  // namespace

CpuHost::CpuHost(const WorkerOptions& options, WorkerChannel& channel, WorkerPulse& pulse,
                 const Clock& clock, transport::Endpoint data,
                 std::optional<transport::Identity> identity)
    : options_(options),
      channel_(channel),
      pulse_(pulse),
      clock_(clock),
      data_(std::move(data)),
      identity_(std::move(identity)),
      thread_([this] { run(); }) {}

CpuHost::~CpuHost() {
  {
    const std::lock_guard lock(mutex_);
    ending_ = true;
  }
  wake_.notify_all();
  thread_.join();
}

void CpuHost::want(const wire::pb::Assignment& assignment) {
  if (!assignment.has_layout()) return;
  {
    const std::lock_guard lock(mutex_);
    wire::pb::Assignment without = assignment;
    without.clear_epoch();
    without.clear_kill_worker();
    without.clear_holders();  // asked for when one is needed
    holders_.assign(assignment.holders().begin(), assignment.holders().end());
    if (wanted_ && wanted_->SerializeAsString() == without.SerializeAsString()) return;
    wanted_ = std::move(without);
    changed_ = true;
  }
  wake_.notify_all();
}

// --- the loading thread -----------------------------------------------------------------------

bool CpuHost::superseded() const {
  const std::lock_guard lock(mutex_);
  return changed_ || ending_;
}

void CpuHost::run() {
  for (;;) {
    wire::pb::Assignment assignment;
    {
      std::unique_lock lock(mutex_);
      wake_.wait(lock, [this] { return changed_ || ending_; });
      if (ending_) return;
      changed_ = false;
      assignment = *wanted_;
    }
    const Result<void> loaded = load(assignment);
    if (std::exchange(given_up_, false)) continue;
    if (!loaded) {
      wire::pb::FromWorker message;
      message.mutable_failed()->set_error(loaded.error().message);
      static_cast<void>(channel_.send(message));
      return;
    }
  }
}

Result<CpuHost::Memory> CpuHost::memory(const std::string& name, std::size_t bytes) {
  if (const auto it = memories_.find(name); it != memories_.end()) return it->second;
  if (const auto kept = options_.kept.find(name); kept != options_.kept.end()) {
    backend::SharedMemory attached = TRY(backend::SharedMemory::attach(kept->second));
    options_.kept.erase(kept);
    auto memory = std::make_shared<backend::SharedMemory>(std::move(attached));
    if (memory->bytes().size() >= bytes) return memories_[name] = std::move(memory);
  }
  auto memory =
      std::make_shared<backend::SharedMemory>(TRY(backend::SharedMemory::create_shared(bytes)));
  if (!channel_.keep(name, memory->fd())) return unavailable("the agent is gone");
  return memories_[name] = std::move(memory);
}

// The KV cache of an earlier worker, if it is of this model, else a new one.
Result<void> CpuHost::take_kv(Loaded& loaded) {
  const std::size_t bytes =
      backend::cpu_kv_bytes(loaded.source->config(), loaded.cpu.limits, loaded.cpu.exact);
  const std::uint64_t key = backend::cpu_kv_key(*loaded.source, loaded.cpu);
  std::vector<std::string> names;
  for (const auto& [name, memory] : memories_) names.push_back(name);
  for (const auto& [name, fd] : options_.kept) names.push_back(name);
  for (const std::string& name : names) {
    if (!name.starts_with(kKvPrefix)) continue;
    Memory kv = TRY(memory(name, bytes));
    std::uint64_t id = 0;
    std::from_chars(name.data() + kKvPrefix.size(), name.data() + name.size(), id, 16);
    if (kv->filled_key() != key || kv->bytes().size() < bytes || id == 0) continue;
    loaded.kv = std::move(kv);
    loaded.kv_id = id;
    loaded.names.insert(name);
    return {};
  }
  loaded.kv_id = random_id();
  const std::string name = std::string(kKvPrefix) + hex_text(loaded.kv_id);
  loaded.kv = TRY(memory(name, bytes));
  loaded.names.insert(name);
  return {};
}

Result<std::shared_ptr<CpuHost::Loaded>> CpuHost::begin_layout(
    const wire::pb::Assignment& assignment) {
  auto loaded = std::make_shared<Loaded>();
  loaded->layout = TRY(from_message(assignment.layout()));
  TRY(open_source(*loaded));
  for (const VirtualRank& rank : loaded->layout.virtual_ranks) {
    TRY(model::check_slice(loaded->source->config(), rank.slice));
  }
  TRY(check_experts(loaded->source->config(), loaded->layout));
  loaded->cpu.isa = options_.isa;
  loaded->cpu.threads = options_.threads;
  loaded->cpu.busy = options_.pace;
  loaded->cpu.exact = loaded->layout.exact;
  loaded->cpu.weights = loaded->layout.weights;
  loaded->cpu.limits = {.rows_max = loaded->layout.rows_max, .pages = loaded->layout.pages};
  loaded->embedding = assignment.embedding();
  if (loaded->embedding) {  // only the first rank admits requests
    auto text = text::TextModel::load(loaded->source->path(), loaded->source->config().vocab_size);
    if (text) {
      loaded->text = std::move(text).value();
    } else if (text.error().code != ErrorCode::kNotFound) {
      return text.error();
    }
  }
  TRY(take_kv(*loaded));
  return loaded;
}

std::uint64_t CpuHost::common_bytes_of(const Loaded& loaded) {
  const model::ModelSource& source = *loaded.source;
  std::uint64_t bytes = backend::cpu_common_bytes(source, loaded.embedding, loaded.cpu);
  if (loaded.layout.attention_replicated) {
    bytes += backend::cpu_slice_bytes(source, attention_slice(source.config()), loaded.cpu);
  }
  return bytes;
}

Result<void> CpuHost::load_common(Loaded& loaded, backend::PackedSource& from) {
  const model::ModelSource& source = *loaded.source;
  const std::string name =
      "common-" + hex_text(loaded.layout.model) + (loaded.embedding ? "-embedding" : "");
  loaded.common = TRY(filled(
      loaded, name, backend::cpu_common_bytes(source, loaded.embedding, loaded.cpu),
      [&](backend::WeightArena& arena, const backend::LoadProgress& progress) {
        return backend::load_common(source, loaded.embedding, loaded.cpu, from, arena, progress);
      }));
  loaded.names.insert(name);
  if (!loaded.layout.attention_replicated) return {};
  const model::Slice slice = attention_slice(source.config());
  const std::string attention = slice_name(loaded.layout, slice);
  loaded.attention =
      TRY(filled(loaded, attention, backend::cpu_slice_bytes(source, slice, loaded.cpu),
                 [&](backend::WeightArena& arena, const backend::LoadProgress& progress) {
                   return backend::load_slice(source, slice, loaded.cpu, from, arena, progress);
                 }));
  loaded.names.insert(attention);
  return {};
}

Result<void> CpuHost::load_virtual_rank(Loaded& loaded, std::size_t v,
                                        backend::PackedSource& from) {
  const model::Slice& slice = loaded.layout.virtual_ranks[v].slice;
  const std::string name = slice_name(loaded.layout, slice);
  loading_ = v;
  const Memory arena = TRY(
      filled(loaded, name, backend::cpu_slice_bytes(*loaded.source, slice, loaded.cpu),
             [&](backend::WeightArena& into, const backend::LoadProgress& progress) {
               return backend::load_slice(*loaded.source, slice, loaded.cpu, from, into, progress);
             }));
  const std::lock_guard lock(mutex_);
  loaded.slices[v] = arena;
  loaded.names.insert(name);
  return {};
}

Result<void> CpuHost::load(const wire::pb::Assignment& assignment) {
  std::shared_ptr<Loaded> loaded;
  {
    const std::lock_guard lock(mutex_);
    loaded = loaded_;
  }
  const bool anew = !loaded || loaded->layout.id != assignment.layout().id();
  loading_layout_ = assignment.layout().id();
  loading_.reset();
  if (anew) loaded = TRY(begin_layout(assignment));
  ThreadPool pool(anew ? options_.threads : 1);  // beside a step, loading takes one core at most
  backend::LocalPackedSource files(*loaded->source, pool);
  if (!loaded->has_files) start_fetch(loaded->layout.model);
  backend::PackedSource& from =
      loaded->has_files ? static_cast<backend::PackedSource&>(files) : *fetch_;

  std::vector<std::size_t> todo;
  std::set<std::string> names = loaded->names;
  total_bytes_ = done_bytes_ = 0;
  for (const std::uint32_t v : assignment.hold()) {
    if (v >= loaded->layout.virtual_ranks.size()) return corrupt("hold: no such virtual rank");
    names.insert(slice_name(loaded->layout, loaded->layout.virtual_ranks[v].slice));
    if (loaded->slices.contains(v)) continue;
    todo.push_back(v);
    total_bytes_ += loaded->layout.virtual_ranks[v].weight_bytes;
  }
  if (anew) {
    total_bytes_ += common_bytes_of(*loaded);
    TRY(load_common(*loaded, from));
  }
  forget_unwanted(assignment, *loaded);
  {
    const std::lock_guard lock(mutex_);
    loaded_ = loaded;
  }
  // What earlier workers left complete is there at once: the head should not take it for missing.
  std::stable_partition(todo.begin(), todo.end(), [&](std::size_t v) {
    const std::string name = slice_name(loaded->layout, loaded->layout.virtual_ranks[v].slice);
    return memories_.contains(name) || options_.kept.contains(name);
  });
  bool told = false;
  for (const std::size_t v : todo) {
    if (superseded()) break;
    const std::string name = slice_name(loaded->layout, loaded->layout.virtual_ranks[v].slice);
    const bool there = memories_.contains(name) || options_.kept.contains(name);
    if (!there && !std::exchange(told, true)) send_held(*loaded);
    TRY(load_virtual_rank(*loaded, v, from));
    if (told) send_held(*loaded);
  }
  send_held(*loaded);
  names.insert(loaded->names.begin(), loaded->names.end());
  drop_unused(names);
  if (!loaded->has_files) keep_on_disk(*loaded);
  return {};
}

// Virtual ranks that others hold now, except those that this rank computes.
void CpuHost::forget_unwanted(const wire::pb::Assignment& assignment, Loaded& loaded) {
  const std::lock_guard lock(mutex_);
  const std::set<std::size_t> hold(assignment.hold().begin(), assignment.hold().end());
  std::erase_if(loaded.slices, [&](const auto& entry) {
    const std::size_t v = entry.first;
    if (hold.contains(v) || std::ranges::find(active_, v) != active_.end()) return false;
    loaded.names.erase(slice_name(loaded.layout, loaded.layout.virtual_ranks[v].slice));
    return true;
  });
}

void CpuHost::send_held(const Loaded& loaded) {
  wire::pb::FromWorker message;
  wire::pb::Held* held = message.mutable_held();
  held->set_layout(loaded.layout.id);
  for (const auto& [v, arena] : loaded.slices) {
    held->add_virtual_ranks(static_cast<std::uint32_t>(v));
  }
  held->set_backend("cpu");
  std::size_t context = loaded.source->config().max_positions;
  if (options_.engine.context_max > 0) context = std::min(context, options_.engine.context_max);
  held->set_context_max(std::min(context, loaded.cpu.limits.pages * backend::kPageTokens));
  held->set_kv(loaded.kv_id);
  *held->mutable_data() = to_message(data_);
  static_cast<void>(channel_.send(message));
}

// Lets go of memory that neither this assignment nor the backend needs.
void CpuHost::drop_unused(const std::set<std::string>& used) {
  for (auto it = options_.kept.begin(); it != options_.kept.end();) {
    if (used.contains(it->first)) {
      ++it;
      continue;
    }
    static_cast<void>(channel_.drop(it->first));
    FileDescriptor closes(it->second);
    it = options_.kept.erase(it);
  }
  for (auto it = memories_.begin(); it != memories_.end();) {
    // One use is this map's; a backend that still computes with it has another.
    if (used.contains(it->first) || it->second.use_count() > 1) {
      ++it;
      continue;
    }
    static_cast<void>(channel_.drop(it->first));
    it = memories_.erase(it);
  }
}

// --- the worker's thread ----------------------------------------------------------------------

Result<void> CpuHost::start_backend(const std::shared_ptr<Loaded>& loaded) {
  backend::CpuParts parts{.common = *loaded->common,
                          .embedding = loaded->embedding,
                          .slices = {},
                          .kv = *loaded->kv,
                          .division = expert_division(loaded->source->config(), loaded->layout)};
  std::vector<std::pair<std::size_t, Memory>> in_backend;
  if (loaded->attention) {
    parts.slices.push_back({attention_slice(loaded->source->config()), *loaded->attention});
    in_backend.emplace_back(kAttention, loaded->attention);
  }
  backend_ = TRY(backend::make_cpu_backend(*loaded->source, parts, loaded->cpu));
  in_backend_ = std::move(in_backend);
  computing_ = loaded;
  return {};
}

// Where in the backend a virtual rank's slice stands; adds it if it is not there yet.
Result<std::size_t> CpuHost::place_of(std::size_t v, const Loaded& loaded) {
  for (std::size_t i = 0; i < in_backend_.size(); ++i) {
    if (in_backend_[i].first == v) return i;
  }
  Memory arena;
  {
    const std::lock_guard lock(mutex_);
    const auto it = loaded.slices.find(v);
    if (it == loaded.slices.end()) {
      return not_found("virtual rank " + std::to_string(v) + " is not in memory");
    }
    arena = it->second;
  }
  TRY(backend_->hold(*loaded.source, loaded.layout.virtual_ranks[v].slice, *arena));
  in_backend_.emplace_back(v, arena);
  return in_backend_.size() - 1;
}

Result<backend::Backend*> CpuHost::activate(std::span<const std::size_t> virtual_ranks) {
  std::shared_ptr<Loaded> loaded;
  {
    const std::lock_guard lock(mutex_);
    loaded = loaded_;
  }
  if (!loaded) return not_found("no model is in memory");
  if (computing_ != loaded) TRY(start_backend(loaded));
  Result<std::vector<std::size_t>> places = places_of(virtual_ranks, *loaded);
  if (!places) return places.error();
  // Slices stand in the backend in the order of their coming; active ones are to be in that of the
  // virtual ranks.
  if (!std::ranges::is_sorted(*places)) {
    release_all();
    places = places_of(virtual_ranks, *loaded);
    if (!places) return places.error();
  }
  backend_->activate(*places);
  const std::lock_guard lock(mutex_);
  active_.assign(virtual_ranks.begin(), virtual_ranks.end());
  return backend_.get();
}

Result<std::vector<std::size_t>> CpuHost::places_of(std::span<const std::size_t> virtual_ranks,
                                                    const Loaded& loaded) {
  std::vector<std::size_t> places;
  if (loaded.attention) places.push_back(0);
  for (const std::size_t v : virtual_ranks) places.push_back(TRY(place_of(v, loaded)));
  return places;
}

// All but the replicated attention, so that arenas that nobody wants any more can go.
void CpuHost::release_all() {
  backend_->activate({});
  const std::size_t kept = computing_->attention ? 1 : 0;
  while (in_backend_.size() > kept) {
    backend_->release(in_backend_.size() - 1);
    in_backend_.pop_back();
  }
}

engine::Division CpuHost::division() const {
  engine::Division division;
  division.attention_replicated = computing_->attention != nullptr;
  division.attention_slice = 0;
  for (const VirtualRank& rank : computing_->layout.virtual_ranks) {
    division.vocab_of_virtual_rank.push_back(rank.slice.vocab);
    if (computing_->layout.strategy == plan::Strategy::kPipeline) {
      division.layers_of_virtual_rank.push_back(rank.slice.layers);
    }
  }
  return division;
}

const text::TextModel* CpuHost::text() const {
  return computing_ && computing_->text ? &*computing_->text : nullptr;
}

}  // namespace conclave::cluster
