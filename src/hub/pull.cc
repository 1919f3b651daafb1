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
constexpr double kPauseSecondsMax = 60.0;
constexpr std::uint64_t kRealProgressBytes = std::uint64_t{1} << 20;
constexpr std::size_t kListingTries = 3;

// A file of another content has another name, so that it never goes on from the wrong bytes.
std::filesystem::path part_of(const std::filesystem::path& dir, const FileEntry& file) {
  return dir / (file.name + "." + file.digest.hex.substr(0, 16) + ".part");
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
  void take_back(const FileEntry& file);
  void work();
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
      take_back(file);
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
  for (const std::filesystem::path& entry : entries_of(partial_)) {
    std::error_code ignored;
    if (!belongs(entry.filename().string())) std::filesystem::remove_all(entry, ignored);
  }
  return left;
}

// A file that was whole before its manifest said so is hashed again, not fetched.
void Puller::take_back(const FileEntry& file) {
  if (file_bytes(partial_ / file.name) != file.size || file.size == 0) return;
  std::error_code ignored;
  std::filesystem::rename(partial_ / file.name, part_of(partial_, file), ignored);
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

// A try counts as none once a megabyte more than ever before is there.
Result<void> Puller::fetch_bytes(HttpClient& client, const FileEntry& file,
                                 const std::filesystem::path& part) {
  const std::string path = "/" + name_.text() + "/resolve/" + wanted_.revision + "/" + file.name;
  std::uint64_t farthest = file_bytes(part);
  double pause = request_.retry_seconds;
  for (std::size_t tried = 0;;) {
    const Result<void> got =
        client.download(path, part, file.size, [this](std::int64_t n) { return count(n); });
    if (got || !may_pass(got.error())) return got;
    if (file_bytes(part) >= farthest + kRealProgressBytes) {
      farthest = file_bytes(part);
      tried = 0;
      pause = request_.retry_seconds;
    }
    if (++tried >= request_.tries) return got;
    if (!wait(pause)) return exhausted("stopped");
    pause = std::min(2.0 * pause, kPauseSecondsMax);
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
    count(-static_cast<std::int64_t>(std::min(file.size, file_bytes(part))));
    std::error_code ignored;
    std::filesystem::remove(part, ignored);
    if (attempt > 0) {
      return lied ? got
                  : Result<void>(corrupt(request_.endpoint + ": " + file.name +
                                         ": another hash than the hub's list says, twice: "
                                         "the hub, or what lies between, changes files"));
    }
  }
}

void Puller::work() {
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
    threads.emplace_back([this] { work(); });
  }
  std::unique_lock lock(mutex_);
  while (working_ > 0) {
    changed_.wait_for(lock, kProgressPeriod, [this] { return working_ == 0; });
    lock.unlock();
    const bool go_on = progress(done_, total);
    lock.lock();
    if (!go_on) stopped_ = true;
    changed_.notify_all();
  }
  if (error_) return *error_;
  if (stopped_) return exhausted(name_.text() + ": stopped; the same command goes on from here");
  return {};
}

// False: stopped meanwhile.
bool pause(double seconds, const Progress& progress) {
  std::mutex mutex;
  std::condition_variable never;
  std::unique_lock lock(mutex);
  for (double waited = 0.0; waited < seconds; waited += 0.1) {
    if (!progress(0, 0)) return false;
    never.wait_for(lock, kProgressPeriod);
  }
  return true;
}

// Also a hub that is busy is asked again.
Result<Manifest> ask_for_list(const ModelName& name, const PullRequest& request,
                              const Progress& progress) {
  HttpClient client(request);
  const std::string path =
      "/api/models/" + name.text() + "/revision/" + request.revision + "?blobs=true";
  for (std::size_t tried = 1;; ++tried) {
    const Result<std::string> text =
        client.get(path, kListingBytesMax, [&progress] { return progress(0, 0); });
    if (!text && may_pass(text.error()) && tried < std::min(kListingTries, request.tries)) {
      if (!pause(request.retry_seconds, progress)) return exhausted("stopped");
      continue;
    }
    if (!text) return text.error();
    Result<Manifest> list = parse_listing(*text);
    if (list) {
      list->source = request.endpoint;
      return list;
    }
    return invalid_input(request.endpoint + ": " + name.text() + ": " + list.error().message);
  }
}

bool has_all(const std::filesystem::path& dir, const Manifest& wanted) {
  return std::ranges::all_of(wanted.files, [&dir](const FileEntry& file) {
    std::error_code error;
    return std::filesystem::exists(dir / file.name, error) &&
           file_bytes(dir / file.name) == file.size;
  });
}

}  // namespace

Result<PullReport> Store::pull(const ModelName& name, const PullRequest& request,
                               const Progress& progress) const {
  const std::string& revision = request.revision;
  if (revision.empty() || revision.size() > 128 || !has_plain_letters(revision)) {
    return invalid_input("revision \"" + revision.substr(0, 80) +
                         "\": expected letters, digits, '.', '_' and '-'");
  }
  const Manifest wanted = TRY(ask_for_list(name, request, progress));
  const std::filesystem::path dir = dir_of(name);
  const FileDescriptor lock = TRY(lock_model(dir, name));
  const std::optional<Manifest> present = TRY(read_manifest(dir));
  std::error_code error;
  if (!present && std::filesystem::exists(dir, error)) {
    return invalid_input(dir.string() + ": is there, but not by conclave model pull: move it away");
  }
  PullReport report{.dir = dir, .fetched_bytes = 0, .was_there = false};
  if (present && present->files == wanted.files && has_all(dir, wanted)) {
    report.was_there = true;
    return report;
  }
  const std::filesystem::path partial = partial_of(dir);
  std::filesystem::create_directories(partial, error);
  if (error) return unavailable(partial.string() + ": " + error.message());
  Puller puller(name, request, partial);
  TRY(puller.run(wanted, progress));
  TRY(write_whole(partial / kManifestName, to_json(wanted)));
  TRY(replace_folder(partial, dir));
  report.fetched_bytes = puller.fetched();
  return report;
}

}  // namespace conclave::hub
