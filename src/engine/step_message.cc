#include "engine/step_message.h"

#include <bit>
#include <cstring>
#include <optional>
#include <string>

#include "engine/kv_pages.h"

namespace conclave::engine {
namespace {

static_assert(std::endian::native == std::endian::little, "messages are little-endian");

constexpr std::uint32_t kDecodeFlag = 1;

void append(std::vector<std::byte>& out, std::size_t value) {
  const auto word = static_cast<std::uint32_t>(value);
  const auto bytes = std::as_bytes(std::span(&word, 1));
  out.insert(out.end(), bytes.begin(), bytes.end());
}

// Words of a message; zeros beyond its end, which `exact_end` then reports.
class WordReader {
 public:
  explicit WordReader(std::span<const std::byte> bytes) : bytes_(bytes) {}

  std::uint32_t next() {
    std::uint32_t word = 0;
    if (bytes_.size() - at_ < sizeof word) {
      past_end_ = true;
      return 0;
    }
    std::memcpy(&word, bytes_.data() + at_, sizeof word);
    at_ += sizeof word;
    return word;
  }
  bool past_end() const { return past_end_; }
  bool exact_end() const { return !past_end_ && at_ == bytes_.size(); }

 private:
  std::span<const std::byte> bytes_;
  std::size_t at_ = 0;
  bool past_end_ = false;
};

Error wrong(const std::string& field, std::size_t value, const std::string& expected) {
  return corrupt("step description: " + field + " is " + std::to_string(value) + "; expected " +
                 expected);
}

Result<void> read_sequence(WordReader& reader, std::size_t first_row,
                           const StepMessageLimits& limits, std::size_t rows_left,
                           DecodedStep& step) {
  const std::size_t n_rows = reader.next();
  const std::size_t position = reader.next();
  const std::uint32_t flags = reader.next();
  if (n_rows == 0 || n_rows > rows_left) {
    return wrong("rows of a sequence", n_rows, "1 to " + std::to_string(rows_left));
  }
  const std::size_t end = position + n_rows;
  if (end > limits.positions) {
    return wrong("end of a sequence", end, "at most " + std::to_string(limits.positions));
  }
  if (flags > kDecodeFlag) return wrong("flags of a sequence", flags, "0 or 1");
  const std::size_t n_pages = pages_for(end);
  if (n_pages > limits.pages) {
    return wrong("pages of a sequence", n_pages, "at most " + std::to_string(limits.pages));
  }
  for (std::size_t i = 0; i < n_pages; ++i) {
    const std::uint32_t page = reader.next();
    if (page >= limits.pages) {
      return wrong("a page", page, "less than " + std::to_string(limits.pages));
    }
    step.pages.push_back(page);
  }
  step.sequences.push_back({.first_row = first_row,
                            .n_rows = n_rows,
                            .position = position,
                            .pages = {},  // when `pages` no longer grows
                            .decode = flags == kDecodeFlag});
  return {};
}

Result<void> read_sequences(WordReader& reader, std::size_t n_sequences,
                            const StepMessageLimits& limits, DecodedStep& step) {
  std::size_t row = 0;
  const std::size_t n_rows = step.tokens.size();
  for (std::size_t i = 0; i < n_sequences; ++i) {
    TRY(read_sequence(reader, row, limits, n_rows - row, step));
    row += step.sequences.back().n_rows;
  }
  if (row != n_rows) return wrong("rows of all sequences", row, std::to_string(n_rows));
  std::span<const backend::PageIndex> pages = step.pages;
  for (backend::SequenceRows& rows : step.sequences) {
    const std::size_t n_pages = pages_for(rows.position + rows.n_rows);
    rows.pages = pages.first(n_pages);
    pages = pages.subspan(n_pages);
  }
  return {};
}

Result<void> read_head_rows(WordReader& reader, std::size_t n_head_rows, DecodedStep& step) {
  std::size_t least = 0;
  for (std::size_t i = 0; i < n_head_rows; ++i) {
    const std::uint32_t row = reader.next();
    if (row < least || row >= step.tokens.size()) {
      return wrong("a head row", row,
                   std::to_string(least) + " to " + std::to_string(step.tokens.size() - 1));
    }
    step.head_rows.push_back(row);
    least = row + std::size_t{1};
  }
  return {};
}

}  // namespace

void encode_step(const backend::Step& step, std::vector<std::byte>& out) {
  out.clear();
  append(out, kStepMessageVersion);
  append(out, step.tokens.size());
  append(out, step.sequences.size());
  append(out, step.head_rows.size());
  for (const TokenId token : step.tokens) append(out, token.value);
  for (const backend::SequenceRows& rows : step.sequences) {
    append(out, rows.n_rows);
    append(out, rows.position);
    append(out, rows.decode ? kDecodeFlag : 0);
    for (const backend::PageIndex page : rows.pages) append(out, page);
  }
  for (const std::uint32_t row : step.head_rows) append(out, row);
}

Result<DecodedStep> decode_step(std::span<const std::byte> bytes, const StepMessageLimits& limits) {
  WordReader reader(bytes);
  const std::uint32_t version = reader.next();
  const std::size_t n_rows = reader.next();
  const std::size_t n_sequences = reader.next();
  const std::size_t n_head_rows = reader.next();
  if (version != kStepMessageVersion) {
    return wrong("version", version, std::to_string(kStepMessageVersion));
  }
  if (n_rows == 0 || n_rows > limits.rows_max) {
    return wrong("rows", n_rows, "1 to " + std::to_string(limits.rows_max));
  }
  if (n_sequences > n_rows) return wrong("sequences", n_sequences, "at most one a row");
  if (n_head_rows > n_rows) return wrong("head rows", n_head_rows, "at most one a row");

  DecodedStep step;
  for (std::size_t row = 0; row < n_rows; ++row) {
    const std::uint32_t token = reader.next();
    if (token >= limits.vocab_size) {
      return wrong("a token", token, "less than " + std::to_string(limits.vocab_size));
    }
    step.tokens.push_back(TokenId{token});
  }
  TRY(read_sequences(reader, n_sequences, limits, step));
  TRY(read_head_rows(reader, n_head_rows, step));
  if (!reader.exact_end()) {
    return wrong("size", bytes.size(),
                 reader.past_end() ? "more bytes for what it says" : "fewer bytes");
  }
  return step;
}

}  // namespace conclave::engine
