// The head's state. Private to head*.cc.
#pragma once

#include <deque>

#include "cluster/head.h"
#include "collective/collective.h"

namespace conclave::cluster {

struct NodeState {
  NodeFacts facts;
  std::uint64_t numerics = 0;
  std::uint64_t life = 0;
  std::set<std::uint64_t> models;  // whose files it has
  std::uint32_t bulk_port = 0;     // where it gives them to others
  bool connected = false;
  bool drained = false;
  bool removed = false;
  std::optional<Time> banned_until;
  int blamed = 0;  // breaks in a row for which others blamed it
  int bans = 0;    // in a row
  // Counted in ticks, so that a pause of the head is not held against its nodes.
  Duration silence{};
  Duration stuck{};  // busy without progress, in this epoch
  Duration still{};  // busy without progress
  wire::pb::Report report;
  std::uint64_t report_sequence = 0;
  // It took part in every epoch since the last fresh one, with this content of its KV cache.
  bool kv_agrees = false;
  std::uint64_t kv = 0;
  std::set<std::size_t> hold;                // what it is asked to hold
  std::optional<std::uint32_t> killed_life;  // its worker of this number is to be killed
  std::optional<Time> useful_since;          // ready and not part of the epoch
  std::uint64_t assignment_sequence = 0;
  std::uint64_t epoch_assignment = 0;  // the first one that told it of its last epoch
  std::string last_assignment;         // as sent, without its sequence and layout
  std::uint64_t last_layout = 0;       // sent with it
};

struct EpochState {
  std::uint32_t number = 0;
  std::uint64_t layout = 0;
  bool live = false;    // sent, and nothing has broken it
  bool joined = false;  // rank 0 says that all are together
  bool fresh = false;
  std::vector<NodeId> ranks;
  std::vector<std::uint32_t> worker_lives;  // [rank]
  std::vector<NodeId> computing;            // [virtual rank]
  Time begun{};
  // The break.
  Time broken_at{};
  bool explained = false;     // no need to wait for reports
  bool grace = false;         // a worker died under a living agent
  bool judged = false;        // what the reports say of it has been looked at
  bool worker_ended = false;  // for the count of barren attempts
};

struct Head::State {
  State(const HeadOptions& the_options, Placer& the_placer)
      : options(the_options), placer(the_placer) {}

  // head.cc
  void reconcile(Time now);
  void note(Time now, std::string text);
  std::string name_of(NodeId node) const;
  void fail_all(const Error& error);

  // head_status.cc
  NodeStatus status_of(const NodeState& node, Time now) const;

  // head_nodes.cc
  void tick_nodes(Time now);
  bool alive(const NodeState& node, Time now) const;
  bool ready(const NodeState& node, Time now) const;
  std::set<std::size_t> held(const NodeState& node) const;
  std::vector<NodeFacts> living(Time now) const;
  void place_if_needed(Time now);
  bool place(Time now, const char* why);
  void wait_for_machines(Time now);
  bool take_drained_back(Time now);
  std::string shortage() const;
  void plan_holdings(Time now);
  bool give_out(Time now);
  void send_assignments(Time now, bool resend);
  wire::pb::Assignment assignment_for(const NodeState& node) const;
  void add_holders(const NodeState& node, wire::pb::Assignment& assignment) const;

  // head_epochs.cc
  void check_epoch(Time now);
  bool check_rank(Time now, std::size_t rank);
  void check_stuck(Time now);
  Duration stuck_limit() const;
  void break_epoch(Time now, const std::string& reason, bool explained);

  // head_breaks.cc
  void judge_break(Time now);
  bool find_ended();
  void find_hung(Time now);
  void find_bad_link(Time now);
  void blame(Time now, NodeState& node);
  std::string own_reason(NodeId id) const;
  void give_up_in_time(const std::string& why);
  bool can_spare(Time now, NodeId id) const;

  // head_epochs.cc
  void form_if_possible(Time now);
  bool worth_waiting(Time now) const;
  std::optional<std::vector<NodeId>> computing_among(const std::vector<NodeId>& members) const;
  void form(Time now, const std::vector<NodeId>& members, std::vector<NodeId> computing,
            bool fresh);
  void on_joined(Time now);
  void improve_if_idle(Time now);
  void relayout_if_better(Time now);
  wire::pb::Epoch epoch_message(NodeId receiver) const;

  // head_requests.cc
  void admit_open(Time now);
  void send_admit(RequestId id, bool blame_request);
  void on_token(Time now, const wire::pb::Token& token);
  void close_with(RequestId id, const Error& error);
  bool can_admit() const { return epoch.live && epoch.joined; }

  HeadOptions options;
  Placer& placer;
  std::map<NodeId, NodeState> nodes;
  std::map<NodeId, std::uint64_t> refused_lives;  // of other builds: noted once
  Layout layout;
  EpochState epoch;
  TokenLogs logs;
  std::vector<HeadAction> actions;
  std::deque<HistoryEntry> past;
  std::uint64_t n_noted = 0;
  std::string failure;
  std::string placing_problem;  // why nothing is placed
  // Both counted in ticks, as silence is.
  std::optional<Duration> short_for;      // nothing can hold the model
  std::optional<Duration> links_bad_for;  // and nobody can be left out
  Time short_tried{};
  Time last_hello{};
  Time last_tick{};
  Time last_sent{};
  Time relayout_checked{};
  std::optional<Time> gain_since;
  std::uint64_t epochs_formed = 0;
  int barren_breaks = 0;  // epochs that ended with a worker, since the last token
  std::uint64_t fresh_epochs = 0;
  bool holdings_stale = true;
  bool rebuilding = false;
  std::size_t survives = 0;
  engine::EngineStats stats;
};

}  // namespace conclave::cluster
