/* The redis crate's multiplexed connection on tokio, through redis-shim. */
#include "driver.h"

#include <stdio.h>

typedef bool start_flight(void *flight, size_t place);
typedef void end_flight(void *flight, size_t place, long received);

void *shim_multiplexed_open(const char *url);
void shim_multiplexed_close(void *client);
void shim_multiplexed_fly(void *client, const struct bytes *keys, size_t count, void *flight, start_flight *start,
                          end_flight *end);

static void *open_client(const struct target *target, const char **why)
{
    char url[512];
    if (target->transport > BENCH_TCP)
        return NULL;
    if (target->transport == BENCH_UNIX)
        snprintf(url, sizeof url, "redis+unix://%s", target->unix_path);
    else
        snprintf(url, sizeof url, "redis://127.0.0.1:%d", target->port);
    *why = "cannot connect";
    return shim_multiplexed_open(url);
}

static void *prepare(const struct job *job, enum operation operation)
{
    (void)job, (void)operation;
    return NULL;
}

static void discard(void *prepared)
{
    (void)prepared;
}

static bool start(void *flight, size_t place)
{
    return flight_start(flight, place);
}

static void end(void *flight, size_t place, long received)
{
    flight_end(flight, place, received);
}

static long fly(void *client, const struct job *job, struct flight *flight)
{
    shim_multiplexed_fly(client, job->keys, job->count, flight, start, end);
    return 0;
}

const struct driver bench_driver = {
    .version = "redis crate " BENCH_REDIS_CRATE_VERSION ", tokio",
    .open = open_client,
    .close = shim_multiplexed_close,
    .prepare = prepare,
    .discard = discard,
    .fly = fly,
};
