#include "transport/shm_lane.h"

#include <fcntl.h>
#include <openssl/rand.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <new>
#include <string>
#include <utility>

namespace conclave::transport {
namespace {

constexpr std::size_t kControlBytes = 4096;
constexpr std::size_t kLaneBytes = kControlBytes + 2 * ShmLane::kRingBytes;
constexpr int kSeals = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL;
constexpr int kCallersMax = 4;  // that wait on a listener; only one of them is the right one
constexpr std::size_t kCacheLine = 64;

struct UnixAddress {
  sockaddr_un address{};
  socklen_t size = 0;
};

// In the abstract namespace: no file that a crash would leave behind.
UnixAddress address_of(const LaneName& name) {
  UnixAddress result;
  result.address.sun_family = AF_UNIX;
  std::string path(1, '\0');
  path += "conclave-lane-";
  for (const std::byte byte : name) {
    path.push_back(static_cast<char>('a' + std::to_integer<int>(byte >> 4)));
    path.push_back(static_cast<char>('a' + std::to_integer<int>(byte & std::byte{15})));
  }
  std::copy(path.begin(), path.end(), result.address.sun_path);
  result.size = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + path.size());
  return result;
}

const sockaddr* as_sockaddr(const UnixAddress& address) {
  return reinterpret_cast<const sockaddr*>(&address.address);
}

Error lane_error(const std::string& what) {
  return unavailable("shared memory: " + what + ": " + error_text(errno));
}

Result<void*> map_lane(int memory) {
  void* mapped =
      mmap(nullptr, kLaneBytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, memory, 0);
  if (mapped == MAP_FAILED) return lane_error("mmap");
  return mapped;
}

// The one byte of a message that carries a descriptor, with room for the descriptor.
struct DescriptorMessage {
  std::byte byte{};
  iovec vector{&byte, 1};
  alignas(cmsghdr) std::array<char, CMSG_SPACE(sizeof(int))> control{};
  msghdr header{};

  DescriptorMessage() {
    header.msg_iov = &vector;
    header.msg_iovlen = 1;
    header.msg_control = control.data();
    header.msg_controllen = control.size();
  }
  DescriptorMessage(const DescriptorMessage&) = delete;
  DescriptorMessage& operator=(const DescriptorMessage&) = delete;
};

bool send_descriptor(int socket, int descriptor) {
  DescriptorMessage message;
  cmsghdr* control = CMSG_FIRSTHDR(&message.header);
  control->cmsg_level = SOL_SOCKET;
  control->cmsg_type = SCM_RIGHTS;
  control->cmsg_len = CMSG_LEN(sizeof(int));
  std::memcpy(CMSG_DATA(control), &descriptor, sizeof descriptor);
  return sendmsg(socket, &message.header, MSG_NOSIGNAL | MSG_DONTWAIT) == 1;
}

Socket receive_descriptor(int socket) {
  DescriptorMessage message;
  if (recvmsg(socket, &message.header, MSG_DONTWAIT | MSG_CMSG_CLOEXEC) != 1) return {};
  const cmsghdr* control = CMSG_FIRSTHDR(&message.header);
  if (control == nullptr || control->cmsg_level != SOL_SOCKET || control->cmsg_type != SCM_RIGHTS ||
      control->cmsg_len != CMSG_LEN(sizeof(int))) {
    return {};
  }
  int descriptor = -1;
  std::memcpy(&descriptor, CMSG_DATA(control), sizeof descriptor);
  return Socket(descriptor);
}

bool is_lane_memory(int memory) {
  struct stat status {};
  return fstat(memory, &status) == 0 && static_cast<std::size_t>(status.st_size) == kLaneBytes &&
         (fcntl(memory, F_GET_SEALS) & kSeals) == kSeals;
}

bool same_user(int socket) {
  ucred peer{};
  socklen_t size = sizeof peer;
  return getsockopt(socket, SOL_SOCKET, SO_PEERCRED, &peer, &size) == 0 && peer.uid == geteuid();
}

}  // namespace

// One direction. Indices count bytes for ever; a ring's byte i is at i % kRingBytes.
struct ShmLane::Ring {
  alignas(kCacheLine) std::atomic<std::uint64_t> written{0};
  alignas(kCacheLine) std::atomic<std::uint64_t> read{0};
  // Set by who is about to sleep, cleared by who wakes it. Each side stores its index before it
  // loads the other's flag, and its flag before the other's index, all in one total order
  // (seq_cst): so one of the two always sees the other, and no wake-up is missed.
  alignas(kCacheLine) std::atomic<std::uint32_t> reader_sleeps{0};
  alignas(kCacheLine) std::atomic<std::uint32_t> writer_sleeps{0};
};

struct ShmLane::Control {
  std::array<Ring, 2> rings;  // written by the caller, by the acceptor
};

static_assert(std::atomic<std::uint64_t>::is_always_lock_free);

ShmLane::ShmLane(Socket socket, void* memory, bool caller)
    : socket_(std::move(socket)), memory_(memory), caller_(caller) {
  static_assert(sizeof(Control) <= kControlBytes);
}

ShmLane::ShmLane(ShmLane&& other) noexcept
    : socket_(std::move(other.socket_)),
      memory_(std::exchange(other.memory_, nullptr)),
      caller_(other.caller_),
      peer_gone_(other.peer_gone_),
      read_(other.read_),
      written_(other.written_),
      error_(other.error_) {}

ShmLane& ShmLane::operator=(ShmLane&& other) noexcept {
  std::swap(memory_, other.memory_);  // unmapped with `other`
  socket_ = std::move(other.socket_);
  caller_ = other.caller_;
  peer_gone_ = other.peer_gone_;
  read_ = other.read_;
  written_ = other.written_;
  error_ = other.error_;
  return *this;
}

ShmLane::~ShmLane() {
  if (memory_ != nullptr) munmap(memory_, kLaneBytes);
}

ShmLane::Ring& ShmLane::in() const {
  return static_cast<Control*>(memory_)->rings[caller_ ? 1 : 0];
}

ShmLane::Ring& ShmLane::out() const {
  return static_cast<Control*>(memory_)->rings[caller_ ? 0 : 1];
}

std::span<std::byte> ShmLane::ring_bytes(bool incoming) const {
  const std::size_t index = incoming == caller_ ? 1 : 0;
  return {static_cast<std::byte*>(memory_) + kControlBytes + index * kRingBytes, kRingBytes};
}

void ShmLane::wake_peer() {
  constexpr std::byte kAnything{1};
  // A full socket holds wake-ups that were not taken yet, so the peer will wake anyway.
  const ssize_t sent = ::send(socket_.get(), &kAnything, 1, MSG_NOSIGNAL | MSG_DONTWAIT);
  if (sent < 0 && !would_block(errno) && errno != EINTR) peer_gone_ = true;
}

IoResult ShmLane::damaged() {
  error_ = "its shared memory is damaged";
  return {IoStatus::kFailed, 0};
}

IoResult ShmLane::read_some(std::span<std::byte> into) {
  Ring& ring = in();
  const std::uint64_t available = ring.written.load(std::memory_order_acquire) - read_;
  if (available > kRingBytes) return damaged();
  if (available == 0 && peer_gone_) {
    error_ = "connection closed";
    return {IoStatus::kClosed, 0};
  }
  if (available == 0) return {IoStatus::kWantRead, 0};

  const std::span<std::byte> bytes = ring_bytes(true);
  const std::size_t n = std::min<std::size_t>(available, into.size());
  const std::size_t at = read_ % kRingBytes;
  const std::size_t first = std::min(n, kRingBytes - at);
  std::memcpy(into.data(), bytes.data() + at, first);
  std::memcpy(into.data() + first, bytes.data(), n - first);
  read_ += n;
  ring.read.store(read_);
  // Half a ring at least, so that a long message does not cost a wake-up for every few bytes.
  if (available - n <= kRingBytes / 2 && ring.writer_sleeps.load() != 0 &&
      ring.writer_sleeps.exchange(0) != 0) {
    wake_peer();
  }
  return {IoStatus::kDone, n};
}

IoResult ShmLane::write_some(std::span<const std::span<const std::byte>> parts) {
  Ring& ring = out();
  const std::uint64_t used = written_ - ring.read.load(std::memory_order_acquire);
  if (used > kRingBytes) return damaged();
  if (peer_gone_) {
    error_ = "connection closed";
    return {IoStatus::kClosed, 0};
  }
  const std::span<std::byte> bytes = ring_bytes(false);
  std::size_t room = kRingBytes - static_cast<std::size_t>(used);
  std::size_t taken = 0;
  for (const std::span<const std::byte> part : parts) {
    const std::size_t n = std::min(part.size(), room);
    if (n == 0) continue;
    const std::size_t at = (written_ + taken) % kRingBytes;
    const std::size_t first = std::min(n, kRingBytes - at);
    std::memcpy(bytes.data() + at, part.data(), first);
    std::memcpy(bytes.data(), part.data() + first, n - first);
    taken += n;
    room -= n;
  }
  if (taken == 0) return {IoStatus::kWantWrite, 0};
  written_ += taken;
  ring.written.store(written_);
  if (ring.reader_sleeps.load() != 0 && ring.reader_sleeps.exchange(0) != 0) wake_peer();
  return {IoStatus::kDone, taken};
}

bool ShmLane::prepare_wait(bool for_bytes, bool for_room) {
  if (peer_gone_) return false;
  if (for_bytes) {
    in().reader_sleeps.store(1);
    if (in().written.load() != read_) return false;
  }
  if (for_room) {
    out().writer_sleeps.store(1);
    if (written_ - out().read.load() <= kRingBytes / 2) return false;
  }
  return true;
}

void ShmLane::finish_wait(bool readable) {
  in().reader_sleeps.store(0, std::memory_order_relaxed);
  out().writer_sleeps.store(0, std::memory_order_relaxed);
  if (!readable) return;
  std::array<std::byte, 256> wake_ups;
  const ssize_t n = ::recv(socket_.get(), wake_ups.data(), wake_ups.size(), MSG_DONTWAIT);
  if (n == 0 || (n < 0 && !would_block(errno) && errno != EINTR)) peer_gone_ = true;
}

Result<LaneListener> LaneListener::make() {
  LaneName name{};
  CHECK(RAND_bytes(reinterpret_cast<unsigned char*>(name.data()), static_cast<int>(name.size())) ==
        1);
  Socket socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  const UnixAddress address = address_of(name);
  if (!socket.open() || ::bind(socket.get(), as_sockaddr(address), address.size) != 0 ||
      ::listen(socket.get(), kCallersMax) != 0) {
    return lane_error("cannot listen");
  }
  return LaneListener(std::move(socket), name);
}

Result<ShmLane> LaneListener::accept() {
  for (;;) {
    Socket socket(::accept4(socket_.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
    if (!socket.open()) return lane_error("nobody called");
    if (!same_user(socket.get())) continue;
    const Socket memory = receive_descriptor(socket.get());
    if (!memory.open() || !is_lane_memory(memory.get())) continue;
    return ShmLane(std::move(socket), TRY(map_lane(memory.get())), false);
  }
}

Result<ShmLane> connect_lane(const LaneName& name) {
  Socket socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  const UnixAddress address = address_of(name);
  if (!socket.open() || ::connect(socket.get(), as_sockaddr(address), address.size) != 0) {
    return lane_error("cannot connect");
  }
  if (!same_user(socket.get())) return unavailable("shared memory: the peer is another user's");
  const Socket memory(memfd_create("conclave-lane", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  if (!memory.open() || ftruncate(memory.get(), static_cast<off_t>(kLaneBytes)) != 0 ||
      fcntl(memory.get(), F_ADD_SEALS, kSeals) != 0) {
    return lane_error("cannot make it");
  }
  void* mapped = TRY(map_lane(memory.get()));
  new (mapped) ShmLane::Control;
  ShmLane lane(std::move(socket), mapped, true);
  if (!send_descriptor(lane.fd(), memory.get())) return lane_error("cannot hand it over");
  return lane;
}

}  // namespace conclave::transport
