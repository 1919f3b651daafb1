// A worker's part of a model on the CPU: arenas that the agent keeps, a thread that fills them from
// this machine's files, or from a peer that has them, or from what was kept on disk.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "backend/backend.h"
#include "base/clock.h"
#include "cluster/layout.h"
#include "cluster/model_host.h"
#include "cluster/weight_cache.h"
#include "cluster/weight_fetch.h"
#include "cluster/worker_channel.h"
#include "cluster/worker_options.h"

namespace conclave::cluster {

// Threads: the worker's thread calls it; a thread of its own loads.
class CpuHost final : public ModelHost {
 public:
  // `data`: where other ranks reach this worker. `identity`: this machine's, to fetch weights
  // with; without it only local files are read. The references must outlive the host.
  CpuHost(const WorkerOptions& options, WorkerChannel& channel, WorkerPulse& pulse,
          const Clock& clock, transport::Endpoint data,
          std::optional<transport::Identity> identity);
  ~CpuHost() override;

  void want(const wire::pb::Assignment& assignment) override;
  Result<backend::Backend*> activate(std::span<const std::size_t> virtual_ranks) override;
  engine::Division division() const override;
  const text::TextModel* text() const override;

 private:
  using Memory = std::shared_ptr<backend::SharedMemory>;
  using Load = std::function<Result<void>(backend::WeightArena&, const backend::LoadProgress&)>;

  // A layout as this worker computes it. What grows is guarded by mutex_.
  struct Loaded {
    Layout layout;
    backend::CpuOptions cpu;
    std::shared_ptr<model::ModelSource> source;
    bool has_files = true;  // false: `source` is a skeleton
    std::optional<text::TextModel> text;
    bool embedding = false;
    Memory common;
    Memory attention;  // slice-ra: all heads, on every rank
    Memory kv;
    std::uint64_t kv_id = 0;
    std::map<std::size_t, Memory> slices;  // by virtual rank
    std::set<std::string> names;           // of memories in use
  };

  // The loading thread.
  void run();
  Result<void> load(const wire::pb::Assignment& assignment);
  Result<std::shared_ptr<Loaded>> begin_layout(const wire::pb::Assignment& assignment);
  static std::uint64_t common_bytes_of(const Loaded& loaded);
  Result<void> load_common(Loaded& loaded, backend::PackedSource& from);
  Result<void> load_virtual_rank(Loaded& loaded, std::size_t v, backend::PackedSource& from);
  Result<Memory> memory(const std::string& name, std::size_t bytes);
  Result<void> take_kv(Loaded& loaded);
  void forget_unwanted(const wire::pb::Assignment& assignment, Loaded& loaded);
  void drop_unused(const std::set<std::string>& used);
  void send_held(const Loaded& loaded);
  bool superseded() const;

  // The loading thread: cpu_host_weights.cc.
  Result<void> open_source(Loaded& loaded);
  Result<void> open_skeleton(Loaded& loaded, const std::string& looked);
  void start_fetch(std::uint64_t model);
  std::vector<WeightHolder> holders() const;
  bool no_longer_wanted();
  Result<Memory> filled(const Loaded& loaded, const std::string& name, std::size_t bytes,
                        const Load& load);
  void keep_on_disk(const Loaded& loaded);
  WeightCache cache_of(const Loaded& loaded) const;
  void report_loading();

  // The worker's thread.
  Result<void> start_backend(const std::shared_ptr<Loaded>& loaded);
  Result<std::size_t> place_of(std::size_t virtual_rank, const Loaded& loaded);
  Result<std::vector<std::size_t>> places_of(std::span<const std::size_t> virtual_ranks,
                                             const Loaded& loaded);
  void release_all();

  WorkerOptions options_;
  WorkerChannel& channel_;
  WorkerPulse& pulse_;
  const Clock& clock_;
  transport::Endpoint data_;
  std::optional<transport::Identity> identity_;

  mutable std::mutex mutex_;
  std::condition_variable wake_;
  std::optional<wire::pb::Assignment> wanted_;
  std::vector<wire::pb::WeightHolder> holders_;
  bool changed_ = false;
  bool ending_ = false;
  std::shared_ptr<Loaded> loaded_;
  std::vector<std::size_t> active_;  // virtual ranks

  // The loading thread's.
  std::map<std::string, Memory> memories_;
  std::unique_ptr<WeightFetch> fetch_;
  std::uint64_t loading_layout_ = 0;
  std::optional<std::size_t> loading_;  // virtual rank; else what all of the layout need
  bool given_up_ = false;               // what was being loaded is no longer wanted
  bool disk_full_ = false;              // said once
  std::uint64_t arena_begin_ = 0;       // of the bytes of this assignment
  std::uint64_t arena_done_ = 0;
  std::uint64_t part_done_ = 0;
  std::uint64_t done_bytes_ = 0;  // of finished arenas, and the one at hand
  std::uint64_t total_bytes_ = 0;

  // The worker's thread's.
  std::shared_ptr<Loaded> computing_;
  std::unique_ptr<backend::Backend> backend_;
  std::vector<std::pair<std::size_t, Memory>> in_backend_;  // [slice]: virtual rank, or kAttention

  std::optional<Time> reported_at_;
  std::thread thread_;  // last: it starts when the rest is there
};

}  // namespace conclave::cluster
