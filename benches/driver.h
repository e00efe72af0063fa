/*
 * What the harness asks of a client library. Each library has one C file beside this one, which becomes a shared object that
 * exports a `struct driver` by the name of bench_driver. The harness loads them side by side, each with the symbols of its
 * own library, and drives them alike.
 */
#ifndef BENCH_DRIVER_H
#define BENCH_DRIVER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* What a call returns: the bytes of the values received (0 for a write), or one of these. */
#define BENCH_MISS (-1L)
#define BENCH_FAILED (-2L)

struct bytes {
    const char *data;
    size_t len;
};

/* What one call works on. The harness keeps it unchanged, at its place, for as long as calls are made with it. */
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

struct driver {
    const char *version;
    bool shared; /* one client serves every thread; otherwise each thread has its own */

    /* Makes a client, connected if that is the library's way; NULL where it cannot (`why` says it). */
    void *(*open)(const struct target *target, const char **why);
    void (*close)(void *client);

    /* The library's own form of a batch of keys or items, such as an array of pointers, made once and not on every call, as
     * a program that holds its data in that form would. */
    void *(*prepare)(const struct job *job, enum operation operation);
    void (*discard)(void *prepared);

    bench_call *get;
    bench_call *set;
    bench_call *mget;
    bench_call *mset;
    bench_call *pipeline; /* `count` GETs in flight together; NULL where the library has no such thing */
};

extern const struct driver bench_driver;

#endif
