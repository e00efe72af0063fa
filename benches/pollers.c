/*
 * How often threads that poll one queue are woken for nothing. Eight threads share a queue; a server of its own sends
 * each reply in many small pieces, so that whoever drives the link is at it for long.
 *
 *   pollers SOCKET        the path at which its server listens
 *
 * Prints a line for each of two cases, with tabs between fields: "pollers", the case, pieces of a reply, and for one
 * reply (the mean of several) how often poll returned, how often there was nothing to be had then, and the most that
 * one thread was woken for nothing in any of the replies.
 */
#define _GNU_SOURCE
#include <cachetory.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

enum { THREADS = 8, REPLIES = 20, PIECES = 200, PIECE = 16, PIECE_US = 100 };

struct counts {
    atomic_long woken;
    atomic_long nothing;
    long before; /* of `nothing`, when the present reply was asked for */
};

static cachetory_t cache;
static cachetory_queue_t queue;
static struct counts counts[THREADS];
static atomic_long completed;
static atomic_bool over;

static void die(const char *what)
{
    fprintf(stderr, "pollers: %s\n", what);
    exit(1);
}

static void pause_us(long us)
{
    nanosleep(&(struct timespec){us / 1000000, us % 1000000 * 1000}, NULL);
}

static void say(int fd, const char *data, size_t len)
{
    if (send(fd, data, len, MSG_NOSIGNAL) != (ssize_t)len)
        pthread_exit(NULL);
}

static void *serve(void *opaque)
{
    int fd = (int)(intptr_t)opaque;
    char text[4096];
    char piece[PIECE];
    memset(piece, 'v', sizeof piece);
    for (;;) {
        ssize_t n = recv(fd, text, sizeof text - 1, 0);
        if (n <= 0)
            break;
        text[n] = 0;
        if (strstr(text, "GET") == NULL) {
            bool ping = strstr(text, "PING") != NULL;
            say(fd, ping ? "+PONG\r\n" : "+OK\r\n", ping ? 7 : 5);
            continue;
        }
        say(fd, text, (size_t)snprintf(text, sizeof text, "$%d\r\n", PIECES * PIECE));
        for (int i = 0; i < PIECES; i++) {
            say(fd, piece, sizeof piece);
            pause_us(PIECE_US);
        }
        say(fd, "\r\n", 2);
    }
    close(fd);
    return NULL;
}

static void start(void *(*run)(void *), void *argument)
{
    pthread_t thread;
    if (pthread_create(&thread, NULL, run, argument) != 0)
        die("no thread to be had");
    pthread_detach(thread);
}

static void *accept_all(void *opaque)
{
    for (;;)
        start(serve, (void *)(intptr_t)accept((int)(intptr_t)opaque, NULL, NULL));
    return NULL;
}

static void listen_at(const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    snprintf(address.sun_path, sizeof address.sun_path, "%s", path);
    int listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    unlink(path);
    if (bind(listener, (struct sockaddr *)&address, sizeof address) != 0 || listen(listener, 16) != 0)
        die("cannot listen");
    start(accept_all, (void *)(intptr_t)listener);
}

/* What there is within this time; how many completions that was. */
static size_t take(int64_t timeout_ms)
{
    cachetory_completion_t done[4];
    cachetory_error_t error;
    size_t count = 0;
    if (cachetory_queue_wait(queue, done, 4, timeout_ms, &count, &error) < 0)
        die(error.message);
    for (size_t i = 0; i < count; i++) {
        if (done[i].status != CACHETORY_OK || done[i].value.len != PIECES * PIECE)
            die("a wrong answer");
        cachetory_completion_free(&done[i]);
    }
    atomic_fetch_add(&completed, (long)count);
    return count;
}

static void *poll_on(void *opaque)
{
    struct counts *mine = opaque;
    struct pollfd ready = {.fd = cachetory_queue_fd(queue), .events = POLLIN};
    while (!atomic_load(&over)) {
        if (poll(&ready, 1, 20) <= 0)
            continue;
        atomic_fetch_add(&mine->woken, 1);
        if (take(0) == 0)
            atomic_fetch_add(&mine->nothing, 1);
    }
    return NULL;
}

static void measure(const char *name, bool one_waits)
{
    pthread_t pollers[THREADS];
    int first = one_waits ? 1 : 0;
    long most = 0;
    long woken = 0;
    long nothing = 0;
    memset(counts, 0, sizeof counts);
    atomic_store(&over, false);
    atomic_store(&completed, 0);
    for (int i = first; i < THREADS; i++)
        if (pthread_create(&pollers[i], NULL, poll_on, &counts[i]) != 0)
            die("no thread to be had");
    /* The first reply is for whatever is done only once, and not counted. */
    for (int reply = 0; reply <= REPLIES; reply++) {
        cachetory_error_t error;
        if (cachetory_get_async(cache, queue, 1, "key", 3, &error) < 0)
            die(error.message);
        while (atomic_load(&completed) <= reply) {
            if (one_waits)
                take(100);
            else
                pause_us(1000);
        }
        /* Until all who were woken have looked. */
        pause_us(10000);
        for (int i = first; i < THREADS; i++) {
            long now = atomic_load(&counts[i].nothing);
            if (reply > 0 && now - counts[i].before > most)
                most = now - counts[i].before;
            nothing += reply > 0 ? now - counts[i].before : 0;
            counts[i].before = now;
            if (reply == 0)
                woken -= atomic_load(&counts[i].woken);
        }
    }
    atomic_store(&over, true);
    for (int i = first; i < THREADS; i++) {
        pthread_join(pollers[i], NULL);
        woken += atomic_load(&counts[i].woken);
    }
    printf("pollers\t%s\t%d\t%.1f\t%.1f\t%ld\n", name, PIECES, (double)woken / REPLIES, (double)nothing / REPLIES,
           most);
}

int main(int argc, char **argv)
{
    char url[512];
    cachetory_error_t error;
    if (argc != 2)
        die("usage: pollers SOCKET");
    signal(SIGPIPE, SIG_IGN);
    listen_at(argv[1]);
    snprintf(url, sizeof url, "unix://%s", argv[1]);
    if (cachetory_open_url(url, &cache, &error) < 0 || cachetory_queue_open(&queue, &error) < 0)
        die(error.message);
    if (cachetory_queue_fd(queue) < 0)
        die("no descriptor");
    measure("one waits in queue_wait, seven poll", true);
    measure("eight poll", false);
    cachetory_queue_close(queue);
    cachetory_close(cache);
    return 0;
}
