// Sizes and contents of the arenas, and how they are filled.
#include <algorithm>
#include <utility>

#include "backend/cpu/weights.h"
#include "base/check.h"

namespace conclave::backend {
namespace {

using kernels::Range;

Layout laid_common(const model::ModelSource& source, bool embedding, const CpuOptions& options) {
  Layout layout = common_layout(source, options.weights, {});
  (void)place_common(layout, embedding);
  return layout;
}

Layout laid_slice(const model::ModelSource& source, const model::Slice& slice,
                  const CpuOptions& options) {
  Layout layout = slice_layout(source, options.weights, {});
  (void)place_slice(layout, slice);
  return layout;
}

std::vector<Placed> divided(const Layout& layout) {
  std::vector<Placed> parts;
  for (const Placed& placed : layout.placed()) divide(placed, kPartBytesMax, parts);
  return parts;
}

std::vector<PackedPart> parts_of(std::span<const Placed> placed) {
  std::vector<PackedPart> parts;
  parts.reserve(placed.size());
  for (const Placed& p : placed) parts.push_back(p.part);
  return parts;
}

Result<void> fill(const Layout& layout, PackedSource& from, WeightArena& arena,
                  const LoadProgress& progress) {
  if (layout.bytes() > arena.bytes().size()) {
    return invalid_input(layout.source().dir().string() +
                         ": has changed since its memory was reserved");
  }
  if (arena.filled_key() == layout.key()) return {};
  arena.use_huge_pages();
  const std::vector<Placed> placed = divided(layout);
  const std::vector<PackedPart> parts = parts_of(placed);
  const std::uint64_t there =
      std::min<std::uint64_t>(arena.start_filling(layout.key()), parts.size());
  from.announce(std::span(parts).subspan(there));
  for (std::size_t i = there; i < placed.size(); ++i) {
    const std::size_t bytes = parts[i].size_bytes();
    TRY(from.read(parts[i], arena.bytes().subspan(placed[i].offset, bytes)));
    arena.set_filled_parts(i + 1);
    if (progress) progress(placed[i].offset + bytes, layout.bytes());
  }
  arena.set_filled_key(layout.key());
  return {};
}

}  // namespace

void divide(const Placed& whole, std::size_t bytes_max, std::vector<Placed>& parts) {
  const std::size_t bytes = whole.part.size_bytes();
  if (bytes == 0) return;
  // Rows of the embedding are as free as panels, and this many at least fit.
  const std::size_t lanes = whole.part.lanes();
  const std::size_t panels = (lanes + kernels::kPanelRows - 1) / kernels::kPanelRows;
  const std::size_t panels_max =
      std::max<std::size_t>(1, bytes_max / ((bytes + panels - 1) / panels));
  const std::size_t step = panels_max * kernels::kPanelRows;
  std::size_t offset = whole.offset;
  for (std::size_t begin = 0; begin < lanes; begin += step) {
    Placed placed = whole;
    Range& range = placed.part.transposed ? placed.part.cols : placed.part.rows;
    range = {range.begin + begin, range.begin + std::min(begin + step, lanes)};
    placed.offset = offset;
    offset += placed.part.size_bytes();
    parts.push_back(placed);
  }
  CHECK(offset == whole.offset + bytes);
}

std::size_t cpu_common_bytes(const model::ModelSource& source, bool embedding,
                             const CpuOptions& options) {
  return laid_common(source, embedding, options).bytes();
}

std::size_t cpu_slice_bytes(const model::ModelSource& source, const model::Slice& slice,
                            const CpuOptions& options) {
  return laid_slice(source, slice, options).bytes();
}

std::vector<PackedPart> list_common_parts(const model::ModelSource& source, bool embedding,
                                          const CpuOptions& options) {
  return parts_of(divided(laid_common(source, embedding, options)));
}

std::vector<PackedPart> list_slice_parts(const model::ModelSource& source,
                                         const model::Slice& slice, const CpuOptions& options) {
  return parts_of(divided(laid_slice(source, slice, options)));
}

Result<void> load_common(const model::ModelSource& source, bool embedding,
                         const CpuOptions& options, PackedSource& from, WeightArena& arena,
                         const LoadProgress& progress) {
  return fill(laid_common(source, embedding, options), from, arena, progress);
}

Result<void> load_slice(const model::ModelSource& source, const model::Slice& slice,
                        const CpuOptions& options, PackedSource& from, WeightArena& arena,
                        const LoadProgress& progress) {
  return fill(laid_slice(source, slice, options), from, arena, progress);
}

Result<WholeModel> load_whole_cpu_model(const model::ModelSource& source, const CpuOptions& options,
                                        const LoadProgress& progress) {
  // Before anything is loaded: an unknown name should not cost minutes.
  TRY(kernels::choose_isa(options.isa));
  const model::Slice slice = model::Slice::whole(source.config());
  const std::size_t common_bytes = cpu_common_bytes(source, true, options);
  const std::size_t slice_bytes = cpu_slice_bytes(source, slice, options);
  // One by one: a return out of the middle of braces leaves behind what was made there.
  WeightArena common = TRY(SharedMemory::create_private(common_bytes));
  WeightArena own = TRY(SharedMemory::create_private(slice_bytes));
  SharedMemory kv = TRY(
      SharedMemory::create_private(cpu_kv_bytes(source.config(), options.limits, options.exact)));
  WholeModel whole{std::move(common), std::move(own), std::move(kv), nullptr};
  const auto part = [&](std::size_t before) {
    return
        [&progress, before, total = common_bytes + slice_bytes](std::uint64_t done, std::uint64_t) {
          if (progress) progress(before + done, total);
        };
  };
  {
    ThreadPool pool(options.threads);
    LocalPackedSource from(source, pool);
    TRY(load_common(source, true, options, from, whole.common, part(0)));
    TRY(load_slice(source, slice, options, from, whole.slice, part(common_bytes)));
  }
  whole.backend = TRY(
      make_cpu_backend(source, {whole.common, true, {{slice, whole.slice}}, whole.kv}, options));
  return whole;
}

}  // namespace conclave::backend
