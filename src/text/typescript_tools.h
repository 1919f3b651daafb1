// Kimi K2.5's declaration of tools in the style of TypeScript, the form it was trained on.
#pragma once

#include <string>

#include "text/text.h"

namespace conclave::text {

// `tools` is OpenAI's array; entries that are not functions are left out. Empty when none is left.
// What the form cannot say becomes `any`. Recursion follows the nesting of `tools`, which the
// caller has bounded.
std::string typescript_tools(const Json& tools);

}  // namespace conclave::text
