// The operator for ONNX Runtime: thin, through its C API only, so that one build serves every runtime from 1.17 on.
//
// It takes over the nodes of domain "vlcompress" that vlcompress/export/functions.py describes.
#include <array>
#include <cstdio>
#include <mutex>
#include <string>

#include "kernel.h"
#include "onnxruntime_c_api.h"

#define RETURN_IF_ERROR(call) \
  if (OrtStatus* const status = (call)) return status

namespace vlcompress {
namespace {

// MAX_BODIES of functions.py: BlockSparseLinear, BlockSparseLinear_1, ..., and as many of BlockSparseLinearInt8.
constexpr size_t kNames = 256;
constexpr uint32_t kOldestApi = 17;

// B and R, the bias and the residual, come next; before them S, the scales of int8 weights.
enum Input : size_t { kX, kW, kI, kP, kNext };

OrtStatus* refuse(const OrtApi& api, const char* why) {
  return api.CreateStatus(ORT_INVALID_ARGUMENT, (std::string("vlcompress BlockSparseLinear: ") + why).c_str());
}

struct Shape {
  std::array<int64_t, 8> sizes;
  size_t rank;
  int64_t count() const {
    int64_t product = 1;
    for (size_t i = 0; i < rank; ++i) product *= sizes[i];
    return product;
  }
};

OrtStatus* read_shape(const OrtApi& api, const OrtTensorTypeAndShapeInfo* info, Shape* shape) {
  RETURN_IF_ERROR(api.GetDimensionsCount(info, &shape->rank));
  if (shape->rank > shape->sizes.size()) return refuse(api, "tensors of rank 8 at most");
  return api.GetDimensions(info, shape->sizes.data(), shape->rank);
}

template <class T>
OrtStatus* read_tensor(const OrtApi& api, const OrtValue* value, const T** values, Shape* shape) {
  void* raw = nullptr;
  RETURN_IF_ERROR(api.GetTensorMutableData(const_cast<OrtValue*>(value), &raw));  // older runtimes have no const form
  *values = static_cast<const T*>(raw);
  OrtTensorTypeAndShapeInfo* info = nullptr;
  RETURN_IF_ERROR(api.GetTensorTypeAndShape(value, &info));
  OrtStatus* const status = read_shape(api, info, shape);
  api.ReleaseTensorTypeAndShapeInfo(info);
  return status;
}

template <class T>
OrtStatus* read_constant(const OrtApi& api, const OrtKernelInfo* info, size_t index, const T** values, int64_t* count) {
  int is_constant = 0;
  const OrtValue* value = nullptr;
  RETURN_IF_ERROR(api.KernelInfoGetConstantInput_tensor(info, index, &is_constant, &value));
  if (!is_constant || !value) return refuse(api, "W, I, P, S and B must be initialisers");
  Shape shape{};
  RETURN_IF_ERROR(read_tensor(api, value, values, &shape));
  *count = shape.count();
  return nullptr;
}

OrtStatus* read_activation(const OrtApi& api, const OrtKernelInfo* info, int32_t* activation) {
  char name[16] = {};
  size_t size = sizeof name;
  RETURN_IF_ERROR(api.KernelInfoGetAttribute_string(info, "activation", name, &size));
  constexpr const char* names[kActivations] = {"none", "gelu", "gelu_tanh", "relu"};
  for (int32_t i = 0; i < kActivations; ++i)
    if (std::string(name) == names[i]) return *activation = i, nullptr;
  return refuse(api, "activation must be none, gelu, gelu_tanh or relu");
}

struct Op : OrtCustomOp {
  char name[32];
  Precision precision;
  const InstructionSet* set;
  size_t bias() const { return precision == Precision::kInt8 ? kNext + 1 : kNext; }
  size_t residual() const { return bias() + 1; }
};

struct Kernel {
  const OrtApi& api;
  const Op& op;
  Weight weight{};
  PackedWeight packed{};
  const float* bias = nullptr;
  int32_t activation = kNone;
};

// Reads W, and S if it is int8.
OrtStatus* read_weights(const OrtKernelInfo* info, const Op& op, const OrtApi& api, Weight& w, int64_t* values) {
  const float* floats = nullptr;
  if (op.precision != Precision::kInt8) {
    RETURN_IF_ERROR(read_constant(api, info, kW, &floats, values));
    return w.values = floats, nullptr;
  }
  const int8_t* integers = nullptr;
  int64_t scales = 0;
  RETURN_IF_ERROR(read_constant(api, info, kW, &integers, values));
  RETURN_IF_ERROR(read_constant(api, info, kNext, &w.scales, &scales));
  w.values = integers;
  return scales == w.outputs ? nullptr : refuse(api, "S must have N values");
}

// Reads and checks the attributes and the constants, which stay where they are for as long as the session lives.
OrtStatus* prepare(const OrtKernelInfo* info, Kernel& kernel) {
  const OrtApi& api = kernel.api;
  const Op& op = kernel.op;
  Weight& w = kernel.weight;
  int64_t values = 0, columns = 0, starts = 0, bias = 0;
  RETURN_IF_ERROR(api.KernelInfoGetAttribute_int64(info, "N", &w.outputs));
  RETURN_IF_ERROR(api.KernelInfoGetAttribute_int64(info, "K", &w.inputs));
  RETURN_IF_ERROR(api.KernelInfoGetAttribute_int64(info, "h", &w.height));
  RETURN_IF_ERROR(read_activation(api, info, &kernel.activation));
  RETURN_IF_ERROR(read_weights(info, op, api, w, &values));
  RETURN_IF_ERROR(read_constant(api, info, kI, &w.columns, &columns));
  RETURN_IF_ERROR(read_constant(api, info, kP, &w.starts, &starts));
  RETURN_IF_ERROR(read_constant(api, info, op.bias(), &kernel.bias, &bias));
  if (const char* wrong = check(w, values, columns, starts - 1)) return refuse(api, wrong);
  if (bias != w.outputs) return refuse(api, "B must have N values");
  if (op.precision != Precision::kFloat32) {
    kernel.packed = pack(w, *op.set, op.precision);
    w = kernel.packed.view(w);
  }
  return nullptr;
}

OrtStatus* ORT_API_CALL create(const OrtCustomOp* op, const OrtApi* api, const OrtKernelInfo* info, void** created) {
  auto* const kernel = new Kernel{*api, *static_cast<const Op*>(op)};
  OrtStatus* const status = prepare(info, *kernel);
  if (status)
    delete kernel;
  else
    *created = kernel;
  return status;
}

void ORT_API_CALL destroy(void* kernel) { delete static_cast<Kernel*>(kernel); }

struct Pool {
  const OrtApi& api;
  const OrtKernelContext* context;
  OrtStatus* status;
};

void on_runtime(void* pool, size_t count, Task task, void* job) {
  auto& p = *static_cast<Pool*>(pool);
  if (count == 1)
    task(job, 0);
  else
    p.status = p.api.KernelContext_ParallelFor(p.context, task, count, 0, job);
}

// The residual is optional: absent if the node has fewer inputs, or an empty name in its place.
OrtStatus* read_residual(const Kernel& kernel, const OrtKernelContext* context, int64_t wanted, const float** residual) {
  const OrtApi& api = kernel.api;
  const size_t at = kernel.op.residual();
  size_t inputs = 0;
  RETURN_IF_ERROR(api.KernelContext_GetInputCount(context, &inputs));
  const OrtValue* value = nullptr;
  if (inputs > at) RETURN_IF_ERROR(api.KernelContext_GetInput(context, at, &value));
  if (!value) return nullptr;
  Shape shape{};
  RETURN_IF_ERROR(read_tensor(api, value, residual, &shape));
  return shape.count() == wanted ? nullptr : refuse(api, "R must have the shape of Y");
}

OrtStatus* ORT_API_CALL compute(void* state, OrtKernelContext* context) {
  const Kernel& kernel = *static_cast<const Kernel*>(state);
  const OrtApi& api = kernel.api;
  const Weight& w = kernel.weight;
  const OrtValue* value = nullptr;
  RETURN_IF_ERROR(api.KernelContext_GetInput(context, kX, &value));
  Call call{nullptr, kernel.bias, nullptr, nullptr, 0, kernel.activation};
  Shape shape{};
  RETURN_IF_ERROR(read_tensor(api, value, &call.x, &shape));
  if (!shape.rank || shape.sizes[shape.rank - 1] != w.inputs) return refuse(api, "the last axis of X must be K");
  call.rows = w.inputs ? shape.count() / w.inputs : 0;
  RETURN_IF_ERROR(read_residual(kernel, context, call.rows * w.outputs, &call.residual));
  shape.sizes[shape.rank - 1] = w.outputs;
  OrtValue* output = nullptr;
  RETURN_IF_ERROR(api.KernelContext_GetOutput(context, 0, shape.sizes.data(), shape.rank, &output));
  void* y = nullptr;
  RETURN_IF_ERROR(api.GetTensorMutableData(output, &y));
  call.y = static_cast<float*>(y);
  Pool pool{api, context, nullptr};
  block_sparse_linear(w, call, *kernel.op.set, on_runtime, &pool);
  return pool.status;
}

ONNXTensorElementDataType ORT_API_CALL input_type(const OrtCustomOp* op, size_t index) {
  if (index == kI) return ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32;
  if (index == kP) return ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64;
  const bool int8 = index == kW && static_cast<const Op*>(op)->precision == Precision::kInt8;
  return int8 ? ONNX_TENSOR_ELEMENT_DATA_TYPE_INT8 : ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;
}

Op make_op(int number, uint32_t version, Precision precision, const InstructionSet* set) {
  Op op{};
  op.set = set;
  op.precision = precision;
  const char* const stem = precision == Precision::kInt8 ? "BlockSparseLinearInt8" : "BlockSparseLinear";
  std::snprintf(op.name, sizeof op.name, number ? "%s_%d" : "%s", stem, number);
  op.version = version;
  op.GetName = [](const OrtCustomOp* self) { return static_cast<const char*>(static_cast<const Op*>(self)->name); };
  op.GetExecutionProviderType = [](const OrtCustomOp*) -> const char* { return nullptr; };
  op.GetInputType = input_type;
  op.GetInputTypeCount = [](const OrtCustomOp* self) { return static_cast<const Op*>(self)->residual() + 1; };
  op.GetInputCharacteristic = [](const OrtCustomOp* self, size_t index) {
    return index == static_cast<const Op*>(self)->residual() ? INPUT_OUTPUT_OPTIONAL : INPUT_OUTPUT_REQUIRED;
  };
  op.GetInputMemoryType = [](const OrtCustomOp*, size_t) { return OrtMemTypeDefault; };
  op.GetOutputType = [](const OrtCustomOp*, size_t) { return ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT; };
  op.GetOutputTypeCount = [](const OrtCustomOp*) -> size_t { return 1; };
  op.GetOutputCharacteristic = [](const OrtCustomOp*, size_t) { return INPUT_OUTPUT_REQUIRED; };
  op.CreateKernelV2 = create;
  op.KernelComputeV2 = compute;
  op.KernelDestroy = destroy;
  return op;
}

// The newest API that both the headers of this build and the runtime know; null if the runtime is too old.
const OrtApi* newest_api(const OrtApiBase* base, uint32_t* version) {
  for (*version = ORT_API_VERSION; *version >= kOldestApi; --*version)
    if (const OrtApi* const api = base->GetApi(*version)) return api;
  return nullptr;
}

// Sessions refer to the operators and their domain, so these are made once and live as long as the process.
struct Domain {
  std::array<Op, 2 * kNames> ops{};
  OrtCustomOpDomain* domain = nullptr;
};

OrtStatus* make_domain(const OrtApi& api, uint32_t version, Precision floats, Domain* made) {
  if (made->domain) return nullptr;
  const InstructionSet* const sets[] = {instruction_set(nullptr, floats), instruction_set(nullptr, Precision::kInt8)};
  if (!sets[0] || !sets[1]) return refuse(api, "this processor has no such instructions, or none faster than float32");
  OrtCustomOpDomain* domain = nullptr;
  RETURN_IF_ERROR(api.CreateCustomOpDomain("vlcompress", &domain));
  for (size_t i = 0; i < made->ops.size(); ++i) {
    const bool int8 = i >= kNames;
    made->ops[i] = make_op(static_cast<int>(i % kNames), version, int8 ? Precision::kInt8 : floats, sets[int8]);
    RETURN_IF_ERROR(api.CustomOpDomain_Add(domain, &made->ops[i]));
  }
  made->domain = domain;
  return nullptr;
}

// A session asks for bfloat16 in place of float32 with the configuration entry "vlcompress.precision".
OrtStatus* read_precision(const OrtApi& api, const OrtSessionOptions* options, Precision* precision) {
  constexpr const char* key = "vlcompress.precision";
  int there = 0;
  RETURN_IF_ERROR(api.HasSessionConfigEntry(options, key, &there));
  if (!there) return nullptr;
  char value[16] = {};
  size_t size = sizeof value;
  RETURN_IF_ERROR(api.GetSessionConfigEntry(options, key, value, &size));
  const std::string name = value;
  if (name != "float32" && name != "bfloat16") return refuse(api, "vlcompress.precision must be float32 or bfloat16");
  *precision = name == "bfloat16" ? Precision::kBfloat16 : Precision::kFloat32;
  return nullptr;
}

OrtStatus* register_ops(const OrtApi& api, uint32_t version, OrtSessionOptions* options) {
  static std::mutex mutex;
  static Domain domains[2];
  Precision precision = Precision::kFloat32;
  RETURN_IF_ERROR(read_precision(api, options, &precision));
  Domain& domain = domains[precision == Precision::kBfloat16];
  const std::lock_guard<std::mutex> lock(mutex);
  RETURN_IF_ERROR(make_domain(api, version, precision, &domain));
  return api.AddCustomOpDomain(options, domain.domain);
}

}  // namespace
}  // namespace vlcompress

extern "C" __attribute__((visibility("default"))) OrtStatus* ORT_API_CALL RegisterCustomOps(OrtSessionOptions* options,
                                                                                            const OrtApiBase* base) {
  uint32_t version = 0;
  const OrtApi* const api = vlcompress::newest_api(base, &version);
  if (!api) return base->GetApi(1)->CreateStatus(ORT_FAIL, "vlcompress needs onnxruntime 1.17 or newer");
  return vlcompress::register_ops(*api, version, options);
}
