#include "transport/tls.h"

#include <openssl/err.h>
#include <sys/socket.h>

#include <array>
#include <cerrno>

#include "transport/socket.h"

namespace conclave::transport {
namespace {

// Holds the records of a message of two activations, so that one recv() takes them all.
constexpr std::size_t kReadAheadBytes = std::size_t{64} << 10;

const TlsSocket& socket_of(BIO* bio) { return *static_cast<const TlsSocket*>(BIO_get_data(bio)); }

int write_socket(BIO* bio, const char* bytes, std::size_t size, std::size_t* written) {
  BIO_clear_retry_flags(bio);
  const TlsSocket& socket = socket_of(bio);
  const int flags = MSG_NOSIGNAL | MSG_DONTWAIT | (socket.more_follows ? MSG_MORE : 0);
  ssize_t n = 0;
  do {
    n = ::send(socket.fd, bytes, size, flags);
  } while (n < 0 && errno == EINTR);
  if (n < 0 && would_block(errno)) BIO_set_retry_write(bio);
  *written = n > 0 ? static_cast<std::size_t>(n) : 0;
  return n > 0 ? 1 : 0;
}

int read_socket(BIO* bio, char* bytes, std::size_t size, std::size_t* read) {
  BIO_clear_retry_flags(bio);
  ssize_t n = 0;
  do {
    n = ::recv(socket_of(bio).fd, bytes, size, MSG_DONTWAIT);
  } while (n < 0 && errno == EINTR);
  if (n < 0 && would_block(errno)) BIO_set_retry_read(bio);
  if (n == 0) BIO_set_flags(bio, BIO_FLAGS_IN_EOF);
  *read = n > 0 ? static_cast<std::size_t>(n) : 0;
  return n > 0 ? 1 : 0;
}

long control_socket(BIO* bio, int command, long /*number*/, void* /*pointer*/) {
  if (command == BIO_CTRL_FLUSH) return 1;
  if (command == BIO_CTRL_EOF) return BIO_test_flags(bio, BIO_FLAGS_IN_EOF) != 0 ? 1 : 0;
  return 0;
}

// Instead of OpenSSL's own check of a chain: only the key counts.
int check_peer(X509_STORE_CTX* store, void* /*unused*/) {
  auto* ssl =
      static_cast<SSL*>(X509_STORE_CTX_get_ex_data(store, SSL_get_ex_data_X509_STORE_CTX_idx()));
  auto* check = static_cast<PeerCheck*>(SSL_get_app_data(ssl));
  X509* certificate = X509_STORE_CTX_get0_cert(store);
  const auto key = raw_public_key(X509_get0_pubkey(certificate));
  if (!key) {
    check->refusal = "the peer's key is not an Ed25519 key";
  } else if (const Fingerprint shown = fingerprint_of(*key); !check->accept(shown)) {
    check->refusal = "the peer's key " + to_hex(shown) + " is not an expected one";
  } else {
    check->key = key;
    return 1;
  }
  X509_STORE_CTX_set_error(store, X509_V_ERR_CERT_UNTRUSTED);
  return 0;
}

}  // namespace

std::optional<PublicKey> raw_public_key(EVP_PKEY* key) {
  if (key == nullptr || EVP_PKEY_get_id(key) != EVP_PKEY_ED25519) return std::nullopt;
  PublicKey raw{};
  std::size_t size = raw.size();
  auto* bytes = reinterpret_cast<unsigned char*>(raw.data());
  if (EVP_PKEY_get_raw_public_key(key, bytes, &size) != 1 || size != raw.size()) {
    return std::nullopt;
  }
  return raw;
}

Result<ContextPtr> make_tls_context(EVP_PKEY* key, X509* certificate) {
  ContextPtr context(SSL_CTX_new(TLS_method()));
  SSL_CTX* ctx = context.get();
  const bool made =
      ctx != nullptr && SSL_CTX_set_min_proto_version(ctx, TLS1_3_VERSION) == 1 &&
      SSL_CTX_set_max_proto_version(ctx, TLS1_3_VERSION) == 1 &&
      // 128 bits first: a third faster with AES instructions, and as strong as the key exchange.
      SSL_CTX_set_ciphersuites(ctx,
                               "TLS_AES_128_GCM_SHA256:TLS_CHACHA20_POLY1305_SHA256:"
                               "TLS_AES_256_GCM_SHA384") == 1 &&
      SSL_CTX_set1_groups_list(ctx, "X25519") == 1 &&
      SSL_CTX_set1_sigalgs_list(ctx, "ed25519") == 1 &&
      SSL_CTX_use_certificate(ctx, certificate) == 1 && SSL_CTX_use_PrivateKey(ctx, key) == 1 &&
      SSL_CTX_set_num_tickets(ctx, 0) == 1;
  if (!made) return unsupported("cannot set TLS up: " + openssl_error());

  SSL_CTX_set_session_cache_mode(ctx, SSL_SESS_CACHE_OFF);
  // Messages carry their own lengths, so an end without close_notify is an end like another.
  SSL_CTX_set_options(ctx, SSL_OP_NO_TICKET | SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_COMPRESSION |
                               SSL_OP_IGNORE_UNEXPECTED_EOF);
  // A write that was not taken is offered again from a queue, so from another address.
  SSL_CTX_set_mode(ctx, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
  SSL_CTX_set_read_ahead(ctx, 1);
  SSL_CTX_set_default_read_buffer_len(ctx, kReadAheadBytes);
  SSL_CTX_set_verify(ctx, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, nullptr);
  SSL_CTX_set_cert_verify_callback(ctx, check_peer, nullptr);
  return context;
}

BioMethodPtr make_socket_method() {
  BioMethodPtr method(BIO_meth_new(BIO_TYPE_SOURCE_SINK, "socket"));
  CHECK(method != nullptr);
  BIO_meth_set_write_ex(method.get(), write_socket);
  BIO_meth_set_read_ex(method.get(), read_socket);
  BIO_meth_set_ctrl(method.get(), control_socket);
  return method;
}

std::string openssl_error() {
  const unsigned long code = ERR_peek_last_error();
  ERR_clear_error();
  if (code == 0) return "no reason given";
  std::array<char, 256> text{};
  ERR_error_string_n(code, text.data(), text.size());
  return text.data();
}

}  // namespace conclave::transport
