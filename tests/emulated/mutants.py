#!/usr/bin/env python3
"""Plants faults in the CUDA kernels and in their launches, one at a time, and shows that a rung of the checks finds each.

usage: tests/emulated/mutants.py [--rung N] [--part I/N] [--only TEXT] [--list FILE] [--out FOLDER]

Rung 1 runs the kernels' source on the emulated device (g++ alone), rung 2 what nvcc made of it (NVCC or nvcc on the path; skipped without), rung 3 the tests of
the model's operations on the emulated driver. A fault of rungs 1 and 2 is a file, a text that stands there exactly once, and what stands there instead; one of
rung 3 is done by the driver (FS_EMULATED_FAULT) in the place of the program, whose file is named. Fails when a fault is not found. `--list` adds a line for each fault to a
file; mutants.txt has such lines.
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
TARGET = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
CUDA = pathlib.Path("crates/model/src/ops/cuda")
KERNELS = ROOT / CUDA / "kernels"
DEVICE = ROOT / "tests/emulated"
FUNCTIONS = DEVICE / "functions/functions.cu"
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
    (1, "attentions", "keys are overwritten while a slow warp reads them", "attention.cu",
     """        __syncthreads();
        if (block + 1 < blocks) {
            bf16* next = tiles + ((block + 1) % 2) * 2 * TILE * D;
            load_tile(next, k, (block + 1) * TILE, TILE, tokens, stride);
            load_tile(next + TILE * D, v, (block + 1) * TILE, TILE, tokens, stride);
            copies_commit();
        }
""",
     """        if (block + 1 < blocks) {
            bf16* next = tiles + ((block + 1) % 2) * 2 * TILE * D;
            load_tile(next, k, (block + 1) * TILE, TILE, tokens, stride);
            load_tile(next + TILE * D, v, (block + 1) * TILE, TILE, tokens, stride);
            copies_commit();
        }
        __syncthreads();
"""),
    (1, "attentions", "columns are overwritten while a slow warp reads them", "attention_backward.cu",
     """        __syncthreads();
        if (block + 1 < blocks) {
            bf16* next = tiles + (block + 1) % 2 * 2 * TILE * D;
            load_tile(next, head.column_1, (block + 1) * TILE, TILE, tokens, head.stride);
            load_tile(next + TILE * D, head.column_2, (block + 1) * TILE, TILE, tokens, head.column_stride);
            copies_commit();
        }
""",
     """        if (block + 1 < blocks) {
            bf16* next = tiles + (block + 1) % 2 * 2 * TILE * D;
            load_tile(next, head.column_1, (block + 1) * TILE, TILE, tokens, head.stride);
            load_tile(next + TILE * D, head.column_2, (block + 1) * TILE, TILE, tokens, head.column_stride);
            copies_commit();
        }
        __syncthreads();
"""),
    (1, "products", "a stage is overwritten while a slow warp reads it", "tile128.cuh",
     "        __syncthreads();\n        start(step + STAGES - 1);\n", "        start(step + STAGES - 1);\n        __syncthreads();\n"),
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
    (1, "activations", "the tanh form of GELU", "activations.cuh", "0.5f * x * (1.0f + erff(x * ROOT_HALF)); }\n    static",
     "0.5f * x * (1.0f + tanhf(0.79788456f * (x + 0.044715f * x * x * x))); }\n    static"),
    (1, "activations", "a tail that is not written", "activation.cu",
     "for (long long end = min(at + 8, count); at < end; ++at) {", "for (long long end = min(at + 8, count); at + 1 < end; ++at) {"),
    (1, "activations", "vectors at any address", "numbers.cuh", "reinterpret_cast<uintptr_t>(at) % 16 == 0", "at != nullptr"),
    (1, "convolutions", "a clip sees its neighbour's frames", "depthwise.cu", "within = frame % clip;", "within = frame;"),
    (1, "convolutions", "taps in the order (t, w, h)", "depthwise.cu", "(token + (dt * grid + dh) * grid + dw)",
     "(token + (dt * grid + dw) * grid + dh)"),
    (1, "convolutions", "mirrored taps not mirrored", "depthwise.cu", "mirrored ? 2 - t : t", "t"),
    (1, "rows", "channels and rows of a patch swapped", "rows.cu", "channel * picture.channel + (p / grid * patch + row) * side",
     "channel * picture.channel + (p / grid * patch + column) * side"),
    (1, "rows", "positions of the row before", "rows.cu", "own + patches[(frame * (tokens - 1) + token - 1) * c + i % c]",
     "own + patches[(frame * (tokens - 1) + token - 2 + (token == 1)) * c + i % c]"),
    (1, "numbers", "decay of the next range", "elementwise.cu", "if (decays[middle].begin <= i) low = middle;",
     "if (decays[middle].begin < i) low = middle;"),
    (1, "sums", "half of a block's squares", "sums.cu", "own[threadIdx.x] = sum;\n    for (int distance = blockDim.x / 2;",
     "own[threadIdx.x] = sum;\n    for (int distance = blockDim.x / 4;"),
    (1, "sums", "squares without a barrier", "sums.cu", "        __syncthreads();\n        if (int(threadIdx.x) < distance) own[threadIdx.x] += own[threadIdx.x + distance];\n    }\n    if (threadIdx.x == 0) partial[blockIdx.x] = own[0];\n}\n\n// The sum",
     "        if (int(threadIdx.x) < distance) own[threadIdx.x] += own[threadIdx.x + distance];\n    }\n    if (threadIdx.x == 0) partial[blockIdx.x] = own[0];\n}\n\n// The sum"),
    (2, "norms", "halves of a pair swapped in inline PTX", "device.cuh", ': "=r"(both) : "f"(high), "f"(low));', ': "=r"(both) : "f"(low), "f"(high));'),
    (2, "attentions", "operands of mma swapped in inline PTX", "device.cuh", '"r"(a[3]), "r"(b0), "r"(b1));', '"r"(a[3]), "r"(b1), "r"(b0));'),
    (2, "attentions", "a transposing load that does not transpose", "device.cuh", "ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16", "ldmatrix.sync.aligned.m8n8.x4.shared.b16"),
    (2, "functions", "half of 16 bytes are copied", "device.cuh", "int bytes = present ? 16 : 0;", "int bytes = present ? 8 : 0;"),
    (2, "products", "absent rows are copied", "device.cuh", "int bytes = present ? 16 : 0;", "int bytes = 16;"),
    (1, "functions", "the first of two numbers in the high half", "functions.cu", "narrow2(x[2 * i], x[2 * i + 1])", "narrow2(x[2 * i + 1], x[2 * i])"),
    (1, "functions", "a copy that is read before it is there", "functions.cu", "if (group == 0) copies_wait<2>();", "if (group == 0) copies_wait<3>();"),
    (1, "sums", "words are compared with themselves", "sums.cu", "differing += row[i] != x[i];",
     "differing += row[i] != row[i];"),
    # What a program would do wrong in its launches, planted at the emulated driver.
    (3, "ops::", "rows and width swapped", "norm.rs", "swap:norm_f32:4:5", ""),
    (3, "ops::", "query and key swapped", "attention.rs", "swap:attention_plain_f32:0:1", ""),
    (3, "ops::", "patches and tokens swapped", "grouped.rs", "swap:grouped_:5:6", ""),
    (3, "ops::", "moments swapped", "adamw.rs", "swap:adamw:2:3", ""),
    (3, "ops::", "grid and patch swapped", "embed.rs", "swap:patches_:3:4", ""),
    (3, "ops::", "clip and grid swapped", "depthwise.rs", "swap:depthwise_any:4:5", ""),
    (3, "ops::", "a grid without its last block", "rows.rs", "grid:class_rows", ""),
    (3, "ops::", "a grid without its last block", "attention.rs", "grid:attention_64", ""),
    (3, "ops::", "a grid without its last block", "grouped.rs", "grid:exact_grouped", ""),
    (3, "ops::", "a grid without its last block", "sums.rs", "grid:add_runs", ""),
    (3, "ops::", "too little shared memory", "attention.rs", "shared:attention_64", ""),
    (3, "ops::", "too little shared memory", "grouped.rs", "shared:grouped_", ""),
    (3, "ops::", "too little shared memory", "adamw.rs", "shared:squares", ""),
    (3, "ops::", "class rows that nobody writes", "grouped.rs", "skip:copy_class_rows", ""),
    (3, "ops::", "sums of runs that nobody adds", "sums.rs", "skip:add_runs", ""),
    (3, "ops::", "bits that nobody compares", "trial.rs", "skip:differing_words", ""),
    (3, "ops::", "a stream that does not wait for an upload", "buffer.rs", "wait", ""),
    (3, "ops::", "a result, or a pinned block, that is used too early", "pinned.rs", "record", ""),
    (3, "ops::", "memory that is freed while it is used", "buffer.rs", "free", ""),
    (3, "ops::", "zeros that nobody writes", "buffer.rs", "clear", ""),
    (3, "ops::", "a copy on the device that is not made", "tensor.rs", "copy", ""),
    (3, "ops::", "a product without its bias", "plan.rs", "bias", ""),
    (3, "ops::", "a product without its residual", "plan.rs", "residual", ""),
    (3, "ops::", "a weight that is read the wrong way round", "plan.rs", "turned", ""),
]


def run(command, **options):
    return subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False, **options)


def must(command, **options):
    done = run(command, **options)
    if done.returncode:
        raise RuntimeError(f"{command}:\n{done.stdout}{done.stderr}")
    return done


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


def ptx_of(nvcc, folder, unit, out):
    must([nvcc, "-O3", "-std=c++17", "-gencode=arch=compute_80,code=compute_80", "-ptx", f"-I{folder}", "-o", out, unit])


def planted(folder, name, text, instead):
    """Changes a file of a copy."""
    before = (folder / name).read_text()
    if before.count(text) != 1:
        sys.exit(f"{name}: {before.count(text)} times {text!r}")
    (folder / name).write_text(before.replace(text, instead))


def first_words(done, *marks):
    lines = (done.stdout + done.stderr).splitlines()
    words = [line.strip() for line in lines if any(mark in line for mark in marks)]
    return words[0][:160] if words else f"ends with {done.returncode}"


class Kernels:
    """Rungs 1 and 2. What is built once: the checks, and the kernels without a fault."""

    def __init__(self, out, nvcc):
        self.out, self.nvcc = out, nvcc
        # All kernels are in one folder here, so that any of them can be changed in a copy of it.
        self.source = out / "kernels"
        shutil.rmtree(self.source, ignore_errors=True)
        shutil.copytree(KERNELS, self.source)
        shutil.copy(FUNCTIONS, self.source)
        shared = [*sorted((DEVICE / "check").glob("*.cpp")), DEVICE / "block.cpp"]
        source, ptx = [DEVICE / "registry.cpp"], [DEVICE / "ptx.cpp", DEVICE / "ptx_arithmetic.cpp"]
        driver = sorted((DEVICE / "driver").glob("*.cpp"))
        work = []
        with ThreadPoolExecutor(2) as pool:
            for unit in [*shared, *source, *ptx, *driver]:
                work.append(pool.submit(must, ["g++", *FLAGS, f"-I{KERNELS}", "-c", unit, "-o", self.object(unit)]))
            for unit in units(self.source):
                work.append(pool.submit(compile_unit, self.source, unit, self.object(unit)))
                if nvcc:
                    work.append(pool.submit(ptx_of, nvcc, self.source, unit, self.ptx(unit)))
        for one in work:
            one.result()
        self.checks = [self.object(unit) for unit in [*shared, *source]]
        must(["g++", "-o", out / "check_ptx", *[self.object(unit) for unit in [*shared, *ptx]]])
        self.libraries = out / "lib"
        self.libraries.mkdir(exist_ok=True)
        parts = [*driver, DEVICE / "block.cpp", *source, *units(self.source)]
        must(["g++", "-shared", "-Wl,-Bsymbolic", "-o", self.libraries / "libcuda.so", *map(self.object, parts)])
        for name in ["libcuda.so.1", "libcublasLt.so", "libcublasLt.so.13"]:
            (self.libraries / name).unlink(missing_ok=True)
            (self.libraries / name).symlink_to("libcuda.so")

        must(["g++", "-o", out / "check", *self.checks, *map(self.object, units(self.source))])
        # What fails without a fault finds none.
        must([out / "check"])
        if nvcc:
            must([out / "check_ptx"], env={**os.environ, "FS_PTX": ":".join(str(self.ptx(unit)) for unit in units(self.source))})

    def object(self, unit):
        group = "kernel" if unit.suffix == ".cu" else unit.parent.name
        return self.out / f"{group}-{unit.stem}.o"

    def ptx(self, unit):
        return self.out / f"{unit.stem}.ptx"

    def finds(self, number, rung, check, _what, name, text, instead):
        """Returns how the check fails with this fault, or None."""
        folder = self.out / f"fault-{number}"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(self.source, folder)
        planted(folder, name, text, instead)
        changed = [unit for unit in units(folder) if name in includes(folder, unit.name)]
        if rung == 1:
            for unit in changed:
                compile_unit(folder, unit, folder / f"{unit.stem}.o")
            kernels = [folder / f"{unit.stem}.o" if unit in changed else self.object(unit) for unit in units(folder)]
            must(["g++", "-o", folder / "check", *self.checks, *kernels])
            program, environment = folder / "check", {}
        else:
            for unit in changed:
                ptx_of(self.nvcc, folder, unit, folder / f"{unit.stem}.ptx")
            files = [folder / f"{unit.stem}.ptx" if unit in changed else self.ptx(unit) for unit in units(folder)]
            program, environment = self.out / "check_ptx", {"FS_PTX": ":".join(map(str, files))}
        try:
            done = run([program, check], timeout=300, env={**os.environ, **environment})
        except subprocess.TimeoutExpired:
            return "never ends"
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        return first_words(done, "FAILED:", "emulated device:", "ptx:") if done.returncode else None


class Program:
    """Rung 3: the tests of the model's operations on the emulated driver, which does in the program's place what is wrong."""

    def __init__(self, libraries):
        self.environment = {**os.environ, "LD_LIBRARY_PATH": str(libraries), "FRAMESHIFT_TEST_DEVICE": "cuda"}
        # As `make test` builds them.
        command = ["cargo", "test", "--locked", "--workspace", "--features", "cuda", "--lib", "--no-run"]
        built = must(command, cwd=ROOT, env=self.environment)
        self.program = ROOT / re.search(r"Executable .*\((.*frameshift_model-.*)\)", built.stderr)[1]
        for settings in ({}, {"FS_EMULATED_LATE": "1"}):
            whole = self.test(**settings)
            if whole.returncode:
                sys.exit(f"the tests fail without a fault, {settings}:\n{whole.stdout[-2000:]}{whole.stderr[-2000:]}")

    def test(self, **settings):
        # Memory of late streams shows what did not wait.
        return run([self.program, "--test-threads", "1", "ops::cuda", "ops::placed"], env={**self.environment, **settings}, timeout=300)

    def finds(self, fault):
        late = {"FS_EMULATED_LATE": "1"} if fault in ("wait", "record", "free") else {}
        try:
            done = self.test(FS_EMULATED_FAULT=fault, **late)
        except subprocess.TimeoutExpired:
            return "never ends"
        return first_words(done, "... FAILED", "emulated d") if done.returncode else None


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rung", type=int, help="faults of this rung alone")
    parser.add_argument("--part", default="1/1", help="the I-th of N parts of the faults, for instance 2/3")
    parser.add_argument("--only", default="", help="faults whose description or file has this text")
    parser.add_argument("--list", type=pathlib.Path, help="file to add a line to for each fault")
    parser.add_argument("--out", type=pathlib.Path, default=TARGET / "mutants")
    options = parser.parse_args()
    part, parts = map(int, options.part.split("/"))
    nvcc = shutil.which(os.environ.get("NVCC", "nvcc"))
    wanted = [fault for fault in enumerate(FAULTS) if options.only in fault[1][2] + fault[1][3] and options.rung in (None, fault[1][0])]
    wanted = [fault for i, fault in enumerate(wanted) if i % parts == part - 1]
    options.out.mkdir(parents=True, exist_ok=True)
    # PTX is for rung 2 alone.
    kernels, program = Kernels(options.out, nvcc if any(fault[0] == 2 for _, fault in wanted) else None), None
    if any(fault[0] == 3 for _, fault in wanted):
        program = Program(kernels.libraries)
    skipped = [fault[2] for _, fault in wanted if fault[0] == 2 and not nvcc]
    for what in skipped:
        print(f"skipped (no nvcc): {what}")
    wanted = [fault for fault in wanted if fault[1][0] != 2 or nvcc]
    lost, found = [], 0
    with ThreadPoolExecutor(2) as pool:
        finds = lambda fault: program.finds(fault[1][4]) if fault[1][0] == 3 else kernels.finds(fault[0], *fault[1])
        for (_, (rung, _, what, name, _, _)), how in zip(wanted, pool.map(finds, wanted)):
            line = f"rung {rung}, {name}: {what}: {how or 'NOT FOUND'}"
            print(line, flush=True)
            if options.list:
                with options.list.open("a") as file:
                    print(line, file=file)
            found += how is not None
            if how is None:
                lost.append(what)
    print(f"{found} found, {len(lost)} not found, {len(skipped)} skipped")
    sys.exit(bool(lost))


if __name__ == "__main__":
    main()
