#include "cluster/weight_fetch.h"

#include <poll.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <utility>

#include "base/check.h"
#include "cluster/membership.h"

namespace conclave::cluster {
namespace {

constexpr int kPauseMs = 100;

std::uint64_t expected_bytes(const BulkRequest& request) {
  return request.kind == BulkKind::kPart ? request.part->size_bytes() : request.bytes;
}

std::string place_of(const transport::Endpoint& endpoint) {
  return to_text(HostPort{endpoint.host, endpoint.port});
}

}  // namespace

WeightFetch::WeightFetch(FetchOptions options)
    : options_(std::move(options)),
      link_waiting_(options_.waiting),
      received_at_(options_.waiting.clock.now()) {
  CHECK(options_.holders && options_.dial && options_.waiting.stop && options_.waiting.on_bytes);
  link_waiting_.stop = [this] { return options_.waiting.stop() || !is_named(at_.node); };
}

bool WeightFetch::is_named(NodeId holder) const {
  return std::ranges::any_of(options_.holders(),
                             [holder](const WeightHolder& h) { return h.node == holder; });
}

void WeightFetch::announce(std::span<const backend::PackedPart> parts) {
  std::vector<BulkRequest> requests;
  requests.reserve(parts.size());
  for (const backend::PackedPart& part : parts) {
    BulkRequest request{.kind = BulkKind::kPart};
    request.part = part;
    requests.push_back(request);
  }
  plan(std::move(requests));
}

void WeightFetch::plan(std::vector<BulkRequest> requests) {
  if (asked_ > next_) drop_link();  // answers are on their way that nobody wants any more
  requests_ = std::move(requests);
  next_ = asked_ = asked_bytes_ = 0;
  mismatches_ = 0;
  received_at_ = options_.waiting.clock.now();
}

Result<void> WeightFetch::read(const backend::PackedPart& part, std::span<std::byte> out) {
  CHECK(next_ < requests_.size() && requests_[next_].part == part);
  const Result<void> got = next([out](std::uint64_t) { return out; });
  if (!got) return Error{got.error().code, backend::describe(part) + ": " + got.error().message};
  return {};
}

// --- one holder -------------------------------------------------------------------------------

Result<void> WeightFetch::open_link(const WeightHolder& holder) {
  at_ = holder;
  BulkLink link(TRY(options_.dial(holder)), link_waiting_);
  BulkRequest hello{.kind = BulkKind::kModel, .id = next_id_++};
  hello.model = options_.model;
  TRY(link.send(hello));
  const BulkAnswer answer = TRY(link.receive_header());
  std::string text(answer.bytes, '\0');
  TRY(link.receive_bytes(answer, std::as_writable_bytes(std::span(text))));
  if (answer.kind == BulkKind::kRefused) return Error{answer.code, printable(text)};
  if (answer.kind != BulkKind::kModel || answer.id != hello.id) {
    return corrupt("answers what nobody asked");
  }
  link_.emplace(std::move(link));
  return {};
}

void WeightFetch::drop_link() {
  link_.reset();
  asked_ = next_;
  asked_bytes_ = 0;
}

// Requests whose answers the peer may prepare while earlier ones are on their way.
Result<void> WeightFetch::ask_ahead() {
  while (asked_ < requests_.size() && asked_ - next_ < options_.window_parts) {
    const std::uint64_t bytes = expected_bytes(requests_[asked_]);
    if (asked_ > next_ && asked_bytes_ + bytes > options_.window_bytes) break;
    requests_[asked_].id = next_id_++;
    TRY(link_->send(requests_[asked_]));
    asked_bytes_ += bytes;
    ++asked_;
  }
  return {};
}

Result<void> WeightFetch::receive_next(const Room& room) {
  TRY(ask_ahead());
  const BulkRequest& request = requests_[next_];
  const BulkAnswer answer = TRY(link_->receive_header());
  if (answer.id != request.id) return corrupt("answers in another order than asked");
  if (answer.kind == BulkKind::kRefused) {
    std::string text(answer.bytes, '\0');
    TRY(link_->receive_bytes(answer, std::as_writable_bytes(std::span(text))));
    holders_[at_.node].refusal = Error{answer.code, printable(text)};
    return *holders_[at_.node].refusal;
  }
  const std::uint64_t expected = expected_bytes(request);
  const bool open_size = request.kind == BulkKind::kSkeleton;
  if (answer.kind != request.kind || (!open_size && answer.bytes != expected)) {
    return corrupt("answers " + std::to_string(answer.bytes) + " bytes, expected " +
                   std::to_string(expected));
  }
  const std::span<std::byte> out = TRY(room(answer.bytes));
  TRY(link_->receive_bytes(answer, out));
  asked_bytes_ -= expected;
  return {};
}

// --- any holder -------------------------------------------------------------------------------

Error WeightFetch::about(const WeightHolder& holder, const Error& error) const {
  return {error.code, "from " + place_of(holder.endpoint) + ": " + error.message};
}

// The head serves clients too.
std::vector<WeightHolder> WeightFetch::preferred() const {
  std::vector<WeightHolder> all = options_.holders();
  std::stable_partition(all.begin(), all.end(),
                        [](const WeightHolder& holder) { return holder.node != kHeadNode; });
  return all;
}

Error WeightFetch::nobody() const {
  std::string text = "no machine gives the weights of model " + hex_text(options_.model) + " for " +
                     std::to_string(static_cast<int>(seconds(options_.patience))) + " s";
  const std::vector<WeightHolder> all = preferred();
  if (all.empty()) text += ": none has its files";
  for (const WeightHolder& holder : all) {
    const auto it = holders_.find(holder.node);
    text += "; " + place_of(holder.endpoint) + ": " +
            (it == holders_.end() ? "not tried" : it->second.last_error);
  }
  return unavailable(text);
}

Result<void> WeightFetch::connect() {
  const Clock& clock = options_.waiting.clock;
  while (!link_) {
    bool some_left = false;
    std::optional<Error> refusal;
    for (const WeightHolder& holder : preferred()) {
      HolderState& state = holders_[holder.node];
      if (state.refusal) {
        refusal = about(holder, *state.refusal);
        continue;
      }
      some_left = true;
      if (clock.now() < state.retry_at) continue;
      const Result<void> opened = open_link(holder);
      if (opened) {
        spdlog::info("weights come from={}", place_of(holder.endpoint));
        return {};
      }
      if (options_.waiting.stop()) return unavailable("no longer wanted");
      if (state.last_error != opened.error().message) {
        spdlog::warn("weights not had from={} reason=\"{}\"", place_of(holder.endpoint),
                     opened.error().message);
      }
      state.last_error = opened.error().message;
      state.retry_at = clock.now() + options_.retry;
    }
    if (!some_left && refusal) return *refusal;
    if (clock.now() - received_at_ >= options_.patience) return nobody();
    if (options_.waiting.stop()) return unavailable("no longer wanted");
    ::poll(nullptr, 0, kPauseMs);
  }
  return {};
}

Result<void> WeightFetch::next(const Room& room) {
  CHECK(next_ < requests_.size());
  for (;;) {
    if (options_.waiting.stop()) return unavailable("no longer wanted");
    TRY(connect());
    const Result<void> got = receive_next(room);
    if (got) break;
    const bool refused = holders_[at_.node].refusal.has_value();
    HolderState& state = holders_[at_.node];
    drop_link();
    if (options_.waiting.stop()) continue;
    spdlog::warn("weights broke off from={} reason=\"{}\"", place_of(at_.endpoint),
                 is_named(at_.node) ? got.error().message : "the head misses this machine");
    state.last_error = got.error().message;
    if (refused) continue;  // the others are asked
    const Time now = options_.waiting.clock.now();
    if (++breaks_ > 1) state.retry_at = now + options_.retry;
    if (now - received_at_ >= options_.patience) return about(at_, got.error());
    if (got.error().code == ErrorCode::kCorrupt && ++mismatches_ >= options_.mismatches_max) {
      return about(at_, got.error());
    }
  }
  ++next_;
  mismatches_ = breaks_ = 0;
  received_at_ = options_.waiting.clock.now();
  for (auto& [node, state] : holders_) state.refusal.reset();
  return {};
}

}  // namespace conclave::cluster
