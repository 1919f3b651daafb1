// Any bytes as a packed part that a peer asks for: an error, or a part that encodes to the same
// bytes and that a checkpoint packs, or refuses, without a crash.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

#include "backend/backend.h"
#include "base/check.h"

namespace {

using namespace conclave;

const model::ModelSource& ember() {
  static const model::ModelSource source = [] {
    auto opened = model::ModelSource::open("models/ember");
    CHECK(opened);
    return std::move(opened).value();
  }();
  return source;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static ThreadPool pool(1);
  const std::span<const std::byte> bytes = std::as_bytes(std::span(data, size));
  const auto part = backend::decode_part(bytes);
  if (!part) {
    CHECK(!part.error().message.empty());
    return 0;
  }
  CHECK(std::ranges::equal(backend::encode_part(*part), bytes));
  CHECK(part->size_bytes() > 0 && part->size_bytes() <= backend::kPartBytesMax);
  // More bytes only make the fuzzer slower: a wrong size is refused after all other checks.
  constexpr std::size_t kPackedMax = std::size_t{256} << 10;
  std::vector<std::byte> out(std::min(part->size_bytes(), kPackedMax));
  const auto packed = backend::pack_part(ember(), *part, pool, out);
  CHECK(!packed || out.size() == part->size_bytes());
  return 0;
}
