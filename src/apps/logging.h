// Logs of long-running commands.
#pragma once

#include <string>

namespace conclave::apps {

// Standard output stays free for what a script may want to read. `level` as in --log-level.
void log_to_stderr(const std::string& level);

}  // namespace conclave::apps
