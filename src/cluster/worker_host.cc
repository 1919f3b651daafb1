#include "cluster/worker_host.h"

#include <spdlog/spdlog.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <string_view>
#include <system_error>
#include <utility>

#include "base/check.h"

namespace conclave::cluster {
namespace {

constexpr std::size_t kDescriptorsMax = 64;  // in one read
constexpr std::size_t kKeptMax = 8192;       // memories; more means that the worker is wrong
// Bytes that a worker has not read: all requests that may be open, and many that were given up.
constexpr std::size_t kUnreadMax = std::size_t{512} << 20;

}  // namespace

Result<std::unique_ptr<WorkerHost>> WorkerHost::create(WorkerHostOptions options,
                                                       const Clock& clock,
                                                       WorkerHostHandlers handlers) {
  FileDescriptor epoll(epoll_create1(EPOLL_CLOEXEC));
  if (!epoll.open()) {
    return unavailable(std::string("cannot watch a worker: ") +
                       std::generic_category().message(errno));
  }
  return std::unique_ptr<WorkerHost>(
      new WorkerHost(std::move(options), clock, std::move(handlers), std::move(epoll)));
}

WorkerHost::WorkerHost(WorkerHostOptions options, const Clock& clock, WorkerHostHandlers handlers,
                       FileDescriptor epoll)
    : options_(std::move(options)),
      clock_(clock),
      handlers_(std::move(handlers)),
      epoll_(std::move(epoll)),
      node_(options_.node) {}

WorkerHost::~WorkerHost() = default;

void WorkerHost::poll() {
  read_worker();
  reap_if_ended();
  node_.on_tick(clock_.now());
  act();
  write_worker();
}

void WorkerHost::on_assignment(const wire::pb::Assignment& assignment) {
  node_.on_assignment(clock_.now(), assignment);
  act();
}

void WorkerHost::on_head() {
  node_.on_head(clock_.now());
  act();
}

void WorkerHost::on_head_gone() {
  node_.on_head_gone(clock_.now());
  act();
}

void WorkerHost::keep(const std::string& name, FileDescriptor memory) {
  kept_[name] = std::move(memory);
}

void WorkerHost::tell(const wire::pb::ToWorker& message) {
  if (!worker_ || worker_->control_fd() < 0) return;
  if (const auto appended = wire::append_frame(message, out_); !appended) {
    spdlog::error("worker message dropped reason=\"{}\"", appended.error().message);
    return;
  }
  write_worker();
  if (out_.size() <= kUnreadMax) return;
  spdlog::warn("worker ended reason=\"it has not read {} bytes\"", out_.size());
  worker_->close_control();
  out_ = {};
  node_.on_worker_closed(clock_.now());
  act();
}

// What the node wants done may make it want more.
void WorkerHost::act() {
  if (std::exchange(acting_, true)) return;
  for (;;) {
    std::vector<NodeAction> actions = node_.take_actions();
    if (actions.empty()) break;
    for (NodeAction& action : actions) perform(action);
  }
  acting_ = false;
}

void WorkerHost::perform(NodeAction& action) {
  if (std::holds_alternative<SpawnWorker>(action)) {
    spawn();
  } else if (std::holds_alternative<KillWorker>(action)) {
    if (!worker_) return;
    worker_->kill();
    worker_->close_control();
  } else if (const auto* told = std::get_if<TellWorker>(&action)) {
    tell(told->message);
  } else if (const auto* report = std::get_if<TellHead>(&action)) {
    handlers_.on_report(report->report);
  }
}

void WorkerHost::spawn() {
  CHECK(!worker_.has_value());
  Result<WorkerProcess> process = WorkerProcess::spawn(options_.program, options_.worker, kept_);
  if (!process) return node_.on_worker_exited(clock_.now(), process.error().message);
  worker_.emplace(std::move(process).value());
  reader_ = wire::FrameReader();
  received_.clear();
  out_.clear();
  watching_writes_ = false;
  watch(worker_->control_fd(), EPOLLIN, EPOLL_CTL_ADD);
  watch(worker_->exit_fd(), EPOLLIN, EPOLL_CTL_ADD);
  spdlog::info("worker started pid={} memories={}", worker_->pid(), kept_.size());
  node_.on_spawned(clock_.now());
}

// --- from the worker --------------------------------------------------------------------------

void WorkerHost::take_rights(const void* message) {
  auto* header = static_cast<msghdr*>(const_cast<void*>(message));
  for (cmsghdr* part = CMSG_FIRSTHDR(header); part != nullptr; part = CMSG_NXTHDR(header, part)) {
    if (part->cmsg_level != SOL_SOCKET || part->cmsg_type != SCM_RIGHTS) continue;
    const std::size_t n = (part->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (std::size_t i = 0; i < n; ++i) {
      int fd = -1;
      std::memcpy(&fd, CMSG_DATA(part) + i * sizeof(int), sizeof(int));
      received_.emplace_back(fd);
    }
  }
}

void WorkerHost::read_worker() {
  std::array<char, 64 << 10> bytes;
  alignas(cmsghdr) std::array<char, CMSG_SPACE(kDescriptorsMax * sizeof(int))> control;
  while (worker_ && worker_->control_fd() >= 0) {
    iovec part{bytes.data(), bytes.size()};
    msghdr header{};
    header.msg_iov = &part;
    header.msg_iovlen = 1;
    header.msg_control = control.data();
    header.msg_controllen = control.size();
    const ssize_t n = ::recvmsg(worker_->control_fd(), &header, MSG_CMSG_CLOEXEC);
    if (n > 0) {
      take_rights(&header);
      reader_.push({bytes.data(), static_cast<std::size_t>(n)});
      handle_frames();
      continue;
    }
    if (n < 0 && errno == EINTR) continue;
    if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) return;
    worker_->close_control();
    node_.on_worker_closed(clock_.now());
    act();
  }
}

void WorkerHost::handle_frames() {
  while (worker_ && worker_->control_fd() >= 0) {
    const auto payload = reader_.next();
    if (payload && !*payload) return;
    Result<wire::pb::FromWorker> message = payload ? wire::parse<wire::pb::FromWorker>(**payload)
                                                   : Result<wire::pb::FromWorker>(payload.error());
    if (!message) {
      spdlog::warn("worker broke the protocol reason=\"{}\"", message.error().message);
      worker_->close_control();
      node_.on_worker_closed(clock_.now());
      return act();
    }
    if (message->has_keep()) {
      handle_keep(message->keep());
      continue;
    }
    node_.on_worker(clock_.now(), *message);
    act();
    if (message->has_token() || message->has_prefill() || message->has_stats() ||
        message->has_trace()) {
      handlers_.on_message(*message);
    }
  }
}

void WorkerHost::handle_keep(const wire::pb::Keep& keep) {
  if (keep.drop()) {
    kept_.erase(keep.name());
    return;
  }
  if (received_.empty()) return;  // its descriptor was lost: descriptors are used up
  if (kept_.size() < kKeptMax) kept_[keep.name()] = std::move(received_.front());
  received_.pop_front();
}

// --- to the worker ----------------------------------------------------------------------------

void WorkerHost::write_worker() {
  if (!worker_ || worker_->control_fd() < 0) return;
  std::string_view rest = out_;
  while (!rest.empty()) {
    const ssize_t n =
        ::send(worker_->control_fd(), rest.data(), rest.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) break;  // full, or dead: then the next read says so
    rest.remove_prefix(static_cast<std::size_t>(n));
  }
  out_.erase(0, out_.size() - rest.size());
  if (watching_writes_ == !out_.empty()) return;
  watching_writes_ = !out_.empty();
  watch(worker_->control_fd(), watching_writes_ ? EPOLLIN | EPOLLOUT : EPOLLIN, EPOLL_CTL_MOD);
}

// --- its life ---------------------------------------------------------------------------------

void WorkerHost::watch(int fd, std::uint32_t events, int operation) {
  epoll_event event{};
  event.events = events;
  event.data.fd = fd;
  CHECK(epoll_ctl(epoll_.get(), operation, fd, &event) == 0);
}

void WorkerHost::reap_if_ended() {
  if (!worker_) return;
  // Death may be seen before the end of the socket: what was sent before it still counts.
  std::array<epoll_event, 2> events{};
  const int n = epoll_wait(epoll_.get(), events.data(), static_cast<int>(events.size()), 0);
  bool ended = false;
  for (int i = 0; i < n; ++i) {
    ended = ended || events[static_cast<std::size_t>(i)].data.fd == worker_->exit_fd();
  }
  if (!ended) return;
  read_worker();
  const int pid = worker_->pid();
  const std::string how = worker_->reap();
  worker_.reset();
  node_.on_worker_exited(clock_.now(), how);
  spdlog::warn("worker ended pid={} how=\"{}\"", pid, node_.supervisor().last_end());
  act();
}

}  // namespace conclave::cluster
