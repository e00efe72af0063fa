/* loop_fork URL PORT: loops across forks. In a child the parent's queue is closed, its descriptor is none, and nothing
   that the child does takes anything from the parent's loop; the child has a loop of its own; and a link that the
   parent closes leaves nothing in its descriptor, although a child lives on that has inherited the socket. PORT is the
   port of the server of URL, where its connections can be ended. */
#define _POSIX_C_SOURCE 200809L

#include "check_async.h"
#include "processes.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include "../support/pause.h"

enum { CALLS = 40, ROUNDS = 20, CHILDREN = 5, MANY = 40 };

static const char *url;
static int port;

struct loop {
    cachetory_t cache;
    cachetory_queue_t queue;
    int fd, epoll;
    int is_edge_triggered;
};

static struct loop open_loop(cachetory_t cache, int is_edge_triggered)
{
    struct loop loop = {cache, open_queue(), 0, epoll_create1(EPOLL_CLOEXEC), is_edge_triggered};
    struct epoll_event event = {.events = is_edge_triggered ? EPOLLIN | EPOLLET : EPOLLIN};
    loop.fd = cachetory_queue_fd(loop.queue);
    CHECK(loop.fd >= 0 && loop.epoll >= 0 && epoll_ctl(loop.epoll, EPOLL_CTL_ADD, loop.fd, &event) == 0);
    return loop;
}

static void close_loop(struct loop *loop)
{
    close(loop->epoll);
    CHECK(cachetory_queue_close(loop->queue) == CACHETORY_OK);
}

static int turn(struct loop *loop, int expects)
{
    cachetory_completion_t completions[8];
    cachetory_error_t error;
    size_t count;
    int all = 0;
    do {
        EXPECT(cachetory_queue_wait(loop->queue, completions, 8, 0, &count, &error), CACHETORY_OK, &error);
        for (size_t i = 0; i < count; i++) {
            CHECK(completions[i].status == expects);
            cachetory_completion_free(&completions[i]);
        }
        all += (int)count;
    } while (count > 0);
    return all;
}

static void await(struct loop *loop)
{
    struct epoll_event event;
    CHECK(epoll_wait(loop->epoll, &event, 1, WAIT_MS) == 1);
}

static void submit(struct loop *loop, int calls)
{
    for (int tag = 0; tag < calls; tag++)
        submit_set(loop->cache, loop->queue, (uint64_t)tag, "k");
}

static void take(struct loop *loop, int calls)
{
    int done = 0;
    while (done < calls) {
        await(loop);
        done += turn(loop, CACHETORY_OK);
    }
    CHECK(done == calls);
}

static void work(struct loop *loop)
{
    for (int round = 0; round < ROUNDS; round++) {
        submit(loop, CALLS);
        take(loop, CALLS);
    }
}

/* Until the descriptor is not readable although nothing has changed: what is gone does not make it so for good. */
static void comes_to_rest(struct loop *loop)
{
    struct pollfd readable = {.fd = loop->fd, .events = POLLIN};
    for (int i = 0; i < 1000; i++) {
        if (poll(&readable, 1, 100) == 0)
            return;
        CHECK(turn(loop, CACHETORY_OK) == 0);
    }
    CHECK(!"a descriptor that comes to rest");
}

static void end_all_connections(void)
{
    static const char command[] = "CLIENT KILL TYPE normal SKIPME yes\r\n";
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    char answer;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int connection = socket(AF_INET, SOCK_STREAM, 0);
    CHECK(connection >= 0 && connect(connection, (struct sockaddr *)&address, sizeof address) == 0);
    CHECK(write(connection, command, sizeof command - 1) == sizeof command - 1);
    CHECK(read(connection, &answer, 1) == 1 && answer == ':');
    close(connection);
}

static void closed_here(struct loop *parent)
{
    cachetory_error_t error;
    cachetory_completion_t completion;
    size_t count;
    CHECK(cachetory_queue_fd(parent->queue) == -1);
    EXPECT(cachetory_queue_wait(parent->queue, &completion, 1, 0, &count, &error), CACHETORY_ERR_CLOSED, &error);
    EXPECT(cachetory_queue_wait(parent->queue, &completion, 1, CACHETORY_NO_EXPIRY, &count, &error),
           CACHETORY_ERR_CLOSED, &error);
    EXPECT(cachetory_get_async(parent->cache, parent->queue, 1, "k", 1, &error), CACHETORY_ERR_CLOSED, &error);
    /* A descriptor that has no identity may be the host's by now, so what was inherited is left alone. */
    CHECK(fcntl(parent->fd, F_GETFD) != -1);
}

/* Everything that a child may do, the parent's loop in the middle of its work or not. */
static void busy_child(void *arg)
{
    struct loop *parent = arg;
    closed_here(parent);
    for (int is_edge_triggered = 0; is_edge_triggered < 2; is_edge_triggered++) {
        struct loop own = open_loop(parent->cache, is_edge_triggered);
        work(&own);
        comes_to_rest(&own);
        CHECK(cachetory_queue_fd(own.queue) == own.fd);
        close_loop(&own);
    }
    CHECK(cachetory_queue_close(parent->queue) == CACHETORY_ERR_CLOSED);
    CHECK(cachetory_close(parent->cache) == CACHETORY_OK);
    CHECK(cachetory_close(parent->cache) == CACHETORY_ERR_CLOSED);
    CHECK(cachetory_queue_fd(parent->queue) == -1);
}

static void child_that_only_closes(void *arg)
{
    struct loop *parent = arg;
    CHECK(cachetory_queue_close(parent->queue) == CACHETORY_ERR_CLOSED);
    CHECK(cachetory_close(parent->cache) == CACHETORY_OK);
}

/* Puts something else where each inherited epoll instance, eventfd and timer is; which numbers those are. */
static int replace_instances(int *fds)
{
    int count = 0, null = open("/dev/null", O_RDONLY);
    for (int fd = 3; fd < 256; fd++) {
        char path[64], name[64] = "";
        snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
        if (readlink(path, name, sizeof name - 1) > 0 && strncmp(name, "anon_inode:", 11) == 0) {
            CHECK(count < MANY && dup2(null, fd) == fd);
            fds[count++] = fd;
        }
    }
    close(null);
    return count;
}

/* A number that was the library's is the child's own by now: what has no identity cannot be told from it. */
static void child_that_has_others_in_their_place(void *arg)
{
    struct loop *parent = arg;
    struct stat of_null, found;
    int fds[MANY], count = replace_instances(fds);
    CHECK(count > 0 && stat("/dev/null", &of_null) == 0);
    closed_here(parent);
    struct loop own = open_loop(parent->cache, 1);
    work(&own);
    CHECK(cachetory_queue_close(parent->queue) == CACHETORY_ERR_CLOSED);
    CHECK(cachetory_close(parent->cache) == CACHETORY_OK);
    close_loop(&own);
    for (int i = 0; i < count; i++)
        CHECK(fstat(fds[i], &found) == 0 && found.st_ino == of_null.st_ino && found.st_rdev == of_null.st_rdev);
}

static void side_by_side(int is_edge_triggered)
{
    void (*const children[])(void *) = {busy_child, child_that_only_closes, child_that_has_others_in_their_place};
    for (int which = 0; which < 3; which++) {
        struct loop loop = open_loop(open_cache(url), is_edge_triggered);
        work(&loop);
        for (int i = 0; i < CHILDREN; i++) {
            /* With calls in flight, with completions that lie there, and with neither. */
            int calls = i % 3 < 2 ? CALLS : 0;
            submit(&loop, calls);
            if (i % 3 == 1)
                CHECK(poll(&(struct pollfd){.fd = loop.fd, .events = POLLIN}, 1, WAIT_MS) == 1);
            pid_t pid = in_child(children[which], &loop);
            take(&loop, calls);
            work(&loop);
            wait_for(pid);
            work(&loop);
            comes_to_rest(&loop);
        }
        CHECK(cachetory_close(loop.cache) == CACHETORY_OK);
        close_loop(&loop);
    }
}

/* Lives on, and with it a copy of every descriptor that it has inherited, until it is killed. */
static pid_t child_that_stays(void)
{
    fflush(NULL);
    pid_t pid = fork();
    CHECK(pid >= 0);
    if (pid == 0) {
        alarm(GUARD_SECONDS);
        for (;;)
            pause();
    }
    return pid;
}

static void end_child(pid_t pid)
{
    int status;
    CHECK(kill(pid, SIGKILL) == 0 && waitpid(pid, &status, 0) == pid);
}

/* A socket that a child keeps open stays in an epoll instance when the parent only closes it. */
static void closed_links_do_not_haunt(int is_edge_triggered)
{
    for (int round = 0; round < 5; round++) {
        struct loop loop = open_loop(open_cache(url), is_edge_triggered);
        work(&loop);
        pid_t pid = child_that_stays();
        /* The server ends its link: the loop sees that and closes the socket here. */
        end_all_connections();
        comes_to_rest(&loop);
        work(&loop);
        comes_to_rest(&loop);
        /* The cache closes its link, and the server ends it afterwards. */
        CHECK(cachetory_close(loop.cache) == CACHETORY_OK);
        pid_t other = child_that_stays();
        end_all_connections();
        comes_to_rest(&loop);
        loop.cache = open_cache(url);
        work(&loop);
        comes_to_rest(&loop);
        /* A link with calls in flight. */
        submit(&loop, CALLS);
        pid_t third = child_that_stays();
        CHECK(cachetory_close(loop.cache) == CACHETORY_OK);
        cachetory_completion_t completion;
        for (int i = 0; i < CALLS; i++) {
            completion = next(loop.queue);
            CHECK(completion.status == CACHETORY_OK || completion.status == CACHETORY_ERR_CANCELLED);
            cachetory_completion_free(&completion);
        }
        end_all_connections();
        comes_to_rest(&loop);
        end_child(pid);
        end_child(other);
        end_child(third);
        comes_to_rest(&loop);
        close_loop(&loop);
    }
}

/* The queue is closed while a child lives that has a copy of its descriptor. */
static void a_closed_queue_wakes_its_duplicates(void)
{
    struct loop loop = open_loop(open_cache(url), 1);
    work(&loop);
    int duplicate = dup(loop.fd);
    pid_t pid = child_that_stays();
    close_loop(&loop);
    struct pollfd readable = {.fd = duplicate, .events = POLLIN};
    for (int i = 0; i < 3; i++)
        CHECK(poll(&readable, 1, 0) == 1);
    end_child(pid);
    CHECK(poll(&readable, 1, 0) == 1);
    close(duplicate);
    CHECK(cachetory_close(loop.cache) == CACHETORY_OK);
}

int main(int argc, char **argv)
{
    CHECK(argc == 3);
    url = argv[1];
    port = atoi(argv[2]);
    for (int is_edge_triggered = 0; is_edge_triggered < 2; is_edge_triggered++) {
        side_by_side(is_edge_triggered);
        closed_links_do_not_haunt(is_edge_triggered);
    }
    a_closed_queue_wakes_its_duplicates();
    return 0;
}
