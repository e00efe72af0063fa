/* A thread of this process that is stopped, as a debugger stops one, by a child process that is told when to let go. */
#ifndef STOPPED_THREAD_H
#define STOPPED_THREAD_H

#include "check.h"

#include <errno.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <unistd.h>

struct holder {
    pid_t pid;
    int let_go;
};

/* Where a process may trace only its children, the holder may trace this one all the same. */
static inline void allow_holders(void)
{
    prctl(PR_SET_PTRACER, PR_SET_PTRACER_ANY, 0, 0, 0);
}

/* In the child: holds the thread and says so, and lets it go when the other end of `told` is closed. */
static inline void hold(pid_t thread, int says, int told)
{
    char byte = 'n';
    int status;
    if (ptrace(PTRACE_SEIZE, thread, NULL, NULL) == 0 && ptrace(PTRACE_INTERRUPT, thread, NULL, NULL) == 0 &&
        waitpid(thread, &status, __WALL) == thread && WIFSTOPPED(status))
        byte = 'y';
    if (write(says, &byte, 1) == 1)
        while (read(told, &byte, 1) == -1 && errno == EINTR)
            ;
    /* It goes on when its tracer has ended. */
    _exit(0);
}

static inline int stop_thread(pid_t thread, struct holder *holder)
{
    int says[2], told[2];
    char byte = 'n';
    CHECK(pipe(says) == 0 && pipe(told) == 0);
    pid_t pid = fork();
    CHECK(pid >= 0);
    if (pid == 0) {
        close(told[1]);
        hold(thread, says[1], told[0]);
    }
    close(says[1]);
    close(told[0]);
    CHECK(read(says[0], &byte, 1) == 1);
    close(says[0]);
    *holder = (struct holder){pid, told[1]};
    return byte == 'y';
}

static inline void let_go(struct holder *holder)
{
    int status;
    close(holder->let_go);
    CHECK(waitpid(holder->pid, &status, 0) == holder->pid);
}

#endif
