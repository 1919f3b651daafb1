// The Transport over links: one thread, nonblocking reads and writes, poll() where nothing moves.
#pragma once

#include <poll.h>

#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/clock.h"
#include "transport/link.h"
#include "transport/transport.h"

namespace conclave::transport {

class LinkTransport final : public Transport {
 public:
  // `links`: [n_ranks], null at the own rank. `clock` and `watch` must outlive the transport.
  LinkTransport(const Clock& clock, Rank rank, std::vector<std::unique_ptr<Link>> links,
                Duration spin, Watch* watch);

  Rank rank() const override { return rank_; }
  std::size_t n_ranks() const override { return links_.size(); }
  void send(Rank to, const wire::DataHeader& header,
            std::span<const std::span<const std::byte>> parts) override;
  Received receive(Time deadline) override;
  void flush(Time deadline) override;
  std::span<const LinkStats> stats() const override;

 private:
  void write_queued();
  std::optional<Received> read_any();
  bool note_loss();
  std::optional<Received> epoch_over() const;
  bool yield_briefly(Time now);
  void wait(Time deadline, bool to_read);

  const Clock& clock_;
  Rank rank_;
  std::vector<std::unique_ptr<Link>> links_;
  Duration spin_;
  Watch* watch_;

  std::size_t next_ = 0;      // the link that is asked first, so that none is starved
  std::optional<Rank> lost_;  // the first one
  bool interrupted_ = false;
  Time next_check_{};        // of silence
  Time crowded_until_{};     // others want this processor
  std::vector<pollfd> fds_;  // of wait(), kept for their memory; and whose they are
  std::vector<Link*> waiting_;
  mutable std::vector<LinkStats> stats_;  // what stats() gives out a view of
};

}  // namespace conclave::transport
