/* Times, by how often they were seen. */
#ifndef BENCH_HISTOGRAM_H
#define BENCH_HISTOGRAM_H

#include <stdint.h>

/* Every doubling has 32 buckets, so that a time is within 3 % of what its bucket stands for. */
enum { BUCKETS = 40 * 32 };

struct histogram {
    uint32_t counts[BUCKETS];
};

void add_time(struct histogram *times, uint64_t ns);
void add_all(struct histogram *times, const struct histogram *more);

/* The time that this share of all does not exceed; 0 where there are none. */
uint64_t percentile(const struct histogram *times, double share);

#endif
