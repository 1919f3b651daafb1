#include "hub/hash.h"

#include <fcntl.h>
#include <openssl/evp.h>
#include <sys/stat.h>

#include <array>
#include <cerrno>
#include <string_view>
#include <system_error>
#include <vector>

#include "base/check.h"
#include "base/file_descriptor.h"

namespace conclave::hub {
namespace {

constexpr std::size_t kPiece = std::size_t{1} << 20;

}  // namespace

struct Hasher::State {
  EVP_MD_CTX* context = nullptr;
};

Hasher::Hasher(Digest::Kind kind, std::uint64_t size) : state_(std::make_unique<State>()) {
  state_->context = EVP_MD_CTX_new();
  CHECK(state_->context != nullptr);
  const EVP_MD* md = kind == Digest::Kind::kSha256 ? EVP_sha256() : EVP_sha1();
  CHECK(EVP_DigestInit_ex(state_->context, md, nullptr) == 1);
  if (kind == Digest::Kind::kSha256) return;
  const std::string head = "blob " + std::to_string(size);
  CHECK(EVP_DigestUpdate(state_->context, head.data(), head.size() + 1) == 1);  // its zero too
}

Hasher::~Hasher() { EVP_MD_CTX_free(state_->context); }

void Hasher::add(std::span<const std::byte> bytes) {
  CHECK(EVP_DigestUpdate(state_->context, bytes.data(), bytes.size()) == 1);
}

std::string Hasher::hex() {
  std::array<unsigned char, EVP_MAX_MD_SIZE> raw{};
  unsigned size = 0;
  CHECK(EVP_DigestFinal_ex(state_->context, raw.data(), &size) == 1);
  constexpr std::string_view kDigits = "0123456789abcdef";
  std::string text;
  for (unsigned i = 0; i < size; ++i) {
    text += kDigits[raw[i] >> 4];
    text += kDigits[raw[i] & 15u];
  }
  return text;
}

Result<std::optional<std::string>> hash_file(const std::filesystem::path& path, Digest::Kind kind,
                                             const std::function<bool(std::uint64_t)>& bytes_read) {
  const auto failed = [&path](int error) {
    return unavailable(path.string() + ": " + std::generic_category().message(error));
  };
  const FileDescriptor file(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  struct stat status {};
  if (!file.open() || ::fstat(file.get(), &status) != 0) return failed(errno);
  Hasher hasher(kind, static_cast<std::uint64_t>(status.st_size));
  std::vector<std::byte> piece(kPiece);
  while (true) {
    const ssize_t n = ::read(file.get(), piece.data(), piece.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return failed(errno);
    if (n == 0) return std::optional(hasher.hex());
    hasher.add(std::span(piece).first(static_cast<std::size_t>(n)));
    if (!bytes_read(static_cast<std::uint64_t>(n))) return std::optional<std::string>{};
  }
}

}  // namespace conclave::hub
