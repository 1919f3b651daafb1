#include "hub/http.h"

#include <curl/curl.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <cstring>
#include <optional>
#include <string_view>
#include <system_error>

#include "base/check.h"
#include "base/file_descriptor.h"

namespace conclave::hub {
namespace {

constexpr long kRedirectsMax = 5;
constexpr long kConnectSeconds = 30;
constexpr long kStallBytesPerSecond = 1024;
constexpr long kListingSeconds = 120;

void start_curl_once() {
  static const bool kStarted = curl_global_init(CURL_GLOBAL_DEFAULT) == CURLE_OK;
  CHECK(kStarted);
}

// "https://hub.example:8443" of an address.
std::string_view origin_of(std::string_view url) {
  const std::size_t scheme = url.find("://");
  if (scheme == url.npos) return {};
  return url.substr(0, url.find('/', scheme + 3));
}

std::string system_text(int error) { return std::generic_category().message(error); }

// What a transfer is told of its answer as it comes.
struct Transfer {
  CURL* curl = nullptr;
  std::uint64_t offset = 0;  // asked for from here on
  std::uint64_t size = 0;    // of the file
  std::uint64_t at = 0;      // where the next byte goes
  int fd = -1;
  std::string* body = nullptr;  // instead of a file
  std::uint64_t range_begin = 0;
  bool has_range = false;
  bool begun = false;
  const std::function<bool(std::int64_t)>* on_bytes = nullptr;
  std::optional<Error> problem;  // ours, where it was not curl's; without the address
  bool stopped = false;
};

Error disk_error(int error) {
  return exhausted(system_text(error) + ": make room; the same command goes on from here");
}

// "content-range: bytes 100-199/200"
std::size_t on_header(char* data, std::size_t, std::size_t n, void* user) {
  auto& transfer = *static_cast<Transfer*>(user);
  const std::string_view line(data, n);
  if (line.starts_with("HTTP/")) transfer.has_range = false;  // after a redirect, another answer
  constexpr std::string_view kName = "content-range:";
  if (line.size() < kName.size() || strncasecmp(line.data(), kName.data(), kName.size()) != 0) {
    return n;
  }
  const std::size_t digits = line.find_first_of("0123456789");
  if (digits == line.npos) return n;
  const auto [end, error] =
      std::from_chars(line.data() + digits, line.data() + line.size(), transfer.range_begin);
  transfer.has_range = error == std::errc() && end != line.data() + line.size() && *end == '-';
  return n;
}

// Whether the answer begins where it should; goes back to the start where the server does. What is
// neither keeps what came so far, and may be tried again.
bool begin_body(Transfer& transfer) {
  long status = 0;
  curl_off_t length = -1;
  curl_easy_getinfo(transfer.curl, CURLINFO_RESPONSE_CODE, &status);
  curl_easy_getinfo(transfer.curl, CURLINFO_CONTENT_LENGTH_DOWNLOAD_T, &length);
  if (status == 206 && transfer.has_range && transfer.range_begin == transfer.offset) return true;
  const bool whole = length < 0 || static_cast<std::uint64_t>(length) == transfer.size;
  if (status != 200 || (transfer.at > 0 && !whole)) {
    transfer.problem = unavailable("the server sent another part than was asked for");
    return false;
  }
  if (transfer.at == 0) return true;
  const auto gone = -static_cast<std::int64_t>(transfer.at);
  transfer.at = 0;
  if (::ftruncate(transfer.fd, 0) != 0) {
    transfer.problem = disk_error(errno);
    return false;
  }
  return (*transfer.on_bytes)(gone);
}

std::size_t on_body(char* data, std::size_t, std::size_t n, void* user) {
  auto& transfer = *static_cast<Transfer*>(user);
  if (transfer.body != nullptr) {
    if (transfer.body->size() + n > transfer.size) {
      transfer.problem =
          corrupt("the answer is longer than " + std::to_string(transfer.size) + " bytes");
      return 0;
    }
    transfer.body->append(data, n);
    return n;
  }
  if (!transfer.begun && !begin_body(transfer)) return 0;
  transfer.begun = true;
  CHECK(transfer.at <= transfer.size);
  if (n > transfer.size - transfer.at) {
    transfer.problem = corrupt("the server sent more than the " + std::to_string(transfer.size) +
                               " bytes that it promised");
    return 0;
  }
  for (std::size_t done = 0; done < n;) {
    const ssize_t written =
        ::pwrite(transfer.fd, data + done, n - done, static_cast<off_t>(transfer.at + done));
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) {
      transfer.problem = disk_error(errno);
      return 0;
    }
    done += static_cast<std::size_t>(written);
  }
  transfer.at += n;
  if ((*transfer.on_bytes)(static_cast<std::int64_t>(n))) return n;
  transfer.stopped = true;
  return 0;
}

// Also asked while nothing comes, so that Ctrl-C is seen.
int on_progress(void* user, curl_off_t, curl_off_t, curl_off_t, curl_off_t) {
  auto& transfer = *static_cast<Transfer*>(user);
  if (transfer.on_bytes == nullptr || (*transfer.on_bytes)(0)) return 0;
  transfer.stopped = true;
  return 1;
}

Error status_error(const std::string& url, long status) {
  const std::string text = url + ": HTTP " + std::to_string(status);
  if (status == 401 || status == 403) {
    return invalid_input(text + ": set HF_TOKEN to a token that may read this model");
  }
  if (status == 404) return not_found(text + ": no such model, revision or file");
  if (status == 408 || status == 429 || status >= 500) {
    return unavailable(text + ": try again later; the same command goes on from here");
  }
  return invalid_input(text);
}

}  // namespace

struct HttpClient::State {
  CURL* curl = nullptr;
  std::string endpoint;

  void prepare(const PullRequest& request);
  Result<void> perform(const std::string& url, Transfer& transfer);
};

void HttpClient::State::prepare(const PullRequest& request) {
  // http only where the hub itself is reached so: a mirror at home. Then no proxy sees the token.
  const bool plain = endpoint.starts_with("http://");
  const char* protocols = plain ? "http,https" : "https";
  if (plain) curl_easy_setopt(curl, CURLOPT_PROXY, "");
  curl_easy_setopt(curl, CURLOPT_PROTOCOLS_STR, protocols);
  curl_easy_setopt(curl, CURLOPT_REDIR_PROTOCOLS_STR, protocols);
  curl_easy_setopt(curl, CURLOPT_FOLLOWLOCATION, 1L);
  curl_easy_setopt(curl, CURLOPT_MAXREDIRS, kRedirectsMax);
  curl_easy_setopt(curl, CURLOPT_CONNECTTIMEOUT, kConnectSeconds);
  curl_easy_setopt(curl, CURLOPT_LOW_SPEED_LIMIT, kStallBytesPerSecond);
  curl_easy_setopt(curl, CURLOPT_LOW_SPEED_TIME, request.stall_seconds);
  curl_easy_setopt(curl, CURLOPT_NOSIGNAL, 1L);
  curl_easy_setopt(curl, CURLOPT_USERAGENT, "conclave");
  curl_easy_setopt(curl, CURLOPT_NOPROGRESS, 0L);
  curl_easy_setopt(curl, CURLOPT_XFERINFOFUNCTION, on_progress);
  curl_easy_setopt(curl, CURLOPT_HEADERFUNCTION, on_header);
  curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, on_body);
  if (request.token.empty()) return;
  // Sent to the first host alone: curl leaves it out where a redirect leads elsewhere.
  curl_easy_setopt(curl, CURLOPT_HTTPAUTH, CURLAUTH_BEARER);
  curl_easy_setopt(curl, CURLOPT_XOAUTH2_BEARER, request.token.c_str());
  curl_easy_setopt(curl, CURLOPT_UNRESTRICTED_AUTH, 0L);
}

Result<void> HttpClient::State::perform(const std::string& url, Transfer& transfer) {
  char reason[CURL_ERROR_SIZE] = "";
  transfer.curl = curl;
  curl_easy_setopt(curl, CURLOPT_URL, url.c_str());
  curl_easy_setopt(curl, CURLOPT_ERRORBUFFER, reason);
  curl_easy_setopt(curl, CURLOPT_HEADERDATA, &transfer);
  curl_easy_setopt(curl, CURLOPT_WRITEDATA, &transfer);
  curl_easy_setopt(curl, CURLOPT_XFERINFODATA, &transfer);
  // A body of an error is no part of a file.
  curl_easy_setopt(curl, CURLOPT_FAILONERROR, 1L);
  const CURLcode code = curl_easy_perform(curl);
  curl_easy_setopt(curl, CURLOPT_ERRORBUFFER, nullptr);
  if (transfer.stopped) return exhausted("stopped");
  if (transfer.problem) {
    return Error{transfer.problem->code, url + ": " + transfer.problem->message};
  }
  if (code == CURLE_OK) return {};
  long status = 0;
  curl_easy_getinfo(curl, CURLINFO_RESPONSE_CODE, &status);
  if (code == CURLE_HTTP_RETURNED_ERROR) return status_error(url, status);
  const std::string text = reason[0] != '\0' ? reason : curl_easy_strerror(code);
  const bool refused = code == CURLE_UNSUPPORTED_PROTOCOL || code == CURLE_TOO_MANY_REDIRECTS ||
                       code == CURLE_PEER_FAILED_VERIFICATION || code == CURLE_URL_MALFORMAT;
  if (refused) return invalid_input(url + ": " + text);
  return unavailable(url + ": " + text + "; the same command goes on from here");
}

HttpClient::HttpClient(const PullRequest& request) : state_(std::make_unique<State>()) {
  start_curl_once();
  state_->curl = curl_easy_init();
  CHECK(state_->curl != nullptr);
  state_->endpoint = request.endpoint;
  while (state_->endpoint.ends_with('/')) state_->endpoint.pop_back();
  state_->prepare(request);
}

HttpClient::~HttpClient() { curl_easy_cleanup(state_->curl); }

Result<std::string> HttpClient::get(const std::string& path, std::size_t bytes_max,
                                    const std::function<bool()>& go_on) {
  std::string body;
  const std::function<bool(std::int64_t)> on_bytes = [&go_on](std::int64_t) { return go_on(); };
  Transfer transfer;
  transfer.size = bytes_max;
  transfer.body = &body;
  transfer.on_bytes = &on_bytes;
  const std::string url = state_->endpoint + path;
  curl_easy_setopt(state_->curl, CURLOPT_RANGE, nullptr);
  curl_easy_setopt(state_->curl, CURLOPT_TIMEOUT, kListingSeconds);
  TRY(state_->perform(url, transfer));
  const char* reached = nullptr;
  curl_easy_getinfo(state_->curl, CURLINFO_EFFECTIVE_URL, &reached);
  if (reached == nullptr || origin_of(reached) != origin_of(url)) {
    return invalid_input(url + ": the answer comes from another host, which cannot vouch for it");
  }
  return body;
}

Result<void> HttpClient::download(const std::string& path, const std::filesystem::path& file,
                                  std::uint64_t size,
                                  const std::function<bool(std::int64_t)>& on_bytes) {
  const FileDescriptor fd(::open(file.c_str(), O_CREAT | O_RDWR | O_CLOEXEC | O_NOFOLLOW, 0644));
  struct stat status {};
  if (!fd.open() || ::fstat(fd.get(), &status) != 0) {
    return exhausted(file.string() + ": " + system_text(errno));
  }
  Transfer transfer;
  transfer.offset = static_cast<std::uint64_t>(status.st_size);
  if (transfer.offset >= size) return {};  // the hash says whether it is right
  transfer.at = transfer.offset;
  transfer.size = size;
  transfer.fd = fd.get();
  transfer.on_bytes = &on_bytes;
  const std::string range = std::to_string(transfer.offset) + "-";
  curl_easy_setopt(state_->curl, CURLOPT_RANGE, transfer.offset > 0 ? range.c_str() : nullptr);
  curl_easy_setopt(state_->curl, CURLOPT_TIMEOUT, 0L);
  TRY(state_->perform(state_->endpoint + path, transfer));
  if (transfer.at != size) {
    return unavailable(state_->endpoint + path + ": the connection ended after " +
                       std::to_string(transfer.at) + " of " + std::to_string(size) + " bytes");
  }
  if (::fsync(fd.get()) != 0) return exhausted(file.string() + ": " + system_text(errno));
  return {};
}

bool may_pass(const Error& error) { return error.code == ErrorCode::kUnavailable; }

}  // namespace conclave::hub
