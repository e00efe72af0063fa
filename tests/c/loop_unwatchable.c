/* loop_unwatchable URL: a loop whose thread is refused room for another link in an epoll instance, and later every
   descriptor that an instance consists of: its calls go on. Where a thread may not be refused anything, the program
   says so. */
#define _GNU_SOURCE

#include "check_async.h"

#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <stddef.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

enum { CALLS = 500, WINDOW = 20, CACHES = 3 };

/* From now on this thread, and those that it starts, get this error of a system call: of all, or where the second
   argument is `operation`. */
static int refuse(long number, long operation, int error)
{
    struct sock_filter filter[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (unsigned)number, 0, 3),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args[1])),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (unsigned)operation, 0, operation < 0 ? 0 : 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | (unsigned)error),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {sizeof filter / sizeof *filter, filter};
    return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 && prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0;
}

static void work(cachetory_t cache, cachetory_queue_t queue)
{
    struct pollfd readable = {.fd = cachetory_queue_fd(queue), .events = POLLIN};
    char seen[CALLS] = {0};
    int next_call = 0, done = 0;
    while (done < CALLS) {
        cachetory_completion_t completions[7];
        cachetory_error_t error;
        size_t count;
        for (; next_call < CALLS && next_call - done < WINDOW; next_call++)
            submit_get(cache, queue, (uint64_t)next_call, "k");
        if (readable.fd >= 0)
            CHECK(poll(&readable, 1, WAIT_MS) == 1);
        EXPECT(cachetory_queue_wait(queue, completions, 7, readable.fd >= 0 ? 0 : WAIT_MS, &count, &error),
               CACHETORY_OK, &error);
        CHECK(count > 0 || readable.fd >= 0);
        for (size_t i = 0; i < count; i++) {
            CHECK(completions[i].status == CACHETORY_OK && completions[i].tag < CALLS && !seen[completions[i].tag]);
            seen[completions[i].tag] = 1;
            cachetory_completion_free(&completions[i]);
        }
        done += (int)count;
    }
}

int main(int argc, char **argv)
{
    cachetory_t caches[CACHES];
    CHECK(argc == 2);
    cachetory_t first = open_cache(argv[1]);
    round_trip(first, "k");
    for (int i = 0; i < CACHES; i++)
        caches[i] = open_cache(argv[1]);
    cachetory_queue_t queue = open_queue(), early = open_queue();
    CHECK(cachetory_queue_fd(queue) >= 0 && cachetory_queue_fd(early) >= 0);
    /* The I/O thread is there by now, and may have what this one may not. */
    work(first, queue);
    if (!refuse(SYS_epoll_ctl, EPOLL_CTL_ADD, ENOSPC)) {
        printf("SKIPPED: links that cannot be watched, for this process may not be refused system calls\n");
        return 0;
    }
    struct epoll_event event = {.events = EPOLLIN};
    int epoll = epoll_create1(EPOLL_CLOEXEC);
    CHECK(epoll_ctl(epoll, EPOLL_CTL_ADD, 0, &event) == -1 && errno == ENOSPC);
    for (int round = 0; round < 3; round++) {
        work(first, queue);
        work(first, early);
        for (int i = 0; i < CACHES; i++) {
            work(caches[i], queue);
            work(caches[i], early);
        }
    }
    cachetory_queue_t late = open_queue();
    work(first, late);
    CHECK(refuse(SYS_epoll_create1, -1, EMFILE) && refuse(SYS_eventfd2, -1, EMFILE) &&
          refuse(SYS_timerfd_create, -1, EMFILE));
    cachetory_queue_t last;
    cachetory_error_t error;
    cachetory_status_t opened = cachetory_queue_open(&last, &error);
    if (opened == CACHETORY_OK)
        work(first, last);
    else
        CHECK(opened == CACHETORY_ERR_NO_MEMORY && error.flags == CACHETORY_ERROR_RETRYABLE);
    work(caches[0], queue);
    CHECK(cachetory_queue_close(queue) == CACHETORY_OK && cachetory_queue_close(early) == CACHETORY_OK);
    CHECK(cachetory_queue_close(late) == CACHETORY_OK && (opened || cachetory_queue_close(last) == CACHETORY_OK));
    for (int i = 0; i < CACHES; i++)
        CHECK(cachetory_close(caches[i]) == CACHETORY_OK);
    CHECK(cachetory_close(first) == CACHETORY_OK);
    return 0;
}
