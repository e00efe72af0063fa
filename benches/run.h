/* Has a client make its calls: one after the other, in batches, or several kept in flight. */
#ifndef BENCH_RUN_H
#define BENCH_RUN_H

#include "cell.h"
#include "histogram.h"

struct run {
    const struct driver *driver;
    void *client; /* or what it was attached with */
    const struct work *work;
    void *prepared;
    uint64_t left; /* calls, of several in flight each; it goes down */
    const atomic_bool *stop;
    int stride;              /* calls between two looks at the clock */
    struct histogram *times; /* NULL where nobody asks */
    long outcome;            /* what went wrong: BENCH_FAILED or BENCH_UNSUPPORTED, else 0 */
};

/* Whether the driver has the operation. */
bool can(const struct driver *driver, enum operation operation);

/* What the calls of a thread are made with: the client, or what the driver attaches to it. NULL where that fails. */
void *attach(const struct driver *driver, void *client, enum operation operation);
void detach(const struct driver *driver, void *attached, enum operation operation);

/* Makes the calls that are left, or goes on until `stop` is set; returns how many were answered. */
uint64_t make_calls(struct run *run);

#endif
