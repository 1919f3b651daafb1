#include "cluster/weight_server.h"

#include <poll.h>
#include <spdlog/spdlog.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <condition_variable>
#include <list>
#include <mutex>
#include <optional>
#include <thread>
#include <utility>

#include "base/check.h"
#include "base/file_descriptor.h"
#include "cluster/bulk_session.h"

namespace conclave::cluster {
namespace {

using SlotState = BulkSlot::State;

constexpr int kTickMs = 500;               // for limits in time
constexpr int kAnswersPerTurn = 16;        // of one session, before others get their turn
constexpr std::size_t kEchoAtOnce = 4096;  // bytes; the packing threads make larger ones
constexpr int kPackingNice = 10;           // the worker of this machine computes meanwhile

}  // namespace

struct WeightServer::State {
  State(const std::vector<const model::ModelSource*>& sources, const Clock& the_clock,
        const WeightServerLimits& the_limits);
  ~State();

  using Sessions = std::list<std::unique_ptr<BulkSession>>;

  // The serving thread.
  void serve();
  void wait_for_events();
  void take_arrivals();
  void end_leaving();
  void make_room_for(const std::string& name);
  void read(BulkSession& session);
  void take(BulkSession& session, BulkRequest request);
  void refuse(BulkSession& session, const BulkRequest& request, const Error& error);
  void write(BulkSession& session);
  std::optional<std::string> over(const BulkSession& session) const;
  Sessions::iterator drop(Sessions::iterator session);
  void wake() const { eventfd_write(event.get(), 1); }

  // The packing threads.
  struct Job {
    std::shared_ptr<BulkSlot> slot;
    ServedModel* model = nullptr;
  };
  void pack();
  std::optional<Job> next_job();

  const Clock& clock;
  const WeightServerLimits limits;
  std::list<ServedModel> models;
  FileDescriptor event;

  mutable std::mutex mutex;
  std::condition_variable work;
  bool ending = false;
  std::vector<std::pair<transport::SecureStream, std::string>> arrivals;
  std::vector<std::string> leaving;
  // Oldest first; the packing threads look at their slots. Changed by the serving thread alone,
  // which therefore reads it without the mutex.
  Sessions sessions;
  std::size_t ahead_bytes = 0;  // of all sessions
  std::size_t turn = 0;         // of the sessions, for packing

  std::atomic<std::uint64_t> sent_bytes{0};
  std::atomic<std::size_t> n_sessions{0};
  std::vector<std::thread> threads;
};

WeightServer::State::State(const std::vector<const model::ModelSource*>& sources,
                           const Clock& the_clock, const WeightServerLimits& the_limits)
    : clock(the_clock), limits(the_limits), event(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {
  CHECK(event.open());
  for (const model::ModelSource* source : sources) models.emplace_back(*source);
  threads.emplace_back([this] { serve(); });
  for (std::size_t i = 0; i < limits.packing_threads; ++i) threads.emplace_back([this] { pack(); });
}

WeightServer::State::~State() {
  {
    const std::lock_guard lock(mutex);
    ending = true;
  }
  wake();
  work.notify_all();
  for (std::thread& thread : threads) thread.join();
}

// --- the serving thread -----------------------------------------------------------------------

void WeightServer::State::serve() {
  for (;;) {
    wait_for_events();
    {
      const std::lock_guard lock(mutex);
      if (ending) return;
    }
    take_arrivals();
    end_leaving();
    for (auto it = sessions.begin(); it != sessions.end();) {
      BulkSession& session = **it;
      if (!session.ended && session.reading) read(session);
      if (!session.ended) write(session);
      if (!session.ended) session.ended = over(session);
      it = session.ended ? drop(it) : std::next(it);
    }
    n_sessions = sessions.size();
    work.notify_all();
  }
}

void WeightServer::State::wait_for_events() {
  std::vector<pollfd> fds = {{event.get(), POLLIN, 0}};
  bool more = false;
  for (const auto& session : sessions) {
    const auto want =
        static_cast<short>((session->reading ? POLLIN : 0) | (session->blocked ? POLLOUT : 0));
    fds.push_back({session->fd(), want, 0});
    const std::lock_guard lock(mutex);
    more = more || (!session->blocked && !session->slots.empty() &&
                    session->slots.front()->state == SlotState::kReady);
  }
  const int patience = sessions.empty() ? -1 : kTickMs;
  ::poll(fds.data(), fds.size(), more ? 0 : patience);
  eventfd_t count = 0;
  eventfd_read(event.get(), &count);
  for (auto& session : sessions) session->blocked = false;
}

void WeightServer::State::take_arrivals() {
  std::vector<std::pair<transport::SecureStream, std::string>> arrived;
  {
    const std::lock_guard lock(mutex);
    arrived = std::exchange(arrivals, {});
  }
  for (auto& [stream, name] : arrived) {
    make_room_for(name);
    if (sessions.size() >= limits.connections_max) {
      spdlog::warn("weights refused to={} reason=\"{} machines are served already\"", name,
                   sessions.size());
      continue;
    }
    // Its limits are stall_limit and idle_limit: a peer may be busy with what it has received.
    transport::set_user_timeout(stream.fd(), Duration::zero());
    auto session = std::make_unique<BulkSession>(std::move(stream), name, clock.now());
    const std::lock_guard lock(mutex);
    sessions.push_back(std::move(session));
  }
}

void WeightServer::State::end_leaving() {
  const std::lock_guard lock(mutex);
  for (const std::string& name : std::exchange(leaving, {})) {
    for (const auto& session : sessions) {
      if (session->name() == name) session->ended = "it is no member any more";
    }
  }
}

void WeightServer::State::make_room_for(const std::string& name) {
  const auto is_its = [&name](const auto& session) { return session->name() == name; };
  const auto n = std::ranges::count_if(sessions, is_its);
  if (static_cast<std::size_t>(n) < limits.per_peer_max) return;
  const auto oldest = std::ranges::find_if(sessions, is_its);
  (*oldest)->ended = "it connected again";
  drop(oldest);
}

void WeightServer::State::read(BulkSession& session) {
  Result<std::vector<BulkRequest>> requests = session.read(limits.requests_max, clock.now());
  if (!requests && requests.error().code == ErrorCode::kUnavailable) {
    session.ended = requests.error().message;
    return;
  }
  if (!requests) return refuse(session, {}, requests.error());
  for (BulkRequest& request : *requests) {
    if (session.reading) take(session, request);
  }
}

void WeightServer::State::take(BulkSession& session, BulkRequest request) {
  const std::lock_guard lock(mutex);
  auto slot = std::make_shared<BulkSlot>(request);
  const bool echo = slot->request.kind == BulkKind::kEcho;
  const bool names_model = slot->request.kind == BulkKind::kModel;
  // Once: what waits to be packed is of the model that was named before it.
  const bool allowed = echo || names_model == (session.model == nullptr);
  if (allowed && names_model) {
    const auto found = std::ranges::find_if(models, [&slot](const ServedModel& model) {
      return model.source().fingerprint() == slot->request.model;
    });
    session.model = found == models.end() ? nullptr : &*found;
    slot->fill(session.model != nullptr
                   ? Result<std::vector<std::byte>>(std::vector<std::byte>())
                   : not_found("this machine does not have the files of model " +
                               hex_text(slot->request.model)));
    slot->state = SlotState::kReady;
    session.reading = session.model != nullptr;
  } else if (!allowed || session.slots.size() >= limits.requests_max) {
    slot->fill(!allowed ? invalid_input("bulk request: which model is meant is said first, once")
                        : exhausted("bulk request: more than " +
                                    std::to_string(limits.requests_max) + " at once"));
    slot->state = SlotState::kReady;
    session.reading = false;
  } else if (echo && slot->request.bytes <= kEchoAtOnce) {
    slot->fill_echo();
    slot->state = SlotState::kReady;
  }
  session.slots.push_back(std::move(slot));
}

// Its last answer says why.
void WeightServer::State::refuse(BulkSession& session, const BulkRequest& request,
                                 const Error& error) {
  const std::lock_guard lock(mutex);
  auto slot = std::make_shared<BulkSlot>(request);
  slot->fill(error);
  slot->state = SlotState::kReady;
  session.slots.push_back(std::move(slot));
  session.reading = false;
}

void WeightServer::State::write(BulkSession& session) {
  for (int i = 0; i < kAnswersPerTurn; ++i) {
    std::shared_ptr<BulkSlot> slot;
    {
      const std::lock_guard lock(mutex);
      if (session.slots.empty() || session.slots.front()->state != SlotState::kReady) return;
      slot = session.slots.front();
    }
    const std::uint64_t before = session.sent_bytes();
    const Result<bool> sent = session.write(*slot, clock.now());
    sent_bytes += session.sent_bytes() - before;
    if (!sent) session.ended = sent.error().message;
    session.blocked = sent && !*sent;
    if (session.ended || session.blocked) return;
    const std::lock_guard lock(mutex);
    session.ahead_bytes -= slot->reserved;
    ahead_bytes -= slot->reserved;
    session.slots.pop_front();
  }
}

// Why this session has to end now.
std::optional<std::string> WeightServer::State::over(const BulkSession& session) const {
  const Duration still = clock.now() - session.moved_at();
  const std::lock_guard lock(mutex);
  const bool owes = !session.slots.empty();
  if (!session.reading && !owes) return "done";
  if (owes && session.slots.front()->state == SlotState::kReady && still >= limits.stall_limit) {
    return "it takes nothing of what it asked for";
  }
  if (!owes && still >= limits.idle_limit) return "it asks for nothing";
  return std::nullopt;
}

WeightServer::State::Sessions::iterator WeightServer::State::drop(Sessions::iterator session) {
  // Without a model only the link was measured.
  spdlog::log((*session)->model != nullptr ? spdlog::level::info : spdlog::level::debug,
              "weights given to={} bytes={} end=\"{}\"", (*session)->name(),
              (*session)->sent_bytes(), *(*session)->ended);
  const std::lock_guard lock(mutex);
  ahead_bytes -= (*session)->ahead_bytes;
  return sessions.erase(session);
}

// --- the packing threads ----------------------------------------------------------------------

// The oldest request that waits, of the sessions in turn. Answers go out in order, so the memory
// for a later one is there only if the earlier ones have theirs.
std::optional<WeightServer::State::Job> WeightServer::State::next_job() {
  for (std::size_t i = 0; i < sessions.size(); ++i) {
    const std::size_t at = (turn + i) % sessions.size();
    BulkSession& session = **std::next(sessions.begin(), static_cast<std::ptrdiff_t>(at));
    const auto waiting = std::ranges::find(session.slots, SlotState::kWaiting,
                                           [](const auto& slot) { return slot->state; });
    if (waiting == session.slots.end()) continue;
    BulkSlot& slot = **waiting;
    const bool fits_own =
        session.ahead_bytes == 0 || session.ahead_bytes + slot.bytes_needed <= limits.ahead_max;
    const bool fits = ahead_bytes == 0 || ahead_bytes + slot.bytes_needed <= limits.ahead_all_max;
    if (!fits_own || !fits) continue;
    slot.reserved = slot.bytes_needed;
    session.ahead_bytes += slot.reserved;
    ahead_bytes += slot.reserved;
    slot.state = SlotState::kPacking;
    turn = at + 1;
    return Job{*waiting, session.model};
  }
  return std::nullopt;
}

void WeightServer::State::pack() {
  // Linux keeps a niceness for each thread. Failure costs a share of the worker's speed.
  static_cast<void>(setpriority(PRIO_PROCESS, static_cast<id_t>(gettid()), kPackingNice));
  ThreadPool pool(1);
  for (;;) {
    std::optional<Job> job;
    {
      std::unique_lock lock(mutex);
      work.wait(lock, [&] { return ending || (job = next_job()).has_value(); });
      if (ending) return;
    }
    // Nobody else touches a slot that is being packed.
    if (job->slot->request.kind == BulkKind::kEcho) {
      job->slot->fill_echo();
    } else {
      job->slot->fill(job->model->answer(job->slot->request, pool));
    }
    {
      const std::lock_guard lock(mutex);
      job->slot->state = SlotState::kReady;
    }
    wake();
  }
}

// --- the public face --------------------------------------------------------------------------

WeightServer::WeightServer(const std::vector<const model::ModelSource*>& models, const Clock& clock,
                           const WeightServerLimits& limits)
    : state_(std::make_unique<State>(models, clock, limits)) {}

WeightServer::~WeightServer() = default;

void WeightServer::add(transport::SecureStream stream, std::string name) {
  {
    const std::lock_guard lock(state_->mutex);
    if (state_->arrivals.size() < state_->limits.connections_max) {
      state_->arrivals.emplace_back(std::move(stream), std::move(name));
    }
  }
  state_->wake();
}

void WeightServer::drop(std::string name) {
  {
    const std::lock_guard lock(state_->mutex);
    state_->leaving.push_back(std::move(name));
  }
  state_->wake();
}

std::size_t WeightServer::n_connections() const { return state_->n_sessions; }
std::uint64_t WeightServer::sent_bytes() const { return state_->sent_bytes; }

}  // namespace conclave::cluster
