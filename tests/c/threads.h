/* What the kernel says of the library's threads. */
#ifndef THREADS_H
#define THREADS_H

#include "check.h"

#include <dirent.h>

#include "../support/pause.h"

/* What follows `field` in a thread's status, or nothing if there is no such thread any more. */
static inline int read_status(const char *thread, const char *field, char *out, size_t room)
{
    char path[300], line[256];
    snprintf(path, sizeof path, "/proc/self/task/%s/status", thread);
    FILE *file = fopen(path, "r");
    int found = 0;
    while (file && !found && fgets(line, sizeof line, file)) {
        if (strncmp(line, field, strlen(field)) == 0) {
            snprintf(out, room, "%s", line + strlen(field) + strspn(line + strlen(field), " \t"));
            out[strcspn(out, "\n")] = 0;
            found = 1;
        }
    }
    if (file)
        fclose(file);
    return found;
}

/* Calls `visit` for each thread whose name begins so; how many there are. */
static inline int each_thread(const char *name, void (*visit)(const char *thread, void *arg), void *arg)
{
    int count = 0;
    DIR *tasks = opendir("/proc/self/task");
    CHECK(tasks != NULL);
    for (struct dirent *entry; (entry = readdir(tasks)) != NULL;) {
        char found[64];
        if (entry->d_name[0] != '.' && read_status(entry->d_name, "Name:", found, sizeof found) &&
            strncmp(found, name, strlen(name)) == 0) {
            count++;
            if (visit)
                visit(entry->d_name, arg);
        }
    }
    closedir(tasks);
    return count;
}

static inline int io_threads(void)
{
    return each_thread("cachetory-io", NULL, NULL);
}

/* Until there are so many, and never more than one. A thread has its name only once it has run, and a call may be
   complete before. */
static inline void wait_for_io_threads(int count)
{
    for (int i = 0; i < 100000 && io_threads() != count; i++) {
        CHECK(io_threads() <= 1);
        before_the_next_look();
    }
    CHECK(io_threads() == count);
}

/* How often a thread has gone to sleep and been interrupted, and for how many ticks it has run, added to `arg`. */
static inline void add_work(const char *thread, void *arg)
{
    unsigned long long *sum = arg;
    const char *fields[] = {"voluntary_ctxt_switches:", "nonvoluntary_ctxt_switches:"};
    for (int i = 0; i < 2; i++) {
        char text[64];
        if (read_status(thread, fields[i], text, sizeof text))
            *sum += strtoull(text, NULL, 10);
    }
    char path[300];
    unsigned long long user, kernel;
    snprintf(path, sizeof path, "/proc/self/task/%s/stat", thread);
    FILE *file = fopen(path, "r");
    if (file && fscanf(file, "%*d (%*[^)]) %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %llu %llu", &user, &kernel) == 2)
        *sum += user + kernel;
    if (file)
        fclose(file);
}

/* Until the library's threads sleep. One that is woken now and then is never quiet for so long; one that sleeps is,
   however busy the machine. */
static inline void wait_until_quiet(void)
{
    for (int i = 0; i < 60; i++) {
        unsigned long long before = 0, after = 0;
        each_thread("cachetory-", add_work, &before);
        watch_for(500000);
        each_thread("cachetory-", add_work, &after);
        if (before == after)
            return;
    }
    CHECK(!"the library's threads sleep while there is nothing to do");
}

#endif
