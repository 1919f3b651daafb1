// What a worker computes with: its part of a model, loaded in the background.
#pragma once

#include <cstddef>
#include <functional>
#include <span>

#include "backend/backend.h"
#include "base/result.h"
#include "engine/engine.h"
#include "text/text.h"
#include "wire/wire.h"

namespace conclave::cluster {

class ModelHost {
 public:
  virtual ~ModelHost() = default;

  // From now on: hold what this assignment says, most urgent first; drop what it no longer names.
  // Returns at once. What comes into memory is reported by `Held` messages, failures by `Failed`,
  // on any thread.
  virtual void want(const wire::pb::Assignment& assignment) = 0;

  // Between steps: the backend, with these virtual ranks active, ascending. kNotFound: one of them
  // is not in memory.
  virtual Result<backend::Backend*> activate(std::span<const std::size_t> virtual_ranks) = 0;

  // How the engine has to read the layout of the virtual ranks that are active.
  virtual engine::Division division() const = 0;
  virtual const text::TextModel* text() const = 0;  // null: no grammars
};

}  // namespace conclave::cluster
