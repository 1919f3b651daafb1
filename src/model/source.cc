#include <algorithm>
#include <utility>

#include "base/mapped_file.h"
#include "base/rng.h"
#include "formats/formats.h"
#include "model/model.h"
#include "model/report.h"
#include "model/shapes.h"
#include "model/skeleton.h"
#include "model/table.h"

namespace conclave::model {
namespace {

using formats::Tensor;

// FNV-1a of each part, combined in order: not secure, only unlikely to collide.
class Hash {
 public:
  void add(std::uint64_t value) { state_ = hash_combine(state_, value); }
  void add(std::span<const std::byte> bytes) {
    std::uint64_t fnv = 0xcbf29ce484222325u;
    for (const std::byte byte : bytes) {
      fnv = (fnv ^ static_cast<std::uint64_t>(byte)) * 0x100000001b3u;
    }
    add(fnv);
    add(bytes.size());
  }
  void add(std::string_view text) { add(std::as_bytes(std::span(text))); }
  std::uint64_t value() const { return state_; }

 private:
  std::uint64_t state_ = 0;
};

Result<void> check_matrices(const TensorTable& table) {
  TRY(check_values(table.embedding));
  if (!table.tied_head) TRY(check_values(table.head));
  for (const LayerTable& layer : table.layers) {
    for (const Linear& linear : layer.linears) {
      if (linear.weights != nullptr) TRY(check_values(linear));
    }
    for (const Linear& linear : layer.experts) TRY(check_values(linear));
  }
  return {};
}

}  // namespace

struct ModelSource::State {
  std::filesystem::path path;
  Description description;
  formats::Checkpoint checkpoint;
  TensorTable table;
  std::uint64_t fingerprint = 0;
  bool checked = false;  // opening read all matrices
};

Result<ModelSource> ModelSource::open(const std::filesystem::path& path) {
  const Description description = TRY(read_description(path));
  formats::Checkpoint checkpoint = TRY(formats::Checkpoint::open(path));
  TensorTable table = TRY(build_table(description, checkpoint));

  Hash hash;
  hash.add(description.text);
  for (const Tensor& tensor : checkpoint.tensors()) {
    hash.add(tensor.name);
    hash.add(formats::name(tensor.dtype));
    for (const std::size_t size : tensor.shape) hash.add(size);
    // Norms and biases alone are equal in checkpoints that were never trained.
    hash.add(tensor.bytes.first(std::min(tensor.bytes.size(), kHashedBytes)));
  }
  for (const Tensor* vector : table.vectors()) {
    TRY(read_vector(*vector));
    hash.add(vector->bytes);
  }
  const bool small = checkpoint.total_bytes() < kCheckAtOpenBytes;
  if (small) TRY(check_matrices(table));
  return ModelSource(std::make_unique<State>(
      State{path, description, std::move(checkpoint), std::move(table), hash.value(), small}));
}

ModelSource::ModelSource(std::unique_ptr<State> state) : state_(std::move(state)) {}
ModelSource::ModelSource(ModelSource&&) noexcept = default;
ModelSource& ModelSource::operator=(ModelSource&&) noexcept = default;
ModelSource::~ModelSource() = default;

const ModelConfig& ModelSource::config() const { return state_->description.config; }

const std::filesystem::path& ModelSource::path() const { return state_->path; }

std::filesystem::path ModelSource::dir() const { return formats::folder_of(state_->path); }

bool ModelSource::has(LayerId layer, Weight weight, ExpertId expert) const {
  if (weight == Weight::kEmbedding || weight == Weight::kHead) return true;
  if (layer.value >= config().n_layers || !layer_has(config(), layer, weight)) return false;
  return !is_expert(weight) || expert.value < config().n_experts;
}

kernels::SourceMatrix ModelSource::matrix(LayerId layer, Weight weight, ExpertId expert) const {
  return state_->table.linear(layer, weight, expert).matrix;
}

std::vector<float> ModelSource::norm(LayerId layer, Norm norm) const {
  if (norm == Norm::kFinal) return read_vector(*state_->table.final_norm).value();
  CHECK(layer.value < config().n_layers);
  const Tensor* tensor = state_->table.layers[layer.value].norms[static_cast<std::size_t>(norm)];
  CHECK(tensor != nullptr);
  return read_vector(*tensor).value();
}

std::vector<float> ModelSource::router_bias(LayerId layer) const {
  CHECK(layer.value < config().n_layers && config().is_moe(layer));
  const Tensor* tensor = state_->table.layers[layer.value].router_bias;
  if (tensor == nullptr) return std::vector<float>(config().n_experts, 0.0f);
  return read_vector(*tensor).value();
}

std::vector<float> ModelSource::bias(LayerId layer, Weight weight, ExpertId expert) const {
  CHECK(layer.value < config().n_layers);
  const LayerTable& table = state_->table.layers[layer.value];
  if (!is_expert(weight)) {
    const Tensor* tensor = table.biases[static_cast<std::size_t>(weight)];
    return tensor == nullptr ? std::vector<float>{} : read_vector(*tensor).value();
  }
  const std::size_t part =
      static_cast<std::size_t>(weight) - static_cast<std::size_t>(Weight::kExpertGate);
  const Tensor* all = table.expert_biases[part];
  if (all == nullptr) return {};
  const std::size_t step = table.biases_in_turns && weight != Weight::kExpertDown ? 2 : 1;
  const std::size_t rows = shape_of(config(), weight).rows;
  const std::size_t first = expert.value * rows * step + (step == 2 ? part : 0);
  std::vector<float> values(rows);
  for (std::size_t i = 0; i < rows; ++i) values[i] = float_at(*all, first + i * step);
  return values;
}

std::vector<float> ModelSource::sinks(LayerId layer) const {
  CHECK(layer.value < config().n_layers);
  const Tensor* tensor = state_->table.layers[layer.value].sinks;
  return tensor == nullptr ? std::vector<float>{} : read_vector(*tensor).value();
}

std::string ModelSource::label(LayerId layer, Weight weight, ExpertId expert) const {
  return label_of(state_->table.linear(layer, weight, expert));
}

Result<void> ModelSource::check(LayerId layer, Weight weight, ExpertId expert, Range rows) const {
  const Linear& linear = state_->table.linear(layer, weight, expert);
  if (state_->checked) return {};
  return check_values(linear, rows);
}

void ModelSource::drop(const kernels::SourceMatrix& matrix, Range rows) const {
  const kernels::SourceMatrix band = row_band(matrix, rows).matrix;
  state_->checkpoint.drop(band.weights);
  state_->checkpoint.drop(band.scales);
  if (is_mlx(band)) state_->checkpoint.drop(band.offsets);
}

Result<std::vector<FileRange>> skeleton(const ModelSource& source) {
  return skeleton_of(source.dir(), source.state_->checkpoint, source.state_->table);
}

std::uint64_t ModelSource::file_bytes() const { return state_->checkpoint.total_bytes(); }

std::uint64_t ModelSource::fingerprint() const { return state_->fingerprint; }

std::vector<std::string> ModelSource::ignored_tensors() const { return state_->table.ignored; }

ModelReport inspect(const ModelSource& source, WeightsMode mode) {
  const TensorTable& table = source.state_->table;
  VectorBytes vectors;
  vectors.norms = table.final_norm->bytes.size();
  for (const LayerTable& layer : table.layers) {
    for (const Tensor* norm : layer.norms)
      vectors.norms += norm == nullptr ? 0 : norm->bytes.size();
    for (const Tensor* bias : layer.biases)
      vectors.norms += bias == nullptr ? 0 : bias->bytes.size();
    if (layer.sinks != nullptr) vectors.norms += layer.sinks->bytes.size();
    for (const Tensor* bias : layer.expert_bias_tensors())
      vectors.expert_biases += bias->bytes.size();
    if (layer.router_bias != nullptr) vectors.router_biases += layer.router_bias->bytes.size();
  }
  const auto matrix_of = [&source](LayerId layer, Weight weight, ExpertId expert) {
    return source.matrix(layer, weight, expert);
  };
  ModelReport result = report(source.config(), matrix_of, vectors, mode);
  // A tied head is kept and read a second time, but it is no second matrix of the model.
  for (PartBytes& part : result.parts) {
    if (table.tied_head && part.part == "head") part.parameters = part.file_bytes = 0;
  }
  return result;
}

}  // namespace conclave::model
