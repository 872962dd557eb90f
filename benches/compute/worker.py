#!/usr/bin/env python3
"""A peer of bench.py: builds the model, then runs it as often as standard input asks for.

  worker.py prepare FOLDER WORK          writes the weights and clips that all peers share
  worker.py first FOLDER WORK            prints the seconds from the import of PyTorch until a checkpoint is loaded and the first logits exist
  worker.py BACKEND FOLDER WORK          prints "ready {json}" with the logits' file and the last warm-up's seconds and memory; then, for each line N, the seconds of N runs as JSON

WORK is JSON: preset, size, frames, batch, precision, what, threads. BACKEND: torch, torch-compile, torch-autocast, onnxruntime, openvino.
The model is defined in peer.py, in the folder that PEER names.
"""
import contextlib, json, os, resource, sys, time
from dataclasses import replace
import numpy as np
import torch
import torch.nn.functional as F

sys.path.insert(0, os.environ["PEER"])
import peer  # noqa: E402

# The second run still allocates memory, so it is a warm-up as well; it is skipped when the first one took this many seconds, unless that one compiled.
LONG = 10
SIZES = {"vit_b16": {}, "vit_l14": dict(patch=14, width=1024, layers=24, heads=16, adapter_layers=24)}


def config(work):
    base = peer.PRESETS["vit_b16_bare" if work["preset"] == "bare" else work["preset"]]
    given = dict(SIZES[work["size"]])
    if work["preset"] == "bare": given["adapter_layers"] = 0
    return replace(base, drop=0.0, **given)


def build(c):
    """Builds the model with random weights: convolutions other than 0, so that the adapters have an effect, and a head whose logits are as large as trained ones."""
    torch.manual_seed(1)
    model = peer.build(c)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if name.endswith("conv.weight"): p.uniform_(-0.5, 0.5)
            elif name == "fc.weight": p.normal_(0, 0.02)
    return model


def prepare(folder, work):
    from safetensors.torch import save_file
    c = config(work)
    state = {n: t.detach().float().contiguous() for n, t in build(c).state_dict().items()}
    own = {n: t for n, t in state.items() if "adapter" in n or n.startswith("fc.")}
    rest = {n: t for n, t in state.items() if n not in own}
    normalization = dict(mean=[.48145466, .4578275, .40821073], std=[.26862954, .26130258, .27577711])
    about = dict(format_version=1, image_size=c.image, patch_size=c.patch, width=c.width, layers=c.layers, heads=c.heads, mlp_width=c.mlp or 4 * c.width,
                 activation=c.act, eps=c.eps, pre_norm=c.pre_norm, patch_bias=c.patch_bias, normalization=normalization)
    save_file(rest, f"{folder}/backbone.safetensors", {"frameshift.backbone": json.dumps(about)})
    save_file(own, f"{folder}/set.safetensors")
    x = torch.randn(work["batch"], 3, work["frames"], c.image, c.image, generator=torch.Generator().manual_seed(2))
    x.numpy().astype("<f4").tofile(f"{folder}/input.f32")


def clips(folder, work):
    c = config(work)
    return torch.from_numpy(np.fromfile(f"{folder}/input.f32", "<f4").reshape(work["batch"], 3, work["frames"], c.image, c.image))


def torch_infer(backend, folder, work):
    dtype = torch.bfloat16 if work["precision"] == "bf16" else torch.float32
    cast = torch.autocast("cpu", dtype=dtype) if backend == "torch-autocast" else contextlib.nullcontext()
    x = clips(folder, work)
    model = build(config(work)).eval().requires_grad_(False)
    if backend != "torch-autocast": model, x = model.to(dtype), x.to(dtype)
    if backend != "torch":
        import torch._inductor.config as inductor
        inductor.freezing = True
        model = torch.compile(model)
    def run():
        with torch.no_grad(), cast: return model(x).float().numpy()
    return run


def first(folder, work):
    from safetensors.torch import load_file
    c, x = config(work), clips(folder, work).to(torch.bfloat16)
    begun = time.perf_counter()
    with torch.device("meta"): model = peer.build(c)
    model.load_state_dict(load_file(f"{folder}/backbone.safetensors") | load_file(f"{folder}/set.safetensors"), assign=True)
    model = model.eval().to(torch.bfloat16)
    with torch.no_grad(): logits = model(x).float().numpy()
    print(time.perf_counter() - begun)
    logits.astype("<f4").tofile(f"{folder}/first.logits")


def torch_train(backend, folder, work):
    dtype = torch.bfloat16 if work["precision"] == "bf16" else torch.float32
    autocast = backend == "torch-autocast"
    cast = torch.autocast("cpu", dtype=dtype) if autocast else contextlib.nullcontext()
    x = clips(folder, work)
    model = build(config(work)).train()
    groups = peer.trainable(model)(1e-2)
    optimizer = torch.optim.AdamW(groups, lr=1e-4)
    if not autocast:
        x = x.to(dtype)
        for p in model.parameters():
            if not p.requires_grad: p.data = p.data.to(dtype)
    y = torch.arange(work["batch"]) % config(work).classes
    f = model if backend == "torch" else torch.compile(model)
    def run():
        optimizer.zero_grad(set_to_none=True)
        with cast: logits = f(x).float()
        F.cross_entropy(logits, y).backward()
        optimizer.step()
        return logits.detach().numpy()
    return run


def onnx_file(folder, work):
    path = f"{folder}/model.onnx"
    if not os.path.exists(path):
        model = build(config(work)).eval()
        torch.onnx.export(model, (clips(folder, work),), path, input_names=["clips"], output_names=["logits"], opset_version=17, dynamo=False)
    return path


def onnxruntime_infer(folder, work):
    import onnxruntime as ort
    path = onnx_file(folder, work)
    if work["precision"] == "int8":
        from onnxruntime.quantization import QuantType, quantize_dynamic
        quantized = path.replace(".onnx", ".int8.onnx")
        quantize_dynamic(path, quantized, weight_type=QuantType.QInt8, per_channel=True, op_types_to_quantize=["MatMul", "Gemm"])
        path = quantized
    options = ort.SessionOptions()
    options.intra_op_num_threads = work["threads"]
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    x = clips(folder, work).numpy()
    return lambda: session.run(None, {"clips": x})[0]


def openvino_infer(folder, work):
    import openvino as ov
    x = clips(folder, work)
    model = ov.convert_model(build(config(work)).eval(), example_input=x, input=[tuple(x.shape)])
    if work["precision"] == "int8":
        import nncf
        noise = [torch.randn_like(x) for _ in range(4)]
        model = nncf.quantize(model, nncf.Dataset([x] + noise), model_type=nncf.ModelType.TRANSFORMER, subset_size=5)
    hints = {"INFERENCE_NUM_THREADS": work["threads"], "NUM_STREAMS": 1, "INFERENCE_PRECISION_HINT": "bf16" if work["precision"] == "bf16" else "f32"}
    compiled = ov.Core().compile_model(model, "CPU", hints)
    request, x = compiled.create_infer_request(), x.numpy()
    return lambda: np.array(request.infer([x])[compiled.output(0)])


def timed(run):
    begun = time.perf_counter()
    found = run()
    return found, time.perf_counter() - begun


def peak_mib():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10


def main():
    backend, folder, work = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
    torch.set_num_threads(work["threads"])
    if backend == "prepare": return prepare(folder, work)
    if backend == "first": return first(folder, work)
    if backend == "onnxruntime": run = onnxruntime_infer(folder, work)
    elif backend == "openvino": run = openvino_infer(folder, work)
    elif work["what"] == "train": run = torch_train(backend, folder, work)
    else: run = torch_infer(backend, folder, work)
    path = f"{folder}/{backend}.logits"
    logits, warm_up = timed(run)
    np.asarray(logits, "<f4").tofile(path)
    if warm_up < LONG or "compile" in backend: _, warm_up = timed(run)
    print("ready", json.dumps(dict(logits=path, warm_up=warm_up, peak_mib=peak_mib())), flush=True)
    for line in sys.stdin:
        times = []
        for _ in range(int(line)):
            times.append(timed(run)[1])
        print(json.dumps(dict(times=times, peak_mib=peak_mib())), flush=True)


if __name__ == "__main__": main()
