#include "run.h"

#include <stdlib.h>

static bool keeps_in_flight(const struct driver *driver, enum operation operation)
{
    return operation == BENCH_PIPELINE && driver->keep_in_flight != NULL;
}

static bench_call *call_of(const struct driver *driver, enum operation operation)
{
    switch (operation) {
    case BENCH_GET:
        return driver->get;
    case BENCH_SET:
        return driver->set;
    case BENCH_MGET:
        return driver->mget;
    case BENCH_MSET:
        return driver->mset;
    case BENCH_PIPELINE:
        return driver->pipeline;
    }
    return NULL;
}

bool can(const struct driver *driver, enum operation operation)
{
    return keeps_in_flight(driver, operation) || call_of(driver, operation) != NULL;
}

void *attach(const struct driver *driver, void *client, enum operation operation)
{
    return keeps_in_flight(driver, operation) && driver->attach ? driver->attach(client) : client;
}

void detach(const struct driver *driver, void *attached, enum operation operation)
{
    if (keeps_in_flight(driver, operation) && driver->attach)
        driver->detach(attached);
}

/* The time of a batch is that of each GET in it, for its answers are there when all are. */
static uint64_t call(struct run *run)
{
    const struct work *work = run->work;
    bench_call *make = call_of(run->driver, work->operation);
    uint64_t each = work->operation == BENCH_PIPELINE ? work->job.count : 1;
    long expected = work->operation == BENCH_PIPELINE ? work->expected * (long)work->job.count : work->expected;
    uint64_t answered = 0;
    uint64_t last = run->times ? bench_now() : 0;
    while (run->left > 0 && !atomic_load_explicit(run->stop, memory_order_relaxed)) {
        for (int i = 0; i < run->stride; i++) {
            if (make(run->client, &work->job, run->prepared) != expected) {
                run->outcome = BENCH_FAILED;
                return answered;
            }
        }
        uint64_t made = each * (uint64_t)run->stride;
        answered += made;
        run->left = run->left > made ? run->left - made : 0;
        if (run->times) {
            uint64_t time = bench_now();
            add_time(run->times, (time - last) / (uint64_t)run->stride);
            last = time;
        }
    }
    return answered;
}

struct timed_in_flight {
    struct in_flight in_flight; /* the first, so that a pointer to it is one to all of it */
    struct histogram *times;
};

static void timed(struct in_flight *in_flight, uint64_t ns)
{
    add_time(((struct timed_in_flight *)in_flight)->times, ns);
}

static uint64_t keep_in_flight(struct run *run)
{
    const struct job *job = &run->work->job;
    struct timed_in_flight it = {
        .in_flight = {.left = run->left, .expected = run->work->expected, .stop = run->stop, .timed = timed},
        .times = run->times,
    };
    if (run->times)
        it.in_flight.started_at = calloc(job->count / TIMED_ONE_OF + 1, sizeof *it.in_flight.started_at);
    run->outcome = run->driver->keep_in_flight(run->client, job, &it.in_flight);
    if (run->outcome == 0 && it.in_flight.wrong)
        run->outcome = BENCH_FAILED;
    free(it.in_flight.started_at);
    return it.in_flight.answered;
}

uint64_t make_calls(struct run *run)
{
    return keeps_in_flight(run->driver, run->work->operation) ? keep_in_flight(run) : call(run);
}
