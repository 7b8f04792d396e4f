// A device in the memory of the CPU, on which tensors of the CPU are refused as they are on a GPU: what forgets to move
// a tensor fails here, too. Every operation is computed by the CPU; see simulated_device.py.

#include <cstring>
#include <optional>

#include <ATen/ATen.h>
#include <ATen/EmptyTensor.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/detail/PrivateUse1HooksInterface.h>
#include <ATen/native/CPUFallback.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <c10/core/impl/alloc_cpu.h>
#include <torch/library.h>

namespace {

using at::Tensor;
using c10::SymIntArrayRef;
using std::optional;

const c10::Device device(c10::DeviceType::PrivateUse1, 0);
const c10::DispatchKeySet keys(c10::DispatchKey::PrivateUse1);
bool float64 = true;  // false: as on Apple's GPUs

struct Memory final : c10::Allocator {
  c10::DataPtr allocate(size_t bytes) override {
    void* data = bytes ? c10::alloc_cpu(bytes) : nullptr;
    return {data, data, &c10::free_cpu, device};
  }
  c10::DeleterFnPtr raw_deleter() const override { return &c10::free_cpu; }
  void copy_data(void* to, const void* from, std::size_t bytes) const override { std::memcpy(to, from, bytes); }
};

Memory memory;
REGISTER_ALLOCATOR(c10::DeviceType::PrivateUse1, &memory);

// One device, one stream: there is nothing to wait for.
struct Guard final : c10::impl::DeviceGuardImplInterface {
  static c10::Stream stream() { return c10::Stream(c10::Stream::DEFAULT, device); }
  c10::DeviceType type() const override { return device.type(); }
  c10::Device exchangeDevice(c10::Device) const override { return device; }
  c10::Device getDevice() const override { return device; }
  void setDevice(c10::Device) const override {}
  void uncheckedSetDevice(c10::Device) const noexcept override {}
  c10::Stream getStream(c10::Device) const noexcept override { return stream(); }
  c10::Stream getNewStream(c10::Device, int) const override { return stream(); }
  c10::Stream exchangeStream(c10::Stream) const noexcept override { return stream(); }
  c10::DeviceIndex deviceCount() const noexcept override { return 1; }
  void record(void**, const c10::Stream&, const c10::DeviceIndex, const c10::EventFlag) const override {}
  void block(void*, const c10::Stream&) const override {}
  bool queryEvent(void*) const override { return true; }
  void destroyEvent(void*, const c10::DeviceIndex) const noexcept override {}
  bool queryStream(const c10::Stream&) const override { return true; }
  void synchronizeStream(const c10::Stream&) const override {}
  void synchronizeDevice(const c10::DeviceIndex) const override {}
};
C10_REGISTER_GUARD_IMPL(PrivateUse1, Guard);

struct Hooks final : at::PrivateUse1HooksInterface {
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  bool hasPrimaryContext(c10::DeviceIndex) const override { return true; }
};

// ---- Memory and views

c10::ScalarType checked(optional<at::ScalarType> given) {
  auto type = c10::dtype_or_default(given);
  TORCH_CHECK_TYPE(float64 || type != at::kDouble, "Cannot convert to float64: this device does not support it.");
  return type;
}

Tensor empty(at::IntArrayRef size, optional<at::ScalarType> type, optional<at::Layout>, optional<at::Device>,
             optional<bool>, optional<at::MemoryFormat> format) {
  return at::detail::empty_generic(size, &memory, keys, checked(type), format);
}

Tensor empty_strided(at::IntArrayRef size, at::IntArrayRef stride, optional<at::ScalarType> type, optional<at::Layout>,
                     optional<at::Device>, optional<bool>) {
  return at::detail::empty_strided_generic(size, stride, &memory, keys, checked(type));
}

// The same memory, as a tensor of the CPU.
Tensor host(const Tensor& tensor) {
  if (!tensor.device().is_privateuseone()) return tensor;
  auto options = tensor.options().device(at::kCPU);
  auto kept = [tensor](void*) {};
  return at::from_blob(tensor.storage().mutable_data(), tensor.sizes(), tensor.strides(), tensor.storage_offset(),
                       kept, options, at::kCPU);
}

Tensor copy_from(const Tensor& from, const Tensor& to, bool) {
  host(to).copy_(host(from));
  return to;
}

Tensor copy_from_and_resize(const Tensor& from, const Tensor& to) {
  if (to.sizes() != from.sizes()) to.resize_(from.sizes());
  return copy_from(from, to, false);
}

const Tensor& resize(const Tensor& tensor, SymIntArrayRef size, optional<at::MemoryFormat>) {
  auto sizes = C10_AS_INTARRAYREF_SLOW(size);
  size_t bytes = (c10::multiply_integers(sizes) + tensor.storage_offset()) * tensor.itemsize();
  auto storage = tensor.storage();
  if (storage.nbytes() < bytes) {
    auto data = memory.allocate(bytes);
    if (storage.nbytes()) std::memcpy(data.get(), storage.data(), storage.nbytes());
    storage.set_data_ptr(std::move(data));
    storage.unsafeGetStorageImpl()->set_nbytes(bytes);
  }
  tensor.unsafeGetTensorImpl()->set_sizes_contiguous(sizes);
  return tensor;
}

Tensor& set_storage(Tensor& tensor, at::Storage storage, int64_t offset, at::IntArrayRef size, at::IntArrayRef stride) {
  tensor.unsafeGetTensorImpl()->set_storage_and_dtype(storage, tensor.dtype());
  tensor.unsafeGetTensorImpl()->set_sizes_and_strides(size, stride, offset);
  return tensor;
}

Tensor& set_whole_storage(Tensor& tensor, at::Storage storage) {
  int64_t count = storage.nbytes() / tensor.itemsize();
  return set_storage(tensor, storage, 0, {count}, {1});
}

Tensor as_strided(const Tensor& tensor, SymIntArrayRef size, SymIntArrayRef stride, optional<c10::SymInt> offset) {
  auto start = offset ? optional<int64_t>(offset->expect_int()) : std::nullopt;
  auto sizes = C10_AS_INTARRAYREF_SLOW(size), strides = C10_AS_INTARRAYREF_SLOW(stride);
  return at::native::as_strided_tensorimpl(tensor, sizes, strides, start);
}

Tensor reshape_alias(const Tensor& tensor, SymIntArrayRef size, SymIntArrayRef stride) {
  return as_strided(tensor, size, stride, std::nullopt);
}

Tensor view(const Tensor& tensor, SymIntArrayRef size) {
  return at::native::view(tensor, C10_AS_INTARRAYREF_SLOW(size));
}

at::Scalar item(const Tensor& tensor) { return host(tensor).item(); }

// ---- Operations

void check_devices(const std::string& name, at::TensorList tensors) {
  bool here = false, there = false;
  for (const auto& tensor : tensors) {
    here |= tensor.defined() && tensor.device().is_privateuseone();
    there |= tensor.defined() && tensor.is_cpu() && tensor.dim() > 0;  // numbers may come from the CPU
  }
  TORCH_CHECK(!here || !there, "Expected all tensors to be on the same device, but found "
              "at least two devices, simulated:0 and cpu, in ", name);
}

// Positions to index by come in lists that may hold none: they may be on the CPU, as for a GPU.
void on_the_cpu(const c10::OperatorHandle& op, torch::jit::Stack* stack) {
  std::vector<Tensor> tensors;
  for (const auto& value : torch::jit::last(*stack, op.schema().arguments().size())) {
    if (value.isTensor()) tensors.push_back(value.toTensor());
    if (value.isTensorList()) for (const Tensor& tensor : value.toTensorList()) tensors.push_back(tensor);
  }
  check_devices(op.schema().name(), tensors);
  at::native::cpu_fallback(op, stack);
}

Tensor back(const Tensor& tensor) { return tensor.defined() ? tensor.to(device) : tensor; }

Tensor convolution(const Tensor& x, const Tensor& weight, const optional<Tensor>& bias, SymIntArrayRef stride,
                   SymIntArrayRef padding, SymIntArrayRef dilation, bool transposed, SymIntArrayRef more,
                   c10::SymInt groups) {
  auto offset = bias && bias->defined() ? optional<Tensor>(host(*bias)) : std::nullopt;
  check_devices("convolution", {x, weight, bias.value_or(Tensor())});
  return back(at::convolution_symint(
      host(x), host(weight), offset, stride, padding, dilation, transposed, more, groups));
}

std::tuple<Tensor, Tensor, Tensor> convolution_backward(
    const Tensor& slope, const Tensor& x, const Tensor& weight, SymIntArrayRef stride, SymIntArrayRef padding,
    SymIntArrayRef dilation, bool transposed, SymIntArrayRef more, c10::SymInt groups, std::array<bool, 3> wanted) {
  check_devices("convolution_backward", {slope, x, weight});
  auto outputs = transposed ? weight.sym_size(1) * groups : weight.sym_size(0);
  auto [a, b, c] = at::convolution_backward_symint(
      host(slope), host(x), host(weight), SymIntArrayRef(outputs), stride, padding, dilation, transposed, more, groups,
      wanted);
  return {back(a), back(b), back(c)};
}

TORCH_LIBRARY_IMPL(_, PrivateUse1, m) { m.fallback(torch::CppFunction::makeFromBoxedFunction<&on_the_cpu>()); }

TORCH_LIBRARY_IMPL(aten, PrivateUse1, m) {
  m.impl("empty.memory_format", &empty);
  m.impl("empty_strided", &empty_strided);
  m.impl("_copy_from", &copy_from);
  m.impl("_copy_from_and_resize", &copy_from_and_resize);
  m.impl("resize_", &resize);
  m.impl("set_.source_Storage_storage_offset", &set_storage);
  m.impl("set_.source_Storage", &set_whole_storage);
  m.impl("as_strided", &as_strided);
  m.impl("_reshape_alias", &reshape_alias);
  m.impl("view", &view);
  m.impl("unfold", &at::native::unfold);
  m.impl("_local_scalar_dense", &item);
  m.impl("convolution_overrideable", &convolution);
  m.impl("convolution_backward_overrideable", &convolution_backward);
}

TORCH_LIBRARY(simulated, m) {
  m.def("start() -> ()", [] { at::RegisterPrivateUse1HooksInterface(new Hooks()); });
  m.def("set_float64(bool supported) -> ()", [](bool supported) { float64 = supported; });
}

}  // namespace
