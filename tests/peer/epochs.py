"""Writes tests/data/peer/epochs.{json,safetensors}: two epochs of each preset's recipe in PyTorch, with the draws of Frameshift's jobs.

python3 -m venv venv && venv/bin/pip install torch numpy safetensors && venv/bin/python tests/peer/epochs.py ../shared/peer/peer.py

The model is that of the PyTorch peer, which is written down apart from Frameshift. The random streams, the order of the examples, mirroring and dropout are
computed here a second time, from their definitions in crates/core/src/rng.rs and src/jobs/augment.rs. Weights and clips are generated, so that the file holds
losses and trained weights alone.
"""

import importlib.util
import json
import math
import pathlib
import sys

import numpy as np
import torch
from safetensors.torch import save_file

from streams import Stream, permutation, splitmix64

FOLDER = pathlib.Path(__file__).parent.parent / "data" / "peer"
SEED = 29
CLIPS, CLASSES, FRAMES, EPOCHS = 300, 10, 8, 2
SHAPE = dict(image=32, patch=8, width=32, layers=2, heads=2, mlp=64, classes=CLASSES, adapter_width=12, adapter_layers=2)
# What the presets say (docs/training.md), as far as a step depends on it.
CASES = {
    "k400-12x384": dict(pre_attn=False, batch=192, epochs=12, mirror=True, multi=False, smoothing=0.0),
    "ssv2-24x384": dict(pre_attn=True, batch=256, epochs=50, mirror=False, multi=False, smoothing=0.0),
    "multi-label": dict(pre_attn=False, batch=192, epochs=12, mirror=True, multi=True, smoothing=0.1),
}


def dropout(step, clips, width, rate):
    stream, factor = Stream.new(SEED, "dropout").fork(step), np.float32(1 / (1 - rate))
    rows = []
    for clip in range(clips):
        own = stream.fork(clip)
        rows.append([np.float32(0) if own.unit() < np.float32(rate) else factor for _ in range(width)])
    return torch.from_numpy(np.array(rows, dtype=np.float32))


def marks_of(clip):
    """The labels of a clip, as the Rust test gives them."""
    return [label for label in range(CLASSES) if splitmix64(clip * CLASSES + label) % (label + 2) == 0]


def run(peer, name, case):
    config = peer.Config(**SHAPE, pre_mlp=True, pre_attn=case["pre_attn"], drop=0.5)
    model = peer.VideoViT(config)
    weights = {}
    for own, value in model.named_parameters():
        shape = tuple(value.shape)
        gain = "ln_" in own and own.endswith("weight")
        spread = math.sqrt(3 / math.prod(shape[1:])) if len(shape) > 1 else 0.1
        weights[own] = peer.generate(SEED, own, shape, 1.0 if gain else 0.0, spread)
    model.load_state_dict(weights)
    groups = peer.trainable(model)(1e-2)
    optimizer = torch.optim.AdamW(groups, lr=1.0)
    peak = 1e-3 * case["batch"] / 256
    steps = -(-CLIPS // case["batch"])
    total, warmup = steps * case["epochs"], 2 * steps
    shape = (3, FRAMES, SHAPE["image"], SHAPE["image"])
    clip = lambda index: peer.generate(SEED, f"clip.{index}", shape, 0.0, 1.7)
    positive = None
    if case["multi"]:
        counts = np.zeros(CLASSES)
        for own in range(CLIPS):
            counts[marks_of(own)] += 1
        positive = torch.tensor([(CLIPS - n) / n for n in counts], dtype=torch.float32).clamp(0.01, 100)
    model.train()
    losses, kept = [], torch.nn.functional.dropout
    for step in range(steps * EPOCHS):
        epoch, within = divmod(step, steps)
        order = permutation(CLIPS, Stream.new(SEED, "permutation").fork(epoch))
        picked = order[CLIPS * within // steps : CLIPS * (within + 1) // steps]
        planes = []
        for index in picked:
            own = clip(index)
            mirrored = case["mirror"] and Stream.new(SEED, "mirror").fork(epoch).fork(index).below(2) == 1
            planes.append(own.flip(-1) if mirrored else own)
        mask = dropout(step, len(picked), SHAPE["width"], 0.5)
        peer.F.dropout = lambda x, rate, training: x * mask
        logits = model(torch.stack(planes))
        peer.F.dropout = kept
        if case["multi"]:
            wanted = torch.zeros(len(picked), CLASSES)
            for row, index in enumerate(picked):
                wanted[row, marks_of(index)] = 1
            wanted = wanted * (1 - case["smoothing"]) + 0.5 * case["smoothing"]
            loss = peer.F.binary_cross_entropy_with_logits(logits, wanted, pos_weight=positive)
        else:
            labels = torch.tensor([index % CLASSES for index in picked])
            loss = peer.F.cross_entropy(logits, labels, label_smoothing=case["smoothing"])
        rate = step / warmup if step < warmup else 0.5 + 0.5 * math.cos((step - warmup) / (total - warmup) * math.pi)
        for group in optimizer.param_groups:
            group["lr"] = peak * rate
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    trained = {f"{name}/{own}": value.detach().clone() for own, value in model.named_parameters() if value.requires_grad}
    print(name, losses)
    return losses, trained


def main():
    spec = importlib.util.spec_from_file_location("peer", sys.argv[1])
    peer = importlib.util.module_from_spec(spec)
    sys.modules["peer"] = peer
    spec.loader.exec_module(peer)
    torch.set_num_threads(1)
    losses, tensors = {}, {}
    for name, case in CASES.items():
        losses[name], trained = run(peer, name, case)
        tensors |= trained
    FOLDER.mkdir(parents=True, exist_ok=True)
    save_file(tensors, FOLDER / "epochs.safetensors")
    text = json.dumps({"torch": torch.__version__, "numpy": np.__version__, "losses": losses}, indent=1)
    (FOLDER / "epochs.json").write_text(text + "\n")


if __name__ == "__main__":
    main()
