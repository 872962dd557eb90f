"""Trains the recipe of Frameshift's jobs in PyTorch on a folder of videos, and prints how many test clips are right. One process, one thread.

python3 -m venv venv && venv/bin/pip install torch numpy av safetensors
venv/bin/python benches/peers/accuracy.py train DIR [--width 384] [--no-mirror] [--seeds 1,2,3] [--order FILE] [--job FILE]
venv/bin/python benches/peers/accuracy.py features --against FEATURES.npy VIDEO…

DIR is laid out as `<split>/<label>/<video>` with the splits train, val and test. Backbone, sampling and pictures are written down here a second time; the random
streams are those of tests/peer/streams.py.

`train` prints the recipe, then a line of JSON for each epoch and each seed. Its draws are PyTorch's own. With `--order FILE`, the order of the examples, frames
and initial weights are those of a Frameshift job of the same seed, so that its losses can be compared with the job's: FILE has a line `<label>/<video>` for each
training clip, in the order of the videos' ids: `frameshift evaluate --split train --out` lists them in that order by `video`, and `frameshift --json videos list` says
which `display_name` has which. `--job FILE` prints the hyper-parameters of a job
(`frameshift --json jobs show`, or any object with `hyper_parameters`) beside the peer's, and fails when one differs.

`features` compares the class tokens of videos before the final norm with a file of `frameshift embed --per-frame --before-final-norm`.
"""

import argparse
import json
import math
import os
import pathlib
import sys
import time

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import safe_open

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT / "tests" / "peer"))

from streams import Stream, permutation  # noqa: E402

FRAMES = 8
# Taps of an adapter's convolution along time.
TAPS = 3
BATCH = 8


def recipe(clips, labels, width, mirrored):
    """The hyper-parameters of a job with adapters before each MLP and no options, under the names that jobs show (src/jobs/plan.rs)."""
    steps = math.ceil(clips / min(BATCH, clips))
    return {
        "epochs": min(max(math.ceil(max(250, 25 * labels) / steps), 4), 40),
        "batch_size": min(BATCH, clips),
        "learning_rate": 2e-3 * min(max(math.sqrt(384 / width), 1.0), 2.0) * min(max(math.sqrt(min(BATCH, clips) / BATCH), 0.5), 2.0),
        "weight_decay": 1e-2,
        "warmup_share": 0.1,
        "dropout": 0.5 if clips >= 512 else 0.0,
        "clip_norm": 0.0,
        "min_crop_area": 1.0,
        "horizontal_flip": mirrored,
        "label_smoothing": 0.0,
        "short_side_scale": 1.0,
        "random_erasing": 0.0,
        "rand_augment": None,
        "class_weights": "equal",
        "balanced_sampling": False,
        "mixup": 0.0,
        "cutmix": 0.0,
    }


# What jobs show of a field that a recipe leaves alone.
SAME = {None: (None, "")}


def compare_recipes(own, path):
    """Prints the job's hyper-parameters beside these, and returns whether all are equal."""
    with open(path) as file:
        job = json.load(file)["hyper_parameters"]
    equal = True
    for name, value in own.items():
        theirs = job.get(name)
        if isinstance(value, float) and theirs is not None:
            same = math.isclose(value, theirs, rel_tol=1e-12)
        else:
            same = theirs in SAME.get(value, (value,))
        equal &= same
        print(f"{name:20} peer {value!s:12} job {theirs!s:12} {'' if same else 'DIFFERENT'}", flush=True)
    return equal


class Backbone:
    """A frozen ViT with CLIP's block; weights in f32."""

    def __init__(self, path):
        with safe_open(path, "pt") as file:
            self.config = json.loads(file.metadata()["frameshift.backbone"])
            self.weights = {name: file.get_tensor(name).float() for name in file.keys()}
        assert self.config["activation"] == "quick_gelu" and self.config["pre_norm"] and not self.config["patch_bias"]

    def norm(self, x, name):
        return F.layer_norm(x, x.shape[-1:], self.weights[f"{name}.weight"], self.weights[f"{name}.bias"], self.config["eps"])

    def linear(self, x, name):
        return F.linear(x, self.weights[f"{name}.weight"], self.weights[f"{name}.bias"])

    def class_tokens(self, clips, adapters=None):
        """Clips [B, T, 3, S, S] to class tokens [B, T, C] after the last block, with an adapter before each MLP."""
        batch, frames = clips.shape[:2]
        w, heads = self.weights, self.config["heads"]
        x = F.conv2d(clips.flatten(0, 1), w["conv1.weight"], stride=self.config["patch_size"]).flatten(2).transpose(1, 2)
        first = w["class_embedding"].expand(len(x), 1, -1)
        x = self.norm(torch.cat([first, x], 1) + w["positional_embedding"], "ln_pre")
        for block in range(self.config["layers"]):
            name = f"transformer.resblocks.{block}"
            qkv = F.linear(self.norm(x, f"{name}.ln_1"), w[f"{name}.attn.in_proj_weight"], w[f"{name}.attn.in_proj_bias"])
            q, k, v = qkv.unflatten(-1, (3, heads, -1)).permute(2, 0, 3, 1, 4)
            mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
            x = x + self.linear(mixed, f"{name}.attn.out_proj")
            if adapters is not None:
                patches = adapt(adapters, f"{name}.adapter_pre_mlp", x[:, 1:], batch)
                x = torch.cat([x[:, :1], patches], 1)
            hidden = self.linear(self.norm(x, f"{name}.ln_2"), f"{name}.mlp.c_fc")
            x = x + self.linear(hidden * torch.sigmoid(1.702 * hidden), f"{name}.mlp.c_proj")
        return x[:, 0].unflatten(0, (batch, frames))

    def logits(self, clips, weights):
        """Clips [B, T, 3, S, S] to logits [B, classes] under the paper's head."""
        features = self.norm(self.class_tokens(clips, weights).mean(1), "ln_post")
        return F.linear(features, weights["fc.weight"], weights["fc.bias"])


def adapt(weights, name, x, batch):
    """x + fc2(convolution over time(fc1(x))) of the patch tokens [B · T, P, C]."""
    part = lambda rest: weights[f"{name}.{rest}"]
    narrow = F.linear(x, part("fc1.weight"), part("fc1.bias")).unflatten(0, (batch, -1))
    frames, half = narrow.shape[1], TAPS // 2
    padded = F.pad(narrow, (0, 0, 0, 0, half, half))
    # A depthwise Conv3d of kernel (TAPS, 1, 1) with padding, as a sum of shifted products: PyTorch is slow at it on a CPU.
    taps = part("conv.weight")[:, 0, :, 0, 0]
    mixed = sum(padded[:, tap : tap + frames] * taps[:, tap] for tap in range(TAPS)) + part("conv.bias")
    return x + F.linear(mixed.flatten(0, 1), part("fc2.weight"), part("fc2.bias"))


def shapes(config, width, classes):
    """Names and shapes of the trainable weights, in the order in which jobs draw them."""
    c, named = config["width"], {}
    for block in range(config["layers"]):
        name = f"transformer.resblocks.{block}.adapter_pre_mlp"
        named |= {
            f"{name}.fc1.weight": (width, c),
            f"{name}.fc1.bias": (width,),
            f"{name}.conv.weight": (width, 1, TAPS, 1, 1),
            f"{name}.conv.bias": (width,),
            f"{name}.fc2.weight": (c, width),
            f"{name}.fc2.bias": (c,),
        }
    return named | {"fc.weight": (classes, c), "fc.bias": (classes,)}


class OwnDraws:
    """PyTorch's draws: nn.Linear's initial fc1 and fc2, a shuffled order, frames anywhere in their segments."""

    def __init__(self, seed):
        self.random = torch.Generator().manual_seed(seed)

    def uniform(self, _, shape, bound):
        return torch.empty(shape).uniform_(-bound, bound, generator=self.random)

    def normal(self, _, shape, deviation):
        return torch.empty(shape).normal_(0, deviation, generator=self.random)

    def order(self, _, clips):
        return torch.randperm(clips, generator=self.random).tolist()

    def within(self, _epoch, _example, segments):
        return [int(torch.randint(low, high + 1, (1,), generator=self.random)) for low, high in segments]

    def mirrored(self, _epoch, _example):
        return int(torch.randint(2, (1,), generator=self.random)) == 1


def mixed_bits(z):
    """SplitMix64 of an array of 64-bit values (streams.py computes one)."""
    with np.errstate(over="ignore"):
        z = z + np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))


class JobDraws:
    """The draws of a Frameshift job (crates/core/src/rng.rs, src/jobs/augment.rs)."""

    def __init__(self, seed):
        self.seed = seed

    def units(self, part, count):
        base = np.uint64(Stream.new(self.seed, "weights").fork(part).base)
        with np.errstate(over="ignore"):
            bits = mixed_bits(base + np.arange(count, dtype=np.uint64))
        return (bits >> np.uint64(40)).astype(np.float32) * np.float32(2**-24)

    def uniform(self, part, shape, bound):
        units, bound = self.units(part, math.prod(shape)), np.float32(bound)
        return torch.from_numpy(-bound + (bound + bound) * units).reshape(shape)

    def normal(self, part, shape, deviation):
        units = self.units(part, 2 * math.prod(shape))
        radius = np.sqrt(-2 * np.log((np.float32(1) - units[::2]).astype(np.float64)))
        values = radius * np.cos(2 * np.pi * units[1::2].astype(np.float64))
        return torch.from_numpy(np.float32(deviation) * values.astype(np.float32)).reshape(shape)

    def order(self, epoch, clips):
        return permutation(clips, Stream.new(self.seed, "permutation").fork(epoch))

    def within(self, epoch, example, segments):
        stream = Stream.new(self.seed, "frames").fork(epoch).fork(example)
        return [low + stream.below(high - low + 1) for low, high in segments]

    def mirrored(self, epoch, example):
        return Stream.new(self.seed, "mirror").fork(epoch).fork(example).below(2) == 1


def initial(config, width, classes, draws):
    """Fresh weights: fc1 and fc2 uniform within 1 / √inputs, the head normal with deviation 0.02, all else 0."""
    weights = {}
    for part, (name, shape) in enumerate(shapes(config, width, classes).items()):
        if name.endswith(("fc1.weight", "fc2.weight")):
            weights[name] = draws.uniform(part, shape, 1 / math.sqrt(shape[1]))
        elif name == "fc.weight":
            weights[name] = draws.normal(part, shape, 0.02)
        else:
            weights[name] = torch.zeros(shape)
    return {name: own.requires_grad_() for name, own in weights.items()}


def segments(count):
    """First and last frame of each of the segments of so many frames."""
    edges = [round((count - 1) / FRAMES * edge) for edge in range(FRAMES + 1)]
    return list(zip(edges, edges[1:]))


def middle(count):
    return [(low + high) // 2 for low, high in segments(count)]


def decoded(path, config, pick=None):
    """Planes [N, 3, S, S] of a video's frames in the order of their times, resized and cropped: of those that `pick` chooses of so many, or of all."""
    import av

    with av.open(path) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        frames = {frame.pts: frame for frame in container.decode(stream)}
    times = sorted(frames)
    if pick:
        times = [times[index] for index in pick(len(times))]
    side, norm = config["image_size"], config["normalization"]
    mean, std = (torch.tensor(norm[name]).view(1, 3, 1, 1) for name in ("mean", "std"))
    planes = []
    # One at a time, since the pictures in f32 may be large. The weights of bicubic taps sum to 1, so the small picture may as well be normalised.
    for pts in times:
        x = torch.from_numpy(frames[pts].to_ndarray(format="rgb24")).permute(2, 0, 1)[None].float().contiguous()
        height, width = x.shape[-2:]
        size = (side, width * side // height) if height < width else (height * side // width, side)
        planes.append(F.interpolate(x, size=size, mode="bicubic", align_corners=False))
    top, left = (size[0] - side) // 2, (size[1] - side) // 2
    planes = torch.cat(planes)[:, :, top : top + side, left : left + side]
    return ((planes / 255 - mean) / std).contiguous()


class Decoded:
    """A training clip whose frames are in memory."""

    def __init__(self, planes):
        self.planes = planes

    def take(self, pick):
        return self.planes[pick(len(self.planes))]


class Encoded:
    """A training clip that is decoded whenever it is taken."""

    def __init__(self, path, config):
        self.path, self.config = path, config

    def take(self, pick):
        return decoded(self.path, self.config, pick)


def listed(folder):
    """The videos of a split as `<label>/<video>`, sorted."""
    return sorted(f"{label.name}/{video.name}" for label in folder.iterdir() for video in label.iterdir() if not video.name.startswith("."))


def load(folder, names, config, args):
    """The clips of a split: what a classification takes of a video, of the split train all frames."""
    trains = folder.name == "train"
    if trains and args.max_steps:
        return [Encoded(str(folder / name), config) for name in names]
    kept = args.cache and pathlib.Path(args.cache) / f"{folder.parent.name}-{folder.name}-{config['image_size']}.pt"
    if kept and kept.exists():
        held = torch.load(kept)
    else:
        held = {}
        for name in names:
            pause(args.hold)
            held[name] = decoded(str(folder / name), config, None if trains else middle)
        if kept:
            kept.parent.mkdir(parents=True, exist_ok=True)
            torch.save(held, kept)
    return [Decoded(held[name]) if trains else held[name] for name in names]


def pause(path):
    """Waits while a file is there."""
    while path and os.path.exists(path):
        time.sleep(2)


def right(backbone, weights, clips, labels, hold):
    """How many clips are right, and their mean loss."""
    correct, loss = 0, 0.0
    with torch.no_grad():
        for begin in range(0, len(clips), BATCH):
            pause(hold)
            wanted = torch.tensor(labels[begin : begin + BATCH])
            logits = backbone.logits(torch.stack(clips[begin : begin + BATCH]), weights)
            correct += int((logits.argmax(1) == wanted).sum())
            loss += float(F.cross_entropy(logits, wanted, reduction="sum"))
    return correct, loss / max(1, len(clips))


def train_one(backbone, splits, given, seed, args):
    """Trains one seed, printing each epoch; returns the weights and the right clips of val and test."""
    clips, labels = splits["train"]
    classes = max(labels) + 1
    draws = JobDraws(seed) if args.order else OwnDraws(seed)
    weights = initial(backbone.config, args.width, classes, draws)
    plain = [own for name, own in weights.items() if ".bias" in name]
    decays = [own for name, own in weights.items() if ".bias" not in name]
    groups = [{"params": decays, "weight_decay": given["weight_decay"]}, {"params": plain, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=1.0, betas=(0.9, 0.999), eps=1e-8)
    per_epoch = math.ceil(len(clips) / given["batch_size"])
    total = per_epoch * given["epochs"]
    warmup = math.floor(given["warmup_share"] * total)
    for epoch in range(given["epochs"]):
        order, losses, hits = draws.order(epoch, len(clips)), 0.0, 0
        for within in range(per_epoch):
            pause(args.hold)
            step = epoch * per_epoch + within
            if args.max_steps and step == args.max_steps:
                return weights
            # Batches that are as large as each other, or one clip smaller.
            picked = order[len(clips) * within // per_epoch : len(clips) * (within + 1) // per_epoch]
            shown = []
            for i in picked:
                planes = clips[i].take(lambda count: draws.within(epoch, i, segments(count)))
                is_mirrored = given["horizontal_flip"] and draws.mirrored(epoch, i)
                shown.append(planes.flip(-1) if is_mirrored else planes)
            batch = torch.stack(shown)
            wanted = torch.tensor([labels[i] for i in picked])
            logits = backbone.logits(batch, weights)
            loss = F.cross_entropy(logits, wanted)
            share = step / warmup if step < warmup else 0.5 + 0.5 * math.cos((step - warmup) / (total - warmup) * math.pi)
            for group in optimizer.param_groups:
                group["lr"] = given["learning_rate"] * share
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            if args.steps:
                print(json.dumps({"seed": seed, "step": step + 1, "loss": loss.item()}), flush=True)
            losses += loss.item() * len(picked)
            hits += int((logits.argmax(1) == wanted).sum())
        print(json.dumps({"seed": seed, "epoch": epoch + 1, "loss": losses / len(clips), "accuracy": hits / len(clips)}), flush=True)
    outcome = {"seed": seed, "width": args.width, "draws": "job" if args.order else "torch"}
    for split in ("val", "test"):
        correct, loss = right(backbone, weights, *splits[split], args.hold)
        outcome |= {split: f"{correct} of {len(splits[split][0])}", f"{split}_loss": loss}
    print(json.dumps(outcome), flush=True)
    return weights


def train(args):
    backbone, root = Backbone(args.backbone), pathlib.Path(args.folder)
    classes = sorted(label.name for label in (root / "train").iterdir())
    splits = {}
    for split in ("train",) if args.max_steps else ("train", "val", "test"):
        names = listed(root / split)
        if split == "train" and args.order:
            order = pathlib.Path(args.order).read_text().split("\n")
            order = [line for line in order if line]
            assert sorted(order) == names, "the order is not that of the training clips"
            names = order
        labels = [classes.index(name.split("/")[0]) for name in names]
        splits[split] = (load(root / split, names, backbone.config, args), labels)
        print(f"{split}: {len(names)} clips", flush=True)
    given = recipe(len(splits["train"][0]), len(classes), args.width, not args.no_mirror)
    if args.epochs:
        given["epochs"] = args.epochs
    print(json.dumps(given), flush=True)
    if args.job and not compare_recipes(given, args.job):
        sys.exit("the recipes differ")
    for seed in args.seeds:
        begun = time.process_time()
        weights = train_one(backbone, splits, given, seed, args)
        print(f"seed {seed}: {time.process_time() - begun:.0f} CPU seconds", flush=True)
        if args.save:
            from safetensors.torch import save_file

            save_file({name: own.detach() for name, own in weights.items()}, f"{args.save}-{seed}.safetensors")


def features(args):
    backbone = Backbone(args.backbone)
    theirs = np.load(args.against).astype(np.float64)
    worst, alike = 0.0, 1.0
    for row, video in enumerate(args.videos):
        with torch.no_grad():
            own = backbone.class_tokens(decoded(video, backbone.config, middle)[None])[0].double().numpy()
        other = theirs[row].reshape(own.shape)
        cosine = (own * other).sum(-1) / np.linalg.norm(own, axis=-1) / np.linalg.norm(other, axis=-1)
        worst, alike = max(worst, np.abs(own - other).max()), min(alike, cosine.min())
    print(f"{len(args.videos)} videos: largest difference {worst:.2g}, largest value {np.abs(theirs).max():.2g}, least cosine {alike:.7f}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    own = commands.add_parser("train")
    own.add_argument("folder")
    own.add_argument("--width", type=int, default=96, help="width of the adapters")
    own.add_argument("--seeds", type=lambda text: [int(part) for part in text.split(",")], default=[1])
    own.add_argument("--no-mirror", action="store_true", help="mirrors no clip, as jobs do when a label names a side or with --mirror off")
    own.add_argument("--epochs", type=int, help="in place of the recipe's")
    own.add_argument("--order", help="training clips in a job's order: the draws are the job's")
    own.add_argument("--job", help="a job as JSON, with which the recipe is compared")
    own.add_argument("--steps", action="store_true", help="prints the loss of each step")
    own.add_argument("--max-steps", type=int, help="ends after so many steps, without a test")
    own.add_argument("--cache", help="folder for decoded frames")
    own.add_argument("--save", help="beginning of the names of files for the trained weights")
    own.add_argument("--hold", help="waits at each step and video while this file exists")
    other = commands.add_parser("features")
    other.add_argument("--against", required=True)
    other.add_argument("videos", nargs="+")
    for command in (own, other):
        command.add_argument("--backbone", default=str(ROOT / "assets" / "backbone" / "builtin.safetensors"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    {"train": train, "features": features}[args.command](args)


if __name__ == "__main__":
    main()
