// The specification, compiled for any machine.
#include "kernels/isa_tables.h"
#include "kernels/lanes.h"
#include "kernels/scalar/lanes.h"

namespace conclave::kernels {

Operations scalar_operations() { return make_operations<ScalarLanes>(); }

}  // namespace conclave::kernels
