/*
 * A server that is far away: what is sent through this proxy arrives later, in both directions.
 *
 *   delay_proxy MICROSECONDS SERVER [USE]
 *
 * It listens on a port of 127.0.0.1, which it prints, and connects each client to SERVER: the path of a Unix socket, or
 * a port of 127.0.0.1. Every byte is passed on so many microseconds after it came in, no sooner and in order. The
 * handshake of TCP is the kernel's and takes no time. On SIGUSR1 it prints how many connections there are, and how many
 * there were at most. USE is a file for what far.h describes.
 *
 * It shares the processors with client and server, so it does little: one thread, one queue for all that is under way
 * (whatever came in first is due first), and a Unix socket to the server, which costs half of what TCP does.
 */
#define _GNU_SOURCE
#include "far.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

enum { CLIENT, SERVER };

/* No more is read while so much waits to be passed on in the same direction. */
enum { MOST_HELD = 16 << 20 };

/* What is due in less than this is passed on at once: a wait of that length takes longer. */
enum { EARLY_NS = 5000 };

/* What came in with one read. None of length 0 ever does: that is the end of what this side sends. */
struct chunk {
    struct chunk *next;
    struct end *to;
    uint64_t due;
    size_t len;
    size_t sent;
    char data[];
};

struct queue {
    struct chunk *first;
    struct chunk **last;
};

/* One of a pair's two sockets. */
struct end {
    struct pair *pair;
    struct end *other;
    int fd;
    uint32_t watched;  /* the events that it is registered for */
    bool silent;       /* it sends no more */
    bool told;         /* that the other side sends no more */
    struct queue late; /* what is due, and finds no room in the socket */
    size_t held;       /* bytes that are to be sent here */
};

struct pair {
    struct pair *next; /* in `closed` */
    struct end ends[2];
    size_t chunks; /* of this pair, in all queues */
    bool closed;
    unsigned turn; /* the last in which something came in */
};

static struct pair *closed;
static struct queue under_way = {NULL, &under_way.first};
static struct far_use own_use;
static struct far_use *use = &own_use;
static int poller;
static uint64_t delay;
static volatile sig_atomic_t asked;

static void check(bool fine, const char *what)
{
    if (fine)
        return;
    perror(what);
    exit(1);
}

static uint64_t now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (uint64_t)time.tv_sec * 1000000000 + (uint64_t)time.tv_nsec;
}

static void push(struct queue *queue, struct chunk *chunk)
{
    chunk->next = NULL;
    *queue->last = chunk;
    queue->last = &chunk->next;
}

static struct chunk *pop(struct queue *queue)
{
    struct chunk *chunk = queue->first;
    queue->first = chunk->next;
    if (queue->first == NULL)
        queue->last = &queue->first;
    return chunk;
}

/* Registers the socket for what is to be done with it, or not at all: an error would be reported for ever. */
static void watch(struct end *end)
{
    bool reads = !end->silent && end->other->held < MOST_HELD;
    uint32_t wanted = (reads ? EPOLLIN : 0) | (end->late.first ? EPOLLOUT : 0);
    if (wanted == end->watched || end->pair->closed)
        return;
    int how = wanted == 0 ? EPOLL_CTL_DEL : end->watched == 0 ? EPOLL_CTL_ADD : EPOLL_CTL_MOD;
    struct epoll_event event = {.events = wanted, .data.ptr = end};
    check(epoll_ctl(poller, how, end->fd, &event) == 0, "epoll_ctl");
    end->watched = wanted;
}

/* `sweep` frees it. */
static void close_pair(struct pair *pair)
{
    if (pair->closed)
        return;
    pair->closed = true;
    pair->next = closed;
    closed = pair;
    close(pair->ends[CLIENT].fd);
    close(pair->ends[SERVER].fd);
    atomic_fetch_sub(&use->open, 1);
}

static void discard(struct chunk *chunk)
{
    chunk->to->pair->chunks--;
    free(chunk);
}

/* Sends as much as there is room for. False where something is left. */
static bool pass_on(struct chunk *chunk)
{
    struct end *to = chunk->to;
    struct pair *pair = to->pair;
    if (chunk->len == 0) {
        shutdown(to->fd, SHUT_WR);
        to->told = true;
        if (to->other->told)
            close_pair(pair);
        return true;
    }
    ssize_t n = send(to->fd, chunk->data + chunk->sent, chunk->len - chunk->sent, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (n < 0 && errno != EAGAIN) {
        close_pair(pair);
        return true;
    }
    if (n > 0) {
        chunk->sent += (size_t)n;
        to->held -= (size_t)n;
    }
    return chunk->sent == chunk->len;
}

static void pass_on_late(struct end *end)
{
    while (end->late.first && !end->pair->closed && pass_on(end->late.first))
        discard(pop(&end->late));
    watch(end);
    watch(end->other);
}

static void pass_on_due(void)
{
    uint64_t until = under_way.first ? now() + EARLY_NS : 0;
    while (under_way.first && under_way.first->due <= until) {
        struct chunk *chunk = pop(&under_way);
        struct end *to = chunk->to;
        bool was_full = to->held >= MOST_HELD;
        if (to->pair->closed) {
            discard(chunk);
        } else if (to->late.first || !pass_on(chunk)) {
            push(&to->late, chunk);
            watch(to);
        } else {
            discard(chunk);
        }
        if (was_full)
            watch(to->other);
    }
}

/* This pair's connection is one of those that are used in the present turn. */
static void count_use(struct pair *pair)
{
    unsigned turn = atomic_load_explicit(&use->turn, memory_order_relaxed);
    if (pair->turn == turn)
        return;
    pair->turn = turn;
    if (atomic_load(&use->seen) != turn) {
        atomic_store(&use->used, 0);
        atomic_store(&use->seen, turn);
    }
    atomic_fetch_add(&use->used, 1);
}

static void take_in(struct end *from)
{
    static char buffer[256 << 10];
    ssize_t n = recv(from->fd, buffer, sizeof buffer, MSG_DONTWAIT);
    if (n < 0) {
        if (errno != EAGAIN && errno != EINTR)
            close_pair(from->pair);
        return;
    }
    struct chunk *chunk = malloc(sizeof *chunk + (size_t)n);
    check(chunk != NULL, "malloc");
    chunk->to = from->other;
    chunk->due = now() + delay;
    chunk->len = (size_t)n;
    chunk->sent = 0;
    memcpy(chunk->data, buffer, (size_t)n);
    push(&under_way, chunk);
    from->pair->chunks++;
    from->other->held += (size_t)n;
    from->silent = n == 0;
    if (n > 0)
        count_use(from->pair);
    watch(from);
}

static int dial(const char *server)
{
    int fd;
    if (server[0] == '/') {
        struct sockaddr_un address = {.sun_family = AF_UNIX};
        snprintf(address.sun_path, sizeof address.sun_path, "%s", server);
        fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
        if (connect(fd, (struct sockaddr *)&address, sizeof address) == 0)
            return fd;
    } else {
        struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(server))};
        address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int));
        if (connect(fd, (struct sockaddr *)&address, sizeof address) == 0)
            return fd;
    }
    close(fd);
    return -1;
}

static void welcome(int listener, const char *server)
{
    for (;;) {
        int client = accept4(listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
        if (client < 0)
            return;
        int fd = dial(server);
        if (fd < 0) {
            close(client);
            continue;
        }
        setsockopt(client, IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int));
        struct pair *pair = calloc(1, sizeof *pair);
        check(pair != NULL, "calloc");
        pair->turn = atomic_load(&use->turn) - 1;
        for (int i = CLIENT; i <= SERVER; i++) {
            struct end *end = &pair->ends[i];
            *end = (struct end){.pair = pair, .other = &pair->ends[1 - i], .fd = i == CLIENT ? client : fd};
            end->late.last = &end->late.first;
        }
        watch(&pair->ends[CLIENT]);
        watch(&pair->ends[SERVER]);
        unsigned open = atomic_fetch_add(&use->open, 1) + 1;
        if (open > atomic_load(&use->most))
            atomic_store(&use->most, open);
    }
}

/* Frees the closed pairs to which nothing points any more: not between two events of one look. */
static void sweep(void)
{
    for (struct pair **at = &closed; *at;) {
        struct pair *pair = *at;
        for (int i = CLIENT; i <= SERVER; i++)
            while (pair->ends[i].late.first)
                discard(pop(&pair->ends[i].late));
        if (pair->chunks > 0) {
            at = &pair->next;
            continue;
        }
        *at = pair->next;
        free(pair);
    }
}

static int listen_anywhere(void)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof address;
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    check(bind(listener, (struct sockaddr *)&address, len) == 0 && listen(listener, 4096) == 0, "listen");
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = NULL};
    check(epoll_ctl(poller, EPOLL_CTL_ADD, listener, &event) == 0, "epoll_ctl");
    getsockname(listener, (struct sockaddr *)&address, &len);
    printf("%d\n", ntohs(address.sin_port));
    fflush(stdout);
    return listener;
}

static void map_use(const char *path)
{
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    check(fd >= 0 && ftruncate(fd, sizeof *use) == 0, path);
    use = mmap(NULL, sizeof *use, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    check(use != MAP_FAILED, path);
}

static void ask(int signal)
{
    (void)signal;
    asked = 1;
}

/* Sleeps until something comes in, or is due. epoll_pwait2 would do both at once, but not everybody has it. */
static int look(struct epoll_event *events, int room)
{
    struct pollfd ready = {.fd = poller, .events = POLLIN};
    uint64_t until = under_way.first ? under_way.first->due : UINT64_MAX;
    uint64_t time = until < UINT64_MAX ? now() : 0;
    if (until > time + EARLY_NS) {
        uint64_t rest = until - time;
        struct timespec timeout = {(time_t)(rest / 1000000000), (long)(rest % 1000000000)};
        ppoll(&ready, 1, until < UINT64_MAX ? &timeout : NULL, NULL);
    }
    return epoll_wait(poller, events, room, 0);
}

int main(int argc, char **argv)
{
    if (argc < 3 || argc > 4) {
        fputs("usage: delay_proxy MICROSECONDS SERVER [USE]\n", stderr);
        return 2;
    }
    struct sigaction action = {.sa_handler = ask};
    sigaction(SIGUSR1, &action, NULL);
    signal(SIGPIPE, SIG_IGN);
    /* Timeouts are otherwise up to 50 microseconds late. */
    prctl(PR_SET_TIMERSLACK, 1UL, 0, 0, 0);
    delay = (uint64_t)atoll(argv[1]) * 1000;
    if (argc == 4)
        map_use(argv[3]);
    poller = epoll_create1(EPOLL_CLOEXEC);
    int listener = listen_anywhere();
    for (;;) {
        struct epoll_event events[256];
        int count = look(events, sizeof events / sizeof *events);
        for (int i = 0; i < count; i++) {
            struct end *end = events[i].data.ptr;
            if (end == NULL) {
                welcome(listener, argv[2]);
                continue;
            }
            if (events[i].events & EPOLLOUT)
                pass_on_late(end);
            if (end->pair->closed || !(events[i].events & ~(uint32_t)EPOLLOUT))
                continue;
            if (end->silent)
                close_pair(end->pair);
            else
                take_in(end);
        }
        pass_on_due();
        sweep();
        if (asked) {
            asked = 0;
            printf("open %u most %u\n", atomic_load(&use->open), atomic_load(&use->most));
            fflush(stdout);
        }
    }
}
