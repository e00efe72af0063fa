/* glibc_dies: at which of its first allocations getaddrinfo(3) itself ends a process, without the library. It is why
   short_of_memory.c lets none of these fail. A line for each: its number, and the signal. */
#include "failing_malloc.h"
#include <stdio.h>
#include <sys/wait.h>
#include <unistd.h>

enum { PLACES = 40 };

int main(void)
{
    for (int place = 0; place < PLACES; place++) {
        int status;
        pid_t pid = fork();
        if (pid == 0) {
            struct addrinfo *found;
            /* What it says before it dies. */
            close(2);
            fail_allocations(0, place, 1);
            real_getaddrinfo()("localhost", NULL, NULL, &found);
            _exit(0);
        }
        waitpid(pid, &status, 0);
        if (WIFSIGNALED(status))
            printf("%d: signal %d\n", place, WTERMSIG(status));
    }
    return 0;
}
