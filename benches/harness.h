/* The parts of the harness: what is measured, and the cells of the grid. */
#ifndef BENCH_HARNESS_H
#define BENCH_HARNESS_H

#include "driver.h"

enum { MOST_DRIVERS = 16 };

/* A driver with the options that its clients are opened with: "cachetory", or "cachetory?spin_us=0". */
struct contestant {
    const char *name;
    const char *options;
    const struct driver *driver;
};

/* One point of the grid. Its fields are written in the results as they are here. */
struct cell {
    char transport[8];
    char op[12]; /* get, miss, set, ttl, mget, mset, pipeline */
    size_t size; /* of a value */
    size_t count;
    int threads;
    char place[8]; /* one, apart, free, busy: which processors client and server have */
};

struct work {
    enum operation operation;
    struct job job;
    long expected; /* what a call must return */
};

/* Each of these ends the program with a message when it cannot go on. */
struct contestant load(const char *name);
struct target target_of(const struct cell *cell, const char *options);
struct work make_work(const struct cell *cell);
void discard_work(struct work *work);
bench_call *call_of(const struct driver *driver, enum operation operation);
void die(const char *format, ...) __attribute__((format(printf, 1, 2), noreturn));

/* Writes the values that the work will read. */
void fill(const struct driver *driver, void *client, const struct work *work);

/* rates.c: how fast, how evenly, at what cost of processor time. */
void measure_rates(const struct contestant *contestants, int count, const struct cell *cell, int rounds, double seconds);

/* memory.c: what the library costs before it does anything, and for each client. */
void measure_memory(const char *name);

#endif
