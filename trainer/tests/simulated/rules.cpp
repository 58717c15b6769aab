// Options, the lock, broken rules, and the report.

#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <random>
#include <thread>

#include "internal.h"

namespace simulated {

// A process without a call for so long is idle.
constexpr int IDLE_US = 20'000;

static uint64_t number_of(const char *name, uint64_t otherwise) {
    const char *text = getenv(name);
    return text == nullptr || *text == '\0' ? otherwise : strtoull(text, nullptr, 10);
}

static Options read_options() {
    Options options;
    options.has_seed = getenv("SCRL_SIM_SEED") != nullptr;
    options.seed = number_of("SCRL_SIM_SEED", 0);
    options.memory = number_of("SCRL_SIM_MEMORY", options.memory);
    options.failing_allocation = number_of("SCRL_SIM_FAIL_ALLOCATION", 0);
    options.failing_operation = number_of("SCRL_SIM_FAIL_OPERATION", 0);
    options.no_pools = number_of("SCRL_SIM_NO_POOLS", 0);
    options.late_copies = number_of("SCRL_SIM_LATE_COPIES", 0);
    options.no_engines = number_of("SCRL_SIM_NO_ENGINES", 0);
    options.only_nchw = number_of("SCRL_SIM_ONLY_NCHW", 0);
    options.dry = number_of("SCRL_SIM_DRY", 0);
    if (const char *report = getenv("SCRL_SIM_REPORT")) options.report = report;
    return options;
}

// Neither this nor what follows is ever destroyed: calls may come until the process has ended.
const Options &options() {
    static const Options &read = *new Options(read_options());
    return read;
}

static std::mutex &calls = *new std::mutex;
static std::map<std::string, uint64_t> &counts = *new std::map<std::string, uint64_t>;
static bool lost = false, begun = false;
// Calls so far.
static uint64_t called = 0;

void count(const std::string &what) { ++counts[what]; }
bool is_lost() { return lost; }
void lose() { lost = true; }

static uint64_t allocations = 0, failing_allocation = 0;

bool allocation_fails() {
    count("allocations");
    return ++allocations == failing_allocation;
}

// Lets the n-th allocation from now on fail, for tests in one process.
extern "C" void scrl_sim_fail_allocation(uint64_t n) {
    allocations = 0;
    failing_allocation = n;
}

static std::string in_quotes(const std::string &text) {
    std::string quoted = "\"";
    for (char character : text) {
        if (character == '"' || character == '\\') quoted += '\\';
        quoted += character;
    }
    return quoted + "\"";
}

static void write_report(const std::string &violated) {
    if (options().report.empty()) return;
    std::ofstream file(options().report);
    file << "{\n  \"peak_bytes\": " << peak_bytes() << ",\n  \"violations\": [";
    if (!violated.empty()) file << in_quotes(violated);
    file << "],\n  \"calls\": {";
    const char *separator = "\n";
    for (const auto &[name, times] : counts) {
        file << separator << "    " << in_quotes(name) << ": " << times;
        separator = ",\n";
    }
    file << "\n  }\n}\n";
}

void violation(const std::string &what) {
    fprintf(stderr, "simulated GPU: broken rule: %s\n", what.c_str());
    write_report(what);
    _exit(VIOLATION);
}

Call::Call(const char *name) : lock(calls), name(name) {
    if (!begun) {
        begun = true;
        fputs("simulated GPU: results are those of a CPU, and no time is that of a GPU\n", stderr);
        failing_allocation = options().failing_allocation;
    }
    ++called;
    count(name);
    if (!options().has_seed) return;
    static std::mt19937_64 random(options().seed);
    if (random() % 3 == 0) run_some(random(), random() % 12);
}

CUresult Call::error() const {
    if (lost) return CUDA_ERROR_ILLEGAL_ADDRESS;
    return context_error(name);
}

void progress_while_idle() {
    static bool is_started = false;
    if (is_started) return;
    is_started = true;
    std::thread([] {
        for (uint64_t before = 0;; usleep(IDLE_US)) {
            const std::lock_guard<std::mutex> lock(calls);
            if (called == before) {
                while (!lost && make_progress()) continue;
            }
            before = called;
        }
    }).detach();
}

// At the end of the process.
__attribute__((destructor)) static void end() {
    if (!begun) return;
    if (!lost) check_guards();
    write_report("");
}

}  // namespace simulated
