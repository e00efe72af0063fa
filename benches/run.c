/* Has a client make its calls: one after the other, in batches, or several kept in flight. */
#include "harness.h"

#include <stdlib.h>

void add_time(struct histogram *times, uint64_t ns)
{
    int index = (int)ns;
    if (ns >= 32) {
        int exponent = 63 - __builtin_clzll(ns);
        index = (exponent - 4) * 32 + (int)((ns >> (exponent - 5)) & 31);
    }
    times->counts[index < BUCKETS ? index : BUCKETS - 1]++;
}

static bool flies(const struct driver *driver, enum operation operation)
{
    return operation == BENCH_PIPELINE && driver->fly != NULL;
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
    return flies(driver, operation) || call_of(driver, operation) != NULL;
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

struct watched {
    struct flight flight; /* the first, so that a pointer to it is one to all of it */
    struct histogram *times;
};

static void timed(struct flight *flight, uint64_t ns)
{
    add_time(((struct watched *)flight)->times, ns);
}

static uint64_t fly(struct run *run)
{
    const struct job *job = &run->work->job;
    struct watched watched = {
        .flight = {.left = run->left, .expected = run->work->expected, .stop = run->stop, .timed = timed},
        .times = run->times,
    };
    if (run->times)
        watched.flight.began = calloc(job->count / FLIGHT_TIMED + 1, sizeof *watched.flight.began);
    run->outcome = run->driver->fly(run->client, job, &watched.flight);
    if (run->outcome == 0 && watched.flight.wrong)
        run->outcome = BENCH_FAILED;
    free(watched.flight.began);
    return watched.flight.answered;
}

uint64_t carry_out(struct run *run)
{
    return flies(run->driver, run->work->operation) ? fly(run) : call(run);
}
