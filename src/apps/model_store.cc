#include "apps/model_store.h"

#include <cstdlib>
#include <system_error>

#include "hub/hub.h"

namespace conclave::apps {
namespace {

std::optional<std::filesystem::path> directory_in(const char* variable, const char* below) {
  const char* value = std::getenv(variable);
  if (value == nullptr || *value == '\0') return std::nullopt;
  return std::filesystem::path(value) / below;
}

}  // namespace

std::optional<std::filesystem::path> model_store_root() {
  if (const auto own = directory_in("CONCLAVE_MODELS", "")) return own;
  if (const auto data = directory_in("XDG_DATA_HOME", "conclave/models")) return data;
  return directory_in("HOME", ".local/share/conclave/models");
}

std::optional<std::filesystem::path> find_stored_model(const std::string& name) {
  std::error_code error;
  if (std::filesystem::exists(name, error)) return std::nullopt;
  const auto parsed = hub::parse_model_name(name);
  const auto root = model_store_root();
  if (!parsed || !root) return std::nullopt;
  const std::filesystem::path dir = hub::Store(*root).dir_of(*parsed);
  if (!std::filesystem::exists(dir / "config.json", error)) return std::nullopt;
  return dir;
}

}  // namespace conclave::apps
