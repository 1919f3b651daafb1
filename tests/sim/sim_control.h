// The socket between a simulated agent and its worker: messages arrive whole, once and in order,
// and what was written before the worker's end is still read.
#pragma once

#include <deque>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "cluster/worker.h"
#include "process.h"

namespace conclave::cluster_sim {

// One for each life of a worker; must outlive its processes.
class SimControl final : public cluster::AgentLink {
 public:
  // `readable`: something has arrived for the agent; called in an event of the node.
  SimControl(sim::Network& network, std::size_t node, std::function<void()> readable)
      : network_(network), node_(node), readable_(std::move(readable)) {}

  // The worker's end. receive() is called from the main process, send() from any.
  void set_process(Process* main) { process_ = main; }  // null: it has ended
  int fd() const override { return -1; }
  Result<std::vector<wire::pb::ToWorker>> receive(bool wait) override;
  bool send(std::span<const wire::pb::FromWorker> messages) override;
  bool send(const wire::pb::FromWorker& message) { return send(std::span(&message, 1)); }

  // The agent's end.
  void tell(const wire::pb::ToWorker& message);
  // What has arrived; with `ended`, what the worker wrote before its end too.
  std::vector<wire::pb::FromWorker> read(bool ended);
  void close() { closed_ = true; }
  bool closed() const { return closed_; }
  // The worker has something to read and would wake up, if it does not hang.
  bool unread() const { return waits_ && !to_worker_.empty(); }

 private:
  sim::Network& network_;
  std::size_t node_;
  std::function<void()> readable_;
  Process* process_ = nullptr;
  bool closed_ = false;
  bool waits_ = false;
  std::vector<wire::pb::ToWorker> to_worker_;
  std::deque<wire::pb::FromWorker> under_way_;
  std::vector<wire::pb::FromWorker> arrived_;
  std::shared_ptr<int> life_ = std::make_shared<int>(0);  // events hold it weakly
};

}  // namespace conclave::cluster_sim
