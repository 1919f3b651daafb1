#include "transport/secure_stream.h"

#include <fcntl.h>
#include <openssl/err.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <utility>

#include "transport/socket.h"
#include "transport/tls.h"

namespace conclave::transport {
namespace {

constexpr std::size_t kRecordBytes = 16384;  // of plain text in a TLS record, at most
constexpr std::size_t kVectorsMax = 64;      // of one sendmsg()

std::size_t total_size(std::span<const std::span<const std::byte>> parts) {
  std::size_t size = 0;
  for (const std::span<const std::byte> part : parts) size += part.size();
  return size;
}

}  // namespace

struct SecureStream::State {
  Socket socket;
  std::string error;
  bool ended = false;  // kFailed or kClosed: TLS cannot say goodbye any more

  // TLS only.
  std::optional<Identity> identity;  // owns what `ssl` uses
  PeerCheck check;
  TlsSocket tls_socket;
  SslPtr ssl;
  std::array<std::byte, kRecordBytes> record;  // small parts, put together

  IoResult end(IoStatus status, std::string why) {
    ended = true;
    error = std::move(why);
    return {status, 0};
  }

  IoResult failed(int error_number) {
    const bool gone = error_number == ECONNRESET || error_number == EPIPE;
    return end(gone ? IoStatus::kClosed : IoStatus::kFailed,
               gone ? "connection reset by peer" : error_text(error_number));
  }

  IoResult closed() { return end(IoStatus::kClosed, "connection closed"); }

  // What an SSL_ call that did not succeed means.
  IoResult tls_result(int returned, int error_number) {
    switch (SSL_get_error(ssl.get(), returned)) {
      case SSL_ERROR_WANT_READ:
        return {IoStatus::kWantRead, 0};
      case SSL_ERROR_WANT_WRITE:
        return {IoStatus::kWantWrite, 0};
      case SSL_ERROR_ZERO_RETURN:
        return closed();
      case SSL_ERROR_SYSCALL:
        if (error_number == 0) return closed();
        return failed(error_number);
      default:
        break;
    }
    const std::string reason = openssl_error();
    return end(IoStatus::kFailed, check.refusal.empty() ? "TLS: " + reason : check.refusal);
  }

  IoResult read_clear(std::span<std::byte> into) {
    ssize_t n = 0;
    do {
      n = ::recv(socket.get(), into.data(), into.size(), MSG_DONTWAIT);
    } while (n < 0 && errno == EINTR);
    if (n > 0) return {IoStatus::kDone, static_cast<std::size_t>(n)};
    if (n == 0) return closed();
    if (would_block(errno)) return {IoStatus::kWantRead, 0};
    return failed(errno);
  }

  IoResult write_clear(std::span<const std::span<const std::byte>> parts) {
    std::array<iovec, kVectorsMax> vectors;
    std::size_t n_vectors = 0;
    for (const std::span<const std::byte> part : parts.first(std::min(parts.size(), kVectorsMax))) {
      if (part.empty()) continue;
      // sendmsg() takes the same struct as recvmsg(), so it wants a pointer that may write.
      vectors[n_vectors++] = {const_cast<std::byte*>(part.data()), part.size()};
    }
    msghdr message{};
    message.msg_iov = vectors.data();
    message.msg_iovlen = n_vectors;
    ssize_t n = 0;
    do {
      n = ::sendmsg(socket.get(), &message, MSG_NOSIGNAL | MSG_DONTWAIT);
    } while (n < 0 && errno == EINTR);
    if (n >= 0) return {IoStatus::kDone, static_cast<std::size_t>(n)};
    if (would_block(errno)) return {IoStatus::kWantWrite, 0};
    return failed(errno);
  }

  // The bytes of the next record: of the first part alone where that fills it, else gathered. The
  // same bytes come again when the record has to be offered again.
  std::span<const std::byte> gather(std::span<const std::span<const std::byte>> parts) {
    while (!parts.empty() && parts.front().empty()) parts = parts.subspan(1);
    if (parts.empty()) return {};
    if (parts.size() == 1 || parts.front().size() >= kRecordBytes) {
      return parts.front().first(std::min(parts.front().size(), kRecordBytes));
    }
    std::size_t size = 0;
    for (const std::span<const std::byte> part : parts) {
      const std::size_t n = std::min(part.size(), kRecordBytes - size);
      if (n > 0) std::memcpy(record.data() + size, part.data(), n);
      size += n;
    }
    return std::span(record).first(size);
  }
};

SecureStream::SecureStream(std::unique_ptr<State> state) : state_(std::move(state)) {}
SecureStream::SecureStream(SecureStream&&) noexcept = default;
SecureStream& SecureStream::operator=(SecureStream&&) noexcept = default;

SecureStream::~SecureStream() {
  if (state_ == nullptr || state_->ssl == nullptr || state_->ended) return;
  ERR_clear_error();
  SSL_shutdown(state_->ssl.get());
  ERR_clear_error();
}

SecureStream SecureStream::clear(int fd) {
  auto state = std::make_unique<State>();
  state->socket = Socket(fd);
  fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
  return SecureStream(std::move(state));
}

SecureStream SecureStream::tls(int fd, const Identity& identity, Side side, Accept accept) {
  SecureStream stream = clear(fd);
  State& state = *stream.state_;
  state.identity = identity;
  state.check.accept = std::move(accept);
  state.ssl = SslPtr(SSL_new(identity.state().context.get()));
  SSL* ssl = state.ssl.get();
  BIO* bio = BIO_new(identity.state().socket_method.get());
  CHECK(ssl != nullptr && bio != nullptr);
  state.tls_socket.fd = fd;
  BIO_set_data(bio, &state.tls_socket);
  BIO_set_init(bio, 1);
  SSL_set_bio(ssl, bio, bio);
  SSL_set_app_data(ssl, &state.check);
  if (side == Side::kCaller) {
    SSL_set_connect_state(ssl);
  } else {
    SSL_set_accept_state(ssl);
  }
  return stream;
}

IoResult SecureStream::handshake() {
  if (state_->ssl == nullptr) return {};
  ERR_clear_error();
  errno = 0;
  const int returned = SSL_do_handshake(state_->ssl.get());
  const int error_number = errno;
  if (returned == 1) return {};
  return state_->tls_result(returned, error_number);
}

IoResult SecureStream::read_some(std::span<std::byte> into) {
  CHECK(!into.empty());
  if (state_->ssl == nullptr) return state_->read_clear(into);
  ERR_clear_error();
  errno = 0;
  std::size_t n = 0;
  const int returned = SSL_read_ex(state_->ssl.get(), into.data(), into.size(), &n);
  const int error_number = errno;
  if (returned == 1) return {IoStatus::kDone, n};
  return state_->tls_result(returned, error_number);
}

IoResult SecureStream::write_some(std::span<const std::span<const std::byte>> parts) {
  if (state_->ssl == nullptr) return state_->write_clear(parts);
  const std::span<const std::byte> bytes = state_->gather(parts);
  if (bytes.empty()) return {};
  state_->tls_socket.more_follows = total_size(parts) > bytes.size();
  ERR_clear_error();
  errno = 0;
  std::size_t n = 0;
  const int returned = SSL_write_ex(state_->ssl.get(), bytes.data(), bytes.size(), &n);
  const int error_number = errno;
  state_->tls_socket.more_follows = false;
  if (returned == 1) return {IoStatus::kDone, n};
  return state_->tls_result(returned, error_number);
}

IoResult SecureStream::write_some(std::span<const std::byte> bytes) {
  return write_some(std::span(&bytes, 1));
}

int SecureStream::fd() const { return state_->socket.get(); }

bool SecureStream::is_tls() const { return state_->ssl != nullptr; }

const std::optional<PublicKey>& SecureStream::peer_key() const { return state_->check.key; }

std::optional<Fingerprint> SecureStream::peer_fingerprint() const {
  if (!state_->check.key) return std::nullopt;
  return fingerprint_of(*state_->check.key);
}

std::string_view SecureStream::error() const { return state_->error; }

}  // namespace conclave::transport
