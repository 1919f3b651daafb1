// Frames and messages of worker.proto from arbitrary bytes: no crash, no reading past the end, and
// what parses survives a round trip.
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "base/check.h"
#include "wire/wire.h"

namespace conclave {
namespace {

template <class Message>
void round_trip(std::string_view payload) {
  const auto message = wire::parse<Message>(payload);
  if (!message) return;
  std::string bytes;
  if (!wire::append_frame(message.value(), bytes)) return;
  wire::FrameReader reader;
  reader.push(bytes);
  const auto frame = reader.next();
  CHECK(frame && frame.value().has_value());
  CHECK(wire::parse<Message>(*frame.value()).has_value());
  CHECK(reader.held_bytes() == 0);
}

}  // namespace
}  // namespace conclave

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view bytes(reinterpret_cast<const char*>(data), size);
  conclave::wire::FrameReader reader;
  // Two pushes, so that frames straddle a boundary.
  reader.push(bytes.substr(0, size / 2));
  for (int half = 0; half < 2; ++half) {
    for (;;) {
      const auto frame = reader.next();
      if (!frame) return 0;
      if (!frame.value()) break;
      conclave::round_trip<conclave::wire::pb::ToWorker>(*frame.value());
      conclave::round_trip<conclave::wire::pb::FromWorker>(*frame.value());
    }
    if (half == 0) reader.push(bytes.substr(size / 2));
  }
  return 0;
}
