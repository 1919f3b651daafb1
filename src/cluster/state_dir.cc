#include "cluster/state_dir.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <system_error>
#include <utility>

namespace conclave::cluster {
namespace {

namespace fs = std::filesystem;

constexpr const char* kLockFile = "lock";
constexpr mode_t kOthersMayWrite = 022;

std::string reason(int error) { return std::generic_category().message(error); }

Error cannot(const std::string& what, const fs::path& path, int error) {
  std::string message = "cannot " + what + " " + path.string() + ": " + reason(error);
  switch (error) {
    case ENOSPC:
    case EDQUOT:
      return exhausted(message + "; free some space, or name another folder with --state DIR");
    case EACCES:
    case EPERM:
    case EROFS:
      return invalid_input(message + "; name a folder that you may write with --state DIR");
    default:
      return unavailable(std::move(message));
  }
}

Result<void> check_owner(int folder, const fs::path& path) {
  struct stat info = {};
  if (fstat(folder, &info) != 0) return cannot("look at", path, errno);
  if (info.st_uid != geteuid()) {
    return invalid_input("the state folder " + path.string() +
                         " belongs to another user; name one of your own with --state DIR");
  }
  if ((info.st_mode & kOthersMayWrite) != 0) {
    return invalid_input("the state folder " + path.string() +
                         " can be written by other users; run: chmod go-w " + path.string());
  }
  return {};
}

// Held as long as the descriptor is open: it goes with the process, however that ends.
Result<FileDescriptor> lock_folder(int folder, const fs::path& path) {
  FileDescriptor lock(openat(folder, kLockFile, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600));
  if (!lock.open()) return cannot("write to", path, errno);
  if (flock(lock.get(), LOCK_EX | LOCK_NB) == 0) return lock;
  if (errno != EWOULDBLOCK) return cannot("lock", path, errno);
  return unavailable("another conclave agent uses the state folder " + path.string() +
                     "; stop it, or give this one a folder of its own with --state DIR");
}

Result<void> write_all(int fd, std::string_view bytes, const fs::path& path) {
  while (!bytes.empty()) {
    const ssize_t n = ::write(fd, bytes.data(), bytes.size());
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return cannot("write", path, errno);
    bytes.remove_prefix(static_cast<std::size_t>(n));
  }
  // Without this the rename may reach the disk before the bytes.
  if (fsync(fd) != 0) return cannot("write", path, errno);
  return {};
}

Result<fs::path> absolute_place(const char* variable, const std::string& value,
                                const fs::path& below) {
  const fs::path place(value);
  if (place.is_absolute()) return place / below;
  return invalid_input(std::string("$") + variable + " is \"" + value +
                       "\", which is not an absolute path");
}

std::string variable(const char* name) {
  const char* value = std::getenv(name);  // NOLINT(concurrency-mt-unsafe): before threads
  return value == nullptr ? "" : value;
}

}  // namespace

Result<fs::path> find_state_dir(const StatePlaces& places) {
  for (const std::string* named : {&places.option, &places.conclave_state}) {
    if (named->empty()) continue;
    std::error_code error;
    fs::path path = fs::absolute(*named, error);
    if (error) return cannot("use", *named, error.value());
    return path;
  }
  if (!places.xdg_state_home.empty()) {
    return absolute_place("XDG_STATE_HOME", places.xdg_state_home, "conclave");
  }
  if (!places.home.empty()) return absolute_place("HOME", places.home, ".local/state/conclave");
  return invalid_input("no folder for state: $HOME is not set; name one with --state DIR");
}

StatePlaces state_places_from_environment(std::string option) {
  return {.option = std::move(option),
          .conclave_state = variable("CONCLAVE_STATE"),
          .xdg_state_home = variable("XDG_STATE_HOME"),
          .home = variable("HOME")};
}

Result<StateDir> StateDir::open(const fs::path& path) {
  std::error_code error;
  if (path.has_parent_path()) fs::create_directories(path.parent_path(), error);
  if (error) return cannot("make the state folder", path, error.value());
  if (mkdir(path.c_str(), 0700) != 0 && errno != EEXIST) {
    return cannot("make the state folder", path, errno);
  }
  FileDescriptor folder(::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!folder.open()) {
    if (errno == ENOTDIR) return invalid_input(path.string() + " is not a folder");
    return cannot("open the state folder", path, errno);
  }
  TRY(check_owner(folder.get(), path));
  FileDescriptor lock = TRY(lock_folder(folder.get(), path));
  return StateDir(path, std::move(folder), std::move(lock));
}

Result<void> StateDir::write(std::string_view name, std::string_view bytes) const {
  const std::string target(name);
  const std::string temporary = target + ".new";
  const fs::path shown = path_ / target;
  {
    FileDescriptor file(openat(folder_.get(), temporary.c_str(),
                               O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600));
    if (!file.open()) return cannot("write", shown, errno);
    if (auto written = write_all(file.get(), bytes, shown); !written) {
      unlinkat(folder_.get(), temporary.c_str(), 0);
      return written;
    }
  }
  if (renameat(folder_.get(), temporary.c_str(), folder_.get(), target.c_str()) != 0) {
    return cannot("write", shown, errno);
  }
  if (fsync(folder_.get()) != 0) return cannot("write", shown, errno);
  return {};
}

Result<std::optional<std::string>> StateDir::read(std::string_view name,
                                                  std::size_t size_max) const {
  const std::string target(name);
  const fs::path shown = path_ / target;
  const FileDescriptor file(
      openat(folder_.get(), target.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW));
  if (!file.open()) {
    if (errno == ENOENT) return std::optional<std::string>{};
    return cannot("read", shown, errno);
  }
  std::string bytes(size_max + 1, '\0');
  std::size_t size = 0;
  while (size < bytes.size()) {
    const ssize_t n = ::read(file.get(), bytes.data() + size, bytes.size() - size);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return cannot("read", shown, errno);
    if (n == 0) break;
    size += static_cast<std::size_t>(n);
  }
  if (size > size_max) {
    return corrupt(shown.string() + " is larger than " + std::to_string(size_max) + " bytes");
  }
  bytes.resize(size);
  return std::optional(std::move(bytes));
}

Result<void> StateDir::remove(std::string_view name) const {
  const std::string target(name);
  if (unlinkat(folder_.get(), target.c_str(), 0) != 0 && errno != ENOENT) {
    return cannot("remove", path_ / target, errno);
  }
  if (fsync(folder_.get()) != 0) return cannot("write", path_, errno);
  return {};
}

}  // namespace conclave::cluster
