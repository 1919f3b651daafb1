// Writes small GGUF files for tests.
#pragma once

#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

namespace conclave::formats {

class GgufBuilder {
 public:
  GgufBuilder& text(std::string_view key, std::string_view value) {
    begin(key, 8);
    put_text(metadata_, value);
    return *this;
  }
  GgufBuilder& count(std::string_view key, std::uint32_t value) {
    begin(key, 4);
    put(metadata_, value);
    return *this;
  }
  GgufBuilder& number(std::string_view key, float value) {
    begin(key, 6);
    put(metadata_, value);
    return *this;
  }
  GgufBuilder& flag(std::string_view key, bool value) {
    begin(key, 7);
    put(metadata_, static_cast<std::uint8_t>(value));
    return *this;
  }
  GgufBuilder& texts(std::string_view key, const std::vector<std::string>& values) {
    begin(key, 9);
    put(metadata_, std::uint32_t{8});
    put(metadata_, std::uint64_t{values.size()});
    for (const std::string& value : values) put_text(metadata_, value);
    return *this;
  }
  template <class T>
  GgufBuilder& list(std::string_view key, const std::vector<T>& values) {
    begin(key, 9);
    put(metadata_, std::uint32_t{std::is_same_v<T, float> ? 6u : 5u});
    put(metadata_, std::uint64_t{values.size()});
    for (const T value : values) put(metadata_, value);
    return *this;
  }
  // `shape` with the outermost dimension first; `type` as ggml numbers it.
  GgufBuilder& tensor(std::string_view name, std::uint32_t type,
                      const std::vector<std::uint64_t>& shape, std::string_view bytes) {
    put_text(tensors_, name);
    put(tensors_, static_cast<std::uint32_t>(shape.size()));
    for (auto size = shape.rbegin(); size != shape.rend(); ++size) put(tensors_, *size);
    put(tensors_, type);
    put(tensors_, std::uint64_t{data_.size()});
    data_ += bytes;
    data_.resize((data_.size() + 31) / 32 * 32);
    ++n_tensors_;
    return *this;
  }

  std::string bytes(std::uint32_t version = 3) const {
    std::string out = "GGUF";
    put(out, version);
    put(out, n_tensors_);
    put(out, n_entries_);
    out += metadata_ + tensors_;
    if (n_tensors_ > 0) out.resize((out.size() + 31) / 32 * 32);
    return out + data_;
  }
  void write(const std::filesystem::path& path) const {
    std::ofstream(path, std::ios::binary) << bytes();
  }

 private:
  template <class T>
  static void put(std::string& out, T value) {
    char raw[sizeof(T)];
    std::memcpy(raw, &value, sizeof value);
    out.append(raw, sizeof value);
  }
  static void put_text(std::string& out, std::string_view value) {
    put(out, std::uint64_t{value.size()});
    out += value;
  }
  void begin(std::string_view key, std::uint32_t type) {
    put_text(metadata_, key);
    put(metadata_, type);
    ++n_entries_;
  }

  std::string metadata_, tensors_, data_;
  std::uint64_t n_tensors_ = 0, n_entries_ = 0;
};

}  // namespace conclave::formats
