/*
 * Drives client libraries side by side in one process.
 *
 *   harness rates ROUNDS SECONDS DRIVER... <CELLS    calls per second, latency, processor time
 *   harness count CALLS DRIVER CELL                  that many calls and nothing else, for callgrind and the counter
 *                                                    of allocations
 *   harness memory DRIVER                            resident memory
 *   harness version DRIVER
 *
 * A cell is "TRANSPORT OP SIZE COUNT THREADS PLACE". Results go to stdout, a line each, with tabs between fields. Where
 * the server and the drivers are, the environment says: BENCH_UNIX, BENCH_TCP, BENCH_TLS, BENCH_CA, BENCH_SERVER_PID,
 * BENCH_DRIVERS, and for far servers BENCH_FAR and BENCH_FAR_USE. Where it ends because of one of the drivers, its last
 * message is "harness: failed with DRIVER"; it ends with 3 where a driver has no such operation or transport.
 */
#include "fail.h"
#include "measure.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { MOST_DRIVERS = 16 };

int main(int argc, char **argv)
{
    signal(SIGPIPE, SIG_IGN);
    setvbuf(stdout, NULL, _IOLBF, 0);
    catch_fatal_signals();
    if (argc == 5 && strcmp(argv[1], "count") == 0) {
        struct cell cell = parse_cell(argv[4]);
        measure_count(atol(argv[2]), argv[3], &cell);
    } else if (argc == 3 && strcmp(argv[1], "memory") == 0) {
        measure_memory(argv[2]);
    } else if (argc == 3 && strcmp(argv[1], "version") == 0) {
        puts(load(argv[2]).driver->version);
    } else if (argc > 4 && argc - 4 <= MOST_DRIVERS && strcmp(argv[1], "rates") == 0) {
        struct subject subjects[MOST_DRIVERS];
        char line[128];
        for (int i = 4; i < argc; i++)
            subjects[i - 4] = load(argv[i]);
        while (fgets(line, sizeof line, stdin)) {
            struct cell cell = parse_cell(line);
            alarm(10 + (unsigned)(2 * (argc - 4) * (atof(argv[2]) + 1) * atof(argv[3])));
            measure_rates(subjects, argc - 4, &cell, atoi(argv[2]), atof(argv[3]));
        }
    } else {
        die("usage: see the top of harness.c");
    }
    return 0;
}
