#include "histogram.h"

static int bucket_of(uint64_t ns)
{
    if (ns < 32)
        return (int)ns;
    int exponent = 63 - __builtin_clzll(ns);
    int index = (exponent - 4) * 32 + (int)((ns >> (exponent - 5)) & 31);
    return index < BUCKETS ? index : BUCKETS - 1;
}

static uint64_t bucket_start(int index)
{
    if (index < 32)
        return (uint64_t)index;
    return (uint64_t)(32 + index % 32) << (index / 32 - 1);
}

void add_time(struct histogram *times, uint64_t ns)
{
    times->counts[bucket_of(ns)]++;
}

void add_all(struct histogram *times, const struct histogram *more)
{
    for (int i = 0; i < BUCKETS; i++)
        times->counts[i] += more->counts[i];
}

uint64_t percentile(const struct histogram *times, double share)
{
    uint64_t total = 0;
    uint64_t seen = 0;
    for (int i = 0; i < BUCKETS; i++)
        total += times->counts[i];
    for (int i = 0; i < BUCKETS; i++) {
        seen += times->counts[i];
        if (seen > 0 && (double)seen >= share * (double)total)
            return bucket_start(i);
    }
    return 0;
}
