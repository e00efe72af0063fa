/*
 * Throughput, latency and processor time. The drivers take turns, round after round, each for a fraction of a second:
 * what else the machine does then hits all of them alike, and each round gives one comparison.
 */
#define _GNU_SOURCE
#include "fail.h"
#include "far.h"
#include "measure.h"
#include "run.h"

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

struct worker {
    pthread_t thread;
    struct run run;
    pthread_barrier_t *start;
    uint64_t calls;
    uint64_t began;
    uint64_t ended;
};

static void *run_worker(void *opaque)
{
    struct worker *it = opaque;
    pthread_barrier_wait(it->start);
    it->began = bench_now();
    it->calls = make_calls(&it->run);
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

/* A driver in a cell: its clients stay connected from round to round. */
struct entry {
    const struct subject *subject;
    void **clients;
    int client_count;
    void **attached; /* for each thread */
    void *prepared;
    struct histogram times;
    bool out; /* something went wrong */
};

/* What a turn brought. */
struct speed {
    double rate;
    double microseconds; /* of processor time, for a call */
    unsigned connections; /* that were used, where that is known */
};

static struct run run_of(const struct entry *entry, int i, const struct cell *cell, const struct work *work)
{
    return (struct run){
        .driver = entry->subject->driver,
        .client = entry->attached[i],
        .work = work,
        .prepared = entry->prepared,
        .left = UINT64_MAX,
        .stride = strcmp(cell->transport, "memory") == 0 ? 64 : 1,
    };
}

/* One turn. False where an answer was wrong. */
static bool turn(struct entry *entry, const struct work *work, const struct cell *cell, double seconds,
                 struct speed *speed)
{
    struct worker *workers = calloc((size_t)cell->threads, sizeof *workers);
    struct histogram *times = calloc((size_t)cell->threads, sizeof *times);
    pthread_barrier_t start;
    atomic_bool stop = false;
    driver_in_use = entry->subject->name;
    pthread_barrier_init(&start, NULL, (unsigned)cell->threads + 1);
    for (int i = 0; i < cell->threads; i++) {
        workers[i] = (struct worker){.run = run_of(entry, i, cell, work), .start = &start};
        workers[i].run.stop = &stop;
        workers[i].run.times = &times[i];
        if (pthread_create(&workers[i].thread, NULL, run_worker, &workers[i]) != 0)
            die("no thread to be had");
    }
    far_begin_turn();
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
        add_all(&entry->times, &times[i]);
    }
    speed->rate = (double)calls * 1e9 / (double)(last - first);
    speed->microseconds = (processor_seconds() - before) * 1e6 / (double)(calls ? calls : 1);
    speed->connections = far_used();
    pthread_barrier_destroy(&start);
    free(workers);
    free(times);
    driver_in_use = NULL;
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
static void pin_client_and_server(const struct cell *cell)
{
    const char *server = getenv("BENCH_SERVER_PID");
    bool one = strcmp(cell->place, "one") == 0;
    bool apart = strcmp(cell->place, "apart") == 0;
    pin(0, one ? 0 : apart ? 1 : -1);
    if (server)
        pin(atoi(server), one || apart ? 0 : -1);
}

/* "busy": twice as many processes that compute as there are processors. */
static void start_busy_processes(pid_t *busy_processes, int count)
{
    for (int i = 0; i < count; i++) {
        busy_processes[i] = fork();
        if (busy_processes[i] == 0) {
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
static bool open_clients(struct entry *entry, const struct cell *cell, const struct work *work)
{
    const struct subject *subject = entry->subject;
    const struct driver *driver = subject->driver;
    struct target target = target_of(cell, subject->options);
    const char *why = NULL;
    driver_in_use = subject->name;
    entry->client_count = driver->shared ? 1 : cell->threads;
    entry->clients = calloc((size_t)entry->client_count, sizeof *entry->clients);
    for (int i = 0; i < entry->client_count && can(driver, work->operation); i++) {
        entry->clients[i] = driver->open(&target, &why);
        if (entry->clients[i] == NULL)
            break;
    }
    if (entry->clients[entry->client_count - 1] == NULL) {
        if (why != NULL)
            print_missing(subject->name, cell, why);
        return false;
    }
    fill(driver, entry->clients[0], cell, work);
    entry->prepared = driver->prepare(&work->job, work->operation);
    entry->attached = calloc((size_t)cell->threads, sizeof *entry->attached);
    for (int i = 0; i < cell->threads; i++) {
        entry->attached[i] = attach(driver, entry->clients[i % entry->client_count], work->operation);
        if (entry->attached[i] == NULL)
            die("%s: cannot be attached to", subject->name);
    }

    atomic_bool never = false;
    struct run run = run_of(entry, 0, cell, work);
    run.left = work->operation == BENCH_PIPELINE ? cell->count : (uint64_t)run.stride;
    run.stop = &never;
    make_calls(&run);
    if (run.outcome != 0)
        print_missing(subject->name, cell, run.outcome == BENCH_UNSUPPORTED ? "not supported" : "wrong answer");
    driver_in_use = NULL;
    return run.outcome == 0;
}

static void close_clients(struct entry *entry, const struct cell *cell, const struct work *work)
{
    const struct driver *driver = entry->subject->driver;
    driver->discard(entry->prepared);
    for (int i = 0; i < cell->threads; i++)
        detach(driver, entry->attached[i], work->operation);
    free(entry->attached);
    for (int i = 0; i < entry->client_count; i++)
        driver->close(entry->clients[i]);
    free(entry->clients);
}

void measure_rates(const struct subject *subjects, int count, const struct cell *cell, int rounds, double seconds)
{
    struct work work = make_work(cell);
    struct entry *entries = calloc((size_t)count, sizeof *entries);
    pid_t busy_processes[64];
    int busy = 0;
    int open_count = 0;
    struct speed speed;

    pin_client_and_server(cell);
    if (strcmp(cell->place, "busy") == 0) {
        busy = (int)(2 * sysconf(_SC_NPROCESSORS_ONLN));
        busy = busy > 64 ? 64 : busy;
        start_busy_processes(busy_processes, busy);
    }
    for (int i = 0; i < count; i++) {
        entries[open_count].subject = &subjects[i];
        if (open_clients(&entries[open_count], cell, &work))
            open_count++;
    }
    /* A turn that does not count, for caches, buffers and whatever adapts. */
    for (int i = 0; i < open_count; i++) {
        entries[i].out = !turn(&entries[i], &work, cell, seconds / 2, &speed);
        memset(&entries[i].times, 0, sizeof entries[i].times);
    }
    for (int round = 0; round < rounds; round++) {
        for (int i = 0; i < open_count; i++) {
            struct entry *entry = &entries[(i + round) % open_count];
            entry->out = entry->out || !turn(entry, &work, cell, seconds, &speed);
            if (entry->out)
                continue;
            print_cell("rate", entry->subject->name, cell);
            printf("\t%d\t%.1f\t%.3f\t%u\n", round, speed.rate, speed.microseconds, speed.connections);
        }
    }
    for (int i = 0; i < open_count; i++) {
        if (entries[i].out) {
            print_missing(entries[i].subject->name, cell, "wrong answer");
            continue;
        }
        print_cell("latency", entries[i].subject->name, cell);
        printf("\t%llu\t%llu\t%llu\n", (unsigned long long)percentile(&entries[i].times, 0.5),
               (unsigned long long)percentile(&entries[i].times, 0.99),
               (unsigned long long)percentile(&entries[i].times, 0.999));
        close_clients(&entries[i], cell, &work);
    }
    for (int i = 0; i < busy; i++) {
        kill(busy_processes[i], SIGKILL);
        waitpid(busy_processes[i], NULL, 0);
    }
    discard_work(&work);
    free(entries);
}
