/* Threads: one handle for the whole process.
 *
 *     threads [URL]
 *
 * Any thread may use a handle at any time, without a lock and without a connection of its own: the library shares a few
 * connections among all callers. Opening a handle per thread works, and only costs more.
 */
#include <cachetory.h>

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { THREADS = 8, ROUNDS = 100, MINUTE_MS = 60 * 1000 };

typedef struct task_t {
    cachetory_t cache; /* a number, to be copied freely */
    int number;
    int correct;
    cachetory_status_t status;
    cachetory_error_t error; /* the thread's own: an error is written where the caller says, and nowhere else */
} task_t;

static cachetory_status_t round_trip(task_t *task, int round)
{
    char key[64], text[64];
    snprintf(key, sizeof key, "example:threads:%d:%d", task->number, round);
    int length = snprintf(text, sizeof text, "round %d of thread %d", round, task->number);

    cachetory_status_t status =
        cachetory_set(task->cache, key, CACHETORY_STRLEN, text, (size_t)length, MINUTE_MS, 0, &task->error);
    if (status < 0)
        return status;

    cachetory_value_t value;
    status = cachetory_get(task->cache, key, CACHETORY_STRLEN, &value, &task->error);
    if (status < 0)
        return status;
    task->correct += value.len == (size_t)length && memcmp(value.data, text, value.len) == 0;
    cachetory_value_free(&value);
    return cachetory_delete(task->cache, key, CACHETORY_STRLEN, &task->error);
}

static void *run(void *argument)
{
    task_t *task = argument;
    for (int round = 0; round < ROUNDS && task->status >= 0; round++)
        task->status = round_trip(task, round);
    return NULL;
}

int main(int argc, char **argv)
{
    const char *url = argc > 1 ? argv[1] : getenv("CACHETORY_URL");
    if (url == NULL)
        url = "memory://";

    cachetory_t cache;
    cachetory_error_t error;
    if (cachetory_open_url(url, &cache, &error) < 0) {
        fprintf(stderr, "threads: %s\n", error.message);
        return EXIT_FAILURE;
    }

    static task_t tasks[THREADS];
    pthread_t threads[THREADS];
    int started = 0;
    for (; started < THREADS; started++) {
        tasks[started].cache = cache;
        tasks[started].number = started;
        if (pthread_create(&threads[started], NULL, run, &tasks[started]) != 0)
            break;
    }

    int correct = 0;
    for (int i = 0; i < started; i++) {
        pthread_join(threads[i], NULL);
        if (tasks[i].status < 0)
            fprintf(stderr, "threads: thread %d: %s\n", i, tasks[i].error.message);
        correct += tasks[i].correct;
    }
    printf("%d threads, %d values written and read back\n", started, correct);

    /* All threads are done, and so need not learn that the handle is closed: their calls would return
     * CACHETORY_ERR_CLOSED. */
    cachetory_close(cache);
    return correct == THREADS * ROUNDS ? EXIT_SUCCESS : EXIT_FAILURE;
}
