/* Child processes, each with a guard against hanging. */
#ifndef PROCESSES_H
#define PROCESSES_H

#include "check.h"

#include <sys/wait.h>
#include <unistd.h>

/* A process must end by itself before this. */
enum { GUARD_SECONDS = 240 };

/* Does `body` in a child. */
static inline pid_t in_child(void (*body)(void *), void *arg)
{
    fflush(NULL);
    pid_t pid = fork();
    CHECK(pid >= 0);
    if (pid == 0) {
        alarm(GUARD_SECONDS);
        body(arg);
        exit(0);
    }
    return pid;
}

static inline void wait_for(pid_t pid)
{
    int status;
    CHECK(waitpid(pid, &status, 0) == pid);
    if (WIFSIGNALED(status))
        fprintf(stderr, "a child died of signal %d\n", WTERMSIG(status));
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

#endif
