#include "far.h"

#include "fail.h"

#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>

static struct far_use *use;

void far_begin_turn(void)
{
    const char *path = getenv("BENCH_FAR_USE");
    if (path == NULL)
        return;
    if (use == NULL) {
        int fd = open(path, O_RDWR | O_CLOEXEC);
        use = mmap(NULL, sizeof *use, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        if (use == MAP_FAILED)
            die("%s cannot be mapped", path);
    }
    atomic_fetch_add(&use->turn, 1);
}

unsigned far_used(void)
{
    if (use == NULL || atomic_load(&use->seen) != atomic_load(&use->turn))
        return 0;
    return atomic_load(&use->used);
}
