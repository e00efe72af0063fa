/* What the test programs share. */
#ifndef CHECK_H
#define CHECK_H

#include <cachetory.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* A macro, because it names the place that calls it. */
#define CHECK(condition) check((condition), #condition, __FILE__, __LINE__)

static inline void check(int condition, const char *text, const char *file, int line)
{
    if (!condition) {
        fprintf(stderr, "%s:%d: not true: %s\n", file, line, text);
        abort();
    }
}

#define EXPECT(status, wanted, error) expect((status), (wanted), (error), __FILE__, __LINE__)

static inline void expect(cachetory_status_t status, cachetory_status_t wanted,
                          const cachetory_error_t *error, const char *file, int line)
{
    if (status != wanted || (error && error->status != status)) {
        fprintf(stderr, "%s:%d: %s (%s), not %s\n", file, line, cachetory_status_name(status),
                error ? error->message : "", cachetory_status_name(wanted));
        abort();
    }
}

static inline cachetory_t open_cache(const char *url)
{
    cachetory_t cache;
    cachetory_error_t error;
    EXPECT(cachetory_open_url(url, &cache, &error), CACHETORY_OK, &error);
    return cache;
}

/* Sets a key to its own name and gets it back. */
static inline void round_trip(cachetory_t cache, const char *key)
{
    cachetory_error_t error;
    cachetory_value_t value;
    EXPECT(cachetory_set(cache, key, CACHETORY_STRLEN, key, strlen(key), CACHETORY_NO_EXPIRY, 0, &error),
           CACHETORY_OK, &error);
    EXPECT(cachetory_get(cache, key, CACHETORY_STRLEN, &value, &error), CACHETORY_OK, &error);
    CHECK(value.len == strlen(key) && memcmp(value.data, key, value.len + 1) == 0);
    cachetory_value_free(&value);
}

#endif
