// The connection to one peer: cuts its bytes into messages, and queues what it does not take.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>

#include "transport/secure_stream.h"
#include "transport/send_queue.h"
#include "transport/shm_lane.h"
#include "transport/transport.h"

namespace conclave::transport {

class Link {
 public:
  struct Limits {
    std::size_t queue_bytes_max = 0;
    Duration silence_max{};  // of a machine that has to answer
  };

  // A connected peer; `lane`, if there is one, has taken the stream's place.
  Link(Rank peer, std::uint32_t epoch, const Limits& limits, std::optional<SecureStream> stream,
       std::optional<ShmLane> lane);

  Rank peer() const { return peer_; }
  bool lost() const { return !reason_.empty(); }
  const std::string& reason() const { return reason_; }  // of the loss
  const LinkStats& stats() const { return stats_; }

  void send(const wire::DataHeader& header, std::span<const std::span<const std::byte>> parts);
  bool has_queued() const { return !queue_.empty(); }
  void write_queued();
  // The next message, if it is here whole; its payload is valid until the next call.
  std::optional<Message> read();

  // Before a wait, once read() has found nothing: what to poll() for, to read (or only to write
  // what is queued). False: there is something to do already, so that poll() must not wait.
  bool prepare_wait(bool to_read);
  int fd() const;
  short poll_events(bool to_read) const;
  void finish_wait(bool ready);
  // Now and then during a wait: is its machine still there? TCP alone would say so after minutes,
  // or with a user timeout call a peer lost that computes and does not read.
  void check_silence();

 private:
  IoResult read_some(std::span<std::byte> into);
  IoResult write_some(std::span<const std::span<const std::byte>> parts);
  std::size_t write_parts(std::span<const std::span<const std::byte>> parts);
  bool fill(std::span<std::byte> bytes, std::size_t& have);
  bool start_payload();
  void lose(std::string reason);

  Rank peer_;
  std::uint32_t epoch_;
  Limits limits_;
  std::optional<SecureStream> stream_;
  std::optional<ShmLane> lane_;

  SendQueue queue_;
  std::uint32_t next_sent_ = 0;
  IoStatus write_wants_ = IoStatus::kDone;

  std::array<std::byte, wire::kDataHeaderSize> header_bytes_{};
  std::size_t header_have_ = 0;
  wire::DataHeader header_;
  std::unique_ptr<std::byte[]> payload_;  // grows to the largest message; aligned as by new
  std::size_t payload_capacity_ = 0;
  std::size_t payload_have_ = 0;
  std::uint32_t next_received_ = 0;
  IoStatus read_wants_ = IoStatus::kDone;

  LinkStats stats_;
  std::string reason_;
};

}  // namespace conclave::transport
