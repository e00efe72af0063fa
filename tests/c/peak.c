/* peak URL: each call once, on a cache whose server answers as it likes. A line a call: its name, the status that it
   came to, and by how many KiB the process was larger at its peak than before. */
#define _POSIX_C_SOURCE 200809L

#include "check.h"

#include <fcntl.h>
#include <unistd.h>

static long in_status(const char *name)
{
    char line[256];
    long kib = -1;
    FILE *file = fopen("/proc/self/status", "r");
    CHECK(file != NULL);
    while (kib < 0 && fgets(line, sizeof line, file) != NULL) {
        if (strncmp(line, name, strlen(name)) == 0)
            kib = strtol(line + strlen(name), NULL, 10);
    }
    fclose(file);
    CHECK(kib >= 0);
    return kib;
}

/* What is in use; the peak begins anew where the system lets it. */
static long begin(void)
{
    int file = open("/proc/self/clear_refs", O_WRONLY | O_CLOEXEC);
    if (file >= 0) {
        ssize_t written = write(file, "5", 1);
        close(file);
        if (written == 1)
            return in_status("VmRSS:");
    }
    return in_status("VmHWM:");
}

static void end(const char *name, cachetory_status_t status, long before)
{
    printf("%s %d %ld\n", name, (int)status, in_status("VmHWM:") - before);
}

static cachetory_status_t completed(cachetory_queue_t queue, cachetory_status_t submitted)
{
    if (submitted < 0)
        return submitted;
    cachetory_completion_t completion = next_completion(queue);
    cachetory_status_t status = completion.status;
    cachetory_completion_free(&completion);
    return status;
}

int main(int argc, char **argv)
{
    enum { TTL = 60000 };
    cachetory_error_t error;
    cachetory_queue_t queue;
    cachetory_value_t value;
    cachetory_values_t values;
    cachetory_bytes_t keys[] = {{"k", 1}, {"l", 1}};
    cachetory_item_t items[] = {{{"k", 1}, {"v", 1}}, {{"l", 1}, {"w", 1}}};
    uint64_t deleted;
    CHECK(argc == 2);
    cachetory_t cache = open_cache(argv[1]);
    EXPECT(cachetory_queue_open(&queue, &error), CACHETORY_OK, &error);
    /* Once for what a first call takes by itself. */
    CHECK(completed(queue, cachetory_ping_async(cache, queue, 0, &error)) < 0);

#define CALL(name, call)                                \
    do {                                                \
        long before = begin();                          \
        cachetory_status_t status = (call);             \
        end(name, status, before);                      \
    } while (0)
#define CALLS(name, call, submission) \
    CALL(name, call);                 \
    CALL(name, completed(queue, submission))

    CALLS("ping", cachetory_ping(cache, &error), cachetory_ping_async(cache, queue, 0, &error));
    CALLS("get", cachetory_get(cache, "k", 1, &value, &error),
          cachetory_get_async(cache, queue, 0, "k", 1, &error));
    CALLS("mget", cachetory_mget(cache, keys, 2, &values, &error),
          cachetory_mget_async(cache, queue, 0, keys, 2, &error));
    CALLS("set", cachetory_set(cache, "k", 1, "v", 1, TTL, 0, &error),
          cachetory_set_async(cache, queue, 0, "k", 1, "v", 1, TTL, CACHETORY_SET_IF_NOT_EXISTS, &error));
    CALLS("mset", cachetory_mset(cache, items, 2, CACHETORY_NO_EXPIRY, 0, &error),
          cachetory_mset_async(cache, queue, 0, items, 2, CACHETORY_NO_EXPIRY, 0, &error));
    CALLS("exec", cachetory_mset(cache, items, 2, TTL, 0, &error),
          cachetory_mset_async(cache, queue, 0, items, 2, TTL, 0, &error));
    CALLS("expire", cachetory_expire_in(cache, "k", 1, TTL, &error),
          cachetory_expire_in_async(cache, queue, 0, "k", 1, CACHETORY_NO_EXPIRY, &error));
    CALLS("delete", cachetory_delete(cache, "k", 1, &error),
          cachetory_delete_async(cache, queue, 0, "k", 1, &error));
    CALLS("mdelete", cachetory_mdelete(cache, keys, 2, &deleted, &error),
          cachetory_mdelete_async(cache, queue, 0, keys, 2, &error));
    CALLS("clear", cachetory_clear(cache, &error), cachetory_clear_async(cache, queue, 0, &error));
    CHECK(cachetory_queue_close(queue) == CACHETORY_OK && cachetory_close(cache) == CACHETORY_OK);
    return 0;
}
