#include "transport/identity.h"

#include <fcntl.h>
#include <openssl/pem.h>
#include <openssl/rand.h>
#include <openssl/sha.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <optional>
#include <system_error>
#include <utility>

#include "transport/socket.h"
#include "transport/tls.h"

namespace conclave::transport {
namespace {

constexpr std::size_t kNameBytesMax = 64;  // of a common name, by X.520
constexpr std::size_t kPemBytesMax = std::size_t{64} << 10;
constexpr std::size_t kSignatureBytes = 64;
constexpr const char* kFileName = "identity.pem";

const unsigned char* as_unsigned(std::span<const std::byte> bytes) {
  return reinterpret_cast<const unsigned char*>(bytes.data());
}

// A text that the key's owner never typed must not make OpenSSL ask at the terminal.
int no_password(char* /*buffer*/, int /*size*/, int /*writing*/, void* /*data*/) { return -1; }

Result<std::shared_ptr<const Identity::State>> make_state(KeyPtr key, CertificatePtr certificate) {
  auto state = std::make_shared<Identity::State>();
  const auto public_key = raw_public_key(key.get());
  if (!public_key) return invalid_input("the private key is not an Ed25519 key");
  if (X509_check_private_key(certificate.get(), key.get()) != 1) {
    openssl_error();
    return invalid_input("the certificate is not of the private key");
  }
  state->context = TRY(make_tls_context(key.get(), certificate.get()));
  state->socket_method = make_socket_method();
  state->public_key = *public_key;
  state->fingerprint = fingerprint_of(*public_key);
  state->key = std::move(key);
  state->certificate = std::move(certificate);
  return std::shared_ptr<const Identity::State>(std::move(state));
}

CertificatePtr self_signed(EVP_PKEY* key, std::string_view name) {
  CertificatePtr certificate(X509_new());
  X509* x509 = certificate.get();
  std::uint64_t serial = 0;
  if (x509 == nullptr ||
      RAND_bytes(reinterpret_cast<unsigned char*>(&serial), sizeof serial) != 1) {
    return nullptr;
  }
  X509_NAME* subject = X509_get_subject_name(x509);
  const std::string common_name = name.empty() ? "conclave" : std::string(name);
  const bool made =
      X509_set_version(x509, X509_VERSION_3) == 1 &&
      ASN1_INTEGER_set_uint64(X509_get_serialNumber(x509), serial >> 1) == 1 &&
      // "No expiry" of RFC 5280: nobody checks dates, so a machine without a clock works too.
      ASN1_TIME_set_string_X509(X509_getm_notBefore(x509), "19700101000000Z") == 1 &&
      ASN1_TIME_set_string_X509(X509_getm_notAfter(x509), "99991231235959Z") == 1 &&
      X509_NAME_add_entry_by_txt(
          subject, "CN", MBSTRING_UTF8, reinterpret_cast<const unsigned char*>(common_name.data()),
          static_cast<int>(std::min(common_name.size(), kNameBytesMax)), -1, 0) == 1 &&
      X509_set_issuer_name(x509, subject) == 1 && X509_set_pubkey(x509, key) == 1 &&
      X509_sign(x509, key, nullptr) > 0;
  return made ? std::move(certificate) : nullptr;
}

Error file_error(const std::string& what, const std::filesystem::path& path) {
  return unavailable(what + " " + path.string() + ": " + error_text(errno));
}

// The file's text; nothing: there is no such file.
Result<std::optional<std::string>> read_private_file(const std::filesystem::path& path) {
  const Socket file(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!file.open() && errno == ENOENT) return std::optional<std::string>{};
  struct stat status {};
  if (!file.open() || fstat(file.get(), &status) != 0) return file_error("cannot read", path);
  if ((status.st_mode & 077) != 0) {
    return invalid_input("the private key in " + path.string() +
                         " can be read by others; run: chmod 600 " + path.string());
  }
  std::string text(kPemBytesMax + 1, '\0');
  std::size_t size = 0;
  for (ssize_t n = 1; n > 0 && size < text.size(); size += static_cast<std::size_t>(n)) {
    n = ::read(file.get(), text.data() + size, text.size() - size);
    if (n < 0) return file_error("cannot read", path);
  }
  if (size > kPemBytesMax) return invalid_input(path.string() + " is too large for a key");
  text.resize(size);
  return std::optional(std::move(text));
}

Result<void> write_all(int file, std::string_view text, const std::filesystem::path& path) {
  while (!text.empty()) {
    const ssize_t n = ::write(file, text.data(), text.size());
    if (n < 0 && errno != EINTR) return file_error("cannot write", path);
    if (n > 0) text.remove_prefix(static_cast<std::size_t>(n));
  }
  if (fsync(file) != 0) return file_error("cannot write", path);
  return {};
}

// Makes `path`, unless another process made it first, which is no error either.
Result<void> write_private_file(const std::filesystem::path& path, std::string_view text) {
  std::string temporary = path.string() + ".XXXXXX";
  const Socket file(mkostemp(temporary.data(), O_CLOEXEC));  // mode 0600
  if (!file.open()) return file_error("cannot make", temporary);
  Result<void> written = write_all(file.get(), text, temporary);
  // link() fails where rename() would replace the identity that the other process already uses.
  if (written && ::link(temporary.c_str(), path.c_str()) != 0 && errno != EEXIST) {
    written = file_error("cannot make", path);
  }
  ::unlink(temporary.c_str());
  return written;
}

Error in_file(const std::filesystem::path& path, const Error& error) {
  return {error.code, path.string() + ": " + error.message};
}

}  // namespace

Fingerprint fingerprint_of(const PublicKey& key) {
  Fingerprint fingerprint{};
  SHA256(as_unsigned(key), key.size(), reinterpret_cast<unsigned char*>(fingerprint.data()));
  return fingerprint;
}

std::string to_hex(const Fingerprint& fingerprint) {
  constexpr std::string_view kDigits = "0123456789abcdef";
  std::string hex;
  for (const std::byte byte : fingerprint) {
    hex.push_back(kDigits[std::to_integer<std::size_t>(byte >> 4)]);
    hex.push_back(kDigits[std::to_integer<std::size_t>(byte & std::byte{15})]);
  }
  return hex;
}

Result<Fingerprint> parse_fingerprint(std::string_view hex) {
  Fingerprint fingerprint{};
  bool good = hex.size() == 2 * fingerprint.size();
  for (std::size_t i = 0; good && i < fingerprint.size(); ++i) {
    unsigned value = 0;
    const char* digits = hex.data() + 2 * i;
    const auto parsed = std::from_chars(digits, digits + 2, value, 16);
    good = parsed.ec == std::errc() && parsed.ptr == digits + 2;
    fingerprint[i] = static_cast<std::byte>(value);
  }
  if (good) return fingerprint;
  return invalid_input("'" + std::string(hex.substr(0, 80)) +
                       "' is not a fingerprint: 64 hexadecimal digits");
}

Result<Identity> Identity::generate(std::string_view name) {
  KeyPtr key(EVP_PKEY_Q_keygen(nullptr, nullptr, "ED25519"));
  CertificatePtr certificate = key == nullptr ? nullptr : self_signed(key.get(), name);
  if (certificate == nullptr) return unsupported("cannot make a key: " + openssl_error());
  return Identity(TRY(make_state(std::move(key), std::move(certificate))));
}

Result<Identity> Identity::load_or_create(const std::filesystem::path& dir, std::string_view name) {
  std::error_code error;
  std::filesystem::create_directories(dir, error);
  if (error) {
    return unavailable("cannot make the folder " + dir.string() + ": " + error.message());
  }
  const std::filesystem::path path = dir / kFileName;
  auto text = TRY(read_private_file(path));
  if (!text) {
    const Identity made = TRY(generate(name));
    TRY(write_private_file(path, made.to_pem()));
    text = TRY(read_private_file(path));
    if (!text) return unavailable(path.string() + " vanished");
  }
  auto identity = from_pem(*text);
  if (!identity) return in_file(path, identity.error());
  return identity;
}

Result<Identity> Identity::from_pem(std::string_view pem) {
  if (pem.size() > kPemBytesMax) return invalid_input("a PEM text is too large for an identity");
  const BioPtr bio(BIO_new_mem_buf(pem.data(), static_cast<int>(pem.size())));
  CHECK(bio != nullptr);
  KeyPtr key(PEM_read_bio_PrivateKey(bio.get(), nullptr, no_password, nullptr));
  if (key == nullptr) return invalid_input("no private key: " + openssl_error());
  CertificatePtr certificate(PEM_read_bio_X509(bio.get(), nullptr, no_password, nullptr));
  if (certificate == nullptr) {
    return invalid_input("no certificate after the private key: " + openssl_error());
  }
  return Identity(TRY(make_state(std::move(key), std::move(certificate))));
}

std::string Identity::to_pem() const {
  const BioPtr bio(BIO_new(BIO_s_mem()));
  CHECK(bio != nullptr);
  CHECK(PEM_write_bio_PrivateKey(bio.get(), state_->key.get(), nullptr, nullptr, 0, nullptr,
                                 nullptr) == 1);
  CHECK(PEM_write_bio_X509(bio.get(), state_->certificate.get()) == 1);
  char* text = nullptr;
  const long size = BIO_get_mem_data(bio.get(), &text);
  return {text, static_cast<std::size_t>(size)};
}

const Fingerprint& Identity::fingerprint() const { return state_->fingerprint; }

const PublicKey& Identity::public_key() const { return state_->public_key; }

std::string Identity::sign(std::span<const std::byte> bytes) const {
  const std::unique_ptr<EVP_MD_CTX, OpensslDelete<EVP_MD_CTX_free>> context(EVP_MD_CTX_new());
  std::string signature(kSignatureBytes, '\0');
  std::size_t size = signature.size();
  CHECK(EVP_DigestSignInit(context.get(), nullptr, nullptr, nullptr, state_->key.get()) == 1);
  CHECK(EVP_DigestSign(context.get(), reinterpret_cast<unsigned char*>(signature.data()), &size,
                       as_unsigned(bytes), bytes.size()) == 1);
  CHECK(size == kSignatureBytes);
  return signature;
}

bool verify_signature(std::span<const std::byte> public_key, std::span<const std::byte> bytes,
                      std::string_view signature) {
  if (public_key.size() != sizeof(PublicKey) || signature.size() != kSignatureBytes) return false;
  const KeyPtr key(EVP_PKEY_new_raw_public_key(EVP_PKEY_ED25519, nullptr, as_unsigned(public_key),
                                               public_key.size()));
  const std::unique_ptr<EVP_MD_CTX, OpensslDelete<EVP_MD_CTX_free>> context(EVP_MD_CTX_new());
  const bool good =
      key != nullptr && context != nullptr &&
      EVP_DigestVerifyInit(context.get(), nullptr, nullptr, nullptr, key.get()) == 1 &&
      EVP_DigestVerify(context.get(), reinterpret_cast<const unsigned char*>(signature.data()),
                       signature.size(), as_unsigned(bytes), bytes.size()) == 1;
  if (!good) openssl_error();
  return good;
}

}  // namespace conclave::transport
