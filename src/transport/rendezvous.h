// How the ranks of an epoch find each other: calls those below, takes the calls of those above,
// and turns away everybody else, without letting them disturb.
#pragma once

#include <poll.h>

#include <cstddef>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/clock.h"
#include "transport/greeting.h"
#include "transport/link.h"
#include "transport/socket.h"
#include "transport/transport.h"

namespace conclave::transport {

class Rendezvous {
 public:
  // All references must outlive it.
  Rendezvous(const Clock& clock, const Identity& identity, const TcpOptions& options,
             const Socket& listener, const GroupSpec& spec);

  // [n_ranks], null at the own rank.
  Result<std::vector<std::unique_ptr<Link>>> run(Time deadline, Watch* watch);

 private:
  struct Call {  // to a rank below
    Rank peer = 0;
    std::vector<Address> addresses;
    std::size_t next_address = 0;
    std::unique_ptr<Greeting> greeting;  // null: waits for retry_at
    Time retry_at{};
    Duration pause{};
    std::string reason = "it does not answer";  // of the last failure
  };
  struct Guest {
    std::unique_ptr<Greeting> greeting;
    Time until{};
    std::string address;
  };

  Result<void> resolve_all(Watch* watch);
  bool complete() const;
  void start_calls(Time now);
  void retry_later(Call& call, Time now, std::string reason);
  Time next_event(Time deadline) const;
  bool wait(Time until, Watch* watch);
  void step_call(Call& call, Time now);
  bool guest_stays(Guest& guest, Time now);
  void step_guests(Time now);
  void take_guests(Time now);
  void take_link(Greeting& greeting);
  void refuse(const std::string& address, const std::string& reason) const;
  Rank first_missing() const;  // there is one
  Error late(Duration after) const;

  const Clock& clock_;
  const Identity& identity_;
  const TcpOptions& options_;
  const Socket& listener_;
  const GroupSpec& spec_;

  std::vector<Call> calls_;
  std::vector<Guest> guests_;  // oldest first
  std::vector<std::unique_ptr<Link>> links_;
  std::vector<pollfd> fds_;
};

}  // namespace conclave::transport
