// The head's side of the pool's connections: members come and go, strangers pair.
//
// Threads: the agent's. Handlers run inside poll().
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>

#include "base/clock.h"
#include "cluster/cluster.h"
#include "cluster/control_hub.h"
#include "cluster/layout.h"
#include "cluster/pairing.h"

namespace conclave::cluster {

struct DoorHandlers {
  std::function<void(NodeId, const wire::pb::Hello&)> on_hello;
  std::function<void(NodeId, const wire::pb::Report&)> on_report;
  std::function<void(NodeId, const std::string& reason)> on_gone;
  std::function<void(NodeId, const wire::pb::Trace&)> on_trace;
  std::function<void(NodeId, const wire::pb::Measured&)> on_measured;
  // A member wants weights; `name` is its name in the pool.
  std::function<void(transport::SecureStream, const std::string& name)> on_bulk;
};

class PoolDoor {
 public:
  static Result<std::unique_ptr<PoolDoor>> open(const PoolOptions& options, const Clock& clock,
                                                DoorHandlers handlers);
  PoolDoor(const PoolDoor&) = delete;
  PoolDoor& operator=(const PoolDoor&) = delete;

  int fd() const { return hub_->fd(); }
  void poll();
  std::uint16_t port() const { return port_; }
  const transport::Identity& identity() const { return identity_; }
  const StateDir& state() const { return state_; }

  // Fills in where the assignment's holders can be reached; those that are gone are left out.
  void send(NodeId node, const wire::pb::Assignment& assignment);
  void ask_trace(NodeId node, const wire::pb::TraceRequest& request);
  void ask_measure(NodeId node, const wire::pb::Measure& request);
  // Where the agent `node` answers bulk connections, as this machine calls it, or as others do:
  // then without a host where it is beside this head. nullopt: it is not connected, or has no such
  // port.
  enum class Caller : std::uint8_t { kThisMachine, kOthers };
  std::optional<wire::pb::Endpoint> bulk_endpoint(NodeId node, Caller caller) const;
  // Says why and ends the connection.
  void refuse(NodeId node, const std::string& reason);
  // For `conclave node --join`; good for one machine and ten minutes.
  Result<std::string> issue_code();
  // Forgets a member's key: it has to pair again. kNotFound names who is there.
  Result<NodeId> remove(const std::string& name);
  std::optional<NodeId> find(const std::string& name) const;

 private:
  PoolDoor(const PoolOptions& options, const Clock& clock, DoorHandlers handlers, StateDir state,
           transport::Identity identity, Membership members);
  Result<void> listen();
  NodeId number_of(const transport::Fingerprint& peer);
  void on_open(const OpenedConnection& connection);
  void on_message(ConnectionId id, std::string_view payload);
  void on_close(ConnectionId id, const std::string& reason);
  void pair(ConnectionId id, std::string_view payload);
  PairMoment pair_moment() const;
  void complete_holders(wire::pb::Assignment& assignment) const;
  void tell_members();

  struct Session {
    NodeId node;
    HostPort address;
    transport::Fingerprint peer{};
    bool pairing = false;
    bool said_hello = false;
    std::uint32_t bulk_port = 0;
  };

  PoolOptions options_;
  const Clock& clock_;
  DoorHandlers handlers_;
  StateDir state_;
  transport::Identity identity_;
  Membership members_;
  PairingDesk desk_;
  std::unique_ptr<ControlHub> hub_;
  std::uint16_t port_ = 0;
  std::map<ConnectionId, Session> sessions_;
  std::map<NodeId, ConnectionId> by_node_;
  std::map<transport::Fingerprint, NodeId> numbers_;  // stable for this life of the head
};

}  // namespace conclave::cluster
