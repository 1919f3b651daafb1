#include "sim_agents.h"

#include <algorithm>
#include <utility>

#include "base/check.h"
#include "cluster/facts.h"

namespace conclave::cluster_sim {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

constexpr Duration kTick = milliseconds(50);
// As the agents of src/cluster.
constexpr Duration kRetryFirst = milliseconds(200);
constexpr Duration kRetryMax = seconds(2);
constexpr Duration kOpeningTime = seconds(5);

}  // namespace

// ---- What agents have in common -----------------------------------------------------------------

SimAgent::SimAgent(const PoolParts& parts, SimStreams& streams, std::size_t node,
                   SimWorkerHost::Handlers handlers)
    : parts_(parts),
      streams_(streams),
      node_(node),
      life_(parts.around.new_id()),
      thread_(parts.around.machinery.network, node),
      host_(parts, thread_, node, std::move(handlers)) {}

SimAgent::~SimAgent() { streams_.detach(node_); }

void SimAgent::start() {
  streams_.attach(
      node_, {.opened =
                  [this](StreamId id, std::size_t peer) {
                    connections_.insert(id);
                    thread_.run([this, id, peer] { on_opened(id, peer); });
                  },
              .message =
                  [this](StreamId id, std::string_view message) {
                    thread_.run([this, id, text = std::string(message)] { on_message(id, text); });
                  },
              .closed =
                  [this](StreamId id) {
                    connections_.erase(id);
                    thread_.run([this, id] { on_closed(id); });
                  }});
  tick();
}

void SimAgent::close_connections() {
  for (const StreamId id : std::exchange(connections_, {})) streams_.close(node_, id);
}

void SimAgent::tick() {
  poll();
  thread_.after(kTick, [this] { tick(); });
}

wire::pb::Hello SimAgent::hello(std::uint64_t life, std::uint64_t usable_bytes) const {
  wire::pb::Hello hello;
  hello.set_numerics(cluster::kNumericsId);
  hello.set_life(life);
  hello.mutable_machine()->set_name("node-" + std::to_string(node_));
  hello.mutable_machine()->set_memory_bytes(usable_bytes);
  hello.mutable_machine()->set_usable_bytes(usable_bytes);
  return hello;
}

// ---- A node -------------------------------------------------------------------------------------

SimNodeAgent::SimNodeAgent(const PoolParts& parts, SimStreams& streams, std::size_t node,
                           std::uint64_t usable_bytes)
    : SimAgent(parts, streams, node,
               {.on_report =
                    [this](const wire::pb::Report& report) {
                      if (!head_) return;
                      wire::pb::FromNode message;
                      *message.mutable_report() = report;
                      send(message);
                    },
                .on_message = [](const wire::pb::FromWorker&) {}}),
      usable_bytes_(usable_bytes),
      retry_(kRetryFirst) {}

void SimNodeAgent::send(const wire::pb::FromNode& message) {
  streams_.send(node_, *head_, message.SerializeAsString());
}

void SimNodeAgent::poll() {
  if (calling_ && now() >= give_up_at_) {
    streams_.close(node_, *calling_);
    on_closed(*calling_);
  }
  if (!head_ && !calling_ && now() >= call_at_) {
    calling_ = streams_.connect(node_, 0);
    give_up_at_ = now() + kOpeningTime;
  }
  host_.poll();
}

void SimNodeAgent::on_opened(StreamId id, std::size_t) {
  if (calling_ != id) return;
  calling_.reset();
  head_ = id;
  retry_ = kRetryFirst;
  wire::pb::FromNode message;
  *message.mutable_hello() = hello(life_, usable_bytes_);
  send(message);
  host_.on_head();
}

void SimNodeAgent::on_message(StreamId id, const std::string& message) {
  if (head_ != id) return;
  wire::pb::ToNode parsed;
  CHECK(parsed.ParseFromString(message));
  if (parsed.has_assignment()) host_.on_assignment(parsed.assignment());
}

void SimNodeAgent::on_closed(StreamId id) {
  if (calling_ == id) {
    calling_.reset();
  } else if (head_ == id) {
    head_.reset();
    host_.on_head_gone();
  } else {
    return;
  }
  call_at_ = now() + retry_;
  retry_ = std::min(retry_ * 2, kRetryMax);
}

// ---- The head -----------------------------------------------------------------------------------

SimHeadAgent::SimHeadAgent(SimPool& pool, SimStreams& streams)
    : SimAgent(pool.parts_, streams, 0,
               {.on_report =
                    [this](const wire::pb::Report& report) {
                      head_.on_report(now(), cluster::kHeadNode, report);
                      act();
                    },
                .on_message =
                    [this](const wire::pb::FromWorker& message) {
                      head_.on_worker(now(), message);
                      act();
                    }}),
      pool_(pool),
      head_(
          [&] {
            cluster::HeadOptions options = pool.setup_.head;
            options.life = life_;
            return options;
          }(),
          pool.placer_) {
  head_.on_hello(now(), cluster::kHeadNode, hello(life_, pool.setup_.usable_bytes[0]));
}

void SimHeadAgent::submit(const engine::Request& request) {
  thread_.post([this, request] {
    const Result<void> submitted = head_.submit(now(), request);
    if (!submitted) fail(request.id, submitted.error());
    act();
  });
}

void SimHeadAgent::fail(RequestId id, const Error& error) {
  constexpr Duration kLong = seconds(15);
  pool_.clients_.on_failure(id, error, pool_.could_hold_for(kLong));
}

void SimHeadAgent::cancel(RequestId id) {
  thread_.post([this, id] {
    if (!pool_.clients_.open(id)) return;
    head_.cancel(now(), id);
    pool_.clients_.on_cancelled(id);
    act();
  });
}

bool SimHeadAgent::drain(std::size_t node) {
  if (!by_node_.contains(node) || !head_.drain(now(), cluster::NodeId{node})) return false;
  act();
  return true;
}

void SimHeadAgent::poll() {
  host_.poll();
  head_.on_tick(now());
  act();
}

void SimHeadAgent::on_opened(StreamId id, std::size_t peer) {
  // A node has one connection: an older one is of a life that has ended, or of a broken link.
  if (const auto old = by_node_.find(peer); old != by_node_.end()) {
    sessions_.erase(old->second);
    streams_.close(0, old->second);
  }
  by_node_[peer] = id;
  sessions_[id] = peer;
}

void SimHeadAgent::on_message(StreamId id, const std::string& message) {
  const auto session = sessions_.find(id);
  if (session == sessions_.end()) return;
  wire::pb::FromNode parsed;
  CHECK(parsed.ParseFromString(message));
  wire::pb::FromNode& from = parsed;
  const cluster::NodeId node{session->second};
  if (from.has_hello()) head_.on_hello(now(), node, from.hello());
  if (from.has_report()) head_.on_report(now(), node, from.report());
  act();
}

void SimHeadAgent::on_closed(StreamId id) {
  const auto session = sessions_.find(id);
  if (session == sessions_.end()) return;
  const std::size_t node = session->second;
  sessions_.erase(session);
  const auto current = by_node_.find(node);
  if (current == by_node_.end() || current->second != id) return;
  by_node_.erase(current);
  head_.on_gone(now(), cluster::NodeId{node}, "the connection ended");
  act();
}

// What the head wants done may make it want more.
void SimHeadAgent::act() {
  if (std::exchange(acting_, true)) return;
  for (;;) {
    std::vector<cluster::HeadAction> actions = head_.take_actions();
    if (actions.empty()) break;
    for (cluster::HeadAction& action : actions) perform(action);
  }
  acting_ = false;
}

void SimHeadAgent::perform(cluster::HeadAction& action) {
  Clients& clients = pool_.clients_;
  if (const auto* send = std::get_if<cluster::SendAssignment>(&action)) {
    if (send->node == cluster::kHeadNode) {
      look_at(send->assignment);
      return host_.on_assignment(send->assignment);
    }
    const auto connection = by_node_.find(send->node.value);
    if (connection == by_node_.end()) return;
    wire::pb::ToNode message;
    *message.mutable_assignment() = send->assignment;
    streams_.send(0, connection->second, message.SerializeAsString());
  } else if (const auto* tell = std::get_if<cluster::SendToWorker>(&action)) {
    if (tell->message.has_admit()) clients.on_admit(tell->message.admit(), life_, layout_);
    host_.tell(tell->message);
  } else if (const auto* token = std::get_if<cluster::EmitToken>(&action)) {
    clients.on_token(token->event);
  } else if (const auto* failed = std::get_if<cluster::EmitFailure>(&action)) {
    fail(failed->request, failed->error);
  } else if (std::holds_alternative<cluster::RefuseNode>(action)) {
    clients.fail("a node is refused");
  }
}

// The head's decisions, as its own worker is told of them.
void SimHeadAgent::look_at(const wire::pb::Assignment& assignment) {
  if (assignment.has_layout() && assignment.layout().id() != layout_.id) {
    Result<cluster::Layout> layout = cluster::from_message(assignment.layout());
    CHECK(layout);
    layout_ = std::move(*layout);
    ++pool_.reached_.layouts;
  }
  if (!assignment.has_epoch() || assignment.epoch().epoch() == epoch_) return;
  const wire::pb::Epoch& epoch = assignment.epoch();
  if (epoch.epoch() < epoch_) {
    pool_.clients_.fail("epoch " + std::to_string(epoch.epoch()) + " comes after epoch " +
                        std::to_string(epoch_));
  }
  if (epoch_ != 0) parts_.around.reached(Phase::kReplan);
  epoch_ = epoch.epoch();
  ++pool_.reached_.epochs;
  if (!epoch.fresh()) ++pool_.reached_.epochs_continued;
  // A group of several ranks: one of its virtual ranks was taken over.
  for (int v = 1; v < epoch.computed_by_size(); ++v) {
    if (layout_.virtual_ranks[static_cast<std::size_t>(v)].group ==
            layout_.virtual_ranks[static_cast<std::size_t>(v) - 1].group &&
        epoch.computed_by(v) != epoch.computed_by(v - 1)) {
      ++pool_.reached_.take_overs;
      break;
    }
  }
}

}  // namespace conclave::cluster_sim
