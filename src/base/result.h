// Result<T>: a value or an Error. A subset of std::expected, which g++ 12 has only in C++23 mode.
#pragma once

#include <optional>
#include <string>
#include <utility>
#include <variant>

#include "base/check.h"

namespace conclave {

// Says what the caller can do; the message says what happened.
enum class ErrorCode : unsigned char {
  kInvalidInput,  // the caller or the file is wrong; retrying cannot help
  kNotFound,      // the named thing does not exist
  kUnavailable,   // a peer or device is gone or late; retry elsewhere
  kExhausted,     // a stated limit was reached; retry later or ask for less
  kCorrupt,       // bytes fail their checksum or their own format
  kUnsupported,   // valid, but this build does not do it
};

struct Error {
  ErrorCode code = ErrorCode::kInvalidInput;
  std::string message;  // one line for a person: what failed, on what, which value was wrong
};

inline Error invalid_input(std::string message) {
  return {ErrorCode::kInvalidInput, std::move(message)};
}
inline Error not_found(std::string message) { return {ErrorCode::kNotFound, std::move(message)}; }
inline Error unavailable(std::string message) {
  return {ErrorCode::kUnavailable, std::move(message)};
}
inline Error exhausted(std::string message) { return {ErrorCode::kExhausted, std::move(message)}; }
inline Error corrupt(std::string message) { return {ErrorCode::kCorrupt, std::move(message)}; }
inline Error unsupported(std::string message) {
  return {ErrorCode::kUnsupported, std::move(message)};
}

template <class T>
class [[nodiscard]] Result {
 public:
  // Both implicit, so that `return value;` and `return error;` read as what they mean.
  Result(T value) : state_(std::in_place_index<0>, std::move(value)) {}      // NOLINT
  Result(Error error) : state_(std::in_place_index<1>, std::move(error)) {}  // NOLINT

  bool has_value() const { return state_.index() == 0; }
  explicit operator bool() const { return has_value(); }

  T& value() & {
    CHECK(has_value());
    return std::get<0>(state_);
  }
  const T& value() const& {
    CHECK(has_value());
    return std::get<0>(state_);
  }
  T&& value() && {
    CHECK(has_value());
    return std::get<0>(std::move(state_));
  }
  T& operator*() & { return value(); }
  const T& operator*() const& { return value(); }
  T&& operator*() && { return std::move(*this).value(); }
  T* operator->() { return &value(); }
  const T* operator->() const { return &value(); }

  Error& error() {
    CHECK(!has_value());
    return std::get<1>(state_);
  }
  const Error& error() const {
    CHECK(!has_value());
    return std::get<1>(state_);
  }

 private:
  std::variant<T, Error> state_;
};

// Stands for "nothing to return" in TRY, which needs a value of every Result.
struct Unit {};

template <>
class [[nodiscard]] Result<void> {
 public:
  Result() = default;
  Result(Error error) : error_(std::move(error)) {}  // NOLINT

  bool has_value() const { return !error_.has_value(); }
  explicit operator bool() const { return has_value(); }
  Unit value() const {
    CHECK(has_value());
    return {};
  }
  Error& error() {
    CHECK(!has_value());
    return *error_;
  }
  const Error& error() const {
    CHECK(!has_value());
    return *error_;
  }

 private:
  std::optional<Error> error_;
};

}  // namespace conclave

// Evaluates to the value, or returns the error from the enclosing function.
//   const Config config = TRY(read_config(path));     TRY(check_header(bytes));
#define TRY(...)                                           \
  __extension__({                                          \
    auto try_result = (__VA_ARGS__);                       \
    if (!try_result) return std::move(try_result.error()); \
    std::move(try_result).value();                         \
  })
