"""OpenVINO's CPU plugin: one request tuned for latency, tensors set once (`infer` on dictionaries takes twice as long)."""

import openvino

from bench.peers.onnx_graph import graph, supports  # noqa: F401


def prepare(problem):
    model, inputs, outputs = graph(problem)
    core = openvino.Core()
    compiled = core.compile_model(core.read_model(model), "CPU", {
        "INFERENCE_NUM_THREADS": problem.threads,
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "f32",  # or a machine with bf16 would round silently
    })  # fmt: skip
    request = compiled.create_infer_request()
    for name, array in {**inputs, **outputs}.items():
        request.set_tensor(name, openvino.Tensor(array, shared_memory=True))

    def call():
        request.start_async()
        request.wait()
        return outputs.values()

    return call
