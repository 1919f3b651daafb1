#include "cluster/membership.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cstring>
#include <set>
#include <system_error>
#include <utility>

namespace conclave::cluster {
namespace {

using transport::Fingerprint;
using transport::Identity;
using transport::PublicKey;

// What else this key may sign must not begin so.
constexpr std::string_view kSignedPrefix = "conclave member list 1\n";
constexpr const char* kMembersFile = "members";
constexpr const char* kPoolFile = "pool";
constexpr std::size_t kFileMax = std::size_t{1} << 20;

std::span<const std::byte> as_bytes(std::string_view text) {
  return std::as_bytes(std::span(text));
}

std::string to_string(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

template <std::size_t kSize>
std::optional<std::array<std::byte, kSize>> to_array(std::string_view bytes) {
  if (bytes.size() != kSize) return std::nullopt;
  std::array<std::byte, kSize> out;
  std::memcpy(out.data(), bytes.data(), kSize);
  return out;
}

bool is_name_character(char c) {
  return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '.' || c == '_' || c == '-';
}

bool is_clean(std::string_view name) {
  return !name.empty() && name.size() <= kNameMax &&
         std::all_of(name.begin(), name.end(), is_name_character) && name.front() != '-';
}

// Anything that a name, an IPv4 or an IPv6 address with a zone is made of.
bool is_host(std::string_view host) {
  return !host.empty() && host.size() <= kHostMax && host.front() != '-' &&
         std::all_of(host.begin(), host.end(), [](char c) {
           return is_name_character(c) || (c >= 'A' && c <= 'Z') || c == ':' || c == '%';
         });
}

wire::pb::Member member_message(const Member& member) {
  wire::pb::Member out;
  out.set_public_key(to_string(member.public_key));
  out.set_name(member.name);
  out.set_added_at(member.added_at);
  for (const HostPort& address : member.addresses) {
    *out.add_addresses() = cluster::to_message(address);
  }
  return out;
}

template <class Repeated>
Result<std::vector<HostPort>> addresses_from(const Repeated& messages) {
  if (static_cast<std::size_t>(messages.size()) > kAddressesMax) {
    return corrupt(std::to_string(messages.size()) + " addresses of one machine; the limit is " +
                   std::to_string(kAddressesMax));
  }
  std::vector<HostPort> addresses;
  for (const wire::pb::Address& message : messages) {
    addresses.push_back(TRY(from_message(message)));
  }
  return addresses;
}

Result<Member> member_from(const wire::pb::Member& message) {
  const auto key = to_array<sizeof(PublicKey)>(message.public_key());
  if (!key)
    return corrupt("a public key of " + std::to_string(message.public_key().size()) + " bytes");
  if (!is_clean(message.name())) return corrupt("\"" + message.name() + "\" is no machine's name");
  return Member{.public_key = *key,
                .fingerprint = transport::fingerprint_of(*key),
                .name = message.name(),
                .added_at = message.added_at(),
                .addresses = TRY(addresses_from(message.addresses()))};
}

std::string to_be_signed(std::string_view list) { return std::string(kSignedPrefix).append(list); }

template <class Message>
Result<std::optional<Message>> read_message(const StateDir& state, const char* file) {
  const std::optional<std::string> bytes = TRY(state.read(file, kFileMax));
  if (!bytes) return std::optional<Message>{};
  Message message;
  if (!message.ParseFromString(*bytes)) {
    return corrupt((state.path() / file).string() + " is damaged");
  }
  return std::optional(std::move(message));
}

Error in_file(const StateDir& state, const char* file, Error error) {
  error.message = (state.path() / file).string() + ": " + error.message;
  return error;
}

}  // namespace

// --- addresses --------------------------------------------------------------------------------

std::string to_text(const HostPort& address) {
  const bool brackets = address.host.find(':') != std::string::npos;
  return (brackets ? "[" + address.host + "]" : address.host) + ":" + std::to_string(address.port);
}

Result<HostPort> parse_host_port(std::string_view text, std::uint16_t default_port) {
  const auto wrong = [text](const std::string& why) {
    return invalid_input("\"" + std::string(text) + "\" is not HOST:PORT: " + why);
  };
  std::string_view host = text;
  std::string_view port;
  if (text.starts_with('[')) {
    const std::size_t end = text.find(']');
    if (end == std::string_view::npos) return wrong("no ']'");
    host = text.substr(1, end - 1);
    port = text.substr(end + 1);
    if (!port.empty() && port.front() != ':') return wrong("something follows the ']'");
  } else if (const std::size_t colon = text.find(':'); colon != std::string_view::npos) {
    // Several colons: an IPv6 address alone.
    if (text.find(':', colon + 1) == std::string_view::npos) {
      host = text.substr(0, colon);
      port = text.substr(colon);
    }
  }
  if (!is_host(host)) return wrong("that is no host");

  HostPort address{.host = std::string(host), .port = default_port};
  if (!port.empty()) {
    port.remove_prefix(1);
    const char* end = port.data() + port.size();
    const auto [stop, error] = std::from_chars(port.data(), end, address.port);
    if (error != std::errc{} || stop != end) return wrong("a port is a number from 1 to 65535");
  }
  if (address.port == 0) return wrong(port.empty() ? "no port" : "a port is at least 1");
  return address;
}

wire::pb::Address to_message(const HostPort& address) {
  wire::pb::Address message;
  message.set_host(address.host);
  message.set_port(address.port);
  return message;
}

Result<HostPort> from_message(const wire::pb::Address& address) {
  if (!is_host(address.host())) return corrupt("an address without a proper host");
  if (address.port() == 0 || address.port() > 65535) {
    return corrupt("an address with port " + std::to_string(address.port()));
  }
  return HostPort{.host = address.host(), .port = static_cast<std::uint16_t>(address.port())};
}

std::string clean_name(std::string_view wish) {
  std::string name;
  for (const char c : wish) {
    const char lower = c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
    if (is_name_character(lower)) {
      name.push_back(lower);
    } else if (!name.empty() && name.back() != '-') {
      name.push_back('-');
    }
    if (name.size() == kNameMax) break;
  }
  name.erase(0, name.find_first_not_of('-'));
  name.erase(name.find_last_not_of('-') + 1);
  return name.empty() ? "machine" : name;
}

// --- the list ---------------------------------------------------------------------------------

Membership::Membership(Member head) : head_(std::move(head)) {
  head_.fingerprint = transport::fingerprint_of(head_.public_key);
  head_.name = clean_name(head_.name);
  CHECK(head_.addresses.size() <= kAddressesMax);
}

Result<Membership> Membership::from_list(const wire::pb::MemberList& list) {
  Membership members(TRY(member_from(list.head())));
  members.version_ = list.version();
  if (static_cast<std::size_t>(list.members_size()) > kMembersMax) {
    return corrupt("a list of " + std::to_string(list.members_size()) + " members; the limit is " +
                   std::to_string(kMembersMax));
  }
  std::set<std::string> names{members.head_.name};
  std::set<Fingerprint> keys{members.head_.fingerprint};
  for (const wire::pb::Member& message : list.members()) {
    Member member = TRY(member_from(message));
    if (!names.insert(member.name).second || !keys.insert(member.fingerprint).second) {
      return corrupt("the member \"" + member.name + "\" is listed twice");
    }
    members.members_.push_back(std::move(member));
  }
  return members;
}

wire::pb::MemberList Membership::to_list() const {
  wire::pb::MemberList list;
  list.set_version(version_);
  *list.mutable_head() = member_message(head_);
  for (const Member& member : members_) *list.add_members() = member_message(member);
  return list;
}

const Member* Membership::find(const Fingerprint& fingerprint) const {
  if (head_.fingerprint == fingerprint) return &head_;
  const auto found = std::find_if(
      members_.begin(), members_.end(),
      [&fingerprint](const Member& member) { return member.fingerprint == fingerprint; });
  return found == members_.end() ? nullptr : &*found;
}

const Member* Membership::find(std::string_view name) const {
  if (head_.name == name) return &head_;
  const auto found = std::find_if(members_.begin(), members_.end(),
                                  [name](const Member& member) { return member.name == name; });
  return found == members_.end() ? nullptr : &*found;
}

Member* Membership::find_mutable(const Fingerprint& fingerprint) {
  return const_cast<Member*>(std::as_const(*this).find(fingerprint));
}

std::string Membership::free_name(const std::string& wish) const {
  std::string name = clean_name(wish);
  // One of kMembersMax + 2 different names is free.
  for (std::size_t n = 2; find(std::string_view(name)) != nullptr; ++n) {
    const std::string suffix = "-" + std::to_string(n);
    name = clean_name(wish).substr(0, kNameMax - suffix.size()) + suffix;
  }
  return name;
}

Result<Member> Membership::add(Member member) {
  member.fingerprint = transport::fingerprint_of(member.public_key);
  if (member.fingerprint == head_.fingerprint) {
    return invalid_input("this machine is the head of the pool itself");
  }
  if (member.addresses.size() > kAddressesMax) {
    return invalid_input("more than " + std::to_string(kAddressesMax) + " addresses");
  }
  if (Member* known = find_mutable(member.fingerprint)) {
    if (known->addresses != member.addresses) {
      known->addresses = std::move(member.addresses);
      ++version_;
    }
    return *known;
  }
  if (members_.size() == kMembersMax) {
    return exhausted("the pool has " + std::to_string(kMembersMax + 1) +
                     " machines, which is the most; remove one with `conclave pool remove NAME`");
  }
  member.name = free_name(member.name);
  members_.push_back(std::move(member));
  ++version_;
  return members_.back();
}

Result<void> Membership::remove(const Fingerprint& fingerprint) {
  if (fingerprint == head_.fingerprint) {
    return invalid_input("\"" + head_.name + "\" is the head of the pool and stays in it");
  }
  const auto removed = std::erase_if(
      members_, [&fingerprint](const Member& member) { return member.fingerprint == fingerprint; });
  if (removed == 0) return not_found("no such machine in the pool");
  ++version_;
  return {};
}

Result<void> Membership::rename(const Fingerprint& fingerprint, std::string_view name) {
  Member* member = find_mutable(fingerprint);
  if (member == nullptr) return not_found("no such machine in the pool");
  if (!is_clean(name)) {
    return invalid_input("\"" + std::string(name) + "\" cannot be a machine's name: 1 to " +
                         std::to_string(kNameMax) +
                         " lower case letters, digits, '.', '_' and '-'; try \"" +
                         clean_name(name) + "\"");
  }
  if (member->name == name) return {};
  if (find(name) != nullptr) {
    return invalid_input("another machine of the pool is called \"" + std::string(name) + "\"");
  }
  member->name = name;
  ++version_;
  return {};
}

Result<void> Membership::set_addresses(const Fingerprint& fingerprint,
                                       std::vector<HostPort> addresses) {
  Member* member = find_mutable(fingerprint);
  if (member == nullptr) return not_found("no such machine in the pool");
  if (addresses.size() > kAddressesMax) {
    return invalid_input("more than " + std::to_string(kAddressesMax) + " addresses");
  }
  if (member->addresses == addresses) return {};
  member->addresses = std::move(addresses);
  ++version_;
  return {};
}

wire::pb::SignedMemberList sign(const Membership& members, const Identity& head) {
  CHECK(members.head().fingerprint == head.fingerprint());
  wire::pb::SignedMemberList out;
  CHECK(members.to_list().SerializeToString(out.mutable_list()));
  out.set_signature(head.sign(as_bytes(to_be_signed(out.list()))));
  return out;
}

Result<Membership> verify(const wire::pb::SignedMemberList& signed_list, const Fingerprint& head) {
  // The key that has to have signed stands in the list: the fingerprint says whether it is right.
  wire::pb::MemberList list;
  if (!list.ParseFromString(signed_list.list())) return corrupt("the member list is damaged");
  const auto key = to_array<sizeof(PublicKey)>(list.head().public_key());
  if (!key || transport::fingerprint_of(*key) != head) {
    return corrupt("the member list is of another head");
  }
  if (!transport::verify_signature(*key, as_bytes(to_be_signed(signed_list.list())),
                                   signed_list.signature())) {
    return corrupt("the member list is not signed by the head");
  }
  return Membership::from_list(list);
}

// --- a node's side ----------------------------------------------------------------------------

JoinedPool::JoinedPool(const Fingerprint& head, std::vector<HostPort> addresses,
                       wire::pb::SignedMemberList signed_list, Membership members)
    : head_(head),
      addresses_(std::move(addresses)),
      signed_(std::move(signed_list)),
      members_(std::move(members)) {
  if (addresses_.size() > kAddressesMax) addresses_.resize(kAddressesMax);
}

Result<JoinedPool> JoinedPool::create(const Fingerprint& head, std::vector<HostPort> addresses,
                                      wire::pb::SignedMemberList signed_list) {
  Membership members = TRY(verify(signed_list, head));
  return JoinedPool(head, std::move(addresses), std::move(signed_list), std::move(members));
}

std::vector<HostPort> JoinedPool::addresses() const {
  std::vector<HostPort> all = addresses_;
  for (const HostPort& address : members_.head().addresses) {
    if (std::find(all.begin(), all.end(), address) == all.end()) all.push_back(address);
  }
  return all;
}

Result<bool> JoinedPool::update(wire::pb::SignedMemberList signed_list) {
  Membership members = TRY(verify(signed_list, head_));
  if (members.version() < members_.version()) {
    return corrupt("the head sent version " + std::to_string(members.version()) +
                   " of the member list, after version " + std::to_string(members_.version()));
  }
  if (members.version() == members_.version()) return false;
  members_ = std::move(members);
  signed_ = std::move(signed_list);
  return true;
}

void JoinedPool::answered_at(const HostPort& address) {
  std::erase(addresses_, address);
  addresses_.insert(addresses_.begin(), address);
  if (addresses_.size() > kAddressesMax) addresses_.pop_back();
}

wire::pb::JoinedPool JoinedPool::to_message() const {
  wire::pb::JoinedPool message;
  message.set_head(to_string(head_));
  for (const HostPort& address : addresses_) {
    *message.add_addresses() = cluster::to_message(address);
  }
  *message.mutable_list() = signed_;
  return message;
}

Result<JoinedPool> JoinedPool::from_message(const wire::pb::JoinedPool& message) {
  const auto head = to_array<sizeof(Fingerprint)>(message.head());
  if (!head) return corrupt("a fingerprint of " + std::to_string(message.head().size()) + " bytes");
  return create(*head, TRY(addresses_from(message.addresses())), message.list());
}

// --- files ------------------------------------------------------------------------------------

Result<void> save(const StateDir& state, const Membership& members, const Identity& head) {
  return state.write(kMembersFile, sign(members, head).SerializeAsString());
}

Result<std::optional<Membership>> load_members(const StateDir& state, const Identity& head) {
  const auto message = TRY(read_message<wire::pb::SignedMemberList>(state, kMembersFile));
  if (!message) return std::optional<Membership>{};
  auto members = verify(*message, head.fingerprint());
  if (!members) return in_file(state, kMembersFile, members.error());
  return std::optional(std::move(members).value());
}

Result<void> save(const StateDir& state, const JoinedPool& pool) {
  return state.write(kPoolFile, pool.to_message().SerializeAsString());
}

Result<std::optional<JoinedPool>> load_pool(const StateDir& state) {
  const auto message = TRY(read_message<wire::pb::JoinedPool>(state, kPoolFile));
  if (!message) return std::optional<JoinedPool>{};
  auto pool = JoinedPool::from_message(*message);
  if (!pool) return in_file(state, kPoolFile, pool.error());
  return std::optional(std::move(pool).value());
}

Result<void> forget_pool(const StateDir& state) { return state.remove(kPoolFile); }

}  // namespace conclave::cluster
