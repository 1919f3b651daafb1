// TcpFabrics of ranks on this machine.
#pragma once

#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>

#include "transport/test_group.h"
#include "transport/transport.h"

namespace conclave::transport {

inline constexpr std::string_view kLocalhost = "127.0.0.1";

// TcpFabrics of ranks on this machine, and the reasons for which each turned connections away.
class Ranks {
 public:
  Ranks(std::size_t n, bool clear, TcpOptions options = {}) : clear_(clear), reasons_(n) {
    for (std::size_t rank = 0; rank < n; ++rank) {
      identities_.push_back(Identity::generate("rank").value());
      options.host = kLocalhost;
      options.on_refused = [this, rank](const std::string& reason) {
        const std::lock_guard lock(mutex_);
        reasons_[rank].push_back(reason);
      };
      fabrics_.push_back(TcpFabric::listen(clock_, identities_[rank], options).value());
    }
  }

  TestGroup group(std::uint32_t epoch) const {
    TestGroup group;
    group.spec = {.cluster = 77, .epoch = epoch, .rank = 0, .ranks = {}};
    for (std::size_t rank = 0; rank < fabrics_.size(); ++rank) {
      group.fabrics.push_back(fabrics_[rank].get());
      group.spec.ranks.push_back({.host = std::string(kLocalhost),
                                  .port = fabrics_[rank]->port(),
                                  .fingerprint = identities_[rank].fingerprint(),
                                  .clear = clear_,
                                  .host_id = ""});
    }
    return group;
  }

  TcpFabric& fabric(std::size_t rank) { return *fabrics_[rank]; }
  const Identity& identity(std::size_t rank) const { return identities_[rank]; }
  std::string reasons(std::size_t rank) const {
    const std::lock_guard lock(mutex_);
    std::string all;
    for (const std::string& reason : reasons_[rank]) all += reason + "\n";
    return all;
  }

 private:
  RealClock clock_;
  bool clear_;
  mutable std::mutex mutex_;
  std::vector<std::vector<std::string>> reasons_;
  std::vector<Identity> identities_;
  std::vector<std::unique_ptr<TcpFabric>> fabrics_;
};

}  // namespace conclave::transport
