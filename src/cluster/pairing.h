// How a machine joins a pool: the head issues a code, a person pastes it on the new machine, and
// that machine shows the code's token to the head. The code carries the head's fingerprint, so the
// token is told to nobody else.
//
//   head: PairToken token = TRY(desk.issue(now));      encode(PairCode{addresses, pin, token})
//   node: PairCode code = TRY(parse_pair_code(text));  pair_request(code, identity, "mac", {})
//   head: TRY(desk.admit(request, visit, members));    save; pair_answer(members, identity)
//   node: JoinedPool pool = TRY(read_pair_answer(answer, code, head, identity));
//
// No sockets, clocks, threads or random sources: time and chance are arguments.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/clock.h"
#include "base/result.h"
#include "cluster/membership.h"

namespace conclave::cluster {

using PairToken = std::array<std::byte, 10>;
// The beginning of the head's fingerprint. 128 bits: finding another key that begins so is as far
// out of reach as forging one; the rest is checked with the signed member list.
using HeadPin = std::array<std::byte, 16>;

inline constexpr std::size_t kPairCodeMax = 120;  // characters
inline constexpr std::size_t kPairAddressesMax = 3;

HeadPin pin_of(const transport::Fingerprint& fingerprint);
bool matches(const HeadPin& pin, const transport::Fingerprint& fingerprint);

struct PairCode {
  std::vector<HostPort> addresses;  // of the head; 1 to kPairAddressesMax
  HeadPin head{};
  PairToken token{};
  bool operator==(const PairCode&) const = default;
};

// The letter of the code's version, then Crockford's base32 (no I, L, O, U; case does not matter).
// Addresses after the first are left out where the code would become longer than kPairCodeMax.
// kInvalidInput: no address, or a host name that does not fit.
Result<std::string> encode(const PairCode& code);
// Spaces, line ends and dashes are ignored. kUnsupported: of another version. kCorrupt: cut short,
// mistyped or no code at all; the message says which.
Result<PairCode> parse_pair_code(std::string_view text);

struct PairingOptions {
  Duration lifetime = std::chrono::minutes(10);
  std::size_t codes_max = 16;  // open at once
  // So many unknown tokens within `wrong_window`: nobody is heard for `pause`. A token has 80 bits;
  // this keeps the log short rather than the secret safe.
  int wrong_max = 5;
  Duration wrong_window = std::chrono::minutes(1);
  Duration pause = std::chrono::seconds(10);
};

// By both clocks: the first stands still while a laptop sleeps, the second may be set. A code has
// expired when either says so.
struct PairMoment {
  Time now{};
  std::uint64_t unix_seconds = 0;
};

// Who asks, as the connection proved it, and when.
struct PairVisit {
  transport::Fingerprint peer{};
  PairMoment at{};
};

class PairingDesk {
 public:
  // Fills the bytes with secret random ones.
  using FillRandom = std::function<void(std::span<std::byte>)>;

  PairingDesk(PairingOptions options, FillRandom fill_random);

  // kExhausted: codes_max are open.
  Result<PairToken> issue(PairMoment at);

  // Takes the token, once. kInvalidInput: unknown, used or expired; kUnavailable: too many wrong
  // ones were tried.
  Result<void> redeem(std::string_view token, PairMoment at);

  // Redeems the token and adds the visitor to `members`, which the caller saves before it answers.
  // A member needs no token: its first answer may have been lost. Errors as redeem() and
  // Membership::add(); kCorrupt: a request that breaks the limits or shows another key than the
  // connection.
  Result<Member> admit(const wire::pb::PairRequest& request, const PairVisit& visit,
                       Membership& members);

  // A visitor who was admitted and could not be saved may come again with the same token.
  void give_back(std::string_view token);

  std::size_t n_open(PairMoment at) const;

 private:
  struct Issued {
    PairToken token{};
    PairMoment expires{};
    bool used = false;

    bool open(PairMoment at) const {
      return !used && at.now < expires.now && at.unix_seconds < expires.unix_seconds;
    }
  };
  void count_wrong(Time now);

  PairingOptions options_;
  FillRandom fill_random_;
  std::vector<Issued> issued_;  // oldest first; closed ones stay a while, for better messages
  std::vector<Time> wrong_;     // of the last wrong_max
  Time paused_until_{};
};

wire::pb::PairRequest pair_request(const PairCode& code, const transport::Identity& self,
                                   std::string_view name, std::span<const HostPort> addresses);
wire::pb::PairAnswer pair_answer(const Membership& members, const transport::Identity& head);
wire::pb::PairAnswer pair_refusal(const Error& error);

// What the new member keeps. `head` is the fingerprint that the connection proved.
// kUnavailable: refused, with the head's reason. kCorrupt: not what the head of this code says, or
// `self` is not in the list.
Result<JoinedPool> read_pair_answer(const wire::pb::PairAnswer& answer, const PairCode& code,
                                    const transport::Fingerprint& head,
                                    const transport::Identity& self);

}  // namespace conclave::cluster
