#include <algorithm>
#include <utility>

#include "text/grammar_state.h"
#include "text/rust_call.h"

namespace conclave::text {

GrammarMatcher::GrammarMatcher(std::unique_ptr<State> state) : state_(std::move(state)) {}
GrammarMatcher::GrammarMatcher(GrammarMatcher&&) noexcept = default;
GrammarMatcher& GrammarMatcher::operator=(GrammarMatcher&&) noexcept = default;
GrammarMatcher::~GrammarMatcher() = default;

Result<void> GrammarMatcher::fill_mask(std::span<std::uint32_t> words) {
  const std::size_t needed = (state_->vocab_size + 31) / 32;
  CHECK(words.size() >= needed);
  if (state_->end_think) {
    std::copy(state_->reasoning_mask.begin(), state_->reasoning_mask.end(), words.begin());
    std::fill(words.begin() + static_cast<std::ptrdiff_t>(needed), words.end(), 0u);
    return {};
  }
  return rust_call("grammar", [&] { state_->matcher->fill_mask({words.data(), words.size()}); });
}

Result<void> GrammarMatcher::accept(TokenId id) {
  if (state_->end_think) {
    const std::size_t word = id.value / 32;
    if (word >= state_->reasoning_mask.size() ||
        (state_->reasoning_mask[word] >> (id.value % 32) & 1u) == 0) {
      return invalid_input("grammar: token " + std::to_string(id.value) +
                           " is not allowed in reasoning");
    }
    if (id == *state_->end_think) state_->end_think.reset();
    return {};
  }
  return rust_call("grammar", [&] { state_->matcher->accept(id.value); });
}

bool GrammarMatcher::finished() const { return !state_->end_think && state_->matcher->finished(); }

}  // namespace conclave::text
