// Where a flag's value comes from when the command line is silent: CONCLAVE_* environment
// variables, then the configuration file (TOML).
//
//   Settings settings = Settings::load(environment);
//   CLI::Option* threads = app.add_option("--threads", options.threads);
//   settings.bind(threads, "threads");        // CONCLAVE_THREADS, then `threads = 2`
//   TRY(settings.check());                    // after all bind(): unknown keys, refused values
//
// Precedence: flag > environment > file > the default already in the option's variable.
#pragma once

#include <CLI/CLI.hpp>
#include <functional>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <string_view>

#include "base/result.h"

namespace conclave::apps {

// Looks up one environment variable; nullopt when it is not set.
using Environment = std::function<std::optional<std::string>(const std::string& name)>;
Environment process_environment();

// "run.max_tokens" -> "CONCLAVE_RUN_MAX_TOKENS"
std::string environment_name(std::string_view key);

class Settings {
 public:
  // Reads $CONCLAVE_CONFIG, else $XDG_CONFIG_HOME/conclave/config.toml, else
  // ~/.config/conclave/config.toml. Only the first must exist. Any error is kept for check(), so
  // that --help works beside a broken file. File limit: 1 MiB.
  static Settings load(Environment environment);
  // The same from text; `label` names the source in errors.
  static Settings parse(std::string_view toml, std::string label, Environment environment);

  // Gives `option` the value of `key`, if there is one, as its default. One key may serve several
  // options (the same flag of several commands).
  void bind(CLI::Option* option, const std::string& key);

  // The first of: the file could not be read, a value was refused, a key is not known.
  Result<void> check() const;

 private:
  struct Value {
    std::string text;
    std::string source;  // for errors: "CONCLAVE_THREADS" or "config.toml"
  };

  void read(std::string_view toml, std::string label);
  std::optional<Value> find(const std::string& key) const;
  void fail(Error error);

  Environment environment_;
  std::string label_;
  std::map<std::string, std::string> file_;  // dotted key -> value as a flag would spell it
  std::set<std::string> known_;
  std::optional<Error> error_;
};

}  // namespace conclave::apps
