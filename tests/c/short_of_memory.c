/* short_of_memory URL FACE SMALLEST ROW PLACES [PLACE]: what becomes of a program whose allocations fail.

   A scenario of all kinds of calls is run again and again, each time in a process of its own in which another
   allocation is the first to fail: of those of SMALLEST bytes and more, ROW one behind the other, 0 for all that
   follow. Of all there are, PLACES are taken, evenly, and each of the first few; 0 takes every one. With PLACE that one
   alone is run, in this process, for a debugger.

   FACE: sync, waited (cachetory_queue_wait), polled (the queue's descriptor), forked (both, in a child process, on what
   it inherited), or thread (the first calls of a new thread, while nothing can be had).

   No process may die, hang, or write to its standard output or error. Every call is OK or NO_MEMORY, or CLOSED where
   its cache or queue could not be opened. A submission that was accepted completes once. Afterwards a call works, and
   makes no more allocations than in a process that never was short. */
#include "failing_malloc.h"
#include <cachetory.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { KEYS = 700, SUBMITTED = 400, LARGE = 300000, FIRST_PLACES = 25, LONGEST_RUN = 60, AT_ONCE = 3 };
enum { GETS = 3000, USUAL_GETS = 100, MOST = 40 };
enum { FINE = 0, WRONG = 3 };

static char large[LARGE], names[KEYS][16];
static cachetory_bytes_t keys[KEYS];
static cachetory_item_t items[KEYS];
static cachetory_error_t error;

/* What a process tells of itself, to whoever started it. */
struct report {
    char text[600];
    long allocations, allocations_of_get;
};
static struct report *report;
/* How many allocations a get makes; below 0, as long as that is not known. */
static long usual = -1;

static void complain(const char *call, const char *what)
{
    if (report->text[0] == '\0')
        snprintf(report->text, sizeof report->text, "%s: %s", call, what);
}

static int check(cachetory_status_t status, const char *call, const char *message)
{
    char text[560];
    if (status < 0 && status != CACHETORY_ERR_NO_MEMORY && status != CACHETORY_ERR_CLOSED) {
        snprintf(text, sizeof text, "%s, %s", cachetory_status_name(status), message);
        complain(call, text);
    }
    return status >= 0;
}
#define CHECK(call) check(call, #call, error.message)

static double seconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

static void synchronous(cachetory_t cache)
{
    cachetory_value_t value;
    cachetory_values_t values;
    uint64_t deleted;
    CHECK(cachetory_ping(cache, &error));
    CHECK(cachetory_set(cache, "a", 1, "v", 1, 5000, 0, &error));
    if (CHECK(cachetory_get(cache, "a", 1, &value, &error)))
        cachetory_value_free(&value);
    CHECK(cachetory_set(cache, "b", 1, large, LARGE, CACHETORY_NO_EXPIRY, 0, &error));
    if (CHECK(cachetory_get(cache, "b", 1, &value, &error)))
        cachetory_value_free(&value);
    CHECK(cachetory_mset(cache, items, KEYS, CACHETORY_NO_EXPIRY, 0, &error));
    CHECK(cachetory_mset(cache, items, KEYS, 60000, 0, &error));
    if (CHECK(cachetory_mget(cache, keys, KEYS, &values, &error)))
        cachetory_values_free(&values);
    if (CHECK(cachetory_mget(cache, keys, 3, &values, &error)))
        cachetory_values_free(&values);
    CHECK(cachetory_expire_in(cache, "a", 1, CACHETORY_NO_EXPIRY, &error));
    CHECK(cachetory_delete(cache, "a", 1, &error));
    CHECK(cachetory_mdelete(cache, keys, KEYS, &deleted, &error));
    CHECK(cachetory_clear(cache, &error));
}

/* Submitted calls, by their tags, and how often each completed. */
struct submitted {
    long accepted, completed;
    unsigned char is_accepted[SUBMITTED + 10], is_completed[SUBMITTED + 10];
};

static void accept_call(struct submitted *calls, size_t tag, int is_accepted)
{
    calls->is_accepted[tag] = (unsigned char)is_accepted;
    calls->accepted += is_accepted;
}

static void take(struct submitted *calls, cachetory_completion_t *completion)
{
    uint64_t tag = completion->tag;
    char name[40];
    snprintf(name, sizeof name, "the completion of call %d", (int)tag);
    calls->completed++;
    if (tag >= sizeof calls->is_accepted || !calls->is_accepted[tag] || calls->is_completed[tag]++ > 0)
        complain(name, "was not accepted, or is complete");
    if (completion->status != CACHETORY_ERR_CANCELLED)
        check(completion->status, name, completion->message ? completion->message : "");
    cachetory_completion_free(completion);
}

static void asynchronous(cachetory_t cache, int is_polled)
{
    static cachetory_completion_t completions[64];
    struct submitted calls = {0};
    cachetory_queue_t queue;
    size_t count, last = SUBMITTED;
    if (!CHECK(cachetory_queue_open(&queue, &error)))
        return;
    int fd = is_polled ? cachetory_queue_fd(queue) : -1;
    for (size_t tag = 0; tag < SUBMITTED; tag++)
        accept_call(&calls, tag,
                    CHECK(cachetory_get_async(cache, queue, tag, names[tag], CACHETORY_STRLEN, &error)));
    CHECK(cachetory_queue_cancel(queue, 7, &error));
    accept_call(&calls, last, CHECK(cachetory_mget_async(cache, queue, last, keys, KEYS, &error)));
    last++;
    accept_call(&calls, last, CHECK(cachetory_set_async(cache, queue, last, "b", 1, large, LARGE,
                                                        CACHETORY_NO_EXPIRY, 0, &error)));
    last++;
    accept_call(&calls, last, CHECK(cachetory_mset_async(cache, queue, last, items, KEYS, 60000, 0, &error)));
    last++;
    accept_call(&calls, last, CHECK(cachetory_get_async(cache, queue, last, "b", 1, &error)));
    last++;
    accept_call(&calls, last, CHECK(cachetory_clear_async(cache, queue, last, &error)));
    last++;
    accept_call(&calls, last, CHECK(cachetory_ping_async(cache, queue, last, &error)));
    /* Far above the deadline of a call, below the longest run. */
    for (double end = seconds() + LONGEST_RUN / 2.0; calls.completed < calls.accepted && seconds() < end;) {
        if (fd >= 0) {
            struct pollfd ready = {.fd = fd, .events = POLLIN};
            poll(&ready, 1, 1000);
        }
        if (!CHECK(cachetory_queue_wait(queue, completions, 64, fd >= 0 ? 0 : 1000, &count, &error)))
            break;
        for (size_t i = 0; i < count; i++)
            take(&calls, &completions[i]);
    }
    if (calls.completed != calls.accepted)
        complain("a submission", "was accepted, and has not completed");
    /* What is outstanding when its queue is closed never completes. */
    CHECK(cachetory_get_async(cache, queue, 0, "a", 1, &error));
    CHECK(cachetory_set_async(cache, queue, 1, "b", 1, large, LARGE, CACHETORY_NO_EXPIRY, 0, &error));
    cachetory_queue_close(queue);
}

/* A cache is closed while calls of it are outstanding. */
static void close_early(const char *url)
{
    struct submitted calls = {0};
    cachetory_queue_t queue;
    cachetory_t cache;
    cachetory_completion_t completion;
    size_t count;
    if (!CHECK(cachetory_queue_open(&queue, &error)))
        return;
    if (CHECK(cachetory_open_url(url, &cache, &error))) {
        for (size_t tag = 0; tag < 3; tag++)
            accept_call(&calls, tag, CHECK(cachetory_get_async(cache, queue, tag, "a", 1, &error)));
        CHECK(cachetory_close(cache));
        while (calls.completed < calls.accepted &&
               CHECK(cachetory_queue_wait(queue, &completion, 1, CACHETORY_NO_EXPIRY, &count, &error)))
            if (count == 1)
                take(&calls, &completion);
    }
    cachetory_queue_close(queue);
}

static void afterwards(const char *url, cachetory_t cache)
{
    cachetory_value_t value;
    if (cache.id == 0 && cachetory_open_url(url, &cache, &error) != CACHETORY_OK)
        complain("cachetory_open_url, afterwards", error.message);
    if (cachetory_set(cache, "z", 1, "v", 1, CACHETORY_NO_EXPIRY, 0, &error) != CACHETORY_OK)
        complain("cachetory_set, afterwards", error.message);
    /* What most make, where nothing failed. Else the fewest of many times, for one that waits for long makes some more,
       as any does on a busy machine. */
    long counts[MOST + 1] = {0};
    report->allocations_of_get = MOST;
    for (int i = 0; usual < 0 ? i < USUAL_GETS : i < GETS && report->allocations_of_get > usual; i++) {
        long before = counted_here;
        if (cachetory_get(cache, "z", 1, &value, &error) != CACHETORY_OK)
            complain("cachetory_get, afterwards", error.message);
        long made = counted_here - before < MOST ? counted_here - before : MOST;
        cachetory_value_free(&value);
        counts[made]++;
        if (usual < 0 ? counts[made] >= counts[report->allocations_of_get] : made < report->allocations_of_get)
            report->allocations_of_get = made;
    }
    cachetory_close(cache);
}

struct thread_call {
    cachetory_t cache;
    cachetory_queue_t queue;
};

static void *first_calls(void *argument)
{
    struct thread_call *call = argument;
    cachetory_value_t value;
    cachetory_completion_t completion;
    size_t count;
    fail_allocations(0, 0, ENDLESS);
    cachetory_status_name(0);
    if (CHECK(cachetory_get(call->cache, "a", 1, &value, &error)))
        cachetory_value_free(&value);
    CHECK(cachetory_get_async(call->cache, call->queue, 1, "a", 1, &error));
    if (CHECK(cachetory_queue_wait(call->queue, &completion, 1, 100, &count, &error)) && count == 1)
        cachetory_completion_free(&completion);
    fail_no_more();
    return NULL;
}

static void in_a_thread(cachetory_t cache)
{
    struct thread_call call = {.cache = cache};
    pthread_t thread;
    if (CHECK(cachetory_queue_open(&call.queue, &error))) {
        if (pthread_create(&thread, NULL, first_calls, &call) == 0)
            pthread_join(thread, NULL);
        cachetory_queue_close(call.queue);
    }
}

/* Goes on as a child of this process, which ends as the child does. */
static void be_a_child(void)
{
    int status;
    pid_t pid = fork();
    if (pid == 0) {
        alarm(LONGEST_RUN);
        return;
    }
    waitpid(pid, &status, 0);
    if (WIFSIGNALED(status)) {
        signal(WTERMSIG(status), SIG_DFL);
        raise(WTERMSIG(status));
    }
    _exit(WEXITSTATUS(status));
}

static void scenario(const char *url, const char *face, size_t smallest, long first, long row)
{
    cachetory_t cache = {0};
    int is_in_thread = strcmp(face, "thread") == 0, is_forked = strcmp(face, "forked") == 0;
    if (!is_in_thread && !is_forked)
        fail_allocations(smallest, first, row);
    if (strcmp(face, "sync") != 0)
        close_early(url);
    CHECK(cachetory_open_url(url, &cache, &error));
    if (is_in_thread) {
        CHECK(cachetory_set(cache, "a", 1, "v", 1, CACHETORY_NO_EXPIRY, 0, &error));
        in_a_thread(cache);
    } else if (is_forked) {
        CHECK(cachetory_set(cache, "a", 1, "v", 1, CACHETORY_NO_EXPIRY, 0, &error));
        be_a_child();
        fail_allocations(smallest, first, row);
        synchronous(cache);
        asynchronous(cache, 1);
    } else if (strcmp(face, "sync") == 0) {
        synchronous(cache);
        synchronous(cache);
    } else {
        asynchronous(cache, strcmp(face, "polled") == 0);
        asynchronous(cache, strcmp(face, "polled") == 0);
    }
    report->allocations = allocations();
    fail_no_more();
    afterwards(url, cache);
}

/* One run in a process of its own, with a database of its own, whose words go to `words`. */
static pid_t start(const char *url, const char *face, size_t smallest, long first, long row, int words, int slot)
{
    pid_t pid = fork();
    if (pid == 0) {
        char own[300];
        snprintf(own, sizeof own, "%s%cdb=%d", url, strchr(url, '?') ? '&' : '?', slot);
        url = own;
        dup2(words, 1);
        dup2(words, 2);
        alarm(2 * LONGEST_RUN);
        scenario(url, face, smallest, first, row);
        _exit(report->text[0] == '\0' ? FINE : WRONG);
    }
    return pid;
}

/* Ends with what there is to say of a run, or NULL. */
static const char *verdict(int status, FILE *words, const struct report *of)
{
    static char text[700];
    fseek(words, 0, SEEK_END);
    if (WIFSIGNALED(status) && WTERMSIG(status) == SIGALRM)
        return "hangs";
    if (WIFSIGNALED(status)) {
        snprintf(text, sizeof text, "dies of signal %d", WTERMSIG(status));
        return text;
    }
    if (WEXITSTATUS(status) != FINE)
        return of->text;
    if (ftell(words) != 0)
        return "writes to its standard output or error";
    if (usual >= 0 && of->allocations_of_get > usual) {
        snprintf(text, sizeof text, "afterwards a get makes %ld allocations, not %ld", of->allocations_of_get, usual);
        return text;
    }
    return NULL;
}

int main(int argc, char **argv)
{
    if (argc < 6)
        return 2;
    const char *url = argv[1], *face = argv[2];
    size_t smallest = strtoul(argv[3], NULL, 0);
    long row = atol(argv[4]), most = atol(argv[5]), runs = 0, faults = 0, all;
    struct report *reports = mmap(NULL, (AT_ONCE + 1) * sizeof *reports, PROT_READ | PROT_WRITE,
                                  MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    FILE *words[AT_ONCE + 1];
    pid_t running[AT_ONCE] = {0};
    long places[AT_ONCE];
    int status;
    for (int i = 0; i <= AT_ONCE; i++)
        words[i] = tmpfile();
    for (int i = 0; i < KEYS; i++) {
        size_t length = (size_t)snprintf(names[i], sizeof names[i], "k%d", i);
        keys[i] = (cachetory_bytes_t){names[i], length};
        items[i] = (cachetory_item_t){keys[i], {large, 100}};
    }
    report = &reports[AT_ONCE];
    if (argc > 6) {
        scenario(url, face, smallest, atol(argv[6]), row);
        printf("%s\n", report->text[0] ? report->text : "fine");
        return report->text[0] != '\0';
    }
    waitpid(start(url, face, smallest, LONG_MAX, 1, fileno(words[AT_ONCE]), AT_ONCE), &status, 0);
    const char *undisturbed = verdict(status, words[AT_ONCE], report);
    if (undisturbed != NULL) {
        printf("without a failure: %s\n", undisturbed);
        return 1;
    }
    usual = report->allocations_of_get;
    all = strcmp(face, "thread") == 0 ? 1 : report->allocations + 1;
    long step = most > 0 && all > most ? (all - FIRST_PLACES) / (most > FIRST_PLACES ? most - FIRST_PLACES : 1) + 1 : 1;
    for (long place = 0, left = 0; place < all || left > 0;) {
        if (place < all && left < AT_ONCE) {
            int slot = 0;
            while (running[slot] != 0)
                slot++;
            report = &reports[slot];
            *report = (struct report){0};
            rewind(words[slot]);
            if (ftruncate(fileno(words[slot]), 0) != 0)
                return 2;
            places[slot] = place;
            running[slot] = start(url, face, smallest, place, row, fileno(words[slot]), slot);
            place += place < FIRST_PLACES ? 1 : step;
            runs++, left++;
            continue;
        }
        pid_t pid = wait(&status);
        for (int slot = 0; slot < AT_ONCE; slot++) {
            if (running[slot] != pid)
                continue;
            running[slot] = 0;
            left--;
            const char *fault = verdict(status, words[slot], &reports[slot]);
            if (fault != NULL && faults++ < 20)
                printf("at %ld of %ld: %s\n", places[slot], all, fault);
        }
    }
    printf("%s, %zu bytes and more, %ld in a row: %ld of %ld places, %ld faults\n", face, smallest, row, runs, all,
           faults);
    return faults != 0;
}
