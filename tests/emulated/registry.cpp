// The kernels as they were compiled for the CPU, by name.
#include <map>

#include "block.hpp"

namespace fs {

struct Kernel {
    std::string name;
    unsigned threads;
    void (*call)(void**);
    std::shared_ptr<void> (*copy)(void**, std::vector<void*>&);
};

static std::map<std::string, Kernel>& table() {
    // Never destroyed: threads that still run while the process ends may launch.
    static auto& kernels = *new std::map<std::string, Kernel>;
    return kernels;
}

Registration::Registration(const char* name, unsigned threads, void (*call)(void**),
                           std::shared_ptr<void> (*keep)(void**, std::vector<void*>&)) {
    table()[name] = {name, threads, call, keep};
}

const Kernel* find(const char* name) {
    auto found = table().find(name);
    return found == table().end() ? nullptr : &found->second;
}
unsigned most_threads(const Kernel* kernel) { return kernel->threads; }
std::string name_of(const Kernel* kernel) { return kernel->name; }
std::vector<std::string> names() {
    std::vector<std::string> all;
    for (const auto& [name, kernel] : table()) all.push_back(name);
    return all;
}
void launch(const Kernel* kernel, const Launch& launch, void** arguments) {
    if (launch.threads > kernel->threads) fail("a block of more threads than the kernel was compiled for");
    run_grid(kernel->call, launch, arguments);
}
std::function<void()> keep(const Kernel* kernel, const Launch& launch, void** arguments) {
    auto pointers = std::make_shared<std::vector<void*>>();
    auto own = kernel->copy(arguments, *pointers);
    return [=] {
        (void)own;
        fs::launch(kernel, launch, pointers->data());
    };
}

}  // namespace fs
