// The head's part in measuring links and in `conclave doctor`: between PoolLinks, which says what
// is to be measured, the connections to the nodes, and this machine's own measurements.
//
// Threads: the agent's.
#pragma once

#include <cstdint>
#include <map>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/result.h"
#include "cluster/doctor.h"
#include "cluster/head.h"
#include "cluster/link_probe.h"
#include "cluster/pool_door.h"
#include "cluster/pool_links.h"

namespace conclave::cluster {

class PoolDoctor {
 public:
  // Both must outlive it.
  PoolDoctor(PoolDoor& door, const Clock& clock);

  void on_hello(NodeId node, const wire::pb::Hello& hello);
  void on_gone(NodeId node);
  void on_measured(NodeId node, const wire::pb::Measured& answer);

  // Readable when poll() has something to do.
  int fd() const { return prober_.fd(); }
  void poll(const HeadSummary& pool);

  const LinkTable& links() const { return links_.links(); }
  // {"do": "doctor"} begins a round and answers {"round": N, "left": N, "total": N}; with "round"
  // in it, the same until nothing is left, then what doctor_json() says.
  Result<nlohmann::json> obey(const nlohmann::json& request, const HeadStatus& pool);

 private:
  struct Said {
    std::string build;
    std::string host_id;
  };

  void ask(NodeId from, std::uint64_t id, std::optional<NodeId> to);
  std::vector<CheckedMachine> machines(const HeadStatus& pool) const;

  PoolDoor& door_;
  const Clock& clock_;
  LinkProber prober_;
  PoolLinks links_;
  std::map<NodeId, Said> said_;
};

}  // namespace conclave::cluster
