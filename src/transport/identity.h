// Who a machine is: an Ed25519 key with a self-signed certificate. Peers know each other by the
// SHA-256 of the public key (its fingerprint), not by a name or an authority; the certificate is
// only how TLS carries the key, so its dates and names decide nothing.
#pragma once

#include <array>
#include <cstddef>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "base/result.h"

namespace conclave::transport {

using PublicKey = std::array<std::byte, 32>;  // raw Ed25519
using Fingerprint = std::array<std::byte, 32>;

Fingerprint fingerprint_of(const PublicKey& key);
std::string to_hex(const Fingerprint& fingerprint);
// 64 hexadecimal digits of either case.
Result<Fingerprint> parse_fingerprint(std::string_view hex);

// A value; copies share one immutable state, and any thread may use them.
class Identity {
 public:
  // `name` is shown to a person who looks at the certificate; at most 64 bytes of it are kept.
  static Result<Identity> generate(std::string_view name);
  // Reads `dir`/identity.pem, or makes it (mode 0600, whole or not at all, even when two processes
  // do so at once). kInvalidInput: others may read the file, or it holds no such key.
  static Result<Identity> load_or_create(const std::filesystem::path& dir, std::string_view name);
  // Private key and certificate, one PEM text after the other: what the file holds, and how an
  // identity is handed to a worker process.
  static Result<Identity> from_pem(std::string_view pem);
  std::string to_pem() const;

  const Fingerprint& fingerprint() const;
  const PublicKey& public_key() const;
  // Ed25519 over `bytes`, 64 bytes: the head signs its member list.
  std::string sign(std::span<const std::byte> bytes) const;

  struct State;
  const State& state() const { return *state_; }  // for the TLS code of this module

 private:
  explicit Identity(std::shared_ptr<const State> state) : state_(std::move(state)) {}
  std::shared_ptr<const State> state_;  // shared: immutable, and copies are handed to threads
};

// Whether `signature` over `bytes` was made with the key of this public key (raw, 32 bytes).
bool verify_signature(std::span<const std::byte> public_key, std::span<const std::byte> bytes,
                      std::string_view signature);

}  // namespace conclave::transport
