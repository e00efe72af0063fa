/* What the delaying proxy and the harness tell each other, in a file that both have mapped: how many connections a
 * driver uses in its turn. */
#ifndef BENCH_FAR_H
#define BENCH_FAR_H

#include <stdatomic.h>

struct far_use {
    atomic_uint turn; /* counted up by the harness when a turn begins */
    atomic_uint seen; /* the last turn in which the proxy forwarded anything */
    atomic_uint used; /* connections over which something went in that turn */
    atomic_uint open; /* connections now */
    atomic_uint most; /* connections at once, ever */
};

/* A turn begins. Does nothing where there is no proxy. */
void far_begin_turn(void);

/* The connections that were used since; 0 where there is no proxy. */
unsigned far_used(void);

#endif
