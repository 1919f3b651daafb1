// The agents of a simulated pool, as Agent and NodeAgent are with real processes.
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <string_view>

#include "sim_pool.h"

namespace conclave::cluster_sim {

// What agents have in common: a thread, a worker, ticks, connections.
class SimAgent {
 public:
  SimAgent(const PoolParts& parts, SimStreams& streams, std::size_t node,
           SimWorkerHost::Handlers handlers);
  virtual ~SimAgent();
  SimAgent(const SimAgent&) = delete;
  SimAgent& operator=(const SimAgent&) = delete;

  void start();
  // Its process ends, and the machine's kernel closes its connections.
  void close_connections();
  AgentThread& thread() { return thread_; }
  const AgentThread& thread() const { return thread_; }
  SimWorkerHost& host() { return host_; }
  const SimWorkerHost& host() const { return host_; }

 protected:
  virtual void poll() = 0;
  virtual void on_opened(StreamId id, std::size_t peer) = 0;
  virtual void on_message(StreamId id, const std::string& message) = 0;
  virtual void on_closed(StreamId id) = 0;

  wire::pb::Hello hello(std::uint64_t life, std::uint64_t usable_bytes) const;
  Time now() const { return parts_.around.machinery.world.now(); }

  const PoolParts& parts_;
  SimStreams& streams_;
  std::size_t node_;
  std::uint64_t life_;
  AgentThread thread_;
  SimWorkerHost host_;

 private:
  void tick();
  std::set<StreamId> connections_;
};

class SimNodeAgent final : public SimAgent {
 public:
  SimNodeAgent(const PoolParts& parts, SimStreams& streams, std::size_t node,
               std::uint64_t usable_bytes);

 private:
  void poll() override;
  void on_opened(StreamId id, std::size_t peer) override;
  void on_message(StreamId id, const std::string& message) override;
  void on_closed(StreamId id) override;
  void send(const wire::pb::FromNode& message);

  std::uint64_t usable_bytes_;
  std::optional<StreamId> calling_;
  std::optional<StreamId> head_;
  Time call_at_{};
  Time give_up_at_{};
  Duration retry_;
};

class SimHeadAgent final : public SimAgent {
 public:
  SimHeadAgent(SimPool& pool, SimStreams& streams);

  void submit(const engine::Request& request);
  void cancel(RequestId id);
  bool drain(std::size_t node);
  cluster::HeadStatus status() const { return head_.status(now()); }
  const std::deque<cluster::HistoryEntry>& history() const { return head_.history(); }

 private:
  void poll() override;
  void on_opened(StreamId id, std::size_t peer) override;
  void on_message(StreamId id, const std::string& message) override;
  void on_closed(StreamId id) override;
  void act();
  void fail(RequestId id, const Error& error);
  void perform(cluster::HeadAction& action);
  void look_at(const wire::pb::Assignment& assignment);

  SimPool& pool_;
  cluster::Head head_;
  bool acting_ = false;
  std::map<std::size_t, StreamId> by_node_;
  std::map<StreamId, std::size_t> sessions_;
  cluster::Layout layout_;  // last sent
  std::uint32_t epoch_ = 0;
};

}  // namespace conclave::cluster_sim
