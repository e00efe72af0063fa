/* Cache-aside: ask the cache before an expensive function, and tell it the answer afterwards.
 *
 *     cache_aside [URL]
 *
 * A cache makes a program faster, it must not make it fail: when the cache is in trouble the function is computed, as
 * it would be without a cache. `cache_aside dummy://` shows the program with caching switched off.
 */
#include <cachetory.h>

#include <errno.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>

enum { TEN_MINUTES_MS = 10 * 60 * 1000 };

/* Stands for a query, a rendered page, a call to another service. */
static uint64_t slow_fibonacci(unsigned n)
{
    return n < 2 ? n : slow_fibonacci(n - 1) + slow_fibonacci(n - 2);
}

/* Values are text, so that programs in other languages can share them. Text that another program wrote is not to be
 * trusted: what does not parse counts as a miss. */
static bool parse_number(const cachetory_value_t *value, uint64_t *number)
{
    if (value->len == 0 || value->data[0] < '0' || value->data[0] > '9')
        return false;
    char *end;
    errno = 0;
    *number = strtoull(value->data, &end, 10);
    return errno == 0 && end == value->data + value->len;
}

static uint64_t fibonacci(cachetory_t cache, unsigned n, bool *cached)
{
    /* The key names the function, a version of it, and every argument that the answer depends on. */
    char key[64];
    snprintf(key, sizeof key, "example:fibonacci:v1:%u", n);

    uint64_t number = 0;
    cachetory_value_t value;
    cachetory_error_t error;
    cachetory_status_t status = cachetory_get(cache, key, CACHETORY_STRLEN, &value, &error);
    *cached = status == CACHETORY_OK && parse_number(&value, &number);
    cachetory_value_free(&value); /* after a miss or an error it is empty, and this does nothing */
    if (*cached)
        return number;

    number = slow_fibonacci(n);
    if (status < 0) {
        /* It would not take the answer either, and waiting for it once is enough. */
        fprintf(stderr, "cache_aside: going on without the cache: %s\n", error.message);
        return number;
    }
    char text[24];
    int length = snprintf(text, sizeof text, "%" PRIu64, number);
    if (cachetory_set(cache, key, CACHETORY_STRLEN, text, (size_t)length, TEN_MINUTES_MS, 0, &error) < 0)
        fprintf(stderr, "cache_aside: the answer is not cached: %s\n", error.message);
    return number;
}

int main(int argc, char **argv)
{
    const char *url = argc > 1 ? argv[1] : getenv("CACHETORY_URL");
    if (url == NULL)
        url = "memory://";

    /* Opening fails for a bad URL only, which is worth an exit; a server that is down is not noticed here. */
    cachetory_t cache;
    cachetory_error_t error;
    if (cachetory_open_url(url, &cache, &error) < 0) {
        fprintf(stderr, "cache_aside: %s\n", error.message);
        return EXIT_FAILURE;
    }

    static const unsigned questions[] = {20, 24, 20, 24};
    for (size_t i = 0; i < sizeof questions / sizeof questions[0]; i++) {
        bool cached;
        uint64_t answer = fibonacci(cache, questions[i], &cached);
        printf("fibonacci(%u) = %" PRIu64 ", %s\n", questions[i], answer, cached ? "cached" : "computed");
    }

    /* So that the next run prints the same. */
    static const cachetory_bytes_t keys[] = {
        {"example:fibonacci:v1:20", CACHETORY_STRLEN},
        {"example:fibonacci:v1:24", CACHETORY_STRLEN},
    };
    if (cachetory_mdelete(cache, keys, sizeof keys / sizeof keys[0], NULL, &error) < 0)
        fprintf(stderr, "cache_aside: the answers stay until they expire: %s\n", error.message);
    cachetory_close(cache);
    return EXIT_SUCCESS;
}
