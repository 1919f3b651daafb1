// Gives the weights of this machine's checkpoints to members of the pool, packed as they will lie
// in their memory (bulk_messages.h). Also without checkpoints it answers echoes, with which links
// are measured.
//
//   WeightServer server(models, clock, {});
//   hub.on_open of a member's kBulk connection:  server.add(hub.take(id), "node-b");
//
// One thread reads requests and sends answers for all connections; a few others read files and pack
// ahead of what is being sent, with less priority than the worker that computes. Pages of the files
// are given back after packing, so a model far larger than memory can be given out.
//
// Threads: any thread calls add(); it never blocks on a peer or a file.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/clock.h"
#include "model/model.h"
#include "transport/transport.h"

namespace conclave::cluster {

// At each of them the connection ends, unless it says otherwise; the peer comes back and goes on.
struct WeightServerLimits {
  std::size_t connections_max = transport::kRanksMax;
  std::size_t per_peer_max = 2;    // the oldest gives way: its peer has probably lost it
  std::size_t requests_max = 512;  // of one connection, not yet answered
  // Packed and not yet sent, of one connection and of all: packing waits.
  std::size_t ahead_max = std::size_t{64} << 20;
  std::size_t ahead_all_max = std::size_t{256} << 20;
  std::size_t packing_threads = 2;
  Duration stall_limit = std::chrono::seconds(30);  // the peer takes nothing of what is for it
  Duration idle_limit = std::chrono::seconds(120);  // it asks for nothing
};

class WeightServer {
 public:
  // The models and the clock must outlive it.
  WeightServer(const std::vector<const model::ModelSource*>& models, const Clock& clock,
               const WeightServerLimits& limits);
  ~WeightServer();  // ends all connections; waits for what is being packed
  WeightServer(const WeightServer&) = delete;
  WeightServer& operator=(const WeightServer&) = delete;

  // Serves whoever is at the other end, who has been found to be a member. `name` is for logs and
  // tells peers apart.
  void add(transport::SecureStream stream, std::string name);

  // Ends the connections of a peer that is no member any more.
  void drop(std::string name);

  std::size_t n_connections() const;
  std::uint64_t sent_bytes() const;  // of answers, since the start

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace conclave::cluster
