/* How the harness ends where it cannot go on. */
#ifndef BENCH_FAIL_H
#define BENCH_FAIL_H

/* The driver that is being measured, or NULL. Where the program ends while there is one, its last message names it, and
 * the caller may go on without it. */
extern const char *driver_in_use;

/* Ends the program with a message. */
void die(const char *format, ...) __attribute__((format(printf, 1, 2), noreturn));

/* From now on a driver that crashes or hangs ends the program, and is named. */
void catch_fatal_signals(void);

#endif
