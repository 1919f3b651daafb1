#include "cluster/worker_process.h"

#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <system_error>
#include <utility>

namespace conclave::cluster {
namespace {

// Where the worker finds its descriptors; everything after them is closed, because a client's
// socket in a worker would keep that connection open after the server closed it.
constexpr int kControlFd = 3;
constexpr int kFirstKeptFd = 4;

Error system_error(const std::string& what, int error) {
  return unavailable(what + ": " + std::generic_category().message(error));
}

// posix_spawn's two parameter objects, destroyed together.
class SpawnParameters {
 public:
  SpawnParameters() {
    CHECK(posix_spawn_file_actions_init(&actions_) == 0);
    CHECK(posix_spawnattr_init(&attributes_) == 0);
  }
  SpawnParameters(const SpawnParameters&) = delete;
  SpawnParameters& operator=(const SpawnParameters&) = delete;
  ~SpawnParameters() {
    posix_spawn_file_actions_destroy(&actions_);
    posix_spawnattr_destroy(&attributes_);
  }

  void set_descriptors(int control, std::span<const FileDescriptor> kept) {
    CHECK(posix_spawn_file_actions_addopen(&actions_, 0, "/dev/null", O_RDONLY, 0) == 0);
    // Standard output belongs to the agent's user; a worker writes logs only.
    CHECK(posix_spawn_file_actions_adddup2(&actions_, 2, 1) == 0);
    CHECK(posix_spawn_file_actions_adddup2(&actions_, control, kControlFd) == 0);
    int next = kFirstKeptFd;
    for (const FileDescriptor& memory : kept) {
      CHECK(posix_spawn_file_actions_adddup2(&actions_, memory.get(), next++) == 0);
    }
    CHECK(posix_spawn_file_actions_addclosefrom_np(&actions_, next) == 0);
  }

  // A process group of its own, so that Ctrl-C in a terminal reaches the agent alone, which then
  // ends in order; and no signal blocked or ignored that the agent handles itself.
  void set_signals() {
    sigset_t none;
    sigemptyset(&none);
    sigset_t all;
    sigfillset(&all);
    CHECK(posix_spawnattr_setsigmask(&attributes_, &none) == 0);
    CHECK(posix_spawnattr_setsigdefault(&attributes_, &all) == 0);
    CHECK(posix_spawnattr_setpgroup(&attributes_, 0) == 0);
    CHECK(posix_spawnattr_setflags(&attributes_, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF |
                                                     POSIX_SPAWN_SETPGROUP) == 0);
  }

  Result<int> spawn(const std::string& program, std::vector<std::string> arguments) const {
    arguments.insert(arguments.begin(), "conclave");
    std::vector<char*> argv;
    for (std::string& argument : arguments) argv.push_back(argument.data());
    argv.push_back(nullptr);
    pid_t pid = 0;
    const int error =
        posix_spawn(&pid, program.c_str(), &actions_, &attributes_, argv.data(), environ);
    if (error != 0) return system_error("cannot start a worker from " + program, error);
    return pid;
  }

 private:
  posix_spawn_file_actions_t actions_;
  posix_spawnattr_t attributes_;
};

// A copy above `lowest`, so that placing a descriptor cannot overwrite one that is still to come.
FileDescriptor copy_above(int fd, int lowest) {
  return FileDescriptor(fcntl(fd, F_DUPFD_CLOEXEC, lowest));
}

}  // namespace

Result<WorkerProcess> WorkerProcess::spawn(const std::string& program, WorkerOptions options,
                                           const KeptMemory& kept) {
  std::array<int, 2> pair{};
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair.data()) != 0) {
    return system_error("cannot make the worker's socket", errno);
  }
  FileDescriptor ours(pair[0]);
  const FileDescriptor theirs_low(pair[1]);
  const int lowest = kFirstKeptFd + static_cast<int>(kept.size());
  const FileDescriptor theirs = copy_above(theirs_low.get(), lowest);
  std::vector<FileDescriptor> memory;
  bool copied = theirs.open();
  int next = kFirstKeptFd;
  options.kept.clear();
  for (const auto& [name, fd] : kept) {
    memory.push_back(copy_above(fd.get(), lowest));
    copied = copied && memory.back().open();
    options.kept[name] = next++;
  }
  if (!copied || fcntl(ours.get(), F_SETFL, O_NONBLOCK) != 0) {
    return system_error("cannot prepare the worker's descriptors", errno);
  }

  options.control_fd = kControlFd;
  options.agent_pid = getpid();
  SpawnParameters parameters;
  parameters.set_descriptors(theirs.get(), memory);
  parameters.set_signals();
  const int pid = TRY(parameters.spawn(program, worker_arguments(options)));

  // glibc 2.36 declares pidfd_open() without C linkage, so that C++ cannot call it by name.
  FileDescriptor exit(static_cast<int>(syscall(SYS_pidfd_open, pid, 0)));
  const int error = errno;
  WorkerProcess process(pid, std::move(ours), std::move(exit));
  if (!process.exit_.open()) return system_error("cannot watch the worker", error);
  return process;
}

WorkerProcess::WorkerProcess(WorkerProcess&& other) noexcept
    : pid_(std::exchange(other.pid_, 0)),
      control_(std::move(other.control_)),
      exit_(std::move(other.exit_)) {}

WorkerProcess::~WorkerProcess() {
  if (pid_ == 0) return;
  kill();
  waitpid(pid_, nullptr, 0);
}

void WorkerProcess::kill() {
  if (pid_ != 0) ::kill(pid_, SIGKILL);
}

std::string WorkerProcess::reap() {
  CHECK(pid_ != 0);
  int status = 0;
  pid_t reaped = -1;
  do {
    reaped = waitpid(pid_, &status, 0);
  } while (reaped < 0 && errno == EINTR);
  CHECK(reaped == pid_);
  pid_ = 0;
  if (WIFSIGNALED(status)) return "killed by signal " + std::to_string(WTERMSIG(status));
  return "exit status " + std::to_string(WEXITSTATUS(status));
}

}  // namespace conclave::cluster
