/* What is measured: the cells of the grid, the drivers, and the work that a cell stands for. What cannot be done ends
 * the program with a message. */
#ifndef BENCH_CELL_H
#define BENCH_CELL_H

#include "driver.h"

/* A driver with the options that its clients are opened with: "cachetory", or "cachetory?spin_us=0". */
struct subject {
    const char *name;
    const char *options;
    const struct driver *driver;
};

/* One point of the grid. Its fields are written in the results as they are here. */
struct cell {
    char transport[8]; /* unix, tcp, tls, far (TCP through the delaying proxy), memory */
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

struct cell parse_cell(const char *text);
struct subject load(const char *name);
struct target target_of(const struct cell *cell, const char *options);
struct work make_work(const struct cell *cell);
void discard_work(struct work *work);

/* Writes the values that the work will read: a server's through the raw driver, a store's in the process through the
 * client. */
void fill(const struct driver *driver, void *client, const struct cell *cell, const struct work *work);

#endif
