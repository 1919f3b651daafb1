// The bulk port of an agent of this machine, served by a thread, for the tests of those who call
// it.
#pragma once

#include <poll.h>

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include "base/clock.h"
#include "cluster/control_hub.h"
#include "cluster/weight_server.h"

namespace conclave::cluster {

// Lets one member in and gives it these models.
class Giver {
 public:
  explicit Giver(const transport::Fingerprint& member,
                 const std::vector<const model::ModelSource*>& models = {},
                 const WeightServerLimits& limits = {})
      : server_(models, clock_, limits) {
    HubHandlers handlers{
        .trust =
            [member](const transport::Fingerprint& peer) {
              return peer == member ? Trust::kMember : Trust::kRefused;
            },
        .on_open =
            [this](const OpenedConnection& connection) {
              ++n_taken;
              server_.add(hub_->take(connection.id), "taker");
            },
        .on_message = [](ConnectionId, std::string_view) {},
        .on_close = [](ConnectionId, const std::string&) {},
        .on_refused = [](const std::string&, const std::string&) {},
    };
    hub_ = ControlHub::create(identity_, {.build = "giver"}, std::move(handlers)).value();
    port_ = hub_->listen("127.0.0.1", 0).value();
    thread_ = std::thread([this] {
      while (!ending_) {
        pollfd ready{hub_->fd(), POLLIN, 0};
        ::poll(&ready, 1, 20);
        hub_->poll(clock_.now());
      }
    });
  }
  ~Giver() {
    ending_ = true;
    thread_.join();
  }

  WeightHolder holder(NodeId node) const {
    WeightHolder holder{.node = node, .endpoint = {}};
    holder.endpoint.host = "127.0.0.1";
    holder.endpoint.port = port_;
    holder.endpoint.fingerprint = identity_.fingerprint();
    return holder;
  }
  WeightServer& server() { return server_; }

  std::atomic<int> n_taken{0};

 private:
  RealClock clock_;
  WeightServer server_;
  transport::Identity identity_ = transport::Identity::generate("giver").value();
  std::unique_ptr<ControlHub> hub_;
  std::uint16_t port_ = 0;
  std::atomic<bool> ending_{false};
  std::thread thread_;
};

}  // namespace conclave::cluster
