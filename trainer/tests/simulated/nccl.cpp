// NCCL between the processes of one machine. Each exchange has a number, and of each rank a file
// with what it gives, in a folder that the communicator's id names.

#include <nccl.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <random>

#include "simulator.h"

using namespace simulated;
namespace fs = std::filesystem;

struct ncclComm {
    fs::path folder;
    int rank, size;
    // Exchanges that were called, and that are done.
    uint64_t called = 0, done = 0;

    fs::path file(const std::string &exchange, int of) const {
        return folder / (exchange + "." + std::to_string(of));
    }

    void give(const std::string &exchange, const char *bytes, size_t count) const {
        const fs::path written = file("new", rank);
        std::ofstream(written, std::ios::binary).write(bytes, static_cast<std::streamsize>(count));
        fs::rename(written, file(exchange, rank));
    }

    bool all_have_given(const std::string &exchange) const {
        for (int of = 0; of < size; ++of)
            if (!fs::exists(file(exchange, of))) return false;
        return true;
    }

    std::vector<float> taken(uint64_t exchange, int of, size_t count) const {
        std::vector<float> values(count);
        std::ifstream from(file(std::to_string(exchange), of), std::ios::binary);
        from.read(reinterpret_cast<char *>(values.data()), count * sizeof(float));
        if (!from) violation("NCCL: the ranks exchange different amounts");
        return values;
    }
};

namespace simulated {

// How long the other ranks may take to connect.
constexpr int PATIENCE_S = 60;

static int depth_of_groups = 0;

// What a rank does with the values of one rank after the other.
using Take = std::function<void(int rank, const std::vector<float> &values)>;

// Enqueues an exchange: first what this rank gives, then what it takes once all have given.
static void exchange(ncclComm_t communicator, const char *name, const void *from, const void *to,
                     size_t count, size_t taken_bytes, CUstream stream, Take take) {
    const uint64_t number = communicator->called++;
    const auto own = reinterpret_cast<Address>(from);
    Operation give;
    give.name = name;
    give.device = {{own, count * sizeof(float)}};
    // What is on one communicator keeps the order of the calls, on whatever streams.
    give.is_possible = [=] { return communicator->done == number; };
    give.work = [=] {
        communicator->give(std::to_string(number), pointer<char>(own), count * sizeof(float));
    };
    Operation all = give;
    all.device = {{reinterpret_cast<Address>(to), taken_bytes}};
    all.is_possible = [=] { return communicator->all_have_given(std::to_string(number)); };
    all.work = [=] {
        for (int rank = 0; rank < communicator->size; ++rank)
            take(rank, communicator->taken(number, rank, count));
        // All have taken what came before, since they have given to this.
        if (number > 0)
            fs::remove(communicator->file(std::to_string(number - 1), communicator->rank));
        ++communicator->done;
    };
    enqueue(stream, give);
    enqueue(stream, all);
}

}  // namespace simulated

#define NCCL_CALL()      \
    Call call(__func__); \
    if (call.error() != CUDA_SUCCESS) return ncclUnhandledCudaError

extern "C" {

ncclResult_t ncclGetUniqueId(ncclUniqueId *id) {
    Call call(__func__);
    memset(id, 0, sizeof *id);
    const std::string name = "simulated-nccl-" + std::to_string(std::random_device()()) + "-" +
                             std::to_string(getpid());
    memcpy(id->internal, name.c_str(), name.size());
    return ncclSuccess;
}

ncclResult_t ncclCommInitRank(ncclComm_t *made, int size, ncclUniqueId id, int rank) {
    NCCL_CALL();
    auto *communicator = new ncclComm{fs::temp_directory_path() / id.internal, rank, size};
    fs::create_directories(communicator->folder);
    communicator->give("connected", "", 0);
    for (int looks = 0; !communicator->all_have_given("connected"); ++looks) {
        if (looks > PATIENCE_S * 1000) return ncclSystemError;
        usleep(1000);
    }
    progress_while_idle();
    *made = communicator;
    return ncclSuccess;
}

ncclResult_t ncclCommDestroy(ncclComm_t communicator) {
    NCCL_CALL();
    while (!is_lost() && communicator->done != communicator->called)
        if (!make_progress()) usleep(1000);
    communicator->give("destroyed", "", 0);
    // The last one removes all.
    std::error_code ignored;
    if (communicator->all_have_given("destroyed")) fs::remove_all(communicator->folder, ignored);
    delete communicator;
    return ncclSuccess;
}

// What was exchanged stays behind: the other ranks may still read it.
ncclResult_t ncclCommAbort(ncclComm_t) {
    Call call(__func__);
    return ncclSuccess;
}

ncclResult_t ncclGetVersion(int *version) {
    *version = NCCL_VERSION_CODE;
    return ncclSuccess;
}

ncclResult_t ncclCommGetAsyncError(ncclComm_t, ncclResult_t *error) {
    *error = is_lost() ? ncclUnhandledCudaError : ncclSuccess;
    return ncclSuccess;
}

ncclResult_t ncclGroupStart() {
    Call call(__func__);
    ++depth_of_groups;
    return ncclSuccess;
}

ncclResult_t ncclGroupEnd() {
    Call call(__func__);
    if (--depth_of_groups < 0) violation("NCCL: a group ends that did not start");
    return ncclSuccess;
}

ncclResult_t ncclAllGather(const void *from, void *to, size_t count, ncclDataType_t type,
                           ncclComm_t communicator, cudaStream_t stream) {
    NCCL_CALL();
    if (type != ncclFloat32) violation("NCCL: only float32 is simulated");
    const size_t bytes = count * communicator->size * sizeof(float);
    exchange(communicator, "ncclAllGather", from, to, count, bytes, stream,
             [=](int rank, const std::vector<float> &values) {
                 std::copy(values.begin(), values.end(), static_cast<float *>(to) + rank * count);
             });
    return ncclSuccess;
}

ncclResult_t ncclAllReduce(const void *from, void *to, size_t count, ncclDataType_t type,
                           ncclRedOp_t reduction, ncclComm_t communicator, cudaStream_t stream) {
    NCCL_CALL();
    if (type != ncclFloat32 || reduction != ncclSum)
        violation("NCCL: only sums of float32 are simulated");
    exchange(communicator, "ncclAllReduce", from, to, count, count * sizeof(float), stream,
             [=](int rank, const std::vector<float> &values) {
                 auto *sums = static_cast<float *>(to);
                 if (rank == 0) std::fill_n(sums, count, 0.0f);
                 for (size_t i = 0; i < count; ++i) sums[i] += values[i];
             });
    return ncclSuccess;
}

const char *ncclGetErrorString(ncclResult_t) { return "an error of the simulated NCCL"; }

const char *ncclGetLastError(ncclComm_t) { return ""; }

}  // extern "C"
