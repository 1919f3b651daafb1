// How long ranks take to exchange one token's hidden state, beside a bare TCP ping-pong of the same
// bytes: exchange_bench [REPETITIONS]
//
// Two threads of this process, each with its own Transport. "round trip": one message there and one
// back. "exchange": both send their partial sums at once and add what comes, as after attention and
// after the experts of every layer. Both with the machine otherwise idle, so without the cold
// caches that a real step leaves behind.
#include <fmt/format.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <cstdlib>
#include <functional>
#include <string_view>
#include <thread>
#include <vector>

#include "collective/collective.h"
#include "transport/test_ranks.h"
#include "transport/transport.h"

namespace conclave {
namespace {

constexpr std::size_t kHidden = 7168;  // of Kimi K2: 28,672 bytes
constexpr std::size_t kBytes = kHidden * sizeof(float);
constexpr std::size_t kWarmUp = 200;

struct Times {
  double median = 0.0;  // microseconds
  double slow = 0.0;    // 95 % are faster
};

Times times_of(std::size_t repetitions, const std::function<void()>& once) {
  const RealClock clock;
  std::vector<double> all;
  for (std::size_t i = 0; i < repetitions + kWarmUp; ++i) {
    const Time begun = clock.now();
    once();
    const std::chrono::duration<double, std::micro> taken = clock.now() - begun;
    if (i >= kWarmUp) all.push_back(taken.count());
  }
  std::ranges::sort(all);
  return {.median = all[all.size() / 2], .slow = all[all.size() * 95 / 100]};
}

void print(std::string_view what, const Times& times) {
  fmt::print("{:34} median {:7.1f} us   95 % within {:7.1f} us\n", what, times.median, times.slow);
}

void all(int fd, std::vector<std::byte>& bytes, bool out) {
  for (std::size_t done = 0; done < bytes.size();) {
    const ssize_t n = out ? ::write(fd, bytes.data() + done, bytes.size() - done)
                          : ::read(fd, bytes.data() + done, bytes.size() - done);
    if (n <= 0) std::abort();
    done += static_cast<std::size_t>(n);
  }
}

// Two plain sockets over loopback.
void bare_tcp(std::size_t repetitions) {
  const int listener = ::socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t length = sizeof address;
  auto* generic = reinterpret_cast<sockaddr*>(&address);
  if (::bind(listener, generic, length) != 0 || ::listen(listener, 1) != 0) std::abort();
  ::getsockname(listener, generic, &length);
  const int one = ::socket(AF_INET, SOCK_STREAM, 0);
  if (::connect(one, generic, length) != 0) std::abort();
  const int other = ::accept(listener, nullptr, nullptr);
  const int yes = 1;
  for (const int fd : {one, other}) ::setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
  std::thread echo([&] {
    std::vector<std::byte> bytes(kBytes);
    for (std::size_t i = 0; i < repetitions + kWarmUp; ++i) {
      all(other, bytes, false);
      all(other, bytes, true);
    }
  });
  std::vector<std::byte> bytes(kBytes);
  print("bare TCP, round trip", times_of(repetitions, [&] {
          all(one, bytes, true);
          all(one, bytes, false);
        }));
  echo.join();
  for (const int fd : {one, other, listener}) ::close(fd);
}

void round_trip(std::string_view way, std::vector<std::unique_ptr<transport::Transport>>& ranks,
                std::size_t repetitions) {
  const std::vector<std::byte> bytes(kBytes);
  std::thread echo([&] {
    for (std::size_t i = 0; i < repetitions + kWarmUp; ++i) {
      send(*ranks[1], 0, ranks[1]->receive(Time::max()).message.payload);
    }
  });
  print(fmt::format("{}, round trip", way), times_of(repetitions, [&] {
          send(*ranks[0], 1, bytes);
          if (ranks[0]->receive(Time::max()).kind != transport::Received::Kind::kMessage) {
            std::abort();
          }
        }));
  echo.join();
}

void exchange(std::string_view way, std::vector<std::unique_ptr<transport::Transport>>& ranks,
              std::size_t repetitions) {
  const RealClock clock;
  const auto run = [&](std::size_t rank, const std::function<void(std::function<void()>)>& loop) {
    collective::Group group(ranks[rank].get(), clock, {{0, 0}, {1, 1}}, {.hidden_size = kHidden});
    const std::vector<float> partial(kHidden, 1.0f);
    std::vector<float> hidden(kHidden);
    std::uint32_t step = 0;
    loop([&] {
      const collective::Tag tag{.step = ++step, .layer = 0, .phase = wire::Phase::kAttention};
      const auto give = [&](std::size_t) { return std::span<const float>(partial); };
      if (!group.exchange(tag, give, hidden, nullptr)) std::abort();
    });
  };
  std::thread other([&] {
    run(1, [&](const std::function<void()>& once) {
      for (std::size_t i = 0; i < repetitions + kWarmUp; ++i) once();
    });
  });
  run(0, [&](const std::function<void()>& once) {
    print(fmt::format("{}, exchange", way), times_of(repetitions, once));
  });
  other.join();
}

int run(std::size_t repetitions) {
  bare_tcp(repetitions);
  for (const std::string_view way : {"shared memory", "TCP in clear", "TLS 1.3"}) {
    transport::Ranks processes(2, way == "TCP in clear");
    transport::TestGroup group = processes.group(1);
    for (transport::Endpoint& endpoint : group.spec.ranks) {
      endpoint.host_id = way == "shared memory" ? "here" : "";
    }
    auto ranks = group.transports({});
    round_trip(way, ranks, repetitions);
    exchange(way, ranks, repetitions);
  }
  return 0;
}

}  // namespace
}  // namespace conclave

int main(int argc, char** argv) {
  std::size_t repetitions = 5000;
  if (argc > 1) {
    const std::string_view text = argv[1];
    if (std::from_chars(text.data(), text.data() + text.size(), repetitions).ec != std::errc{} ||
        repetitions == 0) {
      fmt::print(stderr, "exchange_bench [REPETITIONS]\n");
      return 2;
    }
  }
  return conclave::run(repetitions);
}
