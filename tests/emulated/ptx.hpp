// An interpreter of the PTX that nvcc makes of the kernels: what an instruction is, and how it is found by its name.
#pragma once
#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <vector>

namespace ptx {

// An operand: a register, a number, or one of the special registers.
struct Operand {
    enum Kind { Register, Number, Special } kind = Number;
    int index = 0;
    uint64_t number = 0;
};
using Registers = uint64_t*;

// Runs one instruction; returns the index of the next one.
using Step = std::function<int(Registers, int)>;

// Arithmetic on up to four operands, registers being 64 bits whatever they hold.
using Function = uint64_t (*)(uint64_t, uint64_t, uint64_t, uint64_t);

// The arithmetic instruction of this name; null when it is none.
Function arithmetic(const std::string& name);

struct Kernel {
    std::string name;
    unsigned threads = 1024;
    std::vector<size_t> parameters;  // bytes of each
    std::vector<Step> steps;
    std::map<std::string, int> registers, labels;
};

uint64_t get(const Operand& operand, Registers registers);
[[noreturn]] void stop(const std::string& what, const std::string& line);

}  // namespace ptx
