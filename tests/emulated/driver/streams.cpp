// Streams and events of the emulated device. With FS_EMULATED_LATE=1 a stream does nothing until somebody waits for it, by synchronising or through an
// event, then exactly as far as needed; copies from and to pinned memory happen at that time too.
#include <deque>
#include <memory>
#include <vector>

#include "driver.hpp"

using namespace driver;

namespace {

struct Stream {
    std::deque<std::function<void()>> work;
};
struct Event {
    Stream* stream = nullptr;
    unsigned long recorded = 0, reached = 0;
};

auto& legacy = immortal<Stream>();
auto& streams = immortal<std::vector<std::unique_ptr<Stream>>>();

Stream& of(void* stream) { return stream ? *static_cast<Stream*>(stream) : legacy; }

void step(Stream& stream) {
    auto next = std::move(stream.work.front());
    stream.work.pop_front();
    next();
}
void drain_one(Stream& stream) {
    while (!stream.work.empty()) step(stream);
}
// Until the event's record of then has been reached.
void reach(Event* event, unsigned long record) {
    while (event->reached < record && event->stream && !event->stream->work.empty()) step(*event->stream);
}

}  // namespace

int driver::enqueue(void* stream, std::function<void()> work) {
    of(stream).work.push_back(std::move(work));
    if (!setting("FS_EMULATED_LATE")) drain_one(of(stream));
    return 0;
}
void driver::drain(void* stream) { drain_one(of(stream)); }
void driver::drain_all() {
    drain_one(legacy);
    for (auto& stream : streams) drain_one(*stream);
}

API cuStreamCreate(void** stream, unsigned) {
    ENTER_CONTEXT;
    streams.push_back(std::make_unique<Stream>());
    *stream = streams.back().get();
    return 0;
}
// What waits for its events later may still ask for it, so it stays.
API cuStreamDestroy_v2(void* stream) { ENTER; drain(stream); return 0; }
API cuStreamSynchronize(void* stream) { ENTER; drain(stream); return 0; }
API cuStreamQuery(void* stream) {
    ENTER;
    if (of(stream).work.empty()) return 0;
    step(of(stream));  // who asks again and again gets there
    return of(stream).work.empty() ? 0 : 600;
}
API cuStreamWaitEvent(void* stream, void* at, unsigned) {
    ENTER;
    auto* event = static_cast<Event*>(at);
    unsigned long record = event->recorded;
    if (is_planned("wait")) return 0;
    return enqueue(stream, [=] { reach(event, record); });
}
API cuStreamIsCapturing(void*, int* status) { ENTER; *status = 0; return 0; }

API cuEventCreate(void** event, unsigned) { ENTER_CONTEXT; *event = new Event; return 0; }
// A record of it may still be on a stream, so it stays.
API cuEventDestroy_v2(void*) { return 0; }
API cuEventRecord(void* at, void* stream) {
    ENTER;
    auto* event = static_cast<Event*>(at);
    event->stream = &of(stream);
    unsigned long record = ++event->recorded;
    if (is_planned("record")) event->reached = record;
    return enqueue(stream, [=] { event->reached = record; });
}
API cuEventSynchronize(void* at) {
    ENTER;
    auto* event = static_cast<Event*>(at);
    reach(event, event->recorded);
    return 0;
}
API cuEventQuery(void* at) {
    ENTER;
    auto* event = static_cast<Event*>(at);
    if (event->reached < event->recorded && !event->stream->work.empty()) step(*event->stream);
    return event->reached < event->recorded ? 600 : 0;
}
// There is no time here; every span is a microsecond. With two plans each span is shorter than the one before, so that the last plan seems the fastest.
static int span(float* milliseconds) {
    static float now = 1.0f;
    *milliseconds = 1e-3f;
    if (has_two_plans()) *milliseconds = now *= 0.99f;
    return 0;
}
API cuEventElapsedTime_v2(float* milliseconds, void*, void*) { ENTER; return span(milliseconds); }
API cuEventElapsedTime(float* milliseconds, void*, void*) { ENTER; return span(milliseconds); }
