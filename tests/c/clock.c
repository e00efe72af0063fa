/* clock: memory:// while the wall clock is set. The program's own clock_gettime stands before the C library's, also for
   the library. */
#define _GNU_SOURCE

#include "check.h"

#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum { HOUR = 3600 };

/* Seconds by which the wall clock is wrong. */
static volatile long shift;

int clock_gettime(clockid_t clock, struct timespec *now)
{
    int result = (int)syscall(SYS_clock_gettime, clock, now);
    if (clock == CLOCK_REALTIME)
        now->tv_sec += shift;
    return result;
}

static int is_there(cachetory_t cache, const char *key)
{
    cachetory_value_t value;
    cachetory_status_t status = cachetory_get(cache, key, CACHETORY_STRLEN, &value, NULL);
    CHECK(status == CACHETORY_OK || status == CACHETORY_NOT_FOUND);
    cachetory_value_free(&value);
    return status == CACHETORY_OK;
}

int main(void)
{
    cachetory_t cache = open_cache("memory://");
    cachetory_error_t error;
    for (shift = -2 * HOUR; shift <= 2 * HOUR; shift += 2 * HOUR) {
        long before = shift;
        round_trip(cache, "named");
        EXPECT(cachetory_set(cache, "lives", 5, "v", 1, HOUR * 1000, 0, &error), CACHETORY_OK, &error);
        int64_t in_an_hour = (time(NULL) + before + HOUR) * 1000LL;
        EXPECT(cachetory_expire_at(cache, "named", 5, in_an_hour, &error), CACHETORY_OK, &error);
        CHECK(is_there(cache, "lives") && is_there(cache, "named"));
        shift = before - 2 * HOUR;
        CHECK(is_there(cache, "lives") && is_there(cache, "named"));
        shift = before + 2 * HOUR;
        CHECK(is_there(cache, "lives") && !is_there(cache, "named"));
        shift = before;
    }
    CHECK(cachetory_close(cache) == CACHETORY_OK);
    return 0;
}
