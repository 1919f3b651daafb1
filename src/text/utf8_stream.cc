#include <cstddef>

#include "text/text.h"

namespace conclave::text {
namespace {

constexpr std::string_view kReplacement = "\xEF\xBF\xBD";

unsigned byte_at(std::string_view bytes, std::size_t i) {
  return static_cast<unsigned char>(bytes[i]);
}

struct Sequence {
  std::size_t size;  // bytes it takes up
  enum class State { kValid, kInvalid, kIncomplete } state;
};

// The range of a second byte depends on the first: this excludes overlong forms, surrogates and
// code points above U+10FFFF (Unicode 15, table 3-7).
bool second_byte_fits(unsigned lead, unsigned second) {
  switch (lead) {
    case 0xE0:
      return second >= 0xA0 && second <= 0xBF;
    case 0xED:
      return second >= 0x80 && second <= 0x9F;
    case 0xF0:
      return second >= 0x90 && second <= 0xBF;
    case 0xF4:
      return second >= 0x80 && second <= 0x8F;
    default:
      return second >= 0x80 && second <= 0xBF;
  }
}

// An invalid sequence spans its longest valid beginning, as Python and browsers count it.
Sequence first_sequence(std::string_view bytes) {
  const unsigned lead = byte_at(bytes, 0);
  if (lead < 0x80) return {1, Sequence::State::kValid};
  const std::size_t length = lead >= 0xC2 && lead <= 0xDF   ? 2
                             : lead >= 0xE0 && lead <= 0xEF ? 3
                             : lead >= 0xF0 && lead <= 0xF4 ? 4
                                                            : 0;
  if (length == 0) return {1, Sequence::State::kInvalid};
  for (std::size_t i = 1; i < length; ++i) {
    if (i == bytes.size()) return {i, Sequence::State::kIncomplete};
    const unsigned byte = byte_at(bytes, i);
    const bool fits = i == 1 ? second_byte_fits(lead, byte) : byte >= 0x80 && byte <= 0xBF;
    if (!fits) return {i, Sequence::State::kInvalid};
  }
  return {length, Sequence::State::kValid};
}

}  // namespace

std::string Utf8Stream::push(std::string_view bytes) {
  held_ += bytes;
  std::string out;
  out.reserve(held_.size());
  std::string_view rest = held_;
  while (!rest.empty()) {
    const Sequence sequence = first_sequence(rest);
    if (sequence.state == Sequence::State::kIncomplete) break;
    if (sequence.state == Sequence::State::kValid) {
      out += rest.substr(0, sequence.size);
    } else {
      out += kReplacement;
    }
    rest.remove_prefix(sequence.size);
  }
  held_ = std::string(rest);
  return out;
}

std::string Utf8Stream::finish() {
  const bool cut = !held_.empty();
  held_.clear();
  return cut ? std::string(kReplacement) : std::string();
}

}  // namespace conclave::text
