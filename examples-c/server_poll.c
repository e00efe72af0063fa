/* An HTTP server on poll(2): the asynchronous calls in a loop of one's own.
 *
 *     server_poll [URL [PORT [SECONDS]]]
 *
 * GET, PUT and DELETE of /key are get, set and delete. Nothing waits here but poll. A request is submitted under a tag
 * that names its client; the queue's descriptor is polled beside the sockets; when it is readable the completions are
 * taken, and each becomes its client's answer. (server_uv.c and server_event.c are the same server on libuv and
 * libevent.)
 *
 * PORT 0, the default, is any that is free. SECONDS is how long a client may take for a request, and again for its
 * answer.
 */
#define _POSIX_C_SOURCE 200809L

#include "http.h"

#include <cachetory.h>

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum { MAX_CLIENTS = 1000, BATCH = 64, SPARE_FILES = 32, GRACE_MS = 5000, HOUR_MS = 60 * 60 * 1000 };

typedef enum state_t {
    FREE,
    READING, /* a request */
    WAITING, /* for the cache; one call per client: pipelined requests are answered in order and see each other */
    WRITING, /* the answer */
    LEAVING, /* all is said; what still arrives is dropped: closing over it would destroy the answer on its way */
} state_t;

typedef struct client_t {
    state_t state;
    uint32_t generation; /* of this place in the table: how many clients had it before */
    int64_t deadline;
    http_buffer_t input;
    http_request_t request; /* the one that is arriving */
    http_method_t method;   /* of the one that is answered, */
    bool keep_alive;        /* after which another may follow */
    char head[HTTP_MAX_ANSWER_HEAD];
    size_t head_len, sent;
    cachetory_value_t value; /* the answer's body, moved out of the completion that brought it */
} client_t;

enum { SIGNALS, QUEUE, LISTENER, CLIENTS };

static cachetory_t cache;
static cachetory_queue_t queue;
static client_t clients[MAX_CLIENTS];
/* A client's has the client's index; poll passes over negative ones. */
static struct pollfd polled[CLIENTS + MAX_CLIENTS];
static int64_t client_ms = 30 * 1000, accept_after, stop_at = INT64_MAX;
static int clients_count, most_clients = MAX_CLIENTS, listener, signal_pipe[2];

static int64_t now_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

static void fail(const char *what)
{
    fprintf(stderr, "server_poll: %s\n", what);
    exit(EXIT_FAILURE);
}

static bool stopping(void)
{
    return stop_at < INT64_MAX;
}

static struct pollfd *polled_for(client_t *client)
{
    return &polled[CLIENTS + (client - clients)];
}

/* A tag is an index and the generation that it is meant for, never a pointer: the client may be gone, and another one
 * in its place, when the completion comes. */
static uint64_t tag_of(const client_t *client)
{
    return (uint64_t)client->generation << 32 | (uint64_t)(client - clients);
}

static client_t *client_of(uint64_t tag)
{
    client_t *client = &clients[tag & UINT32_MAX];
    return client->state == WAITING && client->generation == tag >> 32 ? client : NULL;
}

static void enter(client_t *client, state_t state)
{
    client->state = state;
    polled_for(client)->events = state == WAITING ? 0 : state == WRITING ? POLLOUT : POLLIN;
    /* Whoever waits for the cache is bounded by the cache's own deadline. */
    client->deadline = state == WAITING ? INT64_MAX : now_ms() + client_ms;
}

/* A call that is outstanding goes on: a PUT that was sent is carried out though nobody waits for the answer. */
static void close_client(client_t *client)
{
    close(polled_for(client)->fd);
    *polled_for(client) = (struct pollfd){.fd = -1};
    cachetory_value_free(&client->value);
    free(client->input.data);
    *client = (client_t){.generation = client->generation + 1};
    clients_count--;
    accept_after = 0;
}

static void answer(client_t *client, int status, size_t body_len)
{
    client->head_len = http_answer(client->head, status, body_len, client->keep_alive);
    client->sent = 0;
    enter(client, WRITING);
}

static int failed(cachetory_status_t status)
{
    return status == CACHETORY_ERR_TIMEOUT ? 504 : 503;
}

/* A cache in trouble is said once, not once per request. */
static void note(cachetory_status_t status, const char *message)
{
    static bool trouble;
    if (trouble != (status < 0))
        fprintf(stderr, "server_poll: %s\n", status < 0 ? message : "the cache is well again");
    trouble = status < 0;
}

/* The library copies what it needs before it returns, so the request's bytes can be dropped at once. A submission that
 * fails (CACHETORY_ERR_BUSY: too many are outstanding) never completes, and is answered here and now. */
static void submit(client_t *client)
{
    const http_request_t *request = &client->request;
    cachetory_error_t error;
    cachetory_status_t status;
    client->method = request->method;
    client->keep_alive = request->keep_alive && !stopping();
    if (request->method == HTTP_PUT)
        status = cachetory_set_async(cache, queue, tag_of(client), request->key, request->key_len, request->body,
                                     request->body_len, HOUR_MS, 0, &error);
    else if (request->method == HTTP_DELETE)
        status = cachetory_delete_async(cache, queue, tag_of(client), request->key, request->key_len, &error);
    else
        status = cachetory_get_async(cache, queue, tag_of(client), request->key, request->key_len, &error);
    http_drop(&client->input, request->size);
    client->request = (http_request_t){0};
    if (status < 0)
        answer(client, failed(status), 0);
    else
        enter(client, WAITING);
}

/* The completion becomes the answer. */
static void complete(client_t *client, cachetory_completion_t *completion)
{
    bool get = client->method == HTTP_GET || client->method == HTTP_HEAD;
    int status = completion->status < 0             ? failed(completion->status)
        : completion->status == CACHETORY_NOT_FOUND ? 404
        : get                                       ? 200
                                                    : 204;
    if (stopping())
        client->keep_alive = false;
    answer(client, status, completion->value.len);
    if (client->method == HTTP_GET) {
        /* The value is needed for longer than the completion. Emptied there, it is not freed with it. */
        client->value = completion->value;
        completion->value = (cachetory_value_t){0};
    }
}

/* Sends what the socket takes, head and value as they lie there; whether that was all. */
static bool flush(client_t *client)
{
    while (client->sent < client->head_len + client->value.len) {
        size_t head = client->sent < client->head_len ? client->sent : client->head_len, value = client->sent - head;
        struct iovec parts[2] = {{client->head + head, client->head_len - head}, {NULL, 0}};
        if (client->value.len > 0)
            parts[1] = (struct iovec){(char *)client->value.data + value, client->value.len - value};
        struct msghdr message = {.msg_iov = parts, .msg_iovlen = 2};
        ssize_t sent = sendmsg(polled_for(client)->fd, &message, MSG_NOSIGNAL);
        if (sent >= 0) {
            client->sent += (size_t)sent;
        } else if (errno != EINTR) {
            if (errno != EAGAIN && errno != EWOULDBLOCK)
                close_client(client);
            return false;
        }
    }
    return true;
}

/* As far as it goes: through pipelined requests, until the client must wait for the cache, its socket or more bytes. */
static void advance(client_t *client)
{
    while (client->state == READING || client->state == WRITING) {
        if (client->state == WRITING) {
            if (!flush(client))
                return;
            cachetory_value_free(&client->value);
            if (!client->keep_alive)
                shutdown(polled_for(client)->fd, SHUT_WR);
            enter(client, client->keep_alive ? READING : LEAVING);
        } else {
            http_buffer_t *input = &client->input;
            int result = HTTP_MORE;
            if (input->len > 0)
                result = http_parse(input->data + input->start, input->len, &client->request);
            if (result == HTTP_MORE)
                return;
            if (result == HTTP_READY) {
                submit(client);
            } else {
                client->keep_alive = result == HTTP_CONTINUE;
                answer(client, result, 0);
            }
        }
    }
}

/* Takes completions until there are none: a full array may not have been all. */
static void reap(void)
{
    cachetory_completion_t completions[BATCH];
    cachetory_error_t error;
    size_t count;
    do {
        if (cachetory_queue_wait(queue, completions, BATCH, 0, &count, &error) < 0)
            fail(error.message);
        for (size_t i = 0; i < count; i++) {
            note(completions[i].status, completions[i].message);
            client_t *client = client_of(completions[i].tag);
            if (client != NULL) {
                complete(client, &completions[i]);
                advance(client);
            }
            cachetory_completion_free(&completions[i]);
        }
    } while (count > 0);
}

static void receive(client_t *client)
{
    char waste[4096], *to = waste;
    size_t room = sizeof waste;
    if (client->state == READING)
        to = http_room(&client->input, client->request.size, &room);
    ssize_t len = to != NULL ? recv(polled_for(client)->fd, to, room, 0) : 0;
    if (len > 0 && client->state == READING) {
        client->input.len += (size_t)len;
        advance(client);
    } else if (len == 0 || (len < 0 && errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR)) {
        close_client(client);
    }
}

static void set_flags(int fd)
{
    fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
    fcntl(fd, F_SETFD, FD_CLOEXEC);
}

static void accept_clients(void)
{
    for (int i = 0; i < most_clients; i++) {
        if (clients[i].state != FREE)
            continue;
        int fd = accept(listener, NULL, NULL);
        if (fd < 0) {
            /* Out of descriptors or memory: the one that is waiting would only wake poll again and again. */
            if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM)
                accept_after = now_ms() + 100;
            return;
        }
        set_flags(fd);
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int));
        polled[CLIENTS + i].fd = fd;
        enter(&clients[i], READING);
        clients_count++;
    }
}

/* Clients that are in the middle of something, or whose request is in the socket, have until `stop_at` to finish it. */
static void begin_to_stop(void)
{
    char byte;
    while (read(signal_pipe[0], &byte, 1) > 0)
        ;
    if (!stopping())
        stop_at = now_ms() + GRACE_MS;
    for (int i = 0; i < most_clients; i++) {
        if (clients[i].state == READING)
            receive(&clients[i]);
        if (clients[i].state == READING && clients[i].input.len == 0)
            close_client(&clients[i]);
    }
}

/* Closes whoever took too long. How long poll may sleep until there is something to do again. */
static int expire(void)
{
    int64_t now = now_ms(), next = now < accept_after && accept_after < stop_at ? accept_after : stop_at;
    for (int i = 0; i < most_clients; i++) {
        if (clients[i].state == FREE)
            continue;
        if (clients[i].deadline <= now)
            close_client(&clients[i]);
        else if (clients[i].deadline < next)
            next = clients[i].deadline;
    }
    return next == INT64_MAX ? -1 : next <= now ? 0 : next - now < INT_MAX ? (int)(next - now) : INT_MAX;
}

static void loop(void)
{
    while (!stopping() || (clients_count > 0 && now_ms() < stop_at)) {
        int timeout = expire();
        polled[LISTENER].fd = stopping() || clients_count == most_clients || now_ms() < accept_after ? -1 : listener;
        if (poll(polled, (nfds_t)(CLIENTS + most_clients), timeout) < 0) {
            if (errno != EINTR)
                fail(strerror(errno));
            continue;
        }
        if (polled[SIGNALS].revents != 0)
            begin_to_stop();
        if (polled[QUEUE].revents != 0)
            reap();
        for (int i = 0; i < most_clients; i++) {
            /* Whoever was closed meanwhile has no events any more, and new clients come last. */
            short events = polled[CLIENTS + i].revents;
            if (events == 0)
                continue;
            if (events & POLLERR || clients[i].state == WAITING)
                close_client(&clients[i]); /* gone: while it waits for the cache nothing else is reported */
            else if (clients[i].state == WRITING)
                advance(&clients[i]);
            else
                receive(&clients[i]);
        }
        if (polled[LISTENER].revents != 0)
            accept_clients();
    }
}

static void listen_on(size_t port)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((unsigned short)port)};
    socklen_t len = sizeof address;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    listener = socket(AF_INET, SOCK_STREAM, 0);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &(int){1}, sizeof(int));
    if (listener < 0 || bind(listener, (struct sockaddr *)&address, len) < 0 || listen(listener, SOMAXCONN) < 0
        || getsockname(listener, (struct sockaddr *)&address, &len) < 0)
        fail(strerror(errno));
    set_flags(listener);
    printf("listening on http://127.0.0.1:%d\n", ntohs(address.sin_port));
    fflush(stdout);
}

static void on_signal(int number)
{
    int saved = errno;
    ssize_t written = write(signal_pipe[1], &number, 1);
    (void)written; /* a full pipe wakes poll as well */
    errno = saved;
}

int main(int argc, char **argv)
{
    const char *url = argc > 1 ? argv[1] : getenv("CACHETORY_URL");
    size_t port = 0, seconds = 30;
    if ((argc > 2 && !http_number(argv[2], strlen(argv[2]), 65535, &port))
        || (argc > 3 && !http_number(argv[3], strlen(argv[3]), 3600, &seconds)))
        fail("usage: server_poll [URL [PORT [SECONDS]]]");
    client_ms = (int64_t)seconds * 1000;

    cachetory_error_t error;
    if (cachetory_open_url(url != NULL ? url : "memory://", &cache, &error) < 0 ||
        cachetory_queue_open(&queue, &error) < 0)
        fail(error.message);

    /* poll takes no more entries than there may be descriptors, of which the cache needs some as well. */
    struct rlimit files;
    if (getrlimit(RLIMIT_NOFILE, &files) == 0 && files.rlim_cur < MAX_CLIENTS + SPARE_FILES)
        most_clients = files.rlim_cur > 2 * SPARE_FILES ? (int)files.rlim_cur - SPARE_FILES : SPARE_FILES;

    if (pipe(signal_pipe) < 0)
        fail(strerror(errno));
    set_flags(signal_pipe[0]);
    set_flags(signal_pipe[1]);
    /* A second signal ends the process at once. */
    struct sigaction action = {.sa_handler = on_signal, .sa_flags = (int)SA_RESETHAND};
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);

    listen_on(port);
    for (size_t i = 0; i < CLIENTS + MAX_CLIENTS; i++)
        polled[i] = (struct pollfd){.fd = -1, .events = POLLIN};
    polled[SIGNALS].fd = signal_pipe[0];
    polled[QUEUE].fd = cachetory_queue_fd(queue); /* the queue's own: it is polled, and neither read nor closed */
    loop();

    close(listener);
    for (int i = 0; i < most_clients; i++)
        if (clients[i].state != FREE)
            close_client(&clients[i]);
    /* The queue first: what is still outstanding is cancelled, and frees itself. */
    cachetory_queue_close(queue);
    cachetory_close(cache);
    return EXIT_SUCCESS;
}
