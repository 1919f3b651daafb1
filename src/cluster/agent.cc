#include <spdlog/spdlog.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <optional>
#include <string_view>
#include <utility>

#include "cluster/cluster.h"
#include "cluster/messages.h"
#include "cluster/token_log.h"
#include "cluster/worker_process.h"
#include "cluster/worker_supervisor.h"
#include "wire/wire.h"

namespace conclave::cluster {

using Action = WorkerSupervisor::Action;
using Phase = WorkerSupervisor::Phase;

class Agent::State {
 public:
  State(AgentOptions options, backend::WeightArena arena, const Clock& clock,
        AgentHandlers handlers, FileDescriptor epoll)
      : options_(std::move(options)),
        arena_(std::move(arena)),
        clock_(clock),
        handlers_(std::move(handlers)),
        epoll_(std::move(epoll)),
        supervisor_(options_.supervisor) {}

  int fd() const { return epoll_.get(); }
  const AgentStatus& status() const { return status_; }

  void poll();
  Result<void> submit(engine::Request request);
  void cancel(RequestId id);

 private:
  void read_worker();
  void handle_frames();
  void handle(const wire::pb::FromWorker& message);
  void handle_token(const wire::pb::Token& message);
  void close_with(RequestId id, const Error& error);
  void send_admit(RequestId id);
  void send(const wire::pb::ToWorker& message);
  void write_worker();
  void watch(int fd, std::uint32_t events, int operation);

  void act(Action action);
  void spawn();
  void lose(std::string reason) { act(supervisor_.on_lost(std::move(reason))); }
  void reap_if_ended();
  void on_ready(const wire::pb::Ready& ready);
  void fail_all();
  void update_status();

  AgentOptions options_;
  backend::WeightArena arena_;
  const Clock& clock_;
  AgentHandlers handlers_;
  FileDescriptor epoll_;
  WorkerSupervisor supervisor_;
  TokenLogs logs_;
  std::optional<WorkerProcess> worker_;
  wire::FrameReader reader_;
  std::string out_;  // bytes that the worker's socket has not taken yet
  bool watching_writes_ = false;
  AgentStatus status_;
};

void Agent::State::poll() {
  read_worker();
  reap_if_ended();
  act(supervisor_.on_tick(clock_.now()));
  write_worker();
  update_status();
  if (supervisor_.phase() == Phase::kFailed) fail_all();
}

// --- from the worker --------------------------------------------------------------------------

void Agent::State::read_worker() {
  std::array<char, 64 << 10> bytes;
  while (worker_ && worker_->control_fd() >= 0) {
    const ssize_t n = ::recv(worker_->control_fd(), bytes.data(), bytes.size(), 0);
    if (n > 0) {
      reader_.push({bytes.data(), static_cast<std::size_t>(n)});
      handle_frames();
      continue;
    }
    if (n < 0 && errno == EINTR) continue;
    if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) return;
    worker_->close_control();
    lose("its socket closed");
  }
}

void Agent::State::handle_frames() {
  while (worker_ && worker_->control_fd() >= 0) {
    auto payload = reader_.next();
    if (!payload) return lose(payload.error().message);
    if (!payload.value()) return;
    const auto message = wire::parse<wire::pb::FromWorker>(*payload.value());
    if (!message) return lose(message.error().message);
    handle(message.value());
  }
}

void Agent::State::handle(const wire::pb::FromWorker& message) {
  switch (message.body_case()) {
    case wire::pb::FromWorker::kToken:
      return handle_token(message.token());
    case wire::pb::FromWorker::kPrefill: {
      const wire::pb::Prefill& prefill = message.prefill();
      const RequestId id{prefill.request()};
      const TokenLog* log = logs_.find(id);
      if (log == nullptr || log->attempt() != prefill.attempt()) return;
      return handlers_.on_prefill(id, prefill.done(), prefill.total());
    }
    case wire::pb::FromWorker::kLoading:
      status_.loaded_bytes = message.loading().done_bytes();
      status_.total_bytes = message.loading().total_bytes();
      return;
    case wire::pb::FromWorker::kReady:
      return on_ready(message.ready());
    case wire::pb::FromWorker::kFailed:
      return act(supervisor_.on_refused(message.failed().error()));
    case wire::pb::FromWorker::kStats:
      status_.stats = from_message(message.stats());
      return;
    case wire::pb::FromWorker::kHeartbeat:
      supervisor_.on_heartbeat(message.heartbeat().progress(), message.heartbeat().busy());
      return;
    case wire::pb::FromWorker::BODY_NOT_SET:
      return lose("a message without a body");
  }
}

void Agent::State::handle_token(const wire::pb::Token& message) {
  const RequestId id{message.request()};
  TokenLog* log = logs_.find(id);
  if (log == nullptr) return;  // cancelled meanwhile
  if (message.attempt() > log->attempt()) return lose("a token of an attempt that never began");
  const auto event = from_message(message);
  if (!event) return lose(event.error().message);

  switch (log->take(message.attempt(), message.index(), event.value().token)) {
    case TokenLog::Verdict::kStale:
      return;
    case TokenLog::Verdict::kGap:
      return lose("token " + std::to_string(message.index()) + " of request " +
                  std::to_string(id.value) + " came before token " +
                  std::to_string(log->tokens().size()));
    case TokenLog::Verdict::kTaken:
      break;
  }
  switch (event.value().finish) {
    case engine::FinishReason::kNone:
      break;
    case engine::FinishReason::kStop:
    case engine::FinishReason::kLength:
      logs_.close(id);
      break;
    case engine::FinishReason::kCancelled:
      return close_with(id, unavailable("the worker dropped the request"));
    case engine::FinishReason::kError:
      return close_with(id, failure_of(message));
  }
  if (event.value().token) supervisor_.on_token();
  handlers_.on_token(event.value());
}

void Agent::State::close_with(RequestId id, const Error& error) {
  if (logs_.close(id)) handlers_.on_failed(id, error);
}

void Agent::State::on_ready(const wire::pb::Ready& ready) {
  if (supervisor_.phase() != Phase::kLoading) return lose("ready twice");
  supervisor_.on_ready(clock_.now());
  status_.backend = ready.backend();
  status_.context_max = ready.context_max();
  spdlog::info("worker ready pid={} backend=\"{}\" context={} open_requests={} restarts={}",
               worker_->pid(), status_.backend, status_.context_max, logs_.size(),
               supervisor_.restarts());
  update_status();
  for (const RequestId id : logs_.ids()) send_admit(id);
}

// --- to the worker ----------------------------------------------------------------------------

Result<void> Agent::State::submit(engine::Request request) {
  if (supervisor_.phase() == Phase::kFailed) return unavailable(supervisor_.failure());
  if (logs_.size() >= options_.requests_max) {
    return exhausted(std::to_string(logs_.size()) + " requests are open; that is the limit");
  }
  const RequestId id = request.id;
  logs_.open(std::move(request));
  status_.open_requests = logs_.size();
  if (supervisor_.phase() == Phase::kReady) send_admit(id);
  return {};
}

void Agent::State::cancel(RequestId id) {
  TokenLog* log = logs_.find(id);
  if (log == nullptr) return;
  if (supervisor_.phase() == Phase::kReady) {
    wire::pb::ToWorker message;
    message.mutable_cancel()->set_request(id.value);
    message.mutable_cancel()->set_attempt(log->attempt());
    send(message);
  }
  logs_.close(id);
  status_.open_requests = logs_.size();
}

void Agent::State::send_admit(RequestId id) {
  TokenLog* log = logs_.find(id);
  if (log == nullptr) return;
  if (log->barren_attempts() >= options_.barren_attempts_max) {
    return close_with(id, unavailable(std::to_string(log->barren_attempts()) +
                                      " workers ended while they worked on this request"));
  }
  wire::pb::ToWorker message;
  *message.mutable_admit() = log->admit();
  send(message);
}

void Agent::State::send(const wire::pb::ToWorker& message) {
  if (const auto appended = wire::append_frame(message, out_); !appended) {
    return close_with(RequestId{message.admit().request()}, appended.error());
  }
  write_worker();
}

void Agent::State::write_worker() {
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

void Agent::State::watch(int fd, std::uint32_t events, int operation) {
  epoll_event event{};
  event.events = events;
  event.data.fd = fd;
  CHECK(epoll_ctl(epoll_.get(), operation, fd, &event) == 0);
}

void Agent::State::act(Action action) {
  switch (action) {
    case Action::kNone:
      return;
    case Action::kSpawn:
      return spawn();
    case Action::kKill:
      worker_->kill();
      worker_->close_control();
      return;
  }
}

void Agent::State::spawn() {
  CHECK(!worker_.has_value());
  auto process = WorkerProcess::spawn(options_.program, options_.worker, arena_.fd());
  supervisor_.on_spawned(clock_.now());
  if (!process) {
    static_cast<void>(supervisor_.on_lost(""));
    return supervisor_.on_exited(clock_.now(), process.error().message);
  }
  worker_.emplace(std::move(process).value());
  reader_ = wire::FrameReader();
  out_.clear();
  watching_writes_ = false;
  status_.stats = {};
  watch(worker_->control_fd(), EPOLLIN, EPOLL_CTL_ADD);
  watch(worker_->exit_fd(), EPOLLIN, EPOLL_CTL_ADD);
  spdlog::info("worker started pid={}", worker_->pid());
}

void Agent::State::reap_if_ended() {
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
  if (supervisor_.phase() != Phase::kFailed) static_cast<void>(supervisor_.on_lost(""));
  supervisor_.on_exited(clock_.now(), worker_->reap());
  worker_.reset();
  spdlog::warn("worker ended pid={} how=\"{}\" open_requests={}", pid, supervisor_.last_end(),
               logs_.size());
}

void Agent::State::fail_all() {
  for (const RequestId id : logs_.ids()) close_with(id, unavailable(supervisor_.failure()));
}

void Agent::State::update_status() {
  switch (supervisor_.phase()) {
    case Phase::kReady:
      status_.state = AgentState::kReady;
      break;
    case Phase::kFailed:
      status_.state = AgentState::kFailed;
      break;
    case Phase::kWaiting:
    case Phase::kLoading:
    case Phase::kEnding:
      status_.state = supervisor_.was_ready() ? AgentState::kRestarting : AgentState::kLoading;
      break;
  }
  status_.failure = supervisor_.failure();
  status_.restarts = supervisor_.restarts();
  status_.worker_pid = worker_ ? worker_->pid() : 0;
  status_.open_requests = logs_.size();
}

// --- the public face --------------------------------------------------------------------------

Agent::Agent(std::unique_ptr<State> state) : state_(std::move(state)) {}
Agent::~Agent() = default;

Result<std::unique_ptr<Agent>> Agent::create(AgentOptions options, backend::WeightArena arena,
                                             const Clock& clock, AgentHandlers handlers) {
  if (arena.fd() < 0) return invalid_input("agent: the weight arena is not shared");
  FileDescriptor epoll(epoll_create1(EPOLL_CLOEXEC));
  if (!epoll.open()) {
    return unavailable(std::string("agent: cannot watch a worker: ") + std::strerror(errno));
  }
  auto state = std::make_unique<State>(std::move(options), std::move(arena), clock,
                                       std::move(handlers), std::move(epoll));
  return std::make_unique<Agent>(std::move(state));
}

int Agent::fd() const { return state_->fd(); }
void Agent::poll() { state_->poll(); }
Result<void> Agent::submit(engine::Request request) { return state_->submit(std::move(request)); }
void Agent::cancel(RequestId id) { state_->cancel(id); }
const AgentStatus& Agent::status() const { return state_->status(); }

}  // namespace conclave::cluster
