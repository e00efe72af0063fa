/* io_thread URL HUNG: the library's I/O thread comes with the first asynchronous call over a network, goes with the last
   cache, is deaf to signals, and sleeps while there is nothing to do. HUNG is a server that never answers. */
#define _POSIX_C_SOURCE 200809L

#include "check_async.h"

#include <dirent.h>
#include <signal.h>
#include <time.h>

static void pause_ms(long ms)
{
    struct timespec span = {ms / 1000, ms % 1000 * 1000000};
    nanosleep(&span, NULL);
}

/* What follows `field` in a thread's status, or nothing if there is no such thread any more. */
static int read_status(const char *thread, const char *field, char *out, size_t room)
{
    char path[300], line[256];
    snprintf(path, sizeof path, "/proc/self/task/%s/status", thread);
    FILE *file = fopen(path, "r");
    int found = 0;
    while (file && !found && fgets(line, sizeof line, file)) {
        if (strncmp(line, field, strlen(field)) == 0) {
            snprintf(out, room, "%s", line + strlen(field) + strspn(line + strlen(field), " \t"));
            out[strcspn(out, "\n")] = 0;
            found = 1;
        }
    }
    if (file)
        fclose(file);
    return found;
}

/* Calls `visit` for each thread whose name begins so; how many there are. */
static int each_thread(const char *name, void (*visit)(const char *thread, void *arg), void *arg)
{
    int count = 0;
    DIR *tasks = opendir("/proc/self/task");
    CHECK(tasks != NULL);
    for (struct dirent *entry; (entry = readdir(tasks)) != NULL;) {
        char found[64];
        if (entry->d_name[0] != '.' && read_status(entry->d_name, "Name:", found, sizeof found) &&
            strncmp(found, name, strlen(name)) == 0) {
            count++;
            if (visit)
                visit(entry->d_name, arg);
        }
    }
    closedir(tasks);
    return count;
}

static int io_threads(void)
{
    return each_thread("cachetory-io", NULL, NULL);
}

static void wait_for_threads(int count)
{
    for (int i = 0; i < 30000 && io_threads() != count; i++)
        pause_ms(1);
    CHECK(io_threads() == count);
}

/* Every signal that can be is blocked; glibc keeps two to itself. */
static void is_deaf(const char *thread, void *arg)
{
    char mask[64];
    (void)arg;
    if (!read_status(thread, "SigBlk:", mask, sizeof mask))
        return;
    unsigned long long blocked = strtoull(mask, NULL, 16);
    for (int number = 1; number <= SIGRTMAX; number++) {
        int open = number == SIGKILL || number == SIGSTOP || (number > 31 && number < SIGRTMIN);
        CHECK(open || (blocked >> (number - 1) & 1));
    }
}

/* How often the library's threads have gone to sleep and been interrupted, and for how many ticks they have run. */
static void add_work(const char *thread, void *arg)
{
    unsigned long long *sum = arg;
    const char *fields[] = {"voluntary_ctxt_switches:", "nonvoluntary_ctxt_switches:"};
    for (int i = 0; i < 2; i++) {
        char text[64];
        if (read_status(thread, fields[i], text, sizeof text))
            *sum += strtoull(text, NULL, 10);
    }
    char path[300];
    unsigned long long user, kernel;
    snprintf(path, sizeof path, "/proc/self/task/%s/stat", thread);
    FILE *file = fopen(path, "r");
    if (file && fscanf(file, "%*d (%*[^)]) %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %llu %llu", &user, &kernel) == 2)
        *sum += user + kernel;
    if (file)
        fclose(file);
}

/* A thread that is woken now and then is never quiet for so long; one that sleeps is, however busy the machine. */
static void falls_quiet(void)
{
    for (int i = 0; i < 60; i++) {
        unsigned long long before = 0, after = 0;
        each_thread("cachetory-", add_work, &before);
        pause_ms(500);
        each_thread("cachetory-", add_work, &after);
        if (before == after)
            return;
    }
    CHECK(!"the library's threads sleep while there is nothing to do");
}

static void many_calls(cachetory_t cache, cachetory_queue_t queue)
{
    for (int i = 0; i < 200; i++)
        submit_set(cache, queue, (uint64_t)i, "k");
    for (int i = 0; i < 200; i++)
        expect_next(queue, CACHETORY_OK);
}

int main(int argc, char **argv)
{
    CHECK(argc == 3);
    cachetory_t store = open_cache("memory://"), nothing = open_cache("dummy://");
    cachetory_t cache = open_cache(argv[1]), other = open_cache(argv[1]);
    cachetory_queue_t queue = open_queue();
    round_trip(cache, "k");
    CHECK(cachetory_queue_fd(queue) >= 0);
    submit_get(store, queue, 1, "k");
    expect_next(queue, CACHETORY_NOT_FOUND);
    submit_get(nothing, queue, 1, "k");
    expect_next(queue, CACHETORY_NOT_FOUND);
    CHECK(io_threads() == 0);

    many_calls(cache, queue);
    CHECK(io_threads() == 1);
    each_thread("cachetory-", is_deaf, NULL);
    falls_quiet();
    CHECK(io_threads() == 1);
    many_calls(other, queue);
    CHECK(io_threads() == 1);

    /* A server that hangs is no reason to be awake. */
    cachetory_t hung = open_cache(argv[2]);
    submit_get(hung, queue, 1, "k");
    falls_quiet();
    CHECK(cachetory_close(hung) == CACHETORY_OK);
    expect_next(queue, CACHETORY_ERR_CANCELLED);

    CHECK(cachetory_close(cache) == CACHETORY_OK);
    many_calls(other, queue);
    CHECK(io_threads() == 1);
    CHECK(cachetory_close(other) == CACHETORY_OK);
    wait_for_threads(0);

    /* And once more, while a call is on its way. */
    cache = open_cache(argv[1]);
    many_calls(cache, queue);
    CHECK(io_threads() == 1);
    submit_get(cache, queue, 1, "k");
    CHECK(cachetory_close(cache) == CACHETORY_OK);
    cachetory_completion_t last = next(queue);
    CHECK(last.status == CACHETORY_OK || last.status == CACHETORY_ERR_CANCELLED);
    cachetory_completion_free(&last);
    wait_for_threads(0);
    CHECK(cachetory_queue_close(queue) == CACHETORY_OK);
    CHECK(cachetory_close(store) == CACHETORY_OK && cachetory_close(nothing) == CACHETORY_OK);
    return 0;
}
