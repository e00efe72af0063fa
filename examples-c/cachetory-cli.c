/* cachetory-cli: a cache from the shell. `cachetory-cli --help` tells how; values are bytes, in and out. */
#define _POSIX_C_SOURCE 200809L /* isatty, fileno */

#include <cachetory.h>

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* What the shell sees. They are documented below; scripts depend on them. */
enum { EXIT_DONE = 0, EXIT_NO = 1, EXIT_USAGE = 2, EXIT_TRY_AGAIN = 3, EXIT_FAILED = 4 };

static const char usage_text[] =
    "usage: cachetory-cli [-u URL] COMMAND [ARGUMENT...]\n"
    "\n"
    "commands:\n"
    "  get KEY                   write the value to standard output, byte for byte\n"
    "  set KEY [VALUE] [--ttl TIME] [--nx]\n"
    "                            set VALUE, or all of standard input; --nx: only if KEY is not there\n"
    "  mget KEY...               one line a key, in order: the value's length, a space and the value; "
    "\"-\" for a miss\n"
    "  mset KEY VALUE [KEY VALUE...] [--ttl TIME]\n"
    "                            set all of them at once\n"
    "  expire KEY TIME           have KEY expire in TIME, or at @SECONDS since 1970, or \"never\"\n"
    "  delete KEY...             delete, and print how many were there\n"
    "  clear                     delete every key (with a prefix in the URL: every key under it)\n"
    "  ping                      ask whether the server is there\n"
    "\n"
    "options, anywhere on the line until --:\n"
    "  -u, --url URL             the cache, as redis://host:6379/0; else $CACHETORY_URL;\n"
    "                            else memory://, which is empty at the start and forgotten at the end\n"
    "  -t, --ttl TIME            500ms, 90s, 5m, 2h, 7d or \"never\" (the default)\n"
    "  -n, --nx                  set only if KEY is not there: a claim\n"
    "  -h, --help                this text\n"
    "  -V, --version             the library's version\n"
    "\n"
    "exit codes:\n"
    "  0  done\n"
    "  1  no: the key is not there (get, mget and delete: none of the keys), or with --nx it is there\n"
    "  2  the command line, the URL or an argument is wrong\n"
    "  3  failed; trying again later may help (no connection, a deadline, a server that is loading)\n"
    "  4  failed; trying again will not help\n";

typedef struct command_line_t {
    const char *url;
    int64_t ttl_ms;
    bool has_ttl;
    bool if_not_exists;
    char **words; /* the command and its arguments */
    size_t count;
} command_line_t;

#if defined(__GNUC__)
__attribute__((format(printf, 1, 2)))
#endif
static int wrong(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    fputs("cachetory-cli: ", stderr);
    vfprintf(stderr, format, arguments);
    fputs("\nTry 'cachetory-cli --help'.\n", stderr);
    va_end(arguments);
    return EXIT_USAGE;
}

static int out_of_memory(void)
{
    fputs("cachetory-cli: out of memory\n", stderr);
    return EXIT_TRY_AGAIN;
}

static int failed(const cachetory_error_t *error)
{
    const bool maybe = error->flags & CACHETORY_ERROR_MAYBE_APPLIED;
    fprintf(stderr, "cachetory-cli: %s: %s%s\n", cachetory_status_name(error->status), error->message,
            maybe ? " (the write may have been applied)" : "");
    if (error->status == CACHETORY_ERR_INVALID_URL || error->status == CACHETORY_ERR_INVALID_ARGUMENT)
        return EXIT_USAGE;
    return error->flags & CACHETORY_ERROR_RETRYABLE ? EXIT_TRY_AGAIN : EXIT_FAILED;
}

/* For commands without output: the exit code of a call's answer. */
static int finish(cachetory_status_t status, const cachetory_error_t *error)
{
    if (status < 0)
        return failed(error);
    return status == CACHETORY_OK ? EXIT_DONE : EXIT_NO;
}

/* Digits only: strtoll alone would take signs and spaces. */
static bool parse_number(const char *text, int64_t *number, const char **rest)
{
    if (*text < '0' || *text > '9')
        return false;
    char *end;
    errno = 0;
    long long parsed = strtoll(text, &end, 10);
    if (errno != 0)
        return false;
    *number = parsed;
    *rest = end;
    return true;
}

/* A unit is demanded: a bare number means seconds to some tools and milliseconds to others. */
static bool parse_time(const char *text, int64_t *ms)
{
    static const struct {
        const char *name;
        int64_t ms;
    } units[] = {{"ms", 1}, {"s", 1000}, {"m", 60 * 1000}, {"h", 60 * 60 * 1000}, {"d", 24 * 60 * 60 * 1000}};

    if (strcmp(text, "never") == 0) {
        *ms = CACHETORY_NO_EXPIRY;
        return true;
    }
    int64_t number;
    const char *unit;
    if (!parse_number(text, &number, &unit))
        return false;
    for (size_t i = 0; i < sizeof units / sizeof units[0]; i++) {
        if (strcmp(unit, units[i].name) != 0)
            continue;
        if (number >= CACHETORY_NO_EXPIRY / units[i].ms)
            return false;
        *ms = number * units[i].ms;
        return true;
    }
    return false;
}

/* "-x VALUE", "--long VALUE" or "--long=VALUE" at argv[*index]; *value is NULL where VALUE is missing. */
static bool takes_value(char **argv, int *index, const char *brief, const char *name, char **value)
{
    char *argument = argv[*index];
    const size_t length = strlen(name);
    if (strncmp(argument, name, length) == 0 && argument[length] == '=') {
        *value = argument + length + 1;
        return true;
    }
    if (strcmp(argument, brief) != 0 && strcmp(argument, name) != 0)
        return false;
    *value = argv[*index + 1]; /* NULL at the end of argv */
    if (*value != NULL)
        ++*index;
    return true;
}

static bool is_option(const char *argument, const char *brief, const char *name)
{
    return strcmp(argument, brief) == 0 || strcmp(argument, name) == 0;
}

/* Sorts argv into options and words, which are moved to its front. EXIT_DONE: go on; *stop: nothing is left to do. */
static int parse(char **argv, command_line_t *line, bool *stop)
{
    bool options_over = false;
    line->words = argv + 1;
    for (int i = 1; argv[i] != NULL; i++) {
        char *value;
        if (options_over || argv[i][0] != '-' || argv[i][1] == '\0') {
            line->words[line->count++] = argv[i];
        } else if (strcmp(argv[i], "--") == 0) {
            options_over = true;
        } else if (is_option(argv[i], "-h", "--help")) {
            fputs(usage_text, stdout);
            *stop = true;
        } else if (is_option(argv[i], "-V", "--version")) {
            printf("cachetory %s\n", cachetory_version());
            *stop = true;
        } else if (is_option(argv[i], "-n", "--nx")) {
            line->if_not_exists = true;
        } else if (takes_value(argv, &i, "-u", "--url", &value)) {
            if (value == NULL)
                return wrong("--url needs a URL");
            line->url = value;
        } else if (takes_value(argv, &i, "-t", "--ttl", &value)) {
            if (value == NULL || !parse_time(value, &line->ttl_ms))
                return wrong("--ttl needs a time, such as 90s or 500ms");
            line->has_ttl = true;
        } else {
            return wrong("unknown option '%s' (a word that starts with '-' goes behind '--')", argv[i]);
        }
        if (*stop)
            return EXIT_DONE;
    }
    return line->count == 0 ? wrong("no command is given") : EXIT_DONE;
}

/* The keys among the words: all but the command. NULL: out of memory. */
static cachetory_bytes_t *keys_of(const command_line_t *line)
{
    cachetory_bytes_t *keys = calloc(line->count, sizeof *keys);
    for (size_t i = 1; keys != NULL && i < line->count; i++)
        keys[i - 1] = (cachetory_bytes_t){line->words[i], CACHETORY_STRLEN};
    return keys;
}

static int get(cachetory_t cache, const command_line_t *line)
{
    cachetory_value_t value;
    cachetory_error_t error;
    cachetory_status_t status = cachetory_get(cache, line->words[1], CACHETORY_STRLEN, &value, &error);
    if (status == CACHETORY_OK) {
        fwrite(value.data, 1, value.len, stdout);
        /* A program that reads gets the bytes exactly, a person gets the prompt on a line of its own. */
        if (isatty(fileno(stdout)))
            putchar('\n');
    }
    cachetory_value_free(&value);
    return finish(status, &error);
}

static int mget(cachetory_t cache, const command_line_t *line)
{
    cachetory_bytes_t *keys = keys_of(line);
    if (keys == NULL)
        return out_of_memory();
    cachetory_values_t values;
    cachetory_error_t error;
    cachetory_status_t status = cachetory_mget(cache, keys, line->count - 1, &values, &error);
    size_t found = 0;
    for (size_t i = 0; i < values.len; i++) { /* empty after an error */
        const cachetory_bytes_t *value = &values.items[i];
        if (value->data == NULL) {
            puts("-");
            continue;
        }
        printf("%zu ", value->len);
        fwrite(value->data, 1, value->len, stdout);
        putchar('\n');
        found++;
    }
    cachetory_values_free(&values);
    free(keys);
    if (status < 0)
        return failed(&error);
    return found > 0 ? EXIT_DONE : EXIT_NO;
}

/* All of standard input, as bytes to be freed. */
static int read_input(char **data, size_t *length)
{
    size_t capacity = 64 * 1024;
    *length = 0;
    *data = malloc(capacity);
    while (*data != NULL) {
        *length += fread(*data + *length, 1, capacity - *length, stdin);
        if (ferror(stdin)) {
            perror("cachetory-cli: cannot read standard input");
            return EXIT_FAILED;
        }
        if (*length < capacity)
            return EXIT_DONE;
        char *larger = capacity <= SIZE_MAX / 2 ? realloc(*data, capacity * 2) : NULL;
        if (larger == NULL)
            break;
        *data = larger;
        capacity *= 2;
    }
    return out_of_memory();
}

static int set(cachetory_t cache, const command_line_t *line)
{
    char *input = NULL;
    const char *value;
    size_t length;
    if (line->count == 3) {
        value = line->words[2];
        length = strlen(value);
    } else {
        int exit_code = read_input(&input, &length);
        if (exit_code != EXIT_DONE) {
            free(input);
            return exit_code;
        }
        value = input;
    }
    cachetory_error_t error;
    cachetory_status_t status = cachetory_set(cache, line->words[1], CACHETORY_STRLEN, value, length, line->ttl_ms,
                                              line->if_not_exists ? CACHETORY_SET_IF_NOT_EXISTS : 0, &error);
    free(input);
    return finish(status, &error);
}

static int mset(cachetory_t cache, const command_line_t *line)
{
    const size_t count = (line->count - 1) / 2;
    if (line->count % 2 == 0)
        return wrong("mset needs a value for each key");
    cachetory_item_t *items = calloc(count, sizeof *items);
    if (items == NULL)
        return out_of_memory();
    for (size_t i = 0; i < count; i++) {
        const char *key = line->words[1 + 2 * i], *value = line->words[2 + 2 * i];
        items[i] = (cachetory_item_t){{key, CACHETORY_STRLEN}, {value, strlen(value)}};
    }
    cachetory_error_t error;
    cachetory_status_t status = cachetory_mset(cache, items, count, line->ttl_ms, 0, &error);
    free(items);
    return finish(status, &error);
}

static int expire(cachetory_t cache, const command_line_t *line)
{
    const char *key = line->words[1], *when = line->words[2], *rest = "";
    cachetory_error_t error;
    int64_t time;
    if (when[0] == '@') {
        if (!parse_number(when + 1, &time, &rest) || *rest != '\0' || time >= CACHETORY_NO_EXPIRY / 1000)
            return wrong("'%s' is not @SECONDS since 1970", when);
        return finish(cachetory_expire_at(cache, key, CACHETORY_STRLEN, time * 1000, &error), &error);
    }
    if (!parse_time(when, &time))
        return wrong("'%s' is not a time, such as 90s, 500ms, @1893456000 or never", when);
    return finish(cachetory_expire_in(cache, key, CACHETORY_STRLEN, time, &error), &error);
}

static int delete(cachetory_t cache, const command_line_t *line)
{
    cachetory_bytes_t *keys = keys_of(line);
    if (keys == NULL)
        return out_of_memory();
    uint64_t deleted;
    cachetory_error_t error;
    cachetory_status_t status = cachetory_mdelete(cache, keys, line->count - 1, &deleted, &error);
    free(keys);
    if (status < 0)
        return failed(&error);
    printf("%" PRIu64 "\n", deleted);
    return deleted > 0 ? EXIT_DONE : EXIT_NO;
}

static int clear(cachetory_t cache, const command_line_t *line)
{
    (void)line;
    cachetory_error_t error;
    return finish(cachetory_clear(cache, &error), &error);
}

static int ping(cachetory_t cache, const command_line_t *line)
{
    (void)line;
    cachetory_error_t error;
    cachetory_status_t status = cachetory_ping(cache, &error);
    if (status == CACHETORY_OK)
        puts("PONG");
    return finish(status, &error);
}

typedef struct command_t {
    const char *name;
    int (*run)(cachetory_t cache, const command_line_t *line);
    size_t least, most; /* arguments */
    bool takes_ttl, takes_nx;
} command_t;

static const command_t commands[] = {
    {"get", get, 1, 1, false, false},
    {"set", set, 1, 2, true, true},
    {"mget", mget, 1, SIZE_MAX, false, false},
    {"mset", mset, 2, SIZE_MAX, true, false},
    {"expire", expire, 2, 2, false, false},
    {"delete", delete, 1, SIZE_MAX, false, false},
    {"clear", clear, 0, 0, false, false},
    {"ping", ping, 0, 0, false, false},
};

static const command_t *find_command(const char *name)
{
    for (size_t i = 0; i < sizeof commands / sizeof commands[0]; i++)
        if (strcmp(commands[i].name, name) == 0)
            return &commands[i];
    return NULL;
}

static int run(const command_line_t *line)
{
    const command_t *command = find_command(line->words[0]);
    if (command == NULL)
        return wrong("unknown command '%s'", line->words[0]);
    const size_t arguments = line->count - 1;
    if (arguments < command->least || arguments > command->most)
        return wrong("'%s' does not take %zu arguments", command->name, arguments);
    if ((line->has_ttl && !command->takes_ttl) || (line->if_not_exists && !command->takes_nx))
        return wrong("'%s' does not take %s", command->name, line->has_ttl && !command->takes_ttl ? "--ttl" : "--nx");

    cachetory_t cache;
    cachetory_error_t error;
    if (cachetory_open_url(line->url, &cache, &error) < 0)
        return failed(&error);
    int exit_code = command->run(cache, line);
    cachetory_close(cache);
    return exit_code;
}

int main(int argc, char **argv)
{
    const char *url = getenv("CACHETORY_URL");
    command_line_t line = {.url = url != NULL ? url : "memory://", .ttl_ms = CACHETORY_NO_EXPIRY};
    bool stop = argc == 0;
    int exit_code = stop ? EXIT_USAGE : parse(argv, &line, &stop);
    if (exit_code == EXIT_DONE && !stop)
        exit_code = run(&line);

    /* A full disk behind the shell's ">" shows here, if not before. */
    if (fflush(stdout) != 0 || ferror(stdout)) {
        perror("cachetory-cli: cannot write standard output");
        return EXIT_FAILED;
    }
    return exit_code;
}
