#include "cluster/pool_door.h"

#include <ifaddrs.h>
#include <net/if.h>
#include <netdb.h>
#include <openssl/rand.h>
#include <spdlog/spdlog.h>
#include <sys/socket.h>

#include <array>
#include <ctime>
#include <utility>

#include "base/check.h"
#include "cluster/facts.h"

namespace conclave::cluster {
namespace {

void fill_random(std::span<std::byte> bytes) {
  CHECK(RAND_bytes(reinterpret_cast<unsigned char*>(bytes.data()),
                   static_cast<int>(bytes.size())) == 1);
}

// Addresses under which other machines may find this one: IPv4 before IPv6, none of this host
// alone.
std::vector<std::string> own_addresses() {
  std::vector<std::string> v4;
  std::vector<std::string> v6;
  ifaddrs* list = nullptr;
  if (getifaddrs(&list) != 0) return {};
  for (const ifaddrs* entry = list; entry != nullptr; entry = entry->ifa_next) {
    if (entry->ifa_addr == nullptr || (entry->ifa_flags & IFF_UP) == 0) continue;
    if ((entry->ifa_flags & IFF_LOOPBACK) != 0) continue;
    const int family = entry->ifa_addr->sa_family;
    if (family != AF_INET && family != AF_INET6) continue;
    const socklen_t size = family == AF_INET ? sizeof(sockaddr_in) : sizeof(sockaddr_in6);
    std::array<char, NI_MAXHOST> text{};
    if (getnameinfo(entry->ifa_addr, size, text.data(), text.size(), nullptr, 0, NI_NUMERICHOST) !=
        0) {
      continue;
    }
    const std::string address = text.data();
    if (address.starts_with("fe80")) continue;
    (family == AF_INET ? v4 : v6).push_back(address);
  }
  freeifaddrs(list);
  v4.insert(v4.end(), v6.begin(), v6.end());
  return v4;
}

bool is_loopback(std::string_view host) { return host.starts_with("127.") || host == "::1"; }

}  // namespace

Result<std::unique_ptr<PoolDoor>> PoolDoor::open(const PoolOptions& options, const Clock& clock,
                                                 DoorHandlers handlers) {
  const std::filesystem::path path = TRY(find_state_dir(options.state));
  StateDir state = TRY(StateDir::open(path));
  transport::Identity identity =
      TRY(transport::Identity::load_or_create(state.path(), options.name));
  std::optional<Membership> members = TRY(load_members(state, identity));
  if (!members) {
    Member head;
    head.public_key = identity.public_key();
    head.name = clean_name(options.name);
    members.emplace(std::move(head));
  }
  std::unique_ptr<PoolDoor> door(new PoolDoor(options, clock, std::move(handlers), std::move(state),
                                              std::move(identity), std::move(*members)));
  TRY(door->listen());
  return door;
}

PoolDoor::PoolDoor(const PoolOptions& options, const Clock& clock, DoorHandlers handlers,
                   StateDir state, transport::Identity identity, Membership members)
    : options_(options),
      clock_(clock),
      handlers_(std::move(handlers)),
      state_(std::move(state)),
      identity_(std::move(identity)),
      members_(std::move(members)),
      desk_({}, fill_random) {}

Result<void> PoolDoor::listen() {
  HubHandlers handlers;
  handlers.trust = [this](const transport::Fingerprint& peer) {
    const bool member = members_.find(peer) != nullptr && peer != identity_.fingerprint();
    return member ? Trust::kMember : Trust::kStranger;
  };
  handlers.on_open = [this](const OpenedConnection& connection) { on_open(connection); };
  handlers.on_message = [this](ConnectionId id, std::string_view payload) {
    on_message(id, payload);
  };
  handlers.on_close = [this](ConnectionId id, const std::string& reason) { on_close(id, reason); };
  handlers.on_refused = [](const std::string& address, const std::string& reason) {
    spdlog::warn("connection refused from={} reason=\"{}\"", address, reason);
  };
  hub_ = TRY(ControlHub::create(identity_, {.build = CONCLAVE_VERSION}, std::move(handlers)));
  port_ = TRY(hub_->listen(options_.host, options_.port));
  std::vector<HostPort> addresses;
  std::vector<std::string> hosts = own_addresses();
  if (!options_.host.empty()) hosts = {options_.host};
  for (const std::string& host : hosts) {
    if (addresses.size() < kAddressesMax) addresses.push_back({host, port_});
  }
  TRY(members_.set_addresses(identity_.fingerprint(), std::move(addresses)));
  return save(state_, members_, identity_);
}

void PoolDoor::poll() { hub_->poll(clock_.now()); }

NodeId PoolDoor::number_of(const transport::Fingerprint& peer) {
  const auto [it, added] = numbers_.try_emplace(peer, NodeId{numbers_.size() + 1});
  return it->second;
}

void PoolDoor::on_open(const OpenedConnection& connection) {
  Session session;
  session.address = connection.address;
  session.peer = connection.peer;
  session.pairing = connection.purpose == Purpose::kPair;
  if (connection.purpose == Purpose::kBulk) {
    const Member* member = members_.find(connection.peer);
    if (member == nullptr) return hub_->close(connection.id, "removed from the pool");
    return handlers_.on_bulk(hub_->take(connection.id), member->name);
  }
  if (!session.pairing) {
    session.node = number_of(connection.peer);
    // A node has one connection: an older one is of a life that has ended, or of a broken link.
    if (const auto old = by_node_.find(session.node); old != by_node_.end()) {
      const ConnectionId before = old->second;
      by_node_.erase(old);
      hub_->close(before, "the node connected again");
    }
    by_node_[session.node] = connection.id;
  }
  sessions_[connection.id] = std::move(session);
}

void PoolDoor::on_message(ConnectionId id, std::string_view payload) {
  const auto it = sessions_.find(id);
  if (it == sessions_.end()) return;
  Session& session = it->second;
  if (session.pairing) return pair(id, payload);
  Result<wire::pb::FromNode> message = wire::parse<wire::pb::FromNode>(payload);
  if (!message) return hub_->close(id, message.error().message);
  const NodeId node = session.node;
  switch (message->body_case()) {
    case wire::pb::FromNode::kHello: {
      if (const auto ok = check(message->hello()); !ok) {
        return hub_->close(id, ok.error().message);
      }
      session.said_hello = true;
      session.bulk_port = message->hello().bulk_port();
      const Member* member = members_.find(session.peer);
      if (member != nullptr) message->mutable_hello()->mutable_machine()->set_name(member->name);
      handlers_.on_hello(node, message->hello());
      return tell_members();
    }
    case wire::pb::FromNode::kReport:
      if (!session.said_hello) return hub_->close(id, "a report before the hello");
      if (const auto ok = clean(*message->mutable_report()); !ok) {
        return hub_->close(id, ok.error().message);
      }
      // What the node believes its address to be does not matter: this one works.
      if (message->report().has_data()) {
        message->mutable_report()->mutable_data()->set_host(session.address.host);
      }
      return handlers_.on_report(node, message->report());
    case wire::pb::FromNode::kTrace:
      return handlers_.on_trace(node, message->trace());
    case wire::pb::FromNode::kMeasured:
      return handlers_.on_measured(node, message->measured());
    case wire::pb::FromNode::kLeaving:
      return hub_->close(id, clean_text(message->leaving()));
    case wire::pb::FromNode::BODY_NOT_SET:
      return hub_->close(id, "a message without a body");
  }
}

void PoolDoor::on_close(ConnectionId id, const std::string& reason) {
  const auto it = sessions_.find(id);
  if (it == sessions_.end()) return;
  const Session session = it->second;
  sessions_.erase(it);
  if (session.pairing) return;
  const auto current = by_node_.find(session.node);
  if (current == by_node_.end() || current->second != id) return;
  by_node_.erase(current);
  handlers_.on_gone(session.node, reason);
}

PairMoment PoolDoor::pair_moment() const {
  return {.now = clock_.now(), .unix_seconds = static_cast<std::uint64_t>(std::time(nullptr))};
}

void PoolDoor::pair(ConnectionId id, std::string_view payload) {
  const Session& session = sessions_.at(id);
  const auto answer = [&]() -> Result<wire::pb::PairAnswer> {
    const wire::pb::PairRequest request = TRY(wire::parse<wire::pb::PairRequest>(payload));
    const PairVisit visit{.peer = session.peer, .at = pair_moment()};
    Membership members = members_;
    const Member member = TRY(desk_.admit(request, visit, members));
    // Who is not on the disk is not trusted.
    if (const Result<void> saved = save(state_, members, identity_); !saved) {
      desk_.give_back(request.token());
      return saved.error();
    }
    members_ = std::move(members);
    tell_members();
    spdlog::info("paired name={} from={}", member.name, to_text(session.address));
    return pair_answer(members_, identity_);
  }();
  if (!answer) {
    spdlog::warn("pairing refused from={} reason=\"{}\"", to_text(session.address),
                 answer.error().message);
  }
  hub_->send(id, answer ? answer.value() : pair_refusal(answer.error()));
  hub_->finish(id, "pairing is done");
}

void PoolDoor::send(NodeId node, const wire::pb::Assignment& assignment) {
  const auto it = by_node_.find(node);
  if (it == by_node_.end()) return;
  wire::pb::ToNode message;
  *message.mutable_assignment() = assignment;
  complete_holders(*message.mutable_assignment());
  hub_->send(it->second, message);
}

// An empty host is this machine's, which the node knows better: also of a node beside this head,
// whose connection comes over an address that only this machine has.
void PoolDoor::complete_holders(wire::pb::Assignment& assignment) const {
  google::protobuf::RepeatedPtrField<wire::pb::WeightHolder> found;
  for (wire::pb::WeightHolder& holder : *assignment.mutable_holders()) {
    transport::Fingerprint key = identity_.fingerprint();
    if (NodeId{holder.node()} != kHeadNode) {
      const auto connection = by_node_.find(NodeId{holder.node()});
      if (connection == by_node_.end()) continue;
      const Session& session = sessions_.at(connection->second);
      key = session.peer;
      if (!is_loopback(session.address.host)) {
        holder.mutable_endpoint()->set_host(session.address.host);
      }
    }
    holder.mutable_endpoint()->set_fingerprint(key.data(), key.size());
    *found.Add() = std::move(holder);
  }
  *assignment.mutable_holders() = std::move(found);
}

// Members give weights to each other, so each has to know all.
void PoolDoor::tell_members() {
  wire::pb::ToNode message;
  *message.mutable_members() = sign(members_, identity_);
  for (const auto& [node, connection] : by_node_) hub_->send(connection, message);
}

void PoolDoor::ask_trace(NodeId node, const wire::pb::TraceRequest& request) {
  const auto it = by_node_.find(node);
  if (it == by_node_.end()) return;
  wire::pb::ToNode message;
  *message.mutable_trace() = request;
  hub_->send(it->second, message);
}

void PoolDoor::ask_measure(NodeId node, const wire::pb::Measure& request) {
  const auto it = by_node_.find(node);
  if (it == by_node_.end()) return;
  wire::pb::ToNode message;
  *message.mutable_measure() = request;
  hub_->send(it->second, message);
}

std::optional<wire::pb::Endpoint> PoolDoor::bulk_endpoint(NodeId node, Caller caller) const {
  wire::pb::Endpoint endpoint;
  transport::Fingerprint key = identity_.fingerprint();
  endpoint.set_port(port_);
  if (node != kHeadNode) {
    const auto connection = by_node_.find(node);
    if (connection == by_node_.end()) return std::nullopt;
    const Session& session = sessions_.at(connection->second);
    key = session.peer;
    endpoint.set_port(session.bulk_port);
    if (caller == Caller::kThisMachine || !is_loopback(session.address.host)) {
      endpoint.set_host(session.address.host);
    }
  }
  if (endpoint.port() == 0) return std::nullopt;
  endpoint.set_fingerprint(key.data(), key.size());
  return endpoint;
}

void PoolDoor::refuse(NodeId node, const std::string& reason) {
  const auto it = by_node_.find(node);
  if (it == by_node_.end()) return;
  wire::pb::ToNode message;
  message.set_refused(reason);
  hub_->send(it->second, message);
  hub_->finish(it->second, reason);
}

Result<std::string> PoolDoor::issue_code() {
  PairCode code;
  for (const HostPort& address : members_.head().addresses) {
    if (code.addresses.size() < kPairAddressesMax) code.addresses.push_back(address);
  }
  code.head = pin_of(identity_.fingerprint());
  code.token = TRY(desk_.issue(pair_moment()));
  return encode(code);
}

std::optional<NodeId> PoolDoor::find(const std::string& name) const {
  const Member* member = members_.find(name);
  if (member == nullptr) return std::nullopt;
  const auto it = numbers_.find(member->fingerprint);
  if (it == numbers_.end()) return std::nullopt;
  return it->second;
}

Result<NodeId> PoolDoor::remove(const std::string& name) {
  const Member* member = members_.find(name);
  if (member == nullptr) {
    std::string names;
    for (const Member& m : members_.members()) names += (names.empty() ? "" : ", ") + m.name;
    return not_found("no machine is called \"" + name + "\"; there " +
                     (names.empty() ? "is none" : "are " + names));
  }
  const transport::Fingerprint peer = member->fingerprint;
  const NodeId node = number_of(peer);
  Membership members = members_;
  TRY(members.remove(peer));
  TRY(save(state_, members, identity_));  // else it would be back after a restart
  members_ = std::move(members);
  if (const auto connection = by_node_.find(node); connection != by_node_.end()) {
    wire::pb::ToNode last;
    last.set_refused("removed from the pool");
    hub_->send(connection->second, last);
  }
  hub_->close_peer(peer, "removed from the pool");
  tell_members();
  return node;
}

}  // namespace conclave::cluster
