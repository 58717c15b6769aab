// Streams and events.

#include <unistd.h>

#include <algorithm>

#include "internal.h"

using namespace simulated;

namespace simulated {

static std::vector<CUstream> &streams = *new std::vector<CUstream>;
static Clock &host = *new Clock;
static uint64_t computed = 0;

// How many streams may wait for each other in a row.
constexpr int DEEPEST = 100;
// How long other processes may take to come to what all take part in.
constexpr int PATIENCE_S = 120;
constexpr int LOOK_US = 200;

static void merge(Clock &into, const Clock &other) {
    for (const auto &[stream, operations] : other)
        into[stream] = std::max(into[stream], operations);
}

void host_waited_for(const Clock &clock) { merge(host, clock); }

bool is_before(int stream, uint64_t operation, const Clock &clock) {
    const auto reaches = [&](const Clock &known) {
        const auto found = known.find(stream);
        return found != known.end() && found->second >= operation;
    };
    return reaches(clock) || reaches(host);
}

static CUstream known(CUstream stream, const std::string &what) {
    if (std::find(streams.begin(), streams.end(), stream) == streams.end())
        violation(what + " on the default stream, or on none");
    if (stream->is_destroyed) violation(what + " on a destroyed stream");
    return stream;
}

void enqueue(CUstream stream, Operation operation) {
    known(stream, operation.name);
    ++stream->enqueued;
    use_device(operation, stream);
    use_host(operation, stream);
    stream->clock[stream->number] = stream->enqueued;
    if (operation.waits_for) merge(stream->clock, operation.waits_for->clock);
    if (operation.passes) operation.passes->clock = stream->clock;
    stream->pending.push_back(std::move(operation));
}

static bool can_run(const CUstream_st &stream) {
    if (stream.pending.empty()) return false;
    const Operation &next = stream.pending.front();
    if (next.waits_for && next.waits_for->passed < next.version) return false;
    return !next.is_possible || next.is_possible();
}

static void run_next(CUstream stream) {
    const Operation operation = std::move(stream->pending.front());
    stream->pending.pop_front();
    if (operation.passes)
        operation.passes->passed = std::max(operation.passes->passed, operation.version);
    if (operation.computes) {
        count("operations");
        if (++computed == options().failing_operation) {
            lose();
            for (CUstream other : streams) other->pending.clear();
            return;
        }
        if (options().dry) return;
    }
    if (operation.work) operation.work();
}

bool make_progress() {
    for (CUstream stream : streams) {
        if (!can_run(*stream)) continue;
        run_next(stream);
        return true;
    }
    return false;
}

void run_some(uint64_t choice, uint64_t most) {
    if (streams.empty()) return;
    CUstream stream = streams[choice % streams.size()];
    for (; most > 0 && can_run(*stream); --most) run_next(stream);
}

// Runs the next operation of a stream, after what it waits for and nothing else.
static void advance(CUstream stream, int depth) {
    const std::string name = stream->pending.front().name;
    if (depth > DEEPEST) violation(name + ": streams wait for each other");
    for (int looks = 0; !is_lost() && !can_run(*stream); ++looks) {
        const Operation &next = stream->pending.front();
        if (next.waits_for) {
            const auto passes = [&](CUstream other) {
                const auto is_pass = [&](const Operation &operation) {
                    return operation.passes == next.waits_for && operation.version >= next.version;
                };
                return std::any_of(other->pending.begin(), other->pending.end(), is_pass);
            };
            const auto other = std::find_if(streams.begin(), streams.end(), passes);
            if (other == streams.end()) violation("a wait for an event that nothing records");
            advance(*other, depth + 1);
        } else if (!make_progress()) {
            if (looks > PATIENCE_S * 1000 * 1000 / LOOK_US)
                violation(name + ": another process never takes part");
            usleep(LOOK_US);
        }
    }
    if (!is_lost()) run_next(stream);
}

static void run_all(CUstream stream) {
    while (!stream->pending.empty()) advance(stream, 0);
}

void finish(CUstream stream) {
    run_all(stream);
    merge(host, stream->clock);
}

static CUresult outcome() { return is_lost() ? CUDA_ERROR_ILLEGAL_ADDRESS : CUDA_SUCCESS; }

static CUevent living(CUevent event) {
    if (event == nullptr || event->is_destroyed) violation("use of a destroyed event");
    return event;
}

// Whether all that an event has recorded is done.
static bool is_passed(const Recording &recording) { return recording.passed >= recording.recorded; }

}  // namespace simulated

extern "C" {

CUresult cuStreamCreate(CUstream *stream, unsigned flags) {
    IN_CONTEXT();
    if (flags != CU_STREAM_NON_BLOCKING) violation("a stream that waits for the default stream");
    *stream = new CUstream_st{};
    (*stream)->number = static_cast<int>(streams.size());
    streams.push_back(*stream);
    return CUDA_SUCCESS;
}

CUresult cuStreamDestroy(CUstream stream) {
    IN_CONTEXT();
    // A real GPU goes on with what is pending, and the host does not wait for it.
    run_all(known(stream, "cuStreamDestroy"));
    stream->is_destroyed = true;
    return outcome();
}

CUresult cuStreamSynchronize(CUstream stream) {
    IN_CONTEXT();
    finish(known(stream, "cuStreamSynchronize"));
    return outcome();
}

CUresult cuStreamIsCapturing(CUstream stream, CUstreamCaptureStatus *status) {
    IN_CONTEXT();
    known(stream, "cuStreamIsCapturing");
    *status = CU_STREAM_CAPTURE_STATUS_NONE;
    return CUDA_SUCCESS;
}

CUresult cuStreamWaitEvent(CUstream stream, CUevent event, unsigned) {
    IN_CONTEXT();
    Operation operation;
    operation.name = "wait for an event";
    operation.waits_for = living(event)->recording;
    operation.version = event->recording->recorded;
    if (operation.version > 0) enqueue(stream, operation);
    return CUDA_SUCCESS;
}

CUresult cuCtxSynchronize() {
    IN_CONTEXT();
    for (CUstream stream : streams) finish(stream);
    return outcome();
}

CUresult cuEventCreate(CUevent *event, unsigned flags) {
    IN_CONTEXT();
    const unsigned known_flags =
        CU_EVENT_BLOCKING_SYNC | CU_EVENT_DISABLE_TIMING | CU_EVENT_INTERPROCESS;
    if (flags & ~known_flags) return CUDA_ERROR_INVALID_VALUE;
    if (flags & CU_EVENT_BLOCKING_SYNC) count("events that wait without spinning");
    *event = new CUevent_st;
    return CUDA_SUCCESS;
}

CUresult cuEventDestroy(CUevent event) {
    IN_CONTEXT();
    living(event)->is_destroyed = true;
    return CUDA_SUCCESS;
}

CUresult cuEventRecord(CUevent event, CUstream stream) {
    IN_CONTEXT();
    Operation operation;
    operation.name = "an event";
    operation.passes = living(event)->recording;
    operation.version = ++event->recording->recorded;
    enqueue(stream, operation);
    return CUDA_SUCCESS;
}

CUresult cuEventSynchronize(CUevent event) {
    IN_CONTEXT();
    const Recording &recording = *living(event)->recording;
    while (!is_lost() && !is_passed(recording)) {
        const auto passes = [&](CUstream stream) {
            const auto is_pass = [&](const Operation &operation) {
                return operation.passes == event->recording;
            };
            return std::any_of(stream->pending.begin(), stream->pending.end(), is_pass);
        };
        advance(*std::find_if(streams.begin(), streams.end(), passes), 0);
    }
    host_waited_for(recording.clock);
    return outcome();
}

CUresult cuEventQuery(CUevent event) {
    IN_CONTEXT();
    const Recording &recording = *living(event)->recording;
    if (!is_passed(recording)) return CUDA_ERROR_NOT_READY;
    host_waited_for(recording.clock);
    return CUDA_SUCCESS;
}

CUresult cuEventElapsedTime(float *milliseconds, CUevent start, CUevent end) {
    IN_CONTEXT();
    if (!is_passed(*living(start)->recording) || !is_passed(*living(end)->recording))
        return CUDA_ERROR_NOT_READY;
    // A simulation has no time of a GPU's.
    *milliseconds = 1.0f;
    return CUDA_SUCCESS;
}

}  // extern "C"
