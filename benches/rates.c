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
    struct run run;
    pthread_barrier_t *start;
    uint64_t calls;
    uint64_t began;
    uint64_t ended;
};

static void *work_on(void *opaque)
{
    struct worker *it = opaque;
    pthread_barrier_wait(it->start);
    it->began = bench_now();
    it->calls = carry_out(&it->run);
    it->ended = bench_now();
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
    bool out; /* something went wrong */
};

static struct run run_of(const struct entry *entry, int i, const struct cell *cell, const struct work *work)
{
    return (struct run){
        .driver = entry->contestant->driver,
        .client = entry->clients[i % entry->client_count],
        .work = work,
        .prepared = entry->prepared,
        .left = UINT64_MAX,
        .stride = strcmp(cell->transport, "memory") == 0 ? 64 : 1,
    };
}

/* One turn. `microseconds` is the processor time of a call. False where an answer was wrong. */
static bool turn(struct entry *entry, const struct work *work, const struct cell *cell, double seconds, double *rate,
                 double *microseconds)
{
    struct worker *workers = calloc((size_t)cell->threads, sizeof *workers);
    struct histogram *times = calloc((size_t)cell->threads, sizeof *times);
    pthread_barrier_t start;
    atomic_bool stop = false;
    under_way = entry->contestant->name;
    pthread_barrier_init(&start, NULL, (unsigned)cell->threads + 1);
    for (int i = 0; i < cell->threads; i++) {
        workers[i] = (struct worker){.run = run_of(entry, i, cell, work), .start = &start};
        workers[i].run.stop = &stop;
        workers[i].run.times = &times[i];
        if (pthread_create(&workers[i].thread, NULL, work_on, &workers[i]) != 0)
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
        right = right && workers[i].run.outcome == 0;
        for (int b = 0; b < BUCKETS; b++)
            entry->times.counts[b] += times[i].counts[b];
    }
    *rate = (double)calls * 1e9 / (double)(last - first);
    *microseconds = (processor_seconds() - before) * 1e6 / (double)(calls ? calls : 1);
    pthread_barrier_destroy(&start);
    free(workers);
    free(times);
    under_way = NULL;
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

static void print_cell(const char *kind, const char *name, const struct cell *cell)
{
    printf("%s\t%s\t%s\t%s\t%zu\t%zu\t%d\t%s", kind, name, cell->transport, cell->op, cell->size, cell->count,
           cell->threads, cell->place);
}

/* In the results, and for whoever watches. */
static void print_missing(const char *name, const struct cell *cell, const char *why)
{
    print_cell("missing", name, cell);
    printf("\t%s\n", why);
    fprintf(stderr, "NOT MEASURED: %s in %s %s of %zu x %zu bytes, %d threads: %s\n", name, cell->transport, cell->op,
            cell->count, cell->size, cell->threads, why);
}

/* Opens the clients and makes a first call with one. False where that cannot be, or the library has no such thing. */
static bool enter(struct entry *entry, const struct cell *cell, const struct work *work)
{
    const struct contestant *contestant = entry->contestant;
    const struct driver *driver = contestant->driver;
    struct target target = target_of(cell, contestant->options);
    const char *why = NULL;
    under_way = contestant->name;
    entry->client_count = driver->shared ? 1 : cell->threads;
    entry->clients = calloc((size_t)entry->client_count, sizeof *entry->clients);
    for (int i = 0; i < entry->client_count && can(driver, work->operation); i++) {
        entry->clients[i] = driver->open(&target, &why);
        if (entry->clients[i] == NULL)
            break;
    }
    if (entry->clients[entry->client_count - 1] == NULL) {
        if (why != NULL)
            print_missing(contestant->name, cell, why);
        return false;
    }
    fill(driver, entry->clients[0], cell, work);
    entry->prepared = driver->prepare(&work->job, work->operation);

    atomic_bool never = false;
    struct run run = run_of(entry, 0, cell, work);
    run.left = work->operation == BENCH_PIPELINE ? cell->count : (uint64_t)run.stride;
    run.stop = &never;
    carry_out(&run);
    if (run.outcome != 0)
        print_missing(contestant->name, cell, run.outcome == BENCH_UNSUPPORTED ? "not supported" : "wrong answer");
    under_way = NULL;
    return run.outcome == 0;
}

static void leave(struct entry *entry)
{
    const struct driver *driver = entry->contestant->driver;
    driver->discard(entry->prepared);
    for (int i = 0; i < entry->client_count; i++)
        driver->close(entry->clients[i]);
    free(entry->clients);
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
        entries[i].out = !turn(&entries[i], &work, cell, seconds / 2, &rate, &microseconds);
        memset(&entries[i].times, 0, sizeof entries[i].times);
    }
    for (int round = 0; round < rounds; round++) {
        for (int i = 0; i < entered; i++) {
            struct entry *entry = &entries[(i + round) % entered];
            entry->out = entry->out || !turn(entry, &work, cell, seconds, &rate, &microseconds);
            if (entry->out)
                continue;
            print_cell("rate", entry->contestant->name, cell);
            printf("\t%d\t%.1f\t%.3f\n", round, rate, microseconds);
        }
    }
    for (int i = 0; i < entered; i++) {
        if (entries[i].out) {
            print_missing(entries[i].contestant->name, cell, "wrong answer");
            continue;
        }
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
