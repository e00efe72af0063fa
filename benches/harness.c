/*
 * Drives client libraries side by side in one process.
 *
 *   harness rates ROUNDS SECONDS DRIVER... <CELLS    calls per second, latency, processor time
 *   harness count CALLS DRIVER CELL                  that many calls and nothing else, for callgrind and the allocation counter
 *   harness memory DRIVER                            resident memory
 *   harness version DRIVER
 *
 * A cell is "TRANSPORT OP SIZE COUNT THREADS PLACE". Results go to stdout, a line each, with tabs between fields. Where the
 * server and the drivers are, the environment says: BENCH_UNIX, BENCH_TCP, BENCH_TLS, BENCH_CA, BENCH_SERVER_PID,
 * BENCH_DRIVERS. Where it ends because of one of the drivers, its last message is "harness: failed with DRIVER"; it ends with 3
 * where a driver has no such operation or transport.
 */
#define _GNU_SOURCE
#include "harness.h"

#include <dlfcn.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

const char *under_way;

/* For a signal handler too. */
static void name_who_was_under_way(void)
{
    char text[128] = "harness: failed with ";
    if (under_way == NULL)
        return;
    strncat(text, under_way, sizeof text - strlen(text) - 2);
    strcat(text, "\n");
    if (write(STDERR_FILENO, text, strlen(text)) < 0)
        return;
}

static void stop_at_once(int signal)
{
    name_who_was_under_way();
    _exit(128 + signal);
}

/* A library that crashes or hangs ends the run, and is named. */
static void expect_the_worst(void)
{
    static const int signals[] = {SIGALRM, SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGABRT};
    for (size_t i = 0; i < sizeof signals / sizeof *signals; i++)
        signal(signals[i], stop_at_once);
}

void die(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    fputs("harness: ", stderr);
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
    va_end(arguments);
    name_who_was_under_way();
    _exit(1);
}

static const char *setting(const char *name)
{
    const char *value = getenv(name);
    if (value == NULL)
        die("%s is not set", name);
    return value;
}

struct contestant load(const char *name)
{
    under_way = name;
    struct contestant it = {.name = name, .options = ""};
    const char *mark = strchr(name, '?');
    size_t len = mark ? (size_t)(mark - name) : strlen(name);
    char path[1024];
    if (mark)
        it.options = mark + 1;
    snprintf(path, sizeof path, "%s/%.*s.so", setting("BENCH_DRIVERS"), (int)len, name);
    void *object = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (object == NULL)
        die("%s", dlerror());
    it.driver = dlsym(object, "bench_driver");
    if (it.driver == NULL)
        die("%s", dlerror());
    return it;
}

struct target target_of(const struct cell *cell, const char *options)
{
    struct target target = {.options = options};
    if (strcmp(cell->transport, "unix") == 0) {
        target.transport = BENCH_UNIX;
        target.unix_path = setting("BENCH_UNIX");
    } else if (strcmp(cell->transport, "tcp") == 0) {
        target.transport = BENCH_TCP;
        target.port = atoi(setting("BENCH_TCP"));
    } else if (strcmp(cell->transport, "tls") == 0) {
        target.transport = BENCH_TLS;
        target.port = atoi(setting("BENCH_TLS"));
        target.ca_file = setting("BENCH_CA");
    } else if (strcmp(cell->transport, "memory") == 0) {
        target.transport = BENCH_MEMORY;
    } else {
        die("unknown transport %s", cell->transport);
    }
    return target;
}

struct work make_work(const struct cell *cell)
{
    struct work work = {.job = {.count = cell->count, .present = true}};
    const char *op = cell->op;
    struct bytes *keys = malloc(cell->count * sizeof *keys);
    struct bytes *values = malloc(cell->count * sizeof *values);
    char *value = malloc(cell->size + 1);
    long all = (long)(cell->count * cell->size);
    if (strcmp(op, "get") == 0) {
        work.operation = BENCH_GET;
        work.expected = all;
    } else if (strcmp(op, "miss") == 0) {
        work.operation = BENCH_GET;
        work.expected = BENCH_MISS;
        work.job.present = false;
    } else if (strcmp(op, "set") == 0) {
        work.operation = BENCH_SET;
    } else if (strcmp(op, "ttl") == 0) {
        work.operation = BENCH_SET;
        work.job.ttl_ms = 3600 * 1000;
    } else if (strcmp(op, "mget") == 0) {
        work.operation = BENCH_MGET;
        work.expected = all;
    } else if (strcmp(op, "mset") == 0) {
        work.operation = BENCH_MSET;
    } else if (strcmp(op, "pipeline") == 0) {
        work.operation = BENCH_PIPELINE;
        work.expected = (long)cell->size;
    } else {
        die("unknown operation %s", op);
    }
    memset(value, 'v', cell->size + 1);
    for (size_t i = 0; i < cell->count; i++) {
        char *key = NULL;
        int len = asprintf(&key, "%s:%07zu:%07zu", work.job.present ? "bench" : "never", cell->size, i);
        keys[i] = (struct bytes){key, (size_t)len};
        values[i] = (struct bytes){value, cell->size};
    }
    work.job.keys = keys;
    work.job.values = values;
    return work;
}

void discard_work(struct work *work)
{
    free((void *)(uintptr_t)work->job.values[0].data);
    for (size_t i = 0; i < work->job.count; i++)
        free((void *)(uintptr_t)work->job.keys[i].data);
    free((void *)(uintptr_t)work->job.keys);
    free((void *)(uintptr_t)work->job.values);
}

static void write_values(const struct driver *driver, void *client, const struct work *work)
{
    void *prepared = driver->prepare(&work->job, BENCH_MSET);
    if (client == NULL || driver->mset(client, &work->job, prepared) != 0)
        die("the values cannot be written");
    driver->discard(prepared);
}

void fill(const struct driver *driver, void *client, const struct cell *cell, const struct work *work)
{
    if (work->expected < 0)
        return;
    if (strcmp(cell->transport, "memory") == 0) {
        write_values(driver, client, work);
        return;
    }
    const char *name = under_way;
    const char *why = "";
    struct cell over_unix = {.transport = "unix"};
    struct target target = target_of(&over_unix, "");
    struct contestant raw = load("raw");
    void *writer = raw.driver->open(&target, &why);
    write_values(raw.driver, writer, work);
    raw.driver->close(writer);
    under_way = name;
}

static bool parse_cell(const char *text, struct cell *cell)
{
    return sscanf(text, "%7s %11s %zu %zu %d %7s", cell->transport, cell->op, &cell->size, &cell->count, &cell->threads,
                  cell->place) == 6;
}

static void measure_count(long calls, const char *name, const char *text)
{
    struct contestant it = load(name);
    struct cell cell;
    const char *why = NULL;
    if (!parse_cell(text, &cell))
        die("not a cell: %s", text);
    struct work work = make_work(&cell);
    struct target target = target_of(&cell, it.options);
    void *client = can(it.driver, work.operation) ? it.driver->open(&target, &why) : NULL;
    if (client == NULL && why == NULL)
        exit(EXIT_NO_SUCH_THING);
    if (client == NULL)
        die("%s: %s", name, why);
    fill(it.driver, client, &cell, &work);
    atomic_bool never = false;
    struct run run = {
        .driver = it.driver,
        .client = client,
        .work = &work,
        .prepared = it.driver->prepare(&work.job, work.operation),
        .left = work.operation == BENCH_PIPELINE ? 10 * cell.count : 10,
        .stop = &never,
        .stride = 10,
    };
    carry_out(&run);
    if (run.outcome != 0)
        die("%s %s: %s", name, text, run.outcome == BENCH_UNSUPPORTED ? "not supported" : "wrong answer");

    atomic_long none = 0;
    atomic_long *allocations = dlsym(RTLD_DEFAULT, "bench_allocations");
    if (allocations == NULL)
        allocations = &none;
    long before = atomic_load(allocations);
    run.left = (uint64_t)calls;
    run.stride = (int)(work.operation == BENCH_PIPELINE ? calls / (long)cell.count : calls);
    carry_out(&run);
    if (run.outcome != 0)
        die("%s %s: wrong answer", name, text);
    printf("%.3f\n", (double)(atomic_load(allocations) - before) / (double)(calls ? calls : 1));

    it.driver->discard(run.prepared);
    it.driver->close(client);
    discard_work(&work);
}

int main(int argc, char **argv)
{
    signal(SIGPIPE, SIG_IGN);
    setvbuf(stdout, NULL, _IOLBF, 0);
    expect_the_worst();
    if (argc == 5 && strcmp(argv[1], "count") == 0) {
        measure_count(atol(argv[2]), argv[3], argv[4]);
    } else if (argc == 3 && strcmp(argv[1], "memory") == 0) {
        measure_memory(argv[2]);
    } else if (argc == 3 && strcmp(argv[1], "version") == 0) {
        puts(load(argv[2]).driver->version);
    } else if (argc > 4 && argc - 4 <= MOST_DRIVERS && strcmp(argv[1], "rates") == 0) {
        struct contestant contestants[MOST_DRIVERS];
        char line[128];
        for (int i = 4; i < argc; i++)
            contestants[i - 4] = load(argv[i]);
        while (fgets(line, sizeof line, stdin)) {
            struct cell cell;
            if (!parse_cell(line, &cell))
                die("not a cell: %s", line);
            alarm(10 + (unsigned)(2 * (argc - 4) * (atof(argv[2]) + 1) * atof(argv[3])));
            measure_rates(contestants, argc - 4, &cell, atoi(argv[2]), atof(argv[3]));
        }
    } else {
        die("usage: see the top of harness.c");
    }
    return 0;
}
