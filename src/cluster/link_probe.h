// Measures the link to another agent of the pool: calls it on its bulk port and has it send bytes.
//
//   LinkProber prober(identity, clock);
//   prober.start(id, holder);            // and when prober.fd() is readable: prober.take()
//
// A measurement takes some tens of milliseconds on a good link, and at most some seconds.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/clock.h"
#include "cluster/bulk_link.h"
#include "cluster/link_table.h"

namespace conclave::cluster {

struct ProbeLimits {
  Duration dial = std::chrono::seconds(2);              // for each address
  Duration reply = std::chrono::seconds(2);             // without a byte where one is due
  std::size_t echoes = 40;                              // small ones
  Duration echo_time = std::chrono::milliseconds(500);  // fewer echoes on a slow link
  std::size_t echoes_min = 5;
  Duration bulk_time = std::chrono::milliseconds(500);  // no further large one after so long
};

// Blocks. `stop` is asked at least ten times a second. What is wrong is in `error`; a link over
// which small messages come and large ones do not has both an error and a time.
LinkMeasurement measure_link(const WeightHolder& peer, const transport::Identity& self,
                             const Clock& clock, const std::function<bool()>& stop,
                             const ProbeLimits& limits = {});

struct Card {
  std::uint32_t mtu = 0;
  std::uint32_t mbit = 0;  // 0: no hardware that says so
  bool wireless = false;
};
// Of an interface, as `/sys/class/net` or a folder like it says.
Card card_of(const std::filesystem::path& folder, const std::string& interface);

// Measures one link after the other in a thread of its own. One thread calls it.
class LinkProber {
 public:
  static constexpr std::size_t kQueueMax = 64;  // one more is answered with an error

  struct Found {
    std::uint64_t id = 0;  // as start() was given
    LinkMeasurement link;
  };

  // `clock` must outlive it.
  LinkProber(const transport::Identity& self, const Clock& clock);
  ~LinkProber();  // breaks off; within a tenth of a second
  LinkProber(const LinkProber&) = delete;
  LinkProber& operator=(const LinkProber&) = delete;

  void start(std::uint64_t id, WeightHolder peer);
  int fd() const;  // readable: take() has something
  std::vector<Found> take();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace conclave::cluster
