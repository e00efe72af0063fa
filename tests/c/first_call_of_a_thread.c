/* first_call_of_a_thread LIBRARY URL: threads whose first call of a library that was loaded with dlopen(3) comes while
   nothing can be allocated. One thread is older than the library, one younger. None may die, nor have a destructor
   noted for its end (__cxa_thread_atexit_impl), for which glibc ends the process where it has no memory
   (stdlib/cxa_thread_atexit_impl.c, "failed to register TLS destructor"). */
#include "failing_malloc.h"
#include <cachetory.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static __typeof__(cachetory_open_url) *open_url;
static __typeof__(cachetory_get) *get;
static __typeof__(cachetory_value_free) *value_free;
static cachetory_t cache;
static atomic_int destructors;
static int is_loaded[2];

int __cxa_thread_atexit_impl(void (*destructor)(void *), void *object, void *library)
{
    (void)destructor, (void)object, (void)library;
    destructors++;
    return 0;
}

static void *first_call(void *argument)
{
    cachetory_value_t value;
    cachetory_error_t error;
    char word;
    if (read(is_loaded[0], &word, 1) != 1)
        exit(2);
    fail_allocations(0, 0, ENDLESS);
    cachetory_status_t status = get(cache, "a", 1, &value, &error);
    fail_no_more();
    if (status < 0 && status != CACHETORY_ERR_NO_MEMORY) {
        printf("%s: %d, %s\n", (const char *)argument, status, error.message);
        exit(1);
    }
    value_free(&value);
    return NULL;
}

int main(int argc, char **argv)
{
    pthread_t older, younger;
    cachetory_error_t error;
    if (argc != 3 || pipe(is_loaded) != 0 || pthread_create(&older, NULL, first_call, "older") != 0)
        return 2;
    void *library = dlopen(argv[1], RTLD_NOW);
    if (library == NULL) {
        printf("%s\n", dlerror());
        return 1;
    }
    *(void **)&open_url = dlsym(library, "cachetory_open_url");
    *(void **)&get = dlsym(library, "cachetory_get");
    *(void **)&value_free = dlsym(library, "cachetory_value_free");
    if (open_url(argv[2], &cache, &error) != CACHETORY_OK)
        return 3;
    if (write(is_loaded[1], "12", 2) != 2)
        return 2;
    pthread_join(older, NULL);
    if (pthread_create(&younger, NULL, first_call, "younger") != 0)
        return 2;
    pthread_join(younger, NULL);
    if (destructors > 0) {
        printf("%d destructors were noted\n", destructors);
        return 1;
    }
    return 0;
}
