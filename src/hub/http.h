// Fetching over HTTP(S) with libcurl. Private to hub/.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>

#include "hub/hub.h"

namespace conclave::hub {

// One connection, used again for one request after the other. Threads: one.
class HttpClient {
 public:
  explicit HttpClient(const PullRequest& request);
  ~HttpClient();
  HttpClient(const HttpClient&) = delete;
  HttpClient& operator=(const HttpClient&) = delete;

  // A small body. Redirects must stay on the endpoint's host. `go_on` is asked now and then.
  Result<std::string> get(const std::string& path, std::size_t bytes_max,
                          const std::function<bool()>& go_on);

  // Bytes [offset, size) of `path` to the end of `file`, whose first `offset` bytes are there; from
  // the beginning where the server cannot go on. Redirects may lead elsewhere: hubs keep large
  // files with others, and the hash decides. Nothing beyond `size` is taken, and what is whole is
  // on the disk. `on_bytes`: how many came, or, negative, went; false stops the work. Errors:
  // kExhausted: stopped, or our disk; kCorrupt: bytes that nobody should keep; else what may_pass
  // says.
  Result<void> download(const std::string& path, const std::filesystem::path& file,
                        std::uint64_t size, const std::function<bool(std::int64_t)>& on_bytes);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

// Whether trying again may help: a connection that broke or stalled, a busy server.
bool may_pass(const Error& error);

}  // namespace conclave::hub
