/* Every time that a test program lets time pass. No outcome may depend on how long that is: a busy machine makes it
   longer. */
#ifndef PAUSE_H
#define PAUSE_H

#include <time.h>

static inline void let_time_pass(long microseconds)
{
    struct timespec span = {microseconds / 1000000, microseconds % 1000000 * 1000};
    nanosleep(&span, NULL);
}

/* Between two looks of who polls. */
static inline void before_the_next_look(void)
{
    let_time_pass(1000);
}

/* Between two provocations: whether one comes at a bad moment is left to chance, and tried often. */
static inline void provoke_for(long microseconds)
{
    let_time_pass(microseconds);
}

/* What a thread does meanwhile is counted before and after. */
static inline void watch_for(long microseconds)
{
    let_time_pass(microseconds);
}

#endif
