// What the hub keeps of one connection; only control_hub.cc includes it.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "cluster/control_hub.h"

namespace conclave::cluster {

struct ControlHub::Entry {
  // Of a call, until the peer has proved its key.
  struct Dial {
    HostPort to;
    ExpectedPeer expected;
    Purpose purpose = Purpose::kControl;
    std::vector<transport::Address> addresses;
    std::size_t next = 0;
    transport::Socket socket{};  // connecting
  };

  bool incoming() const { return !dial.has_value(); }
  bool opened() const { return connection && connection->opened(); }
  bool over() const { return ended || (connection && connection->closed()); }
  const std::string& reason() const { return ended ? end_reason : connection->reason(); }
  int fd() const { return connection ? connection->fd() : dial->socket.get(); }
  void end(std::string why) {
    if (over()) return;
    ended = true;
    end_reason = std::move(why);
    if (dial) dial->socket.reset();
    if (connection) connection->close(end_reason);
  }

  ConnectionId id;
  std::optional<Dial> dial;  // only of calls
  std::optional<ControlConnection> connection;
  HostPort address;
  Trust trust = Trust::kRefused;
  bool admitted_stranger = false;
  bool ended = false;
  bool taken = false;
  bool finish_timed = false;
  std::string end_reason;
  std::optional<Time> deadline;
  std::uint32_t watched = 0;  // events; 0: the descriptor is not in the epoll set
};

}  // namespace conclave::cluster
