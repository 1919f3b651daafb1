// Where models lie that `conclave model pull` and `add` brought.
#pragma once

#include <filesystem>
#include <optional>
#include <string>

namespace conclave::apps {

// $CONCLAVE_MODELS, else $XDG_DATA_HOME/conclave/models, else ~/.local/share/conclave/models.
std::optional<std::filesystem::path> model_store_root();

// The folder of "ORG/NAME", where the store has that model whole and no such path is there.
std::optional<std::filesystem::path> find_stored_model(const std::string& name);

}  // namespace conclave::apps
