// Descriptions of a step from arbitrary bytes: an error of one line, or a step that stays inside
// the limits and whose encoding is those bytes.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "base/check.h"
#include "engine/kv_pages.h"
#include "engine/step_message.h"

namespace {

using namespace conclave;

constexpr engine::StepMessageLimits kLimits{
    .rows_max = 64, .pages = 40, .positions = 2000, .vocab_size = 256};

void check_step(const backend::Step& step) {
  CHECK(!step.tokens.empty() && step.tokens.size() <= kLimits.rows_max);
  for (const TokenId token : step.tokens) CHECK(token.value < kLimits.vocab_size);
  std::size_t row = 0;
  for (const backend::SequenceRows& rows : step.sequences) {
    CHECK(rows.first_row == row && rows.n_rows > 0);
    row += rows.n_rows;
    CHECK(rows.position + rows.n_rows <= kLimits.positions);
    CHECK(rows.pages.size() == engine::pages_for(rows.position + rows.n_rows));
    for (const backend::PageIndex page : rows.pages) CHECK(page < kLimits.pages);
  }
  CHECK(row == step.tokens.size());
  CHECK(std::ranges::is_sorted(step.head_rows));
  CHECK(step.head_rows.empty() || step.head_rows.back() < row);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::span<const std::byte> bytes = std::as_bytes(std::span(data, size));
  const auto decoded = engine::decode_step(bytes, kLimits);
  if (!decoded) {
    CHECK(decoded.error().code == ErrorCode::kCorrupt);
    CHECK(decoded.error().message.find('\n') == std::string::npos);
    return 0;
  }
  check_step(decoded->step());
  std::vector<std::byte> again;
  engine::encode_step(decoded->step(), again);
  CHECK(std::ranges::equal(again, bytes));
  return 0;
}
