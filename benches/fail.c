#define _GNU_SOURCE
#include "fail.h"

#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

const char *driver_in_use;

/* For a signal handler too. */
static void name_driver_in_use(void)
{
    char text[128] = "harness: failed with ";
    if (driver_in_use == NULL)
        return;
    strncat(text, driver_in_use, sizeof text - strlen(text) - 2);
    strcat(text, "\n");
    if (write(STDERR_FILENO, text, strlen(text)) < 0)
        return;
}

static void on_fatal_signal(int signal)
{
    name_driver_in_use();
    _exit(128 + signal);
}

void catch_fatal_signals(void)
{
    static const int signals[] = {SIGALRM, SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGABRT};
    for (size_t i = 0; i < sizeof signals / sizeof *signals; i++)
        signal(signals[i], on_fatal_signal);
}

void die(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    fputs("harness: ", stderr);
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
    va_end(arguments);
    name_driver_in_use();
    _exit(1);
}
