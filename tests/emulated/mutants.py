#!/usr/bin/env python3
"""Plants faults in the CUDA kernels, one at a time, and shows that a rung of the checks finds each.

usage: tests/emulated/mutants.py [--only TEXT] [--out FOLDER]

Rung 1 runs the kernels' source on the emulated device (g++ alone), rung 2 what nvcc made of it (NVCC or nvcc on the path; skipped without).
A fault is a file, a text that stands there exactly once, and what stands there instead. Fails when one is not found.
"""
import argparse
import os
import pathlib
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

ROOT = pathlib.Path(__file__).resolve().parents[2]
KERNELS = ROOT / "crates/model/src/ops/cuda/kernels"
DEVICE = ROOT / "tests/emulated"
FLAGS = ["-std=c++17", "-O1", "-fPIC", "-w", "-DFS_EMULATED", f"-I{DEVICE}"]

# Rung, check, what is wrong, file, text, instead.
FAULTS = [
    (1, "attentions", "no barrier before a tile is read", "attention.cu", "        __syncthreads();\n", ""),
    (1, "attentions", "a copy that is not waited for", "attention.cu", "copies_wait<0>();", "copies_wait<1>();"),
    (1, "attentions", "a mask off by one", "attention.cu", "i % 2 < left", "i % 2 <= left"),
    (1, "attentions", "values not transposed", "tile64.cuh", "load_matrices_transposed(b,", "load_matrices(b,"),
    (1, "attentions", "no rescaling of what was summed before", "attention.cu", "rows.sums[h] *= keep;", ""),
    (1, "attentions", "fragments of keys swapped", "attention.cu", "multiply_add(scores[2 * p], of_q[i], b[0], b[1]);",
     "multiply_add(scores[2 * p], of_q[i], b[1], b[0]);"),
    (1, "attentions", "no swizzle: bank conflicts", "tile64.cuh", "((c ^ (row & 7)) * 8)", "(c * 8)"),
    (1, "attentions", "a maximum over half a row's lanes", "attention.cu",
     "        now[h] = fmaxf(now[h], __shfl_xor_sync(0xffffffffu, now[h], 2));\n", ""),
    (1, "attentions", "rows beyond the last token are written", "attention.cu", "if (token >= tokens) continue;", ""),
    (1, "attentions", "the next tile overwrites the one that is read", "attention.cu",
     "bf16* next = tiles + ((block + 1) % 2) * 2 * TILE * D;", "bf16* next = tiles + (block % 2) * 2 * TILE * D;"),
    (1, "attentions", "the gradient of keys is that of values", "attention_backward.cu",
     "write(KEYS ? d_q + width : d_q, d_1,", "write(KEYS ? d_q + width : d_q, KEYS ? d_2 : d_1,"),
    (1, "attentions", "a gradient without its scale", "attention_backward.cu", "head.stride, 0.125f);", "head.stride, 1.0f);"),
    (1, "attentions", "deltas of the wrong head", "attention_backward.cu", "* heads + head) * tokens + row % tokens] = sum;",
     "* heads + first) * tokens + row % tokens] = sum;"),
    (1, "plain_attentions", "a softmax that overflows", "attention_plain.cu", "expf(weights[j] - most)", "expf(weights[j])"),
    (1, "plain_attentions", "lanes read before others have written", "attention_plain.cu",
     "slopes[j] = weights[j] * (slopes[j] - delta) * scale;\n    __syncwarp();",
     "slopes[j] = weights[j] * (slopes[j] - delta) * scale;"),
    (1, "plain_attentions", "queries of another frame", "attention_plain.cu",
     "operand + frame * rows.frame", "operand + 0 * rows.frame"),
    (1, "products", "class rows are read", "parts.cuh", "(tokens - patches) + i % patches", "i % patches"),
    (1, "products", "a stage that is read too early", "tile128.cuh", "copies_wait<STAGES - 2>();", "copies_wait<STAGES - 1>();"),
    (1, "products", "no barrier between stages", "tile128.cuh", "        __syncthreads();\n", ""),
    (1, "products", "a weight of the segment before", "parts.cuh", "if (parts[middle].tile <= int(blockIdx.x)) low = middle;",
     "if (parts[middle].tile < int(blockIdx.x)) low = middle;"),
    (1, "products", "columns beyond the last are written", "grouped.cu", "if (i >= block.part.rows || n >= width) return;",
     "if (i >= block.part.rows) return;"),
    (1, "products", "rows beyond the segment are written", "grouped.cu", "if (i >= block.part.rows || n >= width) return;",
     "if (n >= width) return;"),
    (1, "products", "the end of a sum is not guarded", "grouped.cu", "bool present = i < block.part.rows && at < length;",
     "bool present = i < block.part.rows;"),
    (1, "products", "the bias of the neighbouring column", "grouped.cu", "b += bias[n + 1];", "b += bias[n];"),
    (1, "products", "exact tiles without the second barrier", "exact.cu",
     "tile.right[p][column + j], sums[i][j]);\n        __syncthreads();", "tile.right[p][column + j], sums[i][j]);"),
    (1, "weight_gradients", "a run reaches into the next clip", "runs.cuh", "min(min(begin + most, first + clip), rows)",
     "min(begin + most, rows)"),
    (1, "weight_gradients", "left fragments not transposed", "tile128.cuh",
     "across(left, 16 * half + lane / 16 * 8 + lane % 8, top / 8 + 2 * i + lane / 8 % 2)",
     "across(left, 16 * half + lane / 8 % 2 * 8 + lane % 8, top / 8 + 2 * i + lane / 16)"),
    (1, "weight_gradients", "runs are added onto nothing", "sums.cu", "earlier ? earlier[to] + partial[i] : partial[i]", "partial[i]"),
    (1, "norms", "a mean over half a warp", "numbers.cuh", "for (int distance = 16; distance > 0; distance /= 2) x +=",
     "for (int distance = 8; distance > 0; distance /= 2) x +="),
    (1, "norms", "rows beyond the last are read", "norm.cu", "    if (row >= rows) return;\n", ""),
    (1, "norms", "epsilon outside the root", "norm.cu", "float scale = 1.0f / sqrtf(warp_sum(sum) / c + eps);\n#pragma unroll",
     "float scale = 1.0f / (sqrtf(warp_sum(sum) / c) + 100 * eps);\n#pragma unroll"),
    (1, "norms", "the gradient that bypassed the norm is lost", "norm_backward.cu", "if (add) read_some<V>(add + first + at, past);", ""),
    (1, "activations", "the tanh form of GELU", "activation.cu", "0.5f * x * (1.0f + erff(x * ROOT_HALF)); }\n    static",
     "0.5f * x * (1.0f + tanhf(0.79788456f * (x + 0.044715f * x * x * x))); }\n    static"),
    (1, "activations", "a tail that is not written", "activation.cu",
     "for (long long end = min(at + 8, count); at < end; ++at) {", "for (long long end = min(at + 8, count); at + 1 < end; ++at) {"),
    (1, "activations", "vectors at any address", "numbers.cuh", "reinterpret_cast<uintptr_t>(at) % 16 == 0", "at != nullptr"),
    (1, "convolutions", "a clip sees its neighbour's frames", "depthwise.cu", "int within = frame % clip + dt;\n                if",
     "int within = frame + dt;\n                if"),
    (1, "convolutions", "taps in the order (t, w, h)", "depthwise.cu", "int dt = t - part.kt / 2, dh = h - part.kh / 2, dw = w - part.kw / 2;",
     "int dt = t - part.kt / 2, dh = w - part.kh / 2, dw = h - part.kw / 2;"),
    (1, "convolutions", "mirrored taps not mirrored", "depthwise.cu", "mirrored ? 2 - t : t", "t"),
    (1, "rows", "channels and rows of a patch swapped", "rows.cu", "channel * picture.channel + (p / grid * patch + row) * side",
     "channel * picture.channel + (p / grid * patch + column) * side"),
    (1, "rows", "positions of the row before", "rows.cu", "own + patches[(frame * (tokens - 1) + token - 1) * c + i % c]",
     "own + patches[(frame * (tokens - 1) + token - 2 + (token == 1)) * c + i % c]"),
    (1, "numbers", "decay of the next range", "elementwise.cu", "if (decays[middle].begin <= i) low = middle;",
     "if (decays[middle].begin < i) low = middle;"),
    (1, "sums", "half of a block's squares", "sums.cu", "for (int distance = blockDim.x / 2; distance > 0",
     "for (int distance = blockDim.x / 4; distance > 0"),
    (1, "sums", "squares without a barrier", "sums.cu", "        __syncthreads();\n        if (int(threadIdx.x) < distance)",
     "        if (int(threadIdx.x) < distance)"),
    (2, "norms", "halves of a pair swapped in inline PTX", "device.cuh", ': "=r"(both) : "f"(high), "f"(low));', ': "=r"(both) : "f"(low), "f"(high));'),
    (2, "attentions", "operands of mma swapped in inline PTX", "device.cuh", '"r"(a[3]), "r"(b0), "r"(b1));', '"r"(a[3]), "r"(b1), "r"(b0));'),
    (2, "attentions", "a transposing load that does not transpose", "device.cuh", "ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16", "ldmatrix.sync.aligned.m8n8.x4.shared.b16"),
    (2, "products", "absent rows are copied", "device.cuh", "int bytes = present ? 16 : 0;", "int bytes = 16;"),
]


def run(command, **options):
    return subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False, **options)


def must(command, **options):
    done = run(command, **options)
    if done.returncode:
        raise RuntimeError(f"{command}:\n{done.stdout}{done.stderr}")


def units(folder):
    return sorted(unit for unit in folder.glob("*.cu") if unit.name != "all.cu")


def includes(folder, unit):
    """Returns the names of a unit and of all files that it includes."""
    found, todo = set(), [unit]
    while todo:
        name = todo.pop()
        if name in found or not (folder / name).exists():
            continue
        found.add(name)
        todo += re.findall(r'#include "([^"]+)"', (folder / name).read_text())
    return found


def compile_unit(folder, unit, out):
    must(["g++", *FLAGS, f"-I{folder}", "-x", "c++", "-c", unit, "-o", out])


def ptx_of(nvcc, unit, out):
    must([nvcc, "-O3", "-std=c++17", "-gencode=arch=compute_80,code=compute_80", "-ptx", "-o", out, unit])


class Bench:
    """What is built once: the checks, and the kernels without a fault."""

    def __init__(self, out, nvcc):
        self.out, self.nvcc = out, nvcc
        out.mkdir(parents=True, exist_ok=True)
        shared = [*sorted((DEVICE / "check").glob("*.cpp")), DEVICE / "block.cpp"]
        source, ptx = [DEVICE / "registry.cpp"], [DEVICE / "ptx.cpp", DEVICE / "ptx_arithmetic.cpp"]
        work = []
        with ThreadPoolExecutor(2) as pool:
            for unit in [*shared, *source, *ptx]:
                work.append(pool.submit(must, ["g++", *FLAGS, f"-I{KERNELS}", "-c", unit, "-o", self.object(unit)]))
            for unit in units(KERNELS):
                work.append(pool.submit(compile_unit, KERNELS, unit, self.object(unit)))
                if nvcc:
                    work.append(pool.submit(ptx_of, nvcc, unit, self.ptx(unit)))
        for one in work:
            one.result()
        self.checks = [self.object(unit) for unit in [*shared, *source]]
        must(["g++", "-o", out / "check_ptx", *[self.object(unit) for unit in [*shared, *ptx]]])

    def object(self, unit):
        group = "kernel" if unit.suffix == ".cu" else unit.parent.name
        return self.out / f"{group}-{unit.stem}.o"

    def ptx(self, unit):
        return self.out / f"{unit.stem}.ptx"

    def finds(self, number, rung, check, name, text, instead):
        """Whether the check fails with this fault."""
        folder = self.out / f"fault-{number}"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(KERNELS, folder)
        before = (folder / name).read_text()
        if before.count(text) != 1:
            sys.exit(f"{name}: {before.count(text)} times {text!r}")
        (folder / name).write_text(before.replace(text, instead))
        changed = [unit for unit in units(folder) if name in includes(folder, unit.name)]
        if rung == 1:
            for unit in changed:
                compile_unit(folder, unit, folder / f"{unit.stem}.o")
            kernels = [folder / f"{unit.stem}.o" if unit in changed else self.object(unit) for unit in units(folder)]
            must(["g++", "-o", folder / "check", *self.checks, *kernels])
            program, environment = folder / "check", {}
        else:
            for unit in changed:
                ptx_of(self.nvcc, unit, folder / f"{unit.stem}.ptx")
            files = [folder / f"{unit.stem}.ptx" if unit in changed else self.ptx(unit) for unit in units(folder)]
            program, environment = self.out / "check_ptx", {"FS_PTX": ":".join(map(str, files))}
        try:
            done = run([program, check], timeout=300, env={**os.environ, **environment})
        except subprocess.TimeoutExpired:
            return "never ends"
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        if done.returncode == 0:
            return None
        words = [line for line in (done.stdout + done.stderr).splitlines() if "FAILED:" in line or "emulated device:" in line]
        return words[0] if words else f"ends with {done.returncode}"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="faults whose description or file has this text")
    parser.add_argument("--out", type=pathlib.Path, default=ROOT / "target/mutants")
    options = parser.parse_args()
    nvcc = shutil.which(os.environ.get("NVCC", "nvcc"))
    bench = Bench(options.out, nvcc)
    lost, found, skipped = [], 0, 0
    for number, (rung, check, what, name, text, instead) in enumerate(FAULTS):
        if options.only not in what + name:
            continue
        if rung == 2 and not nvcc:
            skipped += 1
            print(f"skipped (no nvcc): {what}")
            continue
        how = bench.finds(number, rung, check, name, text, instead)
        print(f"rung {rung}, {name}: {what}: {how or 'NOT FOUND'}", flush=True)
        found += how is not None
        if how is None:
            lost.append(what)
    print(f"{found} found, {len(lost)} not found, {skipped} skipped")
    sys.exit(bool(lost))


if __name__ == "__main__":
    main()
