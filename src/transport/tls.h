// What this module needs of OpenSSL: owners for its objects, and one TLS context an identity.
#pragma once

#include <openssl/evp.h>
#include <openssl/ssl.h>
#include <openssl/x509.h>

#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "transport/identity.h"

namespace conclave::transport {

template <auto kFree>
struct OpensslDelete {
  template <class Object>
  void operator()(Object* object) const {
    kFree(object);
  }
};

using KeyPtr = std::unique_ptr<EVP_PKEY, OpensslDelete<EVP_PKEY_free>>;
using CertificatePtr = std::unique_ptr<X509, OpensslDelete<X509_free>>;
using BioPtr = std::unique_ptr<BIO, OpensslDelete<BIO_free_all>>;
using BioMethodPtr = std::unique_ptr<BIO_METHOD, OpensslDelete<BIO_meth_free>>;
using ContextPtr = std::unique_ptr<SSL_CTX, OpensslDelete<SSL_CTX_free>>;
using SslPtr = std::unique_ptr<SSL, OpensslDelete<SSL_free>>;

struct Identity::State {
  KeyPtr key;
  CertificatePtr certificate;
  PublicKey public_key{};
  Fingerprint fingerprint{};
  // TLS 1.3 with this key, for both sides of a connection; SSL_new() of it is thread-safe. Its
  // verification asks the PeerCheck that is the SSL's application data.
  BioMethodPtr socket_method;  // before the context: streams of both outlive neither
  ContextPtr context;
};

// Which peer a connection may have, and which it has.
struct PeerCheck {
  std::function<bool(const Fingerprint&)> accept;
  std::optional<PublicKey> key;  // of the certificate that was shown, once it was accepted
  std::string refusal;           // why it was not
};

// The raw Ed25519 key; nothing: the key is of another kind.
std::optional<PublicKey> raw_public_key(EVP_PKEY* key);

Result<ContextPtr> make_tls_context(EVP_PKEY* key, X509* certificate);

// The data of a BIO of make_socket_method().
struct TlsSocket {
  int fd = -1;
  // A record of the same message comes at once: the peer need not be woken for this one alone,
  // which cost a third of the time of a message of two records.
  bool more_follows = false;
};

// BIOs of a connected socket. They never raise SIGPIPE, as those of OpenSSL do.
BioMethodPtr make_socket_method();

// The newest message of this thread's OpenSSL error queue, which is emptied.
std::string openssl_error();

}  // namespace conclave::transport
