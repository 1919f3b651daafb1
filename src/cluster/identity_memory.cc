#include "cluster/identity_memory.h"

#include <sys/mman.h>
#include <sys/stat.h>

#include <string>

namespace conclave::cluster {
namespace {

constexpr std::size_t kPemMax = 16384;

}  // namespace

Result<FileDescriptor> identity_memory(const transport::Identity& identity) {
  const std::string pem = identity.to_pem();
  FileDescriptor memory(memfd_create("conclave-identity", MFD_CLOEXEC));
  if (!memory.open() ||
      ::write(memory.get(), pem.data(), pem.size()) != static_cast<ssize_t>(pem.size())) {
    return unavailable("cannot hand the machine's key to its worker: out of memory");
  }
  return memory;
}

Result<transport::Identity> read_identity(int fd) {
  std::string pem(kPemMax, '\0');
  const ssize_t n = ::pread(fd, pem.data(), pem.size(), 0);
  if (n <= 0) return corrupt("the machine's key cannot be read");
  pem.resize(static_cast<std::size_t>(n));
  return transport::Identity::from_pem(pem);
}

}  // namespace conclave::cluster
