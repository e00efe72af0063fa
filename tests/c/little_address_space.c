/* little_address_space URL: processes whose address space is nearly used up (RLIMIT_AS: what is in use, and a little
   more), with a server that never answers. They submit calls until one is refused, and make others. None may die, and
   each call that was accepted completes once. Threads cannot be had in the smaller ones. */
#define _GNU_SOURCE
#include "check.h"
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

enum { RUNS = 16, FIRST_KIB = 100, STEP_KIB = 500, CALLS = 65000, LONGEST = 100 };

static char large[1 << 20];

static rlim_t bytes_in_use(void)
{
    long pages = 0;
    FILE *file = fopen("/proc/self/statm", "r");
    CHECK(file != NULL && fscanf(file, "%ld", &pages) == 1);
    fclose(file);
    return (rlim_t)pages * (rlim_t)sysconf(_SC_PAGESIZE);
}

static int is_fine(cachetory_status_t status)
{
    return status == CACHETORY_OK || status == CACHETORY_ERR_NO_MEMORY || status == CACHETORY_ERR_TIMEOUT;
}

static int submit_until_refused(const char *url, unsigned spare_kib)
{
    cachetory_t cache;
    cachetory_queue_t queue;
    cachetory_error_t error;
    cachetory_value_t value;
    static cachetory_completion_t completions[64];
    static char is_accepted[CALLS + 1];
    size_t count;
    long accepted = 0, completed = 0;

    alarm(LONGEST);
    CHECK(cachetory_open_url(url, &cache, &error) == CACHETORY_OK);
    CHECK(cachetory_queue_open(&queue, &error) == CACHETORY_OK);
    struct rlimit limit = {bytes_in_use() + spare_kib * 1024UL, RLIM_INFINITY};
    CHECK(setrlimit(RLIMIT_AS, &limit) == 0);
    CHECK(is_fine(cachetory_get(cache, "k", 1, &value, &error)));
    for (int tag = 0; tag < CALLS; tag++) {
        cachetory_status_t status = cachetory_get_async(cache, queue, tag, "some-key-or-other", 17, &error);
        if (status != CACHETORY_OK) {
            CHECK(status == CACHETORY_ERR_NO_MEMORY);
            break;
        }
        is_accepted[tag] = 1;
        accepted++;
    }
    if (cachetory_set_async(cache, queue, CALLS, "k", 1, large, sizeof large, 1000, 0, &error) == CACHETORY_OK) {
        is_accepted[CALLS] = 1;
        accepted++;
    }
    while (completed < accepted) {
        CHECK(cachetory_queue_wait(queue, completions, 64, CACHETORY_NO_EXPIRY, &count, &error) == CACHETORY_OK);
        for (size_t i = 0; i < count; i++, completed++) {
            CHECK(completions[i].tag <= CALLS && is_accepted[completions[i].tag]);
            CHECK(is_fine(completions[i].status));
            is_accepted[completions[i].tag] = 0;
            cachetory_completion_free(&completions[i]);
        }
    }
    cachetory_queue_close(queue);
    cachetory_close(cache);
    return 0;
}

int main(int argc, char **argv)
{
    int status, faults = 0;
    CHECK(argc == 2);
    for (unsigned i = 0; i < RUNS; i++) {
        if (fork() == 0)
            _exit(submit_until_refused(argv[1], FIRST_KIB + i * STEP_KIB));
        if (i % 2 == 0)
            continue;
        for (int both = 0; both < 2; both++) {
            CHECK(wait(&status) > 0);
            faults += status != 0;
        }
    }
    CHECK(faults == 0);
    return 0;
}
