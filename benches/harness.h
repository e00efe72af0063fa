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
    long expected; /* what a call must return; of several in flight together, each of them */
};

/* The one that is being driven: where the program ends while it is, the message says so, and the caller may go on without it. */
extern const char *under_way;

/* Each of these ends the program with a message when it cannot go on. */
struct contestant load(const char *name);
struct target target_of(const struct cell *cell, const char *options);
struct work make_work(const struct cell *cell);
void discard_work(struct work *work);
void die(const char *format, ...) __attribute__((format(printf, 1, 2), noreturn));

enum { EXIT_NO_SUCH_THING = 3 };

/* Writes the values that the work will read: a server's through the raw driver, a store's in the process through the client. */
void fill(const struct driver *driver, void *client, const struct cell *cell, const struct work *work);

/* Whether the driver has the operation. */
bool can(const struct driver *driver, enum operation operation);

/* run.c: has a client make `left` calls, or go on until `stop` is set, and returns how many were answered; of several in flight
 * each counts. `times` is NULL where nobody asks. What went wrong is in `outcome`: BENCH_FAILED or BENCH_UNSUPPORTED, else 0. */
struct run {
    const struct driver *driver;
    void *client;
    const struct work *work;
    void *prepared;
    uint64_t left;
    const atomic_bool *stop;
    int stride; /* calls between two looks at the clock */
    struct histogram *times;
    long outcome;
};
uint64_t carry_out(struct run *run);

/* Times fall into buckets of which every doubling has 32, so that one is within 3 % of what it stands for. */
enum { BUCKETS = 40 * 32 };

struct histogram {
    uint32_t counts[BUCKETS];
};

void add_time(struct histogram *times, uint64_t ns);

/* rates.c: how fast, how evenly, at what cost of processor time. */
void measure_rates(const struct contestant *contestants, int count, const struct cell *cell, int rounds, double seconds);

/* memory.c: what the library costs before it does anything, and for each client. */
void measure_memory(const char *name);

#endif
