/*
 * What the harness can measure; each is a file. Calls go one way:
 *
 *   harness.c   the command line
 *   rates.c, count.c, memory.c
 *   run.c       makes a client's calls
 *   cell.c      what is called, with which driver
 *   histogram.c, far.c, fail.c
 *
 * A file includes what stands below it, and driver.h, which is what the harness asks of a client library.
 */
#ifndef BENCH_MEASURE_H
#define BENCH_MEASURE_H

#include "cell.h"

/* How fast, how evenly, at what cost of processor time: a line for each round and driver, and one for the latencies. */
void measure_rates(const struct subject *subjects, int count, const struct cell *cell, int rounds, double seconds);

/* That many calls and nothing else, for callgrind and the allocation counter; prints the allocations of a call. */
void measure_count(long calls, const char *name, const struct cell *cell);

/* What the library costs before it does anything, and for each client. */
void measure_memory(const char *name);

enum { EXIT_NO_SUCH_THING = 3 };

#endif
