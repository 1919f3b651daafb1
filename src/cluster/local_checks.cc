#include "cluster/local_checks.h"

#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/timex.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <fstream>
#include <span>

#include "base/file_descriptor.h"
#include "base/memory_size.h"
#include "cluster/bulk_messages.h"
#include "cluster/discovery.h"
#include "transport/transport.h"

namespace conclave::cluster {
namespace {

std::uint32_t mode_of(const std::filesystem::path& path) {
  struct stat found {};
  if (::stat(path.c_str(), &found) != 0) return 0;
  return static_cast<std::uint32_t>(found.st_mode & 07777);
}

std::string host_name() {
  std::array<char, 256> buffer{};
  return ::gethostname(buffer.data(), buffer.size() - 1) == 0 ? buffer.data() : "";
}

// The id itself is nobody else's business (machine-id(5)).
std::string machine_id() {
  std::ifstream file("/etc/machine-id");
  std::string id;
  if (!(file >> id)) return {};
  const std::string text = "conclave " + id;
  const Hash hash = hash_of(std::as_bytes(std::span(text)));
  std::string hex;
  for (const std::byte byte : std::span(hash).first(8)) {
    hex += "0123456789abcdef"[static_cast<unsigned>(byte) >> 4u];
    hex += "0123456789abcdef"[static_cast<unsigned>(byte) & 15u];
  }
  return hex;
}

bool clock_synchronised() {
  timex state{};  // no mode: it is read, not set
  const int status = ::adjtimex(&state);
  return status < 0 || (status != TIME_ERROR && (state.status & STA_UNSYNC) == 0);
}

std::uint64_t descriptors_max() {
  rlimit limit{};
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return 0;
  return static_cast<std::uint64_t>(limit.rlim_max);
}

// MemAvailable: in kB.
std::uint64_t available_bytes() {
  std::ifstream file("/proc/meminfo");
  std::string key;
  std::uint64_t value = 0;
  std::string unit;
  while (file >> key >> value) {
    std::getline(file, unit);
    if (key == "MemAvailable:") return value << 10;
  }
  return 0;
}

bool shared_memory_works() {
  const FileDescriptor memory(memfd_create("conclave-check", MFD_CLOEXEC));
  return memory.open() && ::ftruncate(memory.get(), 4096) == 0;
}

}  // namespace

MachineChecks check_machine(const std::filesystem::path& state_dir) {
  MachineChecks checks;
  checks.host_name = host_name();
  checks.machine_id = machine_id();
  checks.clock_synchronised = clock_synchronised();
  checks.state_mode = mode_of(state_dir);
  checks.key_mode = mode_of(state_dir / "identity.pem");
  checks.descriptors_max = descriptors_max();
  checks.memory_bytes = memory_size_bytes().value_or(0);
  checks.available_bytes = available_bytes();
  checks.shared_memory = shared_memory_works();
  checks.discovery = has_dns_sd();
  return checks;
}

std::string port_problem(std::uint16_t port) {
  const auto listener = transport::listen_on("", port);
  return listener ? "" : listener.error().message;
}

}  // namespace conclave::cluster
