#include "sim_streams.h"

#include <algorithm>

#include "base/check.h"

namespace conclave::cluster_sim {
namespace {

using std::chrono::milliseconds;

constexpr Duration kRepeatEvery = milliseconds(30);
constexpr std::uint64_t kHeaderBytes = 60;
// Nobody acknowledges an end, so it is said more than once.
constexpr int kEndRepeats = 4;

}  // namespace

SimStreams::SimStreams(sim::Network& network) : network_(network), nodes_(network.n_nodes()) {}

void SimStreams::attach(std::size_t node, StreamEvents events) {
  CHECK(!nodes_[node].attached && events.opened && events.message && events.closed);
  nodes_[node] = {.attached = true, .events = std::move(events), .ends = {}};
}

void SimStreams::detach(std::size_t node) { nodes_[node] = {}; }

StreamId SimStreams::connect(std::size_t from, std::size_t to) {
  CHECK(nodes_[from].attached && from != to);
  const StreamId id = next_id_++;
  nodes_[from].ends[id].peer = to;
  repeat(from, id);
  return id;
}

void SimStreams::send(std::size_t node, StreamId id, std::string message) {
  const auto place = nodes_[node].ends.find(id);
  if (place == nodes_[node].ends.end()) return;
  End& end = place->second;
  if (end.unacknowledged.size() == kUnacknowledgedMax) {
    network_.after(node, Duration::zero(), [this, node, id] { this->end(node, id, true); });
    return;
  }
  end.unacknowledged.push_back(message);
  if (!end.opened) return;  // repeat() brings it
  post({.kind = Kind::kMessage,
        .from = node,
        .to = end.peer,
        .id = id,
        .number = end.n_acknowledged + end.unacknowledged.size() - 1,
        .message = std::move(message)});
}

void SimStreams::close(std::size_t node, StreamId id) { end(node, id, false); }

// Forgets this side; the other one learns of it.
void SimStreams::end(std::size_t node, StreamId id, bool tell) {
  const auto place = nodes_[node].ends.find(id);
  if (place == nodes_[node].ends.end()) return;
  Packet packet;
  packet.kind = Kind::kEnd;
  packet.from = node;
  packet.to = place->second.peer;
  packet.id = id;
  nodes_[node].ends.erase(place);
  for (int i = 0; i < kEndRepeats; ++i) {
    network_.after(node, i * kRepeatEvery, [this, packet] { post(packet); });
  }
  if (tell) nodes_[node].events.closed(id);
}

// What the other side has not acknowledged is said again, for as long as this side lives.
void SimStreams::repeat(std::size_t node, StreamId id) {
  const auto place = nodes_[node].ends.find(id);
  if (place == nodes_[node].ends.end()) return;
  End& end = place->second;
  constexpr auto kRoundsMax = static_cast<int>(kUserTimeout / kRepeatEvery);
  end.rounds_unheard = end.unacknowledged.empty() || !end.opened ? 0 : end.rounds_unheard + 1;
  if (end.rounds_unheard > kRoundsMax) return this->end(node, id, true);
  Packet packet;
  packet.from = node;
  packet.to = end.peer;
  packet.id = id;
  if (!end.opened) {
    packet.kind = Kind::kOpen;
    post(packet);
  } else {
    packet.number = end.n_acknowledged;
    for (const std::string& message : end.unacknowledged) {
      packet.message = message;
      post(packet);
      ++packet.number;
    }
  }
  network_.after(node, kRepeatEvery, [this, node, id] { repeat(node, id); });
}

void SimStreams::post(Packet packet) {
  const std::size_t from = packet.from;
  const std::size_t to = packet.to;
  const std::uint64_t bytes = kHeaderBytes + packet.message.size();
  network_.send(from, to, bytes, [this, packet = std::move(packet)] { arrive(packet); });
}

void SimStreams::arrive(const Packet& packet) {
  Node& node = nodes_[packet.to];
  if (packet.kind == Kind::kOpen && node.attached) return open(packet);
  const auto place = node.ends.find(packet.id);
  if (place == node.ends.end()) {
    if (packet.kind == Kind::kEnd) return;
    post(
        {.kind = Kind::kEnd, .from = packet.to, .to = packet.from, .id = packet.id, .message = {}});
    return;
  }
  End& end = place->second;
  // Whatever comes first shows that the other side is there.
  if (packet.kind != Kind::kEnd && !std::exchange(end.opened, true)) {
    node.events.opened(packet.id, end.peer);
    if (!node.ends.contains(packet.id)) return;
  }
  switch (packet.kind) {
    case Kind::kEnd:
      node.ends.erase(place);
      node.events.closed(packet.id);
      return;
    case Kind::kAcknowledge:
      acknowledged(end, packet.number);
      return;
    case Kind::kMessage:
      take(node, end, packet);
      return;
    case Kind::kOpen:
      return;
  }
}

void SimStreams::open(const Packet& packet) {
  Node& node = nodes_[packet.to];
  const auto [place, added] = node.ends.try_emplace(packet.id);
  const std::uint64_t n_taken = place->second.n_taken;
  if (added) {
    place->second.peer = packet.from;
    place->second.opened = true;
    network_.after(packet.to, kRepeatEvery,
                   [this, to = packet.to, id = packet.id] { repeat(to, id); });
  }
  post({.kind = Kind::kAcknowledge,
        .from = packet.to,
        .to = packet.from,
        .id = packet.id,
        .number = n_taken,
        .message = {}});
  if (added) node.events.opened(packet.id, packet.from);
}

void SimStreams::acknowledged(End& end, std::uint64_t n) {
  while (end.n_acknowledged < n && !end.unacknowledged.empty()) {
    ++end.n_acknowledged;
    end.rounds_unheard = 0;
    end.unacknowledged.pop_front();
  }
}

void SimStreams::take(Node& node, End& end, const Packet& packet) {
  if (packet.number >= end.n_taken) end.early.emplace(packet.number, packet.message);
  std::vector<std::string> due;
  for (auto next = end.early.find(end.n_taken); next != end.early.end();
       next = end.early.find(end.n_taken)) {
    due.push_back(std::move(next->second));
    end.early.erase(next);
    ++end.n_taken;
  }
  post({.kind = Kind::kAcknowledge,
        .from = packet.to,
        .to = packet.from,
        .id = packet.id,
        .number = end.n_taken,
        .message = {}});
  for (const std::string& message : due) {
    if (!node.ends.contains(packet.id)) return;  // a handler has closed it
    node.events.message(packet.id, message);
  }
}

}  // namespace conclave::cluster_sim
