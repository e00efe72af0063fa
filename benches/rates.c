/*
 * Throughput, latency and processor time. The contestants take turns, round after round, each for a fraction of a second: what
 * else the machine does then hits all of them alike, and each round gives one comparison.
 */
#define _GNU_SOURCE
#include "harness.h"

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* Times fall into buckets of which every doubling has 32, so that one is within 3 % of what it stands for. */
enum { BUCKETS = 40 * 32 };

struct histogram {
    uint32_t counts[BUCKETS];
};

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

static uint64_t percentile(const struct histogram *all, double share)
{
    uint64_t total = 0;
    uint64_t seen = 0;
    for (int i = 0; i < BUCKETS; i++)
        total += all->counts[i];
    for (int i = 0; i < BUCKETS; i++) {
        seen += all->counts[i];
        if (seen > 0 && (double)seen >= share * (double)total)
            return bucket_start(i);
    }
    return 0;
}

struct worker {
    pthread_t thread;
    const struct work *work;
    bench_call *call;
    void *client;
    void *prepared;
    int stride; /* calls between two looks at the clock */
    pthread_barrier_t *start;
    atomic_bool *stop;
    bool failed;
    uint64_t calls;
    uint64_t began;
    uint64_t ended;
    struct histogram *times;
};

static uint64_t now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (uint64_t)time.tv_sec * 1000000000 + (uint64_t)time.tv_nsec;
}

static void *run(void *opaque)
{
    struct worker *it = opaque;
    const struct job *job = &it->work->job;
    pthread_barrier_wait(it->start);
    uint64_t last = it->began = now();
    while (!atomic_load_explicit(it->stop, memory_order_relaxed)) {
        for (int i = 0; i < it->stride; i++) {
            if (it->call(it->client, job, it->prepared) != it->work->expected) {
                it->failed = true;
                return NULL;
            }
        }
        uint64_t time = now();
        it->times->counts[bucket_of((time - last) / (uint64_t)it->stride)]++;
        it->calls += (uint64_t)it->stride;
        last = time;
    }
    it->ended = last;
    return NULL;
}

static double processor_seconds(void)
{
    struct rusage used;
    getrusage(RUSAGE_SELF, &used);
    return (double)(used.ru_utime.tv_sec + used.ru_stime.tv_sec) +
           (double)(used.ru_utime.tv_usec + used.ru_stime.tv_usec) / 1e6;
}

/* A contestant in a cell: its clients stay connected from round to round. */
struct entry {
    const struct contestant *contestant;
    void **clients;
    int client_count;
    void *prepared;
    struct histogram times;
};

/* One turn. `microseconds` is the processor time of a call. False where an answer was wrong. */
static bool turn(struct entry *entry, const struct work *work, const struct cell *cell, double seconds, double *rate,
                 double *microseconds)
{
    struct worker *workers = calloc((size_t)cell->threads, sizeof *workers);
    struct histogram *times = calloc((size_t)cell->threads, sizeof *times);
    pthread_barrier_t start;
    atomic_bool stop = false;
    pthread_barrier_init(&start, NULL, (unsigned)cell->threads + 1);
    for (int i = 0; i < cell->threads; i++) {
        workers[i] = (struct worker){
            .work = work,
            .call = call_of(entry->contestant->driver, work->operation),
            .client = entry->clients[i % entry->client_count],
            .prepared = entry->prepared,
            .stride = strcmp(cell->transport, "memory") == 0 ? 64 : 1,
            .start = &start,
            .stop = &stop,
            .times = &times[i],
        };
        if (pthread_create(&workers[i].thread, NULL, run, &workers[i]) != 0)
            die("no thread to be had");
    }
    double before = processor_seconds();
    pthread_barrier_wait(&start);
    struct timespec pause = {(time_t)seconds, (long)((seconds - (double)(time_t)seconds) * 1e9)};
    nanosleep(&pause, NULL);
    atomic_store(&stop, true);

    uint64_t calls = 0;
    uint64_t first = UINT64_MAX;
    uint64_t last = 0;
    bool right = true;
    for (int i = 0; i < cell->threads; i++) {
        pthread_join(workers[i].thread, NULL);
        calls += workers[i].calls;
        first = workers[i].began < first ? workers[i].began : first;
        last = workers[i].ended > last ? workers[i].ended : last;
        right = right && !workers[i].failed;
        for (int b = 0; b < BUCKETS; b++)
            entry->times.counts[b] += times[i].counts[b];
    }
    *rate = (double)calls * 1e9 / (double)(last - first);
    *microseconds = (processor_seconds() - before) * 1e6 / (double)(calls ? calls : 1);
    pthread_barrier_destroy(&start);
    free(workers);
    free(times);
    return right;
}

static void pin(pid_t pid, int processor)
{
    cpu_set_t set;
    CPU_ZERO(&set);
    if (processor >= 0)
        CPU_SET(processor, &set);
    else
        memset(&set, 0xff, sizeof set);
    sched_setaffinity(pid, sizeof set, &set);
}

/* "one": client and server share a processor; "apart": each has its own; otherwise as the system sees fit. */
static void place(const struct cell *cell)
{
    const char *server = getenv("BENCH_SERVER_PID");
    bool one = strcmp(cell->place, "one") == 0;
    bool apart = strcmp(cell->place, "apart") == 0;
    pin(0, one ? 0 : apart ? 1 : -1);
    if (server)
        pin(atoi(server), one || apart ? 0 : -1);
}

/* "busy": twice as many processes that compute as there are processors. */
static void burn(pid_t *burners, int count)
{
    for (int i = 0; i < count; i++) {
        burners[i] = fork();
        if (burners[i] == 0) {
            prctl(PR_SET_PDEATHSIG, SIGKILL);
            for (volatile unsigned spins = 0;; spins++)
                ;
        }
    }
}

static bool enter(struct entry *entry, const struct cell *cell, const struct work *work)
{
    const struct contestant *contestant = entry->contestant;
    const struct driver *driver = contestant->driver;
    struct target target = target_of(cell, contestant->options);
    const char *why = "no such operation";
    entry->client_count = driver->shared ? 1 : cell->threads;
    entry->clients = calloc((size_t)entry->client_count, sizeof *entry->clients);
    for (int i = 0; i < entry->client_count && call_of(driver, work->operation); i++) {
        entry->clients[i] = driver->open(&target, &why);
        if (entry->clients[i] == NULL && i > 0)
            die("%s: %s", contestant->name, why);
        if (entry->clients[i] == NULL)
            break;
    }
    if (entry->clients[0] == NULL) {
        free(entry->clients);
        return false;
    }
    fill(driver, entry->clients[0], work);
    entry->prepared = driver->prepare(&work->job, work->operation);
    return true;
}

static void leave(struct entry *entry)
{
    const struct driver *driver = entry->contestant->driver;
    driver->discard(entry->prepared);
    for (int i = 0; i < entry->client_count; i++)
        driver->close(entry->clients[i]);
    free(entry->clients);
}

static void print_cell(const char *kind, const char *name, const struct cell *cell)
{
    printf("%s\t%s\t%s\t%s\t%zu\t%zu\t%d\t%s", kind, name, cell->transport, cell->op, cell->size, cell->count,
           cell->threads, cell->place);
}

void measure_rates(const struct contestant *contestants, int count, const struct cell *cell, int rounds, double seconds)
{
    struct work work = make_work(cell);
    struct entry *entries = calloc((size_t)count, sizeof *entries);
    pid_t burners[64];
    int burning = 0;
    int entered = 0;
    double rate;
    double microseconds;

    place(cell);
    if (strcmp(cell->place, "busy") == 0) {
        burning = (int)(2 * sysconf(_SC_NPROCESSORS_ONLN));
        burning = burning > 64 ? 64 : burning;
        burn(burners, burning);
    }
    for (int i = 0; i < count; i++) {
        entries[entered].contestant = &contestants[i];
        if (enter(&entries[entered], cell, &work))
            entered++;
    }
    /* A turn that does not count, for caches, buffers and whatever adapts. */
    for (int i = 0; i < entered; i++) {
        turn(&entries[i], &work, cell, seconds / 2, &rate, &microseconds);
        memset(&entries[i].times, 0, sizeof entries[i].times);
    }
    for (int round = 0; round < rounds; round++) {
        for (int i = 0; i < entered; i++) {
            struct entry *entry = &entries[(i + round) % entered];
            if (!turn(entry, &work, cell, seconds, &rate, &microseconds))
                die("%s: wrong answer in %s %s of %zu x %zu bytes", entry->contestant->name, cell->transport, cell->op,
                    cell->count, cell->size);
            print_cell("rate", entry->contestant->name, cell);
            printf("\t%d\t%.1f\t%.3f\n", round, rate, microseconds);
        }
    }
    for (int i = 0; i < entered; i++) {
        print_cell("latency", entries[i].contestant->name, cell);
        printf("\t%llu\t%llu\t%llu\n", (unsigned long long)percentile(&entries[i].times, 0.5),
               (unsigned long long)percentile(&entries[i].times, 0.99),
               (unsigned long long)percentile(&entries[i].times, 0.999));
        leave(&entries[i]);
    }
    for (int i = 0; i < burning; i++) {
        kill(burners[i], SIGKILL);
        waitpid(burners[i], NULL, 0);
    }
    discard_work(&work);
    free(entries);
}
