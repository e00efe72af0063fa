/* An HTTP server on libuv: the asynchronous calls in libuv's loop.
 *
 *     server_uv [URL [PORT [SECONDS]]]
 *
 * GET, PUT and DELETE of /key are get, set and delete. A request is submitted under a tag that names its client. The
 * queue's descriptor has a uv_poll_t; when that calls, the completions are taken, and each becomes its client's answer.
 * (server_poll.c is the same server on a loop of its own, server_event.c on libevent.)
 *
 * PORT 0, the default, is any that is free. SECONDS is how long a client may take for a request, and again for its
 * answer.
 */
#define _POSIX_C_SOURCE 200809L

#include "http.h"

#include <cachetory.h>

#include <arpa/inet.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdint.h>
#include <uv.h>

enum { MAX_CLIENTS = 1000, BATCH = 64, GRACE_MS = 5000, HOUR_MS = 60 * 60 * 1000 };

typedef enum state_t {
    FREE,
    READING, /* a request */
    WAITING, /* for the cache; one call per client: pipelined requests are answered in order and see each other */
    WRITING, /* the answer */
    LEAVING, /* all is said; what still arrives is dropped: closing over it would destroy the answer on its way */
    CLOSING, /* until libuv has called back for both handles */
} state_t;

typedef struct client_t {
    uv_tcp_t socket;
    uv_timer_t timer;
    uv_write_t write;
    uv_shutdown_t shutdown;
    state_t state;
    uint32_t generation; /* of this place in the table: how many clients had it before */
    int handles;         /* that libuv still knows */
    bool ended, paused;  /* it sends no more; it is not read from until it is its turn again */
    http_buffer_t input;
    http_request_t request; /* the one that is arriving */
    http_method_t method;   /* of the one that is answered, */
    bool keep_alive;        /* after which another may follow */
    char head[HTTP_MAX_ANSWER_HEAD];
    cachetory_value_t value; /* the answer's body, moved out of the completion that brought it */
} client_t;

static cachetory_t cache;
static cachetory_queue_t queue;
static client_t clients[MAX_CLIENTS];
static int clients_count;
static uint64_t client_ms = 30 * 1000;
static bool stopping, somebody_waits;

static uv_loop_t loop;
static uv_tcp_t listener;
static uv_poll_t queue_poll;
static uv_signal_t signals[2];
static uv_timer_t grace;

static void fail(const char *what)
{
    fprintf(stderr, "server_uv: %s\n", what);
    exit(EXIT_FAILURE);
}

static void must(int result)
{
    if (result < 0)
        fail(uv_strerror(result));
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

static void on_connection(uv_stream_t *from, int status);

/* The loop ends when it has no handle any more. The queue's is closed before the queue is. */
static void close_the_rest(void)
{
    uv_close((uv_handle_t *)&queue_poll, NULL);
    uv_close((uv_handle_t *)&grace, NULL);
}

static void on_closed(uv_handle_t *handle)
{
    client_t *client = handle->data;
    if (--client->handles > 0)
        return;
    cachetory_value_free(&client->value);
    free(client->input.data);
    *client = (client_t){.generation = client->generation};
    clients_count--;
    if (stopping && clients_count == 0)
        close_the_rest();
    if (!stopping && somebody_waits)
        on_connection((uv_stream_t *)&listener, 0);
}

/* A call that is outstanding goes on, a PUT that was begun is carried out; but from now on its tag names nobody. */
static void close_client(client_t *client)
{
    if (client->state == CLOSING)
        return;
    client->state = CLOSING;
    client->generation++;
    uv_close((uv_handle_t *)&client->socket, on_closed);
    uv_close((uv_handle_t *)&client->timer, on_closed);
}

static void on_time(uv_timer_t *timer)
{
    close_client(timer->data);
}

static void enter(client_t *client, state_t state)
{
    client->state = state;
    /* Whoever waits for the cache is bounded by the cache's own deadline. */
    if (state == WAITING)
        uv_timer_stop(&client->timer);
    else
        uv_timer_start(&client->timer, on_time, client_ms, 0);
}

static void advance(client_t *client);
static void read_on(client_t *client);

static void on_written(uv_write_t *write, int status)
{
    client_t *client = write->data;
    cachetory_value_free(&client->value);
    if (status < 0 || (client->ended && !client->keep_alive)) {
        close_client(client);
    } else if (client->keep_alive) {
        enter(client, READING);
        advance(client);
    } else {
        uv_shutdown(&client->shutdown, (uv_stream_t *)&client->socket, NULL);
        enter(client, LEAVING);
        read_on(client);
    }
}

/* Sends a head, and the value behind it from where it lies: it is freed when libuv is done with it. */
static void answer(client_t *client, int status, size_t body_len)
{
    size_t head_len = http_answer(client->head, status, body_len, client->keep_alive);
    uv_buf_t parts[2] = {{.base = client->head, .len = head_len},
                         {.base = (char *)client->value.data, .len = client->value.len}};
    enter(client, WRITING);
    client->write.data = client;
    if (uv_write(&client->write, (uv_stream_t *)&client->socket, parts, client->value.len > 0 ? 2 : 1, on_written) < 0)
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
        fprintf(stderr, "server_uv: %s\n", status < 0 ? message : "the cache is well again");
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
    size_t len = completion->value.len;
    if (client->method == HTTP_GET) {
        /* The value is needed for longer than the completion. Emptied there, it is not freed with it. */
        client->value = completion->value;
        completion->value = (cachetory_value_t){0};
    }
    if (stopping)
        client->keep_alive = false;
    answer(client, status, len);
}

/* Takes completions until there are none: a full array may not have been all. */
static void on_queue(uv_poll_t *poll, int status, int events)
{
    cachetory_completion_t completions[BATCH];
    cachetory_error_t error;
    size_t count;
    (void)poll, (void)status, (void)events;
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

static void on_room(uv_handle_t *handle, size_t suggested, uv_buf_t *room)
{
    static char waste[4096];
    client_t *client = handle->data;
    (void)suggested;
    *room = uv_buf_init(waste, sizeof waste);
    if (client->state != LEAVING) {
        size_t len;
        room->base = http_room(&client->input, client->request.size, &len);
        room->len = len;
    }
}

static void on_read(uv_stream_t *stream, ssize_t len, const uv_buf_t *room)
{
    client_t *client = stream->data;
    (void)room;
    if (len > 0 && client->state != LEAVING) {
        client->input.len += (size_t)len;
        if (client->state == READING)
            advance(client);
    } else if (len == UV_ENOBUFS && client->state != READING) {
        uv_read_stop(stream); /* enough requests ahead of their turn */
        client->paused = true;
    } else if (len == UV_EOF && (client->state == WAITING || client->state == WRITING)) {
        client->ended = true; /* but it may still listen */
    } else if (len < 0) {
        close_client(client);
    }
}

static void read_on(client_t *client)
{
    if (client->paused)
        uv_read_start((uv_stream_t *)&client->socket, on_room, on_read);
    client->paused = false;
}

/* Looks for the next request in what has arrived. */
static void advance(client_t *client)
{
    http_buffer_t *input = &client->input;
    int result = input->len > 0 ? http_parse(input->data + input->start, input->len, &client->request) : HTTP_MORE;
    if (result == HTTP_READY) {
        submit(client);
    } else if (result != HTTP_MORE) {
        client->keep_alive = result == HTTP_CONTINUE;
        answer(client, result, 0);
    } else if (client->ended || (stopping && input->len == 0)) {
        close_client(client);
    } else {
        read_on(client);
    }
}

static void on_connection(uv_stream_t *from, int status)
{
    int place = 0;
    if (status < 0)
        return; /* out of descriptors; libuv tells the client and goes on */
    while (place < MAX_CLIENTS && clients[place].state != FREE)
        place++;
    somebody_waits = place == MAX_CLIENTS;
    if (somebody_waits)
        return; /* libuv asks for no other one until this one is accepted */

    client_t *client = &clients[place];
    client->socket.data = client->timer.data = client;
    must(uv_tcp_init(&loop, &client->socket));
    must(uv_timer_init(&loop, &client->timer));
    client->handles = 2;
    clients_count++;
    enter(client, READING);
    if (uv_accept(from, (uv_stream_t *)&client->socket) < 0
        || uv_read_start((uv_stream_t *)&client->socket, on_room, on_read) < 0)
        close_client(client);
    else
        uv_tcp_nodelay(&client->socket, 1);
}

static void on_end_of_grace(uv_timer_t *timer)
{
    (void)timer;
    for (int i = 0; i < MAX_CLIENTS; i++)
        if (clients[i].state != FREE)
            close_client(&clients[i]);
}

/* Clients that are in the middle of something have a while to finish it; a second signal ends the process at once. */
static void on_signal(uv_signal_t *handle, int number)
{
    (void)handle, (void)number;
    stopping = true;
    for (int i = 0; i < 2; i++)
        uv_close((uv_handle_t *)&signals[i], NULL);
    uv_close((uv_handle_t *)&listener, NULL);
    uv_timer_start(&grace, on_end_of_grace, GRACE_MS, 0);
    for (int i = 0; i < MAX_CLIENTS; i++)
        if (clients[i].state == READING && clients[i].input.len == 0)
            close_client(&clients[i]);
    if (clients_count == 0)
        close_the_rest();
}

static void listen_on(size_t port)
{
    struct sockaddr_in address;
    int len = sizeof address;
    must(uv_ip4_addr("127.0.0.1", (int)port, &address));
    must(uv_tcp_init(&loop, &listener));
    must(uv_tcp_bind(&listener, (struct sockaddr *)&address, 0));
    must(uv_listen((uv_stream_t *)&listener, SOMAXCONN, on_connection));
    must(uv_tcp_getsockname(&listener, (struct sockaddr *)&address, &len));
    printf("listening on http://127.0.0.1:%d\n", ntohs(address.sin_port));
    fflush(stdout);
}

int main(int argc, char **argv)
{
    const char *url = argc > 1 ? argv[1] : getenv("CACHETORY_URL");
    size_t port = 0, seconds = 30;
    if ((argc > 2 && !http_number(argv[2], strlen(argv[2]), 65535, &port))
        || (argc > 3 && !http_number(argv[3], strlen(argv[3]), 3600, &seconds)))
        fail("usage: server_uv [URL [PORT [SECONDS]]]");
    client_ms = (uint64_t)seconds * 1000;

    cachetory_error_t error;
    if (cachetory_open_url(url != NULL ? url : "memory://", &cache, &error) < 0 ||
        cachetory_queue_open(&queue, &error) < 0)
        fail(error.message);

    signal(SIGPIPE, SIG_IGN); /* libuv writes to clients that are gone */
    must(uv_loop_init(&loop));
    must(uv_timer_init(&loop, &grace));
    must(uv_signal_init(&loop, &signals[0]));
    must(uv_signal_init(&loop, &signals[1]));
    must(uv_signal_start(&signals[0], on_signal, SIGINT));
    must(uv_signal_start(&signals[1], on_signal, SIGTERM));
    must(uv_poll_init(&loop, &queue_poll, cachetory_queue_fd(queue)));
    must(uv_poll_start(&queue_poll, UV_READABLE, on_queue));
    listen_on(port);
    uv_run(&loop, UV_RUN_DEFAULT);
    must(uv_loop_close(&loop));

    /* The queue first: what is still outstanding is cancelled, and frees itself. */
    cachetory_queue_close(queue);
    cachetory_close(cache);
    return EXIT_SUCCESS;
}
