// The kernels as nvcc compiled them, on the same fibers as their source. It checks what the source cannot show: the compiler's output, the order of
// operands in inline PTX, the layout of parameters. FS_PTX names the files, separated by colons.
#include "ptx.hpp"

#include <fstream>
#include <sstream>

#include "device.cuh"

namespace fs {

struct Kernel : ptx::Kernel {};

}  // namespace fs

namespace ptx {

using std::string;
using std::vector;

static thread_local const fs::Kernel* current = nullptr;
static thread_local void** arguments = nullptr;
static std::map<string, fs::Kernel> kernels;
static vector<string> dynamic;  // names of the dynamic shared memory, which begins at 0

static const char* const SPECIALS[] = {"%tid.x", "%ntid.x", "%ctaid.x", "%ctaid.y", "%ctaid.z", "%nctaid.x", "%nctaid.y"};

uint64_t get(const Operand& op, Registers r) {
    if (op.kind == Operand::Register) return r[op.index];
    if (op.kind == Operand::Number) return op.number;
    const fs::Block& b = *fs::lane->block;
    const unsigned all[] = {fs::lane->thread.x, b.threads.x, b.index.x, b.index.y, b.index.z, b.grid.x, b.grid.y};
    return all[op.index];
}

void stop(const string& what, const string& line) {
    fprintf(stderr, "ptx: %s: %s\n", what.c_str(), line.c_str());
    exit(1);
}

// Operands; those in braces or brackets stay whole.
static vector<string> split(const string& text) {
    vector<string> parts;
    string part;
    int depth = 0;
    for (char c : text) {
        depth += (c == '{' || c == '[') - (c == '}' || c == ']');
        if ((c == ',' || c == '|') && depth == 0) {
            parts.push_back(part);
            part.clear();
        } else if (c != ' ' && c != '\t') {
            part += c;
        }
    }
    if (!part.empty()) parts.push_back(part);
    return parts;
}

static bool begins(const string& name, const char* with) { return name.rfind(with, 0) == 0; }
static bool ends(const string& name, const char* with) {
    string end = with;
    return name.size() >= end.size() && name.compare(name.size() - end.size(), end.size(), end) == 0;
}
static size_t bytes_of(const string& name) { return ends(name, "16") ? 2 : ends(name, "64") ? 8 : ends(name, "8") ? 1 : 4; }

struct Address {
    Operand base;
    int64_t offset;
};

// Makes steps of the lines of one kernel.
struct Reader {
    Kernel& kernel;
    string line;

    int reg(const string& name) { return kernel.registers.try_emplace(name, int(kernel.registers.size())).first->second; }
    Operand op(const string& text) {
        for (int i = 0; i < int(std::size(SPECIALS)); ++i)
            if (text == SPECIALS[i]) return {Operand::Special, i, 0};
        if (text[0] == '%') return {Operand::Register, reg(text), 0};
        if (begins(text, "0f") || begins(text, "0d")) return {Operand::Number, 0, std::stoull(text.substr(2), nullptr, 16)};
        if (std::find(dynamic.begin(), dynamic.end(), text) != dynamic.end()) return {};
        if (isdigit(text[0]) || text[0] == '-') return {Operand::Number, 0, uint64_t(std::stoll(text, nullptr, 0))};
        stop("operand " + text, line);
    }
    vector<Operand> all(const string& text) {
        vector<Operand> ops;
        for (const string& part : split(text[0] == '{' ? text.substr(1, text.size() - 2) : text)) ops.push_back(op(part));
        return ops;
    }
    Address address(const string& text) {
        string own = text.substr(1, text.size() - 2);
        size_t plus = own.find('+');
        return {op(own.substr(0, plus)), plus == string::npos ? 0 : std::stoll(own.substr(plus + 1), nullptr, 0)};
    }

    Step parameter(const string& name, const vector<string>& o) {
        string own = o[1].substr(1, o[1].size() - 2);
        size_t plus = own.find('+'), offset = plus == string::npos ? 0 : std::stoul(own.substr(plus + 1));
        int index = std::stoi(own.substr(own.rfind("_param_") + 7));
        vector<Operand> to = all(o[0]);
        size_t bytes = bytes_of(name);
        if (offset + bytes * to.size() > kernel.parameters.at(size_t(index))) stop("beyond a parameter", line);
        return [=](Registers r, int pc) {
            for (size_t i = 0; i < to.size(); ++i) {
                r[to[i].index] = 0;
                memcpy(&r[to[i].index], static_cast<char*>(arguments[index]) + offset + i * bytes, bytes);
            }
            return pc + 1;
        };
    }

    // Of global or, without a name, generic memory, and of shared memory.
    Step access(const string& name, const vector<string>& o) {
        bool load = begins(name, "ld"), shared = name.find(".shared") != string::npos;
        Address from = address(o[load ? 1 : 0]);
        vector<Operand> ops = all(o[load ? 0 : 1]);
        size_t bytes = bytes_of(name), whole = bytes * ops.size();
        return [=](Registers r, int pc) {
            const fs::Block& block = *fs::lane->block;
            uint64_t place = get(from.base, r) + uint64_t(from.offset);
            if (shared && uint32_t(place) + whole > block.shared_bytes) fs::fail("an address outside shared memory");
            char* at = shared ? reinterpret_cast<char*>(block.shared) + uint32_t(place) : reinterpret_cast<char*>(place);
            if (reinterpret_cast<uintptr_t>(at) % whole) fs::fail("a misaligned address");
            for (size_t i = 0; i < ops.size(); ++i) {
                uint64_t v = load ? 0 : get(ops[i], r);
                if (load) {
                    memcpy(&v, at + i * bytes, bytes);
                    r[ops[i].index] = v;
                } else {
                    memcpy(at + i * bytes, &v, bytes);
                }
            }
            return pc + 1;
        };
    }

    Step copy(const vector<string>& o) {
        Address to = address(o[0]), from = address(o[1]);
        if (o[2] != "16") stop("a copy of other than 16 bytes", line);
        Operand bytes = op(o[3]);
        return [=](Registers r, int pc) {
            unsigned char* at = fs::lane->block->shared + uint32_t(get(to.base, r) + uint64_t(to.offset));
            uint32_t count = uint32_t(get(bytes, r));
            if (count != 0 && count != 16) fs::fail("a copy of some of 16 bytes");
            copy16_async(at, reinterpret_cast<void*>(get(from.base, r) + uint64_t(from.offset)), count != 0);
            return pc + 1;
        };
    }

    Step matrices(const string& name, const vector<string>& o) {
        vector<Operand> to = all(o[0]);
        if (name.find(".x4") == string::npos || to.size() != 4) stop("other than four matrices", line);
        Address from = address(o[1]);
        bool transposed = name.find(".trans") != string::npos;
        return [=](Registers r, int pc) {
            uint32_t m[4];
            const void* row = fs::lane->block->shared + uint32_t(get(from.base, r) + uint64_t(from.offset));
            transposed ? load_matrices_transposed(m, row) : load_matrices(m, row);
            for (int i = 0; i < 4; ++i) r[to[size_t(i)].index] = m[i];
            return pc + 1;
        };
    }

    Step product(const vector<string>& o) {
        vector<Operand> d = all(o[0]), a = all(o[1]), b = all(o[2]), c = all(o[3]);
        return [=](Registers r, int pc) {
            float sums[4];
            uint32_t left[4];
            for (size_t i = 0; i < 4; ++i) {
                sums[i] = fs::from_bits(uint32_t(get(c[i], r)));
                left[i] = uint32_t(get(a[i], r));
            }
            multiply_add(sums, left, uint32_t(get(b[0], r)), uint32_t(get(b[1], r)));
            for (size_t i = 0; i < 4; ++i) r[d[i].index] = fs::to_bits(sums[i]);
            return pc + 1;
        };
    }

    Step wait(const string& groups) {
        if (groups == "0") return [](Registers, int pc) { return copies_wait<0>(), pc + 1; };
        if (groups == "1") return [](Registers, int pc) { return copies_wait<1>(), pc + 1; };
        if (groups == "2") return [](Registers, int pc) { return copies_wait<2>(), pc + 1; };
        stop("groups", line);
    }

    Step shuffle(const vector<string>& o) {  // d | p, a, distance, clamp, mask
        int to = reg(o.at(0)), inside = reg(o.at(1));
        Operand x = op(o.at(2)), distance = op(o.at(3)), clamp = op(o.at(4)), mask = op(o.at(5));
        return [=](Registers r, int pc) {
            if (uint32_t(get(clamp, r)) != 31) fs::fail("a shuffle of parts of a warp");
            float own = fs::from_bits(uint32_t(get(x, r)));
            r[inside] = 1;
            r[to] = fs::to_bits(__shfl_xor_sync(uint32_t(get(mask, r)), own, int(get(distance, r))));
            return pc + 1;
        };
    }

    // Halves of a word in braces, the low one first: into a register, or out of one.
    Step halves(const vector<string>& o) {
        bool packs = o.at(1)[0] == '{';
        vector<Operand> parts = all(o[packs ? 1 : 0]);
        if (parts.size() != 2) stop("halves", line);
        Operand low = parts[0], high = parts[1], word = op(o[packs ? 0 : 1]);
        return [=](Registers r, int pc) {
            if (packs) {
                r[word.index] = (get(low, r) & 0xffff) | (get(high, r) & 0xffff) << 16;
            } else {
                uint64_t whole = get(word, r);
                r[low.index] = whole & 0xffff;
                r[high.index] = whole >> 16 & 0xffff;
            }
            return pc + 1;
        };
    }

    Step step(const string& name, const vector<string>& o) {
        if (begins(name, "bra")) {
            int target = kernel.labels.at(o.at(0));
            return [=](Registers, int) { return target; };
        }
        if (begins(name, "ret")) return [](Registers, int) { return -1; };
        if (begins(name, "ld.param")) return parameter(name, o);
        if (begins(name, "ldmatrix")) return matrices(name, o);
        if (begins(name, "ld.") || begins(name, "st.")) return access(name, o);
        if (begins(name, "cp.async.commit")) return [](Registers, int pc) { return copies_commit(), pc + 1; };
        if (begins(name, "cp.async.wait_group")) return wait(o[0]);
        if (begins(name, "cp.async.cg")) return copy(o);
        if (name == "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32") return product(o);
        if (begins(name, "shfl.sync.bfly")) return shuffle(o);
        if (begins(name, "bar.sync") && (o.size() != 1 || o[0] != "0")) stop("a barrier of other than the whole block", line);
        if (begins(name, "setp") && o.size() > 3) stop("two predicates", line);
        if (begins(name, "bar.warp.sync")) {
            Operand mask = op(o.at(0));
            return [=](Registers r, int pc) {
                if (uint32_t(get(mask, r)) != 0xffffffffu) fs::fail("a barrier of some lanes");
                return __syncwarp(), pc + 1;
            };
        }
        if (begins(name, "bar.sync")) return [](Registers, int pc) { return __syncthreads(), pc + 1; };
        if (name == "mov.b32" && (o.at(0)[0] == '{' || o.at(1)[0] == '{')) return halves(o);
        Function function = arithmetic(name);
        if (!function) stop("unknown instruction", line);
        int to = reg(o.at(0));
        Operand in[4];
        for (size_t i = 1; i < o.size() && i < 5; ++i) in[i - 1] = op(o[i]);
        Operand a = in[0], b = in[1], c = in[2], d = in[3];
        return [=](Registers r, int pc) {
            r[to] = function(get(a, r), get(b, r), get(c, r), get(d, r));
            return pc + 1;
        };
    }
};

struct Line {
    string guard, name, text;
    vector<string> operands;
};

static void finish(Kernel& kernel, const vector<Line>& lines) {
    Reader reader{kernel, ""};
    for (const Line& line : lines) {
        reader.line = line.text;
        Step step = reader.step(line.name, line.operands);
        if (!line.guard.empty()) {
            bool inverted = line.guard[1] == '!';
            int p = reader.reg(line.guard.substr(inverted ? 2 : 1));
            step = [=](Registers r, int pc) { return (r[p] != 0) != inverted ? step(r, pc) : pc + 1; };
        }
        kernel.steps.push_back(step);
    }
}

static Line instruction(string text) {
    Line line;
    line.text = text;
    text = text.substr(0, text.find(';'));
    if (text[0] == '@') {
        size_t space = text.find_first_of(" \t");
        line.guard = text.substr(0, space);
        text = text.substr(text.find_first_not_of(" \t", space));
    }
    size_t space = text.find_first_of(" \t");
    line.name = text.substr(0, space);
    if (space != string::npos) line.operands = split(text.substr(space));
    return line;
}

// Bytes of a parameter: of its type, or of the array that a structure is.
static size_t parameter_bytes(const string& text) {
    size_t bracket = text.find('[');
    if (bracket != string::npos) return std::stoul(text.substr(bracket + 1));
    return text.find("64") < text.find(' ', 7) ? 8 : 4;
}

static void read(const string& path) {
    std::ifstream file(path);
    if (!file) stop("cannot read", path);
    Kernel* kernel = nullptr;
    vector<Line> lines;
    int depth = 0;
    for (string text; std::getline(file, text);) {
        text.resize(std::min(text.size(), text.find("//")));
        size_t first = text.find_first_not_of(" \t");
        if (first == string::npos) continue;
        text = text.substr(first);
        if (begins(text, ".extern .shared")) {
            size_t end = text.find('['), begin = text.rfind(' ', end) + 1;
            dynamic.push_back(text.substr(begin, end - begin));
        } else if (size_t entry = text.find(".entry "); entry != string::npos) {
            string name = text.substr(entry + 7);
            name = name.substr(0, name.find('('));
            kernel = &kernels[name];
            kernel->name = name;
        } else if (!kernel) {
            continue;
        } else if (begins(text, ".param")) {
            kernel->parameters.push_back(parameter_bytes(text));
        } else if (begins(text, ".maxntid")) {
            kernel->threads = unsigned(std::stoul(text.substr(9)));
        } else if (text[0] == '{' && text.size() <= 2) {
            ++depth;
        } else if (text[0] == '}') {
            if (--depth > 0) continue;
            finish(*kernel, lines);
            lines.clear();
            kernel = nullptr;
        } else if (text[0] == '.' || text[0] == ')' || text.find(';') == string::npos) {
            size_t colon = text.find(':');
            if (text[0] == '$' && colon != string::npos) kernel->labels[text.substr(0, colon)] = int(lines.size());
        } else {
            lines.push_back(instruction(text));
        }
    }
}

static std::map<string, fs::Kernel>& table() {
    if (kernels.empty()) {
        std::stringstream files(getenv("FS_PTX") ? getenv("FS_PTX") : "");
        for (string file; std::getline(files, file, ':');) read(file);
    }
    return kernels;
}

static void run(void** given) {
    arguments = given;
    const Kernel& kernel = *current;
    vector<uint64_t> registers(kernel.registers.size(), 0xdeadbeefdeadbeefull);
    for (int pc = 0; pc >= 0;) {
        fs::place = pc;
        pc = kernel.steps[size_t(pc)](registers.data(), pc);
    }
}

}  // namespace ptx

namespace fs {

const Kernel* find(const char* name) {
    auto found = ptx::table().find(name);
    return found == ptx::table().end() ? nullptr : &found->second;
}
unsigned most_threads(const Kernel* kernel) { return kernel->threads; }
std::vector<std::string> names() {
    std::vector<std::string> all;
    for (const auto& [name, kernel] : ptx::table()) all.push_back(name);
    return all;
}
void launch(const Kernel* kernel, const Launch& launch, void** arguments) {
    if (launch.threads > kernel->threads) fail("a block of more threads than the kernel was compiled for");
    ptx::current = kernel;
    run_grid(ptx::run, launch, arguments);
}
std::function<void()> keep(const Kernel* kernel, const Launch& launch, void** arguments) {
    std::vector<std::vector<char>> own;
    for (size_t i = 0; i < kernel->parameters.size(); ++i) {
        auto* at = static_cast<char*>(arguments[i]);
        own.emplace_back(at, at + kernel->parameters[i]);
    }
    return [=]() mutable {
        std::vector<void*> pointers;
        for (auto& value : own) pointers.push_back(value.data());
        fs::launch(kernel, launch, pointers.data());
    };
}

}  // namespace fs
