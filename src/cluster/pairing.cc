#include "cluster/pairing.h"

#include <arpa/inet.h>  // only the text forms of IP addresses

#include <algorithm>
#include <cstring>
#include <iterator>
#include <optional>
#include <utility>

namespace conclave::cluster {
namespace {

using transport::Fingerprint;
using transport::Identity;

// A code of version 'C' is that letter and the base32 of
//
//   size u8, of all but the checksum · token [10] · pin [16] · n_addresses u8
//   per address: kind u8 · 4, 16 or 1 + n bytes · port u16, big-endian
//   CRC-32 of the letter and all bytes before, big-endian
constexpr char kVersionLetter = 'C';
constexpr std::string_view kDigits = "0123456789ABCDEFGHJKMNPQRSTVWXYZ";
constexpr std::size_t kChecksumSize = 4;
constexpr std::size_t kPayloadMax = (kPairCodeMax - 1) * 5 / 8 - kChecksumSize;
constexpr std::size_t kClosedMax = 64;  // codes of which the desk still knows why they are closed

enum class AddressKind : std::uint8_t { kIpv4 = 4, kIpv6 = 6, kName = 7 };

constexpr const char* kAskForAnother = "; ask for another with `conclave pair` on the head";

// CRC-32 (IEEE 802.3): finds every change of up to six neighbouring characters.
std::uint32_t checksum(std::string_view payload) {
  std::uint32_t crc = 0xffffffffu;
  const auto add = [&crc](char c) {
    crc ^= static_cast<unsigned char>(c);
    for (int bit = 0; bit < 8; ++bit) crc = (crc >> 1) ^ ((crc & 1u) != 0 ? 0xedb88320u : 0u);
  };
  add(kVersionLetter);
  for (const char c : payload) add(c);
  return ~crc;
}

std::string to_base32(std::string_view bytes) {
  std::string out;
  std::uint32_t held = 0;
  int n_bits = 0;
  for (const char c : bytes) {
    held = (held << 8) | static_cast<unsigned char>(c);
    for (n_bits += 8; n_bits >= 5; n_bits -= 5) {
      out.push_back(kDigits[(held >> (n_bits - 5)) & 31u]);
    }
  }
  if (n_bits > 0) out.push_back(kDigits[(held << (5 - n_bits)) & 31u]);
  return out;
}

char canonical_digit(char c) {
  const char upper = c >= 'a' && c <= 'z' ? static_cast<char>(c - 'a' + 'A') : c;
  if (upper == 'O') return '0';
  return upper == 'I' || upper == 'L' ? '1' : upper;
}

// Bits beyond the last whole byte are dropped: the checksum covers what is left.
Result<std::string> from_base32(std::string_view digits) {
  std::string out;
  std::uint32_t held = 0;
  int n_bits = 0;
  for (const char c : digits) {
    const std::size_t digit = kDigits.find(canonical_digit(c));
    if (digit == std::string_view::npos) {
      return corrupt("the pairing code has a character that no code has: '" + std::string(1, c) +
                     "'");
    }
    held = (held << 5) | static_cast<std::uint32_t>(digit);
    n_bits += 5;
    if (n_bits >= 8) {
      n_bits -= 8;
      out.push_back(static_cast<char>((held >> n_bits) & 255u));
    }
  }
  return out;
}

void append_bytes(std::string& out, std::span<const std::byte> bytes) {
  out.append(reinterpret_cast<const char*>(bytes.data()), bytes.size());
}

void append_big_endian(std::string& out, std::uint32_t value, int n_bytes) {
  for (int i = n_bytes - 1; i >= 0; --i) {
    out.push_back(static_cast<char>((value >> (8 * i)) & 255u));
  }
}

std::string packed_address(const HostPort& address) {
  std::string out;
  std::array<char, sizeof(in6_addr)> ip{};
  if (inet_pton(AF_INET, address.host.c_str(), ip.data()) == 1) {
    out.push_back(static_cast<char>(AddressKind::kIpv4));
    out.append(ip.data(), sizeof(in_addr));
  } else if (inet_pton(AF_INET6, address.host.c_str(), ip.data()) == 1) {
    out.push_back(static_cast<char>(AddressKind::kIpv6));
    out.append(ip.data(), sizeof(in6_addr));
  } else {
    out.push_back(static_cast<char>(AddressKind::kName));
    out.push_back(static_cast<char>(std::min(address.host.size(), std::size_t{255})));
    out.append(address.host);
  }
  append_big_endian(out, address.port, 2);
  return out;
}

// Cuts fields from a payload; after the first that is missing, every one is.
class Fields {
 public:
  explicit Fields(std::string_view bytes) : rest_(bytes) {}

  std::string_view take(std::size_t n) {
    ok_ = ok_ && n <= rest_.size();
    if (!ok_) return {};
    const std::string_view out = rest_.substr(0, n);
    rest_.remove_prefix(n);
    return out;
  }
  std::uint32_t number(std::size_t n_bytes) {
    std::uint32_t value = 0;
    for (const char c : take(n_bytes)) value = (value << 8) | static_cast<unsigned char>(c);
    return value;
  }
  template <std::size_t kSize>
  void fill(std::array<std::byte, kSize>& out) {
    const std::string_view bytes = take(kSize);
    if (ok_) std::memcpy(out.data(), bytes.data(), kSize);
  }
  bool ok() const { return ok_; }
  bool at_end() const { return ok_ && rest_.empty(); }

 private:
  std::string_view rest_;
  bool ok_ = true;
};

std::string ip_text(int family, std::string_view ip) {
  std::array<char, INET6_ADDRSTRLEN> text{};
  if (inet_ntop(family, ip.data(), text.data(), text.size()) == nullptr) return {};
  return text.data();
}

std::optional<HostPort> take_address(Fields& fields) {
  HostPort address;
  switch (static_cast<AddressKind>(fields.number(1))) {
    case AddressKind::kIpv4: {
      const std::string_view ip = fields.take(sizeof(in_addr));
      if (fields.ok()) address.host = ip_text(AF_INET, ip);
      break;
    }
    case AddressKind::kIpv6: {
      const std::string_view ip = fields.take(sizeof(in6_addr));
      if (fields.ok()) address.host = ip_text(AF_INET6, ip);
      break;
    }
    case AddressKind::kName:
      address.host = fields.take(fields.number(1));
      break;
    default:
      return std::nullopt;
  }
  address.port = static_cast<std::uint16_t>(fields.number(2));
  if (!fields.ok() || !from_message(to_message(address))) return std::nullopt;
  return address;
}

Result<PairCode> read_payload(std::string_view payload) {
  Fields fields(payload);
  PairCode code;
  fields.number(1);
  fields.fill(code.token);
  fields.fill(code.head);
  const std::uint32_t n_addresses = fields.number(1);
  const Error wrong = corrupt("the pairing code says nothing that conclave understands");
  if (n_addresses == 0 || n_addresses > kPairAddressesMax) return wrong;
  for (std::uint32_t i = 0; i < n_addresses; ++i) {
    std::optional<HostPort> address = take_address(fields);
    if (!address) return wrong;
    code.addresses.push_back(*std::move(address));
  }
  if (!fields.at_end()) return wrong;
  return code;
}

// As long for every token, whatever it has in common with this one.
bool equal_in_constant_time(const PairToken& token, std::string_view bytes) {
  if (bytes.size() != token.size()) return false;
  unsigned different = 0;
  for (std::size_t i = 0; i < token.size(); ++i) {
    different |= std::to_integer<unsigned>(token[i]) ^ static_cast<unsigned char>(bytes[i]);
  }
  return different == 0;
}

}  // namespace

// --- the code ---------------------------------------------------------------------------------

HeadPin pin_of(const Fingerprint& fingerprint) {
  HeadPin pin;
  std::copy_n(fingerprint.begin(), pin.size(), pin.begin());
  return pin;
}

bool matches(const HeadPin& pin, const Fingerprint& fingerprint) {
  return pin == pin_of(fingerprint);
}

Result<std::string> encode(const PairCode& code) {
  if (code.addresses.empty()) return invalid_input("a pairing code needs an address of the head");
  std::string addresses;
  char n_addresses = 0;
  const std::size_t fixed = 1 + code.token.size() + code.head.size() + 1;
  for (const HostPort& address : code.addresses) {
    TRY(from_message(to_message(address)));
    const std::string packed = packed_address(address);
    if (static_cast<std::size_t>(n_addresses) == kPairAddressesMax) break;
    if (fixed + addresses.size() + packed.size() > kPayloadMax) continue;
    addresses += packed;
    ++n_addresses;
  }
  if (n_addresses == 0) {
    return invalid_input("\"" + code.addresses.front().host +
                         "\" is too long for a pairing code; use its IP address");
  }
  std::string payload;
  payload.push_back(static_cast<char>(fixed + addresses.size()));
  append_bytes(payload, code.token);
  append_bytes(payload, code.head);
  payload.push_back(n_addresses);
  payload += addresses;
  append_big_endian(payload, checksum(payload), kChecksumSize);
  return kVersionLetter + to_base32(payload);
}

Result<PairCode> parse_pair_code(std::string_view text) {
  std::string digits;
  for (const char c : text) {
    if (c == ' ' || c == '\t' || c == '\r' || c == '\n' || c == '-') continue;
    digits.push_back(c);
    if (digits.size() > kPairCodeMax) {
      return corrupt("the pairing code is longer than " + std::to_string(kPairCodeMax) +
                     " characters: something else was pasted with it");
    }
  }
  if (digits.empty()) return corrupt("the pairing code is empty");
  if (const char version = canonical_digit(digits.front()); version != kVersionLetter) {
    return unsupported("the pairing code begins with '" + std::string(1, version) +
                       "', where this conclave writes 'C': it was mistyped, or the head is of "
                       "another version and one side has to be upgraded");
  }
  const std::string bytes = TRY(from_base32(std::string_view(digits).substr(1)));
  const std::size_t said = bytes.empty() ? 0 : static_cast<unsigned char>(bytes.front());
  if (said <= kPayloadMax && bytes.size() < said + kChecksumSize) {
    return corrupt("the pairing code is cut short: it has " + std::to_string(digits.size()) +
                   " of " + std::to_string(1 + ((said + kChecksumSize) * 8 + 4) / 5) +
                   " characters");
  }
  const std::string_view payload = std::string_view(bytes).substr(0, said);
  Fields rest(std::string_view(bytes).substr(payload.size()));
  if (rest.number(kChecksumSize) != checksum(payload) || !rest.at_end()) {
    return corrupt("the pairing code is mistyped (its checksum is wrong)");
  }
  return read_payload(payload);
}

// --- the head's desk --------------------------------------------------------------------------

PairingDesk::PairingDesk(PairingOptions options, FillRandom fill_random)
    : options_(options), fill_random_(std::move(fill_random)) {}

std::size_t PairingDesk::n_open(PairMoment at) const {
  return static_cast<std::size_t>(std::count_if(
      issued_.begin(), issued_.end(), [at](const Issued& code) { return code.open(at); }));
}

Result<PairToken> PairingDesk::issue(PairMoment at) {
  if (n_open(at) >= options_.codes_max) {
    return exhausted(std::to_string(options_.codes_max) +
                     " pairing codes are open, which is the most; each expires by itself");
  }
  if (issued_.size() >= options_.codes_max + kClosedMax) {
    // Fewer than codes_max are open, so there is a closed one.
    issued_.erase(std::find_if(issued_.begin(), issued_.end(),
                               [at](const Issued& code) { return !code.open(at); }));
  }
  const auto lifetime = std::chrono::duration_cast<std::chrono::seconds>(options_.lifetime);
  const auto lifetime_s = static_cast<std::uint64_t>(lifetime.count());
  Issued code{.expires = {at.now + options_.lifetime, at.unix_seconds + lifetime_s}};
  fill_random_(code.token);
  issued_.push_back(code);
  return code.token;
}

void PairingDesk::count_wrong(Time now) {
  std::erase_if(wrong_, [this, now](Time at) { return now - at >= options_.wrong_window; });
  wrong_.push_back(now);
  if (wrong_.size() < static_cast<std::size_t>(options_.wrong_max)) return;
  wrong_.clear();
  paused_until_ = now + options_.pause;
}

Result<void> PairingDesk::redeem(std::string_view token, PairMoment at) {
  const Time now = at.now;
  if (now < paused_until_) {
    return unavailable("too many wrong pairing codes were tried; try again in " +
                       std::to_string(static_cast<int>(seconds(paused_until_ - now)) + 1) + " s");
  }
  Issued* found = nullptr;
  for (Issued& code : issued_) {
    if (equal_in_constant_time(code.token, token)) found = &code;
  }
  if (found == nullptr) {
    count_wrong(now);
    return invalid_input(std::string("the head does not know this pairing code") + kAskForAnother);
  }
  if (found->used) {
    return invalid_input(std::string("this pairing code was used already") + kAskForAnother);
  }
  if (!found->open(at)) {
    return invalid_input(std::string("this pairing code has expired") + kAskForAnother);
  }
  found->used = true;
  return {};
}

void PairingDesk::give_back(std::string_view token) {
  for (Issued& code : issued_) {
    if (equal_in_constant_time(code.token, token)) code.used = false;
  }
}

Result<Member> PairingDesk::admit(const wire::pb::PairRequest& request, const PairVisit& visit,
                                  Membership& members) {
  wire::pb::MemberList asked;  // read as a list is, so that both have the same limits
  *asked.mutable_head() = wire::pb::Member();
  asked.mutable_head()->set_public_key(request.public_key());
  asked.mutable_head()->set_name(clean_name(std::string_view(request.name()).substr(0, kHostMax)));
  *asked.mutable_head()->mutable_addresses() = request.addresses();
  Member visitor = TRY(Membership::from_list(asked)).head();
  if (visitor.fingerprint != visit.peer) {
    return corrupt("the pairing request shows another key than its connection");
  }
  visitor.added_at = visit.at.unix_seconds;
  // Added to a copy first: a pool that is full does not cost the code.
  Membership with_visitor = members;
  const Member added = TRY(with_visitor.add(std::move(visitor)));
  if (members.find(visit.peer) == nullptr) TRY(redeem(request.token(), visit.at));
  members = std::move(with_visitor);
  return added;
}

// --- messages ---------------------------------------------------------------------------------

wire::pb::PairRequest pair_request(const PairCode& code, const Identity& self,
                                   std::string_view name, std::span<const HostPort> addresses) {
  wire::pb::PairRequest request;
  append_bytes(*request.mutable_token(), code.token);
  request.set_name(clean_name(name));
  append_bytes(*request.mutable_public_key(), self.public_key());
  for (const HostPort& address : addresses.first(std::min(addresses.size(), kAddressesMax))) {
    *request.add_addresses() = to_message(address);
  }
  return request;
}

wire::pb::PairAnswer pair_answer(const Membership& members, const Identity& head) {
  wire::pb::PairAnswer answer;
  *answer.mutable_list() = sign(members, head);
  return answer;
}

wire::pb::PairAnswer pair_refusal(const Error& error) {
  wire::pb::PairAnswer answer;
  answer.set_refused(error.message.empty() ? "refused" : error.message);
  return answer;
}

Result<JoinedPool> read_pair_answer(const wire::pb::PairAnswer& answer, const PairCode& code,
                                    const Fingerprint& head, const Identity& self) {
  if (!answer.refused().empty()) return unavailable("the head refused: " + answer.refused());
  if (!matches(code.head, head)) return corrupt("the answer is not of the head of this code");
  JoinedPool pool = TRY(JoinedPool::create(head, code.addresses, answer.list()));
  if (pool.members().find(self.fingerprint()) == nullptr) {
    return corrupt("the head's member list does not have this machine");
  }
  return pool;
}

}  // namespace conclave::cluster
