/* An HTTP server on libevent: the asynchronous calls in libevent's loop.
 *
 *     server_event [URL [PORT [SECONDS]]]
 *
 * GET, PUT and DELETE of /key are get, set and delete. A request is submitted under a tag that names its client. The
 * queue's descriptor has an event; when that calls, the completions are taken, and each becomes its client's answer.
 * (server_poll.c is the same server on a loop of its own, server_uv.c on libuv.)
 *
 * PORT 0, the default, is any that is free. SECONDS is how long a client may take for a request, and again for its
 * answer.
 */
#define _POSIX_C_SOURCE 200809L

#include "http.h"

#include <cachetory.h>

#include <arpa/inet.h>
#include <event2/buffer.h>
#include <event2/bufferevent.h>
#include <event2/event.h>
#include <event2/listener.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdint.h>
#include <sys/socket.h>

enum { MAX_CLIENTS = 1000, BATCH = 64, GRACE_S = 5, HOUR_MS = 60 * 60 * 1000 };

typedef enum state_t {
    FREE,
    READING, /* a request */
    WAITING, /* for the cache; one call per client: pipelined requests are answered in order and see each other */
    WRITING, /* the answer */
    LEAVING, /* all is said; what still arrives is dropped: closing over it would destroy the answer on its way */
} state_t;

typedef struct client_t {
    struct bufferevent *stream;
    struct event *timer;
    state_t state;
    uint32_t generation; /* of this place in the table: how many clients had it before */
    bool ended;          /* it sends no more */
    bool keep_alive;     /* after this answer another may follow */
    http_request_t request; /* the one that is arriving */
    http_method_t method;   /* of the one that is answered */
} client_t;

static cachetory_t cache;
static cachetory_queue_t queue;
static client_t clients[MAX_CLIENTS];
static int clients_count;
static struct timeval client_time = {.tv_sec = 30};
static bool stopping;

static struct event_base *base;
static struct evconnlistener *listener;
static struct event *accept_again;

static void fail(const char *what)
{
    fprintf(stderr, "server_event: %s\n", what);
    exit(EXIT_FAILURE);
}

static void *must(void *made)
{
    if (made == NULL)
        fail("libevent is out of memory");
    return made;
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

/* A call that is outstanding goes on, a PUT that was begun is carried out; but from now on its tag names nobody. */
static void close_client(client_t *client)
{
    if (client->stream != NULL)
        bufferevent_free(client->stream); /* and with it the value that it was sending */
    if (client->timer != NULL)
        event_free(client->timer);
    *client = (client_t){.generation = client->generation + 1};
    clients_count--;
    if (!stopping)
        evconnlistener_enable(listener);
    else if (clients_count == 0)
        event_base_loopbreak(base);
}

static void on_time(evutil_socket_t fd, short events, void *argument)
{
    (void)fd, (void)events;
    close_client(argument);
}

static void enter(client_t *client, state_t state)
{
    client->state = state;
    /* Whoever waits for the cache is bounded by the cache's own deadline. */
    if (state == WAITING)
        event_del(client->timer);
    else
        event_add(client->timer, &client_time);
}

/* libevent has sent the value, or has thrown it away. */
static void on_sent(const void *data, size_t len, void *owner)
{
    cachetory_value_t value = {.data = data, .len = len, .owner = owner};
    cachetory_value_free(&value);
}

/* Takes the value, which libevent sends from where it lies. */
static void answer(client_t *client, int status, size_t body_len, cachetory_value_t value)
{
    char head[HTTP_MAX_ANSWER_HEAD];
    struct evbuffer *output = bufferevent_get_output(client->stream);
    bool well = evbuffer_add(output, head, http_answer(head, status, body_len, client->keep_alive)) == 0;
    if (well && value.len > 0)
        well = evbuffer_add_reference(output, value.data, value.len, on_sent, value.owner) == 0;
    if (!well || value.len == 0)
        cachetory_value_free(&value);
    if (well)
        enter(client, WRITING);
    else
        close_client(client);
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
        fprintf(stderr, "server_event: %s\n", status < 0 ? message : "the cache is well again");
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
    client->keep_alive = request->keep_alive && !stopping;
    if (request->method == HTTP_PUT)
        status = cachetory_set_async(cache, queue, tag_of(client), request->key, request->key_len, request->body,
                                     request->body_len, HOUR_MS, 0, &error);
    else if (request->method == HTTP_DELETE)
        status = cachetory_delete_async(cache, queue, tag_of(client), request->key, request->key_len, &error);
    else
        status = cachetory_get_async(cache, queue, tag_of(client), request->key, request->key_len, &error);
    evbuffer_drain(bufferevent_get_input(client->stream), request->size);
    client->request = (http_request_t){0};
    if (status < 0)
        answer(client, failed(status), 0, (cachetory_value_t){0});
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
    cachetory_value_t value = {0};
    size_t len = completion->value.len;
    if (client->method == HTTP_GET) {
        /* The value is needed for longer than the completion. Emptied there, it is not freed with it. */
        value = completion->value;
        completion->value = (cachetory_value_t){0};
    }
    if (stopping)
        client->keep_alive = false;
    answer(client, status, len, value);
}

/* Takes completions until there are none: a full array may not have been all. */
static void on_queue(evutil_socket_t fd, short events, void *argument)
{
    cachetory_completion_t completions[BATCH];
    cachetory_error_t error;
    size_t count;
    (void)fd, (void)events, (void)argument;
    do {
        if (cachetory_queue_wait(queue, completions, BATCH, 0, &count, &error) < 0)
            fail(error.message);
        for (size_t i = 0; i < count; i++) {
            note(completions[i].status, completions[i].message);
            client_t *client = client_of(completions[i].tag);
            if (client != NULL)
                complete(client, &completions[i]);
            cachetory_completion_free(&completions[i]);
        }
    } while (count > 0);
}

/* Looks for the next request in what has arrived. */
static void advance(client_t *client)
{
    struct evbuffer *input = bufferevent_get_input(client->stream);
    size_t len = evbuffer_get_length(input);
    char *data = len > 0 ? (char *)evbuffer_pullup(input, -1) : NULL;
    int result = data != NULL ? http_parse(data, len, &client->request) : HTTP_MORE;
    /* Once the request's length is known: not called before the request is whole, and no more is read than that. */
    size_t size = client->request.size;
    bufferevent_setwatermark(client->stream, EV_READ, size, size > HTTP_MAX_HEAD ? size : HTTP_MAX_HEAD);
    if (result == HTTP_READY) {
        submit(client);
    } else if (result != HTTP_MORE) {
        client->keep_alive = result == HTTP_CONTINUE;
        answer(client, result, 0, (cachetory_value_t){0});
    } else if (client->ended || (stopping && len == 0)) {
        close_client(client);
    }
}

static void on_read(struct bufferevent *stream, void *argument)
{
    client_t *client = argument;
    if (client->state == READING)
        advance(client);
    else if (client->state == LEAVING)
        evbuffer_drain(bufferevent_get_input(stream), SIZE_MAX);
}

static void on_written(struct bufferevent *stream, void *argument)
{
    client_t *client = argument;
    if (client->state != WRITING)
        return;
    if (client->keep_alive) {
        enter(client, READING);
        advance(client);
    } else if (client->ended) {
        close_client(client);
    } else {
        shutdown(bufferevent_getfd(stream), SHUT_WR);
        enter(client, LEAVING);
        bufferevent_setwatermark(stream, EV_READ, 0, 0);
        evbuffer_drain(bufferevent_get_input(stream), SIZE_MAX);
    }
}

static void on_end(struct bufferevent *stream, short events, void *argument)
{
    client_t *client = argument;
    (void)stream;
    if (events & BEV_EVENT_EOF && (client->state == WAITING || client->state == WRITING))
        client->ended = true; /* but it may still listen */
    else
        close_client(client);
}

static void on_connection(struct evconnlistener *from, evutil_socket_t fd, struct sockaddr *address, int len,
                          void *argument)
{
    int place = 0;
    (void)address, (void)len, (void)argument;
    while (place < MAX_CLIENTS && clients[place].state != FREE)
        place++;
    if (place == MAX_CLIENTS) {
        evutil_closesocket(fd);
        return;
    }
    client_t *client = &clients[place];
    if (++clients_count == MAX_CLIENTS)
        evconnlistener_disable(from);
    client->stream = bufferevent_socket_new(base, fd, BEV_OPT_CLOSE_ON_FREE);
    client->timer = evtimer_new(base, on_time, client);
    if (client->stream == NULL || client->timer == NULL) {
        if (client->stream == NULL)
            evutil_closesocket(fd);
        close_client(client);
        return;
    }
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int));
    bufferevent_setcb(client->stream, on_read, on_written, on_end, client);
    bufferevent_setwatermark(client->stream, EV_READ, 0, HTTP_MAX_HEAD);
    bufferevent_enable(client->stream, EV_READ);
    enter(client, READING);
}

/* Out of descriptors or memory: the one that is waiting would only wake the loop again and again. */
static void on_accept_error(struct evconnlistener *from, void *argument)
{
    (void)argument;
    evconnlistener_disable(from);
    event_add(accept_again, &(struct timeval){.tv_usec = 100 * 1000});
}

static void on_accept_again(evutil_socket_t fd, short events, void *argument)
{
    (void)fd, (void)events, (void)argument;
    if (!stopping && clients_count < MAX_CLIENTS)
        evconnlistener_enable(listener);
}

/* Clients that are in the middle of something have a while to finish it; a second signal ends the process at once. */
static void on_signal(evutil_socket_t number, short events, void *argument)
{
    struct event **signals = argument;
    (void)number, (void)events;
    stopping = true;
    for (int i = 0; i < 2; i++)
        event_del(signals[i]);
    evconnlistener_disable(listener);
    event_base_loopexit(base, &(struct timeval){.tv_sec = GRACE_S});
    for (int i = 0; i < MAX_CLIENTS; i++)
        if (clients[i].state == READING && evbuffer_get_length(bufferevent_get_input(clients[i].stream)) == 0)
            close_client(&clients[i]);
    if (clients_count == 0)
        event_base_loopbreak(base);
}

static void listen_on(size_t port)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((unsigned short)port)};
    socklen_t len = sizeof address;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    unsigned options = LEV_OPT_CLOSE_ON_FREE | LEV_OPT_CLOSE_ON_EXEC | LEV_OPT_REUSEABLE;
    listener = evconnlistener_new_bind(base, on_connection, NULL, options, SOMAXCONN, (struct sockaddr *)&address,
                                       sizeof address);
    if (listener == NULL || getsockname(evconnlistener_get_fd(listener), (struct sockaddr *)&address, &len) < 0)
        fail("cannot listen");
    evconnlistener_set_error_cb(listener, on_accept_error);
    printf("listening on http://127.0.0.1:%d\n", ntohs(address.sin_port));
    fflush(stdout);
}

int main(int argc, char **argv)
{
    const char *url = argc > 1 ? argv[1] : getenv("CACHETORY_URL");
    size_t port = 0, seconds = 30;
    if ((argc > 2 && !http_number(argv[2], strlen(argv[2]), 65535, &port))
        || (argc > 3 && !http_number(argv[3], strlen(argv[3]), 3600, &seconds)))
        fail("usage: server_event [URL [PORT [SECONDS]]]");
    client_time.tv_sec = (time_t)seconds;

    cachetory_error_t error;
    if (cachetory_open_url(url != NULL ? url : "memory://", &cache, &error) < 0 ||
        cachetory_queue_open(&queue, &error) < 0)
        fail(error.message);

    signal(SIGPIPE, SIG_IGN); /* libevent writes to clients that are gone */
    base = must(event_base_new());
    struct event *signals[2], *queue_event;
    signals[0] = must(evsignal_new(base, SIGINT, on_signal, signals));
    signals[1] = must(evsignal_new(base, SIGTERM, on_signal, signals));
    accept_again = must(evtimer_new(base, on_accept_again, NULL));
    queue_event = must(event_new(base, cachetory_queue_fd(queue), EV_READ | EV_PERSIST, on_queue, NULL));
    if (event_add(signals[0], NULL) < 0 || event_add(signals[1], NULL) < 0 || event_add(queue_event, NULL) < 0)
        fail("libevent takes no events");
    listen_on(port);
    event_base_dispatch(base);

    for (int i = 0; i < MAX_CLIENTS; i++)
        if (clients[i].state != FREE)
            close_client(&clients[i]);
    evconnlistener_free(listener);
    event_free(queue_event); /* before the queue, to which its descriptor belongs */
    event_free(accept_again);
    event_free(signals[0]);
    event_free(signals[1]);
    event_base_free(base);
    libevent_global_shutdown();

    /* The queue first: what is still outstanding is cancelled, and frees itself. */
    cachetory_queue_close(queue);
    cachetory_close(cache);
    return EXIT_SUCCESS;
}
