// Any text as a hub's list of files, or as a manifest on disk: an error, or plain names with sizes
// and hashes that read back the same.
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "base/check.h"
#include "hub/hub.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  namespace hub = conclave::hub;
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  for (const auto& parsed : {hub::parse_listing(text), hub::parse_manifest(text)}) {
    if (!parsed) continue;
    for (const hub::FileEntry& file : parsed->files) {
      CHECK(file.name.find_first_of("/\\") == std::string::npos && !file.name.starts_with('.'));
    }
    const auto again = hub::parse_manifest(hub::to_json(*parsed));
    CHECK(again && again->files == parsed->files);
  }
  return 0;
}
