/*
 * What the harness asks of a client library. Each library has one C file beside this one, which becomes a shared object
 * that exports a `struct driver` by the name of bench_driver. The harness loads them side by side, each with the
 * symbols of its own library, and drives them alike.
 */
#ifndef BENCH_DRIVER_H
#define BENCH_DRIVER_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <time.h>

/* What a call returns: the bytes of the values received (0 for a write), or one of these. */
#define BENCH_MISS (-1L)
#define BENCH_FAILED (-2L)
#define BENCH_UNSUPPORTED (-3L) /* the library says that it has no such thing for this target */

struct bytes {
    const char *data;
    size_t len;
};

/* What one call works on. The harness keeps it unchanged, where it is, for as long as calls are made with it. */
struct job {
    size_t count; /* of keys, and of values */
    const struct bytes *keys;
    const struct bytes *values;
    int64_t ttl_ms; /* 0: none */
    bool present;   /* whether the keys are there: the raw driver has to know its reply's length */
};

enum transport { BENCH_UNIX, BENCH_TCP, BENCH_TLS, BENCH_MEMORY };

struct target {
    enum transport transport;
    const char *unix_path;
    int port; /* on 127.0.0.1, of this transport */
    const char *ca_file;
    const char *options; /* of this library's URL; "" for none */
};

enum operation { BENCH_GET, BENCH_SET, BENCH_MGET, BENCH_MSET, BENCH_PIPELINE };

/* `prepared` is what `prepare` made of the job for this operation. */
typedef long bench_call(void *client, const struct job *job, void *prepared);

/* GETs kept in flight together by one thread, each at a slot of its own with that slot's key. As one is answered, the
 * next is started at its slot. The harness alone touches what is in here. */
struct in_flight {
    uint64_t left; /* to be started */
    uint64_t answered;
    long expected; /* of each */
    bool wrong;
    const atomic_bool *stop;
    /* When the GETs of some slots were started: NULL where nobody asks. */
    uint64_t *started_at;
    void (*timed)(struct in_flight *in_flight, uint64_t ns);
};

/* One slot of so many is timed: the clock takes a tenth of the time of such a GET. */
enum { TIMED_ONE_OF = 16 };

struct driver {
    const char *version;
    bool shared; /* one client serves every thread; otherwise each thread has its own */

    /* Makes a client, connected if that is the library's way; NULL where it cannot: `why` says it, or stays
     * NULL where the library, as it is built here, has nothing for such a target. */
    void *(*open)(const struct target *target, const char **why);
    void (*close)(void *client);

    /* The library's own form of a batch of keys or items, such as an array of pointers, made once and not on every
     * call, as a program that holds its data in that form would. */
    void *(*prepare)(const struct job *job, enum operation operation);
    void (*discard)(void *prepared);

    bench_call *get;
    bench_call *set;
    bench_call *mget;
    bench_call *mset;

    /* `count` GETs in flight together, where the library has it. `keep_in_flight` goes by in_flight_start and
     * in_flight_end and returns 0 when nothing is in flight any more, or one of the values above; `pipeline` sends all,
     * then takes all answers. Where each thread needs something of its own for that from a client that it shares, such
     * as a queue, `attach` makes it, and `keep_in_flight` gets that instead of the client. */
    bench_call *pipeline;
    void *(*attach)(void *client);
    void (*detach)(void *attached);
    long (*keep_in_flight)(void *client, const struct job *job, struct in_flight *in_flight);
};

extern const struct driver bench_driver;

#define BENCH_TEXT_OF(number) #number
#define BENCH_VERSION(major, minor, patch) BENCH_TEXT_OF(major) "." BENCH_TEXT_OF(minor) "." BENCH_TEXT_OF(patch)

static inline uint64_t bench_now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (uint64_t)time.tv_sec * 1000000000 + (uint64_t)time.tv_nsec;
}

/* Whether the GET of this slot is to be started (again). */
static inline bool in_flight_start(struct in_flight *in_flight, size_t slot)
{
    if (in_flight->left == 0 || in_flight->wrong || atomic_load_explicit(in_flight->stop, memory_order_relaxed))
        return false;
    in_flight->left--;
    if (in_flight->started_at && slot % TIMED_ONE_OF == 0)
        in_flight->started_at[slot / TIMED_ONE_OF] = bench_now();
    return true;
}

/* The GET of this slot is answered and its value freed. `received` is as from a call. */
static inline void in_flight_end(struct in_flight *in_flight, size_t slot, long received)
{
    in_flight->answered++;
    if (received != in_flight->expected)
        in_flight->wrong = true;
    if (in_flight->started_at && slot % TIMED_ONE_OF == 0)
        in_flight->timed(in_flight, bench_now() - in_flight->started_at[slot / TIMED_ONE_OF]);
}

#endif
