"""Writes tests/data/peer/heads.safetensors: logits, losses, gradients and weights of three steps of each head that reads frames, in PyTorch.

python3 -m venv venv && venv/bin/pip install torch numpy safetensors && venv/bin/python tests/peer/heads.py

The heads are written down apart from Frameshift, with PyTorch's own layers, over features that stand for frozen ones. Features and weights are drawn from
Frameshift's streams, so that the file holds results alone.
"""

import math
import pathlib

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from streams import Stream

FILE = pathlib.Path(__file__).parent.parent / "data" / "peer" / "heads.safetensors"
SEED = 33
WIDTH, HEADS, FRAMES, PATCHES, CLASSES = 40, 2, 4, 9, 3
LABELS = [2, 0, 1]
STEPS, RATE, DECAY, EPS = 3, 1e-2, 1e-2, 1e-2
HALF = WIDTH // 2
SHAPES = {
    "frames": {"head.frames.fc.weight": (CLASSES, FRAMES * WIDTH), "head.frames.fc.bias": (CLASSES,)},
    "conv": {
        "head.conv.depthwise.weight": (WIDTH, 1, 3, 1, 1),
        "head.conv.depthwise.bias": (WIDTH,),
        "head.conv.mix.weight": (HALF, WIDTH),
        "head.conv.mix.bias": (HALF,),
        "head.conv.fc.weight": (CLASSES, WIDTH + HALF),
        "head.conv.fc.bias": (CLASSES,),
    },
    "attention": {
        "head.attention.positions": (FRAMES, WIDTH),
        "head.attention.query.weight": (WIDTH, WIDTH),
        "head.attention.query.bias": (WIDTH,),
        "head.attention.key_value.weight": (2 * WIDTH, WIDTH),
        "head.attention.key_value.bias": (2 * WIDTH,),
        "head.attention.out.weight": (WIDTH, WIDTH),
        "head.attention.out.bias": (WIDTH,),
        "head.attention.fc.weight": (CLASSES, WIDTH),
        "head.attention.fc.bias": (CLASSES,),
    },
}


def drawn(purpose, shape, low, high):
    stream = Stream.new(SEED, purpose)
    return torch.from_numpy(np.array([stream.range(low, high) for _ in range(math.prod(shape))], dtype=np.float32)).reshape(shape)


def of_frames(tokens, weights):
    return F.linear(tokens.flatten(1), weights["head.frames.fc.weight"], weights["head.frames.fc.bias"])


def of_conv(tokens, weights):
    part = lambda name: weights[f"head.conv.{name}"]
    kernel = part("depthwise.weight")[:, :, :, 0, 0]
    mixed = F.conv1d(tokens.transpose(1, 2), kernel, part("depthwise.bias"), padding=1, groups=WIDTH).transpose(1, 2)
    active = F.gelu(F.linear(mixed, part("mix.weight"), part("mix.bias")))
    return F.linear(torch.cat([tokens.mean(1), active.mean(1)], 1), part("fc.weight"), part("fc.bias"))


def of_attention(tokens, weights):
    part = lambda name: weights[f"head.attention.{name}"]
    # [clips, frames, 1 + patches, width]: the class token of a frame comes first.
    tokens = tokens.unflatten(1, (FRAMES, 1 + PATCHES))
    mean = tokens[:, :, 0].mean(1)
    placed = (tokens + part("positions")[:, None]).flatten(1, 2)
    query = F.linear(mean, part("query.weight"), part("query.bias"))[:, None]
    key, value = F.linear(placed, part("key_value.weight"), part("key_value.bias")).chunk(2, -1)
    split = lambda x: x.unflatten(-1, (HEADS, -1)).transpose(1, 2)
    mixed = F.scaled_dot_product_attention(split(query), split(key), split(value)).transpose(1, 2).flatten(2)[:, 0]
    return F.linear(mean + F.linear(mixed, part("out.weight"), part("out.bias")), part("fc.weight"), part("fc.bias"))


def main():
    torch.set_num_threads(1)
    scale, shift = drawn("ln_post.weight", (WIDTH,), 0.7, 1.3), drawn("ln_post.bias", (WIDTH,), -0.2, 0.2)
    results = {}
    for name, run in (("frames", of_frames), ("conv", of_conv), ("attention", of_attention)):
        count = FRAMES * (1 + PATCHES) if name == "attention" else FRAMES
        features = drawn(f"{name}/features", (len(LABELS), count, WIDTH), -2, 2)
        tokens = F.layer_norm(features, (WIDTH,), scale, shift, 1e-5)
        weights = {own: drawn(own, shape, -0.4, 0.4).requires_grad_() for own, shape in SHAPES[name].items()}
        plain = [own for at, own in weights.items() if at.endswith(".bias")]
        decays = [own for at, own in weights.items() if not at.endswith(".bias")]
        groups = [{"params": decays, "weight_decay": DECAY}, {"params": plain, "weight_decay": 0.0}]
        optimizer = torch.optim.AdamW(groups, lr=RATE, eps=EPS)
        logits, losses = [], []
        for step in range(STEPS):
            logits.append(run(tokens, weights))
            loss = F.cross_entropy(logits[-1], torch.tensor(LABELS))
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            if step == 0:
                results |= {f"gradient/{at}": own.grad.clone() for at, own in weights.items()}
            optimizer.step()
            losses.append(loss.detach())
        results |= {f"weight/{at}": own.detach().clone() for at, own in weights.items()}
        results[f"logits/{name}"] = torch.stack(logits).detach()
        results[f"losses/{name}"] = torch.stack(losses)
        print(name, [round(own.item(), 6) for own in losses])
    save_file(results, FILE, {"torch": torch.__version__, "numpy": np.__version__})


if __name__ == "__main__":
    main()
