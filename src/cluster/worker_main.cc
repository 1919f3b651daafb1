#include <signal.h>
#include <spdlog/spdlog.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <optional>
#include <thread>
#include <utility>

#include "cluster/cluster.h"
#include "cluster/worker_channel.h"
#include "cluster/worker_loop.h"

namespace conclave::cluster {
namespace {

constexpr auto kHeartbeatEvery = std::chrono::milliseconds(100);

// Says "alive" ten times a second, whatever the main thread does.
class HeartbeatThread {
 public:
  HeartbeatThread(WorkerChannel& channel, const WorkerPulse& pulse)
      : channel_(channel), pulse_(pulse), thread_([this] { run(); }) {}
  HeartbeatThread(const HeartbeatThread&) = delete;
  HeartbeatThread& operator=(const HeartbeatThread&) = delete;
  ~HeartbeatThread() {
    {
      const std::lock_guard lock(mutex_);
      ending_ = true;
    }
    wake_.notify_one();
    thread_.join();
  }

 private:
  void run() {
    std::unique_lock lock(mutex_);
    do {
      wire::pb::FromWorker message;
      message.mutable_heartbeat()->set_progress(pulse_.progress);
      message.mutable_heartbeat()->set_busy(pulse_.busy);
      if (!channel_.send(message)) return;  // the main thread sees the same
    } while (!wake_.wait_for(lock, kHeartbeatEvery, [this] { return ending_; }));
  }

  WorkerChannel& channel_;
  const WorkerPulse& pulse_;
  std::mutex mutex_;
  std::condition_variable wake_;
  bool ending_ = false;
  std::thread thread_;  // last: it starts when the rest is there
};

// Everything an Engine needs, in the order in which it must be destroyed.
struct LoadedModel {
  backend::WeightArena arena;
  std::optional<text::TextModel> text;  // absent: a model without tokenizer has no grammars
  std::unique_ptr<backend::Backend> backend;
};

Result<LoadedModel> load(const WorkerOptions& options, const backend::LoadProgress& progress) {
  LoadedModel loaded{.arena = TRY(backend::WeightArena::attach(options.arena_fd)),
                     .text = std::nullopt,
                     .backend = nullptr};
  const model::ModelSource source = TRY(model::ModelSource::open(options.model_dir));
  auto text = text::TextModel::load(options.model_dir, source.config().vocab_size);
  if (text) {
    loaded.text = std::move(text).value();
  } else if (text.error().code != ErrorCode::kNotFound) {
    return text.error();
  }
  loaded.backend = TRY(backend::make_cpu_backend(source, model::Slice::whole(source.config()),
                                                 options.cpu, loaded.arena, progress));
  return loaded;
}

std::size_t context_max(const WorkerOptions& options, const backend::Backend& backend) {
  std::size_t context = backend.config().max_positions;
  if (options.engine.context_max > 0) context = std::min(context, options.engine.context_max);
  return std::min(context, backend.limits().pages * backend::kPageTokens);
}

void send_failed(WorkerChannel& channel, const Error& error) {
  wire::pb::FromWorker message;
  message.mutable_failed()->set_error(error.message);
  channel.send(message);
}

int serve(const WorkerOptions& options, WorkerChannel& channel, const Clock& clock) {
  WorkerPulse pulse;
  const HeartbeatThread heartbeat(channel, pulse);
  const auto progress = [&channel, &pulse](std::uint64_t done, std::uint64_t total) {
    pulse.progress = done;
    wire::pb::FromWorker message;
    message.mutable_loading()->set_done_bytes(done);
    message.mutable_loading()->set_total_bytes(total);
    channel.send(message);
  };
  auto loaded = load(options, progress);
  if (!loaded) {
    send_failed(channel, loaded.error());
    return 1;
  }
  LoadedModel& model = loaded.value();
  const text::TextModel* text = model.text ? &*model.text : nullptr;
  engine::Engine engine(*model.backend, text, options.engine);

  wire::pb::FromWorker ready;
  ready.mutable_ready()->set_backend(model.backend->describe());
  ready.mutable_ready()->set_context_max(context_max(options, *model.backend));
  if (!channel.send(ready)) return 0;
  const Error end = WorkerLoop(engine, channel, pulse, clock).run();
  if (end.code == ErrorCode::kUnavailable) return 0;  // the agent closed the socket: as it should
  spdlog::error("worker ends reason=\"{}\"", end.message);
  return 1;
}

}  // namespace

int worker_main(const WorkerOptions& options) {
  // The socket's end tells of the agent's death too, but not while a step runs.
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (getppid() != options.agent_pid) return 0;  // it died before the line above
  WorkerChannel channel(options.control_fd);
  const RealClock clock;  // this is the worker's main()
  return serve(options, channel, clock);
}

}  // namespace conclave::cluster
