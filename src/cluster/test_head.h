// A head between a placer and nodes that a test plays.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <string>
#include <vector>

#include "cluster/facts.h"
#include "cluster/head.h"
#include "collective/collective.h"

namespace conclave::cluster {

inline constexpr std::uint64_t kGroupBytes = 120;

// Group i is node i's. A group of several machines is cut into a virtual rank for each of the
// others; all fit while there is room for one group each.
class EvenPlacer final : public Placer {
 public:
  Result<Layout> place(std::span<const NodeFacts> nodes) override {
    double room = 0;
    for (const NodeFacts& node : nodes) room += node.machine.usable_bytes;
    const bool fits = ignores_room || room >= static_cast<double>(n_groups * kGroupBytes);
    if (!fits) return exhausted("too little memory");
    Layout layout;
    const std::size_t n = nodes.size();
    const std::uint64_t bytes = n_groups * kGroupBytes / n;
    std::size_t column = 0;
    for (std::size_t group = 0; group < n; ++group) {
      layout.homes.push_back(nodes[group].node);
      const std::size_t pieces = group == 0 || n == 1 || whole_groups ? 1 : n - 1;
      for (std::size_t i = 0; i < pieces; ++i) {
        VirtualRank& rank = layout.virtual_ranks.emplace_back();
        rank.group = static_cast<std::uint16_t>(group);
        rank.slice.expert_columns = {column, column + 32};
        column += 32;
        rank.weight_bytes = bytes / pieces;
      }
    }
    layout.step_seconds = 0.01;
    return layout;
  }
  std::size_t n_groups = 3;
  bool whole_groups = false;
  bool ignores_room = false;
};

class HeadTest : public testing::Test {
 protected:
  void make(HeadOptions options, std::uint64_t usable_bytes = 10 * kGroupBytes) {
    usable_bytes_ = usable_bytes;
    head_.emplace(options, placer_);
  }
  void SetUp() override { make({.life = 41}); }

  // --- what comes in ---
  void hello(std::uint64_t node, std::uint64_t life = 1) {
    wire::pb::Hello hello;
    hello.set_numerics(kNumericsId);
    hello.set_life(life);
    hello.mutable_machine()->set_name("node-" + std::to_string(node));
    hello.mutable_machine()->set_memory_bytes(usable_bytes_);
    hello.mutable_machine()->set_usable_bytes(usable_bytes_);
    head_->on_hello(now_, NodeId{node}, hello);
    wire::pb::Report& report = reports_[node];
    report.Clear();
    report.set_worker_life(1);
    report.set_waiting_for(-1);
    take();
  }
  void report(std::uint64_t node) {
    reports_[node].set_sequence(++sequences_[node]);
    reports_[node].set_assignment(assigned_[node].sequence());
    head_->on_report(now_, NodeId{node}, reports_[node]);
    take();
  }
  // It holds what it was told to.
  void ready(std::uint64_t node, std::uint64_t kv = 100) {
    wire::pb::Report& report = reports_[node];
    report.set_worker(wire::pb::WORKER_READY);
    report.set_layout(assigned_[node].layout().id());
    *report.mutable_held() = assigned_[node].hold();
    report.set_kv(kv);
    report.mutable_data()->set_host("node-" + std::to_string(node));
    report.mutable_data()->set_fingerprint(std::string(32, 'k'));
    this->report(node);
  }
  // Loads or drops one virtual rank; false: it holds what it is to.
  bool step_towards_hold(std::uint64_t node) {
    wire::pb::Report& report = reports_[node];
    const auto& wanted = assigned_[node].hold();
    const auto has = [](const auto& list, std::uint32_t v) {
      return std::ranges::find(list, v) != list.end();
    };
    std::vector<std::uint32_t> held(report.held().begin(), report.held().end());
    const auto missing =
        std::ranges::find_if(wanted, [&](std::uint32_t v) { return !has(held, v); });
    const auto spare = std::ranges::find_if(held, [&](std::uint32_t v) { return !has(wanted, v); });
    const bool moves = missing != wanted.end() || spare != held.end();
    if (spare != held.end()) {
      held.erase(spare);
    } else if (missing != wanted.end()) {
      held.push_back(*missing);
    }
    report.mutable_held()->Assign(held.begin(), held.end());
    report.set_worker(wire::pb::WORKER_READY);
    report.set_layout(assigned_[node].layout().id());
    this->report(node);
    return moves;
  }
  void worker_ends(std::uint64_t node) {
    wire::pb::Report& report = reports_[node];
    report.set_worker(wire::pb::WORKER_STARTING);
    report.clear_held();
    report.clear_kv();
    this->report(node);
    report.set_worker_life(report.worker_life() + 1);
    report.set_worker(wire::pb::WORKER_LOADING);
    report.clear_layout();
    this->report(node);
  }
  void says_broken(std::uint64_t node, collective::Broken::Kind kind, std::uint32_t peer) {
    wire::pb::Broken* broken = reports_[node].mutable_broken();
    broken->set_epoch(epoch().epoch() != 0 ? epoch().epoch() : last_epoch_);
    broken->set_kind(static_cast<std::uint32_t>(kind));
    broken->set_peer(peer);
    broken->set_reason("test");
    report(node);
  }
  // The nodes of `silent` say nothing meanwhile.
  void pass(Duration duration, const std::vector<std::uint64_t>& silent = {}) {
    for (const Time end = now_ + duration; now_ < end;) {
      now_ += std::chrono::milliseconds(50);
      for (auto& [node, message] : reports_) {
        if (std::ranges::find(silent, node) == silent.end()) report(node);
      }
      head_->on_tick(now_);
      take();
    }
  }
  void joined() {
    const std::vector<std::uint64_t> ranks = members();
    const std::uint32_t number = epoch().epoch();
    for (const std::uint64_t node : ranks) {
      reports_[node].set_joined_epoch(number);
      report(node);
    }
  }
  void token(std::uint64_t request, std::uint32_t attempt, std::uint64_t index,
             engine::FinishReason finish = engine::FinishReason::kNone) {
    wire::pb::FromWorker message;
    message.mutable_token()->set_request(request);
    message.mutable_token()->set_attempt(attempt);
    message.mutable_token()->set_index(index);
    message.mutable_token()->set_has_token(true);
    message.mutable_token()->set_id(7);
    message.mutable_token()->set_finish(static_cast<std::uint32_t>(finish));
    head_->on_worker(now_, message);
    take();
  }
  Result<void> submit(std::uint64_t id) {
    engine::Request request;
    request.id = RequestId{id};
    request.prompt = {TokenId{1}};
    const Result<void> done = head_->submit(now_, std::move(request));
    take();
    return done;
  }
  // So many machines that hold all they are to hold, in a running epoch.
  void run(std::uint64_t n) {
    for (std::uint64_t node = 0; node < n; ++node) hello(node);
    pass(std::chrono::milliseconds(350));
    for (std::uint64_t node = n; node-- > 0;) ready(node);  // the head last: then all are there
    ASSERT_EQ(epoch().epoch(), 1u);
    joined();
  }

  // --- what comes out ---
  void take() {
    for (HeadAction& action : head_->take_actions()) {
      if (auto* send = std::get_if<SendAssignment>(&action)) {
        if (send->assignment.has_epoch()) last_epoch_ = send->assignment.epoch().epoch();
        if (send->assignment.kill_worker() != 0) {
          killed_[send->node.value] = send->assignment.kill_worker();
        }
        assigned_[send->node.value] = std::move(send->assignment);
      } else if (auto* tell = std::get_if<SendToWorker>(&action)) {
        told_.push_back(tell->message);
      } else if (auto* emitted = std::get_if<EmitToken>(&action)) {
        tokens_.push_back(emitted->event);
      } else if (auto* failed = std::get_if<EmitFailure>(&action)) {
        failures_[failed->request.value] = failed->error.message;
      } else if (auto* refused = std::get_if<RefuseNode>(&action)) {
        refused_ = refused->reason;
      }
    }
  }
  const wire::pb::Epoch& epoch() { return assigned_[0].epoch(); }
  std::vector<std::uint64_t> members() { return {epoch().nodes().begin(), epoch().nodes().end()}; }
  std::vector<std::uint64_t> nodes(std::initializer_list<std::uint64_t> list) { return list; }

  EvenPlacer placer_;
  std::optional<Head> head_;
  std::uint64_t usable_bytes_ = 0;
  Time now_{};
  std::map<std::uint64_t, wire::pb::Report> reports_;
  std::map<std::uint64_t, std::uint64_t> sequences_;
  std::map<std::uint64_t, wire::pb::Assignment> assigned_;
  std::map<std::uint64_t, std::uint32_t> killed_;
  std::uint32_t last_epoch_ = 0;
  std::vector<wire::pb::ToWorker> told_;
  std::vector<engine::TokenEvent> tokens_;
  std::map<std::uint64_t, std::string> failures_;
  std::string refused_;
};

}  // namespace conclave::cluster
