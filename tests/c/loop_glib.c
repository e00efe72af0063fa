/* loop_glib URL CAPACITY drains|once: calls on GLib's main loop, with a source that watches the descriptor. */
#define _POSIX_C_SOURCE 200809L

#include "loop.h"

#include <glib.h>

struct source {
    GSource source;
    gpointer tag;
    GMainLoop *main_loop;
    struct loop *loop;
};

static gboolean check_source(GSource *source)
{
    return (g_source_query_unix_fd(source, ((struct source *)source)->tag) & G_IO_IN) != 0;
}

static gboolean dispatch_source(GSource *source, GSourceFunc callback, gpointer data)
{
    struct source *own = (struct source *)source;
    (void)callback;
    (void)data;
    if (loop_turn(own->loop)) {
        g_main_loop_quit(own->main_loop);
        return G_SOURCE_REMOVE;
    }
    return G_SOURCE_CONTINUE;
}

static gboolean on_guard(gpointer data)
{
    struct loop *loop = data;
    fprintf(stderr, "%u of %u calls are complete\n", loop->done, loop->next);
    CHECK(!"the calls complete in time");
    return G_SOURCE_REMOVE;
}

int main(int argc, char **argv)
{
    static struct loop loop;
    static GSourceFuncs functions = {.check = check_source, .dispatch = dispatch_source};
    CHECK(argc == 4);
    loop_open(&loop, argv + 1);
    GMainContext *context = g_main_context_new();
    GMainLoop *main_loop = g_main_loop_new(context, FALSE);
    GSource *source = g_source_new(&functions, sizeof(struct source));
    struct source *own = (struct source *)source;
    own->main_loop = main_loop;
    own->loop = &loop;
    own->tag = g_source_add_unix_fd(source, loop_fd(&loop), G_IO_IN);
    g_source_attach(source, context);
    GSource *guard = g_timeout_source_new_seconds(WAIT_MS / 1000);
    g_source_set_callback(guard, on_guard, &loop, NULL);
    g_source_attach(guard, context);
    loop_submit(&loop);
    g_main_loop_run(main_loop);
    g_source_destroy(guard);
    g_source_unref(guard);
    g_source_unref(source);
    g_main_loop_unref(main_loop);
    g_main_context_unref(context);
    loop_close(&loop);
    return 0;
}
