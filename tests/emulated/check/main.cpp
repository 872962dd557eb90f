// Runs every check; fails when one does, or when a kernel was never launched. An argument names the only check to run; `races` is a few launches of the others.
#include <ctime>
#include <map>
#include <set>

#include "check.hpp"

namespace check {

int failures = 0;
unsigned order = 0;
static std::set<string> launched;

void expect(bool ok, const string& what) {
    if (ok) return;
    printf("FAILED: %s\n", what.c_str());
    ++failures;
}

const fs::Kernel* kernel(const string& name) {
    const fs::Kernel* found = fs::find(name.c_str());
    if (!found) {
        printf("FAILED: there is no kernel %s\n", name.c_str());
        exit(1);
    }
    launched.insert(name);
    return found;
}

static void every_kernel_was_launched() {
    for (const string& name : fs::names()) expect(launched.count(name) > 0, name + " was never launched");
    printf("%zu kernels\n", launched.size());
}

}  // namespace check

static void races() {
    check::few_attentions();
    check::few_products();
    check::few_weight_gradients();
}

int main(int count, char** arguments) {
    using namespace check;
    setvbuf(stdout, nullptr, _IOLBF, 0);
    const std::pair<const char*, void (*)()> all[] = {
        {"functions", functions},   {"norms", norms},       {"activations", activations},
        {"attentions", attentions}, {"plain_attentions", plain_attentions}, {"products", products},
        {"weight_gradients", weight_gradients}, {"convolutions", convolutions}, {"sums", sums},
        {"rows", rows},             {"cells", cells},       {"numbers", numbers},   {"races", races}};
    for (const auto& [name, run] : all) {
        if (count > 1 ? string(arguments[1]) != name : name == string("races")) continue;
        clock_t start = clock();
        run();
        printf("-- %s: %.1f s\n", name, double(clock() - start) / CLOCKS_PER_SEC);
    }
    if (count == 1) every_kernel_was_launched();
    fs::Counters counters = fs::count();
    printf("%llu matrix products, %llu matrix loads, %llu bank conflicts\n", (unsigned long long)counters.products,
           (unsigned long long)counters.matrix_loads, (unsigned long long)counters.conflicts);
    expect(counters.conflicts == 0, "matrix loads with bank conflicts");
    printf(failures ? "%d FAILED\n" : "all passed\n", failures);
    return failures != 0;
}
