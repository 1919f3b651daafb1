#include "apps/logging.h"

#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>

namespace conclave::apps {

void log_to_stderr(const std::string& level) {
  spdlog::set_default_logger(spdlog::stderr_logger_mt("conclave"));
  spdlog::set_pattern("%Y-%m-%dT%H:%M:%S.%e %l %v");
  spdlog::set_level(spdlog::level::from_str(level));
}

}  // namespace conclave::apps
