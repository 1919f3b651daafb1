// Fetching a model: several files at a time, each taken up where it stopped, each checked by hash
// before it counts.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>

#include "hub/folder.h"
#include "hub/hash.h"
#include "hub/http.h"

namespace conclave::hub {
namespace {

constexpr std::size_t kListingBytesMax = std::size_t{32} << 20;
constexpr auto kProgressPeriod = std::chrono::milliseconds(100);

// A file of another content has another name, so that it never goes on from the wrong bytes.
std::filesystem::path part_of(const std::filesystem::path& dir, const FileEntry& file) {
  return dir / (file.name + "." + file.digest.hex.substr(0, 16) + ".part");
}

// Names in a path: letters, digits, '.', '_' and '-' alone, so nothing has to be escaped.
bool is_revision(std::string_view text) {
  const auto legal = [](unsigned char c) {
    return std::isalnum(c) != 0 || c == '.' || c == '_' || c == '-';
  };
  return !text.empty() && text.size() <= 128 && std::ranges::all_of(text, legal);
}

class Puller {
 public:
  Puller(const ModelName& name, const PullRequest& request, std::filesystem::path partial)
      : name_(name), request_(request), partial_(std::move(partial)) {}

  // Leaves all files of `wanted` in the partial folder.
  Result<void> run(const Manifest& wanted, const Progress& progress);
  std::uint64_t fetched() const { return fetched_; }

 private:
  std::vector<FileEntry> missing(const Manifest& wanted);
  void work(std::stop_token stop);
  Result<void> fetch(HttpClient& client, const FileEntry& file);
  Result<void> fetch_bytes(HttpClient& client, const FileEntry& file,
                           const std::filesystem::path& part);
  bool wait(double seconds);
  bool count(std::int64_t bytes);
  void fail(const Error& error);

  const ModelName& name_;
  const PullRequest& request_;
  std::filesystem::path partial_;
  Manifest wanted_;
  std::atomic<std::uint64_t> done_ = 0;
  std::atomic<std::uint64_t> fetched_ = 0;
  std::atomic<bool> stopped_ = false;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<FileEntry> queue_;    // from here on under mutex_
  std::vector<FileEntry> checked_;  // whole, with the right hash
  std::optional<Error> error_;
  std::size_t working_ = 0;
};

// What the manifest of an earlier, broken-off call vouches for is kept, the rest goes.
std::vector<FileEntry> Puller::missing(const Manifest& wanted) {
  const auto earlier = read_manifest(partial_);
  const std::vector<FileEntry> vouched =
      earlier && *earlier ? (*earlier)->files : std::vector<FileEntry>{};
  std::vector<FileEntry> left;
  for (const FileEntry& file : wanted.files) {
    const bool is_there = std::ranges::find(vouched, file) != vouched.end() &&
                          file_bytes(partial_ / file.name) == file.size;
    if (is_there) {
      checked_.push_back(file);
      done_ += file.size;
    } else {
      left.push_back(file);
      done_ += std::min(file.size, file_bytes(part_of(partial_, file)));
    }
  }
  const auto belongs = [&](const std::string& entry) {
    const auto is_it = [&](const FileEntry& file) {
      return entry == file.name || entry == part_of(partial_, file).filename().string();
    };
    return entry == kManifestName || std::ranges::any_of(wanted.files, is_it);
  };
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(partial_, error)) {
    if (!belongs(entry.path().filename().string())) {
      std::filesystem::remove_all(entry.path(), error);
    }
  }
  return left;
}

bool Puller::count(std::int64_t bytes) {
  done_ += static_cast<std::uint64_t>(bytes);  // modulo 2^64: also for what went
  if (bytes > 0) fetched_ += static_cast<std::uint64_t>(bytes);
  return !stopped_;
}

void Puller::fail(const Error& error) {
  const std::lock_guard lock(mutex_);
  if (!error_) error_ = error;
  stopped_ = true;
  changed_.notify_all();
}

bool Puller::wait(double seconds) {
  std::unique_lock lock(mutex_);
  changed_.wait_for(lock, std::chrono::duration<double>(seconds),
                    [this] { return stopped_.load(); });
  return !stopped_;
}

// Tries as often as nothing at all comes; each byte counts as a beginning.
Result<void> Puller::fetch_bytes(HttpClient& client, const FileEntry& file,
                                 const std::filesystem::path& part) {
  const std::string path = "/" + name_.text() + "/resolve/" + wanted_.revision + "/" + file.name;
  double pause = request_.retry_seconds;
  for (std::size_t tried = 0;;) {
    const std::uint64_t before = file_bytes(part);
    const Result<void> got =
        client.download(path, part, file.size, [this](std::int64_t n) { return count(n); });
    if (got || !may_pass(got.error())) return got;
    if (file_bytes(part) > before) {
      tried = 0;
      pause = request_.retry_seconds;
    }
    if (++tried >= request_.tries) return got;
    if (!wait(pause)) return exhausted("stopped");
    pause *= 2.0;
  }
}

// A wrong hash is once taken for bytes that were damaged on the way.
Result<void> Puller::fetch(HttpClient& client, const FileEntry& file) {
  const std::filesystem::path part = part_of(partial_, file);
  for (int attempt = 0;; ++attempt) {
    const Result<void> got = fetch_bytes(client, file, part);
    const bool lied = !got && got.error().code == ErrorCode::kCorrupt;
    if (!got && !lied) return got;
    if (!lied) {
      const auto hash =
          TRY(hash_file(part, file.digest.kind, [this](std::uint64_t) { return !stopped_; }));
      if (!hash) return exhausted("stopped");
      if (*hash == file.digest.hex) return rename_to(part, partial_ / file.name);
    }
    count(-static_cast<std::int64_t>(file_bytes(part)));
    std::error_code ignored;
    std::filesystem::remove(part, ignored);
    if (attempt > 0) {
      return lied ? got
                  : Result<void>(corrupt(request_.endpoint + ": " + file.name +
                                         ": another hash than the hub's list says, twice"));
    }
  }
}

void Puller::work(std::stop_token) {
  HttpClient client(request_);
  std::unique_lock lock(mutex_);
  while (!queue_.empty() && !stopped_) {
    const FileEntry file = queue_.back();
    queue_.pop_back();
    lock.unlock();
    const Result<void> got = fetch(client, file);
    if (!got && !stopped_) fail(got.error());
    lock.lock();
    if (!got) break;
    checked_.push_back(file);
    Manifest so_far{request_.endpoint, wanted_.revision, checked_};
    if (const Result<void> kept = write_whole(partial_ / kManifestName, to_json(so_far)); !kept) {
      if (!error_) error_ = kept.error();
      stopped_ = true;
      break;
    }
  }
  --working_;
  changed_.notify_all();
}

Result<void> Puller::run(const Manifest& wanted, const Progress& progress) {
  wanted_ = wanted;
  std::uint64_t total = 0;
  for (const FileEntry& file : wanted.files) total += file.size;
  queue_ = missing(wanted);
  std::ranges::reverse(queue_);  // taken from the back
  TRY(check_space(partial_, total - std::min<std::uint64_t>(total, done_)));
  std::vector<std::jthread> threads;
  working_ = std::min(std::max<std::size_t>(1, request_.connections), queue_.size());
  const std::size_t n = working_;
  for (std::size_t i = 0; i < n; ++i) {
    threads.emplace_back([this](std::stop_token stop) { work(std::move(stop)); });
  }
  std::unique_lock lock(mutex_);
  while (working_ > 0) {
    changed_.wait_for(lock, kProgressPeriod, [this] { return working_ == 0; });
    lock.unlock();
    if (!progress(done_, total)) stopped_ = true;
    changed_.notify_all();
    lock.lock();
  }
  if (error_) return *error_;
  if (stopped_) return exhausted(name_.text() + ": stopped; the same command goes on from here");
  return {};
}

}  // namespace

Result<PullReport> Store::pull(const ModelName& name, const PullRequest& request,
                               const Progress& progress) const {
  if (!is_revision(request.revision)) {
    return invalid_input("revision \"" + request.revision.substr(0, 80) +
                         "\": expected letters, digits, '.', '_' and '-'");
  }
  const std::filesystem::path dir = dir_of(name);
  const FileDescriptor lock = TRY(lock_model(dir, name));
  HttpClient client(request);
  const std::string listing =
      TRY(client.get("/api/models/" + name.text() + "/revision/" + request.revision + "?blobs=true",
                     kListingBytesMax));
  Result<Manifest> parsed = parse_listing(listing);
  if (!parsed) {
    return invalid_input(request.endpoint + ": " + name.text() + ": " + parsed.error().message);
  }
  Manifest& wanted = *parsed;
  wanted.source = request.endpoint;
  PullReport report{.dir = dir, .fetched_bytes = 0, .was_there = false};
  const std::optional<Manifest> present = TRY(read_manifest(dir));
  if (present && present->files == wanted.files) {
    report.was_there = true;
    return report;
  }
  const std::filesystem::path partial = partial_of(dir);
  std::error_code error;
  std::filesystem::create_directories(partial, error);
  if (error) return unavailable(partial.string() + ": " + error.message());
  Puller puller(name, request, partial);
  TRY(puller.run(wanted, progress));
  TRY(write_whole(partial / kManifestName, to_json(wanted)));
  std::filesystem::remove_all(dir, error);  // an older revision
  TRY(rename_to(partial, dir));
  report.fetched_bytes = puller.fetched();
  return report;
}

}  // namespace conclave::hub
