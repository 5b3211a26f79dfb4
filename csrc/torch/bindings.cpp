// The extension module rnnkernels._C: the ops with less overhead than torch.ops, and what was built.
#include <torch/csrc/Exceptions.h>
#include <torch/csrc/autograd/python_variable.h>
#include <torch/extension.h>
#include <torch/version.h>

#include "cpu/kernels.h"
#include "cpu/team.h"
#include "torch/device.h"
#include "torch/eager.h"
#include "torch/plain_call.h"
#include "torch/stepper.h"

namespace rnnk {

namespace {

// Like torch.ops.rnnkernels.*, but with typed arguments, and without the dispatcher where it has nothing to add.
template <class Op, class Signature = typename Op::Signature>
struct Caller;
template <class Op, class R, class... Args>
struct Caller<Op, R(Args...)> {
  static R call(Args... args) {
    pybind11::gil_scoped_release release;
    return op_outputs<Op>(call_layer(Op::layer(args...)));
  }
};

// The same on rounded weights (rnnkernels/rounded.py), or None.
template <class Op, class Signature = typename Op::Signature>
struct RoundedCaller;
template <class Op, class R, class... Args>
struct RoundedCaller<Op, R(Args...)> {
  static std::optional<R> call(Args... args) {
    pybind11::gil_scoped_release release;
    const std::optional<LayerOutputs> outputs = call_rounded(Op::layer(args...));
    return outputs ? std::optional<R>(op_outputs<Op>(*outputs)) : std::nullopt;
  }
};

template <class Op>
void define(pybind11::module& m) {
  m.def(Op::name, &Caller<Op>::call);
  m.def((std::string("rounded_") + Op::name).c_str(), &RoundedCaller<Op>::call);
}

Tensors flat_weights(const ModuleReader& module) {
  Tensors weights;
  module.weights([&](const pybind11::object& weight) {
    weights.push_back(pybind11::cast<Tensor>(weight));
    return true;
  });
  return weights;
}

std::unique_ptr<Stepper> make_stepper(pybind11::handle module, int64_t batch_size, bool round_weights) {
  const ModuleReader reader(module);
  return std::make_unique<Stepper>(reader.options(), batch_size, flat_weights(reader), round_weights);
}

// What is called at every step takes positions alone and goes past pybind11's dispatcher, whose 0.6 us are a third of a small Stepper's step, and
// which allocates (that of torch 2.11).

// run_module(module, input, hx)
PyObject* python_run_module(PyObject*, PyObject* const* arguments, Py_ssize_t count) {
  HANDLE_TH_ERRORS
  TORCH_CHECK_TYPE(count == 3, "run_module: expected a module, input and hx, got ", count, " arguments");
  return run_module(arguments[0], arguments[1], arguments[2]).release().ptr();
  END_HANDLE_TH_ERRORS
}

// Stepper.step(x, out)
PyObject* python_step(PyObject* self, PyObject* const* arguments, Py_ssize_t count) {
  HANDLE_TH_ERRORS
  TORCH_CHECK_TYPE(count == 2, "Stepper: expected x and out, got ", count, " arguments");
  std::optional<Tensor> tensors[2];
  for (int i = 0; i < 2; ++i) {
    if (i == 1 && arguments[i] == Py_None) continue;
    TORCH_CHECK_TYPE(THPVariable_Check(arguments[i]), "Stepper: expected ", i ? "out" : "x", " to be a tensor, got ", Py_TYPE(arguments[i])->tp_name);
    tensors[i] = THPVariable_Unpack(arguments[i]);
  }
  auto& stepper = pybind11::cast<Stepper&>(pybind11::handle(self));
  Tensor result;
  {
    pybind11::gil_scoped_release release;
    result = stepper.step(*tensors[0], tensors[1]);
  }
  return THPVariable_Wrap(result);
  END_HANDLE_TH_ERRORS
}

template <auto function>
PyMethodDef fast_call(const char* name) {
  return {name, reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(function)), METH_FASTCALL, nullptr};
}

pybind11::dict build_info() {
  pybind11::dict info;
  info["torch_version"] = TORCH_VERSION;
  info["compiler"] = "gcc " __VERSION__;
  const DeviceKernels* cuda = device_kernels(c10::kCUDA);
  info["cuda"] = cuda ? pybind11::cast(cuda->toolkit) : pybind11::none();
  info["gpu"] = cuda ? pybind11::cast(cuda->passes()) : pybind11::none();
  return info;
}

}  // namespace

PYBIND11_MODULE(TORCH_EXTENSION_NAME, m) {
  cpu::watch_for_forks();
  define<LstmOp>(m);
  define<LstmWithCellsOp>(m);
  define<GruOp>(m);
  define<GruResetBeforeOp>(m);
  define<RnnOp>(m);
  static PyMethodDef functions[] = {fast_call<python_run_module>("run_module"), {}};
  PyModule_AddFunctions(m.ptr(), functions);
  pybind11::class_<Stepper> stepper(m, "Stepper");
  stepper.def(pybind11::init(&make_stepper))
      .def("refresh", [](Stepper& stepper, pybind11::handle module) { stepper.refresh(flat_weights(ModuleReader(module))); })
      .def("state", &Stepper::state)
      .def("set_state", &Stepper::set_state);
  static PyMethodDef step_method = fast_call<python_step>("step");
  auto* const type = reinterpret_cast<PyTypeObject*>(stepper.ptr());
  stepper.attr("step") = pybind11::reinterpret_steal<pybind11::object>(PyDescr_NewMethod(type, &step_method));
  m.def("build_info", &build_info);
  m.def("active_isa", [] { return cpu::kernels().isa; });
}

}  // namespace rnnk
