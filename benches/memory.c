/* Resident memory: of the library once loaded, of a first client with a call behind it, of a thousand.
 * Values are of 100 bytes, so that what is left behind is the client's own. */
#define _GNU_SOURCE
#include "fail.h"
#include "measure.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>

enum { CLIENTS = 1000 };

static double resident(void)
{
    FILE *file = fopen("/proc/self/smaps_rollup", "r");
    char line[256];
    long kilobytes = -1;
    while (file && kilobytes < 0 && fgets(line, sizeof line, file))
        if (sscanf(line, "Rss: %ld", &kilobytes) != 1)
            kilobytes = -1;
    if (file)
        fclose(file);
    return (double)kilobytes * 1024;
}

static void *open_one(const struct subject *it, const struct target *target)
{
    const char *why = "not over a Unix socket";
    /* A server that is behind with accepting refuses a non-blocking connect on its socket: again, for some seconds. */
    for (int tries = 0; tries < 500; tries++) {
        void *client = it->driver->open(target, &why);
        if (client != NULL)
            return client;
        nanosleep(&(struct timespec){0, 10 * 1000 * 1000}, NULL);
    }
    die("%s: %s", it->name, why);
}

static void call_one(const struct subject *it, void *client, const struct work *work)
{
    void *prepared = it->driver->prepare(&work->job, work->operation);
    if (it->driver->get(client, &work->job, prepared) != work->expected)
        die("%s: wrong answer", it->name);
    it->driver->discard(prepared);
}

void measure_memory(const char *name)
{
    struct rlimit limit;
    getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);

    struct cell cell = {"unix", "get", 100, 1, 1, "free"};
    struct work work = make_work(&cell);
    void **clients = calloc(CLIENTS, sizeof *clients);
    memset(clients, 0xff, CLIENTS * sizeof *clients);
    fill(NULL, NULL, &cell, &work);
    double start = resident();
    struct subject it = load(name);
    double loaded = resident();
    struct target target = target_of(&cell, it.options);
    clients[0] = open_one(&it, &target);
    call_one(&it, clients[0], &work);
    double first = resident();
    for (int i = 1; i < CLIENTS; i++)
        clients[i] = open_one(&it, &target);
    double opened = resident();
    for (int i = 1; i < CLIENTS; i++)
        call_one(&it, clients[i], &work);
    double all = resident();
    printf("memory\t%s\tloaded\t%.0f\n", name, loaded - start);
    printf("memory\t%s\tfirst\t%.0f\n", name, first - loaded);
    printf("memory\t%s\topened\t%.0f\n", name, (opened - first) / (CLIENTS - 1));
    printf("memory\t%s\tused\t%.0f\n", name, (all - first) / (CLIENTS - 1));
    printf("memory\t%s\tthousand\t%.0f\n", name, all - start);
    for (int i = 0; i < CLIENTS; i++)
        it.driver->close(clients[i]);
    free(clients);
    discard_work(&work);
}
