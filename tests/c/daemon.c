/* daemon MAKER WAY FACE URL: what a child does that gives its inherited descriptors away. Whatever it opens in their
   place must stay as it is: nothing of it is closed, written to or read by the library.
   MAKER: fork; _Fork, clone (past pthread_atfork). FACE: synchronous, waited, polled.
   WAY: all (it closes every descriptor), one (it puts a file in the place of one socket, of each in turn), unused (all,
   and it only closes the cache), opens (all, and it opens a cache of its own first), grandchild (all, twice), busy
   (all, while threads of the parent are in the middle of calls). */
#define _GNU_SOURCE

#include "check_async.h"
#include "processes.h"

#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>

enum { MOST_FILES = 64, THREADS = 4, FORKS = 8, LAST_DESCRIPTOR = 1024 };

pid_t _Fork(void) __attribute__((weak));

static const char *maker, *way, *face, *url;
static cachetory_t cache;
static cachetory_queue_t queue;
static atomic_int over;

static pid_t make_child(void)
{
    fflush(NULL);
    if (strcmp(maker, "clone") == 0)
        return (pid_t)syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0);
    return strcmp(maker, "_Fork") == 0 ? _Fork() : fork();
}

static void complete(cachetory_queue_t by)
{
    cachetory_completion_t completion;
    cachetory_error_t error;
    size_t count = 0;
    if (strcmp(face, "polled") != 0) {
        expect_next(by, CACHETORY_OK);
        return;
    }
    struct pollfd readable = {.fd = cachetory_queue_fd(by), .events = POLLIN};
    CHECK(readable.fd > 2);
    while (count == 0) {
        CHECK(poll(&readable, 1, WAIT_MS) == 1);
        EXPECT(cachetory_queue_wait(by, &completion, 1, 0, &count, &error), CACHETORY_OK, &error);
    }
    CHECK(completion.status == CACHETORY_OK);
    cachetory_completion_free(&completion);
}

static void use(cachetory_t of, cachetory_queue_t by)
{
    if (strcmp(face, "synchronous") == 0) {
        round_trip(of, "k");
        return;
    }
    submit_set(of, by, 1, "k");
    complete(by);
    submit_get(of, by, 2, "k");
    complete(by);
}

struct file {
    int fd, flags;
    struct stat was;
};

static struct file new_file(void)
{
    struct file file = {.fd = memfd_create("a file of the child's", 0)};
    CHECK(file.fd >= 0 && fstat(file.fd, &file.was) == 0);
    file.flags = fcntl(file.fd, F_GETFL);
    return file;
}

static void must_be_untouched(const struct file *file)
{
    struct stat is;
    CHECK(fstat(file->fd, &is) == 0);
    CHECK(is.st_dev == file->was.st_dev && is.st_ino == file->was.st_ino);
    CHECK(is.st_size == 0 && lseek(file->fd, 0, SEEK_CUR) == 0);
    CHECK(fcntl(file->fd, F_GETFL) == file->flags);
}

/* Closes all that was inherited, and fills the places. */
static void give_away(struct file files[MOST_FILES])
{
    for (int fd = 3; fd < LAST_DESCRIPTOR; fd++)
        close(fd);
    for (int i = 0; i < MOST_FILES; i++)
        files[i] = new_file();
}

static void must_all_be_untouched(const struct file files[MOST_FILES])
{
    for (int i = 0; i < MOST_FILES; i++)
        must_be_untouched(&files[i]);
}

static void use_inherited(void)
{
    cachetory_queue_t own = open_queue();
    CHECK(cachetory_queue_fd(queue) == -1);
    use(cache, own);
    CHECK(cachetory_queue_close(queue) == CACHETORY_ERR_CLOSED);
    CHECK(cachetory_queue_close(own) == CACHETORY_OK);
}

static void close_cache(void)
{
    CHECK(cachetory_close(cache) == CACHETORY_OK);
}

static int is_socket(int fd)
{
    struct stat is;
    return fstat(fd, &is) == 0 && S_ISSOCK(is.st_mode);
}

static void child(int number)
{
    struct file files[MOST_FILES];
    alarm(GUARD_SECONDS);
    if (strcmp(way, "one") == 0) {
        struct file file = new_file();
        for (int fd = 3; fd < LAST_DESCRIPTOR; fd++)
            if (is_socket(fd) && number-- == 0) {
                CHECK(dup2(file.fd, fd) == fd);
                close(file.fd);
                file.fd = fd;
            }
        use_inherited();
        must_be_untouched(&file);
        close_cache();
        must_be_untouched(&file);
        exit(0);
    }
    give_away(files);
    if (strcmp(way, "opens") == 0) {
        cachetory_t other = open_cache(url);
        round_trip(other, "k");
        must_all_be_untouched(files);
        CHECK(cachetory_close(other) == CACHETORY_OK);
    }
    if (strcmp(way, "grandchild") == 0) {
        pid_t pid = make_child();
        CHECK(pid >= 0);
        if (pid == 0) {
            struct file own[MOST_FILES];
            alarm(GUARD_SECONDS);
            give_away(own);
            use_inherited();
            close_cache();
            must_all_be_untouched(own);
            exit(0);
        }
        wait_for(pid);
        must_all_be_untouched(files);
    }
    if (strcmp(way, "unused") != 0)
        use_inherited();
    must_all_be_untouched(files);
    close_cache();
    must_all_be_untouched(files);
    exit(0);
}

static void *keep_busy(void *unused)
{
    (void)unused;
    cachetory_queue_t own = open_queue();
    while (!atomic_load(&over))
        use(cache, own);
    CHECK(cachetory_queue_close(own) == CACHETORY_OK);
    return NULL;
}

int main(int argc, char **argv)
{
    CHECK(argc == 5);
    maker = argv[1], way = argv[2], face = argv[3], url = argv[4];
    if (strcmp(maker, "_Fork") == 0 && !_Fork)
        return 0;
    pthread_t threads[THREADS];
    int is_busy = strcmp(way, "busy") == 0;
    cache = open_cache(url);
    queue = open_queue();
    use(cache, queue);
    for (int i = 0; is_busy && i < THREADS; i++)
        CHECK(pthread_create(&threads[i], NULL, keep_busy, NULL) == 0);
    for (int i = 0; i < FORKS; i++) {
        pid_t pid = make_child();
        CHECK(pid >= 0);
        if (pid == 0)
            child(i);
        use(cache, queue);
        wait_for(pid);
        use(cache, queue);
    }
    atomic_store(&over, 1);
    for (int i = 0; is_busy && i < THREADS; i++)
        CHECK(pthread_join(threads[i], NULL) == 0);
    CHECK(cachetory_queue_close(queue) == CACHETORY_OK);
    close_cache();
    return 0;
}
