// Where a worker's weights come from: files of this machine, peers that have them, its own disk.
#include <spdlog/spdlog.h>

#include <algorithm>
#include <utility>

#include "base/check.h"
#include "cluster/checkpoint_folders.h"
#include "cluster/cpu_host.h"
#include "cluster/facts.h"

namespace conclave::cluster {
namespace {

constexpr Duration kProgressEvery = std::chrono::milliseconds(100);

}  // namespace

Result<void> CpuHost::open_source(Loaded& loaded) {
  std::string looked;
  for (const std::filesystem::path& dir : options_.model_dirs) {
    for (const std::filesystem::path& checkpoint : checkpoints_in(dir)) {
      Result<model::ModelSource> source = model::ModelSource::open(checkpoint);
      if (source && source->fingerprint() == loaded.layout.model) {
        loaded.source = std::make_shared<model::ModelSource>(std::move(source).value());
        loaded.has_files = true;
        return {};
      }
      looked += (looked.empty() ? "; looked at " : ", ") + checkpoint.string();
      if (!source) looked += " (" + source.error().message + ")";
    }
  }
  return open_skeleton(loaded, looked);
}

Result<void> CpuHost::open_skeleton(Loaded& loaded, const std::string& looked) {
  const std::string missing = "this machine does not have the model's files" + looked;
  if (!identity_ || options_.weights_dir.empty()) return not_found(missing);
  start_fetch(loaded.layout.model);
  const Result<std::filesystem::path> dir = fetch_skeleton(*fetch_, options_.weights_dir);
  if (!dir) return Error{dir.error().code, missing + "; " + dir.error().message};
  loaded.source = std::make_shared<model::ModelSource>(TRY(model::ModelSource::open(dir.value())));
  loaded.has_files = false;
  return {};
}

void CpuHost::start_fetch(std::uint64_t model) {
  if (fetch_ && fetch_->model() == model) return;
  const BulkWaiting waiting{.clock = clock_,
                            .stop = [this] { return no_longer_wanted(); },
                            .on_bytes =
                                [this](std::uint64_t bytes) {
                                  part_done_ += bytes;
                                  report_loading();
                                }};
  FetchOptions options{
      .model = model,
      .waiting = waiting,
      .holders = [this] { return holders(); },
      .dial = [this, waiting](
                  const WeightHolder& holder) { return dial_holder(holder, *identity_, waiting); }};
  fetch_ = std::make_unique<WeightFetch>(std::move(options));
}

// Each machine begins with another one, so that they share the work.
std::vector<WeightHolder> CpuHost::holders() const {
  std::vector<WeightHolder> holders;
  std::uint64_t own = 0;
  {
    const std::lock_guard lock(mutex_);
    own = wanted_ ? wanted_->node() : 0;
    for (const wire::pb::WeightHolder& holder : holders_) {
      Result<transport::Endpoint> endpoint = from_message(holder.endpoint());
      if (!endpoint || holder.node() == own) continue;
      holders.push_back({NodeId{holder.node()}, std::move(endpoint).value()});
    }
  }
  if (holders.empty()) return holders;
  const auto first = holders.begin() + static_cast<std::ptrdiff_t>(own % holders.size());
  std::rotate(holders.begin(), first, holders.end());
  return holders;
}

// Of what is being loaded. A newer assignment that still wants it lets it go on.
bool CpuHost::no_longer_wanted() {
  const std::lock_guard lock(mutex_);
  bool wanted = !ending_;
  if (wanted && changed_) {
    const auto& hold = wanted_->hold();
    wanted =
        wanted_->layout().id() == loading_layout_ &&
        (!loading_ || std::ranges::find(hold, static_cast<std::uint32_t>(*loading_)) != hold.end());
  }
  given_up_ = given_up_ || !wanted;
  return !wanted;
}

Result<CpuHost::Memory> CpuHost::filled(const Loaded& loaded, const std::string& name,
                                        std::size_t bytes, const Load& load) {
  Memory arena = TRY(memory(name, bytes));
  arena_begin_ = done_bytes_;
  done_bytes_ += bytes;
  arena_done_ = part_done_ = 0;
  if (options_.cache && !loaded.has_files && arena->filled_key() == 0) {
    const Result<void> kept = cache_of(loaded).load(name, *arena, [this](std::uint64_t n) {
      part_done_ += n;
      report_loading();
      return !no_longer_wanted();
    });
    if (kept) spdlog::info("weights from disk name={}", name);
    if (!kept && kept.error().code != ErrorCode::kNotFound) {
      spdlog::warn("weights not from disk reason=\"{}\"", kept.error().message);
    }
    part_done_ = 0;
  }
  TRY(load(*arena, [this](std::uint64_t done, std::uint64_t) {
    arena_done_ = done;
    part_done_ = 0;
    report_loading();
  }));
  return arena;
}

void CpuHost::report_loading() {
  ++pulse_.progress;
  const std::uint64_t done = arena_begin_ + arena_done_ + part_done_;
  const Time now = clock_.now();
  const bool due = !reported_at_ || now - *reported_at_ >= kProgressEvery;
  if (!due && done != total_bytes_) return;
  reported_at_ = now;
  wire::pb::FromWorker message;
  message.mutable_loading()->set_done_bytes(done);
  message.mutable_loading()->set_total_bytes(total_bytes_);
  static_cast<void>(channel_.send(message));
}

WeightCache CpuHost::cache_of(const Loaded& loaded) const {
  return WeightCache(options_.weights_dir / hex_text(loaded.layout.model));
}

// After everything is in memory: nobody waits for it.
void CpuHost::keep_on_disk(const Loaded& loaded) {
  if (!options_.cache || superseded()) return;
  WeightCache cache = cache_of(loaded);
  std::set<std::string> names;
  for (const std::string& name : loaded.names) {
    const auto it = memories_.find(name);
    if (it == memories_.end() || it->second == loaded.kv) continue;
    names.insert(name);
    if (it->second->filled_key() == 0 || cache.has(name, *it->second)) continue;
    const Result<void> stored = cache.store(name, *it->second, [this](std::uint64_t) {
      ++pulse_.progress;
      return !superseded();
    });
    if (superseded()) return;
    if (stored) {
      spdlog::info("weights kept on disk name={}", name);
    } else if (!std::exchange(disk_full_, true)) {
      spdlog::warn("weights not kept on disk reason=\"{}\"; it goes on without",
                   stored.error().message);
    }
  }
  cache.keep_only(names);
}

}  // namespace conclave::cluster
