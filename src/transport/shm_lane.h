// A byte stream between two processes of one machine: two rings in shared memory, and a Unix
// socket that wakes the one that waits and whose end says that the other is gone.
//
// The memory is sealed against resizing, and every index the other side writes there is checked,
// so that a damaged peer is lost like another and cannot make this process read elsewhere.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

#include "base/result.h"
#include "transport/hello.h"
#include "transport/secure_stream.h"
#include "transport/socket.h"

namespace conclave::transport {

class ShmLane {
 public:
  static constexpr std::size_t kRingBytes = std::size_t{512} << 10;  // in each direction

  ShmLane(ShmLane&& other) noexcept;
  ShmLane& operator=(ShmLane&& other) noexcept;
  ~ShmLane();

  // As SecureStream's. kClosed comes after the last byte that the peer wrote.
  IoResult read_some(std::span<std::byte> into);
  IoResult write_some(std::span<const std::span<const std::byte>> parts);
  std::string_view error() const { return error_; }

  // Before a wait for fd() to be readable: tells the peer that it must wake this side when bytes
  // come, or when its own reading has made room. False: what is waited for is there.
  bool prepare_wait(bool for_bytes, bool for_room);
  // After it. `readable`: what poll() said of fd().
  void finish_wait(bool readable);
  int fd() const { return socket_.get(); }

 private:
  friend class LaneListener;
  friend Result<ShmLane> connect_lane(const LaneName& name);
  struct Ring;
  struct Control;

  ShmLane(Socket socket, void* memory, bool caller);
  Ring& in() const;
  Ring& out() const;
  std::span<std::byte> ring_bytes(bool incoming) const;
  void wake_peer();
  IoResult damaged();

  Socket socket_;
  void* memory_ = nullptr;
  bool caller_ = false;
  bool peer_gone_ = false;
  std::uint64_t read_ = 0;     // bytes of in() so far; what the memory says of it is for the peer
  std::uint64_t written_ = 0;  // of out()
  std::string_view error_;
};

// The acceptor's end of making a lane: has a name before the caller asks for it.
class LaneListener {
 public:
  static Result<LaneListener> make();
  const LaneName& name() const { return name_; }
  // The lane of a caller whose connect_lane() has returned. Does not wait.
  Result<ShmLane> accept();

 private:
  LaneListener(Socket socket, const LaneName& name) : socket_(std::move(socket)), name_(name) {}

  Socket socket_;
  LaneName name_;
};

// kUnavailable: there is no such listener on this machine, whatever the host ids said.
Result<ShmLane> connect_lane(const LaneName& name);

}  // namespace conclave::transport
