#include "transport/secure_stream.h"

#include <gtest/gtest.h>
#include <poll.h>
#include <signal.h>
#include <sys/socket.h>

#include <array>
#include <thread>
#include <utility>
#include <vector>

#include "transport/test_group.h"
#include "transport/tls.h"

namespace conclave::transport {
namespace {

using Side = SecureStream::Side;

std::array<int, 2> connected_sockets() {
  std::array<int, 2> fds{};
  CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds.data()) == 0);
  return fds;
}

bool wait_for(const SecureStream& stream, IoStatus wants) {
  pollfd fd{stream.fd(), static_cast<short>(wants == IoStatus::kWantRead ? POLLIN : POLLOUT), 0};
  return poll(&fd, 1, 10'000) == 1;
}

bool waits(const IoResult& result) {
  return result.status == IoStatus::kWantRead || result.status == IoStatus::kWantWrite;
}

IoResult finish_handshake(SecureStream& stream) {
  for (;;) {
    const IoResult result = stream.handshake();
    if (!waits(result) || !wait_for(stream, result.status)) return result;
  }
}

void write_all(SecureStream& stream, std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const IoResult result = stream.write_some(bytes);
    ASSERT_TRUE(result.status == IoStatus::kDone || waits(result)) << stream.error();
    bytes = bytes.subspan(result.bytes);
    if (waits(result)) {
      ASSERT_TRUE(wait_for(stream, result.status));
    }
  }
}

Bytes read_all(SecureStream& stream, std::size_t size) {
  Bytes bytes(size);
  for (std::size_t have = 0; have < size;) {
    const IoResult result = stream.read_some(std::span(bytes).subspan(have));
    have += result.bytes;
    if (result.status == IoStatus::kDone) continue;
    EXPECT_TRUE(waits(result)) << stream.error();
    if (!waits(result) || !wait_for(stream, result.status)) return {};
  }
  return bytes;
}

IoResult read_end(SecureStream& stream) {
  std::byte byte{};
  for (;;) {
    const IoResult result = stream.read_some(std::span(&byte, 1));
    if (!waits(result) || !wait_for(stream, result.status)) return result;
  }
}

// Two ends with keys `a` (the caller) and `b`, each of which accepts what its function says.
struct TlsPair {
  Identity a = Identity::generate("a").value();
  Identity b = Identity::generate("b").value();
  std::optional<SecureStream> caller;
  std::optional<SecureStream> acceptor;

  std::array<IoResult, 2> connect(SecureStream::Accept caller_accepts,
                                  SecureStream::Accept acceptor_accepts) {
    const auto fds = connected_sockets();
    caller = SecureStream::tls(fds[0], a, Side::kCaller, std::move(caller_accepts));
    acceptor = SecureStream::tls(fds[1], b, Side::kAcceptor, std::move(acceptor_accepts));
    std::array<IoResult, 2> results;
    std::thread thread([this, &results] { results[1] = finish_handshake(*acceptor); });
    results[0] = finish_handshake(*caller);
    thread.join();
    return results;
  }

  void connect_both() {
    const auto results =
        connect([this](const Fingerprint& shown) { return shown == b.fingerprint(); },
                [this](const Fingerprint& shown) { return shown == a.fingerprint(); });
    ASSERT_EQ(results[0].status, IoStatus::kDone) << caller->error();
    ASSERT_EQ(results[1].status, IoStatus::kDone) << acceptor->error();
  }
};

TEST(SecureStream, BothEndsKnowEachOther) {
  TlsPair pair;
  pair.connect_both();
  EXPECT_EQ(pair.caller->peer_fingerprint(), pair.b.fingerprint());
  EXPECT_EQ(pair.acceptor->peer_fingerprint(), pair.a.fingerprint());
  EXPECT_EQ(pair.acceptor->peer_key(), pair.a.public_key());
  EXPECT_TRUE(pair.caller->is_tls());
}

TEST(SecureStream, PairingTakesAnybodyAndSaysWhoItWas) {
  TlsPair pair;
  const auto anybody = [](const Fingerprint&) { return true; };
  const auto results = pair.connect(anybody, anybody);
  EXPECT_EQ(results[0].status, IoStatus::kDone);
  EXPECT_EQ(results[1].status, IoStatus::kDone);
  EXPECT_EQ(pair.acceptor->peer_fingerprint(), pair.a.fingerprint());
}

TEST(SecureStream, TheCallerRefusesAnotherKey) {
  TlsPair pair;
  const auto results = pair.connect([](const Fingerprint&) { return false; },
                                    [](const Fingerprint&) { return true; });
  EXPECT_EQ(results[0].status, IoStatus::kFailed);
  EXPECT_NE(pair.caller->error().find(to_hex(pair.b.fingerprint())), std::string_view::npos);
  EXPECT_NE(results[1].status, IoStatus::kDone);
  EXPECT_FALSE(pair.caller->peer_fingerprint().has_value());
}

TEST(SecureStream, TheAcceptorRefusesAnotherKey) {
  TlsPair pair;
  const auto results = pair.connect([](const Fingerprint&) { return true; },
                                    [](const Fingerprint&) { return false; });
  EXPECT_EQ(results[1].status, IoStatus::kFailed);
  EXPECT_NE(pair.acceptor->error().find("is not an expected one"), std::string_view::npos);
  EXPECT_FALSE(pair.acceptor->peer_fingerprint().has_value());
  const IoResult end = read_end(*pair.caller);
  EXPECT_TRUE(end.status == IoStatus::kFailed || end.status == IoStatus::kClosed);
}

TEST(SecureStream, BytesOfAllSizesPass) {
  TlsPair pair;
  pair.connect_both();
  for (const std::size_t size : {1u, 100u, 16'383u, 16'384u, 16'385u, 28'704u, 3'000'000u}) {
    const Bytes bytes = numbered(size, size);
    std::thread writer([&pair, &bytes] { write_all(*pair.caller, bytes); });
    EXPECT_EQ(read_all(*pair.acceptor, size), bytes) << size;
    writer.join();
  }
}

TEST(SecureStream, PartsOfOneWriteFollowEachOther) {
  const Bytes a = numbered(32, 1);
  const Bytes b = numbered(20'000, 2);
  const Bytes c = numbered(300, 3);
  const std::array<std::span<const std::byte>, 4> parts = {a, std::span<const std::byte>{}, b, c};
  Bytes whole = a;
  whole.insert(whole.end(), b.begin(), b.end());
  whole.insert(whole.end(), c.begin(), c.end());
  TlsPair pair;
  pair.connect_both();
  const auto fds = connected_sockets();
  SecureStream clear_out = SecureStream::clear(fds[0]);
  SecureStream clear_in = SecureStream::clear(fds[1]);
  EXPECT_FALSE(clear_in.is_tls());
  for (const auto& [out, in] :
       {std::pair(&*pair.caller, &*pair.acceptor), std::pair(&clear_out, &clear_in)}) {
    const IoResult wrote = out->write_some(parts);
    ASSERT_EQ(wrote.status, IoStatus::kDone);
    ASSERT_GT(wrote.bytes, 32u);
    write_all(*out, std::span(whole).subspan(wrote.bytes));
    EXPECT_EQ(read_all(*in, whole.size()), whole);
  }
}

TEST(SecureStream, TheEndIsNotAnError) {
  TlsPair pair;
  pair.connect_both();
  write_all(*pair.caller, numbered(5, 0));
  pair.caller.reset();
  EXPECT_EQ(read_all(*pair.acceptor, 5), numbered(5, 0));
  EXPECT_EQ(read_end(*pair.acceptor).status, IoStatus::kClosed);
}

// As when a process is killed: nobody says goodbye.
TEST(SecureStream, ATornConnectionHasEndedToo) {
  TlsPair pair;
  pair.connect_both();
  ASSERT_EQ(shutdown(pair.caller->fd(), SHUT_RDWR), 0);
  EXPECT_EQ(read_end(*pair.acceptor).status, IoStatus::kClosed);
}

TEST(SecureStream, WritingToNobodyRaisesNoSignal) {
  struct sigaction before {};
  struct sigaction fatal {};
  fatal.sa_handler = SIG_DFL;  // which would end this test
  ASSERT_EQ(sigaction(SIGPIPE, &fatal, &before), 0);
  TlsPair pair;
  pair.connect_both();
  const auto fds = connected_sockets();
  SecureStream clear = SecureStream::clear(fds[0]);
  close(fds[1]);
  pair.acceptor.reset();
  const Bytes bytes = numbered(100, 0);
  for (SecureStream* stream : {&clear, &*pair.caller}) {
    IoResult result;
    for (int i = 0; i < 100 && result.status == IoStatus::kDone; ++i) {
      result = stream->write_some(bytes);
    }
    EXPECT_TRUE(result.status == IoStatus::kClosed || result.status == IoStatus::kFailed);
  }
  sigaction(SIGPIPE, &before, nullptr);
}

TEST(SecureStream, GarbageFails) {
  const auto fds = connected_sockets();
  const Identity identity = Identity::generate("a").value();
  SecureStream stream =
      SecureStream::tls(fds[0], identity, Side::kAcceptor, [](const Fingerprint&) { return true; });
  SecureStream stranger = SecureStream::clear(fds[1]);
  write_all(stranger, numbered(500, 3));
  EXPECT_EQ(finish_handshake(stream).status, IoStatus::kFailed);
  EXPECT_EQ(stream.error().substr(0, 4), "TLS:");
}

TEST(SecureStream, DamagedRecordsFail) {
  TlsPair pair;
  pair.connect_both();
  // A record that the caller's TLS knows nothing of.
  const std::string record = "\x17\x03\x03" + std::string("\x00\x20", 2) + std::string(32, 'x');
  ASSERT_EQ(::send(pair.caller->fd(), record.data(), record.size(), MSG_NOSIGNAL),
            static_cast<ssize_t>(record.size()));
  EXPECT_EQ(read_end(*pair.acceptor).status, IoStatus::kFailed);
}

TEST(SecureStream, WithoutACertificateNobodyComesIn) {
  TlsPair pair;
  const auto fds = connected_sockets();
  SecureStream acceptor =
      SecureStream::tls(fds[1], pair.b, Side::kAcceptor, [](const Fingerprint&) { return true; });
  SslPtr anonymous(SSL_new(ContextPtr(SSL_CTX_new(TLS_client_method())).get()));
  SSL_set_fd(anonymous.get(), fds[0]);
  std::thread client([&anonymous] { SSL_connect(anonymous.get()); });
  EXPECT_EQ(finish_handshake(acceptor).status, IoStatus::kFailed);
  client.join();
  close(fds[0]);
}

}  // namespace
}  // namespace conclave::transport
