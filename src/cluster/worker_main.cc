#include <signal.h>
#include <spdlog/spdlog.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <chrono>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <optional>
#include <thread>
#include <utility>

#include "cluster/cluster.h"
#include "cluster/cpu_host.h"
#include "cluster/identity_memory.h"
#include "cluster/worker_channel.h"

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
      message.mutable_heartbeat()->set_waiting_for(pulse_.waiting_for);
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

// A rank that is alone meets nobody.
class NoFabric final : public transport::Fabric {
 public:
  Result<std::unique_ptr<transport::Transport>> join(const transport::GroupSpec&, Time,
                                                     transport::Watch*) override {
    return unsupported("this worker was started to be alone");
  }
};

// How this rank meets the others.
struct Meeting {
  std::unique_ptr<transport::TcpFabric> tcp;
  std::unique_ptr<transport::DelayedFabric> delayed;
  NoFabric none;
  transport::Endpoint endpoint;
  std::optional<transport::Identity> identity;

  transport::Fabric& fabric() {
    if (delayed) return *delayed;
    if (tcp) return *tcp;
    return none;
  }
};

Result<void> open_meeting(const WorkerOptions& options, const Clock& clock, Meeting& meeting) {
  meeting.endpoint.host = options.advertised_host;
  meeting.endpoint.host_id = options.host_id;
  meeting.endpoint.clear = options.clear;
  const auto key = options.kept.find(kIdentityMemory);
  if (options.listen_host.empty() || key == options.kept.end()) return {};
  const transport::Identity identity = TRY(read_identity(key->second));
  meeting.identity = identity;
  transport::TcpOptions tcp;
  tcp.host = options.listen_host == kEverywhere ? std::string() : options.listen_host;
  tcp.port = options.listen_port;
  tcp.shared_memory = options.shared_memory;
  tcp.on_refused = [](const std::string& reason) {
    spdlog::warn("rank connection refused reason=\"{}\"", reason);
  };
  meeting.tcp = TRY(transport::TcpFabric::listen(clock, identity, tcp));
  meeting.endpoint.port = meeting.tcp->port();
  meeting.endpoint.fingerprint = identity.fingerprint();
  if (options.delay_us > 0) {
    meeting.delayed = std::make_unique<transport::DelayedFabric>(
        *meeting.tcp, clock, std::chrono::microseconds(options.delay_us));
  }
  return {};
}

int serve(const WorkerOptions& options, WorkerChannel& channel, const Clock& clock) {
  WorkerPulse pulse;
  const HeartbeatThread heartbeat(channel, pulse);
  Meeting meeting;
  if (const Result<void> open = open_meeting(options, clock, meeting); !open) {
    wire::pb::FromWorker message;
    message.mutable_failed()->set_error(open.error().message);
    static_cast<void>(channel.send(message));
    return 1;
  }
  WorkerOptions without_identity = options;
  without_identity.kept.erase(kIdentityMemory);
  CpuHost host(without_identity, channel, pulse, clock, meeting.endpoint, meeting.identity);
  Worker worker(channel, meeting.fabric(), host, pulse, clock, options.engine, {});
  const Error end = worker.run();
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
