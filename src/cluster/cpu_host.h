// A worker's part of a model on the CPU: arenas that the agent keeps, a thread that fills them.
#pragma once

#include <condition_variable>
#include <filesystem>
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
#include "cluster/worker_channel.h"
#include "cluster/worker_options.h"

namespace conclave::cluster {

// Threads: the worker's thread calls it; a thread of its own loads.
class CpuHost final : public ModelHost {
 public:
  // `data`: where other ranks reach this worker. The references must outlive the host.
  CpuHost(const WorkerOptions& options, WorkerChannel& channel, WorkerPulse& pulse,
          const Clock& clock, transport::Endpoint data);
  ~CpuHost() override;

  void want(const wire::pb::Assignment& assignment) override;
  Result<backend::Backend*> activate(std::span<const std::size_t> virtual_ranks) override;
  engine::Division division() const override;
  const text::TextModel* text() const override;

 private:
  using Memory = std::shared_ptr<backend::SharedMemory>;

  // A layout as this worker computes it. What grows is guarded by mutex_.
  struct Loaded {
    Layout layout;
    backend::CpuOptions cpu;
    std::shared_ptr<model::ModelSource> source;
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
  Result<std::shared_ptr<model::ModelSource>> find_source(std::uint64_t fingerprint);
  Result<void> load_virtual_rank(Loaded& loaded, std::size_t v, backend::PackedSource& from);
  Result<Memory> memory(const std::string& name, std::size_t bytes);
  Result<void> take_kv(Loaded& loaded);
  void forget_unwanted(const wire::pb::Assignment& assignment, Loaded& loaded);
  void drop_unused(const std::set<std::string>& used);
  backend::LoadProgress progress(std::size_t part_bytes);
  void send_held(const Loaded& loaded);
  bool superseded() const;

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

  mutable std::mutex mutex_;
  std::condition_variable wake_;
  std::optional<wire::pb::Assignment> wanted_;
  bool changed_ = false;
  bool ending_ = false;
  std::shared_ptr<Loaded> loaded_;
  std::vector<std::size_t> active_;  // virtual ranks

  // The loading thread's.
  std::map<std::string, Memory> memories_;
  std::uint64_t done_bytes_ = 0;
  std::uint64_t total_bytes_ = 0;

  // The worker's thread's.
  std::shared_ptr<Loaded> computing_;
  std::unique_ptr<backend::Backend> backend_;
  std::vector<std::pair<std::size_t, Memory>> in_backend_;  // [slice]: virtual rank, or kAttention

  std::optional<Time> reported_at_;
  std::thread thread_;  // last: it starts when the rest is there
};

}  // namespace conclave::cluster
