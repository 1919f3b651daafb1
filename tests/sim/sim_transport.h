// The data plane on a simulated network: a transport::Fabric whose receive() yields a fiber.
//
//   SimSwitch data_plane(world, network);
//   SimFabric fabric(data_plane, process);        // in the process; listens at fabric.endpoint()
//   auto transport = fabric.join(spec, deadline, &watch);
//
// What a peer sees:
//   loss, repetition, reordering   a desync: the sequence has a gap or goes back, the peer is lost
//   the peer's process ends        the end of the connection, after the latency of the link
//   its machine crashes or freezes, a partition    nothing: silence
// Nothing is sent twice, as TCP would: under loss an epoch breaks early, and that is wanted here.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "process.h"
#include "transport/transport.h"

namespace conclave::cluster_sim {

class SimFabric;
class SimTransport;
using transport::Rank;

// Copies of messages that are kept to come too late; further ones are not.
inline constexpr std::size_t kLateCopiesMax = 64;
// A joining rank calls the peers that have not answered so often.
inline constexpr Duration kCallEvery = std::chrono::milliseconds(20);

struct SwitchStats {
  std::uint64_t joins = 0;              // that succeeded
  std::uint64_t calls_repeated = 0;     // rounds of calls after the first
  std::uint64_t messages = 0;           // handed to a rank
  std::uint64_t desyncs = 0;            // peers lost for their sequence
  std::uint64_t connections_ended = 0;  // peers lost for the end of their process or epoch
  std::uint64_t stale_dropped = 0;      // messages of another epoch or an older connection
};

// What the network knows: who listens where. One for a cluster; must outlive its processes.
class SimSwitch {
 public:
  SimSwitch(sim::World& world, sim::Network& network)
      : world_(world), network_(network), chances_(world.stream("switch")) {}
  SimSwitch(const SimSwitch&) = delete;
  SimSwitch& operator=(const SimSwitch&) = delete;

  // The epoch race: from now on messages are copied with this probability, and the copies come
  // again, unchanged, to the same machine's rank of the next epoch. 0: none.
  void set_late_copies(double probability) { late_copies_ = probability; }
  // For what else is to come again: after so long, of this mean.
  std::optional<Duration> draw_late_copy(Duration mean) {
    if (!chances_.chance(late_copies_)) return std::nullopt;
    return chances_.exponential(mean);
  }
  const SwitchStats& stats() const { return stats_; }

 private:
  friend class SimFabric;
  friend class SimTransport;

  struct Address {
    std::size_t node = 0;
    std::uint16_t port = 0;
    bool operator==(const Address&) const = default;
  };
  struct Packet {
    enum class Kind : std::uint8_t { kCall, kAnswer, kData, kEnd };
    Kind kind = Kind::kData;
    Address from;
    Address to;
    std::uint64_t cluster = 0;
    std::uint32_t epoch = 0;
    Rank from_rank = 0;
    Rank to_rank = 0;
    std::uint64_t connection = 0;  // the sender's; grows from one to the next. kEnd: the one ended
    wire::DataHeader header;
    // Shared by the copies of a doubled message.
    std::shared_ptr<const std::vector<std::byte>> payload;
  };

  void send(const Packet& packet);
  void arrive(const Packet& packet);
  void keep_late_copy(const Packet& packet);
  void deliver_late_copies(const SimFabric& fabric);
  SimFabric* listener(const Address& address) const;

  sim::World& world_;
  sim::Network& network_;
  sim::RandomStream chances_;
  double late_copies_ = 0.0;
  std::vector<Packet> kept_;
  std::map<std::uint16_t, SimFabric*> listeners_;
  std::uint16_t next_port_ = 1;
  std::uint64_t next_connection_ = 1;
  SwitchStats stats_;
};

class SimFabric final : public transport::Fabric {
 public:
  // Both must outlive the fabric, which is best a local of the process's main function.
  SimFabric(SimSwitch& data_plane, Process& process);
  ~SimFabric() override;
  SimFabric(const SimFabric&) = delete;
  SimFabric& operator=(const SimFabric&) = delete;

  // Host "node-3"; each life of a process has its own port.
  transport::Endpoint endpoint() const;
  Result<std::unique_ptr<transport::Transport>> join(const transport::GroupSpec& spec,
                                                     Time deadline,
                                                     transport::Watch* watch) override;

 private:
  friend class SimSwitch;
  friend class SimTransport;
  SimSwitch& switch_;
  Process& process_;
  SimSwitch::Address address_;
  std::vector<SimTransport*> open_;  // the newest last
};

class SimTransport final : public transport::Transport {
 public:
  ~SimTransport() override;
  SimTransport(const SimTransport&) = delete;
  SimTransport& operator=(const SimTransport&) = delete;

  Rank rank() const override { return spec_.rank; }
  std::size_t n_ranks() const override { return spec_.ranks.size(); }
  void send(Rank to, const wire::DataHeader& header,
            std::span<const std::span<const std::byte>> parts) override;
  transport::Received receive(Time deadline) override;
  void flush(Time) override {}  // the network takes everything at once
  std::span<const transport::LinkStats> stats() const override { return link_stats_; }

 private:
  friend class SimFabric;
  friend class SimSwitch;
  using Packet = SimSwitch::Packet;

  struct Peer {
    SimSwitch::Address address;
    std::uint64_t connection = 0;  // 0: not heard of yet
    std::uint32_t next_in = 0;
    std::uint32_t next_out = 0;
  };

  SimTransport(SimFabric& fabric, const transport::GroupSpec& spec, transport::Watch* watch);
  Result<void> join(Time deadline);
  std::optional<Rank> missing() const;
  void call(Packet::Kind kind, Rank to);
  Packet packet(Packet::Kind kind, Rank to) const;
  void arrived(const Packet& packet);
  void take(const Packet& packet);
  void lose(Rank peer, std::string reason);

  SimFabric& fabric_;
  transport::GroupSpec spec_;
  transport::Watch* watch_;
  std::uint64_t connection_;
  std::vector<Peer> peers_;  // by rank
  std::deque<Packet> inbox_;
  Packet current_;  // whose payload the caller may still read
  std::optional<std::pair<Rank, std::string>> lost_;
  std::vector<transport::LinkStats> link_stats_;
};

}  // namespace conclave::cluster_sim
