/* Claim: of many workers that find the same job, exactly one does it.
 *
 *     claim [URL]
 *
 * "Set if it does not exist" is atomic, so whoever stores the key has the job. Here the workers are threads. On a
 * server they may as well be processes on many machines; nothing below would change.
 *
 * The ttl frees the job of a worker that died. It also ends the claim of one that is merely slow: do the work well
 * within it, or have the work itself bear being done twice.
 */
#define _POSIX_C_SOURCE 200809L /* getpid */

#include <cachetory.h>

#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { WORKERS = 8, CLAIM_MS = 30 * 1000 };

static const char job[] = "example:claim:invoice-42";

typedef struct worker_t {
    cachetory_t cache;
    char name[48]; /* unique among all processes that claim: it tells whose the claim is */
    cachetory_status_t status;
    cachetory_error_t error;
} worker_t;

/* CACHETORY_OK: the job is ours; CACHETORY_NOT_STORED: somebody else's. */
static cachetory_status_t claim(worker_t *worker, cachetory_error_t *error)
{
    cachetory_status_t status = cachetory_set(worker->cache, job, CACHETORY_STRLEN, worker->name, strlen(worker->name),
                                              CLAIM_MS, CACHETORY_SET_IF_NOT_EXISTS, error);
    if (status >= 0 || !(error->flags & CACHETORY_ERROR_MAYBE_APPLIED))
        return status;

    /* The claim went out and no answer came back. Claiming again would be refused by our own claim, so ask whose it is.
     * If nobody's, it may still be on its way: then the error stands, and the ttl clears up. */
    cachetory_value_t owner;
    cachetory_error_t second;
    if (cachetory_get(worker->cache, job, CACHETORY_STRLEN, &owner, &second) == CACHETORY_OK) {
        bool ours = owner.len == strlen(worker->name) && memcmp(owner.data, worker->name, owner.len) == 0;
        status = ours ? CACHETORY_OK : CACHETORY_NOT_STORED;
    }
    cachetory_value_free(&owner);
    return status;
}

static void *work(void *argument)
{
    worker_t *worker = argument;
    worker->status = claim(worker, &worker->error);
    if (worker->status == CACHETORY_OK)
        printf("the invoice is sent\n");
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
        fprintf(stderr, "claim: %s\n", error.message);
        return EXIT_FAILURE;
    }

    static worker_t workers[WORKERS];
    pthread_t threads[WORKERS];
    int started = 0;
    for (; started < WORKERS; started++) {
        worker_t *worker = &workers[started];
        worker->cache = cache;
        snprintf(worker->name, sizeof worker->name, "process %ld, worker %d", (long)getpid(), started);
        if (pthread_create(&threads[started], NULL, work, worker) != 0)
            break;
    }

    int won = 0, lost = 0;
    for (int i = 0; i < started; i++) {
        pthread_join(threads[i], NULL);
        if (workers[i].status < 0)
            fprintf(stderr, "claim: %s: %s\n", workers[i].name, workers[i].error.message);
        won += workers[i].status == CACHETORY_OK;
        lost += workers[i].status == CACHETORY_NOT_STORED;
    }
    printf("%d workers: %d won, %d lost\n", started, won, lost);

    /* A claim on work that is done for good would stay; this one is given back, for the next run. */
    if (cachetory_delete(cache, job, CACHETORY_STRLEN, &error) < 0)
        fprintf(stderr, "claim: %s\n", error.message);
    cachetory_close(cache);
    return won == 1 && lost == WORKERS - 1 ? EXIT_SUCCESS : EXIT_FAILURE;
}
