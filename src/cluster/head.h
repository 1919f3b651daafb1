// The head's decisions: who belongs to the pool, who holds and computes what, when an epoch begins
// and ends, what is said to clients. Sans-I/O: events with their time go in, actions come out.
//
//   head.on_report(now, node, report);            // and hello, gone, worker messages, ticks
//   for (Action& action : head.take_actions()) perform(action);
//
// The head looks at what *is* (the reports of the nodes) and works towards what *should be* (every
// virtual rank held, computed by somebody, an epoch in which all of them are together); after every
// event it does the next step that is possible. Lost, repeated and late messages therefore need no
// care of their own.
//
// Epochs. A break (a lost peer, a dead node, a hung worker) ends the epoch. A new one begins as
// soon as every virtual rank has a living holder. Where all its ranks took part in every epoch
// since the sequences began, their KV caches agree and the ranks go on with the step that broke;
// otherwise the epoch is *fresh*: all requests are admitted again with what was already sent.
//
// Threads: one thread calls a Head.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <variant>
#include <vector>

#include "base/clock.h"
#include "base/ids.h"
#include "base/result.h"
#include "cluster/layout.h"
#include "cluster/token_log.h"
#include "engine/engine.h"
#include "wire/wire.h"

namespace conclave::cluster {

struct HeadOptions {
  std::uint64_t life = 1;        // random; new with each start of the head
  std::size_t nodes_min = 1;     // the model is placed when so many are there, the head included
  std::size_t cover_losses = 1;  // backups wanted: 0 or 1
  std::size_t requests_max = 256;
  int barren_attempts_max = 3;  // fresh epochs that a request survives without a token
  // While it gathers nodes: placed when no new one has come for so long.
  Duration gather = std::chrono::milliseconds(300);
  Duration silence_limit = std::chrono::seconds(2);  // without a report: the node is dead
  // A worker that died under a living agent comes back by itself, with weights and KV cache: worth
  // waiting for so long before others take over.
  Duration restart_grace = std::chrono::milliseconds(1200);
  // After a break, for the reports that explain it.
  Duration settle = std::chrono::milliseconds(60);
  // Busy without progress and waiting for nobody.
  Duration stuck_limit = std::chrono::seconds(2);
  double stuck_factor = 4.0;  // times the predicted time of a layer, if that is longer
  Duration join_limit = std::chrono::milliseconds(1500);  // for all ranks to be together
  // A node that others cannot reach though the head can.
  int blamed_max = 2;
  Duration banned_for = std::chrono::seconds(10);
  // Nothing can hold the model: requests wait so long for machines to come back.
  Duration short_limit = std::chrono::seconds(20);
  // A node that came back gets its share again when no request is open, or after so long.
  Duration rejoin_after = std::chrono::seconds(20);
  // Another division is worth a change if it cuts the predicted step by so much, for so long.
  double relayout_gain = 0.15;
  Duration relayout_after = std::chrono::seconds(60);
};

// A node as the placement sees it.
struct NodeFacts {
  NodeId node;
  plan::Machine machine;
};

// Divides the model over these nodes, the head first. Implemented with the planner for real models.
class Placer {
 public:
  virtual ~Placer() = default;
  // kExhausted: they cannot hold it; the message says what is missing.
  virtual Result<Layout> place(std::span<const NodeFacts> nodes) = 0;
};

struct SendAssignment {
  NodeId node;
  wire::pb::Assignment assignment;
};
struct RefuseNode {
  NodeId node;
  std::string reason;
};
struct SendToWorker {  // of rank 0, beside assignments
  wire::pb::ToWorker message;
};
struct EmitToken {
  engine::TokenEvent event;
};
struct EmitFailure {
  RequestId request;
  Error error;
};
struct EmitPrefill {
  RequestId request;
  std::uint64_t done = 0;
  std::uint64_t total = 0;
};
using HeadAction =
    std::variant<SendAssignment, RefuseNode, SendToWorker, EmitToken, EmitFailure, EmitPrefill>;

enum class HeadPhase : std::uint8_t {
  kGathering,  // too few nodes to hold the model, or still counting
  kLoading,    // some virtual rank is in nobody's memory yet
  kForming,    // ranks are on their way to a new epoch
  kRunning,
  kShort,  // the living cannot hold the model
};

// What happened, newest last; at most kHistoryMax entries.
struct HistoryEntry {
  std::uint64_t number = 0;  // counts from 1
  Time at{};
  std::string text;  // "node-b lost: no report for 2 s"
};
inline constexpr std::size_t kHistoryMax = 256;

struct NodeStatus {
  NodeId node;
  std::string name;
  bool alive = false;
  bool drained = false;
  bool in_epoch = false;
  std::string state;  // "ready", "loading 40 %", "silent for 1.2 s", ...
  plan::Machine machine;
  std::set<std::size_t> holds;     // in memory
  std::set<std::size_t> computes;  // in the epoch
  std::uint64_t weight_bytes = 0;  // of `holds`
  bool has_files = false;          // of the model that is placed
  std::uint64_t loaded_bytes = 0;  // of what it is to hold now
  std::uint64_t total_bytes = 0;
};

struct HeadSummary {
  HeadPhase phase = HeadPhase::kGathering;
  std::string text;  // one line for a person
  std::uint32_t epoch = 0;
  std::uint64_t epochs = 0;
  std::uint64_t fresh_epochs = 0;
  std::size_t losses_survived = 0;
  bool rebuilding = false;         // backups are being loaded
  std::uint64_t loaded_bytes = 0;  // by all machines
  std::uint64_t total_bytes = 0;
  std::size_t context_max = 0;
  std::string backend;
  std::size_t open_requests = 0;
  engine::EngineStats stats;
  const Layout* layout = nullptr;  // null: nothing is placed
};

struct HeadStatus : HeadSummary {
  std::vector<NodeStatus> nodes;
};

class Head {
 public:
  // `placer` must outlive the head.
  Head(const HeadOptions& options, Placer& placer);
  ~Head();
  Head(const Head&) = delete;
  Head& operator=(const Head&) = delete;

  // A node's connection is up and it said hello. Its number is the caller's: stable for a member,
  // kHeadNode for the head's own.
  void on_hello(Time now, NodeId node, const wire::pb::Hello& hello);
  void on_report(Time now, NodeId node, const wire::pb::Report& report);
  // Its connection ended.
  void on_gone(Time now, NodeId node, const std::string& reason);
  // From rank 0's worker: tokens, prefill, stats.
  void on_worker(Time now, const wire::pb::FromWorker& message);
  // At least every 50 ms.
  void on_tick(Time now);

  // kExhausted: too many are open; kUnavailable: the head has failed for good.
  Result<void> submit(Time now, engine::Request request);
  void cancel(Time now, RequestId id);

  // Its work goes to the others first, then it is let go. kExhausted: they cannot hold the model.
  // Should that come later, it is taken back.
  Result<void> drain(Time now, NodeId node);
  // It is treated as dead from now on, until it says hello again.
  void remove(Time now, NodeId node);

  std::vector<HeadAction> take_actions();
  HeadSummary summary(Time now) const;  // cheap: for every turn of a loop
  HeadStatus status(Time now) const;
  const std::deque<HistoryEntry>& history() const;
  // The worker of the head has failed for good; every request fails. Empty: it has not.
  const std::string& failure() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace conclave::cluster
