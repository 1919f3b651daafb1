// How `conclave pair`, `pool` and `doctor` talk to the agent that runs on this machine: one line of
// JSON each way over a Unix socket in the state folder, which only its owner may open.
//
//   agent:    auto admin = TRY(AdminServer::create(state, handler)); loop.watch(admin->fd(), ...)
//   command:  const std::string answer = TRY(admin_request(dir, R"({"do": "pool"})", seconds(5)));
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <string_view>

#include "base/clock.h"
#include "base/file_descriptor.h"
#include "base/result.h"
#include "cluster/state_dir.h"

namespace conclave::cluster {

inline constexpr std::size_t kAdminRequestMax = std::size_t{1} << 20;  // bytes
inline constexpr std::size_t kAdminAnswerMax = std::size_t{16} << 20;  // bytes
inline constexpr std::size_t kAdminClientsMax = 16;                    // one more is told so

class AdminServer {
 public:
  // Gets a JSON document and returns one: CHECKed, and at most kAdminAnswerMax. Called in poll().
  using Handler = std::function<std::string(std::string_view request)>;

  // The folder's lock says that a socket which lies there is nobody's. kInvalidInput: the folder's
  // path is too long for a socket.
  static Result<std::unique_ptr<AdminServer>> create(const StateDir& state, Handler handler);
  AdminServer(const AdminServer&) = delete;
  AdminServer& operator=(const AdminServer&) = delete;
  ~AdminServer();  // removes the socket

  // Becomes readable when poll() has something to do. Owned by the server.
  int fd() const { return epoll_.get(); }
  // Never blocks. Call when fd() is readable and at least every second. What is no JSON is answered
  // with {"error": ...}; a client that sends and takes nothing for 10 s is closed.
  void poll(Time now);

 private:
  struct Client {
    FileDescriptor socket;
    std::string in;
    std::string out;
    Time deadline{};
    bool last = false;  // closed when `out` is written
    std::uint32_t watched = 0;
  };

  AdminServer(std::filesystem::path path, Handler handler, FileDescriptor listener,
              FileDescriptor epoll);
  void take_clients(Time now);
  bool serve(Client& client, Time now);  // false: it is gone
  bool read_some(Client& client, Time now);
  bool write_some(Client& client, Time now);
  void answer_next(Client& client);
  std::string answer(std::string_view request) const;
  void watch(int fd, std::uint32_t events, int operation) const;

  std::filesystem::path path_;
  Handler handler_;
  FileDescriptor listener_;
  FileDescriptor epoll_;
  std::map<int, Client> clients_;  // by descriptor
};

// Sends one JSON document to the agent that uses the state folder `dir`, and waits for its answer.
// kNotFound: no agent runs there; kUnavailable: it does not answer in time or broke off;
// kInvalidInput: a request that is too long, or a folder of another user.
Result<std::string> admin_request(const std::filesystem::path& dir, std::string_view json,
                                  Duration timeout);

}  // namespace conclave::cluster
