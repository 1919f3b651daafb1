// The worker: one rank. What the agent assigns is held and joined; on rank 0 requests go into an
// Engine and tokens come out, on other ranks the steps of rank 0 are followed.
//
// The code blocks in two places only, which a simulation replaces: AgentLink::receive and
// Transport::receive. While it waits for peers it watches the agent, so that a new epoch ends the
// wait.
#pragma once

#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "base/clock.h"
#include "cluster/model_host.h"
#include "collective/collective.h"
#include "engine/engine.h"
#include "transport/transport.h"
#include "wire/wire.h"

namespace conclave::cluster {

// The worker's end of its agent's control channel.
class AgentLink {
 public:
  virtual ~AgentLink() = default;
  virtual int fd() const = 0;  // readable when receive(false) has something; -1 in simulation
  // All that has arrived; with `wait`, at least one. kUnavailable: the agent is gone; kCorrupt: it
  // broke the protocol. Either way the worker has to end.
  virtual Result<std::vector<wire::pb::ToWorker>> receive(bool wait) = 0;
  // Any thread. False: the agent is gone.
  virtual bool send(std::span<const wire::pb::FromWorker> messages) = 0;
};

// What the heartbeat thread reports; written by the thread that works. `progress` moves with every
// operation of a step, so that a layer that hangs is told from a step that is long.
struct WorkerPulse {
  std::atomic<std::uint64_t> progress{0};
  std::atomic<bool> busy{true};
  std::atomic<int> waiting_for{-1};
};

struct WorkerLimits {
  Duration join_limit = std::chrono::milliseconds(1500);
  Duration wait_limit = std::chrono::seconds(60);  // for one message of a peer: a backstop
  Duration report_every = std::chrono::milliseconds(500);
  std::size_t direct_bytes_max = std::size_t{64} << 10;  // as collective::GroupOptions
};

class Worker final : public transport::Watch {
 public:
  // All references must outlive the worker.
  Worker(AgentLink& link, transport::Fabric& fabric, ModelHost& host, WorkerPulse& pulse,
         const Clock& clock, const engine::EngineOptions& options, const WorkerLimits& limits);
  ~Worker() override;

  // Returns when the agent is gone (kUnavailable) or broke the protocol (kCorrupt).
  Error run();

  // Watch: what a waiting rank has to know of its agent.
  int fd() const override { return link_.fd(); }
  bool interrupted() override;
  void absent(transport::Rank rank) override { absent_ = rank; }

 private:
  struct Open {
    std::uint32_t attempt = 0;
    bool has_token = false;  // prefill is reported until then
  };
  // The ranks that are together now.
  struct Membership {
    wire::pb::Epoch epoch;
    std::unique_ptr<transport::Transport> transport;
    std::unique_ptr<collective::Group> group;  // null: alone, with the whole model as one slice
    engine::Ranks ranks;                       // of a rank that follows
    backend::Backend* backend = nullptr;
    bool broken = false;
  };

  Result<void> take_messages(bool wait);
  Result<void> handle(const wire::pb::ToWorker& message);
  void follow_assignment();
  void join(const wire::pb::Epoch& epoch);
  Result<void> try_join(const wire::pb::Epoch& epoch);
  void leave();
  void report_broken(const std::string& reason);
  void report_unjoined(std::uint32_t epoch, const Error& error);
  bool in_group() const { return member_ && !member_->broken; }
  bool is_first() const { return member_ && member_->epoch.rank() == 0; }
  void work();
  void step();
  void follow();
  void admit(const wire::pb::Admit& message);
  void drop_requests();
  void add_token(const engine::TokenEvent& event);
  void add_prefill(RequestId id, const Open& open, std::uint64_t done, std::uint64_t total);
  void add_reports();
  void add_trace(const wire::pb::TraceRequest& request);
  Result<void> flush();

  AgentLink& link_;
  transport::Fabric& fabric_;
  ModelHost& host_;
  WorkerPulse& pulse_;
  const Clock& clock_;
  engine::EngineOptions options_;
  WorkerLimits limits_;

  std::vector<wire::pb::ToWorker> inbox_;  // read while waiting for peers
  std::optional<Error> agent_error_;
  std::optional<wire::pb::Assignment> assignment_;
  bool assignment_is_new_ = false;
  std::uint32_t tried_epoch_ = 0;          // joined, or failed to join
  std::optional<transport::Rank> absent_;  // in the last join
  bool join_interrupted_ = false;          // since the last join began
  std::unique_ptr<Membership> member_;
  std::unique_ptr<engine::StepTrace> trace_;  // from the first epoch on
  std::unique_ptr<engine::Engine> engine_;    // rank 0's
  const backend::Backend* engine_backend_ = nullptr;
  std::map<RequestId, Open> open_;
  std::vector<wire::pb::FromWorker> outbox_;
  std::optional<Time> reported_at_;
};

}  // namespace conclave::cluster
