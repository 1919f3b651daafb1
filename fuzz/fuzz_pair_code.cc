// Pairing codes from arbitrary text, and from arbitrary contents with a right checksum: no crash,
// and what parses is written again as a code that says the same.
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "base/check.h"
#include "cluster/pairing.h"

namespace conclave::cluster {
namespace {

void check(std::string_view text) {
  const auto code = parse_pair_code(text);
  if (!code) {
    CHECK(!code.error().message.empty());
    return;
  }
  CHECK(!code->addresses.empty() && code->addresses.size() <= kPairAddressesMax);
  const auto once = encode(*code);
  CHECK(once.has_value() && once->size() <= kPairCodeMax);
  const auto again = parse_pair_code(*once);
  CHECK(again.has_value() && again->token == code->token && again->head == code->head);
  CHECK(encode(*again).value() == *once);
}

// As encode() does, of any payload: the checksum keeps a fuzzer from finding one by itself.
std::string code_of(std::string payload) {
  payload.insert(payload.begin(), static_cast<char>(payload.size() + 1));
  std::uint32_t crc = 0xffffffffu;
  for (const char c : "C" + payload) {
    crc ^= static_cast<unsigned char>(c);
    for (int bit = 0; bit < 8; ++bit) crc = (crc >> 1) ^ ((crc & 1u) != 0 ? 0xedb88320u : 0u);
  }
  for (int shift = 24; shift >= 0; shift -= 8) {
    payload.push_back(static_cast<char>((~crc >> shift) & 255u));
  }
  std::string text = "C";
  std::uint32_t held = 0;
  int n_bits = 0;
  for (const char c : payload) {
    held = (held << 8) | static_cast<unsigned char>(c);
    for (n_bits += 8; n_bits >= 5; n_bits -= 5) {
      text.push_back("0123456789ABCDEFGHJKMNPQRSTVWXYZ"[(held >> (n_bits - 5)) & 31u]);
    }
  }
  if (n_bits > 0) {
    text.push_back("0123456789ABCDEFGHJKMNPQRSTVWXYZ"[(held << (5 - n_bits)) & 31u]);
  }
  return text;
}

}  // namespace
}  // namespace conclave::cluster

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view bytes(reinterpret_cast<const char*>(data), size);
  conclave::cluster::check(bytes);
  if (size < 70) conclave::cluster::check(conclave::cluster::code_of(std::string(bytes)));
  return 0;
}
