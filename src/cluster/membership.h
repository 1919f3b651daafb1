// Who belongs to a pool: the head and its members, known by their keys. The head alone changes the
// list and signs it; nodes check the signature and keep the list beside the head's fingerprint, so
// that they come back by themselves after a restart.
//
// Values; no sockets, clocks or threads. Files go through StateDir.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "cluster/state_dir.h"
#include "transport/transport.h"
#include "wire/wire.h"

namespace conclave::cluster {

inline constexpr std::size_t kMembersMax = transport::kRanksMax - 1;  // without the head
inline constexpr std::size_t kAddressesMax = 8;                       // of one machine
inline constexpr std::size_t kNameMax = 32;                           // characters
inline constexpr std::size_t kHostMax = 253;                          // characters: DNS's limit

struct HostPort {
  std::string host;  // IPv4, IPv6 without brackets, or a name
  std::uint16_t port = 0;
  bool operator==(const HostPort&) const = default;
};

// "10.0.0.2:7000", "[fd00::2]:7000".
std::string to_text(const HostPort& address);
// The same, and without a port where `default_port` is not 0. kInvalidInput names the text.
Result<HostPort> parse_host_port(std::string_view text, std::uint16_t default_port);

wire::pb::Address to_message(const HostPort& address);
// kCorrupt: an empty or too long host, a character that no host has, or no port.
Result<HostPort> from_message(const wire::pb::Address& address);

struct Member {
  transport::PublicKey public_key{};
  transport::Fingerprint fingerprint{};  // of the key
  std::string name{};
  std::uint64_t added_at = 0;  // seconds since 1970
  std::vector<HostPort> addresses{};
  bool operator==(const Member&) const = default;
};

// What a machine may be called: lower case letters, digits, '.', '_' and '-', at most kNameMax.
// What is wished for is made so: "Ann's Mac" becomes "ann-s-mac".
std::string clean_name(std::string_view wish);

class Membership {
 public:
  // Version 1, without members. `head.fingerprint` is computed, its name cleaned.
  explicit Membership(Member head);
  // kCorrupt: a list over its limits, with a name or a key twice, or a name that is not clean.
  static Result<Membership> from_list(const wire::pb::MemberList& list);
  wire::pb::MemberList to_list() const;

  std::uint64_t version() const { return version_; }  // grows by one with each change
  const Member& head() const { return head_; }
  std::span<const Member> members() const { return members_; }  // without the head, oldest first
  // The head counts. nullptr: nobody. Valid until the next change.
  const Member* find(const transport::Fingerprint& fingerprint) const;
  const Member* find(std::string_view name) const;

  // Returns the member as it now is: `member.fingerprint` is computed; a name that is taken gets
  // "-2", "-3", ...; one whose key is known keeps its name and gets the new addresses.
  // kExhausted: kMembersMax. kInvalidInput: the head's own key, or too many addresses.
  Result<Member> add(Member member);
  // kNotFound; kInvalidInput: the head.
  Result<void> remove(const transport::Fingerprint& fingerprint);
  // The head may be renamed too. kNotFound; kInvalidInput: the name is not clean or is taken.
  Result<void> rename(const transport::Fingerprint& fingerprint, std::string_view name);
  Result<void> set_addresses(const transport::Fingerprint& fingerprint,
                             std::vector<HostPort> addresses);

 private:
  Member* find_mutable(const transport::Fingerprint& fingerprint);
  std::string free_name(const std::string& wish) const;

  std::uint64_t version_ = 1;
  Member head_;
  std::vector<Member> members_;
};

// `head` must be the list's head: CHECKed.
wire::pb::SignedMemberList sign(const Membership& members, const transport::Identity& head);
// kCorrupt: not signed by the key with this fingerprint, or not a list.
Result<Membership> verify(const wire::pb::SignedMemberList& signed_list,
                          const transport::Fingerprint& head);

// What a node knows of the pool it belongs to.
class JoinedPool {
 public:
  // As verify().
  static Result<JoinedPool> create(const transport::Fingerprint& head,
                                   std::vector<HostPort> addresses,
                                   wire::pb::SignedMemberList signed_list);

  const transport::Fingerprint& head() const { return head_; }
  const Membership& members() const { return members_; }
  // Where to look for the head: what answered last, then what its list says.
  std::vector<HostPort> addresses() const;

  // Takes a newer list; false: it is the one we have. Errors as verify(); kCorrupt also when the
  // list is older: someone sends an old one again, or the head's state folder is a restored copy.
  Result<bool> update(wire::pb::SignedMemberList signed_list);
  // The head answered here; it becomes the first address.
  void answered_at(const HostPort& address);

  wire::pb::JoinedPool to_message() const;
  static Result<JoinedPool> from_message(const wire::pb::JoinedPool& message);

 private:
  JoinedPool(const transport::Fingerprint& head, std::vector<HostPort> addresses,
             wire::pb::SignedMemberList signed_list, Membership members);

  transport::Fingerprint head_;
  std::vector<HostPort> addresses_;  // at most kAddressesMax
  wire::pb::SignedMemberList signed_;
  Membership members_;
};

// The head's list: file `members`, signed, so that damage is noticed. nullopt: there is none yet.
Result<void> save(const StateDir& state, const Membership& members,
                  const transport::Identity& head);
Result<std::optional<Membership>> load_members(const StateDir& state,
                                               const transport::Identity& head);

// The node's: file `pool`.
Result<void> save(const StateDir& state, const JoinedPool& pool);
Result<std::optional<JoinedPool>> load_pool(const StateDir& state);
Result<void> forget_pool(const StateDir& state);

}  // namespace conclave::cluster
