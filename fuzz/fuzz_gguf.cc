// Any bytes as a GGUF file: an error, or checked views, a configuration and a tokenizer; never a
// crash.
#include <sys/mman.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "base/check.h"
#include "formats/formats.h"
#include "model/gguf_config.h"
#include "text/gguf_text.h"

namespace {

// A file of this process alone, its bytes those of the last `fill`.
class MemoryFile {
 public:
  MemoryFile() : fd_(memfd_create("fuzz.gguf", 0)) { CHECK(fd_ >= 0); }
  void fill(std::span<const std::byte> bytes) const {
    CHECK(ftruncate(fd_, 0) == 0);
    CHECK(pwrite(fd_, bytes.data(), bytes.size(), 0) == static_cast<ssize_t>(bytes.size()));
  }
  std::string path() const { return "/proc/self/fd/" + std::to_string(fd_); }

 private:
  int fd_;
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const MemoryFile file;
  const std::span<const std::byte> bytes = std::as_bytes(std::span(data, size));
  const auto parsed = conclave::formats::parse_gguf(bytes, "fuzz.gguf");
  if (!parsed) return 0;
  std::size_t total = 0;
  for (const conclave::formats::Tensor& tensor : parsed->tensors) {
    total += tensor.bytes.size();
    (void)conclave::formats::name_from_gguf(tensor.name);
  }
  CHECK(total <= size);
  file.fill(bytes);
  const auto gguf = conclave::formats::Gguf::open({file.path()});
  if (!gguf) return 0;
  (void)conclave::model::describe_gguf(*gguf);
  (void)conclave::text::tokenizer_from_gguf(*gguf);
  (void)conclave::text::checkpoint_text_from_gguf(*gguf);
  return 0;
}
