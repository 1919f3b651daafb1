// Connections of the control plane between machines, as TCP carries them: messages arrive whole,
// once and in order, however bad the network is, or the connection ends. What it does not hide:
//   a partition, a freeze, a crashed machine    silence; the end of the connection where something
//                                               was sent and not acknowledged for kUserTimeout
//   a machine that was started again            the end of the connection, at the next message
//
//   streams.attach(node, {.opened = ..., .message = ..., .closed = ...});   // its agent starts
//   const StreamId id = streams.connect(1, 0);
//   streams.send(1, id, bytes);
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "sim/sim.h"

namespace conclave::cluster_sim {

using StreamId = std::uint64_t;

// Sent and not acknowledged; a connection with more ends.
inline constexpr std::size_t kUnacknowledgedMax = 4096;
inline constexpr Duration kUserTimeout = std::chrono::seconds(2);  // as HubLimits

// Called in events of the node; they may call the SimStreams, but not detach() the node.
struct StreamEvents {
  // At the caller, and at the called node for a connection from `peer`.
  std::function<void(StreamId, std::size_t peer)> opened;
  std::function<void(StreamId, std::string_view message)> message;
  // By the other end, or refused. Not after the own close().
  std::function<void(StreamId)> closed;
};

class SimStreams {
 public:
  // The network must outlive the streams, and the streams the events of its world.
  explicit SimStreams(sim::Network& network);
  SimStreams(const SimStreams&) = delete;
  SimStreams& operator=(const SimStreams&) = delete;

  void attach(std::size_t node, StreamEvents events);
  // The node has crashed: its ends are gone without a word.
  void detach(std::size_t node);

  // opened() or closed() follows; neither while the other machine is silent.
  StreamId connect(std::size_t from, std::size_t to);
  // Ignored where the connection has ended: closed() has been called, or will be.
  void send(std::size_t node, StreamId id, std::string message);
  void close(std::size_t node, StreamId id);

 private:
  enum class Kind : std::uint8_t { kOpen, kMessage, kAcknowledge, kEnd };
  struct Packet {
    Kind kind = Kind::kMessage;
    std::size_t from = 0;
    std::size_t to = 0;
    StreamId id = 0;
    std::uint64_t number = 0;  // of the message; kAcknowledge: how many were taken
    std::string message;
  };
  // One side of a connection.
  struct End {
    std::size_t peer = 0;
    bool opened = false;
    std::uint64_t n_acknowledged = 0;
    int rounds_unheard = 0;                  // of repeating, without anything acknowledged
    std::deque<std::string> unacknowledged;  // the first is number n_acknowledged
    std::uint64_t n_taken = 0;
    std::map<std::uint64_t, std::string> early;  // by number
  };
  struct Node {
    bool attached = false;
    StreamEvents events;
    std::map<StreamId, End> ends;
  };

  void post(Packet packet);
  void arrive(const Packet& packet);
  void open(const Packet& packet);
  void take(Node& node, End& end, const Packet& packet);
  void acknowledged(End& end, std::uint64_t n);
  void end(std::size_t node, StreamId id, bool tell);
  void repeat(std::size_t node, StreamId id);

  sim::Network& network_;
  std::vector<Node> nodes_;
  StreamId next_id_ = 1;
};

}  // namespace conclave::cluster_sim
