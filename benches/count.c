/* Makes calls for others to count: callgrind their instructions, a preloaded library their allocations. */
#define _GNU_SOURCE
#include "fail.h"
#include "measure.h"
#include "run.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>

void measure_count(long calls, const char *name, const struct cell *cell)
{
    struct subject it = load(name);
    const char *why = NULL;
    struct work work = make_work(cell);
    struct target target = target_of(cell, it.options);
    void *client = can(it.driver, work.operation) ? it.driver->open(&target, &why) : NULL;
    if (client == NULL && why == NULL)
        exit(EXIT_NO_SUCH_THING);
    if (client == NULL)
        die("%s: %s", name, why);
    fill(it.driver, client, cell, &work);
    atomic_bool never = false;
    void *attached = attach(it.driver, client, work.operation);
    if (attached == NULL)
        die("%s: cannot be attached to", name);
    struct run run = {
        .driver = it.driver,
        .client = attached,
        .work = &work,
        .prepared = it.driver->prepare(&work.job, work.operation),
        .left = work.operation == BENCH_PIPELINE ? 10 * cell->count : 10,
        .stop = &never,
        .stride = 10,
    };
    make_calls(&run);
    if (run.outcome != 0)
        die("%s %s: %s", name, cell->op, run.outcome == BENCH_UNSUPPORTED ? "not supported" : "wrong answer");

    atomic_long none = 0;
    atomic_long *allocations = dlsym(RTLD_DEFAULT, "bench_allocations");
    if (allocations == NULL)
        allocations = &none;
    long before = atomic_load(allocations);
    run.left = (uint64_t)calls;
    run.stride = (int)(work.operation == BENCH_PIPELINE ? calls / (long)cell->count : calls);
    make_calls(&run);
    if (run.outcome != 0)
        die("%s %s: wrong answer", name, cell->op);
    printf("%.3f\n", (double)(atomic_load(allocations) - before) / (double)(calls ? calls : 1));

    it.driver->discard(run.prepared);
    detach(it.driver, attached, work.operation);
    it.driver->close(client);
    discard_work(&work);
}
