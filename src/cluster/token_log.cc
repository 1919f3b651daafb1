#include "cluster/token_log.h"

#include <utility>

#include "cluster/messages.h"

namespace conclave::cluster {

TokenLog::TokenLog(engine::Request request) : request_(std::move(request)) {
  CHECK(request_.generated.empty());
}

TokenLog::Verdict TokenLog::take(std::uint32_t attempt, std::uint64_t index,
                                 std::optional<TokenId> token) {
  CHECK(attempt <= attempt_);
  if (attempt != attempt_) return Verdict::kStale;
  const std::size_t length = request_.generated.size();
  if (index < length) return Verdict::kStale;
  if (index > length) return Verdict::kGap;
  if (token) {
    request_.generated.push_back(*token);
    barren_attempts_ = 0;
  }
  return Verdict::kTaken;
}

wire::pb::Admit TokenLog::admit(bool suspect) {
  ++attempt_;
  if (suspect) ++barren_attempts_;
  return to_message(request_, attempt_);
}

// NOLINTNEXTLINE(performance-unnecessary-value-param): moved into the log
TokenLog& TokenLogs::open(engine::Request request) {
  const RequestId id = request.id;
  const auto [place, inserted] = logs_.try_emplace(id, std::move(request));
  CHECK(inserted);
  return place->second;
}

TokenLog* TokenLogs::find(RequestId id) {
  const auto place = logs_.find(id);
  return place == logs_.end() ? nullptr : &place->second;
}

bool TokenLogs::close(RequestId id) { return logs_.erase(id) > 0; }

std::vector<RequestId> TokenLogs::ids() const {
  std::vector<RequestId> out;
  out.reserve(logs_.size());
  for (const auto& [id, log] : logs_) out.push_back(id);
  return out;
}

}  // namespace conclave::cluster
