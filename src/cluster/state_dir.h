// The folder in which an agent keeps what must outlive it: its key, the pool it belongs to, its
// admin socket. One agent at a time holds it.
//
//   const StateDir state = TRY(StateDir::open(TRY(find_state_dir(places))));
//   TRY(state.write("members", bytes));
#pragma once

#include <cstddef>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>

#include "base/file_descriptor.h"
#include "base/result.h"

namespace conclave::cluster {

// Where the folder may be, most wanted first; empty strings count as absent.
struct StatePlaces {
  std::string option{};          // --state DIR
  std::string conclave_state{};  // $CONCLAVE_STATE
  std::string xdg_state_home{};  // $XDG_STATE_HOME: its folder `conclave`
  std::string home{};            // $HOME: .local/state/conclave
};

// kInvalidInput: no place is given, or $XDG_STATE_HOME or $HOME is not absolute.
Result<std::filesystem::path> find_state_dir(const StatePlaces& places);
// The three variables of the environment as they are now; call it before threads run.
StatePlaces state_places_from_environment(std::string option);

class StateDir {
 public:
  // Creates the folder (mode 0700) and its parents where they are missing, and locks it.
  // kInvalidInput: it is no folder, belongs to somebody else, is writable by others, or cannot be
  // made or written; kUnavailable: another agent has it.
  static Result<StateDir> open(const std::filesystem::path& path);

  const std::filesystem::path& path() const { return path_; }

  // Replaces the file `name` (mode 0600): after a crash it has the old bytes or the new ones. On
  // an error it has the old ones.
  Result<void> write(std::string_view name, std::string_view bytes) const;
  // nullopt: there is no such file. kCorrupt: more than `size_max` bytes.
  Result<std::optional<std::string>> read(std::string_view name, std::size_t size_max) const;
  // No such file is no error.
  Result<void> remove(std::string_view name) const;

 private:
  StateDir(std::filesystem::path path, FileDescriptor folder, FileDescriptor lock)
      : path_(std::move(path)), folder_(std::move(folder)), lock_(std::move(lock)) {}

  std::filesystem::path path_;
  FileDescriptor folder_;
  FileDescriptor lock_;
};

}  // namespace conclave::cluster
