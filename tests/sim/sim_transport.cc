#include "sim_transport.h"

#include <algorithm>
#include <charconv>
#include <string_view>

#include "base/check.h"

namespace conclave::cluster_sim {
namespace {

using std::chrono::milliseconds;

constexpr std::string_view kHostPrefix = "node-";
constexpr std::uint64_t kControlBytes = 64;  // of a call, an answer and an end
// The kernel says the end of a connection so often: nobody acknowledges it.
constexpr int kEndRepeats = 4;
constexpr Duration kEndEvery = milliseconds(20);
constexpr Duration kLateBy = milliseconds(20);  // mean of a late copy's delay in the new epoch

std::size_t node_of(const transport::Endpoint& endpoint) {
  CHECK(endpoint.host.starts_with(kHostPrefix));
  const std::string_view digits = std::string_view(endpoint.host).substr(kHostPrefix.size());
  std::size_t node = 0;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), node);
  CHECK(error == std::errc() && end == digits.data() + digits.size());
  return node;
}

}  // namespace

void SimSwitch::send(const Packet& packet) {
  const std::uint64_t bytes =
      packet.payload ? wire::kDataHeaderSize + packet.payload->size() : kControlBytes;
  if (packet.kind == Packet::Kind::kData) keep_late_copy(packet);
  network_.send(packet.from.node, packet.to.node, bytes, [this, packet] { arrive(packet); });
}

SimFabric* SimSwitch::listener(const Address& address) const {
  const auto place = listeners_.find(address.port);
  if (place == listeners_.end() || place->second->address_ != address) return nullptr;
  return place->second;
}

void SimSwitch::arrive(const Packet& packet) {
  if (SimFabric* fabric = listener(packet.to)) {
    for (SimTransport* open : fabric->open_) {
      if (open->spec_.epoch != packet.epoch || open->spec_.cluster != packet.cluster) continue;
      open->arrived(packet);
      return;
    }
  }
  if (packet.kind != Packet::Kind::kData) return;
  // Nobody has that connection any more: the kernel says so. A call is made again instead.
  Packet end = packet;
  end.kind = Packet::Kind::kEnd;
  end.payload = nullptr;
  std::swap(end.from, end.to);
  end.from_rank = packet.to_rank;
  send(end);
}

void SimSwitch::keep_late_copy(const Packet& packet) {
  if (kept_.size() < kLateCopiesMax && chances_.chance(late_copies_)) kept_.push_back(packet);
}

void SimSwitch::deliver_late_copies(const SimFabric& fabric) {
  const std::uint32_t epoch = fabric.open_.back()->spec_.epoch;
  const Address to = fabric.address_;
  const auto due = [&](const Packet& p) { return p.to.node == to.node && p.epoch < epoch; };
  for (const Packet& packet : kept_) {
    if (!due(packet)) continue;
    network_.after(to.node, chances_.exponential(kLateBy), [this, to, packet] {
      const SimFabric* there = listener(to);
      if (there != nullptr && !there->open_.empty()) there->open_.back()->arrived(packet);
    });
  }
  std::erase_if(kept_, due);
}

SimFabric::SimFabric(SimSwitch& data_plane, Process& process)
    : switch_(data_plane), process_(process), address_{process.node(), data_plane.next_port_++} {
  CHECK(data_plane.next_port_ != 0);
  switch_.listeners_[address_.port] = this;
}

SimFabric::~SimFabric() {
  CHECK(open_.empty());
  switch_.listeners_.erase(address_.port);
}

transport::Endpoint SimFabric::endpoint() const {
  const std::string host = std::string(kHostPrefix) + std::to_string(address_.node);
  return {.host = host, .port = address_.port, .fingerprint = {}, .clear = true, .host_id = host};
}

Result<std::unique_ptr<transport::Transport>> SimFabric::join(const transport::GroupSpec& spec,
                                                              Time deadline,
                                                              transport::Watch* watch) {
  CHECK(spec.rank < spec.ranks.size() && spec.ranks.size() <= transport::kRanksMax);
  // A worker that has just been started may be told of its predecessor's epoch: then the peers do
  // not hear it, because they know the other's port.
  std::unique_ptr<SimTransport> made(new SimTransport(*this, spec, watch));
  switch_.deliver_late_copies(*this);
  TRY(made->join(deadline));
  ++switch_.stats_.joins;
  return std::unique_ptr<transport::Transport>(std::move(made));
}

SimTransport::SimTransport(SimFabric& fabric, const transport::GroupSpec& spec,
                           transport::Watch* watch)
    : fabric_(fabric),
      spec_(spec),
      watch_(watch),
      connection_(fabric.switch_.next_connection_++),
      peers_(spec.ranks.size()),
      link_stats_(spec.ranks.size()) {
  for (std::size_t r = 0; r < peers_.size(); ++r) {
    peers_[r].address = {node_of(spec.ranks[r]), spec.ranks[r].port};
    CHECK(r == spec.rank || peers_[r].address.node != fabric.address_.node);
  }
  fabric_.open_.push_back(this);
}

// The machine's kernel closes the connections, whether the process left or crashed.
SimTransport::~SimTransport() {
  std::erase(fabric_.open_, this);
  SimSwitch& data_plane = fabric_.switch_;
  const std::size_t node = fabric_.address_.node;
  if (!data_plane.network_.up(node) || data_plane.network_.frozen(node)) return;
  for (std::size_t r = 0; r < peers_.size(); ++r) {
    if (r == spec_.rank) continue;
    const Packet end = packet(Packet::Kind::kEnd, static_cast<Rank>(r));
    for (int i = 0; i < kEndRepeats; ++i) {
      data_plane.network_.after(node, i * kEndEvery, [&data_plane, end] { data_plane.send(end); });
    }
  }
}

SimTransport::Packet SimTransport::packet(Packet::Kind kind, Rank to) const {
  return {.kind = kind,
          .from = fabric_.address_,
          .to = peers_[to].address,
          .cluster = spec_.cluster,
          .epoch = spec_.epoch,
          .from_rank = spec_.rank,
          .to_rank = to,
          .connection = connection_,
          .header = {},
          .payload = nullptr};
}

std::optional<Rank> SimTransport::missing() const {
  for (std::size_t r = 0; r < peers_.size(); ++r) {
    if (r != spec_.rank && peers_[r].connection == 0) return static_cast<Rank>(r);
  }
  return std::nullopt;
}

Result<void> SimTransport::join(Time deadline) {
  Process& process = fabric_.process_;
  Time call_at = process.world().now();
  for (bool first = true; const std::optional<Rank> waited_for = missing();) {
    const Time now = process.world().now();
    if (watch_ != nullptr && watch_->interrupted()) return unavailable("interrupted");
    if (lost_) break;
    if (now >= deadline) {
      if (watch_ != nullptr) watch_->absent(*waited_for);
      return unavailable("rank " + std::to_string(*waited_for) + " did not come");
    }
    if (now >= call_at) {
      for (std::size_t r = 0; r < peers_.size(); ++r) {
        if (r == spec_.rank || peers_[r].connection != 0) continue;
        fabric_.switch_.send(packet(Packet::Kind::kCall, static_cast<Rank>(r)));
      }
      if (!std::exchange(first, false)) ++fabric_.switch_.stats_.calls_repeated;
      call_at = now + kCallEvery;
    }
    process.wait(std::min(deadline, call_at));
  }
  if (!lost_) return {};
  if (watch_ != nullptr) watch_->absent(lost_->first);
  return unavailable("rank " + std::to_string(lost_->first) + ": " + lost_->second);
}

void SimTransport::send(Rank to, const wire::DataHeader& header,
                        std::span<const std::span<const std::byte>> parts) {
  CHECK(to < peers_.size() && to != spec_.rank);
  if (lost_) return;  // receive() says so
  auto payload = std::make_shared<std::vector<std::byte>>();
  for (const std::span<const std::byte> part : parts) {
    payload->insert(payload->end(), part.begin(), part.end());
  }
  CHECK(payload->size() <= wire::kDataSizeMax);
  Packet data = packet(Packet::Kind::kData, to);
  data.header = header;
  data.header.epoch = spec_.epoch;
  data.header.sequence = peers_[to].next_out++;
  data.header.size = static_cast<std::uint32_t>(payload->size());
  ++link_stats_[to].messages_sent;
  link_stats_[to].bytes_sent += payload->size();
  data.payload = std::move(payload);
  fabric_.switch_.send(data);
}

void SimTransport::lose(Rank peer, std::string reason) {
  if (lost_) return;
  lost_ = {peer, std::move(reason)};
  // A reset connection gives up what was not read, an orderly end does not; both happen.
  if (fabric_.switch_.chances_.chance(0.5)) inbox_.clear();
}

void SimTransport::arrived(const Packet& packet) {
  SwitchStats& stats = fabric_.switch_.stats_;
  if (packet.epoch != spec_.epoch) {
    ++stats.stale_dropped;
    return;
  }
  if (lost_ || packet.from_rank >= peers_.size() || packet.from_rank == spec_.rank) return;
  const Rank from = packet.from_rank;
  Peer& peer = peers_[from];
  if (packet.kind == Packet::Kind::kEnd) {
    // Of the peer's connection, or this one's: the peer's machine does not know it.
    if (packet.connection != peer.connection && packet.connection != connection_) return;
    ++stats.connections_ended;
    lose(from, "connection closed");
  } else if (packet.connection < peer.connection) {
    ++stats.stale_dropped;
  } else if (peer.connection != 0 && packet.connection != peer.connection) {
    ++stats.connections_ended;
    lose(from, "connection made again");
  } else {
    peer.connection = packet.connection;
    take(packet);
  }
  fabric_.process_.wake();
}

void SimTransport::take(const Packet& packet) {
  const Rank from = packet.from_rank;
  if (packet.kind == Packet::Kind::kCall) {
    fabric_.switch_.send(this->packet(Packet::Kind::kAnswer, from));
  }
  if (packet.kind != Packet::Kind::kData) return;
  Peer& peer = peers_[from];
  if (packet.header.sequence != peer.next_in) {
    ++fabric_.switch_.stats_.desyncs;
    lose(from, "desync: message " + std::to_string(packet.header.sequence) + " where " +
                   std::to_string(peer.next_in) + " is next");
    return;
  }
  ++peer.next_in;
  ++link_stats_[from].messages_received;
  link_stats_[from].bytes_received += packet.payload->size();
  inbox_.push_back(packet);
}

transport::Received SimTransport::receive(Time deadline) {
  using Kind = transport::Received::Kind;
  current_ = {};  // the last message's bytes end here, so that a later use of them is seen
  transport::Received received;
  for (;;) {
    if (watch_ != nullptr && watch_->interrupted()) {
      received.kind = Kind::kInterrupted;
    } else if (!inbox_.empty()) {
      current_ = std::move(inbox_.front());
      inbox_.pop_front();
      ++fabric_.switch_.stats_.messages;
      received.kind = Kind::kMessage;
      received.message = {current_.from_rank, current_.header, *current_.payload};
    } else if (lost_) {
      received.kind = Kind::kPeerLost;
      received.lost = lost_->first;
      received.reason = lost_->second;
    } else if (fabric_.process_.world().now() < deadline) {
      fabric_.process_.wait(deadline);
      continue;
    }
    return received;
  }
}

}  // namespace conclave::cluster_sim
